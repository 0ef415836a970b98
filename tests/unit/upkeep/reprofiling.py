"""Nodes of a local cluster that re-profile, can be killed at any write, and start again."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hcefs.blobs.get import BlobReader, GetPlan
from hcefs.errors import HcefsError, NotFound, Unavailable
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.ledger.cluster_facts import Reprofile, UpkeepPolicy
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.planner import first_map
from hcefs.placement.ring import seats
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores, Table
from hcefs.stripes.adopt import Adopter
from hcefs.stripes.exports import Exporter, has_shard, record_digest
from hcefs.stripes.placed import decoded_layout, shards_of
from hcefs.stripes.relayout import LayoutTaker
from hcefs.stripes.uploads import Uploads
from hcefs.testing.local_cluster import LocalCluster
from hcefs.testing.local_packs import LocalPacks
from hcefs.transport.peers import ShardDownload
from hcefs.transport.upkeep import BlobRows, LayoutStep, PackRows, Place, ShardName
from hcefs.upkeep.bring_home import HomeBringer
from hcefs.upkeep.fill import SeatFiller
from hcefs.upkeep.own_peer import PeersWithOwn
from hcefs.upkeep.replaced import ReplacedSweeper
from hcefs.upkeep.reprofile import LayoutSigner, Reprofiler
from hcefs.upkeep.superseded import SupersededShards
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.witness import Witness
from hcefs.upkeep.worker import Progress

FAST = 1e12


class Killed(Exception):
    """The process is gone: nothing catches this, and nothing is written any more."""


class Fuse:
    """Kills a node at one of its writes, before it is done."""

    def __init__(self) -> None:
        self.writes_left: int | None = None
        self.dead = False
        self._lock = threading.Lock()

    def live(self) -> None:
        if self.dead:
            raise Killed

    def burn(self) -> None:
        with self._lock:
            self.live()
            if self.writes_left is not None:
                if not self.writes_left:
                    self.dead = True
                    raise Killed
                self.writes_left -= 1


WRITES = frozenset(
    {"put", "put_new", "put_all_new", "delete", "begin", "finish", "remove", "quarantine"}
)


class Mortal:
    """A store or a writer whose node may be killed."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        inner, fuse = getattr(self._inner, name), self._fuse
        if not callable(inner):
            return inner

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in WRITES:
                fuse.burn()
            elif name != "abort":
                fuse.live()
            found = inner(*args, **kwargs)
            return Mortal(found, fuse) if name == "begin" else found

        return call


@dataclass
class Upkeep:
    """What re-profiling needs of one node, from its start to its end."""

    exporter: Exporter
    adopter: Adopter
    taker: LayoutTaker
    mover: Reprofiler
    sweeper: ReplacedSweeper
    filler: SeatFiller
    bringer: HomeBringer


