"""``grant``: give, list and revoke rights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.facts import Action, Grant
from hcefs.cli.certificate import INCOMPLETE, as_data, print_verdict
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
    parse_size,
    parse_until,
)
from hcefs.cli.output import note, print_fields, print_table, remaining_text, show, time_text, verb
from hcefs.cli.session import Names, choose_grant, client_of, run
from hcefs.client.certify import Certified
from hcefs.client.classes import GivenAll
from hcefs.client.ledger import Submitted
from hcefs.durable_files import write_private
from hcefs.errors import Conflict, Invalid
from hcefs.formats.record_class import Confidentiality
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.runtime import SystemRuntime

app = typer.Typer(
    help="Grants: who may do what, for what purpose, until when.", no_args_is_help=True
)


@app.command("give")
@verb
def give(
    account: AsOption,
    to: Annotated[str, typer.Option("--to", metavar="ACCOUNT", help="Grantee: name or acc-...")],
    actions: Annotated[
        str, typer.Option("--actions", help="Of read, append, share; joined by commas.")
    ] = "read",
    purpose: Annotated[
        str, typer.Option("--purpose", help="Purposes of use; joined by commas.")
    ] = "TREAT",
    until: Annotated[
        str, typer.Option("--until", help="End: a duration (2h, 7d) or an ISO time.")
    ] = "24h",
    blob: Annotated[
        str, typer.Option("--blob", metavar="BLOB", help="Only this blob of the record.")
    ] = "",
    start: Annotated[
        str, typer.Option("--start", help="Of a range of the blob: first byte.")
    ] = "0",
    length: Annotated[
        str, typer.Option("--length", help="Of a range of the blob: bytes; 0 is all of it.")
    ] = "0",
    record: Annotated[str, typer.Argument(metavar="[RECORD]", help="Id (rec-...); or --all.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Each own record within --max-confidentiality, now.")
    ] = False,
    ceiling: CeilingOption = "",
    exclude: ExcludeOption = "",
    parent: Annotated[
        str,
        typer.Option(
            "--parent", metavar="GRANT", help="Grant to share from; by default one that fits."
        ),
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Give an account a right to a record, as its owner or under a grant to share."""
    layout = folder(directory)
    now = SystemRuntime().now_ms()
    if every:
        if record or blob or parent or not ceiling:
            raise Invalid(
                "--all goes with --max-confidentiality, and without a record, a blob or a parent",
                reason="bad-choice",
            )
        limits = (parse_ceiling(ceiling), parse_sensitivities(exclude))
        right = (parse_actions(actions), parse_purposes(purpose), parse_until(until, now))
        all_given = run(_give_all(layout, account, layout.account_id(to), right, limits))
        _show_all(all_given, as_json=as_json)
        return
    if ceiling or exclude or not record:
        raise Invalid(
            "name a record; or choose among all with --all --max-confidentiality",
            reason="bad-choice",
        )
    wish = _Wish(
        RecordId.parse(record),
        layout.account_id(to),
        parse_actions(actions),
        parse_purposes(purpose),
        parse_until(until, now),
        BlobId.parse(blob) if blob else None,
        parse_size(start),
        parse_size(length),
    )
    given = run(_give(layout, account, wish, parent))
    names = Names(layout)

    def human(console: Console) -> None:
        console.print(Text(given.grant.text, style="green"))
        _print_grant(console, given, names, now)

    show(_as_data(given), as_json=as_json, human=human)


async def _give_all(
    layout: ClusterFolder,
    account: str,
    to: AccountId,
    right: tuple[Action, tuple[str, ...], int],
    limits: tuple[Confidentiality, tuple[str, ...]],
) -> GivenAll:
    actions, purposes, not_after_ms = right
    async with client_of(layout, account) as client:
        return await client.give_all(
            to,
            actions,
            purposes,
            ceiling=limits[0],
            excluded=limits[1],
            not_after_ms=not_after_ms,
        )


