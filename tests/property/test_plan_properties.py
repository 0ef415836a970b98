"""What holds of every sequence of changes: fewest moves, caps, balance, legal waves."""

from __future__ import annotations

import dataclasses
from collections import Counter
from fractions import Fraction
from random import Random

import pytest

from benchmarks import placement as bench
from benchmarks.placement_figures import real_optimum
from hcefs.errors import Invalid
from hcefs.placement import changes
from hcefs.placement.cluster_map import LEVELS, ClusterMap, Node, NodeState
from hcefs.placement.figures import fair_shares, loads_of
from hcefs.placement.planner import Plan, first_map, plan
from hcefs.placement.successor import check_planned_successor
from hcefs.placement.waves import advance, apply_plan, in_flight, is_planned
from tests.property.flow_oracle import fewest_newcomers
from tests.unit.placement.maps import SEED, node

PROFILES = [("ec-4-2", 4, 2), ("copy-3", 1, 2), ("narrow", 3, 1), ("ec-8-3", 8, 3)]


def some_node(draw: Random, number: int) -> Node:
    shared = draw.random() < 0.3
    return node(
        number,
        f"z{draw.randint(0, 3)}",
        rack=f"r{draw.randint(0, 1)}",
        host=f"h{draw.randint(0, 2)}" if shared else f"own{number}",
        weight=draw.randint(1, 20) * 50,
    )


def first(draw: Random) -> ClusterMap:
    profile = draw.choice(PROFILES)
    least = profile[1] + profile[2]
    count = draw.randint(least, least + 8)
    given = [some_node(draw, number) for number in range(1, count + 1)]
    return first_map(given, [profile], SEED, profile[0])


def change(draw: Random, old: ClusterMap) -> tuple[Node, ...]:
    """One or two changes at once, as an operator or a failure would make them."""
    given = old
    for _ in range(draw.randint(1, 2)):
        live = [one for one in given.nodes if one.state in (NodeState.UP, NodeState.JOINING)]
        one = draw.choice(live)
        fresh = some_node(draw, changes.next_node_id(given))
        kind = draw.randrange(6)
        if kind == 0:
            nodes = changes.add(given, [fresh])
        elif kind == 1:
            nodes = changes.drain(given, one.node_id, give_up_zone=True)
        elif kind == 2:
            nodes = changes.mark_out(given, [one.node_id])
        elif kind == 3:
            twin = dataclasses.replace(
                one, node_id=fresh.node_id, account=fresh.account, state=NodeState.UP
            )
            nodes = changes.replace_node(given, one.node_id, twin)
        elif kind == 4:
            nodes = changes.reweight(given, one.node_id, draw.randint(1, 20) * 50)
        else:
            nodes = tuple(
                dataclasses.replace(other, zone=f"z{draw.randint(0, 4)}") if other is one else other
                for other in given.nodes
            )
        given = dataclasses.replace(given, nodes=nodes)
    return given.nodes


def check_plan(old: ClusterMap, found: Plan) -> None:
    """Caps hold, seats move only where sets do, and nobody is above the fair share."""
    for table, planned in zip(old.tables, found.tables, strict=True):
        report = planned.report
        target = dataclasses.replace(table, target=planned.target).target_rows
        by_id = {one.node_id: one for one in found.nodes}
        for row in target:
            assert len(set(row)) == table.n
            for level in LEVELS:
                counts = Counter(by_id[node_id].domain(level) for node_id in row)
                assert max(counts.values()) <= planned.caps.of(level)
        assert report.moves == report.newcomers >= report.lower_bound
        seats = [one.after for one in report.nodes if one.after]
        assert report.after.feasible <= 1 + Fraction(len(found.nodes), min(seats))


def check_waves(old: ClusterMap, found: Plan, was_legal: bool) -> ClusterMap:
    """Every epoch follows from the one before, and is legal if the first is."""
    now, before = apply_plan(found, old), old
    done = frozenset(in_flight(old))
    while True:
        check_planned_successor(before, now, done)
        if was_legal:
            broken = [w for w in now.warnings() if w.startswith("CAPS BROKEN")]
            assert not broken
        if not is_planned(now):
            break
        done = frozenset(in_flight(now))
        before, now = now, advance(now, done)
    for table, planned in zip(now.tables, found.tables, strict=True):
        assert table.rows == planned.target
    return now


