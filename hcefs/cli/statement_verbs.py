"""``operators sign|combine|submit``: statements that operators on different machines sign.

What a statement is, and what may travel so, is in :mod:`hcefs.cli.statements`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.operator_verbs import app
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, YesOption, folder
from hcefs.cli.output import confirm, err, note, show, verb
from hcefs.cli.session import client_of, run
from hcefs.cli.statements import combined, described, load_statement, save_statement, signed_by
from hcefs.errors import NotFound
from hcefs.ledger.transactions import DeactivateAccount, SignedTransaction

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Statements.")]


@app.command("sign")
@verb
def sign(
    files: FilesArgument,
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Operator: a name here or a key file.")
    ],
    yes: YesOption = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Sign statements that another operator prepared, after reading what they do."""
    layout = folder(directory)
    keys, cluster = layout.load_keys(name), layout.load_connection().cluster
    found = [load_statement(path) for path in files]
    for path, (_, said) in zip(files, found, strict=True):
        err().print(Text(f"{path}: {described(layout, said, cluster)}"))
    confirm("Sign?", yes=yes, otherwise="nothing was signed")
    counts = {}
    for path, (signed, _) in zip(files, found, strict=True):
        done = signed_by(signed, cluster, [keys])
        save_statement(path, done)
        counts[str(path)] = len(done.signatures)

    def human(console: Console) -> None:
        for path, count in counts.items():
            console.print(Text(f"{path}: {count} signatures"))

    show({"signatures": counts}, as_json=as_json, human=human)


@app.command("combine")
@verb
def combine(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    files: FilesArgument,
) -> None:
    """Put the signatures of several copies of one statement into one file."""
    done = combined([load_statement(path)[0] for path in files])
    save_statement(target, done)
    note(f"{target} has {len(done.signatures)} signatures")


@app.command("submit")
@verb
def submit(
    files: FilesArgument,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Put signed statements on the ledger, in the order in which they are named."""
    layout = folder(directory)
    found = [load_statement(path) for path in files]
    heights = run(_submit(layout, [signed for signed, _ in found]))
    for _, said in found:
        if isinstance(said, DeactivateAccount):
            layout.retire_keys(said.account)

    def human(console: Console) -> None:
        for path, height in zip(files, heights, strict=True):
            console.print(Text(f"{path}: on the ledger at height {height}"), style="green")

    show({"heights": heights}, as_json=as_json, human=human)


async def _submit(layout: ClusterFolder, statements: list[SignedTransaction]) -> list[int]:
    names = layout.account_names()
    if not names:
        raise NotFound("no account's keys are here: run it where one is", reason="unknown-account")
    async with client_of(layout, names[0]) as client:
        return [(await client.submit(each)).height for each in statements]


def register() -> None:
    """Importing this module adds the verbs; the call says that it is meant."""
