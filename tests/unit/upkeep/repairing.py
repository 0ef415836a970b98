"""Repair of nodes in this process, on a clock on which nobody waits."""

from __future__ import annotations

from hcefs.errors import Unavailable
from hcefs.formats.shard import HEADER_SIZE
from hcefs.ids import AccountId, BlobBase, BlobId
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import Seat
from hcefs.placement.waves import SeatName
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import Stores
from hcefs.stripes.audit import Auditor
from hcefs.upkeep.damage import DamageLog
from hcefs.upkeep.fill import SeatFiller
from hcefs.upkeep.repair import REST_HURRIED_SECONDS, Repairer
from hcefs.upkeep.scrub_state import ScrubLog
from hcefs.upkeep.set_aside import SettingAside
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.worker import Progress
from tests.unit.upkeep.giving import GivingCluster

ROUND_SECONDS = 3600.0
STEPS_MAX = 20_000


class View:
    """The cluster's map, in which nothing moves."""

    def __init__(self, world: GivingCluster) -> None:
        self._world = world

    def cluster_map(self) -> ClusterMap:
        return self._world.cluster.map

    def arrived(self) -> frozenset[SeatName]:
        return frozenset()


class Repairing(GivingCluster):
    """A cluster whose nodes repair themselves when they are told to."""

    def __init__(self, runtime: SystemRuntime) -> None:
        super().__init__(runtime)
        self.clock_ms = self.cluster.ledger.time_ms
        self.queues: dict[AccountId, DamageLog] = {}
        self.kept: dict[tuple[BlobBase, int], bytes] = {}
        """What lost shards were."""

        self.stale = False
        """Whether the lease of these nodes has run out."""

        self.forgotten: list[tuple[AccountId, BlobBase]] = []
        self.brought: list[tuple[AccountId, BlobBase]] = []

    def queue(self, account: AccountId) -> DamageLog:
        if account not in self.queues:
            rows = self.cluster.stores[account].rows
            self.queues[account] = DamageLog(rows, lambda: self.clock_ms)
        return self.queues[account]

    def repairer(self, account: AccountId) -> Repairer:
        cluster = self.cluster
        stores = cluster.stores[account]
        rate = float(1 << 40)
        throttle = Throttle(cluster.runtime, rate, rate, lambda: False)
        return Repairer(
            cluster.runtime,
            View(self),
            stores,
            cluster.ledger,
            self._watched(account),
            Auditor(cluster.runtime, stores, cluster.ledger, throttle.spend),
            self.queue(account),
            self.setting_aside(account),
            throttle,
            cluster.metrics,
            account,
            self._require_fresh,
            ROUND_SECONDS,
        )

    def _require_fresh(self) -> None:
        if self.stale:
            raise Unavailable("the lease has run out", reason="stale-lease")

    def setting_aside(self, account: AccountId) -> SettingAside:
        stores, now_ms = self.cluster.stores[account], self.runtime.now_ms
        return SettingAside(
            stores,
            self.cluster.holders[account].pending,
            ScrubLog(stores.rows, now_ms),
            now_ms,
            lambda base: self.forgotten.append((account, base)),
        )

    def _watched(self, account: AccountId) -> SeatFiller:
        """A filler that notes in which order it is asked."""
        filler, restore = self.filler(account), SeatFiller.restore

        async def noted(*args: object) -> object:
            self.brought.append((account, args[1].base))  # type: ignore[attr-defined]
            return await restore(filler, *args)  # type: ignore[arg-type]

        filler.restore = noted  # type: ignore[assignment, method-assign]
        return filler

    async def run(self, repairer: Repairer) -> None:
        """Run a repairer until it rests."""
        for _ in range(STEPS_MAX):
            if await repairer.work() is Progress.IDLE:
                return
        raise AssertionError("the repair does not come to rest")

    async def whole_round(self, repairer: Repairer) -> None:
        """A pass over all rows, what follows from it, and the pass that looks what came of it."""
        repairer.now()
        await self.run(repairer)
        if repairer.last is not None and not repairer.last.is_whole:
            await self.runtime.sleep(REST_HURRIED_SECONDS)
            await self.run(repairer)

    # -- what is wrong

    def seat(self, blob: BlobId, index: int, profile: str = "ec-4-2") -> Seat:
        return next(s for s in self.cluster.seats(blob.base, profile) if s.index == index)

    def stores_at(self, blob: BlobId, index: int, profile: str = "ec-4-2") -> Stores:
        return self.cluster.stores[self.seat(blob, index, profile).node.account]

    def lose(self, blob: BlobId, *indexes: int, profile: str = "ec-4-2") -> None:
        """The files of some shards are gone."""
        for index in indexes:
            shards = self.stores_at(blob, index, profile).shards
            reader = shards.open(blob.base, index)
            self.kept[blob.base, index] = reader.read_at(0, reader.size)
            reader.close()
            shards.remove(blob.base, index)

    def flip(self, blob: BlobId, index: int) -> None:
        """One bit of a shard's first piece is another."""
        shards = self.stores_at(blob, index).shards
        reader = shards.open(blob.base, index)
        data = bytearray(reader.read_at(0, reader.size))
        reader.close()
        data[HEADER_SIZE + 5] ^= 1
        shards.remove(blob.base, index)
        writer = shards.begin(blob.base, index)
        writer.write(bytes(data[:-1]))
        writer.finish(bytes(data[-1:]))
