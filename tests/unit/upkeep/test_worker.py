"""The runner: what ends a unit of work does not end the job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from hcefs.errors import Unavailable
from hcefs.runtime import SystemRuntime
from hcefs.upkeep.worker import ERROR_SECONDS, Progress, Runner


class Hurried(SystemRuntime):
    """Rests take no time, and are noted."""

    def __init__(self) -> None:
        super().__init__(compute_threads=1)
        self.rests: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def runtime() -> Iterator[Hurried]:
    made = Hurried()
    yield made
    made.close()


class Failing:
    """A job whose first unit ends with an error."""

    name = "failing"
    idle_seconds = 7.0

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._units = 0
        self.went_on = asyncio.Event()

    async def work(self) -> Progress:
        self._units += 1
        if self._units == 1:
            raise self._error
        self.went_on.set()
        return Progress.IDLE


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("not now"),
        RuntimeError("a fault"),
        # What gRPC raises in a call whose channel is closed meanwhile.
        asyncio.CancelledError(),
    ],
)
async def test_a_job_goes_on_after_an_error(runtime: Hurried, error: BaseException) -> None:
    job = Failing(error)
    runner = Runner(runtime, [job])
    runner.start()
    async with asyncio.timeout(5):
        await job.went_on.wait()
    assert runtime.rests[0] == ERROR_SECONDS
    await runner.stop()


class Endless:
    name = "endless"
    idle_seconds = 0.0

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def work(self) -> Progress:
        self.begun.set()
        await asyncio.Event().wait()
        return Progress.IDLE


async def test_a_stop_ends_a_job_within_its_unit(runtime: Hurried) -> None:
    job = Endless()
    runner = Runner(runtime, [job])
    runner.start()
    await job.begun.wait()
    async with asyncio.timeout(5):
        await runner.stop()
    assert runtime.rests == []
