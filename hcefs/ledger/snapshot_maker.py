"""The background making of a replica's snapshots, one part at a time.

Invariants: commits never wait for it but for the writing of one part; a snapshot that a
stop or crash interrupts is made anew at the next start, if no block has come since, and
else the next one is that of the next due height; what it makes is compared with the root
that a header has named, whichever comes first.
Source: docs/decisions/0028-ledger-snapshots.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from hcefs.errors import Corrupt, HcefsError
from hcefs.integrity import blake3_digest
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.snapshot import PARTS_MAX, SnapshotManifest, cut
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime, end_tasks

LOOK_SECONDS = 1.0
"""How often it looks whether a snapshot is due."""
AGAIN_SECONDS = 30.0
"""After a failure of the log's disk."""

PAUSE_SECONDS = 0.02
"""Between parts, so that the disk's threads have time for others."""

_logger = logging.getLogger(__name__)


class SnapshotMaker:
    """Makes the snapshots of one log; ``distrust`` is told when one contradicts the writer."""

    def __init__(
        self, log: LedgerLog, runtime: Runtime, distrust: Callable[[Corrupt], None]
    ) -> None:
        self._log = log
        self._runtime = runtime
        self._distrust = distrust
        self._task: asyncio.Task[None] | None = None
        self.seconds = 0.0
        """How long the last one took to make."""

    def gauges(self, metrics: Metrics) -> None:
        """Let the process show how its snapshots stand."""
        metrics.set("ledger_snapshot_height", lambda: self._log.snapshots.height)
        metrics.set("ledger_snapshot_seconds", lambda: self.seconds)
        metrics.set("ledger_snapshot_unchecked_roots", lambda: self._log.snapshots.roots_unchecked)

    def start(self) -> None:
        """Begin to look for work."""
        if self._task is None:
            self._task = self._runtime.spawn(self._run(), name="ledger-snapshots")

    async def stop(self) -> None:
        """End; what is half made is removed at the next start."""
        task, self._task = self._task, None
        await end_tasks(task)

    async def _run(self) -> None:
        self._compare()
        swept = False
        while True:
            try:
                if not swept:
                    await self._runtime.disk(self._log.snapshots.sweep_parts)
                    swept = True
                await self.make()
            except HcefsError as error:
                # The log recovers by itself; what was half made goes with the next one.
                _logger.warning("no snapshot of the ledger is made now: %s", error.message)
                swept = False
                await self._runtime.sleep(AGAIN_SECONDS)
            await self._runtime.sleep(LOOK_SECONDS)

    async def make(self) -> bool:
        """Make the snapshot that is due, if one is.

        Raises:
            HcefsError: the log's disk failed.
        """
        found = self._log.snapshots.take_frozen()
        if found is None:
            return False
        height, rows = found
        begun = self._runtime.monotonic()
        parts = cut(rows)
        digests: list[bytes] = []
        size = 0
        while True:
            kept = await self._runtime.disk(self._next, parts, height, len(digests))
            if kept is None:
                break
            digests.append(kept[0])
            size += kept[1]
            if len(digests) > PARTS_MAX:
                _logger.warning("the ledger is too large for snapshots")
                await self._runtime.disk(self._log.snapshots.sweep_parts)
                return False
            await self._runtime.sleep(PAUSE_SECONDS)
        manifest = SnapshotManifest(height, size, tuple(digests))
        await self._runtime.disk(self._log.snapshots.keep, manifest)
        self.seconds = self._runtime.monotonic() - begun
        self._compare()
        return True

    def _next(self, parts: Iterator[bytes], height: int, index: int) -> tuple[bytes, int] | None:
        """Keep the next part; its digest and length, None when there is none left."""
        part = next(parts, None)
        if part is None:
            return None
        self._log.snapshots.keep_part(height, index, part)
        return blake3_digest(part), len(part)

    def _compare(self) -> None:
        try:
            self._log.snapshots.check_made()
        except Corrupt as error:
            self._distrust(error)
