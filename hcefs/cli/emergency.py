"""``emergency``: break the glass, and look at what was broken.

What patients do beforehand is in :mod:`hcefs.cli.namings`.

Notes never leave this machine: the ledger gets their BLAKE3 digest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.emergency import EmergencyOpening, EmergencyPolicy, EmergencyRefusal
from hcefs.cli.bringup import THRESHOLD
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import DEFAULT_FOLDER, AsOption, FolderOption, JsonOption, folder
from hcefs.cli.output import print_fields, print_table, show, time_text, verb
from hcefs.cli.session import Names, client_of, run
from hcefs.client.client import Client
from hcefs.client.ledger import Submitted
from hcefs.errors import Invalid, NotFound
from hcefs.ids import GrantId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.transactions import Transaction, sign_transaction
from hcefs.ledger.transactions_emergency import ReviewEmergency, SetEmergencyPolicy
from hcefs.runtime import SystemRuntime

NOTE_BYTES_MAX = 1 << 20

app = typer.Typer(
    help="Emergencies: who may open, what was opened, who looked at it.", no_args_is_help=True
)

RecordsArgument = Annotated[list[str], typer.Argument(metavar="RECORD...", help="Ids (rec-...).")]
OpeningArgument = Annotated[str, typer.Argument(metavar="OPENING", help="Id (grt-...).")]
NoteOption = Annotated[
    Path | None,
    typer.Option("--note", metavar="FILE", help="A note; only its digest goes on the ledger."),
]


@app.command("policy")
@verb
def policy(
    allow: Annotated[
        bool | None, typer.Option("--allow/--forbid", help="Whether anything may be opened.")
    ] = None,
    roles: Annotated[
        str, typer.Option("--roles", help="Codes of roles that may open; joined by commas.")
    ] = "",
    reasons: Annotated[
        str, typer.Option("--reasons", help="Codes of reasons that count; joined by commas.")
    ] = "",
    minutes: Annotated[
        int | None, typer.Option("--minutes", help="Longest opening, at most 60.")
    ] = None,
    review_hours: Annotated[
        int | None, typer.Option("--review-hours", help="By when it must be reviewed.")
    ] = None,
    refusal_wins: Annotated[
        bool | None,
        typer.Option("--refusal-wins/--refusal-yields", help="Whether a patient's refusal wins."),
    ] = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show the emergency policy, or change it, signed by the operators of this folder."""
    wanted: dict[str, Any] = {
        "allowed": allow,
        "roles": _codes(roles) or None,
        "reasons": _codes(reasons) or None,
        "minutes_max": minutes,
        "review_hours": review_hours,
        "refusal_wins": refusal_wins,
    }
    changes = {name: value for name, value in wanted.items() if value is not None}
    found = run(_policy(folder(directory), changes))
    show(_policy_data(found), as_json=as_json, human=lambda console: _print_policy(console, found))


async def _policy(layout: ClusterFolder, changes: dict[str, Any]) -> EmergencyPolicy:
    async with client_of(layout, layout.operator) as client:
        current = await client.emergency_policy()
        new = replace(current, **changes)
        if new == current:
            return current
        await _by_operators(
            layout,
            client,
            SetEmergencyPolicy(current.number, replace(new, number=current.number + 1)),
        )
        return await client.emergency_policy()


async def _by_operators(
    layout: ClusterFolder, client: Client, transaction: Transaction
) -> Submitted:
    transaction.check()
    signers = [layout.load_keys(name) for name in layout.operators(THRESHOLD)]
    signed = sign_transaction(
        transaction,
        client.connection.cluster,
        [(keys.account, keys.key_version, keys.signing_key) for keys in signers],
    )
    return await client.submit(signed)


