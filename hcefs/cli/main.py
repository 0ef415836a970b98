"""The command line ``hcefs``: all verbs, put together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hcefs import __version__
from hcefs.cli import (
    account,
    account_end,
    audit,
    backup,
    bench,
    blob,
    ca,
    cap,
    certificate,
    certificates,
    chaos,
    cluster,
    consent,
    console,
    demo,
    doctor,
    emergency,
    erasure,
    evidence,
    grant,
    guardians,
    keys,
    layout,
    ledger,
    listing,
    many,
    members,
    namings,
    node,
    operator_verbs,
    record,
    repair,
    request,
    restore,
    scrub,
    sim,
    statement_verbs,
    upgrade,
    verify,
)
from hcefs.cli.passphrases import PASSPHRASES

app = typer.Typer(
    name="hcefs",
    help="Distributed encrypted file storage for medical data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cluster.add_to(app)
blob.add_to(app)
many.add_to(app)
listing.add_to(app)
demo.add_to(app)
chaos.add_to(app)
doctor.add_to(app)
ca.add_to(app)
app.add_typer(account.app, name="account")
account_end.register()
app.add_typer(operator_verbs.app, name="operators")
statement_verbs.register()
app.add_typer(record.app, name="record")
app.add_typer(grant.app, name="grant")
consent.register()
app.add_typer(request.app, name="request")
guardians.register()
app.add_typer(ca.app, name="ca")
app.add_typer(keys.app, name="keys")
app.add_typer(cap.app, name="cap")
namings.register()
app.add_typer(emergency.app, name="emergency")
app.add_typer(evidence.app, name="evidence")
members.register()
certificates.register()
app.add_typer(node.app, name="node")
app.add_typer(layout.app, name="layout")
layout.add_to(app)
app.add_typer(repair.app, name="repair")
verify.add_to(app)
certificate.add_to(app)
erasure.add_to(app)
scrub.add_to(app)
app.add_typer(backup.app, name="backup")
restore.add_to(app)
console.add_to(app)
app.add_typer(ledger.app, name="ledger")
app.add_typer(upgrade.app, name="upgrade")
app.add_typer(audit.app, name="audit")
app.add_typer(bench.app, name="bench")
app.command()(sim.sim)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hcefs {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file",
            envvar="HCEFS_PASSPHRASE_FILE",
            metavar="FILE",
            help="File with the passphrase of the account's keys, for nobody else to read; "
            "by default it is asked for.",
        ),
    ] = None,
) -> None:
    """Distributed encrypted file storage for medical data.

    Exit codes: 2 invalid, 3 not found, 4 denied, 5 conflict, 6 unavailable or
    exhausted, 7 corrupt, 1 anything else.
    """
    PASSPHRASES.use(passphrase_file)


def main() -> None:
    """Run the command line."""
    app()
