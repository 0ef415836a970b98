"""``record``: the units of permission."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.erasure_facts import Erasure
from hcefs.access.facts import Grant, Record
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import (
    DEFAULT_FOLDER,
    AsOption,
    FolderOption,
    JsonOption,
    action_names,
    folder,
    parse_ceiling,
    parse_sensitivities,
)
from hcefs.cli.output import print_fields, print_table, remaining_text, show, verb
from hcefs.cli.session import Names, client_of, is_live, run
from hcefs.errors import HcefsError, Invalid
from hcefs.formats.record_class import RecordClass
from hcefs.ids import RecordId
from hcefs.runtime import SystemRuntime

app = typer.Typer(help="Records: blobs of one patient and one class.", no_args_is_help=True)

RecordArgument = Annotated[str, typer.Argument(metavar="RECORD", help="Id (rec-...).")]


@app.command("open")
@verb
def open_(
    account: AsOption,
    confidentiality: Annotated[
        str,
        typer.Option(
            "--confidentiality",
            metavar="LEVEL",
            help="Its class, for ever: U, L, M, N, R or V; sealed, so that only readers see it.",
        ),
    ] = "",
    sensitivity: Annotated[
        str,
        typer.Option(
            "--sensitivity", metavar="CODES", help="Of the class: such as PSY; joined by commas."
        ),
    ] = "",
    again: Annotated[
        str,
        typer.Option("--record", metavar="RECORD", help="A record whose class failed to be put."),
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Open a new record; only patients own records."""
    layout = folder(directory)
    label = None
    if confidentiality:
        label = RecordClass.of(parse_ceiling(confidentiality), parse_sensitivities(sensitivity))
    elif sensitivity or again:
        raise Invalid("a class needs a level: give --confidentiality as well", reason="bad-class")
    opened = run(_open(layout, account, RecordId.parse(again) if again else None, label))

    def human(console: Console) -> None:
        console.print(Text(opened.record.text))

    show(_as_data(opened), as_json=as_json, human=human)


async def _open(
    layout: ClusterFolder, account: str, record: RecordId | None, label: RecordClass | None
) -> Record:
    async with client_of(layout, account) as client:
        return await client.open_record(record, label=label)


@app.command("list")
@verb
def list_(
    account: AsOption,
    classes_wanted: Annotated[
        bool,
        typer.Option("--classes/--no-classes", help="Read classes, which needs storage nodes."),
    ] = True,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """List the records that an account owns, with their classes, and those it has grants on."""
    layout = folder(directory)
    owned, classes, granted = run(_list(layout, account, classes_wanted))
    now = SystemRuntime().now_ms()
    data = {
        "owned": [
            _as_data(record) | ({"class": class_data(found)} if classes_wanted else {})
            for record, found in zip(owned, classes, strict=True)
        ],
        "granted": [
            {
                "record": grant.record.text,
                "grant": grant.grant.text,
                "actions": list(action_names(grant.actions)),
                "not_after_ms": grant.not_after_ms,
            }
            for grant in granted
        ],
    }

    def human(console: Console) -> None:
        rows: list[list[object]] = [
            [
                record.record,
                "owner",
                record.leaf_count,
                record.generation,
                "-",
                class_text(found),
            ]
            for record, found in zip(owned, classes, strict=True)
        ]
        rows += [
            [
                grant.record,
                ",".join(action_names(grant.actions)),
                "-",
                "-",
                remaining_text(grant.not_after_ms, now),
                "-",
            ]
            for grant in granted
        ]
        print_table(
            console,
            ("RECORD", "RIGHT", "ENTRIES", "GENERATION", "ENDS", "CLASS"),
            rows,
            right=("ENTRIES", "GENERATION"),
            empty="no records",
        )

    show(data, as_json=as_json, human=human)


async def _list(
    layout: ClusterFolder, account: str, classes_wanted: bool
) -> tuple[list[Record], list[RecordClass | HcefsError | None], list[Grant]]:
    async with client_of(layout, account) as client:
        now = client.runtime.now_ms()
        granted = [grant for grant in await client.grants() if is_live(grant, now)]
        owned = await client.records()
        if not classes_wanted:
            return owned, [None] * len(owned), granted
        return owned, await client.record_classes([each.record for each in owned]), granted


def class_text(found: RecordClass | HcefsError | None) -> str:
    """A class for people: ``N PSY,HIV``; ``-`` where none was said."""
    if found is None:
        return "-"
    if isinstance(found, HcefsError):
        return "erased" if found.reason == "erased" else f"unreadable ({found.reason})"
    return " ".join((found.confidentiality.name, ",".join(found.sensitivities))).strip()


def class_data(found: RecordClass | HcefsError | None) -> dict[str, Any] | None:
    """A class for programs; None where none was said."""
    if found is None:
        return None
    if isinstance(found, HcefsError):
        return {"unreadable": found.reason}
    return {
        "confidentiality": found.confidentiality.name,
        "sensitivities": list(found.sensitivities),
    }


@app.command("show")
@verb
def show_(
    record: RecordArgument,
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show a record as the ledger has it."""
    layout = folder(directory)
    found, erasure = run(_fetch(layout, account, RecordId.parse(record)))

    def human(console: Console) -> None:
        print_fields(
            console,
            [
                ("record", found.record),
                ("owner", Names(layout).of(found.owner)),
                ("entries", found.leaf_count),
                ("generation", found.generation),
                ("opened", f"height {found.height}"),
                ("erased", f"height {erasure.height}" if erasure is not None else None),
            ],
        )

    erased_height = erasure.height if erasure is not None else None
    data = {**_as_data(found), "erased_height": erased_height}
    show(data, as_json=as_json, human=human)


@app.command("rotate")
@verb
def rotate(
    record: RecordArgument,
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Renew a record's key: every reader gets the next generation, no body is touched."""
    layout = folder(directory)
    found = run(_rotate(layout, account, RecordId.parse(record)))

    def human(console: Console) -> None:
        console.print(Text(f"{found.record} is at generation {found.generation}"), style="green")

    show(_as_data(found), as_json=as_json, human=human)


async def _rotate(layout: ClusterFolder, account: str, record: RecordId) -> Record:
    async with client_of(layout, account) as client:
        await client.rotate(record)
        return await client.record(record)


async def _fetch(
    layout: ClusterFolder, account: str, record: RecordId
) -> tuple[Record, Erasure | None]:
    async with client_of(layout, account) as client:
        return await client.record(record), await client.erasure(record)


def _as_data(record: Record) -> dict[str, Any]:
    return {
        "record": record.record.text,
        "owner": record.owner.text,
        "entries": record.leaf_count,
        "generation": record.generation,
        "height": record.height,
        "peaks": [peak.hex() for peak in record.peaks],
    }
