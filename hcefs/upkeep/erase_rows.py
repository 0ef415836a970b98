"""Where the rows, keys and shards of erased records lie on one node, and how they are deleted.

A node keeps no index from a record to its blobs: of most of them it has a shard and no
listing.  So the tables are read whole, once for all records that were erased meanwhile; a
row is decoded only if it holds the id of one of them.

Invariants: keys are looked for through rows, so rows go only when all keys are gone.  A base
of which nothing may stay is marked before its rows go, because without them nothing leads to
its shards; its mark goes last.  Of a pack that other records have a part in, body and layout
stay: what can open the erased payloads, and what says which they were, is deleted.

Everything here is for disk threads, and may be repeated.
Source: docs/decisions/0036-erasure-and-legal-hold.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.erasure.scheme import PROFILES
from hcefs.errors import Corrupt, HcefsError
from hcefs.formats.manifest import Core, KeyRow, Layout, Opening
from hcefs.formats.pack import PackOpening, decode_opening, split_slots
from hcefs.ids import BlobBase, RecordId
from hcefs.store.interface import FORM_FIRST, KeyTable, Stores, Table
from hcefs.stripes.pending import PENDING_OPENING, PendingNames, latest_key
from hcefs.stripes.placed import REPLACED, base_prefix, record_key

PAGE_ROWS = 1000
BASE_ROWS_MAX = 2000
"""More than a pack has in any table."""

MARK = b"erasing/"
_SLOT_SIZE = 2
_ASIDE = b"row/"
_INDEXES = max(profile.n for profile in PROFILES.values())
_FORMS = (FORM_FIRST, *sorted(PROFILES))

log = logging.getLogger(__name__)

Records = Collection[RecordId]
FoundKey = tuple[RecordId, KeyTable, bytes]


@dataclass
class FoundBase:
    """What lies here under one base: of ``records`` in its ``slots``, or all of it."""

    base: BlobBase
    slots: dict[RecordId, list[int]] = field(default_factory=dict)
    single: RecordId | None = None


# --- keys ------------------------------------------------------------------------------------


def found_keys(stores: Stores, records: Records) -> Iterator[list[FoundKey]]:
    """Every key of these records here, a page at a time; pages may be empty."""
    for record in records:
        for table in (KeyTable.BOXES, KeyTable.LINKS):
            after: bytes | None = None
            while page := stores.keys.scan(table, bytes(record), after, PAGE_ROWS):
                yield [(record, table, key) for key, _ in page]
                after = page[-1][0]
    yield from _envelopes(stores, records)
    yield from _own_key_rows(stores, records)
    yield from _packed_key_rows(stores, records)


def _envelopes(stores: Stores, records: Records) -> Iterator[list[FoundKey]]:
    after: bytes | None = None
    while page := stores.keys.scan(KeyTable.PACK_ENVELOPES, after=after, limit=PAGE_ROWS):
        yield [
            (RecordId(key[BlobBase.SIZE :]), KeyTable.PACK_ENVELOPES, key)
            for key, _ in page
            if key[BlobBase.SIZE :] in records
        ]
        after = page[-1][0]


def _own_key_rows(stores: Stores, records: Records) -> Iterator[list[FoundKey]]:
    """Key rows that name their record: those of single blobs."""
    after: bytes | None = None
    while page := stores.keys.scan(KeyTable.KEY_ROWS, after=after, limit=PAGE_ROWS):
        found: list[FoundKey] = []
        for key, value in page:
            record = _named(records, value)
            if record is not None and _decodes(KeyRow, value, record):
                found.append((record, KeyTable.KEY_ROWS, key))
        yield found
        after = page[-1][0]


def _packed_key_rows(stores: Stores, records: Records) -> Iterator[list[FoundKey]]:
    """Wrapped keys, which name nothing: the openings of their packs lead to them."""
    for page in found_bases(stores, records, (Table.OPENINGS, Table.SCRUB)):
        named = [
            (record, bytes(each.base) + slot.to_bytes(_SLOT_SIZE, "big"))
            for each in page
            for record, slots in each.slots.items()
            for slot in slots
        ]
        values = stores.keys.get_many(KeyTable.KEY_ROWS, [key for _, key in named])
        yield [
            (record, KeyTable.KEY_ROWS, key)
            for (record, key), value in zip(named, values, strict=True)
            if value is not None
        ]


# --- rows and shards -------------------------------------------------------------------------


def found_bases(
    stores: Stores,
    records: Records,
    tables: Collection[Table] = (
        Table.OPENINGS,
        Table.CORES,
        Table.LAYOUTS,
        Table.STAGED,
        Table.SCRUB,
    ),
) -> Iterator[list[FoundBase]]:
    """Every base that something of these records lies under, a page at a time.

    Openings come first, because they alone tell what of a pack is whose.  Rows that the scrub
    put away count as if they were in their tables.
    """
    for table in tables:
        after: bytes | None = None
        prefix = _ASIDE if table is Table.SCRUB else b""
        while True:
            page = stores.rows.inspect(table, after, PAGE_ROWS)
            found: dict[BlobBase, FoundBase] = {}
            for key, value in page.rows:
                if prefix and not key.startswith(prefix):
                    continue
                record = _named(records, value)
                if record is not None:
                    place = key[len(prefix) + 1 :] if prefix else key
                    _enter(found, place, value, record)
            if page.broken or any(_named(records, stored) for _, stored in page.damaged):
                # What cannot be read cannot be called gone: the scrub has to mend it first.
                raise Corrupt(
                    "rows that may be of an erased record are damaged: scrub this disk",
                    reason="bad-row",
                )
            yield list(found.values())
            if page.last is None:
                break
            after = page.last


def _enter(found: dict[BlobBase, FoundBase], key: bytes, value: bytes, record: RecordId) -> None:
    """Note what a row says about its base, if it is of that record and not only like it."""
    if len(key) < BlobBase.SIZE:
        return
    each = found.setdefault(
        BlobBase(key[: BlobBase.SIZE]), FoundBase(BlobBase(key[: BlobBase.SIZE]))
    )
    slots = each.slots.setdefault(record, [])
    try:
        opening = decode_opening(value)
    except HcefsError:
        opening = None
    if isinstance(opening, PackOpening) and opening.record == record:
        slots += split_slots(opening.slots)
    elif (isinstance(opening, Opening) and opening.record == record) or _decodes(
        Layout, value, record
    ):
        each.single = record
    elif (core := _core(value)) is not None and core.record == record:
        if core.blob.slot:
            slots.append(core.blob.slot)
        else:
            each.single = record
    if not slots:
        del each.slots[record]
    if not each.slots and each.single is None:
        del found[each.base]


class BaseEraser:
    """Deletes what lies under bases, on one node."""

    def __init__(self, stores: Stores, pending: PendingNames, forget: Callable[..., None]) -> None:
        """``forget`` is told of the bases of packs whose rows changed."""
        self._stores = stores
        self._pending = pending
        self._forget = forget

    def erase(self, found: Collection[FoundBase]) -> tuple[int, int]:
        """Delete what was found; how many openings and shards that were."""
        if not found:
            return 0, 0
        rows = self._stores.rows
        with self._pending.locked(bytes(each.base) for each in found):
            gone: list[tuple[Table, bytes]] = []
            openings = 0
            for each in found:
                if each.single is None and self._is_shared(each):
                    gone += self._part(each)
                    openings += len(each.slots)
                    continue
                rows.put([(Table.META, MARK + bytes(each.base), b"")])
                under = self._under(each.base)
                openings += sum(table is Table.OPENINGS for table, _ in under)
                gone += under
            crash_point(CrashPoint.ERASURE_MARKED)
            if gone:
                rows.delete(gone)
            self._forget(*(each.base for each in found))
            crash_point(CrashPoint.ERASURE_ROWS)
        return openings, self.finish(page_of_marks(self._stores))

    def finish(self, bases: Collection[BlobBase]) -> int:
        """Delete everything that is left under marked bases; how many shards that were."""
        if not bases:
            return 0
        shards = 0
        with self._pending.locked(bytes(base) for base in bases):
            under = [row for base in bases for row in self._under(base)]
            if under:
                # A stop after the mark, or a row that was lost and found.
                self._stores.rows.delete(under)
            for base in bases:
                for index in range(_INDEXES):
                    for form in _FORMS:
                        if self._stores.shards.has(base, index, form):
                            shards += self._stores.shards.remove(base, index, form)
            wanted = set(bases)
            for aside in list(self._stores.shards.quarantined()):
                if aside.base in wanted:
                    shards += self._stores.shards.discard(aside.name)
            crash_point(CrashPoint.ERASURE_SHARDS)
            names = [row for base in bases for row in self._names(base)]
            if names:
                self._stores.rows.delete(names)
            crash_point(CrashPoint.ERASURE_NAMES)
            self._stores.rows.delete([(Table.META, MARK + bytes(base)) for base in bases])
            crash_point(CrashPoint.ERASURE_UNMARKED)
        return shards

    def _is_shared(self, found: FoundBase) -> bool:
        """Whether another record has a part in a pack, by the openings here."""
        base = bytes(found.base)
        aside = _ASIDE + bytes([Table.OPENINGS]) + base
        keys = [key for key, _ in self._stores.rows.scan(Table.OPENINGS, base, limit=BASE_ROWS_MAX)]
        put_away = self._stores.rows.scan(Table.SCRUB, aside, limit=BASE_ROWS_MAX)
        keys += [key[len(_ASIDE) + 1 :] for key, _ in put_away]
        mine = {bytes(record) for record in found.slots}
        return any(key[BlobBase.SIZE :] not in mine for key in keys)

    def _part(self, found: FoundBase) -> list[tuple[Table, bytes]]:
        """The rows of some records in a pack."""
        base = bytes(found.base)
        gone: list[tuple[Table, bytes]] = []
        for record, slots in found.slots.items():
            places = [(Table.OPENINGS, base + bytes(record))]
            places += [(Table.CORES, base + slot.to_bytes(_SLOT_SIZE, "big")) for slot in slots]
            gone += places
            gone += [(Table.SCRUB, _ASIDE + bytes([table]) + key) for table, key in places]
        return gone

    def _under(self, base: BlobBase) -> list[tuple[Table, bytes]]:
        """Cores, layouts and openings of a base, staged and put away ones too."""
        found: list[tuple[Table, bytes]] = []
        for table in (Table.CORES, Table.LAYOUTS, Table.OPENINGS, Table.STAGED):
            page = self._stores.rows.scan(table, bytes(base), limit=BASE_ROWS_MAX)
            found += [(table, key) for key, _ in page]
            aside = _ASIDE + bytes([table]) + bytes(base)
            page = self._stores.rows.scan(Table.SCRUB, aside, limit=BASE_ROWS_MAX)
            found += [(Table.SCRUB, key) for key, _ in page]
        return found

    def _names(self, base: BlobBase) -> list[tuple[Table, bytes]]:
        """What names the shards of a base: last of all, so that they are not lost sight of."""
        found = [(Table.META, REPLACED + bytes(base))]
        for table in (Table.PLACED, Table.STAND_INS, Table.DAMAGED):
            page = self._stores.rows.scan(table, base_prefix(base), limit=BASE_ROWS_MAX)
            found += [(table, key) for key, _ in page]
        aside = _ASIDE + bytes([Table.PLACED]) + base_prefix(base)
        page = self._stores.rows.scan(Table.SCRUB, aside, limit=BASE_ROWS_MAX)
        return found + [(Table.SCRUB, key) for key, _ in page]


def page_of_marks(stores: Stores) -> list[BlobBase]:
    """Bases of which an erasure was stopped between rows and shards."""
    page = stores.rows.scan(Table.META, MARK, limit=PAGE_ROWS)
    return [BlobBase(key[len(MARK) :]) for key, _ in page]


# --- listings --------------------------------------------------------------------------------


def erase_listing(stores: Stores, pending: PendingNames, record: RecordId) -> Iterator[int]:
    """Delete the listing of a record and what names it, a page at a time; how many openings."""
    while page := stores.rows.scan(Table.INDEX, bytes(record), limit=PAGE_ROWS):
        with pending.locked(key for key, _ in page):
            stores.rows.delete([(Table.INDEX, key) for key, _ in page])
        crash_point(CrashPoint.ERASURE_INDEX)
        yield len(page)
    after: bytes | None = None
    while page := stores.rows.scan(Table.PENDING, after=after, limit=PAGE_ROWS):
        mine = [key for key, _ in page if key[8:].startswith(PENDING_OPENING + bytes(record))]
        if mine:
            stores.rows.delete(
                [(Table.PENDING, key) for key in mine]
                + [(Table.META, latest_key(PENDING_OPENING, key[9:])) for key in mine]
            )
        yield 0
        after = page[-1][0]
    name = record_key(record)
    aside = _ASIDE + bytes([Table.INDEX]) + bytes(record)
    put_away = stores.rows.scan(Table.SCRUB, aside, limit=PAGE_ROWS)
    gone = [(Table.RECORDS, name), (Table.STAND_INS, name)]
    stores.rows.delete(gone + [(Table.SCRUB, key) for key, _ in put_away])


def listed(stores: Stores, records: Records) -> int:
    """How many openings are still in the listings of some records, up to a page each."""
    return sum(
        len(stores.rows.scan(Table.INDEX, bytes(record), limit=PAGE_ROWS)) for record in records
    )


def _named(records: Records, value: bytes) -> RecordId | None:
    """The record whose id a row holds: enough to look closer."""
    return next((record for record in records if bytes(record) in value), None)


def _decodes(cls: type[KeyRow | Layout], value: bytes, record: RecordId) -> bool:
    try:
        return cls.decode(value).record == record
    except HcefsError:
        return False


def _core(value: bytes) -> Core | None:
    try:
        return Core.decode(value)
    except HcefsError:
        return None
