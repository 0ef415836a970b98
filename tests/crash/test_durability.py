"""What was acknowledged has been synchronised: the calls, because SIGKILL cannot show it.

A recorder stands between the stores and the disk.  After each acknowledged call everything
that it wrote must have been fsynced after the last byte: each file that has a final name, the
folder of each name that came or went, and each write of a database by its own log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hcefs.ids import BlobBase
from hcefs.ledger import log as log_module
from hcefs.runtime import SystemRuntime
from hcefs.store.disk import Disk
from hcefs.store.files import FileShardStore
from hcefs.store.interface import Stores, Table
from hcefs.store.keys import RocksKeyStore, open_key_database
from hcefs.store.rows import RocksRowStore, open_database
from hcefs.testing import local_cluster
from hcefs.testing.local_cluster import LocalCluster
from hcefs.testing.local_packs import LocalPacks
from tests.crash.scenarios import give_grant, keep_box
from tests.crash.world import World
from tests.unit.ledger.replicas import make_block, open_log, population
from tests.unit.ledger.scenario import Scenario as Facts

BASE = BlobBase(b"\x5a" * 16)


class Recorder:
    """What was written and not synchronised yet."""

    def __init__(self) -> None:
        self.unsynced: dict[str, str] = {}
        """By file, folder or database: what was done to it last."""

        self.writes = 0

    def wrote(self, place: object, what: str) -> None:
        self.writes += 1
        self.unsynced[str(place)] = what

    def synced(self, place: object) -> None:
        self.unsynced.pop(str(place), None)

    def require(self) -> None:
        """Nothing that was acknowledged waits to be written."""
        assert self.writes, "nothing was written at all"
        lacks = [f"{what}: {place}" for place, what in self.unsynced.items()]
        assert not lacks, "\n".join(lacks)


class RecordingDisk(Disk):
    """A shard store's disk.  Temporary names need not be durable, only what they become."""

    def __init__(self, recorder: Recorder, skip: str = "") -> None:
        self._recorder = recorder
        self._skip = skip
        self._files: dict[int, Path] = {}

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self._files[fd] = path
        return fd

    def truncate(self, fd: int, size: int) -> None:
        self._recorder.wrote(self._files[fd], "cut and not fsynced")
        super().truncate(fd, size)

    def write(self, fd: int, buffers: Sequence[memoryview]) -> int:
        self._recorder.wrote(self._files[fd], "written and not fsynced")
        return super().write(fd, buffers)

    def sync(self, fd: int) -> None:
        if self._skip != "sync":
            super().sync(fd)
            self._recorder.synced(self._files[fd])

    def sync_folder(self, path: Path) -> None:
        if self._skip != "sync_folder":
            super().sync_folder(path)
            self._recorder.synced(path)

    def make_folder(self, path: Path) -> None:
        there = path.exists()
        super().make_folder(path)
        if not there:
            self._recorder.wrote(path.parent, f"has the new folder {path.name}, not fsynced")

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self._recorder.wrote(target.parent, "has a new name and was not fsynced")

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        if path.parent.name != "incoming":
            self._recorder.wrote(path.parent, "lost a name and was not fsynced")


class RecordingDatabase:
    """A RocksDB: a write is durable when it waits for its log."""

    def __init__(self, database: Any, recorder: Recorder, name: str) -> None:
        self._database = database
        self._recorder = recorder
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def write(self, batch: Any, options: Any = None) -> None:
        self._database.write(batch, *(() if options is None else (options,)))
        if options is None or not options.sync:
            self._recorder.wrote(self._name, "written without sync")
        else:
            self._recorder.writes += 1
            # A synchronised write synchronises the log before it as well.
            self._recorder.synced(self._name)

    def put(self, *_: Any, **__: Any) -> None:
        raise AssertionError("a row was written past the batch that is synchronised")

    delete = put


