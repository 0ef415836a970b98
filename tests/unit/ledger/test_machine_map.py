"""The cluster map: compare-and-swap, operator threshold, registered nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.access.facts import AccountKind
from hcefs.errors import Conflict, Denied, Invalid, NotFound
from hcefs.ledger.machine import MapChanged
from hcefs.ledger.transactions import DeactivateAccount, SetClusterMap
from hcefs.placement.cluster_map import (
    Caps,
    ClusterMap,
    Node,
    NodeState,
    Table,
    encode_rows,
)
from tests.unit.ledger.scenario import Scenario, seed

NAMES = ("n1", "n2", "n3", "n4")


def node(world: Scenario, number: int, name: str, state: NodeState = NodeState.UP) -> Node:
    return Node(
        node_id=number,
        account=world.account(name),
        address=f"10.0.0.{number}:7000",
        peer_address=f"10.0.0.{number}:7001",
        zone="z",
        rack="",
        host=f"h{number}",
        weight=1,
        state=state,
    )


def first_map(world: Scenario) -> ClusterMap:
    """Four nodes, of which the first three hold every seat of a three-copy profile."""
    table = Table(
        profile="copy-3",
        k=1,
        m=2,
        bits=8,
        caps=Caps(3, 3, 1),
        rows=encode_rows([(1, 2, 3)] * 256),
        target=b"",
        moving=(),
        wave=0,
        waves=0,
    )
    return ClusterMap(
        epoch=1,
        previous=b"",
        seed=seed("map"),
        default_profile="copy-3",
        nodes=tuple(node(world, number, name) for number, name in enumerate(NAMES, 1)),
        tables=(table,),
    )


def successor(before: ClusterMap, *nodes: Node) -> ClusterMap:
    changed = {after.node_id: after for after in nodes}
    return replace(
        before,
        epoch=before.epoch + 1,
        previous=before.digest(),
        nodes=tuple(changed.get(old.node_id, old) for old in before.nodes),
    )


@pytest.fixture
def world() -> Scenario:
    scenario = Scenario().populate()
    for name in NAMES:
        scenario.register(name, AccountKind.NODE, "o1", "o2")
    return scenario


def setting(cluster_map: ClusterMap, expected: int | None = None) -> SetClusterMap:
    epoch = cluster_map.epoch - 1 if expected is None else expected
    return SetClusterMap(epoch, cluster_map.encode())


def test_first_map_and_its_successor(world: Scenario) -> None:
    first = first_map(world)
    assert world.submit(setting(first), "o1", "o2").events == (MapChanged(first),)
    assert world.view.cluster_map() == first
    second = successor(first, replace(first.nodes[3], state=NodeState.DRAINING))
    assert world.submit(setting(second), "o2", "o3").events == (MapChanged(second),)
    assert world.view.cluster_map() == second


def test_the_same_map_twice_changes_nothing(world: Scenario) -> None:
    first = first_map(world)
    world.submit(setting(first), "o1", "o2")
    assert world.submit(setting(first), "o1", "o2").events == ()
    assert world.view.cluster_map() == first


def test_compare_and_swap(world: Scenario) -> None:
    first = first_map(world)
    refusal = world.refusal(setting(first, 1), "o1", "o2")
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "epoch-moved"
    world.submit(setting(first), "o1", "o2")
    one = successor(first, replace(first.nodes[0], weight=2))
    other = successor(first, replace(first.nodes[0], weight=3))
    world.submit(setting(one), "o1", "o2")
    assert world.refusal(setting(other), "o1", "o2").reason == "epoch-moved"
    assert world.refusal(setting(other, 2), "o1", "o2").reason == "wrong-epoch"
    late = replace(other, epoch=3)
    assert world.refusal(setting(late), "o1", "o2").reason == "wrong-previous"


@pytest.mark.parametrize(
    ("signers", "reason"),
    [
        (("o1",), "below-threshold"),
        (("n1",), "unexpected-signer"),
        (("o1", "o2", "n1"), "unexpected-signer"),
        (("clinic", "o1"), "unexpected-signer"),
    ],
)
def test_only_the_operator_threshold(
    world: Scenario, signers: tuple[str, ...], reason: str
) -> None:
    refusal = world.refusal(setting(first_map(world)), *signers)
    assert isinstance(refusal, Denied)
    assert refusal.reason == reason


@pytest.mark.parametrize("account", ["stranger", "doc", "o1"])
def test_nodes_must_be_registered_as_nodes(world: Scenario, account: str) -> None:
    first = first_map(world)
    spoilt = replace(first, nodes=(*first.nodes[:3], node(world, 4, account)))
    refusal = world.refusal(setting(spoilt), "o1", "o2")
    assert isinstance(refusal, NotFound)
    assert refusal.reason == "unknown-node"


def test_a_dead_node_may_only_be_out_or_removed(world: Scenario) -> None:
    first = first_map(world)
    world.submit(setting(first), "o1", "o2")
    world.submit(DeactivateAccount(world.account("n4")), "o1", "o2")
    for state in (NodeState.UP, NodeState.DOWN, NodeState.DRAINING, NodeState.JOINING):
        following = successor(first, replace(first.nodes[3], state=state, weight=2))
        refusal = world.refusal(setting(following), "o1", "o2")
        assert isinstance(refusal, Denied)
        assert refusal.reason == "inactive-node"
    second = successor(first, replace(first.nodes[3], state=NodeState.OUT))
    world.submit(setting(second), "o1", "o2")
    third = successor(second, replace(first.nodes[3], state=NodeState.REMOVED))
    world.submit(setting(third), "o1", "o2")


def test_what_the_map_itself_refuses(world: Scenario) -> None:
    first = first_map(world)
    malformed = SetClusterMap(0, b"not a map")
    assert world.refusal(malformed, "o1", "o2").reason == "malformed-encoding"
    twice = replace(first, nodes=(*first.nodes, first.nodes[0]))
    refusal = world.refusal(setting(twice), "o1", "o2")
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "node-id-twice"
