"""One log from protocol version 1 into version 2: writer, follower, restarts, verification."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from hcefs.access.facts import AccountKind
from hcefs.errors import Corrupt, NotFound
from hcefs.ledger.block import sign_block, transaction_root
from hcefs.ledger.cluster_facts import Arrivals, MapCause, ProtocolStatus
from hcefs.ledger.follower import Follower, FollowerStatus
from hcefs.ledger.link import LocalLink
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.machine import replay
from hcefs.ledger.outcome import MapChanged, Outcome
from hcefs.ledger.queries import Questions
from hcefs.ledger.rows import AppliedBlock
from hcefs.ledger.state import MAP_KEY, arrived_key, parse_arrived
from hcefs.ledger.transactions import Upgrade
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.waves import SeatName, is_planned
from tests.unit.ledger.clusters import MINUTE_MS, OPERATORS, Cluster
from tests.unit.ledger.replicas import ManualRuntime, open_log, until
from tests.unit.ledger.scenario import START_MS
from tests.unit.ledger.test_follower import Node
from tests.unit.ledger.test_writer import Bench


class Recorded(Cluster):
    """A cluster that begins at version 1 and keeps what each block applied."""

    def __init__(self) -> None:
        self.applied: list[AppliedBlock] = []
        super().__init__(upgraded=False)

    def commit(self, transactions: Sequence[bytes]) -> list[Outcome]:
        block, overlay, outcomes = self.next_block(transactions)
        applied = AppliedBlock(block, overlay.writes, tuple(outcomes), overlay.written_facts)
        self.applied.append(applied)
        return super().commit(transactions)


def story() -> Recorded:
    """An upgrade of a cluster with a map, a plan that is carried out, reports, a policy."""
    world = Recorded()
    world.submit(Upgrade(2, world.height + 3), *OPERATORS)
    world.register("clinic", AccountKind.INSTITUTION, *OPERATORS)
    world.set_policy(out_after_ms=MINUTE_MS)
    world.grow(5)
    seats = world.flying()["n5"]
    world.submit(world.arrival(seats[:7]), "n5")
    world.report(1, [3])
    world.report(2, [3], bytes(32))
    world.submit(world.arrival(seats[5:50]), "n5")
    world.arrive()
    return world


def same(log: LedgerLog, world: Cluster) -> None:
    """The log says what the scenario's state says."""
    view = world.view
    assert log.cluster_map() == view.cluster_map()
    assert log.fact(ClusterMap, MAP_KEY) == view.cluster_map()
    assert log.arrived() == view.arrived()
    assert log.arrivals() == view.arrivals()
    assert log.policy() == view.policy()
    assert log.reports() == view.reports()
    assert log.protocol() == view.protocol()
    assert list(log.map_changes(0, 99)) == list(view.map_changes(0, 99))
    assert log.app_hash == world.app_hash


def test_the_story_has_both_versions_and_ends_a_plan() -> None:
    world = story()
    versions = [applied.block.header.protocol_version for applied in world.applied]
    assert sorted(set(versions)) == [1, 2]
    assert versions == sorted(versions)
    assert not is_planned(world.map)
    assert len(world.map.tables[0].node_rows) == 256


@pytest.mark.parametrize("restarts", [False, True])
def test_a_log_follows_block_by_block(tmp_path: Path, restarts: bool) -> None:
    world = story()
    replica = Recorded()  # walks along
    log = open_log(tmp_path, world)
    for applied in world.applied[: len(replica.applied)]:
        log.append([applied])
    same(log, replica)
    for applied in world.applied[len(replica.applied) :]:
        log.append([applied])
        replica.time_ms = applied.block.header.time_ms
        replica.commit(applied.block.transactions)
        if restarts:
            log.close()
            log = open_log(tmp_path, world)
        same(log, replica)
    assert log.verify_chain() == world.height
    log.close()


def test_a_log_takes_all_of_it_at_once(tmp_path: Path) -> None:
    world = story()
    log = open_log(tmp_path, world)
    log.append(world.applied)
    same(log, world)
    assert log.verify_chain() == world.height
    log.close()


def test_the_map_of_a_log_is_one_object_until_the_next(tmp_path: Path) -> None:
    world = story()
    log = open_log(tmp_path, world)
    log.append(world.applied)
    first = log.cluster_map()
    assert log.fact(ClusterMap, MAP_KEY) is first
    assert log.snapshot().cluster_map() == first
    log.close()


@pytest.mark.parametrize(
    "name", [SeatName("copy-3", 0, 0), SeatName("a/b", (1 << 18) - 1, 254), SeatName("x", 255, 9)]
)
def test_keys_of_marks(name: SeatName) -> None:
    assert parse_arrived(arrived_key(name)) == name


async def test_a_follower_follows_into_version_2_and_is_told_of_maps(tmp_path: Path) -> None:
    world = story()
    node = Node(tmp_path)
    await node.follower.start()
    half = len(world.applied) // 2
    node.link.block(*(applied.block for applied in world.applied[:half]))
    await node.reach(half)
    await node.reopen()
    node.link.block(*(applied.block for applied in world.applied[half:]))
    await node.reach(world.height)
    same(node.log, world)
    told = [event for _, events in node.events for event in events if isinstance(event, MapChanged)]
    assert told[-1] == MapChanged(world.map)
    assert [event.cluster_map.epoch for event in told] == [1, 2, 3]
    await node.close()