def _show_all(given: GivenAll, *, as_json: bool) -> None:
    def human(console: Console) -> None:
        for grant in given.grants:
            console.print(Text(f"{grant.grant} on {grant.record}", style="green"))
        for left in given.left_out:
            console.print(Text(f"{left.record} left out: {left.reason}", style="yellow"))
        console.print("Records that are opened later are not included: give again then.")

    data = {
        "grants": [_as_data(grant) for grant in given.grants],
        "left_out": [
            {"record": left.record.text, "reason": left.reason} for left in given.left_out
        ],
        "later_records_included": False,
    }
    show(data, as_json=as_json, human=human)


@dataclass(frozen=True)
class _Wish:
    """What a grant shall allow, all texts read."""

    record: RecordId
    to: AccountId
    actions: Action
    purposes: tuple[str, ...]
    not_after_ms: int
    blob: BlobId | None
    start: int
    length: int


async def _give(layout: ClusterFolder, account: str, wish: _Wish, parent: str) -> Grant:
    async with client_of(layout, account) as client:
        under = await choose_grant(
            client,
            parent,
            wish.record,
            Action.SHARE,
            wish.purposes[0],
            blob=wish.blob,
            start=wish.start,
            length=wish.length,
        )
        return await client.give(
            wish.record,
            wish.to,
            wish.actions,
            wish.purposes,
            not_after_ms=wish.not_after_ms,
            blob=wish.blob,
            range_start=wish.start,
            range_length=wish.length,
            parent=under,
        )


