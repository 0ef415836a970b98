"""Changes on disk that are killed in the middle: what is there before, what is done, what must
be there after a restart.

Each scenario has three phases, each in a process of its own: ``prepare`` makes what is there
before and ends in order; ``act`` carries out the change and is killed at the armed point;
``check`` is the restart: it says what is wrong at once, lets upkeep do its work, and says
what is wrong then.  ``points`` names each crash point that the act passes, with the hits at
which it is killed: another hit is another node, or a later step of the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hcefs.access.facts import Action, Grant
from hcefs.crashpoints import CrashPoint
from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.errors import HcefsError, NotFound
from hcefs.formats.keybox import KeyBox
from hcefs.ids import AccountId, BlobBase, GrantId
from hcefs.ledger.transactions_map import SeatsArrived
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import seats
from hcefs.placement.waves import SeatName
from hcefs.runtime import SystemRuntime
from hcefs.store.files import open_stores
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.store.keys import RocksKeyStore
from hcefs.stripes.exports import has_shard
from hcefs.stripes.placed import ensure_placed
from hcefs.testing.local_cluster import HOUR_MS, NOW_MS, LocalCluster
from hcefs.testing.local_packs import LocalPacks
from hcefs.upkeep.rebalance import Rebalancer
from hcefs.upkeep.retire import Retirer
from hcefs.upkeep.worker import Progress
from tests.crash.world import (
    World,
    acknowledged_faults,
    left_faults,
    real_stores,
    some_bytes,
    world_faults,
)
from tests.unit.stripes.moving import moved, seat_of, settled
from tests.unit.upkeep.giving import GivingCluster
from tests.unit.upkeep.reprofiling import Reprofiling

P = CrashPoint
Points = Mapping[CrashPoint, tuple[int, ...]]
SIZE = 3_000
LARGE = 300_000
"""Its pieces are written past the page cache, where they can be."""


class Scenario:
    """One change on disk.  Made anew in each process."""

    name: ClassVar[str]
    points: ClassVar[Points]

    def __init__(self, folder: Path, runtime: SystemRuntime) -> None:
        self.folder = folder
        self.runtime = runtime

    async def prepare(self) -> None:
        """What is there before."""

    async def act(self) -> None:
        """The change."""
        raise NotImplementedError

    async def check(self) -> list[str]:
        """Start again; what is wrong at once, and what still is when upkeep has done its work."""
        raise NotImplementedError

    def close(self) -> None:
        """End in order."""


class ClusterScenario(Scenario):
    """A change on the nodes of a local cluster."""

    def __init__(self, folder: Path, runtime: SystemRuntime) -> None:
        super().__init__(folder, runtime)
        with self.stores_in(folder):
            self.world = World(folder, *self.make())

    def stores_in(self, folder: Path) -> AbstractContextManager[None]:
        return real_stores(folder)

    def make(self) -> tuple[LocalCluster, LocalPacks]:
        cluster = LocalCluster(self.runtime)
        return cluster, LocalPacks(cluster)

    def close(self) -> None:
        for stores in self.world.cluster.stores.values():
            stores.close()

    async def check(self) -> list[str]:
        found = await world_faults(self.world)
        return found + await self.recovered()

    async def recovered(self) -> list[str]:
        """Let upkeep do its work; what is wrong then."""
        raise NotImplementedError

    async def settle_puts(self) -> list[str]:
        """Clients commit what was acknowledged; the rest is collected; another put goes."""
        world = self.world
        found = acknowledged_faults(world)
        committed = world.bases("committed")
        for note in world.acknowledged():
            if note.base not in committed:
                try:
                    world.commit(note)
                except (ValueError, HcefsError) as error:
                    found.append(f"{note.base}, acknowledged, cannot be committed: {error}")
        world.expire()
        await world.collect()
        found += await world_faults(world)
        found += left_faults(world, world.bases("begun") - world.bases("committed"))
        world.cluster.ledger.time_ms = NOW_MS
        for note in (await world.put(SIZE, 900, "copy-3"), await world.put_pack(910, "copy-3")):
            if await world.read(note) != world.expected(note):
                found.append("what is put after the restart reads back as something else")
        return found


class Puts(ClusterScenario):
    """Blobs are put: small ones whose listing is elsewhere, and one with large shards."""

    name = "puts"
    points: ClassVar[Points] = {
        P.SHARD_BEGUN: (1, 5),
        P.SHARD_DATA_WRITTEN: (1, 4),
        P.SHARD_SYNCED: (1, 3),
        P.SHARD_LINKED: (1, 6),
        P.SHARD_FOLDER_SYNCED: (2,),
        P.BLOB_PENDING: (1, 5),
        P.BLOB_SHARD: (1, 4),
        P.BLOB_KEY_ROW: (1, 6),
        P.BLOB_ROWS: (1, 3, 5),
        P.OPENING_PENDING: (1,),
        P.OPENING_ROWS: (1, 3),
    }

    async def prepare(self) -> None:
        await self.world.put(SIZE, 1, "ec-4-2")

    async def act(self) -> None:
        await self.world.put(SIZE, 2, "copy-3")
        await self.world.put(LARGE, 3, "ec-4-2", commit=False)

    async def recovered(self) -> list[str]:
        return await self.settle_puts()


class Packs(ClusterScenario):
    """A pack is put, with its openings in a listing elsewhere."""

    name = "packs"
    points: ClassVar[Points] = {
        P.SHARD_SYNCED: (2,),
        P.PACK_PENDING: (1, 3),
        P.PACK_SHARD: (1, 2),
        P.PACK_KEYS: (1, 2),
        P.PACK_ROWS: (1, 3),
        P.OPENING_PENDING: (2,),
    }

    async def prepare(self) -> None:
        await self.world.put_pack(1, "copy-3")

    async def act(self) -> None:
        await self.world.put_pack(10, "copy-3", commit=False)

    async def recovered(self) -> list[str]:
        return await self.settle_puts()


GRANT = GrantId(b"\x07" * 16)
BOX = b"\xb0\x0c" + some_bytes(94, 77)
"""The sealed bytes of a box, as they must not be found when it was erased."""


def give_grant(world: World) -> None:
    cluster = world.cluster
    cluster.ledger.grants[GRANT] = Grant(
        GRANT, cluster.record, None, 0, 0, cluster.patient.account, cluster.writer.account,
        Action.READ, ("TREAT",), NOW_MS - 1, NOW_MS + 100 * HOUR_MS, None, 1, 0,
    )  # fmt: skip
    world.keep_ledger()


async def keep_box(world: World, account: AccountId) -> None:
    """The patient stores a box at a node."""
    cluster = world.cluster
    box = KeyBox(
        cluster.record, 0, None, GRANT, cluster.writer.account, 1, cluster.patient.account, 1,
        Envelope(SUITE_XWING, BOX), b"",
    ).signed(cluster.patient.signing_key)  # fmt: skip
    call = replace(cluster.call("put-box", None), presenter=cluster.patient.account, grant=GRANT)
    await cluster.holders[account].store_box(call, box.encode(), b"")
    world.journal.note(("boxed", account))


class Boxes(ClusterScenario):
    """A key box is stored at all seats of its record, and erased when its grant is dead."""

    name = "boxes"
    points: ClassVar[Points] = {P.BOX_RECORD: (1, 3), P.BOX_KEPT: (1, 3)}

    async def prepare(self) -> None:
        give_grant(self.world)

    async def act(self) -> None:
        for account in self.world.cluster.holders:
            await keep_box(self.world, account)

    async def recovered(self) -> list[str]:
        found, world = [], self.world
        boxed = {note[1] for note in world.journal.notes() if note[0] == "boxed"}
        for number, (account, stores) in enumerate(world.cluster.stores.items(), 1):
            boxes = stores.keys.scan(KeyTable.BOXES)
            if not boxes and account in boxed:
                found.append(f"node {number} lost a box that it acknowledged")
            if boxes and not stores.rows.scan(Table.RECORDS):
                found.append(f"node {number} has a box and its record is not named")
            await keep_box(world, account)
            if len(stores.keys.scan(KeyTable.BOXES)) != 1:
                found.append(f"node {number} does not take the box again")
        grant = world.cluster.ledger.grants[GRANT]
        world.cluster.ledger.grants[GRANT] = replace(grant, revoked_height=2)
        await world.collect()
        for number in range(1, len(world.cluster.stores) + 1):
            found += raw_faults(world.folder / f"node-{number}" / "keys", [BOX])
        return found


def raw_faults(folder: Path, secrets: Iterable[bytes]) -> list[str]:
    """Values that are to be gone and stand in a file of a database."""
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return [
        f"an erased value is in {path.name}"
        for secret in secrets
        for path, data in files.items()
        if secret in data
    ]


class Erase(Scenario):
    """Half of the keys of a store are erased, as two deletions."""

    name = "erase"
    points: ClassVar[Points] = {
        P.ERASE_TOMBSTONES: (1, 2),
        P.ERASE_FLUSHED: (1, 2),
        P.ERASE_COMPACTED: (1, 2),
        P.ERASE_REOPENED: (1,),
        P.ERASE_CHECKED: (1, 2),
    }

    def __init__(self, folder: Path, runtime: SystemRuntime) -> None:
        super().__init__(folder, runtime)
        self.keys = [number.to_bytes(2, "big") for number in range(40)]
        self.values = [some_bytes(200, number) for number in range(40)]
        self.notes = folder / "erased"

    def close(self) -> None:
        """Each phase closes its store."""

    def _open(self) -> RocksKeyStore:
        return RocksKeyStore(self.folder / "keys")

    async def prepare(self) -> None:
        store = self._open()
        for start in (0, 20):
            rows = [(KeyTable.KEY_ROWS, self.keys[n], self.values[n]) for n in range(start, 40)]
            store.put_all_new(rows[:20])
        store.close()

    async def act(self) -> None:
        store = self._open()
        self._leave_files(store)
        for number, half in enumerate((range(10), range(10, 20)), 1):
            store.delete([(KeyTable.KEY_ROWS, self.keys[key]) for key in half])
            self.notes.write_text(str(10 * number))

    @staticmethod
    def _leave_files(store: RocksKeyStore) -> None:
        """As if RocksDB's purging thread had not come far: the store has to be reopened."""
        leftovers, asked = store._leftovers, iter([{"late.sst"}])
        store._leftovers = lambda: next(asked, None) or leftovers()  # type: ignore[method-assign]

    async def check(self) -> list[str]:
        erased = int(self.notes.read_text()) if self.notes.exists() else 0
        found = raw_faults(self.folder / "keys", self.values[:erased])
        store = self._open()
        here = [store.get(KeyTable.KEY_ROWS, key) for key in self.keys]
        gone = [number for number, value in enumerate(here) if value is None]
        if gone not in ([], list(range(10)), list(range(20))) or len(gone) < erased:
            found.append(f"{erased} keys were erased, {gone} are gone")
        if any(value not in (None, self.values[n]) for n, value in enumerate(here)):
            found.append("a key reads back as something else")
        # Opening has completed what was begun: what no reader sees is in no file.
        found += raw_faults(self.folder / "keys", [self.values[number] for number in gone])
        store.delete([(KeyTable.KEY_ROWS, key) for key in self.keys[:20]])
        found += raw_faults(self.folder / "keys", self.values[:20])
        if store.get(KeyTable.KEY_ROWS, self.keys[20]) != self.values[20]:
            found.append("erasing took a key that was not named")
        store.close()
        return found


