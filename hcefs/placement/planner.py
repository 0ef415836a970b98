"""The first table of a profile, and plans: where its seats go when nodes change.

First table: all (partition, node) pairs are ranked by weighted rendezvous score and accepted
while row, quota and caps allow; ``hcefs.placement.chains`` fills the holes that
are left.  So each row is pseudo-random, each node has exactly its quota, and no
cap is broken.

Plan: D'Hondt quotas under caps (``hcefs.placement.quotas``), then the fewest
moves from the rows in force to those quotas (``hcefs.placement.moves``).

Invariants: pure functions of their arguments; integers and fractions only
(``math.log`` and hash seeds differ between platforms), so every node that
recomputes a table or a plan gets the same bytes.  The order in which nodes are
given does not matter.  A plan changes nothing: ``hcefs.placement.waves`` makes
it into epochs.

Not guaranteed: few moves between two first tables.

Source: weighted rendezvous hashing (Schindelhauer and Schomaker, SPAA 2005):
the node with the least -log(u) / weight comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hcefs.errors import Invalid
from hcefs.placement.chains import Chains
from hcefs.placement.cluster_map import (
    LEVELS,
    SEATS_MAX,
    Caps,
    ClusterMap,
    Node,
    NodeState,
    Table,
    check_nodes_kept,
    encode_rows,
)
from hcefs.placement.feasibility import advice, caps_for, require_caps_kept
from hcefs.placement.figures import (
    NodeChange,
    TableReport,
    balance,
    balance_or_none,
    fair_shares,
    ideal_moves,
    loads_of,
)
from hcefs.placement.moves import Order, align, reseat
from hcefs.placement.quotas import (
    Domain,
    default_caps,
    domains_of,
    members,
    partition_bits,
    quotas,
)
from hcefs.placement.rows import HOLE, Rows
from hcefs.placement.scores import key_of, ranked_pairs, salts, tie_of

PAIRS_MAX = 1 << 23
"""Most (partition, node) pairs that a first table ranks: memory and seconds."""


def first_map(
    nodes: Sequence[Node],
    profiles: Sequence[tuple[str, int, int]],
    seed: bytes,
    default_profile: str,
    nodes_expected: int = 0,
) -> ClusterMap:
    """The map of epoch 1 with a table for each (name, k, m).

    ``nodes_expected`` is the size to provide partitions for, at least the nodes
    given.

    Raises:
        Invalid: too few or too many nodes, or what ``ClusterMap.check`` refuses.
    """
    expected = max(nodes_expected, len(members(nodes)))
    for node in nodes:
        node.check()
    first = ClusterMap(
        epoch=1,
        previous=b"",
        seed=seed,
        default_profile=default_profile,
        nodes=tuple(sorted(nodes, key=lambda node: node.node_id)),
        tables=tuple(
            first_table(nodes, name, k, m, seed, nodes_expected=expected) for name, k, m in profiles
        ),
    )
    first.check()
    return first


def first_table(
    nodes: Sequence[Node],
    profile: str,
    k: int,
    m: int,
    seed: bytes,
    *,
    caps: Caps | None = None,
    nodes_expected: int = 0,
) -> Table:
    """The first table of a profile on the nodes that take seats.

    Without ``caps`` they are 1 a host and m a rack and a zone, or the least more
    that can hold (``default_caps``).

    Raises:
        Invalid: fewer than k + m nodes, caps that cannot hold, or more nodes
            than a first table ranks.
    """
    n = k + m
    if k < 1 or m < 1 or n > SEATS_MAX:
        raise Invalid(
            f"profile {profile}: k = {k}, m = {m}; both must be at least 1 "
            f"and their sum at most {SEATS_MAX}",
            reason="bad-profile",
        )
    least = default_caps(nodes, k, m)
    caps = caps if caps is not None else least
    caps.check(n)
    seated = members(nodes)
    bits = partition_bits(max(nodes_expected, len(seated)), n)
    if len(seated) << bits > PAIRS_MAX:
        raise Invalid(
            f"{len(seated)} nodes over {1 << bits} partitions are too many for a first table; "
            "begin with fewer nodes and add the others by plans",
            reason="too-many-nodes",
        )
    domains = domains_of(seated, caps)
    quota = quotas(
        [node.weight for node in seated],
        domains,
        1 << bits,
        n,
        [tie_of(seed, profile, node) for node in seated],
    )
    rows = Rows(len(seated), domains, 1 << bits, n)
    _accept_by_score(rows, quota, ranked_pairs(seated, bits, key_of(seed, profile)))
    chains = Chains(rows, quota)
    for partition, row in enumerate(rows.rows):
        for seat in range(n):
            if row[seat] == HOLE:
                chains.fill(partition, seat)
    rows.check(quota)
    return Table(
        profile=profile,
        k=k,
        m=m,
        bits=bits,
        caps=caps,
        rows=encode_rows([[seated[position].node_id for position in row] for row in rows.rows]),
        target=b"",
        moving=(),
        wave=0,
        waves=0,
    )


def _accept_by_score(rows: Rows, quota: Sequence[int], ranked: Iterable[tuple[int, int]]) -> None:
    taken = [0] * len(rows.rows)
    left = rows.n * len(rows.rows)
    for partition, position in ranked:
        if (
            taken[partition] < rows.n
            and rows.loads[position] < quota[position]
            and rows.may_join(partition, position)
        ):
            rows.place(partition, taken[partition], position)
            taken[partition] += 1
            left -= 1
            if not left:
                return


# --- plans ------------------------------------------------------------------------------

LOST_STATES = frozenset({NodeState.OUT, NodeState.REMOVED})
"""Whose shards are not to be had: their seats are rebuilt."""


@dataclass(frozen=True)
class TablePlan:
    """Where the seats of one profile go; ``target`` is encoded like ``Table.rows``."""

    profile: str
    caps: Caps
    target: bytes
    report: TableReport


@dataclass(frozen=True)
class Plan:
    """What ``plan`` found for the map of one epoch; ``base`` is that map's digest.

    ``tables`` has one entry for each table of the map, in its order.
    """

    epoch: int
    base: bytes
    nodes: tuple[Node, ...]
    tables: tuple[TablePlan, ...]

    @property
    def moves(self) -> int:
        """Seats whose node changes."""
        return sum(table.report.moves for table in self.tables)


def plan(old: ClusterMap, nodes: Sequence[Node], *, weaker_caps: bool = False) -> Plan:
    """The fewest moves that bring the map's tables to their quotas on changed nodes.

    ``nodes`` are all nodes of the next epoch, removed ones included.  Caps that
    are the default follow it; ``weaker_caps`` consents to caps that become weaker
    so.  With seats in flight, the plan starts from where they are going.

    Raises:
        Infeasible: the nodes cannot hold the rows; it names cures.
        Invalid: the nodes are malformed, or forget or re-use an id.
    """
    given = tuple(sorted(nodes, key=lambda node: node.node_id))
    changed = replace(old, nodes=given)
    changed.check(plans=True)
    check_nodes_kept(old, changed)
    tables = tuple(_plan_table(old, table, given, weaker_caps) for table in old.tables)
    return Plan(old.epoch, old.digest(), given, tables)


def _plan_table(
    old: ClusterMap, table: Table, nodes: Sequence[Node], weaker_caps: bool
) -> TablePlan:
    caps = caps_for(old, table, nodes)
    if not weaker_caps:
        require_caps_kept(table.caps, caps, nodes, table.profile, table.n)
    seated = members(nodes)
    domains = domains_of(seated, caps)
    loads = loads_of(table.node_rows)
    ties = [tie_of(old.seed, table.profile, node) for node in seated]
    quota = quotas(
        [node.weight for node in seated],
        domains,
        table.partitions,
        table.n,
        ties,
        old=[loads[node.node_id] for node in seated],
    )
    rows = _rows_in_force(table, seated, domains)
    order = Order(ties, salts(key_of(old.seed, table.profile), table.partitions))
    forced = _forced_holes(rows, table.n)
    chains = reseat(rows, quota, order).chains
    target = _aligned(table.node_rows, rows, seated, nodes)
    gains = sum(
        max(0, wanted - loads[node.node_id]) for node, wanted in zip(seated, quota, strict=True)
    )
    return TablePlan(
        table.profile,
        caps,
        encode_rows(target),
        _report(old, table, nodes, caps, target, max(forced, gains), chains),
    )


def _rows_in_force(table: Table, seated: Sequence[Node], domains: Sequence[Domain]) -> Rows:
    position_of = {node.node_id: position for position, node in enumerate(seated)}
    rows = Rows(len(seated), domains, table.partitions, table.n)
    rows.seat_all([[position_of.get(node, HOLE) for node in row] for row in table.node_rows])
    return rows


def _forced_holes(rows: Rows, n: int) -> int:
    """Seats that must move whatever the quotas are: of gone nodes, or over a cap."""
    forced = sum(n - mask.bit_count() for mask in rows.masks)
    for partition, mask in enumerate(rows.masks):
        over = rows.over_caps(partition)
        if over is not None:
            forced += (mask & over[0]).bit_count() - over[1]
    return forced


def _aligned(
    before: Sequence[tuple[int, ...]], rows: Rows, seated: Sequence[Node], nodes: Sequence[Node]
) -> list[tuple[int, ...]]:
    """The new rows as node ids, each member that stays on its seat."""
    ids = [node.node_id for node in seated]
    domains = {node.node_id: tuple(map(node.domain, LEVELS)) for node in nodes}
    found = []
    for old, row in zip(before, rows.rows, strict=True):
        new = frozenset([ids[position] for position in row])
        found.append(old if new.issuperset(old) else align(old, new, domains.__getitem__))
    return found


def _report(
    old: ClusterMap,
    table: Table,
    nodes: Sequence[Node],
    caps: Caps,
    target: Sequence[tuple[int, ...]],
    lower_bound: int,
    chains: int,
) -> TableReport:
    rows = table.node_rows
    before, after = loads_of(rows), loads_of(target)
    lost = {node.node_id for node in nodes if node.state in LOST_STATES}
    moved = [
        [was for was, now in zip(old_row, new_row, strict=True) if was != now]
        for old_row, new_row in zip(rows, target, strict=True)
        if old_row != new_row
    ]
    balance_before, was_fair = balance_or_none(old.nodes, rows, table.caps, table.m, before)
    fair = fair_shares(nodes, caps, table.partitions, table.n)
    return TableReport(
        profile=table.profile,
        n=table.n,
        partitions=table.partitions,
        moves=sum(map(len, moved)),
        newcomers=sum(
            len(set(new_row).difference(old_row))
            for old_row, new_row in zip(rows, target, strict=True)
            if old_row != new_row
        ),
        rebuilds=sum(node_id in lost for row in moved for node_id in row),
        lower_bound=lower_bound,
        ideal=ideal_moves(was_fair, fair),
        waves=max(map(len, moved), default=0),
        chains=chains,
        before=balance_before,
        after=balance(nodes, target, fair, table.m, after),
        nodes=tuple(
            NodeChange(node_id, before[node_id], after[node_id])
            for node_id in sorted(before.keys() | after.keys())
        ),
        advice=advice(nodes, caps, table.profile, table.n),
    )
