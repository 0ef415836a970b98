"""Made-up measurements for the tests of rows, goals and reports."""

from __future__ import annotations

from typing import Any

from benchmarks import cases
from benchmarks.cases import Case, Found
from benchmarks.goals import data_goals
from benchmarks.harness import Batch
from benchmarks.limits import Timing, summary
from benchmarks.machine import Spent

STAGES = (
    "aes-seal",
    "aes-open",
    "blake3",
    "erasure-4-2",
    "erasure-10-4",
    "hop-512KiB",
    "hop-1MiB",
    "write-fsync",
    "write-fsync-allocated",
    "write-fsync-uncached",
    "file-read",
    "file-read-uncached",
)


def stages() -> dict[str, dict[str, Any]]:
    """Every stage costs 1 CPU-s/GB at best, 2 in the median, at 10 GB/s."""
    timings = [Timing(10**9, 0.1, cpu, {"send": cpu / 2}) for cpu in (1.0, 2.0, 3.0)]
    made = {name: summary(timings) for name in STAGES}
    for name in ("erasure-4-2", "erasure-10-4"):
        made[name] |= {"equal_to_zfec": True, "kernel": "isal"}
    return made


def batch(size: int, operations: int, cpu: float, seconds: float = 1.0) -> Batch:
    """Operations that together cost ``cpu`` CPU seconds: a tenth each by client and ledger."""
    spent = Spent(
        {"client": cpu / 10, "ledger": cpu / 10, "node-1": cpu * 8 / 10},
        {"client": 1 << 20, "node-1": 3 << 20},
        {"client": 100 << 20, "node-1": 90 << 20, "ledger": 80 << 20},
        0.5,
        seconds,
    )
    latencies = tuple(seconds * (i + 1) / operations for i in range(operations))
    return Batch(size * operations, seconds, latencies, spent)


def row(case: Case, operation: str, cpu_s_per_gb: float, reason: str = "") -> dict[str, Any]:
    """The row of a case that cost so much; without a measurement if there is a reason."""
    found = Found(reason=reason)
    if not reason:
        cost = cpu_s_per_gb * case.size * 4 / 1e9
        found.batches = [batch(case.size, 4, cost), batch(case.size, 4, cost * 2, 2.0)]
        found.against_healthy = [0.9, 0.8, 0.95]
        found.against_one = [1.02, 1.3, 0.9] if operation == "put" and case.concurrency > 1 else []
        found.shards_per_byte = found.all_per_byte = found.allocated_per_byte = [1.5]
    return cases.row_of(case, operation, found, stages(), 2)


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole result of ``hcefs bench data``."""
    return {
        "benchmark": "data",
        "quick": True,
        "seconds": 1.0,
        "environment": {
            "python": "CPython 3",
            "packages": {"grpcio": "1"},
            "libisal": "libisal.so",
            "erasure_kernel": "isal",
            "kernel": "Linux",
            "cpu": "a <processor> & more",
            "cores": 2,
            "load_average": [0.0],
            "file_system": "ext4",
            "profile": "ec-4-2",
            "fsync": "on",
            "tls": "1.3",
        },
        "settings": {"seed": 1},
        "limits": stages(),
        "cases": rows,
        "goals": [goal.as_data() for goal in data_goals(rows)],
    }
