"""``request consent``: what a FHIR Consent asks for, and what of it no grant can say.

It gives nothing, asks nobody and needs no account: whoever decides reads it, and gives grants
by ``grant give``.  What is not understood is not wished for (:mod:`hcefs.client.consent`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.options import JsonOption, action_names, parse_ceiling, parse_purposes, parse_until
from hcefs.cli.output import print_table, show, time_text, verb
from hcefs.cli.request import app
from hcefs.client.consent import Bounds, Reading, read_consent
from hcefs.errors import Invalid, NotFound
from hcefs.runtime import SystemRuntime

FILE_BYTES_MAX: Final = 1 << 20


def register() -> None:
    """Importing this module adds the verb; the call says that it is meant."""


@app.command("consent")
@verb
def consent(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A FHIR R4 Consent, as JSON.")],
    patient: Annotated[
        str,
        typer.Option(
            "--patient", metavar="REFERENCE", help="Whom it must be about, such as Patient/example."
        ),
    ],
    until: Annotated[
        str, typer.Option("--until", help="Latest end of any wish: a duration or an ISO time.")
    ] = "365d",
    custodians: Annotated[
        list[str] | None,
        typer.Option(
            "--custodian",
            metavar="REFERENCE",
            help="An organization all of whose data of this patient is meant; repeatable.",
        ),
    ] = None,
    purpose: Annotated[
        str, typer.Option("--purpose", help="Purposes where the document says none.")
    ] = "",
    ceiling: Annotated[
        str,
        typer.Option("--max-confidentiality", metavar="LEVEL", help="U, L, M, N, R or V."),
    ] = "N",
    as_json: JsonOption = False,
) -> None:
    """Show what a FHIR Consent wishes to be granted, and what of it cannot be expressed.

    Nothing is given by it, and the document is not verified: grants are given by the patient.
    """
    now = SystemRuntime().now_ms()
    bounds = Bounds(
        patient=patient,
        now_ms=now,
        not_after_ms=parse_until(until, now),
        custodians=frozenset(custodians or ()),
        purposes=parse_purposes(purpose) if purpose else (),
        ceiling=parse_ceiling(ceiling),
    )
    reading = read_consent(_document(file), bounds)
    show(_as_data(reading), as_json=as_json, human=lambda console: _print(console, reading))


def _document(file: Path) -> Any:
    """The JSON in a file.

    Raises:
        NotFound: ``no-file``.
        Invalid: ``bad-consent``: too long, or no JSON.
    """
    try:
        with file.expanduser().open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise NotFound(
            f"{file} cannot be read: {error.strerror or type(error).__name__}", reason="no-file"
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise Invalid(f"a Consent has at most {FILE_BYTES_MAX} bytes here", reason="bad-consent")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Invalid(f"{file} is no JSON document", reason="bad-consent") from None


def _as_data(reading: Reading) -> dict[str, Any]:
    return {
        "wishes": [
            {
                "grantee": each.grantee,
                "actions": list(action_names(each.actions)),
                "purposes": list(each.purposes),
                "not_before_ms": each.not_before_ms,
                "not_after_ms": each.not_after_ms,
                "max_confidentiality": each.ceiling.name,
                "excluded": list(each.excluded),
            }
            for each in reading.wishes
        ],
        "unexpressed": [{"path": each.path, "reason": each.reason} for each in reading.unexpressed],
    }


def _print(console: Console, reading: Reading) -> None:
    rows = [
        [
            each.grantee,
            ",".join(action_names(each.actions)),
            ",".join(each.purposes) or "-",
            time_text(each.not_before_ms),
            time_text(each.not_after_ms),
            each.ceiling.name,
            ",".join(each.excluded) or "-",
        ]
        for each in reading.wishes
    ]
    columns = ("FOR", "ACTIONS", "PURPOSES", "FROM", "UNTIL", "AT MOST", "WITHOUT")
    print_table(console, columns, rows, empty="it wishes for nothing that a grant can say")
    for each in reading.unexpressed:
        console.print(Text(f"left out: {each.path}: {each.reason}", style="yellow"))
    if reading.wishes:
        console.print(
            Text(
                "nothing is given yet: hcefs grant give --all --to ACCOUNT, once you know which "
                "account each reference is"
            )
        )
