from __future__ import annotations

import dataclasses

import pytest

from hcefs.errors import Conflict, Invalid
from hcefs.placement import changes
from hcefs.placement.cluster_map import (
    ClusterMap,
    Move,
    NodeState,
    check_successor,
    encode_rows,
)
from hcefs.placement.planner import Plan, plan
from hcefs.placement.successor import check_planned, check_planned_successor, is_as_planned
from hcefs.placement.waves import (
    REBUILD,
    SeatName,
    advance,
    apply_plan,
    by_urgency,
    epochs,
    in_flight,
    is_planned,
)
from tests.unit.placement.maps import node, small_map, successor, with_node, with_table


@pytest.fixture(scope="module")
def six() -> ClusterMap:
    return small_map(6, 3)


@pytest.fixture(scope="module")
def grow(six: ClusterMap) -> Plan:
    """6 -> 9 nodes: about two seats of each row move."""
    return plan(six, changes.add(six, [node(7, "z0"), node(8, "z1"), node(9, "z2")]))


@pytest.fixture(scope="module")
def first(six: ClusterMap, grow: Plan) -> ClusterMap:
    return apply_plan(grow, six)


def legal(cluster_map: ClusterMap) -> bool:
    zone = {one.node_id: one.zone for one in cluster_map.nodes}
    return all(
        len(set(row)) == table.n
        and max(map([zone[one] for one in row].count, {zone[one] for one in row}))
        <= table.caps.zone
        for table in cluster_map.tables
        for row in table.node_rows
    )


def test_a_plan_is_a_sequence_of_legal_epochs(six: ClusterMap, grow: Plan) -> None:
    before = six
    maps = list(epochs(grow, six))
    assert len(maps) == grow.tables[0].report.waves + 1 >= 3
    for now in maps:
        check_planned_successor(before, now, in_flight(before))
        assert legal(now)
        assert now.epoch == before.epoch + 1
        moving = now.tables[0].moving
        assert len({move.partition for move in moving}) == len(moving)
        for move in moving:
            assert before.tables[0].node_rows[move.partition][move.seat] == move.source
        before = now
    last = maps[-1]
    assert last.tables[0].rows == grow.tables[0].target
    assert not is_planned(last)
    assert last.warnings() == ()
    assert [one.state for one in last.nodes] == [NodeState.UP] * 9
    assert [len(one.tables[0].moving) for one in maps][-1] == 0
    assert sum(len(one.tables[0].moving) for one in maps) == grow.moves


def test_every_wave_survives_its_encoding(first: ClusterMap) -> None:
    assert ClusterMap.decode(first.encode()) == first
    assert apply_plan(plan(small_map(6, 3), first.nodes), small_map(6, 3)).digest() == (
        first.digest()
    )


def test_version_1_of_the_protocol_still_refuses_plans(six: ClusterMap, first: ClusterMap) -> None:
    with pytest.raises(Invalid) as error:
        check_successor(six, first)
    assert error.value.reason == "unsupported"


def test_a_stale_plan_is_refused(six: ClusterMap, grow: Plan) -> None:
    later = successor(six, nodes=with_node(six, 2, state=NodeState.DOWN))
    with pytest.raises(Conflict, match="plan again") as error:
        apply_plan(grow, later)
    assert error.value.reason == "stale-plan"
    other = dataclasses.replace(six, seed=b"another cluster")
    with pytest.raises(Conflict):
        apply_plan(grow, other)


def test_a_plan_applied_twice_is_one_change(six: ClusterMap, grow: Plan, first: ClusterMap) -> None:
    assert apply_plan(grow, first) is first
    with pytest.raises(Conflict):
        apply_plan(grow, advance(first, in_flight(first)))
    with pytest.raises(Conflict):
        apply_plan(plan(six, six.nodes), first)


def test_a_plan_without_moves_only_changes_nodes(six: ClusterMap) -> None:
    found = plan(six, changes.mark_down(six, 2))
    now = apply_plan(found, six)
    assert not is_planned(now)
    assert now.node(2).state is NodeState.DOWN  # type: ignore[union-attr]
    check_successor(six, now)
    assert apply_plan(found, now) is now


