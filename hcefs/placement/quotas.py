"""How many seats each node gets: failure domains, caps and D'Hondt quotas.

The planner's step A.  A *member* is a node that takes seats; its position in
the list that ``members`` returns stands for it in every sequence here and in
``hcefs.placement.chains``.

Invariants: integers and fractions only, so every platform gets the same
quotas; quotas sum to seats x partitions; no member gets more than one seat a
row and no domain more than its cap, on average over the rows.  Domains nest,
which is what makes such quotas always realisable as rows.

Not guaranteed: quotas in proportion to the weights where caps or one-seat-a-row
forbid it; ``shares`` is then the fair distribution that they allow.

Source: D'Hondt's highest averages, which minimises the largest load per weight.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from hcefs.errors import Invalid
from hcefs.placement.cluster_map import BITS_MAX, BITS_MIN, LEVELS, Caps, Node, NodeState

PARTITIONS_PER_NODE = 100
"""Seats a node should have at least, so that one seat is 1 % of its load."""

_SEATED_STATES = frozenset({NodeState.JOINING, NodeState.UP, NodeState.DOWN})
# (w << 40) // t orders w / t exactly: two different ones are at least
# 1 / (t1 * t2) apart, and t is at most 2**BITS_MAX, so 2**-36.
_AVERAGE_SHIFT = 40


@dataclass(frozen=True)
class Domain:
    """Members (positions) of which one row may seat at most ``cap``."""

    positions: tuple[int, ...]
    cap: int


def members(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes that take seats, by node id: joining, up or down, with weight.

    A node that is down keeps its seats, because it usually comes back; draining
    and out mean that it is to lose them.
    """
    seated = [node for node in nodes if node.state in _SEATED_STATES and node.weight > 0]
    return tuple(sorted(seated, key=lambda node: node.node_id))


