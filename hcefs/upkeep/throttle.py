"""A budget of bytes for upkeep that yields to clients.

A token bucket whose rate follows what clients do: it falls to the floor at once when
they are served, and grows back to the ceiling in steps when they are not.  So repair and
rebalance go on in a busy cluster, slowly, and take what is left of an idle one.

Invariant: over any time the bytes taken are at most the ceiling's, and one burst more;
nobody waits for more than their own bytes at the floor's rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hcefs.runtime import Runtime

GROWTH = 1.5
STEP_SECONDS = 0.25
BURST_SECONDS = 0.5
WAIT_SECONDS_MAX = 0.25
"""Between two looks at what clients do."""


class Throttle:
    """One node's budget.  For one event loop."""

    def __init__(
        self,
        runtime: Runtime,
        floor: float,
        ceiling: float,
        busy: Callable[[], bool],
    ) -> None:
        """``floor`` and ``ceiling`` in bytes a second; ``busy``: clients are being served."""
        self._runtime = runtime
        self._floor = floor
        self._ceiling = max(floor, ceiling)
        self._busy = busy
        self._rate = floor
        self._room = 0.0
        self._refilled = self._adapted = runtime.monotonic()
        self._turn = asyncio.Lock()

    @property
    def rate(self) -> float:
        """Bytes a second that are allowed now."""
        return self._rate

    @property
    def is_busy(self) -> bool:
        """Whether clients are being served at this moment."""
        return self._busy()

    async def spend(self, size: int) -> None:
        """Wait until ``size`` bytes may be moved."""
        async with self._turn:
            left = float(size)
            while True:
                self._refill()
                taken = min(left, max(0.0, self._room))
                self._room -= taken
                left -= taken
                if left <= 0:
                    return
                await self._runtime.sleep(min(left / self._rate, WAIT_SECONDS_MAX))

    def _refill(self) -> None:
        now = self._runtime.monotonic()
        if self._busy():
            self._rate, self._adapted = self._floor, now
        elif now - self._adapted >= STEP_SECONDS:
            steps = int((now - self._adapted) / STEP_SECONDS)
            self._adapted = now
            self._rate = min(self._ceiling, self._rate * GROWTH ** min(steps, 64))
        self._room += (now - self._refilled) * self._rate
        self._room = min(self._room, self._rate * BURST_SECONDS)
        self._refilled = now
