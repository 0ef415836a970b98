"""``request``: ask for access, and answer who asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.facts import Action, Grant
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import (
    DEFAULT_FOLDER,
    AsOption,
    CeilingOption,
    ExcludeOption,
    FolderOption,
    JsonOption,
    action_names,
    folder,
    parse_actions,
    parse_ceiling,
    parse_purposes,
    parse_sensitivities,
    parse_until,
)
from hcefs.cli.output import print_table, remaining_text, show, verb
from hcefs.cli.session import Names, client_of, run
from hcefs.client.classes import Choice
from hcefs.errors import Invalid
from hcefs.formats.record_class import Confidentiality
from hcefs.ids import AccountId, AskId, RecordId
from hcefs.ledger.request_facts import AskedAccess, RefusalCode
from hcefs.runtime import SystemRuntime

app = typer.Typer(help="Requests for access: ask, approve, refuse.", no_args_is_help=True)

AskArgument = Annotated[str, typer.Argument(metavar="REQUEST", help="Id (ask-...).")]
CODES = {
    code.name.lower().replace("_", "-"): code
    for code in RefusalCode
    if code not in (RefusalCode.NONE, RefusalCode.WITHDRAWN)
}


@app.command("make")
@verb
def make(
    account: AsOption,
    patient: Annotated[
        str, typer.Option("--patient", metavar="ACCOUNT", help="Who is asked: name or acc-...")
    ],
    record: Annotated[
        str, typer.Option("--record", metavar="RECORD", help="Only this record; by default all.")
    ] = "",
    actions: Annotated[
        str, typer.Option("--actions", help="Of read, append, share; joined by commas.")
    ] = "read",
    purpose: Annotated[
        str, typer.Option("--purpose", help="Purposes of use; joined by commas.")
    ] = "TREAT",
    until: Annotated[
        str, typer.Option("--until", help="Latest end of the access: a duration or an ISO time.")
    ] = "7d",
    expires: Annotated[
        str, typer.Option("--expires", help="End of the request itself; by default a week.")
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Ask a patient for access to one record, or to all."""
    layout = folder(directory)
    now = SystemRuntime().now_ms()
    wish = _Wish(
        layout.account_id(patient),
        RecordId.parse(record) if record else None,
        parse_actions(actions),
        parse_purposes(purpose),
        parse_until(until, now),
        parse_until(expires, now) if expires else None,
    )
    asked = run(_make(layout, account, wish))

    def human(console: Console) -> None:
        console.print(Text(asked.ask.text, style="green"))

    show(_as_data(asked), as_json=as_json, human=human)


@dataclass(frozen=True)
class _Wish:
    """What is asked for, all texts read."""

    patient: AccountId
    record: RecordId | None
    actions: Action
    purposes: tuple[str, ...]
    not_after_ms: int
    expires_ms: int | None


async def _make(layout: ClusterFolder, account: str, wish: _Wish) -> AskedAccess:
    async with client_of(layout, account) as client:
        return await client.request_access(
            wish.patient,
            wish.actions,
            wish.purposes,
            record=wish.record,
            not_after_ms=wish.not_after_ms,
            expires_ms=wish.expires_ms,
        )


