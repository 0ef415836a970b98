"""Bring home what this node keeps in the place of others, and delete it here after that.

Each mark (:mod:`hcefs.stripes.standing_in`) leads to what is not at home here.  Who has its
home now follows from the map in force, not from who was away when it was stored: seats move.
It is offered to its home, which fetches it, verifies it against the ledger, and says so when
it is asked again; only then is it deleted here.  What was re-profiled meanwhile its home compares
instead (:mod:`.superseded`).  Of a record's rows every seat must have all.

A home that is away is pinged, so what waits for it leaves within seconds of its return,
whatever there is: the marks are gone through only when somebody is there to take something.

Invariants: copy before delete; the mark goes last, so that a stop leaves nothing behind;
what has its home here by now, because this node got the seat, only loses its mark.

Source: docs/decisions/0021-stand-ins.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import HcefsError
from hcefs.ids import AccountId, BlobBase
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import Seat, partition_of, seats
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores, Table
from hcefs.stripes.exports import record_rows
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import PlacedShard
from hcefs.stripes.standing_in import Marked, marked_in, record_mark
from hcefs.stripes.transfers import whole
from hcefs.transport.upkeep import Place, Pulse, ShardName, UpkeepPeers
from hcefs.upkeep.rebalance import MapView
from hcefs.upkeep.retire import delete_record_rows, delete_shards, rows_held_by
from hcefs.upkeep.worker import Progress

PING_SECONDS = 2.0
"""Between two attempts to reach homes that are away, and how long one may take."""

SOON_SECONDS = 0.5
"""Until what was offered is asked for again."""

REST_SECONDS = 2.0
REST_SECONDS_MAX = 60.0
REST_FACTOR = 50.0
"""A pass over many marks is followed by a rest of so many times its length."""

log = logging.getLogger(__name__)

_Group = tuple[int, Place]
"""The home's node id, a profile and a partition."""


class _Pass:
    """One pass over all marks."""

    def __init__(self, epoch: int, started: float) -> None:
        self.epoch = epoch
        self.started = started
        self.after: bytes | None = None
        self.waiting = 0
        self.offered = 0
        self.away: set[int] = set()


