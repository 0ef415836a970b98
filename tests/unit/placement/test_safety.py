from __future__ import annotations

import dataclasses

import pytest

from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, NodeState
from hcefs.placement.planner import first_map, plan
from hcefs.placement.safety import HealthFacts, InventoryFacts, ok_to_stop, safe_to_remove
from hcefs.placement.waves import REBUILD, SeatName, apply_plan, epochs, in_flight
from tests.unit.placement.maps import SEED, node, nodes, small_map, with_node

ALL = dict.fromkeys(range(1, 20), True)


@pytest.fixture(scope="module")
def cluster_map() -> ClusterMap:
    return small_map(9, 3)


def facts(cluster_map: ClusterMap, **changes_: object) -> HealthFacts:
    plain = HealthFacts(cluster_map.epoch, ALL)
    return dataclasses.replace(plain, **changes_)  # type: ignore[arg-type]


# --- ok_to_stop -------------------------------------------------------------------------


def test_one_node_of_a_healthy_cluster_may_stop(cluster_map: ClusterMap) -> None:
    answer = ok_to_stop(cluster_map, 3, facts(cluster_map))
    assert answer.yes
    assert answer.is_known


def test_not_when_too_few_shards_would_serve(cluster_map: ClusterMap) -> None:
    row = cluster_map.tables[0].node_rows[0]
    answer = ok_to_stop(cluster_map, row[0], facts(cluster_map, healthy=ALL | {row[1]: False}))
    assert not answer.yes
    assert answer.is_known
    assert "would keep 4 shards that serve, and 5 are needed" in answer.reason


def test_a_node_that_sits_apart_from_the_failed_one_may_stop() -> None:
    # Two nodes of one host never share a row.
    given = [node(1, "z1", host="h"), node(2, "z1", host="h"), *nodes(9, 3)[2:]]
    made = first_map(given, [("ec-4-2", 4, 2)], SEED, "ec-4-2")
    assert ok_to_stop(made, 2, facts(made, healthy=ALL | {1: False})).yes
    assert not ok_to_stop(made, 3, facts(made, healthy=ALL | {1: False})).yes


def test_no_conclusion_without_word_of_a_node_that_matters(cluster_map: ClusterMap) -> None:
    silent = {number: True for number in ALL if number != 2}
    answer = ok_to_stop(cluster_map, 3, facts(cluster_map, healthy=silent))
    assert not answer.yes
    assert not answer.is_known
    assert "depends on node 2, of which nothing was heard" in answer.reason


def test_a_certain_no_beats_no_conclusion(cluster_map: ClusterMap) -> None:
    row = cluster_map.tables[0].node_rows[200]
    answer = ok_to_stop(
        cluster_map,
        row[0],
        facts(cluster_map, healthy={row[0]: True, row[1]: False, row[2]: False}),
    )
    assert not answer.yes
    assert answer.is_known


def test_a_node_that_does_not_matter_need_not_answer(cluster_map: ClusterMap) -> None:
    wider = dataclasses.replace(
        cluster_map, nodes=(*cluster_map.nodes, node(10, state=NodeState.JOINING))
    )
    assert ok_to_stop(wider, 3, HealthFacts(wider.epoch, dict.fromkeys(range(1, 10), True))).yes
    assert ok_to_stop(wider, 10, HealthFacts(wider.epoch, {})).yes


def test_damage_counts(cluster_map: ClusterMap) -> None:
    row = cluster_map.tables[0].node_rows[5]
    damaged = frozenset({SeatName("ec-4-2", 5, 1)})
    assert not ok_to_stop(cluster_map, row[0], facts(cluster_map, damaged=damaged)).yes
    elsewhere = next(n for n in range(1, 10) if n not in row)
    assert ok_to_stop(cluster_map, elsewhere, facts(cluster_map, damaged=damaged)).yes