def test_a_follower_refuses_an_arrival_that_the_rules_do_not_allow() -> None:
    """The writer is not believed: here it signs what a node said about another's seat."""
    world = Cluster()
    world.grow(5)
    signed = world.sign(world.arrival(world.flying()["n5"][:1]), "n1").encode()
    empty = world.next_block([])[0].header
    header = replace(empty, transaction_root=transaction_root([signed]))
    block = sign_block(header, [signed], world.writer)
    with pytest.raises(Corrupt) as caught:
        replay(world.state, block, world.genesis, world.header)
    assert caught.value.reason == "bad-transaction"
    assert "not-destination" in caught.value.message


async def test_the_writer_stamps_the_version_and_restarts_into_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "log")
    await bench.start()
    world = bench.world
    await bench.writer.submit(world.sign(Upgrade(2, 3), *OPERATORS).encode())
    for number in (1, 2, 3):
        if number == 2:
            await bench.restart()
        registration = world.registration(f"n{number}", AccountKind.NODE)
        signed = world.sign(registration, f"n{number}", *OPERATORS)
        await bench.writer.submit(signed.encode())
    versions = [bench.log.block(height).header.protocol_version for height in range(1, 5)]
    assert versions == [1, 1, 2, 2]
    assert bench.log.verify_chain() == 4
    await bench.close()


def _has(log: LedgerLog, height: int) -> bool:
    return log.height >= height


async def test_a_wave_through_writer_and_follower(tmp_path: Path) -> None:
    """What the story's transactions make of a real writer, its follower has too."""
    world = story()
    bench = Bench(tmp_path / "log")
    bench.runtime.wall_ms = START_MS
    await bench.start()
    replica = open_log(tmp_path / "replica", world)
    runtime = ManualRuntime()
    follower = Follower(
        replica, world.genesis, runtime, LocalLink(bench.writer, world.account("n1"), runtime)
    )
    await follower.start()
    for applied in world.applied:
        for transaction in applied.block.transactions:
            task = asyncio.ensure_future(bench.writer.submit(transaction))
            await until(partial(_has, bench.log, applied.block.header.height))
            bench.acknowledge("n1", "n2")
            await task
    await until(lambda: replica.height == world.height)
    assert follower.status is FollowerStatus.FOLLOWING
    same(bench.log, world)
    same(replica, world)
    await follower.stop()
    await bench.close()
    runtime.close()
    replica.close()


# --- questions ------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path) -> tuple[LedgerLog, Recorded]:
    world = Recorded()
    world.submit(Upgrade(2, world.height + 2), *OPERATORS)
    world.register("clinic", AccountKind.INSTITUTION, *OPERATORS)
    world.register("pat", AccountKind.PATIENT, "clinic")
    world.set_policy(out_max=3)
    world.grow(5)
    world.submit(world.arrival(world.flying()["n5"][3:5]), "n5")
    world.report(2, [4])
    world.submit(world.arrival(world.flying()["n5"][:1]), "n5")
    log = open_log(tmp_path, world)
    log.append(world.applied)
    return log, world


def test_nodes_and_operators_ask_about_the_cluster(asked: tuple[LedgerLog, Recorded]) -> None:
    log, world = asked
    ask = Questions(log)
    for name in ("o1", "n1"):
        who = log.account(world.account(name))
        progress = ask.map_progress(who)
        assert progress.names == world.view.arrived()
        assert list(progress.arrived) == sorted(progress.arrived, key=lambda seat: seat.name)
        assert Arrivals(progress.epoch, progress.in_flight, len(progress.arrived)) == log.arrivals()
        assert ask.upkeep_policy(who) == world.view.policy()
        assert ask.node_reports(who) == list(world.view.reports())
        assert [change.cause for change in ask.map_history(who, 0)] == [MapCause.OPERATORS]
        assert [change.epoch for change in ask.map_history(who, 2)] == [2]
        assert ask.map_history(who, 3) == []
        assert ask.map_history(who, (1 << 64) - 1) == []
        assert ask.protocol_version(who) == ProtocolStatus(log.height, 2, 0, 0)
    log.close()


def test_nobody_else_learns_of_it(asked: tuple[LedgerLog, Recorded]) -> None:
    log, world = asked
    ask = Questions(log)
    for who in (None, log.account(world.account("pat")), log.account(world.account("clinic"))):
        for question in (
            ask.map_progress,
            ask.upkeep_policy,
            ask.node_reports,
            ask.protocol_version,
            lambda who: ask.map_history(who, 0),
        ):
            with pytest.raises(NotFound):
                question(who)
    log.close()


def test_what_is_asked_before_the_upgrade(tmp_path: Path) -> None:
    world = Recorded()
    log = open_log(tmp_path, world)
    log.append(world.applied)
    ask, who = Questions(log), log.account(world.account("o1"))
    assert ask.protocol_version(who) == ProtocolStatus(log.height, 1, 0, 0)
    progress = ask.map_progress(who)
    assert (progress.epoch, progress.in_flight, progress.arrived) == (1, 0, ())
    assert ask.upkeep_policy(who).number == 0
    assert ask.node_reports(who) == []
    assert ask.map_history(who, 0) == []
    world.submit(Upgrade(2, world.height + 4), *OPERATORS)
    log.append(world.applied[-1:])
    assert ask.protocol_version(who) == ProtocolStatus(log.height, 1, 2, log.height + 3)
    log.close()


def test_history_comes_in_pages() -> None:
    world = Cluster()
    for weight in (2, 3):
        world.set_map(world.planned(changes.reweight(world.map, 1, weight)))
        while is_planned(world.map):
            world.arrive()
    epochs = [change.epoch for change in world.view.map_changes(0, 99)]
    assert epochs == list(range(1, world.map.epoch + 1))
    assert [change.epoch for change in world.view.map_changes(0, 2)] == [1, 2]
    assert [change.epoch for change in world.view.map_changes(2, 2)] == [2, 3]
