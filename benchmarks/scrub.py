"""When a scrub finds a flipped byte on a node of a given size, and what a byte read costs.

The node's stores are the real ones, on the disk of the working folder; the blobs in them were
sealed, encoded and stored by the code of a put, so that every row proves itself.  Then one
byte of one shard is flipped, and the scrub runs one cycle under a ceiling.

Not measured: clients beside it (the budget yields to them), and the reading of a cold disk
where the folder fits the page cache: shards above 256 KiB are read past it.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.goals import Goal
from hcefs.errors import Unavailable
from hcefs.formats.shard import HEADER_SIZE
from hcefs.ids import AccountId, BlobBase
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import Node
from hcefs.runtime import SystemRuntime
from hcefs.store.files import open_stores
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.stripes.adopt import Adoptable, Adopter
from hcefs.stripes.exports import Exporter
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.uploads import Uploads
from hcefs.testing.local_cluster import LocalCluster
from hcefs.transport.upkeep import UpkeepPeer
from hcefs.upkeep.scrub import Scrubber, ScrubPlan
from hcefs.upkeep.scrub_compare import HolderComparer
from hcefs.upkeep.scrub_rows import RowMender
from hcefs.upkeep.scrub_shards import ShardJudge
from hcefs.upkeep.scrub_state import ScrubLog
from hcefs.upkeep.set_aside import SettingAside
from hcefs.upkeep.throttle import Throttle

GIGA: Final = 1_000_000_000
MIB: Final = 1 << 20
BLOB_BYTES: Final = 32 * MIB
PROFILE: Final = "copy-3"
"""A shard is as long as its blob, so that a node of that size is filled with a put of it."""

SLACK: Final = 1.25
"""The cycle's time against bytes by ceiling: a pace cannot be kept to the byte."""


@dataclass(frozen=True)
class Options:
    """How much, how fast, and where."""

    work: Path
    size: int
    rate: float
    seed: int
    quick: bool


@dataclass
class Reported:
    """What the scrub entered for repair, and when."""

    began: float = 0.0
    entries: list[tuple[float, BlobBase, int, str]] = field(default_factory=list)

    def found(self, base: BlobBase, index: int, profile: str, reason: str) -> None:
        self.entries.append((time.perf_counter() - self.began, base, index, reason))


async def run(options: Options, runtime: SystemRuntime, report: Any) -> dict[str, Any]:
    """Fill a node, flip a byte, scrub it once."""
    started = time.perf_counter()
    cluster = LocalCluster(runtime)
    stores = open_stores(options.work / "node", reserve_bytes=0)
    try:
        report(f"storing {options.size / GIGA:.1f} GB")
        await _fill(cluster, stores, options.size, options.seed)
        base, index, offset = _flip(options)
        report("scrubbing one cycle")
        queue = Reported()
        scrubber = _scrubber(runtime, cluster, stores, queue, options.rate)
        cpu, queue.began = time.process_time(), time.perf_counter()
        scrubber.hurry()
        while not scrubber.status().resting:
            await scrubber.work()
        seconds = time.perf_counter() - queue.began
        cpu = time.process_time() - cpu
        kept = [each.base for each in stores.shards.quarantined()]
    finally:
        stores.close()
    cursor = scrubber.status().cursor
    hits = [entry for entry in queue.entries if entry[1:3] == (base, index)]
    return {
        "benchmark": "scrub",
        "quick": options.quick,
        "seconds": time.perf_counter() - started,
        "environment": machine.environment(options.work),
        "settings": {
            "size_bytes": options.size,
            "rate_mib": options.rate / MIB,
            "seed": options.seed,
            "flipped_at": offset,
        },
        "scrub": {
            "bytes": cursor.read_bytes,
            "shards": cursor.shards,
            "rows": cursor.rows,
            "seconds": seconds,
            "mb_s": cursor.read_bytes / 1e6 / seconds,
            "cpu_s_per_gb": cpu / (cursor.read_bytes / GIGA),
            "found_after_s": hits[0][0] if hits else None,
            "reported": len(queue.entries),
            "quarantined": len(kept),
        },
        "goals": [goal.as_data() for goal in _goals(options, cursor.read_bytes, seconds, hits)],
    }


