"""``ca init`` and ``found``: a cluster on machines of their own, first and last step."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.bringup import OPERATORS, THRESHOLD, found, prepare_authority
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import note, show, verb
from hcefs.runtime import SystemRuntime

app = typer.Typer(
    help="The authority of a cluster on several machines: TLS, genesis, operators.",
    no_args_is_help=True,
)


@app.callback()
def group() -> None:
    """The authority of a cluster on several machines: TLS, genesis, operators."""


def add_to(root: typer.Typer) -> None:
    """Register the verb that is nobody's group."""
    root.command("found")(found_cluster)


@app.command("init")
@verb
def init(
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of the cluster, for people.")
    ] = "hcefs",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Make the authority, the genesis and the operators' keys, in an empty folder.

    The folder stays with the operators; no machine of the cluster needs it.
    """
    layout, runtime = ClusterFolder(directory), SystemRuntime()
    try:
        cluster = prepare_authority(layout, runtime, name=name)
    finally:
        runtime.close()
    data = {
        "dir": str(layout.root),
        "cluster": cluster.text,
        "operators": list(OPERATORS),
        "threshold": THRESHOLD,
    }

    def human(console: Console) -> None:
        console.print(Text(f"cluster {cluster} has its authority and {len(OPERATORS)} operators"))
        console.print(Text(f"folder  {layout.root}: it holds secrets, keep it where operators are"))
        console.print(Text("next    hcefs ledger init --machine HOST"))

    show(data, as_json=as_json, human=human)


@verb
def found_cluster(
    directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False
) -> None:
    """Register the nodes of a new cluster and set its first map; their machines run them.

    May be repeated, and goes on where it was.
    """
    layout = folder(directory)

    async def work() -> None:
        runtime = SystemRuntime()
        try:
            await found(layout, runtime, report=lambda text: note(text, quiet=as_json))
        finally:
            runtime.close()

    asyncio.run(work())
    connection = layout.load_connection()
    data = {
        "cluster": connection.cluster.text,
        "ledger": connection.ledger,
        "nodes": list(connection.nodes),
    }

    def human(console: Console) -> None:
        text = f"cluster {connection.cluster} serves: ledger and {len(connection.nodes)} nodes"
        console.print(Text(text), style="green")

    show(data, as_json=as_json, human=human)
