"""A seat is filled with everything that can be had, from nodes that are not believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from hcefs.errors import Corrupt, Exhausted, HcefsError, Unavailable
from hcefs.formats.shard import HEADER_SIZE
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.placement.cluster_map import NodeState
from hcefs.placement.ring import partition_of, seats
from hcefs.placement.waves import SeatName
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.store.memory import MemoryShardStore
from hcefs.stripes import exports
from hcefs.stripes.exports import has_shard, record_digest
from hcefs.stripes.shard_index import read_footer
from hcefs.transport.upkeep import BlobRows, PackRows, Place, RecordDigest, RecordRows, ShardName
from hcefs.upkeep import fill, survey
from tests.unit.stripes.moving import moved, seat_of, spare_node
from tests.unit.upkeep.giving import ClockRuntime, GivingCluster

INDEX = 2
AWAY = Unavailable("this node is away", reason="unreachable")


@pytest.fixture
def world() -> Iterator[GivingCluster]:
    runtime = ClockRuntime()
    yield GivingCluster(runtime)
    runtime.close()


class Moving:
    """One blob whose seat of one index moves, and the two nodes."""

    def __init__(self, world: GivingCluster, base: BlobBase, profile: str, source: int | None):
        old = world.cluster.map
        self.base = base
        self.profile = profile
        world.cluster.map = moved(old, base, INDEX, profile, source)
        self.old = seat_of(old, base, INDEX, profile).node.account
        if source == 0:
            # It is rebuilt because its holder was given up: nobody asks that one.
            nodes = tuple(
                replace(node, state=NodeState.OUT) if node.account == self.old else node
                for node in old.nodes
            )
            world.cluster.map = replace(world.cluster.map, nodes=nodes)
        self.new = seat_of(world.cluster.map, base, INDEX, profile).node.account
        self.others = [
            seat.node.account for seat in seats(old, profile, base) if seat.node.account != self.old
        ]
        self.stores = world.cluster.stores[self.new]


async def moving(world: GivingCluster, size: int = 300_000, *, source: int | None = None) -> Moving:
    """A committed blob that is about to move."""
    blob = await world.cluster.put(world.runtime.random(size))
    return Moving(world, blob.base, "ec-4-2", source)


def content(stores: Stores, base: BlobBase, index: int) -> bytes:
    reader = stores.shards.open(base, index)
    try:
        return reader.read_at(0, reader.size)
    finally:
        reader.close()


def damage(stores: Stores, base: BlobBase, index: int) -> None:
    """Flip a bit of a shard's first piece."""
    data = bytearray(content(stores, base, index))
    data[HEADER_SIZE + 5] ^= 1
    stores.shards.remove(base, index)
    writer = stores.shards.begin(base, index)
    writer.write(bytes(data[:-1]))
    writer.finish(bytes(data[-1:]))


def nothing_kept(stores: Stores) -> bool:
    tables = (Table.CORES, Table.LAYOUTS, Table.OPENINGS, Table.PLACED)
    return (
        not list(stores.shards.inventory())
        and not any(stores.rows.scan(table) for table in tables)
        and not stores.keys.scan(KeyTable.KEY_ROWS)
    )


@pytest.mark.parametrize("size", [0, 100, 300_000, 9_000_000])
async def test_a_shard_and_its_rows_are_copied_from_the_source(
    world: GivingCluster, size: int
) -> None:
    at = await moving(world, size)
    before = world.cluster.stores[at.old]
    filled = await world.fill()
    assert (filled.copied, filled.rebuilt, filled.lost) == (1, 0, 0)
    assert content(at.stores, at.base, INDEX) == content(before, at.base, INDEX)
    for table in (Table.CORES, Table.LAYOUTS, Table.OPENINGS):
        assert at.stores.rows.get(table, at.base) == before.rows.get(table, at.base)
    assert at.stores.keys.scan(KeyTable.KEY_ROWS) == before.keys.scan(KeyTable.KEY_ROWS)
    assert f"load-shard {INDEX}" in world.giving[at.old].calls
    for other in at.others:
        assert not any(call.startswith("load-shard") for call in world.giving[other].calls)


