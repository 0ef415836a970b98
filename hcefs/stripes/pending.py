"""What waits for its append on this node, and until when.

Three kinds of names wait: blobs and packs (their shard and rows), and openings in a
record's listing.  Each has one row a *pending* time, sorted by it, so that collection reads
only what is due, and one row with the latest of its times: a put that was refused
may leave an earlier time behind, which must not collect what came later.

Invariant: who stores or collects a name holds its lock from the first look to the
last write, so that neither sees the other's work half done.  Locks are striped;
whoever needs several takes them in order.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence

from hcefs.ids import BlobBase, RecordId
from hcefs.integrity import crc32c
from hcefs.store.interface import RowStore, Table
from hcefs.stripes.storing import Storing

PENDING_BLOB = b"b"
PENDING_OPENING = b"o"
PENDING_PACK = b"p"
LOCKS = 1024
_LATEST = b"pending/"


def pending_key(commit_by_ms: int, kind: bytes, name: bytes) -> bytes:
    """Row key that sorts by ``commit_by``."""
    return commit_by_ms.to_bytes(8, "big") + kind + name


def latest_key(kind: bytes, subject: bytes) -> bytes:
    """Key of the row in ``META`` with a subject's latest pending time."""
    return _LATEST + kind + subject


def index_name(record: RecordId, base: BlobBase) -> bytes:
    """Key of the opening of a pack, or of a single blob, in a record's listing."""
    return bytes(record) + bytes(base) + bytes(2)


class PendingNames:
    """The pending rows of one node.  Thread-safe with the locks it hands out."""

    def __init__(self, rows: RowStore) -> None:
        self._rows = rows
        self.storing = Storing()
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    @contextlib.contextmanager
    def locked(self, subjects: Iterable[bytes]) -> Iterator[None]:
        """Hold the locks of these subjects (a blob's base, or record and blob id)."""
        with contextlib.ExitStack() as held:
            for number in sorted({crc32c(subject) % LOCKS for subject in subjects}):
                held.enter_context(self._locks[number])
            yield

    def add(self, names: Sequence[tuple[bytes, bytes, bytes]], commit_by_ms: int) -> None:
        """Let names, each (kind, subject, name), wait until ``commit_by_ms``.

        Durable on return, in one write.  Under the locks of the subjects.
        """
        keys = [latest_key(kind, subject) for kind, subject, _ in names]
        rows: list[tuple[Table, bytes, bytes]] = []
        for (kind, _, name), key, known in zip(
            names, keys, self._rows.get_many(Table.META, keys), strict=True
        ):
            latest = max(commit_by_ms, 0 if known is None else int.from_bytes(known, "big"))
            rows.append((Table.PENDING, pending_key(commit_by_ms, kind, name), b""))
            rows.append((Table.META, key, latest.to_bytes(8, "big")))
        self._rows.put(rows)

    def latest(self, kind: bytes, subject: bytes) -> int:
        """The latest time that a subject waits for, or 0.  Under the lock."""
        row = self._rows.get(Table.META, latest_key(kind, subject))
        return 0 if row is None else int.from_bytes(row, "big")
