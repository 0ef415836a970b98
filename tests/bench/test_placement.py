"""The benchmark of placement at toy size: baselines, lines, goals, tables, the command."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import (
    placement,
    placement_baselines,
    placement_figures,
    placement_goals,
    placement_tables,
    report,
)
from hcefs.cli.main import app
from hcefs.errors import Invalid
from hcefs.placement import changes
from hcefs.placement.figures import fair_shares
from hcefs.placement.quotas import members


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """A whole quick run on the smallest clusters, with few random operations."""
    patch = pytest.MonkeyPatch()
    patch.setattr(placement, "RANDOM_OPERATIONS", 5)
    patch.setattr(placement, "digests", lambda: {placement_goals.KNOWN_DIGEST})
    said: list[str] = []
    made = placement.run((6, 12), ("ec-4-2",), quick=True, say=said.append)
    patch.undo()
    assert any("12 nodes" in line for line in said)
    return made


def test_every_goal_at_toy_size_passes(found: dict[str, Any]) -> None:
    assert all(goal["pass"] for goal in found["goals"]), found["goals"]
    names = {goal["name"] for goal in found["goals"]}
    assert not any("200" in name for name in names)
    assert len(names) == len(found["goals"]) == 11


def test_what_cannot_be_planned_is_said(found: dict[str, Any]) -> None:
    missing = [line for line in found["lines"] if not line["available"]]
    assert {line["operation"] for line in missing} == {"drain", "out"}
    assert all("add one host" in line["reason"] for line in missing)


def test_a_goal_without_its_measurement_fails(found: dict[str, Any]) -> None:
    wanted = placement_goals.goals(found | {"nodes": [200]})
    failed = {goal.name for goal in wanted if not goal.passed}
    assert failed == {goal.name for goal in wanted if "200 nodes" in goal.name}
    broken = [line | {"optimum": None} if line["available"] else line for line in found["lines"]]
    (goal,) = [g for g in placement_goals.goals(found | {"lines": broken}) if "circle" in g.name]
    assert not goal.passed
    assert not placement_goals.goals(found | {"digests": ["0"]})[-1].passed


def test_the_digest_is_the_recorded_one() -> None:
    assert placement.reference_digest() == placement_goals.KNOWN_DIGEST


def test_tables_and_plot(found: dict[str, Any]) -> None:
    for table in placement_tables.tables(found):
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.right) <= set(table.columns)
    schemes = {row[2] for row in placement_tables.tables(found)[2].rows}
    assert schemes == {"this planner", "ring, 160 virtual nodes", "weighted rendezvous"}
    assert report.panels(found | {"benchmark": "placement"})[0].bars


def test_growth_is_measured() -> None:
    line = placement.growth_line(52, "copy-3")
    assert line["grow_moves"] > 0
    assert placement_tables.growth_table([line]).rows[0][0] == "copy-3"


def test_baselines_keep_to_caps_and_cover_the_circle() -> None:
    old = placement.make_map(12, "ec-4-2")
    caps = old.tables[0].caps
    nodes = changes.add(old, [placement.make_node(13, 0)])
    made = [
        *placement_baselines.on_ring(members(old.nodes), members(nodes), caps, 6),
        *placement_baselines.by_rendezvous(
            members(old.nodes), members(nodes), caps, 6, 8, placement.SEED
        ),
    ]
    zone = {node.node_id: node.zone for node in nodes}
    for placed in made:
        assert sum(placed.shares) == pytest.approx(1)
        for row in placed.rows:
            labels = [zone[node_id] for node_id in row]
            assert len(set(row)) == 6
            assert max(map(labels.count, labels)) <= caps.zone
    fair = {
        node_id: float(share / 256) for node_id, share in fair_shares(nodes, caps, 256, 6).items()
    }
    figures = placement_baselines.compare(made[0], made[1], fair, fair[13])
    assert figures["imbalance"] is not None
    assert figures["imbalance"] > 1.01
    assert figures["seats_to_sets"] is not None
    assert figures["seats_to_sets"] > 1.5


def test_rotation_evens_out_what_seats_do_not() -> None:
    old = placement.make_map(12, "ec-4-2")
    table = old.tables[0]
    fair = dict.fromkeys(range(1, 13), 128.0)
    assert placement_figures.data_imbalance(table.node_rows, table, fair, True) == pytest.approx(1)
    assert placement_figures.data_imbalance(table.node_rows, table, fair, False) > 1.01


# --- the command ------------------------------------------------------------------------


def _run(arguments: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bench", "placement", *arguments])
    return done.exit_code, done.stdout


def test_the_command_prints_one_document(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def run(*arguments: object, **options: object) -> dict[str, Any]:
        asked.append((arguments, options["quick"]))
        return found

    monkeypatch.setattr(placement, "run", run)
    code, printed = _run(["--nodes", "6,12", "--profile", "ec-4-2", "--quick", "--json"])
    document = json.loads(printed)
    assert code == 0
    assert asked == [(([6, 12], ["ec-4-2"]), True)]
    assert all(set(goal) == {"name", "goal", "value", "pass"} for goal in document["goals"])
    code, printed = _run([])
    assert code == 0
    assert asked[-1] == ((placement.NODES, placement.PROFILES), False)
    assert "Figures to reach" in printed
    failed = found | {"goals": [*found["goals"], {**found["goals"][0], "pass": False}]}
    monkeypatch.setattr(placement, "run", lambda *_, **__: failed)
    assert _run(["--quick"])[0] == 1


@pytest.mark.parametrize(
    "arguments", [["--nodes", "few"], ["--nodes", "5"], ["--profile", "ec-99-1"]]
)
def test_wrong_options(arguments: list[str]) -> None:
    code, printed = _run([*arguments, "--json"])
    assert code in (2, 3)
    assert "error" in json.loads(printed)


def test_a_profile_needs_a_cluster_that_is_large_enough() -> None:
    with pytest.raises(Invalid):
        placement.check_options([6], ["ec-10-4"])
