"""``put-many`` and ``get-many``: folders of small files into and out of a record.

Files that fit a pack travel in packs; longer ones are put one by one.  What is got is
named as the blob is, so a name is never more than the last part of a path, and never
replaces a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich.console import Console

from hcefs.access.facts import Action
from hcefs.cli.blob import guessed_type, whole_or_nothing
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
from hcefs.cli.output import print_fields, show, size_text, verb
from hcefs.cli.record import RecordArgument
from hcefs.cli.session import choose_grant, client_of, run
from hcefs.client.client import Client
from hcefs.client.put_many import Payload
from hcefs.client.receipts import PutReceipt
from hcefs.errors import Invalid
from hcefs.formats.pack import PAYLOAD_BYTES_MAX
from hcefs.ids import BlobId, GrantId, RecordId

CALL_BYTES = 64 << 20
"""Of files that are in memory at one time."""

AT_ONCE = 64
NAMES_MAX = 255

PathsArgument = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Files, or folders with all that is below.")
]
BlobsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[BLOB...]", help="Ids (blob-...); all by default.")
]
IntoOption = Annotated[
    Path, typer.Option("--into", metavar="FOLDER", help="Where to write them; made if need be.")
]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command("put-many")(put_many)
    app.command("get-many")(get_many)


# --- put ------------------------------------------------------------------------


@verb
def put_many(
    record: RecordArgument,
    paths: PathsArgument,
    account: AsOption,
    grant: GrantOption = "",
    purpose: PurposeOption = "TREAT",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Put many files into a record; returns when all are durable and on the ledger."""
    layout = folder(directory)
    files = list(found_files(paths))
    if not files:
        raise Invalid("there are no files below the paths given", reason="no-file")
    stored = run(
        _put(layout, account, RecordId.parse(record), files, grant, parse_purpose(purpose))
    )
    data = [
        {
            "file": str(file),
            "blob": receipt.ref.blob.text,
            "bytes": receipt.core.plaintext_length,
            "durable_shards": receipt.durable_shards,
            "total_shards": receipt.total_shards,
            "height": receipt.height,
        }
        for file, receipt in stored
    ]

    def human(console: Console) -> None:
        total = sum(receipt.core.plaintext_length for _, receipt in stored)
        weakest = min((receipt for _, receipt in stored), key=lambda each: each.durable_shards)
        print_fields(
            console,
            [
                ("blobs", f"{len(stored)}, {size_text(total)}"),
                ("packs", len({receipt.ref.blob.base for _, receipt in stored})),
                ("durable", f"at least {weakest.durable_shards} of {weakest.total_shards} shards"),
            ],
        )

    show(data, as_json=as_json, human=human)


def found_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files that paths name, those below a folder in the order of their names.

    Raises:
        Invalid: a path is neither file nor folder.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(below for below in path.rglob("*") if below.is_file())
        elif path.is_file():
            yield path
        else:
            raise Invalid(f"{path} is no file and no folder: name one", reason="no-file")


async def _put(
    layout: ClusterFolder,
    account: str,
    record: RecordId,
    files: Sequence[Path],
    grant: str,
    purpose: str,
) -> list[tuple[Path, PutReceipt]]:
    stored: list[tuple[Path, PutReceipt]] = []
    async with client_of(layout, account) as client:
        chosen = await choose_grant(client, grant, record, Action.APPEND, purpose)
        for batch in _batches(files):
            if batch[0].stat().st_size > PAYLOAD_BYTES_MAX:
                receipt = await client.put(
                    record,
                    batch[0],
                    grant=chosen,
                    purpose=purpose,
                    content_type=guessed_type(batch[0]),
                    name=batch[0].name,
                )
                stored.append((batch[0], receipt))
                continue
            payloads = [
                Payload(
                    record,
                    await client.runtime.disk(file.read_bytes),
                    content_type=guessed_type(file),
                    name=file.name,
                )
                for file in batch
            ]
            receipts = await client.put_many(payloads, grant=chosen, purpose=purpose)
            stored += zip(batch, receipts, strict=True)
    return stored


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Files that are put together; one that fits no pack is alone."""
    batch: list[Path] = []
    size = 0
    for file in files:
        length = file.stat().st_size
        if length > PAYLOAD_BYTES_MAX:
            yield [file]
            continue
        if batch and size + length > CALL_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += length
    if batch:
        yield batch


# --- get ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Written:
    """One blob that was written to a file."""

    blob: BlobId
    file: Path
    length: int
    signed: bool


@verb
def get_many(
    record: RecordArgument,
    into: IntoOption,
    account: AsOption,
    blobs: BlobsArgument = None,
    grant: GrantOption = "",
    purpose: PurposeOption = "TREAT",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Get all blobs of a record, or those named, into a folder (files of mode 0600)."""
    layout = folder(directory)
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    named = [BlobId.parse(blob) for blob in blobs or ()]
    written = run(
        _get(layout, account, RecordId.parse(record), named, grant, parse_purpose(purpose), into)
    )
    data: list[dict[str, Any]] = [
        {
            "blob": each.blob.text,
            "file": str(each.file),
            "bytes": each.length,
            "signed": each.signed,
        }
        for each in written
    ]

    def human(console: Console) -> None:
        print_fields(
            console,
            [
                ("files", f"{len(written)}, {size_text(sum(each.length for each in written))}"),
                ("in", into),
                ("signature of the writer", "verified, of each"),
            ],
        )

    show(data, as_json=as_json, human=human)


async def _get(
    layout: ClusterFolder,
    account: str,
    record: RecordId,
    named: Sequence[BlobId],
    grant: str,
    purpose: str,
    into: Path,
) -> list[_Written]:
    async with client_of(layout, account) as client:
        chosen = await choose_grant(client, grant, record, Action.READ, purpose)
        wanted = list(named) or [
            entry.blob for entry in await client.list(record, grant=chosen, purpose=purpose)
        ]
        gate = asyncio.Semaphore(AT_ONCE)
        taken: set[str] = set()

        async def one(blob: BlobId) -> _Written:
            async with gate:
                return await _write(client, record, blob, chosen, purpose, into, taken)

        return list(await asyncio.gather(*map(one, wanted)))


async def _write(
    client: Client,
    record: RecordId,
    blob: BlobId,
    grant: GrantId | None,
    purpose: str,
    into: Path,
    taken: set[str],
) -> _Written:
    async with await client.get(record, blob, grant=grant, purpose=purpose) as stream:
        name = free_name(stream.metadata.name if stream.metadata else "", blob, into, taken)
        taken.add(name)
        with whole_or_nothing(into / name) as file:
            async for piece in stream:
                await client.runtime.disk(file.write, piece)
    return _Written(blob, into / name, stream.length, stream.signed)


def free_name(name: str, blob: BlobId, into: Path, taken: set[str]) -> str:
    """A file name for a blob: its own last part if that is harmless and free, else its id."""
    last = PurePosixPath(name.replace("\\", "/")).name
    harmless = last.isprintable() and last not in ("", ".", "..") and not last.startswith(".")
    if harmless and len(last.encode()) <= NAMES_MAX:
        for candidate in (last, f"{blob.text}-{last}"[-NAMES_MAX:]):
            if candidate not in taken and not (into / candidate).exists():
                return candidate
    return blob.text
