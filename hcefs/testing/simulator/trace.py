"""What happened, in order: a digest of everything, and the last of it to be shown."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque

EVENTS_SHOWN = 60
CALLS_SHOWN = 25


class Trace:
    """Two runs of one seed have one digest, or the simulator is not deterministic."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._hash = hashlib.blake2b(digest_size=16)
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._calls: deque[str] = deque(maxlen=CALLS_SHOWN)
        self.counts: dict[str, int] = {}

    def note(self, text: str) -> None:
        """Something that a reader of a failure wants to know."""
        line = f"{self._loop.time():10.3f} {text}"
        self._hash.update(line.encode() + b"\n")
        self._events.append(line)

    def call(self, line: str) -> None:
        """One call over the network that ended."""
        self._hash.update(line.encode() + b"\n")
        self._calls.append(line)

    def count(self, name: str) -> None:
        """Count something for the summary."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def digest(self) -> str:
        """Of everything so far."""
        return self._hash.hexdigest()

    def last(self) -> list[str]:
        """The last events and calls."""
        return [*self._events, "-- last calls", *self._calls]
