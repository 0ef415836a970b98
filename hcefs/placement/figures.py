"""What a plan is judged by: balance, moves, what no plan could do with less.

Invariants: exact fractions of integers; text and rounding are for whoever shows
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from hcefs.errors import Invalid
from hcefs.placement.cluster_map import LEVELS, Caps, Node
from hcefs.placement.quotas import domains_of, imbalance, members, shares, stranded

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Balance:
    """How evenly rows lie on nodes.

    ``raw`` is the largest load per weight over the mean, ``feasible`` the
    largest load over the share that caps allow, ``stranded`` the part of the
    capacity that caps keep from being filled.  ``worst`` are the most seats of a
    row in one zone, rack and host; ``zone_safe`` says that losing any one zone
    loses no blob.
    """

    raw: Fraction
    feasible: Fraction
    stranded: Fraction
    worst: tuple[int, int, int]
    zone_safe: bool


@dataclass(frozen=True)
class NodeChange:
    """Seats of one node before and after."""

    node_id: int
    before: int
    after: int


@dataclass(frozen=True)
class TableReport:
    """One table's part of a plan.

    ``moves`` are seats whose node changes, ``newcomers`` the nodes that rows gain:
    equal when no seat moves without need.  ``rebuilds`` of the moves have no
    source.  No plan with these quotas has fewer than ``lower_bound`` moves;
    ``gap`` is what caps cost above it.  ``ideal`` are the moves between the
    real-valued fair shares.  ``before`` is None where the old nodes could not
    hold the rows in force.
    """

    profile: str
    n: int
    partitions: int
    moves: int
    newcomers: int
    rebuilds: int
    lower_bound: int
    ideal: Fraction
    waves: int
    chains: int
    before: Balance | None
    after: Balance
    nodes: tuple[NodeChange, ...]
    advice: tuple[str, ...]

    @property
    def gap(self) -> int:
        """Moves above the lower bound."""
        return self.moves - self.lower_bound


def loads_of(rows: Rows) -> Counter[int]:
    """Seats of each node."""
    return Counter(node_id for row in rows for node_id in row)


def fair_shares(nodes: Sequence[Node], caps: Caps, partitions: int, n: int) -> dict[int, Fraction]:
    """The fair real-valued load of each member, by node id.

    Raises:
        Invalid: the caps leave too few seats.
    """
    seated = members(nodes)
    fair = shares([node.weight for node in seated], domains_of(seated, caps), partitions, n)
    return {node.node_id: share for node, share in zip(seated, fair, strict=True)}


def ideal_moves(before: dict[int, Fraction], after: dict[int, Fraction]) -> Fraction:
    """Seats that change hands between two fair shares."""
    gains = (share - before.get(node_id, 0) for node_id, share in after.items())
    return sum((gain for gain in gains if gain > 0), Fraction(0))


def balance(
    nodes: Sequence[Node], rows: Rows, fair: dict[int, Fraction], m: int, loads: Counter[int]
) -> Balance:
    """The balance of rows on nodes with these fair shares."""
    seated = [node for node in members(nodes) if node.node_id in fair]
    found = [loads[node.node_id] for node in seated]
    weights = [node.weight for node in seated]
    listed = [fair[node.node_id] for node in seated]
    mean = Fraction(sum(found), sum(weights))
    raw = max(Fraction(load, weight) for load, weight in zip(found, weights, strict=True))
    worst = worst_domains(nodes, rows)
    return Balance(
        raw=raw / mean if mean else Fraction(1),
        feasible=imbalance(found, listed),
        stranded=stranded(weights, listed),
        worst=worst,
        zone_safe=worst[0] <= m,
    )


def balance_or_none(
    nodes: Sequence[Node], rows: Rows, caps: Caps, m: int, loads: Counter[int]
) -> tuple[Balance | None, dict[int, Fraction]]:
    """The balance and the fair shares, or None and no shares where rows cannot fit."""
    n = len(rows[0])
    try:
        fair = fair_shares(nodes, caps, len(rows), n)
    except Invalid:
        return None, {}
    return balance(nodes, rows, fair, m, loads), fair


def worst_domains(nodes: Sequence[Node], rows: Rows) -> tuple[int, int, int]:
    """The most seats of a row in one zone, one rack and one host."""
    worst = []
    done: dict[tuple[int, ...], int] = {}
    for level in LEVELS:
        numbers: dict[tuple[str, ...], int] = {}
        label = {
            node.node_id: numbers.setdefault(node.domain(level), len(numbers)) for node in nodes
        }
        # Racks that are zones, and hosts that are nodes, need no second count.
        key = tuple(label.values())
        if key not in done:
            done[key] = 1 if len(numbers) == len(label) else _most_alike(label, rows)
        worst.append(done[key])
    return worst[0], worst[1], worst[2]


def _most_alike(label: dict[int, int], rows: Rows) -> int:
    most = 1
    for row in rows:
        labels = [label[node_id] for node_id in row]
        different = set(labels)
        if len(labels) - len(different) >= most:
            most = max(most, *map(labels.count, different))
    return most
