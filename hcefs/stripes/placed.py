"""What lies where on the ring: the shards and records of one node, by partition.

Ids are random, so the rows of a partition are scattered over every other table.  Two
tables of names keep them together: the key begins with the position on the ring
(:func:`hcefs.placement.ring.position_of`), so that a partition is one range, of
whatever table and after any split.

Invariant: a shard is named here in the same write as its rows, a record before or with
its first row, so that whoever lists a partition misses nothing that readers see.  A name
may outlive what it names for a moment; whoever follows one looks.

Of one base a node may have shards under several profiles, of the same index even: while
it is re-profiled, and until the old ones are deleted.  What a shard holds follows from
base, index and profile alone, so that is how others ask for it; the *form* tells this
node's files and names apart.  It is empty as first written, else the profile's name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Conflict, HcefsError, Invalid
from hcefs.formats.manifest import Layout
from hcefs.formats.pack import PackLayout
from hcefs.ids import BlobBase, RecordId
from hcefs.placement.ring import position_of
from hcefs.store.interface import FORM_FIRST, KeyTable, RowStore, Stores, Table

POSITION_SIZE = 8
INDEX_AT = POSITION_SIZE + BlobBase.SIZE
FIRST_VERSION = 1
"""The version of the layout that the writer's node signed."""

PAGE_ROWS = 1000
RING = range(1 << 64)
"""All positions."""

REPLACED = b"replaced/"
_MADE = b"placed/1"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlacedShard:
    """A shard of this node, of a blob or of a pack."""

    base: BlobBase
    index: int
    profile: str
    form: str = FORM_FIRST


def form_of(layout: Layout | PackLayout) -> str:
    """The form of the shards that a layout is of."""
    return form_of_version(layout.version, layout.profile)


def form_of_version(version: int, profile: str) -> str:
    """The same of a layout's version and profile."""
    return FORM_FIRST if version <= FIRST_VERSION else profile


def shard_row(
    base: BlobBase, index: int, profile: str, form: str = FORM_FIRST
) -> tuple[Table, bytes, bytes]:
    """The row that names a shard."""
    return Table.PLACED, shard_key(base, index, form), profile.encode()


def shard_key(base: BlobBase, index: int, form: str = FORM_FIRST) -> bytes:
    """The key of that row: position, base, index, form."""
    return _position(base) + bytes(base) + bytes([index]) + form.encode()


def base_prefix(base: BlobBase) -> bytes:
    """What the keys of all shards of a base begin with."""
    return _position(base) + bytes(base)


def placed_shard(key: bytes, value: bytes) -> PlacedShard:
    """The shard that a row names."""
    base = BlobBase(key[POSITION_SIZE:INDEX_AT])
    return PlacedShard(base, key[INDEX_AT], value.decode(), key[INDEX_AT + 1 :].decode())


def shards_of(rows: RowStore, base: BlobBase) -> list[PlacedShard]:
    """All shards of a base on this node."""
    page = rows.scan(Table.PLACED, base_prefix(base), limit=PAGE_ROWS)
    return [placed_shard(key, value) for key, value in page]


def form_here(rows: RowStore, base: BlobBase, index: int, profile: str = "") -> str | None:
    """The form of a shard of a profile (of any, when empty); None when it is not here."""
    first = rows.get(Table.PLACED, shard_key(base, index))
    if first is not None and profile in ("", first.decode()):
        return FORM_FIRST
    if profile and rows.get(Table.PLACED, shard_key(base, index, profile)) is not None:
        return profile
    if profile:
        return None
    return next((each.form for each in shards_of(rows, base) if each.index == index), None)


def decoded_layout(data: bytes) -> Layout | PackLayout:
    """A layout of either kind.

    Raises:
        Invalid: malformed.
    """
    try:
        return Layout.decode(data)
    except Invalid:
        return PackLayout.decode(data)


def same_shards(one: Layout | PackLayout, other: Layout | PackLayout) -> bool:
    """Whether two layouts differ at most in who signed them, and when."""
    return (one.profile, one.version, one.shard_digests) == (
        other.profile,
        other.version,
        other.shard_digests,
    )


def staged_key(base: BlobBase, profile: str) -> bytes:
    """The key of the row that holds the next layout of a base: base, profile.

    Its value is empty while the shards are being made.
    """
    return bytes(base) + profile.encode()


def layout_under(rows: RowStore, base: BlobBase, profile: str) -> bytes | None:
    """The layout of a base: in force, or about to be where a shard of that profile is placed."""
    known = rows.get(Table.LAYOUTS, bytes(base))
    if known is not None and decoded_layout(known).profile == profile:
        return known
    staged = rows.get(Table.STAGED, staged_key(base, profile))
    if staged and any(shard.form == profile for shard in shards_of(rows, base)):
        return staged
    return known


def replaced_rows(
    base: BlobBase, known: bytes, layout: Layout | PackLayout
) -> list[tuple[Table, bytes, bytes]]:
    """What is written with a layout that takes the place of another: itself, and a mark.

    Nothing where the known one is of the same shards: two movers may have signed it.

    Raises:
        Conflict: ``superseded``: the known one is later; ``row-exists``: neither is.
    """
    old = decoded_layout(known)
    if same_shards(old, layout):
        return []
    if old.version > layout.version:
        raise Conflict("a later layout of this base is in force", reason="superseded")
    if old.version == layout.version:
        raise Conflict("other rows are here under this base", reason="row-exists")
    return [
        (Table.LAYOUTS, bytes(base), layout.encode()),
        (Table.META, REPLACED + bytes(base), b""),
    ]


def replaced_in(rows: RowStore, after: bytes | None = None) -> list[BlobBase]:
    """Bases of which this node may have shards of layouts that are not in force any more."""
    key = REPLACED + after if after is not None else None
    page = rows.scan(Table.META, REPLACED, key, PAGE_ROWS)
    return [BlobBase(key[len(REPLACED) :]) for key, _ in page]


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
    page = _page(rows, Table.PLACED, positions, after)
    return [(key, placed_shard(key, value)) for key, value in page]


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
        after = (positions.start - 1).to_bytes(POSITION_SIZE, "big") + b"\xff" * 64
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
        crash_point(CrashPoint.MIGRATE_PAGE)
        named += len(page)
    stores.rows.put([(Table.META, _MADE, b"")])
    crash_point(CrashPoint.MIGRATE_MARK)
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
    return decoded_layout(layout).profile


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
