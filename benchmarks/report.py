"""Results as tables for people, and as files.  Pure but for :func:`save`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.plot import NONE, Bar, Panel, chart, number
from hcefs.cli.output import size_text

_SIDE_KEYS: Final = ("send", "receive")


@dataclass(frozen=True)
class Table:
    """A title, columns and rows; ``right`` names the columns of numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    right: tuple[str, ...] = ()


def both(pair: Mapping[str, float]) -> str:
    """Best and median: ``3.9 (4.2)``."""
    return f"{number(pair['best'])} ({number(pair['median'])})"


def megabytes(value: float | None) -> str:
    """MiB to one digit."""
    return NONE if value is None else f"{value:.1f}"


# --- tables -----------------------------------------------------------------------------


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of a result, the goals last."""
    shown: list[Table] = []
    if "limits" in result:
        shown.append(limits_table(result["limits"]))
    if result["benchmark"] == "data":
        shown += [data_table(result["cases"]), path_table(result["cases"])]
        shown.append(memory_table(result["cases"]))
    if result["benchmark"] == "small":
        shown.append(small_table(result["cases"]))
    if result["benchmark"] == "placement":
        # It needs Table from here.
        from benchmarks import placement_tables

        shown += placement_tables.tables(result)
    return [table for table in shown if table.rows] + [goals_table(result["goals"])]


def limits_table(stages: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each stage costs by itself."""
    rows = []
    for name, stage in stages.items():
        sides = [
            f"{side} {number(stage[f'{side}_cpu_s_per_gb']['best'])}"
            for side in _SIDE_KEYS
            if f"{side}_cpu_s_per_gb" in stage
        ]
        if "equal_to_zfec" in stage:
            sides.append(
                f"{stage['kernel']}, {'' if stage['equal_to_zfec'] else 'NOT '}byte-equal to zfec"
            )
        rows.append([name, both(stage["gb_s"]), both(stage["cpu_s_per_gb"]), ", ".join(sides)])
    return Table(
        "Stages by themselves: best (median)",
        ("STAGE", "GB/s", "CPU-s/GB", "OF WHICH"),
        rows,
        ("GB/s", "CPU-s/GB"),
    )


def _case(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["operation"]),
        str(row["mode"]),
        str(row["seal"]),
        size_text(row["size"]),
        str(row["concurrency"]),
    ]


_CASE: Final = ("WHAT", "WAY", "SEALS", "SIZE", "AT ONCE")


def data_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Throughput, latency and CPU of every case."""
    shown = []
    for row in rows:
        if not row["available"]:
            shown.append([*_case(row), *[NONE] * 8, str(row["reason"])])
            continue
        latency, limit = row["latency_ms"], row["limit"]
        note = f"{number(row['against_healthy'], 2)} of healthy" if "against_healthy" in row else ""
        if row.get("degraded_puts"):
            note = f"{row['degraded_puts']} degraded puts"
        shown.append(
            [
                *_case(row),
                both(row["mb_s"]),
                both(row["ops_s"]),
                *(number(latency[f"p{percent}"]) for percent in (50, 95, 99)),
                both(row["cpu_s_per_gb"]),
                number(limit["ratio"], 2) if limit else NONE,
                f"{row['others_share']:.0%}",
                note,
            ]
        )
    numbers = ("MB/s", "OPS/s", "p50 ms", "p95", "p99", "CPU-s/GB", "TO LIMIT", "OTHERS")
    return Table(
        "Data path: best (median)",
        (*_CASE, *numbers, "NOTE"),
        shown,
        ("SIZE", "AT ONCE", *numbers),
    )


def path_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How the limit of each way is made, once for each way."""
    shown, seen = [], set()
    for row in rows:
        if not row["available"] or not row["limit"]:
            continue
        limit = row["limit"]
        formula = " + ".join(f"{term['factor']:g} {term['stage']}" for term in limit["terms"])
        name = (row["operation"], row["mode"], row["seal"], formula)
        if name not in seen:
            seen.add(name)
            shown.append([*name[:3], number(limit["cpu_s_per_gb"]), formula])
    return Table(
        "The limit of each way: CPU-s/GB that it cannot avoid",
        ("WHAT", "WAY", "SEALS", "CPU-s/GB", "SUM OF STAGES"),
        shown,
        ("CPU-s/GB",),
    )


def memory_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Memory and disk."""
    shown = []
    for row in rows:
        if not row["available"] or row["operation"] == "range":
            continue
        peaks = row["peak_memory_mib"]
        nodes = [value for name, value in peaks.items() if name.startswith("node")]
        disk = row.get("disk", {})
        shown.append(
            [
                *_case(row),
                megabytes(peaks.get("client")),
                megabytes(max(nodes, default=None)),
                megabytes(peaks.get("ledger")),
                megabytes(row["memory_growth_mib"]),
                number(disk.get("shards_per_byte"), 4),
                number(disk.get("all_per_byte"), 4),
                number(disk.get("allocated_per_byte"), 4),
            ]
        )
    numbers = ("CLIENT", "NODE", "LEDGER", "GROWTH", "SHARDS", "ALL", "ALLOCATED")
    return Table(
        "Peak memory in MiB, growth of any process; bytes on disk for each byte put",
        (*_CASE, *numbers),
        shown,
        ("SIZE", "AT ONCE", *numbers),
    )


def small_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Small payloads."""
    shown = []
    for row in rows:
        name = [str(row["operation"]), size_text(row["size"])]
        if not row["available"]:
            shown.append([*name, *[NONE] * 7, str(row["reason"])])
            continue
        latency, disk = row["latency_ms"], row.get("disk", {})
        shown.append(
            [
                *name,
                both(row["ops_s"]),
                *(number(latency[f"p{percent}"]) for percent in (50, 95, 99)),
                both(row["cpu_ms_per_payload"]),
                number(disk.get("all_per_byte")),
                f"{row['others_share']:.0%}",
                "",
            ]
        )
    numbers = ("PAYLOADS/s", "p50 ms", "p95", "p99", "CPU ms", "DISK/BYTE", "OTHERS")
    return Table(
        "Small payloads: best (median); latency is that of a call",
        ("WHAT", "SIZE", *numbers, "NOTE"),
        shown,
        ("SIZE", *numbers),
    )


