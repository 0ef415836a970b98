"""``hcefs bench slow``: what one slow node costs the gets of a cluster.

Phases alternate: all nodes healthy, then one of them running a tenth of the time,
another one each round.  Of each pair of phases the p99 of the gets is compared, and
the goal looks at the median of the pairs.

The gets go in turn through the other nodes: where the gateway itself is the slow
one, nothing that it does can help, and an SDK must choose another.

Not measured: puts.  They wait for every holder, or for the put's deadline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import cases
from benchmarks.goals import MIB, slow_goals
from benchmarks.harness import (
    NODES,
    Batch,
    BenchCluster,
    Deadline,
    Operation,
    Report,
    open_cluster,
    require_space,
    run_batch,
)
from benchmarks.machine import environment
from benchmarks.payloads import RANDOM, Payloads
from benchmarks.slowed import slowed
from hcefs.cli.cluster_files import node_name
from hcefs.errors import Corrupt, HcefsError, Unavailable
from hcefs.ids import BlobId
from hcefs.runtime import SystemRuntime

CONCURRENCY: Final = 2
BATCH_SECONDS: Final = 120.0
TEARDOWN_SECONDS: Final = 2.0
MODES: Final = ("gateway", "direct")
HEALTHY: Final = "healthy"
SLOW: Final = "slow"


@dataclass(frozen=True)
class Effort:
    """Blobs to read from, gets of a phase, pairs of phases, gets before through each node."""

    blobs: int
    gets: int
    rounds: int
    warm: int
    seconds: float | None = None


FULL: Final = Effort(96, 500, 12, 32)
QUICK: Final = Effort(32, 100, 6, 17, 45.0)


@dataclass(frozen=True)
class Options:
    """What to measure; ``work`` is a folder for the cluster."""

    work: Path
    size: int = MIB
    effort: Effort = FULL
    modes: Sequence[str] = MODES
    data: str = RANDOM
    seed: int = 1
    quick: bool = False


@dataclass
class Pair:
    """A healthy phase and the slow one after it."""

    node: int
    healthy: Batch
    slow: Batch
    running_share: float | None

    def ratio(self, percent: int) -> float:
        """How many times the healthy percentile the slow one is."""
        ours, theirs = (cases.percentile(b.latencies, percent) for b in (self.slow, self.healthy))
        return ours / theirs


@dataclass
class Found:
    """Everything that was measured of one way of reading."""

    pairs: list[Pair] = field(default_factory=list)
    reason: str = ""


class Run:
    """One run on one cluster."""

    def __init__(
        self, options: Options, cluster: BenchCluster, deadline: Deadline, report: Report
    ) -> None:
        self.options = options
        self.effort = options.effort
        self.cluster = cluster
        self.runtime = cluster.runtime
        self.deadline = deadline
        self.report = report
        self.found = {mode: Found() for mode in options.modes}
        self._blobs: list[BlobId] = []
        self._nodes = dict(zip(cluster.folder.node_numbers(), cluster.addresses(), strict=True))

    async def prepare(self) -> None:
        """Put the blobs, and let every process learn how long things take."""
        payloads = Payloads(self.options.data, self.options.seed, self.options.work / "payloads")
        size = self.options.size
        self.report(f"putting {self.effort.blobs} blobs")

        def put(number: int) -> Operation:
            payload = payloads.part(number * size, size)

            async def operation() -> int:
                receipt = await self.cluster.patient.put(self.cluster.record, payload)
                self._blobs.append(receipt.ref.blob)
                return size

            return operation

        puts = [put(number) for number in range(self.effort.blobs)]
        await self._batch(puts)
        warm = self.effort.warm
        for mode in self.options.modes:
            for node in self._nodes if mode == "gateway" else [0]:
                await self._batch([self._get(mode, number, node) for number in range(warm)])

    async def rounds(self) -> None:
        """Pairs of phases in every way, another slow node each time."""
        numbers = list(self._nodes)
        pace = 0.0
        for number in range(self.effort.rounds):
            node = numbers[number % len(numbers)]
            for mode, found in self.found.items():
                if not self.deadline.allows(2.5 * pace + TEARDOWN_SECONDS):
                    found.reason = "" if found.pairs else "out of time"
                    continue
                self.report(f"round {number + 1}, {mode}: healthy, then node {node} slow")
                started = self.runtime.monotonic()
                try:
                    found.pairs.append(await self._pair(mode, node, number))
                except HcefsError as error:
                    found.reason = f"failed: {error.kind} ({error.reason})"
                except TimeoutError:
                    found.reason = "" if found.pairs else "out of time"
                pace = max(pace, (self.runtime.monotonic() - started) / 2)

    async def _pair(self, mode: str, node: int, number: int) -> Pair:
        others = [other for other in self._nodes if other != node]
        first = number * self.effort.gets
        gets = [
            self._get(mode, first + index, others[index % len(others)])
            for index in range(self.effort.gets)
        ]
        healthy = await self._batch(gets)
        pid = self.cluster.processes.pid(node_name(node))
        if pid is None:
            raise Unavailable("the node that should be slow has ended", reason="process-ended")
        async with slowed(pid, self.runtime) as outcome:
            slow = await self._batch(gets)
        return Pair(node, healthy, slow, outcome.running_share)

    async def _batch(self, todo: Sequence[Operation]) -> Batch:
        left = self.deadline.left
        seconds = BATCH_SECONDS if left is None else min(BATCH_SECONDS, left)
        return await run_batch(self.cluster.pids(), todo, CONCURRENCY, self.runtime, seconds)

    def _get(self, mode: str, number: int, node: int) -> Operation:
        arguments: dict[str, Any] = {"mode": mode}
        if node:
            # Also in direct mode: it asks a node for the manifest.
            arguments["node"] = self._nodes[node]

        async def operation() -> int:
            blob = self._blobs[number % len(self._blobs)]
            stream = await self.cluster.patient.get(self.cluster.record, blob, **arguments)
            async with stream:
                data = await stream.read()
            if len(data) != self.options.size:
                raise Corrupt("a get returned another length", reason="wrong-length")
            return len(data)

        return operation


async def run(options: Options, runtime: SystemRuntime, report: Report) -> dict[str, Any]:
    """Measure everything; the result as data.

    Raises:
        Exhausted: the disk has too little space.
        Unavailable: the cluster does not come up.
        HcefsError: a put, or a get while all nodes were healthy, failed.
    """
    effort = options.effort
    deadline = Deadline(runtime, effort.seconds)
    require_space(options.work, int(effort.blobs * options.size * cases.DISK_FACTOR))
    async with open_cluster(options.work / "cluster", runtime, report) as cluster:
        self = Run(options, cluster, deadline, report)
        await self.prepare()
        await self.rounds()
    named = environment(options.work)
    rows = [
        row_of(mode, phase, options.size, found, named["cores"])
        for mode, found in self.found.items()
        for phase in (HEALTHY, SLOW)
    ]
    ratios = {mode: ratio_of(found) for mode, found in self.found.items()}
    return {
        "benchmark": "slow",
        "quick": options.quick,
        "seconds": deadline.elapsed,
        "environment": named,
        "settings": {
            "data": options.data,
            "seed": options.seed,
            "rounds": effort.rounds,
            "nodes": NODES,
            "gets_of_a_phase": effort.gets,
            "in_flight": CONCURRENCY,
            "slow_node": "runs a tenth of the time (SIGSTOP, SIGCONT), is not asked as gateway",
        },
        "cases": rows,
        "ratios": ratios,
        "goals": [goal.as_data() for goal in slow_goals(ratios)],
    }


def ratio_of(found: Found) -> dict[str, Any]:
    """p50, p95 and p99 of the slow phases over the healthy ones: the median of the pairs."""
    if not found.pairs:
        return {"reason": found.reason}
    ratios: dict[str, Any] = {
        f"p{percent}": median(pair.ratio(percent) for pair in found.pairs)
        for percent in cases.PERCENTILES
    }
    shares = [pair.running_share for pair in found.pairs if pair.running_share is not None]
    return ratios | {
        "p99_of_each_pair": [pair.ratio(99) for pair in found.pairs],
        "slow_node_ran": median(shares) if shares else None,
    }


def row_of(mode: str, phase: str, size: int, found: Found, cores: int) -> Mapping[str, Any]:
    """One phase of one way, for the result."""
    row: dict[str, Any] = {
        "operation": "get",
        "mode": mode,
        "phase": phase,
        "size": size,
        "concurrency": CONCURRENCY,
        "available": bool(found.pairs),
        "reason": found.reason,
    }
    if not found.pairs:
        return row
    batches = [pair.healthy if phase == HEALTHY else pair.slow for pair in found.pairs]
    return row | {
        "rounds": len(batches),
        "operations": sum(batch.operations for batch in batches),
        "latency_ms": {
            f"p{percent}": median(
                cases.percentile(batch.latencies, percent) * 1000 for batch in batches
            )
            for percent in cases.PERCENTILES
        },
        "ops_s": cases.rates_of(batches)["ops_s"],
        "cpu_s_per_gb": cases.rates_of(batches)["cpu_s_per_gb"],
        "others_share": cases.others_share(batches, cores),
    }
