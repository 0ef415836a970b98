from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest

from hcefs.errors import Invalid
from hcefs.placement import planner, scores
from hcefs.placement.cluster_map import Caps, NodeState
from hcefs.placement.planner import first_map, first_table
from hcefs.placement.quotas import domains_of, imbalance, members, quotas, shares
from hcefs.placement.ring import seats
from tests.unit.placement.maps import SEED, node, nodes

PROFILES = [("ec-4-2", 4, 2), ("ec-10-4", 10, 4), ("copy-3", 1, 2)]


def equal(_: int) -> int:
    return 100


def mixed(node_id: int) -> int:
    return 1_000 + 137 * (node_id % 7)


def threefold(node_id: int) -> int:
    return 4 + 4 * (node_id % 3)


@pytest.mark.parametrize("weight", [equal, mixed, threefold])
@pytest.mark.parametrize("zones", [1, 3, 5])
@pytest.mark.parametrize(("count", "k", "m"), [(6, 4, 2), (12, 4, 2), (50, 4, 2), (50, 10, 4)])
def test_the_first_table_is_balanced(
    count: int,
    k: int,
    m: int,
    zones: int,
    weight: Callable[[int], int],
) -> None:
    given = nodes(count, zones, weight)
    table = first_table(given, "p", k, m, SEED)
    seated = members(given)
    loads = Counter(node_id for row in table.node_rows for node_id in row)
    found = [loads[one.node_id] for one in seated]
    weights = [one.weight for one in seated]
    domains = domains_of(seated, table.caps)
    fair = shares(weights, domains, table.partitions, table.n)
    assert sum(found) == table.n * table.partitions
    assert sum(found) >= 100 * count
    assert imbalance(found, fair) <= Fraction(101, 100)
    assert all(len(set(row)) == table.n for row in table.node_rows)
    zone = {one.node_id: one.zone for one in seated}
    for row in table.node_rows:
        assert max(Counter(zone[node_id] for node_id in row).values()) <= table.caps.zone


def test_caps_hold_at_every_level() -> None:
    given = [
        node(number, f"z{number % 3}", rack=f"r{number % 2}", host=f"h{number // 2}")
        for number in range(1, 41)
    ]
    table = first_table(given, "ec-8-3", 8, 3, SEED, caps=Caps(zone=4, rack=2, host=1))
    by_id = {one.node_id: one for one in given}
    for row in table.node_rows:
        for level in ("zone", "rack", "host"):
            most = max(Counter(by_id[node_id].domain(level) for node_id in row).values())
            assert most <= table.caps.of(level)


def test_rows_look_random_rather_than_striped() -> None:
    table = first_table(nodes(12, 4), "ec-4-2", 4, 2, SEED)
    assert len({frozenset(row) for row in table.node_rows}) > 200
    pairs = Counter(
        (a, b) for row in table.node_rows for a in row for b in row if a < b and (a - b) % 4
    )
    fair = sum(pairs.values()) / len(pairs)
    assert max(pairs.values()) < 1.5 * fair


def test_the_first_map_has_a_checked_table_for_each_profile() -> None:
    given = nodes(16, 4)
    made = first_map(reversed_copy := list(reversed(given)), PROFILES, SEED, "ec-4-2")
    made.check()
    assert reversed_copy[0].node_id == 16
    assert [table.profile for table in made.tables] == [name for name, _, _ in PROFILES]
    assert made == first_map(given, PROFILES, SEED, "ec-4-2")
    assert made.epoch == 1
    assert made.previous == b""
    assert len(seats(made, "ec-10-4", bytes(16))) == 14


def test_seed_and_profile_name_change_the_rows() -> None:
    given = nodes(12, 4)
    table = first_table(given, "ec-4-2", 4, 2, SEED)
    assert first_table(given, "ec-4-2", 4, 2, SEED).rows == table.rows
    assert first_table(given, "ec-4-2", 4, 2, SEED[1:]).rows != table.rows
    assert first_table(given, "other", 4, 2, SEED).rows != table.rows


