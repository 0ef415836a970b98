"""The stage of the demo: the cluster, the people and their clients, what is stored.

Owns every process that the demo starts and every client that it opens; closing
the stage ends them all.  The steps (``demo_steps``, ``demo_faults``,
``demo_attacks``, ``demo_evidence``) act on it.

``connection`` and ``map`` are there after ``raise_cluster``, ``record`` after step 1,
``bundle`` after step 3; the steps run in order.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcefs.cli.bringup import OPERATORS, bring_up, wait_serving
from hcefs.cli.cluster_files import ClusterFolder, node_name
from hcefs.cli.demo_data import Exhibit
from hcefs.cli.demo_report import Broken, require
from hcefs.cli.processes import Processes
from hcefs.client.bundle import Bundle
from hcefs.client.client import Client
from hcefs.client.connection import Connection
from hcefs.client.receipts import PutReceipt
from hcefs.config import NodeConfig, load_node_config
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import HcefsError
from hcefs.ids import BlobId, GrantId, RecordId
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import Seat, seats
from hcefs.runtime import Runtime

NODES = 6
ENTRY = 1
"""The node that clients talk to; it lives through the whole demo."""

PURPOSE = "TREAT"
HOUR_MS = 3_600_000
SERVING_SECONDS = 30.0
POLL_SECONDS = 0.05
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Stored:
    """A blob of the demo: the file it was made from and the receipt of its put."""

    exhibit: Exhibit
    receipt: PutReceipt

    @property
    def blob(self) -> BlobId:
        """The blob's id."""
        return self.receipt.ref.blob


