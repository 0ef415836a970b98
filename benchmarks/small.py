"""``hcefs bench small``: payloads of 1, 4 and 16 KiB, as a ledger node brings them.

Single puts and gets with 64 in flight, and many payloads in one call: all into
one record, or each into a record of its own.  Every put counts when it is durable
on its holders and committed on the ledger, and not before.

Of the client it uses, if they exist::

    await client.put_many([(record, payload), ...])      -> receipts, in order, with .ref.blob
    await client.get_many([(record, blob), ...])         -> payloads, in order

Where they do not exist, the rows say "not available" and the goals fail.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import cases
from benchmarks.authority import cpu_ms
from benchmarks.goals import KIB, small_goals
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
from hcefs.errors import Corrupt, HcefsError
from hcefs.ids import BlobId, RecordId
from hcefs.runtime import SystemRuntime

SIZES: Final = (4 * KIB, KIB, 16 * KIB)
"""The one that has goals first."""

OPERATIONS: Final = ("put", "get", "put-many-one", "put-many-different", "get-many")
IN_FLIGHT: Final = 64
MANY_IN_FLIGHT: Final = 4
"""Calls of ``put_many`` and ``get_many`` that run at the same time."""

OPENING: Final = 32
BATCH_SECONDS: Final = 120.0
TEARDOWN_SECONDS: Final = 3.0
WORST_BYTES: Final = 64 * KIB
"""Bytes that may be written for a payload, generously."""

Names = list[tuple[RecordId, BlobId]]


@dataclass(frozen=True)
class Effort:
    """How much is measured: single operations, payloads of a many-call, calls, rounds."""

    singles: int
    many: int
    calls: int
    records: int
    rounds: int
    authorizations: int
    seconds: float | None = None


FULL: Final = Effort(2048, 1024, 16, 1024, 5, 5000)
QUICK: Final = Effort(256, 512, 8, 256, 2, 1000, 41.0)


@dataclass(frozen=True)
class Options:
    """What to measure; ``work`` is a folder for the cluster."""

    work: Path
    sizes: Sequence[int] = SIZES
    effort: Effort = FULL
    data: str = RANDOM
    seed: int = 1
    quick: bool = False


@dataclass
class Found:
    """Everything measured for one operation and size; ``payloads`` is those of a batch."""

    batches: list[Batch] = field(default_factory=list)
    payloads: int = 0
    reason: str = ""
    all_per_byte: list[float] = field(default_factory=list)
    shards_per_byte: list[float] = field(default_factory=list)


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
        self.payloads = Payloads(options.data, options.seed, options.work / "payloads")
        self.records: list[RecordId] = []
        self.found = {
            (operation, size): Found(reason=missing(operation))
            for size in options.sizes
            for operation in OPERATIONS
        }

    async def open_records(self) -> None:
        """Records of the patient's, for payloads that all go to different ones."""
        todo = iter(range(self.effort.records))

        async def work() -> None:
            for _ in todo:
                self.records.append((await self.cluster.patient.open_record()).record)

        await asyncio.gather(*(work() for _ in range(min(OPENING, self.effort.records))))

    async def rounds(self) -> None:
        """Every operation with every size, over and over."""
        for number, size in itertools.product(range(self.effort.rounds), self.options.sizes):
            self.report(f"round {number + 1}: payloads of {size / KIB:g} KiB")
            await self._round(size)

    async def _round(self, size: int) -> None:
        payload = self.payloads.part(0, size)
        singles, packed = Names(), Names()
        one = [self.cluster.record] * self.effort.many
        different = list(itertools.islice(itertools.cycle(self.records or one), self.effort.many))
        await self._measure("put", size, self._puts(singles, payload), IN_FLIGHT, 1)
        await self._measure("get", size, self._gets(singles, payload), IN_FLIGHT, 1)
        for operation, records in (("put-many-one", one), ("put-many-different", different)):
            calls = self._puts_many(packed, records, payload)
            await self._measure(operation, size, calls, MANY_IN_FLIGHT, self.effort.many)
        gets = self._gets_many(packed, payload)
        await self._measure("get-many", size, gets, MANY_IN_FLIGHT, self.effort.many)

    async def _measure(
        self, operation: str, size: int, todo: Sequence[Operation], in_flight: int, each: int
    ) -> None:
        """One batch, unless it cannot be or failed before; why not is noted."""
        found = self.found[operation, size]
        if found.reason:
            return
        if not todo:
            found.reason = "" if found.batches else "nothing was put"
            return
        if not self.deadline.allows(self._expected(found) + TEARDOWN_SECONDS):
            found.reason = "" if found.batches else "out of time"
            return
        shards, everything = await self._disk()
        left = self.deadline.left
        seconds = BATCH_SECONDS if left is None else min(BATCH_SECONDS, left)
        try:
            batch = await run_batch(self.cluster.pids(), todo, in_flight, self.runtime, seconds)
        except HcefsError as error:
            found.reason = f"failed: {error.kind} ({error.reason})"
            return
        except (TypeError, AttributeError) as error:
            found.reason = f"not available: another interface than expected ({error})"
            return
        except TimeoutError:
            found.reason = "out of time"
            return
        found.batches.append(batch)
        found.payloads = len(todo) * each
        if operation.startswith("put"):
            after_shards, after_everything = await self._disk()
            found.shards_per_byte.append((after_shards - shards) / batch.bytes)
            found.all_per_byte.append((after_everything - everything) / batch.bytes)

    def _expected(self, found: Found) -> float:
        return max((batch.seconds for batch in found.batches), default=0.0)

    async def _disk(self) -> tuple[int, int]:
        shards = await self.runtime.disk(self.cluster.shards)
        everything = await self.runtime.disk(self.cluster.everything)
        return shards.length, everything.length

    # -- operations

    def _puts(self, names: Names, payload: bytes) -> list[Operation]:
        client, record = self.cluster.patient, self.cluster.record

        async def put() -> int:
            receipt = await client.put(record, payload)
            names.append((record, receipt.ref.blob))
            return len(payload)

        return [put] * self.effort.singles

    def _gets(self, names: Names, payload: bytes) -> list[Operation]:
        client = self.cluster.patient

        def get(record: RecordId, blob: BlobId) -> Operation:
            async def operation() -> int:
                stream = await client.get(record, blob)
                async with stream:
                    data = await stream.read()
                return _same(data, payload)

            return operation

        return [get(*name) for name in names]

    def _puts_many(
        self, names: Names, records: Sequence[RecordId], payload: bytes
    ) -> list[Operation]:
        method: Callable[..., Awaitable[Any]] | None = _method("put_many", self.cluster.patient)
        items = [(record, payload) for record in records]

        async def put() -> int:
            if method is None:
                raise AttributeError("put_many")
            receipts = await method(items)
            blobs = [receipt.ref.blob for receipt in receipts]
            if len(blobs) != len(items):
                raise Corrupt("put_many acknowledged another number", reason="wrong-number")
            names.extend(zip(records, blobs, strict=True))
            return len(payload) * len(blobs)

        return [put] * self.effort.calls

    def _gets_many(self, names: Names, payload: bytes) -> list[Operation]:
        method: Callable[..., Awaitable[Any]] | None = _method("get_many", self.cluster.patient)

        def get(wanted: Names) -> Operation:
            async def operation() -> int:
                if method is None:
                    raise AttributeError("get_many")
                contents = await _all_of(await method(wanted))
                if len(contents) != len(wanted):
                    raise Corrupt("get_many returned another number", reason="wrong-number")
                return sum(_same(data, payload) for data in contents)

            return operation

        many = self.effort.many
        parts = [names[i : i + many] for i in range(0, len(names), many)]
        return [get(part) for part in parts if len(part) == many][: self.effort.calls]


