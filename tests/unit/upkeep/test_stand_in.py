"""Puts while nodes are down have n shards on distinct nodes, and those come home afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hcefs.blobs.get import BlobReader, GetPlan
from hcefs.crypto.stream import SEGMENT_SIZE
from hcefs.errors import Exhausted, HcefsError, Unavailable
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import seats
from hcefs.placement.stand_ins import record_stand_ins, stand_ins
from hcefs.placement.waves import SeatName
from hcefs.store.interface import Table
from hcefs.stripes.exports import has_shard
from hcefs.stripes.standby import AWAY_SECONDS
from hcefs.stripes.standing_in import marked_in
from hcefs.stripes.write import Stored
from hcefs.transport.upkeep import Place, ShardName
from hcefs.upkeep.bring_home import WAITING_MAX, HomeBringer
from hcefs.upkeep.collect import Collector
from hcefs.upkeep.retire import Retirer
from hcefs.upkeep.stand_in import StandInKeeper
from hcefs.upkeep.worker import Progress
from tests.unit.stripes.moving import moved, seat_of, settled
from tests.unit.upkeep.giving import ClockRuntime, GivingCluster

N = 6
LARGE = 3 * SEGMENT_SIZE + 17


class World(GivingCluster):
    """Nine holders, each with what brings shards home."""

    def __init__(self, runtime: ClockRuntime) -> None:
        super().__init__(runtime, 9)
        self.clock = runtime
        accounts = list(self.cluster.holders)
        self.asker = accounts[0]
        self.bringers = {
            account: HomeBringer(
                runtime,
                self.filler(account),
                self.superseded(account),
                self.cluster.metrics,
                account,
            )
            for account in accounts
        }
        self.keepers = {
            account: StandInKeeper(
                runtime,
                self,
                self.cluster.stores[account],
                self,
                self.cluster.holders[account].pending,
                self.cluster.metrics,
                account,
                lambda: 1,
            )
            for account in accounts
        }

    def cluster_map(self) -> ClusterMap | None:
        return self.cluster.map

    def arrived(self) -> frozenset[SeatName]:
        return frozenset()

    def node(self, account: AccountId) -> Node:
        found = self.cluster.map.node_of_account(account)
        assert found is not None
        return found

    def homes(self, blob: BlobBase, profile: str = "ec-4-2") -> list[AccountId]:
        """The seats' nodes by index."""
        held = self.cluster.seats(bytes(blob), profile)
        return [seat.node.account for seat in sorted(held, key=lambda seat: seat.index)]

    def down(self, *accounts: AccountId) -> None:
        for account in accounts:
            self.cluster.faults[account].down = True
            self.giving[account].fails = Unavailable("down", reason="unreachable")

    def up(self, *accounts: AccountId) -> None:
        for account in accounts:
            self.cluster.faults[account].down = False
            self.giving[account].fails = None

    def where(self, base: BlobBase, profile: str = "ec-4-2") -> dict[int, list[AccountId]]:
        """Who has which index, file and rows."""
        return {
            index: [
                account
                for account, stores in self.cluster.stores.items()
                if has_shard(stores, base, index, profile)
            ]
            for index in range(len(self.homes(base, profile)))
        }

    def durable(self, base: BlobBase, profile: str = "ec-4-2") -> int:
        """How many indexes are on disks, each on a node of its own."""
        found = self.where(base, profile)
        return min(
            sum(bool(nodes) for nodes in found.values()),
            len({account for nodes in found.values() for account in nodes}),
        )

    def marks(self, account: AccountId) -> int:
        """How many shards a node keeps in the place of others."""
        marked = marked_in(self.cluster.stores[account].rows)
        return sum(each.index is not None for each in marked)

    def record_marks(self, account: AccountId) -> int:
        marked = marked_in(self.cluster.stores[account].rows)
        return sum(each.index is None for each in marked)

    async def put(self, data: bytes, blob: BlobId | None = None) -> tuple[BlobId, Stored]:
        blob = BlobId.of(self.runtime.random(16)) if blob is None else blob
        session = self.cluster.session(self.cluster.plan(blob))
        try:
            await session.write(data)
            done = await session.finish(len(data), b"", b"", self.cluster.call("put", blob))
        finally:
            await session.abort()
        self.cluster.commit(blob)
        return blob, done.stored

    async def read(self, blob: BlobId) -> bytes:
        """The sealed bytes, as a gateway reads them."""
        held = self.cluster.seats(blob.base)
        call = self.cluster.call("get", blob)
        asked = [held, self.cluster.fanout.standing_in("ec-4-2", bytes(blob.base))]
        failure: HcefsError | None = None
        for each in asked:
            try:
                manifest = await self.cluster.fanout.manifest(each, call)
                break
            except HcefsError as error:
                failure = error
        else:
            assert failure is not None
            raise failure
        others = stand_ins(self.cluster.map, "ec-4-2", blob.base)
        length = manifest.core.plaintext_length
        plan = GetPlan(call, manifest, held, 0, length, None, others)
        reader = BlobReader(
            self.runtime, self.cluster, self.cluster.metrics, self.cluster.hedge, plan
        )
        return b"".join([bytes(message) async for message in reader.messages(lambda: None)])

    async def bring_home(self, rounds: int = 6) -> None:
        """What the nodes that are up do within a few seconds."""
        for account, bringer in self.bringers.items():

            def take(
                place: Place,
                shards: list[ShardName],
                records: list[RecordId],
                bringer: HomeBringer = bringer,
            ) -> frozenset[ShardName]:
                asker = self.node(self.asker)
                return bringer.offer(self.cluster.map, place, shards, records, asker)

            self.giving[account].offers = take
        for _ in range(rounds):
            for account, keeper in self.keepers.items():
                if self.cluster.faults[account].down:
                    continue
                self.asker = account
                for _ in range(50):
                    if await keeper.work() is Progress.IDLE:
                        break
            for bringer in self.bringers.values():
                while bringer._waiting:
                    await bringer.work()
            self.clock.now += 2.5