class Collect(ClusterScenario):
    """Blobs and a pack that were never committed are collected, beside one that was."""

    name = "collect"
    points: ClassVar[Points] = {
        P.COLLECT_ROWS: (1, 3),
        P.COLLECT_KEYS: (1, 3),
        P.SHARD_UNLINKED: (1, 2),
        P.COLLECT_SHARDS: (1, 4),
        P.COLLECT_SETTLED: (1, 3),
    }

    async def prepare(self) -> None:
        world = self.world
        await world.put(SIZE, 1, "ec-4-2")
        for seed in (2, 3):
            await world.put(SIZE, seed, "ec-4-2", commit=False)
        await world.put_pack(10, "copy-3", commit=False)
        world.expire()

    async def act(self) -> None:
        await self.world.collect()

    async def recovered(self) -> list[str]:
        world = self.world
        lost = world.bases("begun") - world.bases("committed")
        secrets = [
            value
            for stores in world.cluster.stores.values()
            for base in lost
            for _, value in stores.keys.scan(KeyTable.KEY_ROWS, bytes(base))
        ]
        await world.collect()
        found = await world_faults(world) + left_faults(world, lost)
        for number in range(1, len(world.cluster.stores) + 1):
            found += raw_faults(world.folder / f"node-{number}" / "keys", secrets)
        return found


