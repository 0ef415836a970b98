"""Whether figures are judged as they must be."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.cases import Case
from benchmarks.goals import GIB, KIB, MIB, Goal, all_pass, data_goals, limits_goals, small_goals
from tests.bench.results import row, stages

GATEWAY, DIRECT = ("gateway", "node"), ("direct", "client")


@pytest.mark.parametrize(
    ("at_least", "value", "passed"),
    [(True, 8.0, True), (True, 7.999, False), (False, 8.0, True), (False, 8.001, False)],
)
def test_a_bound_itself_is_good_enough(at_least: bool, value: float, passed: bool) -> None:
    assert Goal("speed", 8, at_least, value).passed is passed


def test_what_was_not_measured_fails_and_says_why() -> None:
    data = Goal("speed", 8, True, None, "no such mode").as_data()
    assert data == {
        "name": "speed",
        "goal": ">= 8",
        "value": None,
        "pass": False,
        "reason": "no such mode",
    }


def test_a_measured_goal_has_the_four_fields() -> None:
    data = Goal("cost", 6.2, False, 5.1234567).as_data()
    assert data == {"name": "cost", "goal": "<= 6.2", "value": 5.123457, "pass": True}


def test_no_goals_are_no_success() -> None:
    assert not all_pass([])
    assert all_pass([{"pass": True}])
    assert not all_pass([{"pass": True}, {"pass": False}])


def test_limits_need_speed_and_equality() -> None:
    good = stages()
    assert all(goal.passed for goal in limits_goals(good))
    good["erasure-4-2"]["equal_to_zfec"] = False
    good["erasure-10-4"]["gb_s"] = {"best": 7.9, "median": 7.0}
    assert [goal.passed for goal in limits_goals(good)] == [True, False, False, True]
    assert not any(goal.passed for goal in limits_goals({}))


def _all_rows(cost: float) -> list[dict[str, Any]]:
    rows = []
    for way in (GATEWAY, DIRECT):
        for size, concurrency in ((64 * MIB, 1), (64 * MIB, 4), (GIB, 1), (MIB, 16)):
            for operation in ("put", "get", "degraded"):
                rows.append(row(Case(*way, size, concurrency), operation, cost))
    packed = Case("gateway", "pack", MIB, 16)
    return rows + [row(packed, operation, cost) for operation in ("put", "get")]


def test_every_figure_of_the_data_path_can_pass() -> None:
    goals = data_goals(_all_rows(2.0))
    assert len(goals) == 22
    assert [goal.name for goal in goals if not goal.passed] == []


def test_costs_above_the_figures_fail() -> None:
    failed = {goal.name for goal in data_goals(_all_rows(20.0)) if not goal.passed}
    assert "put 64 MiB, gateway: ratio to the limit" in failed
    assert "get 64 MiB, direct: CPU-s/GB" in failed
    assert "put 1 MiB, 16 in flight, gateway, in packs (the default): CPU-s/GB" in failed
    assert "get 1 MiB, 16 in flight, gateway, the node seals: CPU-s/GB" in failed
    # These do not depend on the cost.
    assert "degraded get 64 MiB / healthy: throughput" not in failed
    assert "put 64 MiB, direct: CPU of four streams / one" not in failed


def test_a_missing_mode_fails_with_its_reason() -> None:
    rows = [row(Case(*DIRECT, 64 * MIB, 1), "put", 1.0, "not available: no direct mode")]
    goals = {goal.name: goal for goal in data_goals(rows)}
    goal = goals["put 64 MiB, direct: ratio to the limit"]
    assert not goal.passed
    assert goal.reason == "not available: no direct mode"
    assert goals["put 64 MiB, gateway: CPU-s/GB"].reason == "not measured"


def test_memory_growth_needs_every_way_and_takes_the_worst() -> None:
    name = "put 1 GiB: memory growth of any process, MiB"
    rows = [row(Case(*way, GIB, 1), "put", 1.0) for way in (GATEWAY, DIRECT)]
    rows[1]["memory_growth_mib"] = 65.0
    assert {goal.name: goal.value for goal in data_goals(rows)}[name] == 65.0
    rows[0] = row(Case(*GATEWAY, GIB, 1), "put", 1.0, "out of time")
    assert {goal.name: goal.value for goal in data_goals(rows)}[name] is None


def _small_row(operation: str, rate: float, disk: float = 3.0) -> dict[str, Any]:
    return {
        "operation": operation,
        "size": 4 * KIB,
        "available": True,
        "reason": "",
        "ops_s": {"best": rate, "median": rate},
        "disk": {"all_per_byte": disk},
    }


def test_small_payloads() -> None:
    rates = {
        "put": 1_000,
        "get": 1_500,
        "put-many-one": 10_000,
        "put-many-different": 3_000,
        "get-many": 15_000,
    }
    rows = [_small_row(operation, rate) for operation, rate in rates.items()]
    assert all(goal.passed for goal in small_goals(rows, 0.3))
    slower = [_small_row(operation, rate - 1, 4.1) for operation, rate in rates.items()]
    assert not any(goal.passed for goal in small_goals(slower, 0.31))
    assert not any(goal.passed for goal in small_goals([], None))
