"""A temporary cluster to measure, and the load on it.

Six storage nodes and a ledger as processes of their own on the loopback
interface, mutual TLS, the defaults of every setting; one patient who puts into
records of his own and gets from them.  This process is the client, and counts.

Invariants: every process ends with the block that opened the cluster, however it
ends; whatever a batch's processes still do shortly after its last operation is
counted as the batch's; nothing is measured while a node starts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import DiskUse, Meter, Spent, cpu_seconds, disk_use
from hcefs.access.facts import AccountKind
from hcefs.cli.bringup import OPERATORS, bring_up, wait_serving
from hcefs.cli.cluster_files import ClusterFolder, node_name
from hcefs.cli.processes import Processes
from hcefs.client.client import Client
from hcefs.client.connection import Connection
from hcefs.config import load_node_config
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import Exhausted, HcefsError, Unavailable
from hcefs.ids import BlobId, RecordId
from hcefs.placement.ring import seats
from hcefs.runtime import SystemRuntime, end_tasks

NODES: Final = 6
CLIENT: Final = "client"
REVIVE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05
SETTLE_SECONDS: Final = 0.5
SETTLED_SHARE: Final = 0.1
"""Of one core: below it, the processes are taken to have finished what they were given."""

PROBE: Final = b"is everyone there?"
SPARE_BYTES: Final = 2 << 30
"""Free space that a benchmark leaves alone."""

Report = Callable[[str], None]
Operation = Callable[[], Awaitable[int]]
"""One put or get; returns the bytes of payload that it moved."""


class Deadline:
    """When a run must have ended; ``seconds`` None is never."""

    def __init__(self, runtime: SystemRuntime, seconds: float | None) -> None:
        self._runtime = runtime
        self._started = runtime.monotonic()
        self._seconds = seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._runtime.monotonic() - self._started

    def allows(self, seconds: float) -> bool:
        """Whether so much more fits."""
        return self._seconds is None or self.elapsed + seconds <= self._seconds

    @property
    def left(self) -> float | None:
        """Seconds until it, None if there is none."""
        return None if self._seconds is None else max(0.0, self._seconds - self.elapsed)


@dataclass(frozen=True)
class Batch:
    """Operations that ran together: what they moved, how long each took, what it cost."""

    bytes: int
    seconds: float
    latencies: tuple[float, ...]
    spent: Spent

    @property
    def operations(self) -> int:
        return len(self.latencies)


async def run_batch(
    pids: Mapping[str, int],
    operations: Sequence[Operation],
    concurrency: int,
    runtime: SystemRuntime,
    seconds: float | None = None,
) -> Batch:
    """Run operations, at most ``concurrency`` at a time, and count what they cost.

    Raises:
        HcefsError: an operation's failure; the others are given up.
        TimeoutError: they do not end within ``seconds``.
    """
    todo = iter(operations)
    latencies: list[float] = []
    moved = 0

    async def work() -> None:
        nonlocal moved
        for operation in todo:
            started = runtime.monotonic()
            count = await operation()
            moved += count  # not in one step: others have added meanwhile
            latencies.append(runtime.monotonic() - started)

    meter = Meter(pids)
    started = runtime.monotonic()
    workers = [
        asyncio.ensure_future(work()) for _ in range(max(1, min(concurrency, len(operations))))
    ]
    try:
        async with runtime.timeout(seconds):
            await asyncio.gather(*workers)
    finally:
        await end_tasks(*workers)
    elapsed = runtime.monotonic() - started
    await settle(pids, runtime)
    return Batch(moved, elapsed, tuple(latencies), meter.read())


async def settle(pids: Mapping[str, int], runtime: SystemRuntime) -> None:
    """Wait until the processes are nearly idle, but not for long."""
    end = runtime.monotonic() + SETTLE_SECONDS
    before = _cpu(pids)
    while runtime.monotonic() < end:
        await runtime.sleep(POLL_SECONDS)
        now = _cpu(pids)
        if now - before < SETTLED_SHARE * POLL_SECONDS:
            return
        before = now


def _cpu(pids: Mapping[str, int]) -> float:
    return sum(cpu_seconds(pid) or 0.0 for pid in pids.values())


class BenchCluster:
    """The cluster while it runs.  Made by :func:`open_cluster`."""

    def __init__(self, folder: ClusterFolder, runtime: SystemRuntime) -> None:
        self.folder = folder
        self.runtime = runtime
        self.processes = Processes(folder)
        self._clients: list[Client] = []
        self.connection: Connection
        self.patient: Client
        self.operator: Client
        self._patient_keys: AccountKeys
        self.record: RecordId

    async def start(self, report: Report) -> None:
        """Bring it up, admit a hospital and a patient, open a record.

        Raises:
            HcefsError: it does not come up.
        """
        await bring_up(self.folder, NODES, self.runtime, report=report)
        self.connection = self.folder.load_connection()
        hospital, patient = self.new_keys(), self.new_keys()
        self.operator = self.client(self.folder.load_keys(OPERATORS[0]))
        async with (
            self.client(self.folder.load_keys(OPERATORS[1])) as second,
            self.client(hospital) as institution,
        ):
            signed = await self.operator.register(hospital, AccountKind.INSTITUTION)
            await second.admit(self.operator.cosign(signed))
            await institution.admit(await institution.register(patient, AccountKind.PATIENT))
        self._patient_keys = patient
        self.patient = self.client(patient)
        self.record = (await self.patient.open_record()).record

    def client(self, keys: AccountKeys) -> Client:
        """A client of an account; closed with the cluster."""
        client = Client(self.connection, keys, self.runtime)
        self._clients.append(client)
        return client

    def fresh_patient(self) -> Client:
        """The same account in a new client that knows nothing yet; closed with the cluster."""
        return self.client(self._patient_keys)

    def new_keys(self) -> AccountKeys:
        """Keys of an account that nobody has registered yet."""
        return AccountKeys.generate(self.connection.cluster, self.runtime.random(128))

    async def close(self) -> None:
        """End every process; safe at any moment."""
        clients, self._clients = self._clients, []
        for client in clients:
            await client.close()
        # Nobody needs what they would still write.
        await self.runtime.disk(self.processes.stop_all, 0.0)

    # -- processes

    def pids(self) -> dict[str, int]:
        """Every process that runs, this one as the client, by name."""
        found = {CLIENT: os.getpid()}
        for name in self.folder.process_names():
            pid = self.processes.pid(name)
            if pid is not None:
                found[name] = pid
        return found

    async def kill(self, numbers: Sequence[int]) -> None:
        """kill -9 nodes."""
        for number in numbers:
            await self.runtime.disk(self.processes.kill, node_name(number))

    async def revive(self, numbers: Sequence[int]) -> None:
        """Start killed nodes again and wait until they serve what the ledger has now.

        Raises:
            Unavailable: they do not.
        """
        for number in numbers:
            await self.runtime.disk(self.processes.start_node, number)
        for number in numbers:
            await wait_serving(self.folder, node_name(number), self.runtime, REVIVE_SECONDS)
        wanted = (await self.operator.status(self.connection.ledger)).height
        addresses = [self._config(number).client_address for number in numbers]
        deadline = Deadline(self.runtime, REVIVE_SECONDS)
        while addresses:
            if (await self.operator.status(addresses[0])).height >= wanted:
                addresses.pop(0)
            elif deadline.allows(POLL_SECONDS):
                await self.runtime.sleep(POLL_SECONDS)
            else:
                raise Unavailable("a node does not catch up with the ledger", reason="behind")

    async def until_whole(self, modes: Sequence[dict[str, str]]) -> None:
        """Wait until puts through every node, and in each of the modes, reach all holders.

        Raises:
            Unavailable: they do not.
        """
        ways = [{"node": address} for address in self.addresses()]
        deadline = Deadline(self.runtime, REVIVE_SECONDS)
        for way in [*ways, *modes]:
            while not await self._reaches_all(way):
                if not deadline.allows(POLL_SECONDS):
                    raise Unavailable("a revived node gets no shards", reason="degraded")
                await self.runtime.sleep(POLL_SECONDS)

    async def _reaches_all(self, way: Mapping[str, str]) -> bool:
        arguments: dict[str, Any] = dict(way)
        try:
            return not (await self.patient.put(self.record, PROBE, **arguments)).degraded
        except HcefsError as error:
            if not error.retryable:
                raise
            return False

    # -- where things are

    def addresses(self) -> list[str]:
        """Where clients reach each node."""
        return [self._config(number).client_address for number in self.folder.node_numbers()]

    def _config(self, number: int) -> Any:
        return load_node_config(self.folder.config_of(node_name(number)))

    def shards(self) -> DiskUse:
        """The shard files of all nodes."""
        return self._use("shards")

    def everything(self) -> DiskUse:
        """All that nodes keep: shards, rows, keys and their replica of the ledger."""
        return self._use(".")

    def _use(self, part: str) -> DiskUse:
        total = DiskUse()
        for number in self.folder.node_numbers():
            total += disk_use(self._config(number).data / part)
        return total

    async def data_holders(self, blob: BlobId, k: int) -> frozenset[int]:
        """The nodes that hold a blob's data shards."""
        cluster_map = await self.patient.cluster_map()
        held = seats(cluster_map, cluster_map.default_profile, blob.base)
        return frozenset(seat.node.node_id for seat in held if seat.index < k)


@asynccontextmanager
async def open_cluster(
    root: Path, runtime: SystemRuntime, report: Report
) -> AsyncIterator[BenchCluster]:
    """A cluster in a new folder; its processes end and the folder goes with the block."""
    cluster = BenchCluster(ClusterFolder(root), runtime)
    try:
        await cluster.start(report)
        yield cluster
    finally:
        # Also when this task is being cancelled: nothing may keep running.
        await asyncio.shield(asyncio.ensure_future(cluster.close()))
        await runtime.disk(shutil.rmtree, root, True)


def require_space(folder: Path, wanted: int) -> None:
    """Check that a run fits on the disk.

    Raises:
        Exhausted: it does not.
    """
    free = shutil.disk_usage(folder).free
    if wanted + SPARE_BYTES > free:
        raise Exhausted(
            f"this run may write {wanted / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free: "
            "choose smaller sizes or another folder with --work",
            reason="disk-full",
        )
