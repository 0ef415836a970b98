"""A file system in memory under the real shard store, with what ``fsync`` does and does not.

At a power cut a file keeps what was synchronised and any part of what was written
since; a folder keeps the names that were synchronised and any of the changes since:
which, is drawn from the seed.  Also: a full disk, calls that fail, bits that flip.

Not modelled: several links of one name across folders being reordered against each
other beyond that; rename, which the store does not use.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from hcefs.store.disk import Disk
from hcefs.testing.simulator.machine import Crash, Life


class PlatterFile:
    """One inode: its bytes now, and those that survive."""

    __slots__ = ("data", "durable", "is_flipped", "is_known", "links")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""
        self.links = 0
        self.is_flipped = False
        self.is_known = False


class Platter:
    """What is on one disk, across the lives of the processes that use it."""

    def __init__(self, seed: str, capacity_bytes: int) -> None:
        self.random = random.Random(seed)
        self.capacity_bytes = capacity_bytes
        self.total_bytes = capacity_bytes
        self.folders: dict[str, dict[str, PlatterFile | None]] = {"/": {}}
        self.durable: dict[str, dict[str, PlatterFile | None]] = {"/": {}}
        self.fails = 0.0
        """How likely a call fails with EIO."""
        self.crash_after = -1
        """Calls until the power goes; negative: it does not."""
        self.used_bytes = 0
        self.calls = 0

    def cut_power(self) -> None:
        """What is left after all that was not synchronised may be lost."""
        for path in list(self.folders):
            now, durable = self.folders[path], self.durable.get(path, {})
            kept: dict[str, PlatterFile | None] = {}
            for name in sorted({*now, *durable}):
                was, is_now = durable.get(name, ...), now.get(name, ...)
                found = is_now if was is is_now or self.random.random() < 0.5 else was
                if found is not ...:
                    kept[name] = found
            self.folders[path] = kept
        # Folders whose name is lost are gone with what is in them.
        for path in sorted(self.folders):
            if (
                path != "/"
                and self.folders.get(_parent(path), {}).get(_name(path), ...) is not None
            ):
                del self.folders[path]
        self.durable = {path: dict(names) for path, names in self.folders.items()}
        seen: set[int] = set()
        self.used_bytes = 0
        for names in self.folders.values():
            for file in names.values():
                if file is not None and id(file) not in seen:
                    seen.add(id(file))
                    self._tear(file)
                    self.used_bytes += len(file.data)

    def _tear(self, file: PlatterFile) -> None:
        if bytes(file.data) == file.durable:
            return
        reached = self.random.randint(0, len(file.data))
        torn = bytearray(file.durable.ljust(len(file.data), b"\0"))
        torn[:reached] = file.data[:reached]
        if self.random.random() < 0.5:
            torn = torn[: max(reached, min(len(file.durable), len(torn)))]
        file.data, file.durable = torn, bytes(torn)

    def shards(self) -> list[tuple[str, str, PlatterFile]]:
        """Finished shards as (folder, name, file)."""
        return [
            (path, name, file)
            for path in sorted(self.folders)
            if len(_name(path)) == 2
            for name, file in sorted(self.folders[path].items())
            if file is not None
        ]

    def flip(self, file: PlatterFile, place: int, bit: int) -> None:
        """Change one bit of a file at rest."""
        file.data[place] ^= 1 << bit
        file.durable = bytes(file.data)
        file.is_flipped = True

    def forge(self, file: PlatterFile, data: bytes) -> None:
        """Change a file at rest into another that is whole in itself."""
        file.data[:] = data
        file.durable = data
        file.is_flipped = True

    def durable_shards(self) -> list[tuple[str, PlatterFile]]:
        """The shards that would survive a power cut now, whole and as written."""
        return [
            (name, file)
            for path, names in self.durable.items()
            if len(_name(path)) == 2 and path in self.folders
            for name, file in names.items()
            if file is not None
            and self.folders[path].get(name) is file
            and not file.is_flipped
            and len(file.durable) == len(file.data)
        ]

    def contents(self) -> list[bytes]:
        """The bytes of every file, those without a name left out."""
        return [bytes(f.data) for _, names in sorted(self.folders.items())
                for _, f in sorted(names.items()) if f is not None]  # fmt: skip


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def index_of_name(name: str) -> tuple[bytes, int] | None:
    """Base and index that a shard's file name says, or None for another file."""
    parts = name.split(".")
    if len(parts) not in (2, 3) or len(parts[0]) != 32:
        return None
    return bytes.fromhex(parts[0]), int(parts[1])