@pytest.mark.parametrize("size", [100, 9_000_000])
@pytest.mark.parametrize("what", ["gone", "damaged", "unreadable"])
async def test_what_the_source_has_not_or_has_damaged_is_rebuilt(
    world: GivingCluster, size: int, what: str
) -> None:
    at = await moving(world, size)
    good = content(world.cluster.stores[at.old], at.base, INDEX)
    if what == "gone":
        world.cluster.stores[at.old].shards.remove(at.base, INDEX)
    elif what == "damaged":
        damage(world.cluster.stores[at.old], at.base, INDEX)
    else:
        world.giving[at.old].fails_loads = Unavailable("EIO while reading", reason="disk-error")
    filled = await world.fill()
    assert (filled.copied, filled.rebuilt, filled.lost) == (0, 1, 0)
    assert content(at.stores, at.base, INDEX) == good


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("size", [100, 9_000_000])
async def test_a_rebuild_reads_around_damage(world: GivingCluster, size: int) -> None:
    at = await moving(world, size, source=0)
    good = content(world.cluster.stores[at.old], at.base, INDEX)
    damage(world.cluster.stores_of_index(BlobId.of(bytes(at.base)), 0), at.base, 0)
    filled = await world.fill()
    assert (filled.copied, filled.rebuilt, filled.lost) == (0, 1, 0)
    assert content(at.stores, at.base, INDEX) == good
    assert world.cluster.metrics.value("degraded_reads_total") == 0, "no client's read"


@pytest.mark.parametrize(("profile", "size"), [("ec-4-2", 100_000), ("copy-3", 300)])
@pytest.mark.parametrize("rebuild", [False, True])
async def test_packs_are_copied_and_rebuilt(
    world: GivingCluster, profile: str, size: int, rebuild: bool
) -> None:
    pack = world.packs.seal([world.runtime.random(size)] * 3)
    await world.packs.put(pack, profile)
    at = Moving(world, pack.base, profile, 0 if rebuild else None)
    good = content(world.cluster.stores[at.old], pack.base, INDEX)
    filled = await world.fill(profile)
    assert (filled.copied, filled.rebuilt) == ((0, 1) if rebuild else (1, 0))
    assert content(at.stores, pack.base, INDEX) == good
    before = world.cluster.stores[at.old]
    for key_table in (KeyTable.KEY_ROWS, KeyTable.PACK_ENVELOPES):
        assert at.stores.keys.scan(key_table) == before.keys.scan(key_table)
    assert at.stores.rows.scan(Table.CORES) == before.rows.scan(Table.CORES)


async def test_a_degraded_put_is_made_whole(world: GivingCluster) -> None:
    """What the old holder never got is rebuilt for the new one."""
    blob = BlobId.of(world.runtime.random(16))
    world.cluster.faults_of_index(blob, INDEX).down = True
    world.cluster.fanout.standby = None  # nobody stands in
    session = world.cluster.session(world.cluster.plan(blob))
    await session.write(bytes(1000))
    await session.finish(1000, b"", b"", world.cluster.call("put", blob))
    world.cluster.commit(blob)
    at = Moving(world, blob.base, "ec-4-2", None)
    filled = await world.fill()
    assert filled.rebuilt == 1
    assert has_shard(at.stores, blob.base, INDEX)


async def test_what_is_lost_is_counted_and_stops_nothing(world: GivingCluster) -> None:
    """Of two blobs of one partition one has too few shards."""
    lost = await world.cluster.put(bytes(100))
    bits = world.cluster.map.table("ec-4-2").bits
    while True:
        session_blob = BlobId.of(world.runtime.random(16))
        same = partition_of(session_blob.base, bits) == partition_of(lost.base, bits)
        if same and seat_of(world.cluster.map, session_blob.base, INDEX).seat == (
            seat_of(world.cluster.map, lost.base, INDEX).seat
        ):
            break
    session = world.cluster.session(world.cluster.plan(session_blob))
    await session.write(bytes(200))
    await session.finish(200, b"", b"", world.cluster.call("put", session_blob))
    world.cluster.commit(session_blob)
    for index in (INDEX, 0, 1):
        world.cluster.stores_of_index(lost, index).shards.remove(lost.base, index)
    at = Moving(world, lost.base, "ec-4-2", None)
    filled = await world.fill()
    assert (filled.copied, filled.rebuilt, filled.lost) == (1, 0, 1)
    assert has_shard(at.stores, session_blob.base, INDEX)
    assert not has_shard(at.stores, lost.base, INDEX)
    assert not list(at.stores.shards.inventory())[1:]
    assert world.cluster.metrics.value("unrecovered_shards_total") == 1