@app.command("list")
@verb
def list_(
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """List the requests that an account made, and open ones that it is to answer."""
    layout = folder(directory)
    found = run(_list(layout, account))
    now = SystemRuntime().now_ms()
    names = Names(layout)

    def human(console: Console) -> None:
        rows = [
            [
                asked.ask,
                state_of(asked),
                names.of(asked.requester),
                names.of(asked.patient),
                ",".join(action_names(asked.actions)),
                ",".join(asked.purposes),
                remaining_text(asked.expires_ms, now),
                asked.record or "all records",
            ]
            for asked in found
        ]
        columns = (
            "REQUEST", "STATE", "BY", "TO", "ACTIONS", "PURPOSES", "EXPIRES", "ON",
        )  # fmt: skip
        print_table(console, columns, rows, empty="no requests")

    show([_as_data(asked) for asked in found], as_json=as_json, human=human)


async def _list(layout: ClusterFolder, account: str) -> list[AskedAccess]:
    async with client_of(layout, account) as client:
        return await client.requests()


@app.command("approve")
@verb
def approve(
    ask: AskArgument,
    account: AsOption,
    record: Annotated[
        list[str] | None,
        typer.Option("--record", metavar="RECORD", help="Of a request for all: this one; repeat."),
    ] = None,
    ceiling: CeilingOption = "",
    exclude: ExcludeOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Give what a request asks for, and nothing more.

    A request for all records needs either the records or a ceiling
    (--max-confidentiality), by which they are chosen.
    """
    layout = folder(directory)
    named = tuple(RecordId.parse(text) for text in record or ())
    if named and (ceiling or exclude):
        raise Invalid("name records or give a ceiling, not both", reason="bad-choice")
    if exclude and not ceiling:
        raise Invalid("--exclude goes with --max-confidentiality", reason="bad-choice")
    limits = (parse_ceiling(ceiling), parse_sensitivities(exclude)) if ceiling else None
    given, choice = run(_approve(layout, account, AskId.parse(ask), named, limits))

    def human(console: Console) -> None:
        for grant in given:
            console.print(Text(f"{grant.grant} on {grant.record}", style="green"))
        for left in choice.left_out:
            console.print(Text(f"{left.record} left out: {left.reason}", style="yellow"))

    data = {
        "request": ask,
        "grants": [{"grant": grant.grant.text, "record": grant.record.text} for grant in given],
        "left_out": [
            {"record": left.record.text, "reason": left.reason} for left in choice.left_out
        ],
    }
    show(data, as_json=as_json, human=human)


async def _approve(
    layout: ClusterFolder,
    account: str,
    ask: AskId,
    named: tuple[RecordId, ...],
    limits: tuple[Confidentiality, tuple[str, ...]] | None,
) -> tuple[list[Grant], Choice]:
    async with client_of(layout, account) as client:
        asked = await client.access_request(ask)
        choice = Choice(named, ())
        if limits is not None:
            choice = await client.choose_records(*limits)
            if asked.record is not None:
                choice = Choice(
                    tuple(each for each in choice.records if each == asked.record),
                    tuple(each for each in choice.left_out if each.record == asked.record),
                )
        elif asked.record is not None and not named:
            choice = Choice((asked.record,), ())
        if limits is not None and not choice.records:
            # Nothing fits: that is no approval, and the request stays open.
            return [], choice
        return await client.approve(ask, records=choice.records), choice


@app.command("refuse")
@verb
def refuse(
    ask: AskArgument,
    account: AsOption,
    reason: Annotated[
        str, typer.Option("--reason", help="One of " + ", ".join(CODES) + ".")
    ] = "unspecified",
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take back a request that this account made.")
    ] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Refuse a request, as the patient; or take one back, as who made it."""
    layout = folder(directory)
    if reason not in CODES:
        raise Invalid(
            f"{reason[:80]!r} is no reason: use {', '.join(CODES)}", reason="unknown-reason"
        )
    code = RefusalCode.WITHDRAWN if withdraw else CODES[reason]
    named = AskId.parse(ask)
    height = run(_refuse(layout, account, named, code))

    def human(console: Console) -> None:
        console.print(Text(f"{named} is answered at height {height}"))

    data = {"request": named.text, "refusal": code.name, "height": height}
    show(data, as_json=as_json, human=human)


async def _refuse(layout: ClusterFolder, account: str, ask: AskId, code: RefusalCode) -> int:
    async with client_of(layout, account) as client:
        return (await client.refuse(ask, code)).height


def state_of(asked: AskedAccess) -> str:
    """In one word."""
    if not asked.answered_height:
        return "open"
    return "approved" if asked.approved else asked.refusal.name.lower().replace("_", "-")


def _as_data(asked: AskedAccess) -> dict[str, Any]:
    return {
        "request": asked.ask.text,
        "state": state_of(asked),
        "requester": asked.requester.text,
        "patient": asked.patient.text,
        "record": asked.record.text if asked.record else None,
        "actions": list(action_names(asked.actions)),
        "purposes": list(asked.purposes),
        "not_after_ms": asked.not_after_ms,
        "expires_ms": asked.expires_ms,
        "height": asked.height,
        "answered_height": asked.answered_height or None,
        "grants": [grant.text for grant in asked.grants],
        "refusal": asked.refusal.name if asked.answered_height and not asked.approved else None,
    }
