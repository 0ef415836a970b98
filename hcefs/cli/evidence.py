"""``evidence``: a record with all that proves it, for a reader who trusts nobody here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.facts import Action
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import (
    DEFAULT_FOLDER,
    AsOption,
    FolderOption,
    JsonOption,
    folder,
)
from hcefs.cli.output import note, print_fields, show, size_text, verb
from hcefs.cli.record import RecordArgument
from hcefs.cli.session import choose_grant, client_of, run
from hcefs.client.evidence_file import VERIFIER, export_evidence, verifier_text
from hcefs.client.verify_evidence import LIMITS, Report, Wrong, verify_file
from hcefs.errors import Conflict, Invalid
from hcefs.ids import RecordId

app = typer.Typer(
    help="Evidence: a record that anyone can verify, without this system.", no_args_is_help=True
)


@app.command("export")
@verb
def export(
    record: RecordArgument,
    account: AsOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The zip file to write.")],
    payloads: Annotated[
        bool, typer.Option("--payloads", help="With the payloads, in the clear, and their keys.")
    ] = False,
    grant: Annotated[
        str, typer.Option("--grant", metavar="GRANT", help="By a grant; the owner needs none.")
    ] = "",
    purpose: Annotated[str, typer.Option("--purpose", help="Purpose of use.")] = "PATRQT",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Write a record's evidence: entries, rights, proofs, and what nodes state.

    The file is checked with the verifier that goes with it before this ends.
    """
    layout = folder(directory)
    report = run(_export(layout, account, RecordId.parse(record), grant, purpose, out, payloads))
    _show(report, out, as_json)


async def _export(
    layout: ClusterFolder,
    account: str,
    record: RecordId,
    grant: str,
    purpose: str,
    out: Path,
    payloads: bool,
) -> Report:
    async with client_of(layout, account) as client:
        by = await choose_grant(client, grant, record, Action.READ, purpose)
        report, listing = await export_evidence(
            client, record, out, grant=by, purpose=purpose, payloads=payloads
        )
    if not listing.complete:
        note(f"{listing.missing} entries of the record cannot be shown: no node opens them")
    return report


@app.command("verify")
@verb
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="FILE", help="The bundle, a zip file.")],
    cluster: Annotated[
        str, typer.Option("--cluster", metavar="CLUSTER", help="The cluster that you expect.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Verify a bundle offline; exit code 1 when anything in it does not hold."""
    try:
        report = verify_file(str(bundle), cluster)
    except Wrong as error:
        raise Invalid(str(error), reason="no-evidence-bundle") from None
    _show(report, bundle, as_json)
    if report.wrong:
        raise typer.Exit(1)


@app.command("verifier")
@verb
def verifier(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")] = Path(
        VERIFIER
    ),
) -> None:
    """Write the verifier: one file that needs nothing of this system."""
    if out.exists():
        raise Conflict(f"{out} exists: name another file", reason="file-exists")
    out.write_text(verifier_text(), encoding="utf-8")
    note(f"written to {out}")


def _show(report: Report, path: Path, as_json: bool) -> None:
    data: dict[str, Any] = {
        "file": str(path),
        "cluster": report.cluster,
        "record": report.record,
        "holds": not report.wrong,
        "proved": report.proved,
        "wrong": report.wrong,
        "not_proved": list(LIMITS),
        "entries": report.entries,
        "rights": report.rights,
        "accesses": report.accesses,
    }

    def human(console: Console) -> None:
        print_fields(
            console,
            [
                ("file", f"{path} ({size_text(path.stat().st_size)})"),
                ("record", report.record),
                ("entries", len(report.entries)),
                ("rights", len(report.rights)),
                ("accesses", len(report.accesses)),
            ],
        )
        for line in report.proved:
            console.print(Text.assemble(("proved  ", "green"), line))
        for line in report.wrong:
            console.print(Text.assemble(("WRONG   ", "red"), line))
        for line in LIMITS:
            console.print(Text.assemble(("limit   ", "dim"), f"not proved: {line}"))

    show(data, as_json=as_json, human=human)
