"""The ``Ledger`` service of the embedded ledger's process.

Two instances serve it: one on the client port, where accounts prove themselves
by a signed proof and see their own facts; one on the peer port, where nodes are
known by their TLS key, may follow, and see everything.

Accounts are bounded in what they may ask and submit (:mod:`hcefs.services.rates`); nodes are
not, for they serve everybody.  A transaction counts for whoever has signed it, if the
signature is good: naming somebody else as its signer costs that account nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from hcefs.access.facts import Account, AccountKind
from hcefs.access.verifier import Verifier
from hcefs.encoding import Encoded
from hcefs.errors import Denied, HcefsError, Invalid, Unauthenticated
from hcefs.ids import AccountId, GrantId, RecordId
from hcefs.ledger.block import SignedHead
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.machine import protocol_at
from hcefs.ledger.queries import Questions
from hcefs.ledger.queries_emergency import EmergencyQuestions
from hcefs.ledger.signers import proven_signers
from hcefs.ledger.terms import SignedTermChange
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.writer import LedgerWriter
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime, end_tasks
from hcefs.services.rates import Rates
from hcefs.services.serving import served, streamed
from hcefs.transport.limit import Gate
from hcefs.transport.tls import peer_spki
from hcefs.transport.versions import versions_in, versions_message
from hcefs.versions import Versions, require_talk
from hcefs.wire.v1 import ledger_pb2


class NodeKeys:
    """Which node account registered which TLS key; read from the log, kept by height."""

    def __init__(self, log: LedgerLog) -> None:
        self._log = log
        self._height = -1
        self._accounts: dict[bytes, AccountId] = {}

    def account_of(self, context: Any) -> Account:
        """The node at the other end of a mutual TLS connection.

        Raises:
            Unauthenticated: no active node registered that key.
        """
        spki = peer_spki(context)
        if spki not in self._accounts and self._height != self._log.height:
            self._height = self._log.height
            self._accounts = {
                account.spki: account.account
                for account in (Account.decode(value) for _, value in self._log.scan(b"account/"))
                if account.kind is AccountKind.NODE
            }
        found = self._accounts.get(spki) if spki else None
        account = self._log.account(found) if found is not None else None
        if account is None or not account.active or account.spki != spki:
            raise Unauthenticated(
                "no active node registered this TLS key; register the node first",
                reason="unknown-node",
            )
        return account


class LedgerService:
    """Servicer of ``hcefs.v1.Ledger``.

    ``nodes`` is given on the peer port; ``rates`` bound the accounts of the client port.
    """

    def __init__(
        self,
        runtime: Runtime,
        genesis: Genesis,
        log: LedgerLog,
        writer: LedgerWriter,
        verifier: Verifier,
        metrics: Metrics,
        gate: Gate,
        nodes: NodeKeys | None,
        rates: Rates,
    ) -> None:
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._genesis = genesis
        self._log = log
        self._writer = writer
        self._verifier = verifier
        self._questions = Questions(log)
        self._emergency = EmergencyQuestions(log)
        self._nodes = nodes
        self._rates = rates
        self._followers = 0

    @served("get-genesis")
    async def GetGenesis(self, request: Any, context: Any) -> ledger_pb2.GetGenesisResponse:
        """The genesis document and the statements of later terms; public."""
        return ledger_pb2.GetGenesisResponse(
            genesis=self._genesis.encode(),
            terms=[signed.encode() for signed in self._log.terms.changes],
        )

    @served("submit")
    async def Submit(
        self, request: ledger_pb2.SubmitRequest, context: Any
    ) -> ledger_pb2.SubmitResponse:
        """Commit a transaction; its signatures say who asks."""
        started = self.runtime.monotonic()
        try:
            self._count_signers(request.transaction)
            result = await self._writer.submit(request.transaction)
        except HcefsError as error:
            self.metrics.count("ledger_transactions_total", outcome=error.kind)
            raise
        self.metrics.count("ledger_transactions_total", outcome="ok")
        self.metrics.observe("ledger_commit_seconds", self.runtime.monotonic() - started)
        return ledger_pb2.SubmitResponse(
            height=result.height,
            time_ms=result.time_ms,
            leaves=[
                ledger_pb2.AppendedLeaf(
                    record_id=bytes(leaf.record), index=leaf.index, leaf=leaf.leaf
                )
                for leaf in result.leaves
            ],
        )

    def _count_signers(self, transaction: bytes) -> None:
        """Count a transaction for its authors.

        Raises:
            Exhausted: one of them submits too often.
            Invalid: it is no transaction.
        """
        if self._nodes is None:
            signed = SignedTransaction.decode(transaction)
            for signer in proven_signers(self._log.account, signed, self._genesis.cluster):
                self._rates.ask(signer)

    @streamed("follow")
    async def Follow(
        self, messages: AsyncIterator[ledger_pb2.FollowRequest], context: Any
    ) -> AsyncIterator[ledger_pb2.FollowResponse]:
        """Blocks from a height on, then blocks and heads as they come; acknowledgements back."""
        if self._nodes is None:
            raise Denied("only nodes follow, on the peer port", reason="not-a-node")
        account = self._nodes.account_of(context)
        try:
            first = await anext(messages)
        except StopAsyncIteration:
            raise Invalid("say from which height to follow", reason="bad-message") from None

        self._require_known(account, versions_in(first))

        async def acknowledge() -> None:
            async for message in messages:
                self._writer.acknowledge(account.account, message.persisted_height)

        self._count_follower(1)
        reader = self.runtime.spawn(acknowledge(), name="follow-acknowledgements")
        stream: Any = self._writer.subscribe(first.from_height, account.account)
        sent: SignedHead | None = None
        said = False
        try:
            async for item in stream:
                if isinstance(item, SignedHead):
                    if item is sent:
                        continue
                    message = ledger_pb2.FollowResponse(head=item.encode())
                elif isinstance(item, SignedTermChange):
                    message = ledger_pb2.FollowResponse(term_change=item.encode())
                else:
                    sent = self._writer.head_of(item)
                    message = ledger_pb2.FollowResponse(
                        block=item.encode(), block_head=sent.encode() if sent else b""
                    )
                if not said:
                    message.versions.CopyFrom(versions_message())
                    said = True
                yield message
                self._nodes.account_of(context)
                if reader.done() and not reader.cancelled():
                    # Half-closed is fine; a malformed acknowledgement ends the feed, or
                    # its follower would count as one that does not keep up.
                    reader.result()
        finally:
            self._count_follower(-1)
            await end_tasks(reader)
            await stream.aclose()

    def _require_known(self, account: Account, theirs: Versions) -> None:
        """Refuse a follower that this process cannot talk to: it could apply nothing.

        Raises:
            Conflict: ``version-refused``.
        """
        current = self._log.cluster_map()
        node = current.node_of_account(account.account) if current is not None else None
        who = f"node {node.node_id}" if node is not None else "this node"
        try:
            require_talk(who, theirs, protocol_at(self._log, self._log.height + 1))
        except HcefsError:
            self.metrics.count("version_refused_total", what="follower")
            raise

    def _count_follower(self, change: int) -> None:
        self._followers += change
        self.metrics.set("ledger_followers", self._followers)

    def _asker(self, proof: bytes, context: Any) -> Account:
        if self._nodes is not None:
            return self._nodes.account_of(context)
        body = self._verifier.present_plain(proof, method="query", now_ms=self.runtime.now_ms())
        account = self._log.account(body.presenter)
        if account is None:
            raise Unauthenticated("this account is unknown", reason="unknown-account")
        self._rates.ask(account.account)
        return account

    @served("query")
    async def Query(
        self, request: ledger_pb2.QueryRequest, context: Any
    ) -> ledger_pb2.QueryResponse:
        """Facts that the asking account may see, and the head at which they are true."""
        asker = self._asker(request.proof, context)
        facts = await self.runtime.disk(self._answer, asker, request)
        head = self._log.head
        return ledger_pb2.QueryResponse(
            facts=[fact.encode() for fact in facts], head=head.encode() if head else b""
        )

    def _answer(self, asker: Account, request: ledger_pb2.QueryRequest) -> list[Encoded]:
        ask, emergency = self._questions, self._emergency
        match request.WhichOneof("question"):
            case "account":
                return [ask.account(asker, AccountId(request.account))]
            case "past_keys":
                named = request.past_keys
                found = ask.past_keys(asker, AccountId(named.account), named.key_version)
                return [found]
            case "record":
                return [ask.record(asker, RecordId(request.record))]
            case "grant":
                return [ask.grant(asker, GrantId(request.grant))]
            case "grants_on_record":
                return list(ask.grants_on_record(asker, RecordId(request.grants_on_record)))
            case "my_grants":
                return list(ask.my_grants(asker))
            case "my_records":
                return list(ask.my_records(asker))
            case "my_requests":
                return list(ask.my_requests(asker))
            case "cluster_map":
                return [ask.cluster_map(asker)]
            case "generation":
                wanted = request.generation
                return [ask.generation(asker, RecordId(wanted.record_id), wanted.generation)]
            case "leaves":
                span = request.leaves
                return list(ask.leaves(asker, RecordId(span.record_id), span.first, span.count))
            case "operators":
                return list(ask.operators(asker))
            case "map_progress":
                return [ask.map_progress(asker)]
            case "upkeep_policy":
                return [ask.upkeep_policy(asker)]
            case "node_reports":
                return list(ask.node_reports(asker))
            case "map_history_from":
                return list(ask.map_history(asker, request.map_history_from))
            case "protocol_version":
                return [ask.protocol_version(asker)]
            case "record_end":
                return list(ask.record_end(asker, RecordId(request.record_end)))
            case "emergency_policy":
                return [emergency.policy(asker)]
            case "emergency_namings":
                return list(emergency.namings(asker, AccountId(request.emergency_namings)))
            case "emergency_refusals":
                return list(emergency.refusals(asker))
            case "emergency_opening":
                return [emergency.opening(asker, GrantId(request.emergency_opening))]
            case "emergency_openings":
                return list(emergency.openings(asker))
            case "emergency_totals":
                return [emergency.totals(asker)]
            case "head":
                return []
            case _:
                raise Invalid("say what is asked", reason="bad-message")

    @served("has-leaf")
    async def HasLeaf(
        self, request: ledger_pb2.HasLeafRequest, context: Any
    ) -> ledger_pb2.HasLeafResponse:
        """Whether a record's range holds a commitment."""
        asker = self._asker(request.proof, context)
        leaf = await self.runtime.disk(
            self._questions.has_leaf,
            asker,
            RecordId(request.record_id),
            request.commitment,
            AccountId(request.signer) if request.signer else None,
        )
        if leaf is None:
            return ledger_pb2.HasLeafResponse(found=False)
        return ledger_pb2.HasLeafResponse(found=True, leaf=leaf.encode())

    @served("has-leaves")
    async def HasLeaves(
        self, request: ledger_pb2.HasLeavesRequest, context: Any
    ) -> ledger_pb2.HasLeavesResponse:
        """Which of many commitments a record's range holds."""
        asker = self._asker(request.proof, context)
        if len(request.signers) != len(request.commitments):
            raise Invalid(
                "name a signer, or an empty one, for each commitment", reason="bad-message"
            )
        signers = [AccountId(signer) if signer else None for signer in request.signers]
        leaves = await self.runtime.disk(
            self._questions.has_leaves,
            asker,
            RecordId(request.record_id),
            list(zip(request.commitments, signers, strict=True)),
        )
        return ledger_pb2.HasLeavesResponse(
            leaves=[leaf.encode() if leaf is not None else b"" for leaf in leaves]
        )

    @served("prove-transactions")
    async def ProveTransactions(
        self, request: ledger_pb2.ProveTransactionsRequest, context: Any
    ) -> ledger_pb2.ProveTransactionsResponse:
        """Proofs that the transactions behind a fact are in signed blocks."""
        asker = self._asker(request.proof, context)
        proofs = await self.runtime.disk(self._proofs, asker, request)
        return ledger_pb2.ProveTransactionsResponse(proofs=[each.encode() for each in proofs])

    def _proofs(
        self, asker: Account, request: ledger_pb2.ProveTransactionsRequest
    ) -> list[TransactionProof]:
        ask = self._questions
        match request.WhichOneof("fact"):
            case "account":
                return ask.account_proofs(asker, AccountId(request.account))
            case "grant":
                return ask.grant_proofs(asker, GrantId(request.grant))
            case "record":
                return ask.record_proofs(asker, RecordId(request.record))
            case "erasure":
                return ask.erasure_proofs(asker, RecordId(request.erasure))
            case "leaf":
                leaf = request.leaf
                return ask.leaf_proofs(asker, RecordId(leaf.record_id), leaf.first)
            case _:
                raise Invalid("say what the transactions did", reason="bad-message")

    @served("prove")
    async def Prove(
        self, request: ledger_pb2.ProveRequest, context: Any
    ) -> ledger_pb2.ProveResponse:
        """An inclusion or consistency proof of a record's range."""
        asker = self._asker(request.proof, context)
        claim = request.WhichOneof("claim")
        if claim is None:
            raise Invalid("say what is to be proved", reason="bad-message")
        proof = await self.runtime.disk(
            self._questions.prove,
            asker,
            RecordId(request.record_id),
            request.size,
            request.leaf_index if claim == "leaf_index" else None,
            request.consistent_with if claim == "consistent_with" else None,
        )
        size, root, path = proof
        return ledger_pb2.ProveResponse(size=size, root=root, path=path)
