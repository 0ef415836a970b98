"""This node among its peers: what re-profiling asks of every holder, itself included."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hcefs.ids import AccountId, BlobBase
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import Seat
from hcefs.stripes.exports import Exporter
from hcefs.stripes.relayout import LayoutTaker
from hcefs.transport.peers import ShardDownload
from hcefs.transport.upkeep import (
    BlobRows,
    LayoutPeer,
    LayoutPeers,
    LayoutStep,
    PackRows,
    Place,
    ShardName,
    UpkeepPeers,
)


class PeersWithOwn:
    """All nodes, this one without the network."""

    def __init__(
        self, peers: UpkeepPeers, me: AccountId, exporter: Exporter, taker: LayoutTaker
    ) -> None:
        self._peers = peers
        self._me = me
        self._exporter = exporter
        self._taker = taker

    def upkeep_peer(self, node: Node) -> LayoutPeer:
        if node.account == self._me:
            return OwnPeer(node, self._exporter, self._taker)
        return self._peers.upkeep_peer(node)


async def all_hold(peers: LayoutPeers, place: Place, base: BlobBase, held: Sequence[Seat]) -> bool:
    """Whether the holders of all these seats have their shards of a base, with their rows.

    Raises:
        HcefsError: one of them does not say.
    """

    async def has(seat: Seat) -> bool:
        peer = peers.upkeep_peer(seat.node)
        return (await peer.has_shards(place, [ShardName(base, seat.index)]))[0]

    return all(await asyncio.gather(*(has(seat) for seat in held)))


class OwnPeer:
    """What re-profiling asks of a node, asked of this one."""

    def __init__(self, node: Node, exporter: Exporter, taker: LayoutTaker) -> None:
        self._node = node
        self._exporter = exporter
        self._taker = taker

    async def load_rows(self, place: Place, base: BlobBase) -> BlobRows | PackRows:
        return await self._exporter.load_rows(base, place.profile)

    async def load_shard(
        self, place: Place, base: BlobBase, index: int, first: int
    ) -> ShardDownload:
        return await self._exporter.load_shard(base, index, first, place.profile)

    async def has_shards(self, place: Place, shards: Sequence[ShardName]) -> list[bool]:
        return await self._exporter.has_shards(shards, place.profile)

    async def take_layout(
        self, place: Place, base: BlobBase, step: LayoutStep, rows: BlobRows | PackRows
    ) -> None:
        await self._taker.take(place, base, step, rows, self._node)
