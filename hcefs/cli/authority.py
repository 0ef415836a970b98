"""The authority's files in the operators' folder, and the certificates that it issues.

Owns who signs now, who is trusted now, and where those files are; changing one authority
for another is :mod:`hcefs.cli.rollover`.

Invariants: the authority that signs is the one of the bundle ``ca/ca.crt`` that belongs to
``ca/ca.key``, so that exchanging the key alone exchanges the signer; every file is written
whole; a process's own key is neither read nor written when its certificate is renewed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hcefs.cli.cluster_files import LEDGER, ClusterFolder
from hcefs.cli.place import load_place
from hcefs.config import load_ledger_config, load_node_config
from hcefs.durable_files import replace_file, write_private
from hcefs.errors import HcefsError, Invalid, NotFound
from hcefs.runtime import Runtime
from hcefs.transport.tls import check_pair, issue, renew, validity
from hcefs.transport.tls_identity import authorities, common_name

WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared with, not bound


@dataclass(frozen=True)
class Member:
    """A process: its folder here, its ports as others reach them, whether it is elsewhere."""

    name: str
    folder: Path
    client: str
    peer: str
    is_elsewhere: bool

    @property
    def certificate(self) -> Path:
        """Its certificate."""
        return self.folder / "tls.crt"


def member(layout: ClusterFolder, name: str) -> Member:
    """A process of the folder.

    Raises:
        NotFound: it has no configuration here (``unknown-process``).
        Invalid: not the name of a process, or a damaged file.
    """
    folder = layout.folder_of(name)
    path = layout.config_of(name)
    if not path.is_file():
        raise NotFound(
            f"{name} has no configuration here (there are: {', '.join(layout.process_names())})",
            reason="unknown-process",
        )
    place = load_place(folder)
    if place is not None:
        return Member(name, folder, place.client, place.peer, True)
    config = load_ledger_config(path) if name == LEDGER else load_node_config(path)
    return Member(
        name, folder, _reachable(config.client_address), _reachable(config.peer_address), False
    )


def members(layout: ClusterFolder) -> list[Member]:
    """All processes that have a configuration here."""
    names = layout.process_names()
    return [member(layout, name) for name in names if layout.config_of(name).is_file()]


def _reachable(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{WILDCARDS.get(host, host)}:{port}"


def signing_pair(layout: ClusterFolder) -> tuple[bytes, bytes]:
    """Certificate and key of the authority that issues certificates now.

    Raises:
        NotFound: the authority's files are not here (``no-authority``).
        Invalid: the key belongs to none of the bundle (``bad-authority``).
    """
    try:
        bundle, key = layout.authority.read_bytes(), layout.authority_key.read_bytes()
    except OSError as error:
        raise NotFound(
            f"{error.filename} cannot be read ({error.strerror}): run this where the operators "
            "keep the cluster's folder",
            reason="no-authority",
        ) from None
    for each in authorities(bundle):
        try:
            check_pair(each, key)
        except Invalid:
            continue
        return each, key
    raise Invalid(
        f"{layout.authority_key} belongs to no authority in {layout.authority}: put the files of "
        "one moment back, from your copy",
        reason="bad-authority",
    )


def renew_certificate(
    layout: ClusterFolder, name: str, runtime: Runtime, *, new_key: bool = False
) -> bytes:
    """Give a process a new certificate for the same key, name and hosts; returns it (PEM).

    With ``new_key`` also another key, which only the ledger's process may have just so.

    Raises:
        NotFound: the process has no certificate here, or there is no authority.
        Invalid: a damaged file, or an authority that has expired.
    """
    authority, key = signing_pair(layout)
    path = layout.folder_of(name) / "tls.crt"
    known = read_certificate(path)
    if not new_key:
        made = renew(authority, key, known, now_ms=runtime.now_ms())
        replace_file(path, made)
        return made
    hosts = validity(known).hosts
    made, secret = issue(authority, key, common_name(known), hosts, now_ms=runtime.now_ms())
    # The process uses neither before both are there.
    write_private(path.with_name("tls.key"), secret, replace=True)
    replace_file(path, made)
    return made


def read_certificate(path: Path) -> bytes:
    """A process's certificate.

    Raises:
        NotFound: there is none (``no-certificate``).
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(
            f"{path} cannot be read ({error.strerror}): it is made by `hcefs up` or `init`",
            reason="no-certificate",
        ) from None


def trust(layout: ClusterFolder, certificates: Iterable[bytes]) -> list[Path]:
    """Make these the authorities that clients and processes trust; returns what was written."""
    bundle = b"".join(each.strip() + b"\n" for each in certificates)
    authorities(bundle)
    written = []
    for path in authority_files(layout):
        if path.read_bytes() != bundle:
            replace_file(path, bundle)
            written.append(path)
    return written


def authority_files(layout: ClusterFolder) -> list[Path]:
    """The cluster's own, which clients take, and the copy of each process on its own machine."""
    copies = (layout.folder_of(name) / "ca.crt" for name in layout.process_names())
    return [layout.authority, *(path for path in copies if path.is_file())]


def is_address_named(certificate: bytes, address: str) -> bool:
    """Whether clients that connect to an address would take the certificate.

    Raises:
        Invalid: it is no certificate.
    """
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]").lower()
    names = validity(certificate).hosts
    try:
        return str(ipaddress.ip_address(host)) in names
    except ValueError:
        return host in names


def fault_of(error: HcefsError) -> str:
    """The first clause of an error's message, for a line in a list."""
    return error.message.split(": ", 1)[0]
