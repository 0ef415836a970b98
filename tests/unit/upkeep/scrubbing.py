"""One node of a cluster with its stores on a disk, and a scrub over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hcefs.formats.manifest import Opening
from hcefs.ids import AccountId, BlobBase, BlobId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime
from hcefs.store.files import open_stores
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.store.keys import open_key_database
from hcefs.store.rows import open_database, row_name
from hcefs.stripes.adopt import Adoptable, Adopter
from hcefs.stripes.exports import Exporter
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import placed_shard
from hcefs.stripes.uploads import Uploads
from hcefs.testing.local_cluster import LocalCluster
from hcefs.transport.upkeep import UpkeepPeer
from hcefs.upkeep.scrub import Scrubber, ScrubPlan
from hcefs.upkeep.scrub_compare import HolderComparer
from hcefs.upkeep.scrub_rows import RowMender
from hcefs.upkeep.scrub_shards import ShardJudge
from hcefs.upkeep.scrub_state import ScrubLog
from hcefs.upkeep.set_aside import SettingAside, ShardFile
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.worker import Progress
from tests.unit.upkeep.giving import ClockRuntime, Giving, LocalUpkeepPeer

CYCLE_SECONDS = 1000.0


@dataclass
class Queue:
    """Remembers what was entered for repair."""

    entries: list[tuple[BlobBase, int, str, str]] = field(default_factory=list)

    def found(self, base: BlobBase, index: int, profile: str, reason: str) -> None:
        self.entries.append((base, index, profile, reason))


class ScrubbedNode:
    """The stores of the first node of a cluster, moved to a folder."""

    def __init__(self, cluster: LocalCluster, runtime: ClockRuntime, folder: Path) -> None:
        self.cluster = cluster
        self.runtime: Runtime = runtime
        self.clock = runtime
        self.folder = folder
        self.queue = Queue()
        self.metrics = Metrics()
        self.account = cluster.keys[0].account
        self.stores = open_stores(folder, reserve_bytes=0)
        self.open = True
        self.giving: dict[AccountId, Giving] = {}
        self.entered: list[Adoptable] = []
        self.enters = False
        """Whether a later layout is entered when another holder has one."""

        copy_stores(cluster.stores[self.account], self.stores)

    def scrubber(self, rate: float = 1e12, busy: Callable[[], bool] = lambda: False) -> Scrubber:
        stores, ledger = self.stores, self.cluster.ledger
        pending = PendingNames(stores.rows)
        uploads = Uploads(lambda: 1)
        scrub_log = ScrubLog(stores.rows, self.runtime.now_ms)
        judge = ShardJudge(
            self.runtime,
            stores,
            Exporter(self.runtime, stores, ledger, self.metrics, pending, uploads),
            Adopter(self.runtime, stores, ledger, pending),
            pending,
            scrub_log,
            SettingAside(stores, pending, scrub_log, self.runtime.now_ms),
            self.queue,
            self.metrics,
        )
        return Scrubber(
            self.runtime,
            stores,
            judge,
            RowMender(stores, pending, judge.restore),
            scrub_log,
            Throttle(self.runtime, rate, rate, busy),
            self.metrics,
            ScrubPlan(CYCLE_SECONDS, rate),
            self.comparer(),
        )

    def comparer(self) -> HolderComparer:
        async def enter(wanted: Adoptable) -> bool:
            self.entered.append(wanted)
            return self.enters

        return HolderComparer(
            self.runtime,
            lambda: self.cluster.map,
            self.stores,
            self,
            Adopter(self.runtime, self.stores, self.cluster.ledger, PendingNames(self.stores.rows)),
            enter,
            self.queue,
            self.metrics,
            self.account,
        )

    def upkeep_peer(self, node: Node) -> UpkeepPeer:
        """Another holder, as the cluster left it."""
        cluster, account = self.cluster, node.account
        exporter = Exporter(
            self.runtime,
            cluster.stores[account],
            cluster.ledger,
            self.metrics,
            cluster.holders[account].pending,
            cluster.uploads[account],
        )
        return LocalUpkeepPeer(exporter, cluster, self.giving.setdefault(account, Giving()))

    async def cycle(self, scrubber: Scrubber | None = None) -> Scrubber:
        """One whole cycle, at once."""
        scrubber = scrubber or self.scrubber()
        scrubber.hurry()
        for _ in range(5000):
            if await scrubber.work() is Progress.BUSY and scrubber.status().resting:
                return scrubber
        raise AssertionError("the cycle does not end")

    def shard(self) -> ShardFile:
        """The one shard of the first blob on this node."""
        key, value = self.stores.rows.scan(Table.PLACED)[0]
        found = placed_shard(key, value)
        return ShardFile(found.base, found.index, found.form)

    def path(self, shard: ShardFile) -> Path:
        digits = shard.base.hex()
        return self.folder / "shards" / digits[:2] / f"{digits}.{shard.index}"

    def reopen(self) -> None:
        self.stores.close()
        self.stores = open_stores(self.folder, reserve_bytes=0)

    def damage_row(self, table: Table | KeyTable, key: bytes) -> None:
        """Flip the last bit of a row as it lies in the database."""
        self.stores.close()
        keys = isinstance(table, KeyTable)
        opener, name = (open_key_database, "keys") if keys else (open_database, "rows")
        database = opener(self.folder / name)
        stored = bytearray(database[row_name(table, key)] or b"")
        stored[-1] ^= 1
        database[row_name(table, key)] = bytes(stored)
        database.close()
        self.stores = open_stores(self.folder, reserve_bytes=0)

    def close(self) -> None:
        self.stores.close()


def copy_stores(source: Stores, target: Stores) -> None:
    """Everything of one node's stores into others."""
    for base, index in source.shards.inventory():
        reader = source.shards.open(base, index)
        writer = target.shards.begin(base, index)
        writer.write(reader.read_at(0, reader.size))
        writer.finish(b"")
    for table in Table:
        target.rows.put([(table, key, value) for key, value in source.rows.scan(table)])
    for place in KeyTable:
        target.keys.put_all_new([(place, key, value) for key, value in source.keys.scan(place)])


async def put_blob(cluster: LocalCluster, data: bytes) -> BlobId:
    """A committed blob on all nodes of the cluster."""
    plan = cluster.plan(BlobId.of(cluster.runtime.random(16)))
    session = cluster.session(plan)
    await session.write(data)
    done = await session.finish(len(data), b"", b"", plan.call)
    cluster.ledger.commit(Opening(plan.salt, plan.record, plan.blob, done.core.digest(), b""))
    return plan.blob
