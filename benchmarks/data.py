"""``hcefs bench data``: put, get, ranged get and degraded get by size, concurrency and way.

Owns the order of things.  Each round goes through all cases of a group, so that
a burst of noise hits every case; for the degraded get, two nodes that hold data
shards of the blobs are killed with -9, and the healthy get that it is compared
with ran just before, on the same blobs.  The limits are measured in the same
run, before and after.

Not guaranteed: that a run with an end (``--quick``) measures everything; what
did not fit says so, and its goals fail.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import cases, limits
from benchmarks.cases import Case, Effort, Found, Skipped
from benchmarks.goals import KIB, MIB, data_goals
from benchmarks.harness import (
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
from hcefs.client.client import Client
from hcefs.erasure.scheme import DEFAULT_PROFILE, profile_named
from hcefs.errors import Corrupt, HcefsError
from hcefs.ids import BlobId
from hcefs.integrity import blake3_hasher
from hcefs.runtime import SystemRuntime

WARM_BYTES: Final = 8 * MIB
SLOWEST_BYTES_S: Final = 2_000_000
"""A batch that is slower than this is given up."""

BULK_BYTES: Final = 16 * MIB
"""From here on the time goes with the bytes."""

BATCH_SECONDS: Final = 60.0
TEARDOWN_SECONDS: Final = 3.0
AGAIN_SECONDS: Final = 6.0
EXPECTED_BYTES_S: Final = 100_000_000
EXPECTED_OPERATIONS_S: Final = 100.0
DEGRADED_SECONDS: Final = 8.0
"""What killing and reviving two nodes may take."""

OUT_OF_TIME: Final = "out of time"


@dataclass(frozen=True)
class Options:
    """What to measure; ``work`` is a folder for the cluster, emptied at the end.

    ``degraded`` are the cases for which nodes are killed; None is all of them.
    """

    work: Path
    groups: Sequence[Sequence[Case]]
    skipped: Sequence[Skipped] = ()
    effort: Effort = cases.FULL
    data: str = RANDOM
    seed: int = 1
    degraded: Sequence[Case] | None = None
    one_cluster: bool = False
    quick: bool = False


def missing_mode(mode: str, operation: str) -> str:
    """Why the client cannot do this, or nothing."""
    method = Client.put if operation == "put" else Client.get
    if mode != "gateway" and "mode" not in inspect.signature(method).parameters:
        return f"not available: the client has no {mode} mode"
    return ""


class Run:
    """One run of the benchmark on one cluster after the other."""

    def __init__(self, options: Options, runtime: SystemRuntime, report: Report) -> None:
        self.options = options
        self.effort = options.effort
        self.runtime = runtime
        self.report = report
        self.deadline = Deadline(runtime, options.effort.seconds)
        self.payloads = Payloads(options.data, options.seed, options.work / "payloads")
        self.found: dict[tuple[Case, str], Found] = {
            (case, operation): Found(reason=missing_mode(case.mode, operation))
            for group in options.groups
            for case in group
            for operation in cases.OPERATIONS
        }
        self._pace: dict[tuple[str, ...], float] = {}
        self._profile = profile_named(DEFAULT_PROFILE)

    # -- one batch

    async def _batch(
        self, cluster: BenchCluster, case: Case, operation: str, todo: Sequence[Operation]
    ) -> Batch | None:
        """Measure; None when there is no time for it or it failed, which is then noted."""
        found = self.found[case, operation]
        amount = self._bytes_of(case, operation) * len(todo)
        if not self.deadline.allows(self._expected(case, operation, len(todo))):
            found.reason = found.reason or OUT_OF_TIME
            return None
        self.report(f"{operation} {_label(case)}")
        seconds = BATCH_SECONDS + amount / SLOWEST_BYTES_S
        try:
            batch = await run_batch(
                cluster.pids(), todo, case.concurrency, self.runtime, self._within(seconds)
            )
        except HcefsError as error:
            found.reason = f"failed: {error.kind} ({error.reason})"
            return None
        except TimeoutError:
            found.reason = OUT_OF_TIME
            return None
        for key in self._paces(case, operation):
            self._pace[key] = batch.seconds / batch.bytes
        return batch

    def _within(self, seconds: float) -> float:
        left = self.deadline.left
        return seconds if left is None else min(seconds, left)

    def _bytes_of(self, case: Case, operation: str) -> int:
        return case.range[1] if operation == "range" else case.size

    def _expected(self, case: Case, operation: str, count: int) -> float:
        """Seconds that a batch may take, teardown included, judged by those before it."""
        amount = self._bytes_of(case, operation) * count
        known = [self._pace[key] for key in self._paces(case, operation) if key in self._pace]
        if known:
            return amount * known[0] + TEARDOWN_SECONDS
        guessed = amount / EXPECTED_BYTES_S + count / EXPECTED_OPERATIONS_S
        return guessed + TEARDOWN_SECONDS

    def _paces(self, case: Case, operation: str) -> tuple[tuple[str, ...], ...]:
        """Batches that go at a like pace, the likest first."""
        if case.size >= BULK_BYTES:
            return ((operation, "bulk", case.mode), (operation, "bulk"))
        return ((operation, str(case.size), case.mode), (operation, str(case.size)))

    # -- operations

    def _put(self, cluster: BenchCluster, case: Case, blobs: list[BlobId]) -> Operation:
        source, size = self.payloads.source(case.size), case.size

        async def operation() -> int:
            receipt = await cluster.patient.put(cluster.record, source, **self._arguments(case))
            blobs.append(receipt.ref.blob)
            self.found[case, "put"].degraded_puts += receipt.degraded
            return size

        return operation

    def _get(
        self, cluster: BenchCluster, case: Case, blob: BlobId, start: int = 0, length: int = 0
    ) -> Operation:
        expected = length or case.size

        async def operation() -> int:
            total = 0
            stream = await cluster.patient.get(
                cluster.record, blob, start=start, length=length, **self._arguments(case)
            )
            async with stream:
                async for piece in stream:
                    total += len(piece)
            if total != expected:
                raise Corrupt("a get returned another length", reason="wrong-length")
            return total

        return operation

    def _arguments(self, case: Case) -> dict[str, Any]:
        return dict(case.arguments)

    async def _warm(self, cluster: BenchCluster, case: Case) -> None:
        """Connect and fill the pools; and check that what comes back is what was put.

        Raises:
            Corrupt: it is not.
            HcefsError: a put or a get fails.
        """
        size = min(case.size, WARM_BYTES)
        receipt = await cluster.patient.put(
            cluster.record, self.payloads.part(0, size), **self._arguments(case)
        )
        stream = await cluster.patient.get(
            cluster.record, receipt.ref.blob, **self._arguments(case)
        )
        hasher = blake3_hasher()
        async with stream:
            async for piece in stream:
                hasher.update(piece)
        if hasher.digest() != self.payloads.digest(size):
            raise Corrupt("what came back is not what was put", reason="wrong-content")

    # -- groups

    async def group(self, cluster: BenchCluster, group: Sequence[Case]) -> None:
        """Measure one group: puts and gets in rounds, then with two nodes lost."""
        ready = [case for case in group if await self._ready(cluster, case)]
        blobs: dict[Case, list[BlobId]] = {case: [] for case in ready}
        for _ in range(self.effort.rounds):
            for case in ready:
                await self._round(cluster, case, blobs[case])
        known = {case: found for case, found in blobs.items() if found}
        try:
            await self._degraded(cluster, known)
        except HcefsError as error:
            # The cases after this one show by themselves whether the cluster still works.
            for case in known:
                found = self.found[case, "degraded"]
                found.reason = found.reason or f"failed: {error.kind} ({error.reason})"

    async def _ready(self, cluster: BenchCluster, case: Case) -> bool:
        """Whether a case can be measured; notes why not."""
        reason = self.found[case, "put"].reason
        if not reason and not self.deadline.allows(self._expected(case, "put", 1)):
            reason = OUT_OF_TIME
        if not reason:
            try:
                await self._warm(cluster, case)
            except HcefsError as error:
                reason = f"failed: {error.kind} ({error.reason})"
        if reason:
            for operation in cases.OPERATIONS:
                found = self.found[case, operation]
                found.reason = found.reason or reason
        return not reason

    async def _round(self, cluster: BenchCluster, case: Case, blobs: list[BlobId]) -> None:
        count = self.effort.operations(case)
        shards, everything = await self._disk(cluster)
        new: list[BlobId] = []
        put = await self._batch(
            cluster, case, "put", [self._put(cluster, case, new) for _ in range(count)]
        )
        if put is None:
            self._no_blobs(case)
            return
        found = self.found[case, "put"]
        found.batches.append(put)
        after_shards, after_everything = await self._disk(cluster)
        found.shards_per_byte.append((after_shards - shards).length / put.bytes)
        found.all_per_byte.append((after_everything - everything).length / put.bytes)
        found.allocated_per_byte.append((after_everything - everything).allocated / put.bytes)
        blobs += new
        for operation, bounds in (("get", (0, 0)), ("range", case.range)):
            todo = [self._get(cluster, case, blob, *bounds) for blob in new]
            batch = await self._batch(cluster, case, operation, todo)
            if batch is not None:
                self.found[case, operation].batches.append(batch)

    def _no_blobs(self, case: Case) -> None:
        reason = self.found[case, "put"].reason
        for operation in ("get", "range", "degraded"):
            found = self.found[case, operation]
            found.reason = found.reason or f"nothing was put ({reason})"

    async def _disk(self, cluster: BenchCluster) -> tuple[Any, Any]:
        return (
            await self.runtime.disk(cluster.shards),
            await self.runtime.disk(cluster.everything),
        )

    # -- two nodes lost

    async def _degraded(self, cluster: BenchCluster, blobs: dict[Case, list[BlobId]]) -> None:
        wanted = self._worth_degrading(list(blobs))
        if not wanted:
            return
        k = self._profile.k
        holders = {
            case: [await cluster.data_holders(blob, k) for blob in blobs[case]] for case in wanted
        }
        pair = cases.pair_to_kill(holders, cluster.folder.node_numbers())
        usable: dict[Case, list[BlobId]] = {}
        for case in wanted:
            both = zip(blobs[case], holders[case], strict=True)
            usable[case] = [blob for blob, data in both if set(pair) <= data]
            if not usable[case]:
                self.found[case, "degraded"].reason = "no blob has two data shards on those nodes"
        todo = {case: self._gets(cluster, case, known) for case, known in usable.items() if known}
        for _ in range(self.effort.rounds):
            if not todo or not self.deadline.allows(DEGRADED_SECONDS + TEARDOWN_SECONDS):
                break
            await self._degraded_round(cluster, todo, pair)
        for case in todo:
            found = self.found[case, "degraded"]
            if not found.batches:
                found.reason = found.reason or OUT_OF_TIME

    def _gets(self, cluster: BenchCluster, case: Case, known: Sequence[BlobId]) -> list[Operation]:
        count = self.effort.operations(case)
        chosen = itertools.islice(itertools.cycle(known), count)
        return [self._get(cluster, case, blob) for blob in chosen]

    def _worth_degrading(self, group: Sequence[Case]) -> list[Case]:
        wanted = self.options.degraded
        if wanted is None:
            return list(group)
        for case in group:
            if case not in wanted:
                self.found[case, "degraded"].reason = "only in a full run"
        return [case for case in group if case in wanted]

    async def _degraded_round(
        self, cluster: BenchCluster, todo: dict[Case, list[Operation]], pair: tuple[int, int]
    ) -> None:
        healthy = {
            case: await self._batch(cluster, case, "get", gets) for case, gets in todo.items()
        }
        self.report(f"nodes {pair[0]} and {pair[1]} are killed")
        await cluster.kill(pair)
        try:
            for case, gets in todo.items():
                await self._learn_of_loss(case, gets)
            for case, gets in todo.items():
                batch, before = await self._batch(cluster, case, "degraded", gets), healthy[case]
                if batch is None or before is None:
                    continue
                found = self.found[case, "degraded"]
                found.batches.append(batch)
                found.against_healthy.append(
                    (batch.bytes / batch.seconds) / (before.bytes / before.seconds)
                )
        finally:
            await cluster.revive(pair)
        await cluster.until_whole([case.arguments for case in todo])

    async def _learn_of_loss(self, case: Case, gets: Sequence[Operation]) -> None:
        """The first reads after a loss find out about it; they are not measured."""
        try:
            async with self.runtime.timeout(self._within(BATCH_SECONDS)):
                await gets[0]()
        except HcefsError as error:
            self.found[case, "degraded"].reason = f"failed: {error.kind} ({error.reason})"
        except TimeoutError:
            self.found[case, "degraded"].reason = OUT_OF_TIME


def _label(case: Case) -> str:
    unit, name = (MIB, "MiB") if case.size >= MIB else (KIB, "KiB")
    return (
        f"{case.size / unit:g} {name} x {case.concurrency}, {case.mode}, sealed by the {case.seal}"
    )


# --- the whole --------------------------------------------------------------------------


async def run(options: Options, runtime: SystemRuntime, report: Report) -> dict[str, Any]:
    """Measure everything that was asked for; the result as data.

    Raises:
        Exhausted: the disk has too little space.
        Unavailable: the cluster does not come up.
        NotFound: the medical data is not installed.
    """
    effort = options.effort
    work = options.work
    wanted = [cases.bytes_written(group, effort) for group in options.groups]
    require_space(work, (sum if options.one_cluster else max)([*wanted, 0]))
    self = Run(options, runtime, report)
    pool = self.payloads.part(0, limits.POOL_BYTES)
    report("what the stages cost by themselves")
    stages = await limits.measure(work / "limits", effort.limits, pool, runtime)
    async with AsyncExitStack() as opened:
        cluster: BenchCluster | None = None
        for number, group in enumerate(options.groups):
            if cluster is None or not options.one_cluster:
                await opened.aclose()  # the cluster before this one
                cluster = await opened.enter_async_context(
                    open_cluster(work / f"cluster-{number}", runtime, report)
                )
            await self.group(cluster, group)
    if self.deadline.allows(AGAIN_SECONDS):
        report("what the stages cost by themselves, again")
        again = await limits.measure(work / "limits", effort.limits, pool, runtime)
        stages = limits.best_of(stages, again)
    return _result(self, stages)


def _result(self: Run, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    options = self.options
    named = environment(options.work)
    rows = [
        cases.row_of(case, operation, found, stages, named["cores"])
        for (case, operation), found in self.found.items()
    ]
    return {
        "benchmark": "data",
        "quick": options.quick,
        "seconds": self.deadline.elapsed,
        "environment": named,
        "settings": {
            "data": options.data,
            "seed": options.seed,
            "rounds": options.effort.rounds,
            "nodes": 6,
            "volume_bytes": options.effort.volume,
        },
        "limits": stages,
        "cases": rows,
        "skipped": [
            {
                "mode": skip.case.mode,
                "seal": skip.case.seal,
                "size": skip.case.size,
                "concurrency": skip.case.concurrency,
                "reason": skip.reason,
            }
            for skip in options.skipped
        ],
        "goals": [goal.as_data() for goal in data_goals(rows)],
    }