def _goals(
    options: Options, read: int, seconds: float, hits: list[tuple[float, BlobBase, int, str]]
) -> list[Goal]:
    budgeted = read / options.rate
    after = hits[0][0] if hits else None
    bound, ceiling = round(budgeted * SLACK + 1, 3), options.rate / 1e6 * 1.05
    return [
        Goal(
            "flipped byte reported, seconds (one budgeted cycle)",
            bound,
            False,
            after,
            "it was not found",
        ),
        Goal("rate within the ceiling, MB/s", ceiling, False, read / 1e6 / seconds),
    ]


async def _fill(cluster: LocalCluster, stores: Stores, size: int, seed: int) -> None:
    """Put blobs until the node has its bytes; what the other nodes got is dropped."""
    source = random.Random(seed)
    left = size
    while left > 0:
        await cluster.put(source.randbytes(min(left, BLOB_BYTES)), PROFILE)
        moved = False
        for account in cluster.stores:
            taken = _move(cluster, account, None if moved else stores)
            moved = moved or taken > 0
            left -= taken


def _move(cluster: LocalCluster, account: AccountId, target: Stores | None) -> int:
    """Move what one node of the cluster has to the disk, or drop it; bytes that were moved."""
    memory, moved = cluster.stores[account], 0
    for base, index in list(memory.shards.inventory()):
        if target is not None:
            reader = memory.shards.open(base, index)
            writer = target.shards.begin(base, index, reader.size)
            writer.write(reader.read_at(0, reader.size))
            writer.finish(b"")
            moved += reader.size
        memory.shards.remove(base, index)
    for table in Table:
        rows = [(table, key, value) for key, value in memory.rows.scan(table)]
        if target is not None and moved:
            target.rows.put(rows)
        memory.rows.delete([(table, key) for _, key, _ in rows])
    for place in KeyTable:
        keys = [(place, key, value) for key, value in memory.keys.scan(place)]
        if target is not None and moved:
            target.keys.put_all_new(keys)
        memory.keys.delete([(place, key) for _, key, _ in keys])
    return moved


def _flip(options: Options) -> tuple[BlobBase, int, int]:
    """Flip one bit of one shard; which one, and where."""
    source = random.Random(options.seed)
    paths = sorted((options.work / "node" / "shards").glob("[0-9a-f][0-9a-f]/*"))
    path = source.choice(paths)
    offset = source.randrange(HEADER_SIZE, path.stat().st_size - 4096)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ (1 << source.randrange(8))]))
    base, _, index = path.name.partition(".")
    return BlobBase(bytes.fromhex(base)), int(index), offset


def _scrubber(
    runtime: SystemRuntime, cluster: LocalCluster, stores: Stores, queue: Reported, rate: float
) -> Scrubber:
    metrics, ledger = Metrics(), cluster.ledger
    pending = PendingNames(stores.rows)
    scrub_log = ScrubLog(stores.rows, runtime.now_ms)
    exporter = Exporter(runtime, stores, ledger, metrics, pending, Uploads(lambda: 1))
    adopter = Adopter(runtime, stores, ledger, pending)
    aside = SettingAside(stores, pending, scrub_log, runtime.now_ms)
    judge = ShardJudge(
        runtime, stores, exporter, adopter, pending, scrub_log, aside, queue, metrics
    )
    return Scrubber(
        runtime,
        stores,
        judge,
        RowMender(stores, pending, judge.restore),
        scrub_log,
        Throttle(runtime, rate * 2, rate * 2, lambda: False),
        metrics,
        ScrubPlan(86_400.0, rate),
        _alone(runtime, stores, adopter, queue, metrics),
    )


class _Nobody:
    """There are no other holders."""

    def upkeep_peer(self, node: Node) -> UpkeepPeer:
        raise Unavailable("this node is alone", reason="unknown-node")


def _alone(
    runtime: SystemRuntime, stores: Stores, adopter: Adopter, queue: Reported, metrics: Metrics
) -> HolderComparer:
    """A comparison without a map, which asks nobody: reading is what is measured."""

    async def enter(_: Adoptable) -> bool:
        return False

    return HolderComparer(
        runtime,
        lambda: None,
        stores,
        _Nobody(),
        adopter,
        enter,
        queue,
        metrics,
        AccountId.zero(),
    )
