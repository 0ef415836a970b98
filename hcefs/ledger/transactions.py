"""Transactions: what accounts ask the ledger to record, and their signatures.

Owns the bytes of every transaction, their static checks and the signing of them.
Invariants: the hash of a transaction is that of its body, so that signatures may
be added without changing its name; every signature covers the cluster and the
body.  ``check`` looks at the transaction alone; what depends on the state is
decided by :mod:`hcefs.ledger.machine`.
Source: docs/ARCHITECTURE.md, "Ledger" and "Entries".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hcefs.access.facts import PURPOSES, AccountKind, Action
from hcefs.crypto.signing import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, SigningKey, account_id
from hcefs.encoding import Encoded, decode_quickly, loads
from hcefs.errors import Invalid
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, PutKey, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.genesis import RECEIVING_KEY_SIZE, TIME_MS_MAX
from hcefs.ledger.transactions_emergency import (
    CloseEmergency,
    EndNaming,
    NameEmergency,
    OpenEmergency,
    RefuseEmergency,
    ReviewEmergency,
    SetEmergencyPolicy,
)
from hcefs.ledger.transactions_erasure import EraseRecord, LiftHold, PlaceHold, SetRetention
from hcefs.ledger.transactions_keys import RotateGeneration, RotateKeys
from hcefs.ledger.transactions_map import NodeReport, SeatsArrived, SetUpkeepPolicy
from hcefs.ledger.transactions_receipts import AnchorReceipts
from hcefs.ledger.transactions_requests import AnswerRequest, RequestAccess

TRANSACTION_TAG = b"transaction"
TOKEN_KEY_TAG = b"token-key"

TRANSACTION_BYTES_MAX = 1 << 20
"""Of the encoded ``SignedTransaction``."""

SIGNATURES_MAX = 64
ENTRIES_MAX = 4096
COMMITMENT_SIZE = 32
SPKI_SIZE = 32
GENERATION_MAX = (1 << 32) - 1
RANGE_END_MAX = (1 << 63) - 1


@dataclass(frozen=True)
class Signature(Encoded):
    """One account's Ed25519 signature with version ``key_version`` of its signing key."""

    KIND = "signature"

    signer: AccountId
    key_version: int
    signature: bytes


@dataclass(frozen=True)
class SignedTransaction(Encoded):
    """The canonical bytes of a transaction and the signatures over them."""

    KIND = "signed-transaction"
    MAX_BYTES = TRANSACTION_BYTES_MAX

    body: bytes
    signatures: tuple[Signature, ...]

    def hash(self) -> bytes:
        """BLAKE3 of the body: the name of the transaction, whoever signed it."""
        return blake3_digest(self.body)


@dataclass(frozen=True)
class RegisterAccount(Encoded):
    """A new account, whose id follows from its signing key.

    Signed by the account itself (it proves that it holds the signing key) and by
    those who admit it.  ``token_key_proof`` is made with the token key over
    :meth:`token_key_message`.  ``spki`` is, for nodes, the SHA-256 of the
    SubjectPublicKeyInfo of the TLS key, else empty.
    """

    KIND = "register-account"

    account_kind: AccountKind
    signing_key: bytes
    token_key: bytes
    receiving_key: bytes
    spki: bytes
    token_key_proof: bytes

    @staticmethod
    def token_key_message(cluster: ClusterId, account: AccountId, token_key: bytes) -> bytes:
        """What the token key signs: cluster, account and the key itself."""
        return bytes(cluster) + bytes(account) + token_key

    def account(self, cluster: ClusterId) -> AccountId:
        """The id that the account will have."""
        return account_id(cluster, self.signing_key)

    def check(self) -> None:
        """Check the keys and their sizes.

        Raises:
            Invalid: ``bad-key``, ``bad-spki`` or ``bad-proof``.
        """
        # Keys of small order need no test here: no signature passes under them.
        if (
            len(self.signing_key) != PUBLIC_KEY_SIZE
            or len(self.token_key) != PUBLIC_KEY_SIZE
            or len(self.receiving_key) != RECEIVING_KEY_SIZE
        ):
            raise Invalid(
                "register-account: the signing, token and receiving keys must have "
                "32, 32 and 1216 bytes",
                reason="bad-key",
            )
        if self.signing_key == self.token_key:
            raise Invalid(
                "register-account: use one key for transactions and another for tokens",
                reason="bad-key",
            )
        if len(self.spki) != (SPKI_SIZE if self.account_kind == AccountKind.NODE else 0):
            raise Invalid(
                "register-account: nodes, and only nodes, give the SHA-256 of their TLS key",
                reason="bad-spki",
            )
        if len(self.token_key_proof) != SIGNATURE_SIZE:
            raise Invalid("register-account: token_key_proof needs 64 bytes", reason="bad-proof")


