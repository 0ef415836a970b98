"""Keys of a killed copy go late, only where nothing leads to them, on the word of the seats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hcefs.errors import Unavailable
from hcefs.ids import AccountId, BlobId
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import seats
from hcefs.placement.stand_ins import stand_ins
from hcefs.store.interface import KeyTable, Stores
from hcefs.stripes.placed import shard_row
from hcefs.upkeep.stray_keys import TABLES, StrayKeys
from hcefs.upkeep.worker import Progress
from tests.unit.upkeep.giving import ClockRuntime, GivingCluster
from tests.unit.upkeep.test_retire import View

GRACE = 100.0
NODES = 24
AWAY = Unavailable("this node is away", reason="unreachable")


def named(current: ClusterMap, blob: BlobId) -> set[AccountId]:
    """Every node that some row of the map names for a blob, stand-ins as well."""
    found = set[AccountId]()
    for table in current.tables:
        found |= {seat.node.account for seat in seats(current, table.profile, blob.base)}
        found |= {node.account for node in stand_ins(current, table.profile, blob.base)}
    return found


@dataclass
class Left:
    """A node that the map names nowhere, with the keys of a blob that others hold."""

    world: GivingCluster
    blob: BlobId
    account: AccountId
    keys: StrayKeys

    @property
    def stores(self) -> Stores:
        return self.world.cluster.stores[self.account]

    def kept(self) -> int:
        return sum(len(self.stores.keys.scan(table)) for table in TABLES)

    async def pass_time(self, seconds: float = 0.0) -> None:
        """Some time, and what is done then."""
        assert isinstance(self.world.runtime, ClockRuntime)
        self.world.runtime.now += seconds
        for _ in range(100):
            if await self.keys.work() is Progress.IDLE:
                return
        raise AssertionError("a sweep does not end")


@pytest.fixture
def world() -> Iterator[GivingCluster]:
    runtime = ClockRuntime()
    yield GivingCluster(runtime, NODES)
    runtime.close()


async def left_behind(world: GivingCluster, *, suspended: bool = False) -> Left:
    blob = await world.cluster.put(bytes(1000))
    given = named(world.cluster.map, blob)
    account = next(each for each in sorted(world.cluster.holders) if each not in given)
    holder = world.cluster.stores[seats(world.cluster.map, "ec-4-2", blob.base)[0].node.account]
    copied = [(KeyTable.KEY_ROWS, *row) for row in holder.keys.scan(KeyTable.KEY_ROWS)]
    assert copied
    world.cluster.stores[account].keys.put_all_new(copied)
    keys = StrayKeys(
        world.runtime,
        View(world),
        world.cluster.stores[account],
        world,
        world.cluster.holders[account].pending,
        world.cluster.metrics,
        account,
        GRACE,
        lambda: suspended,
    )
    return Left(world, blob, account, keys)


async def test_keys_that_nothing_leads_to_go_after_a_grace_period(world: GivingCluster) -> None:
    left = await left_behind(world)
    await left.pass_time()
    await left.pass_time(GRACE - 1)
    assert left.kept() == 1
    await left.pass_time(2)
    assert left.kept() == 0
    assert world.cluster.metrics.value("reclaimed_keys_total") == 1
    for seat in world.cluster.seats(left.blob.base):
        held = world.cluster.stores[seat.node.account].keys.scan(KeyTable.KEY_ROWS)
        assert len(held) == 1, "the seats keep theirs"


async def test_keys_stay_while_too_few_seats_say_that_they_have_it(world: GivingCluster) -> None:
    left = await left_behind(world)
    held = [seat.node.account for seat in world.cluster.seats(left.blob.base)]
    for account in held[:2]:
        world.giving[account].fails = AWAY
    await left.pass_time()
    await left.pass_time(GRACE + 1)
    assert left.kept() == 1
    world.giving[held[0]].fails = None
    await left.pass_time()
    assert left.kept() == 0


async def test_keys_of_a_seat_or_of_a_shard_that_is_here_are_not_looked_at(
    world: GivingCluster,
) -> None:
    left = await left_behind(world)
    left.stores.rows.put([shard_row(left.blob.base, 0, "ec-4-2")])
    seat = world.cluster.seats(left.blob.base)[0]
    stores = world.cluster.stores[seat.node.account]
    seated = StrayKeys(
        world.runtime, View(world), stores, world, world.cluster.holders[seat.node.account].pending,
        world.cluster.metrics, seat.node.account, GRACE,
    )  # fmt: skip
    for each in (left, Left(world, left.blob, seat.node.account, seated)):
        await each.pass_time()
        await each.pass_time(GRACE + 1)
        assert each.kept() == 1
    assert not left.keys._since
    assert not seated._since


async def test_what_comes_back_within_the_grace_period_stays(world: GivingCluster) -> None:
    left = await left_behind(world)
    await left.pass_time()
    left.stores.rows.put([shard_row(left.blob.base, 0, "ec-4-2")])
    await left.pass_time(GRACE + 1)
    assert left.kept() == 1


async def test_nothing_goes_while_rows_are_being_restored(world: GivingCluster) -> None:
    left = await left_behind(world, suspended=True)
    await left.pass_time()
    await left.pass_time(GRACE + 1)
    assert left.kept() == 1
