"""The shipped rules of Prometheus, made faster, and how long each alert may take.  Pure.

Alerts wait for minutes, hours and days.  To see each of them fire, every duration of the
rules is divided by ``SPEED``, so that minutes are seconds; what would still be long is cut,
and a window keeps room for some scrapes.  Nothing else of the files is changed, so that what
fires here are the expressions that operators run.

Two thresholds are ages that pass with the clock, and are divided too.  Others are left: a
rate of requests is the same in fast and in slow minutes.

Not guaranteed: that a ``for`` of hours is long enough for a real cluster; only that the alert
comes, goes, and does not come with other faults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hcefs.errors import Invalid

SPEED: Final = 60.0
INTERVAL_SECONDS: Final = 2.0
"""Between two scrapes, and between two evaluations."""

WAIT_SECONDS_MAX: Final = 60.0
"""The longest ``for``: an hour and a day are the same here."""

WINDOW_SECONDS_MIN: Final = 12.0
"""A rate needs some scrapes, and one of them may fail."""

WINDOW_SECONDS_MAX: Final = 60.0
DAY_SECONDS: Final = 86_400.0
DAY_WINDOW_SECONDS: Final = 240.0
"""Days stay much longer than the windows that are compared with them."""

SLACK_SECONDS: Final = 15.0
"""What a busy machine may add to a bound."""

UNITS: Final[Mapping[str, float]] = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_SECONDS}
FASTER_THRESHOLDS: Final[Mapping[str, tuple[str, float]]] = {
    "hcefs_receipt_anchor_age_seconds > {}": ("600", 600 / SPEED),
    "hcefs:disk_full_seconds:left < {}": ("4 * 86400", 4 * DAY_SECONDS / SPEED),
}
"""Expressions with an age, how the files write it, and what it is here, in seconds."""

_FOR = re.compile(r"(?<=\bfor: )(\d+)([smhd])\b")
_WINDOW = re.compile(r"(?<=\[)(\d+)([smhd])(?=\])")
_OFFSET = re.compile(r"(?<=\boffset )(\d+)([smhd])\b")
_INTERVAL = re.compile(r"^ *interval: \S+\n", re.MULTILINE)
_ALERT = re.compile(r"- alert: (\w+)\n(.*?)(?=- alert:|- name:|\Z)", re.DOTALL)
_RECORDED = re.compile(r"- record: (\S+)\n(.*?)(?=- record:|- name:|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """An alert as it is tested: what it waits for and looks back on, in seconds."""

    name: str
    waits: float
    window: float

    @property
    def bound(self) -> float:
        """Seconds after its metric shows the fault, by which it must fire."""
        return self.waits + self.window + 3 * INTERVAL_SECONDS + SLACK_SECONDS


def waiting(seconds: float) -> float:
    """A ``for`` of the files, here."""
    return min(seconds / SPEED, WAIT_SECONDS_MAX)


def window(seconds: float) -> float:
    """A range or an offset of the files, here."""
    if seconds >= DAY_SECONDS:
        return DAY_WINDOW_SECONDS
    return min(max(seconds / SPEED, WINDOW_SECONDS_MIN), WINDOW_SECONDS_MAX)


def faster(text: str) -> str:
    """A file of rules with its durations divided."""
    text = _INTERVAL.sub("", text)
    text = _FOR.sub(lambda found: _text(waiting(_seconds(*found.groups()))), text)
    for pattern in (_WINDOW, _OFFSET):
        text = pattern.sub(lambda found: _text(window(_seconds(*found.groups()))), text)
    for expression, (written, seconds) in FASTER_THRESHOLDS.items():
        text = text.replace(expression.format(written), expression.format(f"{seconds:g}"))
    return text


def rules_of(alerts: str, recording: str) -> dict[str, Rule]:
    """The alerts of files that were made faster, by name.

    Raises:
        Invalid: a threshold to be divided is not in them as it is expected.
    """
    for expression, (_, seconds) in FASTER_THRESHOLDS.items():
        if expression.format(f"{seconds:g}") not in alerts:
            raise Invalid(
                f"no rule says {expression.format('...')!r}: bring benchmarks/alerts_rules.py up "
                "to the rules that are shipped",
                reason="unknown-rule",
            )
    recorded = {name: _longest(body) for name, body in _RECORDED.findall(recording)}
    found = {}
    for name, body in _ALERT.findall(alerts):
        waits = [_seconds(*each) for each in _DURATION_FOR.findall(body)]
        through = [recorded[each] for each in recorded if each in body]
        # What a rule takes from a recorded one is an evaluation older.
        behind = max(through, default=0.0) + (INTERVAL_SECONDS if through else 0.0)
        found[name] = Rule(name, max(waits, default=0.0), max(_longest(body), behind))
    return found


_DURATION_FOR = re.compile(r"\bfor: (\d+)(ms)\b")
_DURATION = re.compile(r"\[(\d+)(ms)\]")


def _longest(body: str) -> float:
    """The longest window.  Days are what is compared with, and an offset is a moment: none waits
    for them."""
    windows = [_seconds(*each) for each in _DURATION.findall(body)]
    return max((each for each in windows if each < DAY_WINDOW_SECONDS), default=0.0)


def _seconds(number: str, unit: str) -> float:
    return int(number) * {**UNITS, "ms": 0.001}[unit]


def _text(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
