"""``account end``: whoever admitted an account ends it, for good.

Operators, nodes and institutions are ended by the operator threshold, everybody else by the
institution that admitted them, or by the operators where that was ended itself.  The ledger
judges (:mod:`hcefs.ledger.rules_accounts`); what is refused here beforehand is what it could
not know: a node that the cluster map still counts on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.facts import Account, AccountKind
from hcefs.cli.account import app
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, YesOption, folder
from hcefs.cli.output import confirm, err, note, print_fields, show, verb
from hcefs.cli.session import Names, client_of, run
from hcefs.cli.statements import save_statement, signed_by
from hcefs.client.client import Client
from hcefs.errors import Conflict, Denied, HcefsError, NotFound, Unauthenticated
from hcefs.ids import AccountId
from hcefs.ledger.rules_accounts import OPERATORS_ADMIT
from hcefs.ledger.transactions import DeactivateAccount, SignedTransaction
from hcefs.placement.cluster_map import NodeState

ABSENT = frozenset({NodeState.OUT, NodeState.REMOVED})
"""States of nodes that the cluster does not count on."""

_CONSEQUENCES = {
    AccountKind.PATIENT: "its records stay; nobody can give or revoke rights on them any more",
    AccountKind.INSTITUTION: "those whom it admitted stay, and the operators end them from now on",
    AccountKind.NODE: "the node cannot come back",
    AccountKind.OPERATOR: "it signs nothing any more",
}
_CONSEQUENCE = "all grants to it are worth nothing from now on"


@dataclass(frozen=True)
class End:
    """What ending an account takes: who it is, and who signs with keys that are here."""

    fact: Account
    by_operators: bool
    signers: tuple[str, ...]
    needed: int

    @property
    def is_complete(self) -> bool:
        """Whether enough of them are here."""
        return len(self.signers) >= self.needed


@app.command("end")
@verb
def end(
    account: Annotated[str, typer.Argument(help="Name, or id (acc-...).")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done, and who signs.")
    ] = False,
    prepare: Annotated[
        Path | None,
        typer.Option(
            "--prepare",
            metavar="FILE",
            help="Write the statement for operators on other machines to sign: `operators sign`.",
        ),
    ] = None,
    yes: YesOption = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """End an account for good, as whoever admitted it: an institution, or the operators."""
    layout = folder(directory)
    wanted = layout.account_id(account)
    found = run(_look(layout, wanted))
    if dry_run or not as_json:
        _print_end(err(), layout, found)
    facts: dict[str, Any] = {
        "account": wanted.text,
        "kind": found.fact.kind.name.lower(),
        "by": "operators" if found.by_operators else found.fact.admitted_by.text,
        "signers": list(found.signers),
        "needed": found.needed,
        "ended": False,
    }
    if dry_run:
        show(facts, as_json=as_json, human=lambda console: None)
        return
    if prepare is not None:
        save_statement(prepare, run(_signed(layout, found)))
        note(
            f"{len(found.signers)} of {found.needed} have signed {prepare}; then: "
            f"hcefs operators sign {prepare.name} --as NAME, hcefs operators submit {prepare.name}"
        )
        show(facts | {"statement": str(prepare)}, as_json=as_json, human=lambda console: None)
        return
    if not found.is_complete:
        raise Denied(
            f"{found.needed} operators must sign, and the keys of {len(found.signers)} are here: "
            "use --prepare FILE, and have the others sign it",
            reason="below-threshold",
        )
    question = f"End {account} for good? It never comes back."
    confirm(question, yes=yes, otherwise="nothing was ended")
    height = run(_end(layout, found))
    facts |= {"ended": True, "height": height}
    show(
        facts,
        as_json=as_json,
        human=lambda console: console.print(Text(f"{account} was ended", style="green")),
    )


async def look(layout: ClusterFolder, client: Client, account: AccountId) -> End:
    """What ending an account takes.

    Raises:
        NotFound: the ledger does not know it, or the keys of nobody who may end it are here.
        Conflict: it is inactive already, or a node of the map that takes part.
    """
    fact = await client.fresh_account(account)
    if not fact.active:
        raise Conflict("this account is inactive already", reason="already-inactive")
    if fact.kind is AccountKind.NODE:
        await _require_absent(client, account)
    by_operators = fact.kind in OPERATORS_ADMIT
    if not by_operators:
        by_operators = not (await client.fresh_account(fact.admitted_by)).active
    if by_operators:
        threshold = layout.load_genesis().threshold
        here = layout.operator_names()
        active = {each.account for each in await client.operators()} if here else set()
        # Who is ended need not sign, where others can.
        names = [name for name in here if layout.account_id(name) in active]
        names.sort(key=lambda name: layout.account_id(name) == account)
        return End(fact, True, tuple(names[:threshold]), threshold)
    for name in layout.account_names():
        if layout.account_id(name) == fact.admitted_by:
            return End(fact, False, (name,), 1)
    raise NotFound(
        f"{fact.admitted_by} admitted this account and ends it: run this where its keys are",
        reason="unknown-account",
    )


async def _look(layout: ClusterFolder, account: AccountId) -> End:
    """As :func:`look`, asked as an operator or whoever else is here and active."""
    refusal: HcefsError = NotFound(
        f"no account's keys are in {layout.accounts}: run this where those of whoever admitted the "
        "account are",
        reason="unknown-account",
    )
    for name in dict.fromkeys((*layout.operator_names(), *layout.account_names())):
        try:
            async with client_of(layout, name) as client:
                return await look(layout, client, account)
        except Unauthenticated as error:
            refusal = error
    raise refusal


async def _require_absent(client: Client, account: AccountId) -> None:
    """Refuse to end a node that the cluster counts on.

    Raises:
        Conflict: ``still-in-map``.
    """
    try:
        current = await client.fresh_map()
    except NotFound:
        return
    node = current.node_of_account(account)
    if node is not None and node.state not in ABSENT:
        raise Conflict(
            f"node {node.node_id} takes part in the cluster: drain and remove it first (hcefs node "
            f"drain {node.node_id}), or give it up (hcefs node out {node.node_id} --lost)",
            reason="still-in-map",
        )


async def _signed(layout: ClusterFolder, found: End) -> SignedTransaction:
    made = DeactivateAccount(found.fact.account)
    made.check()
    keys = [layout.load_keys(name) for name in found.signers]
    return signed_by(SignedTransaction(made.encode(), ()), layout.load_connection().cluster, keys)


async def _end(layout: ClusterFolder, found: End) -> int:
    """End the account; the height of the block."""
    signed = await _signed(layout, found)
    async with client_of(layout, found.signers[0]) as client:
        done = await client.submit(signed)
    if found.fact.kind is AccountKind.OPERATOR:
        layout.retire_keys(found.fact.account)
    return done.height


def _print_end(console: Console, layout: ClusterFolder, found: End) -> None:
    names = Names(layout)
    by = "the operators" if found.by_operators else names.of(found.fact.admitted_by)
    print_fields(
        console,
        [
            ("account", names.of(found.fact.account)),
            ("id", found.fact.account),
            ("kind", found.fact.kind.name.lower()),
            ("ended by", by),
            ("signed here by", ", ".join(found.signers) or "nobody"),
            ("then", _CONSEQUENCES.get(found.fact.kind, _CONSEQUENCE)),
        ],
    )


def register() -> None:
    """Importing this module adds the verb; the call says that it is meant."""
