"""``node start``: a storage node's own process; the verbs about nodes join it in its group."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from hcefs.cli.output import verb
from hcefs.config import load_node_config

app = typer.Typer(
    help="Storage nodes: their process, and their part in the cluster.", no_args_is_help=True
)

ConfigOption = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The process's configuration.")
]

MachineOption = Annotated[
    str,
    typer.Option("--machine", metavar="HOST", help="How others reach it: DNS name or IP address."),
]
ListenOption = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        help="Where it listens; by default its IP address, or everywhere if it has a name.",
    ),
]
PORT_HELP = "The client port; the peer and the metrics port are the next two."


@app.callback()
def group() -> None:
    """Storage nodes: their process, and their part in the cluster."""


@app.command("start")
@verb
def start(config: ConfigOption) -> None:
    """Run a storage node in the foreground until SIGTERM or SIGINT."""
    settings = load_node_config(config)
    # Databases and kernels are loaded by the process that needs them, not by every command.
    from hcefs.node.storage_process import run

    asyncio.run(run(settings))
