"""The budget of upkeep: a floor under load, growth when idle, a ceiling, bounded bursts."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator

import pytest

from hcefs.upkeep.latency import LatencyMeter
from hcefs.upkeep.scrub import Pacer
from hcefs.upkeep.throttle import (
    BURST_BUSY_SECONDS,
    BURST_SECONDS,
    GROWTH,
    STEP_SECONDS,
    Throttle,
)
from tests.unit.upkeep.giving import ClockRuntime

FLOOR, CEILING = 1000.0, 16_000.0


@pytest.fixture
def runtime() -> Iterator[ClockRuntime]:
    made = ClockRuntime()
    yield made
    made.close()


class Load:
    """Whether clients are being served."""

    def __init__(self, busy: bool) -> None:
        self.busy = busy

    def __call__(self) -> bool:
        return self.busy


async def took(runtime: ClockRuntime, throttle: Throttle, size: int, parts: int = 1) -> float:
    """Seconds until so many bytes may be moved."""
    before = runtime.now
    for _ in range(parts):
        await throttle.spend(size // parts)
    return runtime.now - before


@pytest.mark.parametrize("parts", [1, 10, 1000])
async def test_under_load_the_floor_is_kept(runtime: ClockRuntime, parts: int) -> None:
    throttle = Throttle(runtime, FLOOR, CEILING, Load(True))
    seconds = await took(runtime, throttle, 20_000, parts)
    assert seconds == pytest.approx(20_000 / FLOOR, rel=0.05)
    assert throttle.rate == FLOOR


async def test_an_idle_node_grows_to_the_ceiling(runtime: ClockRuntime) -> None:
    throttle = Throttle(runtime, FLOOR, CEILING, Load(False))
    seen = []
    for _ in range(24):
        await throttle.spend(int(throttle.rate * STEP_SECONDS) + 1)
        seen.append(throttle.rate)
    assert seen == sorted(seen)
    assert max(b / a for a, b in itertools.pairwise(seen)) <= GROWTH**2 + 1e-9
    assert seen[-1] == CEILING
    seconds = await took(runtime, throttle, 1_600_000, 100)
    assert seconds == pytest.approx(1_600_000 / CEILING, rel=0.05)


async def test_clients_are_yielded_to_at_once(runtime: ClockRuntime) -> None:
    load = Load(False)
    throttle = Throttle(runtime, FLOOR, CEILING, load)
    await took(runtime, throttle, 400_000, 100)
    assert throttle.rate == CEILING
    load.busy = True
    runtime.now += 100
    seconds = await took(runtime, throttle, 10_000, 10)
    assert throttle.rate == FLOOR
    assert seconds >= 10_000 / FLOOR - BURST_SECONDS, "the room of the idle time is gone"


async def test_rest_saves_no_more_than_one_burst(runtime: ClockRuntime) -> None:
    throttle = Throttle(runtime, CEILING, CEILING, Load(False))
    runtime.now += 10_000
    size = int(CEILING * 10)
    seconds = await took(runtime, throttle, size, 100)
    assert seconds >= size / CEILING - BURST_SECONDS - 1e-6


async def test_under_load_little_is_saved_up(runtime: ClockRuntime) -> None:
    throttle = Throttle(runtime, FLOOR, CEILING, Load(True))
    await throttle.spend(1)
    runtime.now += 100
    seconds = await took(runtime, throttle, 2000, 20)
    assert seconds >= 2000 / FLOOR - BURST_BUSY_SECONDS - 1e-6


async def test_over_any_time_the_ceiling_and_one_burst_are_the_most(runtime: ClockRuntime) -> None:
    seed = 20261125
    print("seed", seed)
    chance = random.Random(seed)  # noqa: S311
    load = Load(False)
    throttle = Throttle(runtime, FLOOR, CEILING, load)
    spent: list[tuple[float, int]] = []
    for _ in range(600):
        load.busy = chance.random() < 0.2
        runtime.now += chance.choice([0.0, 0.0, 0.01, 0.3, 3.0])
        size = chance.randrange(1, 6000)
        await throttle.spend(size)
        spent.append((runtime.now, size))
    for first in range(0, len(spent), 7):
        total = 0
        for when, size in spent[first + 1 :]:
            total += size
            allowed = CEILING * (when - spent[first][0]) + CEILING * BURST_SECONDS
            assert total <= allowed + 1e-6


async def test_a_ceiling_below_the_floor_is_the_floor(runtime: ClockRuntime) -> None:
    throttle = Throttle(runtime, FLOOR, FLOOR / 2, Load(False))
    runtime.now += 100
    await throttle.spend(10)
    assert throttle.rate == FLOOR


async def test_those_who_wait_take_turns(runtime: ClockRuntime) -> None:
    throttle = Throttle(runtime, FLOOR, FLOOR, Load(True))
    done: list[int] = []

    async def take(number: int) -> None:
        await throttle.spend(500)
        done.append(number)

    tasks = [runtime.spawn(take(number), name="take") for number in range(5)]
    for task in tasks:
        await task
    assert done == [0, 1, 2, 3, 4]


class ExactRuntime(ClockRuntime):
    """Sleeps end exactly when they are to, and are counted."""

    sleeps = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        if self.sleeps > 100_000:
            raise AssertionError("it sleeps for ever, and no time passes")
        self.now += seconds
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["throttle", "pacer"])
async def test_a_rounding_error_is_not_waited_for(kind: str) -> None:
    """Once a node slept for a part of a byte again and again, with a clock that stood still."""
    runtime = ExactRuntime()
    runtime.now = 1_000_000_000.1
    rate = 3e6 / 7
    bucket = (
        Throttle(runtime, rate, rate, lambda: True)
        if kind == "throttle"
        else Pacer(runtime, lambda: rate)
    )
    try:
        for size in range(1, 2_000):
            await bucket.spend(7 * size)
    finally:
        runtime.close()


def served(throttle: Throttle, seconds: float, count: int = 64) -> None:
    for _ in range(count):
        throttle.observe("get", seconds)


async def test_under_load_the_pace_follows_what_clients_feel(runtime: ClockRuntime) -> None:
    """It grows while calls take what they take without upkeep, and gives way when they do not."""
    load = Load(True)
    throttle = Throttle(runtime, FLOOR, CEILING, load, LatencyMeter())
    served(throttle, 0.010)
    await throttle.spend(1)
    assert throttle.rate == FLOOR
    served(throttle, 0.011)
    await took(runtime, throttle, 200_000, 100)
    assert throttle.rate == CEILING, "clients feel nothing"
    served(throttle, 0.030)
    await took(runtime, throttle, 100_000, 100)
    assert throttle.rate == FLOOR, "and now they do"
    served(throttle, 0.010)
    await took(runtime, throttle, 200_000, 100)
    assert throttle.rate == CEILING


async def test_between_the_bounds_the_pace_is_kept(runtime: ClockRuntime) -> None:
    throttle = Throttle(runtime, FLOOR, CEILING, Load(True), LatencyMeter())
    served(throttle, 0.010)
    await throttle.spend(1)
    served(throttle, 0.010)
    while throttle.rate < 4 * FLOOR:
        await throttle.spend(500)
    served(throttle, 0.0145, 200)
    await throttle.spend(500)
    rate = throttle.rate
    await took(runtime, throttle, 20_000, 40)
    assert throttle.rate == rate


async def test_an_operator_may_have_the_ceiling(runtime: ClockRuntime) -> None:
    throttle = Throttle(runtime, FLOOR, CEILING, Load(True))
    await throttle.spend(10)
    throttle.hurry(True)
    seconds = await took(runtime, throttle, 160_000, 100)
    assert seconds == pytest.approx(160_000 / CEILING, rel=0.1)
    throttle.hurry(False)
    runtime.now += 1
    await throttle.spend(10)
    assert throttle.rate == FLOOR


async def test_a_pause_between_two_requests_is_no_rest(runtime: ClockRuntime) -> None:
    load = Load(True)
    throttle = Throttle(runtime, FLOOR, CEILING, load)
    for _ in range(40):
        await throttle.spend(1)
        load.busy = not load.busy
        runtime.now += STEP_SECONDS
    assert throttle.rate == FLOOR
    load.busy = False
    for _ in range(40):
        runtime.now += STEP_SECONDS
        await throttle.spend(1)
    assert throttle.rate == CEILING


def test_slowdown_is_of_the_method_that_suffers_most() -> None:
    meter = LatencyMeter()
    assert meter.slowdown() is None
    for method, quiet, loaded in [("get", 0.01, 0.012), ("load", 0.001, 0.004)]:
        for _ in range(100):
            meter.observe(method, quiet, loaded=False)
            meter.observe(method, loaded, loaded=True)
    assert meter.slowdown() == pytest.approx(4.0)
    meter.observe("load", 60.0, loaded=True)
    assert meter.slowdown() == pytest.approx(4.0 * 15_000 ** (1 / 16)), "one call moves little"
