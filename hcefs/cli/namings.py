"""``emergency``, before it: whom a patient names, whom it refuses, and delivering the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.emergency import EmergencyNaming
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.emergency import RecordsArgument, app, record_ids
from hcefs.cli.options import DEFAULT_FOLDER, AsOption, FolderOption, JsonOption, folder
from hcefs.cli.output import print_table, show, verb
from hcefs.cli.session import Names, client_of, run
from hcefs.client.ledger import Submitted
from hcefs.errors import NotFound
from hcefs.ids import GrantId


def register() -> None:
    """Importing this module adds the verbs; the call says that it is meant."""


@app.command("name")
@verb
def name(
    records: RecordsArgument,
    account: AsOption,
    to: Annotated[
        list[str],
        typer.Option("--to", metavar="ACCOUNT", help="Practitioner or institution; repeatable."),
    ],
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Say, as their owner, who may open records in an emergency; delivers the sealed keys."""
    layout = folder(directory)
    wanted, grantees = record_ids(records), [layout.account_id(each) for each in to]

    async def work() -> list[EmergencyNaming]:
        async with client_of(layout, account) as client:
            return await client.name_emergency(wanted, grantees)

    found = run(work())
    _show_namings(layout, found, as_json=as_json)


@app.command("named")
@verb
def named(
    account: AsOption,
    patient: Annotated[
        str, typer.Argument(metavar="[PATIENT]", help="Whose records; by default one's own.")
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """List who is named; of another patient, what names this account or its institution."""
    layout = folder(directory)
    owner = layout.account_id(patient) if patient else None

    async def work() -> list[EmergencyNaming]:
        async with client_of(layout, account) as client:
            return await client.namings(owner)

    _show_namings(layout, run(work()), as_json=as_json)


@app.command("deliver")
@verb
def deliver(
    account: AsOption,
    namings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAMING...]", help="Ids (grt-...); by default all of one's own."),
    ] = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Deliver the sealed keys of namings again, where that failed or keys have changed.

    A box that the nodes have already stays as it is.
    """
    layout = folder(directory)
    wanted = {GrantId.parse(each) for each in namings or []}

    async def work() -> list[EmergencyNaming]:
        async with client_of(layout, account) as client:
            own = await client.namings()
            unknown = wanted - {each.naming for each in own}
            if unknown:
                raise NotFound(
                    f"{min(unknown, key=bytes)} is no naming of this account that stands: list "
                    "them with `hcefs emergency named`",
                    reason="no-such-naming",
                )
            chosen = [each for each in own if not wanted or each.naming in wanted]
            for each in chosen:
                await client.deliver_naming(each)
            return chosen

    _show_namings(layout, run(work()), as_json=as_json)


@app.command("unname")
@verb
def unname(
    namings: Annotated[list[str], typer.Argument(metavar="NAMING...", help="Ids (grt-...).")],
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """End namings, and what is open under them."""
    layout = folder(directory)
    ended = [GrantId.parse(each) for each in namings]

    async def work() -> Submitted:
        async with client_of(layout, account) as client:
            return await client.end_namings(ended)

    _show_done(run(work()), "ended", {"namings": [each.text for each in ended]}, as_json=as_json)


@app.command("refuse")
@verb
def refuse(
    records: RecordsArgument,
    account: AsOption,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take an earlier refusal back.")
    ] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Refuse, as their owner, that anybody opens records in an emergency."""
    layout, wanted = folder(directory), record_ids(records)

    async def work() -> Submitted:
        async with client_of(layout, account) as client:
            return await client.refuse_emergency(wanted, refuse=not withdraw)

    what = "withdrawn" if withdraw else "refused"
    facts = {"records": [each.text for each in wanted], "refused": not withdraw}
    _show_done(run(work()), what, facts, as_json=as_json)


def _show_done(done: Submitted, what: str, facts: dict[str, Any], *, as_json: bool) -> None:
    def human(console: Console) -> None:
        console.print(Text(f"{what} at height {done.height}"), style="green")

    show({**facts, "height": done.height, "time_ms": done.time_ms}, as_json=as_json, human=human)


def _show_namings(layout: ClusterFolder, found: list[EmergencyNaming], *, as_json: bool) -> None:
    names = Names(layout)

    def human(console: Console) -> None:
        rows = [[each.naming, each.record, names.of(each.grantee)] for each in found]
        print_table(console, ("NAMING", "RECORD", "NAMED"), rows, empty="nobody is named")

    data = [
        {
            "naming": each.naming.text,
            "record": each.record.text,
            "owner": each.owner.text,
            "grantee": each.grantee.text,
            "height": each.height,
        }
        for each in found
    ]
    show(data, as_json=as_json, human=human)