def partition_bits(nodes_expected: int, n: int) -> int:
    """log2 of the partitions for rows of ``n`` seats on that many nodes.

    The smallest power of two that gives 100 seats a node, and at least 256:
    fewer partitions balance worse, more make it likelier that m + 1 failures
    together hit some row.

    Raises:
        Invalid: the cluster is larger than a table can be.
    """
    if nodes_expected < 1 or n < 1:
        raise Invalid("nodes and seats must be at least 1", reason="bad-table-size")
    needed = -(-PARTITIONS_PER_NODE * nodes_expected // n)
    bits = max(BITS_MIN, (needed - 1).bit_length())
    if bits > BITS_MAX:
        raise Invalid(
            f"{nodes_expected} nodes need more than the 2^{BITS_MAX} partitions that a table "
            "may have; use several clusters",
            reason="bad-table-size",
        )
    return bits


def row_capacity(nodes: Sequence[Node], caps: Caps) -> int:
    """The most seats one row can have on these nodes under these caps."""
    room: dict[tuple[str, ...], int] = {}
    for node in nodes:
        host = node.domain("host")
        room[host] = min(caps.host, room.get(host, 0) + 1)
    for level in ("rack", "zone"):
        outer: dict[tuple[str, ...], int] = {}
        for domain, seats in room.items():
            parent = domain[:-1]
            outer[parent] = min(caps.of(level), outer.get(parent, 0) + seats)
        room = outer
    return sum(room.values())


def default_caps(nodes: Sequence[Node], k: int, m: int) -> Caps:
    """One seat a host and m a rack and a zone, or the least more that holds a row.

    With zones large enough and zones * m < k + m the zone cap becomes
    ceil((k + m) / zones); ``ClusterMap.warnings`` says so wherever status is shown.

    Raises:
        Invalid: there are fewer members than k + m.
    """
    n = k + m
    seated = members(nodes)
    if len(seated) < n:
        raise Invalid(
            f"{k}+{m} needs {n} nodes that take seats (joining, up or down, weight above 0), "
            f"there are {len(seated)}: add nodes or choose a smaller profile",
            reason="too-few-nodes",
        )

    def least(start: int, level: str, **inner: int) -> int:
        loose = {"zone": n, "rack": n, "host": n} | inner
        cap = min(start, n)
        while row_capacity(seated, Caps(**(loose | {level: cap}))) < n:
            cap += 1
        return cap

    host = least(1, "host")
    rack = least(m, "rack", host=host)
    zone = least(m, "zone", host=host, rack=rack)
    return Caps(zone=zone, rack=rack, host=host)


def domains_of(seated: Sequence[Node], caps: Caps) -> tuple[Domain, ...]:
    """The domains whose cap can bind: those with more members than it."""
    found = []
    for level in LEVELS:
        grouped: dict[tuple[str, ...], list[int]] = {}
        for position, node in enumerate(seated):
            grouped.setdefault(node.domain(level), []).append(position)
        cap = caps.of(level)
        found += [Domain(tuple(group), cap) for group in grouped.values() if len(group) > cap]
    return tuple(found)


def quotas(
    weights: Sequence[int],
    domains: Sequence[Domain],
    partitions: int,
    n: int,
    ties: Sequence[int],
    old: Sequence[int] | None = None,
) -> list[int]:
    """Seats of each member: n * partitions of them by D'Hondt under the caps.

    Each next seat goes to the largest weight / (seats + 1) among members with
    fewer than ``partitions`` seats whose every domain is below its cap; ties go
    to a member below its ``old`` load, then to one that had no seat, so that a
    node put in the place of an equal one inherits its load, then to the lower of
    ``ties``.

    Raises:
        Invalid: the caps leave too few seats.
    """
    loads = [0] * len(weights)
    before = old if old is not None else [0] * len(weights)
    room = [domain.cap * partitions for domain in domains]
    inside: list[list[int]] = [[] for _ in weights]
    for number, domain in enumerate(domains):
        for position in domain.positions:
            inside[position].append(number)

    def rank(position: int) -> tuple[int, int, int, int]:
        load = loads[position]
        average = (weights[position] << _AVERAGE_SHIFT) // (load + 1)
        kept = 0 if load < before[position] else 2 if before[position] else 1
        return (-average, kept, ties[position], position)

    heap = [rank(position) for position, weight in enumerate(weights) if weight > 0]
    heapq.heapify(heap)
    left = n * partitions
    while left and heap:
        position = heap[0][3]
        if loads[position] == partitions or any(not room[number] for number in inside[position]):
            heapq.heappop(heap)
            continue
        loads[position] += 1
        for number in inside[position]:
            room[number] -= 1
        left -= 1
        heapq.heapreplace(heap, rank(position))
    if left:
        raise Invalid(
            f"the caps leave {left} of {n * partitions} seats without a node: "
            "raise a cap, or add nodes in other domains",
            reason="infeasible",
        )
    return loads


def shares(
    weights: Sequence[int], domains: Sequence[Domain], partitions: int, n: int
) -> list[Fraction]:
    """The fairest real-valued loads that the caps allow: what balance is measured against.

    All loads rise together in proportion to the weights; a member stops at one
    seat a row, a domain with all its members at its cap.

    Raises:
        Invalid: the caps leave too few seats.
    """
    singles = [Domain((position,), 1) for position in range(len(weights))]
    limits = [*domains, *singles]
    total = Domain(tuple(range(len(weights))), n)
    fixed: dict[int, Fraction] = {
        position: Fraction(0) for position, weight in enumerate(weights) if weight <= 0
    }

    def level_of(domain: Domain) -> Fraction | None:
        """Load per weight at which the domain is full; None when nothing rises in it."""
        rising = sum(weights[p] for p in domain.positions if p not in fixed)
        held = sum((fixed[p] for p in domain.positions if p in fixed), Fraction(0))
        return (domain.cap * partitions - held) / rising if rising else None

    while (end := level_of(total)) is not None:
        levels = [(level_of(domain), domain) for domain in limits]
        level = min([end, *(found for found, _ in levels if found is not None)])
        full = [domain for found, domain in levels if found == level]
        if level == end:
            full.append(total)
        for position in {p for domain in full for p in domain.positions if p not in fixed}:
            fixed[position] = level * weights[position]
    if sum(fixed.values()) != n * partitions:
        raise Invalid(
            "the caps leave seats without a node: raise a cap, or add nodes in other domains",
            reason="infeasible",
        )
    return [fixed[position] for position in range(len(weights))]


def imbalance(loads: Sequence[int], fair: Sequence[Fraction]) -> Fraction:
    """The largest load over its share: 1 is perfect."""
    return max(
        (load / share for load, share in zip(loads, fair, strict=True) if share),
        default=Fraction(1),
    )


def stranded(weights: Sequence[int], fair: Sequence[Fraction]) -> Fraction:
    """The part of the capacity that the caps keep from being filled.

    Data grows until the member with the most load per weight is full; what is
    then still free elsewhere is stranded.
    """
    highest = max(share / weight for share, weight in zip(fair, weights, strict=True) if weight)
    return 1 - sum(fair) / (highest * sum(weights))
