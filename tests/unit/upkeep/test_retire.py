"""What has moved away is deleted late, whole, and only on its new holder's word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hcefs.errors import Unavailable
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import seats
from hcefs.placement.split import split
from hcefs.placement.waves import SeatName
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.stripes.exports import has_shard, record_rows
from hcefs.upkeep.retire import Retirer
from hcefs.upkeep.worker import Progress
from tests.unit.stripes.moving import moved, seat_of, settled
from tests.unit.upkeep.giving import ClockRuntime, GivingCluster

INDEX = 2
GRACE = 100.0


class View:
    """The map that the cluster has now."""

    def __init__(self, world: GivingCluster) -> None:
        self._world = world

    def cluster_map(self) -> ClusterMap | None:
        return self._world.cluster.map

    def arrived(self) -> frozenset[SeatName]:
        return frozenset()


class Moved:
    """A blob whose shard has been copied to another node, and the node that had it."""

    def __init__(self, world: GivingCluster, base: BlobBase, profile: str = "ec-4-2") -> None:
        self.world = world
        self.base = base
        self.profile = profile
        self.runtime = world.runtime
        first = world.cluster.map
        self.first = first
        self.old = seat_of(first, base, INDEX, profile).node.account
        self.moving = moved(first, base, INDEX, profile)
        self.after = settled(self.moving)
        self.new = seat_of(self.after, base, INDEX, profile).node.account
        self.stores: Stores = world.cluster.stores[self.old]
        self.retirer = Retirer(
            world.runtime,
            View(world),
            self.stores,
            world,
            world.cluster.holders[self.old].pending,
            world.cluster.metrics,
            self.old,
            GRACE,
        )

    async def copied(self) -> None:
        """Fill the new holder's seat, and let the wave end."""
        self.world.cluster.map = self.moving
        await self.world.fill(self.profile)
        self.world.cluster.map = self.after

    async def sweep(self) -> None:
        """One whole pass."""
        for _ in range(100):
            if await self.retirer.work() is Progress.IDLE:
                return
        raise AssertionError("a pass does not end")

    def later(self, seconds: float = GRACE + 1) -> None:
        assert isinstance(self.runtime, ClockRuntime)
        self.runtime.now += seconds

    def here(self) -> bool:
        return has_shard(self.stores, self.base, INDEX)

    def rows(self) -> list[str]:
        """What is left of the base: rows, keys and files."""
        tables = (Table.CORES, Table.LAYOUTS, Table.OPENINGS)
        found = [t.name for t in tables for _ in self.stores.rows.scan(t, bytes(self.base))]
        keys = (KeyTable.KEY_ROWS, KeyTable.PACK_ENVELOPES)
        found += [t.name for t in keys for _ in self.stores.keys.scan(t, bytes(self.base))]
        placed = [k for k, _ in self.stores.rows.scan(Table.PLACED) if bytes(self.base) in k]
        found += ["PLACED" for _ in placed]
        return found + ["file" for base, _ in self.stores.shards.inventory() if base == self.base]


@pytest.fixture
def world() -> Iterator[GivingCluster]:
    runtime = ClockRuntime()
    yield GivingCluster(runtime)
    runtime.close()


async def moved_blob(world: GivingCluster) -> Moved:
    blob = await world.cluster.put(bytes(1000))
    return Moved(world, blob.base)


async def test_a_shard_goes_after_its_grace_period(world: GivingCluster) -> None:
    at = await moved_blob(world)
    await at.copied()
    await at.sweep()
    at.later(GRACE - 1)
    await at.sweep()
    assert at.here()
    at.later(2)
    await at.sweep()
    assert at.rows() == []
    assert world.cluster.metrics.value("retired_shards_total") == 1
    assert has_shard(world.cluster.stores[at.new], at.base, INDEX)


@pytest.mark.parametrize(("profile", "size"), [("ec-4-2", 100_000), ("copy-3", 200)])
async def test_packs_go_with_all_their_rows_and_keys(
    world: GivingCluster, profile: str, size: int
) -> None:
    pack = world.packs.seal([bytes(size)] * 3)
    await world.packs.put(pack, profile)
    at = Moved(world, pack.base, profile)
    assert "PACK_ENVELOPES" in at.rows()
    await at.copied()
    await at.sweep()
    at.later()
    await at.sweep()
    assert at.rows() == []


async def test_nothing_goes_while_this_node_is_the_source(world: GivingCluster) -> None:
    at = await moved_blob(world)
    await at.copied()
    world.cluster.map = at.moving
    for _ in range(3):
        await at.sweep()
        at.later()
    assert at.here()
    assert "offer" not in world.giving[at.new].calls


