"""What lies where on the ring: the shards and records of one node, by partition.

Ids are random, so the rows of a partition are scattered over every other table.  Two
tables of names keep them together: the key begins with the position on the ring
(:func:`hcefs.placement.ring.position_of`), so that a partition is one range, of
whatever table and after any split.

Invariant: a shard is named here in the same write as its rows, a record before or with
its first row, so that whoever lists a partition misses nothing that readers see.  A name
may outlive what it names for a moment; whoever follows one looks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hcefs.errors import HcefsError, Invalid
from hcefs.formats.manifest import Layout
from hcefs.formats.pack import PackLayout
from hcefs.ids import BlobBase, RecordId
from hcefs.placement.ring import position_of
from hcefs.store.interface import KeyTable, RowStore, Stores, Table

POSITION_SIZE = 8
PAGE_ROWS = 1000
RING = range(1 << 64)
"""All positions."""

_MADE = b"placed/1"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlacedShard:
    """A shard of this node, of a blob or of a pack."""

    base: BlobBase
    index: int
    profile: str


def shard_row(base: BlobBase, index: int, profile: str) -> tuple[Table, bytes, bytes]:
    """The row that names a shard."""
    return Table.PLACED, shard_key(base, index), profile.encode()


def shard_key(base: BlobBase, index: int) -> bytes:
    """The key of that row: position, base, index."""
    return _position(base) + bytes(base) + bytes([index])


def record_row(record: RecordId) -> tuple[Table, bytes, bytes]:
    """The row that names a record of which rows are kept here."""
    return Table.RECORDS, record_key(record), b""


def record_key(record: RecordId) -> bytes:
    """The key of that row: position, record."""
    return _position(record) + bytes(record)


def _position(name: bytes) -> bytes:
    return position_of(bytes(name)).to_bytes(POSITION_SIZE, "big")


def shards_in(
    rows: RowStore, positions: range, after: bytes | None = None
) -> list[tuple[bytes, PlacedShard]]:
    """Up to ``PAGE_ROWS`` shards in a range of positions, each with its key, in key order.

    ``after`` is the last key of the page before.  An empty page is the end.

    Raises:
        Corrupt: a row is damaged.
    """
    found = []
    for key, value in _page(rows, Table.PLACED, positions, after):
        base = BlobBase(key[POSITION_SIZE:-1])
        found.append((key, PlacedShard(base, key[-1], value.decode())))
    return found


def records_in(
    rows: RowStore, positions: range, after: bytes | None = None
) -> list[tuple[bytes, RecordId]]:
    """As :func:`shards_in`, records."""
    page = _page(rows, Table.RECORDS, positions, after)
    return [(key, RecordId(key[POSITION_SIZE:])) for key, _ in page]


def _page(
    rows: RowStore, table: Table, positions: range, after: bytes | None
) -> list[tuple[bytes, bytes]]:
    if after is None and positions.start:
        # Longer than any key of the position before, so nothing of it follows.
        after = (positions.start - 1).to_bytes(POSITION_SIZE, "big") + b"\xff" * 32
    page = rows.scan(table, after=after, limit=PAGE_ROWS)
    return [
        (key, value)
        for key, value in page
        if int.from_bytes(key[:POSITION_SIZE], "big") < positions.stop
    ]


# --- stores from before these tables ------------------------------------------------------


def ensure_placed(stores: Stores) -> int:
    """Name everything that a store from before these tables holds; how much that is.

    Once for each store; an interrupted call is repeated by the next one.

    Raises:
        HcefsError: the disk failed.
    """
    if stores.rows.get(Table.META, _MADE) is not None:
        return 0
    named = 0
    for page in _pages(_names(stores)):
        stores.rows.put(page)
        named += len(page)
    stores.rows.put([(Table.META, _MADE, b"")])
    if named:
        log.info("named %d shards and records by their place on the ring", named)
    return named


def _names(stores: Stores) -> Iterator[tuple[Table, bytes, bytes]]:
    for base, index in stores.shards.inventory():
        try:
            layout = stores.rows.get(Table.LAYOUTS, bytes(base))
            if layout is not None:
                yield shard_row(base, index, _profile(layout))
        except HcefsError as error:
            # For scrub to find; it must not keep a node from starting.
            log.error("shard %s index %d has no readable layout: %s", base, index, error.reason)
    last = b""
    for key in _record_keys(stores):
        record = key[: RecordId.SIZE]
        if record != last:
            last = record
            yield record_row(RecordId(record))


def _record_keys(stores: Stores) -> Iterator[bytes]:
    after: bytes | None = None
    while page := stores.rows.scan(Table.INDEX, after=after, limit=PAGE_ROWS):
        yield from (key for key, _ in page)
        after = page[-1][0]
    for table in (KeyTable.BOXES, KeyTable.LINKS):
        after = None
        while page := stores.keys.scan(table, after=after, limit=PAGE_ROWS):
            yield from (key for key, _ in page)
            after = page[-1][0]


def _profile(layout: bytes) -> str:
    """The profile that a layout of either kind names."""
    try:
        return Layout.decode(layout).profile
    except Invalid:
        return PackLayout.decode(layout).profile


def _pages(
    rows: Iterable[tuple[Table, bytes, bytes]],
) -> Iterator[list[tuple[Table, bytes, bytes]]]:
    page: list[tuple[Table, bytes, bytes]] = []
    for row in rows:
        page.append(row)
        if len(page) == PAGE_ROWS:
            yield page
            page = []
    if page:
        yield page
