"""Chains of exchanges that fill holes and shed seats: the planner's step C.

A hole is filled directly when a member below its quota may join the row.  Else
by a chain: v1 joins the row and gives up a seat elsewhere to v2, who gives up
one to v3, ... until one is below its quota.  A member above its quota sheds a
seat in the same way.  That is an augmenting path of the intersection of two
matroids (rows under nested caps; quotas), so that

* a chain exists whenever quotas and caps can be met at all,
* the cheapest chain with the fewest hops, applied from its far end, breaks no
  cap on the way, and
* cheapest chains, one after the other, end in the cheapest rows of all
  (successive shortest paths), which ``is_cheapest`` verifies independently.

A chain costs the newcomers that it brings into rows: each hop
[v not in the old row] - [u not in the old row], when v takes the seat of u.
These costs may be negative; potentials make them non-negative, so that each
search may end at the first member below its quota that it reaches.

Invariants: ties are broken by position and by the order in which members got
their rows.

Source: Schrijver, Combinatorial Optimization, sections 41.2 and 41.3; Ahuja,
Magnanti and Orlin, Network Flows, sections 9.1 (no negative circle) and 9.7
(potentials; the searches of the first table are plain Bellman-Ford).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hcefs.errors import Internal, Invalid
from hcefs.placement.rows import Rows, bits_of


@dataclass(frozen=True, slots=True)
class Hop:
    """``joins`` takes the seat of ``leaves`` in ``partition``."""

    partition: int
    leaves: int
    joins: int


@dataclass(frozen=True, slots=True)
class Chain:
    """``first`` takes the seat that begins the chain; the exchanges follow from there."""

    first: int
    hops: tuple[Hop, ...]


class Chains:
    """The searches for one table.

    ``old`` are the masks of the old rows, from which newcomers are counted;
    without them every chain costs the same and the first of the shortest is taken.
    ``gaining`` are members that every chain reaches with exactly one newcomer:
    those below their quotas that still sit in all of their old rows.  Between
    calls, rows may only be changed by moves of one newcomer to one of these.
    """

    def __init__(
        self,
        rows: Rows,
        quotas: Sequence[int],
        old: Sequence[int] | None = None,
        gaining: int = 0,
    ) -> None:
        self._rows = rows
        self._quotas = quotas
        self._old = old
        self._potentials = [gaining >> p & 1 for p in range(len(quotas))]

    def fill(self, partition: int, seat: int) -> Chain:
        """Fill one hole, by a chain where needed.

        Raises:
            Invalid: no chain exists, so quotas and caps cannot both be met; the
                rows are unchanged.
        """
        old = self._old
        chain = self._search(
            {
                position: 0 if old is None else _newcomer(old, partition, position)
                for position in bits_of(self._rows.joinable(partition))
            }
        )
        if chain is None:
            raise Invalid(
                f"no node can take a seat of partition {partition} without breaking a cap: "
                "raise a cap, or add nodes in other domains",
                reason="infeasible",
            )
        self._apply(chain)
        if not self._rows.may_join(partition, chain.first):
            raise Internal("a chain of seats broke a cap", reason="bad-plan")
        self._rows.place(partition, seat, chain.first)
        return chain

    def shed(self, position: int) -> Chain:
        """Take one seat from a member above its quota.

        Raises:
            Invalid: no chain exists; the rows are unchanged.
        """
        chain = self._search({position: 0})
        if chain is None:
            raise Invalid(
                "no node can take over a seat without breaking a cap: raise a cap, or add nodes "
                "in other domains",
                reason="infeasible",
            )
        self._apply(chain)
        return chain

    def _apply(self, chain: Chain) -> None:
        rows = self._rows
        for hop in reversed(chain.hops):
            if not rows.exchangeable(hop.partition, hop.leaves) >> hop.joins & 1:
                raise Internal("a chain of seats broke a cap", reason="bad-plan")
            place = rows.rows[hop.partition].index(hop.leaves)
            rows.vacate(hop.partition, place)
            rows.place(hop.partition, place, hop.joins)

    def _search(self, starts: Mapping[int, int]) -> Chain | None:
        """The cheapest chain from members that may begin, at their costs."""
        rows = self._rows
        below = sum(1 << p for p, quota in enumerate(self._quotas) if rows.loads[p] < quota)
        if self._old is None:
            return self._first_of_the_shortest(sorted(starts), below)
        return self._cheapest(starts, below, self._old)

    def _first_of_the_shortest(self, frontier: Sequence[int], below: int) -> Chain | None:
        """Bellman-Ford where every exchange costs the same: round by round."""
        reached_by: dict[int, Hop | None] = dict.fromkeys(frontier)
        ends = [p for p in frontier if below >> p & 1]
        while frontier and not ends:
            reached: dict[int, None] = {}
            for leaves in frontier:
                for hop, _ in _hops(self._rows, leaves, None):
                    if hop.joins not in reached_by:
                        reached_by[hop.joins] = hop
                        reached[hop.joins] = None
                ends = [p for p in reached if below >> p & 1]
                if ends:
                    break
            frontier = sorted(reached)
        return _walk_back(min(ends), reached_by) if ends else None

    def _cheapest(self, starts: Mapping[int, int], below: int, old: Sequence[int]) -> Chain | None:
        """Dijkstra by (reduced cost, hops)."""
        potentials = self._potentials
        label = {p: (cost - potentials[p], 0) for p, cost in starts.items()}
        reached_by: dict[int, Hop | None] = dict.fromkeys(starts)
        heap = [(*found, p) for p, found in label.items()]
        heapq.heapify(heap)
        done: dict[int, int] = {}
        end = None
        while heap and end is None:
            cost, hops, leaves = heapq.heappop(heap)
            if leaves in done:
                continue
            if below >> leaves & 1:
                end = leaves
                break
            done[leaves] = cost
            for hop, price in _hops(self._rows, leaves, old):
                joins = hop.joins
                reached = (cost + price + potentials[leaves] - potentials[joins], hops + 1)
                if joins not in done and (joins not in label or reached < label[joins]):
                    label[joins] = reached
                    reached_by[joins] = hop
                    # Nothing that is still to come can be cheaper or shorter.
                    if below >> joins & 1 and reached == (cost, hops + 1):
                        end = joins
                        break
                    heapq.heappush(heap, (*reached, joins))
        if end is None:
            return None
        for position, cost in done.items():
            potentials[position] += cost - label[end][0]
        return _walk_back(end, reached_by)


def is_cheapest(rows: Rows, old: Sequence[int]) -> bool:
    """Whether no other rows with these loads and caps have fewer newcomers.

    It is so exactly if no circle of exchanges has a negative cost.
    """
    members = range(len(rows.loads))
    hops = [[(hop.joins, cost) for hop, cost in _hops(rows, leaves, old)] for leaves in members]
    distance = [0] * len(members)
    # Bellman-Ford from everywhere at once: without a negative circle it settles.
    for _ in range(len(members) + 1):
        settled = True
        for leaves in members:
            for joins, cost in hops[leaves]:
                if distance[leaves] + cost < distance[joins]:
                    distance[joins] = distance[leaves] + cost
                    settled = False
        if settled:
            return True
    return False


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
            for position in bits_of(mask & ~seen[cost]):
                if position not in best or cost < best[position][0]:
                    best[position] = (cost, partition)
            seen[cost] |= mask
    for position in sorted(best):
        cost, partition = best[position]
        yield Hop(partition, leaves, position), cost


def _walk_back(end: int, reached_by: Mapping[int, Hop | None]) -> Chain:
    hops: list[Hop] = []
    hop = reached_by[end]
    while hop is not None:
        hops.append(hop)
        end = hop.leaves
        hop = reached_by[end]
    return Chain(end, tuple(reversed(hops)))


def _newcomer(old: Sequence[int], partition: int, position: int) -> int:
    return 1 - (old[partition] >> position & 1)
