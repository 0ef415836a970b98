"""The way from a node's follower to the ledger's writer, over gRPC with mutual TLS.

Blocks and heads prove themselves by the writer's signature, so the connection
checks the authority and the host name only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from hcefs.errors import Unavailable
from hcefs.ledger.follower import BlockBytes, HeadBytes, TermBytes
from hcefs.runtime import Runtime, end_tasks
from hcefs.transport.dial import ServerDialer
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS
from hcefs.transport.status import from_rpc_error
from hcefs.transport.versions import versions_in, versions_message
from hcefs.versions import require_talk
from hcefs.wire.v1 import ledger_pb2


class GrpcLedgerLink:
    """Follows the writer at one address; a new call for every ``follow``."""

    def __init__(self, runtime: Runtime, address: str, dialer: ServerDialer) -> None:
        self._runtime = runtime
        self._address = address
        self._dialer = dialer

    async def follow(
        self, from_height: int, acknowledgements: AsyncIterator[int]
    ) -> AsyncGenerator[BlockBytes | HeadBytes | TermBytes, None]:
        """See :class:`hcefs.ledger.follower.LedgerLink`."""
        async with self._dialer.to_server(self._address, CHANNEL_OPTIONS) as channel:
            method: Any = channel.stream_stream(
                "/hcefs.v1.Ledger/Follow",
                request_serializer=ledger_pb2.FollowRequest.SerializeToString,
                response_deserializer=ledger_pb2.FollowResponse.FromString,
            )
            # No deadline: the stream lives as long as both ends do; keep-alive pings and the
            # lease, which a silent writer lets run out, bound what a half-open one can do.
            call = method()

            async def acknowledge() -> None:
                async for height in acknowledgements:
                    await call.write(ledger_pb2.FollowRequest(persisted_height=height))

            # Not as gRPC's request iterator, which goes on waiting for a height when the
            # call has ended, and is destroyed in the middle of it.
            sender: asyncio.Task[None] | None = None
            try:
                await call.write(
                    ledger_pb2.FollowRequest(from_height=from_height, versions=versions_message())
                )
                sender = self._runtime.spawn(acknowledge(), name="ledger-acknowledgements")
                checked = False
                async for message in call:
                    if not checked:
                        theirs = versions_in(message)
                        # What it follows it knows: only the distance of the releases counts.
                        require_talk("the ledger", theirs, theirs.protocols.newest)
                        checked = True
                    kind = message.WhichOneof("message")
                    if kind == "term_change":
                        yield TermBytes(message.term_change)
                    elif kind == "block":
                        yield BlockBytes(message.block)
                        if message.block_head:
                            yield HeadBytes(message.block_head)
                    else:
                        yield HeadBytes(message.head)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
            except (grpc.aio.BaseError, asyncio.InvalidStateError):
                # gRPC's own words for a call that broke before it had begun.
                raise Unavailable(
                    "the feed of the ledger broke; it is asked again", reason="stream-reset"
                ) from None
            finally:
                await end_tasks(sender)
                call.cancel()
