"""The ledger's snapshots over gRPC: what a replica offers, and the parts; all of it claims."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from hcefs import tracing
from hcefs.errors import Unavailable
from hcefs.ledger.block import Block
from hcefs.ledger.snapshot import SNAPSHOT_RULE, SnapshotManifest, SnapshotOffer, SnapshotRule
from hcefs.runtime import Runtime
from hcefs.transport.server_calls import answers, one_answer
from hcefs.wire.v1 import replica_pb2, snapshot_pb2

OFFER_SECONDS = 10.0
STALL_SECONDS = 60.0
"""A source that sends nothing for so long is given up."""


class GrpcSnapshotSource:
    """One replica's snapshot; implements :class:`hcefs.ledger.snapshot_join.SnapshotSource`.

    ``asker`` is who asks on a client port; on a peer port the TLS key says it.  The
    channel stays the caller's until :meth:`close`.
    """

    def __init__(
        self,
        runtime: Runtime,
        channel: Any,
        rule: SnapshotRule = SNAPSHOT_RULE,
        asker: Callable[[], replica_pb2.ReplicaAsker] = replica_pb2.ReplicaAsker,
    ) -> None:
        self._runtime = runtime
        self._channel = channel
        self._rule = rule
        self._asker = asker

    async def offer(self) -> SnapshotOffer | None:
        """See :class:`hcefs.ledger.snapshot_join.SnapshotSource`."""
        answer = await self._ask()
        if not answer.manifest:
            return None
        return SnapshotOffer(
            SnapshotManifest.decode(answer.manifest),
            Block.decode(answer.base),
            Block.decode(answer.carrier),
            tuple(answer.terms),
            self._rule,
        )

    async def made(self) -> tuple[int, bytes]:
        """Height and root of the snapshot that the replica keeps; 0 and nothing for none."""
        answer = await self._ask()
        return answer.made_height, answer.made_root

    async def _ask(self) -> snapshot_pb2.OfferSnapshotResponse:
        request = snapshot_pb2.OfferSnapshotRequest(asker=self._asker())
        return await one_answer(
            self._channel,
            "/hcefs.v1.Snapshots/OfferSnapshot",
            request,
            snapshot_pb2.OfferSnapshotResponse,
            OFFER_SECONDS,
        )

    async def parts(self, height: int) -> AsyncGenerator[bytes, None]:
        """See :class:`hcefs.ledger.snapshot_join.SnapshotSource`."""

        def begin() -> Any:
            return self._channel.unary_stream(
                "/hcefs.v1.Snapshots/ReadSnapshot",
                request_serializer=snapshot_pb2.ReadSnapshotRequest.SerializeToString,
                response_deserializer=snapshot_pb2.ReadSnapshotResponse.FromString,
            )(
                snapshot_pb2.ReadSnapshotRequest(height=height, asker=self._asker()),
                metadata=tracing.metadata(),
            )

        messages = answers(
            self._runtime, begin, snapshot_pb2.ReadSnapshotResponse, STALL_SECONDS, _stalled
        )
        async with aclosing(messages):
            async for message in messages:
                yield message.part

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close(None)


def _stalled() -> Unavailable:
    return Unavailable(
        "a snapshot of the ledger stopped in the middle: fetch it again", reason="stalled"
    )
