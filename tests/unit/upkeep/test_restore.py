"""Restoring: it ends when every holder of every row was heard, and not before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from hcefs.errors import Unavailable
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.waves import SeatName
from hcefs.testing.local_cluster import LocalCluster
from hcefs.upkeep.fill import Filled
from hcefs.upkeep.restore import RESTORING, Restorer
from hcefs.upkeep.stocktaking import own_seats
from tests.unit.upkeep.giving import ClockRuntime


class World:
    """A node that restores, with a filler and a mark that tests decide about."""

    def __init__(self, runtime: ClockRuntime) -> None:
        self.cluster = LocalCluster(runtime)
        self.me = self.cluster.keys[0].account
        self.names = frozenset({"rows"})
        self.fresh = True
        self.fails: dict[SeatName, str] = {}
        """Rows of which a holder does not answer, and its reason."""

        self.complete: list[SeatName] = []
        self.partial: list[SeatName] = []
        self.restorer = Restorer(runtime, self, self, self, self._fresh, Metrics(), self.me)
        self.rows = len(own_seats(self.cluster.map, self.me))

    def _fresh(self) -> None:
        if not self.fresh:
            raise Unavailable("behind", reason="stale-lease")

    def cluster_map(self) -> ClusterMap:
        return self.cluster.map

    def arrived(self) -> frozenset[SeatName]:
        return frozenset()

    def remove(self, *names: str) -> None:
        self.names -= set(names)

    async def fill(
        self, current: ClusterMap, name: SeatName, source: int, fenced: Callable[[Node], bool]
    ) -> Filled:
        if not fenced(current.nodes[0]) and name in self.fails:
            raise Unavailable("a holder is away", reason=self.fails[name])
        (self.partial if fenced(current.nodes[0]) else self.complete).append(name)
        return Filled()

    async def rounds(self, count: int) -> None:
        for _ in range(count * (self.rows + 2)):
            await self.restorer.work()


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    runtime = ClockRuntime()
    yield World(runtime)
    runtime.close()


async def test_every_row_is_restored_once(world: World) -> None:
    assert world.restorer.warnings()
    await world.rounds(1)
    assert not world.names
    assert sorted(world.complete) == sorted(own_seats(world.cluster.map, world.me))
    assert world.restorer.warnings() == []
    await world.rounds(1)
    assert len(world.complete) == world.rows, "a whole node restores nothing"


async def test_it_waits_for_its_replica(world: World) -> None:
    world.fresh = False
    await world.rounds(1)
    assert world.names
    assert not world.complete
    world.fresh = True
    await world.rounds(1)
    assert not world.names


async def test_a_row_with_a_holder_away_comes_again(world: World) -> None:
    name = own_seats(world.cluster.map, world.me)[3]
    world.fails[name] = "unreachable"
    await world.rounds(2)
    assert world.names, "the one who is away may know more"
    assert name in world.partial, "what the others have is here already"
    del world.fails[name]
    await world.rounds(1)
    assert not world.names


async def test_two_that_restore_do_not_wait_for_each_other(world: World) -> None:
    for name in own_seats(world.cluster.map, world.me):
        world.fails[name] = RESTORING
    await world.rounds(1)
    assert not world.names


async def test_a_lost_replica_needs_no_round(world: World) -> None:
    world.names = frozenset({"ledger"})
    await world.rounds(1)
    assert not world.names
    assert not world.complete
