"""Tables, plot and files of a result."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import plot, report, rivals
from benchmarks.cases import Case
from benchmarks.goals import MIB
from benchmarks.plot import Bar, Panel, number
from tests.bench.results import result, row, stages

SVG = "{http://www.w3.org/2000/svg}"
CASE = Case("gateway", "node", 64 * MIB, 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.00015, "0.00015"), (3.14159, "3.14"), (1234.5, "1,234")],
)
def test_numbers_have_no_exponent(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("largest", "step"), [(0, 1), (1, 0.2), (6.5, 2), (12, 2), (120, 20), (0.3, 0.05)]
)
def test_ticks_are_round(largest: float, step: float) -> None:
    assert plot.tick_step(largest) == pytest.approx(step)


def test_tables_hold_every_case_and_every_goal() -> None:
    rows = [row(CASE, "put", 5.0), row(CASE, "degraded", 5.0), row(CASE, "get", 5.0, "no time")]
    made = result(rows)
    text = report.text_of(made)
    for wanted in ("byte-equal to zfec", "no time", "0.9 of healthy", "1.25 hop-1MiB", "FAIL"):
        assert wanted in text
    assert len(report.goals_table(made["goals"]).rows) == len(made["goals"])
    for table in report.tables(made):
        assert all(len(cells) == len(table.columns) for cells in table.rows)


def test_others_are_shown_beside_what_was_measured() -> None:
    few, many = Case("gateway", "node", 64 * MIB, 1), Case("gateway", "node", 64 * MIB, 4)
    rows = [row(few, "put", 5.0), row(many, "put", 5.0), row(few, "get", 5.0, "no time")]
    table = report.rivals_table(rows)
    assert table.rows[0][0] == "HCE-FS, this run, gateway"
    assert table.rows[0][1].endswith("(5) x4")
    assert table.rows[0][2:] == ["-"] * 5
    assert [cells[0] for cells in table.rows[1:]] == [system.name for system in rivals.RIVALS]
    assert all(len(cells) == len(table.columns) for cells in table.rows)
    assert "fsync" in report.text_of(result(rows))
    assert not report.rivals_table([]).rows


def test_the_tables_of_small_payloads() -> None:
    rows = [
        {
            "operation": "put",
            "size": 4096,
            "available": True,
            "reason": "",
            "ops_s": {"best": 10.0, "median": 9.0},
            "cpu_ms_per_payload": {"best": 1.0, "median": 2.0},
            "latency_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0},
            "others_share": 0.1,
            "disk": {"all_per_byte": 3.3},
        },
        {"operation": "get-many", "size": 4096, "available": False, "reason": "not available"},
    ]
    table = report.small_table(rows)
    assert all(len(cells) == len(table.columns) for cells in table.rows)
    assert table.rows[1][-1] == "not available"
    drawn = report.panels({"benchmark": "small", "cases": rows})
    assert [panel.title for panel in drawn] == ["Single puts, 64 in flight"]


def test_the_chart_is_well_formed_and_draws_every_bar() -> None:
    panels = [Panel("A < B & C", "s", [Bar("one", 1.0, 0.5, 1.5, 1.7), Bar("two", 2.0)])]
    drawing = ElementTree.fromstring(plot.chart("title", "sub", panels))  # noqa: S314 - our own
    bars = [rect for rect in drawing.iter(f"{SVG}rect") if rect.get("class") == "bar"]
    assert len(bars) == 2 + 1  # the legend has one
    widths = sorted(float(bar.get("width", "0")) for bar in bars[1:])
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)
    assert len(list(drawing.iter(f"{SVG}polygon"))) == 2
    for rect in drawing.iter(f"{SVG}rect"):
        assert float(rect.get("x", "0")) + float(rect.get("width", "0")) <= plot.WIDTH
    ElementTree.fromstring(plot.chart("empty", "", []))  # noqa: S314


def test_a_result_is_saved_three_times(tmp_path: Path) -> None:
    made = result([row(CASE, "put", 5.0)])
    written = report.save(made, tmp_path / "new" / "folder")
    assert [path.suffix for path in written] == [".json", ".txt", ".svg"]
    assert json.loads(written[0].read_text()) == json.loads(json.dumps(made))
    assert "a &lt;processor&gt; &amp; more" in written[2].read_text()


def test_a_result_of_the_limits_alone() -> None:
    made = result([]) | {"benchmark": "limits", "limits": stages(), "goals": []}
    assert len(report.panels(made)[0].bars) == len(stages())
    assert "hop-1MiB" in report.text_of(made)
