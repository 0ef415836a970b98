"""A sorted table in memory in the place of RocksDB, with what its log promises and no more.

A batch becomes readable at once; it survives a power cut when it, or one after it, was
written with ``sync``; of the others any first part survives.  An iterator sees the rows
as they were when it was made.  Deleted values stay in the files until a compaction.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator
from typing import Any

from hcefs.testing.simulator.machine import Crash, Life


class Batch:
    """What is to be written together."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.changes.append((key, value))

    def delete(self, key: bytes) -> None:
        self.changes.append((key, None))

    def __len__(self) -> int:
        return len(self.changes)


class Table:
    """The rows of one database on a disk, across the lives of the processes that use it."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.rows: dict[bytes, bytes] = {}
        self.order: list[bytes] = []
        self.undo: list[list[tuple[bytes, bytes | None]]] = []
        self.deleted: list[bytes] = []
        self.fails = 0.0
        self.is_full = False
        self.crash_after = -1
        self.writes = 0

    def apply(self, changes: list[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
        """Change rows; returns what undoes it."""
        rows, back = self.rows, []
        for key, value in changes:
            old = rows.get(key)
            back.append((key, old))
            if value is None:
                if old is not None:
                    self.deleted.append(old)
                    del rows[key]
                    del self.order[bisect.bisect_left(self.order, key)]
            else:
                if old is None:
                    bisect.insort(self.order, key)
                rows[key] = value
        back.reverse()
        return back

    def cut_power(self) -> None:
        """Undo some of the newest batches that were not synchronised."""
        for _ in range(self.random.randint(0, len(self.undo))):
            self.apply(self.undo.pop())
        self.undo.clear()

    def contents(self) -> list[bytes]:
        """All that a thief of the disk finds, in any order."""
        return [*self.rows.values(), *self.deleted]


class Cursor:
    """An iterator over the rows as they were."""

    def __init__(self, rows: dict[bytes, bytes], order: list[bytes]) -> None:
        self._rows = rows
        self._order = order
        self._at = 0

    def seek(self, key: bytes) -> None:
        self._at = bisect.bisect_left(self._order, key)

    def valid(self) -> bool:
        return self._at < len(self._order)

    def key(self) -> bytes:
        return self._order[self._at]

    def value(self) -> bytes:
        return self._rows[self._order[self._at]]

    def next(self) -> None:
        self._at += 1

    def status(self) -> None:
        """Nothing can have gone wrong."""


class SimDatabase:
    """What the stores use of ``rocksdict.Rdict``, for one life on a table."""

    def __init__(self, table: Table, life: Life) -> None:
        self._table = table
        self._life = life
        self._is_closed = False
        self._is_broken = False
        self._is_shown = False

    def _check(self) -> Table:
        # The binding raises plain Exception; the stores tell them apart by their text.
        if not self._life.alive:
            raise Exception("IO error: the process is dead")
        if self._is_closed:
            raise Exception("DB is closed")
        return self._table

    def get(self, key: Any) -> Any:
        rows = self._check().rows
        return [rows.get(each) for each in key] if isinstance(key, list) else rows.get(key)

    def write(self, batch: Batch, options: Any = None) -> None:
        table = self._check()
        if self._is_broken:
            raise Exception("IO error: a write before failed")
        if table.is_full or (table.fails and table.random.random() < table.fails):
            self._is_broken = True
            raise Exception("IO error: No space left on device" if table.is_full else "IO error")
        table.writes += 1
        if self._is_shown:
            # Somebody may still look at the rows as they were.
            table.rows, table.order = dict(table.rows), list(table.order)
            self._is_shown = False
        table.undo.append(table.apply(batch.changes))
        if table.crash_after >= 0:
            table.crash_after -= 1
            if table.crash_after < 0:
                self._life.alive = False
                raise Crash
        if options is not None and options.sync:
            table.undo.clear()

    def iter(self) -> Cursor:
        table = self._check()
        self._is_shown = True
        return Cursor(table.rows, table.order)

    def keys(self) -> Iterator[bytes]:
        return iter(list(self._check().order))

    def flush(self) -> None:
        self._check().undo.clear()

    def compact_range(self, first: bytes, last: bytes, options: Any) -> None:
        self._check().deleted.clear()

    def live_files(self) -> list[dict[str, Any]]:
        table = self._check()
        if not table.deleted:
            return []
        return [{"name": "1.sst", "num_deletions": 1, "start_key": b"", "end_key": b"\xff"}]

    def close(self) -> None:
        if self._life.alive:
            self._check().undo.clear()
        self._is_closed = True
