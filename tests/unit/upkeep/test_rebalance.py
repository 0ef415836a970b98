"""Seats in flight, filled in rounds: how many are listed together, and when they are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from hcefs.errors import Unavailable
from hcefs.ids import BlobBase
from hcefs.ledger.transactions_map import SeatsArrived
from hcefs.metrics import Metrics
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.planner import plan
from hcefs.placement.waves import SeatName, apply_plan, arriving_at, in_flight, is_concerned
from hcefs.upkeep import rebalance
from hcefs.upkeep.fill import Filled, SeatFiller
from hcefs.upkeep.rebalance import (
    REPORT_SECONDS,
    RETRY_SECONDS,
    SEATS_A_ROUND,
    SEATS_A_ROUND_MAX,
    SHARDS_A_ROUND,
    Rebalancer,
)
from hcefs.upkeep.survey import Lists, Survey
from hcefs.upkeep.worker import Progress
from tests.unit.placement.maps import account, node, small_map
from tests.unit.upkeep.giving import ClockRuntime

NEW = 7


@pytest.fixture(scope="module")
def replaced() -> ClusterMap:
    """Node 6 is lost, and all its seats are to be rebuilt on node 7."""
    before = small_map(6, 3)
    lost = before.node(6)
    assert lost is not None
    given_up = replace(before, nodes=tuple(changes.mark_out(before, [6])))
    nodes = changes.replace_node(given_up, 6, node(NEW, lost.zone))
    now = apply_plan(plan(before, nodes), before)
    assert len(arriving_at(now, NEW)) > 3 * SEATS_A_ROUND, "the test needs several rounds"
    return now


class World:
    """A ledger and a filler that do what they are told."""

    def __init__(self, current: ClusterMap, runtime: ClockRuntime) -> None:
        self.current = current
        self.runtime = runtime
        self.rounds: list[int] = []
        self.reports: list[tuple[SeatName, ...]] = []
        self.refuses = False
        self.seconds = 0.0
        """That a seat takes."""

        self.listed = 0
        """Shards that are listed in each row."""

        self.surveyor = self
        self.worker = Rebalancer(
            runtime, self, cast(SeatFiller, self), Metrics(), account(NEW), 1.0, self.report
        )

    def cluster_map(self) -> ClusterMap | None:
        return self.current

    def arrived(self) -> frozenset[SeatName]:
        return frozenset(name for names in self.reports for name in names)

    async def report(self, arrived: SeatsArrived) -> object:
        if self.refuses:
            raise Unavailable("the ledger is away", reason="no-writer")
        assert arrived.epoch == self.current.epoch
        self.reports.append(
            tuple(SeatName(each.profile, each.partition, each.seat) for each in arrived.seats)
        )
        return None

    async def surveys(
        self,
        _map: ClusterMap,
        sources: Mapping[SeatName, Any],
        _fenced: Callable[[Node], bool],
    ) -> dict[SeatName, Survey]:
        self.rounds.append(len(sources))
        held: dict[BlobBase, dict[int, set[int]]] = {
            BlobBase(number.to_bytes(16, "big")): {0: {1}} for number in range(self.listed)
        }
        return {name: Survey(Lists(held=held)) for name in sources}

    async def fill(self, *_: object) -> Filled:
        self.runtime.now += self.seconds
        await self.runtime.sleep(0)
        return Filled()

    async def to_its_end(self) -> None:
        while await self.worker.work() is not Progress.IDLE:
            pass


@pytest.fixture
def world(replaced: ClusterMap) -> Iterator[World]:
    runtime = ClockRuntime()
    yield World(replaced, runtime)
    runtime.close()


async def test_every_seat_is_filled_and_reported_once(world: World) -> None:
    await world.to_its_end()
    reported = [name for names in world.reports for name in names]
    assert sorted(reported) == sorted(arriving_at(world.current, NEW))
    assert world.worker.waiting() == []


async def test_rounds_grow_while_lists_are_short(world: World) -> None:
    await world.to_its_end()
    assert world.rounds[:2] == [SEATS_A_ROUND, 2 * SEATS_A_ROUND]
    assert max(world.rounds) <= SEATS_A_ROUND_MAX
    assert len(world.reports) == len(world.rounds), "what is quick is one report a round"


async def test_rounds_shrink_while_lists_are_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebalance, "SHARDS_A_ROUND", SHARDS_A_ROUND // 16)
    world.listed = SHARDS_A_ROUND // SEATS_A_ROUND
    await world.worker.work()
    await world.worker.work()
    await world.worker.work()
    assert world.rounds == [SEATS_A_ROUND, SEATS_A_ROUND // 2, SEATS_A_ROUND // 4]


async def test_what_takes_long_is_reported_meanwhile(world: World) -> None:
    world.seconds = REPORT_SECONDS / 4
    await world.worker.work()
    assert len(world.reports) >= SEATS_A_ROUND * world.seconds / REPORT_SECONDS / 2
    assert sum(map(len, world.reports)) == SEATS_A_ROUND


async def test_what_the_ledger_does_not_take_is_reported_later(world: World) -> None:
    world.refuses = True
    assert await world.worker.work() is Progress.IDLE
    assert len(world.worker.waiting()) == len(arriving_at(world.current, NEW))
    world.refuses = False
    world.runtime.now += RETRY_SECONDS
    await world.to_its_end()
    assert world.worker.waiting() == []


def test_a_node_is_concerned_with_rows_that_name_it_and_with_no_other() -> None:
    before = small_map(7, 3)
    grown = apply_plan(plan(before, changes.add(before, [node(8, "z1")])), before)
    moves = in_flight(grown)
    assert moves
    for table in grown.tables:
        for partition, row in enumerate(table.node_rows):
            sources = {
                source
                for name, source in moves.items()
                if (name.profile, name.partition) == (table.profile, partition)
            }
            for node_id in range(10):
                expected = node_id in row or (node_id in sources and node_id != 0)
                assert is_concerned(grown, table.profile, partition, node_id) == expected
