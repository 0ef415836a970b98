"""``hcefs bench scrape``: how long Prometheus waits for a node's page while the node works.

A cluster of six nodes; clients put and get through one of them the whole time, and its page
is fetched again and again as Prometheus does it: a new connection, OpenMetrics.  The page's
series are counted.

Not measured: what a scrape takes from clients; it is some milliseconds of one core each.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.cases import percentile
from benchmarks.goals import scrape_goals
from benchmarks.harness import BenchCluster, Report, open_cluster
from benchmarks.machine import environment
from hcefs.cli.cluster_files import node_name
from hcefs.config import load_node_config
from hcefs.runtime import SystemRuntime

CLIENTS: Final = 4
SIZE: Final = 256 << 10
PAUSE_SECONDS: Final = 0.05
PAGE_SECONDS: Final = 10.0
ACCEPT: Final = "application/openmetrics-text;version=1.0.0"


@dataclass(frozen=True)
class Effort:
    """How many pages are fetched."""

    pages: int


FULL: Final = Effort(300)
QUICK: Final = Effort(60)


@dataclass(frozen=True)
class Options:
    """What to measure; ``work`` is a folder for the cluster."""

    work: Path
    effort: Effort = FULL
    data: str = "random"
    seed: int = 1
    quick: bool = False


async def run(options: Options, runtime: SystemRuntime, report: Report) -> dict[str, Any]:
    """The whole benchmark.

    Raises:
        HcefsError: the cluster does not come up, or an operation fails.
    """
    started = runtime.monotonic()
    async with open_cluster(options.work / "cluster", runtime, report) as cluster:
        config = load_node_config(cluster.folder.config_of(node_name(1)))
        url = f"http://{config.metrics_address}/metrics"
        idle = await _fetch(url, runtime, options.effort.pages // 4)
        report("fetching the page of a node that serves")
        stop = asyncio.Event()
        loads = [
            asyncio.ensure_future(_load(cluster, config.client_address, stop, number))
            for number in range(CLIENTS)
        ]
        try:
            busy = await _fetch(url, runtime, options.effort.pages)
        finally:
            stop.set()
            done = await asyncio.gather(*loads)
    row = {
        "pages": len(busy.seconds),
        "operations": sum(done),
        "page_bytes": busy.page_bytes,
        "series": busy.series,
        "idle_ms": _percentiles(idle.seconds),
        "busy_ms": _percentiles(busy.seconds),
    }
    return {
        "benchmark": "scrape",
        "quick": options.quick,
        "seconds": runtime.monotonic() - started,
        "environment": environment(options.work),
        "settings": {"clients": CLIENTS, "size": SIZE, "pages": options.effort.pages},
        "scrape": row,
        "goals": [goal.as_data() for goal in scrape_goals(row)],
    }


@dataclass(frozen=True)
class _Pages:
    seconds: Sequence[float]
    page_bytes: int
    series: int


async def _fetch(url: str, runtime: SystemRuntime, pages: int) -> _Pages:
    seconds = []
    page = b""
    for _ in range(max(1, pages)):
        # In a thread of its own, and timed there: the clients of this process are no part of it.
        took, page = await runtime.disk(_page, url, runtime)
        seconds.append(took)
        await runtime.sleep(PAUSE_SECONDS)
    series = sum(1 for line in page.splitlines() if line and not line.startswith(b"#"))
    return _Pages(seconds, len(page), series)


def _page(url: str, runtime: SystemRuntime) -> tuple[float, bytes]:
    request = urllib.request.Request(url, headers={"Accept": ACCEPT})  # noqa: S310 - loopback
    started = runtime.monotonic()
    with urllib.request.urlopen(request, timeout=PAGE_SECONDS) as answer:  # noqa: S310
        page: bytes = answer.read()
    return runtime.monotonic() - started, page


async def _load(cluster: BenchCluster, node: str, stop: asyncio.Event, seed: int) -> int:
    """Put and get through one node until told to stop; how many operations."""
    payload = bytes([seed]) * SIZE
    done = 0
    while not stop.is_set():
        receipt = await cluster.patient.put(cluster.record, payload, node=node)
        stream = await cluster.patient.get(cluster.record, receipt.ref.blob, node=node)
        await stream.read()
        done += 2
    return done


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{percent}": 1000 * percentile(seconds, percent) for percent in (50, 95, 99)}
