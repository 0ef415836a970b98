"""The facts of this node that others show on their console: taken every few seconds.

A worker takes them, so that neither a ping nor a page waits for a disk: both give what was
taken last, with its time.
"""

from __future__ import annotations

from collections.abc import Callable

from hcefs import __version__
from hcefs.console.pace import PlanPace
from hcefs.ledger.follower import Follower
from hcefs.ledger.log import LedgerLog
from hcefs.metrics import Metrics
from hcefs.node.disk_care import DiskCare
from hcefs.node.repairs import Repairs
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores
from hcefs.transport.node_facts import LISTED_MAX, LiveShards, NodeFacts
from hcefs.upkeep import watch
from hcefs.upkeep.worker import Progress

_PINGS = frozenset({"ping"})


class OwnFacts:
    """Takes this node's facts; ``latest`` is replaced whole, so any thread may read it."""

    name = "facts"

    def __init__(
        self,
        runtime: Runtime,
        log: LedgerLog,
        follower: Follower,
        stores: Stores,
        metrics: Metrics,
        care: DiskCare,
        repairs: Repairs,
        moving: Callable[[], int],
    ) -> None:
        """``moving`` tells how many seats of this node are being filled."""
        self._runtime = runtime
        self._log = log
        self._follower = follower
        self._stores = stores
        self._metrics = metrics
        self._care = care
        self._repairs = repairs
        self._moving = moving
        self._started_ms = runtime.now_ms()
        self._pace = PlanPace()
        self.idle_seconds = watch.ROUND_SECONDS
        self.latest: NodeFacts | None = None
        self.seconds_left: float | None = None

    async def work(self) -> Progress:
        """Take them once."""
        # As long as pings are apart: more often, nobody else would see it.
        self.idle_seconds = watch.ROUND_SECONDS
        self.seconds_left = self._pace.enter(
            self._log.cluster_map(), self._log.arrived(), self._runtime.monotonic()
        )
        usage = await self._runtime.disk(self._stores.shards.usage)
        disk = await self._runtime.disk(self._care.state)
        scrub = await self._runtime.disk(self._care.scrubber.status)
        log, repairer, queue = self._log, self._repairs.repairer, self._repairs.damage
        passing, last = repairer.stock, repairer.last
        by_live = last.by_live if last is not None else {}
        left = repairer.left_seconds()
        age, head = self._follower.lease_age_ms(), log.head
        self.latest = NodeFacts(
            taken_ms=self._runtime.now_ms(),
            version=__version__,
            started_ms=self._started_ms,
            height=log.height,
            lag_blocks=0 if head is None else max(0, head.height - log.height),
            lease_age_ms=-1 if age is None else max(0, age),
            disk_state=disk,
            free_bytes=usage.free_bytes,
            total_bytes=usage.total_bytes,
            shards=usage.shards,
            shard_bytes=usage.shard_bytes,
            quarantined=self._total("quarantined_shards"),
            live=tuple(
                LiveShards(profile, live, blobs)
                for (profile, live), blobs in sorted(by_live.items())[:LISTED_MAX]
            ),
            pass_ended_ms=last.ended_ms if last is not None else 0,
            pass_rows=passing.rows if passing is not None else 0,
            pass_seats=passing.seats if passing is not None else 0,
            backlog=tuple(sorted(queue.backlog().items())),
            repair_bytes_second=repairer.meter.pace(self._runtime.monotonic()).bytes,
            repair_left_seconds=-1.0 if left is None else left,
            repaired_shards=repairer.meter.shards,
            scrub_permille=int(scrub.done * 1000),
            scrub_resting=scrub.resting,
            scrub_damaged=scrub.cursor.damaged,
            scrub_oldest_ms=max(0, scrub.oldest_ms),
            moving_seats=self._moving(),
            stand_ins_waiting=self._total("stand_ins_waiting"),
            requests=sum(
                int(value)
                for (method, _), value in self._metrics.values("requests_total").items()
                if method not in _PINGS
            ),
            put_bytes=self._total("put_bytes_total"),
            get_bytes=self._total("get_bytes_total"),
            denials=self._denials(),
        )
        return Progress.IDLE

    def _total(self, name: str) -> int:
        return int(sum(self._metrics.values(name).values()))

    def _denials(self) -> tuple[tuple[str, int], ...]:
        found = self._metrics.values("denials_total").items()
        worst = sorted(((reason, int(n)) for (reason,), n in found), key=lambda row: -row[1])
        return tuple(worst[:LISTED_MAX])
