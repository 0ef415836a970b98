"""A budget of bytes for upkeep that yields to clients.

A token bucket whose rate follows what clients feel.  When nobody is served it grows to
the ceiling in steps.  When somebody is, it falls to the floor at once, and then goes on
by what calls take: it is halved while they take longer than without upkeep, and grows
slowly while they do not (additive caution as in TCP's congestion control, with latency
as the signal).  Where nobody measures latency, or nothing is known yet, being served is
enough to keep it at the floor.  So repair and rebalance go on in a busy cluster, slowly,
and take what is left of an idle one.

Invariant: the rate is never below the floor and never above the ceiling; over any time
the bytes taken are at most the ceiling's, and one burst more, a small one while clients are
served; nobody waits for more than their own bytes at the floor's rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hcefs.runtime import Runtime
from hcefs.upkeep.latency import LatencyMeter

GROWTH = 1.5
GROWTH_BUSY = 1.1
SLOWDOWN_FINE = 1.3
SLOWDOWN_MAX = 1.6
"""Below the factor of 2 that clients are promised, so that there is time to give way."""

STEP_SECONDS = 0.25
LEAST_BYTES = 0.5
"""Less is nothing: bytes are whole, and rates are not."""

BURST_SECONDS = 0.5
BURST_BUSY_SECONDS = 0.1
"""While clients are served: what is saved up would be spent at once, and their slowest calls are
those that meet it."""

WAIT_SECONDS_MAX = 0.25
"""Between two looks at what clients do."""

QUIET_SECONDS = 0.5
"""Between two requests of one client nobody is served for a moment; that is no rest."""

AT_WORK_SECONDS = 1.0
"""So long after its last bytes upkeep counts as at work."""


class Throttle:
    """One node's budget.  For one event loop."""

    def __init__(
        self,
        runtime: Runtime,
        floor: float,
        ceiling: float,
        busy: Callable[[], bool],
        meter: LatencyMeter | None = None,
    ) -> None:
        """``floor`` and ``ceiling`` in bytes a second; ``busy``: clients are being served."""
        self._runtime = runtime
        self._floor = floor
        self._ceiling = max(floor, ceiling)
        self._busy = busy
        self._meter = meter
        self._rate = floor
        self._room = 0.0
        self._refilled = self._adapted = runtime.monotonic()
        self._spent = float("-inf")
        self._busy_until = float("-inf")
        """When clients were last seen being served; in the past for good: they are not."""

        self._hurried = False
        self._turn = asyncio.Lock()

    @property
    def rate(self) -> float:
        """Bytes a second that are allowed now."""
        return self._rate

    @property
    def is_busy(self) -> bool:
        """Whether clients are being served at this moment."""
        return self._busy()

    @property
    def is_at_work(self) -> bool:
        """Whether upkeep has moved bytes just now."""
        return self._runtime.monotonic() - self._spent < AT_WORK_SECONDS

    def hurry(self, wanted: bool) -> None:
        """Keep to the ceiling whatever clients feel: an operator has asked for it."""
        self._hurried = wanted

    def observe(self, method: str, seconds: float) -> None:
        """Note a call that was served to a client, or for one."""
        if self._meter is not None:
            self._meter.observe(method, seconds, loaded=self.is_at_work)

    async def spend(self, size: int) -> None:
        """Wait until ``size`` bytes may be moved."""
        async with self._turn:
            left = float(size)
            self._refill()
            if self._hears_clients():
                # What was saved up while nobody wanted any; not what comes while one waits.
                self._room = min(self._room, self._rate * BURST_BUSY_SECONDS)
            while True:
                self._refill()
                taken = min(left, max(0.0, self._room))
                self._room -= taken
                left -= taken
                # The rest of a rounding error would be waited for by sleeps that end at once.
                if left < LEAST_BYTES:
                    self._spent = self._runtime.monotonic()
                    return
                await self._runtime.sleep(min(left / self._rate, WAIT_SECONDS_MAX))

    def _refill(self) -> None:
        now = self._runtime.monotonic()
        self._adapt(now)
        self._room += (now - self._refilled) * self._rate
        self._room = min(self._room, self._rate * BURST_SECONDS)
        self._refilled = now

    def _hears_clients(self) -> bool:
        """Whether clients are to be given way to, by the last look."""
        return not self._hurried and self._refilled - self._busy_until <= QUIET_SECONDS

    def _adapt(self, now: float) -> None:
        busy = self._busy()
        begins = busy and now - self._busy_until > QUIET_SECONDS
        if busy:
            self._busy_until = now
        if self._hurried:
            self._rate, self._adapted = self._ceiling, now
            return
        if begins:
            self._rate, self._adapted = self._floor, now
            return
        if now - self._adapted < STEP_SECONDS:
            return
        steps = int((now - self._adapted) / STEP_SECONDS)
        self._adapted = now
        if busy:
            self._rate = self._felt()
        elif now - self._busy_until > QUIET_SECONDS:
            self._rate = min(self._ceiling, self._rate * GROWTH ** min(steps, 64))

    def _felt(self) -> float:
        """The rate of the next step while clients are served."""
        slowdown = self._meter.slowdown() if self._meter is not None else None
        if slowdown is None:
            return self._floor
        if slowdown > SLOWDOWN_MAX:
            return max(self._floor, self._rate / 2)
        if slowdown <= SLOWDOWN_FINE:
            return min(self._ceiling, self._rate * GROWTH_BUSY)
        return self._rate
