"""Collect what the ledger does not and never will refer to: blobs and packs never committed.

A pack is collected as a whole, when none of its openings was committed.

Invariant: a pending blob is deleted only when the *block time applied here* is
past its ``commit_by``, because from then on the state machine refuses its
append; and only when its commitment is not in the ledger at that height.  So a
slow append and the collector cannot race.  Boxes of dead grants go too: the
ledger is the tombstone, so they cannot come back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from hcefs.access.emergency import boxed_grant
from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Corrupt, Invalid
from hcefs.formats.keybox import KeyBox
from hcefs.formats.pack import PAYLOADS_MAX, PackOpening, decode_opening
from hcefs.ids import BlobBase, RecordId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.stripes.checks import Replica
from hcefs.stripes.pending import PENDING_BLOB, PENDING_PACK, PendingNames, index_name, latest_key
from hcefs.stripes.placed import shard_key
from hcefs.upkeep.quarantine import Planned
from hcefs.upkeep.worker import Progress

UNIT_ROWS = 256
UNIT_PACKS = 8
"""Each has up to a thousand rows, which are deleted together."""

PACK_ROWS = PAYLOADS_MAX + 1
"""More than a pack has in any table."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """One pending row: a blob id or a pack's base with an index, or a record and a blob id."""

    key: bytes
    kind: bytes
    name: bytes

    @property
    def subject(self) -> bytes:
        """What is locked and settled together: a base, or the opening's name."""
        return self.name[: BlobBase.SIZE] if self.stored else self.name

    @property
    def stored(self) -> bool:
        """Whether it is about a shard with its rows, and not an opening in a listing."""
        return self.kind in (PENDING_BLOB, PENDING_PACK)


@dataclass
class _Unit:
    """What one unit of work deletes."""

    rows: list[tuple[Table, bytes]] = field(default_factory=list)
    keys: list[tuple[KeyTable, bytes]] = field(default_factory=list)
    shards: list[tuple[BlobBase, int]] = field(default_factory=list)
    settled: list[tuple[Table, bytes]] = field(default_factory=list)


