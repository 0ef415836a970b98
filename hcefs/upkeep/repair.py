"""Make whole what lies below n: fetch what this node's own seats lack, the most endangered first.

A put that was acknowledged while a holder was away has fewer than n shards; a node that
comes back lacks what was put meanwhile; a disk damages what it keeps.  Repair is pull:
each node brings back what its own seats lack, without anybody's help.  It works in two
phases.  A pass takes stock (:mod:`.stocktaking`): lists only, of all its rows.  What it
finds, and what scrub and readers find between two passes, waits in one durable queue
(:mod:`.damage`), and the queue is worked off by margin, then by age.

Invariants: whatever is committed, and of which k intact shards are within reach when its
turn comes, has its shard at this node's seat afterwards.  While a pass goes on only what
is at the brink (k live shards) is rebuilt, because nothing can come before that, and what
somebody waits for: a reader that met it, or a blob whose append has just come.  A blob
that cannot be rebuilt is put off, alone, and named.  What is said to be damaged here is
read first, and set aside only if it is.

Not guaranteed: that the margin of an entry is of this moment: holders may have gone, or
come back, since it was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.erasure.scheme import PROFILES, profile_named
from hcefs.errors import Exhausted, HcefsError, Unavailable
from hcefs.ids import AccountId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores
from hcefs.stripes.audit import Auditor, ShardState
from hcefs.stripes.checks import Replica
from hcefs.stripes.transfers import whole
from hcefs.transport.upkeep import Place, ShardName
from hcefs.upkeep.awaited import Awaited
from hcefs.upkeep.damage import NOT_COMMITTED, Damaged, DamagedName, DamageLog, margin_text
from hcefs.upkeep.fill import Outcome, SeatFiller
from hcefs.upkeep.pace import PaceMeter
from hcefs.upkeep.rebalance import MapView
from hcefs.upkeep.set_aside import SettingAside
from hcefs.upkeep.stock import Stock
from hcefs.upkeep.stocktaking import MISSING, Stocktaking, place_here
from hcefs.upkeep.survey import Lists
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.worker import Progress, at_once

PAUSE_SECONDS_MAX = 0.25
"""Between two rows, so that a pass costs little at any moment."""

PAUSES = 10_000
"""So many pauses make a rest between two passes, where that is short."""

BUSY_PAUSES = 40
"""So many pauses are one while clients are served: ten seconds at most."""

REST_SECONDS = 60.0
"""After a pass that did not find everything whole; twice as long after each further one."""

REST_ENDANGERED_SECONDS = 120.0
"""At most, after a pass that found a blob without a shard to spare: what operators are woken
by must not be old."""

REST_HURRIED_SECONDS = 1.0
PASSES_HURRIED = 5
"""After an operator's word, as long as not everything is whole."""

FIRST_SECONDS = 60.0
"""After the start: first the replica and the connections."""

ROWS_AT_ONCE = 8
"""Looked over by one question to each of their holders."""

ROWS_HURRIED = 64
"""The same when an operator waits."""

BATCH = 256
SHARDS_AT_ONCE = 8
GROUPS_AT_ONCE = 4
IDLE_SECONDS = 1.0

DISK_ERROR = "disk-error"
UNREADABLE_TRIES = 3
"""A shard that the disk refused so often, minutes apart, counts as damaged: a bad sector."""

NOT_NOW = frozenset({"other-epoch", "unsettled", "unknown-node"})
"""Reasons that are about the moment and not about the blob: nothing is counted against it."""

log = logging.getLogger(__name__)


