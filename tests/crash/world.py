"""Nodes with real disks in one process that is killed: their stores, the ledger, a journal.

The nodes are those of :class:`~hcefs.testing.local_cluster.LocalCluster`, whose holders,
writers and readers are production code; here each node's stores are real files and a real
RocksDB.  All nodes die with the process, at once.  The ledger is elsewhere: what it knows is
in a file that is replaced whole, and so are the clients' notes of what was acknowledged.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcefs.blobs.get import BlobReader, GetPlan, Secrets
from hcefs.blobs.pack import SealedPack
from hcefs.crypto.envelope import SUITE_XWING, EnvelopeContext
from hcefs.crypto.keys import open_envelope
from hcefs.errors import HcefsError, NotFound
from hcefs.formats.manifest import KeyRow
from hcefs.ids import AccountId, BlobBase, BlobId
from hcefs.integrity import blake3_digest
from hcefs.placement.ring import Seat, seats
from hcefs.store.files import open_stores
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.store.recovery import Restoring
from hcefs.stripes.placed import decoded_layout, shards_in, shards_of
from hcefs.stripes.shard_index import read_footer
from hcefs.testing import local_cluster
from hcefs.testing.local_cluster import CLUSTER, HOUR_MS, NOW_MS, LocalCluster
from hcefs.testing.local_packs import LocalPacks
from hcefs.upkeep.collect import Collector
from hcefs.upkeep.worker import Progress
from tests.moves.moving import damage

EVERYWHERE = range(1 << 64)


def some_bytes(size: int, seed: int) -> bytes:
    """Reproducible bytes that no compression shortens."""
    blocks = range(-(-size // 32))
    return b"".join(blake3_digest(b"%d:%d" % (seed, block)) for block in blocks)[:size]


@dataclass(frozen=True)
class Note:
    """What a client knows of a blob or pack that was acknowledged."""

    base: BlobBase
    profile: str
    size: int = 0
    seed: int = 0
    pack: SealedPack | None = None
    durable: tuple[int, ...] = ()
    """The indexes that were reported as durable."""


class Journal:
    """Objects in a file, appended one write each: what was noted survives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, value: Any) -> None:
        data = pickle.dumps(value)
        with self._path.open("ab", buffering=0) as file:
            file.write(len(data).to_bytes(4, "big") + data)

    def notes(self) -> list[Any]:
        data = self._path.read_bytes() if self._path.exists() else b""
        found = []
        while data:
            length = int.from_bytes(data[:4], "big")
            found.append(pickle.loads(data[4 : 4 + length]))  # noqa: S301 - our own file
            data = data[4 + length :]
        return found


@contextlib.contextmanager
def real_stores(folder: Path, marks: list[Restoring] | None = None) -> Iterator[None]:
    """Local clusters made meanwhile have their nodes' stores in this folder.

    With ``marks`` damaged databases are set aside, and the nodes' marks are entered there.
    """
    numbers = itertools.count(1)
    module: Any = local_cluster
    memory = module.memory_stores

    def made() -> Stores:
        node = folder / f"node-{next(numbers)}"
        restoring = Restoring(node) if marks is not None else None
        if marks is not None and restoring is not None:
            marks.append(restoring)
        return open_stores(node, reserve_bytes=0, restoring=restoring)

    module.memory_stores = made
    try:
        yield
    finally:
        module.memory_stores = memory


