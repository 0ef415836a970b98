"""``ledger recover``, ``sign``, ``combine`` and ``proof``: when the ledger is lost or forked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.cluster_files import LEDGER, ClusterFolder
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, YesOption, folder
from hcefs.cli.output import confirm, err, note, print_fields, print_table, show, verb
from hcefs.cli.processes import Processes
from hcefs.cli.session import run
from hcefs.durable_files import replace_file
from hcefs.errors import Conflict, Denied, HcefsError, Invalid, NotFound
from hcefs.runtime import SystemRuntime

if TYPE_CHECKING:
    # They load the database, which is for the verbs that need it.
    from hcefs.cli.recovery import Proposal
    from hcefs.ledger.proofs import CheckedFork, ForkEvidence
    from hcefs.ledger.terms import SignedTermChange

LOSS_WORDS = "acknowledged blocks may be lost"
EVIDENCE_BYTES_MAX = 8 << 20

NodesOption = Annotated[
    list[str] | None,
    typer.Option("--node", metavar="HOST:PORT", help="Client address of one more node to ask."),
]


@verb
def recover(
    directory: FolderOption = Path(DEFAULT_FOLDER),
    nodes: NodesOption = None,
    wanted: Annotated[
        str, typer.Option("--from", metavar="HOST:PORT", help="Copy the replica of this node.")
    ] = "",
    force: Annotated[
        str,
        typer.Option("--force", metavar="WORDS", help=f'Accept a loss: "{LOSS_WORDS}".'),
    ] = "",
    prepare: Annotated[
        Path | None,
        typer.Option(
            "--prepare", metavar="FILE", help="Write the statement for other operators to sign."
        ),
    ] = None,
    statement: Annotated[
        Path | None,
        typer.Option("--statement", metavar="FILE", help="Go on with this signed statement."),
    ] = None,
    announce: Annotated[
        Path | None,
        typer.Option(
            "--announce", metavar="FILE", help="Only bring this signed statement to the nodes."
        ),
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Begin a new term of the ledger from the nodes' replicas: its disk or machine is lost.

    Asks every node what it holds, copies and verifies the highest replica, has the
    operators of this folder sign the statement, and makes a ledger that writes under the
    new term.  The old ledger must never run again; nodes that heard of the new term
    refuse it.
    """
    if force not in ("", LOSS_WORDS):
        raise Invalid(f'--force takes exactly the words "{LOSS_WORDS}"', reason="bad-words")
    layout = folder(directory).require()
    runtime = SystemRuntime()
    try:
        if announce is not None:
            told = run(_announce(layout, nodes or [], _load(announce), runtime))
            _show_announced(told, as_json=as_json)
            return
        if Processes(layout).alive(LEDGER):
            raise Conflict(
                "the ledger runs here: a ledger that runs is not lost; stop it first if it must "
                "be replaced",
                reason="ledger-runs",
            )
        with layout.locked():
            if statement is not None:
                signed = _load(statement)
            else:
                found = run(
                    _propose(layout, nodes or [], wanted, bool(force), runtime, quiet=as_json)
                )
                show_proposal(found)
                signed = signed_here(layout, found, prepare)
                if prepare is not None:
                    show({"statement": str(prepare)}, as_json=as_json, human=lambda _: None)
                    return
                confirm("Begin the new term?", yes=yes, otherwise="nothing was changed")
            config, told = run(install_signed(layout, nodes or [], signed, runtime))
    finally:
        runtime.close()
    change = signed.change

    def human(console: Console) -> None:
        words = f"term {change.term} begins after block {change.height}"
        console.print(Text(words), style="green")
        for address, what in told.items():
            console.print(Text(f"{address:<24}{what}"))
        console.print(Text("start it: hcefs up, or hcefs ledger start --config " + str(config)))
        console.print(
            Text("the old ledger must never run again: keep its disk and key off the network"),
            style="yellow",
        )

    facts = {
        "term": change.term,
        "height": change.height,
        "block_hash": change.block_hash.hex(),
        "config": str(config),
        "nodes": told,
    }
    show(facts, as_json=as_json, human=human)