class Quarantine(ClusterScenario):
    """A shard is set aside."""

    name = "quarantine"
    points: ClassVar[Points] = {P.QUARANTINE_LINKED: (1,), P.QUARANTINE_UNLINKED: (1,)}

    async def prepare(self) -> None:
        await self.world.put(SIZE, 1, "ec-4-2")

    def _seat(self) -> tuple[BlobBase, AccountId, int]:
        (note,) = self.world.acknowledged()
        seat = seats(self.world.cluster.map, "ec-4-2", bytes(note.base))[0]
        return note.base, seat.node.account, seat.index

    async def act(self) -> None:
        base, account, index = self._seat()
        await self.world.cluster.holders[account].quarantine(base, index)

    async def check(self) -> list[str]:
        base, account, index = self._seat()
        world = self.world
        (note,) = world.acknowledged()
        stores = world.cluster.stores[account]
        found = []
        if stores.shards.has(base, index):
            await world.cluster.holders[account].quarantine(base, index)
        node = 1 + list(world.cluster.stores).index(account)
        aside = list((world.folder / f"node-{node}" / "shards" / "quarantine").iterdir())
        if not aside or len({path.stat().st_ino for path in aside}) != 1:
            found.append(f"{len(aside)} files lie in quarantine, not the one shard")
        if stores.shards.has(base, index) or stores.shards.usage().shards:
            found.append("the shard is still there")
        if await world.read(note) != world.expected(note):
            found.append("the blob does not read back")
        return found


