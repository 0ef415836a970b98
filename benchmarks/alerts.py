"""``hcefs bench alerts``: faults one by one in a real cluster, and whether Prometheus tells them.

A cluster of six nodes under light load is scraped by a real Prometheus with the rules that
are shipped, made faster (:mod:`.alerts_rules`).  Each fault must raise its alerts within their
bounds and none that it may not, and everything must be quiet after it was mended.  Then
nothing is done for some minutes, and nothing may fire.

Not measured: what Alertmanager does with an alert, and whether somebody is woken by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.alerts_faults import Fault, chosen
from benchmarks.alerts_prometheus import Prometheus, binary
from benchmarks.alerts_rules import INTERVAL_SECONDS, SPEED
from benchmarks.alerts_stage import PUT_EVERY_QUIET, AlertsStage
from benchmarks.alerts_verdict import Quiet, Watch
from benchmarks.goals import Goal
from benchmarks.harness import Report, open_cluster
from benchmarks.machine import environment
from hcefs.errors import HcefsError, Unavailable
from hcefs.runtime import SystemRuntime, end_tasks

LOOK_SECONDS: Final = 1.0
READY_SECONDS: Final = 180.0
LATE_SECONDS: Final = 30.0
"""How long an alert that is too late is still waited for, to tell it from one that never comes."""

SERVED_A_SECOND: Final = 0.5
"""So many requests make light load: below, a quiet run shows nothing."""


@dataclass(frozen=True)
class Options:
    """What to do; ``work`` is a folder for the cluster."""

    work: Path
    only: tuple[str, ...] = ()
    healthy_minutes: float = 0.0
    faults: bool = True
    seed: int = 1


async def run(options: Options, runtime: SystemRuntime, report: Report) -> dict[str, Any]:
    """The whole benchmark.

    Raises:
        NotFound: Prometheus is not installed.
        Invalid: there is no such fault.
        HcefsError: the cluster does not come up.
    """
    binary()
    faults = chosen(options.only) if options.faults else []
    started = runtime.monotonic()
    async with open_cluster(options.work / "cluster", runtime, report) as cluster:
        stage = AlertsStage(cluster, options.seed)
        report("the nodes start again, in a hurry, and get something to keep")
        await stage.prepare()
        async with _watched(stage, options.work / "prometheus"), stage.light_load():
            bench = _Bench(stage, runtime, report)
            await bench.ready("at first")
            watches = [await bench.fault(fault) for fault in faults]
            quiet = None
            if options.healthy_minutes:
                quiet = await bench.healthy(60 * options.healthy_minutes)
    return {
        "benchmark": "alerts",
        "quick": False,
        "seconds": runtime.monotonic() - started,
        "environment": environment(options.work),
        "settings": {
            "speed": SPEED,
            "interval_s": INTERVAL_SECONDS,
            "healthy_minutes": options.healthy_minutes,
            "seed": options.seed,
        },
        "faults": [watch.as_data() for watch in watches],
        "healthy": None if quiet is None else quiet.as_data(),
        "goals": [goal.as_data() for goal in goals(watches, quiet)],
    }


def goals(watches: list[Watch], quiet: Quiet | None) -> list[Goal]:
    """Every fault is told rightly; nothing is told where there is none."""
    found = []
    if watches:
        good = sum(watch.passed for watch in watches)
        found.append(Goal("faults told rightly", float(len(watches)), True, float(good)))
    if quiet is not None:
        bad = len(quiet.complaints())
        found.append(Goal("complaints about the healthy run", 0.0, False, float(bad)))
    return found


@asynccontextmanager
async def _watched(stage: AlertsStage, folder: Path) -> AsyncIterator[None]:
    stage.prometheus = Prometheus(folder, stage.runtime, stage.jobs())
    await stage.runtime.disk(stage.prometheus.start)
    try:
        yield
    finally:
        await stage.runtime.disk(stage.prometheus.close)


class _Bench:
    """Does the faults of one run."""

    def __init__(self, stage: AlertsStage, runtime: SystemRuntime, report: Report) -> None:
        self._stage = stage
        self._runtime = runtime
        self._report = report

    @property
    def _now(self) -> float:
        return self._runtime.monotonic()

    # -- before a fault

    async def ready(self, when: str) -> None:
        """Wait until everything is scraped, whole and quiet, and every rule works.

        Raises:
            Unavailable: it does not become so.
        """
        end, last = self._now + READY_SECONDS, "nothing was asked"
        while self._now < end:
            try:
                last = await self._unready()
            except Unavailable as error:
                last = error.message
            if not last:
                return
            await self._runtime.sleep(LOOK_SECONDS)
        raise Unavailable(f"the cluster is not quiet and whole {when}: {last}", reason="not-ready")

    async def _unready(self) -> str:
        server = self._stage.prometheus
        if await server.reached() != server.targets:
            return "a process is not reached"
        broken = await server.broken_rules()
        if broken:
            return f"rules cannot be evaluated: {broken}"
        if not await server.value('sum(hcefs_blobs_by_margin{margin="2"})'):
            return "no blob was counted yet"
        if await server.value("sum(hcefs_blobs_short) + sum(hcefs_repair_backlog)"):
            return "shards are missing"
        if await server.value("max(hcefs_unreachable_nodes)"):
            return "a node does not reach another one"
        alerts = (await server.ask("alerts"))["alerts"]
        return ", ".join(sorted({each["labels"]["alertname"] for each in alerts}))

    # -- a fault

    async def fault(self, fault: Fault) -> Watch:
        """Do one, watch it, mend it."""
        watch = fault.watch(self._stage.prometheus.rules)
        self._report(f"{fault.name}: {fault.what}")
        try:
            await self.ready(f"before {fault.name}")
            await self._do(fault, watch)
        except HcefsError as error:
            watch.problem = f"{error.kind}, {error.reason}: {error.message}"
        said = "PASS" if watch.passed else "FAIL: " + "; ".join(watch.complaints())
        self._report(f"{fault.name}: {said}")
        return watch

    async def _do(self, fault: Fault, watch: Watch) -> None:
        began = self._now
        looking = asyncio.ensure_future(self._look(watch, lambda: self._now - began))
        try:
            async with fault.do(self._stage):
                # What takes time to be done has begun only now.
                began = self._now
                until = watch.last_bound + LATE_SECONDS
                while not watch.all_fired and self._now - began < until:
                    await self._runtime.sleep(LOOK_SECONDS)
            watch.mended = self._now - began
            until = watch.mended + watch.clears_within + LATE_SECONDS
            while watch.cleared is None and self._now - began < until:
                await self._runtime.sleep(LOOK_SECONDS)
        finally:
            await end_tasks(looking)

    async def _look(self, watch: Watch, at: Any) -> None:
        while True:
            # One answer that is missing is no verdict: a fault must not be seen as its end.
            try:
                firing = await self._stage.prometheus.firing()
            except Unavailable:
                firing = None
            if firing is not None:
                watch.see(max(0.0, at()), firing)
            await self._runtime.sleep(LOOK_SECONDS)

    # -- no fault

    async def healthy(self, seconds: float) -> Quiet:
        """Watch a cluster of which nothing is wrong."""
        stage = self._stage
        self._report(f"nothing is done for {seconds / 60:.0f} minutes")
        quiet = Quiet(seconds, stage.prometheus.targets, int(SERVED_A_SECOND * seconds))
        try:
            await self.ready("before the healthy run")
        except HcefsError as error:
            self._report(error.message)
        stage.load.put_every = PUT_EVERY_QUIET
        served, failed = stage.load.served, stage.load.failed
        began = self._now
        while self._now - began < seconds:
            try:
                reached = await stage.prometheus.reached()
                quiet.see(self._now - began, await stage.prometheus.firing(), reached)
            except Unavailable:
                quiet.see(self._now - began, None, 0)
            await self._runtime.sleep(LOOK_SECONDS)
        quiet.served, quiet.failed = stage.load.served - served, stage.load.failed - failed
        if quiet.failed:
            self._report("failed: " + "; ".join(stage.load.failures))
        return quiet
