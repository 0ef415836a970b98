"""Nodes that give to each other what they have, in this process, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from hcefs.errors import Unavailable
from hcefs.ids import AccountId, BlobBase, RecordId
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import positions_of
from hcefs.runtime import SystemRuntime
from hcefs.stripes.adopt import Adopter
from hcefs.stripes.exports import Exporter, record_digest
from hcefs.testing.local_cluster import LocalCluster
from hcefs.testing.local_packs import LocalPacks
from hcefs.transport.peers import LoadHeader, Piece, ShardDownload
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
from hcefs.upkeep.fill import Filled, SeatFiller
from hcefs.upkeep.superseded import SupersededShards
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.witness import Witness
from tests.unit.stripes.moving import name_of


class ClockRuntime(SystemRuntime):
    """A runtime on which nobody waits: the clock goes on when somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)  # no clock stands still
        await super().sleep(0)


@dataclass
class Giving:
    """What is wrong with what one node gives."""

    fails: Exception | None = None
    shards: Callable[[bytes], tuple[list[ShardName], bytes]] | None = None
    records: Callable[[bytes], tuple[list[RecordDigest], bytes]] | None = None
    rows: Callable[[BlobRows | PackRows], BlobRows | PackRows] | None = None
    record: Callable[[bytes], tuple[RecordRows, bytes]] | None = None
    fails_loads: Exception | None = None
    piece: Callable[[bytes], list[bytes]] | None = None
    """What becomes of each message of a shard."""

    offers: Callable[[Place, list[ShardName], list[RecordId]], frozenset[ShardName]] | None = None
    """Who takes what is offered, and says what of it need not be kept."""

    calls: list[str] = field(default_factory=list)
    hints: list[ShardName] = field(default_factory=list)

    def enter(self, call: str) -> None:
        self.calls.append(call)
        if self.fails is not None:
            raise self.fails


class LocalUpkeepPeer:
    """One node, as others ask it."""

    def __init__(self, exporter: Exporter, cluster: LocalCluster, giving: Giving) -> None:
        self._exporter = exporter
        self._cluster = cluster
        self._giving = giving

    def _positions(self, place: Place, also: Sequence[int]) -> list[range]:
        bits = self._cluster.map.table(place.profile).bits
        return [positions_of(partition, bits) for partition in (place.partition, *also)]

    async def ping(self, own: Pulse, seconds: float) -> Pulse:
        self._giving.enter("ping")
        return own

    async def manifest_digests(
        self, place: Place, also: Sequence[int], bases: Sequence[BlobBase]
    ) -> list[bytes]:
        self._giving.enter("manifest-digests")
        return await self._exporter.manifest_digests(bases, place.profile)

    async def hint(self, place: Place, shards: Sequence[ShardName]) -> None:
        self._giving.enter("hint")
        self._giving.hints += shards

    async def list_shards(
        self, place: Place, after: bytes, also: Sequence[int] = ()
    ) -> tuple[list[ShardName], bytes]:
        self._giving.enter("list-shards")
        if self._giving.shards is not None:
            return self._giving.shards(after)
        return await self._exporter.list_shards(
            place.epoch, self._positions(place, also), place.profile, after
        )

    async def list_records(
        self, place: Place, after: bytes, also: Sequence[int] = ()
    ) -> tuple[list[RecordDigest], bytes]:
        self._giving.enter("list-records")
        if self._giving.records is not None:
            return self._giving.records(after)
        return await self._exporter.list_records(place.epoch, self._positions(place, also), after)

    async def load_rows(self, place: Place, base: BlobBase) -> BlobRows | PackRows:
        self._giving.enter("load-rows")
        rows = await self._exporter.load_rows(base, place.profile)
        return rows if self._giving.rows is None else self._giving.rows(rows)

    async def load_shard(
        self, place: Place, base: BlobBase, index: int, first: int
    ) -> ShardDownload:
        self._giving.enter(f"load-shard {index}")
        if self._giving.fails_loads is not None:
            raise self._giving.fails_loads
        download = await self._exporter.load_shard(base, index, first, place.profile)
        return download if self._giving.piece is None else _Lying(download, self._giving.piece)

    async def load_record(
        self, place: Place, record: RecordId, after: bytes
    ) -> tuple[RecordRows, bytes]:
        self._giving.enter("load-record")
        if self._giving.record is not None:
            return self._giving.record(after)
        return await self._exporter.load_record(record, after)

    async def has_shards(self, place: Place, shards: Sequence[ShardName]) -> list[bool]:
        self._giving.enter("has-shards")
        return await self._exporter.has_shards(shards, place.profile)

    async def offer(
        self, place: Place, shards: Sequence[ShardName], records: Sequence[RecordId]
    ) -> list[bool]:
        self._giving.enter("offer")
        held = await self._exporter.has_shards(shards, place.profile)
        if self._giving.offers is not None:
            missing = [each for each, here in zip(shards, held, strict=True) if not here]
            needless = self._giving.offers(place, missing, list(records))
            held = [here or each in needless for each, here in zip(shards, held, strict=True)]
        return held

    async def take_layout(
        self, place: Place, base: BlobBase, step: LayoutStep, rows: BlobRows | PackRows
    ) -> None:
        raise Unavailable("these holders re-profile nothing", reason="unsupported")

    async def has_rows(
        self, place: Place, record: RecordId, digests: Sequence[bytes]
    ) -> list[bool]:
        self._giving.enter("has-rows")
        return await self._exporter.has_rows(record, digests)