async def test_a_holder_that_is_away_is_waited_for_until_it_is_fenced(
    world: GivingCluster,
) -> None:
    at = await moving(world)
    world.giving[at.others[0]].fails = AWAY
    with pytest.raises(Unavailable):
        await world.fill()
    assert nothing_kept(at.stores)
    assert (await world.fill(fenced=True)).copied == 1


@pytest.mark.parametrize("reason", ["unsettled", "other-epoch"])
async def test_a_holder_with_an_older_put_or_map_is_waited_for_in_any_case(
    world: GivingCluster, reason: str
) -> None:
    at = await moving(world)
    world.giving[at.old].fails = Unavailable("not yet", reason=reason)
    with pytest.raises(Unavailable) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == reason
    assert nothing_kept(at.stores)


async def test_an_older_put_that_goes_on_keeps_the_seat_from_being_filled(
    world: GivingCluster,
) -> None:
    """The barrier itself, over real holders."""
    at = await moving(world)
    uploads = world.cluster.uploads[at.old]
    world.cluster.epochs[at.old] = world.cluster.map.epoch - 1
    with pytest.raises(Unavailable) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == "other-epoch"
    upload = uploads.begin(world.cluster.map.epoch - 1, [at.base])
    del world.cluster.epochs[at.old]
    job = world.runtime.spawn(world.fill(), name="fill")
    async with world.runtime.timeout(5):
        while "list-shards" not in world.giving[at.others[0]].calls[1:]:
            await world.runtime.sleep(0)
    assert nothing_kept(at.stores)
    assert not job.done()
    upload.end()
    assert (await job).copied == 1


async def test_too_few_holders_to_rebuild(world: GivingCluster) -> None:
    at = await moving(world, source=0)
    for other in at.others[:2]:
        world.giving[other].fails = AWAY
    with pytest.raises(Unavailable) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == "too-few-holders"


async def test_shards_of_nodes_that_are_away_are_not_lost(world: GivingCluster) -> None:
    """Four of five answer, and one of them has no shard: the fifth may come back."""
    at = await moving(world, source=0)
    world.giving[at.others[0]].fails = AWAY
    seat = next(s for s in world.cluster.seats(at.base) if s.node.account == at.others[1])
    stores = world.cluster.stores[at.others[1]]
    stores.shards.remove(at.base, seat.index)
    stores.rows.delete([(t, key) for t in (Table.PLACED,) for key, _ in stores.rows.scan(t)])
    with pytest.raises(Unavailable) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == "no-seat"
    world.giving[at.others[0]].fails = None
    assert (await world.fill()).rebuilt == 1


async def test_a_repeat_copies_nothing_twice(world: GivingCluster) -> None:
    at = await moving(world)
    assert (await world.fill()).copied == 1
    world.giving[at.old].calls.clear()
    again = await world.fill()
    assert (again.copied, again.rebuilt) == (0, 0)
    assert not any(call.startswith("load-shard") for call in world.giving[at.old].calls)


async def test_an_error_in_the_middle_is_resumed(world: GivingCluster) -> None:
    """The source goes away while it is copied; what has come of it leaves no trace."""
    at = await moving(world, 9_000_000)
    sent = 0

    def dies(message: bytes) -> list[bytes]:
        nonlocal sent
        sent += 1
        if sent == 2:
            raise AWAY
        return [message]

    world.giving[at.old].piece = dies
    with pytest.raises(Unavailable):
        await world.fill()
    assert nothing_kept(at.stores)
    world.giving[at.old].piece = None
    assert (await world.fill()).copied == 1


