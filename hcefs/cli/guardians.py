"""``keys guard``, ``keys open-share`` and ``keys recover``: keys back from guardians."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.keys import app, print_saved
from hcefs.cli.options import DEFAULT_FOLDER, AsOption, FolderOption, JsonOption, folder
from hcefs.cli.output import print_table, show, verb
from hcefs.cli.passphrases import PASSPHRASES
from hcefs.cli.session import Names, client_of, run
from hcefs.client.client import Client
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.guardians import (
    GuardianShare,
    OpenedShare,
    RecoveryCapsule,
    load_share,
    open_share,
    recover,
    typed_share,
)
from hcefs.crypto.passphrase import SEALING_RANDOM_SIZE
from hcefs.durable_files import write_private
from hcefs.errors import Corrupt, HcefsError, Invalid, Unauthenticated
from hcefs.ids import AccountId
from hcefs.runtime import SystemRuntime

SHARE_SUFFIX = ".share"
_WORDS_MAX = 4096


def register() -> None:
    """Importing this module adds the verbs; the call says that it is meant."""


@app.command("guard")
@verb
def guard_(
    account: AsOption,
    guardians: Annotated[
        str, typer.Option("--guardians", metavar="A,B,C", help="Accounts: names or ids.")
    ],
    threshold: Annotated[
        int, typer.Option("--threshold", help="How many of them give the keys back.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the shares.")],
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Make a share of an account's keys for each guardian, sealed to that guardian.

    Give each file to its guardian: who has a file alone can do nothing with it.
    """
    layout = folder(directory)
    named = [part.strip() for part in guardians.split(",") if part.strip()]
    ids = [layout.account_id(name) for name in named]
    shares = run(_guard(layout, account, ids, threshold))
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = []
    for share in shares:
        path = out / f"{account.rpartition('/')[2]}-{share.guardian.hex()}{SHARE_SUFFIX}"
        write_private(path, share.encode())
        files.append(path)
    names = Names(layout)

    def human(console: Console) -> None:
        rows = [
            [names.of(share.guardian), str(path)] for share, path in zip(shares, files, strict=True)
        ]
        print_table(console, ("GUARDIAN", "SHARE"), rows)
        console.print(Text(f"any {threshold} of them give the keys back"))

    data = {
        "account": shares[0].capsule.account.text,
        "key_version": shares[0].capsule.key_version,
        "threshold": threshold,
        "shares": [
            {"guardian": share.guardian.text, "file": str(path)}
            for share, path in zip(shares, files, strict=True)
        ],
    }
    show(data, as_json=as_json, human=human)


async def _guard(
    layout: ClusterFolder, account: str, guardians: list[AccountId], threshold: int
) -> list[GuardianShare]:
    async with client_of(layout, account) as client:
        return await client.guard(guardians, threshold)


@app.command("open-share")
@verb
def open_share_(
    share: Annotated[Path, typer.Argument(metavar="SHARE", help="The share's file.")],
    account: AsOption,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write it; else its words are shown."),
    ] = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Open one's own share as a guardian, for the account that asks for it.

    Make sure who asks: as many shares as the threshold are that account.
    """
    found = load_share(share)
    if isinstance(found, OpenedShare):
        raise Invalid(f"{share} is open already", reason="opened-share")
    keys = folder(directory).load_keys(account)
    receiving = keys.past_receiving_keys() | {keys.key_version: keys.receiving_key}
    opened = open_share(found, keys.account, receiving)
    if out is not None:
        opened.save(out)

    def human(console: Console) -> None:
        if out is None:
            console.print(Text(opened.words))
        else:
            console.print(Text(f"give {out} to the owner of {found.capsule.account}"))

    data = {
        "account": found.capsule.account.text,
        "guardian": found.guardian.text,
        "file": None if out is None else str(out),
        "words": opened.words if out is None else None,
    }
    show(data, as_json=as_json, human=human)


@app.command("recover")
@verb
def recover_(
    name: Annotated[str, typer.Argument(help="Name for the key file that is written here.")],
    shares: Annotated[
        list[Path],
        typer.Option(
            "--share",
            metavar="FILE",
            help="A share that its guardian opened, or a text file with its words; once for each.",
        ),
    ],
    capsule: Annotated[
        Path | None,
        typer.Option(
            "--capsule",
            metavar="FILE",
            help="Any share's file, sealed or not; needed when all shares are words.",
        ),
    ] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Keep the keys under a passphrase.")
    ] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Have an account's keys back from its guardians' shares."""
    layout = folder(directory)
    keys = recover(_shares(shares, capsule))
    chosen = PASSPHRASES.new(f"of {name}") if passphrase else ""
    path = layout.account_file(name)
    keys.save(path, passphrase=chosen, randomness=SystemRuntime().random(SEALING_RANDOM_SIZE))
    current = run(_current(layout, keys))

    def human(console: Console) -> None:
        console.print(Text(f"the keys of {name} are here again"), style="green")
        print_saved(console, keys, path)
        if current is False:
            console.print(
                Text("the ledger has newer keys of this account: these only open what they did"),
                style="red",
            )
        else:
            console.print(Text(f"where a device was lost: hcefs keys rotate --records --as {name}"))

    data = {
        "account": keys.account.text,
        "key_version": keys.key_version,
        "file": str(path),
        "current": current,
    }
    show(data, as_json=as_json, human=human)


def _shares(paths: list[Path], capsule_file: Path | None) -> list[OpenedShare]:
    """All shares, the typed ones with the capsule of the others."""
    found: list[OpenedShare] = []
    typed: list[str] = []
    for path in paths:
        words = _words(path)
        if words is not None:
            typed.append(words)
            continue
        share = load_share(path)
        if isinstance(share, GuardianShare):
            raise Invalid(
                f"{path} is still sealed: its guardian opens it with `hcefs keys open-share`",
                reason="sealed-share",
            )
        found.append(share)
    capsule: RecoveryCapsule | None = found[0].capsule if found else None
    if capsule_file is not None:
        capsule = load_share(capsule_file).capsule
    if typed and capsule is None:
        raise Invalid(
            "words alone are not enough: name any share's file with --capsule, which holds what "
            "they open",
            reason="no-capsule",
        )
    if capsule is not None:
        found += [typed_share(capsule, words) for words in typed]
    return found


def _words(path: Path) -> str | None:
    """The text of a file of words, or None: it is something else."""
    try:
        text = path.read_bytes()[: _WORDS_MAX + 1].decode("ascii")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return None
    if len(text) > _WORDS_MAX:
        raise Corrupt(f"{path} is too long for a share", reason="damaged-share")
    return text


async def _current(layout: ClusterFolder, keys: AccountKeys) -> bool | None:
    """Whether these are the account's keys on the ledger; None: it does not answer."""
    async with Client(layout.load_connection(), keys) as client:
        try:
            fact = await client.fresh_account(keys.account)
        except Unauthenticated:
            return False
        except HcefsError:
            return None
        return fact.signing_key == keys.signing_key.public_key
