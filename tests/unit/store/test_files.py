"""What only shards on a disk promise: order of fsyncs, leftovers, faults."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hcefs.errors import Conflict, Corrupt, Exhausted, HcefsError, NotFound, Unavailable
from hcefs.ids import BlobBase
from hcefs.store.aligned import ALIGNMENT, BUFFER_BYTES, aligned_down
from hcefs.store.disk import Disk
from hcefs.store.files import UNCACHED_BYTES_MIN, FileShardStore, open_stores
from hcefs.store.interface import KeyTable, Table

BASE = BlobBase(b"\xab" * 16)
NAME = f"{BASE.hex()}.2"
BULK = b"x" * (1 << 20)


class ScriptedDisk(Disk):
    """Records calls by name and file, and fails those that it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.failing: dict[str, int] = {}
        self.free: int | None = None
        self.write_bytes_max = 1 << 30
        self.uncached = True
        self._names: dict[int, str] = {}

    def _call(self, name: str, target: str) -> None:
        self.calls.append((name, target))
        if name in self.failing:
            raise OSError(self.failing[name], "scripted")

    def make_folder(self, path: Path) -> None:
        self._call("make_folder", path.name)
        super().make_folder(path)

    def create(self, path: Path) -> int:
        self._call("create", path.parent.name)
        fd = super().create(path)
        self._names[fd] = path.parent.name
        return fd

    def open(self, path: Path) -> int:
        self._call("open", path.name)
        fd = super().open(path)
        self._names[fd] = path.name
        return fd

    def allocate(self, fd: int, size: int) -> None:
        self._call("allocate", self._names[fd])
        super().allocate(fd, size)

    def truncate(self, fd: int, size: int) -> None:
        self._call("truncate", self._names[fd])
        super().truncate(fd, size)

    def write(self, fd: int, buffers: Sequence[memoryview]) -> int:
        self._call("write", self._names[fd])
        short = buffers[0][: self.write_bytes_max]
        if self.uncached and len(short) < len(buffers[0]) and not len(buffers[0]) % ALIGNMENT:
            short = short[: aligned_down(len(short))]
        return super().write(fd, [short])

    def read(self, fd: int, length: int, offset: int) -> bytes:
        self._call("read", self._names[fd])
        return super().read(fd, min(length, self.write_bytes_max), offset)

    def read_into(self, fd: int, out: memoryview, offset: int) -> int:
        self._call("read_into", self._names[fd])
        short = out[: self.write_bytes_max]
        if self.uncached and len(short) < len(out):
            short = short[: aligned_down(len(short))]
        return super().read_into(fd, short, offset)

    def bypass_cache(self, fd: int, *, on: bool = True) -> bool:
        return self.uncached and super().bypass_cache(fd, on=on)

    def sync(self, fd: int) -> None:
        self._call("sync", self._names[fd])
        super().sync(fd)

    def sync_folder(self, path: Path) -> None:
        self._call("sync_folder", path.name)
        super().sync_folder(path)

    def link(self, source: Path, target: Path) -> None:
        self._call("link", target.parent.name)
        super().link(source, target)

    def unlink(self, path: Path) -> None:
        self._call("unlink", path.parent.name)
        super().unlink(path)

    def space(self, path: Path) -> tuple[int, int]:
        free, total = super().space(path)
        return (free if self.free is None else self.free), total


@pytest.fixture
def disk() -> ScriptedDisk:
    return ScriptedDisk()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shards"


@pytest.fixture
def store(folder: Path, disk: ScriptedDisk) -> FileShardStore:
    opened = FileShardStore(folder, disk=disk)
    disk.calls.clear()
    return opened


def save(store: FileShardStore, data: bytes = b"data", expected: int | None = None) -> None:
    writer = store.begin(BASE, 2, expected)
    writer.write(data)
    writer.finish(b"footer")


def files_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"LOCK"}


