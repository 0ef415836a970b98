"""Which measurements ``hcefs bench data`` makes, and how their rows are made.  Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks import limits
from benchmarks.goals import GIB, KIB, MIB
from benchmarks.harness import CLIENT, NODES, Batch
from benchmarks.payloads import from_file
from hcefs.cli.cluster_files import LEDGER
from hcefs.client.put import SMALL_BYTES
from hcefs.errors import Invalid

MODES: Final = ("gateway", "direct")
PACK: Final = "pack"
SEALS: Final = ("node", "client", PACK)
"""Who seals.  ``pack``: the client, into packs, as the SDK does unless it is told otherwise."""
SIZES: Final = (4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, GIB)
CONCURRENCIES: Final = (1, 4, 16)
OPERATIONS: Final = ("put", "get", "range", "degraded")

IN_FLIGHT_BYTES_MAX: Final = 4 * GIB
RANGE_BYTES_MAX: Final = 256 * KIB
DISK_FACTOR: Final = 1.6
"""Bytes that may be written for each byte put: shards, rows, the ledger."""

PERCENTILES: Final = (50, 95, 99)
MEGA: Final = 1_000_000


@dataclass(frozen=True, order=True)
class Case:
    """One way to put and get."""

    mode: str
    seal: str
    size: int
    concurrency: int

    @property
    def arguments(self) -> dict[str, str]:
        """What the client's put and get are told."""
        if self.seal == PACK:
            return {}
        chosen = {"seal": self.seal}
        # Without the argument, a client that has no direct mode still works.
        return chosen if self.mode == "gateway" else chosen | {"mode": self.mode}

    @property
    def range(self) -> tuple[int, int]:
        """Start and length of the ranged get: somewhere in the middle, across no boundary."""
        return self.size // 3, max(1, min(RANGE_BYTES_MAX, self.size // 4))


