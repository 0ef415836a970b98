"""What ``hcefs doctor`` looks at for each process: its configuration and what that names.

Configuration, certificates, modes of files, ports, the disk, and, where the process runs,
its own health pages.

Invariants: nothing is changed but for files that are written into the data folder for the
measurement and removed again; every look is bounded in time and bytes; no secret is read
but by the check that a key belongs to its certificate, and none is shown.

Not guaranteed: that somebody outside can reach a port, or that a disk keeps its speed.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hcefs.cli.doctor_disk import disk_findings
from hcefs.cli.doctor_findings import Finding, ok, problem, warning
from hcefs.cli.output import remaining_text
from hcefs.config import LedgerConfig, NodeConfig, load_ledger_config, load_node_config
from hcefs.errors import HcefsError, Invalid
from hcefs.ledger.genesis import Genesis
from hcefs.runtime import Runtime
from hcefs.transport.tls import check_pair, is_issued_by, validity
from hcefs.transport.tls_identity import authorities, fingerprint
from hcefs.transport.tls_probe import shown_certificate

DAY_MS = 86_400_000
EXPIRY_WARNING_MS = 30 * DAY_MS
EXPIRY_PROBLEM_MS = 7 * DAY_MS
SOCKET_SECONDS = 2.0
PAGE_BYTES_MAX = 1 << 20
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound
RENEW = "have the operators run `hcefs ca renew`, and copy tls.crt and ca.crt to this machine"

_WRITER_KEY = re.compile(r"^\s*writer_key\s*=", re.MULTILINE)

Config = NodeConfig | LedgerConfig


def process_findings(path: Path, runtime: Runtime) -> list[Finding]:
    """Everything about the process of one configuration."""
    where = str(path)
    try:
        config = load_any(path)
    except Invalid as error:
        remedy = "correct that line; each key has a comment in a file that `init` wrote"
        return [problem("configuration", where, error.message, remedy)]
    health = {page: _health(config.metrics_address, page) for page in ("ready", "cluster")}
    runs = health["ready"] is not None
    return [
        ok("configuration", where, "a ledger" if isinstance(config, LedgerConfig) else "a node"),
        *_genesis(config, where),
        *certificates(config, where, runtime.now_ms()),
        *(used_certificate(config, where, runtime) if runs else ()),
        *_modes(config, where),
        *_ports(config, where, runs=runs),
        *disk_findings(
            config.data,
            where,
            runtime,
            reserve_bytes=config.limits.reserve_mib << 20 if isinstance(config, NodeConfig) else 0,
        ),
        *_own_words(where, health),
    ]


def load_any(path: Path) -> Config:
    """A node's configuration, or the ledger's if it names a writer's key.

    Raises:
        Invalid: as the loaders of :mod:`hcefs.config`.
    """
    try:
        is_ledger = _WRITER_KEY.search(path.read_text(errors="replace")) is not None
    except OSError:
        is_ledger = False  # the loader says what is wrong with the file
    return load_ledger_config(path) if is_ledger else load_node_config(path)


def _genesis(config: Config, where: str) -> Iterator[Finding]:
    try:
        genesis = Genesis.decode(config.genesis.read_bytes())
        genesis.check()
    except (OSError, HcefsError) as error:
        what = error.message if isinstance(error, HcefsError) else error.strerror
        yield problem(
            "genesis", where, f"{config.genesis}: {what}", "copy genesis.cbor from the operators"
        )
    else:
        yield ok("genesis", where, f"cluster {genesis.cluster}")


# --- certificates -----------------------------------------------------------------------


def certificates(config: Config, where: str, now_ms: int) -> Iterator[Finding]:
    """Expiry, authority and key of the process's certificate."""
    tls = config.tls
    try:
        leaf, authority = tls.certificate.read_bytes(), tls.authority.read_bytes()
        check_pair(leaf, tls.key.read_bytes())
        issued = is_issued_by(leaf, authority)
        ends = {
            "certificate": validity(leaf),
            # The one that ends first: it is there because somebody still needs it.
            "authority": min(map(validity, authorities(authority)), key=lambda each: each.until_ms),
        }
    except OSError as error:
        yield problem("certificates", where, f"{error.filename}: {error.strerror}", RENEW)
        return
    except HcefsError as error:
        yield problem("certificates", where, error.message, RENEW)
        return
    if not issued:
        yield problem("certificates", where, "the certificate is not of this authority", RENEW)
    for name, found in ends.items():
        left = found.until_ms - now_ms
        what = f"the {name} ends {remaining_text(found.until_ms, now_ms)}"
        if found.from_ms > now_ms:
            what = f"the {name} is valid only {remaining_text(found.from_ms, now_ms)}"
            yield problem("certificates", where, what, "correct this machine's clock")
        elif left < EXPIRY_PROBLEM_MS:
            yield problem("certificates", where, what, RENEW)
        elif left < EXPIRY_WARNING_MS:
            yield warning("certificates", where, what, RENEW)
        else:
            yield ok("certificates", where, what)