async def test_a_full_disk_leaves_nothing(world: GivingCluster) -> None:
    at = await moving(world, 3_000_000)
    full = MemoryShardStore(total_bytes=100_000)
    world.cluster.stores[at.new] = replace(at.stores, shards=full)
    with pytest.raises(Exhausted):
        await world.fill()
    assert nothing_kept(world.cluster.stores[at.new])


# -- liars


async def test_a_list_of_what_is_not_there(world: GivingCluster) -> None:
    at = await moving(world)
    bits = world.cluster.map.table("ec-4-2").bits
    made_up = at.base
    while made_up == at.base or partition_of(made_up, bits) != partition_of(at.base, bits):
        made_up = BlobBase(world.runtime.random(16))
    page = [ShardName(made_up, index) for index in range(6)]
    world.giving[at.others[0]].shards = lambda after: (page, b"")
    filled = await world.fill()
    assert (filled.copied, filled.lost) == (1, 0)
    assert [base for base, _ in at.stores.shards.inventory()] == [at.base]


async def test_a_list_that_does_not_end(
    world: GivingCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = await moving(world)
    monkeypatch.setattr(survey, "PAGES_MAX", 50)
    liar = world.giving[at.others[0]]
    liar.shards = lambda after: ([], (int.from_bytes(after, "big") + 1).to_bytes(8, "big"))
    with pytest.raises(HcefsError) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == "bad-page"
    assert len(liar.calls) == 50
    assert nothing_kept(at.stores)


@pytest.mark.parametrize("after", [b"\x01", b"\x02"])
async def test_a_list_that_does_not_go_on(world: GivingCluster, after: bytes) -> None:
    at = await moving(world)
    pages = {b"": b"\x02", b"\x02": after}
    world.giving[at.others[0]].shards = lambda last: ([], pages[last])
    with pytest.raises(HcefsError) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == "bad-page"


async def test_more_shards_than_a_partition_can_have(
    world: GivingCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing may be left out in silence: it would count as filled."""
    at = await moving(world)
    monkeypatch.setattr(survey, "SHARDS_MAX", 3)
    page = [ShardName(at.base, index) for index in range(5)]
    world.giving[at.others[0]].shards = lambda after: (page, b"\x01" + after)
    with pytest.raises(HcefsError) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == "bad-page"


async def test_a_base_of_another_partition(world: GivingCluster) -> None:
    """The liar really has it, so its rows would prove themselves."""
    at = await moving(world)
    bits = world.cluster.map.table("ec-4-2").bits
    while True:
        other = await world.cluster.put(b"x")
        if partition_of(other.base, bits) != partition_of(at.base, bits):
            break
    page = [ShardName(other.base, index) for index in range(6)]
    world.giving[at.others[0]].shards = lambda after: (page, b"")
    kept = list(at.stores.shards.inventory())
    with pytest.raises(HcefsError) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == "wrong-partition"
    assert list(at.stores.shards.inventory()) == kept


async def test_a_base_of_another_profile(world: GivingCluster) -> None:
    """A copied pack has no index 5: whoever says so must not stop the rest, and nothing is lost."""
    cluster = world.cluster
    seated: set[AccountId] = set()
    while not seated:
        blob = await cluster.put(bytes(1000))
        accounts = {seat.node.account for seat in cluster.seats(blob.base, "copy-3")}
        if spare_node(cluster.map, blob.base).account not in accounts:
            seated = accounts
    at = Moving(world, blob.base, "ec-4-2", None)
    bits = cluster.map.table("ec-4-2").bits
    assert bits == cluster.map.table("copy-3").bits
    pack = world.packs.seal([b"a"])
    while partition_of(pack.base, bits) != partition_of(at.base, bits):
        pack = world.packs.seal([b"a"])
    await world.packs.put(pack, "copy-3")
    holder = next(account for account in at.others if account in seated)
    page = [ShardName(pack.base, index) for index in range(6)] + [ShardName(at.base, 0)]
    world.giving[holder].shards = lambda after: (page, b"")
    before = list(at.stores.shards.inventory())
    filled = await world.fill()
    assert (filled.copied, filled.lost) == (1, 0)
    assert sorted(at.stores.shards.inventory()) == sorted([*before, (at.base, INDEX)])


@pytest.mark.parametrize(
    "becomes",
    [
        lambda message: [bytes(len(message))],
        lambda message: [message[:-64]],
        lambda message: [message, b"\x00" * 64],
        lambda message: [],
        lambda message: [message] * 3,
        lambda message: [b"", message + bytes(1 << 20)],
    ],
    ids=["other", "shorter", "longer", "none", "repeated", "huge"],
)
@pytest.mark.parametrize("size", [100, 9_000_000])
async def test_wrong_pieces_are_not_kept(
    world: GivingCluster, size: int, becomes: Callable[[bytes], list[bytes]]
) -> None:
    at = await moving(world, size)
    good = content(world.cluster.stores[at.old], at.base, INDEX)
    for account in (at.old, *at.others):
        world.giving[account].piece = becomes
    filled = await world.fill()
    assert filled.copied == 0
    if filled.rebuilt:  # what follows the right pieces is not even looked at
        assert content(at.stores, at.base, INDEX) == good
        return
    assert filled.lost == 1
    assert nothing_kept(at.stores)
    world.giving[at.old].piece = None
    assert (await world.fill()).copied == 1


async def test_wrong_pieces_of_the_source_alone_are_rebuilt(world: GivingCluster) -> None:
    at = await moving(world)
    world.giving[at.old].piece = lambda message: [bytes(len(message))]
    filled = await world.fill()
    assert (filled.copied, filled.rebuilt) == (0, 1)
    read_footer(at.stores.shards, at.base, INDEX)


async def test_wrong_rows_of_one_node_do_no_harm(world: GivingCluster) -> None:
    at = await moving(world)

    def lie(rows: BlobRows | PackRows) -> BlobRows | PackRows:
        assert isinstance(rows, BlobRows)
        return replace(rows, layout=rows.layout[:-1] + bytes([rows.layout[-1] ^ 1]))

    liars = sorted([at.old, *at.others])[:3]
    for account in liars:
        world.giving[account].rows = lie
    assert (await world.fill()).copied == 1
    for account in (at.old, *at.others):
        world.giving[account].rows = lie
    world.cluster.stores[at.new].shards.remove(at.base, INDEX)
    assert (await world.fill()).lost == 1


async def test_rows_of_another_blob(world: GivingCluster) -> None:
    at = await moving(world)
    other = await world.cluster.put(b"another one")
    holder = world.cluster.stores_of_index(other, 0)
    account = next(a for a, s in world.cluster.stores.items() if s is holder)
    rows = await world.exporter(account).load_rows(other.base, "ec-4-2")
    for each in (at.old, *at.others):
        world.giving[each].rows = lambda _: rows
    before = sorted(at.stores.shards.inventory())
    assert (await world.fill()).lost == 1
    assert sorted(at.stores.shards.inventory()) == before


async def test_what_the_ledger_does_not_know_is_not_taken(world: GivingCluster) -> None:
    at = await moving(world)
    world.cluster.ledger.leaves.clear()
    world.cluster.ledger.time_ms += 10 * 3_600_000
    filled = await world.fill()
    assert (filled.copied, filled.rebuilt, filled.lost) == (0, 0, 0)
    assert nothing_kept(at.stores)


# -- records


async def moving_record(world: GivingCluster) -> tuple[RecordId, AccountId, AccountId]:
    """The record's seat of one index moves; the nodes before and after."""
    record = world.cluster.record
    for _ in range(3):
        await world.cluster.put(b"x")
    old = world.cluster.map
    world.cluster.map = moved(old, record, INDEX)
    return (
        record,
        seat_of(old, record, INDEX).node.account,
        seat_of(world.cluster.map, record, INDEX).node.account,
    )


async def test_the_rows_of_records_come_along(world: GivingCluster) -> None:
    record, before, after = await moving_record(world)
    stores = world.cluster.stores
    assert record_digest(stores[after], record) != record_digest(stores[before], record)
    await world.fill()
    assert record_digest(stores[after], record) == record_digest(stores[before], record)


async def test_the_union_of_all_listings_is_kept(world: GivingCluster) -> None:
    """Each of the seats lacks another entry."""
    record, before, after = await moving_record(world)
    stores = world.cluster.stores
    whole = dict(stores[before].rows.scan(Table.INDEX, bytes(record)))
    holders = [s.node.account for s in world.cluster.seats(record) if s.node.account != after]
    for at, name in enumerate(sorted(whole)):
        stores[[before, *holders][at]].rows.delete([(Table.INDEX, name)])
    await world.fill()
    assert dict(stores[after].rows.scan(Table.INDEX, bytes(record))) == whole


async def test_records_of_another_partition_are_refused(world: GivingCluster) -> None:
    _, before, after = await moving_record(world)
    other = RecordId(b"0123456789abcdef")
    world.giving[before].records = lambda page: ([RecordDigest(other, bytes(32))], b"")
    with pytest.raises(HcefsError) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == "wrong-partition"
    assert not world.cluster.stores[after].rows.scan(Table.INDEX)


async def test_rows_of_a_record_that_do_not_end(
    world: GivingCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, before, _ = await moving_record(world)
    monkeypatch.setattr(fill, "PAGES_MAX", 50)
    empty = RecordRows((), (), ())
    world.giving[before].record = lambda page: (empty, bytes([len(page)]) + page[:30])
    with pytest.raises(Corrupt) as caught:
        await world.fill(fenced=True)
    assert caught.value.reason == "bad-page"


@pytest.mark.parametrize("size", [100, 9_000_000])
async def test_a_rebuild_for_which_a_holder_is_away_is_not_lost(
    world: GivingCluster, size: int
) -> None:
    """One shard is damaged, and a holder that answered goes away then."""
    at = await moving(world, size, source=0)
    blob = BlobId.of(bytes(at.base))
    damage(world.cluster.stores_of_index(blob, 0), at.base, 0)
    seat = seat_of(world.cluster.map, at.base, 1)
    world.giving[seat.node.account].fails_loads = AWAY
    with pytest.raises(Unavailable):
        await world.fill()
    assert nothing_kept(at.stores)
    world.giving[seat.node.account].fails_loads = None
    assert (await world.fill()).rebuilt == 1


async def test_one_survey_of_many_rows_is_what_each_row_lists(
    world: GivingCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 3)
    monkeypatch.setattr(exports, "RECORDS_PAGE", 1)
    blobs = [await world.cluster.put(world.runtime.random(9_000)) for _ in range(9)]
    current, me = world.cluster.map, next(iter(world.cluster.holders))
    table = current.table("ec-4-2")
    ids = [bytes(world.cluster.record), *(bytes(blob.base) for blob in blobs)]
    partitions = sorted({partition_of(each, table.bits) for each in ids})
    names = {SeatName("ec-4-2", partition, 0): () for partition in partitions}
    surveyor = world.filler(me).surveyor
    found = await surveyor.surveys(current, names, lambda _: False)
    for name, surveyed in found.items():
        place = Place(current.epoch, name.profile, name.partition)
        alone = await surveyor.lists(
            place,
            table.bits,
            surveyor.others(current, table.node_rows[name.partition], ()),
            lambda _: False,
            surveyor.stand_ins(current, place),
        )
        assert surveyed.lists == alone
    assert sum(len(each.lists.held) for each in found.values()) == len(blobs)
    assert any(listed for each in found.values() for listed in each.records.values())


async def test_a_survey_with_what_was_not_asked_for_is_refused(world: GivingCluster) -> None:
    blob = await world.cluster.put(world.runtime.random(9_000))
    current, me = world.cluster.map, next(iter(world.cluster.holders))
    other = (partition_of(bytes(blob.base), current.table("ec-4-2").bits) + 1) % (
        1 << current.table("ec-4-2").bits
    )
    for giving in world.giving.values():
        giving.shards = lambda _: ([ShardName(blob.base, 1)], b"")
    with pytest.raises(Unavailable, match="another partition"):
        await world.filler(me).surveyor.surveys(
            current, {SeatName("ec-4-2", other, 0): ()}, lambda _: False
        )
    for giving in world.giving.values():
        giving.shards = lambda _: ([], b"same")
    with pytest.raises(Unavailable, match="does not end"):
        await world.filler(me).surveyor.surveys(
            current, {SeatName("ec-4-2", other, 0): ()}, lambda _: False
        )
