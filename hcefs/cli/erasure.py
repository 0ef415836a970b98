"""``erase``, ``hold``, ``record retention`` and ``verify-erasure``: the end of a record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.erasure_facts import Hold
from hcefs.cli.bringup import THRESHOLD
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import (
    DEFAULT_FOLDER,
    FolderOption,
    JsonOption,
    folder,
    parse_until,
)
from hcefs.cli.output import confirm, note, print_fields, print_table, show, time_text, verb
from hcefs.cli.record import RecordArgument
from hcefs.cli.record import app as record_app
from hcefs.cli.session import Names, client_of, run
from hcefs.client.client import Client
from hcefs.client.erasure import ErasureState, RecordEnd
from hcefs.client.erasure_check import CheckedErasure, check_certificate
from hcefs.client.ledger import Submitted
from hcefs.durable_files import replace_file
from hcefs.errors import Conflict, Invalid
from hcefs.evidence.erasure import ErasureCertificate, read_certificate
from hcefs.ids import ClusterId, GrantId, HoldId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.transactions import Transaction
from hcefs.ledger.transactions_erasure import EraseRecord, LiftHold, PlaceHold, SetRetention
from hcefs.runtime import SystemRuntime

WAIT_SECONDS = 3_600.0
DOCUMENT_BYTES_MAX = 256 << 20

hold_app = typer.Typer(help="Legal holds: what is held is not erased.", no_args_is_help=True)

ActorOption = Annotated[
    str,
    typer.Option(
        "--as", metavar="NAME", help="Account to act as; by default this folder's operators."
    ),
]
StandingOption = Annotated[
    str,
    typer.Option(
        "--standing",
        metavar="GRANT",
        help="For an institution that did not admit the patient: a grant by which it, or "
        "somebody it admitted, may append.",
    ),
]
CaseOption = Annotated[
    Path, typer.Option("--case", metavar="FILE", help="The document that orders it; only its "
                       "digest goes on the ledger.")
]  # fmt: skip


def add_to(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("erase")(erase)
    app.command("verify-erasure")(verify_erasure)
    app.add_typer(hold_app, name="hold")


# --- retention and holds --------------------------------------------------------------------


@record_app.command("retention")
@verb
def retention(
    record: RecordArgument,
    account: ActorOption = "",
    until: Annotated[
        str, typer.Option("--until", help="Keep it until then: a duration (10d) or an ISO time.")
    ] = "",
    jurisdiction: Annotated[
        str, typer.Option("--law", metavar="CODE", help="By whose law: ISO 3166, such as DE-BY.")
    ] = "",
    standing: StandingOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show how long a record must be kept; with --until and --law, set it."""
    if bool(until) != bool(jurisdiction):
        raise Invalid("to set a date, say --until and --law", reason="bad-arguments")
    layout, wanted = folder(directory), RecordId.parse(record)

    async def work() -> RecordEnd:
        async with client_of(layout, account or layout.operator) as client:
            if until:
                date = parse_until(until, client.runtime.now_ms())
                made = SetRetention(wanted, date, jurisdiction, _standing(standing))
                await _submit(layout, client, made, account)
            return await client.record_end(wanted)

    _show_end(layout, wanted, run(work()), as_json=as_json)


