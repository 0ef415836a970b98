"""What users would otherwise pick, beside what this run found.  Pure.

The figures were measured for this project on two cores like the ones it is
developed on: six storage processes and one client, no TLS, 16 requests in flight.
They are printed for orientation and carry no goal: machine and day differ, and so
do the guarantees, which is what :data:`CAVEATS` is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.goals import KIB, MIB

IN_FLIGHT: Final = 16
COLUMNS: Final = (
    ("put", 64 * MIB),
    ("get", 64 * MIB),
    ("put", MIB),
    ("get", MIB),
    ("put", 4 * KIB),
    ("get", 4 * KIB),
)
"""Of every row: MB/s and CPU-s/GB, operations/s for 4 KiB."""

CAVEATS: Final = (
    "The others: no TLS, on another day; ours: mutual TLS, encryption, 4+2, fsync of file and "
    "folder on all six, and a commit on the ledger for each put.",
    "Comparable in guarantee: Swift (encrypted, 4+2, fsync). Tahoe and the SeaweedFS filer do not "
    "fsync; Ceph and SeaweedFS volumes do not encrypt; SeaweedFS keeps 2 copies and survives "
    "one loss, not two.",
)


@dataclass(frozen=True)
class System:
    """One row: MB/s (or operations/s) and, in brackets, CPU-s/GB, as they were reported."""

    name: str
    found: tuple[str, str, str, str, str, str]


RIVALS: Final = (
    System(
        "Tahoe-LAFS 4-of-6, encrypted, no fsync",
        ("42 (36)", "24 (64)", "17 (96)", "20 (79)", "17/s", "27/s"),
    ),
    System(
        "Swift 4+2, encrypted at the proxy, fsync",
        ("109 (15)", "316 (5.9)", "33 (58)", "103 (19)", "41/s", "132/s"),
    ),
    System(
        "Ceph 4+2 (librados), not encrypted, fsync",
        ("177-228 (6.1-8.6)", "448 (3.8)", "191 (7.7)", "390 (4.4)", "374/s", "1,650/s"),
    ),
    System(
        "SeaweedFS filer, 2 copies, encrypted, no fsync",
        ("115 (17)", "654 (3.0)", "171 (11)", "674 (2.9)", "797/s", "1,872/s"),
    ),
    System(
        "SeaweedFS volumes, 2 copies, plain, fsync",
        ("206 (7.7)", "1,670 (1.2)", "197 (7.9)", "2,052 (1.0)", "816/s", "4,919/s"),
    ),
)

OURS: Final = {"gateway": ("pack", "node"), "direct": ("client",)}
"""Ways, and who seals: the first of them that was measured at a size counts."""


def ours(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """This run's measurements for each way and column: with 16 in flight, else the next fewer.

    The name of a row, and one measurement (None: there is none) for each column.
    """
    made = []
    for mode, seals in OURS.items():
        cells = [
            next(filter(None, (_nearest(rows, what, mode, seal, size) for seal in seals)), None)
            for what, size in COLUMNS
        ]
        if any(cell is not None for cell in cells):
            made.append((f"HCE-FS, this run, {mode}", cells))
    return made


def _nearest(
    rows: Sequence[Mapping[str, Any]], operation: str, mode: str, seal: str, size: int
) -> Mapping[str, Any] | None:
    wanted = (operation, mode, seal, size)
    fitting = [
        row
        for row in rows
        if row["available"]
        and row["concurrency"] <= IN_FLIGHT
        and tuple(row[name] for name in ("operation", "mode", "seal", "size")) == wanted
    ]
    return max(fitting, key=lambda row: int(row["concurrency"]), default=None)