def test_a_wave_ends_only_when_all_its_seats_have_arrived(
    six: ClusterMap, first: ClusterMap
) -> None:
    names = list(in_flight(first))
    with pytest.raises(Conflict, match="1 seats of this wave") as error:
        advance(first, names[1:])
    assert error.value.reason == "wave-not-done"
    with pytest.raises(Conflict) as error:
        advance(six, ())
    assert error.value.reason == "no-plan"


# --- planning again in mid-flight ------------------------------------------------------


def test_seats_in_flight_are_frozen(first: ClusterMap) -> None:
    again = plan(first, changes.reweight(first, 8, 50))
    now = apply_plan(again, first)
    check_planned_successor(first, now)
    kept = in_flight(now)
    assert all(kept[name] == source for name, source in in_flight(first).items())
    for name in in_flight(first):
        old, new = (m.table(name.profile).node_rows[name.partition] for m in (first, now))
        assert old == new
    *_, last = walk(now)
    assert last.tables[0].rows == again.tables[0].target


def walk(now: ClusterMap) -> list[ClusterMap]:
    """The maps until the plan is carried out, each checked."""
    maps = [now]
    while is_planned(now):
        after = advance(now, in_flight(now))
        check_planned_successor(now, after, in_flight(now))
        assert legal(after)
        now = after
        maps.append(now)
    return maps


def test_what_has_arrived_is_in_flight_no_more(first: ClusterMap) -> None:
    done = frozenset(list(in_flight(first))[:100])
    again = plan(first, changes.reweight(first, 8, 50))
    now = apply_plan(again, first, done)
    check_planned_successor(first, now, done)
    still = {name: source for name, source in in_flight(first).items() if name not in done}
    assert still.items() <= in_flight(now).items()
    assert walk(now)[-1].tables[0].rows == again.tables[0].target


def test_a_dead_destination_means_rebuild(first: ClusterMap) -> None:
    found = plan(first, changes.mark_out(first, [8]))
    now = apply_plan(found, first)
    check_planned_successor(first, now)
    before, after = in_flight(first), in_flight(now)
    rows = first.tables[0].node_rows
    dead = [name for name in before if rows[name.partition][name.seat] == 8]
    assert dead
    for name in dead:
        assert after[name] == REBUILD
        assert now.tables[0].node_rows[name.partition][name.seat] != 8
    assert {name: before[name] for name in before if name not in dead}.items() <= after.items()
    last = walk(now)[-1]
    assert all(8 not in row for row in last.tables[0].node_rows)


def test_a_dead_source_means_rebuild_at_the_same_destination(first: ClusterMap) -> None:
    now = apply_plan(plan(first, changes.mark_out(first, [1])), first)
    check_planned_successor(first, now)
    rows = now.tables[0].node_rows
    for name, source in in_flight(first).items():
        assert in_flight(now)[name] == (REBUILD if source == 1 else source)
        assert rows[name.partition] == first.tables[0].node_rows[name.partition]
    walk(now)


def test_a_plan_can_be_taken_back(six: ClusterMap, first: ClusterMap) -> None:
    back = tuple(
        dataclasses.replace(one, state=NodeState.DRAINING) if one.node_id > 6 else one
        for one in first.nodes
    )
    last = walk(apply_plan(plan(first, back), first))[-1]
    assert all(max(row) <= 6 for row in last.tables[0].node_rows)


def test_what_is_lost_is_rebuilt_first_and_the_poorest_rows_before_all() -> None:
    twelve = small_map(12, 4)
    now = apply_plan(plan(twelve, changes.mark_out(twelve, [1, 2]), weaker_caps=True), twelve)
    order = by_urgency(now)
    assert set(order) == set(in_flight(now))
    rows = twelve.tables[0].node_rows
    lost = [len({1, 2} & set(rows[name.partition])) for name in order]
    assert lost == sorted(lost, reverse=True)
    assert lost[0] == 2
    for name in order:
        if lost:
            assert rows[name.partition][name.seat] in (1, 2) or not {1, 2} & set(
                rows[name.partition]
            )


