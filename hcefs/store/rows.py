"""Rows in RocksDB: the row store, and what the key store shares with it.

A row is stored under ``table number (1 byte) || key`` as ``CRC32C (4 bytes,
big-endian) || value``, the checksum covering table, key and value, so that a
value found under another key is noticed as well as a changed one.  Table 0 holds
the format's name, checked when opened.

Invariants:

* Every write is synchronised to the write-ahead log before it becomes readable,
  so what is read is durable.
* Iterators live inside one call: nothing pins old files between calls (the key
  store's deletion depends on it).
* A damaged log is an error, not an end: recovery tolerates an incomplete last
  record (never acknowledged) and refuses anything else.  RocksDB's default would
  silently drop every acknowledged row behind the damage.
* After a failed write RocksDB refuses all further ones; the next write here
  closes and reopens the database, once there is space.

Not guaranteed: that a write which raised has not happened (its rows may appear
after reopening, all of them); real deletion (:mod:`hcefs.store.keys`).

Source: the RocksDB wiki, "Write Ahead Log", "WAL Recovery Modes" and
"Background Error Handling".
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from rocksdict import (
    BlockBasedOptions,
    BottommostLevelCompaction,
    CompactOptions,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from hcefs import __version__
from hcefs.errors import Conflict, Corrupt, Exhausted, HcefsError, Internal, Invalid, Unavailable
from hcefs.integrity import crc32c
from hcefs.store.disk import Disk
from hcefs.store.interface import (
    KEY_BYTES_MAX,
    RowPage,
    Table,
    check_key,
    check_limit,
    check_value,
)
from hcefs.versions import GUIDE

log = logging.getLogger(__name__)

TableT = TypeVar("TableT", bound=enum.IntEnum)
T = TypeVar("T")

RECOVERY_FREE_BYTES = 32 << 20
"""Reopening flushes the log to a table; without room for that reads would be lost too."""

_STRIPES = 256
_CHECKSUM_BYTES = 4
_FORMAT_KEY = b"\x00format"
_BLOOM_BITS = 10
_WRITE_BUFFER_BYTES = 16 << 20
_WAL_BYTES_MAX = 64 << 20


def row_options() -> Options:
    """RocksDB's options for the rows; the key store narrows them.

    Nothing is compressed: digests, signatures and sealed bytes do not shrink.
    """
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.none())
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_recycle_log_file_num(0)
    options.set_wal_ttl_seconds(0)
    options.set_wal_size_limit_mb(0)
    options.set_max_total_wal_size(_WAL_BYTES_MAX)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(1 << 20)
    options.set_max_background_jobs(2)
    blocks = BlockBasedOptions()
    blocks.set_bloom_filter(_BLOOM_BITS, False)
    options.set_block_based_table_factory(blocks)
    return options


def open_database(folder: Path) -> Rdict:
    """Open or create a database with :func:`row_options`."""
    return Rdict(str(folder), row_options())


def raw_batch() -> WriteBatch:
    """A batch of rows to be written together."""
    return WriteBatch(raw_mode=True)


def seal_row(name: bytes, value: bytes) -> bytes:
    """The stored form of a value; ``name`` is table number and key."""
    return crc32c(name + value).to_bytes(_CHECKSUM_BYTES, "big") + value


def open_row(name: bytes, stored: bytes) -> bytes:
    """The value of a stored form.

    Raises:
        Corrupt: reason ``bad-row``.
    """
    value = stored[_CHECKSUM_BYTES:]
    if len(stored) < _CHECKSUM_BYTES or seal_row(name, value) != stored:
        raise _bad_row()
    return value


def _bad_row() -> Corrupt:
    return Corrupt(
        "a row on this disk is damaged: restore it from the other holders and check the disk",
        reason="bad-row",
    )


def translate(error: Exception) -> HcefsError:
    """What a failure of RocksDB means; its text names files, never contents."""
    text = str(error)
    if isinstance(error, DbClosedError):
        return _closed()
    if "No space left" in text or "Disk quota" in text:
        return _disk_full()
    if text.startswith("Corruption"):
        return _bad_row()
    if text.startswith("IO error") and "/LOCK: " in text:
        return Unavailable("another process has these rows open: stop it", reason="store-locked")
    if text.startswith("IO error") or isinstance(error, OSError):
        return Unavailable(
            "the disk failed under the rows: look at the kernel's log and the disk's health",
            reason="disk-error",
        )
    return Internal(
        f"the row database refused a call ({type(error).__name__}): report this",
        reason="store-failure",
    )


def _closed() -> Unavailable:
    return Unavailable("the store is closed: open it again", reason="store-closed")


def _disk_full() -> Exhausted:
    return Exhausted(
        "the disk of this node has no room for rows: free space on it, then repeat",
        reason="disk-full",
        retry_after_ms=60_000,
    )


class Gate:
    """Many calls, or one alone; one that waits alone holds new ones back."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._alone = False
        self._waiting = 0
        self._shared = _Shared(self)

    def shared(self) -> AbstractContextManager[None]:
        return self._shared

    def enter(self) -> None:
        """Be one of many; :meth:`leave` afterwards."""
        with self._condition:
            while self._alone or self._waiting:
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._condition:
            self._inside -= 1
            # Only who waits alone waits for this.
            if self._waiting and not self._inside:
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: not self._alone and not self._inside)
            finally:
                self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._condition:
                self._alone = False
                self._condition.notify_all()