def _same(data: bytes, payload: bytes) -> int:
    if data != payload:
        raise Corrupt("what came back is not what was put", reason="wrong-content")
    return len(data)


async def _all_of(answer: Iterable[Any] | AsyncIterable[Any]) -> list[bytes]:
    if isinstance(answer, AsyncIterable):
        return [bytes(data) async for data in answer]
    return [bytes(data) for data in answer]


def _method(name: str, client: Client) -> Callable[..., Awaitable[Any]] | None:
    found: Callable[..., Awaitable[Any]] | None = getattr(client, name, None)
    return found


def missing(operation: str) -> str:
    """Why the client cannot do this, or nothing."""
    if operation in ("put", "get"):
        return ""
    method = "get_many" if operation == "get-many" else "put_many"
    return "" if hasattr(Client, method) else f"not available: the client has no {method}"


# --- the whole --------------------------------------------------------------------------


async def run(options: Options, runtime: SystemRuntime, report: Report) -> dict[str, Any]:
    """Measure everything; the result as data.

    Raises:
        Exhausted: the disk has too little space.
        Unavailable: the cluster does not come up.
    """
    effort = options.effort
    deadline = Deadline(runtime, effort.seconds)
    payloads = effort.singles + 2 * effort.many * effort.calls
    require_space(options.work, payloads * effort.rounds * len(options.sizes) * WORST_BYTES)
    report("proof, token and rights by themselves")
    authority = [cpu_ms(effort.authorizations) for _ in range(max(3, effort.rounds))]
    async with open_cluster(options.work / "cluster", runtime, report) as cluster:
        self = Run(options, cluster, deadline, report)
        report("opening records")
        await self.open_records()
        await self.rounds()
    named = environment(options.work)
    rows = [_row(*key, found, named["cores"]) for key, found in self.found.items()]
    return {
        "benchmark": "small",
        "quick": options.quick,
        "seconds": deadline.elapsed,
        "environment": named,
        "settings": {
            "data": options.data,
            "seed": options.seed,
            "rounds": effort.rounds,
            "in_flight": IN_FLIGHT,
            "payloads_of_a_many_call": effort.many,
            "many_calls_in_flight": MANY_IN_FLIGHT,
            "records": len(self.records),
        },
        "authority_cpu_ms": {"best": min(authority), "median": median(authority)},
        "cases": rows,
        "goals": [goal.as_data() for goal in small_goals(rows, min(authority))],
    }


def _row(operation: str, size: int, found: Found, cores: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "operation": operation,
        "size": size,
        "available": bool(found.batches),
        "reason": found.reason,
    }
    if not found.batches:
        return row
    rates = [found.payloads / batch.seconds for batch in found.batches]
    cpu = [batch.spent.cpu_total / found.payloads * 1000 for batch in found.batches]
    row |= {
        "rounds": len(found.batches),
        "payloads": found.payloads * len(found.batches),
        "ops_s": {"best": max(rates), "median": median(rates)},
        "cpu_ms_per_payload": {"best": min(cpu), "median": median(cpu)},
        "latency_ms": cases.latency_of(found.batches),
        "others_share": cases.others_share(found.batches, cores),
    }
    if found.all_per_byte:
        row["disk"] = {
            "all_per_byte": median(found.all_per_byte),
            "shards_per_byte": median(found.shards_per_byte),
        }
    return row
