"""When a slow holder is not waited for, and when it has its place back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TypeVar, TypeVarTuple

import pytest

from hcefs.erasure.scheme import SEGMENT_SIZE, Geometry, profile_named
from hcefs.ids import BlobId
from hcefs.runtime import SystemRuntime
from hcefs.stripes import hedge
from hcefs.stripes.fanout import SEAT_SECONDS
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.read import StripeReader
from hcefs.testing.local_cluster import LocalCluster
from tests.unit.blobs.test_put_get import new_blob, put, sample

LENGTH = 2 * SEGMENT_SIZE
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Clock(SystemRuntime):
    """A clock that only a test moves, and that knows whether the stores have work."""

    now = 1000.0
    busy = 0

    def monotonic(self) -> float:
        return self.now

    async def disk(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self.busy += 1
        try:
            return await super().disk(function, *args)
        finally:
            self.busy -= 1

    async def idle(self) -> None:
        """Return when nothing has happened for a while."""
        quiet = 0
        while quiet < 20:
            await self.sleep(0.002)
            quiet = 0 if self.busy else quiet + 1


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.close()


@pytest.fixture
def cluster(clock: Clock) -> LocalCluster:
    """Six holders; the delay is far longer than a busy machine takes for a stripe in memory."""
    cluster = LocalCluster(clock)
    learn_delay(cluster, 0.5)
    return cluster


def learn_delay(cluster: LocalCluster, seconds: float) -> None:
    """Let the timer of a cluster have that delay."""
    for _ in range(hedge.WINDOW):
        cluster.hedge.observe(seconds / hedge.MARGIN)
    assert cluster.hedge.delay_seconds == pytest.approx(seconds)


async def read(cluster: LocalCluster, blob: BlobId) -> list[tuple[int, ...]]:
    """Read a blob; of each stripe, the indexes whose pieces were used."""
    call, held = cluster.call("get", blob), cluster.seats(blob.base)
    manifest = await cluster.fanout.manifest(held, call)
    reader = StripeReader(
        cluster.runtime,
        cluster,
        held,
        call,
        manifest.layout,
        Geometry(LENGTH, profile_named("ec-4-2"), SEGMENT_SIZE),
        cluster.metrics,
        cluster.hedge,
    )
    groups = [group async for group in reader.stripes(0, 2)]
    return [tuple(sorted(stripe.pieces)) for group in groups for stripe in group]


def holder_of(cluster: LocalCluster, blob: BlobId, index: int) -> int:
    """Where an index comes in the order of asking."""
    return [seat.index for seat in cluster.hedge.ordered(cluster.seats(blob.base))].index(index)


async def test_a_holder_that_is_always_late_is_soon_not_waited_for(
    cluster: LocalCluster,
) -> None:
    blob = new_blob(cluster)
    await put(cluster, cluster.plan(blob), sample(LENGTH))
    cluster.faults_of_index(blob, 1).waits_for = asyncio.Event()
    for _ in range(hedge.SLOW_LOSSES):
        assert (await read(cluster, blob))[0] == (0, 2, 3, 4)
    hedged = cluster.metrics.value("hedged_loads_total")
    assert hedged == hedge.SLOW_LOSSES
    for _ in range(5):
        assert await read(cluster, blob) == [(0, 2, 3, 4)] * 2
    assert cluster.metrics.value("hedged_loads_total") == hedged
    assert holder_of(cluster, blob, 1) == 5


async def test_a_slow_holder_is_tried_besides_the_others_and_has_its_place_back(
    cluster: LocalCluster, clock: Clock
) -> None:
    blob = new_blob(cluster)
    await put(cluster, cluster.plan(blob), sample(LENGTH))
    faults = cluster.faults_of_index(blob, 1)
    faults.waits_for = asyncio.Event()
    for _ in range(hedge.SLOW_LOSSES):
        await read(cluster, blob)
    hedged = cluster.metrics.value("hedged_loads_total")
    clock.now += hedge.PROBE_SECONDS
    assert await read(cluster, blob) == [(0, 2, 3, 4)] * 2  # it is asked, and still slow
    assert cluster.metrics.value("hedged_loads_total") == hedged
    faults.waits_for = None
    cluster.faults_of_index(blob, 4).waits_for = asyncio.Event()  # so the probe is in the first k
    clock.now += hedge.PROBE_SECONDS
    assert await read(cluster, blob) == [(0, 1, 2, 3)] * 2
    assert holder_of(cluster, blob, 1) == 1
    assert cluster.metrics.value("hedged_loads_total") == hedged


async def test_a_holder_that_holds_up_its_stripes_is_slow_even_within_the_delay(
    cluster: LocalCluster, clock: Clock
) -> None:
    learn_delay(cluster, hedge.DELAY_SECONDS_MAX)
    blob = new_blob(cluster)
    await put(cluster, cluster.plan(blob), sample(LENGTH))
    faults = cluster.faults_of_index(blob, 1)
    for _ in range(hedge.SLOW_LOSSES):
        faults.waits_for = asyncio.Event()
        reading = asyncio.ensure_future(read(cluster, blob))
        await clock.idle()  # the others are there
        clock.now += 0.1
        faults.waits_for.set()
        assert await reading == [(0, 1, 2, 3)] * 2
    assert cluster.metrics.value("hedged_loads_total") == 0
    assert holder_of(cluster, blob, 1) == 5


@pytest.mark.parametrize(
    ("seconds", "last"),
    [
        ({}, None),
        ({0: 9.0}, None),
        ({0: 0.001, 1: 0.009}, None),
        ({0: 0.001, 1: 0.012}, 1),
        ({0: 0.03, 1: 0.01, 2: 0.02}, None),
        ({0: 0.05, 1: 0.01, 2: 0.02}, 0),
        ({0: 0.05, 1: 0.05, 2: 0.02}, None),
    ],
)
def test_who_came_last_by_far(seconds: dict[int, float], last: int | None) -> None:
    assert hedge.straggler(seconds) == last


async def test_a_slow_first_seat_does_not_stall_the_manifest(cluster: LocalCluster) -> None:
    blob = new_blob(cluster)
    done = await put(cluster, cluster.plan(blob), sample(5))
    call, held = cluster.call("get", blob), cluster.seats(blob.base)
    for seat in held[:2]:
        cluster.faults[seat.node.account].rows_wait_for = asyncio.Event()
    async with asyncio.timeout(SEAT_SECONDS / 2):
        manifest = await cluster.fanout.manifest(held, call)
    assert manifest.core == done.core


def test_the_delay_follows_the_percentile_within_bounds() -> None:
    timer = HedgeTimer()
    assert timer.delay_seconds == hedge.DELAY_SECONDS_FIRST
    for _ in range(hedge.RECOMPUTE_EVERY):
        timer.observe(0.1)
    assert timer.delay_seconds == pytest.approx(0.1 * hedge.MARGIN)
    for _ in range(hedge.WINDOW):
        timer.observe(0.0)
    assert timer.delay_seconds == hedge.DELAY_SECONDS_MIN
    for _ in range(hedge.WINDOW):
        timer.observe(60.0)
    assert timer.delay_seconds == hedge.DELAY_SECONDS_MAX


def test_one_lost_race_does_not_make_a_holder_slow(cluster: LocalCluster) -> None:
    held = cluster.seats(new_blob(cluster).base)
    by_index = sorted(held, key=lambda seat: seat.index)
    timer, first = HedgeTimer(), by_index[0]
    timer.lost(first.node.account, 0.0)
    assert timer.ordered(held) == by_index
    timer.lost(first.node.account, 0.0)
    assert timer.ordered(held) == [*by_index[1:], first]
    assert timer.to_probe(held, hedge.PROBE_SECONDS - 0.1) is None
    assert timer.to_probe(held, hedge.PROBE_SECONDS) is first
    assert timer.to_probe(held, hedge.PROBE_SECONDS) is None
    timer.kept_up(first.node.account)
    assert timer.ordered(held) == by_index
