"""Delete the shards of layouts that are not in force any more.

A base that was re-profiled leaves its old shards behind, and with the new layout a mark at
each node that has some.  They are deleted here only when a grace period has passed (readers
that began under the old layout may still ask for more), *all* holders of the layout in
force say, at this moment, that they have their shards, and those of data have the bytes of
the old data shards here (:mod:`hcefs.upkeep.witness`).

Invariants: names go first, so that a shard is invisible before it is gone; the mark goes
last, so that a stop in between is repeated; what is staged or placed for a layout that is
still to come is not touched; the rows of a base stay while it has any other shard here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.erasure.scheme import PROFILES
from hcefs.errors import HcefsError, NotFound, Unavailable
from hcefs.ids import AccountId, BlobBase
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.runtime import Runtime
from hcefs.store.interface import FORM_FIRST, KeyTable, Stores, Table
from hcefs.stripes.base_rows import keys_of_base, rows_of_base
from hcefs.stripes.exports import has_shard
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import (
    REPLACED,
    decoded_layout,
    form_of,
    replaced_in,
    shard_key,
    shards_of,
    staged_key,
)
from hcefs.stripes.relayout import settled_seats
from hcefs.stripes.transfers import whole
from hcefs.transport.upkeep import Place, ShardName, UpkeepPeers
from hcefs.upkeep.rebalance import MapView
from hcefs.upkeep.witness import DISPUTED_SECONDS, Witness
from hcefs.upkeep.worker import Progress

BASES_A_UNIT = 100
PACK_ROWS_MAX = 2000
IDLE_SECONDS_MAX = 60.0

INDEXES = max(profile.n for profile in PROFILES.values())

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Asked:
    """One base of a unit: the layout that is in force here, and where its shards are to be."""

    base: BlobBase
    version: int
    place: Place
    holders: tuple[tuple[Node, int], ...]


class ReplacedSweeper:
    """Deletes what re-profiling left behind on this node."""

    name = "replaced"

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
        witness: Witness,
    ) -> None:
        self._witness = witness
        self._runtime = runtime
        self._view = view
        self._stores = stores
        self._peers = peers
        self._pending = pending
        self._metrics = metrics
        self._me = me
        self._grace = grace_seconds
        self.idle_seconds = min(IDLE_SECONDS_MAX, max(0.5, grace_seconds / 4))
        self._after: bytes | None = None
        self._left = 0
        self._since: dict[BlobBase, float] = {}
        """When a base was first seen as replaced: the grace period begins."""

    async def work(self) -> Progress:
        """Look at some of the marked bases."""
        current = self._view.cluster_map()
        if current is None or current.node_of_account(self._me) is None:
            return Progress.IDLE
        page = await self._runtime.disk(replaced_in, self._stores.rows, self._after)
        some = page[:BASES_A_UNIT]
        if not some:
            self._metrics.set("replaced_bases", self._left)
            self._after, self._left = None, 0
            return Progress.IDLE
        self._after = bytes(some[-1])
        now = self._runtime.monotonic()
        due = [base for base in some if now - self._since.setdefault(base, now) >= self._grace]
        self._left += len(some) - len(due)
        asked = [each for base in due if (each := await self._asked(current, base)) is not None]
        whole_ones = await self._complete(asked)
        self._left += len(due) - len(whole_ones)
        for each in whole_ones:
            if not await self._is_confirmed(each):
                self._left += 1
                continue
            deleted = await whole(self._runtime, lambda each=each: self._delete(each))  # type: ignore[misc]
            self._since.pop(each.base, None)
            self._metrics.count("replaced_shards_total", deleted)
        return Progress.BUSY

    async def _asked(self, current: ClusterMap, base: BlobBase) -> _Asked | None:
        """Who must have shards of a base before those of its old layouts may go."""
        data = await self._runtime.disk(self._stores.rows.get, Table.LAYOUTS, bytes(base))
        if data is None:
            # Everything of the base has gone otherwise, or was about to be.
            await whole(self._runtime, lambda: self._finish(base))
            self._since.pop(base, None)
            return None
        layout = decoded_layout(data)
        try:
            held = settled_seats(current, layout.profile, base)
        except (NotFound, Unavailable):
            return None
        place = Place.of_base(current, layout.profile, base)
        return _Asked(base, layout.version, place, tuple((s.node, s.index) for s in held))

    async def _complete(self, asked: list[_Asked]) -> list[_Asked]:
        """Those of which all holders say that they have their shards."""
        groups: dict[tuple[int, Place], list[tuple[_Asked, int]]] = {}
        nodes: dict[int, Node] = {}
        for each in asked:
            for node, index in each.holders:
                nodes[node.node_id] = node
                groups.setdefault((node.node_id, each.place), []).append((each, index))
        lacking: set[BlobBase] = set()
        for (node_id, place), some in groups.items():
            held = await self._held(nodes[node_id], place, some)
            lacking |= {each.base for (each, _), there in zip(some, held, strict=True) if not there}
        return [each for each in asked if each.base not in lacking]

    async def _held(self, node: Node, place: Place, some: list[tuple[_Asked, int]]) -> list[bool]:
        names = [ShardName(each.base, index) for each, index in some]
        if node.account == self._me:
            return await self._runtime.disk(
                lambda: [has_shard(self._stores, n.base, n.index, place.profile) for n in names]
            )
        try:
            return await self._peers.upkeep_peer(node).has_shards(place, names)
        except HcefsError as error:
            log.info("node %d does not say what it has: %s", node.node_id, error.reason)
            return [False] * len(names)

    async def _is_confirmed(self, asked: _Asked) -> bool:
        """Whether the new shards have the bytes of the old data shards that are here."""
        here = await self._runtime.disk(shards_of, self._stores.rows, asked.base)
        for shard in here:
            if shard.profile == asked.place.profile:
                continue
            try:
                agrees = await self._witness.agrees(shard, asked.place, asked.holders)
            except HcefsError as error:
                log.info("%s cannot be compared now: %s", asked.base, error.reason)
                return False
            if not agrees:
                self._since[asked.base] = self._runtime.monotonic() + DISPUTED_SECONDS
                self._metrics.count("disputed_shards_total")
                log.error(
                    "shard %s index %d differs from the layout in force under %s: it stays",
                    shard.base, shard.index, asked.place.profile,
                )  # fmt: skip
                return False
        return True

    def _delete(self, asked: _Asked) -> int:
        """Delete the shards of other layouts; how many."""
        stores, base = self._stores, asked.base
        with self._pending.locked([bytes(base)]):
            data = stores.rows.get(Table.LAYOUTS, bytes(base))
            layout = decoded_layout(data) if data is not None else None
            if layout is None or layout.version != asked.version:
                return 0  # another one has entered meanwhile: for the next pass
            here = shards_of(stores.rows, base)
            old = [
                each
                for each in here
                if each.form != form_of(layout)
                and (
                    not each.form
                    or stores.rows.get(Table.STAGED, staged_key(base, each.form)) is None
                )
            ]
            rows = [(Table.PLACED, shard_key(base, each.index, each.form)) for each in old]
            keys: list[tuple[KeyTable, bytes]] = []
            if len(old) == len(here):
                rows += rows_of_base(self._stores, base)
                keys = keys_of_base(self._stores, base)
            stores.rows.delete(rows)
            crash_point(CrashPoint.REPLACED_NAMES)
            if keys:
                stores.keys.delete(keys)
            self._end(base)
            return len(old)

    def _finish(self, base: BlobBase) -> None:
        """Go on where a stop may have left a base whose rows are gone."""
        with self._pending.locked([bytes(base)]):
            if self._stores.rows.get(Table.LAYOUTS, bytes(base)) is None:
                if not shards_of(self._stores.rows, base) and (
                    keys := keys_of_base(self._stores, base)
                ):
                    self._stores.keys.delete(keys)
                self._end(base)

    def _end(self, base: BlobBase) -> None:
        """Delete the files that have no name any more, then the mark."""
        stores = self._stores
        named = {(each.index, each.form) for each in shards_of(stores.rows, base)}
        for form in (FORM_FIRST, *PROFILES):
            if form and stores.rows.get(Table.STAGED, staged_key(base, form)) is not None:
                continue
            for index in range(INDEXES if form == FORM_FIRST else PROFILES[form].n):
                if (index, form) not in named and stores.shards.has(base, index, form):
                    stores.shards.remove(base, index, form)
        crash_point(CrashPoint.REPLACED_SHARDS)
        stores.rows.delete([(Table.META, REPLACED + bytes(base))])
        crash_point(CrashPoint.REPLACED_MARK)