def test_partitions_are_provided_for_the_nodes_expected() -> None:
    assert first_table(nodes(6), "ec-4-2", 4, 2, SEED).bits == 8
    assert first_table(nodes(6), "ec-4-2", 4, 2, SEED, nodes_expected=50).bits == 10
    made = first_map(nodes(6), [("ec-4-2", 4, 2)], SEED, "ec-4-2", nodes_expected=50)
    assert made.tables[0].bits == 10


def test_nodes_that_take_no_seats_stay_in_the_map() -> None:
    given = [*nodes(6), node(7, state=NodeState.DRAINING), node(8, weight=0)]
    made = first_map(given, [("ec-4-2", 4, 2)], SEED, "ec-4-2")
    assert len(made.nodes) == 8
    assert {node_id for row in made.tables[0].node_rows for node_id in row} == set(range(1, 7))


def test_a_heavy_node_sits_in_every_row() -> None:
    given = nodes(9, 9, lambda number: 10_000 if number == 4 else 10)
    table = first_table(given, "ec-4-2", 4, 2, SEED)
    assert all(4 in row for row in table.node_rows)


def test_what_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid) as error:
        first_table(nodes(5), "ec-4-2", 4, 2, SEED)
    assert error.value.reason == "too-few-nodes"
    for k, m in [(0, 2), (4, 0), (250, 6)]:
        with pytest.raises(Invalid) as error:
            first_table(nodes(6), "p", k, m, SEED)
        assert error.value.reason == "bad-profile"
    with pytest.raises(Invalid) as error:
        first_table(nodes(6, 2), "ec-4-2", 4, 2, SEED, caps=Caps(2, 2, 1))
    assert error.value.reason == "infeasible"
    with pytest.raises(Invalid) as error:
        first_table(nodes(6, 2), "ec-4-2", 4, 2, SEED, caps=Caps(3, 3, 0))
    assert error.value.reason == "bad-caps"
    with pytest.raises(Invalid) as error:
        first_map([*nodes(6), node(7, weight=-1)], PROFILES[:1], SEED, "ec-4-2")
    assert error.value.reason == "bad-weight"
    monkeypatch.setattr(planner, "PAIRS_MAX", 1_000)
    with pytest.raises(Invalid) as error:
        first_table(nodes(6), "ec-4-2", 4, 2, SEED)
    assert error.value.reason == "too-many-nodes"


def test_integer_logarithm() -> None:
    logs = scores.log_table()
    unit = 1 << scores.LOG_FRACTION
    for draw in (1, 2, 3, 1 << 63, (1 << 63) - 1, (1 << 64) - 1, 0x123456789ABCDEF0, 10**19):
        exact = 64 - math.log2(draw)
        assert abs(scores.minus_log2(draw, logs) / unit - exact) < 1e-6
    assert scores.minus_log2(0, logs) == scores.minus_log2(1, logs)
    assert scores.minus_log2(1 << 63, logs) == unit


def test_integer_logarithm_never_rises() -> None:
    logs = scores.log_table()
    step = (1 << 63) // 5_000
    costs = [scores.minus_log2(draw, logs) for draw in range(1, 1 << 64, step)]
    assert costs == sorted(costs, reverse=True)


def test_quotas_decide_loads_exactly() -> None:
    given = nodes(12, 4, mixed)
    table = first_table(given, "ec-4-2", 4, 2, SEED)
    loads = Counter(node_id for row in table.node_rows for node_id in row)
    wanted = quotas(
        [one.weight for one in given],
        domains_of(given, table.caps),
        table.partitions,
        table.n,
        [scores.tie_of(SEED, "ec-4-2", one) for one in given],
    )
    assert [loads[one.node_id] for one in given] == wanted


SCRIPT = """
from tests.unit.placement.test_planner import PROFILES, mixed
from tests.unit.placement.maps import SEED, nodes
from hcefs.placement.planner import first_map
print(first_map(nodes(17, 4, mixed), PROFILES, SEED, "ec-4-2").digest().hex())
"""


def test_the_same_map_under_every_hash_seed() -> None:
    digests = set()
    for hash_seed in ("0", "1", "4242"):
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        digests.add(ran.stdout.strip())
    expected = first_map(nodes(17, 4, mixed), PROFILES, SEED, "ec-4-2").digest().hex()
    assert digests == {expected}
