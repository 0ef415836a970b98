"""What this node keeps in the place of seats that were away: durable marks, by partition.

A mark is written before what it marks, or with it, and removed after it, so whoever goes
through the marks misses nothing that is not at home here.  It may outlive what it marks, or
its reason: this node may have got the seat.  Whoever follows one looks.

A key begins with the position on the ring, so that a partition is one range.  That of a
shard is its key in PLACED; that of a record is its key in RECORDS, which is shorter.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.formats.stand_in import StandInMark
from hcefs.ids import BlobBase, RecordId
from hcefs.store.interface import FORM_FIRST, RowStore, Table
from hcefs.stripes.placed import (
    INDEX_AT,
    PAGE_ROWS,
    POSITION_SIZE,
    record_key,
    shard_key,
)


@dataclass(frozen=True, slots=True)
class Marked:
    """A shard (``index`` is not None) or the rows of a record that are not at home here."""

    key: bytes
    name: bytes
    index: int | None = None
    form: str = FORM_FIRST

    @property
    def base(self) -> BlobBase:
        """The base of a shard."""
        return BlobBase(self.name)

    @property
    def record(self) -> RecordId:
        """The record."""
        return RecordId(self.name)


def shard_mark(base: BlobBase, index: int, epoch: int, now_ms: int) -> tuple[Table, bytes, bytes]:
    """The row that marks a shard, as first written."""
    return Table.STAND_INS, shard_key(base, index), StandInMark(epoch, now_ms).encode()


def record_mark(record: RecordId, epoch: int, now_ms: int) -> tuple[Table, bytes, bytes]:
    """The row that marks a record of which rows are kept here."""
    return Table.STAND_INS, record_key(record), StandInMark(epoch, now_ms).encode()


def marked_of(key: bytes) -> Marked:
    """What a key of the table marks."""
    name = key[POSITION_SIZE:INDEX_AT]
    if len(key) <= INDEX_AT:
        return Marked(key, name)
    return Marked(key, name, key[INDEX_AT], key[INDEX_AT + 1 :].decode())


def marked_in(rows: RowStore, after: bytes | None = None) -> list[Marked]:
    """A page of marks, in key order; empty at the end.

    Raises:
        Corrupt: a row is damaged.
    """
    return [marked_of(key) for key, _ in rows.scan(Table.STAND_INS, after=after, limit=PAGE_ROWS)]
