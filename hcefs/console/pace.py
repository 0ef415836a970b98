"""How long a plan still takes, from how many seats it had left to move a while ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.waves import SeatName, in_flight, moves_left

REMEMBERED: Final = 90
"""Readings: three minutes of them in a small cluster."""


class PlanPace:
    """Remembers the last readings of one plan."""

    def __init__(self) -> None:
        self._moves: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)

    def enter(
        self, current: ClusterMap | None, arrived: Collection[SeatName], now: float
    ) -> float | None:
        """Seconds until the plan is done, at the pace so far; None: unknown, or no plan.

        ``now`` is of a monotonic clock, in seconds.
        """
        left = 0
        if current is not None:
            left = moves_left(current) + len(in_flight(current)) - len(arrived)
        if left <= 0 or (self._moves and left > self._moves[-1][1]):
            self._moves.clear()  # done, or another plan
        if left <= 0:
            return None
        self._moves.append((now, left))
        began, most = self._moves[0]
        return left * (now - began) / (most - left) if most > left else None
