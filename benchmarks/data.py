"""``hcefs bench data``: put, get, ranged get and degraded get by size, concurrency and way.

Owns the order of things.  Before anything is measured, every node has been the
gateway of every way with a blob of its size, so that no process grows its heap in
a batch that counts.  Each round goes through all cases, one operation after the
other, so that a burst of noise hits every case and that what is compared (four
streams with one) was measured next to each other; the stages are repeated between
them.  For the degraded get, two nodes that hold data shards of the blobs are
killed with -9 at the end, and the healthy get that it is compared with ran just
before, on the same blobs.

Not guaranteed: that a run with an end (``--quick``) measures everything; what
did not fit says so, and its goals fail.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import cases, limits
from benchmarks.cases import Case, Effort, Found, Skipped
from benchmarks.goals import KIB, MIB, data_goals
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
from benchmarks.limits import Stages, open_stages
from benchmarks.machine import environment
from benchmarks.payloads import RANDOM, Payloads
from hcefs.client.client import Client
from hcefs.erasure.scheme import DEFAULT_PROFILE, profile_named
from hcefs.errors import Corrupt, HcefsError
from hcefs.ids import BlobId
from hcefs.integrity import blake3_hasher
from hcefs.runtime import SystemRuntime

SLOWEST_BYTES_S: Final = 2_000_000
"""A batch that is slower than this is given up."""

BULK_BYTES: Final = 16 * MIB
"""From here on the time goes with the bytes."""

BATCH_SECONDS: Final = 60.0
TEARDOWN_SECONDS: Final = 1.5
STAGES_SECONDS: Final = 3.0
STAGES_EVERY: Final = 2
"""Groups on one cluster between two repeats of the stages."""

EXPECTED_BYTES_S: Final = 200_000_000
EXPECTED_OPERATIONS_S: Final = 100.0
FASTEST_OF: Final = 2
DEGRADED_SECONDS: Final = 6.0
"""What killing two nodes, and finding out, may take."""

OUT_OF_TIME: Final = "out of time"


@dataclass(frozen=True)
class Options:
    """What to measure; ``work`` is a folder for the cluster, emptied at the end.

    Each group says what to measure of its cases.  ``one_cluster``: all groups on one
    cluster, every one before the next round; else each on one of its own.
    """

    work: Path
    groups: Sequence[Mapping[Case, Sequence[str]]]
    skipped: Sequence[Skipped] = ()
    effort: Effort = cases.FULL
    data: str = RANDOM
    seed: int = 1
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
            for case, operations in group.items()
            for operation in operations
        }
        self._pace: dict[tuple[str, ...], float] = {}
        self._profile = profile_named(DEFAULT_PROFILE)
        self._warmed: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._reserved = 0.0

    # -- one batch

    async def _batch(
        self, cluster: BenchCluster, case: Case, operation: str, todo: Sequence[Operation]
    ) -> Batch | None:
        """Measure; None when there is no time for it or it failed, which is then noted."""
        amount = self._bytes_of(case, operation) * len(todo)
        if not self._allows(self._expected(case, operation, len(todo))):
            self._give_up(case, operation, OUT_OF_TIME)
            return None
        self.report(f"{operation} {_label(case)}")
        seconds = BATCH_SECONDS + amount / SLOWEST_BYTES_S
        try:
            batch = await run_batch(
                cluster.pids(), todo, case.concurrency, self.runtime, self._within(seconds)
            )
        except HcefsError as error:
            self._give_up(case, operation, f"failed: {error.kind} ({error.reason})")
            return None
        except TimeoutError:
            self._give_up(case, operation, OUT_OF_TIME)
            return None
        for key in self._paces(case, operation):
            self._pace[key] = batch.seconds / batch.bytes
        return batch

    def _give_up(self, case: Case, operation: str, reason: str) -> None:
        """Note why there is no measurement; nothing to note where there is none wanted."""
        found = self.found.get((case, operation))
        if found is not None:
            found.reason = found.reason or reason

    def _allows(self, seconds: float) -> bool:
        return self.deadline.allows(seconds + self._reserved)

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

    # -- warming

    async def _warm(self, cluster: BenchCluster, case: Case) -> None:
        """Let every process do once what the case will ask of it, and check what comes back.

        In direct mode that is the client; else every node is the gateway in turn.

        Raises:
            Corrupt: what comes back is not what was put.
            HcefsError: a put or a get fails.
        """
        streams, size = self.effort.warming(case)
        done = self._warmed.setdefault((case.mode, case.seal), [])
        # A stream keeps a handful of segments: more of them at once weigh more than longer ones.
        if any(known >= streams and known * large >= streams * size for known, large in done):
            return
        done.append((streams, size))
        payload, digest = self.payloads.part(0, size), self.payloads.digest(size)
        ways = [{"node": address} for address in cluster.addresses()]
        for way in ways if case.mode == "gateway" else [{}]:
            arguments = self._arguments(case) | way
            await asyncio.gather(
                *(self._there_and_back(cluster, payload, digest, arguments) for _ in range(streams))
            )

    async def _there_and_back(
        self, cluster: BenchCluster, payload: bytes, digest: bytes, arguments: dict[str, Any]
    ) -> None:
        receipt = await cluster.patient.put(cluster.record, payload, **arguments)
        stream = await cluster.patient.get(cluster.record, receipt.ref.blob, **arguments)
        hasher = blake3_hasher()
        async with stream:
            async for piece in stream:
                hasher.update(piece)
        if hasher.digest() != digest:
            raise Corrupt("what came back is not what was put", reason="wrong-content")

    async def _ready(self, cluster: BenchCluster, case: Case) -> bool:
        """Whether a case can be measured; notes why not."""
        reason = self.found[case, "put"].reason
        if not reason and not self._allows(self._expected(case, "put", 1)):
            reason = OUT_OF_TIME
        if not reason:
            try:
                await self._warm(cluster, case)
            except HcefsError as error:
                reason = f"failed: {error.kind} ({error.reason})"
        if reason:
            for operation in cases.OPERATIONS:
                self._give_up(case, operation, reason)
        return not reason

    # -- all on one cluster

    async def measure(
        self,
        cluster: BenchCluster,
        groups: Sequence[Mapping[Case, Sequence[str]]],
        stages: Stages,
    ) -> None:
        """Puts and gets in rounds over all groups, then with two nodes lost."""
        self._warmed.clear()
        degraded = [case for group in groups for case, what in group.items() if "degraded" in what]
        self._reserved = DEGRADED_SECONDS if degraded else 0.0
        self.report("every node is the gateway of every way once")
        every = [case for group in groups for case in group]
        every.sort(key=lambda case: math.prod(self.effort.warming(case)), reverse=True)
        every.sort(key=lambda case: case.concurrency, reverse=True)
        able = {case for case in every if await self._ready(cluster, case)}
        ready = [[case for case in group if case in able] for group in groups]
        blobs: dict[Case, list[BlobId]] = {case: [] for group in ready for case in group}
        for number in range(self.effort.rounds):
            for index, group in enumerate(ready):
                if number and not self._allows(STAGES_SECONDS):
                    break
                if index % STAGES_EVERY == 0:
                    await stages.repeat()
                # Turned about, so that neither of two that are compared is always the first.
                await self._round(cluster, group if number % 2 == 0 else group[::-1], blobs)
        self._reserved = 0.0
        known = {case: found for case, found in blobs.items() if found}
        try:
            await self._degraded(cluster, known)
        except HcefsError as error:
            for case in known:
                self._give_up(case, "degraded", f"failed: {error.kind} ({error.reason})")
        if self._allows(STAGES_SECONDS):
            await stages.repeat()

    async def _round(
        self, cluster: BenchCluster, group: Sequence[Case], blobs: dict[Case, list[BlobId]]
    ) -> None:
        """One operation after the other, each with all cases of a group."""
        new: dict[Case, list[BlobId]] = {case: [] for case in group}
        puts: dict[Case, Batch] = {}
        for case in group:
            batch = await self._put_batch(cluster, case, new[case])
            if batch is not None:
                puts[case] = batch
        self._compare_streams(puts)
        for operation, case in itertools.product(("get", "range"), puts):
            if (case, operation) not in self.found:
                continue
            bounds = case.range if operation == "range" else (0, 0)
            todo = [self._get(cluster, case, blob, *bounds) for blob in new[case]]
            batch = await self._batch(cluster, case, operation, todo)
            if batch is not None:
                self.found[case, operation].batches.append(batch)
        for case, found in new.items():
            blobs[case] += found

    async def _put_batch(
        self, cluster: BenchCluster, case: Case, new: list[BlobId]
    ) -> Batch | None:
        count = self.effort.operations(case)
        shards, everything = await self._disk(cluster)
        todo = [self._put(cluster, case, new) for _ in range(count)]
        put = await self._batch(cluster, case, "put", todo)
        if put is None:
            reason = self.found[case, "put"].reason
            for operation in ("get", "range", "degraded"):
                self._give_up(case, operation, f"nothing was put ({reason})")
            return None
        found = self.found[case, "put"]
        found.batches.append(put)
        after_shards, after_everything = await self._disk(cluster)
        found.shards_per_byte.append((after_shards - shards).length / put.bytes)
        found.all_per_byte.append((after_everything - everything).length / put.bytes)
        found.allocated_per_byte.append((after_everything - everything).allocated / put.bytes)
        return put

    def _compare_streams(self, puts: Mapping[Case, Batch]) -> None:
        """CPU for each byte against that of one stream, measured just before or after."""
        one = next((batch for case, batch in puts.items() if case.concurrency == 1), None)
        if one is None:
            return
        for case, batch in puts.items():
            if case.concurrency > 1:
                ratio = (batch.spent.cpu_total / batch.bytes) / (one.spent.cpu_total / one.bytes)
                self.found[case, "put"].against_one.append(ratio)

    async def _disk(self, cluster: BenchCluster) -> tuple[Any, Any]:
        return (
            await self.runtime.disk(cluster.shards),
            await self.runtime.disk(cluster.everything),
        )

    # -- two nodes lost

    async def _degraded(self, cluster: BenchCluster, blobs: dict[Case, list[BlobId]]) -> None:
        wanted = [case for case in blobs if (case, "degraded") in self.found]
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
        for number in range(1 if self.options.quick else self.effort.rounds):
            if not todo or not self._allows(DEGRADED_SECONDS):
                break
            if number:
                await cluster.revive(pair)
                await cluster.until_whole([case.arguments for case in todo])
            await self._degraded_round(cluster, todo, pair)
        for case in todo:
            found = self.found[case, "degraded"]
            if not found.batches:
                found.reason = found.reason or OUT_OF_TIME

    def _gets(self, cluster: BenchCluster, case: Case, known: Sequence[BlobId]) -> list[Operation]:
        count = self.effort.operations(case)
        chosen = itertools.islice(itertools.cycle(known), count)
        return [self._get(cluster, case, blob) for blob in chosen]

    async def _degraded_round(
        self, cluster: BenchCluster, todo: dict[Case, list[Operation]], pair: tuple[int, int]
    ) -> None:
        healthy = {case: await self._fastest(cluster, case, "get", todo[case]) for case in todo}
        self.report(f"nodes {pair[0]} and {pair[1]} are killed")
        await cluster.kill(pair)
        for case, gets in todo.items():
            await self._learn_of_loss(case, gets)
        for case, gets in todo.items():
            batch, before = await self._fastest(cluster, case, "degraded", gets), healthy[case]
            if batch is None or before is None:
                continue
            found = self.found[case, "degraded"]
            found.batches.append(batch)
            found.against_healthy.append(
                (batch.bytes / batch.seconds) / (before.bytes / before.seconds)
            )

    async def _fastest(
        self, cluster: BenchCluster, case: Case, operation: str, gets: Sequence[Operation]
    ) -> Batch | None:
        """The fastest of some batches, so that a burst of noise on one side decides nothing."""
        made = [await self._batch(cluster, case, operation, gets) for _ in range(FASTEST_OF)]
        done = [batch for batch in made if batch is not None]
        return max(done, key=lambda batch: batch.bytes / batch.seconds, default=None)

    async def _learn_of_loss(self, case: Case, gets: Sequence[Operation]) -> None:
        """The first reads after a loss find out about it; they are not measured."""
        try:
            async with self.runtime.timeout(self._within(BATCH_SECONDS)):
                await gets[0]()
        except HcefsError as error:
            self._give_up(case, "degraded", f"failed: {error.kind} ({error.reason})")
        except TimeoutError:
            self._give_up(case, "degraded", OUT_OF_TIME)


def _label(case: Case) -> str:
    unit, name = (MIB, "MiB") if case.size >= MIB else (KIB, "KiB")
    sealed = "in packs" if case.seal == cases.PACK else f"sealed by the {case.seal}"
    return f"{case.size / unit:g} {name} x {case.concurrency}, {case.mode}, {sealed}"


# --- the whole --------------------------------------------------------------------------


async def run(options: Options, runtime: SystemRuntime, report: Report) -> dict[str, Any]:
    """Measure everything that was asked for; the result as data.

    Raises:
        Exhausted: the disk has too little space.
        Unavailable: the cluster does not come up.
        NotFound: the medical data is not installed.
    """
    effort, work, groups = options.effort, options.work, options.groups
    wanted = [cases.bytes_written(group, effort) for group in groups]
    require_space(work, (sum if options.one_cluster else max)([*wanted, 0]))
    self = Run(options, runtime, report)
    for group in groups:
        for case in group:
            self.payloads.source(case.size)  # a file is written before anything is measured
    pool = self.payloads.part(0, limits.POOL_BYTES)
    report("what the stages cost by themselves, from now on between all the others")
    async with open_stages(work / "limits", effort.stage_bytes, pool, runtime) as stages:
        clusters = [groups] if options.one_cluster else [[group] for group in groups]
        for number, together in enumerate(clusters):
            async with open_cluster(work / f"cluster-{number}", runtime, report) as cluster:
                await self.measure(cluster, together, stages)
        found = stages.found()
    return _result(self, found)


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
            "nodes": NODES,
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
