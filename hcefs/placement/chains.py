"""Rows under construction, and the chains of exchanges that fill their holes.

The planner's step C.  A row is a set of members (positions, see
``hcefs.placement.quotas``); sets of members and rows are bit masks, so that one
``|`` answers for every member at once.

A hole is filled directly when a member below its quota may join the row.  Else
by a chain: v1 joins the row and gives up a seat elsewhere to v2, who gives up
one to v3, ... until one is below its quota.  That is an augmenting path of the
intersection of two matroids (rows under nested caps; quotas), so that

* a chain exists whenever quotas and caps can be met at all, and
* the cheapest chain with the fewest hops, applied from its far end, breaks no
  cap on the way.

Invariants: every change goes through ``Rows.place`` and ``Rows.vacate``; a seat
keeps its number whoever holds it.  Ties are broken by position and by the order
in which members got their rows, never by a set's or a hash's order.

Source: Schrijver, Combinatorial Optimization, sections 41.2 and 41.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hcefs.errors import Internal, Invalid
from hcefs.placement.quotas import Domain

HOLE = -1


@dataclass(frozen=True, slots=True)
class Hop:
    """``joins`` takes the seat of ``leaves`` in ``partition``."""

    partition: int
    leaves: int
    joins: int


class Rows:
    """The rows of a table in the making: who sits where, loads, room."""

    def __init__(self, members: int, domains: Sequence[Domain], partitions: int, n: int) -> None:
        self.n = n
        self.rows = [[HOLE] * n for _ in range(partitions)]
        self.masks = [0] * partitions
        self.loads = [0] * members
        # Dicts for their order: a set's order is no part of the language.
        self._rows_of: list[dict[int, None]] = [{} for _ in range(members)]
        self._all = (1 << members) - 1
        self._domains: list[list[tuple[int, int]]] = [[] for _ in range(members)]
        for domain in domains:
            mask = sum(1 << position for position in domain.positions)
            for position in domain.positions:
                self._domains[position].append((mask, domain.cap))
        self._exchanges: list[dict[int, int]] = [{} for _ in range(partitions)]

    def may_join(self, partition: int, position: int) -> bool:
        """Whether the member may take a hole of the row."""
        mask = self.masks[partition]
        return not mask >> position & 1 and all(
            (mask & domain).bit_count() < cap for domain, cap in self._domains[position]
        )

    def place(self, partition: int, seat: int, position: int) -> None:
        """Give a hole to a member.  The caller has checked that it may join."""
        self.rows[partition][seat] = position
        self.masks[partition] |= 1 << position
        self.loads[position] += 1
        self._rows_of[position][partition] = None
        self._exchanges[partition] = {}

    def vacate(self, partition: int, seat: int) -> int:
        """Make a seat a hole; returns the member that held it."""
        position = self.rows[partition][seat]
        self.rows[partition][seat] = HOLE
        self.masks[partition] ^= 1 << position
        self.loads[position] -= 1
        del self._rows_of[position][partition]
        self._exchanges[partition] = {}
        return position

    def rows_of(self, position: int) -> Iterator[int]:
        """The partitions in which the member sits."""
        return iter(self._rows_of[position])

    def joinable(self, partition: int) -> int:
        """The members that may take a hole of the row, as a mask."""
        return self._all & ~self.masks[partition] & ~self._full(partition, self.masks[partition])

    def exchangeable(self, partition: int, leaves: int) -> int:
        """The members that may take the seat of ``leaves`` in the row, as a mask."""
        cached = self._exchanges[partition]
        found = cached.get(leaves)
        if found is None:
            mask = self.masks[partition]
            found = self._all & ~mask & ~self._full(partition, mask ^ (1 << leaves))
            cached[leaves] = found
        return found

    def _full(self, partition: int, mask: int) -> int:
        """The members of domains in which a row of these members is at its cap."""
        full = 0
        for position in self.rows[partition]:
            if position != HOLE and mask >> position & 1:
                for domain, cap in self._domains[position]:
                    if (mask & domain).bit_count() >= cap:
                        full |= domain
        return full

    def check(self, quotas: Sequence[int]) -> None:
        """Verify the finished rows by counting.

        Raises:
            Internal: a hole is left, a cap is broken or a load is not its quota.
        """
        for row, mask in zip(self.rows, self.masks, strict=True):
            held = [(mask & d).bit_count() <= cap for p in row for d, cap in self._domains[p]]
            if HOLE in row or mask.bit_count() != self.n or not all(held):
                raise Internal("the planner made a row against the caps", reason="bad-plan")
        if self.loads != list(quotas):
            raise Internal("the planner missed its quotas", reason="bad-plan")


def fill_hole(
    rows: Rows, partition: int, seat: int, quotas: Sequence[int], old: Sequence[int] | None = None
) -> int:
    """Fill one hole, by a chain where needed; returns the number of exchanges made.

    ``old`` are the masks of the old rows: the chain that brings the fewest
    newcomers into rows is taken.  Without it every chain costs the same and the
    first of the shortest is taken.

    Raises:
        Invalid: no chain exists, so quotas and caps cannot both be met; the rows
            are unchanged.
    """
    chain = _find_chain(rows, partition, quotas, old)
    if chain is None:
        raise Invalid(
            f"no node can take a seat of partition {partition} without breaking a cap: "
            "raise a cap, or add nodes in other domains",
            reason="infeasible",
        )
    first, hops = chain
    for hop in reversed(hops):
        if not rows.exchangeable(hop.partition, hop.leaves) >> hop.joins & 1:
            raise Internal("a chain of seats broke a cap", reason="bad-plan")
        place = rows.rows[hop.partition].index(hop.leaves)
        rows.vacate(hop.partition, place)
        rows.place(hop.partition, place, hop.joins)
    if not rows.may_join(partition, first):
        raise Internal("a chain of seats broke a cap", reason="bad-plan")
    rows.place(partition, seat, first)
    return len(hops)


def _find_chain(
    rows: Rows, partition: int, quotas: Sequence[int], old: Sequence[int] | None
) -> tuple[int, list[Hop]] | None:
    """Bellman-Ford over members by (cost, hops): who joins the hole, then the exchanges."""
    below = sum(1 << p for p, quota in enumerate(quotas) if rows.loads[p] < quota)
    distance: dict[int, tuple[int, int]] = {}
    reached_by: dict[int, Hop | None] = {}
    for position in _bits(rows.joinable(partition)):
        distance[position] = (0 if old is None else _newcomer(old, partition, position), 0)
        reached_by[position] = None
    frontier = sorted(distance)
    while frontier and not (old is None and any(below >> p & 1 for p in distance)):
        improved: dict[int, None] = {}
        for leaves in frontier:
            # A member below its quota ends a chain; going on can only cost more.
            if below >> leaves & 1:
                continue
            for hop, cost in _hops(rows, leaves, old):
                reached = (distance[leaves][0] + cost, distance[leaves][1] + 1)
                if hop.joins not in distance or reached < distance[hop.joins]:
                    distance[hop.joins] = reached
                    reached_by[hop.joins] = hop
                    improved[hop.joins] = None
            if old is None and any(below >> p & 1 for p in improved):
                break
        frontier = sorted(improved)
    ends = [(distance[p], p) for p in distance if below >> p & 1]
    if not ends:
        return None
    return _walk_back(min(ends)[1], reached_by)


def _hops(rows: Rows, leaves: int, old: Sequence[int] | None) -> Iterator[tuple[Hop, int]]:
    """The cheapest exchange by which each other member can take a seat of ``leaves``.

    The cost of an exchange is the newcomers it adds to a row: -1, 0 or 1.
    """
    best: dict[int, tuple[int, int]] = {}
    seen = {-1: 0, 0: 0, 1: 0}
    for partition in rows.rows_of(leaves):
        free = rows.exchangeable(partition, leaves)
        if old is None:
            classes = [(0, free)]
        else:
            gone = _newcomer(old, partition, leaves)
            classes = [(-gone, free & old[partition]), (1 - gone, free & ~old[partition])]
        for cost, mask in classes:
            for position in _bits(mask & ~seen[cost]):
                if position not in best or cost < best[position][0]:
                    best[position] = (cost, partition)
            seen[cost] |= mask
    for position in sorted(best):
        cost, partition = best[position]
        yield Hop(partition, leaves, position), cost


def _walk_back(end: int, reached_by: dict[int, Hop | None]) -> tuple[int, list[Hop]]:
    hops: list[Hop] = []
    hop = reached_by[end]
    while hop is not None:
        # Longer than every member once means a circle of negative cost: the rows
        # handed in were not the cheapest of their size.
        if len(hops) > len(reached_by):
            raise Internal("a chain of seats runs in a circle", reason="bad-plan")
        hops.append(hop)
        end = hop.leaves
        hop = reached_by[end]
    hops.reverse()
    return end, hops


def _newcomer(old: Sequence[int], partition: int, position: int) -> int:
    return 1 - (old[partition] >> position & 1)


def _bits(mask: int) -> Iterator[int]:
    """The positions in a mask, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
