"""What the layout's verbs show: plans, progress, history and verdicts, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.operators import label, load_stage
from hcefs.cli.output import duration_text, print_fields, print_table, size_text, time_text
from hcefs.cli.session import Names
from hcefs.client.layout import Estimate, LayoutClient, left_of
from hcefs.errors import Invalid
from hcefs.ledger.cluster_facts import MapChange, MapProgress, UpkeepPolicy
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.figures import Balance, TableReport
from hcefs.placement.safety import ok_to_stop, safe_to_remove
from hcefs.placement.staging import Change, Outlook
from hcefs.placement.waves import is_planned

RATE_SECONDS = 1.0
"""Between two looks at the progress, for the time that is left."""


# --- plan -------------------------------------------------------------------------


def plan_data(
    current: ClusterMap,
    changes: Sequence[Change],
    found: Outlook,
    takes: Estimate,
    rate: float,
) -> dict[str, Any]:
    """Everything about a plan that has not been applied."""
    tables = [table.report for table in found.plan.tables] if found.plan is not None else []
    return {
        "epoch": current.epoch,
        "next_epoch": found.successor.epoch,
        "digest": found.successor.digest().hex(),
        "staged": [change.text() for change in changes],
        "moves": takes.moves,
        "bytes": takes.bytes,
        "seconds": round(takes.seconds, 3),
        "rate_mib": rate,
        "tables": [_table_data(report) for report in tables],
        "nodes": _nodes_data(current, found, tables),
        "warnings": list(found.successor.warnings()),
        "warnings_now": list(current.warnings()),
    }


def _table_data(report: TableReport) -> dict[str, Any]:
    return {
        "profile": report.profile,
        "partitions": report.partitions,
        "moves": report.moves,
        "lower_bound": report.lower_bound,
        "rebuilds": report.rebuilds,
        "waves": report.waves,
        "before": _balance_data(report.before),
        "after": _balance_data(report.after),
        "advice": list(report.advice),
    }


def _balance_data(balance: Balance | None) -> dict[str, Any] | None:
    if balance is None:
        return None
    return {
        "imbalance": round(float(balance.raw), 4),
        "imbalance_feasible": round(float(balance.feasible), 4),
        "stranded": round(float(balance.stranded), 4),
        "zone_safe": balance.zone_safe,
    }


def _nodes_data(
    current: ClusterMap, found: Outlook, tables: Sequence[TableReport]
) -> list[dict[str, Any]]:
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for report in tables:
        for change in report.nodes:
            before[change.node_id] = before.get(change.node_id, 0) + change.before
            after[change.node_id] = after.get(change.node_id, 0) + change.after
    rows = []
    for node_id in sorted(set(before) | set(after)):
        node = found.successor.node(node_id) or current.node(node_id)
        if node is not None:
            rows.append(
                {
                    "node_id": node_id,
                    "state": node.state.name.lower(),
                    "place": label(node),
                    "weight": node.weight,
                    "seats_before": before.get(node_id, 0),
                    "seats_after": after.get(node_id, 0),
                }
            )
    return rows


def print_plan(console: Console, data: dict[str, Any]) -> None:
    """A plan for people."""
    for line in data["staged"]:
        console.print(Text(f"staged  {line}"))
    console.print()
    print_table(
        console,
        ("NODE", "STATE", "PLACE", "WEIGHT", "SEATS", "THEN", "CHANGE"),
        [
            [
                row["node_id"], row["state"], row["place"], row["weight"],
                row["seats_before"], row["seats_after"],
                f"{row['seats_after'] - row['seats_before']:+d}",
            ]
            for row in data["nodes"]
        ],
        right=("NODE", "WEIGHT", "SEATS", "THEN", "CHANGE"),
        empty="no seat moves",
    )  # fmt: skip
    if data["tables"]:
        console.print()
        print_table(
            console,
            ("PROFILE", "MOVES", "FEWEST", "REBUILT", "WAVES", "IMBALANCE", "THEN", "ZONE-SAFE"),
            [_table_row(table) for table in data["tables"]],
            right=("MOVES", "FEWEST", "REBUILT", "WAVES", "IMBALANCE", "THEN"),
        )
    console.print()
    print_fields(
        console,
        [
            ("moves", f"{data['moves']} seats, about {size_text(data['bytes'])}"),
            (
                "time",
                f"{_length(data['seconds'])} at {data['rate_mib']:g} MiB a second and node, beside "
                "clients",
            ),
            ("epoch", f"{data['epoch']}, then {data['next_epoch']}"),
            ("plan", data["digest"][:16]),
        ],
    )
    for table in data["tables"]:
        for line in table["advice"]:
            console.print(Text(f"advice: {line}"), style="yellow")
    for warning in data["warnings"]:
        known = " (as now)" if warning in data["warnings_now"] else ""
        console.print(Text(f"warning: {warning}{known}"), style="yellow")
    console.print(
        Text(f"nothing has moved; next: hcefs layout apply --expect {data['digest'][:16]}"),
        style="dim",
    )


def _length(seconds: float) -> str:
    return "under a second" if seconds < 1 else f"about {duration_text(int(seconds * 1000))}"


def _table_row(table: dict[str, Any]) -> list[object]:
    before, after = table["before"], table["after"]
    return [
        table["profile"], table["moves"], table["lower_bound"], table["rebuilds"], table["waves"],
        f"{before['imbalance']:.3f}" if before else "-",
        f"{after['imbalance']:.3f}",
        "yes" if after["zone_safe"] else "NO",
    ]  # fmt: skip


# --- status -----------------------------------------------------------------------


async def status_data(layout: ClusterFolder, operators: LayoutClient) -> dict[str, Any]:
    """The map in force, what moves, and who is away."""
    client = operators.client
    current = await operators.current()
    progress = await client.map_progress()
    eta = await _eta(operators, current, progress) if is_planned(current) else None
    left = left_of(current, progress)
    reports = await client.node_reports()
    away: dict[int, list[int]] = {}
    for row in reports:
        for missed in row.unreachable:
            away.setdefault(missed.node_id, []).append(row.node_id)
    try:
        staged = [change.text() for change in load_stage(layout, current).changes]
    except Invalid as error:
        staged = [error.message]
    statuses = await operators.statuses(current)
    warnings = list(current.warnings())
    for status in statuses.values():
        warnings += [text for text in status.warnings if text not in warnings]
    return {
        "epoch": current.epoch,
        "digest": current.digest().hex(),
        "planned": is_planned(current),
        "seats_in_flight": progress.in_flight,
        "seats_arrived": len(progress.arrived),
        "seconds_left": None if eta is None else round(eta, 1),
        "tables": [
            {
                "profile": table.profile,
                "partitions": table.partitions,
                "wave": table.wave,
                "waves": table.waves,
                "moving": len(table.moving),
                "still_to_move": sum(
                    a != b
                    for row, wanted in zip(table.node_rows, table.target_rows, strict=True)
                    for a, b in zip(row, wanted, strict=True)
                ),
            }
            for table in current.tables
        ],
        "nodes": [
            {
                "node_id": node.node_id,
                "state": node.state.name.lower(),
                "place": label(node),
                "weight": node.weight,
                "answers": node.node_id in statuses,
                "seats_to_fill": left.get(node.node_id, 0),
                "missed_by": away.get(node.node_id, []),
            }
            for node in current.nodes
        ],
        "policy": policy_data(await client.upkeep_policy()),
        "staged": staged,
        "warnings": warnings,
    }


async def _eta(operators: LayoutClient, current: ClusterMap, progress: MapProgress) -> float | None:
    """Seconds until the plan is done, by what arrives while this looks; None: nothing did."""
    await operators.client.runtime.sleep(RATE_SECONDS)
    later = await operators.client.map_progress()
    if later.epoch != progress.epoch:
        return None
    gained = len(later.arrived) - len(progress.arrived)
    if gained <= 0:
        return None
    left = progress.in_flight - len(later.arrived)
    for table in current.tables:
        for row, wanted in zip(table.node_rows, table.target_rows, strict=True):
            left += sum(a != b for a, b in zip(row, wanted, strict=True))
    return left * RATE_SECONDS / gained


def print_status(console: Console, data: dict[str, Any]) -> None:
    """The same for people."""
    if data["planned"]:
        waves = max(data["tables"], key=lambda table: table["waves"])
        later = sum(table["still_to_move"] for table in data["tables"])
        eta = data["seconds_left"]
        moving = (
            f"wave {waves['wave']} of {waves['waves']}: {data['seats_arrived']} of "
            f"{data['seats_in_flight']} seats have arrived, {later} more in later waves"
        )
        left = "not known yet" if eta is None else f"about {duration_text(int(eta * 1000))}"
    else:
        moving, left = "nothing: every seat is where the map wants it", None
    print_fields(
        console,
        [
            ("epoch", data["epoch"]),
            ("map", data["digest"][:16]),
            ("moving", moving),
            ("time left", left),
            ("staged", "; ".join(data["staged"])),
            ("automatic", _policy_text(data["policy"])),
        ],
    )
    console.print()
    print_table(
        console,
        ("NODE", "STATE", "PLACE", "WEIGHT", "ANSWERS", "TO FILL", "MISSED BY"),
        [
            [
                row["node_id"], row["state"], row["place"], row["weight"],
                Text("yes" if row["answers"] else "no", style="green" if row["answers"] else "red"),
                row["seats_to_fill"],
                ", ".join(map(str, row["missed_by"])) or "-",
            ]
            for row in data["nodes"]
        ],
        right=("NODE", "WEIGHT", "TO FILL"),
    )  # fmt: skip
    for warning in data["warnings"]:
        console.print(Text(f"warning: {warning}"), style="yellow")


# --- history and policy -----------------------------------------------------------


def history_data(layout: ClusterFolder, changes: Sequence[MapChange]) -> list[dict[str, Any]]:
    """How epochs began."""
    names = Names(layout)
    return [
        {
            "epoch": change.epoch,
            "time": time_text(change.time_ms),
            "time_ms": change.time_ms,
            "height": change.height,
            "cause": change.cause.name.lower(),
            "by": [names.of(signer) for signer in change.signers],
            "moving": change.moving,
            "wave": change.wave,
            "waves": change.waves,
            "digest": change.digest.hex(),
        }
        for change in changes
    ]


def print_history(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """The same for people."""
    print_table(
        console,
        ("EPOCH", "TIME", "CAUSE", "WAVE", "MOVING", "BY"),
        [
            [
                row["epoch"], row["time"], row["cause"],
                f"{row['wave']}/{row['waves']}" if row["waves"] else "-",
                row["moving"], ", ".join(row["by"]),
            ]
            for row in rows
        ],
        right=("EPOCH", "MOVING"),
        empty="no epoch has begun under protocol version 2",
    )  # fmt: skip


def policy_data(policy: UpkeepPolicy) -> dict[str, Any]:
    """What nodes may do by themselves."""
    return {
        "number": policy.number,
        "out_after_ms": policy.out_after_ms,
        "out_max": policy.out_max,
        "reprofile": [
            {"from": pair.from_profile, "to": pair.to_profile} for pair in policy.reprofile
        ],
    }


def _policy_text(policy: dict[str, Any]) -> str:
    if not policy["out_after_ms"]:
        return "off: nodes that are away are given up by operators only"
    return (
        f"a node that most miss for {duration_text(policy['out_after_ms'])} is given up, unless "
        f"more than {policy['out_max']} are away"
    )


def print_policy(console: Console, policy: dict[str, Any]) -> None:
    """The same for people."""
    pairs = ", ".join(f"{pair['from']} -> {pair['to']}" for pair in policy["reprofile"])
    print_fields(console, [("automatic", _policy_text(policy)), ("reprofile", pairs or "nothing")])


# --- safety -----------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether something may be done to a node, and why."""

    node_id: int
    yes: bool
    reason: str
    is_known: bool


async def verdict(
    operators: LayoutClient, current: ClusterMap, node_id: int, *, stopping: bool
) -> Verdict:
    """Ask what is so now, and conclude."""
    if stopping:
        statuses = await operators.statuses(current)
        answer = ok_to_stop(current, node_id, await operators.health(current, statuses))
    else:
        answer = safe_to_remove(current, node_id, await operators.inventory(current))
    return Verdict(node_id, answer.yes, answer.reason, answer.is_known)


def print_verdict(console: Console, found: Verdict) -> None:
    """One line."""
    word = "yes" if found.yes else "no" if found.is_known else "no conclusion, so no"
    console.print(
        Text(f"node {found.node_id}: {word}: {found.reason}"),
        style="green" if found.yes else "red",
    )