class Reprofiling:
    """A local cluster with the upkeep that re-profiles."""

    def __init__(
        self,
        runtime: Runtime,
        nodes: int = 6,
        tables: Sequence[tuple[str, int, int]] = (("ec-4-2", 4, 2), ("copy-3", 1, 2)),
    ) -> None:
        self.runtime = runtime
        self.cluster = LocalCluster(runtime, nodes)
        self.cluster.map = first_map(self.cluster.map.nodes, tables, bytes(32), "ec-4-2")
        self.packs = LocalPacks(self.cluster)
        self.metrics = Metrics()
        self.rules = UpkeepPolicy()
        self.fuses = {node.account: Fuse() for node in self.cluster.map.nodes}
        self.asked: list[tuple[int, str]] = []
        """Steps that were asked of nodes, by their number."""
        self.lies: set[AccountId] = set()
        """Nodes that give other shards than they have."""
        self.lies_about = {"copy-3"}
        """The profiles of those shards."""
        self.nodes: dict[AccountId, Upkeep] = {}
        for account in self.fuses:
            self.restart(account)

    # The view of the ledger.

    def cluster_map(self) -> ClusterMap | None:
        return self.cluster.map

    def policy(self) -> UpkeepPolicy:
        return self.rules

    def arrived(self) -> frozenset[Any]:
        return frozenset()

    def leave(self, start: str, end: str) -> None:
        self.rules = UpkeepPolicy(self.rules.number + 1, reprofile=(Reprofile(start, end),))

    # Nodes.

    def restart(self, account: AccountId) -> Upkeep:
        """Start a node anew over what its disk has."""
        cluster, runtime = self.cluster, self.runtime
        fuse = self.fuses[account] = Fuse()
        kept, holder = cluster.stores[account], cluster.holders[account]
        stores = Stores(*(Mortal(each, fuse) for each in (kept.shards, kept.rows, kept.keys)))
        uploads = Uploads(lambda: cluster.map.epoch)
        peers = Peers(self, account)
        keys = next(keys for keys in cluster.keys if keys.account == account)
        throttle = Throttle(runtime, FAST, FAST, lambda: False)
        forget = self.packs.holders[account].forget
        pending = holder.pending
        exporter = Exporter(runtime, stores, cluster.ledger, self.metrics, pending, uploads)
        adopter = Adopter(runtime, stores, cluster.ledger, pending, forget)
        taker = LayoutTaker(
            runtime, stores, adopter, pending, uploads, peers, account, self.policy,
            self.cluster_map, lambda: cluster.ledger.time_ms, throttle.spend, forget,
        )  # fmt: skip
        mover = Reprofiler(
            runtime, self, stores, exporter, adopter, taker, pending, peers, self.metrics,
            throttle, account, LayoutSigner(account, 1, keys.signing_key), 0.0,
        )  # fmt: skip
        witness = Witness(runtime, stores, exporter, peers, throttle, account)
        sweeper = ReplacedSweeper(
            runtime, self, stores, peers, pending, self.metrics, account, 0.0, witness
        )

        async def digest_of(record: RecordId) -> bytes:
            return record_digest(stores, record)

        filler = SeatFiller(runtime, peers, adopter, self.metrics, throttle, account, digest_of)
        superseded = SupersededShards(
            runtime, self.cluster_map, stores.rows, adopter,
            PeersWithOwn(peers, account, exporter, taker), witness, self.metrics, account,
        )  # fmt: skip
        bringer = HomeBringer(runtime, filler, superseded, self.metrics, account)
        self.nodes[account] = Upkeep(exporter, adopter, taker, mover, sweeper, filler, bringer)
        return self.nodes[account]

    def up(self, account: AccountId) -> None:
        """Raise when a node does not answer."""
        if self.fuses[account].dead or self.cluster.faults[account].down:
            raise Unavailable("this node is down", reason="unreachable")

    def node(self, account: AccountId) -> Node:
        found = self.cluster.map.node_of_account(account)
        assert found is not None
        return found

    def holder_of(self, base: BlobBase, index: int, profile: str) -> AccountId:
        for seat in seats(self.cluster.map, profile, bytes(base)):
            if seat.index == index:
                return seat.node.account
        raise LookupError(index)

    # Work.

    async def move(self) -> None:
        """Let every node make one pass; who is killed is killed."""
        for account in list(self.nodes):
            await self._pass(account, self.nodes[account].mover)

    async def sweep(self) -> None:
        for account in list(self.nodes):
            await self._pass(account, self.nodes[account].sweeper)

    async def _pass(self, account: AccountId, worker: Any) -> None:
        try:
            self.up(account)
            while await worker.work() is Progress.BUSY:
                pass
        except (Killed, Unavailable):
            pass

    async def finish(self, bases: Sequence[BlobBase], profile: str) -> None:
        """Start everybody again, and let them work until all is as it is to be."""
        for account, fuse in list(self.fuses.items()):
            if fuse.dead:
                self.restart(account)
            fuse.writes_left = None
        for _ in range(6):
            await self.move()
            await self.sweep()
            if not self.faults(bases, profile):
                return
        raise AssertionError("\n".join(self.faults(bases, profile)))

    # What is there.

    def faults(self, bases: Sequence[BlobBase], profile: str) -> list[str]:
        """What is not as it is to be when all lie under a profile, and only there."""
        found = []
        for base in bases:
            held = {s.node.account: s.index for s in seats(self.cluster.map, profile, bytes(base))}
            for account, stores in self.cluster.stores.items():
                found += faults_of(stores, base, profile, held.get(account))
        return found

    async def sealed(self, blob: BlobId) -> bytes:
        """A blob as anybody may have it without a key, by any layout that leads to it."""
        refused: list[bytes] = []
        call = self.cluster.call("get", blob)
        failure: HcefsError = NotFound("nobody has it")
        for _ in range(4):
            for table in self.cluster.map.tables:
                held = seats(self.cluster.map, table.profile, bytes(blob.base))
                try:
                    manifest = await self.cluster.fanout.manifest(held, call, refused)
                except HcefsError as error:
                    failure = error
                    continue
                under = seats(self.cluster.map, manifest.layout.profile, bytes(blob.base))
                length = manifest.core.plaintext_length
                plan = GetPlan(call, manifest, under, 0, length, None)
                reader = BlobReader(
                    self.runtime, self.cluster, self.cluster.metrics, self.cluster.hedge, plan
                )
                try:
                    return b"".join([bytes(m) async for m in reader.messages(lambda: None)])
                except HcefsError as error:
                    failure = error
                    refused.append(manifest.rows.layout)
        raise failure


