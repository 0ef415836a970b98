"""What nodes find by themselves when others are gone: one map, legal, and nothing but that."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest

from hcefs.errors import Invalid, NotFound
from hcefs.placement import changes
from hcefs.placement.automatic import automatic_successor, given_up, is_only_given_up
from hcefs.placement.cluster_map import ClusterMap, NodeState
from hcefs.placement.feasibility import Infeasible
from hcefs.placement.planner import plan
from hcefs.placement.successor import check_planned_successor
from hcefs.placement.waves import advance, apply_plan, in_flight, is_planned
from tests.property.test_plan_properties import change, first
from tests.unit.placement.maps import small_map


def in_some_state(draw: Random) -> ClusterMap:
    """A map at rest, or in the middle of some plan."""
    current = first(draw)
    for _ in range(draw.randint(0, 3)):
        try:
            current = apply_plan(plan(current, change(draw, current), weaker_caps=True), current)
        except Invalid:
            continue
        for _ in range(draw.randint(0, 3)):
            if is_planned(current):
                current = advance(current, in_flight(current))
    return current


@pytest.mark.parametrize("seed", range(40))
def test_the_successor_is_legal_and_only_gives_up(seed: int) -> None:
    draw = Random(f"automatic {seed}")  # noqa: S311 - not for secrets, and replayable
    current = in_some_state(draw)
    live = [
        node.node_id
        for node in current.nodes
        if node.state not in (NodeState.OUT, NodeState.REMOVED)
    ]
    out = frozenset(draw.sample(live, min(len(live), draw.randint(1, 2))))
    try:
        new = automatic_successor(current, out)
    except Infeasible:
        return
    assert new == automatic_successor(ClusterMap.decode(current.encode()), sorted(out))
    done = frozenset(name for name in in_flight(current) if draw.random() < 0.5)
    check_planned_successor(current, new, done)
    assert given_up(current, new) == out
    assert is_only_given_up(current, new, out)
    assert not is_only_given_up(current, new, out - {min(out)})
    while is_planned(new):
        following = advance(new, in_flight(new))
        check_planned_successor(new, following, in_flight(new))
        new = following
    seated = {node_id for table in new.tables for row in table.node_rows for node_id in row}
    assert seated.isdisjoint(out)


def test_who_is_gone_already_cannot_be_given_up() -> None:
    current = small_map(8)
    with pytest.raises(NotFound):
        automatic_successor(current, [9])
    gone = dataclasses.replace(current, nodes=changes.mark_out(current, [8]))
    assert given_up(gone, dataclasses.replace(gone, epoch=2)) == frozenset()


def test_what_the_others_cannot_hold_is_for_the_operators() -> None:
    with pytest.raises(Infeasible):
        automatic_successor(small_map(6), [1])
