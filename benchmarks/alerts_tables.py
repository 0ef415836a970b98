"""The tables of the proof of alerts.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.alerts_verdict import Watch
from benchmarks.plot import number
from benchmarks.report import Table


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of a result."""
    shown = [alerts_table(result["faults"])]
    if result["healthy"] is not None:
        shown.append(quiet_table(result["healthy"]))
    return shown


def faults_table(watches: Sequence[Watch], what: Mapping[str, str]) -> Table:
    """The faults that there are, and by when each must have raised what."""
    rows = [
        [
            watch.fault,
            what[watch.fault],
            ", ".join(f"{alert} {number(bound)}" for alert, bound in watch.bounds.items()),
        ]
        for watch in watches
    ]
    return Table("Faults", ("FAULT", "WHAT IS DONE", "ALERTS, AND SECONDS AT THE MOST"), rows)


def alerts_table(faults: Sequence[Mapping[str, Any]]) -> Table:
    """What was fired by each fault, and when."""
    rows = []
    for fault in faults:
        first = True
        for each in fault["alerts"]:
            beside = [*fault["companions"], *(f"{name} (!)" for name in fault["others"])]
            rows.append(
                [
                    ("PASS" if fault["pass"] else "FAIL") if first else "",
                    fault["fault"] if first else "",
                    each["alert"],
                    number(each["fired_after_s"]),
                    number(each["bound_s"]),
                    ", ".join(beside) if first else "",
                    number(fault["cleared_after_s"]) if first else "",
                ]
            )
            first = False
    columns = ("", "FAULT", "ALERT", "FIRED AFTER", "BOUND", "OTHERS", "CLEARED AFTER")
    remarks = [
        f"{fault['fault']}: {complaint}" for fault in faults for complaint in fault["complaints"]
    ]
    return Table(
        "Faults and their alerts: seconds, with rules in which minutes are seconds",
        columns,
        rows,
        ("FIRED AFTER", "BOUND", "CLEARED AFTER"),
        tuple(remarks),
    )


def quiet_table(quiet: Mapping[str, Any]) -> Table:
    """What fired while nothing was wrong."""
    row = [
        "PASS" if quiet["pass"] else "FAIL",
        number(quiet["minutes"]),
        str(quiet["served"]),
        str(quiet["failed"]),
        str(quiet["looks"]),
        str(quiet["unanswered"] + quiet["blind"]),
        ", ".join(quiet["alerts"]) or "none",
    ]
    columns = ("", "MINUTES", "SERVED", "FAILED", "LOOKS", "BLIND", "ALERTS")
    return Table("No fault", columns, [row], columns[1:6], tuple(quiet["complaints"]))
