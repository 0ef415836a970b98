"""Take stock of this node's seats: what each blob has, and what this node lacks of it.

A pass is cheap: lists travel, no data does.  It asks each of the other holders what it has
of many rows at once, enters what is missing here into the queue of damage with the margin
that it leaves, and counts the blobs by how many of their shards are alive.  So when a pass
is over, the most endangered of *all* rows are known, and the work begins with them.

Invariants: over a whole cluster each blob is counted once, by the node that has the live
shard with the lowest index at its seat; blobs that wait for their append, or lie under
another profile by now, are not counted.  Lists are taken one after the other while puts go
on, so that a blob which looks short by them is short only when its holders, asked again by
name, say so; and a holder that is there and refuses to say what it has (its lease has run
out, it starts) leaves its shards unknown, never lost.

A blob of which no shard is left is on no list; so at the end it looks for what the records
name (:mod:`.named`), those of each row by the first seat that answers.

Not guaranteed: that what is said to be there is intact (the scrub and ``hcefs verify``
read it).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from hcefs.erasure.scheme import profile_named
from hcefs.errors import HcefsError
from hcefs.ids import AccountId, BlobBase
from hcefs.placement.cluster_map import ClusterMap, Table
from hcefs.placement.ring import partition_of, positions_of, rotation_of
from hcefs.placement.waves import SeatName, in_flight
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores
from hcefs.stripes.checks import Replica
from hcefs.stripes.inventory import committed_under, shards_here
from hcefs.transport.upkeep import Place
from hcefs.upkeep.damage import DamagedName, DamageLog
from hcefs.upkeep.fill import SeatFiller
from hcefs.upkeep.named import NamedBlobs, Unfound, is_first
from hcefs.upkeep.stock import Stock
from hcefs.upkeep.survey import Lists, Survey
from hcefs.upkeep.worker import at_once

MISSING = "missing"
LOOKS_AT_ONCE = 8
"""Rows that are compared at one time."""

log = logging.getLogger(__name__)


class Stocktaking:
    """One pass over the seats of a node, some rows at a time."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        replica: Replica,
        filler: SeatFiller,
        queue: DamageLog,
        me: AccountId,
        current: ClusterMap,
        before: Stock | None = None,
    ) -> None:
        """``before`` is what the pass before found: it stands where nothing better is known."""
        self._runtime = runtime
        self._stores = stores
        self._replica = replica
        self._filler = filler
        self._queue = queue
        self._me = me
        self._named = NamedBlobs(runtime, stores, replica, filler.surveyor)
        self._names = own_seats(current, me)
        self._done = 0
        self._before = before.endangered if before is not None else {}
        self.stock = Stock(current.epoch, runtime.now_ms(), seats=len(self._names))

    async def step(self, current: ClusterMap, rows: int = 1) -> bool:
        """Look over at most so many rows at once; False when there is none left.

        Raises:
            HcefsError: the disk of this node failed.
        """
        left = self._names[self._done : self._done + rows]
        if not left:
            await self._look_for_named(current)
            self.stock.ended_ms = self._runtime.now_ms()
            return False
        names = [name for name in left if name.profile == left[0].profile]
        self._done += len(names)
        if current.epoch != self.stock.epoch:
            names = [name for name in names if name in own_seats_of_row(current, self._me, name)]
        if names:
            await self._rows(current, names)
        return True

    async def _rows(self, current: ClusterMap, names: Sequence[SeatName]) -> None:
        """Look over some rows of one profile."""
        self.stock.rows += len(names)
        table = current.table(names[0].profile)
        surveys = await self._surveys(current, table, names)
        own = await self._runtime.disk(self._here, table, names)
        waiting = iter(names)

        async def some() -> None:
            for name in waiting:
                await self._look(current, name, surveys.get(name), own[name])

        await at_once(self._runtime, LOOKS_AT_ONCE, some, "stock")

    async def _surveys(
        self, current: ClusterMap, table: Table, names: Sequence[SeatName]
    ) -> dict[SeatName, Survey]:
        """What others have of the rows; nothing where one of them must be asked about alone."""
        sources = {name: _sources(table, name) for name in names}
        try:
            return await self._filler.surveyor.surveys(current, sources, lambda _: True)
        except HcefsError as error:
            log.debug("rows of %s are asked about one by one: %s", table.profile, error.reason)
            return {}

    def _here(
        self, table: Table, names: Sequence[SeatName]
    ) -> dict[SeatName, dict[BlobBase, set[int]]]:
        return {
            name: shards_here(self._stores, positions_of(name.partition, table.bits), table.profile)
            for name in names
        }

    async def _look(
        self,
        current: ClusterMap,
        name: SeatName,
        survey: Survey | None,
        own: dict[BlobBase, set[int]],
    ) -> None:
        try:
            await self._row(current, name, survey, own)
        except HcefsError as error:
            if error.kind == "unavailable" and error.reason == "store-closed":
                raise
            self.stock.waiting += 1
            log.debug("partition %d of %s waits: %s", name.partition, name.profile, error.reason)

    async def _row(
        self,
        current: ClusterMap,
        name: SeatName,
        survey: Survey | None,
        own: dict[BlobBase, set[int]],
    ) -> None:
        table = current.table(name.profile)
        if survey is None:
            sources = _sources(table, name)
            lists = await self._filler.surveyor.row(current, name, sources, lambda _: True)
        else:
            lists = survey.lists
        unknown = self.stock.unknown
        await self._compare(current, name, lists, own)
        if len(lists.nodes) + 1 < table.k or self.stock.unknown > unknown:
            self.stock.waiting += 1
        await self._filler.records(current, name, lists, lambda _: True, survey)
        if name.profile == current.default_profile and is_first(
            current, self._me, name.partition, lists.nodes
        ):
            self._enter_unfound(current, await self._named.take(current, [name.partition]))

    async def _look_for_named(self, current: ClusterMap) -> None:
        try:
            self._enter_unfound(current, await self._named.look(current))
        except HcefsError as error:
            self.stock.waiting += 1
            log.debug("what the records name is not looked for now: %s", error.reason)

    def _enter_unfound(self, current: ClusterMap, unfound: Sequence[Unfound]) -> None:
        table = current.table(current.default_profile)
        for each in unfound:
            if each.unsure:
                self._count_unsure(each.base, current.default_profile, 0, table.n)
                self.stock.waiting += 1
                continue
            self.stock.count(each.base, current.default_profile, 0, complete=each.lost)
            if each.lost:
                log.error("no shard is left of %s, which the ledger holds", each.base)
                self.stock.name_gone(each.base)

    async def _compare(
        self,
        current: ClusterMap,
        name: SeatName,
        lists: Lists,
        own: dict[BlobBase, set[int]],
    ) -> None:
        code, row = profile_named(name.profile), _Row(current.table(name.profile), name.partition)
        lacking: list[tuple[DamagedName, str, int | None]] = []
        mine: dict[BlobBase, set[int]] = {}
        for base in sorted({*lists.held, *own}):
            index = (name.seat + rotation_of(base, code.n)) % code.n
            live = (lists.live(base) | own.get(base, set())) & set(range(code.n))
            if index not in own.get(base, ()):
                lacking.append((DamagedName(base, index, name.profile), MISSING, len(live)))
            elif index == min(row.seated(base, lists) | {index}):
                mine[base] = live
        short = await self._committed(name, [b for b, live in mine.items() if len(live) < code.n])
        # A list may be older than the end of the put that another one, or the replica, shows.
        doubtful = [b for b in short if row.at(b, set(lists.nodes)) - mine[b]]
        asked = await self._asked_again(current, name, doubtful)
        for base in doubtful:
            mine[base] |= asked.live(base) & set(range(code.n))
        short = await self._committed(name, [b for b in short if len(mine[b]) < code.n])
        for base, live in mine.items():
            if len(live) >= code.n:
                self.stock.count(base, name.profile, code.n, complete=True)
            elif base in short:
                heard = asked if base in doubtful else lists
                self._count_short(base, name.profile, live, row.at(base, heard.unsure), heard)
        if lacking:
            self.stock.lacking += sum(not self._queue.is_pending(name) for name, _, _ in lacking)
            await self._runtime.disk(self._queue.found_all, lacking)

    async def _committed(self, name: SeatName, bases: Sequence[BlobBase]) -> set[BlobBase]:
        if not bases:
            return set()
        return await self._runtime.disk(
            committed_under, self._stores, self._replica, bases, name.profile
        )

    async def _asked_again(
        self, current: ClusterMap, name: SeatName, bases: Sequence[BlobBase]
    ) -> Lists:
        """Which shards of some bases their holders have now."""
        if not bases:
            return Lists()
        place = Place(current.epoch, name.profile, name.partition)
        n = profile_named(name.profile).n
        return await self._filler.surveyor.asked(current, place, n, bases)

    def _count_short(
        self, base: BlobBase, profile: str, live: set[int], unsure: set[int], lists: Lists
    ) -> None:
        """Count a blob that lacks shards, as far as those who were heard can tell."""
        most = len(live | unsure)
        if most == len(live) or (most < profile_named(profile).n and base not in self._before):
            self.stock.count(base, profile, most, complete=lists.complete)
        else:
            self._count_unsure(base, profile, len(live), most)

    def _count_unsure(self, base: BlobBase, profile: str, live: int, most: int) -> None:
        """Count a blob of which ``live`` shards are there and ``most`` may be.

        One that was in danger stays so: nobody has said that it is not.  Others are left out.
        """
        self.stock.unknown += 1
        known = self._before.get(base)
        if known is not None:
            self.stock.count(base, profile, min(max(known, live), most), complete=False)


