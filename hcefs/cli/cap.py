"""``cap``: capabilities, which only narrow, and bundles, which hand over one blob."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.facts import Action, Grant
from hcefs.access.token import Narrowing, narrow, read_checks, read_use
from hcefs.cli.blob import BlobArgument, OutputOption, Where, fetch
from hcefs.cli.capability_file import read_token, save_token, token_text
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import (
    DEFAULT_FOLDER,
    AsOption,
    FolderOption,
    GrantOption,
    JsonOption,
    action_names,
    folder,
    parse_actions,
    parse_purposes,
    parse_size,
    parse_until,
)
from hcefs.cli.output import print_fields, show, size_text, verb
from hcefs.cli.record import RecordArgument
from hcefs.cli.session import Names, best_grant, client_of, fits, is_live, run
from hcefs.client.bundle import Bundle, load_bundle
from hcefs.client.client import Client
from hcefs.client.streams import BlobStream
from hcefs.errors import Denied, HcefsError, Invalid
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.runtime import SystemRuntime

app = typer.Typer(help="Capabilities: narrowed tokens and bundles.", no_args_is_help=True)

UntilOption = Annotated[
    str, typer.Option("--until", help="No longer than this: 15m, 2h or an ISO time.")
]
ActionsOption = Annotated[str, typer.Option("--actions", help="Only these, joined by commas.")]
PurposesOption = Annotated[
    str, typer.Option("--purpose", help="Only for these purposes, joined by commas.")
]
RecordOption = Annotated[
    str, typer.Option("--record", metavar="RECORD", help="Only on this record.")
]
BlobOption = Annotated[str, typer.Option("--blob", metavar="BLOB", help="Only on this blob.")]
StartOption = Annotated[str, typer.Option("--start", help="Of a range: first byte.")]
LengthOption = Annotated[str, typer.Option("--length", help="Of a range: bytes.")]
PresenterOption = Annotated[
    str, typer.Option("--presenter", metavar="ACCOUNT", help="Only presented by this account.")
]
FileOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="File for it; by default it is printed."),
]


def narrowing_of(
    layout: ClusterFolder,
    until: str,
    actions: str,
    purposes: str,
    record: str = "",
    blob: str = "",
    start: str = "0",
    length: str = "0",
    presenter: str = "",
) -> Narrowing:
    """The narrowing that the options ask for; an empty text adds no check.

    Raises:
        Invalid: an option cannot be read.
    """
    now = SystemRuntime().now_ms()
    return Narrowing(
        not_after_ms=parse_until(until, now) if until else None,
        actions=action_names(parse_actions(actions)) if actions else (),
        record=RecordId.parse(record) if record else None,
        blob=BlobId.parse(blob) if blob else None,
        range_start=parse_size(start),
        range_length=parse_size(length),
        purposes=parse_purposes(purposes) if purposes else (),
        presenter=layout.account_id(presenter) if presenter else None,
    )


@app.command("mint")
@verb
def mint(
    account: AsOption,
    grant: GrantOption = "",
    until: UntilOption = "1h",
    actions: ActionsOption = "",
    purpose: PurposesOption = "",
    record: RecordOption = "",
    blob: BlobOption = "",
    start: StartOption = "0",
    length: LengthOption = "0",
    presenter: PresenterOption = "",
    output: FileOption = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Mint a capability for a grant (or, without --grant, for ownership), narrowed."""
    layout = folder(directory)
    narrowing = narrowing_of(
        layout, until, actions, purpose, record, blob, start, length, presenter
    )
    token = run(_mint(layout, account, GrantId.parse(grant) if grant else None, narrowing))
    _deliver(token, output, as_json=as_json)


async def _mint(
    layout: ClusterFolder, account: str, grant: GrantId | None, narrowing: Narrowing
) -> bytes:
    async with client_of(layout, account) as client:
        return client.mint(grant, narrowing)


