"""One storage node of a folder: its files, its account on the ledger, its place in a map.

Used for the first nodes of a cluster and for every one that joins it later.  Everything
may be repeated: what is there is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hcefs.access.facts import AccountKind
from hcefs.cli.authority import signing_pair
from hcefs.cli.cluster_files import ClusterFolder, node_name
from hcefs.cli.place import Place, load_place
from hcefs.client.ledger import LedgerClient
from hcefs.config import NodeConfig, TlsConfig, load_node_config, render_node_config
from hcefs.crypto.accounts import SEED_SIZE, AccountKeys, load_account
from hcefs.durable_files import replace_file, write_private
from hcefs.ids import ClusterId
from hcefs.placement.cluster_map import Node, NodeState
from hcefs.runtime import Runtime
from hcefs.transport.tls import issue, spki_hash

ZONES = ("zone-a", "zone-b", "zone-c")
WEIGHT = 100
PORTS_PER_PROCESS = 3
_NAMES = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Ports:
    """The addresses of one process."""

    client: str
    peer: str
    metrics: str


def generate_keys(cluster: ClusterId, runtime: Runtime) -> AccountKeys:
    """New secrets of an account."""
    return AccountKeys.generate(cluster, runtime.random(4 * SEED_SIZE))


def write_certificate(
    layout: ClusterFolder,
    folder: Path,
    name: str,
    runtime: Runtime,
    *,
    hosts: Sequence[str] = _NAMES,
) -> None:
    """A certificate of the cluster's authority, and its key, in a process's folder."""
    authority, authority_key = signing_pair(layout)
    certificate, key = issue(
        authority,
        authority_key,
        name,
        hosts,
        now_ms=runtime.now_ms(),
    )
    replace_file(folder / "tls.crt", certificate)
    write_private(folder / "tls.key", key)


def tls_of(folder: Path, up: str) -> TlsConfig:
    """Where a process finds its TLS files; ``up`` leads from its folder to the cluster's."""
    return TlsConfig(
        certificate=folder / "tls.crt",
        key=folder / "tls.key",
        authority=folder / up / "ca" / "ca.crt",
    )


def make_node(
    layout: ClusterFolder,
    number: int,
    ports: Ports,
    cluster: ClusterId,
    ledger: str,
    runtime: Runtime,
) -> None:
    """Write all files of a node; its configuration last, so that half a node is none.

    Raises:
        Conflict: a file is there already.
    """
    folder = layout.node(number)
    folder.mkdir(parents=True, exist_ok=True)
    write_certificate(layout, folder, node_name(number), runtime)
    generate_keys(cluster, runtime).save(folder / "account.keys")
    _write_node_config(layout, folder, ports, ledger)


def _write_node_config(layout: ClusterFolder, folder: Path, ports: Ports, ledger: str) -> None:
    config = NodeConfig(
        data=folder / "data",
        genesis=folder / ".." / ".." / layout.genesis_file.name,
        account=folder / "account.keys",
        client_address=ports.client,
        peer_address=ports.peer,
        metrics_address=ports.metrics,
        ledger_address=ledger,
        tls=tls_of(folder, "../.."),
    )
    text = render_node_config(config, relative_to=folder)
    replace_file(folder / "config.toml", text.encode())


async def register_node(
    layout: ClusterFolder, number: int, client: LedgerClient, others: list[AccountKeys]
) -> None:
    """Have the operators admit a node's account; a repeat returns the first result."""
    folder = layout.node(number)
    keys = load_account(folder / "account.keys")
    spki = spki_hash((folder / "tls.crt").read_bytes())
    signed = await client.register(keys, AccountKind.NODE, spki=spki)
    signed = client.cosign(signed)
    for operator in others:
        async with LedgerClient(client.connection, operator, client.runtime) as cosigner:
            signed = cosigner.cosign(signed)
    await client.submit(signed)


def map_node(layout: ClusterFolder, number: int) -> Node:
    """A node of the first map, by its configuration, or by its place on another machine."""
    config = load_node_config(layout.config_of(node_name(number)))
    place = load_place(layout.node(number)) or Place(
        config.client_address,
        config.peer_address,
        zone=ZONES[(number - 1) % len(ZONES)],
        host=f"host-{number}",
        weight=WEIGHT,
    )
    return Node(
        node_id=number,
        account=load_account(config.account).account,
        address=place.client,
        peer_address=place.peer,
        zone=place.zone,
        rack=place.rack,
        host=place.host,
        weight=place.weight,
        state=NodeState.UP,
    )
