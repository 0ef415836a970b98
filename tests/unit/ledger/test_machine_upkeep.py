"""The upkeep policy and the nodes' reports under protocol version 2."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.errors import Conflict, Denied, Invalid
from hcefs.ledger.cluster_facts import (
    OUT_AFTER_MS_MAX,
    OUT_AFTER_MS_MIN,
    MissedNode,
    ReportRow,
    Reprofile,
    UpkeepPolicy,
)
from hcefs.ledger.transactions import DeactivateAccount
from hcefs.ledger.transactions_map import NodeReport, SetUpkeepPolicy
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, NodeState
from tests.unit.ledger.clusters import MINUTE_MS, OPERATORS, PROFILES, Cluster
from tests.unit.ledger.scenario import START_MS

DIGEST = bytes(range(32))


@pytest.fixture
def world() -> Cluster:
    return Cluster(profiles=PROFILES)


def with_state(current: ClusterMap, node_id: int, state: NodeState) -> ClusterMap:
    return replace(
        current,
        epoch=current.epoch + 1,
        previous=current.digest(),
        nodes=tuple(
            replace(node, state=state) if node.node_id == node_id else node
            for node in current.nodes
        ),
    )


# --- policy ---------------------------------------------------------------------------------


def test_the_default_policy_is_to_do_nothing(world: Cluster) -> None:
    assert world.view.policy() == UpkeepPolicy(0, 0, 1, ())


def test_a_policy_is_swapped_by_its_number(world: Cluster) -> None:
    pairs = (Reprofile("copy-3", "narrow"),)
    first = world.set_policy(out_after_ms=MINUTE_MS, reprofile=pairs)
    assert world.view.policy() == first == UpkeepPolicy(1, MINUTE_MS, 1, pairs)
    second = world.set_policy(out_max=2)
    assert world.view.policy() == second
    late = SetUpkeepPolicy(1, replace(second, out_max=3))
    refusal = world.refusal(late, *OPERATORS)
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "policy-moved"
    early = SetUpkeepPolicy(4, replace(second, number=5))
    assert world.refusal(early, *OPERATORS).reason == "policy-moved"


def test_the_policy_in_force_set_again_changes_nothing(world: Cluster) -> None:
    policy = world.set_policy(out_max=2)
    before = dict(world.state.scan(b""))
    world.submit(SetUpkeepPolicy(0, policy), "o2", "o3")
    assert dict(world.state.scan(b"")) == before


@pytest.mark.parametrize("signers", [("o1",), ("n1",), ("o1", "o2", "n1")])
def test_operators_set_the_policy(world: Cluster, signers: tuple[str, ...]) -> None:
    refusal = world.refusal(SetUpkeepPolicy(0, UpkeepPolicy(1)), *signers)
    assert isinstance(refusal, Denied)


def pair(before: str, after: str) -> Reprofile:
    return Reprofile(before, after)


@pytest.mark.parametrize(
    "policy",
    [
        UpkeepPolicy(2),  # not the next number
        UpkeepPolicy(0),
        UpkeepPolicy(1, out_after_ms=OUT_AFTER_MS_MIN - 1),
        UpkeepPolicy(1, out_after_ms=OUT_AFTER_MS_MAX + 1),
        UpkeepPolicy(1, out_after_ms=-1),
        UpkeepPolicy(1, out_max=0),
        UpkeepPolicy(1, out_max=65),
        UpkeepPolicy(1, reprofile=(pair("copy-3", "copy-3"),)),
        UpkeepPolicy(1, reprofile=(pair("copy-3", "narrow"), pair("narrow", "copy-3"))),
        UpkeepPolicy(1, reprofile=(pair("a", "b"), pair("b", "c"), pair("c", "b"))),
        UpkeepPolicy(1, reprofile=(pair("copy-3", "narrow"), pair("copy-3", "other"))),
        UpkeepPolicy(1, reprofile=(pair("", "narrow"),)),
        UpkeepPolicy(1, reprofile=(pair("x" * 65, "narrow"),)),
        UpkeepPolicy(1, reprofile=tuple(pair(f"p{n}", f"p{n + 1}") for n in range(17))),
    ],
)
def test_malformed_policies(world: Cluster, policy: UpkeepPolicy) -> None:
    refusal = world.refusal(SetUpkeepPolicy(0, policy), *OPERATORS)
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "bad-policy"


@pytest.mark.parametrize("out_after_ms", [OUT_AFTER_MS_MIN, OUT_AFTER_MS_MAX])
def test_the_bounds_of_a_policy(world: Cluster, out_after_ms: int) -> None:
    world.set_policy(out_after_ms=out_after_ms, out_max=64)
    world.set_policy(out_after_ms=0, out_max=1)


@pytest.mark.parametrize("names", [("copy-3", "ec-9-9"), ("ec-9-9", "copy-3")])
def test_profiles_need_a_table(world: Cluster, names: tuple[str, str]) -> None:
    policy = UpkeepPolicy(1, reprofile=(pair(*names),))
    refusal = world.refusal(SetUpkeepPolicy(0, policy), *OPERATORS)
    assert refusal.reason == "unknown-profile"


# --- reports --------------------------------------------------------------------------------


def test_who_is_missed_is_missed_since_the_first_report(world: Cluster) -> None:
    world.report(1, [2])
    world.time_ms += 5_000
    world.report(1, [2, 4], DIGEST)
    assert world.view.report(1) == ReportRow(
        1, 2, 1, (MissedNode(2, START_MS), MissedNode(4, START_MS + 5_000)), DIGEST
    )
    world.report(1, [4])
    world.time_ms += 5_000
    world.report(1, [2, 4])
    row = world.view.report(1)
    assert row is not None
    assert (row.misses(2), row.misses(4), row.misses(3)) == (
        START_MS + 10_000,
        START_MS + 5_000,
        None,
    )
    assert row.endorses == b""


def test_reports_of_nodes_are_apart(world: Cluster) -> None:
    world.report(2, [1])
    world.report(1)
    assert [row.node_id for row in world.view.reports()] == [1, 2]


def test_equal_reports_of_two_nodes_are_two_transactions(world: Cluster) -> None:
    reports = [world.sign(world.report_of(number, [3]), f"n{number}") for number in (1, 2)]
    assert reports[0].hash() != reports[1].hash()


def test_an_old_report_does_not_come_back(world: Cluster) -> None:
    old = world.report_of(1, [2])
    world.submit(old, "n1")
    before = dict(world.state.scan(b""))
    world.submit(old, "n1")
    assert dict(world.state.scan(b"")) == before
    world.report(1)
    for number in (1, 2):
        refusal = world.refusal(replace(old, number=number), "n1")
        assert isinstance(refusal, Conflict)
        assert refusal.reason == "report-moved"
    world.submit(replace(old, number=99), "n1")


@pytest.mark.parametrize(
    ("unreachable", "reason"),
    [((1,), "own-node"), ((7,), "unknown-node"), ((2, 3, 7), "unknown-node")],
)
def test_who_cannot_be_missed(world: Cluster, unreachable: tuple[int, ...], reason: str) -> None:
    assert world.refusal(world.report_of(1, unreachable), "n1").reason == reason


def test_a_removed_node_cannot_be_missed_and_one_that_is_out_can(world: Cluster) -> None:
    world.grow(5)
    world.arrive()
    drained = world.planned(changes.drain(world.map, 5))
    world.set_map(drained)
    world.arrive()
    world.set_map(with_state(world.map, 5, NodeState.OUT))
    world.report(1, [5])
    world.set_map(with_state(world.map, 5, NodeState.REMOVED))
    assert world.refusal(world.report_of(1, [5]), "n1").reason == "unknown-node"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": 0}, "bad-epoch"),
        ({"unreachable": (3, 2)}, "bad-unreachable"),
        ({"unreachable": (2, 2)}, "bad-unreachable"),
        ({"unreachable": (0,)}, "bad-unreachable"),
        ({"unreachable": (65536,)}, "bad-unreachable"),
        ({"unreachable": tuple(range(1, 4098))}, "bad-unreachable"),
        ({"endorses": bytes(31)}, "bad-digest"),
        ({"number": 0}, "bad-number"),
        ({"node_id": 0}, "bad-node-id"),
        ({"node_id": 65536}, "bad-node-id"),
        ({"number": 1 << 63}, "bad-number"),
    ],
)
def test_malformed_reports(world: Cluster, change: dict[str, object], reason: str) -> None:
    report: NodeReport = replace(world.report_of(1), **change)  # type: ignore[arg-type]
    refusal = world.refusal(report, "n1")
    assert isinstance(refusal, Invalid)
    assert refusal.reason == reason


@pytest.mark.parametrize(
    ("signers", "reason"),
    [
        (("o1",), "not-a-node"),
        (("n1", "n2"), "one-signature"),
        (("n6",), "not-in-map"),
        (("n2",), "other-node"),
    ],
)
def test_a_node_of_the_map_reports(world: Cluster, signers: tuple[str, ...], reason: str) -> None:
    assert world.refusal(world.report_of(1), *signers).reason == reason


def test_an_ended_account_reports_nothing(world: Cluster) -> None:
    world.submit(DeactivateAccount(world.account("n1")), *OPERATORS)
    assert world.refusal(world.report_of(1), "n1").reason == "inactive-account"


@pytest.mark.parametrize("epoch", [2, 9])
def test_a_report_is_about_the_map_in_force(world: Cluster, epoch: int) -> None:
    refusal = world.refusal(replace(world.report_of(1, [7]), epoch=epoch), "n1")
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "epoch-moved"


@pytest.mark.parametrize("state", [NodeState.DOWN, NodeState.OUT])
def test_what_a_node_said_before_it_left_is_forgotten(world: Cluster, state: NodeState) -> None:
    world.report(4, [2])
    world.report(1, [2])
    world.set_map(with_state(world.map, 4, state))
    assert world.view.report(4) is None
    assert world.view.report(1) is not None
    assert world.refusal(world.report_of(4), "n4").reason == "not-in-map"
    world.set_map(with_state(world.map, 4, NodeState.UP))
    world.report(4)
