"""Rules and dashboard name only what processes show; each alert has its words and its cases."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from hcefs.cli.main import app
from hcefs.metrics import FAMILIES, LABEL_SETS_MAX, SERIES_MAX, Metrics
from tests.unit.deploy.promql import SCRAPED, complaints, known_metrics

ROOT = Path(__file__).resolve().parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RUNBOOK = ROOT / "docs" / "operations" / "alerts.md"
PROMTOOL = shutil.which("promtool")


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = rules("recording.yaml")
ALERTS = rules("alerts.yaml")
DASHBOARD = json.loads((GRAFANA / "hcefs.json").read_text("utf-8"))
QUERIES = [
    (panel["title"], target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
]


def with_recorded() -> dict[str, frozenset[str]]:
    """What is scraped, and what the recording rules make of it."""
    known = known_metrics()
    for rule in RECORDED:
        by = re.match(r"\s*(?:histogram_quantile\([\d.]+,\s*)?\w+ by \(([^)]*)\)", rule["expr"])
        kept = frozenset(map(str.strip, by[1].split(","))) - {"le"} if by else SCRAPED
        known[rule["record"]] = kept
    return known


KNOWN = with_recorded()


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_recorded(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"hcefs:[a-z_]+:[a-z0-9_]+", rule["record"])
    assert complaints(rule["expr"], KNOWN) == []


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alert(rule: dict[str, Any]) -> None:
    assert complaints(rule["expr"], KNOWN) == []
    assert re.fullmatch(r"\d+[mhd]", rule["for"])
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning")
    summary, runbook = rule["annotations"]["summary"], rule["annotations"]["runbook"]
    assert set(re.findall(r"\$labels\.(\w+)", summary)) <= set().union(*KNOWN.values())
    page, _, section = runbook.partition("#")
    assert ROOT / page == RUNBOOK
    assert section == rule["alert"].lower()


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_query_of_the_dashboard(title: str, query: str) -> None:
    assert complaints(query, KNOWN) == []


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("rate(hcefs_put_total[5m])", "no metric hcefs_put_total"),
        ('hcefs_puts_total{result="ok"}', "hcefs_puts_total has no label result"),
        ("sum by (method) (hcefs_puts_total)", "nothing here has the label method"),
        ("vector(1)", "it names no metric"),
    ],
)
def test_the_check_itself(expression: str, wrong: str) -> None:
    assert complaints(expression, KNOWN) == [wrong]


def test_each_alert_has_its_section() -> None:
    text = RUNBOOK.read_text("utf-8")
    sections = dict(re.findall(r"^### (\w+)\n+(.+?)(?=^##|\Z)", text, re.M | re.S))
    assert list(sections) == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        severity = rule["labels"]["severity"]
        assert sections[rule["alert"]].startswith(f"`{severity}`, after {rule['for']}.")
        assert f"| [{rule['alert']}](#{rule['alert'].lower()}) | {severity} |" in text
    for name in re.findall(r"\]\(#(hcefs\w+)\)", text):
        assert name in {rule["alert"].lower() for rule in ALERTS}
    for page in re.findall(r"\]\(((?:\.\./)?[\w-]+\.md)", text):
        assert (RUNBOOK.parent / page).is_file(), page


def test_each_command_of_the_runbook_exists() -> None:
    commands: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = re.findall(
        r"(?:^|`)hcefs ([a-z-]+)(?: ([a-z][a-z-]*))?", RUNBOOK.read_text("utf-8"), re.M
    )
    assert len(found) > 30
    for group, verb in found:
        assert group in commands, group
        verbs = getattr(commands[group], "commands", None)
        assert not verbs or not verb or verb in verbs, f"{group} {verb}"


def test_what_is_generated_is_current() -> None:
    for script, made in (
        (PROMETHEUS / "tests" / "generate.py", PROMETHEUS / "tests" / "alerts.test.yaml"),
        (GRAFANA / "generate.py", GRAFANA / "hcefs.json"),
    ):
        page = runpy.run_path(str(script))["page"]()
        assert made.read_text("utf-8") == page, f"{made.name} is stale; run {script.name}"


def test_each_alert_has_a_case_that_fires_it() -> None:
    cases = runpy.run_path(str(PROMETHEUS / "tests" / "generate.py"))["CASES"]
    fired = {f"Hcefs{name}" for case in cases for name in case.fires}
    assert fired == {rule["alert"] for rule in ALERTS}


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None, "promtool is not installed: Debian package prometheus"
    done = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.timeout(700)
def test_grammar() -> None:
    promtool("check", "config", "prometheus.yml")


@pytest.mark.long
@pytest.mark.timeout(700)
def test_cases() -> None:
    """Six seconds of CPU: each case is a database and some hours of evaluations."""
    promtool("test", "rules", "tests/alerts.test.yaml")


def test_cardinality_is_bounded() -> None:
    """Whatever words come: every family at its bound is a page of the size that is documented."""
    metrics = Metrics()
    for family in FAMILIES:
        words = range(LABEL_SETS_MAX + 3) if family.labels else range(1)
        for word in words:
            labels = dict.fromkeys(family.labels, f"w{word}")
            if family.type == "counter":
                metrics.count(family.name, 1, **labels)
            elif family.type == "gauge":
                metrics.set(family.name, 1, **labels)
            else:
                metrics.observe(family.name, 1, **labels)
    shown = sum(
        len(family.samples)
        for family in metrics.registry.collect()
        if not family.name.startswith("hcefs_process_")
    )
    assert shown == SERIES_MAX
