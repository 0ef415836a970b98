"""What was set aside, and when it may go: first a plan that says why, then the deletion.

A damaged shard may hold the only intact pieces that are left, so time alone deletes
nothing.  After its time in quarantine a shard goes when this node has it whole again, or
when at least k other seats say that they have theirs, or when every other seat answers
that it has nothing of the base and no rows lead to it here either: then nobody was ever
told that it is stored, or it was deleted.  Otherwise it stays.

Invariants: the plan and the deletion decide by the same function; whoever does not answer
counts as one who knows nothing, never as one who has nothing; a node whose rows are being
restored deletes nothing.

Not guaranteed: that what others say they have is intact (their scrub's business): a shard
is kept through the quarantine's time for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.erasure.scheme import profile_named
from hcefs.errors import HcefsError
from hcefs.ids import AccountId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import seats
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores, Table
from hcefs.stripes.exports import has_shard
from hcefs.stripes.placed import shards_of
from hcefs.stripes.transfers import whole
from hcefs.transport.upkeep import Place, ShardName, UpkeepPeers
from hcefs.upkeep.rebalance import MapView
from hcefs.upkeep.scrub_state import Quarantined, ScrubLog
from hcefs.upkeep.worker import Progress

IDLE_SECONDS = 600.0
LISTED_MAX = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """One thing that a collection looked at: what it is, and whether it would be deleted."""

    what: str
    name: str
    size: int
    deleted: bool
    why: str


class Quarantine:
    """Lists what is set aside on a node, and deletes what need not be kept."""

    name = "quarantine"
    idle_seconds = IDLE_SECONDS

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        scrub_log: ScrubLog,
        view: MapView,
        peers: UpkeepPeers,
        metrics: Metrics,
        me: AccountId,
        keep_seconds: float,
        suspended: Callable[[], bool] = lambda: False,
    ) -> None:
        """``suspended``: not now, because rows are still being restored."""
        self._runtime = runtime
        self._stores = stores
        self._log = scrub_log
        self._view = view
        self._peers = peers
        self._metrics = metrics
        self._me = me
        self._keep = keep_seconds
        self._suspended = suspended

    async def work(self) -> Progress:
        """Look over the whole quarantine; it is short, or the disk is dying."""
        await self.collect(dry_run=False)
        return Progress.IDLE

    async def listed(self) -> list[Quarantined]:
        """What is set aside, up to ``LISTED_MAX``."""

        def job() -> list[Quarantined]:
            found: list[Quarantined] = []
            for each in self._log.quarantined(self._stores.shards.quarantined()):
                found.append(each)
                if len(found) == LISTED_MAX:
                    break
            return found

        found = await self._runtime.disk(job)
        self._metrics.set("quarantined_shards", len(found))
        return found

    async def collect(self, *, dry_run: bool) -> list[Planned]:
        """Delete what may go, or only say what that is; everything that was looked at."""
        planned: list[Planned] = []
        for each in await self.listed():
            may_go, why = await self._verdict(each)
            if may_go and not dry_run:
                await whole(self._runtime, lambda each=each: self._delete(each))  # type: ignore[misc]
                log.info("deleted %s from quarantine: %s", each.shard.name, why)
            planned.append(
                Planned("quarantined-shard", each.shard.name, each.shard.size, may_go, why)
            )
        if not dry_run:
            await self.listed()
        return planned

    def _delete(self, each: Quarantined) -> None:
        same = (each.shard.base, each.shard.index, each.shard.form)
        left = self._stores.shards.quarantined()
        if all(
            (other.base, other.index, other.form) != same or other.name == each.shard.name
            for other in left
        ):
            # The note first: a note that outlives its file would let the next file of this
            # shard go before its time, and a file without a note is kept for all of it.
            self._log.forget(each.shard)
        crash_point(CrashPoint.QUARANTINE_FORGOTTEN)
        self._stores.shards.discard(each.shard.name)
        crash_point(CrashPoint.QUARANTINE_DISCARDED)

    async def _verdict(self, each: Quarantined) -> tuple[bool, str]:
        """Whether a shard may be deleted, and why or why not."""
        if self._suspended():
            return False, "rows are being restored on this node"
        age = (self._runtime.now_ms() - each.note.at_ms) / 1000
        if age < self._keep:
            return False, f"kept for {self._keep - age:.0f} s more"
        shard, profile = each.shard, each.note.profile
        current = self._view.cluster_map()
        if current is None or all(table.profile != profile for table in current.tables):
            return False, "its seats are not known"
        if await self._runtime.disk(has_shard, self._stores, shard.base, shard.index, profile):
            return True, "this node has it whole again"
        have, silent = await self._elsewhere(current, each)
        k = profile_named(profile).k
        if have >= k:
            return True, f"{have} other seats have theirs"
        if have or silent:
            return False, f"only {have} other seats say that they have theirs, {k} are needed"
        if await self._runtime.disk(self._is_known, each):
            return False, "rows here name it, and nobody else has it"
        return True, "nobody knows it: it was never acknowledged, or was deleted"

    def _is_known(self, each: Quarantined) -> bool:
        base = each.shard.base
        return bool(
            self._stores.rows.get(Table.LAYOUTS, bytes(base)) is not None
            or shards_of(self._stores.rows, base)
            or self._stores.rows.scan(Table.OPENINGS, bytes(base), limit=1)
        )

    async def _elsewhere(self, current: ClusterMap, each: Quarantined) -> tuple[int, int]:
        """How many other seats have theirs, and how many do not say."""
        base, profile = each.shard.base, each.note.profile
        place = Place.of_base(current, profile, base)
        have = silent = 0
        for seat in seats(current, profile, bytes(base)):
            if seat.node.account == self._me:
                continue
            try:
                (held,) = await self._peers.upkeep_peer(seat.node).has_shards(
                    place, [ShardName(base, seat.index)]
                )
            except (HcefsError, ValueError):
                silent += 1
                continue
            have += held
        return have, silent
