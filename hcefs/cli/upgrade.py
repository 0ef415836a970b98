"""``upgrade check``: which software each process runs, and what the next step of an upgrade is.

Owns the barrier before a newer protocol of the ledger: :func:`require_supported` asks every node
that the map has serve, over TLS, what it knows.  A node that has not said that it knows the
protocol would stop at its first block.

Not guaranteed: that a node which was asked is not set back to older software afterwards; it
then refuses its folder, or stops at the block.
Source: docs/decisions/0041-upgrades.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.cluster import STATUS_SECONDS, ProcessStatus, gather_status
from hcefs.cli.cluster_files import LEDGER
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import print_table, show, verb
from hcefs.cli.upgrade_steps import next_steps, process_facts
from hcefs.client.ledger import LedgerClient
from hcefs.errors import Conflict, HcefsError
from hcefs.placement.automatic import LIVE
from hcefs.placement.cluster_map import Node
from hcefs.transport.versions import versions_in
from hcefs.versions import GUIDE, PROTOCOL_OF_SHARD_FORMAT_2, Versions, named

app = typer.Typer(help="Upgrades of a running cluster.", no_args_is_help=True)
_COLUMNS = ("PROCESS", "STATE", "VERSION", "PROTOCOLS", "FOLLOWS", "READS SHARDS", "WRITES")


@app.command("check")
@verb
def check(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """Show what each process runs and knows, and what the next step of an upgrade is.

    Ends with 1 while a process is silent, or an upgrade is not finished.
    """
    found = asyncio.run(gather_status(folder(directory)))
    steps = next_steps(found)
    rows = {process.name: process_facts(process) for process in found}

    def human(console: Console) -> None:
        lines = [_row(process, rows[process.name]) for process in found]
        print_table(console, _COLUMNS, lines)
        for step in steps:
            console.print(Text(f"next    {step}"), style="yellow")
        if not steps:
            console.print(Text("nothing is left to do"), style="green")

    show({"processes": rows, "next": steps}, as_json=as_json, human=human)
    if steps:
        raise typer.Exit(1)


def _row(process: ProcessStatus, facts: Mapping[str, object]) -> list[object]:
    if process.answer is None:
        return [process.name, process.state, *["-"] * 5]
    return [
        process.name,
        process.state,
        facts["version"],
        f"{facts['protocol_oldest']}-{facts['protocol_newest']}",
        facts["protocol"] or "-",
        "-" if process.name == LEDGER else f"{facts['shard_oldest']}-{facts['shard_newest']}",
        facts["shard_version"] or "-",
    ]


async def require_supported(client: LedgerClient, version: int, despite: Collection[int]) -> None:
    """Refuse a newer protocol while a node that is to serve has not said that it knows it.

    Every release knows the protocols before ``PROTOCOL_OF_SHARD_FORMAT_2``.  Nodes in ``despite``
    are not asked: they stop at the first block of that protocol until they are upgraded.

    Raises:
        Conflict: ``not-upgraded``: which nodes, and what to do.
    """
    if version < PROTOCOL_OF_SHARD_FORMAT_2:
        return
    current = await client.cluster_map()
    nodes = [node for node in current.nodes if node.state in LIVE and node.node_id not in despite]
    found = await asyncio.gather(*(_versions(client, node) for node in nodes))
    refuse_unready(dict(zip((node.node_id for node in nodes), found, strict=True)), version)


def refuse_unready(said: Mapping[int, Versions | None], version: int) -> None:
    """Decide by what nodes said of themselves; None of one that gave no answer.

    Raises:
        Conflict: ``not-upgraded``.
    """
    silent = [number for number, found in said.items() if found is None]
    old = {
        number: found.software
        for number, found in said.items()
        if found is not None and version not in found.protocols
    }
    parts: list[str] = []
    for software in sorted(set(old.values())):
        those = [number for number, each in old.items() if each == software]
        parts.append(f"{named(those)} run {software}, which does not know it")
    if silent:
        parts.append(f"{named(silent)} did not answer")
    if parts:
        raise Conflict(
            f"the ledger is not upgraded to protocol version {version}: {'; '.join(parts)}. "
            "Upgrade or start them first, or name each with --despite: it then stops at the "
            f"first block of the new rules; see {GUIDE}",
            reason="not-upgraded",
        )


async def _versions(client: LedgerClient, node: Node) -> Versions | None:
    try:
        async with client.runtime.timeout(STATUS_SECONDS):
            return versions_in(await client.status(node.address))
    except (TimeoutError, HcefsError):
        return None
