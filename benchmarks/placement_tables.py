"""The result of ``hcefs bench placement`` as tables for people.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.plot import NONE, Bar, Panel, number
from benchmarks.report import Table

_WHO: Final = ("PROFILE", "NODES", "ZONES", "OPERATION")
_KIB: Final = 1024


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Moves, balance and safety of each line, the baselines, walks and growth."""
    lines = result["lines"]
    return [
        moves_table(lines),
        safety_table(lines),
        baseline_table(result["baselines"], lines),
        walk_table(result["walks"]),
        look_up_table(result["look_ups"]),
        growth_table(result["growth"]),
    ]


def _who(line: Mapping[str, Any]) -> list[str]:
    return [line["profile"], str(line["nodes"]), str(line["zones"]), line["operation"]]


def _percent(value: float) -> str:
    return f"{value:.1%}"


def moves_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """What each operation moves, and what it leaves."""
    rows = []
    for line in lines:
        if not line["available"]:
            rows.append([*_who(line), *[NONE] * 10, line["reason"]])
            continue
        optimum, real = line["optimum"], line["real_optimum"]
        rows.append(
            [
                *_who(line),
                str(line["moves"]),
                number(line["moves"] / optimum if optimum else None, 4),
                number(line["moves"] / real if real else None, 4),
                number(line["moves"] / line["newcomers"] if line["newcomers"] else None, 4),
                str(line["waves"]),
                str(line["chains"]),
                number(line["imbalance_raw"], 4),
                number(line["imbalance"], 4),
                _percent(line["stranded"]),
                number(line["plan_s"] * 1_000, 3),
                "" if line["zone_safe"] else "NOT ZONE-SAFE",
            ]
        )
    numbers = (
        *("MOVES", "TO OPTIMUM", "TO REAL", "SEATS/SETS", "WAVES", "CHAINS"),
        *("RAW", "FEASIBLE", "STRANDED", "PLAN ms"),
    )
    return Table(
        "Plans: moves against the optimum, imbalance afterwards",
        (*_WHO, *numbers, "NOTE"),
        rows,
        ("NODES", "ZONES", *numbers),
    )


def safety_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Caps, how rows spread, and the map."""
    rows = [
        [
            *_who(line),
            str(line["cap_violations"]),
            "yes" if line["zone_safe"] else "NO",
            number(line["data_imbalance"], 4),
            number(line["data_imbalance_unrotated"], 4),
            str(line["groups"]),
            number(line["scatter_width"]),
            _percent(line["loss"]),
            number(line["map_bytes"] / _KIB),
            number(line["map_compressed"] / _KIB),
            number(line["map_compressed_moving"] / _KIB),
            line["map_hash"],
        ]
        for line in lines
        if line["available"]
    ]
    numbers = (
        *("VIOLATIONS", "DATA", "UNROTATED", "GROUPS", "WIDTH", "P(LOSS)"),
        *("MAP KiB", "DEFLATE", "MOVING, XZ"),
    )
    columns = (*_WHO, "VIOLATIONS", "ZONE-SAFE", *numbers[1:], "MAP HASH")
    return Table(
        "Safety: caps, data shards a node, P(loss) when m+1 nodes fail at once; the map",
        columns,
        rows,
        ("NODES", "ZONES", *numbers),
    )


def baseline_table(
    baselines: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]
) -> Table:
    """Adding one node: this planner and the usual ways."""
    rows = []
    for line in lines:
        if line["available"] and line["operation"] == "add 1":
            rows.append(_baseline(line, "this planner", line["imbalance"], _ratios(line)))
            rows += [
                _baseline(
                    other,
                    other["scheme"],
                    other["imbalance"],
                    (other["moves_to_ideal"], other["seats_to_sets"]),
                )
                for other in baselines
                if (other["profile"], other["nodes"]) == (line["profile"], line["nodes"])
            ]
    numbers = ("IMBALANCE", "MOVES/IDEAL", "SEATS/SETS")
    return Table(
        "Adding one node, and the usual ways",
        ("PROFILE", "NODES", "SCHEME", *numbers),
        rows,
        ("NODES", *numbers),
    )


def _ratios(line: Mapping[str, Any]) -> tuple[float | None, float | None]:
    real, sets = line["real_optimum"], line["newcomers"]
    return line["moves"] / real if real else None, line["moves"] / sets if sets else None


def _baseline(
    line: Mapping[str, Any],
    scheme: str,
    imbalance: float,
    ratios: tuple[float | None, float | None],
) -> list[str]:
    figures = [number(value, 4) for value in (imbalance, *ratios)]
    return [line["profile"], str(line["nodes"]), scheme, *figures]


def walk_table(walks: Sequence[Mapping[str, Any]]) -> Table:
    """Random operations in a row."""
    rows = [
        [
            walk["profile"],
            str(walk["nodes"]),
            str(walk["operations"]),
            str(walk["moves"]),
            number(walk["moves"] / walk["ideal"], 4),
            number(walk["imbalance"], 4),
            str(walk["violations"]),
            number(walk["plan_s"] * 1_000, 3),
        ]
        for walk in walks
    ]
    numbers = ("NODES", "OPERATIONS", "MOVES", "TO REAL", "WORST", "VIOLATIONS", "SLOWEST ms")
    return Table("Random operations in a row", ("PROFILE", *numbers), rows, numbers)


def look_up_table(look_ups: Sequence[Mapping[str, Any]]) -> Table:
    """Time of a look-up."""
    rows = [[one["profile"], str(one["nodes"]), number(one["look_up_s"] * 1e6)] for one in look_ups]
    return Table("Look-ups", ("PROFILE", "NODES", "us"), rows, ("NODES", "us"))


def growth_table(growth: Sequence[Mapping[str, Any]]) -> Table:
    """Time, memory and size with the number of nodes and partitions."""
    rows = [
        [
            one["profile"],
            str(one["nodes"]),
            str(one["partitions"]),
            number(one["add_s"]),
            number(one["drain_s"]),
            number(one.get("grow_s")),
            str(one.get("grow_moves", NONE)),
            number(one["map_compressed"] / _KIB),
            number(one["peak_memory_mib"]),
        ]
        for one in growth
    ]
    numbers = (
        *("NODES", "PARTITIONS", "ADD s", "DRAIN s", "FROM 50 s", "MOVES"),
        *("MAP KiB", "PEAK MiB"),
    )
    return Table("Growth with nodes and partitions: CPU s", ("PROFILE", *numbers), rows, numbers)


def panels(result: Mapping[str, Any]) -> list[Panel]:
    """Time of a plan, drawn."""
    bars = [
        Bar(f"{line['profile']} {line['nodes']} {line['operation']}", line["plan_s"] * 1_000)
        for line in result["lines"]
        if line["available"]
    ]
    return [Panel("Plans", "CPU ms", bars)]