@pytest.fixture
def world() -> Iterator[World]:
    runtime = ClockRuntime()
    yield World(runtime)
    runtime.close()


@pytest.mark.parametrize("size", [1000, LARGE])
@pytest.mark.parametrize("lost", [(0,), (5,), (1, 4)])
async def test_a_put_has_n_shards_though_holders_are_down(
    world: World, size: int, lost: tuple[int, ...]
) -> None:
    blob = BlobId.of(world.runtime.random(16))
    homes = world.homes(blob.base)
    world.down(*(homes[index] for index in lost))
    _, stored = await world.put(world.runtime.random(size), blob)
    assert stored.durable == tuple(range(N))
    assert not stored.degraded
    assert stored.standing_in == lost
    assert world.durable(blob.base) == N
    for index in lost:
        (at,) = world.where(blob.base)[index]
        assert at not in homes
        assert world.marks(at)
    assert world.cluster.metrics.value("degraded_puts_total") == 0


@pytest.mark.parametrize("size", [1000, LARGE])
async def test_what_stood_in_comes_home_and_there_are_n_shards_all_the_time(
    world: World, size: int
) -> None:
    blob = BlobId.of(world.runtime.random(16))
    homes = world.homes(blob.base)
    world.down(homes[1], homes[4])
    await world.put(world.runtime.random(size), blob)
    sealed = await world.read(blob)
    await world.bring_home()
    assert world.durable(blob.base) == N  # nobody takes it, so nothing goes
    assert set(map(len, world.where(blob.base).values())) == {1}
    world.up(homes[1])
    await world.bring_home()
    assert world.durable(blob.base) == N
    found = world.where(blob.base)
    assert found[1] == [homes[1]]
    assert found[4] != [homes[4]]
    world.up(homes[4])
    await world.bring_home()
    assert [nodes for _, nodes in sorted(world.where(blob.base).items())] == [[h] for h in homes]
    assert not any(world.marks(account) for account in world.cluster.stores)
    for account, stores in world.cluster.stores.items():
        if account not in homes:
            assert stores.rows.get(Table.CORES, bytes(blob.base)) is None
    assert await world.read(blob) == sealed
    assert world.cluster.metrics.value("brought_home_total", kind="shard") == 2
    assert world.cluster.metrics.value("stand_in_shards_total") == 2