async def test_nothing_goes_that_its_new_holder_has_not(world: GivingCluster) -> None:
    at = await moved_blob(world)
    world.cluster.map = at.after
    for _ in range(3):
        await at.sweep()
        at.later()
    assert at.here()
    assert world.cluster.metrics.value("retiring_shards") == 1
    await at.copied()
    await at.sweep()
    assert at.rows() == []


async def test_rows_alone_are_no_shard(world: GivingCluster) -> None:
    """The new holder names it, but its file is gone, or its rows are."""
    at = await moved_blob(world)
    await at.copied()
    there = world.cluster.stores[at.new]
    there.rows.delete([(Table.LAYOUTS, bytes(at.base))])
    await at.sweep()
    at.later()
    await at.sweep()
    assert at.here()
    there.rows.put(
        [(Table.LAYOUTS, bytes(at.base), at.stores.rows.get(Table.LAYOUTS, at.base) or b"")]
    )
    there.shards.remove(at.base, INDEX)
    await at.sweep()
    assert at.here()


async def test_nothing_goes_while_the_new_holder_is_away(world: GivingCluster) -> None:
    at = await moved_blob(world)
    await at.copied()
    world.giving[at.new].fails = Unavailable("away", reason="unreachable")
    await at.sweep()
    at.later()
    await at.sweep()
    assert at.here()
    world.giving[at.new].fails = None
    await at.sweep()
    assert at.rows() == []


async def test_rows_stay_while_another_shard_needs_them(world: GivingCluster) -> None:
    at = await moved_blob(world)
    await at.copied()
    other = 5
    holder = seat_of(at.after, at.base, other).node.account
    reader = world.cluster.stores[holder].shards.open(at.base, other)
    writer = at.stores.shards.begin(at.base, other)
    writer.write(reader.read_at(0, reader.size - 1))
    writer.finish(reader.read_at(reader.size - 1, 1))
    for key, value in world.cluster.stores[holder].rows.scan(Table.PLACED):
        if bytes(at.base) in key:
            at.stores.rows.put([(Table.PLACED, key, value)])
    world.giving[holder].fails = Unavailable("away", reason="unreachable")
    await at.sweep()
    at.later()
    await at.sweep()
    assert not at.here()
    assert sorted(at.rows()) == sorted(
        ["CORES", "LAYOUTS", "OPENINGS", "KEY_ROWS", "PLACED", "file"]
    )
    world.giving[holder].fails = None
    await at.sweep()
    assert at.rows() == [], "the last one takes them along"


async def test_a_seat_that_came_back_meanwhile_stays(world: GivingCluster) -> None:
    """The new holder answers, and before anything is deleted the map gives the seat back."""
    at = await moved_blob(world)
    await at.copied()
    await at.sweep()
    at.later()
    back = replace(at.first, epoch=at.after.epoch + 1)
    answers = world.upkeep_peer

    class Late:
        def upkeep_peer(self, node: object) -> object:
            peer = answers(node)  # type: ignore[arg-type]
            has = peer.offer

            async def offer(*asked: object) -> list[bool]:
                held = await has(*asked)  # type: ignore[arg-type]
                world.cluster.map = back
                return held

            peer.offer = offer  # type: ignore[method-assign, assignment]
            return peer

    at.retirer._peers = Late()  # type: ignore[assignment]
    await at.retirer.work()
    assert world.cluster.map is back
    assert at.here()


async def test_a_partition_that_moves_away_again_has_its_own_grace_period(
    world: GivingCluster,
) -> None:
    at = await moved_blob(world)
    await at.copied()
    await at.sweep()
    world.cluster.map = replace(at.first, epoch=at.after.epoch + 1)  # back again
    await at.sweep()
    at.later()
    world.cluster.map = replace(at.after, epoch=at.after.epoch + 2)  # and away
    await at.sweep()
    assert at.here()
    at.later()
    await at.sweep()
    assert at.rows() == []


