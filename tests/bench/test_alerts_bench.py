"""How alerts are proven: faster rules, bounds and verdicts, without a cluster."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks import alerts, alerts_tables, hurt
from benchmarks.alerts_faults import FAULTS, chosen
from benchmarks.alerts_prometheus import RULES
from benchmarks.alerts_rules import (
    DAY_SECONDS,
    DAY_WINDOW_SECONDS,
    INTERVAL_SECONDS,
    SLACK_SECONDS,
    WAIT_SECONDS_MAX,
    WINDOW_SECONDS_MAX,
    WINDOW_SECONDS_MIN,
    faster,
    rules_of,
    waiting,
    window,
)
from benchmarks.alerts_verdict import Quiet, Watch
from hcefs.cli.main import app
from hcefs.errors import Invalid

SHIPPED = {name: (RULES / name).read_text("utf-8") for name in ("alerts.yaml", "recording.yaml")}
MADE = {name: faster(text) for name, text in SHIPPED.items()}
RULES_OF = rules_of(MADE["alerts.yaml"], MADE["recording.yaml"])
DURATION = re.compile(r"\b(\d+)(ms|s|m|h|d)\b")


def listed(text: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


# --- faster rules -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "waits", "looks"),
    [
        (0, 0, WINDOW_SECONDS_MIN),
        (60, 1, WINDOW_SECONDS_MIN),
        (15 * 60, 15, 15),
        (3600, 60, 60),
        (12 * 3600, WAIT_SECONDS_MAX, WINDOW_SECONDS_MAX),
        (DAY_SECONDS, WAIT_SECONDS_MAX, DAY_WINDOW_SECONDS),
    ],
)
def test_minutes_are_seconds_and_what_is_long_is_cut(
    seconds: float, waits: float, looks: float
) -> None:
    assert (waiting(seconds), window(seconds)) == (waits, looks)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_nothing_but_durations_is_changed(name: str) -> None:
    """Names, labels and expressions are those that are shipped."""
    before, after = listed(SHIPPED[name]), listed(MADE[name])
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert new.keys() == old.keys()
        # Without durations, and the two ages that are thresholds, they are the same.
        bare = [
            re.sub(r"< \d+(?: \* 86400)?\)|> \d+$", "", DURATION.sub("", each["expr"].strip()))
            for each in (old, new)
        ]
        assert bare[0] == bare[1]
        assert {**new, "for": "", "expr": ""} == {**old, "for": "", "expr": ""}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_no_duration_is_left_as_it_was(name: str) -> None:
    for rule in listed(MADE[name]):
        found = [rule.get("for", "0ms"), *re.findall(r"(?:\[|offset )(\w+)", rule["expr"])]
        assert all(each.endswith("ms") for each in found), rule


def test_bounds_follow_from_the_rules() -> None:
    assert RULES_OF.keys() == {rule["alert"] for rule in listed(SHIPPED["alerts.yaml"])}
    least = 3 * INTERVAL_SECONDS + SLACK_SECONDS
    assert RULES_OF["HcefsLedgerForked"].bound == least
    assert RULES_OF["HcefsNodeDown"].bound == 5 + least
    # The rate of a recorded rule is looked back on, too; a day's is only compared with.
    assert RULES_OF["HcefsRequestsFail"].bound == 10 + 12 + INTERVAL_SECONDS + least
    assert RULES_OF["HcefsDenialsSpike"].window < DAY_WINDOW_SECONDS
    assert RULES_OF["HcefsRepairStalled"].bound == 60 + 60 + least


def test_a_threshold_that_is_no_longer_there_is_told() -> None:
    changed = MADE["alerts.yaml"].replace("hcefs_receipt_anchor_age_seconds >", "x >")
    with pytest.raises(Invalid) as caught:
        rules_of(changed, MADE["recording.yaml"])
    assert caught.value.reason == "unknown-rule"


# --- the faults ---------------------------------------------------------------------


def test_each_fault_names_alerts_that_are_shipped() -> None:
    assert len(FAULTS) >= 12
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert {*fault.alerts, *fault.companions} <= RULES_OF.keys(), fault.name
        assert fault.alerts
        assert all(why.strip() for why in fault.companions.values()), fault.name
        watch = fault.watch(RULES_OF)
        assert watch.last_bound <= 180, "all of them are to fit into twenty minutes"


def test_faults_keep_their_order_whatever_is_asked_for() -> None:
    names = [fault.name for fault in chosen(())]
    assert [fault.name for fault in chosen((names[3], names[1]))] == [names[1], names[3]]
    with pytest.raises(Invalid) as caught:
        chosen(("no-such-fault",))
    assert caught.value.reason == "unknown-fault"


def test_the_page_lists_the_faults_with_their_bounds() -> None:
    page = (RULES.parents[1] / "docs" / "operations" / "watch.md").read_text("utf-8")
    watches = [fault.watch(RULES_OF) for fault in FAULTS]
    listed = alerts_tables.faults_table(watches, {fault.name: fault.what for fault in FAULTS})
    found = [row for row in page.splitlines() if row.startswith("| `")]
    assert found == [f"| `{name}` | {what} | {told} |" for name, what, told in listed.rows]


# --- verdicts -----------------------------------------------------------------------


def watched(*seen: tuple[float, set[str]], mended: float | None = 20.0) -> Watch:
    watch = Watch("f", {"A": 10.0}, {"C": "it is true as well"}, clears_within=30.0)
    for at, firing in seen:
        if mended is not None and at > mended:
            watch.mended = mended
        watch.see(at, firing)
    return watch


def test_a_fault_that_is_told_in_time_and_goes_passes() -> None:
    watch = watched((1, set()), (9, {"A"}), (12, {"A", "C"}), (30, {"C"}), (40, set()))
    assert watch.passed
    assert watch.all_fired
    data = watch.as_data()
    assert data["alerts"] == [{"alert": "A", "fired_after_s": 9, "bound_s": 10.0}]
    assert (data["companions"], data["others"], data["cleared_after_s"]) == (["C"], [], 20.0)


@pytest.mark.parametrize(
    ("seen", "mended", "complaint"),
    [
        ([(1, set()), (40, set())], 20, "A did not fire"),
        ([(11, {"A"}), (40, set())], 20, "A fired 1 s too late"),
        ([(9, {"A", "B"}), (40, set())], 20, "B fired and should not"),
        ([(9, {"A"}), (21, {"A", "B"}), (40, set())], 20, "B fired and should not"),
        ([(9, {"A"}), (40, {"A"})], 20, "it was not quiet after it was mended"),
        ([(9, {"A"}), (60, set())], 20, "it was quiet 10 s too late"),
        ([(9, {"A"}), (40, set())], None, "it was not mended"),
    ],
)
def test_what_makes_a_fault_fail(
    seen: list[tuple[float, set[str]]], mended: float | None, complaint: str
) -> None:
    watch = watched(*seen, mended=mended)
    assert complaint in watch.complaints()
    assert not watch.passed


def test_quiet_before_the_fault_is_mended_clears_nothing() -> None:
    watch = watched((9, {"A"}), (15, set()), (25, {"A"}))
    assert watch.cleared is None


def test_a_fault_that_could_not_be_done_fails() -> None:
    watch = watched((9, {"A"}), (40, set()))
    watch.problem = "unavailable, degraded: it takes nothing"
    assert not watch.passed


def quiet(**changes: Any) -> Quiet:
    made = Quiet(60.0, targets=7, served_least=10, served=11)
    for at in range(1, 61):
        firing = {"A"} if at == changes.get("fires") else set()
        gone = at == changes.get("unanswered")
        made.see(float(at), None if gone else firing, 6 if at == changes.get("blind") else 7)
    for name in ("served", "failed", "lasted"):
        setattr(made, name, changes.get(name, getattr(made, name)))
    return made


def test_a_quiet_run_counts_only_when_there_was_something_to_watch() -> None:
    assert quiet().passed
    assert quiet().as_data()["looks"] == 60
    for wrong in (
        {"fires": 30},
        {"unanswered": 30},
        {"blind": 30},
        {"served": 9},
        {"failed": 1},
        {"lasted": 50.0},
    ):
        assert not quiet(**wrong).passed, wrong
    assert not Quiet(60.0, 7, 0).passed, "nobody looked"


def test_goals_want_every_fault_and_no_complaint() -> None:
    good, bad = watched((9, {"A"}), (40, set())), watched((40, set()))
    assert [goal.passed for goal in alerts.goals([good], quiet())] == [True, True]
    assert [goal.passed for goal in alerts.goals([good, bad], None)] == [False]
    assert [goal.passed for goal in alerts.goals([], quiet(fires=3))] == [False]
    assert alerts.goals([], None) == []


def test_tables_say_what_went_wrong() -> None:
    good, bad = watched((9, {"A", "C"}), (40, set())), watched((9, {"B"}), (40, set()))
    table = alerts_tables.alerts_table([good.as_data(), bad.as_data()])
    assert [row[0] for row in table.rows] == ["PASS", "FAIL"]
    assert table.rows[0][5] == "C"
    assert table.rows[1][5] == "B (!)"
    assert "f: A did not fire" in table.remarks
    assert alerts_tables.quiet_table(quiet(fires=3).as_data()).rows[0][0] == "FAIL"
    assert json.dumps(bad.as_data())


# --- the command --------------------------------------------------------------------


def invoked(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bench", "alerts", *arguments])
    return done.exit_code, done.output


def test_faults_are_listed() -> None:
    code, printed = invoked("--list", "--json")
    assert code == 0
    assert [each["fault"] for each in json.loads(printed)] == [fault.name for fault in FAULTS]
    code, printed = invoked("--list", "--only", FAULTS[0].name)
    assert code == 0
    assert FAULTS[0].name in printed
    assert FAULTS[1].name not in printed


@pytest.mark.parametrize(
    "arguments",
    [("--only", "nonsense"), ("--no-faults",), ("--healthy-minutes", "-1")],
)
def test_bad_options_are_refused_before_anything_is_started(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/bin/true")
    code, _ = invoked(*arguments)
    assert code != 0


def test_without_prometheus_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    code, printed = invoked("--only", FAULTS[0].name)
    assert code != 0
    assert "Debian package `prometheus`" in printed


def test_each_way_to_hurt_a_process_is_described() -> None:
    assert hurt.__doc__ is not None
    assert set(re.findall(r"^\* ``([a-z-]+)", hurt.__doc__, re.M)) == set(hurt.HOW)
