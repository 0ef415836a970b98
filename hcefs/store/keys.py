"""Sealed keys in a RocksDB of their own, from which deletion really deletes.

A tombstone leaves the old bytes in the write-ahead log and in older tables until
some later compaction; for crypto-shredding that is no deletion.  So ``delete``

1. writes the tombstones, synchronised (from here on no reader sees the rows),
2. flushes, which retires the log that may hold the rows,
3. compacts the tables that overlap the rows, the bottommost level included,
4. checks that no table holds a tombstone any more and that every log and table
   of before is either still live or gone from the folder; if RocksDB's purging
   thread has not come that far, closes and reopens the database, which waits for it,
5. fsyncs the folder, so that power loss does not bring a removed file back.

Invariants:

* Nothing else runs during a deletion, and iterators never outlive a call: a
  pinned old table would stay on disk.
* A deletion that was interrupted (crash, full disk) is completed when the store
  is opened, or by the next deletion: tombstones in tables, and files that were
  there before, are what is left to do.
* No compression (a dictionary could keep samples of values), no log recycling
  or archive, no blob files.

Not guaranteed: what the device keeps of unlinked blocks, and backups.  Keys of
rows (not values) may remain in RocksDB's MANIFEST and LOG.  The cost of one
deletion grows with what was written since the last flush: rows spread over all
tables make it rewrite them; so tables are small and callers delete in batches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rocksdict import BottommostLevelCompaction, CompactOptions, Rdict, WriteBatch

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import HcefsError, Unavailable
from hcefs.store.disk import Disk
from hcefs.store.interface import KeyTable, check_key, check_value
from hcefs.store.rows import (
    RocksTables,
    raw_batch,
    row_exists,
    row_name,
    row_options,
    translate_any,
)

_TABLE_BYTES = 4 << 20
"""Small tables: one deletion rewrites those that overlap it."""

_RANGES_MAX = 32
"""Above this many keys one compaction from the first to the last is cheaper."""

_DATA_FILE = re.compile(r".*\.(sst|log|blob)")


def open_key_database(folder: Path) -> Rdict:
    """Open or create a database of small uncompressed tables."""
    options = row_options()
    options.set_target_file_size_base(_TABLE_BYTES)
    options.set_write_buffer_size(_TABLE_BYTES)
    return Rdict(str(folder), options)


class RocksKeyStore(RocksTables[KeyTable]):
    """See :class:`~hcefs.store.interface.KeyStore`."""

    def __init__(
        self,
        folder: Path,
        *,
        opener: Callable[[Path], Rdict] = open_key_database,
        batch: Callable[[], WriteBatch] = raw_batch,
        disk: Disk | None = None,
    ) -> None:
        files = disk or Disk()
        self._compaction = CompactOptions()
        self._compaction.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        self._compaction.set_exclusive_manual_compaction(True)
        # Files that may hold deleted rows; not empty: a deletion is unfinished.
        self._suspects = _data_files(files, folder)
        super().__init__(folder, (b"hcefs-keys-1",), opener, batch, files)
        try:
            with self._gate.alone():
                self._erase([])
        except HcefsError:
            self.close()
            raise

    def put_all_new(self, rows: Sequence[tuple[KeyTable, bytes, bytes]]) -> None:
        for _, key, value in rows:
            check_key(key)
            check_value(value)
        named = {row_name(table, key): value for table, key, value in rows}
        with self._stripes.hold(named):
            known = dict(zip(named, self._get_named(list(named)), strict=True))
            if any(known[name] not in (None, value) for name, value in named.items()):
                raise row_exists()
            new = [(name, value) for name, value in named.items() if known[name] is None]
            if new:
                self._write(puts=new)

    def delete(self, keys: Sequence[tuple[KeyTable, bytes]]) -> None:
        for _, key in keys:
            check_key(key)
        names = sorted({row_name(table, key) for table, key in keys})
        with self._gate.alone():
            if self._write_failed or self._database is None:
                self._reopen_alone()
            present = [name for name in names if self._present(name)]
            if not present and not self._suspects:
                return
            self._suspects |= _data_files(self._disk, self._folder)
            if present:
                batch = self._new_batch()
                for name in present:
                    batch.delete(name)
                self._write_batch(batch)
                crash_point(CrashPoint.ERASE_TOMBSTONES)
            self._erase(_ranges(present))

    def _present(self, name: bytes) -> bool:
        # The stored form: a row with a bad checksum must be deletable, too.
        return self._guard(lambda database: database.get(name)) is not None

    def _erase(self, ranges: Sequence[tuple[bytes, bytes]]) -> None:
        """Remove every deleted value from the files; the caller is alone in the gate."""
        try:
            self._guard(lambda database: database.flush())
            crash_point(CrashPoint.ERASE_FLUSHED)
            self._compact(ranges)
            self._compact(self._tombstones())
            crash_point(CrashPoint.ERASE_COMPACTED)
            if self._tombstones():
                raise _not_erased()
            if self._leftovers():
                self._reopen_alone()
                crash_point(CrashPoint.ERASE_REOPENED)
                if self._leftovers():
                    raise _not_erased()
            crash_point(CrashPoint.ERASE_CHECKED)
            self._disk.sync_folder(self._folder)
        except Exception as error:
            # RocksDB may refuse to go on after an error in the background.
            self._write_failed = True
            raise translate_any(error) from error
        self._suspects = set()

    def _compact(self, ranges: Sequence[tuple[bytes, bytes]]) -> None:
        def compact(database: Rdict) -> None:
            for first, last in ranges:
                database.compact_range(first, last, self._compaction)

        self._guard(compact)

    def _tombstones(self) -> list[tuple[bytes, bytes]]:
        """The key ranges of the tables that hold deletions."""
        return [
            (table["start_key"], table["end_key"])
            for table in self._guard(lambda database: database.live_files())
            if table["num_deletions"]
        ]

    def _leftovers(self) -> set[str]:
        """Suspect files that are still in the folder without being live.

        Every suspect log counts: the flush has begun a new one.
        """
        live = self._guard(lambda database: database.live_files())
        return (self._suspects & _data_files(self._disk, self._folder)) - {
            str(table["name"]).lstrip("/") for table in live
        }


def _not_erased() -> Unavailable:
    return Unavailable(
        "deleted keys may still be in files of this disk: repeat the deletion, or restart the node",
        reason="not-erased",
    )


def _data_files(disk: Disk, folder: Path) -> set[str]:
    if not disk.is_folder(folder):
        return set()
    return {name for name in disk.names(folder) if _DATA_FILE.fullmatch(name)}


def _ranges(names: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """What to compact for these sorted names, bounds included."""
    if len(names) <= _RANGES_MAX:
        return [(name, name) for name in names]
    tables = sorted({name[0] for name in names})
    by_table = [[name for name in names if name[0] == table] for table in tables]
    return [(group[0], group[-1]) for group in by_table]
