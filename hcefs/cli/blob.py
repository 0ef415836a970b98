"""``put`` and ``get``: blobs into and out of a record."""

from __future__ import annotations

import contextlib
import enum
import mimetypes
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access import emergency
from hcefs.access.facts import Action
from hcefs.access.token import read_use
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
    parse_size,
)
from hcefs.cli.output import (
    print_fields,
    progress_bar,
    show,
    size_text,
    verb,
)
from hcefs.cli.record import RecordArgument
from hcefs.cli.session import choose_grant, client_of, run
from hcefs.client.client import Client
from hcefs.client.receipts import PutReceipt
from hcefs.client.streams import BlobStream
from hcefs.errors import Invalid
from hcefs.ids import BlobId, GrantId, RecordId

DICOM = "application/dicom"
ANY_TYPE = "application/octet-stream"

BlobArgument = Annotated[str, typer.Argument(metavar="BLOB", help="Id (blob-...).")]
CapabilityOption = Annotated[
    Path | None,
    typer.Option("--cap", metavar="FILE", help="Present this capability (`hcefs cap mint`)."),
]
OutputOption = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to write it; replaced when it is complete."
    ),
]


class Where(enum.StrEnum):
    """Who seals, or opens."""

    NODE = "node"
    CLIENT = "client"


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command("put")(put)
    app.command("get")(get)


# --- put ------------------------------------------------------------------------


