"""Read-only when it must be, and writable again when it may be."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from hcefs.errors import Exhausted, Unavailable
from hcefs.ids import BlobBase
from hcefs.store.disk import Disk
from hcefs.store.files import FileShardStore
from hcefs.store.health import FAILURES_MAX, MARGIN_BYTES, WINDOW_SECONDS, DiskHealth
from hcefs.store.watched import WatchedDisk

RESERVE = 1 << 30
BASE = BlobBase(bytes(16))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class BadDisk(WatchedDisk):
    """Fails the calls that it is told to, under the watch."""

    def __init__(self, health: DiskHealth) -> None:
        super().__init__(health, Disk())
        self.fails: dict[str, int] = {}
        self.free = 1 << 40

    def _fail(self, what: str) -> None:
        if what in self.fails:
            raise OSError(self.fails[what], "scripted")

    def write(self, fd: int, buffers: Sequence[memoryview]) -> int:
        with self.health.watched("write", writes=True):
            self._fail("write")
        return super().write(fd, buffers)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        with self.health.watched("read", writes=False):
            self._fail("read")
        return super().read(fd, length, offset)

    def space(self, path: Path) -> tuple[int, int]:
        return self.free, 1 << 41


def save(store: FileShardStore, index: int) -> None:
    writer = store.begin(BASE, index)
    writer.write(b"some bytes")
    writer.finish(b"")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk(clock: Clock) -> BadDisk:
    return BadDisk(DiskHealth(clock))


@pytest.fixture
def store(tmp_path: Path, disk: BadDisk) -> FileShardStore:
    return FileShardStore(tmp_path / "shards", reserve_bytes=RESERVE, disk=disk, health=disk.health)


def test_a_full_disk_takes_shards_again_with_some_room_to_spare(
    store: FileShardStore, disk: BadDisk
) -> None:
    save(store, 0)
    disk.free = RESERVE - 1
    with pytest.raises(Exhausted) as caught:
        save(store, 1)
    assert caught.value.reason == "disk-full"
    disk.free = RESERVE + MARGIN_BYTES - 1
    with pytest.raises(Exhausted):
        save(store, 1)
    assert disk.health.look(disk.free, RESERVE) == "full"
    assert store.open(BASE, 0).size == 10, "it still reads"
    disk.free = RESERVE + MARGIN_BYTES + 1
    save(store, 1)
    assert disk.health.look(disk.free, RESERVE) == "ok"


def test_no_space_in_the_middle_of_a_shard(store: FileShardStore, disk: BadDisk) -> None:
    disk.fails["write"] = errno.ENOSPC
    with pytest.raises(Exhausted) as caught:
        save(store, 0)
    assert caught.value.reason == "disk-full"
    del disk.fails["write"]
    assert not store.has(BASE, 0)
    save(store, 0)


def test_writes_that_fail_again_and_again(
    store: FileShardStore, disk: BadDisk, clock: Clock
) -> None:
    save(store, 9)
    disk.fails["write"] = errno.EIO
    for _ in range(FAILURES_MAX):
        with pytest.raises(Unavailable) as caught:
            save(store, 0)
        assert caught.value.reason == "disk-error"
    del disk.fails["write"]
    clock.now += 100 * WINDOW_SECONDS
    with pytest.raises(Unavailable) as caught:
        save(store, 0)
    assert caught.value.reason == "disk-read-only"
    assert disk.health.look(disk.free, RESERVE) == "failing"
    assert store.open(BASE, 9).size == 10
    assert store.remove(BASE, 9)


def test_failures_that_are_far_apart(store: FileShardStore, disk: BadDisk, clock: Clock) -> None:
    disk.fails["write"] = errno.EIO
    for _ in range(3 * FAILURES_MAX):
        clock.now += WINDOW_SECONDS
        with pytest.raises(Unavailable):
            save(store, 0)
    del disk.fails["write"]
    save(store, 0)


def test_failed_reads_leave_it_writable(store: FileShardStore, disk: BadDisk) -> None:
    save(store, 0)
    reader = store.open(BASE, 0)
    disk.fails["read"] = errno.EIO
    for _ in range(3 * FAILURES_MAX):
        with pytest.raises(Unavailable):
            reader.read_at(0, 4)
    save(store, 1)


def test_calls_are_timed_and_failures_counted() -> None:
    clock = Clock()
    seen: list[tuple[str, float]] = []
    failed: list[str] = []
    health = DiskHealth(clock, lambda what, took: seen.append((what, took)), failed.append)
    with health.watched("sync", writes=True):
        clock.now += 2.5
    with pytest.raises(OSError), health.watched("read", writes=False):
        raise OSError(errno.EIO, "scripted")
    assert (seen, failed) == ([("sync", 2.5)], ["read"])
