"""``up``, ``status``, ``down``: a cluster on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.bringup import bring_up, client_address
from hcefs.cli.cluster_files import LEDGER, ClusterFolder
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import ID_SHOWN, duration_text, note, print_table, show, size_text, verb
from hcefs.cli.processes import Processes
from hcefs.cli.upgrade_steps import next_steps, process_facts
from hcefs.client.ledger import LedgerClient
from hcefs.errors import HcefsError
from hcefs.runtime import SystemRuntime
from hcefs.wire.v1 import admin_pb2

DEFAULT_NODES = 6
STATUS_SECONDS = 5.0
_COLUMNS = (
    "PROCESS",
    "STATE",
    "VERSION",
    "HEIGHT",
    "STATE-HASH",
    "LEASE",
    "EPOCH",
    "SHARDS",
    "BYTES",
    "PENDING",
    "ADDRESS",
)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command("up")(up)
    app.command("status")(status)
    app.command("down")(down)


@verb
def up(
    directory: FolderOption = Path(DEFAULT_FOLDER),
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", help=f"Nodes of a new cluster [{DEFAULT_NODES}].")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Start a cluster on this machine; make it first if the folder is empty."""
    layout = ClusterFolder(directory)
    if not nodes and not layout.exists():
        nodes = DEFAULT_NODES
    asyncio.run(_up(layout, nodes, quiet=as_json))
    connection = layout.load_connection()
    data = {
        "dir": str(layout.root),
        "cluster": connection.cluster.text,
        "ledger": connection.ledger,
        "nodes": list(connection.nodes),
    }

    def human(console: Console) -> None:
        count = len(layout.node_numbers())
        console.print(
            Text(f"cluster {connection.cluster} serves: ledger and {count} nodes"), style="green"
        )
        console.print(Text(f"folder  {layout.root}"))
        if layout.account_names() == sorted(layout.operator_names()):
            console.print(Text("next    hcefs account create hospital --kind institution"))

    show(data, as_json=as_json, human=human)


async def _up(layout: ClusterFolder, nodes: int, *, quiet: bool) -> None:
    runtime = SystemRuntime()
    try:
        await bring_up(layout, nodes, runtime, report=lambda text: note(text, quiet=quiet))
    finally:
        runtime.close()


