"""``keys``: changing an account's keys, trying them, a passphrase, guardians.

A change of keys is safe against a crash at any point: the new keys are durable beside the
old ones (``NAME.keys.next``) before the ledger hears of them, and take their place after;
whoever runs the verb again goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.access.facts import AccountKind, Grant
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import DEFAULT_FOLDER, AsOption, FolderOption, JsonOption, folder
from hcefs.cli.output import print_fields, print_table, show, verb
from hcefs.cli.passphrases import PASSPHRASES
from hcefs.cli.session import Names, client_of, run
from hcefs.client.client import Client
from hcefs.client.key_care import KeyCheck
from hcefs.crypto.accounts import KEYS_RANDOM_SIZE, AccountKeys, is_sealed, load_account
from hcefs.crypto.passphrase import SEALING_RANDOM_SIZE
from hcefs.durable_files import sync_folder
from hcefs.errors import Conflict, HcefsError, Unauthenticated
from hcefs.ids import RecordId
from hcefs.runtime import SystemRuntime

NEXT_SUFFIX = ".next"
FAILED = 7
"""Exit code when keys do not open: that of corrupt."""

app = typer.Typer(
    help="Keys: change them, try them, keep them safe, have them back.", no_args_is_help=True
)


# -- rotate


@app.command("rotate")
@verb
def rotate(
    account: AsOption,
    records: Annotated[
        bool,
        typer.Option(
            "--records",
            help="Renew the keys of all own records too: after a device was lost.",
        ),
    ] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Change an account's keys: the old ones are dead at once, the account stays."""
    layout = folder(directory)
    keys, done = _rotate(layout, account, records=records)
    givers, renewed = done.givers, done.renewed
    names = Names(layout)

    def human(console: Console) -> None:
        console.print(Text(f"{account} has version {keys.key_version} of its keys"), style="green")
        if renewed:
            console.print(Text(f"{len(renewed)} records have a new generation"))
        if givers:
            console.print(
                Text("What others shared still opens. Ask them to run `hcefs grant deliver`:")
            )
            rows = [[names.of(grant.granter), grant.record, grant.grant] for grant in givers]
            print_table(console, ("GIVER", "RECORD", "GRANT"), rows)
        advice = "If guardians have shares, those are of the old keys: run `hcefs keys guard` anew"
        if done.is_node:
            advice = "Restart the node now: until then it reports nothing, and plans wait for it"
        console.print(Text(advice))

    data = {
        "account": keys.account.text,
        "key_version": keys.key_version,
        "givers": [
            {
                "giver": grant.granter.text,
                "record": grant.record.text,
                "grant": grant.grant.text,
            }
            for grant in givers
        ],
        "records": [record.text for record in renewed],
    }
    show(data, as_json=as_json, human=human)


def _rotate(layout: ClusterFolder, name: str, *, records: bool) -> tuple[AccountKeys, _Changed]:
    path = layout.key_file(name)
    pending = path.with_name(path.name + NEXT_SUFFIX)
    runtime = SystemRuntime()
    keys = layout.load_keys(name)
    began = pending.exists()
    if began:
        new = load_account(pending, PASSPHRASES.of)
        _require_next(keys, new, pending)
    else:
        new = keys.renewed(runtime.random(KEYS_RANDOM_SIZE))
        _save(new, pending, sealed=is_sealed(path), runtime=runtime)
    if not (began and run(_is_current(layout, new))):
        try:
            run(_change(layout, keys, new))
        except HcefsError as error:
            # What the ledger has refused is of no use; after silence it may have it.
            if not began and not error.retryable:
                pending.unlink(missing_ok=True)
            raise
    # The ledger has the new keys: only now may the old ones go.
    pending.replace(path)
    sync_folder(path.parent)
    return new, run(_after(layout, new, records=records))


@dataclass(frozen=True)
class _Changed:
    """What follows from new keys: whom to ask for theirs, and the records that were renewed."""

    givers: list[Grant]
    renewed: list[RecordId]
    is_node: bool


async def _change(layout: ClusterFolder, keys: AccountKeys, new: AccountKeys) -> None:
    async with Client(layout.load_connection(), keys) as client:
        await client.change_keys(new)


async def _after(layout: ClusterFolder, new: AccountKeys, *, records: bool) -> _Changed:
    """Renew the records with the new keys, if that is wanted, and ask what else follows."""
    async with Client(layout.load_connection(), new) as client:
        renewed = []
        for record in await client.records() if records else []:
            await client.rotate(record.record)
            renewed.append(record.record)
        kind = (await client.fresh_account(new.account)).kind
        return _Changed(await client.key_givers(), renewed, kind == AccountKind.NODE)


