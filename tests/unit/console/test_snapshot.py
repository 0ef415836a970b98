"""The snapshot, from collected facts."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hcefs.console.pace import PlanPace
from hcefs.console.snapshot import Facts, snapshot
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.planner import first_map, plan
from hcefs.placement.waves import apply_plan, in_flight, moves_left
from hcefs.transport.node_facts import LISTED_MAX, LiveShards, NodeFacts
from hcefs.wire.v1 import facts_pb2
from tests.unit.placement.maps import SEED, node, nodes

TOLD = NodeFacts(
    taken_ms=1_000,
    version="1.0.0",
    height=7,
    disk_state="ok",
    live=(LiveShards("ec-4-2", 5, 2), LiveShards("ec-4-2", 6, 3)),
    pass_ended_ms=900,
    backlog=(("1", 2),),
    denials=(("no-grant", 4), ("revoked", 1)),
)


@pytest.fixture(scope="module")
def six() -> ClusterMap:
    return first_map(nodes(6, 3), [("ec-4-2", 4, 2)], SEED, "ec-4-2")


def all_answer(current: ClusterMap, *away: int) -> dict[int, bool]:
    return {each.node_id: each.node_id not in away for each in current.nodes}


def test_a_healthy_cluster(six: ClusterMap) -> None:
    told = {1: TOLD, 2: TOLD}
    found = snapshot(Facts(2_000, six, (), all_answer(six), told, 7, 4, 10_000, 1))
    assert found["verdict"]["read"]["ok"]
    assert found["verdict"]["write"]["ok"]
    assert found["verdict"]["spare_shards"] == {"ec-4-2": 2}
    assert found["plan"] is None
    assert found["blobs"]["passes"] == 2
    assert found["blobs"]["of"] == 6
    assert found["blobs"]["by_live_shards"] == [
        {"profile": "ec-4-2", "live": 5, "k": 4, "n": 6, "blobs": 4},
        {"profile": "ec-4-2", "live": 6, "k": 4, "n": 6, "blobs": 6},
    ]
    assert found["denials"] == {"no-grant": 8, "revoked": 2}
    first = found["nodes"][0]
    assert (first["zone"], first["weight"], first["answers"]) == ("z1", 100, True)
    assert first["seats"] == first["ideal_seats"]
    assert first["facts"]["backlog"] == {"1": 2}
    assert found["nodes"][5]["facts"] is None
    json.dumps(found)


@pytest.mark.parametrize(("away", "read", "write"), [((5,), True, True), ((5, 6), True, False)])
def test_nodes_that_are_away(
    six: ClusterMap, away: tuple[int, ...], read: bool, write: bool
) -> None:
    found = snapshot(Facts(2_000, six, (), all_answer(six, *away)))
    assert (found["verdict"]["read"]["ok"], found["verdict"]["write"]["ok"]) == (read, write)
    assert [each["id"] for each in found["nodes"] if each["answers"] is False] == list(away)


def test_who_was_not_heard_of_is_not_said_to_be_away(six: ClusterMap) -> None:
    found = snapshot(Facts(2_000, six, (), {1: True}))
    assert found["nodes"][1]["answers"] is None
    assert not found["verdict"]["read"]["known"]


def test_who_cannot_tell_says_so(six: ClusterMap) -> None:
    found = snapshot(Facts(2_000, six, (), all_answer(six), unready=("the lease ran out",)))
    assert found["verdict"]["read"] == {"ok": False, "known": False, "reason": "the lease ran out"}
    assert snapshot(Facts(2_000, None))["nodes"] == []


def test_a_plan_and_its_pace(six: ClusterMap) -> None:
    made = plan(six, changes.add(six, [node(7, "z0")]))
    moving = apply_plan(made, six, ())
    found = snapshot(Facts(2_000, moving, (), all_answer(moving), seconds_left=3.04))
    shown = found["plan"]
    flying = in_flight(moving)
    assert shown["in_flight"] == len(flying) > 0
    assert shown["later"] == moves_left(moving) == made.moves - len(flying)
    assert shown["seconds_left"] == 3.0
    pace, names = PlanPace(), sorted(flying, key=str)
    assert pace.enter(moving, (), 0.0) is None
    left = made.moves - 1
    assert pace.enter(moving, names[:1], 2.0) == pytest.approx(2.0 * left)
    assert pace.enter(six, (), 3.0) is None


def test_facts_travel_whole() -> None:
    assert NodeFacts.of(facts_pb2.NodeFacts.FromString(TOLD.message().SerializeToString())) == TOLD


def test_what_another_node_says_is_bounded() -> None:
    rude = dataclasses.replace(
        TOLD,
        version="<b>1</b>",
        disk_state="x" * 65,
        repair_left_seconds=float("nan"),
        denials=tuple((f"r{number}", 1) for number in range(LISTED_MAX + 9)),
        backlog=(("<script>", 1), ("two words", 2)),
    )
    found = NodeFacts.of(rude.message())
    assert (found.version, found.disk_state) == ("other", "other")
    assert found.repair_left_seconds == -1.0
    assert len(found.denials) == LISTED_MAX
    assert found.backlog == (("other", 3),)
