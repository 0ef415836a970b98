"""``hcefs bench repair``: how fast a lost node is rebuilt, and what that costs its clients.

A cluster of six storage processes under ec-4-2 is filled.  Twice a node is killed for good
(its disk is deleted) and replaced by an empty one, so that each of its shards is rebuilt from
k others: first while nobody asks for anything, then under the same load of clients that was
measured on the whole cluster just before.

The pace is bytes rebuilt over the time in which bytes arrive: from the first growth that the
new node reports to the last.  What comes before (starting the process, the plan, the barrier
of an epoch) and after is in ``whole_seconds``.  CPU is that of all processes from the plan to
its end, so idle polling counts against us.

Not measured: a cluster on more than one machine, whose disks and network are not one.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import cases
from benchmarks.goals import KIB, MIB, repair_goals
from benchmarks.harness import (
    NODES,
    BenchCluster,
    Deadline,
    Report,
    open_cluster,
    require_space,
    run_batch,
)
from benchmarks.limits import POOL_BYTES, cost_of
from benchmarks.machine import Meter, Spent, environment
from benchmarks.payloads import RANDOM, Payloads
from benchmarks.rebuilding import also_needed, open_rebuild_stages, shares, terms
from hcefs.cli.bringup import OPERATORS, THRESHOLD
from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.cli.new_node import PORTS_PER_PROCESS, Ports, make_node, map_node, register_node
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.client.layout import LayoutClient
from hcefs.config import load_ledger_config, load_node_config
from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import BlobId
from hcefs.placement import changes
from hcefs.placement.cluster_map import Node, NodeState
from hcefs.placement.planner import plan
from hcefs.placement.waves import apply_plan, is_planned
from hcefs.runtime import SystemRuntime

K: Final = 4
M: Final = 2
POLL_SECONDS: Final = 0.1
MAP_POLLS: Final = 5
"""The map is asked for every so many polls: the answer of the ledger is not free."""

IN_FLIGHT: Final = 2
LOAD_SIZES: Final = (64 * KIB, 256 * KIB, MIB)
PUT_EVERY: Final = 4
"""Of the load, one request in so many is a put."""

STATUS_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Effort:
    """Payload bytes put, bytes of a blob, seconds of load on the whole cluster; bounds."""

    volume: int
    blob: int
    load_seconds: float
    stage_volume: int
    stage_repeats: int
    rebuild_seconds: float


FULL: Final = Effort(3 << 30, 16 * MIB, 20.0, 128 * MIB, 7, 240.0)
QUICK: Final = Effort(512 << 20, 8 * MIB, 6.0, 32 * MIB, 5, 90.0)


@dataclass(frozen=True)
class Options:
    """What to measure; ``work`` is a folder for the cluster."""

    work: Path
    effort: Effort = FULL
    data: str = RANDOM
    seed: int = 1
    quick: bool = False


@dataclass
class Rebuilt:
    """One lost node that was rebuilt."""

    bytes: int
    shards_bytes_lost: int
    seconds: float
    whole_seconds: float
    spent: Spent

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        cpu = self.spent.cpu_total
        nodes = {name: round(value, 3) for name, value in sorted(self.spent.cpu.items())}
        return {
            "bytes": self.bytes,
            "bytes_lost": self.shards_bytes_lost,
            "seconds": self.seconds,
            "whole_seconds": self.whole_seconds,
            "mb_s": self.bytes / self.seconds / 1e6 if self.seconds else 0.0,
            "cpu_s": cpu,
            "mb_per_cpu_s": self.bytes / cpu / 1e6 if cpu else 0.0,
            "cpu_s_per_gb": cpu / self.bytes * 1e9 if self.bytes else 0.0,
            "cpu_s_of_each": nodes,
            "others_cpu_s": self.spent.others,
        }


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
        keys = [cluster.folder.load_keys(name) for name in OPERATORS[:THRESHOLD]]
        self.layout = LayoutClient(cluster.operator, keys)
        self._payloads = Payloads(options.data, options.seed, options.work / "payloads")
        self._small: list[tuple[BlobId, int]] = []
        self._chance = random.Random(options.seed)

    async def fill(self) -> None:
        """Put the bytes that are to be rebuilt, and what the load reads."""
        size = self.effort.blob
        count = self.effort.volume // size
        self.report(f"putting {count} blobs of {size >> 20} MiB")
        pool = self._payloads.part(0, size)

        async def put() -> int:
            await self.cluster.patient.put(self.cluster.record, pool)
            return size

        await run_batch(self.cluster.pids(), [put] * count, IN_FLIGHT, self.runtime)
        for size in LOAD_SIZES:
            for _ in range(8):
                receipt = await self.cluster.patient.put(self.cluster.record, pool[:size])
                self._small.append((receipt.ref.blob, size))

    # -- clients

    async def _request(self) -> tuple[str, int]:
        if self._chance.randrange(PUT_EVERY) == 0:
            size = self._chance.choice(LOAD_SIZES)
            data = self._payloads.part(0, size)
            await self.cluster.patient.put(self.cluster.record, data, seal="node")
            return "put", size
        blob, size = self._chance.choice(self._small)
        stream = await self.cluster.patient.get(self.cluster.record, blob)
        async with stream:
            return "get", len(await stream.read())

    async def load(self, stop: asyncio.Event, seconds: float) -> dict[str, list[float]]:
        """Requests, ``IN_FLIGHT`` at a time, until told to stop; latencies by operation."""
        latencies: dict[str, list[float]] = {"get": [], "put": []}
        until = self.runtime.monotonic() + seconds

        async def work() -> None:
            while not stop.is_set() and self.runtime.monotonic() < until:
                started = self.runtime.monotonic()
                try:
                    what, _ = await self._request()
                except HcefsError:
                    latencies.setdefault("failed", []).append(self.runtime.monotonic() - started)
                    continue
                latencies[what].append(self.runtime.monotonic() - started)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        return latencies

    # -- a lost node

    async def lose(self, number: int) -> int:
        """Kill a node for good, its disk deleted; the bytes of its shards."""
        config = load_node_config(self.cluster.folder.config_of(node_name(number)))
        lost = sum(path.stat().st_size for path in config.data.glob("shards/??/*"))
        await self.cluster.kill([number])
        await self.runtime.disk(shutil.rmtree, config.data)
        return lost

    async def replace(self, lost: int, number: int) -> Node:
        """A new, empty node with the place of a lost one; nothing moves before ``begin``."""
        layout, runtime = self.cluster.folder, self.runtime
        old = (await self.layout.current()).node(lost)
        if old is None:
            raise Unavailable("the lost node is not on the map", reason="unknown-node")
        ledger = load_ledger_config(layout.config_of(LEDGER)).peer_address
        with reserved_ports(PORTS_PER_PROCESS, runtime.random) as ports:
            addresses = Ports(*(f"{HOST}:{port}" for port in ports))
            cluster = self.cluster.connection.cluster
            make_node(layout, number, addresses, cluster, ledger, runtime)
            others = [layout.load_keys(name) for name in OPERATORS[1:THRESHOLD]]
            await register_node(layout, number, self.cluster.operator, others)
            await runtime.disk(self.cluster.processes.start_node, number)
        made = map_node(layout, number)
        await self._follows(made.address)
        return replace(made, zone=old.zone, weight=old.weight, state=NodeState.JOINING)

    async def _follows(self, address: str) -> None:
        wanted = (await self.cluster.operator.status(self.cluster.connection.ledger)).height
        bound = Deadline(self.runtime, STATUS_SECONDS * 6)
        while True:
            try:
                if (await self.cluster.operator.status(address)).height >= wanted:
                    return
            except HcefsError:
                pass
            if not bound.allows(POLL_SECONDS):
                raise Unavailable("a new node does not follow the ledger", reason="not-following")
            await self.runtime.sleep(POLL_SECONDS)

    async def rebuild(self, lost: int, new: Node, bytes_lost: int) -> Rebuilt:
        """Give the lost node's seats to the new one and wait until all have arrived.

        Raises:
            Unavailable: they have not within the bound.
        """
        current = await self.layout.current()
        given_up = replace(current, nodes=tuple(changes.mark_out(current, [lost])))
        nodes = changes.replace_node(given_up, lost, new)
        made = await self.runtime.compute(plan, current, nodes)
        meter = Meter(self.cluster.pids())
        started = self.runtime.monotonic()
        await self.layout.apply(current, apply_plan(made, current))
        first = last = started
        before = total = 0
        bound = Deadline(self.runtime, self.effort.rebuild_seconds)
        polls = 0
        while True:
            status = await self.cluster.operator.status(new.address)
            now = self.runtime.monotonic()
            if status.rebalanced_bytes > total:
                if not total:
                    # What had arrived by the first look is not timed, so it is not counted.
                    first, before = now, status.rebalanced_bytes
                last, total = now, status.rebalanced_bytes
            polls += 1
            if polls % MAP_POLLS == 0 and not is_planned(await self.layout.current()):
                break
            if not bound.allows(POLL_SECONDS):
                raise Unavailable("a lost node is not rebuilt in time", reason="not-rebuilt")
            await self.runtime.sleep(POLL_SECONDS)
        whole = self.runtime.monotonic() - started
        spent = meter.read()
        return _Timed(total, bytes_lost, last - first, whole, spent, total - before).rebuilt()


@dataclass(frozen=True)
class _Timed:
    """What polling saw; ``timed`` bytes arrived within ``seconds``."""

    total: int
    bytes_lost: int
    seconds: float
    whole: float
    spent: Spent
    timed: int

    def rebuilt(self) -> Rebuilt:
        """The pace of the timed part stands for all bytes."""
        seconds = self.seconds * self.total / self.timed if self.timed else self.whole
        return Rebuilt(self.total, self.bytes_lost, seconds, self.whole, self.spent)


async def run(options: Options, runtime: SystemRuntime, report: Report) -> dict[str, Any]:
    """Measure everything; the result as data.

    Raises:
        Exhausted: the disk has too little space.
        Unavailable: the cluster does not come up, or a lost node is not rebuilt.
    """
    effort = options.effort
    deadline = Deadline(runtime, None)
    require_space(options.work, int(effort.volume * cases.DISK_FACTOR * (NODES + 2) / NODES))
    pool = Payloads(options.data, options.seed, options.work / "payloads").part(0, POOL_BYTES)
    async with (
        open_rebuild_stages(
            options.work / "limits", effort.stage_volume, pool, K, M, runtime
        ) as stages,
        open_cluster(options.work / "cluster", runtime, report) as cluster,
    ):
        self = Run(options, cluster, deadline, report)
        await self.fill()
        report("measuring decode, hop and write by themselves")
        for _ in range(effort.stage_repeats):
            await stages.repeat()
        report("losing node 2 on an idle cluster")
        bytes_lost = await self.lose(2)
        idle = await self.rebuild(2, await self.replace(2, NODES + 1), bytes_lost)
        report("measuring clients on the whole cluster")
        never = asyncio.Event()
        calm = await self.load(never, effort.load_seconds)
        report("losing node 3 under the same load")
        bytes_lost = await self.lose(3)
        new = await self.replace(3, NODES + 2)
        done = asyncio.Event()
        loaded = runtime.spawn(self.load(done, effort.rebuild_seconds), name="load")
        try:
            busy = await self.rebuild(3, new, bytes_lost)
        finally:
            done.set()
            under = await loaded
        for _ in range(effort.stage_repeats):
            await stages.repeat()
        found = stages.found()
    return _result(options, deadline, found, idle, busy, calm, under)


def _result(
    options: Options,
    deadline: Deadline,
    found: dict[str, dict[str, Any]],
    idle: Rebuilt,
    busy: Rebuilt,
    calm: dict[str, list[float]],
    under: dict[str, list[float]],
) -> dict[str, Any]:
    limit = cost_of(terms(K), found)
    rebuilds = {"idle": idle.as_data(), "loaded": busy.as_data()}
    clients = client_rows(calm, under)
    cost = rebuilds["idle"]["cpu_s_per_gb"]
    ratio = limit / cost if cost else None
    others = sum(shares(found, also_needed(K)).values())
    return {
        "benchmark": "repair",
        "quick": options.quick,
        "seconds": deadline.elapsed,
        "environment": environment(options.work),
        "settings": {
            "data": options.data,
            "seed": options.seed,
            "nodes": NODES,
            "payload_bytes": options.effort.volume,
            "blob_bytes": options.effort.blob,
            "in_flight": IN_FLIGHT,
            "lost_nodes": "killed, disk deleted, replaced by an empty one",
        },
        "limits": found,
        "limit": {
            "cpu_s_per_gb": limit,
            "mb_per_cpu_s": 1e3 / limit,
            "of_which": shares(found, terms(K)),
            "not_counted": shares(found, also_needed(K)),
            "ratio": ratio,
            "ratio_with_reads_and_digests": (limit + others) / cost if cost else None,
        },
        "rebuilds": rebuilds,
        "clients": clients,
        "goals": [goal.as_data() for goal in repair_goals(rebuilds["idle"], ratio, clients)],
    }


def client_rows(
    calm: dict[str, list[float]], under: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Latencies of gets and puts on the whole cluster and while a node is rebuilt."""
    rows = []
    for what in ("get", "put"):
        row: dict[str, Any] = {"operation": what}
        for phase, latencies in (("idle", calm), ("repairing", under)):
            times = latencies.get(what, [])
            row[phase] = _latency(times)
        both = row["idle"]["p99"], row["repairing"]["p99"]
        row["p99_ratio"] = both[1] / both[0] if all(both) else None
        rows.append(row)
    rows.append(
        {
            "operation": "failed",
            "idle": {"requests": len(calm.get("failed", []))},
            "repairing": {"requests": len(under.get("failed", []))},
        }
    )
    return rows


def _latency(times: Sequence[float]) -> dict[str, Any]:
    if not times:
        return {"requests": 0, "p50": None, "p95": None, "p99": None}
    return {
        "requests": len(times),
        **{f"p{each}": cases.percentile(times, each) * 1000 for each in cases.PERCENTILES},
    }
