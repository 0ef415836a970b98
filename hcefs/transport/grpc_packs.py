"""Holders of packs over gRPC with mutual TLS, on the channels of :mod:`.grpc_peers`.

Calls are unary, and every message stays below the limit between nodes: a piece of a
pack has little more than 1 MiB, its rows at most 2.5 MiB.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from hcefs.errors import HcefsError, Invalid
from hcefs.ids import AccountId
from hcefs.integrity import crc32c_of
from hcefs.placement.cluster_map import Node
from hcefs.transport.framing import frame_field
from hcefs.transport.grpc_peers import (
    MESSAGE_BYTES_MAX,
    UNARY_SECONDS,
    Connect,
    connector,
    context_of,
    unary,
)
from hcefs.transport.pack_messages import (
    batch_context,
    columns_of,
    columns_wanted_message,
    pack_group_message,
    pack_wanted_message,
    parts_of,
)
from hcefs.transport.packs import (
    BatchCall,
    ColumnsWanted,
    PackPart,
    PackPeer,
    PackShard,
    PackWanted,
)
from hcefs.transport.peers import Call, Heads, Piece
from hcefs.transport.pinned_channels import Channels
from hcefs.wire.v1 import shard_pb2

PIECE_TAG = b"\x2a"
"""Field 5 of ``StorePackRequest``, length-delimited."""

SHARED_MAX = 4
"""Packs whose shared parts are kept while they are sent: up to 3 MiB each."""

STORE_SECONDS = 60.0
"""Longer than any put waits: the writer has the deadline, this only frees what hangs."""


class SharedParts:
    """What the messages of a pack to its holders have in common, encoded once for all.

    A message in protobuf is the concatenation of its fields, in any order.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, int], tuple[BatchCall, Any, bytes]] = OrderedDict()

    def of(self, call: BatchCall, shard: PackShard) -> bytes:
        """The fields that do not depend on the holder."""
        key = (id(call), id(shard.groups))  # what is kept below keeps these ids in use
        known = self._known.get(key)
        if known is not None:
            return known[2]
        encoded = shard_pb2.StorePackRequest(
            context=batch_context(call, groups=False),
            base=bytes(shard.base),
            layout=shard.layout,
            groups=[pack_group_message(group) for group in shard.groups],
            commit_by_ms=shard.commit_by_ms,
        ).SerializeToString()
        self._known[key] = (call, shard.groups, encoded)
        while len(self._known) > SHARED_MAX:
            self._known.popitem(last=False)
        return encoded


class GrpcPackPeer:
    """A remote holder of packs, as a gateway calls it."""

    def __init__(self, connect: Connect, heads: Heads, shared: SharedParts) -> None:
        self._connect = connect
        self._heads = heads
        self._shared = shared

    async def _unary(
        self, name: str, request: Any, response: Any, seconds: float = UNARY_SECONDS
    ) -> Any:
        """One message each way; ``request`` is a message or its bytes."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        if len(data) > MESSAGE_BYTES_MAX:
            raise Invalid(
                f"{name} would have {len(data)} bytes, {MESSAGE_BYTES_MAX} are the most: use "
                "fewer payloads or tokens in one request",
                reason="message-too-large",
            )
        return await unary(
            await self._connect(), self._heads, f"/hcefs.v1.Shards/{name}", data, response, seconds
        )

    async def store_pack(self, call: BatchCall, shard: PackShard) -> None:
        own = shard_pb2.StorePackRequest(
            index=shard.index,
            crc32c=crc32c_of((shard.piece,)),
            piece_digest=shard.piece_digest,
        )
        head = self._shared.of(call, shard) + own.SerializeToString()
        message = frame_field(PIECE_TAG, shard.piece, head)
        await self._unary("StorePack", message, shard_pb2.StorePackResponse, STORE_SECONDS)

    async def store_openings(
        self, call: BatchCall, openings: Sequence[bytes], commit_by_ms: int
    ) -> None:
        request = shard_pb2.StoreOpeningsRequest(
            context=batch_context(call), openings=openings, commit_by_ms=commit_by_ms
        )
        await self._unary("StoreOpenings", request, shard_pb2.StoreOpeningsResponse, STORE_SECONDS)

    async def load_packed(
        self, call: Call | BatchCall, wanted: Sequence[PackWanted]
    ) -> list[PackPart | HcefsError]:
        request = shard_pb2.LoadPackedRequest(wanted=[pack_wanted_message(each) for each in wanted])
        _enter(request, call)
        answer = await self._unary("LoadPacked", request, shard_pb2.LoadPackedResponse)
        return parts_of(wanted, answer.parts)

    async def load_columns(
        self, call: Call | BatchCall, wanted: Sequence[ColumnsWanted]
    ) -> list[Piece | HcefsError]:
        request = shard_pb2.LoadColumnsRequest(
            wanted=[columns_wanted_message(each) for each in wanted]
        )
        _enter(request, call)
        answer = await self._unary("LoadColumns", request, shard_pb2.LoadColumnsResponse)
        return columns_of(len(wanted), answer.columns)


def _enter(request: Any, call: Call | BatchCall) -> None:
    if isinstance(call, BatchCall):
        request.batch.CopyFrom(batch_context(call))
    else:
        request.call.CopyFrom(context_of(call))


class GrpcPackPeers:
    """All holders of packs: the local one for this node, channels for the others."""

    def __init__(self, channels: Channels, me: AccountId, local: PackPeer) -> None:
        self._channels = channels
        self._me = me
        self._local = local
        self._shared = SharedParts()

    def pack_peer(self, node: Node) -> PackPeer:
        if node.account == self._me:
            return self._local

        return GrpcPackPeer(connector(self._channels, node), self._channels.heads, self._shared)