def goals_table(goals: Sequence[Mapping[str, Any]]) -> Table:
    """Each figure to reach, and PASS or FAIL."""
    rows = [
        [
            "PASS" if goal["pass"] else "FAIL",
            str(goal["name"]),
            str(goal["goal"]),
            number(goal["value"], 4) if goal["value"] is not None else NONE,
            str(goal.get("reason", "")),
        ]
        for goal in goals
    ]
    columns = ("", "GOAL", "WANTED", "FOUND", "NOTE")
    return Table("Figures to reach", columns, rows, ("WANTED", "FOUND"))


def named(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a result names of the machine and the settings."""
    environment = result["environment"]
    packages = ", ".join(f"{name} {text}" for name, text in environment["packages"].items())
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    return [
        ("machine", f"{environment['cpu']}, {environment['cores']} cores, {environment['kernel']}"),
        ("load", " ".join(map(str, environment["load_average"]))),
        ("disk", str(environment["file_system"])),
        ("python", f"{environment['python']}; {packages}"),
        ("kernels", f"erasure {environment['erasure_kernel']} ({environment['libisal']})"),
        ("profile", str(environment["profile"])),
        ("fsync", str(environment["fsync"])),
        ("tls", str(environment["tls"])),
        ("settings", settings),
        ("took", f"{result['seconds']:.0f} s"),
    ]


# --- the plot ---------------------------------------------------------------------------


def panels(result: Mapping[str, Any]) -> list[Panel]:
    """What is drawn of a result."""
    drawn: list[Panel] = []
    if result["benchmark"] == "limits":
        bars = [
            Bar(name, stage["cpu_s_per_gb"]["best"], None, stage["cpu_s_per_gb"]["median"])
            for name, stage in result["limits"].items()
        ]
        drawn.append(Panel("What each stage costs by itself", "CPU-s/GB", bars))
    if result["benchmark"] == "placement":
        from benchmarks import placement_tables

        drawn += placement_tables.panels(result)
    for operation, title in (
        ("put", "Put"),
        ("get", "Get"),
        ("degraded", "Get with two nodes lost"),
    ):
        if result["benchmark"] != "data":
            break
        for unit, key in (("CPU-s/GB", "cpu_s_per_gb"), ("MB/s", "mb_s")):
            bars = [
                Bar(
                    _bar_name(row),
                    row[key]["best"],
                    row["limit"]["cpu_s_per_gb"] if key == "cpu_s_per_gb" else None,
                    row[key]["median"],
                )
                for row in result["cases"]
                # The cost of small payloads is one of calls: it would hide all the others.
                if row["available"] and row["operation"] == operation and row["size"] >= 1 << 20
            ]
            drawn.append(Panel(f"{title}: {unit}", unit, bars))
    if result["benchmark"] == "small":
        for operation, title in (
            ("put", "Single puts, 64 in flight"),
            ("get", "Single gets, 64 in flight"),
            ("put-many-one", "PutMany into one record"),
            ("put-many-different", "PutMany into different records"),
            ("get-many", "GetMany"),
        ):
            bars = [
                Bar(size_text(row["size"]), row["ops_s"]["best"], None, row["ops_s"]["median"])
                for row in result["cases"]
                if row["available"] and row["operation"] == operation
            ]
            drawn.append(Panel(title, "payloads/s", bars))
    return [panel for panel in drawn if panel.bars]


def _bar_name(row: Mapping[str, Any]) -> str:
    size = size_text(row["size"]).replace(".0 ", " ")
    sealed = "" if row["mode"] == "direct" else f", {row['seal']} seals"
    return f"{size} x {row['concurrency']}, {row['mode']}{sealed}"


# --- files ------------------------------------------------------------------------------


def text_of(result: Mapping[str, Any]) -> str:
    """The tables as plain text."""
    lines = [f"{name:<9} {value}" for name, value in named(result)]
    for table in tables(result):
        lines += ["", table.title]
        cells = [list(table.columns), *table.rows]
        widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
        for row in cells:
            aligned = (
                cell.rjust(width) if name in table.right else cell.ljust(width)
                for name, width, cell in zip(table.columns, widths, row, strict=True)
            )
            lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines) + "\n"


def save(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the result as JSON, its tables as text and its plot as SVG; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"bench-{result['benchmark']}{'-quick' if result['quick'] else ''}"
    title = f"hcefs bench {result['benchmark']}"
    environment = result["environment"]
    subtitle = (
        f"{environment['cpu']}, {environment['cores']} cores, {environment['kernel']}; "
        f"{environment['profile']}, fsync on, TLS 1.3"
    )
    written = {
        f"{stem}.json": json.dumps(result, indent=2) + "\n",
        f"{stem}.txt": text_of(result),
        f"{stem}.svg": chart(title, subtitle, panels(result)),
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in written]