class Repairer:
    """Repairs this node's seats."""

    name = "repair"

    def __init__(
        self,
        runtime: Runtime,
        view: MapView,
        stores: Stores,
        replica: Replica,
        filler: SeatFiller,
        auditor: Auditor,
        queue: DamageLog,
        aside: SettingAside,
        throttle: Throttle,
        metrics: Metrics,
        me: AccountId,
        require_fresh: Callable[[], None],
        round_seconds: float,
    ) -> None:
        """``round_seconds`` is the rest between two passes; ``require_fresh`` raises while this
        node's lease has run out."""
        self._runtime = runtime
        self._view = view
        self._stores = stores
        self._replica = replica
        self._filler = filler
        self._auditor = auditor
        self._queue = queue
        self._aside = aside
        self._throttle = throttle
        self._metrics = metrics
        self._me = me
        self.idle_seconds = min(IDLE_SECONDS, round_seconds)
        self._require_fresh = require_fresh
        self._round = round_seconds
        self._pause = min(PAUSE_SECONDS_MAX, round_seconds / PAUSES)
        self._begins = runtime.monotonic() + min(FIRST_SECONDS, round_seconds)
        self._rest = self._rest_first = min(REST_SECONDS, round_seconds)
        self._pass: Stocktaking | None = None
        self._hurried = 0
        """Passes that are still to be made without a pause."""

        self._awaited = Awaited(replica)
        self.meter = PaceMeter()
        self.last: Stock | None = None
        """What the last pass found that came to its end."""

        self.whole_ms = 0
        """When a pass last ended that found every blob of this node's rows with all shards."""

    # -- what operators ask

    def now(self) -> None:
        """Begin a pass at once and keep to the ceiling until it and its work are done."""
        self._begins = self._runtime.monotonic()
        self._hurried = PASSES_HURRIED
        self._rest = min(REST_HURRIED_SECONDS, self._rest_first)
        self._queue.hurry()
        self._throttle.hurry(True)

    @property
    def stock(self) -> Stock | None:
        """What the pass in progress has found so far."""
        return self._pass.stock if self._pass is not None else None

    def left_seconds(self) -> float | None:
        """How long what is in the queue will take at the pace of now; None: nobody knows."""
        return self.meter.left_seconds(self._runtime.monotonic(), self._queue.owed())

    def gauges(self) -> None:
        """Let the backlog be read whenever metrics are."""
        runtime, queue, metrics = self._runtime, self._queue, self._metrics

        def age(since_ms: int, never: float) -> float:
            return (runtime.now_ms() - since_ms) / 1000 if since_ms else never

        def left() -> float:
            seconds = self.left_seconds()
            return -1.0 if seconds is None else seconds

        for margin in (None, *self._margins()):
            name = margin_text(margin)
            metrics.set("repair_backlog", partial(_backlog, queue, name), margin=name)
        metrics.set("repair_oldest_seconds", lambda: age(queue.oldest_ms(), 0.0))
        metrics.set("repair_pace_bytes", lambda: self.meter.pace(runtime.monotonic()).bytes)
        metrics.set("repair_left_seconds", left)
        metrics.set("repair_whole_age_seconds", lambda: age(self.whole_ms, -1.0))

    @staticmethod
    def _margins() -> range:
        """From beyond recovery to all shards of the widest profile."""
        return range(-1, max(profile.m for profile in PROFILES.values()) + 1)

    # -- the job

    async def work(self) -> Progress:
        """Look over one row, or bring back one batch."""
        current = self._view.cluster_map()
        if current is None:
            return Progress.IDLE
        if self._awaited.is_news():
            self._queue.committed(await self._runtime.disk(self._awaited.come))
        unknown = self._queue.unassessed(BATCH)
        if unknown:
            await self._assess(current, unknown)
        due = self._pass is not None or self._runtime.monotonic() >= self._begins
        if due and self._may_look():
            await self._take_stock(current)
            brink = [entry for entry in self._queue.due(BATCH) if entry.margin == 0]
            # For what readers have met, and what a block has just brought, no pass is waited for.
            met = [entry for entry in self._queue.wanted(BATCH) if entry not in brink]
            if brink or met:
                await self._restore(current, [*brink, *met])
            return Progress.BUSY
        batch = [entry for entry in self._queue.due(BATCH) if entry.shard.live is not None]
        if batch and await self._restore(current, batch):
            return Progress.BUSY
        if not batch:
            self._throttle.hurry(bool(self._hurried))
        return Progress.IDLE

    def _may_look(self) -> bool:
        """Whether what this node hears of others is worth anything; an operator is obeyed.

        One whose lease has run out may be the one that is cut off, or the ledger is away and
        nobody may answer: what the last pass found stands until the lease is fresh again.
        """
        if self._hurried:
            return True
        try:
            self._require_fresh()
        except Unavailable:
            return False
        return True

    async def _take_stock(self, current: ClusterMap) -> None:
        if self._pass is None:
            self._pass = Stocktaking(
                self._runtime, self._stores, self._replica, self._filler, self._queue, self._me,
                current, self.last,
            )  # fmt: skip
        if await self._pass.step(current, ROWS_HURRIED if self._hurried else ROWS_AT_ONCE):
            for _ in range(0 if self._hurried else BUSY_PAUSES):
                await self._runtime.sleep(self._pause)
                if not self._throttle.is_busy:
                    break
            return
        stock, self._pass = self._pass.stock, None
        before, self.last = self.last, stock
        # Done is what a pass has seen whole, so that the one after a repair comes soon; and
        # what did not fit into the queue is looked for again.
        if stock.is_whole:
            self.whole_ms = stock.ended_ms
            rest, self._rest = self._round, self._rest_first
            self._hurried = 0
        else:
            # What looks endangered is looked at again soon: it may have been a restart.
            most = REST_ENDANGERED_SECONDS if stock.endangered else self._round
            rest = min(self._rest, most)
            self._rest = min(2 * self._rest, self._round)
            self._hurried = max(0, self._hurried - 1)
        self._begins = self._runtime.monotonic() + rest
        self._publish(before, stock)
        log.log(
            logging.INFO if stock.lacking or stock.waiting or stock.lost else logging.DEBUG,
            "stock of %d rows: %d blobs whole, %d degraded, %d lost, %d unreachable; %d shards "
            "are lacking here, %d rows wait",
            stock.rows, stock.full, stock.degraded, stock.lost, stock.unreachable, stock.lacking,
            stock.waiting,
        )  # fmt: skip

    def _publish(self, before: Stock | None, stock: Stock) -> None:
        gone = set(before.by_live) - set(stock.by_live) if before is not None else set()
        for profile, live in gone:
            self._metrics.set("blobs_by_live_shards", 0, profile=profile, n=str(live))
        margins = dict.fromkeys(map(margin_text, self._margins()), 0)
        for (profile, live), blobs in sorted(stock.by_live.items()):
            self._metrics.set("blobs_by_live_shards", blobs, profile=profile, n=str(live))
            margins[margin_text(live - profile_named(profile).k)] += blobs
        for name, blobs in margins.items():
            self._metrics.set("blobs_by_margin", blobs, margin=name)
        self._metrics.set("blobs_short", stock.degraded + stock.lost + stock.unreachable)
        self._metrics.set("repair_waiting_rows", stock.waiting)
        self._metrics.set("repair_pass_seconds", (stock.ended_ms - stock.began_ms) / 1000)

    # -- margins

    async def _assess(
        self, current: ClusterMap, entries: Iterable[Damaged]
    ) -> dict[DamagedName, tuple[Place, Lists]]:
        """Ask the holders of each entry's row what is alive; entries of no seat here go."""
        groups: dict[Place, list[DamagedName]] = {}
        foreign: list[DamagedName] = []
        for entry in entries:
            place = place_here(current, self._me, entry.name)
            if place is None:
                foreign.append(entry.name)
            else:
                groups.setdefault(place, []).append(entry.name)
        found: dict[DamagedName, tuple[Place, Lists]] = {}
        live: list[tuple[DamagedName, int]] = []
        waiting = iter(groups.items())

        async def some() -> None:
            for place, names in waiting:
                n = profile_named(place.profile).n
                bases = sorted({name.base for name in names})
                lists = await self._filler.surveyor.asked(current, place, n, bases)
                for name in names:
                    found[name] = place, lists
                    live.append((name, len(lists.live(name.base) - {name.index})))

        await at_once(self._runtime, GROUPS_AT_ONCE, some, "assess")
        if foreign:
            await self._runtime.disk(self._queue.settled, foreign)
        if live:
            await self._runtime.disk(self._queue.assessed, sorted(live))
        return found

    # -- restoring

    async def _restore(self, current: ClusterMap, batch: list[Damaged]) -> bool:
        """Bring back a batch, the most urgent first; False when there is nothing to be done now."""
        known = await self._assess(current, batch)
        news, stopped = self._queue.news, False
        renewed = [
            Damaged(name, shard) for name in known if (shard := self._queue.get(name)) is not None
        ]
        waiting = iter(sorted(renewed, key=lambda entry: entry.urgency))
        self.meter.begin(self._runtime.monotonic())

        async def some() -> None:
            nonlocal stopped
            for entry in waiting:
                # Something new may be more urgent than what is left of this batch.
                if stopped or self._queue.news != news:
                    return
                place, lists = known[entry.name]
                stopped = not await self._one(place, entry, lists)

        await at_once(self._runtime, SHARDS_AT_ONCE, some, "repair")
        return not stopped and bool(known)

    async def _one(self, place: Place, entry: Damaged, lists: Lists) -> bool:
        """Bring one shard back, or put it off; False when all others must wait as well."""
        name = entry.name
        try:
            if not await self._is_lacking(entry):
                await self._runtime.disk(self._queue.settled, [name])
                return True
            restored = await self._filler.restore(place, ShardName(name.base, name.index), lists)
        except HcefsError as error:
            if isinstance(error, Exhausted) or error.reason in NOT_NOW:
                log.info("repair waits: %s (%s)", error.message, error.reason)
                self._metrics.count("repair_failures_total", reason=error.reason)
                return False
            await self._put_off(name, error.reason)
            return True
        outcome, size = restored.outcome, restored.bytes
        if outcome is Outcome.LOST:
            await self._put_off(name, "too-few-shards")
        elif outcome is Outcome.PENDING:
            await self._put_off(name, NOT_COMMITTED)
            self._awaited.note(name, restored.awaits)
        else:
            crash_point(CrashPoint.REPAIR_RESTORED)
            await self._runtime.disk(self._queue.settled, [name])
            if size:
                self.meter.enter(self._runtime.monotonic(), size)
                self._metrics.count("repaired_shards_total")
                self._metrics.count("repaired_bytes_total", size)
        return True

    async def _put_off(self, name: DamagedName, reason: str) -> None:
        self._metrics.count("repair_failures_total", reason=reason)
        log.info("shard %s index %d is put off: %s", name.base, name.index, reason)
        await self._runtime.disk(self._queue.failed, name, reason)

    async def _is_lacking(self, entry: Damaged) -> bool:
        """Whether a shard must be brought; one that is damaged here is set aside first."""
        name = entry.name
        if not await self._filler.has(ShardName(name.base, name.index), name.profile):
            return True
        if entry.shard.reason == MISSING:
            return False
        audit = await self._auditor.look(name.base, name.index, name.profile)
        if audit.state is not ShardState.DAMAGED:
            return audit.state is ShardState.MISSING and audit.reason != "other-layout"
        if audit.reason == DISK_ERROR and entry.shard.attempts < UNREADABLE_TRIES:
            # The disk failed, and says nothing of the shard: to set it aside for that would
            # take an intact one away.
            raise Unavailable(
                "the disk does not give this shard at the moment: it is read again later",
                reason=DISK_ERROR,
            )
        log.error("shard %s index %d here is damaged: %s", name.base, name.index, audit.reason)
        self._metrics.count("corrupt_shards_total")
        # With whoever called cancelled, the note and the file still go together.
        await whole(self._runtime, lambda: self._aside.set_aside_under(*name.parts, audit.reason))
        return True


def _backlog(queue: DamageLog, margin: str) -> float:
    return queue.backlog().get(margin, 0)