# --- what may follow what ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": b""}, "bad-plan"),
        ({"target": b"\0\1" * 6 * 256}, "node-twice"),
        ({"target": b"\0\1"}, "bad-table-size"),
        ({"moving": ()}, "bad-plan"),
        ({"wave": 0}, "bad-plan"),
        ({"waves": 0}, "bad-plan"),
        ({"waves": 99}, "bad-plan"),
        ({"moving": (Move(1, 0, 1), Move(0, 0, 1))}, "bad-plan"),
        ({"moving": (Move(1, 0, 1), Move(1, 1, 1))}, "bad-plan"),
        ({"moving": (Move(256, 0, 1),)}, "bad-plan"),
        ({"moving": (Move(0, 6, 1),)}, "bad-plan"),
        ({"moving": (Move(0, 0, 77),)}, "bad-plan"),
    ],
)
def test_malformed_plans(first: ClusterMap, change: dict[str, object], reason: str) -> None:
    with pytest.raises(Invalid) as error:
        check_planned(with_table(first, **change))
    assert error.value.reason == reason


def test_a_source_may_not_sit_in_the_row(first: ClusterMap) -> None:
    move = first.tables[0].moving[0]
    holder = first.tables[0].node_rows[move.partition][move.seat]
    with pytest.raises(Invalid, match="has a seat of the row"):
        check_planned(with_table(first, moving=(dataclasses.replace(move, source=holder),)))


def test_a_node_that_stays_in_a_row_keeps_its_seat(first: ClusterMap) -> None:
    table = first.tables[0]
    rows = [list(row) for row in table.target_rows]
    one, other = [seat for seat in range(6) if rows[0][seat] == table.node_rows[0][seat]][:2]
    rows[0][one], rows[0][other] = rows[0][other], rows[0][one]
    with pytest.raises(Invalid, match="another seat of the row"):
        check_planned(with_table(first, target=encode_rows(rows)))


def test_a_plan_has_as_many_waves_as_its_rows_need(first: ClusterMap) -> None:
    for waves in (first.tables[0].waves - 1, first.tables[0].waves + 1):
        with pytest.raises(Invalid, match="waves are left"):
            check_planned(with_table(first, waves=waves))


def test_steps_that_are_no_waves(six: ClusterMap, first: ClusterMap) -> None:
    second = advance(first, in_flight(first))
    moves = first.tables[0].moving
    wrong = dataclasses.replace(moves[0], source=REBUILD)
    skipped = with_table(
        dataclasses.replace(second, epoch=2, previous=six.digest()),
        wave=1,
        waves=second.tables[0].waves - 1,
    )
    cases = [
        (six, skipped, ()),  # two seats of a row at once
        (six, with_table(first, moving=moves[1:]), ()),  # a row changes and nothing is in flight
        (
            six,
            with_table(first, moving=(wrong, *moves[1:])),
            (),
        ),  # a source that is not who held it
        (first, second, ()),  # nothing has arrived
        (first, with_table(successor(first), moving=moves[1:]), ()),  # one left flight too early
    ]
    for old, new, done in cases:
        with pytest.raises(Invalid) as error:
            check_planned_successor(old, new, done)
        assert error.value.reason == "unplanned-move"
    with pytest.raises(Invalid):
        check_planned_successor(None, dataclasses.replace(first, epoch=1, previous=b""))
    check_planned_successor(None, six)


def test_a_new_target_begins_at_wave_1(six: ClusterMap, first: ClusterMap) -> None:
    second = advance(first, in_flight(first))
    waves = first.tables[0].waves + 1
    for old, new in [
        (six, with_table(first, wave=2, waves=waves)),
        (first, with_table(second, wave=3, waves=waves)),
        (first, with_table(successor(first), target=six.tables[0].rows, wave=2, waves=3)),
    ]:
        with pytest.raises(Invalid, match="follows wave"):
            check_planned_successor(old, new, in_flight(old))


def test_a_map_may_be_followed_by_one_with_other_nodes_in_mid_plan(first: ClusterMap) -> None:
    check_planned_successor(
        first, successor(first, nodes=with_node(first, 2, state=NodeState.DOWN))
    )


def test_nodes_check_that_a_target_is_the_planners(six: ClusterMap, first: ClusterMap) -> None:
    assert is_as_planned(six, first)
    assert is_as_planned(first, advance(first, in_flight(first)))
    rows = list(first.tables[0].target_rows)
    rows[0], rows[1] = rows[1], rows[0]
    assert not is_as_planned(six, with_table(first, target=encode_rows(rows)))


def test_seat_names_sort() -> None:
    names = [SeatName("b", 0, 0), SeatName("a", 2, 0), SeatName("a", 1, 5)]
    assert sorted(names) == list(reversed(names))