class Collector:
    """Deletes expired pending blobs and openings, and marks committed ones as settled."""

    name = "collect"
    idle_seconds = 15.0

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        replica: Replica,
        metrics: Metrics,
        pending: PendingNames,
    ) -> None:
        self._runtime = runtime
        self._stores = stores
        self._replica = replica
        self._metrics = metrics
        self._names = pending

    async def work(self) -> Progress:
        """One unit: at most ``UNIT_ROWS`` pending rows that are due, then dead boxes."""
        more = await self._runtime.disk(self._pending)
        dead = await self._runtime.disk(self._dead_boxes)
        return Progress.BUSY if more or dead >= UNIT_ROWS else Progress.IDLE

    async def unit(self) -> bool:
        """Settle one unit of pending rows now; whether there may be more."""
        return await self._runtime.disk(self._pending)

    def plan(self) -> list[Planned]:
        """What the next unit of pending rows and boxes would delete, and why; deletes nothing."""
        due = self._replica.time_ms
        planned = []
        for each in self._due(due):
            unit = _Unit()
            with self._names.locked([each.subject]):
                try:
                    self._settle(each, due, unit)
                except (Corrupt, Invalid) as error:
                    why = f"its rows cannot be read ({error.reason})"
                    planned.append(Planned("pending", _shown(each), 0, False, why))
                    continue
            if unit.shards or unit.rows:
                why = "no append came in time, and none can come any more"
                planned.append(Planned(_what(each), _shown(each), 0, True, why))
        for _, key in self._find_dead_boxes():
            why = "its grant is revoked or has run out, or its naming has ended"
            planned.append(Planned("key-box", key[: RecordId.SIZE].hex(), 0, True, why))
        return planned

    def _due(self, due: int) -> list[Waiting]:
        """A unit of pending rows whose time is past."""
        return [
            Waiting(key, key[8:9], key[9:])
            for key, _ in self._stores.rows.scan(Table.PENDING, limit=UNIT_ROWS)
            if int.from_bytes(key[:8], "big") < due
        ]

    def _pending(self) -> bool:
        """Settle one unit; whether there may be more."""
        # The time is read once, before anything is asked of the replica: what is not
        # committed at a later moment can then no longer be.
        due = self._replica.time_ms
        found = self._due(due)
        packs = [at for at, each in enumerate(found) if each.kind == PENDING_PACK]
        waiting = found[: packs[UNIT_PACKS]] if len(packs) > UNIT_PACKS else found
        unit = _Unit()
        with self._names.locked(each.subject for each in waiting):
            for each in waiting:
                try:
                    self._settle(each, due, unit)
                except (Corrupt, Invalid) as error:
                    # Its row is kept for repair and must not block those behind it.
                    log.error("cannot settle a pending row: %s (%s)", error.kind, error.reason)
            self._carry_out(unit)
        return bool(unit.settled) and (len(waiting) < len(found) or len(found) == UNIT_ROWS)

    def _settle(self, each: Waiting, due: int, unit: _Unit) -> None:
        """Enter what is to be deleted for one due row."""
        openings = self._openings(each)
        lost = [opening for opening in openings if not self._committed(opening)]
        if self._names.latest(each.kind, each.subject) < due:
            unit.settled.append((Table.META, latest_key(each.kind, each.subject)))
            if each.kind == PENDING_PACK:
                # They came with the pack, and are settled with it.
                records = [PackOpening.decode(opening).record for opening in lost]
                base = BlobBase(each.subject)
                unit.rows += [(Table.INDEX, index_name(record, base)) for record in records]
            if each.stored and len(lost) == len(openings):
                self._enter(each, unit)
            elif not each.stored and lost:
                unit.rows.append((Table.INDEX, each.name))
        unit.settled.append((Table.PENDING, each.key))

    def _openings(self, each: Waiting) -> list[bytes]:
        """The openings that commit what waits."""
        rows = self._stores.rows
        if each.kind == PENDING_PACK:
            # One for each record; a pack has a thousand at most.
            return [value for _, value in rows.scan(Table.OPENINGS, each.subject, limit=PACK_ROWS)]
        table = Table.OPENINGS if each.kind == PENDING_BLOB else Table.INDEX
        opening = rows.get(table, each.subject)
        return [] if opening is None else [opening]

    def _enter(self, each: Waiting, unit: _Unit) -> None:
        """Everything that is stored under a base."""
        base = each.subject
        unit.shards.append((BlobBase(base), each.name[-1]))
        unit.rows.append((Table.PLACED, shard_key(BlobBase(base), each.name[-1])))
        if each.kind == PENDING_BLOB:
            tables = (Table.CORES, Table.LAYOUTS, Table.OPENINGS)
            unit.rows += [(table, base) for table in tables]
            unit.keys.append((KeyTable.KEY_ROWS, each.name[:-1]))
            return
        unit.rows.append((Table.LAYOUTS, base))
        for table in (Table.CORES, Table.OPENINGS):
            found = self._stores.rows.scan(table, base, limit=PACK_ROWS)
            unit.rows += [(table, key) for key, _ in found]
        for keys in (KeyTable.KEY_ROWS, KeyTable.PACK_ENVELOPES):
            kept = self._stores.keys.scan(keys, base, limit=PACK_ROWS)
            unit.keys += [(keys, key) for key, _ in kept]

    def _carry_out(self, unit: _Unit) -> None:
        """Rows first: without them a shard is invisible, whatever happens next."""
        if unit.rows:
            self._stores.rows.delete(unit.rows)
            crash_point(CrashPoint.COLLECT_ROWS)
        if unit.keys:
            self._stores.keys.delete(unit.keys)
            crash_point(CrashPoint.COLLECT_KEYS)
        for base, index in unit.shards:
            if self._stores.shards.remove(base, index):
                self._metrics.count("collected_blobs_total")
                log.info("collected %s index %d: never committed", base, index)
        if unit.settled:
            crash_point(CrashPoint.COLLECT_SHARDS)
            self._stores.rows.delete(unit.settled)
            crash_point(CrashPoint.COLLECT_SETTLED)

    def _committed(self, opening: bytes) -> bool:
        value = decode_opening(opening)
        return self._replica.leaf_index(value.record, value.commitment()) is not None

    def _dead_boxes(self) -> int:
        """Really delete boxes whose grant is revoked or has expired in block time."""
        dead = self._find_dead_boxes()
        if dead:
            self._stores.keys.delete(dead)
            log.info("deleted %d key boxes of dead grants", len(dead))
        return len(dead)

    def _find_dead_boxes(self) -> list[tuple[KeyTable, bytes]]:
        dead: list[tuple[KeyTable, bytes]] = []
        after: bytes | None = None
        while page := self._stores.keys.scan(KeyTable.BOXES, after=after, limit=UNIT_ROWS):
            for key, value in page:
                grant = boxed_grant(self._replica, KeyBox.decode(value).grant)
                # A grant that is unknown here is one that this replica has not replayed yet:
                # holders accept no box without its grant.
                if grant is not None and (
                    grant.revoked_height or grant.not_after_ms <= self._replica.time_ms
                ):
                    dead.append((KeyTable.BOXES, key))
            after = page[-1][0]
        return dead

    def pending(self) -> int:
        """Number of blobs and packs here that wait for their append, up to a bound."""
        count = 0
        for key, _ in self._stores.rows.scan(Table.PENDING, limit=10_000):
            each = Waiting(key, key[8:9], key[9:])
            if each.stored and not any(map(self._committed, self._openings(each))):
                count += 1
        return count


def _what(each: Waiting) -> str:
    return {PENDING_BLOB: "blob", PENDING_PACK: "pack"}.get(each.kind, "listing")


def _shown(each: Waiting) -> str:
    """A name for people: of a base or of a blob; it says nothing of a record."""
    return each.subject[: BlobBase.SIZE].hex() if each.stored else each.name[-18:].hex()
