"""``node add|drain|replace|remove|reweight|out|list``: changes of a cluster's nodes, staged.

Nothing moves here: a change is kept until ``hcefs layout apply``.  ``add`` and ``replace``
make and start the processes of new nodes, which have no part in anything until then.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hcefs.cli.bringup import THRESHOLD
from hcefs.cli.cluster_files import LEDGER, ClusterFolder, node_name
from hcefs.cli.machines import NODE_PORT, Machine, make_machine
from hcefs.cli.new_node import (
    PORTS_PER_PROCESS,
    WEIGHT,
    ZONES,
    Ports,
    make_node,
    map_node,
    register_node,
)
from hcefs.cli.node import PORT_HELP, ListenOption, app
from hcefs.cli.operators import (
    label,
    load_stage,
    node_id_of,
    operators_of,
    run,
    show_stage,
    stage,
)
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import note, print_table, show, size_text, verb
from hcefs.cli.place import load_place
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.cli.processes import Processes
from hcefs.client.layout import LayoutClient
from hcefs.config import load_ledger_config
from hcefs.errors import Conflict, HcefsError, Invalid, NotFound, Unavailable
from hcefs.ids import AccountId
from hcefs.placement.changes import next_node_id, seats_of
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.staging import Change, Stage, Verb
from hcefs.runtime import SystemRuntime

_ANY_ACCOUNT = AccountId(b"\xff" * AccountId.SIZE)
"""Stands for that of a node which is yet to be made."""

FOLLOW_SECONDS = 60.0
POLL_SECONDS = 0.1
COUNT_MAX = 64

NodeArgument = Annotated[
    str, typer.Argument(metavar="NODE", help="A node: its number, name or account.")
]
ZoneOption = Annotated[str, typer.Option("--zone", metavar="NAME", help="Zone of the new node.")]
RackOption = Annotated[str, typer.Option("--rack", metavar="NAME", help="Rack in its zone.")]
HostOption = Annotated[
    str, typer.Option("--host", metavar="NAME", help="Host label; by default one of its own.")
]
WeightOption = Annotated[
    int, typer.Option("--weight", metavar="N", help="Capacity beside the others'.")
]


def register() -> None:
    """Importing this module adds the verbs; the call says that it is meant."""


@app.command("list")
@verb
def list_nodes(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """Show the nodes of the map: place, weight, state, seats, and what they hold."""
    layout = folder(directory)
    rows = run(_list(layout))

    def human(console: Console) -> None:
        shown = [
            [
                row["node_id"], row["state"], row["place"], row["weight"], row["seats"],
                size_text(row["bytes"]) if row["bytes"] is not None else "-",
                row["address"],
            ]
            for row in rows
        ]  # fmt: skip
        columns = ("NODE", "STATE", "PLACE", "WEIGHT", "SEATS", "BYTES", "ADDRESS")
        print_table(console, columns, shown, right=("NODE", "WEIGHT", "SEATS", "BYTES"))

    show({"nodes": rows}, as_json=as_json, human=human)


async def _list(layout: ClusterFolder) -> list[dict[str, Any]]:
    async with operators_of(layout) as operators:
        current = await operators.current()
        statuses = await operators.statuses(current)
    found = []
    for node in current.nodes:
        status = statuses.get(node.node_id)
        found.append(
            {
                "node_id": node.node_id,
                "state": node.state.name.lower(),
                "place": label(node),
                "weight": node.weight,
                "seats": seats_of(current, node.node_id),
                "bytes": status.shard_bytes if status is not None else None,
                "answers": status is not None,
                "account": node.account.text,
                "address": node.address,
            }
        )
    return found


@app.command("init")
@verb
def init(
    machine: Annotated[
        list[str],
        typer.Option(
            "--machine",
            metavar="HOST",
            help="How others reach it: DNS name or IP address; may be repeated.",
        ),
    ],
    port: Annotated[int, typer.Option("--port", metavar="N", help=PORT_HELP)] = NODE_PORT,
    listen: ListenOption = "",
    zone: ZoneOption = "",
    rack: RackOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Make folders of nodes on machines of their own: copy each to its machine, whole.

    Without --zone they are in three zones in turn.
    """
    layout, runtime = folder(directory), SystemRuntime()
    try:
        with layout.locked():
            made = [
                make_machine(layout, Machine(each, port, listen), runtime, zone=zone, rack=rack)
                for each in machine
            ]
    finally:
        runtime.close()
    data = [
        {"node": number, "folder": str(path), "machine": each}
        for (number, path), each in zip(made, machine, strict=True)
    ]

    def human(console: Console) -> None:
        for each in data:
            console.print(f"made    {each['folder']} for {each['machine']}")
        console.print("next    copy each to its machine, start them, then: hcefs found")

    show({"nodes": data}, as_json=as_json, human=human)


