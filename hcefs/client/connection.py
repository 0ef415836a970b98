"""The connection file: where a cluster is and whom to trust when calling it.

``cluster.toml`` holds no secret: the id of the cluster, the TLS authority, the
ledger's address and the addresses of nodes to try first.  An account's secrets
are in a file of their own (:mod:`hcefs.crypto.accounts`).

Invariants: what the loader returns was checked whole; every error names the
file and the key; an unknown key is an error, because a misspelt one would be
silently without effect.  Not guaranteed: that anyone listens there.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from hcefs.errors import HcefsError, Invalid, NotFound
from hcefs.ids import ClusterId

FILE_BYTES_MAX = 256 << 10
NODES_MAX = 4096
_KEYS = frozenset({"cluster", "authority", "ledger", "nodes", "patience_s"})


PATIENCE_SECONDS_MAX = 3600.0


@dataclass(frozen=True)
class Connection:
    """What a client needs to find a cluster.

    ``authority`` is the PEM of the TLS authority, or a bundle of several while one
    replaces another; ``authority_file``, where there is one, is looked at again by
    clients that stay.  ``ledger`` and ``nodes`` are client ports as ``host:port``;
    ``nodes`` are preferred to those that only the cluster map names.
    ``patience_s``: how long calls that may be repeated are repeated, where the usual few
    attempts end sooner: for restarts of the ledger.
    """

    cluster: ClusterId
    authority: bytes = field(repr=False)
    ledger: str
    nodes: tuple[str, ...] = ()
    authority_file: Path | None = field(default=None, compare=False, repr=False)
    patience_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.patience_s <= PATIENCE_SECONDS_MAX:
            raise Invalid(
                f"patience_s is 0 to {PATIENCE_SECONDS_MAX:g} seconds", reason="bad-patience"
            )
        for address in (self.ledger, *self.nodes):
            _check_address(address)


def load_connection(path: Path) -> Connection:
    """Read a connection file; a relative ``authority`` is relative to the file.

    Raises:
        NotFound: the file or its authority does not exist (``no-connection-file``).
        Invalid: ``bad-connection-file``, naming the key and what it must be.
    """
    table = _read_table(path)
    unknown = sorted(set(table) - _KEYS)
    if unknown:
        _refuse(path, f"key {unknown[0]!r} is unknown; known are {', '.join(sorted(_KEYS))}")
    authority = path.parent / _text(path, table, "authority")
    nodes = table.get("nodes", [])
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        _refuse(path, 'nodes must be a list of "host:port"')
    if len(nodes) > NODES_MAX:
        _refuse(path, f"nodes may name {NODES_MAX} at most")
    patience = table.get("patience_s", 0)
    if isinstance(patience, bool) or not isinstance(patience, int | float):
        _refuse(path, "patience_s must be a number of seconds")
    try:
        cluster = ClusterId.parse(_text(path, table, "cluster"))
        return Connection(
            cluster=cluster,
            authority=_read(authority),
            ledger=_text(path, table, "ledger"),
            nodes=tuple(nodes),
            authority_file=authority,
            patience_s=float(patience),
        )
    except Invalid as error:
        _refuse(path, error.message)


def _read_table(path: Path) -> dict[str, Any]:
    data = _read(path)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        _refuse(path, f"not TOML: {error}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound(
            f"there is no file {path}: take the connection file of the cluster, with its authority",
            reason="no-connection-file",
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(data) > FILE_BYTES_MAX:
        _refuse(path, f"it has more than {FILE_BYTES_MAX} bytes")
    return data


def _unreadable(path: Path, error: OSError) -> HcefsError:
    return Invalid(f"{path} cannot be read: {error.strerror}", reason="bad-connection-file")


def _text(path: Path, table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        _refuse(path, f"{key} is missing or not a text in quotes")
    return value


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if (
        not host
        or any(character.isspace() for character in host)
        or (":" in host and not bracketed)
        or not 0 < number < 65536
    ):
        raise Invalid(
            f'{address[:80]!r} is not an address: write "host:port", an IPv6 host in brackets',
            reason="bad-address",
        )


def _refuse(path: Path, what: str) -> NoReturn:
    raise Invalid(f"{path}: {what}", reason="bad-connection-file")
