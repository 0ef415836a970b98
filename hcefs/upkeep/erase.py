"""Erase what this node holds of records that the ledger says are erased.

The order is: key boxes, key links and sealed data keys first (from then on nobody opens
anything of the record from this disk), then openings and manifests, then shards.  Keys are
deleted really (:mod:`hcefs.store.keys`); of the other rows the tables are rewritten.  At the
end everything is looked through once more, and only if nothing is found the record counts as
erased here, which the node's statement says (:mod:`hcefs.evidence.erasure`).

Invariants: the ledger is the tombstone, so a node that was away catches up by itself, and
answers nobody before the keys are gone (:meth:`Eraser.require_settled`); what is stored at
the moment of the erasure is found (:mod:`hcefs.stripes.storing`); a stop at any moment is
repeated from the stage that was noted.

Not guaranteed: what the device keeps of blocks that it no longer shows, and copies of the
disk that were made before.
Source: docs/decisions/0036-erasure-and-legal-hold.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from hcefs.access.erasure_facts import Erasure
from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import HcefsError, Unavailable
from hcefs.formats.erasure import ErasureProgress, ErasureStage
from hcefs.ids import RecordId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.transfers import whole
from hcefs.upkeep.erase_rows import (
    BaseEraser,
    FoundBase,
    FoundKey,
    erase_listing,
    found_bases,
    found_keys,
    listed,
    page_of_marks,
)
from hcefs.upkeep.worker import Progress

RECORDS_AT_ONCE = 64
"""Erased together, by one pass over the tables."""

KEYS_AT_ONCE = 4096
"""Deleted by one call: each costs a compaction."""

BASES_AT_ONCE = 64
AGAIN_SECONDS = 30.0
"""Before a record of which something is left is looked for again."""

DONE = b"erased/"
_PURGED = (
    Table.CORES,
    Table.LAYOUTS,
    Table.OPENINGS,
    Table.INDEX,
    Table.PENDING,
    Table.META,
    Table.STAGED,
    Table.SCRUB,
)
_KINDS = {
    KeyTable.BOXES: "boxes",
    KeyTable.LINKS: "links",
    KeyTable.KEY_ROWS: "key_rows",
    KeyTable.PACK_ENVELOPES: "key_rows",
}
"""What a key counts as; an envelope is the key row of all its payloads."""

_LAST = RecordId(b"\xff" * RecordId.SIZE)

log = logging.getLogger(__name__)


class Erasures(Protocol):
    """The ledger as an eraser needs it."""

    @property
    def height(self) -> int:
        """The height that has been applied here."""

    def erasure(self, record: RecordId) -> Erasure | None:
        """That a record was erased, or None."""

    def erased_after(self, height: int, record: RecordId, limit: int) -> list[Erasure]:
        """Erasures in order of height and record, behind this one; at most ``limit``."""


class Eraser:
    """Erases records on one node."""

    name = "erase"
    idle_seconds = 1.0

    def __init__(
        self,
        runtime: Runtime,
        view: Erasures,
        stores: Stores,
        pending: PendingNames,
        metrics: Metrics,
        forget: Callable[..., None] = lambda *_: None,
        caught_up: Callable[[], bool] = lambda: True,
        set_aside: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        """``forget`` is told of the bases of packs whose rows changed; ``caught_up`` says
        whether what was committed before this start is known here; ``set_aside`` names
        databases that did not open and were kept under another name."""
        self._caught_up = caught_up
        self._set_aside = set_aside
        self._rest_until = 0.0
        self._runtime = runtime
        self._view = view
        self._stores = stores
        self._pending = pending
        self._metrics = metrics
        self._bases = BaseEraser(stores, pending, forget)
        self._seen = 0
        self._behind = (0, RecordId.zero())
        self._keys_behind = (0, RecordId.zero())
        self._is_settled = False
        self._sweep: Iterator[None] | None = None

    # -- the worker

    async def work(self) -> Progress:
        """One page of a sweep; a new sweep begins when the ledger has more to erase."""
        if self._sweep is None:
            height = self._view.height
            if height == self._seen or self._runtime.monotonic() < self._rest_until:
                return Progress.IDLE
            waiting = await self._runtime.disk(self._waiting)
            self._metrics.set("erasures_waiting", len(waiting))
            if not waiting:
                self._seen = height
                # All up to it are done, so that the next look has little to go through.
                self._behind = max(self._behind, (height, _LAST))
                return Progress.IDLE
            self._sweep = self._swept(waiting)
        sweep = self._sweep
        self._sweep = None
        # If it fails, the next one begins anew: every step may be repeated.
        if await whole(self._runtime, lambda: self._goes_on(sweep)):
            self._sweep = sweep
        return Progress.BUSY

    @staticmethod
    def _goes_on(sweep: Iterator[None]) -> bool:
        """Whether a sweep has more to do after one step of it."""
        try:
            next(sweep)
        except StopIteration:
            return False
        return True

    def _waiting(self) -> list[Erasure]:
        """The next erasures that are not done here; few records are ever erased."""
        found: list[Erasure] = []
        behind = self._behind
        while len(found) < RECORDS_AT_ONCE:
            page = self._view.erased_after(*behind, RECORDS_AT_ONCE)
            for erasure in page:
                behind = (erasure.height, erasure.record)
                known = self.progress(erasure.record)
                if known is None or known.stage is not ErasureStage.DONE:
                    found.append(erasure)
                elif not found:
                    self._behind = behind
            if len(page) < RECORDS_AT_ONCE:
                break
        return found[:RECORDS_AT_ONCE]

    # -- what is asked of it

    def progress(self, record: RecordId) -> ErasureProgress | None:
        """How far the erasure of a record is here; None before it began."""
        data = self._stores.rows.get(Table.META, DONE + bytes(record))
        if data is None:
            return None
        try:
            return ErasureProgress.decode(data)
        except HcefsError:
            # The scrub empties markers that were damaged: the record is looked for again.
            return None

    def require_settled(self) -> None:
        """Check that the keys of all records erased before this node came back are gone here.

        Once it is so after a start it stays so: what is erased later is erased while this
        node serves, and nobody gets anything of it.

        Raises:
            Unavailable: ``erasing``.
        """
        if self._is_settled:
            return
        if not self._caught_up():
            raise Unavailable(
                "this node has not heard from the ledger since it started, so a record may have "
                "been erased that it still has keys of: try another node",
                reason="erasing",
            )
        while page := self._view.erased_after(*self._keys_behind, RECORDS_AT_ONCE):
            for erasure in page:
                known = self.progress(erasure.record)
                if known is None or known.stage is ErasureStage.KEYS:
                    raise Unavailable(
                        "this node was away while a record was erased, and deletes its keys "
                        "before it serves: ask another one",
                        reason="erasing",
                    )
                self._keys_behind = (erasure.height, erasure.record)
        self._is_settled = True

    # -- one sweep

    def _swept(self, erasures: Sequence[Erasure]) -> Iterator[None]:
        """Erase some records, in bounded steps on disk threads."""
        known = {each.record: self._noted(each) for each in erasures}
        crash_point(CrashPoint.ERASURE_NOTED)
        # Who decided before these erasures were known here has stored what it stores by then.
        self._pending.storing.barrier()
        yield
        yield from self._keys(known)
        for record, progress in known.items():
            if progress.stage is ErasureStage.KEYS:
                known[record] = replace(progress, stage=ErasureStage.ROWS)
        self._note(known)
        crash_point(CrashPoint.ERASURE_KEYS_GONE)
        yield
        yield from self._rows(known)
        self._stores.rows.purge(_PURGED)
        crash_point(CrashPoint.ERASURE_PURGED)
        yield
        left = 0
        for page in found_keys(self._stores, known):
            left += len(page)
            yield
        for bases in found_bases(self._stores, known):
            left += len(bases)
            yield
        left += listed(self._stores, known) + len(page_of_marks(self._stores))
        aside = self._set_aside()
        if left or aside:
            self._rest_until = self._runtime.monotonic() + AGAIN_SECONDS
            log.warning(
                "%d rows of erased records are left, and databases that were set aside (%s) may "
                "hold their keys: remove those; looking again later",
                left, ", ".join(aside) or "none",
            )  # fmt: skip
            return
        now = self._runtime.now_ms()
        for record, progress in known.items():
            known[record] = replace(progress, stage=ErasureStage.DONE, done_ms=now)
        self._note(known)
        crash_point(CrashPoint.ERASURE_DONE)
        self._metrics.count("erased_records_total", len(known))
        for record, progress in known.items():
            log.info("record %s, erased at height %d: nothing is left", record, progress.height)

    def _noted(self, erasure: Erasure) -> ErasureProgress:
        """The progress of an erasure, begun if it was not."""
        known = self.progress(erasure.record)
        if known is None or known.height != erasure.height:
            known = ErasureProgress(
                erasure.record, erasure.height, ErasureStage.KEYS, 0, 0, 0, 0, 0, 0
            )
            self._note({erasure.record: known})
        return known

    def _note(self, known: dict[RecordId, ErasureProgress]) -> None:
        self._stores.rows.put(
            [(Table.META, DONE + bytes(record), each.encode()) for record, each in known.items()]
        )

    def _keys(self, known: dict[RecordId, ErasureProgress]) -> Iterator[None]:
        """Delete all keys.  Those of packs are found last, through rows that are still there."""
        batch: dict[tuple[KeyTable, bytes], FoundKey] = {}
        for page in found_keys(self._stores, known):
            batch.update({(table, key): (record, table, key) for record, table, key in page})
            if len(batch) >= KEYS_AT_ONCE:
                self._delete_keys(known, list(batch.values()))
                batch.clear()
            yield
        # Also an empty one: it completes a deletion that was interrupted.
        self._delete_keys(known, list(batch.values()))
        yield

    def _delete_keys(
        self, known: dict[RecordId, ErasureProgress], found: Sequence[FoundKey]
    ) -> None:
        self._stores.keys.delete([(table, key) for _, table, key in found])
        crash_point(CrashPoint.ERASURE_KEYS)
        for record, table, _ in found:
            kind, progress = _KINDS[table], known[record]
            known[record] = replace(progress, **{kind: getattr(progress, kind) + 1})
            self._metrics.count("erased_keys_total", kind=kind)
        self._note(known)

    def _rows(self, known: dict[RecordId, ErasureProgress]) -> Iterator[None]:
        while marks := page_of_marks(self._stores):
            self._bases.finish(marks)
            yield
        for bases in found_bases(self._stores, known):
            # By record, so that what is counted is counted for it.
            of_record: dict[RecordId, list[FoundBase]] = {}
            for base in bases:
                record = base.single or next(iter(base.slots))
                of_record.setdefault(record, []).append(base)
            for record, some in of_record.items():
                for first in range(0, len(some), BASES_AT_ONCE):
                    erased = self._bases.erase(some[first : first + BASES_AT_ONCE])
                    self._counted(known, record, *erased)
                    self._note(known)
                    yield
            yield
        for record in known:
            for count in erase_listing(self._stores, self._pending, record):
                self._counted(known, record, count, 0)
                yield
        self._note(known)

    def _counted(
        self, known: dict[RecordId, ErasureProgress], record: RecordId, openings: int, shards: int
    ) -> None:
        was = known[record]
        known[record] = replace(was, openings=was.openings + openings, shards=was.shards + shards)
        if openings:
            self._metrics.count("erased_openings_total", openings)
        if shards:
            self._metrics.count("erased_shards_total", shards)