@app.command("list")
@verb
def list_(
    account: AsOption,
    record: Annotated[
        str, typer.Argument(metavar="[RECORD]", help="Only those on this record.")
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """List the grants to an account, and those on the records that it owns."""
    layout = folder(directory)
    found = run(_list(layout, account, RecordId.parse(record) if record else None))
    now = SystemRuntime().now_ms()
    names = Names(layout)

    def human(console: Console) -> None:
        rows = [
            [
                grant.grant,
                Text(
                    state_of(grant, now), style="green" if state_of(grant, now) == "live" else "dim"
                ),
                names.of(grant.grantee),
                ",".join(action_names(grant.actions)),
                ",".join(grant.purposes),
                remaining_text(grant.not_after_ms, now),
                grant.blob or grant.record,
            ]
            for grant in found
        ]
        columns = ("GRANT", "STATE", "GRANTEE", "ACTIONS", "PURPOSES", "ENDS", "ON")
        print_table(console, columns, rows, empty="no grants")

    show([_as_data(grant) for grant in found], as_json=as_json, human=human)


async def _list(layout: ClusterFolder, account: str, record: RecordId | None) -> list[Grant]:
    async with client_of(layout, account) as client:
        found = {grant.grant: grant for grant in await client.grants()}
        for owned in await client.records():
            if record in (None, owned.record):
                found |= {grant.grant: grant for grant in await client.grants(owned.record)}
    wanted = [grant for grant in found.values() if record in (None, grant.record)]
    return sorted(wanted, key=lambda grant: (grant.height, grant.grant))


@app.command("revoke")
@verb
def revoke(
    grant: Annotated[str, typer.Argument(metavar="GRANT", help="Id (grt-...).")],
    account: AsOption,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until no node serves under it, and get the proof."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="With --wait: where the certificate goes."),
    ] = None,
    within: Annotated[
        float,
        typer.Option("--within", metavar="SECONDS", help="With --wait: give up; 0 is never."),
    ] = 0.0,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Revoke a grant and all that were given under it; a read grant's end renews the keys.

    With --wait a grant that is revoked already gets its certificate as well.  Exit code 1
    when the certificate does not prove that the revocation is in force everywhere.
    """
    layout = folder(directory)
    named = GrantId.parse(grant)
    if (out is not None or within) and not wait:
        raise Invalid("--out and --within go with --wait", reason="bad-arguments")
    if out is not None and out.expanduser().exists():
        raise Conflict(f"{out} exists: name another file", reason="file-exists")
    done, certified = run(_revoke(layout, account, named, wait, within, quiet=as_json))
    data: dict[str, Any] = {"grant": named.text, "revoked": True}
    if done is not None:
        data |= {"height": done.height, "time_ms": done.time_ms}
    if certified is not None:
        verdict = certified.verdict
        data |= {"height": verdict.block.height, "time_ms": verdict.block.time_ms}
        data["certificate"] = as_data(verdict)
        if out is not None:
            write_private(out.expanduser(), certified.certificate.encode())
            data["file"] = str(out)

    def human(console: Console) -> None:
        console.print(Text(f"{named} is revoked at height {data['height']}"), style="green")
        if certified is not None:
            print_verdict(console, certified.verdict)
            if out is not None:
                console.print(f"wrote {out}")

    show(data, as_json=as_json, human=human)
    if certified is not None and not certified.verdict.complete:
        raise typer.Exit(INCOMPLETE)


async def _revoke(
    layout: ClusterFolder, account: str, grant: GrantId, wait: bool, within: float, *, quiet: bool
) -> tuple[Submitted | None, Certified | None]:
    async with client_of(layout, account) as client:
        done = None
        try:
            done = await client.revoke(grant)
        except Conflict as error:
            if not wait or error.reason != "already-revoked":
                raise
        if not wait:
            return done, None
        certified = await client.certify(
            grant,
            within_s=within or None,
            progress=lambda node, state: note(f"node {node}: {state}", quiet=quiet),
        )
        return done, certified


@app.command("deliver")
@verb
def deliver(
    to: Annotated[str, typer.Option("--to", metavar="ACCOUNT", help="Grantee: name or acc-...")],
    account: AsOption,
    grant: Annotated[
        str,
        typer.Option(
            "--grant",
            metavar="GRANT",
            help="Only this grant, which may be one under a shared grant; by default all on "
            "own records.",
        ),
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Deliver keys anew, to a grantee that has changed its own."""
    layout = folder(directory)
    named = GrantId.parse(grant) if grant else None
    delivered = run(_deliver(layout, account, layout.account_id(to), named))

    def human(console: Console) -> None:
        console.print(Text(f"the keys of {len(delivered)} grants are delivered"), style="green")

    show({"delivered": [_as_data(each) for each in delivered]}, as_json=as_json, human=human)


async def _deliver(
    layout: ClusterFolder, account: str, to: AccountId, named: GrantId | None
) -> list[Grant]:
    async with client_of(layout, account) as client:
        if named is None:
            return await client.deliver_again(to)
        grant = await client.grant(named)
        if grant.grantee != to:
            raise Invalid(f"{named} is another account's grant", reason="wrong-grantee")
        await client.deliver(grant)
        return [grant]


def state_of(grant: Grant, now_ms: int) -> str:
    """In one word; a grant whose parent has ended may still say live here."""
    if grant.revoked_height:
        return "revoked"
    if now_ms < grant.not_before_ms:
        return "future"
    return "live" if now_ms < grant.not_after_ms else "expired"


def _print_grant(console: Console, grant: Grant, names: Names, now_ms: int) -> None:
    scope = f"bytes {grant.range_start} to {grant.range_start + grant.range_length - 1}"
    print_fields(
        console,
        [
            ("record", grant.record),
            ("blob", grant.blob),
            ("range", scope if grant.range_length else ""),
            ("grantee", names.of(grant.grantee)),
            ("actions", ", ".join(action_names(grant.actions))),
            ("purposes", ", ".join(grant.purposes)),
            (
                "ends",
                f"{time_text(grant.not_after_ms)} ({remaining_text(grant.not_after_ms, now_ms)})",
            ),
            ("under", grant.parent),
        ],
    )


def _as_data(grant: Grant) -> dict[str, Any]:
    return {
        "grant": grant.grant.text,
        "record": grant.record.text,
        "blob": grant.blob.text if grant.blob else None,
        "range_start": grant.range_start,
        "range_length": grant.range_length,
        "granter": grant.granter.text,
        "grantee": grant.grantee.text,
        "actions": list(action_names(grant.actions)),
        "purposes": list(grant.purposes),
        "not_before_ms": grant.not_before_ms,
        "not_after_ms": grant.not_after_ms,
        "parent": grant.parent.text if grant.parent else None,
        "height": grant.height,
        "revoked_height": grant.revoked_height or None,
    }
