"""Who must be heard before nobody can serve: row by row, as the map lets nodes hold shards."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from hcefs.errors import Invalid
from hcefs.evidence.revocation import must_confirm, worst_gap
from hcefs.placement.cluster_map import ClusterMap, Move, NodeState
from hcefs.placement.planner import first_map
from hcefs.placement.stand_ins import stand_ins_of
from tests.unit.ledger.certificates import CertificateWorld
from tests.unit.placement.maps import SEED, nodes, successor, with_node, with_table

WORLD = CertificateWorld()
PLAIN = first_map(nodes(12), [("ec-4-2", 4, 2)], SEED, "ec-4-2")


def by_hand(cluster_map: ClusterMap, silent: set[int]) -> int:
    """The most indexes of any row, counted the long way."""
    (table,) = cluster_map.tables
    most = 0
    for partition, row in enumerate(table.node_rows):
        held = len(set(row) & silent)
        held += len({n.node_id for n in stand_ins_of(cluster_map, "ec-4-2", partition)} & silent)
        most = max(most, held)
    return most


def test_nobody_silent_leaves_no_gap() -> None:
    assert worst_gap(PLAIN, set()) is None


def test_seats_and_stand_ins_are_counted_row_by_row() -> None:
    found = 0
    for size in (3, 4, 5):
        for silent in list(combinations(range(1, 13), size))[::29]:
            gap = worst_gap(PLAIN, silent)
            most = by_hand(PLAIN, set(silent))
            assert (gap is not None) == (most >= 4)
            if gap is not None:
                found += 1
                assert gap.indexes == most
                assert gap.nodes == silent
    assert found, "some of these sets can serve"


def test_both_ends_of_a_move_may_hold_its_index() -> None:
    (table,) = PLAIN.tables
    row = table.node_rows[0]
    source = next(n for n in range(1, 13) if n not in row)
    moving = with_table(PLAIN, target=table.rows, moving=(Move(0, 2, source),), wave=1, waves=1)
    silent = {row[0], row[1], row[3], source}
    gap = worst_gap(moving, silent)
    assert gap is not None
    assert gap.indexes >= 4
    # The new holder of that seat and its source are one index, not two.
    assert worst_gap(moving, {row[0], row[2], source}) is None


def test_where_a_plan_leads_counts_as_a_seat() -> None:
    (table,) = PLAIN.tables
    row = table.node_rows[0]
    standing = {node.node_id for node in stand_ins_of(PLAIN, "ec-4-2", 0)}
    other = next(n for n in range(1, 13) if n not in row and n not in standing)
    aimed = other.to_bytes(2, "big") + table.rows[2:]
    led = with_table(PLAIN, target=aimed)
    gap = worst_gap(led, {other, row[1], row[2], row[3]})
    assert gap is not None


def test_after_a_change_of_the_map_a_silent_node_may_hold_anything() -> None:
    """It may keep copies in grace of seats that only earlier maps tell of."""
    later = successor(PLAIN)
    gap = worst_gap(later, {7})
    assert gap is not None
    assert (gap.indexes, gap.nodes) == (6, (7,))
    assert worst_gap(later, set()) is None


def test_removed_nodes_need_not_be_heard() -> None:
    changed = replace(PLAIN, nodes=with_node(PLAIN, 3, state=NodeState.REMOVED))
    assert must_confirm(changed) == set(range(1, 13)) - {3}
    for state in (NodeState.OUT, NodeState.DOWN, NodeState.DRAINING, NodeState.JOINING):
        assert 3 in must_confirm(replace(PLAIN, nodes=with_node(PLAIN, 3, state=state)))


@pytest.mark.parametrize(
    "changes",
    [
        {"revoked_height": 0},
        {"applied_height": 1},
        {"epoch": 0},
        {"key_version": 0},
        {"streams_cut": -1},
        {"tokens_dropped": 1 << 32},
        {"time_ms": 0},
        {"applied_hash": b"short"},
        {"map_digest": b""},
    ],
)
def test_statements_out_of_range(changes: dict[str, int | bytes]) -> None:
    signed = WORLD.signed("n1", **changes)
    with pytest.raises(Invalid) as caught:
        signed.check(WORLD.world.party("n1").signing.public_key)
    assert caught.value.reason == "bad-statement"
