"""``ledger``: the embedded ledger's process, its upgrade, and the verification of a log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli import ledger_recover
from hcefs.cli.bringup import THRESHOLD, upgrade_protocol
from hcefs.cli.cluster_files import LEDGER, ClusterFolder
from hcefs.cli.machines import LEDGER_PORT, Machine, make_ledger
from hcefs.cli.node import PORT_HELP, ConfigOption, ListenOption, MachineOption
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import note, show, verb
from hcefs.cli.processes import Processes
from hcefs.cli.session import client_of, run
from hcefs.cli.upgrade import require_supported
from hcefs.config import load_ledger_config, load_node_config
from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.ledger.cluster_facts import ProtocolStatus
from hcefs.ledger.genesis import Genesis
from hcefs.runtime import SystemRuntime

app = typer.Typer(help="The embedded ledger.", no_args_is_help=True)
ledger_recover.register(app)


@app.command("start")
@verb
def start(
    config: ConfigOption,
    alone: Annotated[
        bool,
        typer.Option(
            "--without-followers",
            help="Write without asking any node what it holds: only when they are gone for good.",
        ),
    ] = False,
) -> None:
    """Run the ledger in the foreground until SIGTERM or SIGINT.

    Before it writes it asks the nodes of its map what they hold, and fetches blocks that
    its log lacks: one that was restored from a backup would sign a second history.
    """
    settings = load_ledger_config(config)
    # The database is loaded by the process that needs it, not by every command.
    from hcefs.node.ledger_process import run

    asyncio.run(run(settings, alone=alone))


@app.command("init")
@verb
def init(
    machine: MachineOption,
    port: Annotated[int, typer.Option("--port", metavar="N", help=PORT_HELP)] = LEDGER_PORT,
    listen: ListenOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Make the folder of the ledger's machine: copy it there whole, and start it there."""
    runtime = SystemRuntime()
    try:
        made = make_ledger(ClusterFolder(directory), Machine(machine, port, listen), runtime)
    finally:
        runtime.close()

    def human(console: Console) -> None:
        console.print(Text(f"made    {made}"))
        console.print(Text("next    hcefs node init --machine HOST, for each node"))

    show({"folder": str(made), "machine": machine}, as_json=as_json, human=human)


@app.command("upgrade")
@verb
def upgrade(
    to: Annotated[
        int, typer.Option("--to", metavar="VERSION", help="Protocol version to upgrade to.")
    ],
    at: Annotated[
        int | None,
        typer.Option(
            "--at",
            metavar="HEIGHT",
            help="First block that follows it; by default the next block but one.",
        ),
    ] = None,
    despite: Annotated[
        list[int] | None,
        typer.Option(
            "--despite",
            metavar="NODE",
            help="Do not ask this node whether it knows the rules; may be repeated.",
        ),
    ] = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Have the whole cluster follow newer rules, signed by the operators of this folder.

    Every node that is to serve is asked whether it knows them: one that does not would stop
    at that block, until it is upgraded.  There is no way back to older rules.
    """
    status = run(_upgrade(folder(directory), to, at, frozenset(despite or ())))

    def human(console: Console) -> None:
        if status.next_version:
            what = f"version {status.next_version} from block {status.next_height} on"
            console.print(Text(f"the ledger follows protocol {what}"), style="green")
            console.print(Text(f"it is at block {status.height}; blocks come with transactions"))
        else:
            what = f"the ledger follows protocol version {status.version}"
            console.print(Text(what), style="green")

    facts = {
        "version": status.version,
        "height": status.height,
        "next_version": status.next_version,
        "next_height": status.next_height,
    }
    show(facts, as_json=as_json, human=human)


async def _upgrade(
    layout: ClusterFolder, to: int, at: int | None, despite: frozenset[int]
) -> ProtocolStatus:
    operators = [layout.load_keys(name) for name in layout.operators(THRESHOLD)]
    async with client_of(layout, layout.operator) as client:
        await require_supported(client, to, despite)
        return await upgrade_protocol(client, operators, to, at)


@app.command("verify")
@verb
def verify(
    directory: FolderOption = Path(DEFAULT_FOLDER),
    process: Annotated[
        str,
        typer.Option(
            "--process", metavar="NAME", help="Whose copy of the ledger: ledger, node-1, node-2..."
        ),
    ] = LEDGER,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="Instead: configuration of a ledger or a node."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay the ledger from its genesis and compare everything; needs no key.

    The process whose copy it is must be stopped: a database has one reader at a time.
    """
    if config is None:
        layout = folder(directory)
        config = layout.config_of(process)
        if Processes(layout).alive(process):
            raise Conflict(
                f"{process} runs and holds its log: stop it first (`hcefs down`), or verify the "
                "copy of a stopped node with --process",
                reason="log-in-use",
            )
    data, genesis_file = _log_of(config)
    if not data.is_dir():
        raise NotFound(f"there is no ledger log in {data}", reason="no-log")
    try:
        genesis = Genesis.decode(genesis_file.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"there is no genesis file {genesis_file}", reason="no-genesis") from None
    height, state_hash, version, base = _replay(data, genesis, quiet=as_json)

    def human(console: Console) -> None:
        console.print(
            Text(f"{height} blocks replay from the genesis of {genesis.cluster}: all is as signed")
            if not base
            else Text(
                f"blocks {base + 1} to {height} of {genesis.cluster} are as signed, from the "
                f"snapshot of block {base} on; what was before it is not in this replica, and "
                "rests on the writer's signature under the snapshot's root"
            ),
            style="green",
        )
        console.print(Text(f"state   {state_hash}"))
        console.print(Text(f"rules   protocol version {version}"))

    facts = {
        "verified": True,
        "cluster": genesis.cluster.text,
        "height": height,
        "snapshot_height": base,
        "app_hash": state_hash,
        "protocol_version": version,
    }
    show(facts, as_json=as_json, human=human)


def _log_of(config: Path) -> tuple[Path, Path]:
    """Log folder and genesis of a configuration, a ledger's or a node's."""
    try:
        ledger = load_ledger_config(config)
    except Invalid as error:
        try:
            node = load_node_config(config)
        except Invalid:
            raise error from None
        return node.data / "ledger", node.genesis
    return ledger.data, ledger.genesis


def _replay(data: Path, genesis: Genesis, *, quiet: bool) -> tuple[int, str, int, int]:
    from hcefs.ledger.log import LedgerLog  # loads the database; see start()
    from hcefs.ledger.machine import protocol_at

    log = LedgerLog.open(data, genesis)
    try:
        note(f"replaying {log.height} blocks", quiet=quiet)
        height, version = log.verify_chain(), protocol_at(log, log.height + 1)
        return height, log.app_hash.hex(), version, log.base_height
    finally:
        log.close()
