"""Shards of a superseded layout that a node keeps outside of its seats: judged, then needless."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from hcefs.erasure.scheme import SEGMENT_SIZE
from hcefs.ids import AccountId, BlobBase
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import partition_of
from hcefs.stripes.exports import has_shard
from hcefs.stripes.placed import shards_of
from hcefs.transport.upkeep import Place, ShardName
from hcefs.upkeep import superseded
from hcefs.upkeep.witness import DISPUTED_SECONDS
from tests.unit.upkeep.giving import ClockRuntime
from tests.unit.upkeep.reprofiling import Reprofiling

LENGTH = 2 * SEGMENT_SIZE + 4_321
OLD = "ec-4-2"
NEW = "copy-3"


class World(Reprofiling):
    """Nine nodes, of which one keeps a shard of a blob outside of its seats."""

    def __init__(self, runtime: ClockRuntime) -> None:
        super().__init__(runtime, 9)
        self.clock = runtime

    def home(self, base: BlobBase, index: int) -> AccountId:
        return self.holder_of(base, index, OLD)

    def place(self, base: BlobBase, profile: str = OLD) -> Place:
        bits = self.cluster.map.table(profile).bits
        return Place(self.cluster.map.epoch, profile, partition_of(bytes(base), bits))

    def seated(self, base: BlobBase) -> set[AccountId]:
        """Who has a seat of the row under either profile."""
        return {
            seat.node.account
            for profile in (OLD, NEW)
            for seat in self.cluster.seats(bytes(base), profile)
        }

    async def put_kept(self, index: int) -> tuple[BlobBase, Node]:
        """A blob of which a node without a seat keeps a shard besides who has its seat; both.

        The home of that shard has a seat of the new row, too: who has none would take the old
        shard home.  Its seat is not the first one, whose copy is compared.
        """
        while True:
            blob = await self.cluster.put(hashlib.shake_128(bytes([index])).digest(LENGTH))
            base, home = blob.base, self.home(blob.base, index)
            row = {seat.index: seat.node.account for seat in self.cluster.seats(bytes(base), NEW)}
            others = [n for n in self.cluster.map.nodes if n.account not in self.seated(base)]
            if home in row.values() and home != row[0] and others:
                break
        giver = others[0]
        filler = self.nodes[giver.account].filler
        filled = await filler.bring(self.place(base), base, index, self.node(home))
        assert filled is not None
        assert filled.copied == 1
        return base, giver

    async def offered(self, base: BlobBase, index: int, giver: Node) -> bool:
        """Offer the kept shard to its home; whether it says that it need not be kept."""
        shard = ShardName(base, index)
        bringer = self.nodes[self.home(base, index)].bringer
        needless = bringer.offer(self.cluster.map, self.place(base), [shard], [], giver)
        while bringer._waiting:
            await bringer.work()
        return shard in needless

    async def moved(self, base: BlobBase) -> None:
        """Re-profile, until its seats have nothing of the old layout."""
        self.leave(OLD, NEW)
        for _ in range(6):
            await self.move()
            await self.sweep()
        for index in range(6):
            stores = self.cluster.stores[self.home(base, index)]
            assert not has_shard(stores, base, index, OLD)


@pytest.fixture
def world() -> Iterator[World]:
    runtime = ClockRuntime()
    yield World(runtime)
    runtime.close()


@pytest.mark.parametrize("index", [0, 3, 5])
async def test_what_agrees_need_not_be_kept(world: World, index: int) -> None:
    base, giver = await world.put_kept(index)
    await world.moved(base)
    before = shards_of(world.cluster.stores[world.home(base, index)].rows, base)
    assert not await world.offered(base, index, giver)  # now it is looked at
    assert await world.offered(base, index, giver)
    # It was judged where it is: nothing of the old layout came back.
    assert shards_of(world.cluster.stores[world.home(base, index)].rows, base) == before


async def test_a_verdict_is_given_once_and_not_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, giver = await world.put_kept(1)
    await world.moved(base)
    assert not await world.offered(base, 1, giver)
    assert await world.offered(base, 1, giver)
    assert not await world.offered(base, 1, giver)  # judged anew
    world.clock.now += superseded.VERDICT_SECONDS + 1
    assert not await world.offered(base, 1, giver)
    assert await world.offered(base, 1, giver)


async def test_a_verdict_is_about_one_giver(world: World) -> None:
    base, giver = await world.put_kept(1)
    await world.moved(base)
    assert not await world.offered(base, 1, giver)
    beside = {giver.account, world.home(base, 1)}
    other = next(node for node in world.cluster.map.nodes if node.account not in beside)
    assert not await world.offered(base, 1, other)
    assert await world.offered(base, 1, giver)


async def test_what_differs_stays(world: World) -> None:
    """A mover that lied leaves a witness behind here, too."""
    base, giver = await world.put_kept(2)
    await world.moved(base)
    world.lies = {world.holder_of(base, 0, NEW)}
    for _ in range(3):  # compared once
        assert not await world.offered(base, 2, giver)
    assert world.metrics.value("disputed_shards_total") == 1
    world.clock.now += DISPUTED_SECONDS + 1
    assert not await world.offered(base, 2, giver)
    assert world.metrics.value("disputed_shards_total") == 2


async def test_what_is_damaged_tells_nothing(world: World) -> None:
    base, giver = await world.put_kept(2)
    await world.moved(base)
    world.lies, world.lies_about = {giver.account}, {OLD}
    assert not await world.offered(base, 2, giver)
    assert await world.offered(base, 2, giver)
    assert not world.metrics.value("disputed_shards_total")


async def test_nothing_is_needless_before_all_new_shards_are_there(world: World) -> None:
    base, giver = await world.put_kept(4)
    await world.moved(base)
    victim = next(
        seat for seat in world.cluster.seats(bytes(base), NEW)
        if seat.node.account != world.home(base, 4)
    )  # fmt: skip
    stores = world.cluster.stores[victim.node.account]
    (shard,) = shards_of(stores.rows, base)
    stores.shards.remove(base, shard.index, shard.form)
    assert not await world.offered(base, 4, giver)
    assert not await world.offered(base, 4, giver)


async def test_nothing_is_needless_while_its_layout_is_in_force(world: World) -> None:
    base, giver = await world.put_kept(1)
    home = world.cluster.stores[world.home(base, 1)]
    (shard,) = shards_of(home.rows, base)
    home.shards.remove(base, 1, shard.form)
    assert not await world.offered(base, 1, giver)  # it comes home instead
    assert has_shard(home, base, 1, OLD)
    assert await world.nodes[world.home(base, 1)].exporter.has_shards([ShardName(base, 1)], OLD)


async def test_who_keeps_it_outside_of_its_seat_moves_nothing(world: World) -> None:
    base, giver = await world.put_kept(0)
    await world.moved(base)
    world.asked.clear()
    await world._pass(giver.account, world.nodes[giver.account].mover)
    assert world.asked == []
    assert world.metrics.value("reprofile_waiting") == 0
