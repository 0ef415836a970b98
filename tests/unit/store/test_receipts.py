"""Receipts on a disk: one chain for all requests, group commit, failing disks, lost disks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hcefs.errors import Corrupt, Exhausted, HcefsError, Unavailable
from hcefs.evidence.proof import BATCH_RECEIPTS_MAX, verify_batch
from hcefs.evidence.receipt import ChainHead, Receipt, ReceiptDraft, read_receipt
from hcefs.ids import RecordId, RequestId
from hcefs.metrics import Metrics
from hcefs.runtime import SystemRuntime
from hcefs.store import receipt_log
from hcefs.store.interface import Table
from hcefs.store.memory import MemoryRowStore
from hcefs.store.receipt_log import ReceiptLog
from hcefs.store.receipts import ReceiptStore, Rows
from tests.vectors.generate_receipts import CLUSTER, NODE, RECORD, draft


class Clock(SystemRuntime):
    """A wall clock that a test sets."""

    now = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.now


class Disk:
    """A receipt log over rows in memory that can fail, and count its writes."""

    def __init__(self, anchored: ChainHead | None = None) -> None:
        self.runtime = Clock()
        self.rows = MemoryRowStore()
        self.anchored = anchored
        self.writes = 0
        self.failure: Callable[[], HcefsError] | None = None
        self.kept_all_the_same = False
        self.metrics = Metrics()
        self.open()

    def open(self) -> None:
        """As a process does that starts."""
        self.store = ReceiptStore(self.rows, CLUSTER, NODE)
        whole = self.store.write

        def write(rows: Rows) -> None:
            self.writes += 1
            if self.failure is not None:
                if self.kept_all_the_same:
                    whole(rows)
                raise self.failure()
            whole(rows)

        self.store.write = write  # type: ignore[method-assign]
        self.log = ReceiptLog(self.runtime, self.store, lambda: self.anchored, self.metrics)

    def receipts(self) -> list[Receipt]:
        """All receipts, whose chain is checked."""
        head, found = ChainHead.start(CLUSTER, NODE), []
        for data in self.store.receipts(1, BATCH_RECEIPTS_MAX):
            head = head.followed_by(data)
            found.append(read_receipt(data))
        kept = self.store.head()
        assert (kept.sequence, kept.hash) == (head.sequence, head.hash)
        return found


def request(number: int, **changes: Any) -> ReceiptDraft:
    return draft(request=RequestId(number.to_bytes(16, "big")), **changes)


def numbers(found: list[Receipt]) -> list[int]:
    return [int.from_bytes(receipt.request, "big") for receipt in found]


async def test_requests_of_the_same_time_share_a_write() -> None:
    disk = Disk()
    await asyncio.gather(*(disk.log.write([request(n)]) for n in range(500)))
    assert numbers(disk.receipts()) == list(range(500))
    assert disk.writes <= 4
    assert disk.metrics.value("receipts_total", kind="access", decision="permitted") == 500


async def test_receipts_of_a_record_are_found_in_pages() -> None:
    disk, other = Disk(), RecordId(bytes([9] * 16))
    for n in range(10):
        await disk.log.write([request(n, record=RECORD if n % 2 else other)])
    page = disk.store.about(RECORD, 0, 3)
    rest = disk.store.about(RECORD, page[-1][0], 1000)
    assert [number for number, _ in page + rest] == [2, 4, 6, 8, 10]
    assert {read_receipt(data).record for _, data in page + rest} == {RECORD}


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not-kept"])
async def test_a_write_that_failed_is_repeated_before_any_other(kept: bool) -> None:
    disk = Disk()
    await disk.log.write([request(0)])
    disk.failure, disk.kept_all_the_same = (lambda: Exhausted("full", reason="disk-full")), kept
    with pytest.raises(Exhausted) as full:
        await disk.log.write([request(1)])
    assert full.value.reason == "receipt-disk-full"
    disk.failure = lambda: Unavailable("broken", reason="disk-error")
    with pytest.raises(Unavailable) as broken:
        await disk.log.write([request(2)])
    assert broken.value.reason == "receipt-failed"
    disk.failure = None
    await disk.log.write([request(3)])
    # What was refused first may be on the disk, so it stays; the second never got so far.
    assert numbers(disk.receipts()) == [0, 1, 3]
    assert disk.metrics.value("receipt_failures_total", reason="disk-full") == 1


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not-kept"])
async def test_a_chain_is_whole_after_a_failed_write_and_a_restart(kept: bool) -> None:
    disk = Disk()
    await disk.log.write([request(0)])
    disk.failure, disk.kept_all_the_same = (lambda: Exhausted("full", reason="disk-full")), kept
    with pytest.raises(Exhausted):
        await disk.log.write([request(1)])
    disk.failure = None
    disk.open()
    await disk.log.write([request(2)])
    assert numbers(disk.receipts()) == ([0, 1, 2] if kept else [0, 2])


async def test_a_clock_that_is_set_back_stands_still_in_the_chain() -> None:
    disk = Disk()
    await disk.log.write([request(0)])
    disk.runtime.now -= 60_000
    await disk.log.write([request(1)])
    assert len({receipt.time_ms for receipt in disk.receipts()}) == 1


async def test_nothing_after_a_cut_is_earlier_than_it() -> None:
    disk = Disk()
    await disk.log.write([request(0)])
    disk.runtime.now += 5_000
    batch = await disk.log.cut(None)
    assert batch is not None
    verify_batch(batch, disk.store.receipts(1, 1))
    disk.runtime.now -= 60_000
    disk.open()
    await disk.log.write([request(1)])
    assert disk.receipts()[1].time_ms >= batch.until_ms
    following = await disk.log.cut(batch)
    assert following is not None
    assert (following.first, following.since_ms) == (2, batch.until_ms)
    assert await disk.log.cut(following) is None


async def test_a_large_backlog_is_cut_into_full_batches() -> None:
    disk = Disk()
    for second in range(3):
        disk.runtime.now += 1000
        await disk.log.write([request(n) for n in range(2000 * second, 2000 * (second + 1))])
    first = await disk.log.cut(None)
    assert first is not None
    assert first.count == BATCH_RECEIPTS_MAX
    rest = await disk.log.cut(first)
    assert rest is not None
    assert (rest.first, rest.last) == (BATCH_RECEIPTS_MAX + 1, 6000)


async def test_a_lost_disk_goes_on_after_what_is_anchored() -> None:
    disk = Disk(ChainHead(41, bytes(32), 1_800_000_000_500))
    await disk.log.write([request(0)])
    (data,) = disk.store.receipts(42, 42)
    receipt = read_receipt(data)
    assert (receipt.previous, receipt.time_ms) == (bytes(32), 1_800_000_000_500)
    disk.open()
    await disk.log.write([request(1)])
    assert disk.store.head().sequence == 43


async def test_a_disk_that_contradicts_the_ledger_serves_nothing() -> None:
    disk = Disk()
    for n in range(3):
        await disk.log.write([request(n)])
    disk.anchored = ChainHead(2, bytes(32), 0)
    disk.open()
    with pytest.raises(Unavailable) as caught:
        await disk.log.write([request(3)])
    assert caught.value.reason == "receipts-forked"
    assert disk.store.head().sequence == 3


async def test_a_damaged_head_is_made_anew() -> None:
    disk = Disk()
    for n in range(3):
        await disk.log.write([request(n)])
    kept = disk.store.head()
    disk.rows.delete([(Table.RECEIPTS, b"h")])
    found = disk.store.head()
    assert (found.sequence, found.hash, found.bytes) == (3, kept.hash, kept.bytes)


async def test_a_missing_receipt_is_no_silence() -> None:
    disk = Disk()
    await disk.log.write([request(0)])
    disk.rows.delete([(Table.RECEIPTS, b"r" + (1).to_bytes(8, "big"))])
    with pytest.raises(Corrupt) as caught:
        disk.store.about(RECORD, 0, 10)
    assert caught.value.reason == "lost-receipt"


async def test_waiting_receipts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_log, "WAITING_MAX", 10)
    disk = Disk()
    outcomes = await asyncio.gather(
        *(disk.log.write([request(n)]) for n in range(30)), return_exceptions=True
    )
    refused = [each for each in outcomes if isinstance(each, Exhausted)]
    assert len(refused) == 20
    assert {each.reason for each in refused} == {"busy"}
    assert len(disk.receipts()) == 10
    await disk.log.write([request(99)])


async def test_who_goes_away_leaves_a_receipt_and_holds_nobody_up() -> None:
    disk = Disk()
    gone = asyncio.create_task(disk.log.write([request(0)]))
    await asyncio.sleep(0)
    gone.cancel()
    await disk.log.write([request(1)])
    assert numbers(disk.receipts()) == [0, 1]


async def test_what_nobody_waits_for_is_written_too() -> None:
    disk = Disk()
    disk.log.note([request(0)])
    await disk.log.write([request(1)])
    await disk.log.close()
    assert numbers(disk.receipts()) == [0, 1]


async def test_a_cut_whose_caller_goes_away_does_not_set_the_chain_back() -> None:
    """Its write is under way in a thread; what is written next waits for it."""
    disk = Disk()
    await disk.log.write([request(0)])
    begun, go, whole = threading.Event(), threading.Event(), disk.store.write

    def slow(rows: Rows) -> None:
        if not begun.is_set():
            begun.set()
            assert go.wait(10)
        whole(rows)

    disk.store.write = slow  # type: ignore[method-assign]
    disk.runtime.now += 1_000
    cutting = asyncio.create_task(disk.log.cut(None))
    await asyncio.to_thread(begun.wait, 10)
    cutting.cancel()
    await asyncio.gather(cutting, return_exceptions=True)
    assert cutting.cancelled()
    following = asyncio.create_task(disk.log.write([request(1)]))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not following.done()
    go.set()
    await following
    assert numbers(disk.receipts()) == [0, 1]
    disk.open()
    await disk.log.write([request(2)])
    assert numbers(disk.receipts()) == [0, 1, 2]


async def test_closing_waits_for_a_write_that_nobody_waits_for() -> None:
    disk = Disk()
    await disk.log.write([request(0)])
    begun, go, whole = threading.Event(), threading.Event(), disk.store.write

    def slow(rows: Rows) -> None:
        begun.set()
        assert go.wait(10)
        whole(rows)

    disk.store.write = slow  # type: ignore[method-assign]
    cutting = asyncio.create_task(disk.log.cut(None))
    await asyncio.to_thread(begun.wait, 10)
    cutting.cancel()
    await asyncio.gather(cutting, return_exceptions=True)
    closing = asyncio.create_task(disk.log.close())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await closing