@dataclass(frozen=True)
class OpenRecord(Encoded):
    """A new record with its first key pair, generation 0; signed by the patient who owns it."""

    KIND = "open-record"

    record: RecordId
    owner: AccountId
    public_key: bytes

    def check(self) -> None:
        """Check ids and key size.

        Raises:
            Invalid: ``bad-id`` or ``bad-key``.
        """
        _check_id(self.record, "record")
        _check_public_key(self.public_key)


@dataclass(frozen=True)
class AppendEntry(Encoded):
    """One new leaf.  ``grant`` is what allows it; zero means as the record's owner.

    ``generation`` is the one that the blob's DEK was sealed to.
    """

    KIND = "append-entry"

    record: RecordId
    generation: int
    commitment: bytes
    commit_by_ms: int
    grant: GrantId = field(default_factory=GrantId.zero)


@dataclass(frozen=True)
class Append(Encoded):
    """New leaves in one or many records, all or none; signed by their one writer.

    Until the latest ``commit_by_ms``, a repeat with the same ``put_key`` for the
    same records changes nothing and returns the first leaves.
    """

    KIND = "append"

    entries: tuple[AppendEntry, ...]
    put_key: PutKey

    def check(self) -> None:
        """Check counts, sizes and ranges.

        Raises:
            Invalid: ``bad-entries``, ``duplicate-entry``, ``bad-commitment``,
                ``unknown-generation``, ``bad-times`` or ``bad-id``.
        """
        if not 1 <= len(self.entries) <= ENTRIES_MAX:
            raise Invalid(
                f"append: needs 1 to {ENTRIES_MAX} entries; split it", reason="bad-entries"
            )
        _check_id(self.put_key, "put key")
        seen: set[tuple[RecordId, bytes]] = set()
        for entry in self.entries:
            _check_id(entry.record, "record")
            if len(entry.commitment) != COMMITMENT_SIZE:
                raise Invalid("append: a commitment has 32 bytes", reason="bad-commitment")
            if not 0 <= entry.generation <= GENERATION_MAX:
                raise Invalid("append: no such generation", reason="unknown-generation")
            if not 0 < entry.commit_by_ms <= TIME_MS_MAX:
                raise Invalid("append: commit_by_ms is not a time", reason="bad-times")
            name = (entry.record, entry.commitment)
            if name in seen:
                raise Invalid(
                    "append: the same commitment twice in one record", reason="duplicate-entry"
                )
            seen.add(name)


@dataclass(frozen=True)
class GiveGrant(Encoded):
    """A right to a record, a blob or a range of one; signed by who gives it.

    The fields mean what they mean in :class:`hcefs.access.facts.Grant`; ``parent``
    None says that the record's owner gives it.
    """

    KIND = "give-grant"

    grant: GrantId
    record: RecordId
    blob: BlobId | None
    range_start: int
    range_length: int
    grantee: AccountId
    actions: Action
    purposes: tuple[str, ...]
    not_before_ms: int
    not_after_ms: int
    parent: GrantId | None

    def check(self) -> None:
        """Check ids, range, actions, purposes and times.

        Raises:
            Invalid: ``bad-id``, ``bad-range``, ``no-action``, ``bad-purposes`` or
                ``bad-times``.
        """
        _check_id(self.grant, "grant")
        _check_id(self.record, "record")
        _check_id(self.grantee, "grantee")
        if self.blob is not None:
            _check_id(self.blob, "blob")
        if self.parent is not None:
            _check_id(self.parent, "parent grant")
        if (
            self.range_start < 0
            or self.range_length < 0
            or self.range_start + self.range_length > RANGE_END_MAX
            or (self.range_start and not self.range_length)
            or (self.range_length and self.blob is None)
        ):
            raise Invalid(
                "give-grant: a range needs a blob, a start of 0 or more and a length of 1 or "
                "more; leave both 0 for the whole",
                reason="bad-range",
            )
        if not self.actions:
            raise Invalid("give-grant: name at least one action", reason="no-action")
        if not self.purposes or len(set(self.purposes)) != len(self.purposes):
            raise Invalid(
                "give-grant: name at least one purpose, and each once", reason="bad-purposes"
            )
        if not PURPOSES.issuperset(self.purposes):
            raise Invalid(
                "give-grant: a purpose is unknown; use " + " ".join(sorted(PURPOSES)),
                reason="bad-purposes",
            )
        if not 0 <= self.not_before_ms < self.not_after_ms <= TIME_MS_MAX:
            raise Invalid("give-grant: not_before must be before not_after", reason="bad-times")