@app.command("narrow")
@verb
def narrow_(
    capability: Annotated[Path, typer.Argument(metavar="FILE", help="The capability.")],
    account: AsOption,
    until: UntilOption = "",
    actions: ActionsOption = "",
    purpose: PurposesOption = "",
    record: RecordOption = "",
    blob: BlobOption = "",
    start: StartOption = "0",
    length: LengthOption = "0",
    presenter: PresenterOption = "",
    output: FileOption = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Narrow a capability further; needs no key of its maker."""
    layout = folder(directory)
    token = read_token(capability)
    narrowing = narrowing_of(
        layout, until, actions, purpose, record, blob, start, length, presenter
    )
    if narrowing == Narrowing():
        raise Invalid("say what to narrow it to: see --help", reason="bad-narrowing")
    root_key = run(_token_key(layout, account, read_use(token).account))
    _deliver(narrow(token, narrowing, root_key), output, as_json=as_json)


async def _token_key(layout: ClusterFolder, account: str, holder: AccountId) -> bytes:
    async with client_of(layout, account) as client:
        return (await client.fetch_account(holder)).token_key


def _deliver(token: bytes, output: Path | None, *, as_json: bool) -> None:
    data = _token_data(token)
    if output is None:
        data["capability"] = token_text(token)
    else:
        save_token(output, token)
        data["file"] = str(output)

    def human(console: Console) -> None:
        console.print(Text(str(output) if output is not None else token_text(token)))

    show(data, as_json=as_json, human=human)


@app.command("show")
@verb
def show_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A capability or a bundle.")],
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show whose right a capability uses, or what a bundle hands over."""
    names = Names(ClusterFolder(directory))
    bundle, token = _bundle_or_token(file)
    use = read_use(token)
    fields: list[tuple[str, object]] = []
    data: dict[str, Any] = {"kind": "capability", **_token_data(token)}
    if bundle is not None:
        end = bundle.range_start + bundle.range_length - 1
        fields = [
            ("bundle for", names.of(bundle.to)),
            ("record", bundle.record),
            ("blob", bundle.blob),
            ("range", f"bytes {bundle.range_start} to {end}" if bundle.range_length else "whole"),
            ("purpose", bundle.purpose),
            ("generation", bundle.generation),
        ]
        data |= _bundle_data(bundle)
    fields += [
        ("cluster", use.cluster),
        ("right of", names.of(use.account)),
        ("grant", use.grant or "as owner"),
        ("token size", size_text(len(token))),
        ("token digest", blake3_digest(token).hex()),
    ]
    checks = [check.removesuffix(";") for block in read_checks(token) for check in block]
    fields += [("only", check.removeprefix("check if ")) for check in checks]
    data["checks"] = checks
    show(data, as_json=as_json, human=lambda console: print_fields(console, fields))


def _bundle_or_token(file: Path) -> tuple[Bundle | None, bytes]:
    try:
        bundle = load_bundle(file)
    except Invalid:
        try:
            return None, read_token(file)
        except HcefsError:
            raise Invalid(
                f"{file} is neither a capability nor a bundle", reason="token-malformed"
            ) from None
    return bundle, bundle.token


@app.command("bundle")
@verb
def bundle_(
    record: RecordArgument,
    blob: BlobArgument,
    account: AsOption,
    to: Annotated[
        str, typer.Option("--to", metavar="ACCOUNT", help="Who shall read it: name or acc-...")
    ],
    output: OutputOption,
    grant: GrantOption = "",
    until: UntilOption = "1h",
    purpose: PurposesOption = "",
    start: StartOption = "0",
    length: LengthOption = "0",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Hand one blob to an assistant: a narrowed token and the blob's key, sealed to it."""
    layout = folder(directory)
    named = (RecordId.parse(record), BlobId.parse(blob), layout.account_id(to))
    narrowing = narrowing_of(layout, until, "", purpose, start=start, length=length)
    made = run(_bundle(layout, account, named, grant, narrowing))
    made.save(output)
    data = {"file": str(output), **_bundle_data(made)}

    def human(console: Console) -> None:
        console.print(Text(str(output), style="green"))
        fields = [
            ("for", Names(layout).of(made.to)),
            ("blob", made.blob),
            ("purpose", made.purpose),
        ]
        print_fields(console, fields)

    show(data, as_json=as_json, human=human)


async def _bundle(
    layout: ClusterFolder,
    account: str,
    named: tuple[RecordId, BlobId, AccountId],
    grant: str,
    narrowing: Narrowing,
) -> Bundle:
    record, blob, to = named
    async with client_of(layout, account) as client:
        if grant:
            chosen = GrantId.parse(grant)
        else:
            chosen = (await _shareable(client, record, blob, narrowing)).grant
        return await client.bundle(record, blob, to, grant=chosen, narrowing=narrowing)


async def _shareable(client: Client, record: RecordId, blob: BlobId, narrowing: Narrowing) -> Grant:
    """The account's best grant that allows both to read the blob and to share it.

    Raises:
        Denied: there is none.
    """
    now = client.runtime.now_ms()
    found = best_grant(
        grant
        for grant in await client.grants()
        if grant.record == record
        and is_live(grant, now)
        and Action.READ in grant.actions
        and all(
            fits(grant, Action.SHARE, purpose, blob, narrowing.range_start, narrowing.range_length)
            for purpose in narrowing.purposes or grant.purposes[:1]
        )
    )
    if found is None:
        raise Denied(
            "a bundle needs a live grant to read and share this blob for that purpose, and this "
            "account has none: ask the record's owner",
            reason="not-shareable",
        )
    return found


@app.command("redeem")
@verb
def redeem(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="File of the bundle.")],
    output: OutputOption,
    account: AsOption,
    opens: Annotated[
        Where, typer.Option("--open", help="Who decrypts: the node, or this machine.")
    ] = Where.NODE,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Read the blob of a bundle into a file."""
    layout = folder(directory)
    loaded = load_bundle(bundle)

    async def begin(client: Client) -> BlobStream:
        return await client.get_bundle(loaded, seal=opens.value)

    fetch(layout, account, begin, output, as_json=as_json)


def _token_data(token: bytes) -> dict[str, Any]:
    use = read_use(token)
    return {
        "cluster": use.cluster.text,
        "account": use.account.text,
        "grant": use.grant.text if use.grant else None,
        "token_bytes": len(token),
        "token_digest": blake3_digest(token).hex(),
    }


def _bundle_data(bundle: Bundle) -> dict[str, Any]:
    return {
        "kind": "bundle",
        "to": bundle.to.text,
        "record": bundle.record.text,
        "blob": bundle.blob.text,
        "range_start": bundle.range_start,
        "range_length": bundle.range_length,
        "purpose": bundle.purpose,
        "generation": bundle.generation,
    }
