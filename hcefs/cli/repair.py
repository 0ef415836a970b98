"""``hcefs repair status|now|list|explain``: what nodes are to rebuild, and how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.operators import operators_of, run
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import (
    duration_text,
    print_fields,
    print_table,
    remaining_text,
    show,
    size_text,
    time_text,
    verb,
)
from hcefs.cli.verify import blob_data, print_shards
from hcefs.client.layout import ASKED, LayoutClient
from hcefs.client.verify import FULL, LOST, UNREACHABLE, BlobVerdict, VerifyClient
from hcefs.errors import HcefsError, Invalid
from hcefs.ids import BlobBase, BlobId
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import partition_of
from hcefs.placement.waves import in_flight
from hcefs.wire.v1 import admin_pb2

app = typer.Typer(help="What is to be rebuilt: look, hurry, explain.", no_args_is_help=True)
T = TypeVar("T")
LIMIT_MAX = 1000


async def _all(
    operators: LayoutClient, current: ClusterMap, ask: Callable[[Node], Awaitable[T]]
) -> tuple[dict[int, T], dict[int, str]]:
    """What each node answers, and why some do not."""
    said: dict[int, T] = {}
    away: dict[int, str] = {}

    async def one(node: Node) -> None:
        try:
            said[node.node_id] = await ask(node)
        except HcefsError as error:
            away[node.node_id] = error.reason

    await asyncio.gather(*(one(node) for node in current.nodes if node.state in ASKED))
    return dict(sorted(said.items())), dict(sorted(away.items()))


# --- status -----------------------------------------------------------------------


@app.command("status")
@verb
def status(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """Show what each node is to rebuild, its pace, and what the last passes found."""
    layout = folder(directory)

    async def work() -> tuple[dict[str, Any], int]:
        async with operators_of(layout) as operators:
            current = await operators.current()
            said, away = await _all(
                operators, current, lambda node: operators.client.repair_status(node.address)
            )
            return _status_data(current, said, away), operators.client.runtime.now_ms()

    data, now_ms = run(work())
    show(data, as_json=as_json, human=lambda console: _print_status(console, data, now_ms))


def _stock_data(stock: admin_pb2.Stock) -> dict[str, Any] | None:
    if not stock.began_ms:
        return None
    return {
        "epoch": stock.epoch,
        "began_ms": stock.began_ms,
        "ended_ms": stock.ended_ms,
        "rows": stock.rows,
        "seats": stock.seats,
        "waiting_rows": stock.waiting,
        "lacking_shards": stock.lacking,
        "full": stock.full,
        "degraded": stock.degraded,
        "lost": stock.lost,
        "unreachable": stock.unreachable,
        "gone": [BlobBase(base).text for base in stock.gone],
    }


def _status_data(
    current: ClusterMap, said: dict[int, admin_pb2.RepairStatusResponse], away: dict[int, str]
) -> dict[str, Any]:
    nodes = [
        {
            "node": node_id,
            "backlog": {each.margin: each.shards for each in answer.backlog},
            "oldest_ms": answer.oldest_ms,
            "pace_bytes": answer.pace_bytes,
            "left_seconds": answer.left_seconds,
            "left_bytes": answer.left_bytes,
            "repaired_shards": answer.repaired_shards,
            "repaired_bytes": answer.repaired_bytes,
            "rate_bytes": answer.rate_bytes,
            "hints": answer.hints,
            "passing": _stock_data(answer.passing),
            "last": _stock_data(answer.last),
            "whole_ms": answer.whole_ms,
        }
        for node_id, answer in said.items()
    ]
    lasts = [answer.last for answer in said.values()]
    live: dict[tuple[str, int], int] = {}
    for last in lasts:
        for each in last.blobs:
            live[each.profile, each.live] = live.get((each.profile, each.live), 0) + each.blobs
    whole = [answer.whole_ms for answer in said.values()]
    backlog = sum(each.shards for answer in said.values() for each in answer.backlog)
    done = (
        bool(said)
        and not away
        and all(whole)
        and not backlog
        and all(
            last.ended_ms == answer.whole_ms
            for last, answer in zip(lasts, said.values(), strict=True)
        )
    )
    return {
        "epoch": current.epoch,
        "done": done,
        "whole_ms": min(whole) if done else 0,
        "backlog": backlog,
        "blobs": [
            {"profile": profile, "live": count, "blobs": blobs}
            for (profile, count), blobs in sorted(live.items())
        ],
        "nodes": nodes,
        "away": [{"node": node_id, "reason": reason} for node_id, reason in away.items()],
    }


def _print_status(console: Console, data: dict[str, Any], now_ms: int) -> None:
    rows = []
    for node in data["nodes"]:
        last, left = node["last"], node["left_seconds"]
        waits = ", ".join(f"{n} at {margin}" for margin, n in node["backlog"].items())
        passing = node["passing"]
        rows.append(
            [
                node["node"],
                waits or "nothing",
                remaining_text(node["oldest_ms"], now_ms) if node["oldest_ms"] else "-",
                f"{size_text(int(node['pace_bytes']))}/s",
                "-" if not waits else "?" if left < 0 else duration_text(int(left * 1000)),
                f"{passing['rows']} of {passing['seats']} rows" if passing else
                remaining_text(last["ended_ms"], now_ms) if last else "none yet",
            ]
        )  # fmt: skip
    columns = ("NODE", "WAITS, BY MARGIN", "OLDEST", "PACE", "LEFT", "LAST PASS")
    print_table(console, columns, rows, right=("NODE", "PACE"))
    for each in data["away"]:
        console.print(Text(f"node {each['node']} does not answer ({each['reason']})", style="red"))
    blobs = ", ".join(
        f"{each['blobs']} of {each['profile']} with {each['live']}" for each in data["blobs"]
    )
    ended = [node["last"] is not None and node["last"]["ended_ms"] for node in data["nodes"]]
    nothing = (
        "there are none" if ended and all(ended)
        else f"none in the passes that have ended ({sum(map(bool, ended))} of {len(ended)} nodes)"
        if any(ended)
        else "no pass has ended"
    )  # fmt: skip
    print_fields(console, [("blobs by live shards", blobs or nothing)])
    for node in data["nodes"]:
        for base in (node["last"] or {"gone": ()})["gone"]:
            console.print(
                Text(f"no shard is left of {base}: restore it from a backup", style="red")
            )
    if data["done"]:
        text = f"all blobs were whole in the passes that ended by {time_text(data['whole_ms'])}"
    else:
        waits = f"{data['backlog']} shards wait" if data["backlog"] else "a pass has yet to see it"
        text = f"not done: {waits}"
    console.print(Text(text, style="green" if data["done"] else "yellow"))


# --- now --------------------------------------------------------------------------


@app.command("now")
@verb
def now(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """Begin a pass on every node at once, at the ceiling of its pace; clients may feel it."""
    layout = folder(directory)

    async def work() -> dict[str, Any]:
        async with operators_of(layout) as operators:
            current = await operators.current()
            said, away = await _all(
                operators, current, lambda node: operators.client.repair_now(node.address)
            )
            missed = [{"node": node_id, "reason": reason} for node_id, reason in away.items()]
            return {"started": list(said), "away": missed}

    data = run(work())

    def human(console: Console) -> None:
        console.print(Text(f"a pass begins on nodes {', '.join(map(str, data['started']))}"))
        for each in data["away"]:
            line = f"node {each['node']} does not answer ({each['reason']})"
            console.print(Text(line, style="red"))
        console.print(Text("next: hcefs repair status", style="dim"))

    show(data, as_json=as_json, human=human)


# --- list -------------------------------------------------------------------------


def _queued_data(node_id: int, shard: admin_pb2.QueuedShard) -> dict[str, Any]:
    return {
        "node": node_id,
        "base": BlobBase(shard.base).text,
        "index": shard.index,
        "profile": shard.profile,
        "reason": shard.reason,
        "found_ms": shard.found_ms,
        "live": None if shard.live < 0 else shard.live,
        "attempts": shard.attempts,
        "tried_ms": shard.tried_ms,
        "error": shard.error,
        "due_ms": shard.due_ms,
    }


@app.command("list")
@verb
def list_queue(
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", help="Entries of each node [100].")
    ] = 100,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show what waits: why, since when, how often it was tried, and why that failed."""
    if not 1 <= limit <= LIMIT_MAX:
        raise Invalid(f"list 1 to {LIMIT_MAX} entries, not {limit}", reason="bad-limit")
    layout = folder(directory)

    async def work() -> tuple[dict[str, Any], int]:
        async with operators_of(layout) as operators:
            current = await operators.current()
            said, away = await _all(
                operators, current, lambda node: operators.client.repair_list(node.address, limit)
            )
            data = {
                "total": sum(answer.total for answer in said.values()),
                "shards": [
                    _queued_data(node_id, shard)
                    for node_id, answer in said.items()
                    for shard in answer.shards
                ],
                "away": [{"node": n, "reason": reason} for n, reason in away.items()],
            }
            return data, operators.client.runtime.now_ms()

    data, now_ms = run(work())

    def human(console: Console) -> None:
        rows = [
            [
                each["node"], each["base"], each["index"], each["profile"],
                "?" if each["live"] is None else each["live"], each["reason"],
                remaining_text(each["found_ms"], now_ms), each["attempts"], each["error"] or "-",
            ]
            for each in data["shards"]
        ]  # fmt: skip
        columns = (
            "NODE", "BASE", "INDEX", "PROFILE", "LIVE", "WHY", "FOUND", "TRIED", "LAST ERROR",
        )  # fmt: skip
        right = ("NODE", "INDEX", "LIVE", "TRIED")
        print_table(console, columns, rows, right=right, empty="nothing waits")
        if data["total"] > len(rows):
            console.print(Text(f"and {data['total'] - len(rows)} more", style="dim"))
        for each in data["away"]:
            line = f"node {each['node']} does not answer ({each['reason']})"
            console.print(Text(line, style="red"))

    show(data, as_json=as_json, human=human)