class View:
    """The map in force, and what has arrived."""

    def __init__(self, world: World) -> None:
        self._world = world

    def cluster_map(self) -> ClusterMap | None:
        return self._world.cluster.map

    def arrived(self) -> frozenset[SeatName]:
        return frozenset()


INDEX = 2


class Moving(ClusterScenario):
    """What two scenarios share: a seat of a blob, a pack and their record moves to node 7.

    All of them have the record's bytes as the first of their ring position, so that one
    partition holds them.
    """

    given: GivingCluster

    def make(self) -> tuple[LocalCluster, LocalPacks]:
        self.given = GivingCluster(self.runtime)
        return self.given.cluster, self.given.packs

    @property
    def base(self) -> BlobBase:
        return self.world.acknowledged()[0].base

    async def fill_partition(self) -> None:
        """A blob in the record's own partition, and a box of the record at its seats."""
        world, cluster = self.world, self.world.cluster
        give_grant(world)
        seed = next(
            seed
            for seed in range(1, 100_000)
            if self._partition(self.base_of(seed)) == self._partition(bytes(cluster.record))
        )
        await world.put(SIZE, seed, "ec-4-2")
        for seat in cluster.seats(bytes(cluster.record)):
            await keep_box(world, seat.node.account)

    @staticmethod
    def base_of(seed: int) -> bytes:
        from hcefs.integrity import blake3_digest

        return blake3_digest(b"blob %d" % seed)[:16]

    def _partition(self, name: bytes) -> int:
        from hcefs.placement.ring import partition_of

        return partition_of(name, self.world.cluster.map.table("ec-4-2").bits)

    def begin_move(self) -> None:
        cluster = self.world.cluster
        self.world.phase = "moving"
        cluster.map = moved(cluster.map, bytes(self.base), INDEX)
        self.world.keep_ledger()

    def end_move(self) -> None:
        cluster = self.world.cluster
        self.world.phase = "settled"
        cluster.map = settled(cluster.map)
        self.world.keep_ledger()

    @property
    def new(self) -> AccountId:
        return seat_of(self.world.cluster.map, bytes(self.base), INDEX).node.account

    def rebalancer(self) -> Rebalancer:
        async def report(arrived: SeatsArrived) -> object:
            self.end_move()
            return arrived

        return Rebalancer(
            self.runtime, View(self.world), self.given.filler(self.new),
            self.world.cluster.metrics, self.new, 1000.0, report,
        )  # fmt: skip

    async def rebalance(self) -> None:
        """Fill node 7's seat, and report it."""
        if self.world.phase == "moving":
            await self.rebalancer().work()
        if self.world.phase != "settled":
            raise NotFound("the seat was not filled", reason="not-filled")

    def old(self) -> AccountId:
        """The node that had the shard."""
        have = [
            account
            for account, stores in self.world.cluster.stores.items()
            if account != self.new
            and (stores.shards.has(self.base, INDEX) or stores.rows.scan(Table.PLACED))
            and not any(
                seat.node.account == account
                for seat in seats(self.world.cluster.map, "ec-4-2", bytes(self.base))
            )
        ]
        return have[0] if have else self.new

    async def retire(self, account: AccountId) -> None:
        world = self.world
        retirer = Retirer(
            self.runtime, View(world), world.cluster.stores[account], self.given,
            world.cluster.holders[account].pending, world.cluster.metrics, account, 0.0,
        )  # fmt: skip
        for _ in range(20):
            if await retirer.work() is Progress.IDLE:
                return
        raise NotFound("a pass does not end", reason="no-end")

    def whole_at_new(self) -> list[str]:
        """What the new holder lacks."""
        stores, found = self.world.cluster.stores[self.new], []
        if not has_shard(stores, self.base, INDEX):
            found.append("the new holder has not its shard")
        if not stores.rows.scan(Table.INDEX, bytes(self.world.cluster.record)):
            found.append("the new holder has not the record's listing")
        if not stores.keys.scan(KeyTable.BOXES):
            found.append("the new holder has not the record's boxes")
        return found


