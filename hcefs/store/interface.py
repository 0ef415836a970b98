"""What a node's disk promises to the layers above: shards, rows and keys.

Owns the protocols :class:`ShardStore`, :class:`RowStore` and :class:`KeyStore`;
their comments *are* the contract, and ``tests/contract`` holds every
implementation to it (files and RocksDB for a node, memory for tests and the
simulator).  All of it is synchronous and thread-safe: it is called through
``Runtime.disk``.

Invariants of every implementation:

* What a method acknowledged by returning survives the loss of the process and
  of power: files, folders and logs have been synchronised by then.
* A shard appears whole or not at all, and is never overwritten.
* Nothing here interprets what it keeps: shards, rows and keys are bytes.
* Rows carry a checksum over table, key and value; a row that does not match is
  ``Corrupt``, never returned.

Faults are the same everywhere: ``Exhausted(disk-full)`` when the disk is full,
``Unavailable(disk-error)`` when it fails, ``Unavailable(store-closed)`` after
``close``.  An operation that raised one of them may be repeated.

Not guaranteed: digests of shard contents (``formats.shard`` and scrub check
them), secrecy (only ciphertext and sealed keys come here), secrecy of *keys of
rows*: those may stand in RocksDB's own manifest and log, so they must be public.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hcefs.errors import Invalid
from hcefs.ids import BlobBase
from hcefs.integrity import Buffer

SHARD_INDEX_MAX = 255
"""The erasure code works in GF(2^8), so that an index fits one byte."""

FORM_FIRST = ""
"""The form of a shard as its writer's layout cut it."""

FORM_PATTERN = r"[a-z][a-z0-9-]{0,15}"
"""What other forms are called: the profile under which they were cut anew."""

_FORM = re.compile(FORM_PATTERN)

KEY_BYTES_MAX = 512
VALUE_BYTES_MAX = 4 << 20
SCAN_ROWS_MAX = 10_000


class Table(enum.IntEnum):
    """Tables of the row store.  The numbers are on disk: never reuse one."""

    CORES = 1
    LAYOUTS = 2
    OPENINGS = 3
    PENDING = 4
    INDEX = 5
    META = 6
    RECEIPTS = 7
    PLACED = 8
    RECORDS = 9
    STAGED = 10
    DAMAGED = 11
    STAND_INS = 12
    SCRUB = 13


class KeyTable(enum.IntEnum):
    """Tables of the key store.  The numbers are on disk: never reuse one."""

    KEY_ROWS = 1
    BOXES = 2
    LINKS = 3
    PACK_ENVELOPES = 4


@dataclass(frozen=True)
class SetAside:
    """A shard in quarantine; ``name`` tells it from others of the same shard."""

    name: str
    base: BlobBase
    index: int
    form: str
    size: int


@dataclass(frozen=True)
class RowPage:
    """Rows as they lie on the disk, the damaged ones apart.

    ``damaged`` are rows whose checksum does not match: key and stored bytes.  ``last`` is the last
    key that was seen, None at the end of the table.  ``broken`` says that the database
    could not read on from there: more than single rows is damaged.
    """

    rows: tuple[tuple[bytes, bytes], ...]
    damaged: tuple[tuple[bytes, bytes], ...]
    last: bytes | None
    broken: bool = False


@dataclass(frozen=True)
class Usage:
    """How full a shard store is.

    ``shards`` and ``shard_bytes`` count finished shards, without quarantine and
    unfinished ones; ``free_bytes`` and ``total_bytes`` are those of the disk,
    the reserve included.
    """

    shards: int
    shard_bytes: int
    free_bytes: int
    total_bytes: int


class ShardWriter(Protocol):
    """One shard being written; used by one thread at a time.

    Whoever began it ends it with ``finish`` or ``abort``.  Any error aborts it.
    After its end ``write`` and ``finish`` raise ``Invalid(writer-closed)``.
    """

    def write(self, data: Buffer) -> None:
        """Append ``data``; the caller may reuse the buffer on return.

        Raises:
            Exhausted: the disk is full, or full up to the reserve.
            Unavailable: the disk failed.
            Invalid: the buffer is not contiguous, or the writer has ended.
        """

    def finish(self, footer: Buffer) -> None:
        """Append the footer and make the shard durable, then visible.

        Raises:
            Conflict: reason ``shard-exists``, another writer was first; its
                shard is durable and stays as it is.
            Exhausted, Unavailable: as in ``write``; nothing is visible.
        """

    def abort(self) -> None:
        """Drop what was written; does nothing after the end.  Never raises."""


