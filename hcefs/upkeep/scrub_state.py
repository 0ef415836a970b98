"""What the scrub knows across restarts: its cursor, when what was verified, what is set aside.

Owns the table SCRUB.  A *sector* is the shards whose base begins with one byte: as bases
are random, each is 1/256 of a node, so 256 times say of every shard when it was last read
to within a 256th of a cycle, whatever the number of shards.

Invariants: the cursor is written after what it has passed was verified, so a stop repeats
work and skips none; a note is written before its shard is set aside, so that nothing lies
in quarantine unexplained; a damaged row here costs a cycle that starts anew, never the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.encoding import Encoded
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.ids import BlobBase
from hcefs.store.interface import RowStore, SetAside, Table
from hcefs.stripes.placed import shard_key

SECTORS = 256
TIME_SIZE = 8
PAGE_ROWS = 1000
TEXT_MAX = 64

_CURSOR = b"cursor"
_ORPHAN = b"orphan/"
_ASIDE = b"aside/"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScrubCursor(Encoded):
    """Where the scrub of a node is, and when each of its sectors was last verified whole."""

    KIND: ClassVar[str] = "scrub-cursor"
    MAX_BYTES: ClassVar[int] = 4096

    cycle: int
    started_ms: int
    stage: int
    after: bytes
    piece: int
    shards: int
    read_bytes: int
    rows: int
    damaged: int
    verified_ms: bytes

    def verified(self, sector: int) -> int:
        """When a sector was last verified whole; 0 for never."""
        at = sector * TIME_SIZE
        return int.from_bytes(self.verified_ms[at : at + TIME_SIZE], "big")

    def with_verified(self, sector: int, now_ms: int) -> ScrubCursor:
        """The same with a sector verified now."""
        at = sector * TIME_SIZE
        changed = bytearray(self.verified_ms)
        changed[at : at + TIME_SIZE] = now_ms.to_bytes(TIME_SIZE, "big")
        return replace(self, verified_ms=bytes(changed))


@dataclass(frozen=True)
class AsideNote(Encoded):
    """Why something was set aside, and when; of an orphan, since when it is one."""

    KIND: ClassVar[str] = "aside-note"
    MAX_BYTES: ClassVar[int] = 1024

    base: BlobBase
    index: int
    form: str
    profile: str
    reason: str
    at_ms: int


@dataclass(frozen=True)
class Quarantined:
    """A shard in quarantine with what is known of it."""

    shard: SetAside
    note: AsideNote


def first_cursor(now_ms: int) -> ScrubCursor:
    """Before the first cycle of a node."""
    return ScrubCursor(1, now_ms, 0, b"", 0, 0, 0, 0, 0, bytes(SECTORS * TIME_SIZE))


class ScrubLog:
    """The table SCRUB of one node.  For disk threads."""

    def __init__(self, rows: RowStore, now_ms: Callable[[], int]) -> None:
        self._rows = rows
        self._now_ms = now_ms

    # -- the cursor

    def load(self) -> ScrubCursor:
        """Where the scrub stopped; a new first cycle when that is not known."""
        try:
            data = self._rows.get(Table.SCRUB, _CURSOR)
            if data is not None:
                cursor = ScrubCursor.decode(data)
                if len(cursor.verified_ms) == SECTORS * TIME_SIZE:
                    return cursor
                log.error("the cursor of the scrub is of another shape: beginning anew")
        except (Corrupt, Invalid) as error:
            log.error("the cursor of the scrub cannot be read: beginning anew (%s)", error.reason)
        return first_cursor(self._now_ms())

    def save(self, cursor: ScrubCursor) -> None:
        """Keep a cursor, durably."""
        self._rows.put([(Table.SCRUB, _CURSOR, cursor.encode())])
        crash_point(CrashPoint.SCRUB_CURSOR)

    # -- orphans

    def orphan_since(self, base: BlobBase, index: int, form: str) -> int:
        """Since when a file without rows was seen as one; from now on, if it was not."""
        key = _ORPHAN + _shard_key(base, index, form)
        known = self._note(key)
        if known is not None:
            return known.at_ms
        note = AsideNote(base, index, form, "", "orphan", self._now_ms())
        self._rows.put([(Table.SCRUB, key, note.encode())])
        return note.at_ms

    def no_orphan(self, base: BlobBase, index: int, form: str) -> None:
        """A file has its rows, or is gone."""
        key = _ORPHAN + _shard_key(base, index, form)
        if self._rows.get(Table.SCRUB, key) is not None:
            self._rows.delete([(Table.SCRUB, key)])

    def orphans(self) -> list[AsideNote]:
        """Files without rows, up to a page."""
        page = self._rows.scan(Table.SCRUB, _ORPHAN, limit=PAGE_ROWS)
        return [note for _, data in page if (note := _decoded(data)) is not None]

    # -- quarantine

    def set_aside(self, note: AsideNote) -> None:
        """Note that a shard is about to be set aside."""
        key = _ASIDE + _shard_key(note.base, note.index, note.form)
        self._rows.put([(Table.SCRUB, key, note.encode())])

    def note_of(self, shard: SetAside) -> AsideNote:
        """What is known of a shard in quarantine; what came there without a note is noted now."""
        key = _ASIDE + _shard_key(shard.base, shard.index, shard.form)
        known = self._note(key)
        if known is not None:
            return known
        profile = shard.form or self._placed(shard)
        note = AsideNote(shard.base, shard.index, shard.form, profile, "damaged", self._now_ms())
        self._rows.put([(Table.SCRUB, key, note.encode())])
        return note

    def _placed(self, shard: SetAside) -> str:
        """The profile by which rows lead to a shard's place; empty when none do."""
        try:
            row = self._rows.get(Table.PLACED, shard_key(shard.base, shard.index, shard.form))
            return "" if row is None else profile_named(row.decode("ascii")).name
        except (HcefsError, UnicodeDecodeError):
            return ""

    def forget(self, shard: SetAside) -> None:
        """The last of a shard's files has left the quarantine."""
        self._rows.delete([(Table.SCRUB, _ASIDE + _shard_key(shard.base, shard.index, shard.form))])

    def quarantined(self, shards: Iterator[SetAside]) -> Iterator[Quarantined]:
        """Every shard in quarantine with its note."""
        for shard in shards:
            yield Quarantined(shard, self.note_of(shard))

    def _note(self, key: bytes) -> AsideNote | None:
        try:
            data = self._rows.get(Table.SCRUB, key)
        except Corrupt:
            return None
        return None if data is None else _decoded(data)


def _decoded(data: bytes) -> AsideNote | None:
    try:
        return AsideNote.decode(data)
    except Invalid as error:
        log.error("a note of the scrub cannot be read: %s", error.reason)
        return None


def _shard_key(base: BlobBase, index: int, form: str) -> bytes:
    return bytes(base) + bytes([index]) + form.encode()