async def _is_current(layout: ClusterFolder, keys: AccountKeys) -> bool:
    """Whether the ledger has these keys already."""
    async with Client(layout.load_connection(), keys) as client:
        try:
            fact = await client.fresh_account(keys.account)
        except Unauthenticated:
            return False
        return fact.signing_key == keys.signing_key.public_key


def _require_next(keys: AccountKeys, new: AccountKeys, pending: Path) -> None:
    if new.account != keys.account or new.key_version != keys.key_version + 1:
        raise Conflict(
            f"{pending} holds keys of a change that was begun, and they are not the next version "
            "of this account's: move it away if it is not needed",
            reason="wrong-keys",
        )


def _save(keys: AccountKeys, path: Path, *, sealed: bool, runtime: SystemRuntime) -> None:
    """Write keys, under the account's passphrase where it has one."""
    keys.save(
        path,
        passphrase=PASSPHRASES.of(keys.account) if sealed else "",
        randomness=runtime.random(SEALING_RANDOM_SIZE),
    )


# -- verify


@app.command("verify")
@verb
def verify(
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Try whether the account's keys open every record that it owns or may read.

    Every generation's key is compared with the ledger, and one blob's data key of each is
    opened. Exit code 7 when anything does not open.
    """
    layout = folder(directory)
    checks = run(_verify(layout, account))

    def human(console: Console) -> None:
        rows = [
            [
                "OK" if check.good else "FAIL",
                check.record,
                check.grant.text if check.grant else "owner",
                check.generations,
                check.blobs,
            ]
            for check in checks
        ]
        print_table(
            console,
            ("KEYS", "RECORD", "RIGHT", "GENERATIONS", "BLOBS"),
            rows,
            right=("GENERATIONS", "BLOBS"),
            empty="no records",
        )
        for check in checks:
            for problem in check.problems:
                console.print(Text(f"{check.record}: {problem}"), style="red")

    good = all(check.good for check in checks)
    show(
        {"good": good, "records": [_check_data(check) for check in checks]},
        as_json=as_json,
        human=human,
    )
    if not good:
        raise typer.Exit(FAILED)


async def _verify(layout: ClusterFolder, account: str) -> list[KeyCheck]:
    async with client_of(layout, account) as client:
        return await client.verify_keys()


def _check_data(check: KeyCheck) -> dict[str, Any]:
    return {
        "record": check.record.text,
        "grant": check.grant.text if check.grant else None,
        "good": check.good,
        "generations": check.generations,
        "blobs": check.blobs,
        "problems": list(check.problems),
    }


# -- passphrase


@app.command("passphrase")
@verb
def passphrase(
    account: AsOption,
    remove: Annotated[bool, typer.Option("--remove", help="Keep the keys in the clear.")] = False,
    new_file: Annotated[
        Path | None,
        typer.Option(
            "--new-passphrase-file",
            metavar="FILE",
            help="File with the passphrase to set; by default it is asked for.",
        ),
    ] = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Set, change or remove the passphrase of an account's key file.

    What opens the file now comes from --passphrase-file (before the verb), from
    HCEFS_PASSPHRASE_FILE, or is asked for.
    """
    layout = folder(directory)
    path = layout.key_file(account)
    was = is_sealed(path)
    keys = layout.load_keys(account)
    chosen = ""
    if not remove:
        if was and new_file is None:
            # Else the file of the old passphrase would be taken for the new one.
            PASSPHRASES.use(None)
        chosen = PASSPHRASES.new(f"of {account}", new_file)
    keys.save(
        path,
        passphrase=chosen,
        randomness=SystemRuntime().random(SEALING_RANDOM_SIZE),
        replace=True,
    )
    word = "removed" if remove else "changed" if was else "set"

    def human(console: Console) -> None:
        console.print(Text(f"the passphrase of {account} is {word}"), style="green")

    data = {"account": keys.account.text, "passphrase": word, "file": str(path)}
    show(data, as_json=as_json, human=human)


def print_saved(console: Console, keys: AccountKeys, path: Path) -> None:
    """Say whose keys are where."""
    print_fields(
        console,
        [("account", keys.account), ("key version", keys.key_version), ("keys", str(path))],
    )
