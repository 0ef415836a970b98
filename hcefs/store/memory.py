"""The three stores in memory: for tests and for the simulated cluster.

Invariant: they pass the same contract suites as the stores on disk, checks of
arguments and errors included, so that a test against them says something about
a node.

Not guaranteed: persistence, of course; damage and failing disks (wrap them).
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from hcefs.errors import Conflict, Corrupt, Exhausted, Invalid, NotFound, Unavailable
from hcefs.ids import BlobBase
from hcefs.integrity import Buffer
from hcefs.store.interface import (
    FORM_FIRST,
    KeyTable,
    RowPage,
    SetAside,
    Stores,
    Table,
    Usage,
    bytes_view,
    check_form,
    check_index,
    check_key,
    check_limit,
    check_size,
    check_value,
)

TOTAL_BYTES = 1 << 40
"""The size that the disk claims to have, unless said."""

TableT = TypeVar("TableT", bound=enum.IntEnum)


_Name = tuple[BlobBase, int] | tuple[BlobBase, int, str]


def _name(base: BlobBase, index: int, form: str) -> _Name:
    return (base, index) if form == FORM_FIRST else (base, index, form)


def _closed() -> Unavailable:
    return Unavailable("the store is closed: open it again", reason="store-closed")


class MemoryShardWriter:
    """See :class:`~hcefs.store.interface.ShardWriter`."""

    def __init__(self, store: MemoryShardStore, name: _Name) -> None:
        self._store = store
        self._name = name
        self._data = bytearray()
        self._ended = False

    def write(self, data: Buffer) -> None:
        if self._ended:
            raise Invalid("this shard has ended: begin it again", reason="writer-closed")
        try:
            view = bytes_view(data)
            self._store.take(len(view))
        except (Exhausted, Invalid, Unavailable):
            self.abort()
            raise
        self._data += view

    def finish(self, footer: Buffer) -> None:
        self.write(footer)
        try:
            self._store.publish(self._name, bytes(self._data))
        finally:
            self.abort()

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._store.give_back(len(self._data))
            self._data = bytearray()


class MemoryShardReader:
    """See :class:`~hcefs.store.interface.ShardReader`."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._size = len(data)

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        if self._data is None:
            raise Invalid("this shard reader is closed: open it again", reason="reader-closed")
        if offset < 0 or length < 0:
            raise Invalid("offset and length must not be negative", reason="bad-range")
        if offset + length > self._size:
            raise Corrupt("the shard is shorter than it must be: rebuild it", reason="truncated")
        return self._data[offset : offset + length]

    def read_into(self, offset: int, out: bytearray | memoryview) -> None:
        view = bytes_view(out)
        view[:] = self.read_at(offset, len(view))

    def close(self) -> None:
        self._data = None


