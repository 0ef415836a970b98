"""Carry out the plan in force: fill the seats in flight that this node is to hold.

Each node works for itself: it takes the seats whose destination it is, the rows that
miss most shards first, fills them (:mod:`hcefs.upkeep.fill`) and reports them to the
ledger as arrived.  The state machine begins the next wave when all have; nobody has to
drive it, and a node that was killed goes on where its disk and the ledger say.

Invariant: a seat is reported only after everything that its partition holds, and that
can be had, is durable here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import HcefsError
from hcefs.ids import AccountId
from hcefs.ledger.cluster_facts import ArrivedSeat
from hcefs.ledger.transactions_map import SeatsArrived
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.successor import is_as_planned
from hcefs.placement.waves import SeatName, arriving_at, in_flight, is_planned
from hcefs.runtime import Runtime, is_cancelled
from hcefs.transport.upkeep import PARTITIONS_ASKED_MAX
from hcefs.upkeep.fill import SeatFiller
from hcefs.upkeep.survey import Survey
from hcefs.upkeep.worker import Progress, at_once

SEATS_AT_ONCE = 4
SEATS_A_ROUND = 32
"""Seats whose rows are listed together at first; a listing costs a call to every holder."""

SEATS_A_ROUND_MAX = PARTITIONS_ASKED_MAX
SHARDS_A_ROUND = 4096
"""While the rows of a round list no more than half of it, the next round is twice as long; when
they list more than it, half: lists are kept in memory until the round is over."""

REPORT_SECONDS = 2.0
"""Between two reports of one round: a report is a block for everybody."""

FENCE_MARGIN_SECONDS = 1.0
RETRY_SECONDS = 2.0
"""Before a seat that could not be filled is tried again."""

log = logging.getLogger(__name__)


class MapView(Protocol):
    """What the worker asks of the node's replica."""

    def cluster_map(self) -> ClusterMap | None:
        """The map in force."""

    def arrived(self) -> frozenset[SeatName]:
        """The seats in flight that have arrived."""