class Stage:
    """Everything that the steps share.

    ``accounts`` and ``clients`` are by the person's name, ``grants`` by the
    grantee's; ``stored`` is by the exhibit's key, and ``sealed`` is the one that
    the client sealed.
    """

    connection: Connection
    map: ClusterMap
    record: RecordId
    bundle: Bundle

    def __init__(
        self,
        folder: Path,
        runtime: Runtime,
        say: Callable[[str], None],
        exhibits: Iterable[Exhibit],
    ) -> None:
        self.runtime = runtime
        self.say = say
        self.cluster = ClusterFolder(folder / "cluster")
        self.processes = Processes(self.cluster)
        self.exhibits = {exhibit.key: exhibit for exhibit in exhibits}
        self.accounts: dict[str, AccountKeys] = {}
        self.clients: dict[str, Client] = {}
        self.grants: dict[str, GrantId] = {}
        self.stored: dict[str, Stored] = {}
        self.down: list[int] = []

    # -- the cluster

    async def raise_cluster(self) -> None:
        """Start the ledger and the nodes as processes of their own."""
        await bring_up(self.cluster, NODES, self.runtime, report=self.say)
        self.connection = self.cluster.load_connection()
        for name in OPERATORS:
            self.join(name, self.cluster.load_keys(name))
        self.map = await self.operator.cluster_map()

    def join(self, name: str, keys: AccountKeys) -> Client:
        """Open a client for a person; the keys are kept in the cluster's folder."""
        path = self.cluster.account_file(name)
        if not path.exists():
            keys.save(path)
        self.accounts[name] = keys
        self.clients[name] = client = Client(self.connection, keys, self.runtime)
        return client

    def new_keys(self) -> AccountKeys:
        """Keys of someone who is not on the ledger yet."""
        return AccountKeys.generate(self.connection.cluster, self.runtime.random(128))

    @property
    def operator(self) -> Client:
        """The client of one operator."""
        return self.clients[OPERATORS[0]]

    async def close(self) -> None:
        """Close the clients and stop every process; safe at any moment, and twice."""
        clients, self.clients = list(self.clients.values()), {}
        for client in clients:
            await client.close()
        await self.runtime.disk(self.processes.stop_all)

    # -- nodes

    @property
    def nodes(self) -> range:
        """The ids of all nodes."""
        return range(1, NODES + 1)

    def node_config(self, node: int) -> NodeConfig:
        """A node's configuration."""
        return load_node_config(self.cluster.config_of(node_name(node)))

    def node(self, node: int) -> Node:
        """A node as the cluster map names it."""
        known = self.map.node(node)
        if known is None:
            raise Broken(f"the cluster map does not name node {node}")
        return known

    def address(self, node: int) -> str:
        """A node's client port."""
        return self.node(node).address

    def seats_of(self, blob: BlobId) -> tuple[Seat, ...]:
        """Which node holds which shard of a blob."""
        return seats(self.map, self.map.default_profile, blob.base)

    def holder(self, blob: BlobId, index: int) -> int:
        """The node that holds one shard."""
        return next(seat.node.node_id for seat in self.seats_of(blob) if seat.index == index)

    def shard_path(self, blob: BlobId, index: int) -> Path:
        """The file of a shard on its holder's disk."""
        name = blob.base.hex()
        data = self.node_config(self.holder(blob, index)).data
        return data / "shards" / name[:2] / f"{name}.{index}"

    async def kill(self, *nodes: int) -> None:
        """kill -9 nodes, all at once."""
        await asyncio.gather(
            *(self.runtime.disk(self.processes.kill, node_name(node)) for node in nodes)
        )
        self.down += nodes

    async def revive(self, node: int) -> float:
        """Start a killed node and wait until it serves; the seconds that took."""
        self.say(f"node {node} comes back")
        started = self.runtime.monotonic()
        await self.runtime.disk(self.processes.start_node, node)
        self.down.remove(node)
        await wait_serving(self.cluster, node_name(node), self.runtime, SERVING_SECONDS)
        await self._until_level(node)
        return self.runtime.monotonic() - started

    async def _until_level(self, node: int) -> None:
        """Wait until a node that serves has applied what the ledger has now.

        Raises:
            Broken: it does not come so far.
        """
        deadline = self.runtime.monotonic() + SERVING_SECONDS
        wanted = (await self.operator.status(self.connection.ledger)).height
        while (await self.operator.status(self.address(node))).height < wanted:
            require(
                self.runtime.monotonic() < deadline,
                f"node {node} is not level with the ledger after {SERVING_SECONDS:.0f} s",
            )
            await self.runtime.sleep(POLL_SECONDS)

    # -- reading

    async def read(
        self,
        who: str,
        stored: Stored,
        *,
        node: int | None = ENTRY,
        meanwhile: Callable[[int], Awaitable[None]] | None = None,
    ) -> float:
        """Read a whole blob and compare it with its file; the seconds that took.

        ``meanwhile`` is called with the bytes that have arrived so far.

        Raises:
            Broken: it is not the same, byte for byte.
        """
        self.say(f"{who} reads {stored.exhibit.name}")
        started = self.runtime.monotonic()
        stream = await self.clients[who].get(
            self.record,
            stored.blob,
            grant=self.grants.get(who),
            purpose=PURPOSE,
            node=self.address(node) if node is not None else None,
        )
        await self.compare(stream, stored.exhibit, meanwhile)
        return self.runtime.monotonic() - started

    async def compare(
        self,
        stream: AsyncIterable[Any],
        exhibit: Exhibit,
        meanwhile: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Compare a stream with a file, byte for byte: by length and SHA-256.

        Raises:
            Broken: they differ.
        """
        digest, length = hashlib.sha256(), 0
        async for data in stream:
            digest.update(data)
            length += len(data)
            if meanwhile is not None:
                await meanwhile(length)
        require(
            length == exhibit.bytes and digest.hexdigest() == exhibit.sha256,
            f"{exhibit.name}: what came back ({length:,} bytes) is not what was stored "
            f"({exhibit.bytes:,} bytes)",
        )


async def refused(operation: Awaitable[object], *reasons: str) -> str:
    """Await something that must be refused for one of these reasons; returns the reason.

    Raises:
        Broken: it was not refused, or for another reason.
    """
    try:
        await operation
    except HcefsError as error:
        require(
            error.reason in reasons,
            f"refused, but for another reason ({error.kind}, {error.reason}): {error.message}",
        )
        return error.reason
    raise Broken(f"it was let through and should have been refused ({' or '.join(reasons)})")
