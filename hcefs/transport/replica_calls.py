"""The calls to the ``Replica`` service of nodes, over gRPC with TLS; who asks is the caller's.

Owns the connections and the bounds; the caller gives each request its proof, and judges
what comes back: all of it is a claim.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from google.protobuf.message import Message

from hcefs import tracing
from hcefs.errors import Unavailable
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS
from hcefs.transport.server_calls import answers, one_answer
from hcefs.wire.v1 import replica_pb2

CALL_SECONDS = 10.0
STALL_SECONDS = 30.0

M = TypeVar("M", bound=Message)


class ReplicaCalls:
    """Calls nodes by their client addresses; use it from one event loop, and close it."""

    def __init__(self, runtime: Runtime, dialer: ServerDialer) -> None:
        self._runtime = runtime
        self._dialer = dialer
        self._channels: dict[str, Any] = {}

    def channel(self, address: str) -> Any:
        """The channel to a node; it ends with these calls."""
        channel = self._channels.get(address)
        if channel is None:
            channel = self._dialer.to_server(address, CHANNEL_OPTIONS)
            self._channels[address] = channel
        return channel

    async def describe(
        self, address: str, asker: replica_pb2.ReplicaAsker
    ) -> replica_pb2.DescribeResponse:
        """How far a node's replica is.

        Raises:
            HcefsError: what the node or the transport says.
        """
        return await self._unary(
            address,
            "Describe",
            replica_pb2.DescribeRequest(asker=asker),
            replica_pb2.DescribeResponse,
        )

    async def begin_term(self, address: str, term_change: bytes) -> replica_pb2.BeginTermResponse:
        """Bring a node the operators' statement.

        Raises:
            HcefsError: what the node or the transport says.
        """
        return await self._unary(
            address,
            "BeginTerm",
            replica_pb2.BeginTermRequest(term_change=term_change),
            replica_pb2.BeginTermResponse,
        )

    async def _unary(self, address: str, name: str, request: Message, answer: type[M]) -> M:
        method = f"/hcefs.v1.Replica/{name}"
        return await one_answer(self.channel(address), method, request, answer, CALL_SECONDS)

    def blocks(
        self, address: str, request: replica_pb2.ReadBlocksRequest
    ) -> AsyncGenerator[replica_pb2.ReadBlocksResponse, None]:
        """A node's blocks, and the statements of terms.

        Raises:
            HcefsError: what the node or the transport says.
            Unavailable: ``stalled``.
        """

        def begin() -> Any:
            return self.channel(address).unary_stream(
                "/hcefs.v1.Replica/ReadBlocks",
                request_serializer=replica_pb2.ReadBlocksRequest.SerializeToString,
                response_deserializer=replica_pb2.ReadBlocksResponse.FromString,
            )(request, metadata=tracing.metadata())

        def stalled() -> Unavailable:
            return Unavailable(
                f"{address} sends no more blocks: try again, or another node", reason="stalled"
            )

        return answers(self._runtime, begin, replica_pb2.ReadBlocksResponse, STALL_SECONDS, stalled)

    async def close(self) -> None:
        """End the connections."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()
