"""Waves under protocol version 2: who marks what, when the next one begins, what it leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.errors import Conflict, Denied, Invalid
from hcefs.ledger.cluster_facts import Arrivals, MapCause, MapChange
from hcefs.ledger.outcome import MapChanged, Outcome
from hcefs.ledger.transactions import DeactivateAccount
from hcefs.placement import changes
from hcefs.placement.cluster_map import NodeState
from hcefs.placement.planner import plan
from hcefs.placement.waves import SeatName, advance, epochs, in_flight, is_planned
from tests.unit.ledger.clusters import OPERATORS, PROFILES, Cluster, node_of


@pytest.fixture
def world() -> Cluster:
    return Cluster()


def test_a_plan_is_set_and_its_seats_are_in_flight(world: Cluster) -> None:
    new = world.grow(5)
    assert world.map == new
    assert world.view.arrivals() == Arrivals(2, len(in_flight(new)), 0)
    assert world.view.arrived() == frozenset()


def test_the_last_arrival_brings_the_next_map(world: Cluster) -> None:
    first = world.grow(5)
    (name, seats), *others = world.flying().items()
    assert name == "n5"
    assert not others
    assert world.submit(world.arrival(seats[:-1]), "n5") == Outcome()
    assert world.view.arrived() == frozenset(seats[:-1])
    assert world.view.arrivals() == Arrivals(2, len(seats), len(seats) - 1)
    assert world.map == first
    following = advance(first, in_flight(first))
    assert world.submit(world.arrival(seats[-1:]), "n5").events == (MapChanged(following),)
    assert world.map == following
    assert world.view.arrived() == frozenset()


def test_a_plan_ends_and_leaves_nothing_in_flight() -> None:
    world = Cluster(profiles=PROFILES)
    added = changes.add(world.map, [node_of(world, number) for number in (5, 6)])
    expected = list(epochs(plan(world.map, added), world.map))
    assert len(expected) > 2
    world.grow(5, 6)
    while is_planned(world.map):
        assert world.map == expected[world.map.epoch - 2]
        world.arrive()
    assert world.map == expected[-1]
    node = world.map.node(5)
    assert node is not None
    assert node.state is NodeState.UP
    assert world.view.arrivals() == Arrivals(expected[-1].epoch, 0, 0)
    rows = {key.split(b"/")[0] for key, _ in world.state.scan(b"")}
    assert b"arrived" not in rows
    assert b"arrivals" not in rows


def test_repeats_change_nothing(world: Cluster) -> None:
    world.grow(5)
    seats = world.flying()["n5"]
    world.submit(world.arrival(seats[:4]), "n5")
    before = dict(world.state.scan(b""))
    world.submit(world.arrival(seats[1:3]), "n5")
    assert dict(world.state.scan(b"")) == before
    world.submit(world.arrival(seats[2:6]), "n5")
    assert world.view.arrivals().arrived == 6


def test_another_epoch_is_refused_before_the_seats_are_looked_at(world: Cluster) -> None:
    nowhere = [SeatName("nothing", 0, 0)]
    for epoch in (2, 9):
        refusal = world.refusal(world.arrival(nowhere, epoch), "n1")
        assert isinstance(refusal, Conflict)
        assert refusal.reason == "epoch-moved"


@pytest.mark.parametrize("seat", [SeatName("nothing", 0, 0), SeatName("copy-3", 1 << 17, 0)])
def test_a_seat_that_is_nowhere_is_refused(world: Cluster, seat: SeatName) -> None:
    world.grow(5)
    good = world.flying()["n5"][:1]
    assert world.refusal(world.arrival([*good, seat]), "n5").reason == "not-in-flight"


def test_a_seat_that_does_not_move_is_refused(world: Cluster) -> None:
    world.grow(5)
    moving = world.flying()["n5"][0]
    still = replace(moving, seat=(moving.seat + 1) % 3)
    assert world.refusal(world.arrival([still]), "n5").reason == "not-in-flight"


@pytest.mark.parametrize("name", ["n1", "n6"])
def test_only_the_destination_says_that_a_seat_has_arrived(world: Cluster, name: str) -> None:
    world.grow(5)
    refusal = world.refusal(world.arrival(world.flying()["n5"][:1]), name)
    assert isinstance(refusal, Denied)
    assert refusal.reason == ("not-in-map" if name == "n6" else "not-destination")


def test_another_nodes_seat_is_refused_even_when_it_has_arrived(world: Cluster) -> None:
    world.grow(5)
    seat = world.flying()["n5"][:1]
    world.submit(world.arrival(seat), "n5")
    assert world.refusal(world.arrival(seat), "n1").reason == "not-destination"


@pytest.mark.parametrize(
    ("signers", "reason"),
    [(("o1",), "not-a-node"), (("n5", "n1"), "one-signature"), (("n5", "o1"), "one-signature")],
)
def test_one_node_signs(world: Cluster, signers: tuple[str, ...], reason: str) -> None:
    world.grow(5)
    assert world.refusal(world.arrival(world.flying()["n5"][:1]), *signers).reason == reason


def test_a_node_that_is_out_or_ended_says_nothing(world: Cluster) -> None:
    new = world.grow(5)
    seats = world.flying()["n5"]
    lost = replace(new, epoch=3, previous=new.digest(), nodes=changes.mark_out(new, [5]))
    world.set_map(lost)
    assert world.refusal(world.arrival(seats[:1]), "n5").reason == "not-in-map"
    world.submit(DeactivateAccount(world.account("n5")), *OPERATORS)
    assert world.refusal(world.arrival(seats[:1]), "n5").reason == "inactive-account"


@pytest.mark.parametrize(
    ("epoch", "seats", "reason"),
    [
        (0, ((0, 0),), "bad-epoch"),
        (1, (), "bad-seats"),
        (1, tuple((partition, 0) for partition in range(4097)), "bad-seats"),
        (1, ((1 << 18, 0),), "bad-seats"),
        (1, ((-1, 0),), "bad-seats"),
        (1, ((0, 255),), "bad-seats"),
        (1, ((3, 1), (3, 1)), "duplicate-seat"),
    ],
)
def test_what_an_arrival_must_look_like(
    world: Cluster, epoch: int, seats: tuple[tuple[int, int], ...], reason: str
) -> None:
    names = [SeatName("copy-3", *seat) for seat in seats]
    refusal = world.refusal(replace(world.arrival(names), epoch=epoch), "n1")
    assert isinstance(refusal, Invalid)
    assert refusal.reason == reason


def test_the_most_seats_of_one_arrival_are_well_formed(world: Cluster) -> None:
    world.arrival([SeatName("copy-3", partition, 0) for partition in range(4096)]).check()
    with pytest.raises(Invalid):
        world.arrival([SeatName("x" * 65, 0, 0)]).check()
    with pytest.raises(Invalid):
        world.arrival([SeatName("", 0, 0)]).check()


def test_operators_replan_with_what_has_arrived(world: Cluster) -> None:
    world.grow(5)
    seats = world.flying()["n5"]
    world.submit(world.arrival(seats[:40]), "n5")
    nodes = changes.add(world.map, [node_of(world, 6)])
    new = world.planned(nodes, world.view.arrived())
    early = world.planned(nodes, frozenset(seats[:41]))
    assert world.refusal(world.setting(early), *OPERATORS).reason == "unplanned-move"
    world.set_map(new)
    assert world.view.arrived() == frozenset()
    assert world.view.arrivals() == Arrivals(new.epoch, len(in_flight(new)), 0)
    while is_planned(world.map):
        world.arrive()
    assert {node.state for node in world.map.nodes} == {NodeState.UP}


def test_marks_are_cleared_with_any_new_map(world: Cluster) -> None:
    new = world.grow(5)
    seats = world.flying()["n5"]
    world.submit(world.arrival(seats[:4]), "n5")
    later = replace(new, epoch=3, previous=new.digest(), nodes=changes.reweight(new, 1, 2))
    world.set_map(later)
    assert world.view.arrived() == frozenset()
    assert world.view.arrivals() == Arrivals(3, len(seats), 0)
    assert world.refusal(world.arrival(seats[:1], 2), "n5").reason == "epoch-moved"
    world.submit(world.arrival(seats[:1]), "n5")


def test_the_same_map_twice_changes_nothing(world: Cluster) -> None:
    new = world.grow(5)
    world.submit(world.arrival(world.flying()["n5"][:3]), "n5")
    before = dict(world.state.scan(b""))
    assert world.set_map(new, "o2", "o3").events == ()
    assert dict(world.state.scan(b"")) == before


def test_history_says_how_each_epoch_began(world: Cluster) -> None:
    world.time_ms += 1_000
    first = world.map
    new = world.grow(5)
    height, time_ms = world.height, world.time_ms
    world.time_ms += 500
    world.arrive()
    found = list(world.view.map_changes(1, 99))
    assert [each.epoch for each in found] == [1, 2, 3]
    assert found[0].digest == first.digest()
    assert found[1] == MapChange(
        epoch=2,
        digest=new.digest(),
        height=height,
        time_ms=time_ms,
        cause=MapCause.OPERATORS,
        signers=(world.account("o1"), world.account("o2")),
        moving=len(in_flight(new)),
        wave=1,
        waves=new.tables[0].waves,
    )
    assert found[2].cause is MapCause.ARRIVED
    assert found[2].signers == (world.account("n5"),)
    assert found[2].digest == world.map.digest()
    assert (found[2].height, found[2].time_ms) == (world.height, world.time_ms)
    assert [each.epoch for each in world.view.map_changes(2, 1)] == [2]
    assert not list(world.view.map_changes(4, 99))