class _Lying:
    def __init__(self, download: ShardDownload, becomes: Callable[[bytes], list[bytes]]) -> None:
        self._download = download
        self._becomes = becomes

    async def header(self) -> LoadHeader:
        return await self._download.header()

    async def messages(self) -> AsyncIterator[Piece]:
        async for message in self._download.messages():
            for each in self._becomes(bytes(message)):
                yield each

    async def frames(self) -> AsyncIterator[bytes]:
        raise NotImplementedError
        yield b""

    async def cancel(self) -> None:
        await self._download.cancel()


class GivingCluster:
    """Seven holders, or more, of whom everybody gives to everybody."""

    def __init__(self, runtime: SystemRuntime, nodes: int = 7) -> None:
        self.runtime = runtime
        self.cluster = LocalCluster(runtime, nodes)
        self.packs = LocalPacks(self.cluster)
        self.giving = {account: Giving() for account in self.cluster.holders}

    def upkeep_peer(self, node: Node) -> UpkeepPeer:
        return LocalUpkeepPeer(self.exporter(node.account), self.cluster, self.giving[node.account])

    def exporter(self, account: AccountId) -> Exporter:
        cluster = self.cluster
        return Exporter(
            cluster.runtime,
            cluster.stores[account],
            cluster.ledger,
            cluster.metrics,
            cluster.holders[account].pending,
            cluster.uploads[account],
        )

    def adopter(self, account: AccountId) -> Adopter:
        cluster = self.cluster
        return Adopter(
            cluster.runtime,
            cluster.stores[account],
            cluster.ledger,
            cluster.holders[account].pending,
        )

    def throttle(self) -> Throttle:
        rate = float(1 << 40)
        return Throttle(self.cluster.runtime, rate, rate, lambda: False)

    def filler(self, account: AccountId) -> SeatFiller:
        cluster = self.cluster

        async def digest_of(record: RecordId) -> bytes:
            return record_digest(cluster.stores[account], record)

        return SeatFiller(
            cluster.runtime, self, self.adopter(account), cluster.metrics, self.throttle(), account,
            digest_of,
        )  # fmt: skip

    def superseded(self, account: AccountId) -> SupersededShards:
        cluster, exporter = self.cluster, self.exporter(account)
        stores = cluster.stores[account]
        witness = Witness(cluster.runtime, stores, exporter, self, self.throttle(), account)
        return SupersededShards(
            cluster.runtime, lambda: cluster.map, stores.rows, self.adopter(account), self, witness,
            cluster.metrics, account,
        )  # fmt: skip

    async def fill(self, profile: str = "ec-4-2", *, fenced: bool = False) -> Filled:
        """Fill the seat in flight of the cluster's map, on its destination."""
        current = self.cluster.map
        name, source = name_of(current, profile)
        node = current.node(current.table(profile).node_rows[name.partition][name.seat])
        if node is None:
            raise Unavailable("the map has no such node", reason="unknown-node")
        return await self.filler(node.account).fill(current, name, source, lambda _: fenced)
