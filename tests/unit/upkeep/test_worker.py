"""Upkeep goes on after whatever one unit of work meets, and ends when it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from hcefs.errors import Unavailable
from hcefs.upkeep.worker import Progress, Runner
from tests.unit.upkeep.giving import ClockRuntime


@pytest.fixture
def runtime() -> Iterator[ClockRuntime]:
    made = ClockRuntime()
    yield made
    made.close()


class Job:
    """Fails once, then works."""

    name = "job"
    idle_seconds = 1.0

    def __init__(self, failure: BaseException, runtime: ClockRuntime) -> None:
        self._failure = failure
        self._runtime = runtime
        self.calls = 0
        self.worked = asyncio.Event()

    async def work(self) -> Progress:
        self.calls += 1
        if self.calls == 1:
            await asyncio.gather(self._runtime.spawn(self._fail(), name="call"))
        self.worked.set()
        return Progress.IDLE

    async def _fail(self) -> None:
        raise self._failure


@pytest.mark.parametrize(
    "failure",
    [Unavailable("away", reason="unreachable"), ValueError("a fault"), asyncio.CancelledError()],
    ids=["typed", "fault", "cancelled call"],
)
async def test_a_failed_unit_ends_no_worker(runtime: ClockRuntime, failure: BaseException) -> None:
    """gRPC cancels calls of a channel that is renewed because its node has restarted."""
    job = Job(failure, runtime)
    runner = Runner(runtime, [job])
    runner.start()
    async with asyncio.timeout(60):
        await job.worked.wait()
    await runner.stop()
    calls = job.calls
    for _ in range(5):
        await asyncio.sleep(0)
    assert job.calls == calls


async def test_a_worker_that_waits_is_stopped(runtime: ClockRuntime) -> None:
    class Waiting:
        name = "waiting"
        idle_seconds = 1.0

        async def work(self) -> Progress:
            await asyncio.Event().wait()
            return Progress.IDLE

    runner = Runner(runtime, [Waiting()])
    runner.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await runner.stop()