class World:
    """A local cluster over real disks, from the start of its process to its end."""

    def __init__(self, folder: Path, cluster: LocalCluster, packs: LocalPacks) -> None:
        self.folder = folder
        self.cluster = cluster
        self.packs = packs
        self.runtime = cluster.runtime
        self.journal = Journal(folder / "journal")
        self.phase = ""
        self._ledger = folder / "ledger"
        if self._ledger.exists():
            kept = pickle.loads(self._ledger.read_bytes())  # noqa: S301 - our own file
            cluster.ledger.leaves, cluster.ledger.time_ms, cluster.ledger.grants = kept[:3]
            cluster.map, self.phase = kept[3:]

    def keep_ledger(self) -> None:
        """What the ledger knows now outlives this process."""
        ledger = self.cluster.ledger
        known = (ledger.leaves, ledger.time_ms, ledger.grants, self.cluster.map, self.phase)
        draft = self._ledger.with_suffix(".new")
        draft.write_bytes(pickle.dumps(known))
        os.replace(draft, self._ledger)

    # -- clients

    async def put(self, size: int, seed: int, profile: str, *, commit: bool = True) -> Note:
        """Store a blob through node 1; it is noted once it was acknowledged."""
        cluster = self.cluster
        blob = BlobId.of(blake3_digest(b"blob %d" % seed)[:16])
        self.journal.note(("begun", blob.base))
        session = cluster.session(cluster.plan(blob, profile))
        await session.write(some_bytes(size, seed))
        done = await session.finish(size, b"", b"", cluster.call("put", blob))
        note = Note(blob.base, profile, size, seed, None, tuple(done.stored.durable))
        self.journal.note(note)
        if commit:
            self.commit(note)
        return note

    async def put_pack(self, seed: int, profile: str, *, commit: bool = True) -> Note:
        """The same of a pack of three payloads."""
        pack = self.packs.seal([some_bytes(200 + number, seed + number) for number in range(3)])
        self.journal.note(("begun", pack.base))
        _, stored = await self.packs.put(pack, profile, commit=False)
        note = Note(pack.base, profile, 0, seed, pack, tuple(stored.durable))
        self.journal.note(note)
        if commit:
            self.commit(note)
        return note

    def commit(self, note: Note) -> None:
        """The append of a blob or pack that was acknowledged."""
        if note.pack is not None:
            self.packs.commit(note.pack)
        else:
            self.cluster.commit(BlobId.of(note.base))
        self.keep_ledger()
        self.journal.note(("committed", note.base))

    def acknowledged(self) -> list[Note]:
        return [note for note in self.journal.notes() if isinstance(note, Note)]

    def bases(self, word: str) -> set[BlobBase]:
        """The bases of which that was noted."""
        notes = self.journal.notes()
        return {note[1] for note in notes if isinstance(note, tuple) and note[0] == word}

    # -- reading

    def layout_seats(self, base: BlobBase) -> tuple[str, tuple[Seat, ...]]:
        """The profile of the latest layout in force anywhere, and its seats."""
        found = [
            decoded_layout(data)
            for stores in self.cluster.stores.values()
            if (data := stores.rows.get(Table.LAYOUTS, bytes(base))) is not None
        ]
        if not found:
            raise NotFound("no node has a layout of that base", reason="unknown-blob")
        profile = max(found, key=lambda layout: layout.version).profile
        return profile, seats(self.cluster.map, profile, bytes(base))

    async def read(self, note: Note) -> bytes:
        """A blob as its reader has it; of a pack, all that was sealed, in order."""
        if note.pack is not None:
            reading = self.packs.reading(note.pack)
            found = await self.packs.read(reading, self.packs.keys(note.pack))
            return b"".join(
                bytes(found[key].sealed) if key in found else b"lost"
                for key in sorted(self.packs.keys(note.pack))
            )
        cluster, blob = self.cluster, BlobId.of(note.base)
        call = cluster.call("get", blob)
        _, held = self.layout_seats(note.base)
        manifest = await cluster.fanout.manifest(held, call)
        plan = GetPlan(call, manifest, held, 0, note.size, Secrets(dek=self._dek(note.base)))
        reader = BlobReader(cluster.runtime, cluster, cluster.metrics, cluster.hedge, plan)
        return b"".join([bytes(message) async for message in reader.messages(lambda: None)])

    def _dek(self, base: BlobBase) -> bytes:
        """The data key, from any node that has the key row."""
        blob = bytes(BlobId.of(base))
        for stores in self.cluster.stores.values():
            row = stores.keys.get(KeyTable.KEY_ROWS, blob)
            if row is not None:
                context = EnvelopeContext(
                    "dek", SUITE_XWING, CLUSTER, self.cluster.record, 0, blob,
                    bytes(self.cluster.record),
                )  # fmt: skip
                key = self.cluster.patient.record_key(self.cluster.record, 0)
                return open_envelope(key, KeyRow.decode(row).envelope, context)
        raise NotFound("no node has the key row", reason="unknown-blob")

    def expected(self, note: Note) -> bytes:
        if note.pack is None:
            return some_bytes(note.size, note.seed)
        sealed = self.packs.sealed(note.pack)
        return b"".join(sealed[key] for key in sorted(sealed))

    # -- upkeep

    def expire(self) -> None:
        """Let the ledger's time pass every ``commit_by``."""
        self.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
        self.keep_ledger()

    def collector(self, account: AccountId) -> Collector:
        cluster = self.cluster
        return Collector(
            self.runtime, cluster.stores[account], cluster.ledger, cluster.metrics,
            cluster.holders[account].pending,
        )  # fmt: skip

    async def collect(self) -> None:
        """Every node collects until there is nothing more."""
        for account in self.cluster.stores:
            collector = self.collector(account)
            while await collector.work() is Progress.BUSY:
                pass


# -- what every restart must find