@dataclass(frozen=True)
class Effort:
    """How much of each case is measured.

    A batch moves about ``volume`` bytes in at most ``operations_max`` operations,
    but never fewer than the concurrency.  Every gateway has moved ``warm`` bytes
    before anything is measured.  ``stage_bytes`` go through each stage at a time.
    ``seconds`` None is without an end.
    """

    volume: int
    operations_max: int
    rounds: int
    warm: int
    stage_bytes: int
    seconds: float | None = None

    def operations(self, case: Case) -> int:
        """Operations of one batch."""
        return max(case.concurrency, min(self.operations_max, self.volume // max(1, case.size)), 1)

    def warming(self, case: Case) -> tuple[int, int]:
        """Streams at once, and their size, that fill a process's pools and heap for a case."""
        streams = min(case.concurrency, WARM_STREAMS_MAX)
        return streams, max(1, min(case.size, self.warm // streams))


WARM_STREAMS_MAX: Final = 4
FULL: Final = Effort(256 * MIB, 256, 3, 64 * MIB, 64 * MIB)
QUICK: Final = Effort(128 * MIB, 32, 3, 16 * MIB, 32 * MIB, 46.0)

PUT_GET: Final = ("put", "get")
QUICK_GROUPS: Final[Sequence[Mapping[Case, Sequence[str]]]] = (
    {
        Case("gateway", "node", 64 * MIB, 1): (*PUT_GET, "degraded"),
        Case("gateway", "node", 64 * MIB, 4): ("put",),
    },
    {
        Case("direct", "client", 64 * MIB, 1): PUT_GET,
        Case("direct", "client", 64 * MIB, 4): ("put",),
    },
    {Case("gateway", PACK, MIB, 16): PUT_GET},
    {Case("gateway", "node", MIB, 16): PUT_GET},
    {Case("gateway", "node", GIB, 1): PUT_GET},
    {Case("direct", "client", GIB, 1): PUT_GET},
    {Case("gateway", PACK, 4 * KIB, 16): PUT_GET},
)
"""What the goals need, and what others are compared with; and nothing else."""


@dataclass(frozen=True)
class Skipped:
    """A combination that is not measured, and why."""

    case: Case
    reason: str


def choose(
    sizes: Sequence[int], concurrencies: Sequence[int], modes: Sequence[str], seals: Sequence[str]
) -> tuple[list[list[Case]], list[Skipped]]:
    """Groups of cases that are measured together, and those that are not measured.

    A group has one size and one way; its cases differ in concurrency.

    Raises:
        Invalid: an unknown mode or seal, or a number that is not positive.
    """
    for name, known, given in (("mode", MODES, modes), ("seal", SEALS, seals)):
        for value in given:
            if value not in known:
                raise Invalid(
                    f"{name} {value[:40]!r}: use {', '.join(known)}", reason=f"unknown-{name}"
                )
    if any(number < 1 for number in (*sizes, *concurrencies)):
        raise Invalid("sizes and concurrencies are at least 1", reason="bad-number")
    groups: list[list[Case]] = []
    skipped: list[Skipped] = []
    for size, mode, seal in itertools.product(sizes, modes, seals):
        group = []
        for concurrency in concurrencies:
            case = Case(mode, seal, size, concurrency)
            if mode == "direct" and seal == "node":
                skipped.append(Skipped(case, "in direct mode the client seals"))
            elif seal == PACK and (mode == "direct" or size > SMALL_BYTES):
                limit = SMALL_BYTES // MIB
                skipped.append(Skipped(case, f"packs: up to {limit} MiB, through a gateway"))
            elif size * concurrency > IN_FLIGHT_BYTES_MAX:
                limit = IN_FLIGHT_BYTES_MAX // GIB
                skipped.append(Skipped(case, f"more than {limit} GiB in flight"))
            else:
                group.append(case)
        if group:
            groups.append(group)
    return groups, skipped


def bytes_written(group: Iterable[Case], effort: Effort) -> int:
    """Bytes on the disk that measuring a group takes, generously."""
    cases = list(group)
    put = sum(case.size * effort.operations(case) * effort.rounds for case in cases)
    warm = sum(math.prod(effort.warming(case)) * NODES for case in cases)
    files = sum({case.size for case in cases if from_file(case.size)})
    return int((put + warm) * DISK_FACTOR) + files


def pair_to_kill(
    holders: Mapping[Case, Sequence[frozenset[int]]], nodes: Sequence[int]
) -> tuple[int, int]:
    """The two nodes whose loss takes two data shards of blobs of the most cases.

    ``holders`` are, by case, the nodes with data shards of each of its blobs.
    """

    def score(pair: tuple[int, int]) -> tuple[int, int]:
        hits = [sum(set(pair) <= data for data in blobs) for blobs in holders.values()]
        return sum(hit > 0 for hit in hits), sum(hits)

    return max(itertools.combinations(nodes, 2), key=score)


# --- rows -------------------------------------------------------------------------------


@dataclass
class Found:
    """Everything measured for one operation of one case."""

    batches: list[Batch] = field(default_factory=list)
    reason: str = ""
    against_healthy: list[float] = field(default_factory=list)
    against_one: list[float] = field(default_factory=list)
    shards_per_byte: list[float] = field(default_factory=list)
    all_per_byte: list[float] = field(default_factory=list)
    allocated_per_byte: list[float] = field(default_factory=list)
    degraded_puts: int = 0


def percentile(values: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile of some values."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def latency_of(batches: Sequence[Batch]) -> dict[str, float]:
    """Percentiles over all operations, in milliseconds."""
    values = [latency * 1000 for batch in batches for latency in batch.latencies]
    return {f"p{percent}": percentile(values, percent) for percent in PERCENTILES}


def rates_of(batches: Sequence[Batch]) -> dict[str, dict[str, float]]:
    """MB/s, operations/s and CPU-s/GB: the best batch and the median."""
    speeds = [batch.bytes / batch.seconds / MEGA for batch in batches]
    rates = [batch.operations / batch.seconds for batch in batches]
    costs = [batch.spent.cpu_total / batch.bytes * limits.GIGA for batch in batches]
    return {
        "mb_s": {"best": max(speeds), "median": median(speeds)},
        "ops_s": {"best": max(rates), "median": median(rates)},
        "cpu_s_per_gb": {"best": min(costs), "median": median(costs)},
    }


def cpu_by_part(batch: Batch) -> dict[str, float]:
    """CPU-s/GB of the client, of all nodes together and of the ledger."""
    cpu = batch.spent.cpu
    known = {CLIENT: cpu.get(CLIENT, 0.0), LEDGER: cpu.get(LEDGER, 0.0)}
    nodes = sum(cpu.values()) - sum(known.values())
    return {
        name: value / batch.bytes * limits.GIGA
        for name, value in (("client", known[CLIENT]), ("nodes", nodes), ("ledger", known[LEDGER]))
    }


def others_share(batches: Sequence[Batch], cores: int) -> float:
    """Which part of the machine something else was using meanwhile: the noise."""
    seconds = sum(batch.spent.seconds for batch in batches)
    return sum(batch.spent.others for batch in batches) / (seconds * cores) if seconds else 0.0


def limit_of(
    case: Case, operation: str, spent: Mapping[str, float], stages: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The limit of a path, its terms, and how near the path comes.

    ``spent`` are best and median in CPU-s/GB.  Both sides of a ratio are the same
    sort of number: ``ratio`` is the best of the stages over the best of the path.
    """
    terms = limits.unavoidable(
        operation, case.mode, case.seal, from_file=operation == "put" and from_file(case.size)
    )
    signature = limits.content_signature(operation)
    unsigned = limits.cost_of(terms, stages)
    signed = unsigned + limits.cost_of(signature, stages)
    if limits.needs_content_signature(case.mode, case.seal):
        terms += signature
    cost = limits.cost_of(terms, stages)
    return {
        "terms": [
            {
                "stage": term.stage,
                "factor": term.factor,
                "cpu_s_per_gb": term.factor * limits.stage_cost(term.stage, stages),
                "why": term.why,
            }
            for term in terms
        ],
        "cpu_s_per_gb": cost,
        "ratio": cost / spent["best"],
        "ratio_of_medians": limits.cost_of(terms, stages, "median") / spent["median"],
        "ratio_without_content_signature": unsigned / spent["best"],
        "ratio_with_content_signature": signed / spent["best"],
    }


def row_of(
    case: Case, operation: str, found: Found, stages: dict[str, dict[str, Any]], cores: int
) -> dict[str, Any]:
    """The row of one operation of one case, for the result."""
    row: dict[str, Any] = {
        "operation": operation,
        "mode": case.mode,
        "seal": case.seal,
        "size": case.size,
        "concurrency": case.concurrency,
        "available": bool(found.batches),
        "reason": found.reason,
    }
    if not found.batches:
        return row
    cheapest = min(found.batches, key=lambda batch: batch.spent.cpu_total / batch.bytes)
    rates = rates_of(found.batches)
    row |= rates | {
        "rounds": len(found.batches),
        "operations": sum(batch.operations for batch in found.batches),
        "latency_ms": latency_of(found.batches),
        "cpu_s_per_gb_by_part": cpu_by_part(cheapest),
        "peak_memory_mib": _largest(batch.spent.peak for batch in found.batches),
        "memory_growth_mib_by_process": _largest(batch.spent.growth for batch in found.batches),
        "others_share": others_share(found.batches, cores),
        "limit": None,
    }
    growth = row["memory_growth_mib_by_process"].values()
    row["memory_growth_mib"] = max(growth, default=None)
    if operation == "range":
        row["range_bytes"] = case.range[1]
    else:
        row["limit"] = limit_of(case, operation, rates["cpu_s_per_gb"], stages)
    if operation == "put":
        row["degraded_puts"] = found.degraded_puts
        row["disk"] = {
            "shards_per_byte": median(found.shards_per_byte),
            "all_per_byte": median(found.all_per_byte),
            "allocated_per_byte": median(found.allocated_per_byte),
        }
    if found.against_one:
        row["cpu_against_one_stream"] = median(found.against_one)
    if operation == "degraded":
        row["against_healthy"] = median(found.against_healthy)
    return row


def _largest(samples: Any) -> dict[str, float]:
    largest: dict[str, float] = {}
    for sample in samples:
        for name, value in sample.items():
            largest[name] = max(largest.get(name, 0.0), round(value / MIB, 2))
    return largest
