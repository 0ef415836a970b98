"""What a run of the demo showed: steps, each with what it checked.

Invariants: a report always has every step, run or not; it is ``ok`` only when
every step held; what it prints and what it gives as data are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NOT_RUN = "not run: a step before it failed"
RATE_BYTES_MIN = 1_000_000


class Broken(Exception):
    """Something that the demo set out to show did not hold."""


def require(held: object, otherwise: str) -> None:
    """Go on only if it held.

    Raises:
        Broken: it did not; ``otherwise`` says what was seen instead.
    """
    if not held:
        raise Broken(otherwise)


class Notes:
    """What a step wants to have said: lines for people, numbers for programs."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.facts: dict[str, Any] = {}

    def check(self, line: str, **facts: Any) -> None:
        """Note one thing that was checked and held."""
        self.checked.append(line)
        self.facts.update(facts)

    def detail(self) -> dict[str, Any]:
        """Everything noted, as JSON can carry it."""
        return {"checked": list(self.checked), **self.facts}


@dataclass(frozen=True)
class StepResult:
    """One step: ``detail`` has at least ``checked``, the lines of what held."""

    name: str
    ok: bool
    seconds: float
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failure(self) -> str:
        """Why it did not hold, or nothing."""
        return str(self.detail.get("failed", ""))

    @classmethod
    def not_run(cls, name: str) -> StepResult:
        """The place of a step that was not reached."""
        return cls(name, False, 0.0, {"checked": [], "failed": NOT_RUN})

    def as_data(self) -> dict[str, Any]:
        """The step as JSON shows it."""
        return {
            "name": self.name,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "detail": dict(self.detail),
        }


@dataclass(frozen=True)
class Report:
    """All steps in order."""

    steps: tuple[StepResult, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every step held; an empty report did not."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    @property
    def exit_code(self) -> int:
        """0 only if every step held."""
        return 0 if self.ok else 1

    def as_data(self) -> dict[str, Any]:
        """The report as JSON shows it."""
        return {"ok": self.ok, "steps": [step.as_data() for step in self.steps]}


def bytes_text(count: float) -> str:
    """A number of bytes as people read it, in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def rate_text(count: int, seconds: float) -> str:
    """Bytes a second as people read it."""
    return f"{bytes_text(count / seconds)}/s" if seconds > 0 else "at once"


def speed_text(count: int, seconds: float) -> str:
    """How fast a transfer was: of a small one the time tells, of a large one the rate."""
    if count < RATE_BYTES_MIN:
        return f"in {seconds * 1000:.0f} ms"
    return rate_text(count, seconds)
