"""Named places at which a test may kill this process, in the middle of a change on disk.

Owns the list of all crash points and whether one is armed.  Every change on disk that has
more than one step names the moments between its steps; a matrix test kills the real process
at each one, starts it again and checks what it finds (``tests/crash``).

A test facility: nothing is armed unless the process was started with ``HCEFS_CRASH_POINT``
set to ``<name>`` or ``<name>:<hit>`` (the process dies at that hit of the point, the first
one by default).  Unarmed, a point costs one comparison.

Invariants:

* A point stands *between* two steps: what is before it has been done, what is after it has
  not been begun.
* Death is SIGKILL, from whatever thread arrives: no ``finally``, no exit handler, no flush.
* Names are never reused for another moment; the test holds a copy of the list, so that a
  point that disappears, or that nothing reaches any more, is noticed.

Not guaranteed: loss of what was written and not synchronised.  The page cache survives the
process, so that fsyncs are proved by recording the calls instead.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
import threading
from collections.abc import Mapping

from hcefs.errors import Invalid

VARIABLE = "HCEFS_CRASH_POINT"

log = logging.getLogger(__name__)


class CrashPoint(enum.Enum):
    """Every crash point: the change, and what has just been done."""

    # hcefs.store.files
    SHARD_BEGUN = "shard/begun"
    SHARD_DATA_WRITTEN = "shard/data-written"
    SHARD_SYNCED = "shard/synced"
    SHARD_LINKED = "shard/linked"
    SHARD_FOLDER_SYNCED = "shard/folder-synced"
    SHARD_UNLINKED = "shard/unlinked"
    QUARANTINE_LINKED = "quarantine/linked"
    QUARANTINE_UNLINKED = "quarantine/unlinked"
    # hcefs.store.keys
    ERASE_TOMBSTONES = "erase/tombstones"
    ERASE_FLUSHED = "erase/flushed"
    ERASE_COMPACTED = "erase/compacted"
    ERASE_REOPENED = "erase/reopened"
    ERASE_CHECKED = "erase/checked"
    # hcefs.stripes.holder
    BLOB_PENDING = "blob/pending"
    BLOB_SHARD = "blob/shard"
    BLOB_KEY_ROW = "blob/key-row"
    BLOB_ROWS = "blob/rows"
    OPENING_PENDING = "opening/pending"
    OPENING_ROWS = "opening/rows"
    BOX_RECORD = "box/record"
    BOX_KEPT = "box/kept"
    # hcefs.stripes.pack_holder
    PACK_PENDING = "pack/pending"
    PACK_SHARD = "pack/shard"
    PACK_KEYS = "pack/keys"
    PACK_ROWS = "pack/rows"
    # hcefs.upkeep.collect
    COLLECT_ROWS = "collect/rows"
    COLLECT_KEYS = "collect/keys"
    COLLECT_SHARDS = "collect/shards"
    COLLECT_SETTLED = "collect/settled"
    # hcefs.stripes.adopt
    ADOPT_PENDING = "adopt/pending"
    ADOPT_SHARD = "adopt/shard"
    ADOPT_KEYS = "adopt/keys"
    ADOPT_ROWS = "adopt/rows"
    # hcefs.upkeep.rebalance
    SEAT_FILLED = "rebalance/filled"
    SEAT_REPORTED = "rebalance/reported"
    # hcefs.upkeep.retire
    RETIRE_ROWS = "retire/rows"
    RETIRE_KEYS = "retire/keys"
    RETIRE_SHARDS = "retire/shards"
    RETIRE_NAMES = "retire/names"
    RETIRE_INDEX = "retire/index"
    RETIRE_BOXES = "retire/boxes"
    # hcefs.upkeep.reprofile: the mover
    REPROFILE_BEGUN = "reprofile/begun"
    REPROFILE_WRITTEN = "reprofile/written"
    REPROFILE_SIGNED = "reprofile/signed"
    REPROFILE_STAGED = "reprofile/staged"
    REPROFILE_PLACED = "reprofile/placed"
    REPROFILE_ENTERED = "reprofile/entered"
    # hcefs.stripes.relayout: each holder
    STAGE_NAMED = "relayout/stage-named"
    STAGE_SHARD = "relayout/stage-shard"
    PLACE_KEYS = "relayout/place-keys"
    PLACE_ROWS = "relayout/place-rows"
    ENTER_LAYOUT = "relayout/enter-layout"
    DROP_SHARDS = "relayout/drop-shards"
    DROP_NAMED = "relayout/drop-named"
    # hcefs.upkeep.replaced
    REPLACED_NAMES = "replaced/names"
    REPLACED_SHARDS = "replaced/shards"
    REPLACED_MARK = "replaced/mark"
    # hcefs.upkeep.stand_in, hcefs.upkeep.bring_home
    STAND_IN_OFFERED = "stand-in/offered"
    STAND_IN_TAKEN = "stand-in/taken"
    STAND_IN_DELETED = "stand-in/deleted"
    STAND_IN_UNMARKED = "stand-in/unmarked"
    STAND_IN_ROWS_DELETED = "stand-in/rows-deleted"
    STAND_IN_RECORD_UNMARKED = "stand-in/record-unmarked"
    # hcefs.upkeep.scrub_shards, hcefs.upkeep.scrub_state, hcefs.upkeep.quarantine
    SCRUB_NOTED = "scrub/noted"
    SCRUB_SET_ASIDE = "scrub/set-aside"
    SCRUB_TOLD = "scrub/told"
    SCRUB_CURSOR = "scrub/cursor"
    QUARANTINE_DISCARDED = "quarantine/discarded"
    QUARANTINE_FORGOTTEN = "quarantine/forgotten"
    # hcefs.upkeep.damage, hcefs.upkeep.repair
    DAMAGE_ENTERED = "damage/entered"
    DAMAGE_SETTLED = "damage/settled"
    REPAIR_RESTORED = "repair/restored"
    # hcefs.store.recovery, hcefs.upkeep.restore
    RESTORING_DRAFT = "restoring/draft"
    RESTORING_MARKED = "restoring/marked"
    RESTORING_SET_ASIDE = "restoring/set-aside"
    RESTORING_EMPTY = "restoring/empty"
    RESTORING_UNNAMED = "restoring/unnamed"
    RESTORING_ROW = "restoring/row"
    RESTORING_UNMARKED = "restoring/unmarked"
    # hcefs.upkeep.erase, hcefs.upkeep.erase_rows
    ERASURE_NOTED = "erasure/noted"
    ERASURE_KEYS = "erasure/keys"
    ERASURE_KEYS_GONE = "erasure/keys-gone"
    ERASURE_MARKED = "erasure/marked"
    ERASURE_ROWS = "erasure/rows"
    ERASURE_SHARDS = "erasure/shards"
    ERASURE_NAMES = "erasure/names"
    ERASURE_UNMARKED = "erasure/unmarked"
    ERASURE_INDEX = "erasure/index"
    ERASURE_PURGED = "erasure/purged"
    ERASURE_DONE = "erasure/done"
    # hcefs.stripes.placed
    MIGRATE_PAGE = "migrate/page"
    MIGRATE_MARK = "migrate/mark"
    # hcefs.store.receipt_log, hcefs.upkeep.anchor
    RECEIPTS_MADE = "receipts/made"
    RECEIPTS_WRITTEN = "receipts/written"
    RECEIPTS_CUT = "receipts/cut"
    ANCHOR_SUBMITTED = "receipts/anchor-submitted"
    ANCHOR_NOTED = "receipts/anchor-noted"
    # hcefs.ledger.writer, hcefs.ledger.follower
    BLOCK_SIGNED = "ledger/block-signed"
    BLOCK_WRITTEN = "ledger/block-written"
    HEAD_SIGNED = "ledger/head-signed"
    HEAD_WRITTEN = "ledger/head-written"
    FOLLOWED_VERIFIED = "follower/verified"
    FOLLOWED_WRITTEN = "follower/written"
    FOLLOWED_TOLD = "follower/told"
    # hcefs.ledger.log
    TERM_BEGUN = "term/begun"
    TERM_SUPERSEDED = "term/superseded"

    # A snapshot of the ledger is made, and a new replica begins with one.
    SNAPSHOT_PART_KEPT = "snapshot/part-kept"
    SNAPSHOT_MADE = "snapshot/made"
    SNAPSHOT_PART_WRITTEN = "snapshot/part-written"
    SNAPSHOT_BUILT = "snapshot/built"
    SNAPSHOT_RENAMED = "snapshot/renamed"


class _Armed:
    """One point, and how many hits of it the process survives."""

    def __init__(self, point: CrashPoint, hit: int) -> None:
        self.point = point
        self._left = hit
        self._lock = threading.Lock()

    def arrive(self, point: CrashPoint) -> None:
        if point is not self.point:
            return
        with self._lock:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
                # Another thread may have to deliver it: nothing more happens here.
                threading.Event().wait()


_armed: _Armed | None = None


def crash_point(point: CrashPoint) -> None:
    """Die here if this point is armed."""
    if _armed is not None:
        _armed.arrive(point)


def arm_from_environment(environment: Mapping[str, str] = os.environ) -> CrashPoint | None:
    """Arm what the environment asks for, once, at the start of a process; None: nothing.

    Raises:
        Invalid: reason ``bad-crash-point``.
    """
    global _armed
    wanted = environment.get(VARIABLE, "")
    if not wanted:
        return None
    name, _, hit = wanted.partition(":")
    points = {point.value: point for point in CrashPoint}
    if name not in points or not (hit == "" or (hit.isascii() and hit.isdigit() and int(hit))):
        raise Invalid(
            f"{VARIABLE} is <crash point>[:<hit>], and hits count from 1: correct it or unset it",
            reason="bad-crash-point",
        )
    _armed = _Armed(points[name], int(hit or 1))
    log.critical("TEST FACILITY: this process kills itself at crash point %s", wanted)
    return points[name]
