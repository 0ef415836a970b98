"""Stand-ins, mending and lost databases, killed in the middle.  See :mod:`.scenarios`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hcefs.crashpoints import CrashPoint
from hcefs.ids import AccountId, BlobId
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import Stores, Table
from hcefs.store.recovery import Restoring
from hcefs.stripes.standing_in import marked_in
from hcefs.testing.local_cluster import LocalCluster
from hcefs.testing.local_packs import LocalPacks
from hcefs.upkeep.quarantine import Quarantine
from hcefs.upkeep.restore import Restorer
from hcefs.upkeep.scrub_shards import ShardJudge
from hcefs.upkeep.scrub_state import ScrubLog
from hcefs.upkeep.set_aside import ShardFile
from hcefs.upkeep.worker import Progress
from tests.crash.scenarios import SIZE, ClusterScenario, Points, Scenario, View
from tests.crash.world import acknowledged_faults, left_faults, real_stores, world_faults
from tests.moves.moving import damage
from tests.unit.upkeep.giving import ClockRuntime, GivingCluster
from tests.unit.upkeep.repairing import Repairing
from tests.unit.upkeep.test_stand_in import World as Standing

P = CrashPoint
STEPS_MAX = 5_000


class StandIns(ClusterScenario):
    """A blob is put while two of its nodes are down, and one that was put so comes home."""

    name = "stand-ins"
    points: ClassVar[Points] = {
        P.BLOB_SHARD: (6,),
        P.BLOB_ROWS: (6,),
        P.STAND_IN_OFFERED: (1, 3),
        P.STAND_IN_TAKEN: (1, 2, 3),
        P.ADOPT_SHARD: (1, 2),
        P.RETIRE_ROWS: (1, 2),
        P.RETIRE_SHARDS: (1,),
        P.STAND_IN_DELETED: (1, 2),
        P.STAND_IN_UNMARKED: (1, 2),
        P.STAND_IN_ROWS_DELETED: (1,),
        P.STAND_IN_RECORD_UNMARKED: (1,),
    }
    nodes: Standing

    def make(self) -> tuple[LocalCluster, LocalPacks]:
        self.nodes = Standing(ClockRuntime())
        return self.nodes.cluster, self.nodes.packs

    def close(self) -> None:
        super().close()
        self.nodes.runtime.close()

    async def _put(self, seed: int) -> None:
        """Put through two seats of the record that are down: its rows stand in as well."""
        cluster = self.world.cluster
        away = [seat.node.account for seat in cluster.seats(bytes(cluster.record))[:2]]
        self.nodes.down(*away)
        await self.world.put(SIZE, seed, "ec-4-2")
        self.nodes.up(*away)

    async def prepare(self) -> None:
        await self._put(1)

    async def act(self) -> None:
        await self._put(2)
        # Otherwise the collector, whom the put's pending names lead here, would delete the rest.
        self.world.expire()
        await self.world.collect()
        await self.nodes.bring_home()

    async def recovered(self) -> list[str]:
        world, nodes = self.world, self.nodes
        found = self._lost()
        committed = world.bases("committed")
        for note in world.acknowledged():
            if note.base not in committed:
                world.commit(note)
        await nodes.bring_home()
        found += await world_faults(world) + acknowledged_faults(world) + self._lost()
        world.expire()
        await world.collect()
        await nodes.bring_home()
        found += left_faults(world, world.bases("begun") - world.bases("committed"))
        for note in world.acknowledged():
            homes = nodes.homes(note.base)
            for account, stores in world.cluster.stores.items():
                for base, index in stores.shards.inventory():
                    if base == note.base and homes[index] != account:
                        found.append(f"index {index} is at home and left elsewhere")
        for number, stores in enumerate(world.cluster.stores.values(), 1):
            found += [f"node {number}: a mark is left" for _ in marked_in(stores.rows)]
        return found

    def _lost(self) -> list[str]:
        """Acknowledged indexes that are on no disk, whole."""
        stores = self.world.cluster.stores
        return [
            f"{note.base} index {index}, acknowledged, is nowhere"
            for note in self.world.acknowledged()
            for index in note.durable
            if all(damage(each, note.base, index) for each in stores.values())
        ]


class Mend(ClusterScenario):
    """A damaged shard is set aside, entered, rebuilt, and its file deleted at last."""

    name = "mend"
    points: ClassVar[Points] = {
        P.SCRUB_NOTED: (1,),
        P.QUARANTINE_LINKED: (1,),
        P.QUARANTINE_UNLINKED: (1,),
        P.SCRUB_SET_ASIDE: (1,),
        P.DAMAGE_ENTERED: (1,),
        P.SCRUB_TOLD: (1,),
        P.SCRUB_CURSOR: (1,),
        P.ADOPT_SHARD: (1,),
        P.ADOPT_ROWS: (1,),
        P.REPAIR_RESTORED: (1,),
        P.DAMAGE_SETTLED: (1,),
        P.QUARANTINE_FORGOTTEN: (1,),
        P.QUARANTINE_DISCARDED: (1,),
    }
    index = 1
    nodes: Repairing

    def make(self) -> tuple[LocalCluster, LocalPacks]:
        self.nodes = Repairing(ClockRuntime())
        return self.nodes.cluster, self.nodes.packs

    def close(self) -> None:
        super().close()
        self.nodes.runtime.close()

    async def prepare(self) -> None:
        note = await self.world.put(SIZE, 1, "ec-4-2")
        self.nodes.flip(BlobId.of(note.base), self.index)

    @property
    def blob(self) -> BlobId:
        return BlobId.of(self.world.acknowledged()[0].base)

    @property
    def account(self) -> AccountId:
        return self.nodes.seat(self.blob, self.index).node.account

    @property
    def stores(self) -> Stores:
        return self.world.cluster.stores[self.account]

    def scrub_log(self) -> ScrubLog:
        return ScrubLog(self.stores.rows, self.nodes.runtime.now_ms)

    async def act(self) -> None:
        await self._set_aside()
        log = self.scrub_log()
        cursor = log.load()
        log.save(replace(cursor, stage=7).with_verified(6, 5))
        await self._mend()

    async def _set_aside(self) -> None:
        nodes, account, stores = self.nodes, self.account, self.stores
        judge = ShardJudge(
            nodes.runtime, stores, nodes.exporter(account), nodes.adopter(account),
            nodes.cluster.holders[account].pending, self.scrub_log(),
            nodes.setting_aside(account), nodes.queue(account),
            nodes.cluster.metrics,
        )  # fmt: skip
        await judge.damaged(ShardFile(self.blob.base, self.index), "damaged-piece")

    async def _mend(self) -> None:
        nodes, account = self.nodes, self.account
        await nodes.whole_round(nodes.repairer(account))
        quarantine = Quarantine(
            nodes.runtime, self.stores, self.scrub_log(), View(self.world), nodes,
            nodes.cluster.metrics, account, 0.0,
        )  # fmt: skip
        await quarantine.collect(dry_run=False)

    async def check(self) -> list[str]:
        found, stores, world = [], self.stores, self.world
        base, rows = self.blob.base, self.stores.rows
        (note,) = world.acknowledged()
        if await world.read(note) != world.expected(note):
            found.append("the blob does not read back")
        cursor = self.scrub_log().load()
        if (cursor.stage, cursor.verified(6)) not in ((0, 0), (7, 5)):
            found.append("the cursor is neither the old nor the new one")
        aside = list(stores.shards.quarantined())
        whole = stores.shards.has(base, self.index) and not damage(stores, base, self.index)
        if len(aside) > 1 or (not aside and not stores.shards.has(base, self.index)):
            found.append(f"{len(aside)} files lie in quarantine, and the shard is not here")
        if aside and not whole and not rows.scan(Table.SCRUB, b"aside/"):
            found.append("what lies in quarantine is unexplained")
        if stores.shards.has(base, self.index) and not whole:
            await self._set_aside()
        await self._mend()
        found += await world_faults(world) + acknowledged_faults(world)
        if rows.scan(Table.DAMAGED) or len(self.nodes.queue(self.account)):
            found.append("an entry is left in the queue")
        if list(stores.shards.quarantined()):
            found.append("a file is left in quarantine")
        if rows.scan(Table.SCRUB, b"aside/"):
            found.append("a note of a file that is gone is left")
        return found


class Restore(ClusterScenario):
    """Both databases of a node are damaged: set aside, and restored from the others."""

    name = "restore"
    points: ClassVar[Points] = {
        P.RESTORING_DRAFT: (1, 2, 3, 4),
        P.RESTORING_MARKED: (1, 2),
        P.RESTORING_SET_ASIDE: (1, 2),
        P.RESTORING_EMPTY: (1, 2),
        P.RESTORING_UNNAMED: (1,),
        P.ADOPT_KEYS: (1,),
        P.ADOPT_ROWS: (1,),
        P.RESTORING_ROW: (1, 9),
        P.RESTORING_UNMARKED: (1,),
    }
    given: GivingCluster

    def stores_in(self, folder: Path) -> AbstractContextManager[None]:
        self.marks: list[Restoring] = []
        return real_stores(folder, self.marks)

    def make(self) -> tuple[LocalCluster, LocalPacks]:
        self.given = GivingCluster(ClockRuntime())
        return self.given.cluster, self.given.packs

    def close(self) -> None:
        super().close()
        self.given.runtime.close()
        if self.world.phase == "damaging":
            for name in ("rows", "keys"):
                (self.world.folder / "node-1" / name / "CURRENT").write_bytes(b"\xa5" * 64)

    async def prepare(self) -> None:
        for seed in (1, 2, 3):
            await self.world.put(SIZE, seed, "ec-4-2")
        await self.world.put_pack(10, "copy-3")
        self.world.phase = "damaging"

    async def act(self) -> None:
        await self._restore()

    async def _restore(self) -> None:
        world = self.world
        account = next(iter(world.cluster.stores))
        restorer = Restorer(
            self.given.runtime, View(world), self.given.filler(account), self.marks[0],
            lambda: None, world.cluster.metrics, account,
        )  # fmt: skip
        for _ in range(STEPS_MAX):
            if await restorer.work() is Progress.IDLE and not self.marks[0].names:
                return
        raise AssertionError("the restoring does not end")

    async def check(self) -> list[str]:
        world = self.world
        found = []
        lacks = acknowledged_faults(world)
        for name in ("rows", "keys"):
            is_aside = (world.folder / "node-1" / f"{name}.damaged-0").exists()
            if lacks and is_aside and name not in self.marks[0].names:
                found.append(f"an empty database is taken for a whole one: {lacks[0]}")
        for note in world.acknowledged():
            if await world.read(note) != world.expected(note):
                found.append(f"{note.base} does not read back")
        await self._restore()
        found += await world_faults(world) + acknowledged_faults(world)
        if Restoring(world.folder / "node-1").names:
            found.append("the mark is left")
        for name in ("rows", "keys"):
            if len(list((world.folder / "node-1").glob(f"{name}.damaged-*"))) != 1:
                found.append(f"{name} was not set aside once")
        return found


UPKEEP_SCENARIOS: tuple[Callable[[Path, SystemRuntime], Scenario], ...] = (
    StandIns, Mend, Restore,
)  # fmt: skip
