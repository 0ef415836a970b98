"""The ledger as a client sees it: transactions in, facts out.

Invariants: what the ledger answers must name what was asked; each answer's head
must be signed by the writer that the genesis names, and the genesis must be that
of the cluster in the connection file.

Not guaranteed: that a fact is in the state that the head's app hash stands for;
the ledger's process is trusted for that, over TLS.  (Lists of entries are proved
against the record's peaks, in :mod:`hcefs.client.listing`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from google.protobuf.message import Message

from hcefs.access.facts import Account, AccountKind, Generation, Grant, PastKeys, Record
from hcefs.client.channels import Recent, Session
from hcefs.client.connection import Connection
from hcefs.crypto.accounts import AccountKeys
from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, Invalid, NotFound, Unavailable
from hcefs.ids import AccountId, BlobBase, GrantId, RecordId
from hcefs.ledger.block import SignedHead
from hcefs.ledger.cluster_facts import (
    MapChange,
    MapProgress,
    ProtocolStatus,
    ReportRow,
    UpkeepPolicy,
)
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.outcome import Leaf, LeafResult
from hcefs.ledger.terms import Terms, founders_terms
from hcefs.ledger.transactions import (
    SignedTransaction,
    Transaction,
    add_signature,
    register_account,
    sign_transaction,
)
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.successor import check_planned
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.transport.retry import retrying
from hcefs.wire.v1 import admin_pb2, ledger_pb2

CALL_SECONDS = 20.0
"""Longer than the ledger waits for its followers."""

ATTEMPTS = 5
LEAVES_PAGE = 4096
ACCOUNT_SECONDS = 60.0
GRANT_SECONDS = 30.0
MAP_SECONDS = 60.0
VERIFY_SECONDS = 300.0
"""A page of an audit, within the budget of a node that serves clients."""

INVENTORY_SECONDS = 60.0
FACTS_MAX = 4096

M = TypeVar("M", bound=Message)
F = TypeVar("F", bound=Encoded)


@dataclass(frozen=True)
class Submitted:
    """A committed transaction: its block's height and time, and the leaves of an append."""

    height: int
    time_ms: int
    leaves: tuple[LeafResult, ...] = ()


