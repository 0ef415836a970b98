"""The folder of a cluster on this machine: where its files are.

::

    cluster.toml                    connection file; written last, so it says "complete"
    genesis.cbor
    ca/ca.crt  ca/ca.key
    ledger/    config.toml tls.crt tls.key writer.key data/ ledger.log
    nodes/1/   config.toml tls.crt tls.key account.keys data/ node.log
    accounts/  operator-1.keys ... and whoever is created later
    run/       ledger.pid node-1.pid ... lock

Processes are named ``ledger`` and ``node-1``, ``node-2``...; accounts by the
name of their key file, which only this folder knows (the ledger is pseudonymous).

Invariants: all paths are absolute, so that a process can be recognised by the
configuration on its command line; configurations name files relative to
themselves, so that a stopped cluster's folder may be moved.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hcefs.cli.passphrases import PASSPHRASES
from hcefs.client.connection import Connection, load_connection
from hcefs.crypto.accounts import AccountKeys, account_in, load_account
from hcefs.durable_files import replace_file
from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.ids import AccountId, ClusterId
from hcefs.ledger.genesis import Genesis

LEDGER = "ledger"
KEYS_SUFFIX = ".keys"
ENDED_SUFFIX = ".ended"
_ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OPERATOR_NAME = re.compile(r"operator-([1-9][0-9]{0,4})")
_NODE_FOLDER = re.compile(r"[1-9][0-9]{0,4}")
_NODE_PROCESS = re.compile(r"node-([1-9][0-9]{0,4})")


def operator_number(name: str) -> int | None:
    """The number in an operator's name; None for the name of anybody else."""
    match = _OPERATOR_NAME.fullmatch(name)
    return int(match[1]) if match is not None else None


def node_name(number: int) -> str:
    """The name of a node's process."""
    return f"node-{number}"