def used_certificate(config: Config, where: str, runtime: Runtime) -> Iterator[Finding]:
    """Whether the process shows the certificate that its file holds."""
    host, port = _split(config.client_address)
    host = WILDCARDS.get(host, host)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        wanted = fingerprint(config.tls.certificate.read_bytes())
        shown = fingerprint(asyncio.run(shown_certificate(runtime, address)))
    except (OSError, HcefsError):
        return  # said by the checks of the files and of the ports
    if shown == wanted:
        yield ok("certificates", where, "the process uses the certificate of its file")
        return
    yield problem(
        "certificates",
        where,
        "the process uses another certificate than its file holds",
        "it looks every 2 s: if this stays, its log says why it refuses the files, and "
        "docs/operations/certificates.md what to do",
    )


# --- files ------------------------------------------------------------------------------


def _modes(config: Config, where: str) -> Iterator[Finding]:
    secret = config.account if isinstance(config, NodeConfig) else config.writer_key
    found = [_mode(path, where, 0o077, "600") for path in (secret, config.tls.key)]
    if config.data.exists():
        found.append(_mode(config.data, where, 0o077, "700"))
        found += _writable(config.data, where)
    bad = [each for each in found if each is not None]
    yield from bad or [ok("modes", where, "secrets and data are for their owner alone")]


def _mode(path: Path, where: str, forbidden: int, wanted: str) -> Finding | None:
    try:
        state = path.stat()
    except OSError as error:
        remedy = "restore it from the copy that the operators keep, or make the process anew"
        return problem("modes", where, f"{path}: {error.strerror}", remedy)
    mode = stat.S_IMODE(state.st_mode)
    if mode & forbidden:
        return problem("modes", where, f"{path} has mode {mode:o}", f"chmod {wanted} {path}")
    return None


def _writable(path: Path, where: str) -> Iterator[Finding]:
    if not os.access(path, os.W_OK | os.X_OK):
        yield problem(
            "modes",
            where,
            f"{path} cannot be written by this user",
            "run the doctor as the user of the process, or give the folder to it with chown",
        )


# --- ports ------------------------------------------------------------------------------


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _ports(config: Config, where: str, *, runs: bool) -> Iterator[Finding]:
    addresses = {
        "client": config.client_address,
        "peer": config.peer_address,
        "metrics": config.metrics_address,
    }
    for name, address in addresses.items():
        answers = _connects(*_split(address))
        if answers:
            what = f"{name} port {address} answers"
            yield (
                ok("ports", where, what)
                if runs
                else problem(
                    "ports",
                    where,
                    f"{what}, and the process does not run",
                    f"another process has it: `ss -ltnp | grep {_split(address)[1]}`",
                )
            )
        elif runs:
            remedy = "look at the process's log, and at the firewall of this machine"
            yield problem("ports", where, f"{name} port {address} does not answer", remedy)
        else:
            yield _free(name, address, where)
    if isinstance(config, NodeConfig):
        yield _reaches_ledger(config.ledger_address, where)


def _reaches_ledger(address: str, where: str) -> Finding:
    if _connects(*_split(address)):
        return ok("ports", where, f"the ledger's peer port {address} answers")
    return problem(
        "ports",
        where,
        f"the ledger's peer port {address} does not answer",
        "start the ledger, or correct ledger_address, the DNS or the firewall between",
    )


def _connects(host: str, port: int) -> bool:
    if not port:
        return False
    try:
        socket.create_connection((WILDCARDS.get(host, host), port), timeout=SOCKET_SECONDS).close()
    except OSError:
        return False
    return True


def _free(name: str, address: str, where: str) -> Finding:
    host, port = _split(address)
    try:
        family, *_, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(target)
    except OSError as error:
        return problem(
            "ports",
            where,
            f"{name} port {address} cannot be listened on: {error.strerror or 'unknown host'}",
            f"choose an address of this machine, and a free port, for {name}_address",
        )
    return ok("ports", where, f"{name} port {address} is free")


# --- what the process says --------------------------------------------------------------


def _health(address: str, page: str) -> dict[str, Any] | None:
    """A health page of a process; None when nobody answers."""
    host, port = _split(address)
    connection = http.client.HTTPConnection(WILDCARDS.get(host, host), port, timeout=SOCKET_SECONDS)
    try:
        connection.request("GET", f"/health/{page}")
        found = json.loads(connection.getresponse().read(PAGE_BYTES_MAX))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return found if isinstance(found, dict) else None


def _own_words(where: str, health: dict[str, dict[str, Any] | None]) -> Iterator[Finding]:
    if health["ready"] is None:
        yield warning(
            "process",
            where,
            "it does not run",
            "start it: `systemctl start`, or `hcefs node start --config` (`ledger start`)",
        )
        return
    found = {
        str(reason)
        for answer in health.values()
        if answer is not None
        for reason in answer.get("reasons", ())
    }
    remedy = "do what it says; its log has more, docs/operations/health.md the meaning"
    for reason in sorted(found):
        yield problem("process", where, reason, remedy)
    if not found:
        yield ok("process", where, "it serves, and sees a cluster that reads and writes")
