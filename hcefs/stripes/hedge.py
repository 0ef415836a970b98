"""When to stop waiting for a slow holder and ask another one: the hedge delay.

The delay follows the running 95th percentile of how long complete stripes took
on this node, so that about one stripe in twenty is hedged at most when all is
well, and a holder that is slow costs little more than that percentile.
Source: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013.
"""

from __future__ import annotations

from collections import deque

WINDOW = 256
RECOMPUTE_EVERY = 16
QUANTILE = 0.95
MARGIN = 1.25
"""Beyond the percentile itself, so that noise alone rarely hedges."""

DELAY_SECONDS_MIN = 0.015
DELAY_SECONDS_MAX = 2.0
DELAY_SECONDS_FIRST = 0.25
"""Before anything was measured."""


class HedgeTimer:
    """The running percentile of one node or client.  For one event loop."""

    def __init__(self) -> None:
        self._waits: deque[float] = deque(maxlen=WINDOW)
        self._since = 0
        self._delay = DELAY_SECONDS_FIRST

    def observe(self, seconds: float) -> None:
        """Enter how long one stripe took from the first request to its last piece."""
        self._waits.append(seconds)
        self._since += 1
        if self._since >= RECOMPUTE_EVERY:
            self._since = 0
            ordered = sorted(self._waits)
            percentile = ordered[int(QUANTILE * (len(ordered) - 1))]
            self._delay = min(max(percentile * MARGIN, DELAY_SECONDS_MIN), DELAY_SECONDS_MAX)

    @property
    def delay_seconds(self) -> float:
        """How long to wait before further holders are asked."""
        return self._delay
