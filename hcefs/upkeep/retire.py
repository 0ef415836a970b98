"""Delete what has moved away: shards and rows whose seat another node holds by now.

Copy before delete: a shard is deleted here only when the map gives its seat to another
node, a grace period has passed (readers with the map before may still come), and that
node says, at this moment, that it has it, or that it has compared it with a later layout which
took its place (:mod:`.superseded`).  So a shard that could not be rebuilt there
stays here, as a source for whoever repairs it, and is offered to its new holder; so a node
that comes back after it was given up finds out by itself what it need not keep, and what
nobody else has comes to where it belongs.  What is here in the place of a seat that was
away is :mod:`.stand_in`'s.

Invariants: rows go first, so that a shard is invisible before it is gone, and its name on
the ring last, so that what a stop leaves undone is found by the next pass; the rows of a
base stay while any other shard of it has its place here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import HcefsError
from hcefs.ids import AccountId, BlobBase, RecordId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import partition_of, seats
from hcefs.runtime import Runtime
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.stripes.base_rows import keys_of_base, rows_of_base
from hcefs.stripes.exports import record_rows, row_digest
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import (
    RING,
    PlacedShard,
    records_in,
    shard_key,
    shards_in,
    shards_of,
)
from hcefs.stripes.transfers import whole
from hcefs.transport.upkeep import Place, ShardName, UpkeepPeer, UpkeepPeers
from hcefs.upkeep.rebalance import MapView
from hcefs.upkeep.worker import Progress

PACK_ROWS_MAX = 2000
ROWS_ASKED = 4096
IDLE_SECONDS_MAX = 60.0

Moved = tuple[str, int, int]
"""A profile (empty: of records), the bits of its table, and a partition."""

log = logging.getLogger(__name__)


@dataclass
class _Sweep:
    """One pass over everything that has its place on the ring."""

    epoch: int
    shards_after: bytes | None = None
    records_after: bytes | None = None
    shards_done: bool = False
    found: int = 0
    moved: set[Moved] = field(default_factory=set)
    """The partitions that were seen as moved away."""


def _nothing(*_: BlobBase) -> None:
    return


class Retirer:
    """Deletes what this node need not keep any more."""

    name = "retire"

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
        forget: Callable[..., None] = _nothing,
    ) -> None:
        """``forget`` is told of the bases of which something was deleted here."""
        self._forget = forget
        self._runtime = runtime
        self._view = view
        self._stores = stores
        self._peers = peers
        self._pending = pending
        self._metrics = metrics
        self._me = me
        self._grace = grace_seconds
        self.idle_seconds = min(IDLE_SECONDS_MAX, max(0.5, grace_seconds / 4))
        self._sweep: _Sweep | None = None
        self._swept = 0
        self._kept = 0
        self._since: dict[Moved, float] = {}
        """When a partition was first seen as moved away: the grace period begins."""

    async def work(self) -> Progress:
        """One page of shards or of records."""
        current = self._view.cluster_map()
        if current is None or current.node_of_account(self._me) is None:
            return Progress.IDLE
        if self._sweep is None or self._sweep.epoch != current.epoch:
            if self._swept == current.epoch and not self._kept:
                return Progress.IDLE  # nothing of another node was here under this map
            self._sweep = _Sweep(current.epoch)
        sweep = self._sweep
        if not sweep.shards_done:
            await self._some_shards(current, sweep)
            return Progress.BUSY
        if await self._some_records(current, sweep):
            return Progress.BUSY
        self._sweep, self._swept, self._kept = None, current.epoch, sweep.found
        self._metrics.set("retiring_shards", sweep.found)
        # A partition that came back, and moves away again, has a grace period of its own.
        self._since = {key: at for key, at in self._since.items() if key in sweep.moved}
        return Progress.IDLE

    # -- shards

    async def _some_shards(self, current: ClusterMap, sweep: _Sweep) -> None:
        page = await self._runtime.disk(shards_in, self._stores.rows, RING, sweep.shards_after)
        if not page:
            sweep.shards_done = True
            return
        sweep.shards_after = page[-1][0]
        moved: dict[tuple[int, str, int], list[PlacedShard]] = {}
        marked = await self._runtime.disk(self._marked, [key for key, _ in page])
        for key, shard in page:
            owner = self._owner(current, shard)
            if owner is None or key in marked:
                continue
            bits = current.table(shard.profile).bits
            partition = partition_of(shard.base, bits)
            if not self._is_over(sweep, (shard.profile, bits, partition)):
                sweep.found += 1
                continue
            moved.setdefault((owner.node_id, shard.profile, partition), []).append(shard)
        for (owner_id, profile, partition), shards in moved.items():
            owner = current.node(owner_id)
            if owner is not None:
                place = Place(current.epoch, profile, partition)
                sweep.found += await self._retire(place, owner, shards)

    def _marked(self, keys: Sequence[bytes]) -> set[bytes]:
        """Which of these are kept here in the place of others, and somebody else's to settle
        (:mod:`.stand_in`)."""
        if not self._stores.rows.scan(Table.STAND_INS, limit=1):
            return set()
        found = self._stores.rows.get_many(Table.STAND_INS, keys)
        return {key for key, mark in zip(keys, found, strict=True) if mark is not None}

    def _owner(self, current: ClusterMap, shard: PlacedShard) -> Node | None:
        """The other node that is to hold a shard of this one; None where this one is."""
        if all(table.profile != shard.profile for table in current.tables):
            return None
        for seat in seats(current, shard.profile, shard.base):
            if seat.index == shard.index:
                mine = self._me in (
                    seat.node.account,
                    seat.source.account if seat.source is not None else None,
                )
                return None if mine else seat.node
        return None

    def _is_over(self, sweep: _Sweep, key: Moved) -> bool:
        """Whether the grace period has passed since a partition was first seen as moved."""
        sweep.moved.add(key)
        now = self._runtime.monotonic()
        return now - self._since.setdefault(key, now) >= self._grace

    async def _retire(self, place: Place, owner: Node, shards: Sequence[PlacedShard]) -> int:
        """Delete those shards that their new holder has; how many stay."""
        names = [ShardName(shard.base, shard.index) for shard in shards]
        try:
            # What it lacks it fetches: its seat may have been filled while this node was away.
            held = await self._peers.upkeep_peer(owner).offer(place, names, ())
        except HcefsError as error:
            log.info("node %d does not say what it has: %s", owner.node_id, error.reason)
            return len(shards)
        gone = [shard for shard, there in zip(shards, held, strict=True) if there]
        if gone and not self._is_in_force(place):
            return len(shards)
        if gone:
            job = partial(delete_shards, self._stores, self._pending, gone, self._forget)
            await whole(self._runtime, job)
            self._metrics.count("retired_shards_total", len(gone))
            log.info(
                "partition %d of %s: %d shards deleted, node %d has them",
                place.partition, place.profile, len(gone), owner.node_id,
            )  # fmt: skip
        return len(shards) - len(gone)

    def _is_in_force(self, place: Place) -> bool:
        """Whether the map that was asked by is still the one; a seat may come back."""
        current = self._view.cluster_map()
        return current is not None and current.epoch == place.epoch

    # -- records

    async def _some_records(self, current: ClusterMap, sweep: _Sweep) -> bool:
        """One page of records; whether there may be more."""
        page = await self._runtime.disk(records_in, self._stores.rows, RING, sweep.records_after)
        if not page:
            return False
        sweep.records_after = page[-1][0]
        bits = current.table(current.default_profile).bits
        marked = await self._runtime.disk(self._marked, [key for key, _ in page])
        for key, record in page:
            if key in marked:
                continue
            held = seats(current, current.default_profile, bytes(record))
            mine = {
                account
                for seat in held
                for account in (seat.node.account, seat.source.account if seat.source else None)
            }
            if self._me in mine:
                continue
            partition = partition_of(bytes(record), bits)
            if not self._is_over(sweep, ("", bits, partition)):
                has_rows = await self._runtime.disk(self._has_rows, record)
                sweep.found += has_rows
                continue
            place = Place(current.epoch, current.default_profile, partition)
            needed = min(current.table(current.default_profile).k + 1, len(held))
            if not await self._retire_record(place, record, [seat.node for seat in held], needed):
                sweep.found += 1
        return True

    async def _retire_record(
        self, place: Place, record: RecordId, holders: Sequence[Node], needed: int
    ) -> bool:
        """Delete those rows of a record that enough of its seats have; whether all are gone.

        What they do not have any more either, such as boxes of dead grants, the collector
        deletes here too.
        """
        rows = await self._runtime.disk(lambda: list(record_rows(self._stores, record)))
        copies = [0] * len(rows)
        for node in holders:
            try:
                held = await rows_held_by(self._peers.upkeep_peer(node), place, record, rows)
            except HcefsError as error:
                log.info("node %d does not say what it has: %s", node.node_id, error.reason)
                continue
            copies = [count + there for count, there in zip(copies, held, strict=True)]
        gone = [row for row, count in zip(rows, copies, strict=True) if count >= needed]
        if gone and not self._is_in_force(place):
            return False
        if gone:
            await whole(
                self._runtime, partial(delete_record_rows, self._stores, self._pending, gone)
            )
        return len(gone) == len(rows)

    def _has_rows(self, record: RecordId) -> bool:
        return next(record_rows(self._stores, record), None) is not None


def delete_shards(
    stores: Stores,
    pending: PendingNames,
    shards: Sequence[PlacedShard],
    forget: Callable[..., None],
) -> None:
    """Delete shards that are elsewhere, with their rows where no other shard needs those.

    For a worker thread.  An interrupted call is to be repeated.
    """
    names = [(Table.PLACED, shard_key(shard.base, shard.index, shard.form)) for shard in shards]
    rows: list[tuple[Table, bytes]] = []
    keys: list[tuple[KeyTable, bytes]] = []
    with pending.locked(bytes(shard.base) for shard in shards):
        for shard in shards:
            if not _is_elsewhere_here(stores, shard):
                rows += rows_of_base(stores, shard.base)
                keys += keys_of_base(stores, shard.base)
        if rows:
            stores.rows.delete(rows)
        crash_point(CrashPoint.RETIRE_ROWS)
        if keys:
            stores.keys.delete(keys)
        crash_point(CrashPoint.RETIRE_KEYS)
        for shard in shards:
            stores.shards.remove(shard.base, shard.index, shard.form)
        forget(*(shard.base for shard in shards))
        crash_point(CrashPoint.RETIRE_SHARDS)
        stores.rows.delete(names)
        crash_point(CrashPoint.RETIRE_NAMES)


def _is_elsewhere_here(stores: Stores, shard: PlacedShard) -> bool:
    """Whether another shard of the base is on this node."""
    found = shards_of(stores.rows, shard.base)
    return any((each.index, each.form) != (shard.index, shard.form) for each in found)


def delete_record_rows(
    stores: Stores, pending: PendingNames, gone: Sequence[tuple[bytes, bytes, bytes]]
) -> None:
    """Delete rows of a record that its seats have.  For a worker thread."""
    index = [(Table.INDEX, key) for kind, key, _ in gone if kind == b"i"]
    keys = [
        (KeyTable.BOXES if kind == b"b" else KeyTable.LINKS, key)
        for kind, key, _ in gone
        if kind != b"i"
    ]
    with pending.locked(key for _, key in index):
        # The record's name stays: a row that comes at this moment must not lose it.
        stores.rows.delete(index)
    crash_point(CrashPoint.RETIRE_INDEX)
    if keys:
        stores.keys.delete(keys)
        crash_point(CrashPoint.RETIRE_BOXES)


async def rows_held_by(
    peer: UpkeepPeer, place: Place, record: RecordId, rows: Sequence[tuple[bytes, bytes, bytes]]
) -> list[bool]:
    """Which rows of a record a node has, by its own word.

    Raises:
        HcefsError: it does not say.
    """
    held: list[bool] = []
    for start in range(0, len(rows), ROWS_ASKED):
        digests = [row_digest(*row) for row in rows[start : start + ROWS_ASKED]]
        held += await peer.has_rows(place, record, digests)
    return held
