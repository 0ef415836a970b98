"""Make whole what lies below n: look over this node's own seats, and fetch what they lack.

A put that was acknowledged while a holder was away has fewer than n shards; a node that
comes back lacks what was put meanwhile.  Both are found here without anybody's help: the
node goes round its seats, asks the other holders of each row what there is, and copies
or rebuilds what it has not (:mod:`hcefs.upkeep.fill`), at a pace that nobody feels.

Invariant: whatever is committed, and of which k intact shards are within reach when its
row is looked over, has its shard at this node's seat afterwards.

Not guaranteed: an order by urgency, and that shards on the disk are intact (scrub).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from hcefs.errors import HcefsError
from hcefs.ids import AccountId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.waves import REBUILD, SeatName, in_flight
from hcefs.runtime import Runtime
from hcefs.upkeep.fill import SeatFiller
from hcefs.upkeep.rebalance import MapView
from hcefs.upkeep.worker import Progress

PAUSE_SECONDS_MAX = 0.25
"""Between two rows, so that a round costs little at any moment."""

PAUSES = 10_000
"""So many pauses make a rest between two rounds, where that is short."""

BUSY_PAUSES = 40
"""So many pauses are one while clients are served: ten seconds at most."""

FIRST_SECONDS = 60.0
"""After the start: first the replica and the connections."""

log = logging.getLogger(__name__)


class Repairer:
    """Goes round this node's seats."""

    name = "repair"

    def __init__(
        self,
        runtime: Runtime,
        view: MapView,
        filler: SeatFiller,
        metrics: Metrics,
        me: AccountId,
        round_seconds: float,
        is_busy: Callable[[], bool],
    ) -> None:
        """``round_seconds`` is the rest between two rounds; ``is_busy``: clients are served."""
        self._is_busy = is_busy
        self._runtime = runtime
        self._view = view
        self._filler = filler
        self._metrics = metrics
        self._me = me
        self.idle_seconds = min(FIRST_SECONDS, round_seconds)
        self._round = round_seconds
        self._pause = min(PAUSE_SECONDS_MAX, round_seconds / PAUSES)
        self._begins = runtime.monotonic() + self.idle_seconds
        self._left: Iterator[SeatName] | None = None
        self._waiting = 0

    async def work(self) -> Progress:
        """Look over one row."""
        current = self._view.cluster_map()
        if current is None or self._runtime.monotonic() < self._begins:
            return Progress.IDLE
        if self._left is None:
            self._left, self._waiting = iter(own_seats(current, self._me)), 0
        name = next(self._left, None)
        if name is None:
            self._left = None
            self._begins = self._runtime.monotonic() + self._round
            self._metrics.set("repair_waiting_rows", self._waiting)
            return Progress.IDLE
        await self._look(current, name)
        for _ in range(BUSY_PAUSES):
            await self._runtime.sleep(self._pause)
            if not self._is_busy():
                break
        return Progress.BUSY

    async def _look(self, current: ClusterMap, name: SeatName) -> None:
        row = current.table(name.profile).node_rows
        node = current.node_of_account(self._me)
        if (
            node is None
            or name.partition >= len(row)
            or row[name.partition][name.seat] != node.node_id
            or name in in_flight(current)
        ):
            return  # the map has changed since the round began
        try:
            filled = await self._filler.fill(current, name, REBUILD, lambda _: True)
        except HcefsError as error:
            self._waiting += 1
            log.debug("partition %d of %s waits: %s", name.partition, name.profile, error.reason)
            return
        if filled.copied or filled.rebuilt or filled.lost:
            log.info(
                "partition %d of %s: %d shards brought here, %d beyond repair",
                name.partition, name.profile, filled.copied + filled.rebuilt, filled.lost,
            )  # fmt: skip


def own_seats(current: ClusterMap, me: AccountId) -> list[SeatName]:
    """The settled seats of a node."""
    node = current.node_of_account(me)
    if node is None:
        return []
    moving = in_flight(current)
    found = []
    for table in current.tables:
        for partition, row in enumerate(table.node_rows):
            if node.node_id in row:
                name = SeatName(table.profile, partition, row.index(node.node_id))
                if name not in moving:
                    found.append(name)
    return found