class MemoryShardStore:
    """See :class:`~hcefs.store.interface.ShardStore`."""

    def __init__(self, *, reserve_bytes: int = 0, total_bytes: int = TOTAL_BYTES) -> None:
        self.shard_version: Callable[[], int] = lambda: 1
        self._lock = threading.Lock()
        self._reserve = reserve_bytes
        self._total = total_bytes
        self._free = total_bytes
        self._shards: dict[_Name, bytes] = {}
        self._quarantine: dict[str, SetAside] = {}
        self._serial = 0
        self._closed = False

    def begin(
        self,
        base: BlobBase,
        index: int,
        expected_size: int | None = None,
        form: str = FORM_FIRST,
    ) -> MemoryShardWriter:
        check_index(index)
        check_form(form)
        check_size(expected_size)
        with self._lock:
            self._require_open()
            if _name(base, index, form) in self._shards:
                raise _exists()
            self._require_space(expected_size or 0)
        return MemoryShardWriter(self, _name(base, index, form))

    def open(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> MemoryShardReader:
        check_index(index)
        with self._lock:
            self._require_open()
            data = self._shards.get(_name(base, index, form))
        if data is None:
            raise _no_such_shard(base, index)
        return MemoryShardReader(data)

    def has(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> bool:
        check_index(index)
        with self._lock:
            self._require_open()
            return _name(base, index, form) in self._shards

    def remove(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> bool:
        check_index(index)
        with self._lock:
            self._require_open()
            data = self._shards.pop(_name(base, index, form), None)
            if data is not None:
                self._free += len(data)
            return data is not None

    def quarantine(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> str:
        check_index(index)
        with self._lock:
            self._require_open()
            data = self._shards.pop(_name(base, index, form), None)
            if data is None:
                raise _no_such_shard(base, index)
            self._serial += 1
            name = ".".join(filter(None, (base.hex(), str(index), form, str(self._serial))))
            self._quarantine[name] = SetAside(name, base, index, form, len(data))
            return name

    def quarantined(self) -> Iterator[SetAside]:
        with self._lock:
            self._require_open()
            found = [self._quarantine[name] for name in sorted(self._quarantine)]
        yield from found

    def discard(self, name: str) -> bool:
        with self._lock:
            self._require_open()
            gone = self._quarantine.pop(name, None)
            if gone is not None:
                self._free += gone.size
            return gone is not None

    def page(
        self, first: int, after: tuple[BlobBase, int, str] | None, limit: int
    ) -> list[tuple[BlobBase, int, str]]:
        check_limit(limit)
        with self._lock:
            self._require_open()
            names = [(name[0], name[1], name[2] if len(name) == 3 else "") for name in self._shards]
        found = sorted(n for n in names if n[0][0] == first and (after is None or n > after))
        return found[:limit]

    def inventory(self) -> Iterator[tuple[BlobBase, int]]:
        with self._lock:
            self._require_open()
            names = [(name[0], name[1]) for name in self._shards if len(name) == 2]
        yield from sorted(names)

    def reformed(self) -> Iterator[tuple[BlobBase, int, str]]:
        with self._lock:
            self._require_open()
            names = [name for name in self._shards if len(name) == 3]
        yield from sorted(names)

    def usage(self) -> Usage:
        with self._lock:
            self._require_open()
            size = sum(map(len, self._shards.values()))
            return Usage(len(self._shards), size, self._free, self._total)

    def close(self) -> None:
        with self._lock:
            self._closed = True

    # For the writers.

    def take(self, size: int) -> None:
        """Charge bytes being written.

        Raises:
            Exhausted: reason ``disk-full``.
        """
        with self._lock:
            if self._closed:
                raise Invalid("this shard has ended: begin it again", reason="writer-closed")
            self._require_space(size)
            self._free -= size

    def give_back(self, size: int) -> None:
        """Return the bytes of an ended writer."""
        with self._lock:
            self._free += size

    def publish(self, name: _Name, data: bytes) -> None:
        """Make a shard visible; its writer's bytes are given back, so charge them again.

        Raises:
            Conflict: the name is taken.
        """
        with self._lock:
            if name in self._shards:
                raise _exists()
            self._shards[name] = data
            self._free -= len(data)

    def _require_open(self) -> None:
        if self._closed:
            raise _closed()

    def _require_space(self, size: int) -> None:
        if self._free - size < self._reserve:
            raise Exhausted(
                "this node's disk is full up to its reserve: add a node or free space",
                reason="disk-full",
                retry_after_ms=60_000,
            )


def _exists() -> Conflict:
    return Conflict(
        "this shard is stored here already: a blob id is never used twice", reason="shard-exists"
    )


def _no_such_shard(base: BlobBase, index: int) -> NotFound:
    return NotFound(
        f"shard {index} of {base.text} is not stored here: ask another holder",
        reason="no-such-shard",
    )


def _row_exists() -> Conflict:
    return Conflict(
        "this row exists with other bytes and is never overwritten: use a new id",
        reason="row-exists",
    )


class _MemoryTables(Generic[TableT]):
    """What both kinds of rows have in common."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[tuple[int, bytes], bytes] = {}
        self._closed = False

    def get(self, table: TableT, key: bytes) -> bytes | None:
        check_key(key)
        with self._lock:
            self._require_open()
            return self._rows.get((table, key))

    def get_many(self, table: TableT, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(table, key) for key in keys]

    def put_new(self, table: TableT, key: bytes, value: bytes) -> bool:
        check_key(key)
        check_value(value)
        with self._lock:
            self._require_open()
            existing = self._rows.get((table, key))
            if existing is None:
                self._rows[table, key] = value
                return True
        if existing != value:
            raise _row_exists()
        return False

    def scan(
        self, table: TableT, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        check_limit(limit)
        with self._lock:
            self._require_open()
            found = sorted(
                (key, value)
                for (number, key), value in self._rows.items()
                if number == table and key.startswith(prefix) and (after is None or key > after)
            )
        return found[:limit]

    def inspect(self, table: TableT, after: bytes | None, limit: int) -> RowPage:
        rows = self.scan(table, after=after, limit=limit)
        return RowPage(tuple(rows), (), rows[-1][0] if len(rows) == limit else None)

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise _closed()

    def _delete(self, rows: Iterable[tuple[TableT, bytes]]) -> None:
        names = list(rows)
        for _, key in names:
            check_key(key)
        with self._lock:
            self._require_open()
            for table, key in names:
                self._rows.pop((table, key), None)


class MemoryRowStore(_MemoryTables[Table]):
    """See :class:`~hcefs.store.interface.RowStore`."""

    def put(self, rows: Sequence[tuple[Table, bytes, bytes]]) -> None:
        for _, key, value in rows:
            check_key(key)
            check_value(value)
        with self._lock:
            self._require_open()
            self._rows.update({(table, key): value for table, key, value in rows})

    def delete(self, rows: Sequence[tuple[Table, bytes]]) -> None:
        self._delete(rows)

    def raise_format(self) -> None:
        """No other software opens this memory."""
        self._require_open()

    def purge(self, tables: Sequence[Table]) -> None:
        """Memory keeps nothing of what was deleted."""
        self._require_open()


class MemoryKeyStore(_MemoryTables[KeyTable]):
    """See :class:`~hcefs.store.interface.KeyStore`."""

    def put_all_new(self, rows: Sequence[tuple[KeyTable, bytes, bytes]]) -> None:
        for _, key, value in rows:
            check_key(key)
            check_value(value)
        with self._lock:
            self._require_open()
            if any(self._rows.get((table, key), value) != value for table, key, value in rows):
                raise _row_exists()
            self._rows.update({(table, key): value for table, key, value in rows})

    def delete(self, keys: Sequence[tuple[KeyTable, bytes]]) -> None:
        self._delete(keys)


def memory_stores(*, reserve_bytes: int = 0, total_bytes: int = TOTAL_BYTES) -> Stores:
    """The stores of one simulated node."""
    return Stores(
        MemoryShardStore(reserve_bytes=reserve_bytes, total_bytes=total_bytes),
        MemoryRowStore(),
        MemoryKeyStore(),
    )
