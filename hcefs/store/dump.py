"""A node's rows as a backup copies them, and the way back onto an empty disk.

Owns which tables a backup has: all that nobody could make anew from shards and ledger.  What
a node found out about its disk (damage, a scrub's place) is not among them, and neither are
the notes of finished erasures: a restored node has to look for erased records again, because
the ledger, not the backup, says what is gone.

Invariants: pages are bounded; keys are copied sealed, as they lie here; restored databases
appear at their places whole, and never over others.

Not guaranteed: one moment for all tables.  Names of shards come first and their keys last,
so that whatever is named in a backup was whole when it was named.
Source: docs/decisions/0042-backups.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hcefs.durable_files import sync_folder
from hcefs.errors import Conflict, Invalid
from hcefs.store.disk import disk_errors
from hcefs.store.interface import KeyTable, RowStore, Stores, Table
from hcefs.store.keys import RocksKeyStore
from hcefs.store.recovery import BACKUP, KEYS, ROWS, Restoring
from hcefs.store.rows import RocksRowStore

ROW_TABLES = (
    Table.PLACED,
    Table.RECORDS,
    Table.LAYOUTS,
    Table.CORES,
    Table.OPENINGS,
    Table.INDEX,
    Table.PENDING,
    Table.STAGED,
    Table.STAND_INS,
    Table.META,
    Table.RECEIPTS,
)
"""In the order in which they are copied; the keys come after them."""

LEFT_OUT = (Table.DAMAGED, Table.SCRUB)

NOT_COPIED = {Table.META: (b"erased/",)}
"""Keys that begin so are left out: notes that a record's erasure is done."""

PAGE_ROWS = 128
PAGE_BYTES = 1 << 20
"""Of keys and values; one long row may be a page of its own."""

DRAFT = ".restored"
"""What a database is called until it is whole."""

Rows = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class DumpedPage:
    """Rows of one table, by ascending key."""

    table: Table | KeyTable
    rows: tuple[tuple[bytes, bytes], ...]


def dumped(stores: Stores) -> Iterator[DumpedPage]:
    """All rows of a node that a backup has, page by page; for disk threads.

    Raises:
        Corrupt: a row is damaged: the scrub mends it, or another node has it.
    """
    for table in ROW_TABLES:
        yield from _table(table, stores.rows.scan)
    for keys in KeyTable:
        yield from _table(keys, stores.keys.scan)


def _table(
    table: Table | KeyTable, scan: Callable[..., list[tuple[bytes, bytes]]]
) -> Iterator[DumpedPage]:
    skipped = NOT_COPIED.get(table, ()) if isinstance(table, Table) else ()
    after: bytes | None = None
    while page := scan(table, b"", after, PAGE_ROWS):
        after = page[-1][0]
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        for key, value in page:
            if key.startswith(skipped):
                continue
            if rows and size + len(key) + len(value) > PAGE_BYTES:
                yield DumpedPage(table, tuple(rows))
                rows, size = [], 0
            rows.append((key, value))
            size += len(key) + len(value)
        if rows:
            yield DumpedPage(table, tuple(rows))
        if len(page) < PAGE_ROWS:
            return


def table_of(kind: type[Table] | type[KeyTable], number: int) -> Table | KeyTable:
    """The table of a number that a backup names.

    Raises:
        Invalid: ``bad-backup``: there is none that a backup has.
    """
    allowed: tuple[Table | KeyTable, ...] = ROW_TABLES if kind is Table else tuple(KeyTable)
    for table in allowed:
        if table == number:
            return table
    raise Invalid(
        "this backup has rows of a table that this software does not restore: use the version "
        "that wrote it",
        reason="bad-backup",
    )


def require_empty(data: Path) -> None:
    """Check that a node's folder has no databases of rows or keys.

    Raises:
        Conflict: ``not-empty``.
    """
    with disk_errors("looking at a node's folder"):
        for name in (ROWS, KEYS):
            folder = data / name
            if folder.exists() and any(folder.iterdir()):
                raise Conflict(
                    f"{folder} is not empty: a backup is restored where rows and keys are lost, "
                    "never over others; if they are lost indeed, move it away",
                    reason="not-empty",
                )


class RestoredRows:
    """Databases of rows and keys that are made beside a node's folder and then moved in.

    One thread uses it; :meth:`close` it whatever happens.

    Raises (constructor):
        Conflict: ``not-empty``.
        Unavailable, Exhausted: the disk; so do the methods.
    """

    def __init__(self, data: Path) -> None:
        require_empty(data)
        self._data = data
        self._drafts = {name: data / (name + DRAFT) for name in (ROWS, KEYS)}
        with disk_errors("making databases"):
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in self._drafts.values():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(mode=0o700)
        self._rows = RocksRowStore(self._drafts[ROWS])
        try:
            self._keys = RocksKeyStore(self._drafts[KEYS])
        except BaseException:
            self._rows.close()
            raise
        self.counts = {ROWS: 0, KEYS: 0}

    @property
    def rows(self) -> RowStore:
        """What has been restored so far."""
        return self._rows

    def add(self, table: Table | KeyTable, rows: Rows) -> None:
        """Write a page, durably.

        Raises:
            Invalid: a key or a value out of bounds.
            Conflict: a key comes twice with different bytes.
        """
        if isinstance(table, KeyTable):
            self._keys.put_all_new([(table, key, value) for key, value in rows])
            self.counts[KEYS] += len(rows)
        else:
            self._rows.put([(table, key, value) for key, value in rows])
            self.counts[ROWS] += len(rows)

    def finish(self) -> None:
        """Move both to their places; the node then looks for what they lack.

        The mark comes first: no start takes them for all that there is.
        """
        self._keys.close()
        self._rows.close()
        Restoring(self._data).add(BACKUP)
        with disk_errors("putting restored databases in place"):
            # The keys first: rows without keys would have all shards adopted anew.
            for name in (KEYS, ROWS):
                target = self._data / name
                if target.exists():
                    target.rmdir()
                self._drafts[name].rename(target)
                sync_folder(self._data)

    def close(self) -> None:
        """Close, and drop what was not finished; may be repeated."""
        self._rows.close()
        self._keys.close()
        for folder in self._drafts.values():
            shutil.rmtree(folder, ignore_errors=True)
