"""What the scrub makes of rows: damaged ones are put away, and what they held is restored.

Each table has its own way back.  What peers have (cores, layouts, openings, listings, key
rows, boxes) comes from them again, once nothing here stands in its place; names and
markers are written anew from what they are made of; what no one else has (receipts) stays,
reported.

Invariants: nothing of the rows database is deleted before its bytes are copied into SCRUB;
of the keys database nothing is copied, because deletion there must be real, and its rows
are erased.  A row that was put away can come back only as the ledger still allows it
(:mod:`hcefs.stripes.adopt`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from hcefs.erasure.scheme import profile_named
from hcefs.errors import HcefsError
from hcefs.formats.shard import HEADER_SIZE, ShardHeader
from hcefs.ids import BlobBase
from hcefs.store.interface import KeyTable, RowStore, Stores, Table
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import INDEX_AT, POSITION_SIZE, base_prefix, shard_key

PAGE_ROWS = 1000
_BASE_ROWS = (Table.CORES, Table.LAYOUTS, Table.OPENINGS)
_KEPT = (Table.RECEIPTS,)
_ASIDE = b"row/"
_LATEST = b"pending/"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowStage:
    """One table of one database, as a stage of the scrub."""

    name: str
    table: Table | None
    keys: KeyTable | None


FIRST_ROWS, FIRST_KEYS, DONE = 256, 512, 1024
STAGES = {FIRST_ROWS + table: RowStage(table.name.lower(), table, None) for table in Table} | {
    FIRST_KEYS + table: RowStage("keys." + table.name.lower(), None, table) for table in KeyTable
}
"""By their numbers, which follow from those of the tables and so never change."""


def stage_after(stage: int) -> int:
    """The stage behind one, ``DONE`` behind the last."""
    if stage + 1 < FIRST_ROWS:
        return stage + 1
    return min((number for number in STAGES if number > stage), default=DONE)


class RowMender:
    """Puts damaged rows away on one node.  For disk threads."""

    def __init__(
        self,
        stores: Stores,
        pending: PendingNames,
        restore: Callable[[BlobBase, int, str, str], None],
    ) -> None:
        """``restore`` takes shards that need rows of others: base, index, form, profile."""
        self._stores = stores
        self._pending = pending
        self._restore = restore

    def mend(self, stage: RowStage, key: bytes, stored: bytes) -> None:
        """Do about one damaged row what its table allows.

        Raises:
            HcefsError: the disk failed.
        """
        if stage.keys is not None:
            self._mend_key(stage.keys, key)
        elif stage.table is not None and stage.table not in _KEPT:
            self._mend_row(stage.table, key, stored)

    def _mend_row(self, table: Table, key: bytes, stored: bytes) -> None:
        rows = self._stores.rows
        if table in _BASE_ROWS and len(key) >= BlobBase.SIZE:
            self._base_again(BlobBase(key[: BlobBase.SIZE]))
        elif table in (Table.PENDING, Table.RECORDS):
            rows.put([(table, key, b"")])
        elif table is Table.META:
            rows.put([(table, key, self._marker(key))])
        elif table is Table.PLACED and len(key) > INDEX_AT:
            _put_away(rows, table, key, stored)
            self._place_again(key)
        elif table.name != "STAND_INS":
            _put_away(rows, table, key, stored)

    def _mend_key(self, table: KeyTable, key: bytes) -> None:
        self._stores.keys.delete([(table, key)])
        if table in (KeyTable.KEY_ROWS, KeyTable.PACK_ENVELOPES) and len(key) >= BlobBase.SIZE:
            self._base_again(BlobBase(key[: BlobBase.SIZE]))

    def _base_again(self, base: BlobBase) -> None:
        """Let everything under a base come from the other holders again."""
        with self._pending.locked([bytes(base)]):
            shards = put_rows_away(self._stores.rows, base)
        for index, form, profile in shards:
            self._restore(base, index, form, profile)

    def _place_again(self, key: bytes) -> None:
        base = BlobBase(key[POSITION_SIZE:INDEX_AT])
        index, form = key[INDEX_AT], key[INDEX_AT + 1 :].decode("ascii", "replace")
        try:
            reader = self._stores.shards.open(base, index, form)
            try:
                header = ShardHeader.decode(reader.read_at(0, HEADER_SIZE))
            finally:
                reader.close()
        except HcefsError as error:
            log.error("a damaged row names a shard that cannot be read: %s", error.reason)
            return
        if header.base == base and header.index == index and shard_key(base, index, form) == key:
            self._stores.rows.put([(Table.PLACED, key, header.profile.encode())])

    def _marker(self, key: bytes) -> bytes:
        """The value of a row in META: the latest pending time of a name, or nothing."""
        if not key.startswith(_LATEST):
            return b""
        name, latest = key[len(_LATEST) :], 0
        after: bytes | None = None
        while True:
            page = self._stores.rows.inspect(Table.PENDING, after, PAGE_ROWS)
            for pending, _ in page.rows:
                # A blob's subject is its base, an opening's its whole name.
                if pending[8:].startswith(name):
                    latest = max(latest, int.from_bytes(pending[:8], "big"))
            if page.last is None or page.broken:
                return latest.to_bytes(8, "big")
            after = page.last


def put_rows_away(rows: RowStore, base: BlobBase) -> list[tuple[int, str, str]]:
    """Move every row under a base into SCRUB; its shards: index, form, profile if known.

    Under the base's lock.  Files and keys stay: what comes back finds them.
    """
    away: list[tuple[Table, bytes, bytes]] = []
    shards: list[tuple[int, str, str]] = []
    for table in _BASE_ROWS:
        away += [(table, key, value) for key, value in _under(rows, table, bytes(base))]
    for key, value in _under(rows, Table.PLACED, base_prefix(base)):
        away.append((Table.PLACED, key, value))
        form = key[INDEX_AT + 1 :].decode("ascii", "replace")
        shards.append((key[INDEX_AT], form, _profile(value)))
    if away:
        rows.put([(Table.SCRUB, _aside_key(table, key), value) for table, key, value in away])
        rows.delete([(table, key) for table, key, _ in away])
    return shards


def put_away_count(rows: RowStore) -> int:
    """How many rows are put away, up to a page."""
    page = rows.inspect(Table.SCRUB, _ASIDE[:-1], PAGE_ROWS)
    return sum(key.startswith(_ASIDE) for key, _ in page.rows)


def _profile(value: bytes) -> str:
    """The profile that a row in PLACED names; empty when it is damaged."""
    try:
        return profile_named(value.decode("ascii")).name
    except (HcefsError, UnicodeDecodeError):
        return ""


def _put_away(rows: RowStore, table: Table, key: bytes, stored: bytes) -> None:
    if table is not Table.SCRUB:
        rows.put([(Table.SCRUB, _aside_key(table, key), stored)])
    rows.delete([(table, key)])


def _aside_key(table: Table, key: bytes) -> bytes:
    return _ASIDE + bytes([table]) + key


def _under(rows: RowStore, table: Table, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """Rows with a prefix, damaged ones as they are stored."""
    before = (int.from_bytes(prefix, "big") - 1) % (1 << 8 * len(prefix))
    after = before.to_bytes(len(prefix), "big") + b"\xff" * 64
    found: list[tuple[bytes, bytes]] = []
    last: bytes | None = None if not any(prefix) else after
    while True:
        page = rows.inspect(table, last, PAGE_ROWS)
        inside = [row for row in (*page.rows, *page.damaged) if row[0].startswith(prefix)]
        found += inside
        if page.last is None or page.broken or not page.last.startswith(prefix):
            return found
        last = page.last
