"""The verbs of ``hcefs bench``: options, exit codes, and what is left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import limits
from hcefs.cli.main import app
from tests.bench.results import stages

Arguments = list[str]


def _run(arguments: Arguments) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bench", *arguments])
    return done.exit_code, done.stdout


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What the stages are found to cost, without measuring."""
    found = stages()

    async def measure(*_: object) -> dict[str, dict[str, Any]]:
        return found

    monkeypatch.setattr(limits, "measure", measure)
    return found


@pytest.mark.usefixtures("measured")
def test_json_is_one_document_with_goals(tmp_path: Path) -> None:
    code, printed = _run(["limits", "--quick", "--json", "--work", str(tmp_path)])
    document = json.loads(printed)
    assert code == 0
    assert all(set(goal) == {"name", "goal", "value", "pass"} for goal in document["goals"])
    assert document["settings"]["seed"] == 1
    assert not list(tmp_path.iterdir())


def test_a_goal_that_fails_is_exit_code_1(measured: dict[str, dict[str, Any]]) -> None:
    measured["erasure-4-2"]["equal_to_zfec"] = False
    code, printed = _run(["limits", "--quick"])
    assert code == 1
    assert "FAIL" in printed


@pytest.mark.usefixtures("measured")
def test_results_are_saved(tmp_path: Path) -> None:
    code, _ = _run(["limits", "--quick", "--out", str(tmp_path / "out")])
    assert code == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"bench-limits-quick.{suffix}" for suffix in ("json", "txt", "svg")}


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "--size", "huge"],
        ["data", "--mode", "sideways"],
        ["data", "--seal", "nobody"],
        ["data", "--concurrency", "many"],
        ["data", "--concurrency", "0"],
        ["limits", "--data", "x-ray"],
    ],
)
def test_wrong_options_are_exit_code_2(arguments: Arguments) -> None:
    code, printed = _run([*arguments, "--json"])
    assert code == 2
    assert json.loads(printed)["error"]["kind"] == "invalid"


@pytest.mark.parametrize("name", ["limits", "data", "slow", "small", "ledger"])
def test_without_the_package_the_error_is_clear(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks", None)
    code, printed = _run([name, "--json"])
    assert code == 3
    assert json.loads(printed)["error"]["reason"] == "no-benchmarks"
