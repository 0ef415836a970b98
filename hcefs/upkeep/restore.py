"""Make a node whole whose database was lost: rows from its peers, shards from its own disk.

Row by row the other holders are asked what there is (:mod:`.fill`).  A shard file that lies
here is read through, compared with the rows that proved themselves against the ledger, and
adopted; only what is lost or damaged is copied or rebuilt.  A round that heard every holder
of every row ends the restoring; until then the absence of a row here means nothing, and
everybody who would conclude from it is told so (:class:`hcefs.store.recovery.Restoring`).

Invariants: key rows, boxes and openings come back only as the ledger still allows it, which
is the tombstone of what was deleted; the round begins when the replica has caught up, since
a replica that is behind would take what was deleted for what is still pending.

Not guaranteed: receipts, which nobody else has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import HcefsError
from hcefs.ids import AccountId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.waves import REBUILD, SeatName
from hcefs.runtime import Runtime
from hcefs.store.recovery import BACKUP, LEDGER
from hcefs.upkeep.fill import Filled
from hcefs.upkeep.rebalance import MapView
from hcefs.upkeep.stocktaking import own_seats
from hcefs.upkeep.worker import Progress

RESTORING = "restoring"
"""The reason with which a node that restores refuses to say what it has."""

log = logging.getLogger(__name__)


class Filler(Protocol):
    """Fills seats; see :class:`hcefs.upkeep.fill.SeatFiller`."""

    async def fill(
        self, current: ClusterMap, name: SeatName, source: int, fenced: Callable[[Node], bool]
    ) -> Filled:
        """See :meth:`hcefs.upkeep.fill.SeatFiller.fill`."""


class Mark(Protocol):
    """What was lost; see :class:`hcefs.store.recovery.Restoring`."""

    @property
    def names(self) -> frozenset[str]:
        """Names of what was lost."""

    def remove(self, *names: str) -> None:
        """Note durably that it is whole again."""


class Restorer:
    """Goes round this node's seats until nothing is lacking, once a database was lost."""

    name = "restore"
    idle_seconds = 1.0

    def __init__(
        self,
        runtime: Runtime,
        view: MapView,
        filler: Filler,
        mark: Mark,
        require_fresh: Callable[[], None],
        metrics: Metrics,
        me: AccountId,
    ) -> None:
        """``require_fresh`` raises while the replica has not caught up."""
        self._runtime = runtime
        self._view = view
        self._filler = filler
        self._mark = mark
        self._require_fresh = require_fresh
        self._metrics = metrics
        self._me = me
        self._left: list[SeatName] | None = None
        self._epoch = 0
        self._waiting: list[SeatName] = []
        self._rows = 0

    async def work(self) -> Progress:
        """Restore one row."""
        if not self._mark.names:
            self._metrics.set("restoring_rows", 0)
            return Progress.IDLE
        current = self._view.cluster_map()
        try:
            self._require_fresh()
        except HcefsError:
            return Progress.IDLE
        if current is None:
            return Progress.IDLE
        if self._mark.names <= {LEDGER}:
            await self._runtime.disk(lambda: self._mark.remove(LEDGER))  # it has caught up
            return Progress.IDLE
        if self._left is None or self._epoch != current.epoch:
            self._epoch, self._waiting = current.epoch, []
            self._left = own_seats(current, self._me)[::-1]
            self._rows = len(self._left)
            log.warning("restoring %d rows of this node", self._rows)
        if self._left:
            name = self._left.pop()
            if not await self._row(current, name):
                self._waiting.append(name)
            crash_point(CrashPoint.RESTORING_ROW)
            self._metrics.set("restoring_rows", len(self._left) + len(self._waiting))
            return Progress.BUSY
        if self._waiting:
            # Rows whose holders are away come again, after a rest.
            self._left, self._waiting = self._waiting[::-1], []
            return Progress.IDLE
        await self._runtime.disk(lambda: self._mark.remove(*self._mark.names))
        crash_point(CrashPoint.RESTORING_UNMARKED)
        self._left = None
        self._metrics.set("restoring_rows", 0)
        log.warning("this node is restored: %d rows", self._rows)
        return Progress.IDLE

    async def _row(self, current: ClusterMap, name: SeatName) -> bool:
        """Restore one row; whether every holder was heard."""
        try:
            await self._filler.fill(current, name, REBUILD, lambda _: False)
        except HcefsError as error:
            reason = error.reason
            if not error.retryable:
                log.error("partition %d of %s: %s", name.partition, name.profile, reason)
        else:
            return True
        try:
            # Without those who are away: what the others know is here the sooner.
            await self._filler.fill(current, name, REBUILD, lambda _: True)
        except HcefsError as error:
            log.info("partition %d of %s waits: %s", name.partition, name.profile, error.reason)
            return False
        # Two nodes that restore at once would wait for each other: what was acknowledged is
        # on k+1 nodes, so the k and more that answered know of it.
        return reason == RESTORING

    def warnings(self) -> list[str]:
        """What an operator should know."""
        if not self._mark.names:
            return []
        if BACKUP in self._mark.names and self._mark.names <= {BACKUP, LEDGER}:
            what = "this node began with rows of a backup"
        else:
            lost = ", ".join(sorted(self._mark.names))
            what = f"this node lost a database ({lost})"
        left = "" if self._left is None else f", {len(self._left) + len(self._waiting)} rows left"
        return [f"{what} and restores it from the others{left}"]
