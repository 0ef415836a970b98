"""Collection of packs: as a whole, only when nothing of it was committed and no longer can be."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hcefs.blobs.pack import SealedPack
from hcefs.ids import RecordId
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import KeyTable, Table
from hcefs.testing.local_cluster import HOUR_MS, NOW_MS, LocalCluster
from hcefs.testing.local_packs import LocalPacks
from hcefs.upkeep.collect import UNIT_PACKS, Collector
from hcefs.upkeep.worker import Progress

OTHER = RecordId(b"another-record!!")


@pytest.fixture
def packs() -> Iterator[LocalPacks]:
    runtime = SystemRuntime()
    yield LocalPacks(LocalCluster(runtime))
    runtime.close()


def collectors(packs: LocalPacks) -> list[Collector]:
    cluster = packs.cluster
    return [
        Collector(
            cluster.runtime,
            cluster.stores[account],
            cluster.ledger,
            cluster.metrics,
            cluster.holders[account].pending,
        )
        for account in cluster.stores
    ]


async def collect(packs: LocalPacks) -> None:
    for collector in collectors(packs):
        while await collector.work() is Progress.BUSY:
            pass


def rows(packs: LocalPacks, *tables: Table) -> int:
    return sum(
        len(stores.rows.scan(table))
        for stores in packs.cluster.stores.values()
        for table in tables or set(Table) - {Table.RECORDS}  # names may outlive their rows
    )


def keys(packs: LocalPacks) -> int:
    return sum(
        len(stores.keys.scan(table))
        for stores in packs.cluster.stores.values()
        for table in KeyTable
    )


def shards(packs: LocalPacks) -> int:
    return sum(len(list(each.shards.inventory())) for each in packs.cluster.stores.values())


def sealed(packs: LocalPacks) -> SealedPack:
    return packs.seal([b"a" * 100, b"b" * 100, b"c"], [packs.cluster.record, OTHER])


async def test_a_pending_pack_is_kept_until_block_time_is_past_commit_by(
    packs: LocalPacks,
) -> None:
    await packs.put(sealed(packs), "copy-3", commit=False)
    before = rows(packs), keys(packs), shards(packs)
    packs.cluster.ledger.time_ms = NOW_MS + HOUR_MS  # equal: an append would still be accepted
    await collect(packs)
    assert (rows(packs), keys(packs), shards(packs)) == before
    assert sum(collector.pending() for collector in collectors(packs)) == 3


@pytest.mark.parametrize("profile", ["ec-4-2", "copy-3"])
async def test_a_pack_that_was_never_committed_is_collected_whole(
    packs: LocalPacks, profile: str
) -> None:
    await packs.put(sealed(packs), profile, commit=False)
    assert rows(packs, Table.INDEX) == 12
    packs.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await collect(packs)
    assert (rows(packs), keys(packs), shards(packs)) == (0, 0, 0)
    assert packs.cluster.metrics.value("collected_blobs_total") == (6 if profile == "ec-4-2" else 3)


@pytest.mark.parametrize("profile", ["ec-4-2", "copy-3"])
async def test_a_pack_of_which_anything_was_committed_stays(
    packs: LocalPacks, profile: str
) -> None:
    pack = sealed(packs)
    await packs.put(pack, profile, commit=False)
    packs.cluster.ledger.commit(pack.groups[0].opening)
    held = 6 if profile == "ec-4-2" else 3
    packs.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await collect(packs)
    assert shards(packs) == held
    assert keys(packs) == 5 * held
    assert rows(packs, Table.CORES) == 3 * held
    assert rows(packs, Table.PENDING, Table.META) == 0
    assert rows(packs, Table.INDEX) == 6, "only the committed opening is left in listings"
    found = await packs.read(packs.reading(pack), packs.keys(pack))
    reasons = {key[1]: each.error.reason if each.error else "" for key, each in found.items()}
    assert reasons == {packs.cluster.record: "", OTHER: "not-committed"}


async def test_a_committed_pack_is_settled(packs: LocalPacks) -> None:
    await packs.put(sealed(packs))
    packs.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await collect(packs)
    assert rows(packs, Table.PENDING, Table.META) == 0
    assert shards(packs) == 6
    assert sum(collector.pending() for collector in collectors(packs)) == 0


async def test_many_packs_are_collected_some_at_a_time(packs: LocalPacks) -> None:
    for _ in range(UNIT_PACKS + 2):
        await packs.put(packs.seal([b"a"]), commit=False)
    packs.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    first = collectors(packs)[0]
    assert await first.work() is Progress.BUSY
    assert await first.work() is Progress.IDLE
    await collect(packs)
    assert (rows(packs), keys(packs), shards(packs)) == (0, 0, 0)


async def test_what_a_stop_left_half_done_is_collected(packs: LocalPacks) -> None:
    account = packs.cluster.keys[0].account
    stores = packs.cluster.stores[account]
    put = stores.rows.put

    def stop(found: object) -> None:
        if any(row[0] is Table.CORES for row in found):  # type: ignore[attr-defined]
            raise OSError("stopped")
        put(found)  # type: ignore[arg-type]

    stores.rows.put = stop  # type: ignore[method-assign,assignment]
    _, stored = await packs.put(sealed(packs), commit=False)
    assert len(stored.durable) == 5
    assert stores.keys.scan(KeyTable.KEY_ROWS)
    assert list(stores.shards.inventory())
    packs.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await collect(packs)
    assert (rows(packs), keys(packs), shards(packs)) == (0, 0, 0)


async def test_who_stores_and_who_collects_wait_for_each_other(packs: LocalPacks) -> None:
    """A pack whose keys are being written is not collected from under its put."""
    account = packs.cluster.keys[0].account
    stores = packs.cluster.stores[account]
    inside, go_on = threading.Event(), threading.Event()
    put_all_new = stores.keys.put_all_new

    def wait(found: object) -> None:
        inside.set()
        assert go_on.wait(10)
        put_all_new(found)  # type: ignore[arg-type]

    stores.keys.put_all_new = wait  # type: ignore[method-assign,assignment]
    runtime = packs.cluster.runtime
    pack = sealed(packs)
    storing = runtime.spawn(packs.put(pack), name="put")
    assert await runtime.disk(inside.wait, 10)
    async with runtime.timeout(10):
        while rows(packs, Table.LAYOUTS) < 5:
            await runtime.sleep(0.01)
    packs.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    collecting = runtime.spawn(collectors(packs)[0].work(), name="collect")
    await runtime.sleep(0.1)
    assert not collecting.done()
    packs.commit(pack)
    go_on.set()
    await storing
    await collecting
    assert stores.shards.has(pack.base, next(iter(stores.shards.inventory()))[1])
    found = await packs.read(packs.reading(pack), packs.keys(pack))
    assert not [each for each in found.values() if each.error]
