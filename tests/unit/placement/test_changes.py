"""What operators may do to nodes, and what is refused with reason and cure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from hcefs.errors import Conflict, HcefsError, Invalid, NotFound
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.feasibility import Infeasible
from hcefs.placement.planner import plan
from hcefs.placement.waves import apply_plan, epochs
from tests.unit.placement.maps import node, small_map, successor, with_node

M = ClusterMap


@pytest.fixture(scope="module")
def cluster_map() -> ClusterMap:
    return small_map(9, 3)


def with_gone(old: ClusterMap) -> ClusterMap:
    """With a removed node 10."""
    return dataclasses.replace(old, nodes=(*old.nodes, node(10, state=NodeState.REMOVED)))


def state_of(nodes: tuple[Node, ...], node_id: int) -> NodeState:
    return next(one.state for one in nodes if one.node_id == node_id)


REFUSED: list[tuple[str, Callable[[M], object], type[HcefsError], str, str]] = [
    ("duplicate id", lambda m: changes.add(m, [node(3)]), Conflict, "node-id-twice", "use id 11"),
    ("re-used id", lambda m: changes.add(m, [node(10)]), Invalid, "node-id-reused", "use 11"),
    (
        "duplicate account",
        lambda m: changes.add(m, [node(11, account=node(3).account)]),
        Conflict,
        "account-twice",
        "remove it first",
    ),
    (
        "twice in one request",
        lambda m: changes.add(m, [node(11), node(11)]),
        Conflict,
        "node-id-twice",
        "use id",
    ),
    (
        "new without weight",
        lambda m: changes.add(m, [node(11, weight=0)]),
        Invalid,
        "bad-weight",
        "outside 1..",
    ),
    ("weight of zero", lambda m: changes.reweight(m, 3, 0), Invalid, "bad-weight", "drain it"),
    ("weight below zero", lambda m: changes.reweight(m, 3, -5), Invalid, "bad-weight", "drain it"),
    (
        "weight too large",
        lambda m: changes.reweight(m, 3, (1 << 24) + 1),
        Invalid,
        "bad-weight",
        "outside 1..",
    ),
    ("unknown node", lambda m: changes.drain(m, 77), NotFound, "unknown-node", "new id"),
    ("removed node", lambda m: changes.mark_up(m, 10), NotFound, "unknown-node", "new id"),
    ("removed node out", lambda m: changes.mark_out(m, [10]), NotFound, "unknown-node", "new id"),
    (
        "replace unknown",
        lambda m: changes.replace_node(m, 77, node(11)),
        NotFound,
        "unknown-node",
        "",
    ),
    ("remove twice", lambda m: changes.remove(m, 10), NotFound, "unknown-node", ""),
    ("remove with seats", lambda m: changes.remove(m, 3), Conflict, "still-seated", "drain it"),
    ("ramp of nothing", lambda m: changes.ramp(10, 0), Invalid, "bad-ramp", ""),
]


@pytest.mark.parametrize(
    ("call", "kind", "reason", "cure"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_refused(
    cluster_map: ClusterMap,
    call: Callable[[M], object],
    kind: type[HcefsError],
    reason: str,
    cure: str,
) -> None:
    with pytest.raises(kind) as error:
        call(with_gone(cluster_map))
    assert error.value.reason == reason
    assert cure in error.value.message


def test_removing_below_the_minimum() -> None:
    six = small_map(6, 3)
    with pytest.raises(Infeasible) as error:
        changes.remove(six, 2)
    assert error.value.reason == "too-few-nodes"
    assert "replace node 2" in error.value.message


def test_draining_the_last_node_of_a_zone() -> None:
    old = small_map(9, 3)
    alone = dataclasses.replace(old, nodes=(*old.nodes, node(10, "z9")))
    with pytest.raises(Infeasible) as error:
        changes.drain(alone, 10)
    assert error.value.reason == "last-of-zone"
    assert [cure.text for cure in error.value.cures] == [
        "add one host in zone z9",
        "consent to giving the zone up",
    ]
    assert state_of(changes.drain(alone, 10, give_up_zone=True), 10) is NodeState.DRAINING
    with pytest.raises(Infeasible):
        changes.replace_node(alone, 10, node(11, "z0"))
    changes.replace_node(alone, 10, node(11, "z9"))


def test_states(cluster_map: ClusterMap) -> None:
    assert state_of(changes.drain(cluster_map, 2), 2) is NodeState.DRAINING
    assert state_of(changes.mark_down(cluster_map, 2), 2) is NodeState.DOWN
    assert state_of(changes.mark_out(cluster_map, [2]), 2) is NodeState.OUT
    assert state_of(changes.add(cluster_map, [node(10)]), 10) is NodeState.JOINING
    draining = dataclasses.replace(cluster_map, nodes=changes.drain(cluster_map, 2))
    assert state_of(changes.mark_up(draining, 2), 2) is NodeState.UP
    lost = dataclasses.replace(cluster_map, nodes=changes.mark_out(cluster_map, [2]))
    replaced = changes.replace_node(lost, 2, node(10, "z2"))
    assert state_of(replaced, 2) is NodeState.OUT


def test_a_node_is_drained_and_then_removed_for_good(cluster_map: ClusterMap) -> None:
    found = plan(cluster_map, changes.drain(cluster_map, 4))
    now = apply_plan(found, cluster_map)
    with pytest.raises(Conflict, match="wait for the plan"):
        changes.remove(now, 4)
    *_, last = epochs(found, cluster_map)
    assert changes.seats_of(last, 4) == 0
    gone = successor(last, nodes=changes.remove(last, 4))
    with pytest.raises(Invalid):
        changes.add(gone, [node(4)])
    assert changes.next_node_id(gone) == 10
    back = changes.add(gone, [node(10, account=node(4).account)])
    assert plan(gone, back).moves > 0


def test_ids_run_out() -> None:
    full = small_map(6, 3)
    full = dataclasses.replace(full, nodes=(*full.nodes, node(0xFFFF, account=node(7).account)))
    with pytest.raises(Invalid) as error:
        changes.next_node_id(full)
    assert error.value.reason == "no-node-id"


def test_a_ramp_ends_at_the_weight() -> None:
    assert list(changes.ramp(100, 4)) == [25, 50, 75, 100]
    assert list(changes.ramp(2, 4)) == [1, 1, 1, 2]


def test_seats_to_come_count(cluster_map: ClusterMap) -> None:
    now = apply_plan(plan(cluster_map, changes.add(cluster_map, [node(10)])), cluster_map)
    assert changes.seats_of(now, 10) > 0
    assert with_node(now, 10)
