"""The file system calls of a node's disk, timed, and with their failures learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hcefs.store.disk import Disk
from hcefs.store.health import DiskHealth


class WatchedDisk(Disk):
    """As :class:`Disk`; what it does is told to ``health``."""

    def __init__(self, health: DiskHealth) -> None:
        self.health = health

    def create(self, path: Path) -> int:
        with self.health.watched("create", writes=True):
            return super().create(path)

    def allocate(self, fd: int, size: int) -> None:
        with self.health.watched("allocate", writes=True):
            super().allocate(fd, size)

    def write(self, fd: int, buffers: Sequence[memoryview]) -> int:
        with self.health.watched("write", writes=True):
            return super().write(fd, buffers)

    def sync(self, fd: int) -> None:
        with self.health.watched("sync", writes=True):
            super().sync(fd)

    def sync_folder(self, path: Path) -> None:
        with self.health.watched("sync", writes=True):
            super().sync_folder(path)

    def link(self, source: Path, target: Path) -> None:
        with self.health.watched("link", writes=True):
            super().link(source, target)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        with self.health.watched("read", writes=False):
            return super().read(fd, length, offset)

    def read_into(self, fd: int, out: memoryview, offset: int) -> int:
        with self.health.watched("read", writes=False):
            return super().read_into(fd, out, offset)
