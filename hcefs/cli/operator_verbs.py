"""``operators list|replace``: who the operators are, and changing them.

An operator's keys never change (``hcefs keys rotate`` refuses): one is admitted, then the other
ended, each by the operator threshold.  Operators on different machines sign files
(:mod:`hcefs.cli.statements`).  Where a replacement is cut off, its repeat goes on.

Not guaranteed: that a new operator counts for who knows nothing but the genesis.  Clients
learn of a recovered ledger's writer by the *founding* operators' signatures alone, so the
verbs say how many of those are left.  Source: docs/decisions/0046-operators-change.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.facts import Account, AccountKind
from hcefs.cli.account_end import End, look
from hcefs.cli.cluster_files import ClusterFolder, operator_number
from hcefs.cli.new_node import generate_keys
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, YesOption, folder
from hcefs.cli.output import confirm, note, print_table, show, verb
from hcefs.cli.passphrases import PASSPHRASES
from hcefs.cli.session import Names, client_of, run
from hcefs.cli.statements import save_statement, signed_by
from hcefs.client.client import Client
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.passphrase import SEALING_RANDOM_SIZE
from hcefs.errors import Conflict, Denied, Invalid, NotFound
from hcefs.ids import AccountId
from hcefs.integrity import blake3_digest
from hcefs.ledger.transactions import DeactivateAccount, SignedTransaction
from hcefs.runtime import SystemRuntime

app = typer.Typer(
    help="Operators: who they are, and replacing one by the threshold of them.",
    no_args_is_help=True,
)
SHOWN_HEX = 16


# --- list ---------------------------------------------------------------------------


@app.command("list")
@verb
def list_(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """Show the operators, how many of them must sign, and whose keys are in this folder."""
    layout = folder(directory)
    data = run(_list(layout))

    def human(console: Console) -> None:
        rows = [
            [
                row["name"] or "-",
                row["state"],
                "founder" if row["founder"] else f"height {row['height']}",
                row["fingerprint"][:SHOWN_HEX],
                row["file"] or "-",
                row["account"],
            ]
            for row in data["operators"]
        ]
        columns = ("NAME", "STATE", "SINCE", "FINGERPRINT", "KEYS HERE", "ACCOUNT")
        print_table(console, columns, rows)
        console.print(Text(f"{data['threshold']} of {data['active']} must sign"))
        if data["founders_left"] < data["threshold"]:
            console.print(Text(_too_few_founders(data["founders_left"])), style="yellow")

    show(data, as_json=as_json, human=human)


async def _list(layout: ClusterFolder) -> dict[str, Any]:
    genesis = layout.load_genesis()
    founders = [each.account for each in genesis.operator_accounts()]
    async with client_of(layout, layout.operator) as client:
        active = await client.operators()
        # The ledger does not list those who were ended; the founders' names are in the genesis.
        known = {each.account: each for each in active}
        for account in founders:
            if account not in known:
                known[account] = await client.fetch_account(account)
    files = {layout.account_id(name): name for name in layout.operator_names()}
    rows = [
        {
            "name": files.get(fact.account),
            "account": fact.account.text,
            "state": "active" if fact.active else "ended",
            "founder": fact.account in founders,
            "height": fact.height,
            "fingerprint": fingerprint(fact),
            "file": str(layout.account_file(files[fact.account]).relative_to(layout.root))
            if fact.account in files
            else None,
        }
        for fact in sorted(
            known.values(),
            key=lambda each: (each.height, files.get(each.account, "~"), each.account),
        )
    ]
    return {
        "threshold": genesis.threshold,
        "active": len(active),
        "founders_left": sum(row["founder"] and row["state"] == "active" for row in rows),
        "operators": rows,
    }


def fingerprint(fact: Account) -> str:
    """BLAKE3 of an account's signing key, to compare over the telephone."""
    return blake3_digest(fact.signing_key).hex()