class StandInKeeper:
    """Keeps what stands in for others until it is at home."""

    name = "stand-ins"
    idle_seconds = 0.5

    def __init__(
        self,
        runtime: Runtime,
        view: MapView,
        stores: Stores,
        peers: UpkeepPeers,
        pending: PendingNames,
        metrics: Metrics,
        me: AccountId,
        height: Callable[[], int],
        forget: Callable[..., None] = lambda *_: None,
    ) -> None:
        """``forget`` is told of the bases of which something was deleted here."""
        self._runtime = runtime
        self._view = view
        self._stores = stores
        self._peers = peers
        self._pending = pending
        self._metrics = metrics
        self._me = me
        self._height = height
        self._forget = forget
        self._pass: _Pass | None = None
        self._away: set[int] = set()
        self._epoch = 0
        self._begins = 0.0
        self._pings = 0.0

    async def work(self) -> Progress:
        """One page of marks, or one ping of each home that is away."""
        current = self._view.cluster_map()
        if current is None or current.node_of_account(self._me) is None:
            return Progress.IDLE
        running = self._pass
        if running is None or running.epoch != current.epoch:
            if not await self._is_due(current):
                return Progress.IDLE
            running = self._pass = _Pass(current.epoch, self._runtime.monotonic())
        page = await self._runtime.disk(marked_in, self._stores.rows, running.after)
        if not page:
            self._end(running)
            return Progress.IDLE
        running.after = page[-1].key
        await self._shards(current, running, [each for each in page if each.index is not None])
        for each in page:
            if each.index is None:
                await self._record(current, running, each)
        return Progress.BUSY

    async def _is_due(self, current: ClusterMap) -> bool:
        """Whether to go through the marks now."""
        now = self._runtime.monotonic()
        if current.epoch != self._epoch or now >= self._begins:
            return True
        if not self._away or now < self._pings:
            return False
        self._pings = now + PING_SECONDS
        away = [node for number in sorted(self._away) if (node := current.node(number))]
        back = await asyncio.gather(*(self._answers(current, node) for node in away))
        return any(back)

    async def _answers(self, current: ClusterMap, node: Node) -> bool:
        try:
            peer = self._peers.upkeep_peer(node)
            await peer.ping(Pulse(current.epoch, self._height()), PING_SECONDS)
        except HcefsError:
            return False
        return True

    def _end(self, done: _Pass) -> None:
        now = self._runtime.monotonic()
        rest = min(REST_SECONDS_MAX, max(REST_SECONDS, REST_FACTOR * (now - done.started)))
        self._pass, self._away, self._epoch = None, done.away, done.epoch
        self._begins = now + (SOON_SECONDS if done.offered else rest)
        self._pings = now + PING_SECONDS
        self._metrics.set("stand_ins_waiting", done.waiting)

    # -- shards

    async def _shards(self, current: ClusterMap, running: _Pass, page: Sequence[Marked]) -> None:
        groups: dict[_Group, list[tuple[Marked, PlacedShard]]] = {}
        settled: list[Marked] = []
        for each, profile in await self._runtime.disk(self._placed, page):
            if profile is None:
                settled.append(each)  # it was collected
                continue
            if each.index is None or all(table.profile != profile for table in current.tables):
                running.waiting += 1
                continue
            seat = _seat_of(seats(current, profile, each.name), each.index)
            home = seat.node if seat is not None else None
            if home is None or self._me in (home.account, _source(seat)):
                settled.append(each)
                continue
            shard = PlacedShard(BlobBase(each.name), each.index, profile, each.form)
            place = Place.of_base(current, profile, shard.base)
            groups.setdefault((home.node_id, place), []).append((each, shard))
        await self._unmark(settled)
        for (home_id, place), found in groups.items():
            await self._offer(current, running, home_id, place, found)

    def _placed(self, page: Sequence[Marked]) -> list[tuple[Marked, str | None]]:
        """The profile of each shard; None for those that are not here any more."""
        values = self._stores.rows.get_many(Table.PLACED, [each.key for each in page])
        return [
            (each, value.decode() if value is not None else None)
            for each, value in zip(page, values, strict=True)
        ]

    async def _offer(
        self,
        current: ClusterMap,
        running: _Pass,
        home_id: int,
        place: Place,
        found: Sequence[tuple[Marked, PlacedShard]],
    ) -> None:
        """Offer shards to their home, and delete those that it has."""
        home = current.node(home_id)
        running.waiting += len(found)
        if home is None or home_id in running.away:
            return
        names = [ShardName(shard.base, shard.index) for _, shard in found]
        try:
            held = await self._peers.upkeep_peer(home).offer(place, names, ())
        except HcefsError as error:
            self._note_away(running, home, error)
            return
        crash_point(CrashPoint.STAND_IN_OFFERED)
        gone = [each for each, there in zip(found, held, strict=True) if there]
        running.offered += len(found) - len(gone)
        if not gone or not self._is_in_force(place.epoch):
            return
        shards = [shard for _, shard in gone]
        job = partial(delete_shards, self._stores, self._pending, shards, self._forget)
        await whole(self._runtime, job)
        crash_point(CrashPoint.STAND_IN_DELETED)
        await self._unmark([each for each, _ in gone])
        crash_point(CrashPoint.STAND_IN_UNMARKED)
        running.waiting -= len(gone)
        self._metrics.count("brought_home_total", len(gone), kind="shard")
        log.info(
            "partition %d of %s: %d shards are at home on node %d",
            place.partition, place.profile, len(gone), home_id,
        )  # fmt: skip

    def _note_away(self, running: _Pass, home: Node, error: HcefsError) -> None:
        running.away.add(home.node_id)
        log.debug("node %d does not take what is its own: %s", home.node_id, error.reason)

    def _is_in_force(self, epoch: int) -> bool:
        """Whether the map that was asked by is still the one; a seat may come here."""
        current = self._view.cluster_map()
        return current is not None and current.epoch == epoch

    async def _unmark(self, settled: Sequence[Marked]) -> None:
        if settled:
            keys = [(Table.STAND_INS, each.key) for each in settled]
            await whole(self._runtime, lambda: self._stores.rows.delete(keys))

    # -- records

    async def _record(self, current: ClusterMap, running: _Pass, each: Marked) -> None:
        """Offer a record's rows to its seats that lack some; delete them when none does."""
        held = seats(current, current.default_profile, each.name)
        if any(self._me in (seat.node.account, _source(seat)) for seat in held):
            await self._unmark([each])
            return
        running.waiting += 1
        if any(seat.node.node_id in running.away for seat in held):
            return
        rows = await self._runtime.disk(lambda: list(record_rows(self._stores, each.record)))
        partition = partition_of(each.name, current.table(current.default_profile).bits)
        place = Place(current.epoch, current.default_profile, partition)
        is_home = True
        for seat in held:
            peer = self._peers.upkeep_peer(seat.node)
            try:
                if rows and not all(await rows_held_by(peer, place, each.record, rows)):
                    is_home = False
                    await peer.offer(place, (), [each.record])
            except HcefsError as error:
                self._note_away(running, seat.node, error)
                return
        if not is_home:
            running.offered += 1
            return
        if self._is_in_force(place.epoch):
            await whole(self._runtime, lambda: self._delete_record(current, each, rows))
            running.waiting -= 1
            self._metrics.count("brought_home_total", kind="record")

    def _delete_record(
        self, current: ClusterMap, each: Marked, rows: Sequence[tuple[bytes, bytes, bytes]]
    ) -> None:
        if rows:
            delete_record_rows(self._stores, self._pending, rows)
        crash_point(CrashPoint.STAND_IN_ROWS_DELETED)
        self._stores.rows.delete([(Table.STAND_INS, each.key)])
        crash_point(CrashPoint.STAND_IN_RECORD_UNMARKED)
        if next(record_rows(self._stores, each.record), None) is not None:
            # Rows came at this moment, perhaps before their mark was removed.
            mark = record_mark(each.record, current.epoch, self._runtime.now_ms())
            self._stores.rows.put([mark])


def _seat_of(row: Sequence[Seat], index: int) -> Seat | None:
    return next((seat for seat in row if seat.index == index), None)


def _source(seat: Seat | None) -> AccountId | None:
    return seat.source.account if seat is not None and seat.source is not None else None
