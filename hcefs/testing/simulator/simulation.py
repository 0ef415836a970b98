"""One run: bring the cluster up, let clients and faults at it, heal, and demand everything.

A run has two phases of load and faults.  After each, everything is healed and the
checkers demand what holds then: all acknowledged blobs read back at once, the ledger is
one, no secret is on a disk, and within :data:`WHOLE_SECONDS` every blob has all its
shards again.  At the end the clocks pass the time by which an unfinished put must be
committed: what was never committed goes, what was stays.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from hcefs.integrity import DIGEST_SIZE
from hcefs.ledger.transactions_erasure import EraseRecord
from hcefs.runtime import end_tasks
from hcefs.testing.simulator import rot
from hcefs.testing.simulator.checkers import (
    collected,
    durability,
    erased,
    freshness,
    readable,
    receipts,
    secrecy,
    whole,
)
from hcefs.testing.simulator.checkers.one_ledger import OneLedger
from hcefs.testing.simulator.faults import Faults, keep_ledger, keep_node
from hcefs.testing.simulator.history import History, Violation
from hcefs.testing.simulator.workload import Workload
from hcefs.testing.simulator.world import World, scaled

PHASES = 2
PHASE_SECONDS = 180.0
LOOK_SECONDS = 5.0
SERVE_SECONDS = 90.0
WHOLE_SECONDS = 600.0
ERASED_SECONDS = 300.0
QUIET_SECONDS = 45.0
RUN_SECONDS_MIN = 600.0
"""Of virtual time, of a run with whole phases: one that has become whole early goes on."""

DAY_MS = 25 * 3_600_000


@dataclass
class Report:
    """How one run ended."""

    seed: int
    seconds: float = 0.0
    digest: str = ""
    violation: Violation | None = None
    last: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    puts: int = 0
    fault: str = ""
    """Where the simulation itself broke."""


class Simulation:
    """See the module."""

    def __init__(self, seed: int, phase_seconds: float = PHASE_SECONDS) -> None:
        self.seed = seed
        self.world = World(seed)
        self.history = History()
        self._phase_seconds = phase_seconds
        self._failed: asyncio.Future[None] = self.world.loop.create_future()
        self._ledger = OneLedger()
        self._workload = Workload(self.world, self.history, self._fail)

    def _fail(self, violation: Violation) -> None:
        if not self._failed.done():
            self._failed.set_exception(violation)

    def run(self) -> Report:
        """Run to the end, or to the first violation."""
        world = self.world
        report = Report(self.seed)
        try:
            world.loop.run_until_complete(self._main())
        except Violation as violation:
            report.violation = violation
        except Exception as error:  # noqa: BLE001 - a run that breaks is a finding, too
            report.violation = Violation("simulation", f"{type(error).__name__}: {error}")
            report.fault = "".join(traceback.format_exception(error))
        report.seconds = world.loop.time()
        report.digest = world.trace.digest()
        report.last = world.trace.last()
        report.counts = world.trace.counts
        report.puts = len(self.history.puts)
        world.close()
        return report

    async def _main(self) -> None:
        story = self.world.loop.create_task(self._story())
        await asyncio.wait({story, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            await end_tasks(story)
            self._failed.result()
        self._failed.cancel()
        await story

    async def _story(self) -> None:
        await self.world.build()
        self.world.trace.note("the cluster serves")
        await self._workload.begin()
        for number in range(PHASES):
            await self._phase(f"phase-{number + 1}")
        await self._a_day_passes()

    async def _phase(self, name: str) -> None:
        world = self.world
        faults = Faults(world, self.history, self._fail, name)
        looking = world.loop.create_task(self._look())
        self._workload.start()
        faults.start()
        try:
            await asyncio.sleep(self._phase_seconds)
        finally:
            await faults.stop()
        keeping = world.loop.create_task(self._keep())
        try:
            await self._serves_again(name)
            await self._workload.stop()
            await self._demand(name)
            await self._becomes_whole(name)
            await asyncio.sleep(QUIET_SECONDS)
        finally:
            await end_tasks(looking, keeping)

    async def _look(self) -> None:
        """The checkers that hold at every moment."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                durability.check(self.world, self.history)
                durability.synchronised(self.world)
                durability.unchanged(self.world, self.history)
                freshness.check(self.world)
                self._ledger.check(self.world, self.history)
            except Violation as violation:
                self._fail(violation)
                return

    async def _keep(self) -> None:
        """What has died of the last faults is started again."""
        while True:
            keep_ledger(self.world, self._fail)
            for node in self.world.nodes:
                keep_node(self.world, node, self._fail)
            await asyncio.sleep(1.0)

    async def _serves_again(self, name: str) -> None:
        world = self.world

        def able() -> bool:
            members = {node.account for node in world.map().nodes if node.state <= 2}
            return all(
                node.is_up and node.node is not None and node.node.able()
                for node in world.nodes
                if node.account in members
            )

        if not await world.until(able, SERVE_SECONDS):
            raise Violation("serves", f"{SERVE_SECONDS:.0f} s after {name} some nodes do not serve")

    async def _demand(self, name: str) -> None:
        world = self.world
        await rot.check(world, self.history, self._workload, name)
        await readable.check(world, self.history, self._workload)
        await readable.listed(world, self.history)
        durability.check(world, self.history)
        self._ledger.check(world, self.history)
        receipts.check(world)
        secrecy.check(world, secrecy.secrets_of(world))
        secrecy.no_key_twice(world)
        for revoked in self.history.revoked:
            await world.until(lambda late=revoked.until: world.loop.time() > late, 60.0)  # type: ignore[misc]
            await self._workload.ask_revoked(revoked)

    async def _becomes_whole(self, name: str) -> None:
        world, history = self.world, self.history
        if not await world.until(lambda: not whole.lacks(world, history), WHOLE_SECONDS, 3.0):
            raise Violation(
                whole.NAME, f"{WHOLE_SECONDS:.0f} s after {name}: {whole.lacks(world, history)[:3]}"
            )
        world.trace.note(f"all is whole after {name}")
        self.history.destroyed.clear()

    async def _a_day_passes(self) -> None:
        """What was never committed goes, what was committed stays and reads back."""
        world = self.world
        for machine in world.machines():
            machine.offset_ms += DAY_MS
        await asyncio.sleep(QUIET_SECONDS)
        # Only a block says on the ledger that time has passed.
        await self._workload.put_again()
        await asyncio.sleep(2 * QUIET_SECONDS)
        if self._phase_seconds >= PHASE_SECONDS:
            await asyncio.sleep(max(0.0, RUN_SECONDS_MIN - world.loop.time()))
        for node in world.nodes:
            keep_node(world, node, self._fail)
        await self._serves_again("the day")
        collected.check(world)
        receipts.check(world)
        durability.check(world, self.history)
        await readable.check(world, self.history, self._workload)
        await self._the_record_ends()

    async def _the_record_ends(self) -> None:
        """It is erased while one node is dead, which then comes back with what it had."""
        world, record = self.world, self._workload.record
        away = world.nodes[self.seed % len(world.nodes)]
        if away.is_up:
            world.kill_node(away)
        await world.decree(EraseRecord(record, bytes(DIGEST_SIZE)))
        await asyncio.sleep(QUIET_SECONDS)
        for node in world.nodes:
            keep_node(world, node, self._fail)
        if not await world.until(lambda: not erased.left(world, record), ERASED_SECONDS, 1.0):
            raise Violation(erased.NAME, f"still there: {erased.left(world, record)[:3]}")
        world.trace.note("the record is erased")


def simulate(
    seed: int,
    phase_seconds: float = PHASE_SECONDS,
    planted: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Report:
    """Run one seed from nothing; ``planted`` is what is wrong with the code meanwhile."""
    gc.collect()
    gc.disable()
    try:
        with scaled(), planted():
            return Simulation(seed, phase_seconds).run()
    finally:
        # Coroutines of dead processes are dropped here, and what they say about it does not matter.
        said, sys.unraisablehook = sys.unraisablehook, lambda _: None
        gc.collect()
        sys.unraisablehook = said
        gc.enable()
