"""Results as tables for people, and as files.  Pure but for :func:`save`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import rivals
from benchmarks.goals import SLOW_NODE, cpu_goal, rate_goal
from benchmarks.plot import NONE, Bar, Panel, chart, number
from hcefs.cli.output import size_text

_SIDE_KEYS: Final = ("send", "receive")


@dataclass(frozen=True)
class Table:
    """A title, columns, rows and remarks; ``right`` names the columns of numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    right: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


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
        shown += [memory_table(result["cases"]), rivals_table(result["cases"])]
    if result["benchmark"] == "slow":
        shown += [slow_table(result["cases"]), ratio_table(result["ratios"])]
    if result["benchmark"] == "repair":
        shown += [rebuild_table(result), client_table(result["clients"])]
    if result["benchmark"] == "scrub":
        shown.append(scrub_table(result["scrub"]))
    if result["benchmark"] == "scrape":
        shown.append(scrape_table(result["scrape"]))
    if result["benchmark"] == "alerts":
        from benchmarks import alerts_tables

        shown += alerts_tables.tables(result)
    if result["benchmark"] == "revoke":
        shown.append(revoke_table(result["cases"]))
    if result["benchmark"] == "small":
        shown.append(small_table(result["cases"]))
    if result["benchmark"] == "ledger":
        shown.append(ledger_table(result["ledger"]))
    if result["benchmark"] == "placement":
        # It needs Table from here.
        from benchmarks import placement_tables

        shown += placement_tables.tables(result)
    if result["benchmark"] == "durability":
        from benchmarks import durability_tables

        shown += durability_tables.tables(result)
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


_KEY: Final = ("operation", "mode", "seal", "size", "concurrency")
_CASE: Final = ("WHAT", "WAY", "SEALS", "SIZE", "AT ONCE")


def data_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Throughput, latency and CPU of every case."""
    shown = []
    for row in rows:
        if not row["available"]:
            shown.append([*_case(row), *[NONE] * 9, str(row["reason"])])
            continue
        latency, limit = row["latency_ms"], row["limit"]
        note = f"{number(row['against_healthy'], 2)} of healthy" if "against_healthy" in row else ""
        if "cpu_against_one_stream" in row:
            note = f"{number(row['cpu_against_one_stream'])} x the CPU of one stream"
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
                number(limit["ratio_without_content_signature"], 2) if limit else NONE,
                f"{row['others_share']:.0%}",
                note,
            ]
        )
    numbers = (
        *("MB/s", "OPS/s", "p50 ms", "p95", "p99"),
        *("CPU-s/GB", "TO LIMIT", "UNSIGNED", "OTHERS"),
    )
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


def rivals_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What users would otherwise pick, and what this run found."""
    shown = [[name, *(_compared(cell) for cell in cells)] for name, cells in rivals.ours(rows)]
    shown += [[system.name, *system.found] for system in rivals.RIVALS if shown]
    numbers = tuple(f"{what} {size_text(size)}" for what, size in rivals.COLUMNS)
    return Table(
        f"What users would otherwise pick, measured on two such cores, {rivals.IN_FLIGHT} in "
        "flight: MB/s (CPU-s/GB)",
        ("SYSTEM", *numbers),
        shown,
        numbers,
        rivals.CAVEATS,
    )


