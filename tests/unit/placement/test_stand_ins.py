"""Who stands in for whom: distinct from the row, the same everywhere, spread, bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from hcefs.ids import AccountId
from hcefs.placement.cluster_map import ClusterMap, Move, Node, NodeState
from hcefs.placement.planner import first_map
from hcefs.placement.ring import partition_of, seats
from hcefs.placement.stand_ins import SPARE, choice, record_stand_ins, stand_ins

BASES = [number.to_bytes(16, "big") for number in range(200)]


def node(number: int, zones: int = 3, state: NodeState = NodeState.UP) -> Node:
    return Node(
        number,
        AccountId(number.to_bytes(AccountId.SIZE, "big")),
        f"a:{number}",
        f"p:{number}",
        f"zone-{number % zones}",
        "",
        f"host-{number}",
        100,
        state,
    )


def made(count: int, zones: int = 3) -> ClusterMap:
    nodes = [node(number, zones) for number in range(1, count + 1)]
    return first_map(nodes, [("ec-4-2", 4, 2), ("copy-3", 1, 2)], bytes(32), "ec-4-2")


def test_none_of_the_row_stands_in_for_it() -> None:
    current = made(9)
    for base in BASES:
        row = {seat.node.node_id for seat in seats(current, "ec-4-2", base)}
        found = [each.node_id for each in stand_ins(current, "ec-4-2", base)]
        assert len(found) == 3
        assert len(set(found)) == 3
        assert not row & set(found)


def test_the_order_is_a_function_of_the_map_alone() -> None:
    one, other = made(20), made(20)
    assert one is not other
    for base in BASES:
        assert stand_ins(one, "ec-4-2", base) == stand_ins(other, "ec-4-2", base)


def test_as_many_nodes_as_seats_leave_nobody() -> None:
    assert stand_ins(made(6), "ec-4-2", BASES[0]) == ()


def test_they_are_bounded_and_of_a_records_rows_at_most_k() -> None:
    current = made(20)
    assert len(stand_ins(current, "ec-4-2", BASES[0])) == 2 + SPARE
    assert record_stand_ins(current, BASES[0]) == stand_ins(current, "ec-4-2", BASES[0])[:4]
    copies = replace(current, default_profile="copy-3")
    assert record_stand_ins(copies, BASES[0]) == stand_ins(copies, "copy-3", BASES[0])[:1]


def test_what_one_node_is_to_have_spreads_over_all_others() -> None:
    current = made(20)
    firsts = Counter(stand_ins(current, "ec-4-2", base)[0].node_id for base in BASES)
    assert len(firsts) > 15
    assert max(firsts.values()) < 40


def test_who_is_down_leaving_or_gone_stands_in_for_nobody() -> None:
    current = made(12)
    for state in (NodeState.DOWN, NodeState.DRAINING, NodeState.OUT):
        nodes = tuple(replace(n, state=state) if n.node_id > 9 else n for n in current.nodes)
        changed = replace(current, nodes=nodes)
        for base in BASES[:50]:
            assert all(each.node_id <= 9 for each in stand_ins(changed, "ec-4-2", base))


def test_the_source_of_a_seat_in_flight_is_of_the_row() -> None:
    current = made(9)
    table = current.table("ec-4-2")
    base = BASES[0]
    first = stand_ins(current, "ec-4-2", base)[0]
    partition = partition_of(base, table.bits)
    moving = replace(table, moving=(Move(partition, 0, first.node_id),))
    tables = tuple(moving if each.profile == "ec-4-2" else each for each in current.tables)
    assert first not in stand_ins(replace(current, tables=tables), "ec-4-2", base)


def test_a_zone_with_room_comes_first() -> None:
    """Five zones, six seats, caps of two: some zones have one seat of the row only."""
    current = made(20, zones=5)
    table = current.table("ec-4-2")
    some = 0
    for base in BASES:
        row = Counter(seat.node.zone for seat in seats(current, "ec-4-2", base))
        order = stand_ins(current, "ec-4-2", base)
        roomy = [row[each.zone] < table.caps.zone for each in order]
        assert roomy == sorted(roomy, reverse=True)
        some += any(roomy)
    assert some


@pytest.mark.parametrize("lost", range(6))
def test_whoever_is_away_is_followed_by_one_of_its_zone(lost: int) -> None:
    current = made(12)
    for base in BASES:
        held = seats(current, "ec-4-2", base)
        order = stand_ins(current, "ec-4-2", base)
        missing = held[lost].node
        found = choice(order, missing, ())
        assert found is not None
        same = [each for each in order if each.zone == missing.zone]
        assert found == (same or list(order))[0]


def test_who_is_taken_is_not_chosen_twice() -> None:
    current = made(9)
    order = stand_ins(current, "ec-4-2", BASES[0])
    missing = seats(current, "ec-4-2", BASES[0])[0].node
    taken: set[AccountId] = set()
    for _ in order:
        found = choice(order, missing, taken)
        assert found is not None
        assert found.account not in taken
        taken.add(found.account)
    assert choice(order, missing, taken) is None
