"""What can be read and written, from the map and from who serves."""

from __future__ import annotations

import dataclasses

import pytest

from hcefs.placement import changes
from hcefs.placement.availability import HealthFacts, availability, row_counts
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.planner import first_map, plan
from hcefs.placement.stand_ins import stand_ins_of
from hcefs.placement.waves import apply_plan, in_flight
from tests.unit.placement.maps import SEED, node, nodes, small_map

ALL = dict.fromkeys(range(1, 20), True)


@pytest.fixture(scope="module")
def six() -> ClusterMap:
    """Six nodes: each row has all of them, and nobody can stand in."""
    return first_map(nodes(6, 3), [("ec-4-2", 4, 2)], SEED, "ec-4-2")


def facts(cluster_map: ClusterMap, *away: int) -> HealthFacts:
    return HealthFacts(cluster_map.epoch, ALL | dict.fromkeys(away, False))


@pytest.mark.parametrize(
    ("away", "reads", "writes", "spare"),
    [
        ((), True, True, 2),
        ((1,), True, True, 1),
        ((1, 2), True, False, 0),
        ((1, 2, 3), False, False, -1),
    ],
)
def test_as_many_as_reads_and_writes_need(
    six: ClusterMap, away: tuple[int, ...], reads: bool, writes: bool, spare: int
) -> None:
    found = availability(six, facts(six, *away))
    assert (found.reads.yes, found.writes.yes) == (reads, writes)
    assert found.reads.is_known
    assert found.writes.is_known
    assert found.spare == {"ec-4-2": spare}


def test_what_a_stop_would_lose(six: ClusterMap) -> None:
    now = facts(six, 2)
    assert availability(six, now).writes.yes
    without = availability(six, now, without=1)
    assert without.reads.yes
    assert not without.writes.yes
    assert "has 4 shards that serve, and writes need 5" in without.writes.reason


def test_stand_ins_take_puts_and_give_no_gets() -> None:
    made = small_map(9, 3)
    row = made.tables[0].node_rows[0]
    found = availability(made, facts(made, *row[:3]))
    assert not found.reads.yes
    assert found.writes.yes
    others = [each.node_id for each in stand_ins_of(made, "ec-4-2", 0)]
    assert not availability(made, facts(made, *row[:3], *others[:2])).writes.yes


def test_who_was_not_heard_of_gives_no_conclusion(six: ClusterMap) -> None:
    silent = HealthFacts(six.epoch, {1: True, 2: True, 3: True})
    found = availability(six, silent)
    assert not found.reads.yes
    assert not found.reads.is_known
    assert "of which nothing was heard" in found.reads.reason
    # A certain no needs no word of them.
    lost = HealthFacts(six.epoch, {1: False, 2: False, 3: False})
    assert availability(six, lost).reads.is_known
    assert not availability(six, lost).reads.yes


def test_facts_of_another_epoch(six: ClusterMap) -> None:
    found = availability(six, dataclasses.replace(facts(six), epoch=six.epoch + 1))
    assert not found.reads.yes
    assert not found.reads.is_known


def test_a_seat_in_flight_needs_its_source() -> None:
    before = small_map(9, 3)
    now = apply_plan(plan(before, changes.add(before, [node(10, "z0")])), before)
    moved, source = next(iter(in_flight(now).items()))
    table = now.tables[0]

    def least(known: HealthFacts) -> int:
        rows = {row.partition: row.least for row in row_counts(table, known)}
        return rows[moved.partition]

    assert least(facts(now)) == 6
    away = facts(now, source)
    assert least(away) == 5, "what it has to give is not at its destination yet"
    assert least(dataclasses.replace(away, done=frozenset(in_flight(now)))) == 6