@dataclass(frozen=True)
class RevokeGrant(Encoded):
    """The end of a grant and of all that were given under it.

    Signed by the record's owner, by the granter or by a granter above it.  When
    the owner revokes a grant to read, ``next_public_key`` starts the record's next
    generation, which must be ``next_generation``, so that of two revocations at one
    moment the second is refused and made anew; otherwise they are empty and 0.
    """

    KIND = "revoke-grant"

    grant: GrantId
    next_generation: int
    next_public_key: bytes

    def check(self) -> None:
        """Check id, generation and key size.

        Raises:
            Invalid: ``bad-id``, ``bad-key`` or ``unknown-generation``.
        """
        _check_id(self.grant, "grant")
        if self.next_public_key:
            _check_public_key(self.next_public_key)
        if not 0 <= self.next_generation <= GENERATION_MAX or bool(self.next_generation) != bool(
            self.next_public_key
        ):
            raise Invalid(
                "revoke-grant: a next generation and its public key come together",
                reason="unknown-generation",
            )


@dataclass(frozen=True)
class SetClusterMap(Encoded):
    """The next cluster map, if the current epoch is ``expected_epoch`` (0: no map yet).

    ``cluster_map`` is the canonical bytes.  Signed by the operator threshold, or, for
    an automatic change that the policy and the nodes' reports allow, by one node.
    """

    KIND = "set-cluster-map"

    expected_epoch: int
    cluster_map: bytes

    def check(self) -> None:
        """Check the epoch's range.

        Raises:
            Invalid: ``bad-epoch``.
        """
        if not 0 <= self.expected_epoch < 1 << 32:
            raise Invalid("set-cluster-map: expected_epoch is out of range", reason="bad-epoch")


@dataclass(frozen=True)
class DeactivateAccount(Encoded):
    """The end of an account; it stays on the ledger and can do nothing more."""

    KIND = "deactivate-account"

    account: AccountId

    def check(self) -> None:
        """Check the id.

        Raises:
            Invalid: ``bad-id``.
        """
        _check_id(self.account, "account")


@dataclass(frozen=True)
class Upgrade(Encoded):
    """Other rules from block ``height`` on; signed by the operator threshold."""

    KIND = "upgrade"

    version: int
    height: int

    def check(self) -> None:
        """Check that the numbers are positive.

        Raises:
            Invalid: ``bad-upgrade``.
        """
        if self.version < 1 or self.height < 1:
            raise Invalid("upgrade: version and height start at 1", reason="bad-upgrade")


Transaction = (
    RegisterAccount
    | OpenRecord
    | Append
    | GiveGrant
    | RevokeGrant
    | SetClusterMap
    | DeactivateAccount
    | Upgrade
    | SeatsArrived
    | SetUpkeepPolicy
    | NodeReport
    | RequestAccess
    | AnswerRequest
    | RotateKeys
    | RotateGeneration
    | SetRetention
    | PlaceHold
    | LiftHold
    | EraseRecord
    | SetEmergencyPolicy
    | NameEmergency
    | EndNaming
    | RefuseEmergency
    | OpenEmergency
    | CloseEmergency
    | ReviewEmergency
    | AnchorReceipts
)

