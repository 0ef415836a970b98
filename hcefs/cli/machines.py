"""A cluster on machines of their own: the folder of each, made by the operators.

``ca init`` makes the authority, the genesis and the operators' keys; ``ledger init`` and
``node init`` each make one folder that holds all that one machine needs, and that is copied
there whole.  ``found`` then does on the ledger what ``up`` does on one machine.

Invariants: a machine's folder names nothing outside of itself, so it may be put anywhere;
the configuration is written last; nothing that exists is overwritten.

Not guaranteed: that private keys never leave the machine that uses them.  They are drawn
here and copied, as the decision explains.
Source: docs/decisions/0038-machines-of-their-own.md.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from hcefs.cli.cluster_files import LEDGER, ClusterFolder, node_name
from hcefs.cli.new_node import WEIGHT, ZONES, generate_keys, write_certificate
from hcefs.cli.place import Place, load_place
from hcefs.config import (
    LedgerConfig,
    NodeConfig,
    TlsConfig,
    render_ledger_config,
    render_node_config,
)
from hcefs.durable_files import replace_file
from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.runtime import Runtime

LEDGER_PORT = 7001
NODE_PORT = 7011
"""The client port; the peer port and the metrics port are the next two."""

PORT_HIGHEST = 65_533


@dataclass(frozen=True)
class Machine:
    """How others reach a machine (a DNS name or an IP address), and where it listens."""

    host: str
    port: int
    listen: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= PORT_HIGHEST:
            raise Invalid(
                f"{self.port} is no port for a process that takes three: use 1 to {PORT_HIGHEST}",
                reason="bad-port",
            )

    def reached(self, offset: int) -> str:
        """The address for others."""
        return f"{_bracketed(self.host)}:{self.port + offset}"

    def listens(self, offset: int) -> str:
        """The address to listen on: that of the machine, or all of them where it has a name."""
        host = self.listen or (self.host if _is_ip(self.host) else "0.0.0.0")  # noqa: S104
        return f"{_bracketed(host)}:{self.port + offset}"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def make_ledger(layout: ClusterFolder, machine: Machine, runtime: Runtime) -> Path:
    """Write the ledger's folder and the connection file.

    Raises:
        NotFound: there is no authority here (``no-genesis``).
        Conflict: the ledger has its folder already (``exists``).
        Invalid: unusable host or port.
    """
    cluster, folder = layout.load_genesis().cluster, layout.ledger
    _require_new(folder)
    write_certificate(layout, folder, LEDGER, runtime, hosts=_names(machine))
    config = LedgerConfig(
        data=folder / "data",
        genesis=folder / "genesis.cbor",
        writer_key=folder / "writer.key",
        client_address=machine.listens(0),
        peer_address=machine.listens(1),
        metrics_address=machine.listens(2),
        tls=_tls(folder),
    )
    _finish(layout, folder, machine, render_ledger_config(config, relative_to=folder))
    layout.save_connection(cluster, machine.reached(0), [])
    return folder


def make_machine(
    layout: ClusterFolder, machine: Machine, runtime: Runtime, *, zone: str = "", rack: str = ""
) -> tuple[int, Path]:
    """Write the folder of the next node, and name it in the connection file.

    Returns its number and its folder.  Without a zone it gets the next of ``ZONES``.

    Raises:
        NotFound: the ledger has no folder yet (``no-cluster``).
        Invalid: unusable host, port or zone.
    """
    connection = layout.load_connection()
    ledger = load_place(layout.ledger)
    if ledger is None:
        raise Conflict(
            f"the cluster in {layout.root} is one of `hcefs up`, on one machine: add to it with "
            "`hcefs node add`",
            reason="one-machine",
        )
    number = max(layout.node_numbers(), default=0) + 1
    folder = layout.node(number)
    folder.mkdir(mode=0o700, parents=True)
    try:
        write_certificate(layout, folder, node_name(number), runtime, hosts=_names(machine))
    except Invalid:
        folder.rmdir()
        raise
    generate_keys(connection.cluster, runtime).save(folder / "account.keys")
    config = NodeConfig(
        data=folder / "data",
        genesis=folder / "genesis.cbor",
        account=folder / "account.keys",
        client_address=machine.listens(0),
        peer_address=machine.listens(1),
        metrics_address=machine.listens(2),
        ledger_address=ledger.peer,
        tls=_tls(folder),
    )
    zone = zone or ZONES[(number - 1) % len(ZONES)]
    text = render_node_config(config, relative_to=folder)
    _finish(layout, folder, machine, text, zone=zone, rack=rack)
    nodes = [*connection.nodes, machine.reached(0)]
    layout.save_connection(connection.cluster, connection.ledger, nodes)
    return number, folder


def _require_new(folder: Path) -> None:
    if not (folder / "writer.key").is_file():
        raise NotFound(
            f"{folder} has no writer's key: make the authority first, with `hcefs ca init`",
            reason="no-authority",
        )
    if (folder / "config.toml").exists():
        raise Conflict(f"{folder} is complete already: nothing was changed", reason="exists")


def _names(machine: Machine) -> tuple[str, ...]:
    return tuple(dict.fromkeys((machine.host, "localhost", "127.0.0.1")))


def _tls(folder: Path) -> TlsConfig:
    return TlsConfig(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def _finish(
    layout: ClusterFolder,
    folder: Path,
    machine: Machine,
    config: str,
    *,
    zone: str = "",
    rack: str = "",
) -> None:
    replace_file(folder / "ca.crt", layout.authority.read_bytes())
    replace_file(folder / "genesis.cbor", layout.genesis_file.read_bytes())
    Place(machine.reached(0), machine.reached(1), zone, rack, machine.host, WEIGHT).save(folder)
    replace_file(folder / "config.toml", config.encode())
