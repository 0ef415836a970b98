"""``hcefs bench small``: payloads of 1, 4 and 16 KiB, as a ledger node brings them.

Single puts and gets with 64 in flight, and many payloads in one call: all into
one record, or each into a record of its own.  Every payload is another one.  A put
counts when its receipt says that it is durable on its holders and committed on the
ledger, and not before; after each batch the ledger is asked whether it has as many
entries more.  What comes back is compared after the clock has stopped.

Gets are measured twice: by the client that has just put, and by a new client of the
same account that has seen none of these blobs; the goals look at the new one, after
its first contact with the cluster.

Of the client it uses, if they exist::

    await client.put_many([(record, payload), ...])      -> receipts, in order, with .ref.blob
    await client.get_many([(record, blob), ...])         -> payloads, in order

Where they do not exist, the rows say "not available" and the goals fail.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
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

PUT: Final = "put"
GET: Final = "get"
PUT_MANY_ONE: Final = "put-many-one"
PUT_MANY_DIFFERENT: Final = "put-many-different"
GET_MANY: Final = "get-many"
GET_MANY_DIFFERENT: Final = "get-many-different"
BY_PUTTER: Final = "-by-putter"
OPERATIONS: Final = (
    PUT,
    GET + BY_PUTTER,
    GET,
    PUT_MANY_ONE,
    PUT_MANY_DIFFERENT,
    GET_MANY + BY_PUTTER,
    GET_MANY,
    GET_MANY_DIFFERENT,
)
IN_FLIGHT: Final = 64
MANY_IN_FLIGHT: Final = 4
"""Calls of ``put_many`` and ``get_many`` that run at the same time."""

OPENING: Final = 128
BATCH_SECONDS: Final = 120.0
TEARDOWN_SECONDS: Final = 2.0
WORST_BYTES: Final = 64 * KIB
"""Bytes that may be written for a payload, generously."""

WORST_RUN_BYTES: Final = 16 << 30
HELD_BYTES_MAX: Final = 64 << 20
"""Payloads of one batch that are kept for comparison."""

CHECKED_RECORDS: Final = 16
"""Records whose number of entries is asked for after a batch of puts."""


@dataclass(frozen=True)
class Sent:
    """A payload that was put, and where."""

    record: RecordId
    blob: BlobId
    payload: bytes


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    ``singles`` operations and ``calls`` of ``many`` payloads at most in a batch, as
    many as take about ``batch`` seconds.  Calls for different records have one payload
    for each of the ``records``.
    """

    singles: int
    many: int
    calls: int
    records: int
    rounds: int
    authorizations: int
    batch: float = 3.0
    seconds: float | None = None