@dataclass(frozen=True)
class ClusterFolder:
    """The paths of a cluster's folder; ``root`` is made absolute."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.expanduser().resolve())

    # -- paths

    @property
    def connection_file(self) -> Path:
        return self.root / "cluster.toml"

    @property
    def genesis_file(self) -> Path:
        return self.root / "genesis.cbor"

    @property
    def authority(self) -> Path:
        """Certificate of the TLS authority."""
        return self.root / "ca" / "ca.crt"

    @property
    def authority_key(self) -> Path:
        return self.root / "ca" / "ca.key"

    @property
    def ledger(self) -> Path:
        """Folder of the ledger's process."""
        return self.root / "ledger"

    @property
    def accounts(self) -> Path:
        return self.root / "accounts"

    @property
    def run(self) -> Path:
        """Folder of the pid files."""
        return self.root / "run"

    def node(self, number: int) -> Path:
        """Folder of a node."""
        return self.root / "nodes" / str(number)

    def account_file(self, name: str) -> Path:
        """Where the keys of an account are.

        Raises:
            Invalid: the name cannot be a file's.
        """
        if not _ACCOUNT_NAME.fullmatch(name):
            raise Invalid(
                f"{name[:80]!r} cannot name an account: use 1 to 64 letters, digits, dots, "
                "underscores and hyphens",
                reason="bad-name",
            )
        return self.accounts / (name + KEYS_SUFFIX)

    # -- processes

    def folder_of(self, process: str) -> Path:
        """The folder of a process.

        Raises:
            Invalid: not the name of a process.
        """
        if process == LEDGER:
            return self.ledger
        match = _NODE_PROCESS.fullmatch(process)
        if match is None:
            raise Invalid(
                f"{process[:80]!r} is no process: use ledger, node-1, node-2 and so on",
                reason="unknown-process",
            )
        return self.node(int(match[1]))

    def config_of(self, process: str) -> Path:
        """The configuration of a process."""
        return self.folder_of(process) / "config.toml"

    def log_of(self, process: str) -> Path:
        """What a process prints."""
        return self.folder_of(process) / ("ledger.log" if process == LEDGER else "node.log")

    def pid_file(self, process: str) -> Path:
        """Where the pid of a process is while it runs."""
        return self.run / f"{process}.pid"

    def node_numbers(self) -> list[int]:
        """The nodes that have a folder, in order."""
        try:
            names = os.listdir(self.root / "nodes")
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(name) for name in names if _NODE_FOLDER.fullmatch(name))

    def process_names(self) -> list[str]:
        """The ledger and every node."""
        return [LEDGER, *(node_name(number) for number in self.node_numbers())]

    # -- contents

    def exists(self) -> bool:
        """Whether a complete cluster is here."""
        return self.connection_file.is_file()

    def require(self) -> ClusterFolder:
        """Itself, if a cluster is here.

        Raises:
            NotFound: there is none.
        """
        if not self.exists():
            raise NotFound(
                f"there is no cluster in {self.root}: make one with `hcefs up --dir`, or name "
                "the right folder with --dir or HCEFS_DIR",
                reason="no-cluster",
            )
        return self

    def load_connection(self) -> Connection:
        """Where the cluster is and whom to trust.

        Raises:
            NotFound, Invalid: there is no cluster here, or its file is damaged.
        """
        return load_connection(self.require().connection_file)

    def save_connection(self, cluster: ClusterId, ledger: str, nodes: list[str]) -> None:
        """Write the connection file, whole or not at all."""
        authority = self.authority.relative_to(self.root)
        # JSON's strings and lists of them are TOML's.
        text = (
            "# Where this cluster is and whom to trust; it holds no secret.\n"
            "# The authority's path is relative to this file.\n"
            f"cluster = {json.dumps(cluster.text)}\n"
            f"authority = {json.dumps(str(authority))}\n"
            f"ledger = {json.dumps(ledger)}\n"
            f"nodes = {json.dumps(nodes)}\n"
        )
        replace_file(self.connection_file, text.encode())

    def load_genesis(self) -> Genesis:
        """The founding document.

        Raises:
            NotFound, Invalid: there is none here, or it is damaged.
        """
        try:
            data = self.genesis_file.read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"there is no genesis file {self.genesis_file}", reason="no-genesis"
            ) from None
        genesis = Genesis.decode(data)
        genesis.check()
        return genesis

    def account_names(self) -> list[str]:
        """The accounts whose keys are here."""
        try:
            names = os.listdir(self.accounts)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = (name.removesuffix(KEYS_SUFFIX) for name in names if name.endswith(KEYS_SUFFIX))
        return sorted(name for name in found if _ACCOUNT_NAME.fullmatch(name))

    def operator_names(self) -> list[str]:
        """The operators whose keys are here, by number.

        The key file of one whose account was ended has another name (:meth:`retire_keys`).
        """
        numbers = {operator_number(name): name for name in self.account_names()}
        return [numbers[number] for number in sorted(filter(None, numbers))]

    def operators(self, count: int) -> list[str]:
        """So many operators whose keys are here, to act together.

        Raises:
            NotFound: ``unknown-account``: fewer are here.
        """
        found = self.operator_names()
        if len(found) < count:
            raise NotFound(
                f"this takes the keys of {count} operators, and {len(found)} are in "
                f"{self.accounts}: run it where the operators' keys are",
                reason="unknown-account",
            )
        return found[:count]

    @property
    def operator(self) -> str:
        """The operator that this folder asks as, where one is enough.

        Raises:
            NotFound: ``unknown-account``: none is here.
        """
        return self.operators(1)[0]

    def retire_keys(self, account: AccountId) -> Path | None:
        """Set the key file of an operator aside whose account was ended; where it is now.

        None where it is not here.  The file is kept: what it signed is on the ledger.
        """
        for name in self.operator_names():
            path = self.account_file(name)
            if account_in(path) == account:
                return path.replace(path.with_name(path.name + ENDED_SUFFIX))
        return None

    def load_keys(self, name: str) -> AccountKeys:
        """The keys of an account: by its name here, or by the path of its key file.

        Raises:
            NotFound: there are none; the message names those that are here.
            Invalid: a bad name, or a file that others may read.
            Unauthenticated: ``wrong-passphrase``.
        """
        return load_account(self.key_file(name), PASSPHRASES.of)

    def key_file(self, name: str) -> Path:
        """The key file of an account: by its name here, or by its path.

        Raises:
            NotFound: there is none; the message names those that are here.
            Invalid: a bad name.
        """
        if os.sep in name:
            return Path(name).expanduser()
        path = self.account_file(name)
        if not path.exists():
            known = ", ".join(self.account_names()) or "none yet"
            raise NotFound(
                f"there is no account {name!r} here (there are: {known}); create it with "
                "`hcefs account create`",
                reason="unknown-account",
            )
        return path

    def account_id(self, name_or_id: str) -> AccountId:
        """The id of an account given by its id or by its name here.

        Raises:
            NotFound, Invalid: neither.
        """
        if name_or_id.startswith(f"{AccountId.PREFIX}-"):
            return AccountId.parse(name_or_id)
        return account_in(self.key_file(name_or_id))

    def known_names(self) -> dict[AccountId, str]:
        """Names of the accounts and nodes whose keys are here; unreadable files are left out."""
        found: dict[AccountId, str] = {}
        paths = [(name, self.account_file(name)) for name in self.account_names()]
        paths += [
            (node_name(number), self.node(number) / "account.keys")
            for number in self.node_numbers()
        ]
        for name, path in paths:
            with contextlib.suppress(NotFound, Invalid, OSError):
                found[account_in(path)] = name
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against another ``up`` or ``down``.

        Raises:
            Conflict: one is at work.
        """
        self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"another `hcefs up` or `hcefs down` is at work in {self.root}: wait for it",
                    reason="folder-busy",
                ) from None
            yield
        finally:
            os.close(handle)
