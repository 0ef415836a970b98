"""An erased record leaves nothing behind, on no node, whatever happens meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hcefs.errors import Corrupt, HcefsError, NotFound, Unavailable
from hcefs.formats.erasure import ErasureStage
from hcefs.ids import BlobId
from hcefs.placement.ring import partition_of
from hcefs.store.interface import KeyTable, RowPage, Stores, Table
from hcefs.stripes.placed import shards_of
from hcefs.transport.upkeep import BlobRows, PackRows, Place, RecordRows
from hcefs.upkeep.erase import AGAIN_SECONDS, Eraser
from hcefs.upkeep.worker import Progress
from tests.unit.upkeep.erasing import OTHER, Erasing, rows_of, work
from tests.unit.upkeep.giving import ClockRuntime

SIZE = 3_000


@pytest.fixture
def world() -> Iterator[Erasing]:
    runtime = ClockRuntime()
    yield Erasing(runtime)
    runtime.close()


async def fill(world: Erasing) -> list[BlobId]:
    """Blobs under two profiles, a box and a link, all of the record."""
    await world.keep_boxes()
    return [await world.cluster.put(b"x" * SIZE, profile) for profile in ("ec-4-2", "copy-3")]


def shards(world: Erasing) -> int:
    return sum(len(list(each.shards.inventory())) for each in world.cluster.stores.values())


def keys(world: Erasing) -> int:
    return sum(
        len(stores.keys.scan(table))
        for stores in world.cluster.stores.values()
        for table in KeyTable
    )


async def test_nothing_is_left_anywhere(world: Erasing) -> None:
    await fill(world)
    record = world.cluster.record
    own = world.packs.seal([b"one", b"two"])
    await world.packs.put(own, "copy-3")
    assert world.left(record)
    world.cluster.ledger.erase(record)
    await world.erase()
    assert world.left(record) == []
    assert shards(world) == 0
    assert keys(world) == 0
    tables = set(Table) - {Table.META, Table.PENDING}
    rows = [
        row for each in world.cluster.stores.values() for t in tables for row in each.rows.scan(t)
    ]
    assert rows == [], "not even the name of a shard"


async def test_what_was_deleted_is_counted(world: Erasing) -> None:
    await fill(world)
    account = next(iter(world.cluster.stores))
    before = rows_of(world.cluster.stores[account], world.cluster.record)
    erasure = world.cluster.ledger.erase(world.cluster.record)
    await world.erase()
    total = [0, 0, 0]
    for eraser in world.erasers.values():
        found = eraser.progress(world.cluster.record)
        assert found is not None
        assert (found.stage, found.height) == (ErasureStage.DONE, erasure.height)
        assert (found.boxes, found.links) == (1, 1)
        assert found.done_ms > 0
        counted = (found.key_rows, found.openings, found.shards)
        total = [a + b for a, b in zip(total, counted, strict=True)]
    # A row of keys and an opening with each of 6 + 3 shards, and 6 listings of each blob.
    assert total == [9, 9 + 12, 9]
    assert before


async def test_of_a_pack_only_its_part_goes(world: Erasing) -> None:
    record = world.cluster.record
    pack = await world.put_mixed()
    before = shards(world)
    world.cluster.ledger.erase(record)
    await world.erase()
    assert world.left(record) == []
    assert shards(world) == before, "the body comes back with its pack"
    for stores in world.cluster.stores.values():
        wrapped = [key for key, _ in stores.keys.scan(KeyTable.KEY_ROWS)]
        assert all(key[16:] in (b"\x00\x02", b"\x00\x04") for key in wrapped)
    found = await world.packs.read(world.packs.reading(pack), world.packs.keys(pack))
    reasons = {(key[1], bool(each.error)) for key, each in found.items()}
    assert reasons == {(record, True), (OTHER, False)}
    world.cluster.ledger.erase(OTHER)
    await world.erase()
    assert shards(world) == 0
    assert keys(world) == 0


async def test_another_record_is_not_touched(world: Erasing) -> None:
    blobs = await fill(world)
    await world.put_mixed()
    before = shards(world), keys(world)
    world.cluster.ledger.erase(OTHER)
    await world.erase()
    after = shards(world), keys(world)
    assert after[0] == before[0]
    assert before[1] - after[1] == 3 * (2 + 1), "two wrapped keys and an envelope, three times"
    for blob in blobs:
        assert any(
            stores.keys.get(KeyTable.KEY_ROWS, bytes(blob))
            for stores in world.cluster.stores.values()
        )


async def test_keys_go_first(world: Erasing) -> None:
    """At no moment are rows gone while a key is left: they lead to the keys."""
    await fill(world)
    await world.put_mixed()

    def openings_of(stores: Stores) -> list[str]:
        return [row for row in rows_of(stores, world.cluster.record) if row.startswith("OPENINGS")]

    # A node that has a seat of the record: not all have one.
    account = next(each for each, stores in world.cluster.stores.items() if openings_of(stores))
    stores, eraser = world.cluster.stores[account], world.erasers[account]
    rows = openings_of(stores)
    world.cluster.ledger.erase(world.cluster.record)
    stages = []
    while await eraser.work() is Progress.BUSY:
        left = rows_of(stores, world.cluster.record)
        has_keys = any(row.split()[0] in KeyTable.__members__ for row in left)
        openings = [row for row in left if row.startswith("OPENINGS")]
        assert not has_keys or openings == rows
        stages.append((has_keys, bool(openings)))
    assert (True, True) in stages
    assert (False, True) in stages


async def test_quarantine_and_what_the_scrub_put_away_go_as_well(world: Erasing) -> None:
    from hcefs.upkeep.scrub_rows import put_rows_away

    blobs = await fill(world)
    pack = await world.put_mixed()
    for stores in world.cluster.stores.values():
        for each in shards_of(stores.rows, blobs[0].base):
            stores.shards.quarantine(each.base, each.index, each.form)
        put_rows_away(stores.rows, blobs[1].base)
        put_rows_away(stores.rows, pack.base)
    world.cluster.ledger.erase(world.cluster.record)
    await world.erase()
    assert world.left(world.cluster.record) == []
    for stores in world.cluster.stores.values():
        assert list(stores.shards.quarantined()) == []
        put_away = [key for key, _ in stores.rows.scan(Table.SCRUB)]
        assert all(bytes(pack.base) in key for key in put_away), "the other record's stay"
        names = {each[0] for each in stores.shards.inventory()}
        assert names <= {pack.base}


async def test_a_put_is_refused_from_the_height_on(world: Erasing) -> None:
    cluster = world.cluster
    cluster.ledger.erase(cluster.record)
    with pytest.raises(HcefsError):
        await cluster.put(b"x" * SIZE)
    with pytest.raises(HcefsError):
        await world.packs.put(world.packs.seal([b"one"]), "copy-3")
    with pytest.raises(NotFound) as caught:
        await world.keep_boxes()
    assert caught.value.reason == "erased"
    await world.erase()
    assert world.left(cluster.record) == []
    assert keys(world) == 0


async def test_what_is_stored_at_that_moment_is_found(world: Erasing) -> None:
    """The check comes before the block, the write after it: the eraser waits in between."""
    cluster = world.cluster
    account = next(iter(cluster.stores))
    storing = cluster.holders[account].pending.storing
    inside, go_on, order = threading.Event(), threading.Event(), list[str]()

    def store() -> None:
        with storing.of(cluster.ledger, [cluster.record]):
            inside.set()
            go_on.wait(10)
            order.append("stored")

    def wait() -> None:
        storing.barrier()
        order.append("passed")

    first, second = threading.Thread(target=store), threading.Thread(target=wait)
    first.start()
    assert inside.wait(10)
    cluster.ledger.erase(cluster.record)
    second.start()
    with pytest.raises(NotFound), storing.of(cluster.ledger, [cluster.record]):
        pass
    go_on.set()
    first.join(10)
    second.join(10)
    assert order == ["stored", "passed"]


async def test_a_node_that_comes_back_does_not_serve_before_the_keys_are_gone(
    world: Erasing,
) -> None:
    await fill(world)
    account = next(iter(world.cluster.stores))
    others = [each for each in world.cluster.stores if each != account]
    world.cluster.ledger.erase(world.cluster.record)
    await world.erase(*others)
    back = world.eraser(account)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            back.require_settled()
        assert caught.value.reason == "erasing"
    stores = world.cluster.stores[account]
    while True:
        await back.work()
        try:
            back.require_settled()
        except Unavailable:
            continue
        break
    assert [len(stores.keys.scan(table)) for table in KeyTable] == [0] * len(KeyTable)
    assert rows_of(stores, world.cluster.record), "rows and shards may take longer"
    await work(back)
    assert rows_of(stores, world.cluster.record) == []


async def test_a_node_serves_only_when_the_ledger_has_told_it_where_it_is(
    world: Erasing,
) -> None:
    """Within its lease it could serve by what it knew before it was stopped."""
    account, cluster = next(iter(world.cluster.stores)), world.cluster
    heard = [False]
    eraser = Eraser(
        cluster.runtime, cluster.ledger, cluster.stores[account],
        cluster.holders[account].pending, cluster.metrics, caught_up=lambda: heard[0],
    )  # fmt: skip
    with pytest.raises(Unavailable):
        eraser.require_settled()
    heard[0] = True
    eraser.require_settled()


async def test_a_node_that_was_never_away_is_settled_at_once(world: Erasing) -> None:
    account = next(iter(world.cluster.stores))
    eraser = world.eraser(account)
    eraser.require_settled()
    await fill(world)
    world.cluster.ledger.erase(world.cluster.record)
    eraser.require_settled()


async def test_nothing_comes_back_from_a_node_that_is_behind(world: Erasing) -> None:
    """What others still give is not taken: blobs, packs, listings, boxes and links."""
    blobs = await fill(world)
    pack = await world.put_mixed()
    cluster = world.cluster
    accounts = list(cluster.stores)
    behind, taker = accounts[0], accounts[1]
    given: list[tuple[BlobId, BlobRows | PackRows]] = []
    for blob, profile in ((blobs[0], "ec-4-2"), (BlobId.of(pack.base), "copy-3")):
        holder = next(a for a in accounts if shards_of(cluster.stores[a].rows, blob.base))
        given.append((blob, await world.exporter(holder).load_rows(blob.base, profile)))
    page: RecordRows = RecordRows((), (), ())
    after = b""
    while True:
        some, after = await world.exporter(behind).load_record(cluster.record, after)
        page = RecordRows(
            page.openings + some.openings, page.boxes + some.boxes, page.links + some.links
        )
        if not after:
            break
    assert page.boxes
    assert page.links
    cluster.ledger.erase(cluster.record)
    await world.erase(taker)
    adopter = world.adopter(taker)
    (blob, rows), (base, packed) = given
    with pytest.raises(NotFound) as caught:
        adopter.check(blob.base, rows)
    assert caught.value.reason == "erased"
    assert await adopter.keep_record(cluster.record, page) == 0
    wanted = adopter.check(base.base, packed)
    assert wanted.records == (OTHER,)
    assert wanted.uncovered == 2
    assert not any(bytes(cluster.record) in value for _, _, value in (*wanted.rows, *wanted.keys))
    assert rows_of(cluster.stores[taker], cluster.record) == []
    # And who is behind in deleting, but has the block, gives nothing any more.
    holder = next(a for a in accounts[2:] if shards_of(cluster.stores[a].rows, blob.base))
    with pytest.raises(NotFound):
        await world.exporter(holder).load_rows(blob.base, "ec-4-2")
    assert await world.exporter(behind).load_record(cluster.record, b"") == (
        RecordRows((), (), ()), b"",
    )  # fmt: skip


async def test_a_pack_is_rebuilt_without_the_part_that_was_erased(world: Erasing) -> None:
    pack = await world.put_mixed()
    cluster = world.cluster
    cluster.ledger.erase(cluster.record)
    await world.erase()
    account = world.packs.account_of(pack.base, 0, "copy-3")
    stores = cluster.stores[account]
    other = world.packs.account_of(pack.base, 1, "copy-3")
    node = next(node for node in cluster.map.nodes if node.account == other)
    for table in (Table.CORES, Table.LAYOUTS, Table.OPENINGS):
        page = stores.rows.scan(table, bytes(pack.base))
        stores.rows.delete([(table, key) for key, _ in page])
    bits = cluster.map.table("copy-3").bits
    place = Place(cluster.map.epoch, "copy-3", partition_of(bytes(pack.base), bits))
    filled = await world.filler(account).bring(place, pack.base, 0, node)
    assert filled is not None
    assert filled.lost == 0
    found = await world.packs.read(world.packs.reading(pack), world.packs.keys(pack))
    assert {bool(each.error) for key, each in found.items() if key[1] == OTHER} == {False}


async def test_a_pack_lacks_nothing_where_nothing_was_erased(world: Erasing) -> None:
    """A giver cannot leave rows out and call them erased, in a cluster that erased nothing."""
    pack = await world.put_mixed()
    account = world.packs.account_of(pack.base, 0, "copy-3")
    rows = await world.exporter(account).load_rows(pack.base, "copy-3")
    assert isinstance(rows, PackRows)
    short = PackRows(rows.layout, rows.groups[:1], rows.commit_by_ms)
    with pytest.raises(HcefsError) as caught:
        world.adopter(account).check(pack.base, short)
    assert caught.value.reason == "rows-disagree"


async def test_a_failure_is_repeated_from_the_stage_that_was_noted(
    world: Erasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(world)
    account = next(iter(world.cluster.stores))
    stores, eraser = world.cluster.stores[account], world.erasers[account]
    world.cluster.ledger.erase(world.cluster.record)
    delete = stores.rows.delete
    failures = iter([Unavailable("the disk failed", reason="disk-error")])

    def failing(rows: object) -> None:
        for failure in failures:
            raise failure
        delete(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(stores.rows, "delete", failing)
    with pytest.raises(Unavailable):
        await work(eraser)
    found = eraser.progress(world.cluster.record)
    assert found is not None
    assert found.stage is ErasureStage.ROWS
    await work(eraser)
    assert rows_of(stores, world.cluster.record) == []


async def test_a_damaged_note_makes_it_look_again(world: Erasing) -> None:
    account = next(iter(world.cluster.stores))
    world.cluster.ledger.erase(world.cluster.record)
    await world.erase()
    stores = world.cluster.stores[account]
    key = b"erased/" + bytes(world.cluster.record)
    stores.rows.put([(Table.META, key, b"")])
    eraser = world.eraser(account)
    assert eraser.progress(world.cluster.record) is None
    with pytest.raises(Unavailable):
        eraser.require_settled()
    await work(eraser)
    eraser.require_settled()


async def test_what_cannot_be_read_is_not_called_gone(
    world: Erasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged row of it, or a database that was set aside, keeps the record from being done."""
    await fill(world)
    cluster = world.cluster
    account = next(iter(cluster.stores))
    stores, aside = cluster.stores[account], ["keys.damaged-0"]
    eraser = Eraser(
        cluster.runtime, cluster.ledger, stores, cluster.holders[account].pending,
        cluster.metrics, set_aside=lambda: aside,
    )  # fmt: skip
    cluster.ledger.erase(cluster.record)
    inspect = stores.rows.inspect

    def damaged(table: Table, after: bytes | None, limit: int) -> RowPage:
        page = inspect(table, after, limit)
        spoiled = ((b"k" * 16, bytes(cluster.record)),) if table is Table.CORES else ()
        return replace(page, damaged=spoiled)

    with monkeypatch.context() as patch:
        patch.setattr(stores.rows, "inspect", damaged)
        with pytest.raises(Corrupt):
            await work(eraser)
    await work(eraser)
    found = eraser.progress(cluster.record)
    assert found is not None
    assert found.stage is ErasureStage.ROWS
    aside.clear()
    await world.runtime.sleep(AGAIN_SECONDS)
    await work(eraser)
    found = eraser.progress(cluster.record)
    assert found is not None
    assert found.stage is ErasureStage.DONE


async def test_many_records_are_erased_by_few_passes(world: Erasing) -> None:
    await fill(world)
    await world.put_mixed()
    for record in (world.cluster.record, OTHER):
        world.cluster.ledger.erase(record)
    await world.erase()
    assert world.left(world.cluster.record) == world.left(OTHER) == []
    assert shards(world) == 0
    eraser: Eraser = next(iter(world.erasers.values()))
    assert await eraser.work() is Progress.IDLE
