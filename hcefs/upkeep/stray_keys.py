"""Reclaim key rows that nothing leads to: those of a copy that was killed and planned anew.

A copy writes keys before the rows that name its shard (:mod:`hcefs.stripes.adopt`).  Killed
in between, and with its seat given to another node by the next plan, it leaves keys behind
that no shard, no seat and no pending row leads to, so neither the retirer nor the collector
comes upon them.  They are sealed, but a deletable row must not outlive its blob.

Copy before delete, as in :mod:`.retire`: keys of a base go only when no shard of it is here,
no map row that it may lie in names this node as seat, destination, source or stand-in, a
grace period has passed since that was first seen, and so many seats that an acknowledgement
would count them say at that moment that they have it.

Invariants: whoever stores here under the base's lock meanwhile is seen; one page of keys at
a time; nothing is done while rows are being restored, because then absence means nothing.

Not guaranteed: keys of bases that no seat has any more either (their deletion is that of
whoever deletes the blob); keys on a node that stands in for the row, as every node does in
a small cluster: they stay until the map names it no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hcefs.errors import HcefsError
from hcefs.ids import AccountId, BlobBase
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import seats
from hcefs.placement.stand_ins import stand_ins
from hcefs.runtime import Runtime
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import shards_of
from hcefs.stripes.transfers import whole
from hcefs.transport.upkeep import Place, ShardName, UpkeepPeers
from hcefs.upkeep.rebalance import MapView
from hcefs.upkeep.worker import Progress

TABLES = (KeyTable.KEY_ROWS, KeyTable.PACK_ENVELOPES)
"""Both begin with the base."""

PAGE_KEYS = 512
PACK_KEYS_MAX = 2000
"""More than a pack has."""

STRAYS_MAX = 4096
"""Bases that are watched at one time; others wait for a later sweep."""

IDLE_SECONDS_MAX = 60.0

log = logging.getLogger(__name__)


@dataclass
class _Sweep:
    """One pass over all keys."""

    epoch: int
    table: int = 0
    after: bytes | None = None


class StrayKeys:
    """Deletes keys on one node that nothing leads to."""

    name = "stray-keys"

    def __init__(
        self,
        runtime: Runtime,
        view: MapView,
        stores: Stores,
        peers: UpkeepPeers,
        pending: PendingNames,
        metrics: Metrics,
        me: AccountId,
        grace_seconds: float,
        suspended: Callable[[], bool] = lambda: False,
    ) -> None:
        """``suspended``: the absence of a row means nothing now."""
        self._runtime = runtime
        self._view = view
        self._stores = stores
        self._peers = peers
        self._pending = pending
        self._metrics = metrics
        self._me = me
        self._grace = grace_seconds
        self._suspended = suspended
        self.idle_seconds = min(IDLE_SECONDS_MAX, max(0.5, grace_seconds / 4))
        self._sweep: _Sweep | None = None
        self._swept = 0
        self._since: dict[BlobBase, float] = {}
        """When the keys of a base were first seen as stray: its grace period begins."""

    async def work(self) -> Progress:
        """One page of keys, or the strays whose grace period is over."""
        current = self._view.cluster_map()
        if current is None or self._suspended() or current.node_of_account(self._me) is None:
            return Progress.IDLE
        if self._sweep is None and self._swept == current.epoch:
            return await self._settle(current)
        if self._sweep is None or self._sweep.epoch != current.epoch:
            self._sweep = _Sweep(current.epoch)
        await self._page(current, self._sweep)
        return Progress.BUSY

    async def _page(self, current: ClusterMap, sweep: _Sweep) -> None:
        found, last = await self._runtime.disk(self._strays, current, sweep)
        now = self._runtime.monotonic()
        for base in found:
            if base in self._since or len(self._since) < STRAYS_MAX:
                self._since.setdefault(base, now)
        sweep.after = last
        if last is None:
            sweep.table += 1
            if sweep.table == len(TABLES):
                self._sweep, self._swept = None, sweep.epoch

    def _strays(self, current: ClusterMap, sweep: _Sweep) -> tuple[list[BlobBase], bytes | None]:
        """The bases of a page to which nothing leads, and where the next page begins."""
        page = self._stores.keys.inspect(TABLES[sweep.table], sweep.after, PAGE_KEYS)
        bases = dict.fromkeys(BlobBase(key[: BlobBase.SIZE]) for key, _ in page.rows)
        # What cannot be read is the scrub's; the rest of a broken table waits for it.
        last = None if page.broken else page.last
        return [base for base in bases if self._is_stray(current, base)], last

    def _is_stray(self, current: ClusterMap, base: BlobBase) -> bool:
        rows = self._stores.rows
        return (
            not shards_of(rows, base)
            and rows.get(Table.LAYOUTS, bytes(base)) is None
            and not self._may_belong_here(current, base)
        )

    def _may_belong_here(self, current: ClusterMap, base: BlobBase) -> bool:
        """Whether the map names this node in any row that the base may lie in."""
        for table in current.tables:
            for seat in seats(current, table.profile, base):
                source = seat.source.account if seat.source is not None else None
                if self._me in (seat.node.account, source):
                    return True
            others = stand_ins(current, table.profile, base)
            if any(node.account == self._me for node in others):
                return True
        return False

    # -- deleting

    async def _settle(self, current: ClusterMap) -> Progress:
        """Delete the strays that are due and that their seats have."""
        now = self._runtime.monotonic()
        due = [base for base, since in self._since.items() if now - since >= self._grace]
        gone = [base for base in due if await self._have_it(current, base)]
        if gone and self._is_in_force(current):
            deleted = await whole(self._runtime, partial(self._delete, current, gone))
            if deleted:
                self._metrics.count("reclaimed_keys_total", deleted)
                log.info("deleted %d keys that nothing led to", deleted)
        for base in gone:
            del self._since[base]
        return Progress.IDLE

    async def _have_it(self, current: ClusterMap, base: BlobBase) -> bool:
        """Whether so many seats have shards of a base as an acknowledgement needs."""
        for table in current.tables:
            place = Place.of_base(current, table.profile, base)
            have = 0
            for seat in seats(current, table.profile, base):
                shard = ShardName(base, seat.index)
                try:
                    have += sum(await self._peers.upkeep_peer(seat.node).has_shards(place, [shard]))
                except HcefsError as error:
                    log.debug("node %d does not say: %s", seat.node.node_id, error.reason)
            if have >= min(table.k + 1, table.n):
                return True
        return False

    def _is_in_force(self, asked: ClusterMap) -> bool:
        current = self._view.cluster_map()
        return current is not None and current.epoch == asked.epoch

    def _delete(self, current: ClusterMap, bases: Sequence[BlobBase]) -> int:
        with self._pending.locked(bytes(base) for base in bases):
            keys = [
                (table, key)
                for base in bases
                if self._is_stray(current, base)
                for table in TABLES
                for key, _ in self._stores.keys.scan(table, bytes(base), limit=PACK_KEYS_MAX)
            ]
            if keys:
                self._stores.keys.delete(keys)
        return len(keys)
