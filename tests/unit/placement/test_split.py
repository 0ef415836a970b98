from __future__ import annotations

import dataclasses

import pytest

from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.placement import changes
from hcefs.placement.cluster_map import BITS_MAX
from hcefs.placement.planner import plan
from hcefs.placement.ring import seats
from hcefs.placement.split import is_split_of, split, split_table, wanted_bits
from hcefs.placement.successor import check_planned_successor
from hcefs.placement.waves import apply_plan
from tests.unit.placement.maps import node, nodes, small_map, with_table


def test_children_inherit_the_row_and_nothing_moves() -> None:
    old = small_map(9, 3)
    new = split(old, "ec-4-2")
    check_planned_successor(old, new)
    before, after = old.tables[0], new.tables[0]
    assert after.bits == before.bits + 1
    for partition, row in enumerate(before.node_rows):
        assert after.node_rows[2 * partition] == after.node_rows[2 * partition + 1] == row
    for number in range(300):
        base = number.to_bytes(16, "big")
        assert seats(new, "ec-4-2", base) == seats(old, "ec-4-2", base)


def test_only_a_split_may_change_the_number_of_partitions() -> None:
    old = small_map(9, 3)
    new = split(old, "ec-4-2")
    rows = new.tables[0].rows
    mixed = with_table(new, rows=rows[12:24] + rows[:12] + rows[24:])
    twice = with_table(new, bits=10, rows=split_table(new.tables[0]).rows)
    for wrong in (with_table(new, rows=rows[24:] + rows[:24]), twice):
        with pytest.raises(Invalid) as error:
            check_planned_successor(old, wrong)
        assert error.value.reason == "unplanned-move"
    assert is_split_of(mixed.tables[0], old.tables[0])  # the two halves are alike


def test_not_while_seats_move_and_not_beyond_the_largest_table() -> None:
    old = small_map(9, 3)
    moving = apply_plan(plan(old, changes.add(old, [node(10)])), old)
    with pytest.raises(Conflict) as error:
        split(moving, "ec-4-2")
    assert error.value.reason == "plan-in-progress"
    with pytest.raises(Invalid) as bad:
        split_table(dataclasses.replace(old.tables[0], bits=BITS_MAX))
    assert bad.value.reason == "bad-table-size"
    with pytest.raises(NotFound):
        split(old, "copy-3")


def test_a_split_is_wanted_when_nodes_outgrow_the_partitions() -> None:
    old = small_map(9, 3)
    assert wanted_bits(old, "ec-4-2") == 8
    grown = dataclasses.replace(old, nodes=tuple(nodes(40, 3)))
    assert wanted_bits(grown, "ec-4-2") == 10
