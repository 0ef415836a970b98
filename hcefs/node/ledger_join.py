"""A new node's way to the ledger's snapshot, over gRPC with mutual TLS, before it follows.

Invariant: whatever goes wrong here, the node starts all the same and replays from the
first block; a snapshot only saves time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc

from hcefs.errors import HcefsError
from hcefs.ledger.block import Block
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.snapshot import SNAPSHOT_RULE, SnapshotManifest, SnapshotOffer, SnapshotRule
from hcefs.ledger.snapshot_join import join
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS
from hcefs.transport.status import from_rpc_error
from hcefs.wire.v1 import ledger_pb2

OFFER_SECONDS = 10.0
FETCH_SECONDS = 3600.0
"""Longest that fetching may take; replaying is then no slower."""

log = logging.getLogger(__name__)


class GrpcSnapshotSource:
    """The ledger at one address; implements ``SnapshotSource``.  Close it."""

    def __init__(
        self, address: str, dialer: ServerDialer, rule: SnapshotRule = SNAPSHOT_RULE
    ) -> None:
        self._channel: Any = dialer.to_server(address, CHANNEL_OPTIONS)
        self._rule = rule

    async def offer(self) -> SnapshotOffer | None:
        """See :class:`hcefs.ledger.snapshot_join.SnapshotSource`."""
        call = self._channel.unary_unary(
            "/hcefs.v1.Ledger/OfferSnapshot",
            request_serializer=ledger_pb2.OfferSnapshotRequest.SerializeToString,
            response_deserializer=ledger_pb2.OfferSnapshotResponse.FromString,
        )
        try:
            answer = await call(ledger_pb2.OfferSnapshotRequest(), timeout=OFFER_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        if not answer.manifest:
            return None
        return SnapshotOffer(
            SnapshotManifest.decode(answer.manifest),
            Block.decode(answer.base),
            Block.decode(answer.carrier),
            tuple(answer.terms),
            self._rule,
        )

    async def parts(self, height: int) -> AsyncGenerator[bytes, None]:
        """See :class:`hcefs.ledger.snapshot_join.SnapshotSource`."""
        method = self._channel.unary_stream(
            "/hcefs.v1.Ledger/ReadSnapshot",
            request_serializer=ledger_pb2.ReadSnapshotRequest.SerializeToString,
            response_deserializer=ledger_pb2.ReadSnapshotResponse.FromString,
        )
        call = method(ledger_pb2.ReadSnapshotRequest(height=height), timeout=FETCH_SECONDS)
        try:
            async for message in call:
                yield message.part
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close(None)


async def join_by_snapshot(
    runtime: Runtime,
    path: Path,
    genesis: Genesis,
    address: str,
    dialer: ServerDialer,
    rule: SnapshotRule = SNAPSHOT_RULE,
) -> int:
    """Begin the log at ``path`` with the ledger's snapshot, if there is neither; its height."""
    if await runtime.disk(path.exists):
        return 0
    source = GrpcSnapshotSource(address, dialer, rule)
    try:
        height = await join(path, genesis, source, runtime)
    except HcefsError as error:
        log.warning("this node replays the ledger from its first block: %s", error.message)
        return 0
    finally:
        await source.close()
    if height:
        log.info("this node's replica of the ledger begins with the snapshot of block %d", height)
    return height
