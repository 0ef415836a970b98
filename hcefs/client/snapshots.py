"""The ledger's snapshots over gRPC: what a replica offers, and the parts; all of it claims."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc

from hcefs.errors import Unavailable
from hcefs.ledger.block import Block
from hcefs.ledger.snapshot import SNAPSHOT_RULE, SnapshotManifest, SnapshotOffer, SnapshotRule
from hcefs.runtime import Runtime
from hcefs.transport.status import from_rpc_error
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
        call = self._channel.unary_unary(
            "/hcefs.v1.Snapshots/OfferSnapshot",
            request_serializer=snapshot_pb2.OfferSnapshotRequest.SerializeToString,
            response_deserializer=snapshot_pb2.OfferSnapshotResponse.FromString,
        )
        request = snapshot_pb2.OfferSnapshotRequest(asker=self._asker())
        try:
            answer: snapshot_pb2.OfferSnapshotResponse = await call(request, timeout=OFFER_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return answer

    async def parts(self, height: int) -> AsyncGenerator[bytes, None]:
        """See :class:`hcefs.ledger.snapshot_join.SnapshotSource`."""
        call = self._channel.unary_stream(
            "/hcefs.v1.Snapshots/ReadSnapshot",
            request_serializer=snapshot_pb2.ReadSnapshotRequest.SerializeToString,
            response_deserializer=snapshot_pb2.ReadSnapshotResponse.FromString,
        )(snapshot_pb2.ReadSnapshotRequest(height=height, asker=self._asker()))
        try:
            while True:
                try:
                    async with self._runtime.timeout(STALL_SECONDS):
                        message = await call.read()
                except TimeoutError:
                    raise Unavailable(
                        "a snapshot of the ledger stopped in the middle: fetch it again",
                        reason="stalled",
                    ) from None
                except grpc.aio.AioRpcError as error:
                    raise from_rpc_error(error) from None
                if not isinstance(message, snapshot_pb2.ReadSnapshotResponse):
                    return
                yield message.part
        finally:
            call.cancel()

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close(None)
