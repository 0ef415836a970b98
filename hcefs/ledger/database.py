"""The RocksDB folder of a ledger's log: checked reads, batches, and a disk that fails.

Invariants: a row carries the CRC32C of its key and value, and one that fails it is
``Corrupt(reason="bad-row")`` and never an answer; after a failed write nothing more is
written until :meth:`LogDatabase.reopen` has opened the folder again, because only that
tells what is on disk.  What the rows mean is :mod:`hcefs.ledger.rows`'s.
Source: docs/ARCHITECTURE.md, "Ledger".
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import rocksdict

from hcefs.encoding import Encoded
from hcefs.errors import Conflict, Exhausted, HcefsError, Internal, Unavailable
from hcefs.ledger.rows import STATE_ROWS, decode_row, unseal
from hcefs.ledger.state import State

RECOVERY_FREE_BYTES = 32 << 20
"""Opening flushes what the write-ahead log holds; without room for that reads are lost too."""

DISK_REASONS = frozenset({"disk-full", "disk-error", "ledger-log-reopening"})
"""Reasons that pass when the disk takes writes again, after the log's ``recover``."""

_BLOCK_CACHE_BYTES = 64 << 20
_WRITE_BUFFER_BYTES = 16 << 20
_OPEN_FILES_MAX = 256
_BLOOM_BITS = 10

_T = TypeVar("_T")
_Fact = TypeVar("_Fact", bound=Encoded)


def translated(function: Callable[..., _T], *args: Any) -> _T:
    """Call RocksDB, whose binding raises plain ``Exception``, and raise ours."""
    try:
        return function(*args)
    except HcefsError:
        raise
    except Exception as error:
        raise disk_failure(error) from error


def disk_failure(error: Exception) -> HcefsError:
    """What a failure of RocksDB means; its text names files, never contents."""
    if isinstance(error, HcefsError):
        return error
    text = str(error)
    if isinstance(error, rocksdict.DbClosedError):
        return Unavailable(
            "the ledger's log is closed, or being opened again after a failure of its disk: "
            "try again, or another node",
            reason="ledger-log-reopening",
        )
    if "No space left" in text or "Disk quota" in text:
        return disk_full()
    if text.startswith("IO error") or isinstance(error, OSError):
        return Unavailable(
            "the disk failed under the ledger's log: look at the kernel's log and the disk's "
            "health; the log is opened again by itself",
            reason="disk-error",
        )
    return Internal(
        f"the ledger's database failed ({error}): check the disk and restart the process",
        reason="ledger-log-failed",
    )


def disk_full() -> Exhausted:
    return Exhausted(
        "the disk of this node has no room for the ledger's log: free space on it; the log goes "
        "on by itself then",
        reason="disk-full",
        retry_after_ms=60_000,
    )


def _unknown() -> Internal:
    return Internal(
        "a write of the ledger's log was interrupted: restart the process",
        reason="ledger-log-failed",
    )


def free_bytes(path: Path) -> int:
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def _step(cursor: Any, prefix: bytes) -> tuple[bytes, bytes] | None:
    if not cursor.valid():
        # The end of the rows and a read error look alike but for this.
        cursor.status()
        return None
    key = cursor.key()
    if not key.startswith(prefix):
        return None
    value = cursor.value()
    cursor.next()
    return key, value


class Rows:
    """Checked reads of the database as it is; a ``State``.  Safe from any thread."""

    def __init__(self, database: rocksdict.Rdict) -> None:
        self._database = database

    def row(self, key: bytes) -> bytes | None:
        """The value of a row, or None."""
        found = translated(self._database.get, key)
        return None if found is None else unseal(key, found)

    def present(self, keys: list[bytes]) -> list[bool]:
        """Which of the rows there are; asks once for all."""
        found: list[Any] = translated(self._database.get, keys)  # type: ignore[arg-type]
        return [value is not None for value in found]

    def rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows under a prefix from ``start`` (within it) on, as of the first step."""
        cursor = translated(self._database.iter)
        translated(cursor.seek, prefix + start)
        while (found := translated(_step, cursor, prefix)) is not None:
            key, value = found
            yield key[len(prefix) :], unseal(key, value)

    def decoded(self, cls: type[_Fact], key: bytes) -> _Fact | None:
        """The value of a row, decoded, or None."""
        row = self.row(key)
        return None if row is None else decode_row(cls, row)

    def get(self, key: bytes) -> bytes | None:
        """A value of the state."""
        return self.row(STATE_ROWS + key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of the state by ascending key."""
        for key, value in self.rows(STATE_ROWS + prefix):
            yield prefix + key, value

    def fact(self, cls: type[_Fact], key: bytes) -> _Fact | None:
        """A value of the state, decoded."""
        value = self.get(key)
        return None if value is None else decode_row(cls, value)