@app.command("open")
@verb
def open_(
    records: RecordsArgument,
    account: AsOption,
    role: Annotated[str, typer.Option("--role", metavar="CODE", help="One of the policy's.")],
    reason: Annotated[str, typer.Option("--reason", metavar="CODE", help="One of the policy's.")],
    minutes: Annotated[
        int | None,
        typer.Option("--minutes", help="How long; by default as long as the policy allows."),
    ] = None,
    note: NoteOption = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Open records of one patient in an emergency; the patient sees it, and it is reviewed."""
    layout, wanted, digest = folder(directory), record_ids(records), _digest(note)

    async def work() -> EmergencyOpening:
        async with client_of(layout, account) as client:
            return await client.open_emergency(
                wanted, role=role, reason=reason, minutes=minutes, note_digest=digest
            )

    _show_opening(layout, run(work()), as_json=as_json)


@app.command("close")
@verb
def close(
    opening: OpeningArgument,
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """End an opening before its time, as its opener, the patient or the institution."""
    layout, wanted = folder(directory), GrantId.parse(opening)

    async def work() -> EmergencyOpening:
        async with client_of(layout, account) as client:
            await client.close_emergency(wanted)
            return await client.emergency(wanted)

    _show_opening(layout, run(work()), as_json=as_json)


@app.command("review")
@verb
def review(
    opening: OpeningArgument,
    account: Annotated[
        str,
        typer.Option(
            "--as", metavar="NAME", help="The patient or the institution; else the operators."
        ),
    ] = "",
    unjustified: Annotated[
        bool, typer.Option("--unjustified", help="It should not have been opened.")
    ] = False,
    note: NoteOption = None,
    keep_keys: Annotated[
        bool,
        typer.Option("--keep-keys", help="As the patient: do not renew the records' keys."),
    ] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Say what a look at an opening that has ended found; the patient's renews the keys."""
    layout = folder(directory)
    verdict = _Verdict(GrantId.parse(opening), not unjustified, _digest(note), not keep_keys)
    _show_opening(layout, run(_review(layout, account, verdict)), as_json=as_json)


@dataclass(frozen=True)
class _Verdict:
    """What a reviewer says, all texts read."""

    opening: GrantId
    justified: bool
    note_digest: bytes
    renew: bool


async def _review(layout: ClusterFolder, account: str, verdict: _Verdict) -> EmergencyOpening:
    async with client_of(layout, account or layout.operator) as client:
        if not account:
            said = ReviewEmergency(verdict.opening, verdict.justified, verdict.note_digest)
            await _by_operators(layout, client, said)
            return await client.emergency(verdict.opening)
        await client.review_emergency(
            verdict.opening, justified=verdict.justified, note_digest=verdict.note_digest
        )
        found = await client.emergency(verdict.opening)
        if found.patient == client.account and verdict.renew:
            await client.renew_after(found)
        return found


@app.command("list")
@verb
def list_(
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """List openings: a patient's, a practitioner's own, or (others) those without a review."""
    layout = folder(directory)

    async def work() -> tuple[list[EmergencyOpening], list[EmergencyRefusal]]:
        async with client_of(layout, account) as client:
            return await client.emergencies(), await client.emergency_refusals()

    openings, refusals = run(work())
    now, names = SystemRuntime().now_ms(), Names(layout)

    def human(console: Console) -> None:
        rows = [
            [
                each.opening,
                Text(_state(each, now), style=_STYLES.get(_state(each, now), "")),
                names.of(each.opener),
                f"{each.role}: {each.reason}",
                time_text(each.opened_ms),
                time_text(each.until_ms),
                f"{len(each.records)} of {names.of(each.patient)}",
            ]
            for each in openings
        ]
        columns = ("OPENING", "STATE", "BY", "WHY", "OPENED", "UNTIL", "RECORDS")
        print_table(console, columns, rows, empty="nothing was opened")
        for refused in refusals:
            console.print(Text(f"{refused.record} is refused to everybody"))

    show(
        {
            "openings": [_opening_data(each, now) for each in openings],
            "refused": [each.record.text for each in refusals],
        },
        as_json=as_json,
        human=human,
    )


_STYLES = {"open": "yellow", "overdue": "red", "unjustified": "red", "justified": "green"}


def _state(opening: EmergencyOpening, now_ms: int) -> str:
    """In one word."""
    if opening.is_open(now_ms):
        return "open"
    if opening.is_overdue(now_ms):
        return "overdue"
    if not opening.reviews:
        return "not reviewed"
    return "justified" if all(each.justified for each in opening.reviews) else "unjustified"


def record_ids(texts: list[str]) -> list[RecordId]:
    """The ids of records in arguments.

    Raises:
        Invalid: one is none.
    """
    return [RecordId.parse(text) for text in texts]


def _codes(text: str) -> tuple[str, ...]:
    return tuple(sorted({word.strip() for word in text.split(",") if word.strip()}))


def _digest(note: Path | None) -> bytes:
    """The digest of a note.

    Raises:
        NotFound, Invalid: there is no such file, or it is no note.
    """
    if note is None:
        return b""
    if not note.is_file():
        raise NotFound(f"{note} is no file: name one with a note", reason="no-file")
    if note.stat().st_size > NOTE_BYTES_MAX:
        raise Invalid(f"a note has at most {NOTE_BYTES_MAX} bytes", reason="bad-file")
    return blake3_digest(note.read_bytes())


def _show_opening(layout: ClusterFolder, opening: EmergencyOpening, *, as_json: bool) -> None:
    now, names = SystemRuntime().now_ms(), Names(layout)

    def human(console: Console) -> None:
        console.print(Text(opening.opening.text, style="green"))
        print_fields(
            console,
            [
                ("state", _state(opening, now)),
                ("patient", names.of(opening.patient)),
                ("opened by", f"{names.of(opening.opener)} as {opening.role}"),
                ("reason", opening.reason),
                ("until", f"{time_text(opening.until_ms)}"),
                ("review by", f"{time_text(opening.review_by_ms)}"),
                ("records", ", ".join(each.text for each in opening.records)),
            ],
        )

    show(_opening_data(opening, now), as_json=as_json, human=human)


def _opening_data(opening: EmergencyOpening, now_ms: int) -> dict[str, Any]:
    return {
        "opening": opening.opening.text,
        "state": _state(opening, now_ms),
        "patient": opening.patient.text,
        "opener": opening.opener.text,
        "institution": opening.institution.text,
        "role": opening.role,
        "reason": opening.reason,
        "note_digest": opening.note_digest.hex() or None,
        "records": [each.text for each in opening.records],
        "grants": [each.text for each in opening.grants()],
        "opened_ms": opening.opened_ms,
        "until_ms": opening.until_ms,
        "closed_by": opening.closed_by.text if opening.closed_by else None,
        "review_by_ms": opening.review_by_ms,
        "overdue": opening.is_overdue(now_ms),
        "reviews": [
            {
                "reviewer": each.reviewer.text if each.reviewer else "operators",
                "justified": each.justified,
                "note_digest": each.note_digest.hex() or None,
                "time_ms": each.time_ms,
            }
            for each in opening.reviews
        ],
        "height": opening.height,
    }


def _print_policy(console: Console, found: EmergencyPolicy) -> None:
    print_fields(
        console,
        [
            ("openings", "allowed" if found.allowed else "forbidden"),
            ("roles", ", ".join(found.roles)),
            ("reasons", ", ".join(found.reasons)),
            ("at most", f"{found.minutes_max} minutes"),
            ("review", f"within {found.review_hours} hours"),
            ("a refusal", "wins" if found.refusal_wins else "is shown, and yields"),
            ("number", found.number),
        ],
    )


def _policy_data(found: EmergencyPolicy) -> dict[str, Any]:
    return {
        "number": found.number,
        "allowed": found.allowed,
        "roles": list(found.roles),
        "reasons": list(found.reasons),
        "minutes_max": found.minutes_max,
        "review_hours": found.review_hours,
        "refusal_wins": found.refusal_wins,
    }
