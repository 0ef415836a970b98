"""What a storage node does about its disk, put together: scrub, quarantine, restoring, health."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from hcefs.config import UpkeepConfig
from hcefs.ids import AccountId
from hcefs.ledger.log import LedgerLog
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.health import STATES, DiskHealth
from hcefs.store.interface import Stores
from hcefs.store.recovery import Restoring
from hcefs.stripes.adopt import Adopter
from hcefs.stripes.exports import Exporter
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.relayout import LayoutTaker
from hcefs.transport.upkeep import UpkeepPeers
from hcefs.upkeep.collect import Collector
from hcefs.upkeep.quarantine import Planned, Quarantine
from hcefs.upkeep.restore import Filler, Restorer
from hcefs.upkeep.scrub import Scrubber, ScrubPlan
from hcefs.upkeep.scrub_compare import HolderComparer
from hcefs.upkeep.scrub_rows import RowMender, put_away_count
from hcefs.upkeep.scrub_shards import Found, ShardJudge
from hcefs.upkeep.scrub_state import ScrubLog
from hcefs.upkeep.set_aside import SettingAside
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.worker import Worker
from hcefs.wire.v1 import admin_pb2

COLLECT_UNITS_MAX = 64
MIB = 1 << 20


class DiskCare:
    """The parts that look after one node's disk, and what they say to operators."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        log: LedgerLog,
        pending: PendingNames,
        exporter: Exporter,
        adopter: Adopter,
        taker: LayoutTaker,
        filler: Filler,
        collector: Collector,
        scrub_log: ScrubLog,
        aside: SettingAside,
        queue: Found,
        throttle: Throttle,
        peers: UpkeepPeers,
        metrics: Metrics,
        me: AccountId,
        config: UpkeepConfig,
        reserve_bytes: int,
        require_fresh: Callable[[], None],
        restoring: Restoring | None,
        health: DiskHealth | None,
    ) -> None:
        self._runtime = runtime
        self._stores = stores
        self._collector = collector
        self._reserve = reserve_bytes
        self._restoring = restoring
        self._health = health
        judge = ShardJudge(
            runtime, stores, exporter, adopter, pending, scrub_log, aside, queue, metrics
        )
        self.scrubber = Scrubber(
            runtime,
            stores,
            judge,
            RowMender(stores, pending, judge.restore),
            scrub_log,
            throttle,
            metrics,
            ScrubPlan(config.scrub_cycle_s, config.scrub_rate_mib * MIB),
            HolderComparer(
                runtime,
                log.cluster_map,
                stores,
                peers,
                adopter,
                taker.enter_missed,
                queue,
                metrics,
                me,
            ),
            self.is_restoring,
        )
        self.quarantine = Quarantine(
            runtime,
            stores,
            scrub_log,
            log,
            peers,
            metrics,
            me,
            config.quarantine_s,
            self.is_restoring,
        )
        self._restorer = (
            None
            if restoring is None
            else Restorer(runtime, log, filler, restoring, require_fresh, metrics, me)
        )
        metrics.set("scrub_progress", lambda: self.scrubber.status().done)
        metrics.set("scrub_superfluous_shards", lambda: self.scrubber.comparer.last_superfluous)
        metrics.set("scrub_oldest_unverified_seconds", self.scrubber.oldest_seconds)
        metrics.set("scrub_cycle_seconds", config.scrub_cycle_s)
        metrics.set("disk_reserve_bytes", reserve_bytes)
        for state in STATES:
            metrics.set("disk_state", partial(self._is_in, state), state=state)

    @property
    def workers(self) -> list[Worker]:
        """What is to run."""
        found: list[Worker] = [self.scrubber, self.quarantine]
        if self._restorer is not None:
            found.append(self._restorer)
        return found

    def is_restoring(self) -> bool:
        """Whether the absence of a row on this node means nothing."""
        return self._restoring is not None and self._restoring.active

    def is_mute(self) -> bool:
        """Whether this node cannot tell others what it has."""
        return self._restoring is not None and self._restoring.is_mute

    def state(self) -> str:
        """What the disk is fit for, in one word."""
        if self._health is None:
            return "ok"
        return self._health.look(self._stores.shards.usage().free_bytes, self._reserve)

    def _is_in(self, state: str) -> float:
        return float(self.state() == state)

    def warnings(self) -> list[str]:
        """What an operator should know."""
        found = [STATES[self.state()]]
        if self._restorer is not None:
            found += self._restorer.warnings()
        return [text for text in (*found, *self.scrubber.warnings()) if text]

    # -- what operators ask

    async def scrub(self, now: bool) -> admin_pb2.ScrubResponse:
        """The state of the scrub and the quarantine; ``now`` begins a cycle at once."""
        if now:
            self.scrubber.hurry()
        status = await self._runtime.disk(self.scrubber.status)
        kept = await self.quarantine.listed()
        rows = await self._runtime.disk(put_away_count, self._stores.rows)
        cursor, found = status.cursor, self.scrubber.comparer.found
        return admin_pb2.ScrubResponse(
            cycle=cursor.cycle,
            started_ms=cursor.started_ms,
            stage=status.stage,
            progress_permille=int(status.done * 1000),
            resting=status.resting,
            rate_bytes=int(status.rate),
            shards=cursor.shards,
            read_bytes=cursor.read_bytes,
            rows=cursor.rows,
            damaged=cursor.damaged,
            oldest_verified_ms=status.oldest_ms,
            quarantined=[
                admin_pb2.QuarantinedShard(
                    name=each.shard.name,
                    size=each.shard.size,
                    profile=each.note.profile,
                    reason=each.note.reason,
                    at_ms=each.note.at_ms,
                )
                for each in kept
            ],
            rows_put_away=rows,
            disk_state=self.state(),
            restoring=self.is_restoring(),
            warnings=self.warnings(),
            disagreements=found.disagreements,
            undecided=found.undecided,
            superfluous=found.superfluous,
        )

    async def collect(self, dry_run: bool) -> admin_pb2.CollectResponse:
        """What a collection would delete, and why, or has deleted."""
        planned: list[Planned] = await self._runtime.disk(self._collector.plan)
        planned += await self.quarantine.collect(dry_run=dry_run)
        if not dry_run:
            for _ in range(COLLECT_UNITS_MAX):
                if not await self._collector.unit():
                    break
        return admin_pb2.CollectResponse(items=_items(planned), restoring=self.is_restoring())


def _items(planned: Sequence[Planned]) -> list[admin_pb2.CollectItem]:
    return [
        admin_pb2.CollectItem(
            what=each.what, name=each.name, size=each.size, deleted=each.deleted, why=each.why
        )
        for each in planned
    ]
