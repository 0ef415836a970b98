"""What the scrub makes of one shard: intact, damaged, without rows, or of rows that disagree.

Owns the verdicts and what follows from them at once: a damaged file is set aside with its
note, rows that do not prove themselves are put away, and whatever is to be restored is
told to whoever repairs.  Nothing is deleted here.

Invariants: a verdict on rows is spoken under the base's lock, so a put that has given its
file a name and not yet written its rows is never called an orphan; a file of a newer
version is reported and left alone; one shard that cannot be judged stops no other.

Not guaranteed: that a shard of a former layout is what that layout said (its digests are
gone with it); it is compared with itself.
"""

from __future__ import annotations

import logging
from typing import Protocol

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Corrupt, HcefsError, NotFound
from hcefs.ids import BlobBase
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores, Table
from hcefs.stripes.adopt import Adopter
from hcefs.stripes.exports import Exporter
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import shard_key, staged_key
from hcefs.stripes.shard_check import ShardCheck
from hcefs.stripes.transfers import whole
from hcefs.upkeep.scrub_rows import put_rows_away
from hcefs.upkeep.scrub_state import ScrubLog
from hcefs.upkeep.set_aside import SettingAside, ShardFile

ORPHAN_SECONDS = 86_400.0
"""How long a file may lie without rows before it is set aside: moves and restarts are shorter."""

log = logging.getLogger(__name__)


class Found(Protocol):
    """Takes what is to be restored on this node.  Thread-safe; called on a disk thread."""

    def found(self, base: BlobBase, index: int, profile: str, reason: str) -> None:
        """A shard of this node is missing or damaged.  May be repeated."""


class ShardJudge:
    """Speaks and carries out verdicts on the shards of one node."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        exporter: Exporter,
        adopter: Adopter,
        pending: PendingNames,
        scrub_log: ScrubLog,
        aside: SettingAside,
        queue: Found,
        metrics: Metrics,
    ) -> None:
        self._runtime = runtime
        self._stores = stores
        self._exporter = exporter
        self._adopter = adopter
        self._pending = pending
        self._log = scrub_log
        self._aside = aside
        self._queue = queue
        self._metrics = metrics

    async def rows(self, shard: ShardFile, check: ShardCheck) -> str:
        """Judge the rows of a shard whose bytes are intact: what is wrong, empty for nothing.

        Raises:
            Unavailable: the disk failed.
        """
        reason = await whole(self._runtime, lambda: self._placed(shard))
        if reason is not None:
            return reason
        profile = check.header.profile
        try:
            rows = await self._exporter.load_rows(shard.base, profile)
            wanted = await self._runtime.compute(self._adopter.check, shard.base, rows)
        except NotFound as error:
            if error.reason == "not-committed":
                return ""  # expired: the collector's
            return await whole(self._runtime, lambda: self._put_rows_away(shard, "missing-row"))
        except Corrupt as error:
            reason = error.reason
            return await whole(self._runtime, lambda: self._put_rows_away(shard, reason))
        except HcefsError as error:
            if error.retryable:
                raise
            # Rows that are whole and yet not believed here: no reason to touch them.
            log.warning("the rows of %s do not prove themselves: %s", shard.base, error.reason)
            self.note("unproven")
            return "unproven"
        if wanted.profile != profile or wanted.form != shard.form:
            return ""  # of a layout that is not in force
        if check.footer.shard_digest != wanted.shard_digests[shard.index]:
            return await self.damaged(shard, "wrong-digest")
        return ""

    def _placed(self, shard: ShardFile) -> str | None:
        """Whether rows lead to a file: None when they do, else what it is."""
        rows = self._stores.rows
        with self._pending.locked([bytes(shard.base)]):
            try:
                placed = rows.get(Table.PLACED, shard_key(shard.base, shard.index, shard.form))
            except Corrupt:
                return ""  # its table's turn comes
            if placed is not None:
                self._log.no_orphan(shard.base, shard.index, shard.form)
                return None
            if (
                shard.form
                and rows.get(Table.STAGED, staged_key(shard.base, shard.form)) is not None
            ):
                return ""  # of a layout that is being made
            if not self._stores.shards.has(shard.base, shard.index, shard.form):
                return ""  # gone meanwhile
            since = self._log.orphan_since(shard.base, shard.index, shard.form)
        profile = self._aside.profile(shard)
        if self._runtime.now_ms() - since < ORPHAN_SECONDS * 1000:
            # The others may know it: then it is adopted as it lies here.
            self._tell(shard, profile, "orphan")
        else:
            self._aside.set_aside(shard, "orphan")
            self._log.no_orphan(shard.base, shard.index, shard.form)
        self.note("orphan")
        return "orphan"

    def _put_rows_away(self, shard: ShardFile, reason: str) -> str:
        profile = self._aside.profile(shard)
        with self._pending.locked([bytes(shard.base)]):
            put_rows_away(self._stores.rows, shard.base)
            self._aside.forget(shard.base)
        self._tell(shard, profile, reason)
        self.note(reason)
        return reason

    async def damaged(self, shard: ShardFile, reason: str) -> str:
        """Set a damaged file aside and have it restored; the reason again."""
        await whole(self._runtime, lambda: self._damaged(shard, reason))
        return reason

    def _damaged(self, shard: ShardFile, reason: str) -> None:
        self.note(reason)
        self._metrics.count("corrupt_shards_total")
        if reason == "unknown-version":
            log.error("shard %s index %d is of a newer version: upgrade", shard.base, shard.index)
            return
        profile = self._aside.profile(shard)
        if reason == "disk-error":
            # A disk that fails says nothing of the shard, which may be intact: the repair
            # reads it again, minutes later, and sets it aside when it still cannot.
            self._tell(shard, profile, reason)
            return
        try:
            self._aside.set_aside(shard, reason)
        except HcefsError as error:
            # Also where the disk refuses that: the others can still give what it held.
            log.error("a damaged shard cannot be set aside: %s", error.reason)
        self._tell(shard, profile, reason)
        crash_point(CrashPoint.SCRUB_TOLD)

    def restore(self, base: BlobBase, index: int, form: str, profile: str) -> None:
        """The rows of a shard were put away: they are to come from the other holders."""
        shard = ShardFile(base, index, form)
        self._aside.forget(base)
        self._tell(shard, profile or self._aside.profile(shard), "bad-row")

    def missing(self, base: BlobBase, index: int, form: str, profile: str) -> bool:
        """Whether a shard that a row names is not here; it is then to be restored."""
        with self._pending.locked([bytes(base)]):
            key = shard_key(base, index, form)
            if self._stores.rows.get(Table.PLACED, key) is None:
                return False
            if self._stores.shards.has(base, index, form):
                return False
        self._tell(ShardFile(base, index, form), profile, "missing")
        self.note("missing")
        return True

    def _tell(self, shard: ShardFile, profile: str, reason: str) -> None:
        if not profile:
            log.error("shard %s index %d is of no known profile", shard.base, shard.index)
            return
        try:
            self._queue.found(shard.base, shard.index, profile, reason)
        except HcefsError as error:
            log.error("a damaged shard cannot be entered for repair: %s", error.reason)

    def note(self, kind: str) -> None:
        """Count what was found."""
        self._metrics.count("scrub_found_total", kind=kind)
