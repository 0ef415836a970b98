"""The file system calls of a node's disk, timed, and with their failures learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hcefs.store.disk import Disk
from hcefs.store.health import DiskHealth


class WatchedDisk(Disk):
    """Another disk, of which ``health`` is told what data and names cost and how they fail."""

    def __init__(self, health: DiskHealth, disk: Disk) -> None:
        self.health = health
        self._disk = disk

    # -- watched

    def create(self, path: Path) -> int:
        with self.health.watched("create", writes=True):
            return self._disk.create(path)

    def allocate(self, fd: int, size: int) -> None:
        with self.health.watched("allocate", writes=True):
            self._disk.allocate(fd, size)

    def write(self, fd: int, buffers: Sequence[memoryview]) -> int:
        with self.health.watched("write", writes=True):
            return self._disk.write(fd, buffers)

    def sync(self, fd: int) -> None:
        with self.health.watched("sync", writes=True):
            self._disk.sync(fd)

    def sync_folder(self, path: Path) -> None:
        with self.health.watched("sync", writes=True):
            self._disk.sync_folder(path)

    def link(self, source: Path, target: Path) -> None:
        with self.health.watched("link", writes=True):
            self._disk.link(source, target)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        with self.health.watched("read", writes=False):
            return self._disk.read(fd, length, offset)

    def read_into(self, fd: int, out: memoryview, offset: int) -> int:
        with self.health.watched("read", writes=False):
            return self._disk.read_into(fd, out, offset)

    # -- handed on

    def make_folder(self, path: Path) -> None:
        self._disk.make_folder(path)

    def make_private_folder(self, path: Path, *, parents: bool) -> None:
        self._disk.make_private_folder(path, parents=parents)

    def is_folder(self, path: Path) -> bool:
        return self._disk.is_folder(path)

    def names(self, path: Path) -> list[str]:
        return self._disk.names(path)

    def exists(self, path: Path) -> bool:
        return self._disk.exists(path)

    def length(self, path: Path) -> int:
        return self._disk.length(path)

    def lock(self, path: Path) -> int:
        return self._disk.lock(path)

    def open(self, path: Path) -> int:
        return self._disk.open(path)

    def close(self, fd: int) -> None:
        self._disk.close(fd)

    def bypass_cache(self, fd: int, *, on: bool = True) -> bool:
        return self._disk.bypass_cache(fd, on=on)

    def truncate(self, fd: int, size: int) -> None:
        self._disk.truncate(fd, size)

    def size(self, fd: int) -> int:
        return self._disk.size(fd)

    def same(self, one: int, other: int) -> bool:
        return self._disk.same(one, other)

    def unlink(self, path: Path) -> None:
        self._disk.unlink(path)

    def rename(self, source: Path, target: Path) -> None:
        self._disk.rename(source, target)

    def space(self, path: Path) -> tuple[int, int]:
        return self._disk.space(path)