def test_finish_syncs_file_then_links_then_syncs_the_folder(
    store: FileShardStore, disk: ScriptedDisk
) -> None:
    save(store)
    assert disk.calls == [
        ("make_folder", "ab"),
        ("sync_folder", "shards"),
        ("create", "incoming"),
        ("write", "incoming"),
        ("sync", "incoming"),
        ("link", "ab"),
        ("sync_folder", "ab"),
        ("unlink", "incoming"),
    ]


def test_a_second_shard_in_a_folder_needs_no_sync_of_the_root(
    store: FileShardStore, disk: ScriptedDisk
) -> None:
    save(store)
    disk.calls.clear()
    store.begin(BASE, 3).finish(b"footer")
    assert ("sync_folder", "shards") not in disk.calls
    assert disk.calls[-3:-1] == [("link", "ab"), ("sync_folder", "ab")]


def test_an_existing_shard_is_reported_only_once_it_is_durable(
    store: FileShardStore, disk: ScriptedDisk
) -> None:
    late = store.begin(BASE, 2)
    save(store)
    for call in (lambda: store.begin(BASE, 2), lambda: late.finish(b"")):
        disk.calls.clear()
        with pytest.raises(Conflict):
            call()
        assert ("sync_folder", "ab") in disk.calls


def test_opening_syncs_what_a_killed_process_left(folder: Path, disk: ScriptedDisk) -> None:
    first = FileShardStore(folder)
    save(first)
    first.close()
    FileShardStore(folder, disk=disk).close()
    assert disk.calls[-2:] == [("sync_folder", "ab"), ("sync_folder", "shards")]


def test_remove_syncs_the_folder_also_on_a_repeat(
    store: FileShardStore, disk: ScriptedDisk
) -> None:
    save(store)
    disk.calls.clear()
    assert store.remove(BASE, 2)
    assert disk.calls == [("unlink", "ab"), ("sync_folder", "ab")]
    disk.calls.clear()
    assert not store.remove(BASE, 2)
    assert disk.calls[-1] == ("sync_folder", "ab")


def test_quarantine_makes_the_new_name_durable_before_the_old_one_goes(
    store: FileShardStore, disk: ScriptedDisk, folder: Path
) -> None:
    save(store)
    disk.calls.clear()
    store.quarantine(BASE, 2)
    assert disk.calls == [
        ("link", "quarantine"),
        ("sync_folder", "quarantine"),
        ("unlink", "ab"),
        ("sync_folder", "ab"),
    ]
    save(store, b"rebuilt")
    store.quarantine(BASE, 2)
    store.close()
    reopened = FileShardStore(folder)
    assert files_below(folder) == {f"quarantine/{NAME}.0", f"quarantine/{NAME}.1"}
    assert (folder / "quarantine" / f"{NAME}.0").read_bytes() == b"datafooter"
    assert reopened.usage().shards == 0
    reopened.close()