class LedgerClient(Session):
    """The part of a client that talks to the ledger."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self.ledger_time_ms = 0
        self._genesis: Genesis | None = None
        self._terms: Terms | None = None
        self._accounts: Recent[AccountId, Account] = Recent(
            self.runtime, FACTS_MAX, ACCOUNT_SECONDS
        )
        self._past_keys: Recent[tuple[AccountId, int], PastKeys] = Recent(self.runtime, FACTS_MAX)
        self._grants: Recent[GrantId, Grant] = Recent(self.runtime, FACTS_MAX, GRANT_SECONDS)
        self._generations: Recent[tuple[RecordId, int], Generation] = Recent(
            self.runtime, FACTS_MAX
        )
        self._maps: Recent[str, ClusterMap] = Recent(self.runtime, 1, MAP_SECONDS)

    # -- transactions

    async def _founding(self) -> ledger_pb2.GetGenesisResponse:
        """The genesis and the statements of all terms, as the ledger serves them: unchecked."""
        return await self._ledger(
            "GetGenesis", ledger_pb2.GetGenesisRequest, ledger_pb2.GetGenesisResponse
        )

    async def genesis(self) -> Genesis:
        """The founding document of the cluster.

        Raises:
            Corrupt: ``wrong-genesis``: the ledger serves another cluster.
        """
        if self._genesis is None:
            answer = await self._founding()
            genesis = Genesis.decode(answer.genesis)
            if genesis.cluster != self.connection.cluster:
                raise Corrupt(
                    f"the ledger at {self.connection.ledger} is of {genesis.cluster}, not of "
                    f"{self.connection.cluster}: check the connection file",
                    reason="wrong-genesis",
                )
            self._genesis = genesis
        return self._genesis

    async def terms(self) -> Terms:
        """The terms of the ledger as far as the founding operators' signatures show them."""
        genesis = await self.genesis()
        answer = await self._founding()
        known = self._terms = founders_terms(genesis, answer.terms)
        return known

    async def _writer_key(self, term: int, genesis: Genesis) -> bytes:
        """The key of a term's writer, by the genesis and the statements of its operators.

        Raises:
            Corrupt: ``unknown-term``: the ledger shows no statement of it that the
                threshold of the founding operators signed.
        """
        known = self._terms or Terms(genesis)
        if term > known.term:
            answer = await self._founding()
            known = self._terms = founders_terms(genesis, answer.terms)
        key = known.key_of(term)
        if key is None:
            raise Corrupt(
                f"the ledger's answer is of term {term}, and nothing that the founding operators "
                "signed names its writer: check the connection file",
                reason="unknown-term",
            )
        return key

    async def submit(self, signed: SignedTransaction) -> Submitted:
        """Commit a signed transaction; a repeat returns the first result.

        Raises:
            HcefsError: why the ledger refuses it.
            Unavailable: it may be committed all the same; submit it again.
        """
        return await self._submit(signed, ATTEMPTS, None)

    async def _submit(
        self, signed: SignedTransaction, attempts: int, within_s: float | None
    ) -> Submitted:
        request = ledger_pb2.SubmitRequest(transaction=signed.encode())
        answer = await self._ledger(
            "Submit",
            lambda: request,
            ledger_pb2.SubmitResponse,
            attempts=attempts,
            within_s=within_s,
        )
        self._saw(answer.height)
        leaves = tuple(
            LeafResult(RecordId(leaf.record_id), leaf.index, leaf.leaf) for leaf in answer.leaves
        )
        return Submitted(answer.height, answer.time_ms, leaves)

    def _signed(self, transaction: Transaction) -> SignedTransaction:
        """``transaction``, checked, with this account's signature."""
        transaction.check()
        signer = (self.account, self._keys.key_version, self._signing_key)
        return sign_transaction(transaction, self.connection.cluster, [signer])

    async def register(
        self, keys: AccountKeys, kind: AccountKind, *, spki: bytes = b""
    ) -> SignedTransaction:
        """The registration of a new account, signed by itself; others co-sign and admit it.

        ``spki`` is the SHA-256 of a node's TLS key.

        Raises:
            Invalid: the keys are of another cluster, or malformed.
        """
        cluster = self.connection.cluster
        if keys.cluster != cluster:
            raise Invalid(
                f"these keys were made for {keys.cluster}: make keys for {cluster}",
                reason="wrong-cluster",
            )
        transaction = register_account(
            cluster, kind, keys.signing_key, keys.token_key, keys.receiving_key.public_key, spki
        )
        transaction.check()
        signer = (keys.account, keys.key_version, keys.signing_key)
        return sign_transaction(transaction, cluster, [signer])

    def cosign(self, signed: SignedTransaction) -> SignedTransaction:
        """The same transaction with this account's signature as well.

        Raises:
            Invalid: ``duplicate-signer``.
        """
        return add_signature(
            signed,
            self.connection.cluster,
            self.account,
            self._keys.key_version,
            self._signing_key,
        )

    async def admit(self, signed: SignedTransaction) -> Submitted:
        """Co-sign a registration and submit it."""
        return await self.submit(self.cosign(signed))

    # -- facts

    async def fetch_account(self, account: AccountId) -> Account:
        """One account; an answer of the last minute may be used again.

        Raises:
            NotFound: the ledger does not know it.
        """
        known = self._accounts.get(account)
        if known is not None:
            return known
        found = await self._one(
            Account, lambda proof: ledger_pb2.QueryRequest(proof=proof, account=bytes(account))
        )
        _require_same(found.account, account)
        return self._accounts.put(account, found)

    async def fresh_account(self, account: AccountId) -> Account:
        """One account as it is now, whatever is remembered.

        Raises:
            NotFound: the ledger does not know it.
        """
        self._accounts.forget(account)
        return await self.fetch_account(account)

    async def past_keys(self, account: AccountId, key_version: int) -> PastKeys:
        """Public keys that an account had until it changed them; they never change.

        Raises:
            NotFound: it never had them, or has them still.
        """
        name = (account, key_version)
        known = self._past_keys.get(name)
        if known is not None:
            return known
        question = ledger_pb2.PastKeysQuestion(account=bytes(account), key_version=key_version)
        found = await self._one(
            PastKeys, lambda proof: ledger_pb2.QueryRequest(proof=proof, past_keys=question)
        )
        _require_same((found.account, found.key_version), name)
        return self._past_keys.put(name, found)

    async def signed_with(self, account: AccountId, key_version: int) -> Account:
        """An account with the signing key that a version of its keys had.

        For checking what is kept and was signed once.

        Raises:
            NotFound: the ledger does not know the account, or it never had that version.
        """
        found = await self.fetch_account(account)
        if found.key_version < key_version:
            found = await self.fresh_account(account)
        if found.key_version == key_version:
            return found
        past = await self.past_keys(account, key_version)
        return replace(found, key_version=key_version, signing_key=past.signing_key)

    async def signed_at(self, account: AccountId, time_ms: int) -> Account:
        """An account with the signing key that it had in the block of a time.

        Raises:
            NotFound: the ledger does not know the account.
        """
        found = await self.fresh_account(account)
        version = found.key_version
        while version > 1:
            past = await self.past_keys(account, version - 1)
            if time_ms > past.until_ms:
                break
            version -= 1
            found = replace(found, key_version=version, signing_key=past.signing_key)
        return found

    async def record(self, record: RecordId) -> Record:
        """One record as it is now.

        Raises:
            NotFound, Denied: unknown, or not for this account to know.
        """
        found = await self._one(
            Record,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, record=bytes(record)),
            record,
        )
        _require_same(found.record, record)
        return found

    async def records(self) -> list[Record]:
        """The records that this account owns."""
        return await self._many(
            Record, lambda proof: ledger_pb2.QueryRequest(proof=proof, my_records=True)
        )

    async def grant(self, grant: GrantId) -> Grant:
        """One grant as it is now.

        Raises:
            NotFound, Denied: unknown, or not for this account to know.
        """
        found = await self._one(
            Grant, lambda proof: ledger_pb2.QueryRequest(proof=proof, grant=bytes(grant))
        )
        _require_same(found.grant, grant)
        return self._grants.put(grant, found)

    async def _known_grant(self, grant: GrantId) -> Grant:
        """One grant; what is asked of it here (its scope) never changes."""
        return self._grants.get(grant) or await self.grant(grant)

    async def grants(self, record: RecordId | None = None) -> list[Grant]:
        """The grants to this account; or all on a record that it owns."""
        if record is None:
            return await self._many(
                Grant, lambda proof: ledger_pb2.QueryRequest(proof=proof, my_grants=True)
            )
        named = bytes(record)
        return await self._many(
            Grant,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, grants_on_record=named),
            record,
        )

    async def generation(self, record: RecordId, number: int) -> Generation:
        """One generation of a record's key pair; it never changes.

        Raises:
            NotFound, Denied: unknown, or not for this account to know.
        """
        known = self._generations.get((record, number))
        if known is not None:
            return known
        question = ledger_pb2.GenerationQuestion(record_id=bytes(record), generation=number)
        found = await self._one(
            Generation,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, generation=question),
            record,
        )
        _require_same((found.record, found.number), (record, number))
        return self._generations.put((record, number), found)

    async def cluster_map(self) -> ClusterMap:
        """The cluster map; one of the last minute may be used again.

        Raises:
            NotFound: the operators have not set one yet.
        """
        known = self._maps.get("")
        if known is not None:
            return known
        facts = await self._query(
            lambda proof: ledger_pb2.QueryRequest(proof=proof, cluster_map=True), None
        )
        if len(facts) != 1:
            raise NotFound("the ledger has no cluster map yet: set one", reason="no-map")
        return self._maps.put("", await self.runtime.compute(_checked_map, facts[0]))

    async def fresh_map(self) -> ClusterMap:
        """The cluster map in force now, whatever is remembered.

        Raises:
            NotFound: there is none yet.
        """
        self._maps.forget("")
        return await self.cluster_map()

    async def map_progress(self) -> MapProgress:
        """The wave in force: how many seats are in flight, and those that have arrived.

        Raises (as the others that follow):
            NotFound: this account is neither an operator nor a node.
        """
        return await self._one(
            MapProgress, lambda proof: ledger_pb2.QueryRequest(proof=proof, map_progress=True)
        )

    async def upkeep_policy(self) -> UpkeepPolicy:
        """What nodes may do by themselves; number 0 is the default."""
        return await self._one(
            UpkeepPolicy, lambda proof: ledger_pb2.QueryRequest(proof=proof, upkeep_policy=True)
        )

    async def node_reports(self) -> list[ReportRow]:
        """What each node last reported, by ascending node id."""
        return await self._many(
            ReportRow, lambda proof: ledger_pb2.QueryRequest(proof=proof, node_reports=True)
        )

    async def map_history(self, from_epoch: int = 1) -> list[MapChange]:
        """How epochs began, in order from one on, at most 256; none of protocol version 1."""
        return await self._many(
            MapChange,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, map_history_from=from_epoch),
        )

    async def operators(self) -> list[Account]:
        """The active operators."""
        return await self._many(
            Account, lambda proof: ledger_pb2.QueryRequest(proof=proof, operators=True)
        )

    async def protocol_version(self) -> ProtocolStatus:
        """The version of the ledger's rules in force, and the one that is scheduled."""
        return await self._one(
            ProtocolStatus,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, protocol_version=True),
        )

    async def leaves(self, record: RecordId, first: int, count: int) -> list[Leaf]:
        """Leaves of a record from ``first`` on; fewer only where the record ends."""
        found: list[Leaf] = []
        while len(found) < count:
            question = ledger_pb2.LeavesQuestion(
                record_id=bytes(record),
                first=first + len(found),
                count=min(count - len(found), LEAVES_PAGE),
            )
            page = await self._leaves_page(record, question)
            if not page:
                break
            found += page
        return found[:count]

    async def _leaves_page(
        self, record: RecordId, question: ledger_pb2.LeavesQuestion
    ) -> list[Leaf]:
        return await self._many(
            Leaf, lambda proof: ledger_pb2.QueryRequest(proof=proof, leaves=question), record
        )

    async def has_leaf(
        self, record: RecordId, commitment: bytes, signer: AccountId | None = None
    ) -> Leaf | None:
        """The first leaf of a record with this commitment (by this signer), or None."""
        answer = await self._ledger(
            "HasLeaf",
            lambda: ledger_pb2.HasLeafRequest(
                proof=self._authorizer.plain("query", record),
                record_id=bytes(record),
                commitment=commitment,
                signer=bytes(signer) if signer is not None else b"",
            ),
            ledger_pb2.HasLeafResponse,
        )
        if not answer.found:
            return None
        leaf = Leaf.decode(answer.leaf)
        _require_same(leaf.commitment, commitment)
        return leaf

    async def has_leaves(
        self, record: RecordId, asked: Sequence[tuple[bytes, AccountId | None]]
    ) -> list[Leaf | None]:
        """For each (commitment, writer) what :meth:`has_leaf` says, in few calls.

        Raises:
            Corrupt: ``wrong-fact``: the ledger answers something else.
        """
        found: list[Leaf | None] = []
        for start in range(0, len(asked), LEAVES_PAGE):
            found += await self._has_leaves_page(record, asked[start : start + LEAVES_PAGE])
        return found

    async def _has_leaves_page(
        self, record: RecordId, asked: Sequence[tuple[bytes, AccountId | None]]
    ) -> list[Leaf | None]:
        answer = await self._ledger(
            "HasLeaves",
            lambda: ledger_pb2.HasLeavesRequest(
                proof=self._authorizer.plain("query", record),
                record_id=bytes(record),
                commitments=[commitment for commitment, _ in asked],
                signers=[bytes(signer) if signer is not None else b"" for _, signer in asked],
            ),
            ledger_pb2.HasLeavesResponse,
        )
        _require_same(len(answer.leaves), len(asked))
        leaves = [Leaf.decode(data) if data else None for data in answer.leaves]
        for leaf, (commitment, signer) in zip(leaves, asked, strict=True):
            if leaf is not None:
                _require_same((leaf.commitment, signer or leaf.signer), (commitment, leaf.signer))
        return leaves

    async def status(self, address: str) -> admin_pb2.StatusResponse:
        """The state of the process at an address; for operators and nodes."""
        return await self._channels.unary(
            address,
            "/hcefs.v1.Admin/Status",
            admin_pb2.StatusRequest(proof=self._authorizer.plain("status")),
            admin_pb2.StatusResponse,
            CALL_SECONDS,
        )

    async def inventory(
        self, address: str, profile: str, first: int, count: int
    ) -> admin_pb2.InventoryResponse:
        """What the node at an address has of some partitions; for operators and nodes."""
        return await self._channels.unary(
            address,
            "/hcefs.v1.Admin/Inventory",
            admin_pb2.InventoryRequest(
                proof=self._authorizer.plain("status"), profile=profile, first=first, count=count
            ),
            admin_pb2.InventoryResponse,
            INVENTORY_SECONDS,
        )

    async def repair_status(self, address: str) -> admin_pb2.RepairStatusResponse:
        """What the node at an address is to rebuild; for operators and nodes."""
        return await self._channels.unary(
            address,
            "/hcefs.v1.Admin/RepairStatus",
            admin_pb2.RepairStatusRequest(proof=self._authorizer.plain("status")),
            admin_pb2.RepairStatusResponse,
            CALL_SECONDS,
        )

    async def repair_now(self, address: str) -> None:
        """Let the node at an address begin to repair at once; for operators."""
        await self._channels.unary(
            address,
            "/hcefs.v1.Admin/RepairNow",
            admin_pb2.RepairNowRequest(proof=self._authorizer.plain("repair")),
            admin_pb2.RepairNowResponse,
            CALL_SECONDS,
        )

    async def repair_list(self, address: str, limit: int) -> admin_pb2.RepairListResponse:
        """The shards that the node at an address is to rebuild, the most urgent first."""
        return await self._channels.unary(
            address,
            "/hcefs.v1.Admin/RepairList",
            admin_pb2.RepairListRequest(proof=self._authorizer.plain("status"), limit=limit),
            admin_pb2.RepairListResponse,
            CALL_SECONDS,
        )

    async def explain(self, address: str, base: BlobBase) -> admin_pb2.ExplainResponse:
        """What the node at an address has of one blob or pack, read from end to end."""
        return await self._channels.unary(
            address,
            "/hcefs.v1.Admin/Explain",
            admin_pb2.ExplainRequest(proof=self._authorizer.plain("status"), base=bytes(base)),
            admin_pb2.ExplainResponse,
            VERIFY_SECONDS,
        )

    async def find_lost(
        self, address: str, partitions: Sequence[int]
    ) -> admin_pb2.FindLostResponse:
        """What records name, of partitions in which the node has a seat, and nobody has."""
        return await self._channels.unary(
            address,
            "/hcefs.v1.Admin/FindLost",
            admin_pb2.FindLostRequest(
                proof=self._authorizer.plain("status"), partitions=partitions
            ),
            admin_pb2.FindLostResponse,
            VERIFY_SECONDS,
        )

    async def verify(
        self, address: str, profile: str, partition: int, count: int, after: bytes
    ) -> admin_pb2.VerifyResponse:
        """A page of what the node at an address has of partitions, read from end to end."""
        return await self._channels.unary(
            address,
            "/hcefs.v1.Admin/Verify",
            admin_pb2.VerifyRequest(
                proof=self._authorizer.plain("status"),
                profile=profile,
                partition=partition,
                count=count,
                after=after,
            ),
            admin_pb2.VerifyResponse,
            VERIFY_SECONDS,
        )

    async def scrub(self, address: str, *, now: bool = False) -> admin_pb2.ScrubResponse:
        """The scrub of the node at an address, hurried when told so; for operators."""
        return await self._channels.unary(
            address,
            "/hcefs.v1.Admin/Scrub",
            admin_pb2.ScrubRequest(proof=self._authorizer.plain("scrub"), now=now),
            admin_pb2.ScrubResponse,
            INVENTORY_SECONDS,
        )

    async def collect(self, address: str, *, dry_run: bool) -> admin_pb2.CollectResponse:
        """Have the node at an address collect, or say what it would; for operators."""
        return await self._channels.unary(
            address,
            "/hcefs.v1.Admin/Collect",
            admin_pb2.CollectRequest(proof=self._authorizer.plain("collect"), dry_run=dry_run),
            admin_pb2.CollectResponse,
            INVENTORY_SECONDS,
        )

    # -- calls

    async def _ledger(
        self,
        name: str,
        make: Callable[[], Message],
        answer: type[M],
        *,
        attempts: int = ATTEMPTS,
        within_s: float | None = None,
    ) -> M:
        """Call the ledger; ``make`` gives each attempt a request with a fresh proof."""

        async def once() -> M:
            return await self._channels.unary(
                self.connection.ledger, f"/hcefs.v1.Ledger/{name}", make(), answer, CALL_SECONDS
            )

        return await retrying(
            self.runtime,
            attempts,
            once,
            within_s=within_s,
            patience_s=self.connection.patience_s,
        )

    async def signed_head(self) -> SignedHead:
        """The newest head that the ledger's writer has signed.

        Raises:
            Unavailable: ``no-head``: it has signed none yet.
        """
        _, head = await self._answer(
            lambda proof: ledger_pb2.QueryRequest(proof=proof, head=True), None
        )
        if head is None:
            raise Unavailable("the ledger has signed no head yet: retry", reason="no-head")
        return head

    async def _query(
        self, ask: Callable[[bytes], ledger_pb2.QueryRequest], record: RecordId | None
    ) -> list[bytes]:
        facts, _ = await self._answer(ask, record)
        return facts

    async def _answer(
        self, ask: Callable[[bytes], ledger_pb2.QueryRequest], record: RecordId | None
    ) -> tuple[list[bytes], SignedHead | None]:
        """Facts, and the checked head at which they are true."""
        genesis = await self.genesis()
        answer = await self._ledger(
            "Query",
            lambda: ask(self._authorizer.plain("query", record)),
            ledger_pb2.QueryResponse,
        )
        head = None
        if answer.head:
            head = SignedHead.decode(answer.head)
            _require_same(head.cluster, self.connection.cluster)
            head.check(await self._writer_key(head.term, genesis))
            self._saw(head.height)
            self.ledger_time_ms = max(self.ledger_time_ms, head.time_ms)
        return list(answer.facts), head

    async def _many(
        self,
        kind: type[F],
        ask: Callable[[bytes], ledger_pb2.QueryRequest],
        record: RecordId | None = None,
    ) -> list[F]:
        return [kind.decode(fact) for fact in await self._query(ask, record)]

    async def _one(
        self,
        kind: type[F],
        ask: Callable[[bytes], ledger_pb2.QueryRequest],
        record: RecordId | None = None,
    ) -> F:
        facts = await self._many(kind, ask, record)
        if len(facts) != 1:
            raise NotFound(
                f"the ledger knows no such {kind.KIND}: check the id", reason=f"unknown-{kind.KIND}"
            )
        return facts[0]


def _checked_map(data: bytes) -> ClusterMap:
    cluster_map = ClusterMap.decode(data)
    check_planned(cluster_map)
    return cluster_map


def _require_same(found: object, asked: object) -> None:
    if found != asked:
        raise Corrupt(
            "the ledger's answer is about something else than was asked: check its address",
            reason="wrong-fact",
        )
