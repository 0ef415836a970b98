"""One upkeep job as a loop of bounded units of work.

A worker's ``work`` does one unit and says how it went; the runner decides when
to call it again.  So every job can be stopped between units, and one runner
serves all of them.  Source: Garage's background workers.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from hcefs import tracing
from hcefs.errors import HcefsError
from hcefs.runtime import Runtime, end_tasks, is_cancelled

ERROR_SECONDS = 30.0
CANCELLED_SECONDS = 1.0
log = logging.getLogger(__name__)


async def at_once(
    runtime: Runtime, count: int, job: Callable[[], Coroutine[Any, Any, None]], name: str
) -> None:
    """Run a job ``count`` times at once; none is left running, whatever becomes of one.

    Raises:
        what the first of them raises; the others are cancelled.
    """
    jobs = [runtime.spawn(job(), name=name) for _ in range(count)]
    try:
        await asyncio.gather(*jobs)
    finally:
        await end_tasks(*jobs)


class Progress(enum.Enum):
    """What one unit of work says about the next."""

    BUSY = "busy"
    IDLE = "idle"


class Worker(Protocol):
    """One upkeep job."""

    name: str
    idle_seconds: float
    """How long to rest when there is nothing to do."""

    async def work(self) -> Progress:
        """Do one bounded unit.  May be repeated: must be idempotent."""


class Runner:
    """Runs workers until it is stopped."""

    def __init__(self, runtime: Runtime, workers: list[Worker]) -> None:
        self._runtime = runtime
        self._workers = workers
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start one task a worker."""
        self._tasks = [
            self._runtime.spawn(self._run(worker), name=f"upkeep-{worker.name}")
            for worker in self._workers
        ]

    async def _run(self, worker: Worker) -> None:
        while True:
            unit = tracing.begun(self._runtime)
            try:
                with tracing.span(f"upkeep {worker.name}", "internal"):
                    progress = await worker.work()
            except HcefsError as error:
                log.warning("upkeep %s: %s (%s)", worker.name, error.kind, error.reason)
                await self._runtime.sleep(ERROR_SECONDS)
                continue
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                log.warning("upkeep %s: a call was cancelled under it", worker.name)
                await self._runtime.sleep(CANCELLED_SECONDS)
                continue
            except Exception as error:  # noqa: BLE001 - a fault must not end upkeep in silence
                log.error("upkeep %s failed: %s", worker.name, type(error).__name__)
                await self._runtime.sleep(ERROR_SECONDS)
                continue
            finally:
                tracing.ended(unit)
            await self._runtime.sleep(0.0 if progress is Progress.BUSY else worker.idle_seconds)

    async def stop(self) -> None:
        """Stop after the current await; units are idempotent."""
        await end_tasks(*self._tasks)