class ShardReader(Protocol):
    """An open shard.  Reads may run in parallel; ``close`` must come after them.

    It stays readable when the shard is removed or quarantined meanwhile.
    """

    @property
    def size(self) -> int:
        """Bytes of the whole shard, header and footer included."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``.

        Raises:
            Corrupt: reason ``truncated``, the shard ends before.
            Unavailable: the disk failed.
            Invalid: negative numbers, or the reader is closed.
        """

    def read_into(self, offset: int, out: bytearray | memoryview) -> None:
        """Fill ``out`` from ``offset``; raises as ``read_at``."""

    def close(self) -> None:
        """Release the file; may be repeated."""


class ShardStore(Protocol):
    """Shards by (blob base, index, form)."""

    shard_version: Callable[[], int]
    """The version of the file format in which a new shard is to be written; 1 until the node
    has set another.  Whoever writes asks; the store itself does not look into a shard."""

    def begin(
        self,
        base: BlobBase,
        index: int,
        expected_size: int | None = None,
        form: str = FORM_FIRST,
    ) -> ShardWriter:
        """Start a shard; several may be begun for one name, one can finish.

        ``expected_size`` (bytes of the whole shard, footer included) reserves
        the space at once, so that a full disk is known before any byte is sent.
        It is a hint: more or fewer bytes may follow.

        Raises:
            Conflict: reason ``shard-exists``; the existing shard is durable, so
                the caller may count it.
            Exhausted: reason ``disk-full``, also when the shard would eat into
                the reserve that is kept for rows, receipts and deletion.
            Invalid: index or size out of range, or no form.
        """

    def open(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> ShardReader:
        """Open a finished shard.

        Raises:
            NotFound: reason ``no-such-shard``.
        """

    def has(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> bool:
        """Whether the shard is there to be read (says nothing of its health)."""

    def remove(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> bool:
        """Delete a shard durably; False when there is none."""

    def quarantine(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> str:
        """Set a damaged shard aside, so that it can be rebuilt; never deletes.

        The answer is its name in quarantine.

        Raises:
            NotFound: reason ``no-such-shard``.
        """

    def quarantined(self) -> Iterator[SetAside]:
        """Every shard that was set aside, in the order of their names."""

    def discard(self, name: str) -> bool:
        """Delete a shard in quarantine, durably; False when there is none of that name."""

    def page(
        self, first: int, after: tuple[BlobBase, int, str] | None, limit: int
    ) -> list[tuple[BlobBase, int, str]]:
        """Finished shards of all forms whose base begins with the byte ``first``.

        Ascending, beginning behind ``after``; fewer than ``limit`` are the last.  Memory is
        bounded by ``limit``, not by how many there are.
        """

    def inventory(self) -> Iterator[tuple[BlobBase, int]]:
        """Every finished shard of the first form in ascending order, lazily.

        Shards that come or go meanwhile may or may not be in it.
        """

    def reformed(self) -> Iterator[tuple[BlobBase, int, str]]:
        """As :meth:`inventory`, the shards of all other forms."""

    def usage(self) -> Usage:
        """Counts and space, now."""

    def close(self) -> None:
        """Abort unfinished shards and release the folder; may be repeated."""


class RowStore(Protocol):
    """Rows by (table, key); keys sort as bytes.

    The reserve does not bind here: rows, receipts and deletion must go on when
    no shard is accepted any more.
    """

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value, or None.

        Raises:
            Corrupt: reason ``bad-row``.
        """

    def get_many(self, table: Table, keys: Sequence[bytes]) -> list[bytes | None]:
        """As many :meth:`get`, in order; far cheaper than calls for each.

        Raises:
            Corrupt: any of them is damaged.
        """

    def put(self, rows: Sequence[tuple[Table, bytes, bytes]]) -> None:
        """Write all rows or none, durably; replaces values that were there.

        Of two rows with one key the later wins.  After an error the rows may
        still appear later, all together, when the disk had taken them.

        Raises:
            Invalid: a key or a value out of bounds.
        """

    def put_new(self, table: Table, key: bytes, value: bytes) -> bool:
        """Write a row that must not exist; True when this call wrote it.

        False: the same bytes were there, durably, so a repeat is harmless.

        Raises:
            Conflict: reason ``row-exists``, other bytes are there and stay.
        """

    def delete(self, rows: Sequence[tuple[Table, bytes]]) -> None:
        """Delete all rows or none, durably; absent rows are no error.

        The bytes stay on the disk until compaction, or :meth:`purge`.
        """

    def raise_format(self) -> None:
        """Note, durably, that what lies beside these rows has newer formats than those of the
        release before, which refuses to open them from then on.  A repeat does nothing.
        """

    def purge(self, tables: Sequence[Table]) -> None:
        """Rewrite tables without what was deleted from them before the call.

        On return no file that is in use holds it; files that were replaced may be unlinked a
        moment later.  Expensive: it reads and writes the tables whole, while others go on.
        """

    def scan(
        self, table: Table, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        """Rows whose key has the prefix, ascending, beginning behind ``after``.

        Fewer than ``limit`` rows mean that there are no more.

        Raises:
            Corrupt: a row of the answer is damaged.
            Invalid: ``limit`` is not in 1..10,000.
        """

    def inspect(self, table: Table, after: bytes | None, limit: int) -> RowPage:
        """A page of a table as a scrub needs it: damage is told, not raised."""

    def close(self) -> None:
        """Close; may be repeated."""


class KeyStore(Protocol):
    """Sealed keys by (table, key), write-once, in an instance of its own.

    It is apart from the rows because deletion is crypto-shredding: the bytes
    must be gone from every file, which costs a compaction.
    """

    def get(self, table: KeyTable, key: bytes) -> bytes | None:
        """As :meth:`RowStore.get`."""

    def get_many(self, table: KeyTable, keys: Sequence[bytes]) -> list[bytes | None]:
        """As :meth:`RowStore.get_many`."""

    def put_all_new(self, rows: Sequence[tuple[KeyTable, bytes, bytes]]) -> None:
        """Write all rows or none, durably, none over other bytes.

        Rows that are there with the same bytes are no error, so a repeat is harmless.
        No two rows of one call have one key.

        Raises:
            Conflict: reason ``row-exists``, other bytes are there under one of the keys.
        """

    def put_new(self, table: KeyTable, key: bytes, value: bytes) -> bool:
        """As :meth:`RowStore.put_new`."""

    def scan(
        self, table: KeyTable, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        """As :meth:`RowStore.scan`."""

    def inspect(self, table: KeyTable, after: bytes | None, limit: int) -> RowPage:
        """As :meth:`RowStore.inspect`."""

    def delete(self, keys: Sequence[tuple[KeyTable, bytes]]) -> None:
        """Erase rows: on return their values are in no file of this store.

        Absent rows are no error.  One call for many keys is far cheaper than
        many calls; everything else waits meanwhile.  After an error the rows
        are gone for readers, perhaps not yet from the files: repeat the call,
        with any key, or reopen the store.

        Raises:
            Unavailable: reason ``not-erased``, the bytes may still be there.
        """

    def close(self) -> None:
        """Close; may be repeated."""


@dataclass(frozen=True)
class Stores:
    """What one storage node keeps on its disk."""

    shards: ShardStore
    rows: RowStore
    keys: KeyStore

    def close(self) -> None:
        """Close all three, even when one of them fails."""
        try:
            self.shards.close()
        finally:
            try:
                self.rows.close()
            finally:
                self.keys.close()


def check_index(index: int) -> None:
    """Refuse a shard index that no profile can have.

    Raises:
        Invalid: reason ``bad-index``.
    """
    if not 0 <= index <= SHARD_INDEX_MAX:
        raise Invalid(
            f"shard index {index} is outside 0..{SHARD_INDEX_MAX}: take it from the layout",
            reason="bad-index",
        )


def check_form(form: str) -> None:
    """Refuse a form that is no profile's name: it becomes part of a file's.

    Raises:
        Invalid: reason ``bad-form``.
    """
    if form != FORM_FIRST and _FORM.fullmatch(form) is None:
        raise Invalid("the form of a shard is the name of a profile", reason="bad-form")


def check_size(expected_size: int | None) -> None:
    """Refuse a negative size.

    Raises:
        Invalid: reason ``bad-size``.
    """
    if expected_size is not None and expected_size < 0:
        raise Invalid("the expected size of a shard must not be negative", reason="bad-size")


def check_key(key: bytes) -> None:
    """Refuse a row key that is empty or too long.

    Raises:
        Invalid: reason ``bad-row-key``.
    """
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise Invalid(
            f"a row key must have 1..{KEY_BYTES_MAX} bytes, got {len(key)}", reason="bad-row-key"
        )


def check_value(value: bytes) -> None:
    """Refuse a value that is too long.

    Raises:
        Invalid: reason ``row-too-long``.
    """
    if len(value) > VALUE_BYTES_MAX:
        raise Invalid(
            f"a row may have {VALUE_BYTES_MAX} bytes, got {len(value)}: store bulk data as a shard",
            reason="row-too-long",
        )


def check_limit(limit: int) -> None:
    """Refuse an unbounded or empty scan.

    Raises:
        Invalid: reason ``bad-limit``.
    """
    if not 0 < limit <= SCAN_ROWS_MAX:
        raise Invalid(
            f"a scan takes 1..{SCAN_ROWS_MAX} rows at a time, got {limit}: continue with after=",
            reason="bad-limit",
        )


def bytes_view(data: Buffer) -> memoryview:
    """A flat view of a buffer's bytes, without copying.

    Raises:
        Invalid: reason ``bad-buffer``, the buffer is not contiguous.
    """
    view = memoryview(data)
    if not view.c_contiguous:
        raise Invalid("a shard is written from contiguous buffers only", reason="bad-buffer")
    return view.cast("B")
