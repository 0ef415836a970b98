"""Which map may follow which when plans are carried out: the rule of protocol version 2.

Version 1 of the ledger's protocol refuses every map with a plan in progress and
every changed row (``hcefs.placement.cluster_map.check_successor``), and stays as it
is.  These rules replace it from the height at which version 2 is activated, and are
frozen with it.

Invariants: verdicts depend on the arguments alone; of a map that passed, ``advance``
makes only maps that pass.  Rows change only as seats that
are then in flight, with their old holder as source or, where that is lost, none; a
seat leaves flight only when it has arrived, as ``done`` says, or when its
destination is lost.

Not checked: that a target is the one that the planner finds.  It costs seconds at
most, but followers with another planner would disagree for ever; nodes check it
beside the ledger with ``is_as_planned``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise

from hcefs.errors import HcefsError, Invalid
from hcefs.placement.cluster_map import (
    ClusterMap,
    Move,
    NodeState,
    Table,
    check_nodes_kept,
    check_tables_kept,
    require_next,
)
from hcefs.placement.planner import LOST_STATES, plan
from hcefs.placement.split import is_split_of
from hcefs.placement.waves import REBUILD, SeatName


def check_planned(cluster_map: ClusterMap) -> None:
    """Check everything that a map says by itself, plans included.

    Raises:
        Invalid: with a reason for each rule.
    """
    cluster_map.check(plans=True)
    for table in cluster_map.tables:
        _check_plan(cluster_map, table)


def _check_plan(cluster_map: ClusterMap, table: Table) -> None:
    name = f"table {table.profile}"
    if not table.target:
        if table.moving or table.wave or table.waves:
            raise Invalid(f"{name} has a wave without a target", reason="bad-plan")
        return
    if not table.moving or not 1 <= table.wave <= table.waves <= 2 * table.n:
        raise Invalid(
            f"{name} has a target, and no moving seat or a wave outside its plan", reason="bad-plan"
        )
    nodes = {node.node_id: node for node in cluster_map.nodes}
    # A target is rows: the same size, different nodes of the map, none removed.
    try:
        replace(table, rows=table.target, target=b"", moving=(), wave=0, waves=0).check(nodes)
    except Invalid as error:
        raise Invalid(f"the target of {error.message}", reason=error.reason) from None
    partitions = [move.partition for move in table.moving]
    if any(after <= before for before, after in pairwise(partitions)):
        raise Invalid(
            f"{name}: moving seats must be in order of partition, at most one in each",
            reason="bad-plan",
        )
    for move in table.moving:
        if not 0 <= move.partition < table.partitions or not 0 <= move.seat < table.n:
            raise Invalid(f"{name}: a moving seat is outside the table", reason="bad-plan")
        source = nodes.get(move.source)
        if move.source != REBUILD and (
            source is None
            or source.state is NodeState.REMOVED
            or move.source in table.node_rows[move.partition]
        ):
            raise Invalid(
                f"{name}: seat {move.seat} of partition {move.partition} is copied from node "
                f"{move.source}, which is not in the map or has a seat of the row",
                reason="bad-plan",
            )
    # What follows lets every later wave be made without looking at it again: it is legal
    # in whatever order the seats move, and the plan ends with its last wave.
    left = 0
    for partition, (row, wanted) in enumerate(zip(table.node_rows, table.target_rows, strict=True)):
        if row == wanted:
            continue
        away = [seat for seat, (was, now) in enumerate(zip(row, wanted, strict=True)) if was != now]
        left = max(left, len(away))
        if not {row[seat] for seat in away}.isdisjoint([wanted[seat] for seat in away]):
            raise Invalid(
                f"the target of {name}: partition {partition} gives a node that stays another "
                "seat of the row",
                reason="bad-plan",
            )
    if table.waves != table.wave + left:
        raise Invalid(
            f"{name}: {left} waves are left after wave {table.wave}, not those of {table.waves}",
            reason="bad-plan",
        )


def check_planned_successor(
    old: ClusterMap | None, new: ClusterMap, done: Collection[SeatName] = frozenset()
) -> None:
    """Check that ``new`` may replace ``old``, with the seats that have arrived.

    Raises:
        Conflict: another epoch or another previous map than the one in force.
        Invalid: ``new`` is malformed, forgets or re-uses a node id, or moves
            seats otherwise than in waves.
    """
    check_planned(new)
    require_next(old, new)
    if old is None:
        if any(table.target for table in new.tables):
            raise Invalid("the first map has nothing to move", reason="bad-plan")
        return
    check_nodes_kept(old, new)
    check_tables_kept(old, new)
    for before in old.tables:
        after = new.table(before.profile)
        if after.bits != before.bits:
            if not is_split_of(after, before):
                raise _unplanned(before, "its partitions are not the old ones split in two")
            continue
        _check_waves(before, after, new, done)


def _unplanned(table: Table, why: str) -> Invalid:
    return Invalid(
        f"the seats of table {table.profile} do not move in waves: {why}", reason="unplanned-move"
    )


def _check_waves(before: Table, after: Table, new: ClusterMap, done: Collection[SeatName]) -> None:
    # A new target begins at wave 1, where nodes compare it with their own plan.
    follows = (1, before.wave, before.wave + 1) if after.target == before.target else (1,)
    if after.target and after.wave not in follows:
        raise _unplanned(before, f"wave {after.wave} follows wave {before.wave}")
    lost = {node.node_id for node in new.nodes if node.state in LOST_STATES}
    was = {move.partition: move for move in before.moving}
    now = {move.partition: move for move in after.moving}
    targets = after.target_rows
    changed = [
        partition
        for partition, (row, other) in enumerate(
            zip(before.node_rows, after.node_rows, strict=True)
        )
        if row != other
    ]
    for partition in sorted({*changed, *was, *now}):
        problem = _problem(
            before.node_rows[partition],
            after.node_rows[partition],
            targets[partition],
            was.get(partition),
            now.get(partition),
            lost,
            SeatName(before.profile, partition, was[partition].seat) in done
            if partition in was
            else False,
        )
        if problem:
            raise _unplanned(before, f"partition {partition}: {problem}")


def _problem(
    row: tuple[int, ...],
    other: tuple[int, ...],
    target: tuple[int, ...],
    was: Move | None,
    now: Move | None,
    lost: Collection[int],
    arrived: bool,
) -> str:
    """What is wrong with the step that one row makes; empty is well."""
    seats = [seat for seat, (a, b) in enumerate(zip(row, other, strict=True)) if a != b]
    ended = was is None or arrived or row[was.seat] in lost
    if not seats:
        if now is not None and (was is None or now.seat != was.seat):
            return "a seat is in flight that does not move"
        if was is not None and now is None and not ended:
            return "a seat left flight before it arrived"
        if was is not None and now is not None:
            sources = {was.source} if was.source not in lost else {REBUILD}
            return "" if now.source in sources else "a seat in flight got another source"
        return ""
    if not ended:
        return "a seat moves while another is in flight"
    if len(seats) > 1 or now is None or now.seat != seats[0]:
        return "a seat moves that is not in flight, or more than one"
    holder = row[now.seat]
    if now.source != (REBUILD if holder in lost else holder):
        return "the source of a seat is not who held it"
    return "" if other[now.seat] == target[now.seat] else "a seat moves elsewhere than its target"


def is_as_planned(old: ClusterMap, new: ClusterMap) -> bool:
    """Whether the targets that ``new`` introduces are those that the planner finds.

    True for a map that begins no plan.  It takes as long as planning.
    """
    begun = [table for table in new.tables if table.target and table.wave == 1]
    if not begun:
        return True
    try:
        found = plan(old, new.nodes, weaker_caps=True)
    except HcefsError:
        return False
    planned = {table.profile: table for table in found.tables}
    return all(
        table.profile in planned
        and planned[table.profile].target == table.target
        and planned[table.profile].caps == table.caps
        for table in begun
    )
