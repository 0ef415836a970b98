"""Collect what the ledger does not and never will refer to: blobs that were never committed.

Invariant: a pending blob is deleted only when the *block time applied here* is
past its ``commit_by``, because from then on the state machine refuses its
append; and only when its commitment is not in the ledger at that height.  So a
slow append and the collector cannot race.  Boxes of dead grants go too: the
ledger is the tombstone, so they cannot come back.
"""

from __future__ import annotations

import logging

from hcefs.errors import Corrupt, Invalid
from hcefs.formats.keybox import KeyBox
from hcefs.formats.manifest import Core, Opening
from hcefs.ids import BlobBase, BlobId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.stripes.checks import Replica
from hcefs.stripes.holder import PENDING_BLOB
from hcefs.upkeep.worker import Progress

UNIT_ROWS = 256
log = logging.getLogger(__name__)


class Collector:
    """Deletes expired pending blobs and openings, and marks committed ones as settled."""

    name = "collect"

    def __init__(
        self, runtime: Runtime, stores: Stores, replica: Replica, metrics: Metrics
    ) -> None:
        self._runtime = runtime
        self._stores = stores
        self._replica = replica
        self._metrics = metrics

    async def work(self) -> Progress:
        """One unit: at most ``UNIT_ROWS`` pending rows that are due, then dead boxes."""
        done = await self._runtime.disk(self._pending)
        done += await self._runtime.disk(self._dead_boxes)
        return Progress.BUSY if done >= UNIT_ROWS else Progress.IDLE

    def _pending(self) -> int:
        rows = self._stores.rows
        due = self._replica.time_ms
        done = 0
        for key, _ in rows.scan(Table.PENDING, limit=UNIT_ROWS):
            if int.from_bytes(key[:8], "big") >= due:
                break
            kind, name = key[8:9], key[9:]
            done += 1
            try:
                if kind == PENDING_BLOB:
                    self._settle_blob(BlobId(name[:-1]), name[-1])
                else:
                    self._settle_opening(name)
            except (Corrupt, Invalid) as error:
                # Its row is kept for repair and must not block those behind it.
                log.error("cannot settle a pending row: %s (%s)", error.kind, error.reason)
                continue
            rows.delete([(Table.PENDING, key)])
        return done

    def _settle_blob(self, blob: BlobId, index: int) -> None:
        base = bytes(blob.base)
        opening = self._stores.rows.get(Table.OPENINGS, base)
        if opening is not None and self._committed(opening):
            return
        core = self._stores.rows.get(Table.CORES, base)
        if core is not None and Core.decode(core).commit_by_ms >= self._replica.time_ms:
            # A pending row that a refused put of the same id left: what is here may still
            # be committed, and has a pending row of its own.
            return
        # Rows first: without them the shard is invisible, whatever happens next.
        self._stores.rows.delete(
            [(Table.CORES, base), (Table.LAYOUTS, base), (Table.OPENINGS, base)]
        )
        self._stores.keys.delete([(KeyTable.KEY_ROWS, bytes(blob))])
        if self._stores.shards.remove(BlobBase(base), index):
            self._metrics.count("collected_blobs_total")
            log.info("collected %s index %d: never committed", blob, index)

    def _settle_opening(self, name: bytes) -> None:
        opening = self._stores.rows.get(Table.INDEX, name)
        if opening is not None and not self._committed(opening):
            self._stores.rows.delete([(Table.INDEX, name)])

    def _committed(self, opening: bytes) -> bool:
        value = Opening.decode(opening)
        return self._replica.leaf_index(value.record, value.commitment()) is not None

    def _dead_boxes(self) -> int:
        """Really delete boxes whose grant is revoked or has expired in block time."""
        dead = []
        after: bytes | None = None
        while page := self._stores.keys.scan(KeyTable.BOXES, after=after, limit=UNIT_ROWS):
            for key, value in page:
                grant = self._replica.grant(KeyBox.decode(value).grant)
                # A grant that is unknown here is one that this replica has not replayed yet:
                # holders accept no box without its grant.
                if grant is not None and (
                    grant.revoked_height or grant.not_after_ms <= self._replica.time_ms
                ):
                    dead.append((KeyTable.BOXES, key))
            after = page[-1][0]
        if dead:
            self._stores.keys.delete(dead)
            log.info("deleted %d key boxes of dead grants", len(dead))
        return len(dead)

    def pending(self) -> int:
        """Number of blobs here that wait for their append, up to a bound."""
        count = 0
        for key, _ in self._stores.rows.scan(Table.PENDING, limit=10_000):
            if key[8:9] != PENDING_BLOB:
                continue
            opening = self._stores.rows.get(Table.OPENINGS, key[9:25])
            if opening is None or not self._committed(opening):
                count += 1
        return count
