"""``scrub status|now`` and ``collect``: what nodes find on their disks, and what they delete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.bringup import client_address
from hcefs.cli.cluster_files import LEDGER, ClusterFolder
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import duration_text, print_table, show, size_text, verb
from hcefs.client.ledger import LedgerClient
from hcefs.errors import HcefsError, NotFound
from hcefs.runtime import SystemRuntime
from hcefs.wire.v1 import admin_pb2

ASK_SECONDS = 60.0
SHOWN = 22

app = typer.Typer(help="What nodes find on their disks.", no_args_is_help=True)

NodeOption = Annotated[
    str, typer.Option("--node", metavar="NAME", help="Only this node, such as node-2.")
]
Answer = TypeVar("Answer")


def add_to(root: typer.Typer) -> None:
    """Register the verbs."""
    root.add_typer(app, name="scrub")
    root.command("collect")(collect)


@app.command("status")
@verb
def status(
    node: NodeOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show how far each node has read its disk, what it found, and what is in quarantine."""
    _scrub(folder(directory), node, now=False, as_json=as_json)


@app.command("now")
@verb
def now(
    node: NodeOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Have nodes read everything now, as fast as their ceiling allows."""
    _scrub(folder(directory), node, now=True, as_json=as_json)


@verb
def collect(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be deleted, and why.")
    ] = False,
    node: NodeOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Delete what nothing refers to, now; the plan is shown first."""
    layout = folder(directory)
    plan = _ask(layout, node, lambda client, at: client.collect(at, dry_run=True))
    data: dict[str, Any] = {"dry_run": dry_run, "nodes": _collections(plan)}
    if not dry_run:
        if not as_json and any(each["items"] for each in data["nodes"]):
            _print_collections(Console(), data["nodes"], would=True)
        done = _ask(layout, node, lambda client, at: client.collect(at, dry_run=False))
        data["nodes"] = _collections(done)
    show(
        data,
        as_json=as_json,
        human=lambda console: _print_collections(console, data["nodes"], would=dry_run),
    )


# --- asking -----------------------------------------------------------------------


def _ask(
    layout: ClusterFolder, node: str, call: Callable[[LedgerClient, str], Awaitable[Answer]]
) -> dict[str, Answer | HcefsError]:
    """What each node answers the first operator, or how it failed.

    Raises:
        NotFound: there is no such node.
    """
    names = [name for name in layout.process_names() if name != LEDGER]
    if node and node not in names:
        raise NotFound(f"there is no node {node[:64]!r} here", reason="unknown-node")
    asked = [node] if node else names

    async def work() -> dict[str, Answer | HcefsError]:
        runtime = SystemRuntime()
        try:
            keys = layout.load_keys(layout.operator)
            async with LedgerClient(layout.load_connection(), keys, runtime) as client:

                async def one(name: str) -> Answer | HcefsError:
                    try:
                        async with runtime.timeout(ASK_SECONDS):
                            return await call(client, client_address(layout, name))
                    except TimeoutError:
                        return NotFound("no answer in time", reason="no-answer")
                    except HcefsError as error:
                        return error

                answers = await asyncio.gather(*map(one, asked))
                return dict(zip(asked, answers, strict=True))
        finally:
            runtime.close()

    return asyncio.run(work())


# --- scrub ------------------------------------------------------------------------


def _scrub(layout: ClusterFolder, node: str, *, now: bool, as_json: bool) -> None:
    found = _ask(layout, node, lambda client, at: client.scrub(at, now=now))
    runtime = SystemRuntime()
    try:
        now_ms = runtime.now_ms()
    finally:
        runtime.close()
    data = {"nodes": [_scrub_data(name, answer, now_ms) for name, answer in found.items()]}
    show(data, as_json=as_json, human=lambda console: _print_scrub(console, data["nodes"]))


def _scrub_data(
    name: str, answer: admin_pb2.ScrubResponse | HcefsError, now_ms: int
) -> dict[str, Any]:
    if isinstance(answer, HcefsError):
        return {"node": name, "failure": f"{answer.kind}: {answer.reason}"}
    oldest = answer.oldest_verified_ms
    return {
        "node": name,
        "failure": None,
        "cycle": answer.cycle,
        "started_ms": answer.started_ms,
        "stage": answer.stage,
        "progress": answer.progress_permille / 1000,
        "resting": answer.resting,
        "rate_bytes": answer.rate_bytes,
        "shards": answer.shards,
        "read_bytes": answer.read_bytes,
        "rows": answer.rows,
        "damaged": answer.damaged,
        "disagreements": answer.disagreements,
        "undecided": answer.undecided,
        "superfluous": answer.superfluous,
        "oldest_unverified_ms": max(0, now_ms - oldest) if oldest else None,
        "disk_state": answer.disk_state,
        "restoring": answer.restoring,
        "rows_put_away": answer.rows_put_away,
        "warnings": list(answer.warnings),
        "quarantined": [
            {
                "name": each.name,
                "size": each.size,
                "profile": each.profile,
                "reason": each.reason,
                "age_ms": max(0, now_ms - each.at_ms),
            }
            for each in answer.quarantined
        ],
    }


def _print_scrub(console: Console, nodes: list[dict[str, Any]]) -> None:
    rows: list[list[object]] = []
    for each in nodes:
        if each["failure"]:
            rows.append([each["node"], Text(each["failure"], style="red"), *["-"] * 7])
            continue
        oldest = each["oldest_unverified_ms"]
        rows.append(
            [
                each["node"],
                each["stage"],
                each["cycle"],
                f"{each['progress']:.0%}",
                each["shards"],
                size_text(each["read_bytes"]),
                each["rows"],
                Text(str(each["damaged"]), style="red" if each["damaged"] else "green"),
                "never" if oldest is None else duration_text(oldest),
            ]
        )
    print_table(
        console,
        ("NODE", "READING", "CYCLE", "DONE", "SHARDS", "BYTES", "ROWS", "FOUND", "OLDEST"),
        rows,
        right=("CYCLE", "DONE", "SHARDS", "BYTES", "ROWS", "FOUND", "OLDEST"),
    )
    kept = [(each["node"], shard) for each in nodes for shard in each.get("quarantined", ())]
    if kept:
        console.print()
        print_table(
            console,
            ("NODE", "IN QUARANTINE", "BYTES", "PROFILE", "WHY", "FOR"),
            [
                [
                    name,
                    shard["name"][:SHOWN],
                    size_text(shard["size"]),
                    shard["profile"] or "-",
                    shard["reason"],
                    duration_text(shard["age_ms"]),
                ]
                for name, shard in kept
            ],
            right=("BYTES", "FOR"),
        )
    for each in nodes:
        for warning in each.get("warnings", ()):
            console.print(Text(f"warning: {each['node']}: {warning}"), style="yellow")
    differ = sum(each.get("disagreements", 0) for each in nodes)
    extra = sum(each.get("superfluous", 0) for each in nodes)
    console.print(
        Text(f"{differ} manifests differ between holders, {extra} shards are superfluous"),
        style="yellow" if differ else "",
    )


# --- collect ----------------------------------------------------------------------


def _collections(
    found: dict[str, admin_pb2.CollectResponse | HcefsError],
) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = []
    for name, answer in found.items():
        if isinstance(answer, HcefsError):
            nodes.append({"node": name, "failure": f"{answer.kind}: {answer.reason}", "items": []})
            continue
        items = [
            {
                "what": each.what,
                "name": each.name,
                "size": each.size,
                "deleted": each.deleted,
                "why": each.why,
            }
            for each in answer.items
        ]
        nodes.append({"node": name, "failure": None, "restoring": answer.restoring, "items": items})
    return nodes


def _print_collections(console: Console, nodes: list[dict[str, Any]], *, would: bool) -> None:
    rows: list[list[object]] = []
    for each in nodes:
        if each["failure"]:
            rows.append([each["node"], Text(each["failure"], style="red"), "-", "-", "-"])
        rows += [
            [
                each["node"],
                item["what"],
                item["name"][:SHOWN],
                ("would go" if would else "deleted") if item["deleted"] else "kept",
                item["why"],
            ]
            for item in each["items"]
        ]
    if rows:
        print_table(console, ("NODE", "WHAT", "NAME", "FATE", "WHY"), rows)
    else:
        console.print(Text("there is nothing to collect"))
