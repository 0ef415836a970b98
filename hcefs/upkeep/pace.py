"""How fast a job goes, and when it will be done at that pace.

Pure: time comes with each entry.  The pace is that of the last ``WINDOW_SECONDS``, so that
it follows a throttle; a rest longer than that is no pace at all.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
ENTRIES_MAX = 4096


@dataclass(frozen=True)
class Pace:
    """Shards and bytes a second; both 0 when nothing was done lately."""

    shards: float
    bytes: float


class PaceMeter:
    """Measures one job.  For one event loop."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, int]] = deque(maxlen=ENTRIES_MAX)
        self._began = 0.0
        self.shards = 0
        self.bytes = 0

    def begin(self, now: float) -> None:
        """Note that work goes on; after a rest the time of the rest does not count."""
        self._forget(now)
        if not self._done:
            self._began = now

    def enter(self, now: float, size: int) -> None:
        """Note one shard that is done."""
        self._done.append((now, size))
        self.shards += 1
        self.bytes += size

    def _forget(self, now: float) -> None:
        while self._done and self._done[0][0] < now - WINDOW_SECONDS:
            self._began = self._done.popleft()[0]

    def pace(self, now: float) -> Pace:
        """The pace of now.  May be asked by any thread."""
        began, done = self._began, list(self._done)
        recent = [each for each in done if each[0] >= now - WINDOW_SECONDS]
        if not recent:
            return Pace(0.0, 0.0)
        if len(recent) < len(done):
            began = done[-len(recent) - 1][0]
        elif len(done) == ENTRIES_MAX:
            began = max(began, done[0][0])
        seconds = max(now - began, 1e-3)
        return Pace(len(recent) / seconds, sum(size for _, size in recent) / seconds)

    def left_seconds(self, now: float, shards: int) -> float | None:
        """How long so many more shards will take; None while nothing says so."""
        if not shards:
            return 0.0
        pace = self.pace(now)
        return shards / pace.shards if pace.shards else None

    def left_bytes(self, shards: int) -> int:
        """What so many more shards will weigh, if they are like those that are done."""
        return shards * self.bytes // self.shards if self.shards else 0