class _Shared(AbstractContextManager[None]):
    """One of many; holds nothing of its own, because every read of a row takes it."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        self._gate.enter()

    def __exit__(self, *_: object) -> None:
        self._gate.leave()


class Stripes:
    """Locks for keys: one of a fixed number for each, always taken in order."""

    def __init__(self) -> None:
        self._locks = tuple(threading.Lock() for _ in range(_STRIPES))

    @contextlib.contextmanager
    def hold(self, names: Iterable[bytes]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for stripe in sorted({zlib.crc32(name) % _STRIPES for name in names}):
                stack.enter_context(self._locks[stripe])
            yield


class RocksTables(Generic[TableT]):
    """One RocksDB of checksummed rows: what both stores have in common.

    ``opener`` opens the database and ``batch`` makes what it writes; tests hand in ones that
    fail, the simulator a database of its own.

    Raises (constructor):
        Corrupt: the database or its log is damaged.
        Invalid: reason ``unknown-version``, written by a newer software.
        Unavailable: reason ``store-locked`` or ``disk-error``.
        Exhausted: reason ``disk-full``.
    """

    def __init__(
        self,
        folder: Path,
        formats: tuple[bytes, ...],
        opener: Callable[[Path], Rdict],
        batch: Callable[[], WriteBatch],
        disk: Disk,
    ) -> None:
        self._folder = folder
        self._opener = opener
        self._new_batch = batch
        self._disk = disk
        self._gate = Gate()
        self._stripes = Stripes()
        self._synced = WriteOptions()
        self._synced.sync = True
        self._closed = False
        self._write_failed = False
        self._database: Rdict | None = None
        try:
            disk.make_folder(folder)
            self._database = opener(folder)
            self._check_format(self._database, formats)
            # RocksDB synchronises its folder, nobody yet the name of the folder.
            disk.sync_folder(folder.parent)
        except HcefsError:
            self._close_database()
            raise
        except Exception as error:
            self._close_database()
            raise translate_any(error) from error

    def get(self, table: TableT, key: bytes) -> bytes | None:
        check_key(key)
        name = row_name(table, key)
        stored = self._use(lambda database: database.get(name))
        return None if stored is None else open_row(name, stored)

    def get_many(self, table: TableT, keys: Sequence[bytes]) -> list[bytes | None]:
        for key in keys:
            check_key(key)
        return self._get_named([row_name(table, key) for key in keys])

    def _get_named(self, names: list[bytes]) -> list[bytes | None]:
        if not names:
            return []
        keys: list[Any] = list(names)
        found: Any = self._use(lambda database: database.get(keys))
        return [
            None if stored is None else open_row(name, stored)
            for name, stored in zip(names, found, strict=True)
        ]

    def put_new(self, table: TableT, key: bytes, value: bytes) -> bool:
        check_key(key)
        check_value(value)
        name = row_name(table, key)
        with self._stripes.hold((name,)):
            existing = self.get(table, key)
            if existing is None:
                self._write(puts=((name, value),))
                return True
        if existing != value:
            raise row_exists()
        return False

    def scan(
        self, table: TableT, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        check_limit(limit)
        start = prefix if after is None else max(prefix, after + b"\x00")
        found = self._use(
            lambda database: _collect(
                database, row_name(table, prefix), row_name(table, start), limit
            )
        )
        return [(name[1:], open_row(name, stored)) for name, stored in found]

    def inspect(self, table: TableT, after: bytes | None, limit: int) -> RowPage:
        check_limit(limit)
        start = b"" if after is None else after + b"\x00"
        found, broken = self._use(
            lambda database: _gather(database, row_name(table, b""), row_name(table, start), limit)
        )
        rows, damaged = [], []
        for name, stored in found:
            try:
                rows.append((name[1:], open_row(name, stored)))
            except Corrupt:
                damaged.append((name[1:], stored))
        more = broken or len(found) == limit
        last = found[-1][0][1:] if found and more else None
        return RowPage(tuple(rows), tuple(damaged), last, broken)

    def close(self) -> None:
        with self._gate.alone():
            self._closed = True
            self._close_database()

    def _use(self, operation: Callable[[Rdict], T]) -> T:
        """Run one call on the open database, its failures translated."""
        if self._database is None:
            self._reopen()
        with self._gate.shared():
            return self._guard(operation)

    def _guard(self, operation: Callable[[Rdict], T]) -> T:
        database = self._database
        if database is None:
            raise _closed()
        try:
            return operation(database)
        except Exception as error:
            raise translate_any(error) from error

    def _write(
        self, puts: Iterable[tuple[bytes, bytes]] = (), deletes: Iterable[bytes] = ()
    ) -> None:
        """Apply all or nothing, synchronised."""
        if self._write_failed:
            self._reopen()
        batch = self._new_batch()
        for name, value in puts:
            batch.put(name, seal_row(name, value))
        for name in deletes:
            batch.delete(name)
        with self._gate.shared():
            self._write_batch(batch)

    def _write_batch(self, batch: WriteBatch) -> None:
        """Write inside the gate; a failure makes the next write reopen."""
        try:
            self._guard(lambda database: database.write(batch, self._synced))
        except (Exhausted, Unavailable):
            self._write_failed = True
            raise

    def _reopen(self) -> None:
        with self._gate.alone():
            if self._write_failed or self._database is None:
                self._reopen_alone()

    def _reopen_alone(self) -> None:
        """Close and open again; the caller is alone in the gate.

        Raises:
            Exhausted: too little room, the database stays as it is.
        """
        if self._closed:
            raise _closed()
        if self._disk.space(self._folder)[0] < RECOVERY_FREE_BYTES:
            raise _disk_full()
        self._close_database()
        try:
            self._database = self._opener(self._folder)
        except Exception as error:
            raise translate_any(error) from error
        self._write_failed = False

    def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is None:
            return
        try:
            database.close()
        except Exception as error:  # noqa: BLE001 - rocksdict raises plain Exception
            # Closing flushes; what it could not flush is in the synchronised log.
            log.warning("closing a row database failed: %s", translate_any(error).reason)

    def _check_format(self, database: Rdict, formats: tuple[bytes, ...]) -> None:
        try:
            stored = database.get(_FORMAT_KEY)
            found = None if stored is None else open_row(_FORMAT_KEY, stored)
        except Exception as error:
            failure = translate_any(error)
            if not isinstance(failure, Corrupt):
                raise failure from error
            # One bad block must not take all other rows away: each has its checksum.
            log.error("the format row of a row database is damaged; going on without it")
            return
        if found is not None:
            if found not in formats:
                raise Invalid(
                    f"this folder has the format {found[:40]!r}, and hcefs {__version__} reads up "
                    f"to {formats[-1]!r}: install the newer release that wrote it; see {GUIDE}",
                    reason="unknown-version",
                )
            return
        if _collect(database, b"", b"", 1):
            raise Corrupt("this database holds rows without a format", reason="bad-row")
        batch = self._new_batch()
        batch.put(_FORMAT_KEY, seal_row(_FORMAT_KEY, formats[0]))
        database.write(batch, self._synced)


ROW_FORMATS = (b"hcefs-rows-1", b"hcefs-rows-2")
"""The formats of a node's folder: rows are the same in both, and the second one says that
shards beside them may be of version 2 of their format."""


class RocksRowStore(RocksTables[Table]):
    """See :class:`~hcefs.store.interface.RowStore`."""

    def __init__(
        self,
        folder: Path,
        *,
        opener: Callable[[Path], Rdict] = open_database,
        batch: Callable[[], WriteBatch] = raw_batch,
        disk: Disk | None = None,
    ) -> None:
        super().__init__(folder, ROW_FORMATS, opener, batch, disk or Disk())

    def raise_format(self) -> None:
        self._write(puts=((_FORMAT_KEY, ROW_FORMATS[-1]),))

    def put(self, rows: Sequence[tuple[Table, bytes, bytes]]) -> None:
        for _, key, value in rows:
            check_key(key)
            check_value(value)
        if rows:
            named = [(row_name(table, key), value) for table, key, value in rows]
            with self._stripes.hold(name for name, _ in named):
                self._write(puts=named)

    def delete(self, rows: Sequence[tuple[Table, bytes]]) -> None:
        for _, key in rows:
            check_key(key)
        if rows:
            names = [row_name(table, key) for table, key in rows]
            with self._stripes.hold(names):
                self._write(deletes=names)

    def purge(self, tables: Sequence[Table]) -> None:
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        # The flush retires the log that holds the rows as they were written.
        self._use(lambda database: database.flush())
        for table in tables:
            first, last = row_name(table, b""), row_name(table, b"\xff" * KEY_BYTES_MAX)
            self._use(partial(_compact, first=first, last=last, options=options))


def _compact(database: Rdict, first: bytes, last: bytes, options: CompactOptions) -> None:
    database.compact_range(first, last, options)


def translate_any(error: Exception) -> HcefsError:
    """As :func:`translate`, also for errors of the operating system and our own."""
    return error if isinstance(error, HcefsError) else translate(error)


def row_exists() -> Conflict:
    """Why a row that is there is not replaced."""
    return Conflict(
        "this row exists with other bytes and is never overwritten: use a new id",
        reason="row-exists",
    )


def row_name(table: enum.IntEnum, key: bytes) -> bytes:
    """The name of a row in RocksDB."""
    return bytes((table,)) + key


def _collect(database: Rdict, prefix: bytes, start: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """Rows from ``start`` while they have the prefix, as stored."""
    found: list[tuple[bytes, bytes]] = []
    _walk(database, prefix, start, limit, found)
    return found


def _gather(
    database: Rdict, prefix: bytes, start: bytes, limit: int
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """As :func:`_collect`, up to where the database is damaged, and whether it is."""
    found: list[tuple[bytes, bytes]] = []
    try:
        _walk(database, prefix, start, limit, found)
    except Exception as error:
        if not isinstance(translate_any(error), Corrupt):
            raise
        return found, True
    return found, False


def _walk(
    database: Rdict, prefix: bytes, start: bytes, limit: int, found: list[tuple[bytes, bytes]]
) -> None:
    iterator: Any = database.iter()
    try:
        iterator.seek(start)
        while len(found) < limit and iterator.valid():
            name = iterator.key()
            if not name.startswith(prefix):
                break
            found.append((name, iterator.value()))
            iterator.next()
        # An iterator that met damage only stops being valid.
        iterator.status()
    finally:
        # The frame outlives an exception in its traceback; the iterator must not.
        del iterator
