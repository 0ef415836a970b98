"""How much slower clients are served while upkeep moves bytes than while it rests.

Of each method two running means are kept, of calls that ended while upkeep was at work
and of calls that ended while it rested; the ratio of the two is what upkeep costs
clients.  Means of logarithms, so that one call that ran into its deadline, or one large
blob among small ones, does not move them far.

Invariant: memory is bounded by the number of methods.

Not guaranteed: that a ratio is due to upkeep alone; a change of what clients ask for shows
as well, for as long as the means take to follow.  The pace then falls to its floor or
grows to its ceiling too early, and never beyond them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SAMPLES_MIN = 8
"""Of each kind, before they say anything."""

WEIGHT_QUIET = 1 / 64
WEIGHT_LOADED = 1 / 16
"""The present is followed faster than the baseline."""

METHODS_MAX = 64
SECONDS_MIN = 1e-4


@dataclass
class _Mean:
    value: float = 0.0
    samples: int = 0

    def enter(self, value: float, weight: float) -> None:
        self.samples += 1
        self.value += (value - self.value) * max(weight, 1 / self.samples)


class LatencyMeter:
    """The ratio, of one node.  For one event loop."""

    def __init__(self) -> None:
        self._quiet: dict[str, _Mean] = {}
        self._loaded: dict[str, _Mean] = {}

    def observe(self, method: str, seconds: float, *, loaded: bool) -> None:
        """Enter a call that was served; ``loaded``: upkeep was at work."""
        known, weight = (self._loaded, WEIGHT_LOADED) if loaded else (self._quiet, WEIGHT_QUIET)
        if method not in known and len(known) >= METHODS_MAX:
            return
        value = math.log(max(seconds, SECONDS_MIN))
        known.setdefault(method, _Mean()).enter(value, weight)

    def slowdown(self) -> float | None:
        """By what factor the calls of the method that suffers most take longer; None: unknown."""
        found = [
            math.exp(loaded.value - quiet.value)
            for method, loaded in self._loaded.items()
            if loaded.samples >= SAMPLES_MIN
            and (quiet := self._quiet.get(method)) is not None
            and quiet.samples >= SAMPLES_MIN
        ]
        return max(found, default=None)