async def test_the_shard_stays_until_its_home_says_that_it_has_it(world: World) -> None:
    blob = BlobId.of(world.runtime.random(16))
    home = world.homes(blob.base)[2]
    world.down(home)
    await world.put(bytes(1000), blob)
    (at,) = world.where(blob.base)[2]
    world.up(home)
    # It answers, and takes nothing.
    for _ in range(20):
        await world.keepers[at].work()
        world.clock.now += 3
    assert "offer" in world.giving[home].calls
    assert world.where(blob.base)[2] == [at]
    assert world.marks(at)


async def test_who_is_down_is_pinged_and_then_asked_at_once(world: World) -> None:
    blob = BlobId.of(world.runtime.random(16))
    home = world.homes(blob.base)[0]
    world.down(home)
    await world.put(bytes(100), blob)
    (at,) = world.where(blob.base)[0]
    keeper = world.keepers[at]
    while await keeper.work() is Progress.BUSY:
        pass
    keeper._begins = world.clock.now + 1000  # as after a pass over very many marks
    world.giving[home].calls.clear()
    for _ in range(10):
        await keeper.work()
        world.clock.now += 0.5
    assert set(world.giving[home].calls) == {"ping"}
    assert len(world.giving[home].calls) <= 4
    world.up(home)
    world.clock.now += 2.5
    await keeper.work()
    assert world.giving[home].calls[-2] in ("ping", "has-rows")
    assert "offer" in world.giving[home].calls


