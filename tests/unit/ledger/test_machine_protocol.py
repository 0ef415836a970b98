"""Upgrades of the protocol: who may, which versions and heights, and what changes with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.access.facts import AccountKind
from hcefs.errors import Conflict, Corrupt, Denied, Invalid
from hcefs.ledger.block import PROTOCOL_NEWEST
from hcefs.ledger.cluster_facts import ProtocolSchedule, ProtocolStep, UpkeepPolicy
from hcefs.ledger.machine import protocol_at, replay
from hcefs.ledger.rules_protocol import UPGRADE_AHEAD_MAX
from hcefs.ledger.transactions import Transaction, Upgrade
from hcefs.ledger.transactions_map import NodeReport, SetUpkeepPolicy
from hcefs.placement import changes
from hcefs.placement.waves import SeatName
from tests.unit.ledger.clusters import OPERATORS, Cluster, node_of
from tests.unit.ledger.scenario import Scenario


@pytest.fixture
def world() -> Scenario:
    return Scenario()


def version_of(world: Scenario) -> int:
    """Of the header of the next block."""
    return world.next_block([])[0].header.protocol_version


def test_a_schedule_says_the_version_of_each_height() -> None:
    schedule = ProtocolSchedule((ProtocolStep(2, 5), ProtocolStep(3, 9)))
    assert [schedule.at(height) for height in (1, 4, 5, 8, 9, 99)] == [1, 1, 2, 2, 3, 3]
    assert schedule.scheduled(4) == ProtocolStep(2, 5)
    assert schedule.scheduled(5) == ProtocolStep(3, 9)
    assert schedule.scheduled(9) is None
    assert ProtocolSchedule().at(1) == 1


def test_an_upgrade_comes_into_force_at_its_height(world: Scenario) -> None:
    assert version_of(world) == 1
    world.submit(Upgrade(2, 4), *OPERATORS)
    for expected in (1, 1, 2, 2):
        assert version_of(world) == expected
        assert protocol_at(world.state, world.height + 1) == expected
        world.commit([])
    assert world.view.protocol().steps == (ProtocolStep(2, 4),)


@pytest.mark.parametrize("signers", [("o1",), ("clinic", "o1"), ("o1", "o2", "clinic")])
def test_only_the_operator_threshold_upgrades(world: Scenario, signers: tuple[str, ...]) -> None:
    world.register("clinic", AccountKind.INSTITUTION, *OPERATORS)
    assert isinstance(world.refusal(Upgrade(2, 9), *signers), Denied)


@pytest.mark.parametrize("height", [1, 2, 3 + UPGRADE_AHEAD_MAX])
def test_an_upgrade_names_a_later_height(world: Scenario, height: int) -> None:
    world.commit([])  # so that the next block is the second
    refusal = world.refusal(Upgrade(2, height), *OPERATORS)
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "bad-upgrade-height"


@pytest.mark.parametrize("height", [2, 1 + UPGRADE_AHEAD_MAX])
def test_the_first_and_the_last_height_of_an_upgrade(world: Scenario, height: int) -> None:
    world.submit(Upgrade(2, height), *OPERATORS)


def test_versions_come_one_after_the_other(world: Scenario) -> None:
    assert world.refusal(Upgrade(1, 9), *OPERATORS).reason == "wrong-protocol-version"
    unknown = world.refusal(Upgrade(PROTOCOL_NEWEST + 1, 9), *OPERATORS)
    assert isinstance(unknown, Invalid)
    assert unknown.reason == "unsupported"
    assert "install" in unknown.message


def test_one_upgrade_at_a_time(world: Scenario) -> None:
    world.submit(Upgrade(2, 9), *OPERATORS)
    assert world.refusal(Upgrade(2, 10), *OPERATORS).reason == "upgrade-scheduled"
    before = dict(world.state.scan(b""))
    assert world.submit(Upgrade(2, 9), "o2", "o3").events == ()
    assert dict(world.state.scan(b"")) == before
    while world.height < 9:
        world.commit([])
    assert world.refusal(Upgrade(2, 20), *OPERATORS).reason == "wrong-protocol-version"


@pytest.mark.parametrize(
    ("version", "reason"),
    [(1, "wrong-protocol"), (PROTOCOL_NEWEST + 1, "unknown-protocol"), (0, "unknown-protocol")],
)
def test_followers_check_the_version_of_the_header(version: int, reason: str) -> None:
    world = Scenario()
    world.submit(Upgrade(2, 2), *OPERATORS)
    block = world.next_block([])[0]
    replay(world.state, block, world.genesis, world.header)
    other = replace(block, header=replace(block.header, protocol_version=version))
    with pytest.raises(Corrupt) as caught:
        replay(world.state, other, world.genesis, world.header)
    assert caught.value.reason == reason


def test_version_1_refuses_what_came_after_it() -> None:
    world = Cluster(upgraded=False)
    node = "n1"
    cases: list[tuple[Transaction, tuple[str, ...]]] = [
        (world.arrival([SeatName("copy-3", 0, 0)]), (node,)),
        (NodeReport(1, 1, 1, (), b""), (node,)),
        (SetUpkeepPolicy(0, UpkeepPolicy(1)), OPERATORS),
    ]
    for transaction, signers in cases:
        refusal = world.refusal(transaction, *signers)
        assert isinstance(refusal, Invalid)
        assert refusal.reason == "unsupported"
        assert "upgrade" in refusal.message


def test_version_1_refuses_plans_and_keeps_no_history() -> None:
    world = Cluster(upgraded=False)
    new = world.planned(changes.add(world.map, [node_of(world, 5)]))
    assert world.refusal(world.setting(new), *OPERATORS).reason == "unsupported"
    assert world.refusal(world.setting(new), "n1").reason == "unexpected-signer"
    assert not list(world.view.map_changes(0, 99))
    keys = {key.split(b"/")[0] for key, _ in world.state.scan(b"")}
    assert keys == {b"account", b"operator", b"map"}


def test_a_map_of_version_1_is_followed_by_plans_after_the_upgrade() -> None:
    world = Cluster(upgraded=False)
    world.submit(Upgrade(2, world.height + 2), *OPERATORS)
    first = world.map
    new = world.grow(5)
    assert (world.map, new.epoch) == (new, first.epoch + 1)
    assert [change.epoch for change in world.view.map_changes(0, 99)] == [2]
