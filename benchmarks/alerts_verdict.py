"""Whether a fault was told rightly: what fired, when, what else, and whether it went.  Pure.

A :class:`Watch` is fed what fires, again and again, from the moment of a fault until it is
mended and quiet.  A fault passes when every alert that it must raise fires within its bound,
nothing fires that it may not raise, and everything is quiet in time after it was mended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

CLEAR_SECONDS: Final = 150.0
"""After a fault is mended: processes start, repair goes over its rows, windows run out."""


@dataclass
class Watch:
    """One fault; times are seconds since it began."""

    fault: str
    bounds: Mapping[str, float]
    """Alerts that must fire, and by when."""

    companions: Mapping[str, str] = field(default_factory=dict)
    """Alerts that may fire beside them, and why that is right."""

    fired: dict[str, float] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)
    mended: float | None = None
    cleared: float | None = None
    clears_within: float = CLEAR_SECONDS
    problem: str = ""
    """Why the fault could not be done, or not be undone."""

    def see(self, at: float, firing: Collection[str]) -> None:
        """Take what fires at a moment."""
        for alert in sorted(firing):
            self.fired.setdefault(alert, at)
            if alert not in self.bounds and alert not in self.companions:
                self.others.setdefault(alert, at)
        if self.mended is not None and self.cleared is None and not firing:
            self.cleared = at

    @property
    def all_fired(self) -> bool:
        """Whether nothing more is waited for."""
        return self.bounds.keys() <= self.fired.keys()

    @property
    def last_bound(self) -> float:
        """When it is too late for every alert."""
        return max(self.bounds.values(), default=0.0)

    def complaints(self) -> list[str]:
        """What is wrong; nothing when the fault passes."""
        found = [self.problem] if self.problem else []
        for alert, bound in self.bounds.items():
            at = self.fired.get(alert)
            if at is None:
                found.append(f"{alert} did not fire")
            elif at > bound:
                found.append(f"{alert} fired {at - bound:.0f} s too late")
        found += [f"{alert} fired and should not" for alert in self.others]
        if self.mended is None:
            found.append("it was not mended")
        elif self.cleared is None:
            found.append("it was not quiet after it was mended")
        elif self.cleared - self.mended > self.clears_within:
            late = self.cleared - self.mended - self.clears_within
            found.append(f"it was quiet {late:.0f} s too late")
        return found

    @property
    def passed(self) -> bool:
        """Whether the fault was told rightly."""
        return not self.complaints()

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        mended = self.mended
        cleared = None if mended is None or self.cleared is None else self.cleared - mended
        return {
            "fault": self.fault,
            "alerts": [
                {
                    "alert": alert,
                    "fired_after_s": _rounded(self.fired.get(alert)),
                    "bound_s": _rounded(bound),
                }
                for alert, bound in self.bounds.items()
            ],
            "companions": sorted(set(self.fired) & set(self.companions) - set(self.bounds)),
            "others": sorted(self.others),
            "cleared_after_s": _rounded(cleared),
            "clear_bound_s": _rounded(self.clears_within),
            "pass": self.passed,
            "complaints": self.complaints(),
        }


@dataclass
class Quiet:
    """A run without a fault.  It counts only when there was something to watch."""

    seconds: float
    targets: int
    served_least: int
    looks: int = 0
    unanswered: int = 0
    """Times that Prometheus gave no answer."""

    blind: int = 0
    """Times that it did not reach every target."""

    served: int = 0
    failed: int = 0
    fired: dict[str, float] = field(default_factory=dict)
    lasted: float = 0.0

    def see(self, at: float, firing: Collection[str] | None, reached: int) -> None:
        """Take what fires at a moment; None: no answer."""
        self.looks += 1
        self.lasted = at
        if firing is None:
            self.unanswered += 1
            return
        self.blind += reached != self.targets
        for alert in firing:
            self.fired.setdefault(alert, at)

    def complaints(self) -> list[str]:
        """What is wrong; nothing when the run was quiet and counts."""
        found = [f"{alert} fired after {at:.0f} s" for alert, at in sorted(self.fired.items())]
        if not self.looks or self.lasted < 0.95 * self.seconds:
            found.append(f"it ended after {self.lasted:.0f} of {self.seconds:.0f} s")
        if self.unanswered:
            found.append(f"Prometheus gave no answer {self.unanswered} times")
        if self.blind:
            found.append(f"Prometheus did not reach every process {self.blind} times")
        if self.served < self.served_least:
            found.append(f"only {self.served} requests were served, not {self.served_least}")
        if self.failed:
            found.append(f"{self.failed} requests failed")
        return found

    @property
    def passed(self) -> bool:
        """Whether it was quiet, and counts."""
        return not self.complaints()

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "minutes": round(self.lasted / 60, 1),
            "looks": self.looks,
            "unanswered": self.unanswered,
            "blind": self.blind,
            "served": self.served,
            "failed": self.failed,
            "alerts": sorted(self.fired),
            "pass": self.passed,
            "complaints": self.complaints(),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