class _Row:
    """Where the shards of one row are to be."""

    def __init__(self, table: Table, partition: int) -> None:
        self._n = table.n
        self._holders = [{node_id} for node_id in table.node_rows[partition]]
        self._seats = tuple(table.node_rows[partition])
        for move in table.moving:
            if move.partition == partition:
                self._holders[move.seat].add(move.source)

    def at(self, base: BlobBase, nodes: set[int]) -> set[int]:
        """The indexes of a base that are at seats of some nodes, or move from them."""
        rotation = rotation_of(base, self._n)
        return {
            (seat + rotation) % self._n
            for seat, holders in enumerate(self._holders)
            if holders & nodes
        }

    def seated(self, base: BlobBase, lists: Lists) -> set[int]:
        """The indexes of a base that are where the map says, as far as others have them."""
        rotation = rotation_of(base, self._n)
        return {
            index
            for index, ids in lists.held.get(base, {}).items()
            if index < self._n and self._seats[(index - rotation) % self._n] in ids
        }


def _sources(table: Table, name: SeatName) -> list[int]:
    """The nodes from which seats of a row are moving."""
    return [move.source for move in table.moving if move.partition == name.partition]


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


def place_here(current: ClusterMap, me: AccountId, name: DamagedName) -> Place | None:
    """The row of a shard, if a node has the settled seat for it there."""
    tables = {table.profile: table for table in current.tables}
    table = tables.get(name.profile)
    if table is None:
        return None
    partition = partition_of(bytes(name.base), table.bits)
    n = profile_named(name.profile).n
    for seat in own_seats_of_row(current, me, SeatName(name.profile, partition, 0)):
        if (seat.seat + rotation_of(name.base, n)) % n == name.index:
            return Place(current.epoch, name.profile, partition)
    return None


def own_seats_of_row(current: ClusterMap, me: AccountId, name: SeatName) -> Iterable[SeatName]:
    """The settled seat that a node has in the row of another name; none or one."""
    node = current.node_of_account(me)
    known = {table.profile: table for table in current.tables}.get(name.profile)
    if node is None or known is None or name.partition >= len(known.node_rows):
        return ()
    row = known.node_rows[name.partition]
    if node.node_id not in row:
        return ()
    found = SeatName(name.profile, name.partition, row.index(node.node_id))
    return () if found in in_flight(current) else (found,)