class SimDisk(Disk):
    """The file system calls of one life on a platter."""

    def __init__(self, platter: Platter, life: Life) -> None:
        self._platter = platter
        self._life = life
        self._open: dict[int, PlatterFile] = {}
        self._numbers = itertools.count(1_000_000)

    def _call(self, *, may_fail: bool = True) -> None:
        platter = self._platter
        if not self._life.alive:
            raise OSError(errno.EIO, "the process is dead")
        platter.calls += 1
        if platter.crash_after >= 0:
            platter.crash_after -= 1
            if platter.crash_after < 0:
                self._life.alive = False
                raise Crash
        if may_fail and platter.fails and platter.random.random() < platter.fails:
            raise OSError(errno.EIO, "the disk fails on purpose")

    def _folder(self, path: Path) -> dict[str, PlatterFile | None]:
        found = self._platter.folders.get(str(path))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))
        return found

    def make_folder(self, path: Path) -> None:
        self._call()
        parent = self._folder(path.parent)
        if path.name not in parent:
            parent[path.name] = None
            self._platter.folders[str(path)] = {}
            self._platter.durable[str(path)] = {}

    def make_private_folder(self, path: Path, *, parents: bool) -> None:
        if parents and str(path.parent) not in self._platter.folders:
            self.make_private_folder(path.parent, parents=True)
        self.make_folder(path)

    def is_folder(self, path: Path) -> bool:
        return str(path) in self._platter.folders

    def names(self, path: Path) -> list[str]:
        self._call()
        return sorted(self._folder(path))

    def exists(self, path: Path) -> bool:
        self._call()
        return path.name in self._platter.folders.get(str(path.parent), {})

    def length(self, path: Path) -> int:
        self._call()
        return len(self._file(path).data)

    def _file(self, path: Path) -> PlatterFile:
        found = self._platter.folders.get(str(path.parent), {}).get(path.name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return found

    def _descriptor(self, file: PlatterFile) -> int:
        number = next(self._numbers)
        self._open[number] = file
        return number

    def lock(self, path: Path) -> int:
        self._call()
        return self._descriptor(PlatterFile())

    def create(self, path: Path) -> int:
        self._call()
        folder = self._folder(path.parent)
        if path.name in folder:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        file = folder[path.name] = PlatterFile()
        file.links = 1
        return self._descriptor(file)

    def open(self, path: Path) -> int:
        self._call()
        return self._descriptor(self._file(path))

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def bypass_cache(self, fd: int, *, on: bool = True) -> bool:
        return False

    def allocate(self, fd: int, size: int) -> None:
        self._call()
        self._need(size)

    def _need(self, size: int) -> None:
        if self._platter.used_bytes + size > self._platter.capacity_bytes:
            raise OSError(errno.ENOSPC, "full")

    def truncate(self, fd: int, size: int) -> None:
        self._call()
        del self._open[fd].data[size:]

    def write(self, fd: int, buffers: Sequence[memoryview]) -> int:
        self._call()
        total = sum(map(len, buffers))
        self._need(total)
        file = self._open[fd]
        for view in buffers:
            file.data += view
        self._platter.used_bytes += total
        return total

    def read(self, fd: int, length: int, offset: int) -> bytes:
        self._call()
        return bytes(self._open[fd].data[offset : offset + length])

    def read_into(self, fd: int, out: memoryview, offset: int) -> int:
        data = self.read(fd, len(out), offset)
        out[: len(data)] = data
        return len(data)

    def size(self, fd: int) -> int:
        return len(self._open[fd].data)

    def same(self, one: int, other: int) -> bool:
        return self._open[one] is self._open[other]

    def sync(self, fd: int) -> None:
        self._call()
        file = self._open[fd]
        file.durable = bytes(file.data)

    def sync_folder(self, path: Path) -> None:
        self._call()
        self._platter.durable[str(path)] = dict(self._folder(path))

    def link(self, source: Path, target: Path) -> None:
        self._call()
        file, folder = self._file(source), self._folder(target.parent)
        if target.name in folder:
            raise FileExistsError(errno.EEXIST, "exists", str(target))
        folder[target.name] = file
        file.links += 1

    def unlink(self, path: Path) -> None:
        self._call(may_fail=False)
        file = self._file(path)
        del self._folder(path.parent)[path.name]
        file.links -= 1
        if file.links == 0:
            self._platter.used_bytes -= len(file.data)

    def space(self, path: Path) -> tuple[int, int]:
        self._call(may_fail=False)
        platter = self._platter
        return max(0, platter.capacity_bytes - platter.used_bytes), platter.total_bytes