# --- explain ----------------------------------------------------------------------


@app.command("explain")
@verb
def explain(
    blob: Annotated[str, typer.Argument(metavar="BLOB", help="The id of a blob, or a base.")],
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show who should have and who has which shard of one blob, and what happens next."""
    layout = folder(directory)
    base = BlobId.parse(blob).base if blob.startswith(BlobId.PREFIX) else BlobBase.parse(blob)

    async def work() -> tuple[dict[str, Any], int]:
        async with operators_of(layout) as operators:
            current = await operators.current()
            client = VerifyClient(operators.client)
            said, away = await client.explain(current, base)
            verdict = client.verdict(current, base, said, away)
            return _explained(current, verdict, said, away), operators.client.runtime.now_ms()

    data, now_ms = run(work())
    show(data, as_json=as_json, human=lambda console: _print_explained(console, data, now_ms))


def _explained(
    current: ClusterMap,
    verdict: BlobVerdict,
    said: dict[int, admin_pb2.ExplainResponse],
    away: dict[int, str],
) -> dict[str, Any]:
    partition = partition_of(bytes(verdict.base), current.table(verdict.profile).bits)
    moves = [
        {"seat": name.seat, "source": source}
        for name, source in sorted(in_flight(current).items())
        if (name.profile, name.partition) == (verdict.profile, partition)
    ]
    queued = [
        _queued_data(node_id, shard)
        for node_id, answer in sorted(said.items())
        for shard in answer.queued
    ]
    found = blob_data(verdict)
    found |= {
        "epoch": current.epoch,
        "partition": partition,
        "moves": moves,
        "queued": queued,
        "away": [{"node": n, "reason": reason} for n, reason in sorted(away.items())],
    }
    found["next"] = _next(verdict, {(each["node"], each["index"]) for each in queued})
    return found


def _next(verdict: BlobVerdict, queued: set[tuple[int, int]]) -> list[str]:
    """What becomes of each shard that is not where it should be."""
    if verdict.state == FULL:
        return ["nothing: every shard is whole at its seat"] if _seated(verdict) else [
            "shards that lie elsewhere come home with the next pass of their seats' nodes"
        ]  # fmt: skip
    if verdict.state in (LOST, UNREACHABLE):
        return [
            "nothing can be rebuilt: fewer than k shards are whole; bring back a node that has "
            "one, and the queue tries again by itself"
        ]
    steps = []
    for seat in verdict.seats:
        name = f"index {seat.index}: node {seat.node_id}"
        if seat.state == "whole":
            continue
        if seat.state == "unreachable":
            steps.append(f"{name} does not answer; when it is back it looks over its own seats")
        elif (seat.node_id, seat.index) in queued:
            steps.append(f"{name} has it in its queue, and fetches or rebuilds it")
        else:
            steps.append(
                f"{name} has not noticed; its next pass does, or at once: hcefs repair now"
            )
    return steps


def _seated(verdict: BlobVerdict) -> bool:
    return all(seat.state == "whole" for seat in verdict.seats)


def _print_explained(console: Console, data: dict[str, Any], now_ms: int) -> None:
    print_fields(
        console,
        [
            ("blob or pack", data["base"]),
            ("state", f"{data['state']}, {data['live']} live shards, margin {data['margin']}"),
            ("row", f"partition {data['partition']} of {data['profile']}, epoch {data['epoch']}"),
            ("problems", ", ".join(data["problems"])),
            ("moves", ", ".join(f"seat {m['seat']} from {m['source']}" for m in data["moves"])),
        ],
    )
    print_shards(console, data)
    for each in data["queued"]:
        text = (
            f"node {each['node']} is to rebuild index {each['index']}: {each['reason']}, found "
            f"{remaining_text(each['found_ms'], now_ms)}, tried {each['attempts']} times"
        )
        text += f", last error {each['error']}" if each["error"] else ""
        console.print(Text(text))
    for step in data["next"]:
        console.print(Text(f"next: {step}", style="dim"))