@pytest.mark.parametrize(
    "error",
    [
        Exhausted("the disk is full", reason="disk-full"),
        Unavailable("the disk is read-only", reason="disk-error"),
        Unavailable("no lease", reason="stale"),
    ],
)
async def test_who_refuses_for_its_own_sake_has_a_stand_in(
    world: World, error: HcefsError, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = BlobId.of(world.runtime.random(16))
    home = world.homes(blob.base)[3]

    def refuse() -> None:
        raise error

    monkeypatch.setattr(world.cluster.faults[home], "require_up", refuse)
    for size in (500, LARGE):
        blob = BlobId.of(world.runtime.random(16))
        _, stored = await world.put(bytes(size), blob)
        assert not stored.degraded
        assert world.durable(blob.base) == N


async def test_the_next_put_begins_at_the_stand_in_and_later_ones_ask_again(world: World) -> None:
    blob = BlobId.of(world.runtime.random(16))
    home = world.homes(blob.base)[0]
    world.down(home)
    await world.put(bytes(100), blob)
    world.up(home)
    world.cluster.faults[home].stored.clear()
    _, stored = await world.put(bytes(100), same_row(world, blob))
    assert not stored.degraded
    assert world.cluster.faults[home].stored == []
    world.clock.now += AWAY_SECONDS
    _, stored = await world.put(bytes(100), same_row(world, blob))
    assert world.cluster.faults[home].stored
    assert stored.standing_in == ()


def same_row(world: World, blob: BlobId) -> BlobId:
    """Another blob with a shard at the first home of this one."""
    home = world.homes(blob.base)[0]
    while True:
        found = BlobId.of(world.runtime.random(16))
        if home in world.homes(found.base):
            return found


async def test_d_counts_nodes_once_and_below_k_plus_1_nothing_is_acknowledged(
    world: World,
) -> None:
    blob = BlobId.of(world.runtime.random(16))
    homes = world.homes(blob.base)
    others = [each.account for each in stand_ins(world.cluster.map, "ec-4-2", blob.base)]
    world.down(homes[0], *others)
    _, stored = await world.put(bytes(1000), blob)
    assert len(stored.durable) == N - 1
    assert stored.degraded
    world.down(homes[1])
    for size in (1000, LARGE):
        with pytest.raises(Unavailable) as caught:
            await world.put(bytes(size), with_homes(world, homes))
        assert caught.value.reason == "too-few-holders"
        assert "nothing was acknowledged" in caught.value.message


def with_homes(world: World, homes: list[AccountId]) -> BlobId:
    while True:
        found = BlobId.of(world.runtime.random(16))
        row = set(world.homes(found.base))
        if {homes[0], homes[1]} <= row:
            return found


async def test_a_holder_that_dies_in_the_middle_of_a_stream_makes_it_degraded(
    world: World,
) -> None:
    """Its pieces are not kept, so nobody can take its place; its seat is made whole later."""
    blob = BlobId.of(world.runtime.random(16))
    home = world.homes(blob.base)[2]
    world.cluster.faults[home].dies_after_messages = 1
    _, stored = await world.put(bytes(12 * SEGMENT_SIZE), blob)
    assert stored.durable == (0, 1, 3, 4, 5)
    assert stored.degraded
    assert world.durable(blob.base) == N - 1
    # The next put does not turn to it.
    _, stored = await world.put(bytes(12 * SEGMENT_SIZE), same_row(world, blob))
    assert len(stored.durable) == N


async def test_with_as_many_nodes_as_seats_a_put_is_degraded_as_before() -> None:
    runtime = ClockRuntime()
    world = GivingCluster(runtime, 6)
    blob = BlobId.of(runtime.random(16))
    world.cluster.faults_of_index(blob, 1).down = True
    session = world.cluster.session(world.cluster.plan(blob))
    await session.write(bytes(1000))
    done = await session.finish(1000, b"", b"", world.cluster.call("put", blob))
    assert done.stored.durable == (0, 2, 3, 4, 5)
    runtime.close()


# -- reads


async def test_a_blob_reads_back_though_k_is_reached_only_with_stand_ins(world: World) -> None:
    blob = BlobId.of(world.runtime.random(16))
    homes = world.homes(blob.base)
    before = await world.put(world.runtime.random(LARGE), blob)
    assert before
    other = BlobId.of(world.runtime.random(16))
    while set(world.homes(other.base)) != set(homes):
        other = BlobId.of(world.runtime.random(16))
    there = world.homes(other.base)
    world.down(there[0], there[1])
    await world.put(world.runtime.random(LARGE), other)
    sealed = await world.read(other)
    # The homes are back and have nothing yet; two others of the row are gone.
    world.up(there[0], there[1])
    world.down(there[2], there[3])
    assert await world.read(other) == sealed


async def test_the_manifest_is_found_at_a_stand_in_when_no_seat_has_it(world: World) -> None:
    blob = BlobId.of(world.runtime.random(16))
    homes = world.homes(blob.base)
    world.down(homes[0])
    await world.put(bytes(1000), blob)
    world.up(homes[0])
    world.down(*homes[1:])
    call = world.cluster.call("get", blob)
    others = world.cluster.fanout.standing_in("ec-4-2", bytes(blob.base))
    found = await world.cluster.fanout.manifest(others, call)
    assert found.core.blob == blob


async def test_a_healthy_read_asks_no_stand_in(world: World) -> None:
    blob, _ = await world.put(bytes(LARGE))
    for node in stand_ins(world.cluster.map, "ec-4-2", blob.base):
        world.down(node.account)
    assert len(await world.read(blob)) > LARGE
    assert world.cluster.metrics.value("degraded_reads_total") == 0


# -- records


async def test_openings_and_listings_with_two_seats_of_the_record_down(world: World) -> None:
    held = world.cluster.seats(bytes(world.cluster.record))
    lost = [held[0].node.account, held[3].node.account]
    world.down(*lost)
    blob, _ = await world.put(bytes(100))
    call = world.cluster.call("list", None)
    copies = [
        account
        for account, stores in world.cluster.stores.items()
        if stores.rows.get(Table.INDEX, bytes(world.cluster.record) + bytes(blob)) is not None
    ]
    assert len(copies) == N
    assert not set(copies) & set(lost)

    async def listed() -> set[bytes]:
        answers = await world.cluster.fanout.load(
            held, lambda peer: peer.load_listing(call), world.cluster.record
        )
        return {entry.opening for entries in answers for entry in entries}

    assert len(await listed()) == 1
    # Those that came back know nothing yet, the other seats are gone.
    world.up(*lost)
    world.down(*(seat.node.account for seat in held if seat.node.account not in lost))
    assert len(await listed()) == 1
    world.up(*(seat.node.account for seat in held))
    await world.bring_home(10)
    for seat in held:
        rows = world.cluster.stores[seat.node.account].rows
        assert rows.get(Table.INDEX, bytes(world.cluster.record) + bytes(blob)) is not None
    for node in record_stand_ins(world.cluster.map, bytes(world.cluster.record)):
        rows = world.cluster.stores[node.account].rows
        assert rows.get(Table.INDEX, bytes(world.cluster.record) + bytes(blob)) is None
        assert not world.record_marks(node.account)


# -- packs


@pytest.mark.parametrize(("profile", "size"), [("ec-4-2", 100_000), ("copy-3", 300)])
@pytest.mark.parametrize("lost", [1, 2])
async def test_packs_have_n_shards_and_come_home(
    world: World, profile: str, size: int, lost: int
) -> None:
    pack = world.packs.seal([world.runtime.random(size)] * 3)
    homes = world.homes(pack.base, profile)
    world.down(*homes[:lost])
    _, stored = await world.packs.put(pack, profile)
    assert len(stored.durable) == len(homes)
    assert stored.standing_in == tuple(range(lost))
    assert world.durable(pack.base, profile) == len(homes)
    call, keys = world.packs.reading(pack), world.packs.keys(pack)
    reader = next(
        at for at, account in enumerate(world.cluster.stores) if account not in homes[:lost]
    )
    found = await world.packs.read(call, keys, reader)
    assert {key: each.sealed for key, each in found.items()} == world.packs.sealed(pack)
    # The homes are back, empty, and as many others are gone as the profile bears.
    world.up(*homes[:lost])
    world.down(*homes[-2:])
    found = await world.packs.read(call, keys, reader)
    assert {key: each.sealed for key, each in found.items()} == world.packs.sealed(pack)
    world.up(*homes)
    await world.bring_home(10)
    where = world.where(pack.base, profile)
    assert [nodes for _, nodes in sorted(where.items())] == [[home] for home in homes]
    assert not any(world.marks(account) for account in world.cluster.stores)


async def test_a_pack_below_k_plus_1_is_not_acknowledged(world: World) -> None:
    pack = world.packs.seal([world.runtime.random(50_000)] * 3)
    homes = world.homes(pack.base)
    others = [each.account for each in stand_ins(world.cluster.map, "ec-4-2", pack.base)]
    world.down(homes[0], homes[1], *others)
    with pytest.raises(Unavailable) as caught:
        await world.packs.put(pack)
    assert caught.value.reason == "too-few-holders"


# -- collecting, and changes of the map


async def test_a_put_that_is_never_committed_is_collected_at_the_stand_in(world: World) -> None:
    blob = BlobId.of(world.runtime.random(16))
    home = world.homes(blob.base)[0]
    world.down(home)
    session = world.cluster.session(world.cluster.plan(blob))
    await session.write(bytes(1000))
    await session.finish(1000, b"", b"", world.cluster.call("put", blob))
    (at,) = world.where(blob.base)[0]
    world.cluster.ledger.time_ms += 2 * 24 * 3_600_000
    stores = world.cluster.stores[at]
    collector = Collector(
        world.runtime,
        stores,
        world.cluster.ledger,
        world.cluster.metrics,
        world.cluster.holders[at].pending,
    )
    while await collector.work() is Progress.BUSY:
        pass
    assert not has_shard(stores, blob.base, 0)
    await world.bring_home()
    assert not world.marks(at)


async def test_a_pending_blob_comes_home_too(world: World) -> None:
    blob = BlobId.of(world.runtime.random(16))
    home = world.homes(blob.base)[0]
    world.down(home)
    session = world.cluster.session(world.cluster.plan(blob))
    await session.write(bytes(1000))
    await session.finish(1000, b"", b"", world.cluster.call("put", blob))
    world.up(home)
    await world.bring_home()
    assert world.where(blob.base)[0] == [home]
    assert world.cluster.stores[home].rows.scan(Table.PENDING)


async def test_a_put_of_the_epoch_before_reaches_who_got_the_seat(world: World) -> None:
    """The barrier of a change lists seats, not stand-ins: they offer by the newer map."""
    blob = BlobId.of(world.runtime.random(16))
    first = world.cluster.map
    home = seat_of(first, blob.base, 2).node.account
    world.down(home)
    session = world.cluster.session(world.cluster.plan(blob))
    await session.write(bytes(1000))
    await session.finish(1000, b"", b"", world.cluster.call("put", blob))
    (at,) = world.where(blob.base)[2]
    after = settled(moved(first, blob.base, 2))
    new = seat_of(after, blob.base, 2).node.account
    assert home != new
    world.cluster.map = after
    await world.bring_home()
    assert world.where(blob.base)[2] == [new]
    assert not world.marks(at)
    world.up(home)


async def test_a_stand_in_that_gets_the_seat_keeps_the_shard(world: World) -> None:
    blob = BlobId.of(world.runtime.random(16))
    first = world.cluster.map
    for _ in range(1000):
        after = settled(moved(first, blob.base, 2))
        new = seat_of(after, blob.base, 2).node.account
        missing = seat_of(first, blob.base, 2).node
        found = world.cluster.standby.seat(
            "ec-4-2", bytes(blob.base), seat_of(first, blob.base, 2), set()
        )
        if found is not None and found.node.account == new:
            break
        blob = BlobId.of(world.runtime.random(16))
    world.down(missing.account)
    await world.put(bytes(1000), blob)
    assert world.where(blob.base)[2] == [new]
    assert world.marks(new)
    world.cluster.map = after
    await world.bring_home()
    assert world.where(blob.base)[2] == [new]
    assert not world.marks(new)


async def test_a_former_holder_offers_what_its_seat_lacks(world: World) -> None:
    """A node that was given up comes back with shards that nobody else has."""
    blob, _ = await world.put(bytes(1000))
    first = world.cluster.map
    old = seat_of(first, blob.base, 2).node.account
    world.cluster.map = settled(moved(first, blob.base, 2))
    new = seat_of(world.cluster.map, blob.base, 2).node.account
    assert world.where(blob.base)[2] == [old]
    retirer = Retirer(
        world.runtime,
        world,
        world.cluster.stores[old],
        world,
        world.cluster.holders[old].pending,
        world.cluster.metrics,
        old,
        10.0,
    )
    for _ in range(4):
        world.asker = old
        for _ in range(50):
            if await retirer.work() is Progress.IDLE:
                break
        await world.bring_home(1)
        world.clock.now += 11
    assert world.where(blob.base)[2] == [new]


async def test_no_retirer_counts_what_stands_in(world: World) -> None:
    blob = BlobId.of(world.runtime.random(16))
    home = world.homes(blob.base)[0]
    world.down(home)
    await world.put(bytes(1000), blob)
    (at,) = world.where(blob.base)[0]
    retirer = Retirer(
        world.runtime,
        world,
        world.cluster.stores[at],
        world,
        world.cluster.holders[at].pending,
        world.cluster.metrics,
        at,
        10.0,
    )
    while await retirer.work() is Progress.BUSY:
        pass
    assert world.cluster.metrics.value("retiring_shards") == 0
    assert world.where(blob.base)[0] == [at]


async def test_offers_are_bounded_and_only_for_own_seats(world: World) -> None:
    blob, _ = await world.put(bytes(10))
    held = seats(world.cluster.map, "ec-4-2", blob.base)
    account = held[0].node.account
    bringer = world.bringers[account]
    giver = held[1].node
    place = Place(1, "ec-4-2", 0)
    wrong = ShardName(blob.base, held[1].index)
    bringer.offer(world.cluster.map, place, [wrong], [], giver)
    bringer.offer(world.cluster.map, place, [ShardName(blob.base, held[0].index)], [], held[0].node)
    assert not bringer._waiting
    offered = 0
    while offered <= WAITING_MAX:
        base = BlobBase(world.runtime.random(16))
        mine = [s for s in seats(world.cluster.map, "ec-4-2", base) if s.node.account == account]
        bringer.offer(world.cluster.map, place, [ShardName(base, s.index) for s in mine], [], giver)
        offered += len(mine)
    assert len(bringer._waiting) == WAITING_MAX


async def test_what_a_giver_offers_must_prove_itself(world: World) -> None:
    blob, _ = await world.put(bytes(1000))
    home = world.homes(blob.base)[2]
    giver = world.node(world.homes(blob.base)[1])
    stores = world.cluster.stores[home]
    shard = next(key for key, _ in stores.rows.scan(Table.PLACED) if bytes(blob.base) in key)
    stores.rows.delete([(Table.PLACED, shard)])
    stores.shards.remove(blob.base, 2)
    world.giving[giver.account].rows = lambda rows: replace(rows, layout=b"\x80")
    place = Place(1, "ec-4-2", 0)
    bringer = world.bringers[home]
    bringer.offer(world.cluster.map, place, [ShardName(blob.base, 2)], [], giver)
    await bringer.work()
    assert not has_shard(stores, blob.base, 2)
    assert world.cluster.metrics.value("unrecovered_shards_total") == 0