class Peers:
    """The other nodes, as one of them reaches them."""

    def __init__(self, all_: Reprofiling, caller: AccountId) -> None:
        self._all = all_
        self._caller = caller

    def upkeep_peer(self, node: Node) -> Any:
        return Peer(self._all, self._caller, node)


class Peer:
    def __init__(self, all_: Reprofiling, caller: AccountId, node: Node) -> None:
        self._all = all_
        self._caller = caller
        self._node = node

    def _reach(self) -> Upkeep:
        self._all.fuses[self._caller].live()
        self._all.up(self._node.account)
        return self._all.nodes[self._node.account]

    async def load_rows(self, place: Place, base: BlobBase) -> BlobRows | PackRows:
        try:
            return await self._reach().exporter.load_rows(base, place.profile)
        except Killed:
            raise self._gone() from None

    async def load_shard(
        self, place: Place, base: BlobBase, index: int, first: int
    ) -> ShardDownload:
        download = await self._reach().exporter.load_shard(base, index, first, place.profile)
        liar = self._node.account in self._all.lies and place.profile in self._all.lies_about
        return cast(ShardDownload, Lie(download)) if liar else download

    async def has_shards(self, place: Place, shards: Sequence[ShardName]) -> list[bool]:
        return await self._reach().exporter.has_shards(shards, place.profile)

    async def take_layout(
        self, place: Place, base: BlobBase, step: LayoutStep, rows: BlobRows | PackRows
    ) -> None:
        taker = self._reach().taker
        self._all.asked.append((self._node.node_id, step.name))
        try:
            await taker.take(place, base, step, rows, self._all.node(self._caller))
        except Killed:
            raise self._gone() from None

    def _gone(self) -> Unavailable:
        """What the caller sees when the node is killed; or it is the caller that is gone."""
        self._all.fuses[self._caller].live()
        return Unavailable("this node is down", reason="unreachable")


class Lie:
    """A download whose bytes are not those of its header."""

    def __init__(self, download: ShardDownload) -> None:
        self._download = download

    def __getattr__(self, name: str) -> Any:
        return getattr(self._download, name)

    async def messages(self) -> AsyncIterator[bytes]:
        async for message in self._download.messages():
            yield bytes(byte ^ 1 for byte in message)


def faults_of(stores: Stores, base: BlobBase, profile: str, index: int | None) -> list[str]:
    """What a node has too much or too little of a base: index None means nothing at all."""
    found = []
    if index is not None and not has_shard(stores, base, index, profile):
        found.append(f"{base} index {index} is not there")
    for shard in shards_of(stores.rows, base):
        if (shard.profile, shard.index) != (profile, index):
            found.append(f"{shard} is still there")
    layout = stores.rows.get(Table.LAYOUTS, bytes(base))
    if layout is not None and decoded_layout(layout).profile != profile:
        found.append(f"{base} has an old layout")
    if (index is None) != (layout is None):
        found.append(f"{base} has a layout and no seat, or a seat and no layout")
    if stores.rows.scan(Table.STAGED, bytes(base)):
        found.append(f"{base} is still staged")
    if stores.rows.scan(Table.META, b"replaced/" + bytes(base)):
        found.append(f"{base} is still marked")
    files = [each[:2] for each in stores.shards.inventory()]
    files += [each[:2] for each in stores.shards.reformed()]
    mine = [name[1] for name in files if name[0] == base]
    if mine != ([] if index is None else [index]):
        found.append(f"{base} has the files {mine}, its seat is {index}")
    return found