@verb
def down(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """Stop the cluster's processes; its data stays."""
    layout = folder(directory)
    processes = Processes(layout)
    with layout.locked():
        running = [name for name in layout.process_names() if processes.alive(name)]
        killed = processes.stop_all()

    def human(console: Console) -> None:
        if not running:
            console.print(Text("nothing runs here"))
            return
        console.print(Text(f"stopped {', '.join(running)}"))
        if killed:
            console.print(Text(f"had to be killed: {', '.join(killed)}"), style="yellow")

    show({"stopped": running, "killed": killed}, as_json=as_json, human=human)


# --- status -------------------------------------------------------------------


@dataclass(frozen=True)
class ProcessStatus:
    """What is known of one process; ``answer`` None when it gave none, ``failure`` why."""

    name: str
    address: str
    pid: int | None
    answer: admin_pb2.StatusResponse | None
    failure: HcefsError | None

    @property
    def state(self) -> str:
        """In one word."""
        if self.answer is not None:
            return "up"
        return "stopped" if self.pid is None else "silent"

    def as_data(self) -> dict[str, Any]:
        """As JSON shows it; numbers are None when there was no answer."""
        data: dict[str, Any] = {
            "name": self.name,
            "address": self.address,
            "state": self.state,
            "pid": self.pid,
        }
        answer = self.answer
        if answer is None:
            failure = self.failure
            return data | {"failure": f"{failure.kind}: {failure.reason}" if failure else None}
        return data | {
            "node_id": answer.node_id or None,
            **process_facts(self),
            "height": answer.height,
            "app_hash": answer.app_hash.hex(),
            "lease_age_ms": answer.lease_age_ms,
            "epoch": answer.epoch,
            "shards": answer.shards,
            "shard_bytes": answer.shard_bytes,
            "free_bytes": answer.free_bytes,
            "pending_blobs": answer.pending_blobs,
            "erasure_kernel": answer.erasure_kernel or None,
            "warnings": list(answer.warnings),
        }


@verb
def status(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """Show the ledger and each node: height, lease, shards, warnings."""
    layout = folder(directory)
    found = asyncio.run(gather_status(layout))
    warnings = [
        *all_warnings(found),
        *(f"upgrade: {each}" for each in next_steps(found, tell_silent=False)),
    ]
    data = {
        "cluster": layout.load_connection().cluster.text,
        "processes": [process.as_data() for process in found],
        "warnings": warnings,
    }
    show(data, as_json=as_json, human=lambda console: _print_status(console, found, warnings))


async def gather_status(layout: ClusterFolder) -> list[ProcessStatus]:
    """Ask the ledger and every node at once, as the first operator."""
    runtime = SystemRuntime()
    try:
        keys = layout.load_keys(layout.operator)
        async with LedgerClient(layout.load_connection(), keys, runtime) as client:
            return list(
                await asyncio.gather(
                    *(_ask(layout, name, client) for name in layout.process_names())
                )
            )
    finally:
        runtime.close()


async def _ask(layout: ClusterFolder, name: str, client: LedgerClient) -> ProcessStatus:
    address = client_address(layout, name)
    pid = Processes(layout).pid(name)
    try:
        async with client.runtime.timeout(STATUS_SECONDS):
            return ProcessStatus(name, address, pid, await client.status(address), None)
    except TimeoutError:
        return ProcessStatus(name, address, pid, None, None)
    except HcefsError as error:
        return ProcessStatus(name, address, pid, None, error)


def all_warnings(found: Sequence[ProcessStatus]) -> list[str]:
    """Each warning once, with who gave it; and what only the comparison shows."""
    by_text: dict[str, list[str]] = {}
    hashes: dict[int, set[bytes]] = {}
    for process in found:
        if process.answer is None:
            why = f" ({process.failure.reason})" if process.failure else ""
            text = "stopped" if process.pid is None else f"no answer{why}"
            by_text.setdefault(text, []).append(process.name)
            continue
        for text in process.answer.warnings:
            by_text.setdefault(text, []).append(process.name)
        hashes.setdefault(process.answer.height, set()).add(process.answer.app_hash)
    nodes = [process.name for process in found if process.name != LEDGER]
    lines = [
        f"{'all nodes' if names == nodes and len(names) > 1 else ', '.join(names)}: {text}"
        for text, names in by_text.items()
    ]
    lines += [
        f"DIFFERENT STATES at height {height}: run `hcefs ledger verify`"
        for height, different in hashes.items()
        if len(different) > 1
    ]
    return lines


def _print_status(
    console: Console, found: Sequence[ProcessStatus], warnings: Sequence[str]
) -> None:
    styles = {"up": "green", "stopped": "red", "silent": "yellow"}
    rows: list[list[object]] = []
    for process in found:
        row: list[object] = [process.name, Text(process.state, style=styles[process.state])]
        answer = process.answer
        if answer is None:
            row += ["-"] * 8
        else:
            holds = bool(answer.account)
            row += [
                answer.version,
                answer.height,
                answer.app_hash.hex()[:ID_SHOWN],
                duration_text(answer.lease_age_ms),
                answer.epoch,
                answer.shards if holds else "-",
                size_text(answer.shard_bytes) if holds else "-",
                answer.pending_blobs if holds else "-",
            ]
        rows.append([*row, process.address])
    print_table(
        console,
        _COLUMNS,
        rows,
        right=("HEIGHT", "LEASE", "EPOCH", "SHARDS", "BYTES", "PENDING"),
    )
    for warning in warnings:
        console.print(Text(f"warning: {warning}"), style="yellow")
