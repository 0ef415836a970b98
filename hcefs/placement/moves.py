"""From rows in force to rows on changed nodes, with the fewest moving seats.

Steps B to D of the planner: every seat that is still legal is kept; holes are
filled and loads brought to the quotas by direct moves where one newcomer does,
by chains where not; and members that stay keep the number of their seat, so that
only newcomers copy anything.

Invariants, for rows and quotas that can be met at all:

* caps and quotas hold exactly, and no rows with these loads and caps have fewer
  newcomers (``hcefs.placement.chains.is_cheapest`` proves it of each result);
* one seat moves for each newcomer;
* newcomers take the seat of a leaver of the same host, else of the same rack,
  else of the same zone, else any.  So each domain's count in a row changes in one
  direction only, and a row between old and new, with any part of its seats
  moved, is as legal as the worse of the two.

Why direct moves are safe before chains: a seat gained by a member that still has
all of its old rows needs a newcomer, whatever else is done, so a move that costs
one newcomer is a shortest path.

Not guaranteed: the fewest waves.  Rows that move no seat yet are preferred, which
in practice spreads moves evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from hcefs.placement.chains import Chain, Chains
from hcefs.placement.rows import HOLE, Rows, bits_of

_MIX = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_CHOICES = 16
"""Members that are compared for one seat."""

_ROUNDS = (1, 2, 3, 1 << 30)
"""Newcomers that a row may have before a later round takes more from it."""


@dataclass(frozen=True)
class Order:
    """What decides between equals: hashes of members and of partitions."""

    members: Sequence[int]
    partitions: Sequence[int]

    def of(self, partition: int, position: int) -> int:
        """A hash of the pair, so that no member is preferred in every row."""
        return (self.partitions[partition] ^ self.members[position]) * _MIX & _WORD


@dataclass(frozen=True)
class Tally:
    """How the rows were found: newcomers by direct moves, chains, and their exchanges."""

    direct: int
    chains: int
    hops: int


def reseat(rows: Rows, quotas: Sequence[int], order: Order) -> Tally:
    """Change rows in force, holes included, into rows that keep to caps and quotas.

    Raises:
        Invalid: quotas and caps cannot both be met; the rows are then half done.
    """
    old = list(rows.masks)
    evicted = _evict(rows, quotas, order)
    below = sum(1 << p for p, quota in enumerate(quotas) if rows.loads[p] < quota)
    work = _Work(rows, quotas, order, old, below & ~evicted)
    work.fill_directly()
    work.shed_directly()
    work.chain()
    rows.check(quotas)
    return work.tally()


def _evict(rows: Rows, quotas: Sequence[int], order: Order) -> int:
    """Make holes where rows break caps; returns the members that lost a seat so."""
    evicted = 0
    for partition in range(len(rows.rows)):
        while (over := rows.over_caps(partition)) is not None:
            inside = bits_of(over[0] & rows.masks[partition])
            # Who has too many seats anyway loses one rather than gaining it back elsewhere.
            position = max(
                inside, key=lambda p: (rows.loads[p] - quotas[p], order.of(partition, p), p)
            )
            rows.vacate(partition, rows.rows[partition].index(position))
            evicted |= 1 << position
    return evicted


class _Work:
    def __init__(
        self, rows: Rows, quotas: Sequence[int], order: Order, old: Sequence[int], gaining: int
    ) -> None:
        self._rows = rows
        self._quotas = quotas
        self._order = order
        self._old = old
        self._gaining = self._needy = gaining
        self._newcomers = [0] * len(rows.rows)
        self._direct = self._chains = self._hops = 0

    def tally(self) -> Tally:
        return Tally(self._direct, self._chains, self._hops)

    def fill_directly(self) -> None:
        for partition, row in enumerate(self._rows.rows):
            if HOLE in row:
                for seat in [seat for seat, position in enumerate(row) if position == HOLE]:
                    position = self._neediest(partition, self._rows.joinable(partition))
                    if position is not None:
                        self._seat(partition, seat, position)

    def shed_directly(self) -> None:
        excess = [(q - load, p) for p, (load, q) in self._loads() if load > q]
        excess.sort(key=lambda item: (item[0], self._order.members[item[1]]))
        for limit in _ROUNDS:
            for _, leaves in excess:
                if self._rows.loads[leaves] > self._quotas[leaves]:
                    self._shed(leaves, limit)

    def _loads(self) -> list[tuple[int, tuple[int, int]]]:
        return list(enumerate(zip(self._rows.loads, self._quotas, strict=True)))

    def _shed(self, leaves: int, limit: int) -> None:
        """Give seats of one member away in rows that have fewer newcomers than the limit."""
        rows, quota, newcomers = self._rows, self._quotas[leaves], self._newcomers
        rank: Callable[[int], int] = lambda p: self._order.of(p, leaves)  # noqa: E731
        for partition in sorted(rows.rows_of(leaves), key=rank):
            if rows.loads[leaves] <= quota or not self._needy:
                return
            # Its seat as a newcomer of this plan is not for giving: that row had its move.
            if newcomers[partition] >= limit or not self._old[partition] >> leaves & 1:
                continue
            position = self._neediest(partition, rows.exchangeable(partition, leaves))
            if position is not None:
                seat = rows.rows[partition].index(leaves)
                rows.vacate(partition, seat)
                self._seat(partition, seat, position)

    def _neediest(self, partition: int, allowed: int) -> int | None:
        """Of the members that may sit here and lack seats, the one that lacks most."""
        wanted = allowed & self._needy & ~self._old[partition]
        if not wanted & (wanted - 1):
            return wanted.bit_length() - 1 if wanted else None
        loads, quotas, order = self._rows.loads, self._quotas, self._order
        candidates: Iterable[int] = bits_of(wanted)
        if wanted.bit_count() > _CHOICES:
            # Anywhere in the circle of members: to weigh hundreds of them would be quadratic.
            start = order.partitions[partition] % len(loads)
            candidates = islice(chain(bits_of(wanted >> start << start), bits_of(wanted)), _CHOICES)
        return min(candidates, key=lambda p: (loads[p] - quotas[p], order.of(partition, p)))

    def _seat(self, partition: int, seat: int, position: int) -> None:
        self._rows.place(partition, seat, position)
        self._newcomers[partition] += 1
        self._direct += 1
        if self._rows.loads[position] >= self._quotas[position]:
            self._needy &= ~(1 << position)

    def chain(self) -> None:
        """Finish what direct moves could not do."""
        rows, quotas = self._rows, self._quotas
        chains = Chains(rows, quotas, self._old, self._gaining)
        for partition, row in enumerate(rows.rows):
            for seat in range(rows.n):
                if row[seat] == HOLE:
                    self._count(chains.fill(partition, seat))
        for position, quota in enumerate(quotas):
            while rows.loads[position] > quota:
                self._count(chains.shed(position))

    def _count(self, chain: Chain) -> None:
        self._chains += 1
        self._hops += len(chain.hops)


def align(
    old: Sequence[int], new: frozenset[int], domains: Callable[[int], Sequence[object]]
) -> tuple[int, ...]:
    """The new row in seat order: who stays keeps the seat, newcomers take vacated ones.

    ``old`` are the nodes in seat order and ``new`` as many different ones;
    ``domains`` are a node's failure domains, largest first.
    """
    row = [node if node in new else 0 for node in old]
    vacated = [seat for seat, node in enumerate(row) if not node]
    newcomers = sorted(new.difference(old))
    if len(vacated) == 1:
        row[vacated[0]] = newcomers[0]
        return tuple(row)
    depth = len(domains(newcomers[0])) if newcomers else 0
    for level in range(depth - 1, -1, -1):
        for seat in list(vacated):
            domain = domains(old[seat])[level]
            match = next((node for node in newcomers if domains(node)[level] == domain), None)
            if match is not None:
                row[seat] = match
                newcomers.remove(match)
                vacated.remove(seat)
    for seat, node in zip(vacated, newcomers, strict=True):
        row[seat] = node
    return tuple(row)