class FrozenRows(Rows):
    """The same at one moment, for one thread.

    A RocksDB iterator sees the database as it was when it was made, wherever it is
    put; the binding's own snapshots do not (rocksdict 0.3.29 iterates over the
    present through them).
    """

    def __init__(self, database: rocksdict.Rdict) -> None:
        super().__init__(database)
        self._cursor = translated(database.iter)

    def row(self, key: bytes) -> bytes | None:
        found = translated(self._first_from, key, key)
        return unseal(key, found[1]) if found is not None and found[0] == key else None

    def rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        key = prefix + start
        # Sought anew for every row, because the taker of one may read others in between.
        while (found := translated(self._first_from, key, prefix)) is not None:
            yield found[0][len(prefix) :], unseal(*found)
            key = found[0] + b"\x00"

    def _first_from(self, key: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        self._cursor.seek(key)
        return _step(self._cursor, prefix)


class LogDatabase:
    """The open database of one log (``raw``), and what is known of its disk.

    ``writing`` is the lock under which batches are made and written; whoever calls
    :meth:`write` or :meth:`reopen` holds it.
    """

    def __init__(
        self,
        database: rocksdict.Rdict,
        path: Path,
        new_batch: Callable[[], rocksdict.WriteBatch],
        opener: Callable[[Path], rocksdict.Rdict],
        free: Callable[[Path], int],
    ) -> None:
        """Use :meth:`open`."""
        self.path = path
        self.new_batch = new_batch
        self.rows = Rows(database)
        self.writing = threading.Lock()
        self.failure: HcefsError | None = None
        """Why nothing is written now: what a write failed with, until it is opened again."""
        self.closed = False
        self.raw = database
        self.opener = opener
        self.free = free
        self._sync = rocksdict.WriteOptions()
        self._sync.sync = True

    @classmethod
    def open(
        cls,
        path: Path,
        new_batch: Callable[[], rocksdict.WriteBatch] | None,
        opener: Callable[[Path], rocksdict.Rdict] | None,
        free: Callable[[Path], int] | None,
    ) -> Self:
        """Open or make the folder; None stands for RocksDB itself and the file system.

        Raises:
            Conflict: ``log-in-use``: another process has it open.
            Internal: ``ledger-log-failed``: it does not open.
        """
        opened = opener or open_database
        try:
            database = opened(path)
        except Exception as error:
            if "lock" in str(error).lower():
                raise Conflict(
                    f"the ledger's log in {path} is open in another process: stop that one first",
                    reason="log-in-use",
                ) from error
            raise Internal(
                f"the ledger's log in {path} cannot be opened ({error}): check the disk, or "
                "rebuild this replica from its peers in an empty folder",
                reason="ledger-log-failed",
            ) from error
        return cls(database, path, new_batch or raw_batch, opened, free or free_bytes)

    def is_empty(self) -> bool:
        """Whether there is no row at all."""
        return next(iter(self.raw.keys()), None) is None

    def frozen(self) -> FrozenRows:
        """The rows as they are now, for one thread."""
        return FrozenRows(self.raw)

    def cursor(self) -> Any:
        """A raw RocksDB iterator over the rows as they are now."""
        return self.raw.iter()

    def require_writable(self) -> None:
        """Check that a write can be tried.

        Raises:
            Internal: it is closed.
            HcefsError: what a former write failed with.
        """
        if self.closed:
            raise Internal(
                "the ledger's log is closed: restart the process",
                reason="ledger-log-failed",
            )
        if self.failure is not None:
            raise self.failure

    def write(self, batch: rocksdict.WriteBatch, *, sync: bool = True) -> None:
        """Write a batch, durably unless told otherwise.

        Raises:
            HcefsError: the disk failed, and is taken to fail until :meth:`reopen`.
        """
        try:
            if sync:
                translated(self.raw.write, batch, self._sync)
            else:
                translated(self.raw.write, batch)
        except BaseException as error:
            self.failure = disk_failure(error) if isinstance(error, Exception) else _unknown()
            raise

    def close(self) -> None:
        """Close the folder; a second call does nothing."""
        self.closed = True
        # Closing twice is an error to the binding.
        with contextlib.suppress(rocksdict.DbClosedError):
            self.raw.close()

    def require_room(self) -> None:
        """Check that enough is free for opening the folder again.

        Raises:
            Exhausted: ``disk-full``.
            Unavailable: ``disk-error``.
        """
        try:
            free = self.free(self.path)
        except OSError as error:
            raise disk_failure(error) from error
        if free < RECOVERY_FREE_BYTES:
            raise disk_full()

    def reopen(self, check: Callable[[Rows], _T]) -> _T:
        """Close and open; readers meanwhile get ``ledger-log-reopening``.

        Opening replays the write-ahead log into a new, synchronised table.  What ``check``
        finds in the new rows is returned; where it raises, they are not used.  The caller
        ends the failure when it has taken them over.
        """
        # What cannot be flushed while closing is in the synchronised log.
        with contextlib.suppress(Exception):
            self.raw.close()
        try:
            database = self.opener(self.path)
        except Exception as error:
            raise disk_failure(error) from error
        rows = Rows(database)
        try:
            found = check(rows)
        except BaseException:
            with contextlib.suppress(Exception):
                database.close()
            raise
        self.raw, self.rows = database, rows
        return found


def state_of(database: rocksdict.Rdict) -> State:
    """The state in the database of a log that is being built."""
    return Rows(database)


def raw_batch() -> rocksdict.WriteBatch:
    """A batch for a log's database."""
    return rocksdict.WriteBatch(raw_mode=True)


def open_database(path: Path) -> rocksdict.Rdict:
    """Open or make the database of a log."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return rocksdict.Rdict(str(path), _options())


def _options() -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    # A torn last record was never acknowledged; any other damage must not open.
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_max_open_files(_OPEN_FILES_MAX)
    # Old put keys leave tombstones that every block scans past: small buffers and early
    # compaction keep them few.
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.add_compact_on_deletion_collector_factory(10_000, 5_000, 0.5)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(_BLOCK_CACHE_BYTES))
    table.set_bloom_filter(_BLOOM_BITS, False)
    options.set_block_based_table_factory(table)
    return options
