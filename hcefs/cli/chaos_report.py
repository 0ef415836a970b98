"""What a chaos run did and found: for people, for programs, and as a page.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REPLAY = (
    "Real processes do not replay: the seed fixes which faults are drawn and what is put, not "
    "when the system runs which process. The simulator replays exactly."
)


@dataclass(frozen=True)
class Check:
    """One thing that the end of a run demands; ``violations`` is empty when it holds."""

    name: str
    detail: str
    violations: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.violations


def faults_came(counts: Mapping[str, int]) -> Check:
    """A run without any fault has shown nothing; ``counts`` are the faults by kind."""
    nothing = (
        "none of the kinds asked for was possible: run longer, or ask for more kinds "
        "(drain needs add beside it: a cluster is never shrunk below its first size)"
    )
    return Check(
        "faults came", f"{sum(counts.values())}", () if any(counts.values()) else (nothing,)
    )


@dataclass
class Report:
    """A whole run."""

    seed: int
    minutes: float
    nodes: int
    full_by: str
    seconds: float = 0.0
    load: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    timeline: Sequence[Mapping[str, Any]] = ()
    cures: Sequence[str] = ()
    checks: Sequence[Check] = ()

    @property
    def violations(self) -> list[str]:
        """Everything that should not have happened."""
        return [text for check in self.checks for text in check.violations]

    @property
    def ok(self) -> bool:
        return bool(self.checks) and not self.violations

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "minutes": self.minutes,
            "seconds": round(self.seconds, 1),
            "nodes": self.nodes,
            "disk_full_by": self.full_by,
            "replay": REPLAY,
            "load": dict(self.load),
            "faults": dict(self.faults),
            "timeline": [dict(event) for event in self.timeline],
            "cures": list(self.cures),
            "checks": [
                {"name": check.name, "ok": check.ok, "detail": check.detail}
                for check in self.checks
            ],
            "violations": self.violations,
        }

    def last_line(self) -> str:
        """What counts, in one line."""
        return (
            f"seed {self.seed}: {sum(self.faults.values())} faults, "
            f"{self.load.get('puts', 0)} blobs acknowledged, {len(self.violations)} violations"
        )

    def as_markdown(self) -> str:
        """The page."""
        lines = [
            f"# Chaos run, seed {self.seed}",
            "",
            f"{self.last_line()}. It took {self.seconds:.0f} s on {self.nodes} nodes; disks were "
            f"filled by {self.full_by}. {REPLAY}",
            "",
            "## Checks",
            "",
            "| | check | what was found |",
            "|---|---|---|",
            *(
                f"| {'holds' if check.ok else 'VIOLATED'} | {check.name} | {_cell(check.detail)} |"
                for check in self.checks
            ),
            "",
            "## Violations",
            "",
            *([f"- {_cell(text)}" for text in self.violations] or ["None."]),
            "",
            "## Load",
            "",
            "| what | count |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in _flat(self.load)),
            "",
            "## Faults",
            "",
            "| fault | times |",
            "|---|---|",
            *(f"| {name} | {count} |" for name, count in self.faults.items()),
            "",
            "## Not healed by the cluster itself",
            "",
            *([f"- {_cell(text)}" for text in self.cures] or ["Nothing."]),
            "",
            "## Timeline",
            "",
            "| second | lasted | what | outcome |",
            "|---|---|---|---|",
            *(
                f"| {event['at']:.1f} | {event['seconds']:.1f} s | {_cell(event['what'])} "
                f"| {_cell(event['outcome'])} |"
                for event in self.timeline
            ),
        ]
        return "\n".join(lines) + "\n"


def _flat(load: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in load.items():
        if isinstance(value, Mapping):
            found += [(f"{name}: {inner}", count) for inner, count in value.items()]
        else:
            found.append((name.replace("_", " "), value))
    return found


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "/")