def holding_faults(stores: Stores, name: str) -> list[str]:
    """What is wrong on one disk, whatever was going on when its process was killed.

    Every file is whole and every digest true; nothing unfinished is left; whatever the
    rows name is there, with all that a reader needs of it.
    """
    found = []
    files: set[tuple[BlobBase, int, str]] = {(b, i, "") for b, i in stores.shards.inventory()}
    files |= set(stores.shards.reformed())
    for base, index, form in sorted(files):
        try:
            read_footer(stores.shards, base, index, form)
        except HcefsError as error:
            found.append(f"{name}: {base} index {index} {form}: {error.reason}")
            continue
        if not form and (problem := damage(stores, base, index)):
            found.append(f"{name}: {base} index {index}: {problem}")
    for _, shard in shards_in(stores.rows, EVERYWHERE):
        if stores.rows.get(Table.LAYOUTS, bytes(shard.base)) is None and not stores.rows.scan(
            Table.STAGED, bytes(shard.base), limit=1
        ):
            continue  # its rows went first: nobody is led here
        if (shard.base, shard.index, shard.form) not in files:
            found.append(f"{name}: {shard} is named and is not there")
        found += [f"{name}: {shard.base}: {lack}" for lack in row_faults(stores, shard.base)]
    for key, _ in stores.rows.scan(Table.LAYOUTS):
        if not shards_of(stores.rows, BlobBase(key)):
            found.append(f"{name}: {BlobBase(key)} has rows and no shard is named")
    return found


def row_faults(stores: Stores, base: BlobBase) -> list[str]:
    """What a base lacks whose shard is named: cores, openings and keys come before the name."""
    lacks = [
        f"no {table.name}"
        for table in (Table.CORES, Table.OPENINGS)
        if not stores.rows.scan(table, bytes(base), limit=1)
    ]
    if not stores.keys.scan(KeyTable.KEY_ROWS, bytes(base), limit=1):
        lacks.append("no key row")
    return lacks


async def world_faults(world: World) -> list[str]:
    """What is wrong with a whole cluster after a restart.

    Each shard that was acknowledged is there, whole; committed blobs read back byte for
    byte; what was not committed is listed and given to nobody.
    """
    found = []
    cluster = world.cluster
    for number, (account, stores) in enumerate(cluster.stores.items(), 1):
        found += holding_faults(stores, f"node {number}")
        left = os.listdir(world.folder / f"node-{number}" / "shards" / "incoming")
        found += [f"node {number}: {name} is left in incoming" for name in left]
        found += await _shown_too_early(world, account, number)
    committed = world.bases("committed")
    for note in world.acknowledged():
        if note.base in committed or world.phase == "committing":
            try:
                if await world.read(note) != world.expected(note):
                    found.append(f"{note.base} reads back as something else")
            except HcefsError as error:
                found.append(f"{note.base} does not read: {error.reason} {error.message}")
    return found


async def _shown_too_early(world: World, account: AccountId, number: int) -> list[str]:
    """What a node gives or lists without a leaf of the ledger."""
    cluster, found = world.cluster, []
    holder = cluster.holders[account]
    for base in sorted(world.bases("begun") - world.bases("committed")):
        blob = BlobId.of(base)
        with contextlib.suppress(NotFound):
            await holder.load_manifest(cluster.call("stat", blob))
            found.append(f"node {number} gives the manifest of {base}, which nobody committed")
    listed = len(await holder.load_listing(cluster.call("list", None)))
    if listed > len(cluster.ledger.leaves):
        found.append(f"node {number} lists more than was committed")
    return found


def acknowledged_faults(world: World) -> list[str]:
    """Acknowledged shards that are not on the disk of their seat, whole, with their rows."""
    found = []
    for note in world.acknowledged():
        for seat in seats(world.cluster.map, note.profile, bytes(note.base)):
            if seat.index not in note.durable:
                continue
            stores = world.cluster.stores[seat.node.account]
            name = f"{note.base} index {seat.index} on node {seat.node.node_id}"
            if problem := damage(stores, note.base, seat.index):
                found.append(f"{name}, acknowledged: {problem}")
            elif not any(s.index == seat.index for s in shards_of(stores.rows, note.base)):
                found.append(f"{name}, acknowledged, has no name")
            found += [f"{name}, acknowledged: {lack}" for lack in row_faults(stores, note.base)]
    return found


def left_faults(world: World, bases: set[BlobBase]) -> list[str]:
    """What is left anywhere of bases that are to be gone."""
    found = []
    for number, stores in enumerate(world.cluster.stores.values(), 1):
        for base in sorted(bases):
            name = f"node {number}: of {base}, which is to be gone, "
            for table in (Table.CORES, Table.LAYOUTS, Table.OPENINGS, Table.STAGED):
                if stores.rows.scan(table, bytes(base), limit=1):
                    found.append(f"{name}{table.name} is left")
            for keys in (KeyTable.KEY_ROWS, KeyTable.PACK_ENVELOPES):
                if stores.keys.scan(keys, bytes(base), limit=1):
                    found.append(f"{name}{keys.name} is left")
            if shards_of(stores.rows, base):
                found.append(f"{name}a name is left")
            files = [each[:2] for each in stores.shards.inventory()]
            files += [each[:2] for each in stores.shards.reformed()]
            found += [f"{name}shard {index} is left" for b, index in files if b == base]
            for table in (Table.INDEX, Table.PENDING, Table.META):
                if any(bytes(base) in key for key, _ in stores.rows.scan(table)):
                    found.append(f"{name}{table.name} is left")
    return found
