"""When to stop waiting for a slow holder, and which holders not to wait for at all.

The hedge delay follows the running 95th percentile of how long complete stripes took
on this node, so that about one stripe in twenty is hedged at most when all is
well, and a holder that is slow costs little more than that percentile.

A holder that loses races, or comes last by far, again and again is known as slow and
asked last, so that the reads after the first few do not wait for it at all; otherwise
every stripe that it holds a data piece of would take the delay longer, the percentile
would follow, and the delay with it.  Every few seconds one read asks a slow holder in
addition to k others, without waiting for it: if it keeps up, it has its place back.
Source: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hcefs.ids import AccountId
from hcefs.placement.ring import Seat

WINDOW = 256
RECOMPUTE_EVERY = 16
QUANTILE = 0.95
MARGIN = 1.25
"""Beyond the percentile itself, so that noise alone rarely hedges."""

DELAY_SECONDS_MIN = 0.015
DELAY_SECONDS_MAX = 2.0
DELAY_SECONDS_FIRST = 0.25
"""Before anything was measured."""

SLOW_LOSSES = 2
"""Races lost, less those kept up with, from which on a holder is asked last; it counts no further,
so that one race in which a slow holder keeps up is enough."""

STRAGGLE_FACTOR = 2.0
STRAGGLE_SECONDS = 0.01
PROBE_SECONDS = 2.0
HOLDERS_MAX = 1024


@dataclass
class _Slowness:
    """What is known of one holder that lost a race."""

    losses: int
    probed: float


def straggler(seconds: Mapping[int, float]) -> int | None:
    """The index that came so much later than the one before it that it held up its stripe.

    ``seconds`` is how long each took.  A holder can be slow without being slower than
    the hedge delay, and then every stripe waits for it.
    """
    if len(seconds) < 2:
        return None
    *_, before, last = sorted(seconds, key=lambda index: seconds[index])
    late = max(seconds[before] * STRAGGLE_FACTOR, seconds[before] + STRAGGLE_SECONDS)
    return last if seconds[last] > late else None


class HedgeTimer:
    """The running percentile, and the slow holders, of one node or client.

    For one event loop.
    """

    def __init__(self) -> None:
        self._waits: deque[float] = deque(maxlen=WINDOW)
        self._since = 0
        self._delay = DELAY_SECONDS_FIRST
        self._slow: dict[AccountId, _Slowness] = {}

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

    def lost(self, holder: AccountId, now: float) -> None:
        """Enter that a stripe was complete without a holder that was late, or was held up by it."""
        known = self._slow.get(holder)
        if known is not None:
            known.losses = min(known.losses + 1, SLOW_LOSSES)
        elif len(self._slow) < HOLDERS_MAX:
            self._slow[holder] = _Slowness(1, now)

    def kept_up(self, holder: AccountId) -> None:
        """Enter that a holder delivered with the others."""
        known = self._slow.get(holder)
        if known is not None:
            known.losses -= 1
            if known.losses <= 0:
                del self._slow[holder]

    def is_slow(self, holder: AccountId) -> bool:
        """Whether a holder is known as slow."""
        known = self._slow.get(holder)
        return known is not None and known.losses >= SLOW_LOSSES

    def ordered(self, seats: Iterable[Seat]) -> list[Seat]:
        """Seats by index, those of slow holders last."""
        return sorted(seats, key=lambda seat: (self.is_slow(seat.node.account), seat.index))

    def to_probe(self, seats: Iterable[Seat], now: float) -> Seat | None:
        """A slow holder's seat that this read should try in addition, if that is due."""
        for seat in seats:
            known = self._slow.get(seat.node.account)
            if known is None or not self.is_slow(seat.node.account):
                continue
            if now - known.probed >= PROBE_SECONDS:
                known.probed = now
                return seat
        return None
