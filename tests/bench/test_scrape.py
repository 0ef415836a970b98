"""The figure of the scrapes' benchmark, from a result that is made up."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report
from benchmarks.goals import scrape_goals


@pytest.mark.parametrize(("found", "good"), [(12.0, True), (50.0, True), (51.0, False)])
def test_the_goal_looks_at_the_busy_node(found: float, good: bool) -> None:
    busy = {"p50": found, "p95": 90.0, "p99": 120.0}
    row: dict[str, Any] = {
        "series": 309,
        "page_bytes": 30_000,
        "idle_ms": {"p50": 5.0, "p95": 7.0, "p99": 8.0},
        "busy_ms": busy,
    }
    (goal,) = scrape_goals(row)
    assert goal.passed is good
    assert [cells[0] for cells in report.scrape_table(row).rows] == ["idle", "busy"]
