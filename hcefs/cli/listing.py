"""``stat`` and ``ls``: what a record holds, proved against the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hcefs.access.facts import Action
from hcefs.access.token import read_use
from hcefs.cli.blob import BlobArgument, CapabilityOption, Request
from hcefs.cli.capability_file import read_token
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import (
    DEFAULT_FOLDER,
    AsOption,
    FolderOption,
    GrantOption,
    JsonOption,
    PurposeOption,
    folder,
    parse_purpose,
)
from hcefs.cli.output import note, print_fields, print_table, show, size_text, time_text, verb
from hcefs.cli.record import RecordArgument
from hcefs.cli.session import Names, choose_grant, client_of, run
from hcefs.client.listing import Entry, Listing
from hcefs.client.stat import BlobInfo
from hcefs.formats.manifest import Metadata
from hcefs.ids import BlobId, RecordId


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command("stat")(stat)
    app.command("ls")(ls)


@verb
def stat(
    record: RecordArgument,
    blob: BlobArgument,
    account: AsOption,
    grant: GrantOption = "",
    capability: CapabilityOption = None,
    purpose: PurposeOption = "TREAT",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show a blob's manifest, proved against the ledger."""
    layout = folder(directory)
    request = Request(
        RecordId.parse(record),
        BlobId.parse(blob),
        grant,
        read_token(capability) if capability else None,
        parse_purpose(purpose),
    )
    info = run(_stat(layout, account, request))
    names = Names(layout)
    show(_info_data(info), as_json=as_json, human=lambda console: _print_info(console, info, names))


async def _stat(layout: ClusterFolder, account: str, request: Request) -> BlobInfo:
    async with client_of(layout, account) as client:
        return await client.stat(
            request.record,
            request.blob,
            grant=await request.right(client),
            token=request.token,
            purpose=request.purpose,
        )


def _print_info(console: Console, info: BlobInfo, names: Names) -> None:
    metadata = info.metadata
    print_fields(
        console,
        [
            ("blob", info.core.blob),
            ("record", info.core.record),
            ("name", metadata.name if metadata else ""),
            ("type", metadata.content_type if metadata else ""),
            ("labels", ", ".join(metadata.labels) if metadata else ""),
            ("size", f"{size_text(info.core.plaintext_length)} ({info.core.plaintext_length} B)"),
            ("profile", info.layout.profile),
            ("generation", info.generation),
            ("writer", names.of(info.core.writer)),
            ("entry", f"number {info.leaf_index}" if info.leaf_index is not None else ""),
            ("committed", time_text(info.leaf.time_ms)),
            ("corrects", info.previous_leaf.hex()),
            ("core digest", info.core.digest().hex()),
        ],
    )


def _info_data(info: BlobInfo) -> dict[str, Any]:
    return {
        "blob": info.core.blob.text,
        "record": info.core.record.text,
        "bytes": info.core.plaintext_length,
        "profile": info.layout.profile,
        "generation": info.generation,
        "writer": info.core.writer.text,
        "leaf_index": info.leaf_index,
        "time_ms": info.leaf.time_ms,
        "corrects": info.previous_leaf.hex() or None,
        "core_digest": info.core.digest().hex(),
        "shard_digests": [digest.hex() for digest in info.layout.shard_digests],
        **_metadata_data(info.metadata),
    }


def _metadata_data(metadata: Metadata | None) -> dict[str, Any]:
    if metadata is None:
        return {"name": None, "content_type": None, "labels": []}
    return {
        "name": metadata.name,
        "content_type": metadata.content_type,
        "labels": list(metadata.labels),
    }


@verb
def ls(
    record: RecordArgument,
    account: AsOption,
    grant: GrantOption = "",
    capability: CapabilityOption = None,
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Size, type and name too: one request a blob.")
    ] = False,
    purpose: PurposeOption = "TREAT",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """List a record's entries, proved complete against the ledger."""
    layout = folder(directory)
    token = read_token(capability) if capability else None
    listing, infos = run(
        _ls(layout, account, RecordId.parse(record), grant, token, parse_purpose(purpose), long)
    )
    names = Names(layout)
    data = {
        "record": listing.record.record.text,
        "complete": listing.complete,
        "missing": listing.missing,
        "entries": [_entry_data(entry, infos.get(entry.blob)) for entry in listing],
    }

    def human(console: Console) -> None:
        _print_listing(console, listing, infos, names)

    show(data, as_json=as_json, human=human)
    if not listing.complete:
        note(f"NOT COMPLETE: {listing.missing} entries on the ledger were not shown by any node")


async def _ls(
    layout: ClusterFolder,
    account: str,
    record: RecordId,
    grant: str,
    token: bytes | None,
    purpose: str,
    long: bool,
) -> tuple[Listing, dict[BlobId, BlobInfo]]:
    async with client_of(layout, account) as client:
        if token is not None:
            right = read_use(token).grant or None
        else:
            right = await choose_grant(client, grant, record, Action.READ, purpose)
        listing = await client.list(record, grant=right, token=token, purpose=purpose)
        infos: dict[BlobId, BlobInfo] = {}
        if long:
            for entry in listing:
                infos[entry.blob] = await client.stat(
                    record, entry.blob, grant=right, token=token, purpose=purpose
                )
        return listing, infos


def _print_listing(
    console: Console, listing: Listing, infos: dict[BlobId, BlobInfo], names: Names
) -> None:
    columns = ["#", "BLOB", "COMMITTED", "WRITER"]
    rows: list[list[object]] = []
    for entry in listing:
        row: list[object] = [
            entry.leaf_index,
            entry.blob,
            time_text(entry.time_ms),
            names.of(entry.signer),
        ]
        info = infos.get(entry.blob)
        if info is not None:
            metadata = info.metadata
            row += [
                size_text(info.core.plaintext_length),
                metadata.content_type if metadata else "-",
                metadata.name if metadata else "-",
            ]
        rows.append(row)
    if infos:
        columns += ["SIZE", "TYPE", "NAME"]
    print_table(console, columns, rows, right=("#", "SIZE"), empty="no entries")


def _entry_data(entry: Entry, info: BlobInfo | None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "blob": entry.blob.text,
        "leaf_index": entry.leaf_index,
        "leaf": entry.leaf.hex(),
        "signer": entry.signer.text,
        "time_ms": entry.time_ms,
        "corrects": entry.previous_leaf.hex() or None,
    }
    if info is not None:
        data |= {"bytes": info.core.plaintext_length, **_metadata_data(info.metadata)}
    return data