def recorded(
    make: Callable[[Path], Any], recorder: Recorder, skip: str = ""
) -> Callable[[Path], Any]:
    def opener(folder: Path) -> Any:
        database = RecordingDatabase(make(folder), recorder, str(folder))
        return _Forgetful(database) if skip == "sync=True" else database

    return opener


class _Forgetful:
    """A database whose writes do not wait: the mutation."""

    def __init__(self, database: RecordingDatabase) -> None:
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def write(self, batch: Any, _: Any = None) -> None:
        self._database.write(batch)


def recording_stores(folder: Path, recorder: Recorder, skip: str = "") -> Stores:
    (folder / "shards").mkdir(parents=True)
    return Stores(
        FileShardStore(folder / "shards", disk=RecordingDisk(recorder, skip)),
        RocksRowStore(folder / "rows", opener=recorded(open_database, recorder, skip)),
        RocksKeyStore(folder / "keys", opener=recorded(open_key_database, recorder, skip)),
    )


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[tuple[World, Recorder]]:
    """A local cluster whose disks are recorded."""
    runtime, recorder = SystemRuntime(), Recorder()
    module: Any = local_cluster
    memory = module.memory_stores
    made: list[Stores] = []

    def record() -> Stores:
        made.append(recording_stores(tmp_path / f"node-{len(made) + 1}", recorder))
        return made[-1]

    module.memory_stores = record
    try:
        cluster = LocalCluster(runtime)
    finally:
        module.memory_stores = memory
    yield World(tmp_path, cluster, LocalPacks(cluster)), recorder
    for stores in made:
        stores.close()
    runtime.close()


async def test_every_acknowledged_change_of_a_cluster_is_on_disk(
    watched: tuple[World, Recorder],
) -> None:
    """Puts of all kinds, boxes, setting aside, collection with erasure."""
    world, recorder = watched
    recorder.require()  # what opening made
    give_grant(world)
    kept = await world.put(3_000, 1, "copy-3")
    recorder.require()
    await world.put(300_000, 2, "ec-4-2", commit=False)
    recorder.require()
    await world.put_pack(10, "copy-3", commit=False)
    recorder.require()
    account = world.cluster.keys[0].account
    await keep_box(world, account)
    recorder.require()
    seat = world.cluster.seats(bytes(kept.base), "copy-3")[0]
    await world.cluster.holders[seat.node.account].quarantine(kept.base, seat.index)
    recorder.require()
    world.expire()
    before = recorder.writes
    await world.collect()
    assert recorder.writes > before
    recorder.require()


def test_blocks_of_the_ledger_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, facts = Recorder(), Facts()
    rocksdict: Any = vars(log_module)["rocksdict"]
    make = rocksdict.Rdict

    def opened(path: str, options: Any) -> RecordingDatabase:
        return RecordingDatabase(make(path, options), recorder, path)

    monkeypatch.setattr(rocksdict, "Rdict", opened)
    log = open_log(tmp_path / "log", facts)
    recorder.require()
    before = recorder.writes
    log.append([make_block(facts, population(facts))])
    assert recorder.writes > before
    recorder.require()
    log.close()


def _a_shard(folder: Path, recorder: Recorder, skip: str) -> None:
    stores = recording_stores(folder, recorder, skip)
    writer = stores.shards.begin(BASE, 1, 400_000)
    writer.write(bytes(399_000))
    writer.finish(b"footer")
    stores.shards.remove(BASE, 1)
    stores.rows.put([(Table.META, b"key", b"value")])
    stores.close()


@pytest.mark.parametrize(
    ("skip", "found"),
    [
        ("", ""),
        ("sync", "not fsynced"),
        ("sync_folder", "was not fsynced"),
        ("sync=True", "written without sync"),
    ],
)
def test_a_sync_that_is_left_out_is_noticed(tmp_path: Path, skip: str, found: str) -> None:
    recorder = Recorder()
    _a_shard(tmp_path / "node", recorder, skip)
    if not skip:
        recorder.require()
        return
    with pytest.raises(AssertionError) as caught:
        recorder.require()
    assert found in str(caught.value)