async def test_a_split_begins_no_deletion(world: GivingCluster) -> None:
    """Partition numbers mean something else then."""
    at = await moved_blob(world)
    await at.copied()
    await at.sweep()
    at.later()
    world.cluster.map = split(at.after, "ec-4-2")
    await at.sweep()
    assert at.here()
    at.later()
    await at.sweep()
    assert at.rows() == []


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("stop", ["keys", "files", "names"])
async def test_what_a_stop_leaves_is_found_by_the_next_pass(
    world: GivingCluster, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = await moved_blob(world)
    await at.copied()
    await at.sweep()
    at.later()

    def killed(*_: object) -> None:
        raise Killed

    def deletes(rows: list[tuple[Table, bytes]]) -> None:
        if any(table is Table.PLACED for table, _ in rows):
            raise Killed
        really(rows)

    really = at.stores.rows.delete
    with monkeypatch.context() as patched:
        if stop == "keys":
            patched.setattr(at.stores.keys, "delete", killed)
        elif stop == "files":
            patched.setattr(at.stores.shards, "remove", killed)
        else:
            patched.setattr(at.stores.rows, "delete", deletes)
        with pytest.raises(Killed):
            await at.sweep()
    assert "CORES" not in at.rows(), "invisible first"
    assert not await world.exporter(at.old).has_shards([], "ec-4-2"), "and it answers"
    again = Moved.__new__(Moved)
    again.__dict__ = dict(at.__dict__)
    again.retirer = Retirer(
        world.runtime, View(world), at.stores, world, world.cluster.holders[at.old].pending,
        world.cluster.metrics, at.old, GRACE,
    )  # fmt: skip
    await again.sweep()
    again.later()
    await again.sweep()
    assert again.rows() == []


# -- records


async def moved_record(world: GivingCluster) -> tuple[Moved, RecordId]:
    """A record with an entry and a key box; its seat has moved, and the rows were copied."""
    await world.cluster.put(b"x")
    record = world.cluster.record
    at = Moved(world, BlobBase(bytes(record)))
    return at, record


def held(stores: Stores, record: RecordId) -> int:
    return len(list(record_rows(stores, record)))


async def test_rows_of_a_record_go_when_its_seats_have_them(world: GivingCluster) -> None:
    at, record = await moved_record(world)
    await at.copied()
    assert held(at.stores, record) == 1
    await at.sweep()
    assert held(at.stores, record) == 1
    at.later()
    await at.sweep()
    assert held(at.stores, record) == 0
    for seat in seats(at.after, "ec-4-2", bytes(record)):
        assert held(world.cluster.stores[seat.node.account], record) == 1


async def test_rows_of_a_record_stay_while_this_node_is_the_source(world: GivingCluster) -> None:
    at, record = await moved_record(world)
    await at.copied()
    world.cluster.map = at.moving
    await at.sweep()
    at.later()
    await at.sweep()
    assert held(at.stores, record) == 1


@pytest.mark.parametrize(("lacking", "left"), [(1, 0), (2, 1)])
async def test_rows_stay_while_too_few_seats_have_them(
    world: GivingCluster, lacking: int, left: int
) -> None:
    """k+1 of them must; those that are away count as lacking them."""
    at, record = await moved_record(world)
    await at.copied()
    holders: list[AccountId] = [
        seat.node.account for seat in seats(at.after, "ec-4-2", bytes(record))
    ]
    for number, account in enumerate(holders[:lacking]):
        if number:
            world.giving[account].fails = Unavailable("away", reason="unreachable")
        else:
            stores = world.cluster.stores[account]
            keys = [key for key, _ in stores.rows.scan(Table.INDEX, bytes(record))]
            stores.rows.delete([(Table.INDEX, key) for key in keys])
    await at.sweep()
    at.later()
    await at.sweep()
    assert held(at.stores, record) == left


async def test_a_node_that_the_map_does_not_name_deletes_nothing(world: GivingCluster) -> None:
    at = await moved_blob(world)
    await at.copied()
    stranger = Retirer(
        world.runtime, View(world), at.stores, world, world.cluster.holders[at.old].pending,
        world.cluster.metrics, AccountId(b"somebody else!!!"), 0.0,
    )  # fmt: skip
    assert await stranger.work() is Progress.IDLE
    assert at.here()


async def test_a_pending_shard_is_left_to_the_collector(world: GivingCluster) -> None:
    """Its new holder has it too, and whatever comes of it, nothing is left here."""
    blob = BlobId.of(world.runtime.random(16))
    session = world.cluster.session(world.cluster.plan(blob))
    await session.write(bytes(10))
    await session.finish(10, b"", b"", world.cluster.call("put", blob))
    at = Moved(world, blob.base)
    await at.copied()
    await at.sweep()
    at.later()
    await at.sweep()
    assert at.rows() == []
    world.cluster.commit(blob)
    assert has_shard(world.cluster.stores[at.new], blob.base, INDEX)