@verb
def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The statement.")],
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Operator: a name here or a key file.")
    ],
    directory: FolderOption = Path(DEFAULT_FOLDER),
    yes: YesOption = False,
) -> None:
    """Sign the statement of a recovery as one operator; on any machine."""
    signed = _load(file)
    keys = folder(directory).load_keys(name)
    if keys.cluster != signed.change.cluster:
        raise Invalid("this statement is of another cluster", reason="wrong-cluster")
    _print_statement(err(), signed)
    confirm("Sign it?", yes=yes, otherwise="nothing was signed")
    signed = signed.signed(keys.account, keys.key_version, keys.signing_key)
    replace_file(file, signed.encode())
    note(f"{len(signed.signatures)} operators have signed {file}")


@verb
def combine(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Signed statements.")],
) -> None:
    """Put the signatures of several copies of one statement into one file."""
    signed = _load(files[0])
    for file in files[1:]:
        signed = signed.combined(_load(file))
    replace_file(target, signed.encode())
    note(f"{len(signed.signatures)} operators have signed {target}")


@verb
def proof(
    directory: FolderOption = Path(DEFAULT_FOLDER),
    nodes: NodesOption = None,
    to: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the newest proof here.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--verify", metavar="FILE", help="Check an exported proof; asks nobody."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show, export or check the proof that a writer signed two histories."""
    if check is not None:
        evidence = _load_evidence(check)
        found = [(str(check), evidence, evidence.check())]
    else:
        runtime = SystemRuntime()
        try:
            found = run(_proofs(folder(directory).require(), nodes or [], runtime))
        finally:
            runtime.close()
        if not found:
            raise NotFound("no node that answers keeps a proof of a fork", reason="no-proof")
        if to is not None:
            replace_file(to, max(found, key=lambda each: each[2].term)[1].encode())
            note(f"written to {to}; anyone can check it: hcefs ledger proof --verify {to}")

    def human(console: Console) -> None:
        for where, evidence, checked in found:
            console.print(Text(f"{where}: two histories were signed"), style="red")
            print_fields(
                console,
                [
                    ("cluster", evidence.genesis.cluster.text),
                    ("height", checked.height),
                    ("term", checked.term),
                    ("ours", checked.ours),
                    ("theirs", checked.theirs),
                ],
            )

    facts = [
        {
            "from": where,
            "cluster": evidence.genesis.cluster.text,
            "height": checked.height,
            "term": checked.term,
        }
        for where, evidence, checked in found
    ]
    show(facts, as_json=as_json, human=human)


# --- inside ---------------------------------------------------------------------


def _load(path: Path) -> SignedTermChange:
    from hcefs.ledger.terms import SignedTermChange

    try:
        with path.open("rb") as file:
            data = file.read(SignedTermChange.MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", reason="no-statement") from None
    signed = SignedTermChange.decode(data)
    signed.change.check()
    return signed


def _load_evidence(path: Path) -> ForkEvidence:
    from hcefs.ledger.proofs import ForkEvidence

    try:
        with path.open("rb") as file:
            return ForkEvidence.decode(file.read(EVIDENCE_BYTES_MAX + 1))
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", reason="no-proof") from None


def _addresses(layout: ClusterFolder, more: list[str]) -> list[str]:
    return list(dict.fromkeys((*layout.load_connection().nodes, *more)))


async def _propose(
    layout: ClusterFolder,
    nodes: list[str],
    wanted: str,
    forced: bool,
    runtime: SystemRuntime,
    *,
    quiet: bool,
) -> Proposal:
    from hcefs.cli.recovery import propose, replicas_of

    report: Callable[[str], None] = lambda words: note(words, quiet=quiet)  # noqa: E731
    async with replicas_of(layout, runtime) as replicas:
        return await propose(
            layout,
            replicas,
            _addresses(layout, [*nodes, *([wanted] if wanted else [])]),
            runtime,
            wanted=wanted,
            forced=forced,
            report=report,
        )


async def install_signed(
    layout: ClusterFolder, nodes: list[str], signed: SignedTermChange, runtime: SystemRuntime
) -> tuple[Path, dict[str, str]]:
    """Put a signed statement's ledger in force, and bring it to the nodes."""
    from hcefs.cli.recovery import announce, install, replicas_of

    config = await install(layout, signed, runtime)
    async with replicas_of(layout, runtime) as replicas:
        return config, await announce(replicas, _addresses(layout, nodes), signed)


async def _announce(
    layout: ClusterFolder, nodes: list[str], signed: SignedTermChange, runtime: SystemRuntime
) -> dict[str, str]:
    from hcefs.cli.recovery import announce, replicas_of

    async with replicas_of(layout, runtime) as replicas:
        return await announce(replicas, _addresses(layout, nodes), signed)


async def _proofs(
    layout: ClusterFolder, nodes: list[str], runtime: SystemRuntime
) -> list[tuple[str, ForkEvidence, CheckedFork]]:
    from hcefs.cli.recovery import replicas_of
    from hcefs.ledger.highest import ask_all
    from hcefs.ledger.proofs import ForkEvidence
    from hcefs.ledger.rows import ForkProof
    from hcefs.ledger.terms import SignedTermChange

    genesis = layout.load_genesis()
    found = []
    async with replicas_of(layout, runtime) as replicas:
        answers = await ask_all(replicas, _addresses(layout, nodes), runtime)
    for address, answer in answers.items():
        for data in answer.proofs:
            try:
                terms = tuple(SignedTermChange.decode(each) for each in answer.terms)
                evidence = ForkEvidence(genesis, terms, ForkProof.decode(data))
                found.append((address, evidence, evidence.check()))
            except HcefsError as error:
                note(f"{address} shows a proof that proves nothing: {error.message}")
    return found


def signed_here(layout: ClusterFolder, found: Proposal, prepare: Path | None) -> SignedTermChange:
    """The statement as the operators of this folder sign it, also written to ``prepare``.

    Raises:
        Denied: ``below-threshold``: others must sign too.
    """
    from hcefs.cli.recovery import sign_here

    threshold = layout.load_genesis().threshold
    signed = sign_here(layout, found.statement)
    if prepare is not None:
        replace_file(prepare, signed.encode())
        count, then = len(signed.signatures), f"hcefs ledger recover --statement {prepare}"
        if count < threshold:
            note(
                f"{count} of {threshold} operators have signed {prepare}; the others sign it with "
                f"`hcefs ledger sign {prepare.name} --as NAME`, then: {then}"
            )
        else:
            note(f"{count} operators have signed {prepare}, {threshold} must; next: {then}")
    elif len(signed.signatures) < threshold:
        raise Denied(
            f"the keys of {len(signed.signatures)} operators are here, {threshold} must sign: use "
            "--prepare FILE, and have the others sign it",
            reason="below-threshold",
        )
    return signed


def _print_statement(console: Console, signed: SignedTermChange) -> None:
    change = signed.change
    print_fields(
        console,
        [
            ("cluster", change.cluster.text),
            ("new term", change.term),
            ("begins after", f"block {change.height}, {change.block_hash.hex()[:16]}"),
            ("new writer", change.writer_key.hex()[:16]),
            ("rests on", f"the answers of {change.reached} of {change.nodes} followers"),
            ("signatures", len(signed.signatures)),
        ],
    )


def show_proposal(found: Proposal) -> None:
    """Who answered, and what is to be signed."""
    console = err()
    rows = []
    for account in found.found.nodes:
        answer = found.found.answers.get(account)
        if answer is None:
            rows.append([account.text, "-", "-", "-", "does not answer"])
            continue
        terms = str(len(answer.terms) + 1)
        # That a node cannot reach the ledger goes without saying here.
        plain = answer.status in ("following", "disconnected", "stopped")
        status = answer.status if plain else f"{answer.status}: {answer.problem}"
        rows.append([account.text, str(answer.height), answer.block_hash.hex()[:16], terms, status])
    print_table(console, ["node", "height", "block", "term", "status"], rows)
    _print_statement(console, found.statement)
    for warning in found.plan.warnings:
        console.print(Text(f"warning: {warning}"), style="yellow")


def _show_announced(told: dict[str, str], *, as_json: bool) -> None:
    def human(console: Console) -> None:
        for address, what in told.items():
            console.print(Text(f"{address:<24}{what}"))

    show({"nodes": told}, as_json=as_json, human=human)


def register(app: typer.Typer) -> None:
    """Add these verbs to ``ledger``."""
    app.command("recover")(recover)
    app.command("sign")(sign)
    app.command("combine")(combine)
    app.command("proof")(proof)
