"""Shards as files, and the folder of one storage node.

Layout of a shard folder::

    LOCK                        held while a process has the store open
    incoming/<base>.<index>.<n> shards being written; emptied when opened
    quarantine/<base>.<index>.<n>
    <xx>/<base>.<index>         finished shards; xx is the base's first byte
    <xx>/<base>.<index>.<form>  those that were cut anew; the form is a profile's name

A shard becomes visible in this order: data, fsync of the file, hard link to the
final name, fsync of the folder, removal of the temporary name.  A link, unlike
a rename, fails when the name is taken, so nothing is ever overwritten.

Invariants:

* A visible shard is complete, and a shard that ``begin`` or ``finish`` report as
  existing is durable: the folder is synchronised before ``Conflict`` is raised
  and, for what a killed process left between link and fsync, when opened.
* After a failed fsync the file is dropped and never fsynced again: the kernel
  reports a lost write once only (Rebello et al., "Can Applications Recover from
  fsync Failures?", USENIX ATC 2020).

Shards of ``UNCACHED_BYTES_MIN`` and more are written past the page cache (O_DIRECT)
where the file system can, and so are long reads of them: what streams through once
would only drive out rows, and fresh pages cost more than the copy
(docs/decisions/0012).  Short reads, such as those of packed payloads, use the cache.

Not guaranteed: anything on file systems without hard links or posix locks
(opening or finishing fails there); that deleted shards cannot be read from the
raw device (they are ciphertext).
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Conflict, Corrupt, HcefsError, Invalid, NotFound, Unavailable
from hcefs.ids import BlobBase
from hcefs.integrity import Buffer
from hcefs.store.aligned import AlignedBuffers, aligned_down, aligned_up
from hcefs.store.disk import Disk, disk_error, disk_errors
from hcefs.store.health import DiskHealth
from hcefs.store.interface import (
    FORM_FIRST,
    FORM_PATTERN,
    SetAside,
    Stores,
    Usage,
    bytes_view,
    check_form,
    check_index,
    check_limit,
    check_size,
)
from hcefs.store.keys import RocksKeyStore, open_key_database
from hcefs.store.recovery import Restoring, note_lost, opened_or_set_aside, unname_shards
from hcefs.store.rows import RocksRowStore, open_database, raw_batch
from hcefs.store.watched import WatchedDisk

T = TypeVar("T")
log = logging.getLogger(__name__)

GATHER_BYTES = 64 << 10
"""Writes smaller than this are joined; larger ones go to the kernel as they are."""

UNCACHED_BYTES_MIN = 256 << 10
"""Shards from this size on are written past the page cache."""

UNCACHED_READ_BYTES = 64 << 10
"""Reads of such shards from this length on bypass it too; what is small is read again."""

_NAME = re.compile(rf"([0-9a-f]{{32}})\.(0|[1-9][0-9]{{0,2}})(?:\.({FORM_PATTERN}))?")
_FAN_OUT = re.compile(r"[0-9a-f]{2}")
_CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class FileShardWriter:
    """See :class:`~hcefs.store.interface.ShardWriter`; made by ``begin``."""

    def __init__(
        self,
        store: FileShardStore,
        name: tuple[BlobBase, int, str],
        fd: int,
        temporary: Path,
        allocated: int,
        aligned: memoryview | None,
    ) -> None:
        self._store = store
        self._disk = store.disk
        self._name = name
        self._fd = fd
        self._temporary = temporary
        self._allocated = allocated
        self._pending = bytearray()
        self._aligned = aligned
        self._gathered = 0
        self._written = 0
        self._ended = False

    def write(self, data: Buffer) -> None:
        self._require_open()
        try:
            view = bytes_view(data)
            if self._aligned is not None:
                self._gather(self._aligned, view)
            elif len(self._pending) + len(view) < GATHER_BYTES:
                self._pending += view
            else:
                self._flush(view)
        except OSError as error:
            self.abort()
            raise disk_error(error, "writing a shard") from error
        except HcefsError:
            self.abort()
            raise

    def finish(self, footer: Buffer) -> None:
        self.write(footer)
        try:
            self._flush_last()
            if self._written < self._allocated:
                self._disk.truncate(self._fd, self._written)
            crash_point(CrashPoint.SHARD_DATA_WRITTEN)
            self._disk.sync(self._fd)
            crash_point(CrashPoint.SHARD_SYNCED)
            self._store.publish(self._name, self._temporary, self._written)
        except OSError as error:
            raise disk_error(error, "finishing a shard") from error
        finally:
            self.abort()  # removes the temporary name, which a published shard does not need

    def abort(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._pending = bytearray()
        if self._aligned is not None:
            self._store.buffers.give(self._aligned)
            self._aligned = None
        # Failures here cost nothing but space, which the next opening gets back.
        with contextlib.suppress(OSError):
            self._disk.close(self._fd)
        with contextlib.suppress(OSError):
            self._disk.unlink(self._temporary)
        self._store.forget(self)

    def _require_open(self) -> None:
        if self._ended:
            raise Invalid("this shard has ended: begin it again", reason="writer-closed")

    def _gather(self, aligned: memoryview, view: memoryview) -> None:
        """Copy into the aligned buffer, and write it whenever it is full."""
        while view:
            room = len(aligned) - self._gathered
            part, view = view[:room], view[room:]
            aligned[self._gathered : self._gathered + len(part)] = part
            self._gathered += len(part)
            if self._gathered == len(aligned):
                self._gathered = 0
                self._write([aligned])

    def _flush_last(self) -> None:
        """Write what is gathered; the part that fills no disk block goes through the cache."""
        if self._aligned is None:
            self._flush(memoryview(b""))
            return
        whole = aligned_down(self._gathered)
        rest = self._aligned[whole : self._gathered]
        self._write([self._aligned[:whole]] if whole else [])
        if rest:
            self._disk.bypass_cache(self._fd, on=False)
            self._write([rest])

    def _flush(self, tail: memoryview) -> None:
        """Write the gathered bytes and ``tail``."""
        self._write([view for view in (memoryview(self._pending), tail) if view])
        self._pending = bytearray()

    def _write(self, buffers: list[memoryview]) -> None:
        """Write the buffers, however often the kernel stops short."""
        total = sum(map(len, buffers))
        if self._written + total > self._allocated:
            self._store.require_space(total)
        while buffers:
            count = self._disk.write(self._fd, buffers)
            if count <= 0:
                raise OSError(errno.EIO, "nothing was written")
            self._written += count
            while buffers and count >= len(buffers[0]):
                count -= len(buffers.pop(0))
            if buffers and count:
                buffers[0] = buffers[0][count:]


class FileShardReader:
    """See :class:`~hcefs.store.interface.ShardReader`; made by ``open``."""

    def __init__(self, disk: Disk, path: Path, fd: int, size: int, buffers: AlignedBuffers) -> None:
        self._disk = disk
        self._path = path
        self._fd = fd
        self._size = size
        self._buffers = buffers
        self._uncached: int | None = None
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        with disk_errors("reading a shard"):
            uncached = self._uncached_for(length)
            if uncached >= 0:
                with self._buffers.lend() as aligned:
                    copies = map(bytes, self._aligned_parts(uncached, aligned, offset, length))
                    first = next(copies, b"")
                    return first if len(first) == length else first + b"".join(copies)
            data = self._disk.read(self._fd, length, offset)
            if len(data) == length:
                return data
            parts = [data]  # a signal, or more than the kernel reads at once
            done = len(data)
            while done < length:
                data = self._disk.read(self._fd, length - done, offset + done)
                if not data:
                    raise self._truncated()
                parts.append(data)
                done += len(data)
            return b"".join(parts)

    def read_into(self, offset: int, out: bytearray | memoryview) -> None:
        view = bytes_view(out)
        self._check(offset, len(view))
        with disk_errors("reading a shard"):
            uncached = self._uncached_for(len(view))
            if uncached >= 0:
                with self._buffers.lend() as aligned:
                    for part in self._aligned_parts(uncached, aligned, offset, len(view)):
                        view[: len(part)] = part
                        view = view[len(part) :]
            while view:
                count = self._disk.read_into(self._fd, view, offset)
                if count <= 0:
                    raise self._truncated()
                view = view[count:]
                offset += count

    def _uncached_for(self, length: int) -> int:
        """A descriptor that bypasses the page cache, for a read that should; else -1."""
        if length < UNCACHED_READ_BYTES or self._size < UNCACHED_BYTES_MIN:
            return -1
        with self._lock:
            if self._uncached is None:
                self._uncached = self._open_uncached()
            return self._uncached

    def _open_uncached(self) -> int:
        try:
            fd = self._disk.open(self._path)
        except FileNotFoundError:  # removed meanwhile; the first descriptor still reads
            return -1
        # Under the same name another file may have come, when this one was set aside.
        if self._disk.same(fd, self._fd) and self._disk.bypass_cache(fd):
            return fd
        self._disk.close(fd)
        return -1

    def _aligned_parts(
        self, uncached: int, aligned: memoryview, offset: int, length: int
    ) -> Iterator[memoryview]:
        """The bytes in order, each part valid until the next one is asked for."""
        while length:
            start = aligned_down(offset)
            span = min(aligned_up(offset + length) - start, len(aligned))
            count = self._disk.read_into(uncached, aligned[:span], start)
            part = aligned[offset - start : min(count, offset - start + length)]
            if count <= offset - start:
                raise self._truncated()
            yield part
            offset += len(part)
            length -= len(part)

    def close(self) -> None:
        fds, self._fd, self._uncached = (self._fd, self._uncached), -1, -1
        for fd in fds:
            if fd is not None and fd >= 0:
                with contextlib.suppress(OSError):
                    self._disk.close(fd)

    def _check(self, offset: int, length: int) -> None:
        if self._fd < 0:
            raise Invalid("this shard reader is closed: open it again", reason="reader-closed")
        if offset < 0 or length < 0:
            raise Invalid("offset and length must not be negative", reason="bad-range")
        # Before anything is allocated: the numbers may come from a damaged footer.
        if offset + length > self._size:
            raise self._truncated()

    @staticmethod
    def _truncated() -> Corrupt:
        return Corrupt("the shard is shorter than it must be: rebuild it", reason="truncated")


class FileShardStore:
    """See :class:`~hcefs.store.interface.ShardStore`.

    Raises (constructor):
        Unavailable: reason ``store-locked``, another process has it open;
            ``disk-error``.
        Exhausted: reason ``disk-full``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        reserve_bytes: int = 0,
        disk: Disk | None = None,
        health: DiskHealth | None = None,
    ) -> None:
        """``health`` decides whether the disk takes shards; by default by space alone."""
        self.disk = disk if disk is not None else Disk()
        self._health = health if health is not None else DiskHealth(lambda: 0.0)
        self._folder = folder
        self._reserve = reserve_bytes
        self._incoming = folder / "incoming"
        self._quarantine = folder / "quarantine"
        self.buffers = AlignedBuffers()
        self.shard_version: Callable[[], int] = lambda: 1
        self._lock = threading.Lock()
        self._serial = itertools.count()
        self._writers: set[FileShardWriter] = set()
        self._fan_out: set[str] = set()
        self._shards = 0
        self._shard_bytes = 0
        self._closed = False
        with disk_errors("opening the shards"):
            for path in (folder, self._incoming, self._quarantine):
                self.disk.make_folder(path)
            self._lock_fd = self._hold(folder)
            try:
                self._recover()
            except BaseException:
                self.disk.close(self._lock_fd)
                raise

    def _recover(self) -> None:
        for name in self.disk.names(self._incoming):
            self.disk.unlink(self._incoming / name)
        for name in sorted(self.disk.names(self._folder)):
            if not _FAN_OUT.fullmatch(name):
                continue
            self._fan_out.add(name)
            # A process killed between link and fsync left a visible name that
            # power loss could still take back; from here on it may be counted.
            self.disk.sync_folder(self._folder / name)
            for file in self.disk.names(self._folder / name):
                if _parse(name, file) is not None:
                    self._shards += 1
                    self._shard_bytes += self.disk.length(self._folder / name / file)
        self.disk.sync_folder(self._folder)

    def begin(
        self,
        base: BlobBase,
        index: int,
        expected_size: int | None = None,
        form: str = FORM_FIRST,
    ) -> FileShardWriter:
        check_index(index)
        check_size(expected_size)
        self._require_open()
        with disk_errors("beginning a shard"):
            final = self._path(base, index, form)
            if self.disk.exists(final):
                raise self._exists(final)
            self.require_space(expected_size or 0)
            self._make_fan_out(final.parent)
            temporary = self._incoming / f"{final.name}.{next(self._serial)}"
            fd = self.disk.create(temporary)
            allocated = 0
            if expected_size:
                try:
                    allocated = self._allocate(fd, expected_size)
                except OSError:
                    with contextlib.suppress(OSError):
                        self.disk.close(fd)
                    with contextlib.suppress(OSError):
                        self.disk.unlink(temporary)
                    raise
        crash_point(CrashPoint.SHARD_BEGUN)
        aligned = None
        if (expected_size or 0) >= UNCACHED_BYTES_MIN and self.disk.bypass_cache(fd):
            aligned = self.buffers.take()
        writer = FileShardWriter(self, (base, index, form), fd, temporary, allocated, aligned)
        with self._lock:
            self._writers.add(writer)
            closed = self._closed
        if closed:
            writer.abort()
            self._require_open()
        return writer

    def open(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> FileShardReader:
        check_index(index)
        self._require_open()
        with disk_errors("opening a shard"):
            path = self._path(base, index, form)
            try:
                fd = self.disk.open(path)
            except FileNotFoundError:
                raise _no_such_shard(base, index) from None
            try:
                return FileShardReader(self.disk, path, fd, self.disk.size(fd), self.buffers)
            except OSError:
                self.disk.close(fd)
                raise

    def has(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> bool:
        check_index(index)
        self._require_open()
        with disk_errors("looking for a shard"):
            return self.disk.exists(self._path(base, index, form))

    def remove(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> bool:
        check_index(index)
        self._require_open()
        path = self._path(base, index, form)
        with disk_errors("removing a shard"), self._lock:
            if path.parent.name not in self._fan_out:
                return False
            try:
                size = self.disk.length(path)
                self.disk.unlink(path)
            except FileNotFoundError:
                removed = False
            else:
                removed = True
                self._shards -= 1
                self._shard_bytes -= size
                crash_point(CrashPoint.SHARD_UNLINKED)
            # Also when nothing was there: the call before may have failed here.
            self.disk.sync_folder(path.parent)
            return removed

    def quarantine(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> str:
        check_index(index)
        self._require_open()
        path = self._path(base, index, form)
        with disk_errors("setting a shard aside"), self._lock:
            try:
                size = self.disk.length(path)
            except FileNotFoundError:
                raise _no_such_shard(base, index) from None
            for serial in itertools.count():
                kept = f"{path.name}.{serial}"
                with contextlib.suppress(FileExistsError):
                    self.disk.link(path, self._quarantine / kept)
                    break
            # The new name must be durable before the old one goes.
            self.disk.sync_folder(self._quarantine)
            crash_point(CrashPoint.QUARANTINE_LINKED)
            self.disk.unlink(path)
            crash_point(CrashPoint.QUARANTINE_UNLINKED)
            self._shards -= 1
            self._shard_bytes -= size
            self.disk.sync_folder(path.parent)
        return kept

    def quarantined(self) -> Iterator[SetAside]:
        self._require_open()
        with disk_errors("listing the quarantine"):
            names = sorted(self.disk.names(self._quarantine))
        for name in names:
            shard = _parse("", name.rpartition(".")[0])
            if shard is None:
                continue
            with contextlib.suppress(FileNotFoundError), disk_errors("listing the quarantine"):
                yield SetAside(name, *shard, self.disk.length(self._quarantine / name))

    def discard(self, name: str) -> bool:
        self._require_open()
        shard, _, serial = name.rpartition(".")
        if _parse("", shard) is None or not serial.isdecimal():
            raise Invalid("no shard in quarantine has such a name", reason="bad-name")
        with disk_errors("emptying the quarantine"):
            try:
                self.disk.unlink(self._quarantine / name)
                gone = True
            except FileNotFoundError:
                gone = False
            self.disk.sync_folder(self._quarantine)
            return gone

    def page(
        self, first: int, after: tuple[BlobBase, int, str] | None, limit: int
    ) -> list[tuple[BlobBase, int, str]]:
        check_limit(limit)
        self._require_open()
        folder = f"{first:02x}"
        with self._lock:
            if folder not in self._fan_out:
                return []
        with disk_errors("listing the shards"):
            found = (_parse(folder, name) for name in self.disk.names(self._folder / folder))
            behind = (s for s in found if s is not None and (after is None or s > after))
            return heapq.nsmallest(limit, behind)

    def inventory(self) -> Iterator[tuple[BlobBase, int]]:
        yield from ((base, index) for base, index, form in self._all() if form == FORM_FIRST)

    def reformed(self) -> Iterator[tuple[BlobBase, int, str]]:
        yield from (name for name in self._all() if name[2] != FORM_FIRST)

    def _all(self) -> Iterator[tuple[BlobBase, int, str]]:
        self._require_open()
        with self._lock:
            folders = sorted(self._fan_out)
        for folder in folders:
            with disk_errors("listing the shards"):
                names = self.disk.names(self._folder / folder)
            found = (_parse(folder, name) for name in names)
            yield from sorted(shard for shard in found if shard is not None)

    def usage(self) -> Usage:
        self._require_open()
        with disk_errors("asking for free space"):
            free, total = self.disk.space(self._folder)
        with self._lock:
            return Usage(self._shards, self._shard_bytes, free, total)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            writers = tuple(self._writers)
        for writer in writers:
            writer.abort()
        self.disk.close(self._lock_fd)

    # For the writers.

    def publish(self, name: tuple[BlobBase, int, str], temporary: Path, size: int) -> None:
        """Give a synchronised temporary its final name, durably.

        Raises:
            Conflict: the name is taken.
            OSError: the disk failed; the name is not visible.
        """
        final = self._path(*name)
        try:
            self.disk.link(temporary, final)
        except FileExistsError:
            raise self._exists(final) from None
        crash_point(CrashPoint.SHARD_LINKED)
        try:
            self.disk.sync_folder(final.parent)
        except OSError:
            with contextlib.suppress(OSError):
                self.disk.unlink(final)
            raise
        crash_point(CrashPoint.SHARD_FOLDER_SYNCED)
        with self._lock:
            self._shards += 1
            self._shard_bytes += size

    def require_space(self, size: int) -> None:
        """Refuse bytes that would eat into the reserve.

        Raises:
            Exhausted: reason ``disk-full``.
        """
        free, _ = self.disk.space(self._folder)
        self._health.admit(free, size, self._reserve)

    def forget(self, writer: FileShardWriter) -> None:
        """Drop an ended writer."""
        with self._lock:
            self._writers.discard(writer)

    def _hold(self, folder: Path) -> int:
        """Hold the folder: opening deletes temporaries, so there is one opener at a time."""
        try:
            return self.disk.lock(folder / "LOCK")
        except BlockingIOError:
            raise Unavailable(
                "another process has these shards open: stop it first", reason="store-locked"
            ) from None

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("the shard store is closed: open it again", reason="store-closed")

    def _path(self, base: BlobBase, index: int, form: str) -> Path:
        check_form(form)
        digits = base.hex()
        name = f"{digits}.{index}.{form}" if form else f"{digits}.{index}"
        return self._folder / digits[:2] / name

    def _make_fan_out(self, folder: Path) -> None:
        # Under the lock: nobody may use a folder whose own name is not durable.
        with self._lock:
            if folder.name not in self._fan_out:
                self.disk.make_folder(folder)
                self.disk.sync_folder(self._folder)
                self._fan_out.add(folder.name)

    def _allocate(self, fd: int, size: int) -> int:
        try:
            self.disk.allocate(fd, size)
        except OSError as error:
            if error.errno not in _CANNOT_ALLOCATE:
                raise
            return 0  # the file system cannot; the space is then checked at each write
        return size

    def _exists(self, final: Path) -> Conflict:
        """The conflict, after making sure that the shard is durable."""
        self.disk.sync_folder(final.parent)
        return Conflict(
            "this shard is stored here already: a blob id is never used twice",
            reason="shard-exists",
        )


def _no_such_shard(base: BlobBase, index: int) -> NotFound:
    return NotFound(
        f"shard {index} of {base.text} is not stored here: ask another holder",
        reason="no-such-shard",
    )


def _parse(folder: str, name: str) -> tuple[BlobBase, int, str] | None:
    """The shard that a file name means, or None for a stray file."""
    match = _NAME.fullmatch(name)
    if match is None or not name.startswith(folder) or int(match[2]) > 255:
        return None
    return BlobBase(bytes.fromhex(match[1])), int(match[2]), match[3] or FORM_FIRST


@dataclass(frozen=True)
class Drive:
    """What the stores of one node are opened on; the simulator gives another."""

    disk: Disk = field(default_factory=Disk)
    open_rows: Callable[[Path], Any] = open_database
    open_keys: Callable[[Path], Any] = open_key_database
    batch: Callable[[], Any] = raw_batch


def open_stores(
    folder: Path,
    *,
    reserve_bytes: int,
    health: DiskHealth | None = None,
    restoring: Restoring | None = None,
    drive: Drive | None = None,
) -> Stores:
    """Open, or create, what one storage node keeps: ``shards/ rows/ keys/``.

    ``reserve_bytes`` of the disk are refused to shards, so that rows, receipts
    and deletion can go on.  With ``restoring``, a damaged database is set aside; ``health``
    learns what becomes of the calls of the disk.

    Raises:
        Unavailable: reason ``store-locked`` or ``disk-error``.
        Exhausted: reason ``disk-full``.
        Corrupt: a database is damaged.
        Invalid: written by a newer version of this software.
    """
    on = drive if drive is not None else Drive()
    with disk_errors("creating the stores"):
        for path in (folder, folder / "shards"):
            on.disk.make_private_folder(path, parents=path is folder)
    if restoring is not None:
        note_lost(folder, restoring)
    with contextlib.ExitStack() as undo:
        # First: its lock keeps a second process from setting anything aside.
        shards = FileShardStore(
            folder / "shards",
            reserve_bytes=reserve_bytes,
            disk=on.disk if health is None else WatchedDisk(health, on.disk),
            health=health,
        )
        undo.callback(shards.close)

        def open_rows(path: Path) -> RocksRowStore:
            return RocksRowStore(path, opener=on.open_rows, batch=on.batch, disk=on.disk)

        def open_keys(path: Path) -> RocksKeyStore:
            return RocksKeyStore(path, opener=on.open_keys, batch=on.batch, disk=on.disk)

        rows = _opened(folder / "rows", restoring, on.disk, open_rows)
        undo.callback(rows.close)
        keys = _opened(folder / "keys", restoring, on.disk, open_keys)
        undo.callback(keys.close)
        stores = Stores(shards, rows, keys)
        if restoring is not None:
            unname_shards(stores, restoring)
        with disk_errors("creating the stores"):
            on.disk.sync_folder(folder)
            on.disk.sync_folder(folder.parent)
        undo.pop_all()
    return stores


def _opened(folder: Path, restoring: Restoring | None, disk: Disk, open_: Callable[[Path], T]) -> T:
    def opening(path: Path) -> T:
        with disk_errors("creating the stores"):
            disk.make_private_folder(path, parents=False)
        return open_(path)

    return opening(folder) if restoring is None else opened_or_set_aside(folder, restoring, opening)