class Fill(Moving):
    """A seat in flight is filled and reported."""

    name = "fill"
    points: ClassVar[Points] = {
        P.SHARD_SYNCED: (1,),
        P.SHARD_LINKED: (1,),
        P.ADOPT_PENDING: (1,),
        P.ADOPT_SHARD: (1,),
        P.ADOPT_KEYS: (1,),
        P.ADOPT_ROWS: (1,),
        P.SEAT_FILLED: (1,),
        P.SEAT_REPORTED: (1,),
    }

    async def prepare(self) -> None:
        await self.fill_partition()
        self.begin_move()

    async def act(self) -> None:
        await self.rebalance()

    async def recovered(self) -> list[str]:
        found = self.whole_at_new() if self.world.phase == "settled" else []
        await self.rebalance()
        return found + self.whole_at_new() + await world_faults(self.world)


class Retire(Moving):
    """What has moved away is deleted where it was."""

    name = "retire"
    points: ClassVar[Points] = {
        P.RETIRE_ROWS: (1,),
        P.RETIRE_KEYS: (1,),
        P.SHARD_UNLINKED: (1,),
        P.RETIRE_SHARDS: (1,),
        P.RETIRE_NAMES: (1,),
        P.RETIRE_INDEX: (1,),
        P.RETIRE_BOXES: (1,),
    }

    async def prepare(self) -> None:
        await self.fill_partition()
        self.begin_move()
        await self.rebalance()
        (self.folder / "old").write_bytes(self.old())

    async def act(self) -> None:
        await self.retire(AccountId((self.folder / "old").read_bytes()))

    async def recovered(self) -> list[str]:
        world = self.world
        account = AccountId((self.folder / "old").read_bytes())
        stores = world.cluster.stores[account]
        await self.retire(account)
        found = self.whole_at_new() + await world_faults(world)
        if stores.rows.scan(Table.PLACED) or stores.shards.usage().shards:
            found.append("the node that had the shard still has some of it")
        for keys in KeyTable:
            if stores.keys.scan(keys):
                found.append(f"the node that had the shard still has {keys.name}")
        if stores.rows.scan(Table.INDEX) or stores.rows.scan(Table.CORES):
            found.append("the node that had the shard still has rows")
        node = 1 + list(world.cluster.stores).index(account)
        return found + raw_faults(world.folder / f"node-{node}" / "keys", [BOX])


