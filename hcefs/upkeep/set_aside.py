"""Setting one shard file aside: the note that says why, then the file, then what was known of it.

Whoever finds a file damaged, the scrub or the repair, sets it aside here, so that all of
them do it in one order.

Invariants: under the base's lock, so that no put, move or new layout gives the file its
name at the same moment; the note is on disk before the file moves, so that none lies in
quarantine of which nobody knows since when; what was kept in memory of the base is
forgotten before the lock is released.

Not guaranteed: that what was set aside is damaged.  Whoever calls has read it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Corrupt, HcefsError, NotFound
from hcefs.formats.shard import HEADER_SIZE, ShardHeader
from hcefs.ids import BlobBase
from hcefs.store.interface import FORM_FIRST, Stores, Table
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import form_here, shard_key
from hcefs.upkeep.scrub_state import AsideNote, ScrubLog

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class ShardFile:
    """A shard as the store names it."""

    base: BlobBase
    index: int
    form: str = FORM_FIRST


class SettingAside:
    """Sets shard files of one node aside.  For disk threads."""

    def __init__(
        self,
        stores: Stores,
        pending: PendingNames,
        scrub_log: ScrubLog,
        now_ms: Callable[[], int],
        forget: Callable[[BlobBase], None] = lambda _: None,
    ) -> None:
        """``forget`` is told of a base of which something was put away."""
        self._stores = stores
        self._pending = pending
        self._log = scrub_log
        self._now_ms = now_ms
        self.forget = forget

    def set_aside(self, shard: ShardFile, reason: str) -> bool:
        """Set a file aside; False when it is not there (any more).

        Raises:
            HcefsError: the disk failed.
        """
        profile = self.profile(shard)
        with self._pending.locked([bytes(shard.base)]):
            return self._move(shard, profile, reason)

    def set_aside_under(self, base: BlobBase, index: int, profile: str, reason: str) -> bool:
        """The same with the file that rows name as a shard of a profile.

        Raises:
            HcefsError: the disk failed.
        """
        with self._pending.locked([bytes(base)]):
            form = form_here(self._stores.rows, base, index, profile)
            if form is None:
                return False
            return self._move(ShardFile(base, index, form), profile, reason)

    def _move(self, shard: ShardFile, profile: str, reason: str) -> bool:
        if not self._stores.shards.has(shard.base, shard.index, shard.form):
            return False
        note = AsideNote(shard.base, shard.index, shard.form, profile, reason, self._now_ms())
        self._log.set_aside(note)
        crash_point(CrashPoint.SCRUB_NOTED)
        try:
            self._stores.shards.quarantine(shard.base, shard.index, shard.form)
        except NotFound:
            return False
        self.forget(shard.base)
        crash_point(CrashPoint.SCRUB_SET_ASIDE)
        log.error("shard %s index %d was set aside: %s", shard.base, shard.index, reason)
        return True

    def profile(self, shard: ShardFile) -> str:
        """The profile of a shard, by its row, else by its form or header; empty if unknown."""
        try:
            placed = self._stores.rows.get(
                Table.PLACED, shard_key(shard.base, shard.index, shard.form)
            )
            if placed is not None:
                return placed.decode("ascii")
        except (Corrupt, UnicodeDecodeError):
            log.error("the row that names a shard is damaged")
        if shard.form:
            return shard.form
        try:
            reader = self._stores.shards.open(shard.base, shard.index, shard.form)
            try:
                return ShardHeader.decode(reader.read_at(0, HEADER_SIZE)).profile
            finally:
                reader.close()
        except HcefsError:
            return ""
