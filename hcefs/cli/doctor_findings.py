"""What ``hcefs doctor`` found: how bad it is, and what to do."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Level(enum.IntEnum):
    """How bad a finding is, ascending."""

    OK = 0
    WARNING = 1
    PROBLEM = 2


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.  ``remedy`` is empty only where all is well."""

    level: Level
    check: str
    where: str
    what: str
    remedy: str = ""

    def as_data(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "level": self.level.name.lower(),
            "check": self.check,
            "where": self.where,
            "what": self.what,
            "remedy": self.remedy,
        }


def ok(check: str, where: str, what: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, check, where, what)


def warning(check: str, where: str, what: str, remedy: str) -> Finding:
    """It works, and should be changed."""
    return Finding(Level.WARNING, check, where, what, remedy)


def problem(check: str, where: str, what: str, remedy: str) -> Finding:
    """It does not work, or not for long, or is not safe."""
    return Finding(Level.PROBLEM, check, where, what, remedy)


def worst(findings: Sequence[Finding]) -> Level:
    """The worst level among some findings."""
    return max((finding.level for finding in findings), default=Level.OK)