def test_seats_in_flight_need_source_and_destination(cluster_map: ClusterMap) -> None:
    now = apply_plan(plan(cluster_map, changes.add(cluster_map, [node(10, "z0")])), cluster_map)
    name, source = next(iter(in_flight(now).items()))
    row = now.tables[0].node_rows[name.partition]
    other = next(one for one in row if one not in (10, source))
    for away in (source, 10):
        assert not ok_to_stop(now, other, facts(now, healthy=ALL | {away: False})).yes
    arrived = facts(now, healthy=ALL | {source: False}, done=frozenset(in_flight(now)))
    rows_of_source = [r for r in now.tables[0].node_rows if {source, other} <= set(r)]
    assert ok_to_stop(now, other, arrived).yes == (not rows_of_source)


def test_rebuilding_rows_can_spare_nobody() -> None:
    old = small_map(12, 4)
    now = apply_plan(plan(old, changes.mark_out(old, [1])), old)
    name = next(name for name, source in in_flight(now).items() if source == REBUILD)
    row = now.tables[0].node_rows[name.partition]
    assert not ok_to_stop(now, row[(name.seat + 1) % 6], facts(now)).yes
    assert ok_to_stop(now, row[(name.seat + 1) % 6], facts(now, done=frozenset(in_flight(now)))).yes


def test_facts_of_another_epoch_and_unknown_nodes(cluster_map: ClusterMap) -> None:
    answer = ok_to_stop(cluster_map, 3, facts(cluster_map, epoch=7))
    assert not answer.yes
    assert not answer.is_known
    assert not ok_to_stop(cluster_map, 77, facts(cluster_map)).yes


# --- safe_to_remove ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def drained(cluster_map: ClusterMap) -> ClusterMap:
    *_, last = epochs(plan(cluster_map, changes.drain(cluster_map, 4)), cluster_map)
    return last


def inventory(cluster_map: ClusterMap, **changes_: object) -> InventoryFacts:
    every = {table.profile: range(table.partitions) for table in cluster_map.tables}
    plain = InventoryFacts(cluster_map.epoch, every, {4: 0})
    return dataclasses.replace(plain, **changes_)  # type: ignore[arg-type]


def test_an_empty_node_of_a_complete_cluster_may_go(drained: ClusterMap) -> None:
    answer = safe_to_remove(drained, 4, inventory(drained))
    assert answer.yes
    changes.remove(drained, 4)


def test_a_node_with_seats_may_not_go(cluster_map: ClusterMap) -> None:
    answer = safe_to_remove(cluster_map, 4, inventory(cluster_map))
    assert not answer.yes
    assert "still has" in answer.reason
    now = apply_plan(plan(cluster_map, changes.drain(cluster_map, 4)), cluster_map)
    assert not safe_to_remove(now, 4, inventory(now)).yes


@pytest.mark.parametrize(
    ("change", "known", "text"),
    [
        ({"complete": {"ec-4-2": range(255)}}, False, "1 of 256 partitions"),
        ({"complete": {}}, False, "256 of 256 partitions"),
        ({"only_copies": {}}, False, "did not list what it keeps"),
        ({"only_copies": {4: 3}}, True, "keeps 3 shards outside of seats of its own"),
        ({"epoch": 1}, False, "collect them again"),
    ],
)
def test_no_with_the_reason(
    drained: ClusterMap, change: dict[str, object], known: bool, text: str
) -> None:
    answer = safe_to_remove(drained, 4, inventory(drained, **change))
    assert not answer.yes
    assert answer.is_known is known
    assert text in answer.reason


def test_a_lost_node_need_not_list_what_it_kept(drained: ClusterMap) -> None:
    lost = dataclasses.replace(drained, nodes=with_node(drained, 4, state=NodeState.OUT))
    assert safe_to_remove(lost, 4, inventory(lost, only_copies={})).yes
    assert not safe_to_remove(lost, 77, inventory(lost)).yes
