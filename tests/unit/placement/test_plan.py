"""Plans of whole maps: what moves, what is reported, what is refused."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from fractions import Fraction

import pytest

from hcefs.errors import Invalid
from hcefs.placement import changes
from hcefs.placement.cluster_map import Caps, ClusterMap, Node, NodeState
from hcefs.placement.feasibility import Infeasible, advice, require_row
from hcefs.placement.figures import loads_of
from hcefs.placement.planner import first_map, plan
from tests.unit.placement.maps import SEED, node, nodes, small_map, with_node, with_table


@pytest.fixture(scope="module")
def twelve() -> ClusterMap:
    return small_map(12, 4)


def target_of(old: ClusterMap, given: tuple[Node, ...]) -> tuple[tuple[int, ...], ...]:
    found = plan(old, given).tables[0]
    return dataclasses.replace(old.tables[0], target=found.target).target_rows


def test_nothing_changes_without_a_change(twelve: ClusterMap) -> None:
    found = plan(twelve, twelve.nodes)
    assert found.moves == 0
    assert found.tables[0].target == twelve.tables[0].rows
    assert found.tables[0].report.before == found.tables[0].report.after


def test_adding_takes_from_others_and_gives_them_nothing(twelve: ClusterMap) -> None:
    report = plan(twelve, changes.add(twelve, [node(13, "z1")])).tables[0].report
    assert report.moves == report.newcomers == report.lower_bound
    assert report.gap == 0
    assert report.rebuilds == 0
    assert [one.node_id for one in report.nodes if one.after > one.before] == [13]
    assert abs(report.moves - report.ideal) < 2
    assert report.after.zone_safe
    assert report.after.feasible < Fraction(101, 100)


def test_replacing_moves_exactly_the_quota_and_nothing_else(twelve: ClusterMap) -> None:
    for gone in (1, 5, 12):
        old = twelve.nodes[gone - 1]
        new = dataclasses.replace(node(13, old.zone), weight=old.weight)
        rows = target_of(twelve, changes.replace_node(twelve, gone, new))
        expected = tuple(
            tuple(13 if one == gone else one for one in row) for row in twelve.tables[0].node_rows
        )
        assert rows == expected


def test_draining_and_losing_move_the_same_seats_from_other_sources(twelve: ClusterMap) -> None:
    drained = plan(twelve, changes.drain(twelve, 4)).tables[0]
    lost = plan(twelve, changes.mark_out(twelve, [4])).tables[0]
    assert drained.target == lost.target
    assert drained.report.rebuilds == 0
    assert lost.report.rebuilds == lost.report.moves == loads_of(twelve.tables[0].node_rows)[4]


def test_a_node_that_is_down_keeps_its_seats(twelve: ClusterMap) -> None:
    assert plan(twelve, changes.mark_down(twelve, 4)).moves == 0


def test_every_profile_of_the_map_is_planned() -> None:
    both = first_map(nodes(16, 4), [("ec-4-2", 4, 2), ("ec-10-4", 10, 4)], SEED, "ec-4-2")
    found = plan(both, changes.add(both, [node(17, "z1")]))
    assert [table.profile for table in found.tables] == ["ec-4-2", "ec-10-4"]
    assert found.moves == sum(table.report.moves for table in found.tables)


def test_broken_caps_are_repaired() -> None:
    wide = small_map(15, 5)
    moved = with_node(wide, 1, zone="z2")
    broken = dataclasses.replace(wide, nodes=moved)
    assert any(warning.startswith("CAPS BROKEN") for warning in broken.warnings())
    report = plan(wide, moved).tables[0].report
    assert report.after.zone_safe
    assert report.moves == report.newcomers >= report.lower_bound > 0


def test_caps_that_are_the_default_follow_it() -> None:
    two = small_map(8, 2)
    assert two.tables[0].caps.zone == 3
    found = plan(two, changes.add(two, [node(9, "z9"), node(10, "z9"), node(11, "z9")]))
    assert found.tables[0].caps == Caps(2, 2, 1)
    assert found.tables[0].report.after.zone_safe
    assert not found.tables[0].report.before.zone_safe  # type: ignore[union-attr]


def test_caps_follow_the_default_also_after_a_change_without_a_plan() -> None:
    # Somebody put the new nodes into the map first, and planned later.
    two = small_map(8, 2)
    added = changes.add(two, [node(9, "z9"), node(10, "z9"), node(11, "z9")])
    found = plan(dataclasses.replace(two, nodes=added), added)
    assert found.tables[0].caps == Caps(2, 2, 1)
    seven = small_map(7, 3)
    lost = dataclasses.replace(seven, nodes=changes.mark_out(seven, [3]))
    assert plan(lost, lost.nodes, weaker_caps=True).tables[0].caps.zone == 3


def test_caps_that_were_chosen_stay() -> None:
    chosen = with_table(small_map(12, 4), caps=Caps(3, 3, 1))
    assert plan(chosen, chosen.nodes).tables[0].caps == Caps(3, 3, 1)


# --- refusals, each with its cure ----------------------------------------------------


def refused(call: object, reason: str) -> str:
    assert callable(call)
    with pytest.raises(Infeasible) as error:
        call()
    assert error.value.reason == reason
    assert error.value.cures
    assert error.value.cures[0].text in str(error.value)
    return error.value.cures[0].text


def test_draining_below_the_minimum() -> None:
    six = small_map(6, 3)
    cure = refused(lambda: plan(six, changes.drain(six, 4)), "too-few-nodes")
    assert cure == "add one host in zone z1"
    cured = changes.add(six, [node(7, "z1")])
    again = dataclasses.replace(six, nodes=cured)
    plan(again, changes.drain(again, 4))


def test_weaker_caps_need_consent() -> None:
    seven = small_map(7, 3)
    cure = refused(lambda: plan(seven, changes.drain(seven, 3)), "weaker-caps")
    assert cure == "add one host in zone z0"
    found = plan(seven, changes.drain(seven, 3), weaker_caps=True)
    assert found.tables[0].caps.zone == 3
    assert not found.tables[0].report.after.zone_safe


def test_chosen_caps_that_cannot_hold() -> None:
    # A default of 2 a zone; somebody chose 1 a rack as well, which six racks just hold.
    racks = [node(n, f"z{n % 3}", rack=f"r{n}") for n in range(1, 8)]
    made = with_table(
        first_map(racks, [("ec-4-2", 4, 2)], SEED, "ec-4-2"), caps=Caps(zone=2, rack=1, host=1)
    )
    merged = with_node(made, 3, rack="r6")
    cure = refused(lambda: plan(made, merged), "infeasible")
    assert cure == "add one host in zone z0"
    with pytest.raises(Infeasible) as error:
        plan(made, merged)
    assert [one.action for one in error.value.cures] == ["add-hosts", "raise-cap"]
    assert error.value.cures[1].text == "allow 2 seats of a row in one rack"


def test_a_cure_may_need_several_zones_or_new_ones() -> None:
    with pytest.raises(Infeasible) as error:
        require_row(nodes(5, 3)[1:], Caps(2, 2, 1), "ec-4-2", 6)
    assert error.value.cures[0].text == "add one host in zone z0 and one host in zone z1"
    with pytest.raises(Infeasible) as error:
        require_row(nodes(6, 3), Caps(1, 1, 1), "ec-4-2", 6)
    assert error.value.cures[0].text == "add 3 hosts in 3 new zones"


def test_weights_that_cannot_be_filled_are_named_with_the_largest_that_can() -> None:
    six = small_map(6, 3)
    report = plan(six, changes.reweight(six, 5, 200)).tables[0].report
    assert report.after.stranded > 0
    assert "lower the weight of node 5 to at most 100" in report.advice[0]
    cured = changes.reweight(six, 5, 100)
    assert advice(cured, Caps(2, 2, 1), "ec-4-2", 6) == ()


def test_a_zone_that_is_too_heavy_is_named() -> None:
    nine = small_map(9, 3)
    heavy = changes.add(nine, [node(10, "z0"), node(11, "z0")])
    (said,) = plan(nine, heavy).tables[0].report.advice
    assert "zone z0 has weight 500" in said
    assert "at most 300 together" in said


def test_forgotten_and_reused_ids(twelve: ClusterMap) -> None:
    with pytest.raises(Invalid) as error:
        plan(twelve, twelve.nodes[:-1])
    assert error.value.reason == "unknown-node"
    with pytest.raises(Invalid) as error:
        plan(twelve, (*twelve.nodes, node(12, "z3", account=node(77).account)))
    assert error.value.reason == "node-id-twice"


def test_a_removed_node_with_seats(twelve: ClusterMap) -> None:
    with pytest.raises(Invalid) as error:
        plan(twelve, with_node(twelve, 2, state=NodeState.REMOVED))
    assert error.value.reason == "removed-node"


# --- one result everywhere ------------------------------------------------------------

SCRIPT = """
from hcefs.placement import changes
from hcefs.placement.planner import plan
from tests.unit.placement.maps import node, small_map
old = small_map(17, 4)
new = changes.reweight(old, 3, 170)
print(plan(old, (*new, node(18, "z1"))).tables[0].target.hex())
"""


def test_the_same_plan_under_every_hash_seed() -> None:
    found = set()
    for hash_seed in ("0", "4242"):
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found.add(ran.stdout.strip())
    assert len(found) == 1


def test_the_order_of_nodes_does_not_matter(twelve: ClusterMap) -> None:
    given = changes.add(twelve, [node(13, "z1")])
    assert plan(twelve, given) == plan(twelve, tuple(reversed(given)))