def _compared(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NONE
    fewer = "" if row["concurrency"] == rivals.IN_FLIGHT else f" x{row['concurrency']}"
    if row["size"] < 1 << 20:
        return f"{number(row['ops_s']['best'])}/s{fewer}"
    return f"{number(row['mb_s']['best'])} ({number(row['cpu_s_per_gb']['best'], 2)}){fewer}"


def scrub_table(found: Mapping[str, Any]) -> Table:
    """One cycle of a scrub over a node with one flipped byte."""
    after = found["found_after_s"]
    columns = ("GB", "SHARDS", "ROWS", "SECONDS", "MB/s", "CPU-s/GB", "FOUND AFTER s")
    row = [
        number(found["bytes"] / 1e9),
        str(found["shards"]),
        str(found["rows"]),
        number(found["seconds"]),
        number(found["mb_s"]),
        number(found["cpu_s_per_gb"]),
        "-" if after is None else number(after),
    ]
    return Table("One cycle of a scrub, one byte flipped", columns, [row], columns)


def revoke_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """From a revocation's commit to denials, and to the certificate."""
    columns = (
        "CASE", "REVOCATIONS", "DENIED p50 ms", "p99", "MAX", "CERTIFIED p50 ms", "p99", "OF"
    )  # fmt: skip
    shown = []
    for row in rows:
        denied, certified = row["denied_ms"] or {}, row["certified_ms"] or {}
        figures = [denied.get(name) for name in ("p50", "p99", "max")]
        figures += [certified.get(name) for name in ("p50", "p99")]
        cells = [NONE if each is None else number(each) for each in figures]
        shown.append([row["case"], str(row["revocations"]), *cells, str(row["certificates"])])
    title = "From a revocation's commit to denial by every node that runs, and to its proof"
    return Table(title, columns, shown, columns[1:])


def slow_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Gets with all nodes healthy, and with one slow."""
    shown = []
    for row in rows:
        name = [str(row["mode"]), str(row["phase"])]
        if not row["available"]:
            shown.append([*name, *[NONE] * 6, str(row["reason"])])
            continue
        latency = row["latency_ms"]
        shown.append(
            [
                *name,
                *(number(latency[f"p{percent}"]) for percent in (50, 95, 99)),
                both(row["ops_s"]),
                both(row["cpu_s_per_gb"]),
                f"{row['others_share']:.0%}",
                "",
            ]
        )
    numbers = ("p50 ms", "p95", "p99", "GETS/s", "CPU-s/GB", "OTHERS")
    return Table(
        "Gets with all nodes healthy and with one slow: medians of the phases",
        ("WAY", "NODES", *numbers, "NOTE"),
        shown,
        numbers,
    )


def ratio_table(ratios: Mapping[str, Mapping[str, Any]]) -> Table:
    """What the slow node cost, pair by pair."""
    shown = []
    for mode, found in ratios.items():
        if "p99" not in found:
            continue
        ran = found["slow_node_ran"]
        shown.append(
            [
                mode,
                *(number(found[f"p{percent}"]) for percent in (50, 95, 99)),
                " ".join(number(value, 2) for value in found["p99_of_each_pair"]),
                NONE if ran is None else f"{ran:.1%}",
            ]
        )
    return Table(
        "Slow over healthy: median of the pairs",
        ("WAY", "p50", "p95", "p99", "p99 OF EACH PAIR", "SLOW NODE RAN"),
        shown,
        ("p50", "p95", "p99", "SLOW NODE RAN"),
    )


def rebuild_table(result: Mapping[str, Any]) -> Table:
    """Lost nodes that were rebuilt, and the limit."""
    rows = []
    for name, found in result["rebuilds"].items():
        each = found["cpu_s_of_each"]
        busiest = ", ".join(
            f"{process} {number(each[process], 2)}"
            for process in sorted(each, key=lambda process: -each[process])[:3]
        )
        rows.append(
            [
                name,
                size_text(found["bytes"]),
                number(found["seconds"]),
                number(found["whole_seconds"]),
                number(found["mb_s"]),
                number(found["mb_per_cpu_s"]),
                number(found["cpu_s_per_gb"]),
                busiest,
            ]
        )
    limit = result["limit"]
    parts = " + ".join(f"{stage} {number(cost)}" for stage, cost in limit["of_which"].items())
    rows.append(
        ["limit", NONE, NONE, NONE, NONE, number(limit["mb_per_cpu_s"]),
         number(limit["cpu_s_per_gb"]), parts]
    )  # fmt: skip
    numbers = ("REBUILT", "SECONDS", "WHOLE", "MB/s", "MB/CPU-s", "CPU-s/GB")
    left_out = " + ".join(f"{stage} {number(cost)}" for stage, cost in limit["not_counted"].items())
    return Table(
        "A lost node is rebuilt",
        ("CLUSTER", *numbers, "OF WHICH"),
        rows,
        numbers,
        (
            "SECONDS: while bytes arrive; WHOLE: from the plan to its end, the barrier of an epoch "
            "included",
            f"the limit leaves out what no rebuild can avoid: {left_out}; with it the ratio is "
            f"{number(limit['ratio_with_reads_and_digests'], 2)}",
        ),
    )


def client_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What clients feel of a rebuild."""
    shown = []
    for row in rows:
        cells = [str(row["operation"])]
        for phase in ("idle", "repairing"):
            found = row[phase]
            cells.append(str(found["requests"]))
            cells += [number(found.get(f"p{each}")) for each in (50, 95, 99)]
        shown.append([*cells, number(row.get("p99_ratio"))])
    columns = ("IDLE", "p50 ms", "p95", "p99", "REPAIRING", "p50 ms ", "p95 ", "p99 ", "p99 RATIO")
    return Table(
        "Requests of clients, two in flight, on the whole cluster and while a node is rebuilt",
        ("WHAT", *columns),
        shown,
        columns,
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
                f"{row['degraded']} degraded puts" if row.get("degraded") else "",
            ]
        )
    numbers = ("PAYLOADS/s", "p50 ms", "p95", "p99", "CPU ms", "DISK/BYTE", "OTHERS")
    return Table(
        "Small payloads: best (median); latency is that of a call",
        ("WHAT", "SIZE", *numbers, "NOTE"),
        shown,
        ("SIZE", *numbers),
    )


def ledger_table(found: Mapping[str, Mapping[str, float]]) -> Table:
    """What the ledger costs."""
    rows = [[name, number(cost["best"]), number(cost["median"])] for name, cost in found.items()]
    return Table("The ledger", ("WHAT", "BEST", "MEDIAN"), rows, ("BEST", "MEDIAN"))