class Rebalancer:
    """Fills this node's seats in flight."""

    name = "rebalance"
    idle_seconds = 0.5
    """A look at the map in memory costs nothing, and a wave waits for its slowest node."""

    def __init__(
        self,
        runtime: Runtime,
        view: MapView,
        filler: SeatFiller,
        metrics: Metrics,
        me: AccountId,
        lease_seconds: float,
        report: Callable[[SeatsArrived], Awaitable[object]],
    ) -> None:
        """``lease_seconds`` is the lease with the permitted skew of clocks: after that, a
        node that has not heard of an epoch takes nothing any more."""
        self._runtime = runtime
        self._view = view
        self._filler = filler
        self._metrics = metrics
        self._me = me
        self._lease = lease_seconds
        self._report = report
        self._map: ClusterMap | None = None
        self._since = 0.0
        self._warning = ""
        self._tried: dict[SeatName, float] = {}
        self._seats_a_round = SEATS_A_ROUND

    def waiting(self) -> list[SeatName]:
        """This node's seats in flight that have not arrived, most urgent first."""
        current = self._view.cluster_map()
        if current is None:
            return []
        me = current.node_of_account(self._me)
        if me is None:
            return []
        here = arriving_at(current, me.node_id)
        if not here:
            return []
        arrived = self._view.arrived()
        return [name for name in here if name not in arrived]

    def warnings(self) -> list[str]:
        """What an operator should know."""
        return [self._warning] if self._warning else []

    async def _compare(self, before: ClusterMap | None, current: ClusterMap) -> None:
        """Compare a plan that has begun with the one that this node would have made.

        The ledger cannot: followers with another planner would part for ever.
        """
        if not is_planned(current):
            self._warning = ""
        elif (
            before is not None
            and before.epoch + 1 == current.epoch
            and not await self._runtime.compute(is_as_planned, before, current)
        ):
            self._warning = (
                f"OTHER PLAN: the plan that began with epoch {current.epoch} is not the one that "
                "this node finds: compare software versions, or who applied it"
            )
            log.warning("%s", self._warning)

    async def work(self) -> Progress:
        """Fill some seats and report them."""
        current = self._view.cluster_map()
        if current is None:
            return Progress.IDLE
        now = self._runtime.monotonic()
        before, self._map = self._map, current
        if before is None or current.epoch != before.epoch:
            self._since, self._tried = now, {}
            await self._compare(before, current)
        due = [name for name in self.waiting() if self._tried.get(name, 0.0) <= now]
        if not due:
            return Progress.IDLE
        chosen = due[: self._seats_a_round]
        arrived = await self._round(current, chosen)
        if arrived is None:
            return Progress.IDLE
        return Progress.BUSY if len(due) > len(chosen) or arrived else Progress.IDLE

    async def _round(self, current: ClusterMap, chosen: Sequence[SeatName]) -> int | None:
        """Fill some seats and report them; how many, or None when the ledger took no report."""
        sources = in_flight(current)
        surveys = await self._surveys(current, {name: sources[name] for name in chosen})
        self._seats_a_round = _next_round(self._seats_a_round, surveys.values())
        waiting = iter(chosen)
        filled: list[SeatName] = []
        reported, refused = 0, False
        last = self._runtime.monotonic()

        async def report() -> None:
            nonlocal reported, refused, last
            names, last = sorted(filled), self._runtime.monotonic()
            filled.clear()
            if names and await self._reported(current, names):
                reported += len(names)
            elif names:
                refused = True

        async def some() -> None:
            for name in waiting:
                if await self._fill(current, name, sources[name], surveys.get(name)):
                    filled.append(name)
                if refused:
                    return
                if self._runtime.monotonic() - last >= REPORT_SECONDS:
                    await report()

        await at_once(self._runtime, SEATS_AT_ONCE, some, "seat")
        await report()
        return None if refused else reported

    async def _reported(self, current: ClusterMap, names: Sequence[SeatName]) -> bool:
        """Tell the ledger that seats have arrived; False when it does not take it now."""
        crash_point(CrashPoint.SEAT_FILLED)
        try:
            seats = tuple(map(ArrivedSeat.of, names))
            await self._report(SeatsArrived(current.epoch, seats))
            crash_point(CrashPoint.SEAT_REPORTED)
        except HcefsError as error:
            # The ledger is away, or the epoch is over: a look at the map says which, soon.
            again = self._runtime.monotonic() + RETRY_SECONDS
            self._tried.update(dict.fromkeys(names, again))
            log.info("epoch %d: the ledger takes no report: %s", current.epoch, error.message)
            return False
        log.info("epoch %d: %d seats have arrived here", current.epoch, len(names))
        return True

    async def _surveys(
        self, current: ClusterMap, sources: Mapping[SeatName, int]
    ) -> dict[SeatName, Survey]:
        """What others have of some seats' rows; nothing of those that must be asked about alone.

        A put that is under way in one row, or a node that lies about it, holds up no other.
        """
        found: dict[SeatName, Survey] = {}
        for profile in sorted({name.profile for name in sources}):
            some = {name: (source,) for name, source in sources.items() if name.profile == profile}
            try:
                found |= await self._filler.surveyor.surveys(current, some, self._is_fenced)
            except HcefsError as error:
                log.debug("rows of %s are asked about one by one: %s", profile, error.reason)
        return found

    async def _fill(
        self, current: ClusterMap, name: SeatName, source: int, survey: Survey | None
    ) -> bool:
        try:
            filled = await self._filler.fill(current, name, source, self._is_fenced, survey)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            self._tried[name] = self._runtime.monotonic() + RETRY_SECONDS
            return False
        except HcefsError as error:
            self._tried[name] = self._runtime.monotonic() + RETRY_SECONDS
            # An epoch that is over ends all fills that were under way for it.
            log.log(
                logging.DEBUG if error.reason == "other-epoch" else logging.INFO,
                "epoch %d: seat %d of partition %d of %s waits: %s (%s)",
                current.epoch, name.seat, name.partition, name.profile, error.message, error.reason,
            )  # fmt: skip
            return False
        if filled.lost:
            log.error(
                "epoch %d: seat %d of partition %d of %s lacks %d shards that are lost",
                current.epoch, name.seat, name.partition, name.profile, filled.lost,
            )  # fmt: skip
        return True

    def _is_fenced(self, node: Node) -> bool:
        """Whether a node that does not answer can take nothing under an older epoch.

        It either knows the map that is known here, or its lease has run out by now.
        """
        return self._runtime.monotonic() - self._since > self._lease + FENCE_MARGIN_SECONDS


def _next_round(seats: int, surveys: Iterable[Survey]) -> int:
    """How many seats the next round takes, after one of ``seats`` with these lists."""
    listed = sum(len(survey.lists.held) for survey in surveys)
    if listed > SHARDS_A_ROUND:
        return max(1, seats // 2)
    if listed <= SHARDS_A_ROUND // 2:
        return min(seats * 2, SEATS_A_ROUND_MAX)
    return seats