def _too_few_founders(left: int) -> str:
    return (
        f"only {left} of the founding operators are left: no recovered ledger would be believed by "
        "clients, so keep the ledger's disk and key safe"
    )


# --- replace ------------------------------------------------------------------------


@dataclass(frozen=True)
class Replacement:
    """One operator for another: what is left to do, and who signs here."""

    old: AccountId
    keys: AccountKeys
    end: End | None
    """None: the old one was ended already."""

    is_admitted: bool
    signers: tuple[str, ...]
    threshold: int
    founders_left: int


@app.command("replace")
@verb
def replace(
    old: Annotated[str, typer.Argument(help="The operator that goes: name, or id (acc-...).")],
    new: Annotated[str, typer.Argument(help="Name of the one that comes: operator-4.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done, and who signs.")
    ] = False,
    prepare: Annotated[
        Path | None,
        typer.Option(
            "--prepare",
            metavar="DIR",
            help="Write both statements there, for operators on other machines to sign.",
        ),
    ] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Keep the new keys under a passphrase.")
    ] = False,
    yes: YesOption = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Admit a new operator, then end an old one; by the threshold of operators.

    Run it where the new operator's keys are to be.  An attempt that was cut off is repeated.
    """
    layout = folder(directory)
    going = layout.account_id(old)
    if operator_number(new) is None:
        raise Invalid(
            f"{new[:64]!r} is no operator's name: operator-4, operator-5 and so on",
            reason="bad-name",
        )
    if dry_run and not layout.account_file(new).exists():
        data = {"old": going.text, "new": new, "signers": layout.operator_names(), "done": False}
        line = f"keys for {new} would be made, it be admitted and {old} ended"
        show(data, as_json=as_json, human=lambda console: console.print(Text(line)))
        return
    keys = _new_keys(layout, new, passphrase=passphrase, expected=going)
    found = run(_look(layout, going, new, keys))
    data = {
        "old": going.text,
        "new": keys.account.text,
        "signers": list(found.signers),
        "needed": found.threshold,
        "founders_left": found.founders_left,
        "done": False,
    }
    if found.founders_left < found.threshold:
        note(f"warning: {_too_few_founders(found.founders_left)}")
    if dry_run:
        line = f"{new} would be admitted and {old} ended, signed by {', '.join(found.signers)}"
        show(data, as_json=as_json, human=lambda console: console.print(Text(line)))
        return
    if prepare is not None:
        files = _prepare(layout, found, old, new, prepare)
        show(data | {"statements": [str(each) for each in files]}, as_json=as_json, human=_nothing)
        return
    if len(found.signers) < found.threshold:
        raise Denied(
            f"{found.threshold} operators must sign, and the keys of {len(found.signers)} are "
            "here: use --prepare DIR, and have the others sign",
            reason="below-threshold",
        )
    question = f"Replace {old} by {new}? {old} never comes back."
    confirm(question, yes=yes, otherwise="no operator was replaced")
    run(_replace(layout, found))
    kept = layout.retire_keys(going)
    data["done"] = True

    def human(console: Console) -> None:
        console.print(Text(f"{new} is an operator, {old} is none any more"), style="green")
        if kept is not None:
            console.print(Text(f"its key file is {kept} now"))
        console.print(Text(f"keep a copy of {layout.account_file(new)} elsewhere"))

    show(data, as_json=as_json, human=human)


def _nothing(console: Console) -> None:
    """What is to be said was said on standard error."""


def _new_keys(
    layout: ClusterFolder, name: str, *, passphrase: bool, expected: AccountId
) -> AccountKeys:
    """The new operator's keys: made now, or by an attempt that was cut off."""
    path = layout.account_file(name)
    if not path.exists():
        runtime = SystemRuntime()
        try:
            chosen = PASSPHRASES.new(f"of the new operator {name}") if passphrase else ""
            made = generate_keys(layout.load_connection().cluster, runtime)
            PASSPHRASES.remember(made.account, chosen)
            random = runtime.random(SEALING_RANDOM_SIZE)
        finally:
            runtime.close()
        made.save(path, passphrase=chosen, randomness=random)
    keys = layout.load_keys(name)
    if keys.account == expected:
        raise Invalid("an operator is replaced by another one", reason="bad-name")
    return keys


