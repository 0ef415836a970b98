"""The ``Replica`` service: a node's copy of the ledger, for operators and the writer.

It answers whatever the replica's own state is: it is asked when the ledger is lost.
Describe and ReadBlocks need an operator's proof or an ask signed by the writer of a
term; BeginTerm needs nothing but the operators' signatures on what it carries.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from hcefs.access.facts import AccountKind
from hcefs.access.verifier import Verifier
from hcefs.crypto.signing import PROOF_WINDOW_MS, verify
from hcefs.errors import Denied, NotFound, Unauthenticated
from hcefs.ids import AccountId
from hcefs.ledger.block import Block
from hcefs.ledger.follower import Follower
from hcefs.ledger.recovery import ASK_TAG, SignedWriterAsk
from hcefs.ledger.terms import SignedTermChange, is_signed_by_operators
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.serving import served, streamed
from hcefs.transport.limit import Gate
from hcefs.wire.v1 import replica_pb2

READ_BLOCKS = 16
"""Blocks that are read from the disk at once."""


class ReplicaService:
    """Servicer of ``hcefs.v1.Replica`` for the node ``account``."""

    def __init__(
        self,
        runtime: Runtime,
        follower: Follower,
        verifier: Verifier,
        account: AccountId,
        metrics: Metrics,
        gate: Gate,
    ) -> None:
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._follower = follower
        self._log = follower.view
        self._verifier = verifier
        self._account = account

    @served("replica-describe")
    async def Describe(
        self, request: replica_pb2.DescribeRequest, context: Any
    ) -> replica_pb2.DescribeResponse:
        """How far the replica is, whom it follows, and which proofs it keeps."""
        self.admit(request.asker)
        return await self.runtime.disk(self._describe)

    def _describe(self) -> replica_pb2.DescribeResponse:
        log = self._log
        tip, head, voided = log.tip, log.head, log.superseded()
        problem = self._follower.last_error
        return replica_pb2.DescribeResponse(
            account=bytes(self._account),
            # Of one header, so that height and hash belong together while blocks come.
            height=tip.height if tip is not None else 0,
            block_hash=tip.hash() if tip is not None else log.genesis.digest,
            head=head.encode() if head is not None else b"",
            terms=[signed.encode() for signed in log.terms.changes],
            status=self._follower.status.value,
            problem=problem.message if problem is not None else "",
            fork_proofs=[proof.encode() for proof in log.fork_proofs()],
            superseded=voided.encode() if voided is not None else b"",
        )

    @streamed("replica-read-blocks")
    async def ReadBlocks(
        self, request: replica_pb2.ReadBlocksRequest, context: Any
    ) -> AsyncIterator[replica_pb2.ReadBlocksResponse]:
        """Blocks in order, and the statement of each term before its first block."""
        self.admit(request.asker)
        log = self._log
        last = request.last_height or log.height
        if not 1 <= request.from_height <= last + 1 or last > log.height:
            raise NotFound(
                f"blocks {request.from_height} to {last} are not all here; the last one is "
                f"{log.height}",
                reason="no-such-block",
            )
        known = request.from_height - 1
        changes = [signed for signed in log.terms.changes if signed.change.height >= known]
        height = request.from_height
        while height <= last:
            for block in await self.runtime.disk(self._read, height, last):
                while changes and changes[0].change.height < height:
                    yield _term(changes.pop(0))
                yield replica_pb2.ReadBlocksResponse(block=block.encode())
                height += 1
        while changes and changes[0].change.height <= last:
            yield _term(changes.pop(0))

    def _read(self, height: int, last: int) -> list[Block]:
        return [
            self._log.block(at) for at in range(height, min(last, height + READ_BLOCKS - 1) + 1)
        ]

    @served("replica-begin-term")
    async def BeginTerm(
        self, request: replica_pb2.BeginTermRequest, context: Any
    ) -> replica_pb2.BeginTermResponse:
        """Follow the writer whom operators have named, from here on."""
        await self._follower.begin_term(request.term_change)
        return replica_pb2.BeginTermResponse(
            term=self._log.terms.term, status=self._follower.status.value
        )

    def admit(self, asker: replica_pb2.ReplicaAsker) -> None:
        """Let an operator or a writer of this ledger pass.

        Raises:
            HcefsError: it is neither.
        """
        if asker.writer_ask:
            self._admit_writer(asker)
            return
        proof = self._verifier.present_plain(
            asker.proof, method="replica", now_ms=self.runtime.now_ms()
        )
        account = self._log.account(proof.presenter)
        if account is None or account.kind is not AccountKind.OPERATOR or not account.active:
            raise Denied(
                "replicas are for operators and the ledger's writer", reason="not-an-operator"
            )

    def _admit_writer(self, asker: replica_pb2.ReplicaAsker) -> None:
        signed = SignedWriterAsk.decode(asker.writer_ask)
        ask, log = signed.ask, self._log
        key = log.terms.key_of(ask.term)
        if key is None and asker.term_change:
            # A writer whose term this replica has yet to learn of proves it.
            named = SignedTermChange.decode(asker.term_change)
            if named.change.term == ask.term and is_signed_by_operators(named, log, log.genesis):
                key = named.change.writer_key
        if (
            key is None
            or ask.cluster != log.genesis.cluster
            or ask.holder != self._account
            or abs(ask.time_ms - self.runtime.now_ms()) > PROOF_WINDOW_MS
        ):
            raise Unauthenticated(
                "this is not the fresh word of a writer of this ledger: check the clock, and "
                "announce the term (`hcefs ledger recover --announce`)",
                reason="bad-writer-ask",
            )
        verify(key, ASK_TAG, ask.encode(), signed.signature)


def _term(signed: SignedTermChange) -> replica_pb2.ReadBlocksResponse:
    return replica_pb2.ReadBlocksResponse(term_change=signed.encode())