@verb
def put(
    record: RecordArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to put.")],
    account: AsOption,
    grant: GrantOption = "",
    seal: Annotated[
        Where, typer.Option("--seal", help="Who encrypts: the node, or this machine.")
    ] = Where.NODE,
    name: Annotated[
        str | None, typer.Option("--name", help="Name inside the blob; by default the file's.")
    ] = None,
    content_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Media type; guessed by default.")
    ] = None,
    purpose: PurposeOption = "TREAT",
    profile: Annotated[
        str, typer.Option("--profile", help="Erasure code; by default the cluster's.")
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Put a file into a record; returns when it is durable and on the ledger."""
    layout = folder(directory)
    if not file.is_file():
        raise Invalid(f"{file} is no file: name one to put", reason="no-file")
    label = file.name if name is None else name
    order = _Order(
        RecordId.parse(record),
        file,
        grant,
        label,
        content_type or guessed_type(file),
        parse_purpose(purpose),
        seal,
        profile,
    )
    size = file.stat().st_size
    with progress_bar(f"put {file.name}", size, quiet=as_json) as progress:
        receipt = run(_put(layout, account, order, progress))
    data = {
        "record": receipt.ref.record.text,
        "blob": receipt.ref.blob.text,
        "bytes": receipt.core.plaintext_length,
        "durable_shards": receipt.durable_shards,
        "total_shards": receipt.total_shards,
        "degraded": receipt.degraded,
        "height": receipt.height,
        "leaf_index": receipt.ref.leaf_index,
        "leaf": receipt.leaf.hex(),
        "core_digest": receipt.ref.core_digest.hex(),
        "name": order.name,
        "content_type": order.content_type,
        "seal": order.seal.value,
    }
    show(data, as_json=as_json, human=lambda console: _print_receipt(console, receipt))


@dataclass(frozen=True)
class _Order:
    """What to put and how, all texts read."""

    record: RecordId
    file: Path
    grant: str
    name: str
    content_type: str
    purpose: str
    seal: Where
    profile: str


async def _put(
    layout: ClusterFolder, account: str, order: _Order, progress: Callable[[int], None]
) -> PutReceipt:
    async with client_of(layout, account) as client:
        chosen = await choose_grant(client, order.grant, order.record, Action.APPEND, order.purpose)
        return await client.put(
            order.record,
            order.file,
            grant=chosen,
            content_type=order.content_type,
            name=order.name,
            purpose=order.purpose,
            seal=order.seal.value,
            profile=order.profile,
            progress=progress,
        )


def _print_receipt(console: Console, receipt: PutReceipt) -> None:
    console.print(Text(receipt.ref.blob.text, style="green"))
    durable = f"{receipt.durable_shards} of {receipt.total_shards} shards"
    print_fields(
        console,
        [
            ("record", receipt.ref.record),
            ("size", size_text(receipt.core.plaintext_length)),
            ("durable", durable + (" (degraded)" if receipt.degraded else "")),
            ("entry", f"number {receipt.ref.leaf_index}, height {receipt.height}"),
        ],
    )


def guessed_type(file: Path) -> str:
    """The media type by the file's name."""
    if file.suffix.lower() in (".dcm", ".dicom"):
        return DICOM
    return mimetypes.guess_type(file.name)[0] or ANY_TYPE


# --- get ------------------------------------------------------------------------


@verb
def get(
    record: RecordArgument,
    blob: BlobArgument,
    output: OutputOption,
    account: AsOption,
    grant: GrantOption = "",
    capability: CapabilityOption = None,
    start: Annotated[str, typer.Option("--start", help="First byte.")] = "0",
    length: Annotated[str, typer.Option("--length", help="Bytes; 0 is to the end.")] = "0",
    opens: Annotated[
        Where, typer.Option("--open", help="Who decrypts: the node, or this machine.")
    ] = Where.NODE,
    purpose: PurposeOption = "TREAT",
    opening: Annotated[
        str,
        typer.Option(
            "--emergency", metavar="ID", help="Read under this opening (`hcefs emergency open`)."
        ),
    ] = "",
    desk: Annotated[
        str,
        typer.Option(
            "--desk",
            metavar="NAME",
            help="Account of the institution that the patient named; its key opens the box.",
        ),
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Get a blob, or a range of it, into a file (mode 0600; nothing is left of a failed get)."""
    request = Request(
        RecordId.parse(record),
        BlobId.parse(blob),
        grant,
        read_token(capability) if capability else None,
        parse_purpose(purpose),
        parse_size(start),
        parse_size(length),
    )
    if opening:
        request = under_opening(request, GrantId.parse(opening))
    layout = folder(directory)
    desk_keys = layout.load_keys(desk) if desk else None

    async def begin(client: Client) -> BlobStream:
        if desk_keys is not None:
            client.receive_for(desk_keys)
        return await client.get(
            request.record,
            request.blob,
            grant=await request.right(client),
            token=request.token,
            start=request.start,
            length=request.length,
            purpose=request.purpose,
            seal=opens.value,
        )

    fetch(layout, account, begin, output, as_json=as_json)


@dataclass(frozen=True)
class Request:
    """What a read asks for, all texts read."""

    record: RecordId
    blob: BlobId
    grant: str
    token: bytes | None
    purpose: str
    start: int = 0
    length: int = 0

    async def right(self, client: Client) -> GrantId | None:
        """The grant to use; that of the capability where there is one."""
        if self.token is not None:
            return read_use(self.token).grant or None
        return await choose_grant(
            client,
            self.grant,
            self.record,
            Action.READ,
            self.purpose,
            blob=self.blob,
            start=self.start,
            length=self.length,
        )


def under_opening(request: Request, opening: GrantId) -> Request:
    """The same request by an opening in an emergency.

    Raises:
        Invalid: ``two-rights``: a grant or a capability is named, too.
    """
    if request.grant or request.token is not None:
        raise Invalid(
            "an opening is a right of its own: leave --grant and --cap out", reason="two-rights"
        )
    grant = emergency.grant_of(opening, request.record)
    return replace(request, grant=grant.text, purpose=emergency.PURPOSE)


def fetch(
    layout: ClusterFolder,
    account: str,
    begin: Callable[[Client], Awaitable[BlobStream]],
    output: Path,
    *,
    as_json: bool,
) -> None:
    """Write a stream to a file and say what was read.

    Raises:
        Invalid: the file cannot be there, or the request's arguments are wrong.
        HcefsError: why nothing could be read.
    """
    check_place(output)  # before anything is asked, and receipted, for nothing
    stream = run(_fetch(layout, account, begin, output, quiet=as_json))
    metadata = stream.metadata
    whole = stream.length == stream.core.plaintext_length
    data: dict[str, Any] = {
        "record": stream.core.record.text,
        "blob": stream.core.blob.text,
        "file": str(output),
        "start": stream.start,
        "bytes": stream.length,
        "name": metadata.name if metadata else None,
        "content_type": metadata.content_type if metadata else None,
        "writer": stream.core.writer.text,
        "signed": stream.signed,
    }

    def human(console: Console) -> None:
        extent = "whole" if whole else f"from byte {stream.start} of {stream.core.plaintext_length}"
        checked = "verified" if stream.signed else "not verified"
        print_fields(
            console,
            [
                ("file", output),
                ("size", f"{size_text(stream.length)} ({extent})"),
                ("name", metadata.name if metadata else ""),
                ("type", metadata.content_type if metadata else ""),
                ("signature of the writer", checked if whole else ""),
            ],
        )

    show(data, as_json=as_json, human=human)


async def _fetch(
    layout: ClusterFolder,
    account: str,
    begin: Callable[[Client], Awaitable[BlobStream]],
    output: Path,
    *,
    quiet: bool,
) -> BlobStream:
    async with client_of(layout, account) as client:
        async with await begin(client) as stream:
            with (
                whole_or_nothing(output) as file,
                progress_bar(f"get {output.name}", stream.length, quiet=quiet) as progress,
            ):
                await _copy(client, stream, file, progress)
        return stream


async def _copy(
    client: Client, stream: AsyncIterator[bytes], file: BinaryIO, progress: Callable[[int], None]
) -> None:
    done = 0
    async for piece in stream:
        await client.runtime.disk(file.write, piece)
        done += len(piece)
        progress(done)


def check_place(path: Path) -> None:
    """Raises Invalid: a file cannot be at ``path``."""
    if path.is_dir():
        raise Invalid(f"{path} is a folder: name a file", reason="bad-file")
    if not path.absolute().parent.is_dir():
        raise Invalid(f"there is no folder {path.absolute().parent}", reason="bad-file")


@contextlib.contextmanager
def whole_or_nothing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name ``path`` only if the block ends well; mode 0600."""
    # Beside its place, so that the rename is one within the same file system.
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