@app.command("add")
@verb
def add(
    zone: ZoneOption = "",
    rack: RackOption = "",
    host: HostOption = "",
    weight: WeightOption = WEIGHT,
    count: Annotated[
        int, typer.Option("--count", metavar="N", help="Nodes to add, in zones in turn.")
    ] = 1,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Make and start new nodes, and stage that they join."""
    if not 1 <= count <= COUNT_MAX:
        raise Invalid(f"add 1 to {COUNT_MAX} nodes at once, not {count}", reason="bad-count")
    if count > 1 and host:
        raise Invalid("several nodes cannot be one host: leave --host out", reason="bad-host")
    layout = folder(directory)
    staged = None
    for _ in range(count):
        staged = run(_add(layout, "", zone, rack, host, weight, quiet=as_json))
    if staged is not None:
        show_stage(staged, as_json=as_json)


@app.command("replace")
@verb
def replace_one(
    node: NodeArgument,
    host: HostOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Make a new node with another's zone, rack and weight, and stage that it takes its place."""
    layout = folder(directory)
    show_stage(run(_add(layout, node, "", "", host, 0, quiet=as_json)), as_json=as_json)


@app.command("drain")
@verb
def drain(
    node: NodeArgument,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Keep it: it is no longer to be emptied.")
    ] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Stage that a node is emptied; it serves until its seats have moved."""
    _stage(directory, node, Verb.KEEP if cancel else Verb.DRAIN, as_json=as_json)


@app.command("reweight")
@verb
def reweight(
    node: NodeArgument,
    weight: Annotated[int, typer.Argument(metavar="WEIGHT", help="The new weight.")],
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Stage another weight for a node."""
    _stage(directory, node, Verb.REWEIGHT, weight=weight, as_json=as_json)


@app.command("out")
@verb
def out(
    node: NodeArgument,
    lost: Annotated[
        bool, typer.Option("--lost", help="Confirm: its disk is gone, or must be given up.")
    ] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Stage that a node is given up for good: its seats are rebuilt from the others."""
    if not lost:
        raise Invalid(
            "a node that is given up never comes back under its number; drain it if it still "
            "works, or confirm with --lost",
            reason="not-confirmed",
        )
    _stage(directory, node, Verb.OUT, as_json=as_json)


@app.command("remove")
@verb
def remove(
    node: NodeArgument,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Stage that an emptied node leaves the map for good."""
    _stage(directory, node, Verb.REMOVE, as_json=as_json)


def _stage(directory: Path, text: str, what: Verb, *, as_json: bool, weight: int = 0) -> None:
    layout = folder(directory)

    async def work() -> Stage:
        async with operators_of(layout) as operators:
            node_id = node_id_of(await operators.current(), text)
            return await stage(layout, operators, Change(what, node_id, weight=weight))

    show_stage(run(work()), as_json=as_json)


# --- new nodes --------------------------------------------------------------------


async def _add(
    layout: ClusterFolder,
    replaced: str,
    zone: str,
    rack: str,
    host: str,
    weight: int,
    *,
    quiet: bool,
) -> Stage:
    """Make a node, or take up one that was made and is not used, and stage it."""
    with layout.locked():
        async with operators_of(layout) as operators:
            current = await operators.current()
            staged = load_stage(layout, current)
            old = current.node(node_id_of(current, replaced)) if replaced else None
            number = _next_number(layout, current, staged)
            place = load_place(layout.node(number))
            if old is not None:
                zone, rack, weight = old.zone, old.rack, old.weight
            elif place is not None:
                zone, rack = zone or place.zone, rack or place.rack
            if place is not None:
                host = host or place.host
            planned = Node(
                number, _ANY_ACCOUNT, "-", "-", zone or ZONES[(number - 1) % len(ZONES)], rack,
                host or f"host-{number}", weight, NodeState.JOINING,
            )  # fmt: skip
            planned.check()
            # What cannot be meant is refused before anything is made.
            await _try(operators, current, staged, planned, old)
            await _make(layout, number, operators, quiet=quiet)
            made = map_node(layout, number)
            new = replace(
                planned,
                account=made.account, address=made.address, peer_address=made.peer_address,
            )  # fmt: skip
            change = _change(new, old)
            return await stage(layout, operators, change)


def _change(new: Node, old: Node | None) -> Change:
    return Change(Verb.ADD, 0, new) if old is None else Change(Verb.REPLACE, old.node_id, new)


async def _try(
    operators: LayoutClient, current: ClusterMap, staged: Stage, planned: Node, old: Node | None
) -> None:
    changes = staged.rebased(current).with_change(_change(planned, old)).changes
    await operators.outlook(current, changes, weaker_caps=True)


def _next_number(layout: ClusterFolder, current: ClusterMap, staged: Stage) -> int:
    """The first number that neither the map nor the stage has: perhaps of a node made before."""
    used = {node.node_id for node in current.nodes}
    used |= {change.new.node_id for change in staged.changes if change.new is not None}
    number = next_node_id(current)
    while number in used:
        number += 1
    return number


async def _make(
    layout: ClusterFolder, number: int, operators: LayoutClient, *, quiet: bool
) -> None:
    """Files, account and process of a node, as far as they are missing.

    Raises:
        NotFound: it is to have a machine of its own and has no folder yet.
    """
    if load_place(layout.ledger) is not None and load_place(layout.node(number)) is None:
        raise NotFound(
            f"node {number} has no folder yet: `hcefs node init --machine HOST`, copy it to its "
            "machine, start it there, then repeat this",
            reason="no-machine",
        )
    name, runtime = node_name(number), operators.client.runtime
    if not layout.config_of(name).is_file():
        note(f"making keys and a certificate for {name}", quiet=quiet)
        ledger = load_ledger_config(layout.config_of(LEDGER)).peer_address
        with reserved_ports(PORTS_PER_PROCESS, runtime.random) as ports:
            addresses = [f"{HOST}:{port}" for port in ports]
            cluster = layout.load_connection().cluster
            make_node(layout, number, Ports(*addresses), cluster, ledger, runtime)
    note(f"registering {name} on the ledger", quiet=quiet)
    others = [layout.load_keys(each) for each in layout.operators(THRESHOLD)[1:]]
    with contextlib.suppress(Conflict):  # it is registered already
        await register_node(layout, number, operators.client, others)
    processes = Processes(layout)
    if load_place(layout.node(number)) is None and not processes.alive(name):
        note(f"starting {name}", quiet=quiet)
        processes.start_node(number)
    await _follows(layout, number, operators)


async def _follows(layout: ClusterFolder, number: int, operators: LayoutClient) -> None:
    """Wait until a node that the map does not name yet has the ledger.

    Raises:
        Unavailable: its process ended, or it does not follow in time.
    """
    runtime, processes = operators.client.runtime, Processes(layout)
    is_here = load_place(layout.node(number)) is None
    address = map_node(layout, number).address
    height = (await operators.client.protocol_version()).height
    until = runtime.monotonic() + FOLLOW_SECONDS
    while runtime.monotonic() < until:
        if is_here and not processes.alive(node_name(number)):
            break
        try:
            if (await operators.client.status(address)).height >= height:
                return
        except HcefsError as error:
            if isinstance(error, (Invalid, NotFound)):
                raise
        await runtime.sleep(POLL_SECONDS)
    raise Unavailable(
        f"{node_name(number)} does not follow the ledger: its log is "
        f"{layout.log_of(node_name(number))}",
        reason="not-following",
    )
