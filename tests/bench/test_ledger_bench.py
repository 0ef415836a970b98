"""``hcefs bench ledger`` at toy size: what it measures, its goals, its tables."""

from __future__ import annotations

from pathlib import Path

from benchmarks import ledger, report
from benchmarks.goals import all_pass
from hcefs.runtime import SystemRuntime

EFFORT = ledger.Effort(transactions=6, entries=3, grants=4, repeats=2)


async def test_at_toy_size(tmp_path: Path) -> None:
    said: list[str] = []
    runtime = SystemRuntime()
    try:
        result = await ledger.run(tmp_path, EFFORT, runtime, said.append, quick=True)
    finally:
        runtime.close()
    found = result["ledger"]
    assert all(cost["best"] > 0 and cost["median"] > 0 for cost in found.values())
    assert {goal["name"] for goal in result["goals"]} <= set(found)
    assert not any("reason" in goal for goal in result["goals"])
    # A grant is a row and two keys that name it: 22 + 2 * 43 bytes of keys alone.
    assert 108 < found["grant, state: bytes"]["best"] < 500
    assert "6 signed transactions" in said
    text = report.text_of(result)
    assert all(name in text for name in found)
    assert [panel.unit for panel in report.panels(result)] == ["CPU us", "/ s"]


def test_goals_are_judged_on_their_own_side() -> None:
    names = [goal.name for goal in ledger.goals({})]
    assert not any(goal.passed for goal in ledger.goals({}))

    def judged(value: float) -> dict[str, bool]:
        found = {name: {"best": value, "median": value} for name in names}
        return {goal.name: goal.passed for goal in ledger.goals(found)}

    low, high = judged(1.0), judged(1e9)
    assert all(low[name] != high[name] for name in names)
    assert high["signed transactions committed / s"]
    assert low["decision, facts on disk: CPU us"]
    reached = {goal.name: {"best": goal.bound, "median": 0.0} for goal in ledger.goals({})}
    assert all_pass([goal.as_data() for goal in ledger.goals(reached)])
