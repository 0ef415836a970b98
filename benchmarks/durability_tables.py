"""The result of ``hcefs bench durability`` as tables and panels.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.durability import digits
from benchmarks.plot import NONE, Bar, Panel, number
from benchmarks.report import Table

_SHOWN: Final = {
    "node_bytes": "bytes on a node",
    "shard_bytes": "bytes of a shard",
    "afr": "failures of a node in a year",
    "clustering": "times likelier while something is rebuilt",
    "detect_seconds": "seconds until a node counts as lost",
    "rebuild_bytes_s": "bytes a second that one destination rebuilds",
    "zone_losses": "losses of a zone in a year",
    "mistakes": "of node losses, those with a second one by mistake",
    "damaged_shards": "shards of a node that a year damages",
    "scrub_seconds": "seconds within which all is scrubbed",
    "damage": "probability that a shard is damaged and nobody knows",
}


def scientific(value: float) -> str:
    """A probability or a share: two digits and an exponent."""
    return "0" if value == 0 else f"{value:.1e}"


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Assumptions, results, and the comparison with the closed form."""
    assumed = [[text, f"{result['assumptions'][name]:.3g}"] for name, text in _SHOWN.items()]
    rows = []
    for row in result["results"]:
        low, found, high = row["loss"]
        worst = max(row["loss_by_beginning"], key=lambda name: row["loss_by_beginning"][name])
        rows.append(
            [
                str(row["profile"]),
                str(row["nodes"]),
                str(row["zones"]),
                str(row["case"]),
                number(row["rebuild_hours"]),
                scientific(found),
                f"{scientific(low)} to {scientific(high)}",
                scientific(row["bytes"][1]),
                scientific(row["share"]),
                worst if row["loss_by_beginning"][worst] else NONE,
            ]
        )
    numbers = ("NODES", "ZONES", "HOURS", "P(LOSS)", "BYTES", "SHARE")
    return [
        Table("What is assumed", ("WHAT", "VALUE"), assumed, ("VALUE",), (result["pace_from"],)),
        Table(
            "At least one blob lost in a year; expected bytes lost, and their share of all",
            ("PROFILE", "NODES", "ZONES", "CASE", "HOURS", "P(LOSS)", "95 %", "BYTES", "SHARE",
             "MOSTLY BEGINS WITH"),
            rows,
            numbers,
            (
                "95 %: of the simulation alone; the assumptions have no interval, see the cases",
                "not modelled: " + "; ".join(result["not_modelled"]),
            ),
        ),
        Table(
            "Beside the closed form, where that is exact: P(loss) of a cycle",
            ("PROFILE", "AFR", "REPAIR h", "SIMULATED", "+-", "CLOSED FORM"),
            [
                [
                    str(check["profile"]),
                    number(check["afr"]),
                    number(check["repair_hours"]),
                    scientific(check["simulated"]),
                    scientific(check["half_width"]),
                    scientific(check["closed_form"]),
                ]
                for check in result["checks"]
            ],
            ("AFR", "REPAIR h", "SIMULATED", "+-", "CLOSED FORM"),
        ),
    ]  # fmt: skip


def panels(result: Mapping[str, Any]) -> list[Panel]:
    """Orders of magnitude below certain loss, as assumed and in each worse case."""
    cells = dict.fromkeys((row["profile"], row["nodes"]) for row in result["results"])
    drawn = []
    for profile, nodes in cells:
        bars = [
            Bar(str(row["case"]), digits(row["loss"][1]), median=digits(row["loss"][2]))
            for row in result["results"]
            if (row["profile"], row["nodes"]) == (profile, nodes) and row["loss"][1] > 0
        ]
        title = f"{profile} on {nodes} nodes: -log10 of P(a blob is lost in a year)"
        drawn.append(Panel(title, "orders", bars))
    return drawn
