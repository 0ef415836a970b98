"""``account``: keys in the cluster's folder, and their registration on the ledger."""

from __future__ import annotations

import contextlib
import enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.facts import Account, AccountKind
from hcefs.cli.bringup import OPERATORS, THRESHOLD
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.new_node import generate_keys
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import print_fields, print_table, show, verb
from hcefs.cli.passphrases import PASSPHRASES
from hcefs.cli.session import Names, client_of, run
from hcefs.client.client import Client
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.passphrase import SEALING_RANDOM_SIZE
from hcefs.errors import Conflict, HcefsError, Invalid, NotFound
from hcefs.ids import AccountId

app = typer.Typer(help="Accounts: parties on the ledger.", no_args_is_help=True)


class Kind(enum.StrEnum):
    """Kinds of accounts that people create here; nodes are registered by ``up``."""

    PATIENT = "patient"
    PRACTITIONER = "practitioner"
    INSTITUTION = "institution"
    DEVICE = "device"


@app.command("create")
@verb
def create(
    name: Annotated[str, typer.Argument(help="Name of the key file; the ledger never sees it.")],
    kind: Annotated[Kind, typer.Option("--kind", help="What the account is.")],
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="NAME",
            help="Who admits it: operators for an institution, else an institution. "
            "By default the first operators, or the only institution here.",
        ),
    ] = None,
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help="Keep the keys under a passphrase: that of --passphrase-file, or asked for.",
        ),
    ] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Make an account's keys and register it on the ledger."""
    layout = folder(directory)
    chosen = PASSPHRASES.new(f"of the new account {name}") if passphrase else ""
    made = run(create_account(layout, name, AccountKind[kind.name], by or [], chosen))

    def human(console: Console) -> None:
        console.print(Text(f"{kind.value} {name} is on the ledger"), style="green")
        print_fields(console, [("account", made.account), ("keys", str(layout.account_file(name)))])

    show(_as_data(name, made), as_json=as_json, human=human)


async def create_account(
    layout: ClusterFolder, name: str, kind: AccountKind, by: list[str], passphrase: str = ""
) -> Account:
    """Make keys, have the admitting accounts co-sign, submit; the account as registered.

    An attempt that got no answer can be repeated: it goes on with the keys it made.

    Raises:
        Conflict: an account of that name is on the ledger already.
        Invalid, Denied: the admitting accounts are not the right ones.
    """
    admitters = by or await default_admitters(layout, kind)
    connection = layout.load_connection()
    for admitter in admitters:
        layout.load_keys(admitter)
    async with client_of(layout, admitters[0]) as client:
        path = layout.account_file(name)
        made_now = not path.exists()
        if made_now:
            made = generate_keys(connection.cluster, client.runtime)
            PASSPHRASES.remember(made.account, passphrase)
            made.save(
                path,
                passphrase=passphrase,
                randomness=client.runtime.random(SEALING_RANDOM_SIZE),
            )
        keys = layout.load_keys(name)
        try:
            await _register(layout, client, keys, kind, admitters[1:])
        except HcefsError as error:
            # Keys that the ledger has refused are of no use; after silence it may have them.
            if made_now and not error.retryable:
                path.unlink(missing_ok=True)
            raise
        return await client.fetch_account(keys.account)


async def _register(
    layout: ClusterFolder,
    client: Client,
    keys: AccountKeys,
    kind: AccountKind,
    others: list[str],
) -> None:
    with contextlib.suppress(NotFound):
        await client.fetch_account(keys.account)
        raise Conflict(
            f"that name is taken: {keys.account} is on the ledger; choose another name",
            reason="account-exists",
        )
    signed = client.cosign(await client.register(keys, kind))
    for name in others:
        async with client_of(layout, name) as cosigner:
            signed = cosigner.cosign(signed)
    await client.submit(signed)


async def default_admitters(layout: ClusterFolder, kind: AccountKind) -> list[str]:
    """Who admits an account of that kind when nobody is named.

    Raises:
        Invalid: there is no institution here, or more than one.
    """
    if kind is AccountKind.INSTITUTION:
        return list(OPERATORS[:THRESHOLD])
    async with client_of(layout, OPERATORS[0]) as client:
        found = [
            name
            for name, _, account in await known_accounts(layout, client)
            if account is not None and account.active and account.kind is AccountKind.INSTITUTION
        ]
    if len(found) != 1:
        what = f"there are {', '.join(found)}" if found else "none is here yet"
        raise Invalid(
            f"an institution admits this account; name one with --by ({what})",
            reason="name-an-institution",
        )
    return found


async def known_accounts(
    layout: ClusterFolder, client: Client
) -> list[tuple[str, AccountId, Account | None]]:
    """Name, id and ledger's fact of each account whose keys are here."""
    found: list[tuple[str, AccountId, Account | None]] = []
    for name in layout.account_names():
        account = layout.account_id(name)
        fact: Account | None = None
        with contextlib.suppress(NotFound):
            fact = await client.fetch_account(account)
        found.append((name, account, fact))
    return found


@app.command("list")
@verb
def list_(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """List the accounts whose keys are here."""
    layout = folder(directory)
    found = run(_list(layout))

    def human(console: Console) -> None:
        rows = [
            [name, _kind(fact) if fact else "-", _state(fact), account]
            for name, account, fact in found
        ]
        print_table(console, ("NAME", "KIND", "STATE", "ACCOUNT"), rows)

    data = [
        _as_data(name, fact)
        if fact
        else {"name": name, "account": account.text, "state": "unknown"}
        for name, account, fact in found
    ]
    show(data, as_json=as_json, human=human)


async def _list(layout: ClusterFolder) -> list[tuple[str, AccountId, Account | None]]:
    async with client_of(layout, OPERATORS[0]) as client:
        return await known_accounts(layout, client)


@app.command("show")
@verb
def show_(
    account: Annotated[str, typer.Argument(help="Name, or id (acc-...).")],
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show an account as the ledger has it."""
    layout = folder(directory)
    fact = run(_fetch(layout, layout.account_id(account)))
    names = Names(layout)
    name = names.of(fact.account)

    def human(console: Console) -> None:
        print_fields(
            console,
            [
                ("account", fact.account),
                ("name", name if name != fact.account.text else ""),
                ("kind", _kind(fact)),
                ("state", _state(fact)),
                ("admitted by", names.of(fact.admitted_by) if fact.admitted_by else "operators"),
                ("registered", f"height {fact.height}"),
                ("key version", fact.key_version),
                ("signing key", fact.signing_key.hex()),
                ("token key", fact.token_key.hex()),
                ("TLS key", fact.spki.hex()),
            ],
        )

    show(_as_data(name if name != fact.account.text else "", fact), as_json=as_json, human=human)


async def _fetch(layout: ClusterFolder, account: AccountId) -> Account:
    async with client_of(layout, OPERATORS[0]) as client:
        return await client.fetch_account(account)


def _kind(fact: Account) -> str:
    return fact.kind.name.lower()


def _state(fact: Account | None) -> str:
    if fact is None:
        return "unknown"
    return "active" if fact.active else "inactive"


def _as_data(name: str, fact: Account) -> dict[str, Any]:
    return {
        "name": name or None,
        "account": fact.account.text,
        "kind": _kind(fact),
        "state": _state(fact),
        "admitted_by": fact.admitted_by.text if fact.admitted_by else None,
        "height": fact.height,
        "key_version": fact.key_version,
        "signing_key": fact.signing_key.hex(),
        "token_key": fact.token_key.hex(),
        "spki": fact.spki.hex() or None,
    }
