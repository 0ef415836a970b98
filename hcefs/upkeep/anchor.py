"""Anchor this node's receipts on the ledger, batch by batch; and receipt the upkeep of each hour.

One unit: look at the replica for the last batch that the ledger has, note where it is
anchored, and, when enough receipts came since or the oldest of them is old enough, cut the
next one and submit it.  The ledger alone says what is anchored, so that a submission whose
answer was lost is looked for on the replica and not repeated blindly.

Invariants: a batch is signed by this node's account and goes on from the last anchored one;
nothing is anchored that is not durable here; the next batch is cut only after it is noted
where the last one is anchored, so that no note is missing whenever the process dies.

Not guaranteed: that a node which is stopped, or cut off from the writer, anchors anything;
``receipt_anchor_age_seconds`` tells.  Before protocol version 4 nothing is anchored.
Source: docs/decisions/0031-anchors.md.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Conflict, HcefsError, Unavailable
from hcefs.evidence.proof import BATCH_RECEIPTS_MAX, ReceiptBatch
from hcefs.evidence.upkeep_tally import UpkeepTally
from hcefs.ids import AccountId
from hcefs.ledger.anchored import find_anchor
from hcefs.ledger.block import PROTOCOL_RIGHTS
from hcefs.ledger.cluster_facts import ReceiptAnchor
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.rows import SubmitResult
from hcefs.ledger.transactions import Transaction
from hcefs.ledger.transactions_receipts import AnchorReceipts
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.receipt_log import ReceiptLog
from hcefs.store.receipts import AnchorNote
from hcefs.upkeep.worker import Progress

LOOK_SECONDS = 1.0
"""How often it is looked whether there is something to anchor."""

RETRY_SECONDS = 5.0
"""After a submission that failed."""

HASTE_SECONDS = 2.0
"""Between anchors that somebody waits for: who asks again and again fills no ledger."""

HOUR_SECONDS = 3600.0
log = logging.getLogger(__name__)


class ReceiptAnchorer:
    """The anchors of one node."""

    name = "anchor"
    idle_seconds = LOOK_SECONDS

    def __init__(
        self,
        runtime: Runtime,
        receipts: ReceiptLog,
        ledger: LedgerLog,
        tally: UpkeepTally,
        metrics: Metrics,
        me: AccountId,
        require_fresh: Callable[[], None],
        submit: Callable[[Transaction], Awaitable[SubmitResult]],
        interval_seconds: float,
        receipts_min: int = BATCH_RECEIPTS_MAX,
    ) -> None:
        """Anchor once ``receipts_min`` wait, one waits ``interval_seconds``, or on :meth:`hasten`.

        ``require_fresh`` raises while this node's lease has run out.
        """
        self._runtime = runtime
        self._receipts = receipts
        self._ledger = ledger
        self._tally = tally
        self._metrics = metrics
        self._me = me
        self._require_fresh = require_fresh
        self._submit = submit
        self._interval = interval_seconds
        self._receipts_min = receipts_min
        self._begun = False
        self._since: float | None = None
        self._since_number = 0
        self._noted = 0
        self._not_before = 0.0
        self._hastened = False
        self._hasten_from = 0.0
        self._hour = runtime.monotonic()
        self._forked = False

    def gauges(self) -> None:
        """Report what waits."""
        self._metrics.set("receipts_unanchored", self.unanchored)
        self._metrics.set("receipt_anchor_age_seconds", self.age_seconds)
        self._metrics.set("receipt_bytes", self._bytes)
        self._metrics.set("receipts_forked", lambda: float(self._forked))

    def unanchored(self) -> int:
        """How many receipts the ledger does not have yet."""
        return self._receipts.unanchored(self._last())

    def age_seconds(self) -> float:
        """For how long the oldest of them has been waiting, as seen by this process."""
        return 0.0 if self._since is None else self._runtime.monotonic() - self._since

    def hasten(self) -> None:
        """Anchor what there is soon, because somebody asked for it to be proved."""
        self._hastened = True

    def warnings(self) -> list[str]:
        """What operators should know."""
        if not self._forked:
            return []
        return [
            "the ledger has receipts of this node that this disk does not have: another process "
            "ran under its account, or the disk was set back"
        ]

    def _bytes(self) -> int:
        head = self._receipts.head
        return head.bytes if head is not None else 0

    def _last(self) -> int:
        anchor = self._ledger.receipt_anchor(self._me)
        return anchor.batch.last if anchor is not None else 0

    async def work(self) -> Progress:
        """One look, and at most one batch."""
        try:
            self._require_fresh()
        except Unavailable:
            return Progress.IDLE  # what the replica has may be old: a start, or no ledger
        if not self._begun:
            await self._resume()
        await self._hourly()
        anchor = self._ledger.receipt_anchor(self._me)
        if anchor is not None and anchor.batch.last != self._noted:
            await self._runtime.disk(self._note, anchor)
            self._noted = anchor.batch.last
        waiting = self._receipts.unanchored(self._noted)
        self._watch(waiting)
        if not waiting or not self._is_rights():
            return Progress.IDLE
        if self._runtime.monotonic() < self._not_before:
            return Progress.IDLE
        hastened = self._hastened and self._runtime.monotonic() >= self._hasten_from
        due = waiting >= self._receipts_min or self.age_seconds() >= self._interval
        if not due and not hastened:
            return Progress.IDLE
        self._hastened = False
        self._hasten_from = self._runtime.monotonic() + HASTE_SECONDS
        return await self._anchor(anchor.batch if anchor is not None else None)

    async def _resume(self) -> None:
        """Learn where the chain ends, before the first request needs it."""
        try:
            await self._receipts.resume()
        except Unavailable as error:
            self._forked = error.reason == "receipts-forked"
            raise
        self._begun, self._forked = True, False

    async def _hourly(self) -> None:
        now = self._runtime.monotonic()
        if now - self._hour < HOUR_SECONDS:
            return
        drafts = self._tally.take(self._ledger.height)
        try:
            await self._receipts.write(drafts)
        except HcefsError:
            self._tally.give_back(drafts)
            raise
        self._hour = now

    def _watch(self, waiting: int) -> None:
        """Since when the oldest receipt waits: what is behind the last anchor came after it."""
        if not waiting:
            self._since = None
        elif self._since is None or self._since_number != self._noted:
            self._since = self._runtime.monotonic()
        self._since_number = self._noted

    def _is_rights(self) -> bool:
        schedule = self._ledger.protocol()
        return schedule.at(self._ledger.height + 1) >= PROTOCOL_RIGHTS

    async def _anchor(self, anchored: ReceiptBatch | None) -> Progress:
        batch = await self._receipts.cut(anchored)
        if batch is None:
            return Progress.IDLE
        try:
            await self._submit(AnchorReceipts(batch))
        except Conflict as error:
            # Most often this node's own, whose answer was lost: the replica will tell.
            self._metrics.count("receipt_anchors_total", outcome=error.reason)
            log.warning("the ledger refuses an anchor: %s", error.reason)
            return Progress.IDLE
        except HcefsError as error:
            self._metrics.count("receipt_anchors_total", outcome=error.kind)
            log.warning("receipts are not anchored: %s (%s)", error.kind, error.reason)
            self._not_before = self._runtime.monotonic() + RETRY_SECONDS
            return Progress.IDLE
        crash_point(CrashPoint.ANCHOR_SUBMITTED)
        self._metrics.count("receipt_anchors_total", outcome="ok")
        return Progress.IDLE

    def _note(self, anchor: ReceiptAnchor) -> None:
        store = self._receipts.store
        if store.noted(anchor.batch.last) is None:
            proof = None
            if anchor.height > self._ledger.base_height:
                proof = find_anchor(self._ledger.block(anchor.height), anchor.batch)
            encoded = proof.encode() if proof is not None else b""
            store.note(AnchorNote(anchor.batch, anchor.height, encoded))
            crash_point(CrashPoint.ANCHOR_NOTED)