def walk(seed: int, steps: int, *, oracle: bool) -> int:
    """Random changes in a row; returns how many could be planned."""
    draw = Random(seed)  # noqa: S311 - test data
    now = first(draw)
    planned = 0
    for _ in range(steps):
        nodes = change(draw, now)
        try:
            found = plan(now, nodes, weaker_caps=True)
        except Invalid:
            continue
        planned += 1
        check_plan(now, found)
        if oracle:
            for table, one in zip(now.tables, found.tables, strict=True):
                loads = loads_of(dataclasses.replace(table, target=one.target).target_rows)
                best = fewest_newcomers(table.node_rows, nodes, loads, one.caps)
                assert one.report.moves == best, f"seed {seed}"
        legal = not any(
            warning.startswith("CAPS BROKEN")
            for warning in dataclasses.replace(
                now,
                nodes=nodes,
                tables=tuple(
                    dataclasses.replace(table, caps=one.caps)
                    for table, one in zip(now.tables, found.tables, strict=True)
                ),
            ).warnings()
        )
        now = check_waves(now, found, legal)
    return planned


@pytest.mark.parametrize("seed", range(12))
def test_moves_are_the_optimum_of_the_flow(seed: int) -> None:
    pytest.importorskip("ortools", reason="no OR-Tools for this version of Python")
    assert walk(seed, 6, oracle=True) >= 1


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 200))
def test_moves_are_the_optimum_of_the_flow_in_long_walks(seed: int) -> None:
    pytest.importorskip("ortools", reason="no OR-Tools for this version of Python")
    walk(seed, 20, oracle=True)


def test_walks_end_in_every_wave_legal() -> None:
    assert sum(walk(seed, 5, oracle=False) for seed in range(20, 26)) >= 15


def replanned(seed: int) -> None:
    """Plans made while others are in flight, with some seats arrived."""
    draw = Random(seed)  # noqa: S311 - test data
    now = first(draw)
    for _ in range(8):
        nodes = change(draw, now)
        try:
            found = plan(now, nodes, weaker_caps=True)
        except Invalid:
            continue
        check_plan(now, found)
        names = list(in_flight(now))
        done = frozenset(draw.sample(names, draw.randint(0, len(names))))
        after = apply_plan(found, now, done)
        check_planned_successor(now, after, done)
        now = after
    while is_planned(now):
        done = frozenset(in_flight(now))
        after = advance(now, done)
        check_planned_successor(now, after, done)
        now = after
    lost = {one.node_id for one in now.nodes if one.state in (NodeState.OUT, NodeState.DRAINING)}
    assert not lost.intersection(loads_of(now.tables[0].node_rows))


@pytest.mark.parametrize("seed", range(40, 46))
def test_planning_again_in_mid_flight(seed: int) -> None:
    replanned(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200, 300))
def test_planning_again_in_mid_flight_often(seed: int) -> None:
    replanned(seed)


def check_walk(count: int, profile: str, steps: int, *, prove: bool) -> None:
    found = bench.random_walk(count, profile, steps, prove=prove)
    assert found.violations == 0
    assert found.seats_are_sets
    assert found.all_minimal
    assert found.imbalance <= 1.01
    assert found.moves <= 1.02 * found.ideal


def test_random_operations_on_fifty_nodes() -> None:
    check_walk(50, "ec-4-2", 25, prove=True)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("profile", ["ec-4-2", "ec-10-4"])
def test_a_hundred_random_operations_on_two_hundred_nodes(profile: str) -> None:
    check_walk(200, profile, 100, prove=True)


def test_a_few_random_operations_on_two_hundred_nodes() -> None:
    check_walk(200, "ec-4-2", 6, prove=False)


@pytest.mark.long
def test_the_real_valued_optimum_is_that_of_the_linear_program() -> None:
    """Caps included: a row planned as often as the shares' denominator."""
    pytest.importorskip("ortools", reason="no OR-Tools for this version of Python")
    old = bench.make_map(12, "ec-4-2")
    nodes = bench.operations(old)["double weight"]()
    found = plan(old, nodes).tables[0]
    assert found.report.gap > 0
    fair = fair_shares(nodes, found.caps, 256, 6)
    times = 13
    loads = {node_id: int(share * times) for node_id, share in fair.items()}
    rows = [row for row in old.tables[0].node_rows for _ in range(times)]
    best = Fraction(fewest_newcomers(rows, nodes, loads, found.caps), times)
    assert real_optimum(old.tables[0], nodes, found) == float(best)
