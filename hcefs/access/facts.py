"""The facts of the ledger that rights are decided from.

These are both the values of the ledger's state and what :class:`LedgerView`
hands to :mod:`hcefs.access.rights`.  They hold no names, labels, keys that open
anything, or sizes of payloads.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hcefs.access.erasure_facts import Erasure
from hcefs.encoding import Encoded
from hcefs.ids import AccountId, BlobId, GrantId, RecordId

if TYPE_CHECKING:
    from hcefs.access.emergency import EmergencyNaming, EmergencyPolicy

PURPOSES = frozenset(
    {
        "TREAT", "ETREAT", "BTG", "HPAYMT", "CLMATTCH", "COVAUTH", "HOPERAT", "HRESCH",
        "PUBHLTH", "PATRQT", "FAMRQT", "FRAUD", "HLEGAL",
    }
)  # fmt: skip
"""Purposes of use: codes of HL7 v3-ActReason."""


class AccountKind(enum.IntEnum):
    """What an account is."""

    PATIENT = 1
    PRACTITIONER = 2
    INSTITUTION = 3
    DEVICE = 4
    NODE = 5
    OPERATOR = 6


class Action(enum.IntFlag):
    """What a grant allows."""

    READ = 1
    APPEND = 2
    SHARE = 4


@dataclass(frozen=True)
class Account(Encoded):
    """A party on the ledger.

    ``key_version`` counts changes of the keys from 1.  ``spki`` is, for nodes,
    the SHA-256 of the SubjectPublicKeyInfo of the TLS key, else empty.
    """

    KIND = "account"

    account: AccountId
    kind: AccountKind
    key_version: int
    signing_key: bytes
    token_key: bytes
    receiving_key: bytes
    spki: bytes
    admitted_by: AccountId
    active: bool
    height: int


@dataclass(frozen=True)
class PastKeys(Encoded):
    """The public keys that an account had until it changed them, by their version.

    ``until_height`` and ``until_ms`` are those of the block that ended them: what was
    signed before stays verifiable, and nothing new is signed with them.
    """

    KIND = "past-keys"

    account: AccountId
    key_version: int
    signing_key: bytes
    token_key: bytes
    receiving_key: bytes
    until_height: int
    until_ms: int


@dataclass(frozen=True)
class Generation(Encoded):
    """One version of a record's key pair: the X-Wing public key, 1216 bytes.

    ``height`` and ``time_ms`` are those of the block that introduced it.
    """

    KIND = "generation"

    record: RecordId
    number: int
    public_key: bytes
    height: int
    time_ms: int


@dataclass(frozen=True)
class Record(Encoded):
    """The unit of permission.  ``generation`` is the current one.

    ``leaf_count`` and ``peaks`` are the Merkle mountain range over its entries.
    """

    KIND = "record"

    record: RecordId
    owner: AccountId
    generation: int
    leaf_count: int
    peaks: tuple[bytes, ...]
    height: int


@dataclass(frozen=True)
class Grant(Encoded):
    """A right given by ``granter`` to ``grantee``.

    ``blob`` None means the whole record; ``range_length`` 0 means the whole
    blob.  Times are milliseconds since the Unix epoch, ``not_before`` inclusive,
    ``not_after`` exclusive.  ``parent`` is the grant whose ``share`` allowed
    this one, None when the record's owner gave it.  ``revoked_height`` 0 means
    not revoked.
    """

    KIND = "grant"

    grant: GrantId
    record: RecordId
    blob: BlobId | None
    range_start: int
    range_length: int
    granter: AccountId
    grantee: AccountId
    actions: Action
    purposes: tuple[str, ...]
    not_before_ms: int
    not_after_ms: int
    parent: GrantId | None
    height: int
    revoked_height: int


class LedgerView(Protocol):
    """Read access to the ledger's state at one height."""

    @property
    def height(self) -> int:
        """Height of the last block applied."""

    @property
    def time_ms(self) -> int:
        """Time of the last block applied, milliseconds since the Unix epoch."""

    def account(self, account: AccountId) -> Account | None:
        """The account, or None."""

    def past_keys(self, account: AccountId, key_version: int) -> PastKeys | None:
        """A version of an account's public keys that has ended, or None."""

    def record(self, record: RecordId) -> Record | None:
        """The record, or None."""

    def generation(self, record: RecordId, number: int) -> Generation | None:
        """One generation of a record, or None."""

    def grant(self, grant: GrantId) -> Grant | None:
        """The grant, revoked or not, or None."""

    def erasure(self, record: RecordId) -> Erasure | None:
        """That the record was erased, or None."""

    def emergency_naming(self, naming: GrantId) -> EmergencyNaming | None:
        """Who was named for emergencies, whether the naming has ended or not, or None."""

    def emergency_policy(self) -> EmergencyPolicy:
        """What operators allow in an emergency; by default nothing."""

    def emergency_refused(self, record: RecordId) -> bool:
        """Whether the record's owner refuses openings in an emergency."""


def signing_key_of(view: LedgerView, account: Account, key_version: int) -> bytes | None:
    """The verifying key of one version of an account's keys; None for one that never was.

    For what was signed once and is kept: whoever takes something new asks for the
    account's current version as well.
    """
    if key_version == account.key_version:
        return account.signing_key
    past = view.past_keys(account.account, key_version)
    return past.signing_key if past is not None else None