_TYPES: tuple[type[Transaction], ...] = (
    RegisterAccount,
    OpenRecord,
    Append,
    GiveGrant,
    RevokeGrant,
    SetClusterMap,
    DeactivateAccount,
    Upgrade,
    SeatsArrived,
    SetUpkeepPolicy,
    NodeReport,
    RequestAccess,
    AnswerRequest,
    RotateKeys,
    RotateGeneration,
    SetRetention,
    PlaceHold,
    LiftHold,
    EraseRecord,
    SetEmergencyPolicy,
    NameEmergency,
    EndNaming,
    RefuseEmergency,
    OpenEmergency,
    CloseEmergency,
    ReviewEmergency,
    AnchorReceipts,
)
_BY_NAME = {(cls.KIND, cls.VERSION): cls for cls in _TYPES}


def decode_transaction(body: bytes) -> Transaction:
    """Read the canonical bytes of any transaction; the caller runs its ``check``.

    Raises:
        Invalid: ``unknown-transaction`` for a kind or version that this software
            does not know, otherwise what the bytes are malformed by.
    """
    quick = decode_quickly(_BY_NAME, body, max_bytes=TRANSACTION_BYTES_MAX)
    if quick is not None:
        return quick
    value = loads(body, max_bytes=TRANSACTION_BYTES_MAX)
    if type(value) is not list or len(value) < 2:
        raise Invalid("these bytes are not a transaction", reason="malformed-encoding")
    kind, version = value[0], value[1]
    cls = None
    if type(kind) is str and type(version) is int:
        cls = _BY_NAME.get((kind, version))
    if cls is None:
        raise Invalid(
            "this kind or version of transaction is unknown here: upgrade the software",
            reason="unknown-transaction",
        )
    return cls.from_fields(value[2:])


def signed_message(cluster: ClusterId, body: bytes) -> bytes:
    """What every signer of a transaction signs under the tag ``transaction``."""
    return bytes(cluster) + body


def sign_transaction(
    transaction: Transaction,
    cluster: ClusterId,
    signers: Sequence[tuple[AccountId, int, SigningKey]],
) -> SignedTransaction:
    """The transaction signed by each (account, key version, key), in that order.

    Raises:
        Invalid: an account is named twice, or the result is too large.
    """
    signed = SignedTransaction(transaction.encode(), ())
    for account, key_version, key in signers:
        signed = add_signature(signed, cluster, account, key_version, key)
    if len(signed.encode()) > TRANSACTION_BYTES_MAX:
        raise Invalid(
            f"a signed transaction has at most {TRANSACTION_BYTES_MAX} bytes: split it",
            reason="transaction-too-large",
        )
    return signed


def add_signature(
    signed: SignedTransaction,
    cluster: ClusterId,
    account: AccountId,
    key_version: int,
    key: SigningKey,
) -> SignedTransaction:
    """The same transaction with one signature more.

    Raises:
        Invalid: ``duplicate-signer``: that account has signed it already.
    """
    if any(signature.signer == account for signature in signed.signatures):
        raise Invalid("this account has signed already", reason="duplicate-signer")
    made = key.sign(TRANSACTION_TAG, signed_message(cluster, signed.body))
    return replace(signed, signatures=(*signed.signatures, Signature(account, key_version, made)))


def register_account(
    cluster: ClusterId,
    account_kind: AccountKind,
    signing_key: SigningKey,
    token_key: SigningKey,
    receiving_key: bytes,
    spki: bytes = b"",
) -> RegisterAccount:
    """The registration of an account, with the proof that its token key is held.

    The caller signs it with ``signing_key`` as the new account (key version 1)
    and has it co-signed by those who admit it.
    """
    account = account_id(cluster, signing_key.public_key)
    message = RegisterAccount.token_key_message(cluster, account, token_key.public_key)
    return RegisterAccount(
        account_kind=account_kind,
        signing_key=signing_key.public_key,
        token_key=token_key.public_key,
        receiving_key=receiving_key,
        spki=spki,
        token_key_proof=token_key.sign(TOKEN_KEY_TAG, message),
    )


def _check_id(value: bytes, what: str) -> None:
    if not any(value):
        raise Invalid(f"the {what} may not be all zeros", reason="bad-id")


def _check_public_key(public_key: bytes) -> None:
    if len(public_key) != RECEIVING_KEY_SIZE:
        raise Invalid("a record's public key has 1216 bytes", reason="bad-key")
