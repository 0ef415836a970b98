"""A small ledger for tests: parties with fixed keys and blocks applied one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hcefs.access.facts import AccountKind, Action, Grant
from hcefs.crypto.signing import SigningKey, account_id
from hcefs.errors import HcefsError
from hcefs.ids import AccountId, BlobId, GrantId, PutKey, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import (
    Block,
    BlockHeader,
    previous_hash,
    sign_block,
    transaction_root,
)
from hcefs.ledger.genesis import Genesis, OperatorKey
from hcefs.ledger.machine import (
    BlockContext,
    Outcome,
    apply,
    execute,
    genesis_state,
    next_app_hash,
    protocol_at,
    replay,
)
from hcefs.ledger.state import MemoryState, Overlay, StateView
from hcefs.ledger.transactions import (
    Append,
    AppendEntry,
    GiveGrant,
    OpenRecord,
    RevokeGrant,
    SignedTransaction,
    Transaction,
    register_account,
    sign_transaction,
)

START_MS = 1_700_000_000_000
DAY_MS = 24 * 3_600_000


def seed(name: str) -> bytes:
    return blake3_digest(b"test seed " + name.encode())


def public_key(name: str) -> bytes:
    """Bytes of the size of an X-Wing public key; the ledger never uses one."""
    return (seed(name) * 38)[:1216]


def record_id(name: str) -> RecordId:
    return RecordId(seed("record " + name)[:16])


def grant_id(name: str) -> GrantId:
    return GrantId(seed("grant " + name)[:16])


def put_key(name: str) -> PutKey:
    return PutKey(seed("put " + name)[:16])


def blob_id(name: str) -> BlobId:
    return BlobId.of(seed("blob " + name)[:16])


@dataclass(frozen=True)
class Party:
    """An account's keys, whether it is registered or not."""

    name: str
    kind: AccountKind
    account: AccountId
    signing: SigningKey
    token: SigningKey
    receiving_key: bytes
    spki: bytes
    key_version: int = 1


def signing_key(name: str) -> SigningKey:
    return SigningKey.from_seed(seed("signing " + name))


def token_key(name: str) -> SigningKey:
    return SigningKey.from_seed(seed("token " + name))


def make_genesis(operators: Sequence[str] = ("o1", "o2", "o3"), threshold: int = 2) -> Genesis:
    return Genesis(
        name="test cluster",
        time_ms=START_MS,
        operators=tuple(
            OperatorKey(signing_key(name).public_key, token_key(name).public_key, public_key(name))
            for name in operators
        ),
        threshold=threshold,
        writer_key=signing_key("writer").public_key,
        lease_ms=30_000,
        skew_ms=5_000,
        nonce=seed("nonce"),
    )


