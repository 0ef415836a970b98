"""Upkeep between nodes over gRPC with mutual TLS, on the channels of :mod:`.grpc_peers`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hcefs.errors import Corrupt, Unavailable
from hcefs.ids import BlobBase, RecordId
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime, is_cancelled
from hcefs.transport.grpc_peers import (
    STREAM_SECONDS,
    Connect,
    Download,
    begin,
    connector,
    unary,
)
from hcefs.transport.node_facts import NodeFacts
from hcefs.transport.pack_messages import pack_group, pack_group_message
from hcefs.transport.peers import Heads, ShardDownload
from hcefs.transport.pinned_channels import Channels
from hcefs.transport.upkeep import (
    BlobRows,
    LayoutStep,
    PackRows,
    Place,
    Pulse,
    RecordDigest,
    RecordRows,
    ShardName,
    UpkeepPeer,
)
from hcefs.transport.versions import versions_in, versions_message
from hcefs.wire.v1 import upkeep_pb2

CALL_SECONDS = 30.0
"""Longer than a node waits for puts under an older epoch."""


def place_message(place: Place) -> upkeep_pb2.Place:
    """A partition as it travels."""
    return upkeep_pb2.Place(epoch=place.epoch, profile=place.profile, partition=place.partition)


def rows_message(rows: BlobRows | PackRows) -> upkeep_pb2.LoadRowsResponse:
    """The rows of a base as they travel."""
    if isinstance(rows, PackRows):
        return upkeep_pb2.LoadRowsResponse(
            layout=rows.layout,
            groups=[pack_group_message(group) for group in rows.groups],
            commit_by_ms=rows.commit_by_ms,
        )
    return upkeep_pb2.LoadRowsResponse(
        layout=rows.layout, core=rows.core, key_row=rows.key_row, opening=rows.opening
    )


def rows_of(message: upkeep_pb2.LoadRowsResponse) -> BlobRows | PackRows:
    """The inverse of :func:`rows_message`.

    Raises:
        Invalid: ``bad-id``.
    """
    if message.groups:
        groups = tuple(pack_group(group) for group in message.groups)
        return PackRows(message.layout, groups, message.commit_by_ms)
    return BlobRows(message.layout, message.core, message.key_row, message.opening)


class GrpcUpkeepPeer:
    """Another node."""

    def __init__(self, runtime: Runtime, connect: Connect, heads: Heads) -> None:
        self._runtime = runtime
        self._connect = connect
        self._heads = heads

    async def _unary(
        self, name: str, request: Any, response: Any, seconds: float = CALL_SECONDS
    ) -> Any:
        channel, data = await self._connect(), request.SerializeToString()
        path = f"/hcefs.v1.Upkeep/{name}"
        try:
            return await unary(channel, self._heads, path, data, response, seconds)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise Unavailable("the connection to the node was closed", reason="cancelled") from None

    async def list_shards(
        self, place: Place, after: bytes, also: Sequence[int] = ()
    ) -> tuple[list[ShardName], bytes]:
        request = upkeep_pb2.ListShardsRequest(place=place_message(place), after=after, also=also)
        answer = await self._unary("ListShards", request, upkeep_pb2.ListShardsResponse)
        shards = [ShardName(BlobBase(each.base), each.index) for each in answer.shards]
        return shards, answer.next

    async def list_records(
        self, place: Place, after: bytes, also: Sequence[int] = ()
    ) -> tuple[list[RecordDigest], bytes]:
        request = upkeep_pb2.ListRecordsRequest(place=place_message(place), after=after, also=also)
        answer = await self._unary("ListRecords", request, upkeep_pb2.ListRecordsResponse)
        records = [RecordDigest(RecordId(each.record_id), each.digest) for each in answer.records]
        return records, answer.next

    async def load_rows(self, place: Place, base: BlobBase) -> BlobRows | PackRows:
        request = upkeep_pb2.LoadRowsRequest(place=place_message(place), base=bytes(base))
        answer = await self._unary("LoadRows", request, upkeep_pb2.LoadRowsResponse)
        return rows_of(answer)

    async def load_shard(
        self, place: Place, base: BlobBase, index: int, first: int
    ) -> ShardDownload:
        channel = await self._connect()
        path = "/hcefs.v1.Upkeep/LoadShard"
        request = upkeep_pb2.LoadShardRequest(
            place=place_message(place), base=bytes(base), index=index, first=first
        )
        stream = begin(
            channel.unary_stream(path), path, self._heads, STREAM_SECONDS,
            request.SerializeToString(),
        )  # fmt: skip
        return Download(self._runtime, stream, self._heads)

    async def load_record(
        self, place: Place, record: RecordId, after: bytes
    ) -> tuple[RecordRows, bytes]:
        request = upkeep_pb2.LoadRecordRequest(
            place=place_message(place), record_id=bytes(record), after=after
        )
        answer = await self._unary("LoadRecord", request, upkeep_pb2.LoadRecordResponse)
        openings = tuple((each.opening, each.commit_by_ms) for each in answer.openings)
        return RecordRows(openings, tuple(answer.boxes), tuple(answer.links)), answer.next

    async def has_shards(self, place: Place, shards: Sequence[ShardName]) -> list[bool]:
        request = upkeep_pb2.HasShardsRequest(
            place=place_message(place),
            shards=[
                upkeep_pb2.ListedShard(base=bytes(each.base), index=each.index) for each in shards
            ],
        )
        answer = await self._unary("HasShards", request, upkeep_pb2.HasShardsResponse)
        return _held(answer.held, len(shards))

    async def has_rows(
        self, place: Place, record: RecordId, digests: Sequence[bytes]
    ) -> list[bool]:
        request = upkeep_pb2.HasRowsRequest(
            place=place_message(place), record_id=bytes(record), digests=digests
        )
        answer = await self._unary("HasRows", request, upkeep_pb2.HasRowsResponse)
        return _held(answer.held, len(digests))

    async def manifest_digests(
        self, place: Place, also: Sequence[int], bases: Sequence[BlobBase]
    ) -> list[bytes]:
        request = upkeep_pb2.ManifestDigestsRequest(
            place=place_message(place), also=also, bases=[bytes(base) for base in bases]
        )
        answer = await self._unary("ManifestDigests", request, upkeep_pb2.ManifestDigestsResponse)
        if len(answer.digests) != len(bases):
            raise Corrupt("the node's answer has another length", reason="bad-message")
        return list(answer.digests)

    async def hint(self, place: Place, shards: Sequence[ShardName]) -> None:
        request = upkeep_pb2.HintRequest(
            place=place_message(place),
            shards=[
                upkeep_pb2.ListedShard(base=bytes(each.base), index=each.index) for each in shards
            ],
        )
        await self._unary("Hint", request, upkeep_pb2.HintResponse)

    async def offer(
        self, place: Place, shards: Sequence[ShardName], records: Sequence[RecordId]
    ) -> list[bool]:
        request = upkeep_pb2.OfferRequest(
            place=place_message(place),
            shards=[
                upkeep_pb2.ListedShard(base=bytes(each.base), index=each.index) for each in shards
            ],
            records=[bytes(record) for record in records],
        )
        answer = await self._unary("Offer", request, upkeep_pb2.OfferResponse)
        return _held(answer.held, len(shards))

    async def ping(self, own: Pulse, seconds: float) -> Pulse:
        request = upkeep_pb2.PingRequest(
            epoch=own.epoch, height=own.height, versions=versions_message(own.versions)
        )
        answer = await self._unary("Ping", request, upkeep_pb2.PingResponse, seconds)
        facts = NodeFacts.of(answer.facts) if answer.HasField("facts") else None
        return Pulse(answer.epoch, answer.height, versions_in(answer), facts)

    async def take_layout(
        self, place: Place, base: BlobBase, step: LayoutStep, rows: BlobRows | PackRows
    ) -> None:
        request = upkeep_pb2.TakeLayoutRequest(
            place=place_message(place),
            base=bytes(base),
            step=upkeep_pb2.LayoutStep.Name(step),
            rows=rows_message(rows),
        )
        seconds = STREAM_SECONDS if step is LayoutStep.STAGE else CALL_SECONDS
        await self._unary("TakeLayout", request, upkeep_pb2.TakeLayoutResponse, seconds)


def _held(held: bytes, count: int) -> list[bool]:
    if len(held) != count:
        raise Corrupt("the node's answer has another length", reason="bad-message")
    return [byte == 1 for byte in held]


class GrpcUpkeepPeers:
    """All other nodes."""

    def __init__(self, runtime: Runtime, channels: Channels) -> None:
        self._runtime = runtime
        self._channels = channels

    def upkeep_peer(self, node: Node) -> UpkeepPeer:
        return GrpcUpkeepPeer(self._runtime, connector(self._channels, node), self._channels.heads)
