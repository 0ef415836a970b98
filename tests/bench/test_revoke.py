"""The figures of the revocations' benchmark, from results that are made up."""

from __future__ import annotations

from typing import Any

from benchmarks import report
from benchmarks.goals import all_pass, revoke_goals
from benchmarks.revoke import CASES, HEALTHY, PARTITIONED, STOPPED, Found, _row

LEASE_S, RENEWAL_S = 16.0, 3.3


def rows(changed: str = "", found: Found | None = None) -> list[dict[str, Any]]:
    """Good figures, but for one case."""
    good = {
        HEALTHY: Found([0.02, 0.9], [0.05, 0.95]),
        STOPPED: Found([0.02], [19.0]),
        PARTITIONED: Found([0.02], [19.0], hurt_refused=10.0),
    }
    if found is not None:
        good[changed] = found
    return [_row(name, good[name]) for name in CASES]


def failing(measured: list[dict[str, Any]]) -> list[str]:
    goals = revoke_goals(measured, LEASE_S, RENEWAL_S)
    return [goal.name for goal in goals if not goal.passed]


def test_good_figures_pass_and_are_shown() -> None:
    measured = rows()
    goals = [goal.as_data() for goal in revoke_goals(measured, LEASE_S, RENEWAL_S)]
    assert all_pass(goals)
    assert len(goals) == 10
    table = report.revoke_table(measured)
    assert [row[0] for row in table.rows] == list(CASES)
    assert "-" not in table.rows[0]


def test_a_late_denial_fails() -> None:
    assert any("p99" in name for name in failing(rows(HEALTHY, Found([0.02, 1.1], [0.1]))))
    assert failing(rows(STOPPED, Found([1.1], [19.0])))


def test_a_late_certificate_fails() -> None:
    assert failing(rows(HEALTHY, Found([0.1], [1.1]))) == [
        "healthy: p99 ms from commit to the certificate"
    ]
    assert failing(rows(STOPPED, Found([0.1], [22.0])))


def test_a_node_that_serves_beyond_its_lease_fails() -> None:
    late = Found([0.1], [19.0], hurt_refused=16.1)
    assert failing(rows(PARTITIONED, late)) == ["one node cut off: ms until it refuses everybody"]


def test_what_was_not_measured_fails() -> None:
    assert failing(rows(PARTITIONED, Found()))