class Reprofile(ClusterScenario):
    """A blob and a pack are re-profiled, and their old shards deleted."""

    name = "reprofile"
    points: ClassVar[Points] = {
        P.REPROFILE_BEGUN: (1,),
        P.REPROFILE_WRITTEN: (1,),
        P.REPROFILE_SIGNED: (1, 2),
        P.REPROFILE_STAGED: (1,),
        P.REPROFILE_PLACED: (1, 2),
        P.REPROFILE_ENTERED: (1,),
        P.STAGE_NAMED: (1, 3),
        P.STAGE_SHARD: (1, 3),
        P.PLACE_KEYS: (1, 4),
        P.PLACE_ROWS: (1, 4),
        P.ENTER_LAYOUT: (1, 4, 8, 12),
        P.SHARD_UNLINKED: (1, 4),
        P.DROP_SHARDS: (1, 4, 12),
        P.DROP_NAMED: (1, 4),
        P.REPLACED_NAMES: (1, 2),
        P.REPLACED_SHARDS: (1, 3),
        P.REPLACED_MARK: (1, 3),
    }
    nodes: Reprofiling

    def make(self) -> tuple[LocalCluster, LocalPacks]:
        self.nodes = Reprofiling(self.runtime)
        return self.nodes.cluster, self.nodes.packs

    async def prepare(self) -> None:
        self.world.phase = "reprofiling"
        await self.world.put(SIZE, 1, "copy-3")
        await self.world.put_pack(10, "copy-3")
        self.world.expire()

    async def act(self) -> None:
        self.nodes.leave("copy-3", "ec-4-2")
        await self.nodes.move()
        await self.nodes.sweep()

    async def recovered(self) -> list[str]:
        self.nodes.leave("copy-3", "ec-4-2")
        bases = [note.base for note in self.world.acknowledged()]
        await self.nodes.finish(bases, "ec-4-2")
        return await world_faults(self.world)


class Migrate(Scenario):
    """A store from before the tables of places names what it holds."""

    name = "migrate"
    points: ClassVar[Points] = {P.MIGRATE_PAGE: (1, 2), P.MIGRATE_MARK: (1,)}
    shards = 12
    page_rows = 5

    def _open(self) -> Stores:
        return open_stores(self.folder / "node", reserve_bytes=0)

    def close(self) -> None:
        """Each phase closes its stores."""

    async def prepare(self) -> None:
        with real_stores(self.folder):
            cluster = LocalCluster(self.runtime)
        world = World(self.folder, cluster, LocalPacks(cluster))
        for seed in range(self.shards):
            await world.put(100, seed, "ec-4-2")
        for stores in cluster.stores.values():
            stores.close()
        (self.folder / "node-1").rename(self.folder / "node")
        stores = self._open()
        self._expected(stores, write=True)
        for table in (Table.PLACED, Table.RECORDS):
            stores.rows.delete([(table, key) for key, _ in stores.rows.scan(table)])
        stores.close()

    def _expected(self, stores: Stores, *, write: bool = False) -> list[bytes]:
        found = [key + value for key, value in stores.rows.scan(Table.PLACED)]
        found += [key for key, _ in stores.rows.scan(Table.RECORDS)]
        kept = self.folder / "expected"
        if write:
            kept.write_bytes(b"".join(found))
        return [b"".join(found), kept.read_bytes()]

    async def act(self) -> None:
        from hcefs.stripes import placed

        placed.PAGE_ROWS = self.page_rows
        stores = self._open()
        ensure_placed(stores)
        stores.close()

    async def check(self) -> list[str]:
        stores = self._open()
        ensure_placed(stores)
        named, expected = self._expected(stores)
        again = ensure_placed(stores)
        stores.close()
        found = [] if named == expected else ["not everything is named"]
        return found + (["it is named again"] if again else [])


SCENARIOS: tuple[Callable[[Path, SystemRuntime], Scenario], ...] = (
    Puts, Packs, Boxes, Erase, Collect, Quarantine, Fill, Retire, Reprofile, Migrate,
)  # fmt: skip
