"""The report of a chaos run: a run without checks, or with a violation, is no success."""

from __future__ import annotations

import json

from hcefs.cli.chaos_report import Check, Report, faults_came


def _report(*checks: Check) -> Report:
    return Report(7, 1.0, 7, "ballast", 61.0, {"puts": 3, "refused": {"get: x": 1}}, {"kill": 2},
                  [{"at": 1.0, "seconds": 2.0, "what": "kill | 1", "outcome": "serves"}],
                  ["a cure"], checks)  # fmt: skip


def test_only_a_run_with_checks_that_all_hold_is_a_success() -> None:
    assert not _report().ok
    assert _report(Check("a", "")).ok
    assert not _report(Check("a", ""), Check("b", "", ("lost",))).ok


def test_it_says_seed_and_violations_in_every_form() -> None:
    report = _report(Check("read back", "3 blobs", ("blob-1 is lost",)))
    assert report.last_line() == "seed 7: 2 faults, 3 blobs acknowledged, 1 violations"
    data = json.loads(json.dumps(report.as_data()))
    assert data["seed"] == 7
    assert data["violations"] == ["blob-1 is lost"]
    assert not data["ok"]
    page = report.as_markdown()
    assert "| VIOLATED | read back | 3 blobs |" in page
    assert "kill / 1" in page
    assert "do not replay" in page


def test_a_run_without_faults_is_no_success() -> None:
    assert not faults_came({}).ok
    assert not faults_came({"kill": 0}).ok
    assert faults_came({"kill": 0, "wipe": 1}).ok
