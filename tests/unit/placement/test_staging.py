"""Staged changes: kept as text, computed anew, refused with the reason and the cure."""

from __future__ import annotations

import json

import pytest

from hcefs.errors import Conflict, HcefsError, Invalid
from hcefs.ids import AccountId
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import first_map, plan
from hcefs.placement.staging import CHANGES_MAX, Change, Stage, Verb, outlook
from hcefs.placement.waves import apply_plan, is_planned


def node(number: int, zone: int | None = None, weight: int = 100) -> Node:
    return Node(
        number, AccountId(bytes([number]) * 16), f"10.0.0.{number}:1", f"10.0.0.{number}:2",
        f"zone-{number % 3 if zone is None else zone}", "", f"host-{number}", weight,
        NodeState.UP,
    )  # fmt: skip


@pytest.fixture
def current() -> ClusterMap:
    nodes = [node(number) for number in range(1, 8)]
    return first_map(nodes, [("ec-4-2", 4, 2), ("copy-3", 1, 2)], b"seed", "ec-4-2")


EVERY = [
    Change(Verb.ADD, 0, node(9)),
    Change(Verb.DRAIN, 1),
    Change(Verb.KEEP, 1),
    Change(Verb.REPLACE, 1, node(9)),
    Change(Verb.REMOVE, 1),
    Change(Verb.REWEIGHT, 1, weight=7),
    Change(Verb.OUT, 1),
]
TABLES = [
    Change(Verb.ADD_PROFILE, profile="ec-8-3", k=8, m=3),
    Change(Verb.SPLIT, profile="copy-3"),
]


@pytest.mark.parametrize("changes", [EVERY, TABLES])
def test_a_stage_survives_its_text(current: ClusterMap, changes: list[Change]) -> None:
    stage = Stage.of(current)
    for change in changes:
        stage = stage.with_change(change)
    again = Stage.decode(stage.encode())
    # A node that is yet to join is joining, whatever it was called before.
    assert [change.text() for change in again.changes] == [change.text() for change in changes]
    assert again.encode() == stage.encode()
    again.require_current(current)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data | {"version": 2},
        lambda data: data | {"epoch": "1"},
        lambda data: data | {"digest": "zz"},
        lambda data: data | {"changes": [{"verb": "explode"}]},
        lambda data: data | {"changes": [{"verb": "drain", "node_id": -1}]},
        lambda data: data | {"changes": [{"verb": "add", "new": {"node_id": 9}}]},
        lambda data: {"version": 1},
        lambda data: [],
    ],
)
def test_a_damaged_stage_is_refused(current: ClusterMap, damage: object) -> None:
    data = json.loads(Stage.of(current).with_change(EVERY[0]).encode())
    with pytest.raises(Invalid) as caught:
        Stage.decode(json.dumps(damage(data)))  # type: ignore[operator]
    assert caught.value.reason == "bad-stage"
    with pytest.raises(Invalid):
        Stage.decode("no json")


def test_the_outlook_is_that_of_the_plan(current: ClusterMap) -> None:
    found = outlook(current, [Change(Verb.ADD, 0, node(8))])
    expected = plan(current, found.successor.nodes)
    assert found.plan is not None
    assert found.plan.moves == expected.moves > 0
    assert found.successor == apply_plan(found.plan, current)
    assert found.successor.node(8).state is NodeState.JOINING  # type: ignore[union-attr]


def test_changes_follow_one_another(current: ClusterMap) -> None:
    """Of two changes the second sees what the first one did."""
    both = [Change(Verb.ADD, 0, node(8)), Change(Verb.REWEIGHT, 8, weight=200)]
    found = outlook(current, both).successor.node(8)
    assert found is not None
    assert found.weight == 200
    with pytest.raises(HcefsError) as caught:
        outlook(current, list(reversed(both)))
    assert caught.value.reason == "unknown-node"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([], "nothing-staged"),
        ([Change(Verb.DRAIN, 77)], "unknown-node"),
        ([Change(Verb.REWEIGHT, 1, weight=0)], "bad-weight"),
        ([Change(Verb.ADD, 0, node(3))], "node-id-twice"),
        ([Change(Verb.ADD, 0, node(8)), Change(Verb.ADD, 0, node(8))], "node-id-twice"),
        ([Change(Verb.REMOVE, 1)], "still-seated"),
        ([Change(Verb.DRAIN, 2)], "weaker-caps"),
        ([Change(Verb.DRAIN, 2), Change(Verb.DRAIN, 5)], "last-of-zone"),
        ([Change(Verb.ADD_PROFILE, profile="ec-8-3", k=8, m=3)], "too-few-nodes"),
        ([Change(Verb.ADD_PROFILE, profile="copy-3", k=1, m=2)], "table-twice"),
        ([Change(Verb.SPLIT, profile="ec-8-3")], "unknown-profile"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    current: ClusterMap, changes: list[Change], reason: str
) -> None:
    with pytest.raises(HcefsError) as caught:
        outlook(current, changes)
    assert caught.value.reason == reason


def test_consent_to_weaker_caps(current: ClusterMap) -> None:
    found = outlook(current, [Change(Verb.DRAIN, 2)], weaker_caps=True)
    assert found.successor.table("ec-4-2").caps.zone > current.table("ec-4-2").caps.zone


def test_tables_change_without_a_move(current: ClusterMap) -> None:
    found = outlook(current, [Change(Verb.SPLIT, profile="ec-4-2")])
    assert found.plan is None
    assert not is_planned(found.successor)
    assert found.successor.table("ec-4-2").bits == current.table("ec-4-2").bits + 1
    moving = outlook(current, [Change(Verb.ADD, 0, node(8))]).successor
    with pytest.raises(Conflict) as caught:
        outlook(moving, [Change(Verb.SPLIT, profile="ec-4-2")])
    assert caught.value.reason == "plan-in-progress"


def test_a_profile_is_added(current: ClusterMap) -> None:
    one_more = outlook(current, [Change(Verb.ADD_PROFILE, profile="ec-5-2", k=5, m=2)])
    assert [table.profile for table in one_more.successor.tables][-1] == "ec-5-2"
    assert one_more.successor.tables[:-1] == current.tables


def test_a_stage_of_another_map_is_stale(current: ClusterMap) -> None:
    stage = Stage.of(current).with_change(Change(Verb.DRAIN, 1))
    later = outlook(current, [Change(Verb.REWEIGHT, 3, weight=200)]).successor
    with pytest.raises(Conflict) as caught:
        stage.require_current(later)
    assert caught.value.reason == "stale-plan"
    stage.rebased(later).require_current(later)


def test_nodes_and_tables_do_not_mix(current: ClusterMap) -> None:
    stage = Stage.of(current).with_change(Change(Verb.DRAIN, 1))
    with pytest.raises(Conflict) as caught:
        stage.with_change(TABLES[0])
    assert caught.value.reason == "mixed-stage"


def test_a_stage_is_bounded(current: ClusterMap) -> None:
    stage = Stage(1, current.digest(), (Change(Verb.DRAIN, 1),) * CHANGES_MAX)
    with pytest.raises(Invalid) as caught:
        stage.with_change(Change(Verb.DRAIN, 1))
    assert caught.value.reason == "too-many-changes"