async def _look(
    layout: ClusterFolder, going: AccountId, new: str, keys: AccountKeys
) -> Replacement:
    """What is left to do.

    Raises:
        Conflict: the old one is no operator, or the new one is something else already.
    """
    genesis = layout.load_genesis()
    # Operators of this folder that the ledger knows: not the new one before it is admitted.
    async with client_of(layout, _operator_but(layout, new)) as client:
        fact = await client.fresh_account(going)
        if fact.kind is not AccountKind.OPERATOR:
            raise Conflict(
                f"{going} is no operator: `hcefs account end` ends other accounts",
                reason="not-an-operator",
            )
        admitted = await _is_operator(client, keys.account)
        end = await look(layout, client, going) if fact.active else None
        active = {each.account for each in await client.operators()}
    names = [
        name
        for name in layout.operator_names()
        if layout.account_id(name) in active and layout.account_id(name) != keys.account
    ]
    # Who goes signs only where it has to: its keys may be what was lost.
    names.sort(key=lambda name: layout.account_id(name) == going)
    founders = {each.account for each in genesis.operator_accounts()}
    left = len((founders & active) - {going})
    return Replacement(
        going, keys, end, admitted, tuple(names[: genesis.threshold]), genesis.threshold, left
    )


def _operator_but(layout: ClusterFolder, new: str) -> str:
    """An operator of this folder that asks the ledger.

    Raises:
        NotFound: none is here.
    """
    found = [name for name in layout.operator_names() if name != new]
    if not found:
        raise NotFound(
            "the ledger answers operators only, and the keys of none are here: run this where one "
            "is, and give the new key file to its owner",
            reason="unknown-account",
        )
    return found[0]


async def _is_operator(client: Client, account: AccountId) -> bool:
    """Whether the ledger has it as an operator.

    Raises:
        Conflict: ``account-exists``: as something else, or it was ended.
    """
    try:
        fact = await client.fresh_account(account)
    except NotFound:
        return False
    if fact.kind is not AccountKind.OPERATOR or not fact.active:
        raise Conflict(
            f"{account} is on the ledger and no active operator: choose another name for the new "
            "one",
            reason="account-exists",
        )
    return True


async def _statements(
    layout: ClusterFolder, found: Replacement
) -> tuple[SignedTransaction, SignedTransaction]:
    """The admission and the end, each signed by the operators that are here."""
    signers = [layout.load_keys(name) for name in found.signers]
    cluster = layout.load_connection().cluster
    async with Client(layout.load_connection(), signers[0]) as client:
        admission = await client.register(found.keys, AccountKind.OPERATOR)
    end = SignedTransaction(DeactivateAccount(found.old).encode(), ())
    return signed_by(admission, cluster, signers), signed_by(end, cluster, signers)


async def _replace(layout: ClusterFolder, found: Replacement) -> None:
    admission, end = await _statements(layout, found)
    async with client_of(layout, found.signers[0]) as client:
        if not found.is_admitted:
            await client.submit(admission)
        if found.end is not None:
            await client.submit(end)


def _prepare(layout: ClusterFolder, found: Replacement, old: str, new: str, to: Path) -> list[Path]:
    admission, end = run(_statements(layout, found))
    to.mkdir(parents=True, exist_ok=True)
    names = Names(layout)
    files = [to / f"1-admit-{new}.cbor", to / f"2-end-{names.of(found.old)}.cbor"]
    for path, signed in zip(files, (admission, end), strict=True):
        save_statement(path, signed)
    paths = " ".join(str(each) for each in files)
    note(
        f"{len(found.signers)} of {found.threshold} operators have signed; the others do with "
        f"`hcefs operators sign {paths} --as NAME`, then: hcefs operators submit {paths}"
    )
    return files