def scrape_table(found: Mapping[str, Any]) -> Table:
    """What Prometheus waits for, of a node at rest and of one that serves."""
    columns = ("NODE", "p50 ms", "p95 ms", "p99 ms", "SERIES", "KIB")
    size = [str(found["series"]), number(found["page_bytes"] / 1024)]
    rows = [
        [state, *(number(found[f"{state}_ms"][each]) for each in ("p50", "p95", "p99")), *size]
        for state in ("idle", "busy")
    ]
    return Table("Fetching the page of metrics", columns, rows, columns[1:])


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
    if result["benchmark"] == "durability":
        from benchmarks import durability_tables

        drawn += durability_tables.panels(result)
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
                    cpu_goal(*(row[name] for name in _KEY)) if key == "cpu_s_per_gb" else None,
                )
                for row in result["cases"]
                # The cost of small payloads is one of calls: it would hide all the others.
                if row["available"] and row["operation"] == operation and row["size"] >= 1 << 20
            ]
            drawn.append(Panel(f"{title}: {unit}", unit, bars))
    if result["benchmark"] == "repair":
        bars = [
            Bar(f"rebuilt, {name}", found["cpu_s_per_gb"], result["limit"]["cpu_s_per_gb"])
            for name, found in result["rebuilds"].items()
        ]
        drawn.append(Panel("A lost node: CPU for each GB rebuilt", "CPU-s/GB", bars))
        bars = [Bar(name, each["mb_s"]) for name, each in result["rebuilds"].items()]
        drawn.append(Panel("A lost node: pace", "MB/s", bars))
        bars = [
            Bar(f"{row['operation']}, {phase}: p{each}", row[phase][f"p{each}"])
            for row in result["clients"]
            for phase in ("idle", "repairing")
            for each in (50, 99)
            if row[phase].get(f"p{each}") is not None
        ]
        drawn.append(Panel("Requests of clients", "ms", bars))
    if result["benchmark"] == "slow":
        drawn += _slow_panels(result["cases"])
    if result["benchmark"] == "small":
        for operation, title in (
            ("put", "Single puts, 64 in flight"),
            ("get", "Single gets by a new client, 64 in flight"),
            ("put-many-one", "PutMany into one record"),
            ("put-many-different", "PutMany into different records"),
            ("get-many", "GetMany of one record by a new client"),
            ("get-many-different", "GetMany of different records by a new client"),
        ):
            bars = [
                Bar(
                    size_text(row["size"]),
                    row["ops_s"]["best"],
                    None,
                    row["ops_s"]["median"],
                    rate_goal(operation, row["size"]),
                )
                for row in sorted(result["cases"], key=lambda row: int(row["size"]))
                if row["available"] and row["operation"] == operation
            ]
            drawn.append(Panel(title, "payloads/s", bars))
    if result["benchmark"] == "ledger":
        for unit in ("CPU us", "/ s"):
            bars = [
                Bar(name.removesuffix(unit).rstrip(": "), cost["best"], None, cost["median"])
                for name, cost in result["ledger"].items()
                if name.endswith(unit)
            ]
            drawn.append(Panel(f"The ledger: {unit}", unit, bars))
    return [panel for panel in drawn if panel.bars]


def _slow_panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    drawn = []
    healthy: dict[str, float] = {}
    for mode in dict.fromkeys(row["mode"] for row in rows):
        bars = []
        for row in rows:
            if row["mode"] != mode or not row["available"]:
                continue
            for percent in (50, 95, 99):
                name, value = f"{row['phase']}: p{percent}", row["latency_ms"][f"p{percent}"]
                goal = None
                if row["phase"] == "healthy":
                    healthy[f"{mode} {percent}"] = value
                elif percent == 99:
                    goal = SLOW_NODE * healthy.get(f"{mode} {percent}", value)
                bars.append(Bar(name, value, goal=goal))
        drawn.append(Panel(f"Gets, {mode}: all nodes healthy, and one slow", "ms", bars))
    return drawn


def _bar_name(row: Mapping[str, Any]) -> str:
    size = size_text(row["size"]).replace(".0 ", " ")
    who = "in packs" if row["seal"] == "pack" else f"{row['seal']} seals"
    sealed = "" if row["mode"] == "direct" else f", {who}"
    return f"{size} x {row['concurrency']}, {row['mode']}{sealed}"


_BARS: Final = {
    "slow": ("median of the phases", "median"),
    "durability": ("found", "the end of its 95 % interval on the unsafe side"),
}


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
        lines += table.remarks
    return "\n".join(lines) + "\n"


def save(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the result as JSON, its tables as text and its plot as SVG; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"bench-{result['benchmark']}{'-quick' if result['quick'] else ''}"
    title = f"hcefs bench {result['benchmark']}"
    bars, line = _BARS.get(result["benchmark"], ("best", "median"))
    environment = result["environment"]
    subtitle = (
        f"{environment['cpu']}, {environment['cores']} cores, {environment['kernel']}; "
        f"{environment['profile']}, fsync on, TLS 1.3"
    )
    written = {
        f"{stem}.json": json.dumps(result, indent=2) + "\n",
        f"{stem}.txt": text_of(result),
        f"{stem}.svg": chart(title, subtitle, panels(result), bars, line),
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in written]
