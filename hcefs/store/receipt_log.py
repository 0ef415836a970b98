"""Receipts of many requests, made durable together: group commit, in the order of a chain.

Owns who writes next.  While one group is synchronised to the disk, the receipts of other
requests gather for the next one, so that small requests share an fsync and the chain has one
writer.

Invariants:

* :meth:`ReceiptLog.write` returns after its receipts are durable, and at no other time: who
  waits for it serves nothing without evidence.
* What may be on the disk is never written otherwise: after a failed write the same rows are
  written again before any other receipt, because nobody knows whether they are there.  Such
  a receipt of a request that was refused stays: it tells too much, never too little.
* No receipt is earlier than the one before it or than the last cut.
* One write at a time reaches the disk, also when who asked for it goes away: a write that
  nobody waits for any more could end after a later one, and set the end of the chain back.
* The chain goes on from what the ledger has anchored; where the disk contradicts that,
  nothing is written, and so nothing is served.

Not guaranteed: receipts given to :meth:`ReceiptLog.note`, which nobody waits for.
Source: docs/decisions/0030-receipts.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from hcefs import tracing
from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Exhausted, HcefsError, Unavailable
from hcefs.evidence.proof import ReceiptBatch
from hcefs.evidence.receipt import ChainHead, ReceiptDraft
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.receipts import ReceiptHead, ReceiptStore, Rows

WAITING_MAX = 16_384
"""Most receipts that wait for the disk; more requests are told to come back."""

GROUP_MAX = 1024
"""Most receipts of one write, and a request more."""

NOTED_SECONDS = 1.0
"""How long receipts that nobody waits for wait for those of others, so that they cost no write."""

log = logging.getLogger(__name__)

T = TypeVar("T")
_Waiting = tuple[Sequence[ReceiptDraft], "asyncio.Future[None] | None"]


class ReceiptLog:
    """The chain of one node, for all of its requests.  For the event loop."""

    def __init__(
        self,
        runtime: Runtime,
        store: ReceiptStore,
        anchored: Callable[[], ChainHead | None],
        metrics: Metrics,
    ) -> None:
        """``anchored`` is the last receipt of this node that the ledger has, or None."""
        self.store = store
        self._runtime = runtime
        self._anchored = anchored
        self._metrics = metrics
        self._head: ReceiptHead | None = None
        self._stuck: Rows = []
        self._writing = asyncio.Lock()
        self._queue: deque[_Waiting] = deque()
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None
        self._later: asyncio.Task[None] | None = None
        self._held: set[asyncio.Task[Any]] = set()

    @property
    def head(self) -> ReceiptHead | None:
        """The end of the chain; None before this process wrote any receipt."""
        return self._head

    async def write(self, drafts: Sequence[ReceiptDraft]) -> None:
        """Make receipts durable, in this order.

        Raises:
            Exhausted: the disk is full, or too many wait.
            Unavailable: they could not be written; nothing may be served.
        """
        if not drafts:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with tracing.span("write receipts", "internal"):
            self._enter(drafts, done)
            await done

    def note(self, drafts: Sequence[ReceiptDraft]) -> None:
        """Have receipts written with the next ones, or soon; nobody learns whether they were."""
        if self._waiting + len(drafts) > WAITING_MAX:
            self._metrics.count("receipt_failures_total", reason="busy")
            return
        self._waiting += len(drafts)
        self._queue.append((drafts, None))
        if self._later is None or self._later.done():
            self._later = self._runtime.spawn(self._soon(), name="receipts-noted")

    async def resume(self) -> None:
        """Learn where the chain ends, unless that is known.

        Raises:
            Unavailable: ``receipts-forked``: nothing may be served.
            HcefsError: the disk failed.
        """
        await self._to_its_end(self._resume())

    async def _resume(self) -> None:
        async with self._writing:
            await self._resumed()

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for what writes under the lock; it goes on when its caller is cancelled."""
        task = self._runtime.spawn(work, name="receipts-held")
        self._held.add(task)
        task.add_done_callback(self._held.discard)
        return await asyncio.shield(task)

    async def cut(self, anchored: ReceiptBatch | None) -> ReceiptBatch | None:
        """The next batch after the last one that the ledger has; None when there is nothing.

        Raises:
            HcefsError: the disk failed, or the chain on it is damaged.
        """
        return await self._to_its_end(self._cut(anchored))

    async def _cut(self, anchored: ReceiptBatch | None) -> ReceiptBatch | None:
        async with self._writing:
            head = await self._resumed()
            rows, moved = self.store.moved(head, self._runtime.now_ms())
            if head.sequence <= (anchored.last if anchored is not None else 0):
                return None
            await self._runtime.disk(self._write, rows)
            self._head = moved
        batch = await self._runtime.disk(self.store.cut, anchored, moved.sequence, moved.time_ms)
        crash_point(CrashPoint.RECEIPTS_CUT)
        return batch

    def unanchored(self, last: int) -> int:
        """How many receipts come after number ``last``, as far as this process knows."""
        return max(0, self._head.sequence - last) if self._head is not None else 0

    async def close(self) -> None:
        """Write what waits; nothing may be given any more."""
        if self._later is not None:
            self._later.cancel()
        if self._queue:
            self._begin()
        tasks = [task for task in (self._later, self._task, *self._held) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the writer

    def _enter(self, drafts: Sequence[ReceiptDraft], done: asyncio.Future[None]) -> None:
        if self._waiting + len(drafts) > WAITING_MAX and self._waiting:
            raise Exhausted(
                "too many receipts wait for this node's disk, and nothing is served without: "
                "come back later",
                reason="busy",
            )
        self._waiting += len(drafts)
        self._queue.append((drafts, done))
        self._begin()

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = self._runtime.spawn(self._run(), name="receipts")

    async def _soon(self) -> None:
        tracing.detach()
        await self._runtime.sleep(NOTED_SECONDS)
        if self._queue:
            self._begin()

    async def _run(self) -> None:
        tracing.detach()  # a group is of many requests, whoever's was first
        while self._queue:
            group: list[_Waiting] = []
            count = 0
            async with self._writing:
                # Taken only now, so that all who came meanwhile are in it.
                while self._queue and count < GROUP_MAX:
                    group.append(self._queue.popleft())
                    count += len(group[-1][0])
                failure = await self._commit([draft for drafts, _ in group for draft in drafts])
            self._waiting -= count
            for _, done in group:
                if done is None or done.done():
                    continue
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)

    async def _commit(self, drafts: list[ReceiptDraft]) -> HcefsError | None:
        """Write a group; None when it is durable, else why not."""
        try:
            head = await self._resumed()
            self._head = await self._runtime.disk(self._make, drafts, head, self._runtime.now_ms())
        except HcefsError as error:
            self._metrics.count("receipt_failures_total", reason=error.reason)
            log.error("receipts cannot be written: %s (%s)", error.kind, error.reason)
            return _refusal(error)
        except Exception as error:  # noqa: BLE001 - whoever waits must learn of any failure
            self._metrics.count("receipt_failures_total", reason="internal")
            log.error("receipts cannot be written: %s", type(error).__name__)
            return _refusal(Unavailable("a fault of the receipts", reason="internal"))
        for (kind, permitted), count in Counter(
            (draft.kind, draft.permitted) for draft in drafts
        ).items():
            decision = "permitted" if permitted else "denied"
            self._metrics.count("receipts_total", count, kind=kind.name.lower(), decision=decision)
        self._metrics.count("receipt_writes_total")
        return None

    async def _resumed(self) -> ReceiptHead:
        """The head to go on from, once nothing is left of a write that failed."""
        if self._head is None:
            self._head = await self._runtime.disk(self.store.resume, self._anchored())
        if self._stuck:
            await self._runtime.disk(self.store.write, self._stuck)
            self._stuck = []
        return self._head

    def _make(self, drafts: list[ReceiptDraft], head: ReceiptHead, now_ms: int) -> ReceiptHead:
        rows, after = self.store.made(drafts, head, now_ms)
        crash_point(CrashPoint.RECEIPTS_MADE)
        try:
            self._write(rows)
        except BaseException:
            # They may be there: so the chain goes on behind them, once they are surely there.
            self._head = after
            raise
        crash_point(CrashPoint.RECEIPTS_WRITTEN)
        return after

    def _write(self, rows: Rows) -> None:
        try:
            self.store.write(rows)
        except BaseException:
            self._stuck = rows
            raise


def _refusal(error: HcefsError) -> HcefsError:
    if error.reason == "receipts-forked":
        return error
    if isinstance(error, Exhausted):
        return Exhausted(
            "the receipt of this request does not fit on the node's disk, and nothing is served "
            "without: free space on it, or ask another node",
            reason="receipt-disk-full",
            retry_after_ms=error.retry_after_ms,
        )
    return Unavailable(
        f"the receipt of this request could not be written ({error.reason}), and nothing is "
        "served without: look at the node's disk, or ask another node",
        reason="receipt-failed",
    )
