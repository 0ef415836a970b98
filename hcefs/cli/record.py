"""``record``: the units of permission."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.facts import Grant, Record
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import (
    DEFAULT_FOLDER,
    AsOption,
    FolderOption,
    JsonOption,
    action_names,
    folder,
)
from hcefs.cli.output import print_fields, print_table, remaining_text, show, verb
from hcefs.cli.session import Names, client_of, is_live, run
from hcefs.ids import RecordId
from hcefs.runtime import SystemRuntime

app = typer.Typer(help="Records: blobs of one patient and one class.", no_args_is_help=True)

RecordArgument = Annotated[str, typer.Argument(metavar="RECORD", help="Id (rec-...).")]


@app.command("open")
@verb
def open_(
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Open a new record; only patients own records."""
    layout = folder(directory)
    opened = run(_open(layout, account))

    def human(console: Console) -> None:
        console.print(Text(opened.record.text))

    show(_as_data(opened), as_json=as_json, human=human)


async def _open(layout: ClusterFolder, account: str) -> Record:
    async with client_of(layout, account) as client:
        return await client.open_record()


@app.command("list")
@verb
def list_(
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """List the records that an account owns, and those it has grants on."""
    layout = folder(directory)
    owned, granted = run(_list(layout, account))
    now = SystemRuntime().now_ms()
    data = {
        "owned": [_as_data(record) for record in owned],
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
            [record.record, "owner", record.leaf_count, record.generation, "-"] for record in owned
        ]
        rows += [
            [
                grant.record,
                ",".join(action_names(grant.actions)),
                "-",
                "-",
                remaining_text(grant.not_after_ms, now),
            ]
            for grant in granted
        ]
        print_table(
            console,
            ("RECORD", "RIGHT", "ENTRIES", "GENERATION", "ENDS"),
            rows,
            right=("ENTRIES", "GENERATION"),
            empty="no records",
        )

    show(data, as_json=as_json, human=human)


async def _list(layout: ClusterFolder, account: str) -> tuple[list[Record], list[Grant]]:
    async with client_of(layout, account) as client:
        now = client.runtime.now_ms()
        granted = [grant for grant in await client.grants() if is_live(grant, now)]
        return await client.records(), granted


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
    found = run(_fetch(layout, account, RecordId.parse(record)))

    def human(console: Console) -> None:
        print_fields(
            console,
            [
                ("record", found.record),
                ("owner", Names(layout).of(found.owner)),
                ("entries", found.leaf_count),
                ("generation", found.generation),
                ("opened", f"height {found.height}"),
            ],
        )

    show(_as_data(found), as_json=as_json, human=human)


async def _fetch(layout: ClusterFolder, account: str, record: RecordId) -> Record:
    async with client_of(layout, account) as client:
        return await client.record(record)


def _as_data(record: Record) -> dict[str, Any]:
    return {
        "record": record.record.text,
        "owner": record.owner.text,
        "entries": record.leaf_count,
        "generation": record.generation,
        "height": record.height,
        "peaks": [peak.hex() for peak in record.peaks],
    }