FULL: Final = Effort(4096, 1024, 32, 1024, 5, 5000)
QUICK: Final = Effort(2048, 1024, 16, 512, 3, 1000, 0.7, 42.0)


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
    """Everything measured for one operation and size; ``payloads`` of each batch."""

    batches: list[Batch] = field(default_factory=list)
    payloads: list[int] = field(default_factory=list)
    reason: str = ""
    degraded: int = 0
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
        self._offset = 0
        self._warming = False
        self._pace: dict[str, float] = {}
        self.found = {
            (operation, size): Found() for size in options.sizes for operation in OPERATIONS
        }

    async def open_records(self) -> None:
        """Records of the patient's, for payloads that all go to different ones."""
        todo = iter(range(self.effort.records))

        async def work() -> None:
            for _ in todo:
                self.records.append((await self.cluster.patient.open_record()).record)

        await asyncio.gather(*(work() for _ in range(min(OPENING, self.effort.records))))

    async def warm(self) -> None:
        """Every kind of operation once: connections, pools, heaps, and a first idea of the pace."""
        found, self.found = self.found, {(name, KIB): Found() for name in OPERATIONS}
        self._warming = True
        await self._round(KIB)
        self._warming = False
        reasons = {name: self.found[name, KIB].reason for name in OPERATIONS}
        self.found = found
        for (name, _), entry in self.found.items():
            if reasons[name].startswith("failed"):
                entry.reason = entry.reason or reasons[name]

    async def rounds(self) -> None:
        """Every operation with every size, over and over."""
        for number, size in itertools.product(range(self.effort.rounds), self.options.sizes):
            first = number == 0 and size == self.options.sizes[0]
            if not first and not self.deadline.allows(self.effort.batch + TEARDOWN_SECONDS):
                self._note_what_is_missing()
                return
            self.report(f"round {number + 1}: payloads of {size / KIB:g} KiB")
            await self._round(size)

    def _note_what_is_missing(self) -> None:
        for found in self.found.values():
            if not found.batches:
                found.reason = found.reason or "out of time"

    async def _round(self, size: int) -> None:
        fresh = self.cluster.fresh_patient()
        # Its first contact: connections, map and record, but none of the blobs to come.
        first: list[Sent] = []
        await self._puts(first, size, 1)[0]()
        await self._gets(fresh, first, [])[0]()

        sent: list[Sent] = []
        count = self._count(PUT, IN_FLIGHT, self.effort.singles, size)
        await self._measure_puts(PUT, size, self._puts(sent, size, count), count, sent, IN_FLIGHT)
        for name, client in ((GET + BY_PUTTER, self.cluster.patient), (GET, fresh)):
            got: list[tuple[bytes, bytes]] = []
            await self._measure(name, size, self._gets(client, sent, got), len(sent), IN_FLIGHT)
            _compare(got)

        packed: dict[str, list[Sent]] = {}
        one = [self.cluster.record] * self.effort.many
        for name, records in ((PUT_MANY_ONE, one), (PUT_MANY_DIFFERENT, self.records or one)):
            least = 1 if self._warming else MANY_IN_FLIGHT
            calls = self._count(name, least, self.effort.calls, size, len(records))
            new: list[Sent] = []
            todo = self._puts_many(new, records, size, calls)
            payloads = calls * len(records)
            await self._measure_puts(name, size, todo, payloads, new, MANY_IN_FLIGHT)
            packed[name] = new
        for name, client, what in (
            (GET_MANY + BY_PUTTER, self.cluster.patient, PUT_MANY_ONE),
            (GET_MANY, fresh, PUT_MANY_ONE),
            (GET_MANY_DIFFERENT, fresh, PUT_MANY_DIFFERENT),
        ):
            got = []
            many = self.effort.many if what == PUT_MANY_ONE else len(self.records) or 1
            todo = self._gets_many(client, packed[what], many, got)
            payloads = len(todo) * many
            await self._measure(name, size, todo, payloads, MANY_IN_FLIGHT)
            _compare(got)

    def _count(self, name: str, least: int, most: int, size: int, each: int = 1) -> int:
        """Operations of a batch: as many as take about the time that a batch should."""
        most = max(1, min(most, HELD_BYTES_MAX // (size * each)))
        wanted = int(self._pace.get(name, 0.0) * self.effort.batch / each)
        return min(most, max(least, wanted))

    async def _measure_puts(
        self,
        name: str,
        size: int,
        todo: Sequence[Operation],
        payloads: int,
        sent: list[Sent],
        in_flight: int,
    ) -> None:
        """A batch of puts, and whether the ledger has as many entries more afterwards."""
        before: dict[RecordId, int] = {}
        records = [self.cluster.record, *self.records[:CHECKED_RECORDS]]
        found = self.found[name, size]
        if not found.reason:
            before = await self._entries(records)
        shards, everything = await self._disk()
        batch = await self._measure(name, size, todo, payloads, in_flight)
        if batch is None:
            return
        after_shards, after_everything = await self._disk()
        found.shards_per_byte.append((after_shards - shards) / batch.bytes)
        found.all_per_byte.append((after_everything - everything) / batch.bytes)
        after = await self._entries(records)
        for record in records:
            put = sum(entry.record == record for entry in sent)
            if after[record] - before[record] != put:
                raise Corrupt(
                    f"{put} puts were acknowledged and the ledger has "
                    f"{after[record] - before[record]} entries more",
                    reason="not-committed",
                )

    async def _entries(self, records: Sequence[RecordId]) -> dict[RecordId, int]:
        """Entries of some records, each proved complete: a leaf may stand for many."""
        lists = await asyncio.gather(*(self.cluster.patient.list(name) for name in records))
        incomplete = [listing.record.record for listing in lists if not listing.complete]
        if incomplete:
            raise Corrupt(f"the entries of {incomplete[0]} are not all listed", reason="incomplete")
        return {listing.record.record: len(listing) for listing in lists}

    async def _measure(
        self, name: str, size: int, todo: Sequence[Operation], payloads: int, in_flight: int
    ) -> Batch | None:
        """One batch, unless it cannot be or failed before; why not is noted."""
        found = self.found[name, size]
        if found.reason:
            return None
        if not todo:
            found.reason = "" if found.batches else "nothing was put"
            return None
        expected = payloads / self._pace.get(name, float("inf"))
        if not self.deadline.allows(expected + TEARDOWN_SECONDS):
            found.reason = "" if found.batches else "out of time"
            return None
        left = self.deadline.left
        seconds = BATCH_SECONDS if left is None else min(BATCH_SECONDS, left)
        try:
            batch = await run_batch(self.cluster.pids(), todo, in_flight, self.runtime, seconds)
        except HcefsError as error:
            found.reason = f"failed: {error.kind} ({error.reason})"
            return None
        except TimeoutError:
            found.reason = "" if found.batches else "out of time"
            return None
        found.batches.append(batch)
        found.payloads.append(payloads)
        self._pace[name] = payloads / batch.seconds
        return batch

    async def _disk(self) -> tuple[int, int]:
        shards = await self.runtime.disk(self.cluster.shards)
        everything = await self.runtime.disk(self.cluster.everything)
        return shards.length, everything.length

    # -- operations

    def _payload(self, size: int) -> bytes:
        """The next payload: none comes twice."""
        self._offset += size
        return self.payloads.part(self._offset - size, size)

    def _acknowledged(self, name: str, size: int, receipt: Any) -> None:
        """Check that a put is committed, and note whether it is as durable as it can be.

        Raises:
            Corrupt: the receipt names no leaf.
        """
        if not receipt.leaf or not receipt.height:
            raise Corrupt("a put was acknowledged without an entry", reason="not-committed")
        self.found[name, size].degraded += bool(receipt.degraded)

    def _puts(self, sent: list[Sent], size: int, count: int) -> list[Operation]:
        client, record = self.cluster.patient, self.cluster.record

        def put(payload: bytes) -> Operation:
            async def operation() -> int:
                receipt = await client.put(record, payload)
                self._acknowledged(PUT, size, receipt)
                sent.append(Sent(record, receipt.ref.blob, payload))
                return len(payload)

            return operation

        return [put(self._payload(size)) for _ in range(count)]

    def _gets(
        self, client: Client, sent: Sequence[Sent], got: list[tuple[bytes, bytes]]
    ) -> list[Operation]:
        def get(entry: Sent) -> Operation:
            async def operation() -> int:
                stream = await client.get(entry.record, entry.blob)
                async with stream:
                    data = await stream.read()
                got.append((data, entry.payload))
                return len(data)

            return operation

        return [get(entry) for entry in sent]

    def _puts_many(
        self, sent: list[Sent], records: Sequence[RecordId], size: int, calls: int
    ) -> list[Operation]:
        client = self.cluster.patient
        name = PUT_MANY_ONE if len(set(records)) == 1 else PUT_MANY_DIFFERENT

        def put(items: list[tuple[RecordId, bytes]]) -> Operation:
            async def operation() -> int:
                receipts = await client.put_many(items)
                if len(receipts) != len(items):
                    raise Corrupt("put_many acknowledged another number", reason="wrong-number")
                for (record, payload), receipt in zip(items, receipts, strict=True):
                    self._acknowledged(name, size, receipt)
                    sent.append(Sent(record, receipt.ref.blob, payload))
                return sum(len(payload) for _, payload in items)

            return operation

        return [put([(record, self._payload(size)) for record in records]) for _ in range(calls)]

    def _gets_many(
        self, client: Client, sent: Sequence[Sent], many: int, got: list[tuple[bytes, bytes]]
    ) -> list[Operation]:
        def get(wanted: Sequence[Sent]) -> Operation:
            async def operation() -> int:
                contents = await client.get_many([(each.record, each.blob) for each in wanted])
                if len(contents) != len(wanted):
                    raise Corrupt("get_many returned another number", reason="wrong-number")
                got.extend(zip(contents, (entry.payload for entry in wanted), strict=True))
                return sum(map(len, contents))

            return operation

        parts = [sent[i : i + many] for i in range(0, len(sent), many)]
        return [get(part) for part in parts if len(part) == many][: self.effort.calls]


def _compare(got: Sequence[tuple[bytes, bytes]]) -> None:
    """Check what came back, after the clock has stopped.

    Raises:
        Corrupt: it is not what was put.
    """
    for data, payload in got:
        if data != payload:
            raise Corrupt("what came back is not what was put", reason="wrong-content")


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
    wanted = payloads * effort.rounds * len(options.sizes) * WORST_BYTES
    require_space(options.work, min(wanted, WORST_RUN_BYTES))
    report("proof, token and rights by themselves")
    authority = [cpu_ms(effort.authorizations) for _ in range(max(3, effort.rounds))]
    async with open_cluster(options.work / "cluster", runtime, report) as cluster:
        self = Run(options, cluster, deadline, report)
        report("opening records")
        await self.open_records()
        report("every kind of operation once")
        await self.warm()
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
    both = list(zip(found.payloads, found.batches, strict=True))
    rates = [payloads / batch.seconds for payloads, batch in both]
    cpu = [batch.spent.cpu_total / payloads * 1000 for payloads, batch in both]
    row |= {
        "rounds": len(found.batches),
        "payloads": sum(found.payloads),
        "degraded": found.degraded,
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
