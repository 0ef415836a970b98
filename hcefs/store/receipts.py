"""A node's receipts on its disk: the chain, which record each is about, and what is anchored.

Owns the rows of RECEIPTS.  Synchronous: for disk threads.

Invariants:

* A receipt, the row that finds it by its record, and the head appear together or not at
  all, durably; so the chain has no gap, whenever the process dies.
* Nothing is deleted, and no receipt is replaced.
* A damaged head row is made anew from the receipts; a damaged receipt is an error, never
  skipped.

Not guaranteed: that what is on the disk goes on from what the ledger has anchored: a disk
may have been lost (:meth:`ReceiptStore.resume`).  Source: docs/decisions/0030-receipts.md.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, Unavailable
from hcefs.evidence.proof import BATCH_RECEIPTS_MAX, ReceiptBatch, make_batch
from hcefs.evidence.receipt import (
    ChainHead,
    Receipt,
    ReceiptDraft,
    chain_hash,
    chain_start,
    read_receipt,
)
from hcefs.ids import AccountId, ClusterId, RecordId
from hcefs.store.interface import RowStore, Table

PAGE_ROWS = 1000
_HEAD, _RECEIPT, _OF, _ANCHOR = b"h", b"r", b"o", b"a"

log = logging.getLogger(__name__)

Rows = list[tuple[Table, bytes, bytes]]


@dataclass(frozen=True)
class ReceiptHead(Encoded):
    """The end of the chain on this disk; ``bytes`` is the sum of all receipts on it."""

    KIND = "receipt-head"

    sequence: int
    hash: bytes
    time_ms: int
    bytes: int


@dataclass(frozen=True)
class AnchorNote(Encoded):
    """A batch that the block of ``height`` anchors.

    ``proof`` are the bytes of what proves it, empty where the block was not at hand.
    """

    KIND = "anchor-note"

    batch: ReceiptBatch
    height: int
    proof: bytes


class ReceiptStore:
    """The receipts of one node.  One caller at a time appends; reading is free."""

    def __init__(self, rows: RowStore, cluster: ClusterId, me: AccountId) -> None:
        self._rows = rows
        self._cluster = cluster
        self.me = me

    # -- the chain

    def head(self) -> ReceiptHead:
        """The end of the chain on this disk; number 0 before the first receipt.

        Raises:
            Corrupt: a receipt is damaged.
        """
        try:
            row = self._rows.get(Table.RECEIPTS, _HEAD)
        except Corrupt:
            log.error("the row that ends the chain of receipts is damaged; reading them all")
            row = None
        if row is not None:
            return ReceiptHead.decode(row)
        return self._found()

    def _found(self) -> ReceiptHead:
        last, total = b"", 0
        after = _RECEIPT
        while page := self._rows.scan(Table.RECEIPTS, _RECEIPT, after, PAGE_ROWS):
            after, last = page[-1]
            total += sum(len(value) for _, value in page)
        if not last:
            return ReceiptHead(0, chain_start(self._cluster, self.me), 0, 0)
        receipt = read_receipt(last)
        return ReceiptHead(receipt.sequence, chain_hash(last), receipt.time_ms, total)

    def resume(self, anchored: ChainHead | None) -> ReceiptHead:
        """The head to go on from, given the last receipt that the ledger has of this node.

        Raises:
            Unavailable: ``receipts-forked``: this disk has other receipts than the ledger.
            Corrupt: a receipt is damaged.
        """
        head = self.head()
        if anchored is None or (head.sequence, head.hash) == (anchored.sequence, anchored.hash):
            return head
        if head.sequence < anchored.sequence:
            log.error(
                "receipts %d to %d are anchored and not on this disk: they are lost; going on "
                "after them",
                head.sequence + 1,
                anchored.sequence,
            )
            return ReceiptHead(anchored.sequence, anchored.hash, anchored.time_ms, head.bytes)
        following = self._rows.get(Table.RECEIPTS, _receipt_key(anchored.sequence + 1))
        if following is None or read_receipt(following).previous != anchored.hash:
            raise Unavailable(
                f"the receipts on this disk do not follow receipt {anchored.sequence}, which "
                "the ledger has: another process ran under this node's account, or the disk was "
                "set back; keep it as evidence and look into it before this node serves again",
                reason="receipts-forked",
            )
        return head

    def made(
        self, drafts: Sequence[ReceiptDraft], head: ReceiptHead, now_ms: int
    ) -> tuple[Rows, ReceiptHead]:
        """The rows of the next receipts after ``head``, and the head that they make."""
        rows: Rows = []
        sequence, previous, total = head.sequence, head.hash, head.bytes
        time_ms = max(now_ms, head.time_ms)
        for draft in drafts:
            sequence += 1
            data = Receipt.of(draft, self.me, sequence, previous, time_ms).encode()
            previous = chain_hash(data)
            total += len(data)
            rows.append((Table.RECEIPTS, _receipt_key(sequence), data))
            if draft.record:
                rows.append((Table.RECEIPTS, _of_key(draft.record, sequence), b""))
        head = ReceiptHead(sequence, previous, time_ms, total)
        rows.append((Table.RECEIPTS, _HEAD, head.encode()))
        return rows, head

    @staticmethod
    def moved(head: ReceiptHead, now_ms: int) -> tuple[Rows, ReceiptHead]:
        """The same end of the chain, no earlier than now, and its row."""
        head = replace(head, time_ms=max(now_ms, head.time_ms))
        return [(Table.RECEIPTS, _HEAD, head.encode())], head

    def write(self, rows: Rows) -> None:
        """Make rows of :meth:`made` durable; harmless to repeat.

        Raises:
            Exhausted, Unavailable: the disk; whether they are there is not known.
        """
        self._rows.put(rows)

    # -- reading

    def receipts(self, first: int, last: int) -> list[bytes]:
        """Receipts by their numbers; fewer than asked for when some are not on this disk."""
        count = min(last - first + 1, BATCH_RECEIPTS_MAX)
        if count < 1:
            return []
        page = self._rows.scan(Table.RECEIPTS, _RECEIPT, _receipt_key(first - 1), count)
        end = _receipt_key(last)
        return [value for key, value in page if key <= end]

    def about(self, record: RecordId, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Receipts about a record with their numbers, ascending, those behind ``after``.

        Raises:
            Corrupt: one of them is damaged or missing.
        """
        prefix = _OF + record
        page = self._rows.scan(Table.RECEIPTS, prefix, _of_key(record, after), limit)
        numbers = [int.from_bytes(key[len(prefix) :], "big") for key, _ in page]
        found = self._rows.get_many(Table.RECEIPTS, [_receipt_key(n) for n in numbers])
        if any(value is None for value in found):
            raise Corrupt("a receipt is missing on this disk: look at it", reason="lost-receipt")
        return [(n, value) for n, value in zip(numbers, found, strict=True) if value is not None]

    # -- anchors

    def cut(self, anchored: ReceiptBatch | None, last: int, cut_ms: int) -> ReceiptBatch | None:
        """The next batch after the one that the ledger has, of receipts up to ``last``.

        None when there is no such receipt.  None of those after ``last`` may be earlier than
        ``cut_ms`` (:meth:`ReceiptLog.cut` sees to it).

        Raises:
            Corrupt: ``broken-receipt-chain``: what is on the disk does not follow.
        """
        if anchored is None:
            before, since_ms = ChainHead.start(self._cluster, self.me), 0
        else:
            before = ChainHead(anchored.last, anchored.chain, anchored.until_ms)
            since_ms = anchored.until_ms
        first = before.sequence + 1
        found = self.receipts(first, last)
        if not found:
            return None
        return make_batch(found, before, self.me, since_ms, cut_ms)

    def note(self, note: AnchorNote) -> None:
        """Remember where a batch is anchored, durably."""
        self._rows.put([(Table.RECEIPTS, _anchor_key(note.batch.last), note.encode())])

    def noted(self, last: int) -> AnchorNote | None:
        """The note of the batch that ends with a number."""
        row = self._rows.get(Table.RECEIPTS, _anchor_key(last))
        return None if row is None else AnchorNote.decode(row)

    def anchor_of(self, sequence: int) -> AnchorNote | None:
        """The note of the batch that has a receipt; None while none has."""
        page = self._rows.scan(Table.RECEIPTS, _ANCHOR, _anchor_key(sequence - 1), 1)
        note = AnchorNote.decode(page[0][1]) if page else None
        return note if note is not None and note.batch.first <= sequence else None


def _receipt_key(sequence: int) -> bytes:
    return _RECEIPT + sequence.to_bytes(8, "big")


def _of_key(record: RecordId, sequence: int) -> bytes:
    return _OF + record + sequence.to_bytes(8, "big")


def _anchor_key(last: int) -> bytes:
    return _ANCHOR + last.to_bytes(8, "big")