def test_layout_on_disk_and_modes(store: FileShardStore, folder: Path) -> None:
    save(store)
    assert files_below(folder) == {f"ab/{NAME}"}
    assert stat.S_IMODE((folder / "ab").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ab" / NAME).stat().st_mode) == 0o600
    assert (folder / "ab" / NAME).stat().st_nlink == 1


def test_a_crash_before_finish_leaves_nothing_after_opening(folder: Path) -> None:
    crashed = FileShardStore(folder)
    crashed.begin(BASE, 2).write(BULK)
    save_other = crashed.begin(BASE, 3)
    save_other.finish(b"kept")
    assert any(name.startswith("incoming/") for name in files_below(folder))
    os.close(crashed._lock_fd)  # what the kernel does for a killed process
    store = FileShardStore(folder)
    assert files_below(folder) == {f"ab/{BASE.hex()}.3"}
    assert list(store.inventory()) == [(BASE, 3)]
    save(store)
    store.close()


def test_a_crash_between_link_and_unlink_keeps_the_shard(folder: Path) -> None:
    crashed = FileShardStore(folder)
    save(crashed)
    os.link(folder / "ab" / NAME, folder / "incoming" / f"{NAME}.0")
    crashed.close()
    store = FileShardStore(folder)
    assert files_below(folder) == {f"ab/{NAME}"}
    assert store.open(BASE, 2).read_at(0, 10) == b"datafooter"
    store.close()


def test_usage_and_inventory_survive_reopening_and_ignore_strays(folder: Path) -> None:
    first = FileShardStore(folder)
    save(first)
    first.close()
    other = b"\xcd" * 16
    for stray in ("notes.txt", f"{other.hex()}.0", f"{BASE.hex()}.007", f"{BASE.hex()}.300"):
        (folder / "ab" / stray).write_bytes(b"stray")
    store = FileShardStore(folder)
    assert list(store.inventory()) == [(BASE, 2)]
    assert store.usage().shards == 1
    assert store.usage().shard_bytes == 10
    store.close()


def test_one_opener_at_a_time(folder: Path) -> None:
    store = FileShardStore(folder)
    writer = store.begin(BASE, 2)
    with pytest.raises(Unavailable) as caught:
        FileShardStore(folder)
    assert caught.value.reason == "store-locked"
    writer.finish(b"footer")  # the second opener did not sweep it away
    store.close()
    FileShardStore(folder).close()


FAULTS = [
    (errno.ENOSPC, Exhausted, "disk-full"),
    (errno.EDQUOT, Exhausted, "disk-full"),
    (errno.EIO, Unavailable, "disk-error"),
    (errno.EROFS, Unavailable, "disk-error"),
    (errno.EMFILE, Exhausted, "open-files"),
]


@pytest.mark.parametrize(
    "call", ["make_folder", "create", "allocate", "write", "truncate", "sync", "link"]
)
@pytest.mark.parametrize(("number", "kind", "reason"), FAULTS)
@pytest.mark.parametrize("uncached", [True, False])
def test_a_failing_disk_leaves_nothing_half_visible(
    store: FileShardStore,
    disk: ScriptedDisk,
    folder: Path,
    call: str,
    number: int,
    kind: type[HcefsError],
    reason: str,
    uncached: bool,
) -> None:
    disk.failing = {call: number}
    disk.uncached = uncached
    with pytest.raises(kind) as caught:
        save(store, BULK, expected=2 << 20)
    assert caught.value.reason == reason
    assert caught.value.retryable
    assert files_below(folder) == set()
    assert not store.has(BASE, 2)
    assert store.usage().shards == 0
    disk.failing = {}
    save(store, BULK)
    assert store.open(BASE, 2).size == len(BULK) + 6


def test_a_failed_sync_of_the_folder_takes_the_name_back(
    store: FileShardStore, disk: ScriptedDisk, folder: Path
) -> None:
    writer = store.begin(BASE, 2)
    disk.failing = {"sync_folder": errno.EIO}
    with pytest.raises(Unavailable) as caught:
        writer.finish(b"footer")
    assert caught.value.reason == "disk-error"
    assert files_below(folder) == set()
    assert not store.has(BASE, 2)


def test_a_failed_sync_is_not_tried_again(store: FileShardStore, disk: ScriptedDisk) -> None:
    writer = store.begin(BASE, 2)
    disk.failing = {"sync": errno.EIO}
    with pytest.raises(Unavailable):
        writer.finish(b"footer")
    assert disk.calls.count(("sync", "incoming")) == 1
    assert ("link", "ab") not in disk.calls


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_allocation_is_fine(
    store: FileShardStore, disk: ScriptedDisk, number: int
) -> None:
    disk.failing = {"allocate": number}
    save(store, BULK, expected=len(BULK) + 6)
    assert store.open(BASE, 2).size == len(BULK) + 6


def test_a_known_length_is_allocated_at_begin(
    store: FileShardStore, disk: ScriptedDisk, folder: Path
) -> None:
    writer = store.begin(BASE, 2, 1 << 20)
    (temporary,) = (folder / "incoming").iterdir()
    assert temporary.stat().st_size == 1 << 20
    writer.write(b"short")
    writer.finish(b"footer")
    assert (folder / "ab" / NAME).read_bytes() == b"shortfooter"
    disk.calls.clear()
    store.begin(BASE, 3, 6).finish(b"footer")
    assert ("truncate", "incoming") not in disk.calls


def test_reserve(folder: Path, disk: ScriptedDisk) -> None:
    disk.free = 1000
    store = FileShardStore(folder, reserve_bytes=500, disk=disk)
    with pytest.raises(Exhausted) as caught:
        store.begin(BASE, 2, 501)
    assert caught.value.reason == "disk-full"
    writer = store.begin(BASE, 2, 500)
    disk.free = 500  # what was allocated is no longer free, and may be written
    writer.write(b"x" * 490)
    writer.finish(b"y" * 10)
    unknown = store.begin(BASE, 3)
    with pytest.raises(Exhausted):
        unknown.write(BULK)
    disk.free = 499
    with pytest.raises(Exhausted):
        store.begin(BASE, 3)
    # Deleting and reading go on below the reserve.
    assert store.open(BASE, 2).read_at(0, 3) == b"xxx"
    assert store.remove(BASE, 2)
    assert files_below(folder) == set()


@pytest.mark.parametrize("uncached", [True, False])
def test_short_writes_and_reads_are_continued(
    store: FileShardStore, disk: ScriptedDisk, uncached: bool
) -> None:
    disk.write_bytes_max = 70_001
    disk.uncached = uncached
    data = bytes(range(256)) * 2000
    save(store, data, expected=len(data) + 6)
    reader = store.open(BASE, 2)
    assert reader.read_at(0, reader.size) == data + b"footer"
    out = bytearray(len(data))
    reader.read_into(0, out)
    assert out == data
    reader.close()


@pytest.mark.parametrize("uncached", [True, False])
@pytest.mark.parametrize(
    "length",
    [
        UNCACHED_BYTES_MIN - 7,
        UNCACHED_BYTES_MIN,
        UNCACHED_BYTES_MIN + ALIGNMENT - 6,
        BUFFER_BYTES - 6,
        BUFFER_BYTES - 5,
        3 * BUFFER_BYTES + 1,
    ],
)
@pytest.mark.parametrize("surplus", [-5000, 0, 5000])
def test_bypassing_the_page_cache_changes_no_byte(
    store: FileShardStore,
    disk: ScriptedDisk,
    folder: Path,
    uncached: bool,
    length: int,
    surplus: int,
) -> None:
    disk.uncached = uncached
    data = memoryview(os.urandom(length))
    writer = store.begin(BASE, 2, length + 6 + surplus)
    for start, end in ((0, 73), (73, 73), (73, length // 2), (length // 2, length)):
        writer.write(data[start:end])
    writer.finish(b"footer")
    whole = bytes(data) + b"footer"
    assert (folder / "ab" / NAME).read_bytes() == whole
    reader = store.open(BASE, 2)
    assert reader.size == len(whole)
    for start, end in ((0, len(whole)), (1, 74), (4095, 4097), (length - 1, length + 6), (9, 9)):
        assert reader.read_at(start, end - start) == whole[start:end]
        out = bytearray(end - start)
        reader.read_into(start, out)
        assert out == whole[start:end]
    with pytest.raises(Corrupt):
        reader.read_at(len(whole) - 1, 2)
    reader.close()


def test_a_shard_cut_behind_an_uncached_reader_is_corrupt(
    store: FileShardStore, folder: Path
) -> None:
    save(store, BULK, expected=len(BULK) + 6)
    reader = store.open(BASE, 2)
    os.truncate(folder / "ab" / NAME, 10_000)
    for offset in (9_999, 10_001, 500_000):
        with pytest.raises(Corrupt) as caught:
            reader.read_at(offset, 10)
        assert caught.value.reason == "truncated"
    reader.close()


def test_bulk_writes_are_not_gathered_and_small_ones_are(
    store: FileShardStore, disk: ScriptedDisk
) -> None:
    writer = store.begin(BASE, 2)
    for _ in range(100):
        writer.write(b"small")
    assert ("write", "incoming") not in disk.calls
    writer.write(BULK)
    assert disk.calls.count(("write", "incoming")) == 2  # the scripted disk takes one buffer each
    writer.finish(b"")
    assert store.open(BASE, 2).size == 500 + len(BULK)


def test_a_file_truncated_behind_an_open_reader_is_corrupt(
    store: FileShardStore, folder: Path
) -> None:
    save(store)
    reader = store.open(BASE, 2)
    os.truncate(folder / "ab" / NAME, 4)
    with pytest.raises(Corrupt) as caught:
        reader.read_at(0, 10)
    assert caught.value.reason == "truncated"
    with pytest.raises(Corrupt):
        reader.read_into(2, bytearray(8))
    assert store.open(BASE, 2).size == 4
    reader.close()


@pytest.mark.parametrize("call", ["read", "read_into", "open"])
def test_read_errors(store: FileShardStore, disk: ScriptedDisk, call: str) -> None:
    save(store)
    disk.failing = {call: errno.EIO}
    with pytest.raises(Unavailable) as caught:  # noqa: PT012 - either step may be the failing one
        reader = store.open(BASE, 2)
        reader.read_into(0, bytearray(2))
        reader.read_at(0, 2)
    assert caught.value.reason == "disk-error"


@pytest.mark.parametrize("act", [FileShardStore.remove, FileShardStore.quarantine])
def test_faults_of_removal_are_translated(
    store: FileShardStore,
    disk: ScriptedDisk,
    act: Callable[[FileShardStore, BlobBase, int], object],
) -> None:
    save(store)
    disk.failing = {"unlink": errno.EIO}
    with pytest.raises(Unavailable):
        act(store, BASE, 2)
    assert store.has(BASE, 2)


def test_a_symbolic_link_is_not_followed(store: FileShardStore, folder: Path) -> None:
    save(store)
    (folder / "ab" / f"{BASE.hex()}.5").symlink_to(folder / "ab" / NAME)
    with pytest.raises(Unavailable):
        store.open(BASE, 5)
    with pytest.raises(NotFound):
        store.open(BASE, 6)


def test_messages_name_no_path(store: FileShardStore, disk: ScriptedDisk, folder: Path) -> None:
    disk.failing = {"sync": errno.EIO}
    with pytest.raises(Unavailable) as caught:
        save(store)
    assert str(folder) not in caught.value.message
    assert "EIO" in caught.value.message


def test_open_stores_creates_private_folders_and_reopens(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    for _ in range(2):
        stores = open_stores(folder, reserve_bytes=0)
        if not stores.shards.has(BASE, 0):
            stores.shards.begin(BASE, 0).finish(b"footer")
        stores.rows.put([(Table.META, b"k", b"v")])
        stores.keys.put_new(KeyTable.BOXES, b"k", b"v")
        stores.close()
    assert {path.name for path in folder.iterdir()} == {"shards", "rows", "keys"}
    for path in (folder, *folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_open_stores_twice_is_refused_and_releases_what_it_took(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    stores = open_stores(folder, reserve_bytes=0)
    stores.shards.close()
    for _ in range(2):  # the shard lock of the failed attempt is free again
        with pytest.raises(Unavailable) as caught:
            open_stores(folder, reserve_bytes=0)
        assert caught.value.reason == "store-locked"
    stores.close()
    open_stores(folder, reserve_bytes=0).close()


def test_a_long_read_of_a_shard_that_was_set_aside_reads_that_one(tmp_path: Path) -> None:
    """Another shard may have come under its name; the open one is still the first."""
    store = FileShardStore(tmp_path)
    size = UNCACHED_BYTES_MIN + 5
    first, second = b"1" * size, b"2" * size
    for content in (first, second):
        writer = store.begin(BASE, 1, size)
        writer.write(content[:-3])
        writer.finish(content[-3:])
        if content is first:
            reader = store.open(BASE, 1)
            store.quarantine(BASE, 1)
    assert reader.read_at(1, size - 1) == first[1:]
    assert store.open(BASE, 1).read_at(0, size) == second
    store.close()
