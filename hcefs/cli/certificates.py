"""``ca renew``, ``ca rollover`` and ``node renew``: certificates of a cluster that runs.

Files are changed in the operators' folder.  On one machine the processes see that by
themselves; where they have machines of their own, what changed is copied there, and the
verbs wait, and say what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli import ca, node
from hcefs.cli.arrival import WAIT_SECONDS, all_have, shows_its_file
from hcefs.cli.authority import Member, member, members, renew_certificate
from hcefs.cli.cluster_files import LEDGER, ClusterFolder, node_name
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import note, show, time_text, verb
from hcefs.cli.rollover import Rollover
from hcefs.errors import Invalid
from hcefs.runtime import SystemRuntime
from hcefs.transport.tls import validity

rollover = typer.Typer(help="Another authority, without an outage.", no_args_is_help=True)

WaitOption = Annotated[
    float,
    typer.Option("--wait", metavar="SECONDS", min=0.0, max=3600.0, help="How long to wait."),
]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="NAME", help="Not to wait for; may be repeated."),
]


def register() -> None:
    """Importing this module adds the verbs; the call says that it is meant."""


# --- renewing --------------------------------------------------------------------------


@ca.app.command("renew")
@verb
def renew(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROCESS]...", help="ledger, node-1, ...; by default all."),
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="The ledger alone: with another TLS key.")
    ] = False,
    wait: WaitOption = WAIT_SECONDS,
    without: WithoutOption = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Issue new certificates under the same keys, and wait until the processes use them."""
    layout = folder(directory)
    if new_key and names != [LEDGER]:
        raise Invalid(
            "a node's TLS key is named on the ledger and pinned by its peers: renew its "
            "certificate without --new-key, or replace the node (`hcefs node replace`)",
            reason="pinned-key",
        )
    chosen = [member(layout, name) for name in names] if names else members(layout)
    _renew(layout, chosen, wait, without or [], as_json=as_json, new_key=new_key)


@node.app.command("renew")
@verb
def renew_node(
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Which node.")],
    wait: WaitOption = WAIT_SECONDS,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Issue a new certificate for a node under its key, and wait until it uses it."""
    layout = folder(directory)
    _renew(layout, [member(layout, node_name(number))], wait, [], as_json=as_json)


def _renew(
    layout: ClusterFolder,
    chosen: Sequence[Member],
    wait: float,
    without: Sequence[str],
    *,
    as_json: bool,
    new_key: bool = False,
) -> None:
    ends: dict[str, int] = {}

    async def work(runtime: SystemRuntime) -> None:
        for each in chosen:
            made = renew_certificate(layout, each.name, runtime, new_key=new_key)
            ends[each.name] = validity(made).until_ms
            if each.is_elsewhere:
                note(f"copy {each.certificate} to the machine of {each.name}", quiet=as_json)
        await all_have(
            runtime,
            [each for each in chosen if each.name not in without],
            shows_its_file(runtime),
            copied="tls.crt and tls.key" if new_key else "tls.crt",
            # Renewing again would ask for another copy.
            again="hcefs doctor",
            seconds=wait,
        )

    _run(layout, work)

    def human(console: Console) -> None:
        for name, end in ends.items():
            console.print(Text(f"{name} uses its new certificate, until {time_text(end)}"))

    show({"renewed": [{"process": name, "until_ms": ends[name]} for name in ends]},
         as_json=as_json, human=human)  # fmt: skip


# --- another authority -----------------------------------------------------------------


def _add_step(step: Callable[[Rollover], Awaitable[None]], *, does: str, done: str) -> None:
    """Add the verb of one step of a rollover: its help, and what is said after it."""

    def run_step(
        wait: WaitOption = WAIT_SECONDS,
        without: WithoutOption = None,
        directory: FolderOption = Path(DEFAULT_FOLDER),
        as_json: JsonOption = False,
    ) -> None:
        layout = folder(directory)

        async def work(runtime: SystemRuntime) -> None:
            report = lambda text: note(text, quiet=as_json)  # noqa: E731
            await step(Rollover(layout, runtime, report, without or [], wait))

        _run(layout, work)
        show({"done": step.__name__}, as_json=as_json,
             human=lambda console: console.print(Text(done), style="green"))  # fmt: skip

    rollover.command(step.__name__, help=f"{does}  May be repeated.")(verb(run_step))


_add_step(
    Rollover.begin,
    does="Make the new authority, and have every process trust both.",
    done="every process trusts both authorities; give ca/ca.crt to the clients, then: switch",
)
_add_step(
    Rollover.switch,
    does="Give every process a certificate of the new authority.",
    done="every process shows a certificate of the new authority; next: finish",
)
_add_step(
    Rollover.finish,
    does="Have nobody trust the old authority any more, and forget its key.",
    done="the old authority is trusted by no process; give ca/ca.crt to the clients",
)


@rollover.command("status")
@verb
def status(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """Show how far a rollover is."""
    layout = folder(directory)
    runtime = SystemRuntime()
    try:
        stage = Rollover(layout, runtime, lambda _: None).stage()
    finally:
        runtime.close()
    words = {"": "no rollover is under way", "begun": "begun; next: switch",
             "switched": "switched; next: finish"}  # fmt: skip
    show({"stage": stage or "none"}, as_json=as_json,
         human=lambda console: console.print(Text(words[stage])))  # fmt: skip


ca.app.add_typer(rollover, name="rollover")


def _run(layout: ClusterFolder, work: Callable[[SystemRuntime], Awaitable[None]]) -> None:
    async def run() -> None:
        runtime = SystemRuntime()
        try:
            with layout.locked():
                await work(runtime)
        finally:
            runtime.close()

    asyncio.run(run())