class Scenario:
    """A ledger in memory.  Every ``submit`` is a block of one transaction."""

    def __init__(self, genesis: Genesis | None = None) -> None:
        self.genesis = genesis or make_genesis()
        first, self.app_hash = genesis_state(self.genesis)
        self.state = MemoryState()
        self.state.write(first.writes)
        self.header: BlockHeader | None = None
        self.time_ms = START_MS
        self.writer = signing_key("writer")
        self.parties: dict[str, Party] = {}
        for name in ("o1", "o2", "o3"):
            self.party(name, AccountKind.OPERATOR)

    @property
    def height(self) -> int:
        return 0 if self.header is None else self.header.height

    @property
    def context(self) -> BlockContext:
        """Of the next block."""
        return BlockContext(self.height + 1, self.time_ms, self.genesis)

    @property
    def view(self) -> StateView:
        return StateView(self.state, self.height, self.time_ms)

    def party(self, name: str, kind: AccountKind = AccountKind.PATIENT) -> Party:
        if name not in self.parties:
            signing = signing_key(name)
            self.parties[name] = Party(
                name=name,
                kind=kind,
                account=account_id(self.genesis.cluster, signing.public_key),
                signing=signing,
                token=token_key(name),
                receiving_key=public_key(name),
                spki=seed("spki " + name) if kind == AccountKind.NODE else b"",
            )
        return self.parties[name]

    def account(self, name: str) -> AccountId:
        return self.party(name).account

    def sign(self, transaction: Transaction, *names: str) -> SignedTransaction:
        parties = [self.party(name) for name in names]
        return sign_transaction(
            transaction,
            self.genesis.cluster,
            [(party.account, party.key_version, party.signing) for party in parties],
        )

    def submit(self, transaction: Transaction, *names: str) -> Outcome:
        return self.submit_signed(self.sign(transaction, *names))

    def submit_signed(self, signed: SignedTransaction) -> Outcome:
        return self.commit([signed.encode()])[0]

    def next_block(self, transactions: Sequence[bytes]) -> tuple[Block, Overlay, list[Outcome]]:
        """The next block, signed, without applying it."""
        overlay = Overlay(self.state)
        outcomes = execute(overlay, transactions, self.context)
        header = BlockHeader(
            cluster=self.genesis.cluster,
            term=1,
            height=self.height + 1,
            time_ms=self.time_ms,
            previous=previous_hash(self.genesis, self.header),
            transaction_root=transaction_root(transactions),
            protocol_version=protocol_at(self.state, self.height + 1),
            app_hash=next_app_hash(self.app_hash, overlay),
            snapshot_root=b"",
        )
        return sign_block(header, transactions, self.writer), overlay, outcomes

    def commit(self, transactions: Sequence[bytes]) -> list[Outcome]:
        """Build the next block, verify it as a follower would, and apply it."""
        block, overlay, outcomes = self.next_block(transactions)
        followed, same = replay(self.state, block, self.genesis, self.header)
        assert followed.writes == overlay.writes
        assert same == outcomes
        self.state.write(overlay.writes)
        self.header = block.header
        self.app_hash = block.header.app_hash
        return outcomes

    def refusal(self, transaction: Transaction, *names: str) -> HcefsError:
        return self.refusal_signed(self.sign(transaction, *names))

    def refusal_signed(self, signed: SignedTransaction) -> HcefsError:
        """The error of a transaction that must not apply and must leave no trace."""
        overlay = Overlay(self.state)
        try:
            apply(overlay, signed, self.context)
        except HcefsError as error:
            assert not overlay.writes
            return error
        raise AssertionError("the transaction was applied")

    def register(self, name: str, kind: AccountKind, *admitters: str) -> Outcome:
        return self.submit(self.registration(name, kind), name, *admitters)

    def registration(self, name: str, kind: AccountKind) -> Transaction:
        party = self.party(name, kind)
        return register_account(
            self.genesis.cluster, kind, party.signing, party.token, party.receiving_key, party.spki
        )

    def populate(self) -> Scenario:
        """An institution, a patient with the record ``r``, two doctors and a watch."""
        self.register("clinic", AccountKind.INSTITUTION, "o1", "o2")
        self.register("pat", AccountKind.PATIENT, "clinic")
        self.register("doc", AccountKind.PRACTITIONER, "clinic")
        self.register("doc2", AccountKind.PRACTITIONER, "clinic")
        self.register("watch", AccountKind.DEVICE, "clinic")
        self.submit(self.opening("r", "pat"), "pat")
        return self

    def opening(self, record: str, owner: str) -> OpenRecord:
        return OpenRecord(record_id(record), self.account(owner), public_key("record " + record))

    def entry(
        self, commitment: str, record: str = "r", grant: str = "", generation: int = 0
    ) -> AppendEntry:
        return AppendEntry(
            record=record_id(record),
            generation=generation,
            commitment=seed("commitment " + commitment),
            commit_by_ms=self.time_ms + DAY_MS,
            grant=grant_id(grant) if grant else GrantId.zero(),
        )

    def append(self, name: str, *entries: AppendEntry) -> Append:
        return Append(entries, put_key(name))

    def grant(
        self,
        name: str,
        grantee: str,
        actions: Action = Action.READ,
        parent: str = "",
        record: str = "r",
    ) -> GiveGrant:
        return GiveGrant(
            grant=grant_id(name),
            record=record_id(record),
            blob=None,
            range_start=0,
            range_length=0,
            grantee=self.account(grantee),
            actions=actions,
            purposes=("TREAT", "ETREAT"),
            not_before_ms=START_MS,
            not_after_ms=START_MS + 30 * DAY_MS,
            parent=grant_id(parent) if parent else None,
        )

    def revocation(self, name: str, next_key: str = "") -> RevokeGrant:
        if not next_key:
            return RevokeGrant(grant_id(name), 0, b"")
        given = self.view.grant(grant_id(name))
        record = None if given is None else self.view.record(given.record)
        number = 1 if record is None else record.generation + 1
        return RevokeGrant(grant_id(name), number, public_key(next_key))

    def granted(self, name: str) -> Grant:
        found = self.view.grant(grant_id(name))
        assert found is not None
        return found


def with_signature_of(signed: SignedTransaction, other: SignedTransaction) -> SignedTransaction:
    """The body of one transaction under the signatures of another."""
    return replace(signed, signatures=other.signatures)
