"""What nodes say of their replicas of the ledger, asked by operators or by the writer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from hcefs.client.authorize import Authorizer
from hcefs.client.snapshots import GrpcSnapshotSource
from hcefs.errors import Invalid
from hcefs.ids import AccountId
from hcefs.ledger.link import BlockBytes, TermBytes
from hcefs.ledger.recovery import ReplicaAnswer
from hcefs.runtime import Runtime
from hcefs.transport.replica_calls import ReplicaCalls
from hcefs.wire.v1 import replica_pb2

PROOFS_MAX = 64
HASH_SIZE = 32

Asker = Callable[[AccountId | None], replica_pb2.ReplicaAsker]
"""Who asks the node that the map has at an address; a fresh one for each request."""


class GrpcReplicas:
    """The replicas of nodes over gRPC; implements :class:`hcefs.ledger.recovery.Replicas`."""

    def __init__(self, calls: ReplicaCalls, asker: Asker) -> None:
        self._calls = calls
        self._asker = asker

    async def describe(self, account: AccountId | None, address: str) -> ReplicaAnswer:
        """See :class:`hcefs.ledger.recovery.Replicas`."""
        return answer_of(await self._calls.describe(address, self._asker(account)))

    async def blocks(
        self, account: AccountId | None, address: str, from_height: int, last_height: int
    ) -> AsyncGenerator[BlockBytes | TermBytes, None]:
        """See :class:`hcefs.ledger.recovery.Replicas`."""
        request = replica_pb2.ReadBlocksRequest(
            asker=self._asker(account), from_height=from_height, last_height=last_height
        )
        async for message in self._calls.blocks(address, request):
            if message.WhichOneof("message") == "term_change":
                yield TermBytes(message.term_change)
            else:
                yield BlockBytes(message.block)

    def snapshot(
        self, account: AccountId | None, address: str, runtime: Runtime
    ) -> GrpcSnapshotSource:
        """The snapshot that a node keeps; its connection ends with these replicas'."""
        return GrpcSnapshotSource(
            runtime, self._calls.channel(address), asker=lambda: self._asker(account)
        )

    async def begin_term(self, address: str, term_change: bytes) -> tuple[int, str]:
        """Bring a node the operators' statement; its term and what it is doing then.

        Raises:
            HcefsError: it cannot be reached, or cannot take it now.
        """
        answer = await self._calls.begin_term(address, term_change)
        return answer.term, answer.status


def answer_of(response: replica_pb2.DescribeResponse) -> ReplicaAnswer:
    """A node's answer, its sizes checked.

    Raises:
        Invalid: ``bad-answer``.
    """
    if len(response.block_hash) != HASH_SIZE or len(response.fork_proofs) > PROOFS_MAX:
        raise Invalid("what that node says of its replica cannot be", reason="bad-answer")
    return ReplicaAnswer(
        account=AccountId(response.account),
        height=response.height,
        block_hash=response.block_hash,
        head=response.head,
        terms=tuple(response.terms),
        status=response.status,
        problem=response.problem,
        proofs=tuple(response.fork_proofs),
        superseded=response.superseded,
    )


def operator_asker(authorizer: Authorizer) -> Asker:
    """An operator asks: each request carries a fresh proof."""
    return lambda _: replica_pb2.ReplicaAsker(proof=authorizer.plain("replica"))
