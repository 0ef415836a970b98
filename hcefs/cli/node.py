"""``node``: a storage node's own process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from hcefs.cli.output import verb
from hcefs.config import load_node_config

app = typer.Typer(help="A storage node's process.", no_args_is_help=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The process's configuration.")
]


@app.callback()
def group() -> None:
    """A storage node's process."""


@app.command("start")
@verb
def start(config: ConfigOption) -> None:
    """Run a storage node in the foreground until SIGTERM or SIGINT."""
    settings = load_node_config(config)
    # Databases and kernels are loaded by the process that needs them, not by every command.
    from hcefs.node.storage_process import run

    asyncio.run(run(settings))