@hold_app.command("place")
@verb
def place(
    record: RecordArgument,
    case: CaseOption,
    account: ActorOption = "",
    standing: StandingOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Place a legal hold on a record."""
    layout, wanted = folder(directory), RecordId.parse(record)
    digest = _digest_of(case)

    async def work() -> tuple[HoldId, Submitted]:
        async with client_of(layout, account or layout.operator) as client:
            hold = HoldId(client.runtime.random(HoldId.SIZE))
            made = PlaceHold(wanted, hold, digest, _standing(standing))
            return hold, await _submit(layout, client, made, account)

    hold, done = run(work())
    data = {"record": wanted.text, "hold": hold.text, "height": done.height, "case": digest.hex()}
    show(data, as_json=as_json, human=lambda console: console.print(Text(hold.text)))


@hold_app.command("lift")
@verb
def lift(
    record: RecordArgument,
    hold: Annotated[str, typer.Argument(metavar="HOLD", help="Id (hold-...).")],
    account: ActorOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Lift one hold; others on the record stay."""
    layout, wanted, named = folder(directory), RecordId.parse(record), HoldId.parse(hold)

    async def work() -> Submitted:
        async with client_of(layout, account or layout.operator) as client:
            return await _submit(layout, client, LiftHold(wanted, named), account)

    done = run(work())
    data = {"record": wanted.text, "hold": named.text, "lifted_height": done.height}
    text = Text(f"lifted at height {done.height}")
    show(data, as_json=as_json, human=lambda console: console.print(text))


@hold_app.command("list")
@verb
def list_(
    record: RecordArgument,
    account: ActorOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """List all holds on a record, lifted ones too."""
    layout, wanted = folder(directory), RecordId.parse(record)
    end = run(_end(layout, wanted, account))
    names = Names(layout)

    def by(hold: Hold) -> str:
        return names.of(hold.placed_by) if hold.placed_by else "operators"

    def human(console: Console) -> None:
        rows = [
            (hold.hold, by(hold), hold.height, hold.lifted_height or "stands")
            for hold in sorted(end.holds, key=lambda each: each.height)
        ]
        print_table(
            console, ("HOLD", "BY", "SINCE HEIGHT", "LIFTED"), rows, empty="no holds"
        )  # fmt: skip

    show([_hold_data(hold) for hold in end.holds], as_json=as_json, human=human)


# --- erasure --------------------------------------------------------------------------------


@verb
def erase(
    record: RecordArgument,
    account: ActorOption = "",
    order: Annotated[
        Path | None,
        typer.Option("--order", metavar="FILE", help="For operators: the document that orders it; "
                     "only its digest goes on the ledger."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until every node has deleted.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the certificate there.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what stands in its way.")
    ] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Erase a record for ever: its keys first, then all of it, on every node.

    A record that is erased already only gives its certificate.  Exit code 1 when some node
    has not confirmed.
    """
    layout, wanted = folder(directory), RecordId.parse(record)
    if bool(account) == bool(order):
        raise Invalid(
            "an owner erases with --as, operators with --order FILE: say one of them",
            reason="bad-arguments",
        )
    end = run(_end(layout, wanted, account))
    if dry_run:
        _show_end(layout, wanted, end, as_json=as_json)
        return
    _require_time(end)
    if end.erasure is None:
        question = f"Erase {wanted} for ever? Nobody can bring it back."
        confirm(question, yes=yes, otherwise="nothing was erased")

    async def work() -> ErasureCertificate:
        async with client_of(layout, account or layout.operator) as client:
            if end.erasure is None:
                made = EraseRecord(wanted, b"" if order is None else _digest_of(order))
                done = await _submit(layout, client, made, account)
                note(f"erased at height {done.height}; nodes delete now", quiet=as_json)
            seconds = WAIT_SECONDS if wait else 0.0
            return await client.erasure_certificate(
                wanted, wait_seconds=seconds, watch=_Watch(quiet=as_json)
            )

    certificate = run(work())
    if out is not None:
        replace_file(out, certificate.encode())
    _show_checked(layout, check_certificate(certificate), as_json=as_json, written=out)


@verb
def verify_erasure(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An erasure certificate.")],
    cluster: Annotated[
        str, typer.Option("--cluster", metavar="ID", help="The cluster it must be of (clu-...).")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check an erasure certificate offline.  Exit code 1 when it is not complete."""
    if file.stat().st_size > ErasureCertificate.MAX_BYTES:
        raise Invalid("this file is too long for a certificate", reason="too-large")
    certificate = read_certificate(file.read_bytes())
    checked = check_certificate(certificate, ClusterId.parse(cluster) if cluster else None)
    _show_checked(None, checked, as_json=as_json, written=None)


# --- shared ---------------------------------------------------------------------------------


async def _submit(
    layout: ClusterFolder, client: Client, made: Transaction, account: str
) -> Submitted:
    """Submit as one account, or as the operator threshold of the folder."""
    signed = client.prepare(made)
    if not account:
        for name in layout.operators(THRESHOLD)[1:]:
            async with client_of(layout, name) as other:
                signed = other.cosign(signed)
    return await client.submit(signed)


async def _end(layout: ClusterFolder, record: RecordId, account: str) -> RecordEnd:
    async with client_of(layout, account or layout.operator) as client:
        return await client.record_end(record)


class _Watch:
    """Says on standard error whom a certificate waits for, and why, whenever that changes."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""

    def __call__(self, states: list[ErasureState]) -> None:
        lacking = [
            f"node {each.node.node_id} ({each.problem or each.stage})"
            for each in states
            if each.statement is None
        ]
        line = f"not confirmed by {', '.join(lacking)}" if lacking else ""
        if line and line != self._last:
            note(line, quiet=self._quiet)
        self._last = line


def _require_time(end: RecordEnd) -> None:
    """Say before anybody is asked, and in days, that it is too early; the ledger decides.

    Raises:
        Conflict: ``retained``.
    """
    if end.retention is not None and "retained" in end.obstacles(SystemRuntime().now_ms()):
        raise Conflict(
            f"this record must be kept until {time_text(end.retention.retain_until_ms)} by the "
            f"law of {end.retention.jurisdiction}: erase it after that",
            reason="retained",
        )


def _standing(text: str) -> GrantId:
    return GrantId.parse(text) if text else GrantId.zero()


def _digest_of(path: Path) -> bytes:
    """The digest of a document.

    Raises:
        Invalid: ``too-large``.
    """
    if path.stat().st_size > DOCUMENT_BYTES_MAX:
        raise Invalid(f"{path} is too long for a document", reason="too-large")
    return blake3_digest(path.read_bytes())


def _hold_data(hold: Hold) -> dict[str, Any]:
    return {
        "hold": hold.hold.text,
        "placed_by": hold.placed_by.text if hold.placed_by else "operators",
        "case": hold.case_digest.hex(),
        "height": hold.height,
        "lifted_height": hold.lifted_height,
    }


def _show_end(layout: ClusterFolder, record: RecordId, end: RecordEnd, *, as_json: bool) -> None:
    known, erasure = end.retention, end.erasure
    obstacles = end.obstacles(SystemRuntime().now_ms())
    data = {
        "record": record.text,
        "retain_until_ms": known.retain_until_ms if known else None,
        "jurisdiction": known.jurisdiction if known else None,
        "holds": [_hold_data(hold) for hold in end.standing],
        "erased_height": erasure.height if erasure else None,
        "obstacles": list(obstacles),
    }

    def human(console: Console) -> None:
        names = Names(layout)
        fields: list[tuple[str, object]] = [("record", record)]
        if known is not None:
            until = f"{time_text(known.retain_until_ms)}, law of {known.jurisdiction}"
            by = names.of(known.set_by) if known.set_by else "operators"
            fields += [("kept until", until), ("set by", by)]
        else:
            fields.append(("kept until", "no date is set"))
        fields.append(("holds", len(end.standing) or "none stands"))
        if erasure is not None:
            fields.append(("erased", f"at height {erasure.height}, {time_text(erasure.time_ms)}"))
        elif obstacles == ("no-retention",):
            fields.append(
                ("erasing it", "possible now for operators; if it is empty, for its owner")
            )
        else:
            refused = f"refused now: {', '.join(obstacles)}"
            fields.append(("erasing it", refused if obstacles else "possible now"))
        print_fields(console, fields)

    show(data, as_json=as_json, human=human)


def _show_checked(
    layout: ClusterFolder | None, checked: CheckedErasure, *, as_json: bool, written: Path | None
) -> None:
    certificate, exposure = checked.certificate, checked.exposure
    signed = certificate.statements
    data = {
        "cluster": certificate.cluster.text,
        "record": certificate.record.text,
        "erased_height": checked.height,
        "erased_ms": checked.time_ms,
        "order": checked.by_order.hex(),
        "complete": exposure.complete,
        "signed": [each.node.text for each in signed],
        "missing": [
            {"node": each.node_id, "account": each.account.text, "state": each.state.name.lower()}
            for each in exposure.missing
        ],
        "missing_may_have_shards": exposure.shards,
        "could_open": [account.text for account in exposure.openers],
        "file": str(written) if written else None,
    }

    def human(console: Console) -> None:
        style = "green" if exposure.complete else "yellow"
        count = len(signed)
        verdict = "complete" if exposure.complete else "NOT complete"
        console.print(Text(f"{verdict}: {count} nodes hold nothing of it any more"), style=style)
        print_fields(
            console,
            [
                ("cluster", certificate.cluster),
                ("record", certificate.record),
                ("erased", f"at height {checked.height}, {time_text(checked.time_ms)}"),
                ("deleted", _deleted_text(certificate)),
                ("order", checked.by_order.hex()),
                ("certificate", written),
            ],
        )
        if not exposure.complete:
            for line in _missing_lines(layout, checked):
                console.print(Text(line))

    show(data, as_json=as_json, human=human)
    if not exposure.complete:
        raise typer.Exit(1)


def _deleted_text(certificate: ErasureCertificate) -> str:
    def total(name: str) -> int:
        return sum(int(getattr(each, name)) for each in certificate.statements)

    names = ("key_rows", "boxes", "links", "openings", "shards")
    return ", ".join(f"{total(name)} {name.replace('_', ' ')}" for name in names)


def _missing_lines(layout: ClusterFolder | None, checked: CheckedErasure) -> Sequence[str]:
    """Who is missing, and what that means."""
    exposure = checked.exposure
    lines = [
        f"missing: node {each.node_id} ({each.state.name.lower()}, {each.account})"
        for each in exposure.missing
    ]
    text = "may hold sealed data keys and key boxes, " + (
        "and enough shards for ciphertext" if exposure.shards else "but too few shards to read"
    )
    lines.append(f"their disks {text}")
    names = Names(layout) if layout is not None else None
    openers = [names.of(each) if names else each.text for each in exposure.openers]
    lines.append(
        "who could open what they hold: " + (", ".join(openers) or "its owner, and whoever had a "
        "grant to read (ask as the owner to have them named)")
    )  # fmt: skip
    return lines
