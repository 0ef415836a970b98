"""A plan as a sequence of epochs: waves with at most one moving seat a row.

Each wave is one cluster map.  Its rows are the seats that *take writes*: a moving
seat already names its destination there, and ``Move.source`` says where readers
look next, or that the seat is to be rebuilt.  ``Table.target`` is where the plan
leads; what a later wave moves is what still differs from it, so nothing else needs
to be stored.  The map after the last wave has no target.

Invariants:

* a row has at most one seat in flight, and a seat at most two places;
* rows of every wave are legal if those before and after the plan are
  (``hcefs.placement.moves.align``);
* a seat in flight is never redirected: a plan made meanwhile starts from its
  destination, and moves it again, if at all, in a later wave.  Only if the
  destination is lost, the seat gets another one and is rebuilt;
* pure: every node that advances a map gets the same bytes.

Not guaranteed: that copies are complete.  Whoever calls ``advance`` has the facts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from hcefs.errors import Conflict
from hcefs.placement.cluster_map import ClusterMap, Move, Node, NodeState, Table, encode_rows
from hcefs.placement.planner import LOST_STATES, Plan, TablePlan

REBUILD = 0
"""``Move.source`` of a seat that no node can be asked for."""

Row = tuple[int, ...]


@dataclass(frozen=True, order=True)
class SeatName:
    """One seat of one table."""

    profile: str
    partition: int
    seat: int


def is_planned(cluster_map: ClusterMap) -> bool:
    """Whether a plan is being carried out."""
    return any(table.target for table in cluster_map.tables)


def in_flight(cluster_map: ClusterMap) -> Mapping[SeatName, int]:
    """The moving seats of the current wave and their sources, ``REBUILD`` for none.

    Found once for each map.
    """
    found: Mapping[SeatName, int] | None = cluster_map.derived.get((__name__, "moves"))
    if found is None:
        found = cluster_map.derived[__name__, "moves"] = MappingProxyType(
            {
                SeatName(table.profile, move.partition, move.seat): move.source
                for table in cluster_map.tables
                for move in table.moving
            }
        )
    return found


def moves_left(cluster_map: ClusterMap) -> int:
    """Seats that a plan moves in later waves: those that are not in flight yet."""
    found: int | None = cluster_map.derived.get((__name__, "left"))
    if found is None:
        found = cluster_map.derived[__name__, "left"] = sum(
            a != b
            for table in cluster_map.tables
            if table.target
            for row, wanted in zip(table.node_rows, table.target_rows, strict=True)
            for a, b in zip(row, wanted, strict=True)
        )
    return found


def is_concerned(cluster_map: ClusterMap, profile: str, partition: int, node_id: int) -> bool:
    """Whether a node is seat, destination or source in a row.  Costs a look-up.

    Raises:
        NotFound: the map has no such table.
    """
    table = cluster_map.table(profile)
    if node_id in table.node_rows[partition]:
        return True
    known: dict[int, int] | None = cluster_map.derived.get((__name__, f"sources of {profile}"))
    if known is None:
        # A row has at most one seat in flight, hence one source.
        known = {move.partition: move.source for move in table.moving}
        cluster_map.derived[__name__, f"sources of {profile}"] = known
    return node_id != REBUILD and known.get(partition) == node_id


def apply_plan(
    plan: Plan, current: ClusterMap, done: Collection[SeatName] = frozenset()
) -> ClusterMap:
    """The first wave of a plan, as the next epoch's map.

    ``done`` are seats in flight that have arrived meanwhile.  Applying a plan
    again while its first wave is in force returns that map: no second change.

    Raises:
        Conflict: the plan was made from another map than the one in force.
    """
    if current.epoch != plan.epoch or current.digest() != plan.base:
        if _is_applied(plan, current):
            return current
        raise Conflict(
            f"this plan was made from the map of epoch {plan.epoch}, and epoch {current.epoch} is "
            "in force: plan again",
            reason="stale-plan",
        )
    nodes = {node.node_id: node for node in plan.nodes}
    tables = tuple(
        _begin(table, planned, nodes, done)
        for table, planned in zip(current.tables, plan.tables, strict=True)
    )
    return _next(current, plan.nodes, tables)


def _is_applied(plan: Plan, current: ClusterMap) -> bool:
    pairs = zip(current.tables, plan.tables, strict=False)
    return (
        current.epoch == plan.epoch + 1
        and current.previous == plan.base
        and all(table.target in (planned.target, b"") for table, planned in pairs)
        and current.nodes == settled(plan.nodes, current.tables)
    )


def advance(current: ClusterMap, done: Collection[SeatName]) -> ClusterMap:
    """The map after the current wave: the next wave, or the end of the plan.

    Raises:
        Conflict: no plan is in progress, or a moving seat is not among ``done``.
    """
    if not is_planned(current):
        raise Conflict(
            "no plan is being carried out: there is nothing to advance", reason="no-plan"
        )
    left = [name for name in in_flight(current) if name not in done]
    if left:
        raise Conflict(
            f"{len(left)} seats of this wave have not arrived, the first is seat {left[0].seat} "
            f"of partition {left[0].partition} of {left[0].profile}: wait for them",
            reason="wave-not-done",
        )
    nodes = {node.node_id: node for node in current.nodes}
    tables = tuple(_step(table, {}, nodes, table.wave + 1) for table in current.tables)
    return _next(current, current.nodes, tables)


def epochs(plan: Plan, current: ClusterMap) -> Iterator[ClusterMap]:
    """Every map that carries out the plan, if all goes well."""
    now = apply_plan(plan, current)
    yield now
    while is_planned(now):
        now = advance(now, in_flight(now))
        yield now


def _next(old: ClusterMap, nodes: Sequence[Node], tables: tuple[Table, ...]) -> ClusterMap:
    return replace(
        old,
        epoch=old.epoch + 1,
        previous=old.digest(),
        nodes=settled(nodes, tables),
        tables=tables,
    )


def settled(nodes: Sequence[Node], tables: Sequence[Table]) -> tuple[Node, ...]:
    """Joining nodes are up once the plan that seats them is carried out."""
    if any(table.target for table in tables):
        return tuple(nodes)
    seated = {node_id for table in tables for row in table.node_rows for node_id in row}
    return tuple(
        replace(node, state=NodeState.UP)
        if node.state is NodeState.JOINING and node.node_id in seated
        else node
        for node in nodes
    )


def _begin(
    table: Table, planned: TablePlan, nodes: Mapping[int, Node], done: Collection[SeatName]
) -> Table:
    frozen: dict[int, Move] = {}
    for move in table.moving:
        holder = nodes[table.node_rows[move.partition][move.seat]]
        arrived = SeatName(table.profile, move.partition, move.seat) in done
        if holder.state not in LOST_STATES and not arrived:
            frozen[move.partition] = replace(move, source=_source(move.source, nodes))
    moved = replace(table, caps=planned.caps, target=planned.target, moving=(), wave=0, waves=0)
    return _step(moved, frozen, nodes, 1)


def _step(table: Table, frozen: Mapping[int, Move], nodes: Mapping[int, Node], wave: int) -> Table:
    """Move one more seat of each row that has none in flight and is not there yet."""
    if not table.target:
        return table
    rows = list(table.node_rows)
    moving = []
    left = 0
    for partition, wanted in enumerate(table.target_rows):
        row = rows[partition]
        held = frozen.get(partition)
        if row == wanted:
            if held is not None:
                moving.append(held)
            continue
        away = [seat for seat, (was, now) in enumerate(zip(row, wanted, strict=True)) if was != now]
        left = max(left, len(away) - (held is None))
        if held is not None:
            moving.append(held)
            continue
        # What is lost comes first: until it is rebuilt, the row has less to lose.
        seat = min(away, key=lambda seat: (nodes[row[seat]].state not in LOST_STATES, seat))
        moving.append(Move(partition, seat, _source(row[seat], nodes)))
        rows[partition] = (*row[:seat], wanted[seat], *row[seat + 1 :])
    if not moving:
        return replace(table, target=b"", moving=(), wave=0, waves=0)
    return replace(
        table, rows=encode_rows(rows), moving=tuple(moving), wave=wave, waves=wave + left
    )


def _source(node_id: int, nodes: Mapping[int, Node]) -> int:
    node = nodes.get(node_id)
    return node_id if node is not None and node.state not in LOST_STATES else REBUILD


def by_urgency(cluster_map: ClusterMap) -> tuple[SeatName, ...]:
    """The seats in flight in the order in which they should be copied.

    Rows that miss most seats come first: those whose holder is lost, or that are
    themselves to be rebuilt.  Found once for each map.
    """
    found: tuple[SeatName, ...] | None = cluster_map.derived.get((__name__, "urgency"))
    if found is None:
        found = cluster_map.derived[__name__, "urgency"] = tuple(_by_urgency(cluster_map))
    return found


def arriving_at(cluster_map: ClusterMap, node_id: int) -> tuple[SeatName, ...]:
    """Those of :func:`by_urgency` whose destination is one node.  Found once for each map."""
    found: dict[int, tuple[SeatName, ...]] = cluster_map.derived.setdefault(
        (__name__, "destinations"), {}
    )
    if node_id not in found:
        rows = {table.profile: table.node_rows for table in cluster_map.tables}
        found[node_id] = tuple(
            name
            for name in by_urgency(cluster_map)
            if rows[name.profile][name.partition][name.seat] == node_id
        )
    return found[node_id]


def _by_urgency(cluster_map: ClusterMap) -> list[SeatName]:
    lost = {node.node_id for node in cluster_map.nodes if node.state in LOST_STATES}
    ranked = []
    for table in cluster_map.tables:
        for move in table.moving:
            row = table.node_rows[move.partition]
            missing = sum(node_id in lost for node_id in row) + (move.source == REBUILD)
            ranked.append((-missing, SeatName(table.profile, move.partition, move.seat)))
    return [name for _, name in sorted(ranked)]
