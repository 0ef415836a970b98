"""Revocation certificates at the command line: ``verify-certificate``, and their words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.options import JsonOption, action_names
from hcefs.cli.output import print_fields, print_table, show, time_text, verb
from hcefs.errors import Corrupt, Invalid, NotFound
from hcefs.evidence.revocation import RevocationCertificate
from hcefs.ids import ClusterId
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.revocation_proof import Verdict, verify_certificate

INCOMPLETE = 1

PROVES = (
    "the ledger of this cluster holds the grant and its revocation, in a block that its writer "
    "signed",
    "each node below that confirms was registered on this ledger as a node, and signed that it "
    "had applied that block, serves nothing under the grant and remembers no token of it",
    "the nodes below that have lapsed had no right to serve anybody any more at the time given, "
    "by the ledger's own signed clock, unless they heard of the revocation",
)
PROVES_NOT = (
    "it does not recall what was fetched before: who has read can keep what was read, and the "
    "keys that came with it",
    "it does not show that a node which signs tells the truth; where k nodes lie together, they "
    "can serve",
    "that there are no other nodes is the word of those that sign: they all name one cluster map",
)


def add_to(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("verify-certificate")(verify_file)


@verb
def verify_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The certificate.")],
    genesis: Annotated[
        Path | None,
        typer.Option("--genesis", metavar="FILE", help="The genesis that you trust."),
    ] = None,
    cluster: Annotated[
        str, typer.Option("--cluster", metavar="CLUSTER", help="The id of the cluster you trust.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check a revocation certificate offline; exit code 1 when it does not prove enough.

    The file holds all that is needed.  Which cluster it is about is for you to know: name
    the genesis or the cluster's id, or compare the id that is shown.
    """
    verdict = verify_certificate(load(file))
    trusted = _trusted(genesis, cluster)
    if trusted is not None and trusted != verdict.cluster:
        raise Corrupt(
            f"this certificate is of {verdict.cluster}, not of {trusted}", reason="wrong-cluster"
        )
    data = as_data(verdict)
    show(data, as_json=as_json, human=lambda console: print_verdict(console, verdict))
    if not verdict.complete:
        raise typer.Exit(INCOMPLETE)


def load(file: Path) -> RevocationCertificate:
    """The certificate in a file.

    Raises:
        NotFound: there is none.
        Corrupt: ``bad-certificate``: it is none, or was changed.
    """
    try:
        with file.expanduser().open("rb") as opened:
            data = opened.read(RevocationCertificate.MAX_BYTES + 1)
    except OSError as error:
        raise NotFound(
            f"{file} cannot be read: {error.strerror or type(error).__name__}", reason="no-file"
        ) from None
    try:
        return RevocationCertificate.decode(data)
    except Invalid:
        raise Corrupt(
            f"{file} is no revocation certificate, or was damaged: have another one made",
            reason="bad-certificate",
        ) from None


def _trusted(genesis: Path | None, cluster: str) -> ClusterId | None:
    if genesis is not None:
        try:
            return Genesis.decode(genesis.expanduser().read_bytes()).cluster
        except OSError as error:
            raise NotFound(f"{genesis}: {error.strerror}", reason="no-file") from None
    return ClusterId.parse(cluster) if cluster else None


def as_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict, as data."""
    given, block, gap = verdict.given, verdict.block, verdict.gap
    return {
        "complete": verdict.complete,
        "cluster": verdict.cluster.text,
        "grant": given.grant.text,
        "record": given.record.text,
        "grantee": given.grantee.text,
        "actions": list(action_names(given.actions)),
        "height": block.height,
        "time_ms": block.time_ms,
        "epoch": verdict.epoch,
        "made_ms": verdict.made_ms,
        "confirmed": [
            {
                "node": each.node_id,
                "account": each.statement.node.text,
                "time_ms": each.statement.time_ms,
                "applied_height": each.statement.applied_height,
                "streams_cut": each.statement.streams_cut,
                "tokens_dropped": each.statement.tokens_dropped,
            }
            for each in verdict.confirmed
        ],
        "lapsed": list(verdict.lapsed),
        "lapsed_ms": verdict.lapsed_ms if verdict.lapsed else None,
        "silent": list(verdict.silent),
        "gap": None
        if gap is None
        else {
            "profile": gap.profile,
            "partition": gap.partition,
            "indexes": gap.indexes,
            "k": gap.k,
        },
        "proves": list(PROVES),
        "does_not_prove": list(PROVES_NOT),
    }


def print_verdict(console: Console, verdict: Verdict) -> None:
    """A verdict, for people."""
    given, block = verdict.given, verdict.block
    word = "the revocation is in force everywhere" if verdict.complete else "not proved everywhere"
    console.print(Text(word, style="green" if verdict.complete else "red"))
    print_fields(
        console,
        [
            ("cluster", verdict.cluster),
            ("grant", given.grant),
            ("grantee", given.grantee),
            ("record", given.record),
            ("revoked", f"at height {block.height}, {time_text(block.time_ms)}"),
            ("cluster map", f"epoch {verdict.epoch}"),
        ],
    )
    rows: list[list[Any]] = [
        [
            each.node_id,
            Text("confirmed", style="green"),
            time_text(each.statement.time_ms),
            each.statement.streams_cut,
            each.statement.tokens_dropped,
        ]
        for each in verdict.confirmed
    ]
    rows += [[node, "lapsed", time_text(verdict.lapsed_ms), "-", "-"] for node in verdict.lapsed]
    rows += [[node, Text("silent", style="red"), "-", "-", "-"] for node in verdict.silent]
    columns = ("NODE", "STATE", "WHEN", "CUT", "TOKENS")
    print_table(console, columns, rows, right=("NODE", "CUT", "TOKENS"))
    if verdict.gap is not None:
        console.print(
            f"silent nodes may hold {verdict.gap.indexes} indexes of partition "
            f"{verdict.gap.partition} of {verdict.gap.profile}; {verdict.gap.k} suffice to read. "
            f"Their leases are over at {time_text(verdict.lapsed_ms)}: ask again after that"
        )
    console.print("What it proves:")
    for line in PROVES:
        console.print(f"  - {line}", soft_wrap=True)
    console.print("What it does not:")
    for line in PROVES_NOT:
        console.print(f"  - {line}", soft_wrap=True)
