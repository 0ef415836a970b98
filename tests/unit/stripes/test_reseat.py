"""A put goes on when a seat moves under it; a read finds what is still where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from hcefs.access.facts import Action, Grant
from hcefs.blobs.put import PutPlan, PutSession
from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.erasure.scheme import Geometry, profile_named
from hcefs.errors import Unavailable
from hcefs.formats.keybox import KeyBox
from hcefs.formats.manifest import Core, Layout
from hcefs.ids import AccountId, BlobId, GrantId
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import seats
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import KeyTable, Table
from hcefs.stripes.exports import has_shard
from hcefs.stripes.fanout import Fanout
from hcefs.stripes.read import StripeReader
from hcefs.stripes.reseat import RESEATS_MAX
from hcefs.testing.local_cluster import HOUR_MS, NOW_MS, LocalCluster
from hcefs.testing.local_packs import LocalPacks
from tests.unit.stripes.moving import (
    moved,
    name_of,
    reseats,
    seat_of,
    settled,
    spare_node,
    with_reseat,
)

pytestmark = pytest.mark.usefixtures("patience")

SIZES = [100, 5_000_000]
"""One that goes in one call, and one that streams."""


@pytest.fixture
def packs() -> Iterator[LocalPacks]:
    runtime = SystemRuntime()
    yield LocalPacks(LocalCluster(runtime, 7))
    runtime.close()


@pytest.fixture
def cluster(packs: LocalPacks) -> LocalCluster:
    return packs.cluster


def new_blob(cluster: LocalCluster) -> BlobId:
    return BlobId.of(cluster.runtime.random(16))


def at_epochs(
    cluster: LocalCluster, old: ClusterMap, new: ClusterMap, ahead: Sequence[AccountId]
) -> None:
    """Some nodes have the new map, all others still the old one."""
    cluster.map = new
    cluster.epochs = {account: old.epoch for account in cluster.holders if account not in ahead}


async def all_of(session: PutSession, data: bytes, plan: PutPlan) -> None:
    await session.write(data)
    await session.finish(len(data), b"", b"", plan.call)


def listed(cluster: LocalCluster, blob: BlobId) -> set[AccountId]:
    name = bytes(cluster.record) + bytes(blob)
    return {a for a, s in cluster.stores.items() if s.rows.get(Table.INDEX, name) is not None}


# -- blobs


@pytest.mark.parametrize("size", SIZES)
async def test_what_one_holder_refuses_goes_to_the_new_one(
    cluster: LocalCluster, size: int
) -> None:
    old, blob = cluster.map, new_blob(cluster)
    new = moved(old, blob.base, 2)
    before, after = seat_of(old, blob.base, 2).node, seat_of(new, blob.base, 2).node
    session_plan = cluster.plan(blob)
    at_epochs(cluster, old, new, [before.account, after.account])
    with_reseat(cluster, [new])
    call = session_plan.call
    session = cluster.session(session_plan)
    await session.write(cluster.runtime.random(size))
    done = await session.finish(size, b"", b"", call)
    assert done.stored.durable == (0, 1, 2, 3, 4, 5)
    assert has_shard(cluster.stores[after.account], blob.base, 2)
    assert not has_shard(cluster.stores[before.account], blob.base, 2)
    method = "store" if size > 1 << 20 else "store-whole"
    for seat in seats(old, "ec-4-2", blob.base):
        calls = cluster.faults[seat.node.account].stored.count(method)
        assert calls == 1, f"index {seat.index} was sent {calls} times"
    assert cluster.faults[after.account].stored.count(method) == 1


@pytest.mark.parametrize("size", SIZES)
async def test_every_holder_may_have_the_newer_map(cluster: LocalCluster, size: int) -> None:
    blob = new_blob(cluster)
    plan = cluster.plan(blob)
    cluster.map = moved(cluster.map, blob.base, 0)
    with_reseat(cluster, [cluster.map])
    session = cluster.session(plan)
    await session.write(cluster.runtime.random(size))
    done = await session.finish(size, b"", b"", plan.call)
    assert done.stored.durable == (0, 1, 2, 3, 4, 5)
    for seat in cluster.seats(blob.base):
        assert has_shard(cluster.stores[seat.node.account], blob.base, seat.index)
    seated = {seat.node.account for seat in cluster.seats(bytes(cluster.record))}
    assert seated <= listed(cluster, blob)


async def test_openings_follow_a_seat_of_the_record(cluster: LocalCluster) -> None:
    """The node that refuses is none of the blob's, so that only its listing moves."""
    old = cluster.map
    while True:
        blob = new_blob(cluster)
        held = {seat.node.account for seat in cluster.seats(blob.base)}
        apart = [s for s in cluster.seats(bytes(cluster.record)) if s.node.account not in held]
        if apart:
            break
    new = moved(old, bytes(cluster.record), apart[0].index)
    after = seat_of(new, bytes(cluster.record), apart[0].index).node
    plan = cluster.plan(blob)
    at_epochs(cluster, old, new, [apart[0].node.account, after.account])
    with_reseat(cluster, [new])
    session = cluster.session(plan)
    await session.write(b"data")
    await session.finish(4, b"", b"", plan.call)
    assert after.account in listed(cluster, blob)
    assert apart[0].node.account not in listed(cluster, blob)
    assert {s.node.account for s in seats(new, "ec-4-2", cluster.record)} <= listed(cluster, blob)


async def test_boxes_follow_a_seat_of_the_record(cluster: LocalCluster) -> None:
    grant = GrantId(b"some-live-grant!")
    cluster.ledger.grants[grant] = Grant(
        grant, cluster.record, None, 0, 0, cluster.patient.account, cluster.writer.account,
        Action.READ, ("TREAT",), 0, NOW_MS + HOUR_MS, None, 1, 0,
    )  # fmt: skip
    box = KeyBox(
        cluster.record, 0, None, grant, cluster.writer.account, 1, cluster.patient.account, 1,
        Envelope(SUITE_XWING, b"sealed"), b"",
    ).signed(cluster.patient.signing_key).encode()  # fmt: skip
    old = cluster.map
    call = replace(cluster.call("put-box", None), presenter=cluster.patient.account)
    held = cluster.seats(bytes(cluster.record))
    new = moved(old, bytes(cluster.record), 1)
    before, after = (seat_of(each, bytes(cluster.record), 1).node for each in (old, new))
    at_epochs(cluster, old, new, [before.account, after.account])
    fanout = Fanout(cluster.runtime, cluster, cluster.ledger, reseats([new]))
    profile = profile_named("ec-4-2")
    durable = await fanout.store(
        held, profile, call, lambda peer, now: peer.store_box(now, box, b"")
    )
    assert durable == 6
    having = {a for a, s in cluster.stores.items() if s.keys.scan(KeyTable.BOXES)}
    assert after.account in having
    assert before.account not in having


@pytest.mark.parametrize("size", SIZES)
async def test_without_a_newer_map_a_put_is_degraded(cluster: LocalCluster, size: int) -> None:
    old, blob = cluster.map, new_blob(cluster)
    plan = cluster.plan(blob)
    before = seat_of(old, blob.base, 2).node
    at_epochs(cluster, old, settled(old), [before.account])
    with_reseat(cluster, [])
    session = cluster.session(plan)
    await session.write(cluster.runtime.random(size))
    done = await session.finish(size, b"", b"", plan.call)
    assert done.stored.durable == (0, 1, 3, 4, 5)
    assert done.stored.degraded


@pytest.mark.parametrize("size", SIZES)
async def test_without_a_newer_map_and_too_few_holders_a_put_fails(
    cluster: LocalCluster, size: int
) -> None:
    blob = new_blob(cluster)
    plan = cluster.plan(blob)
    ahead = [seat_of(cluster.map, blob.base, index).node.account for index in (1, 2)]
    at_epochs(cluster, cluster.map, settled(cluster.map), ahead)
    with_reseat(cluster, [])
    session = cluster.session(plan)
    with pytest.raises(Unavailable) as caught:
        await all_of(session, cluster.runtime.random(size), plan)
    await session.abort()
    assert caught.value.reason == "too-few-holders"
    for account, stores in cluster.stores.items():
        cluster.epochs[account] = 9
        await cluster.uploads[account].settled(9, range(1 << 64))
        if size > 1 << 20:
            assert not list(stores.shards.inventory()), "a stream publishes nothing"


@pytest.mark.parametrize("size", SIZES)
async def test_a_map_that_changes_all_the_time_ends_a_put(cluster: LocalCluster, size: int) -> None:
    blob = new_blob(cluster)
    plan = cluster.plan(blob)
    maps = [cluster.map]
    for _ in range(3 * RESEATS_MAX):
        maps.append(settled(maps[-1]))
    cluster.map = maps[-1]
    with_reseat(cluster, maps)  # always one epoch further, never at the holders'
    session = cluster.session(plan)
    with pytest.raises(Unavailable):
        await all_of(session, cluster.runtime.random(size), plan)
    await session.abort()
    for seat in cluster.seats(blob.base):
        calls = cluster.faults[seat.node.account].stored
        assert 1 <= sum(c in ("store", "store-whole") for c in calls) <= RESEATS_MAX


# -- packs


async def test_a_pack_goes_on_to_the_new_holder(packs: LocalPacks) -> None:
    cluster, pack = packs.cluster, packs.seal([b"a" * 2000, b"b" * 90_000])
    old, plan = cluster.map, packs.plan(pack)
    new = moved(old, pack.base, 3)
    before, after = seat_of(old, pack.base, 3).node, seat_of(new, pack.base, 3).node
    at_epochs(cluster, old, new, [before.account, after.account])
    _, stored = await packs.writer(5.0, reseats([new])).put(plan, packs.body(pack, plan.profile))
    assert stored.durable == (0, 1, 2, 3, 4, 5)
    assert has_shard(cluster.stores[after.account], pack.base, 3)
    assert not has_shard(cluster.stores[before.account], pack.base, 3)
    for seat in seats(old, "ec-4-2", pack.base):
        assert packs.faults[seat.node.account].stored.count("store-pack") == 1
    name = bytes(cluster.record) + bytes(pack.base) + bytes(2)
    for seat in seats(new, "ec-4-2", cluster.record):
        assert cluster.stores[seat.node.account].rows.get(Table.INDEX, name) is not None


async def test_a_copied_pack_goes_on_to_the_new_holder(packs: LocalPacks) -> None:
    cluster, pack = packs.cluster, packs.seal([b"a" * 100])
    old, plan = cluster.map, packs.plan(pack, "copy-3")
    new = moved(old, pack.base, 1, "copy-3")
    before = seat_of(old, pack.base, 1, "copy-3").node
    after = seat_of(new, pack.base, 1, "copy-3").node
    at_epochs(cluster, old, new, [before.account, after.account])
    _, stored = await packs.writer(5.0, reseats([new])).put(plan, packs.body(pack, plan.profile))
    assert stored.durable == (0, 1, 2)
    assert has_shard(cluster.stores[after.account], pack.base, 1)


async def test_the_openings_of_a_pack_follow_a_seat_of_the_record(packs: LocalPacks) -> None:
    cluster, pack = packs.cluster, packs.seal([b"a" * 100])
    old, plan = cluster.map, packs.plan(pack, "copy-3")
    holders = {seat.node.account for seat in plan.seats}
    (first, *_) = [s for s in cluster.seats(bytes(cluster.record)) if s.node.account not in holders]
    new = moved(old, bytes(cluster.record), first.index)
    after = seat_of(new, bytes(cluster.record), first.index).node
    at_epochs(cluster, old, new, [first.node.account, after.account])
    await packs.writer(5.0, reseats([new])).put(plan, packs.body(pack, plan.profile))
    name = bytes(cluster.record) + bytes(pack.base) + bytes(2)
    for seat in seats(new, "ec-4-2", cluster.record):
        assert cluster.stores[seat.node.account].rows.get(Table.INDEX, name) is not None
    assert cluster.stores[first.node.account].rows.get(Table.INDEX, name) is None


async def test_a_pack_without_a_newer_map_is_degraded(packs: LocalPacks) -> None:
    cluster, pack = packs.cluster, packs.seal([b"a" * 100])
    old, plan = cluster.map, packs.plan(pack)
    at_epochs(cluster, old, settled(old), [seat_of(old, pack.base, 3).node.account])
    _, stored = await packs.writer(5.0, reseats([])).put(plan, packs.body(pack, plan.profile))
    assert stored.durable == (0, 1, 2, 4, 5)


async def test_a_map_that_changes_all_the_time_ends_a_pack(packs: LocalPacks) -> None:
    pack = packs.seal([b"a" * 100])
    plan = packs.plan(pack)
    maps = [packs.cluster.map]
    for _ in range(3 * RESEATS_MAX):
        maps.append(settled(maps[-1]))
    packs.cluster.map = maps[-1]
    with pytest.raises(Unavailable) as caught:
        await packs.writer(5.0, reseats(maps)).put(plan, packs.body(pack, plan.profile))
    assert "other-epoch" in caught.value.message
    for faults in packs.faults.values():
        assert len(faults.stored) <= RESEATS_MAX + 1


# -- reads while a seat is in flight


def reader(cluster: LocalCluster, blob: BlobId) -> tuple[StripeReader, int]:
    """A reader by the cluster's map, and how many segments there are."""
    stores = next(s for s in cluster.stores.values() if s.rows.get(Table.CORES, blob.base))
    core = Core.decode(stores.rows.get(Table.CORES, blob.base) or b"")
    layout = Layout.decode(stores.rows.get(Table.LAYOUTS, blob.base) or b"")
    geometry = Geometry(core.plaintext_length, profile_named(layout.profile), core.segment_size)
    made = StripeReader(
        cluster.runtime, cluster, cluster.seats(blob.base), cluster.call("get", blob), layout,
        geometry, cluster.metrics, cluster.hedge,
    )  # fmt: skip
    return made, geometry.segments


async def read(cluster: LocalCluster, blob: BlobId) -> StripeReader:
    """Read and check all stripes."""
    made, segments = reader(cluster, blob)
    seen = 0
    async for stripes in made.stripes(0, segments):
        for stripe in stripes:
            stripe.check()
            seen += 1
    assert seen == segments
    return made


@pytest.mark.parametrize("size", [100, 20_000_000])
async def test_a_seat_in_flight_is_read_from_its_source(cluster: LocalCluster, size: int) -> None:
    blob = await cluster.put(bytes(size))
    cluster.map = moved(cluster.map, blob.base, 1)
    assert not (await read(cluster, blob)).degraded
    assert cluster.metrics.value("degraded_reads_total") == 0


@pytest.mark.parametrize("size", [100, 20_000_000])
async def test_without_its_source_a_seat_in_flight_is_decoded_around(
    cluster: LocalCluster, size: int
) -> None:
    blob = await cluster.put(bytes(size))
    before = seat_of(cluster.map, blob.base, 1).node
    cluster.map = moved(cluster.map, blob.base, 1)
    cluster.faults[before.account].down = True
    assert (await read(cluster, blob)).degraded


async def test_a_seat_that_is_rebuilt_has_no_source(cluster: LocalCluster) -> None:
    blob = await cluster.put(bytes(100))
    cluster.map = moved(cluster.map, blob.base, 1, source=0)
    assert seat_of(cluster.map, blob.base, 1).source is None
    assert (await read(cluster, blob)).degraded


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(("profile", "size"), [("ec-4-2", 100_000), ("copy-3", 500)])
async def test_columns_of_a_seat_in_flight_come_from_its_source(
    packs: LocalPacks, profile: str, size: int
) -> None:
    cluster, pack = packs.cluster, packs.seal([packs.cluster.runtime.random(size)] * 3)
    await packs.put(pack, profile)
    for index in range(profile_named(profile).k):
        old = cluster.map
        before = seat_of(old, pack.base, index, profile).node
        cluster.map = moved(old, pack.base, index, profile)
        found = await packs.read(packs.reading(pack), packs.keys(pack))
        assert {key: payload.sealed for key, payload in found.items()} == packs.sealed(pack)
        assert cluster.metrics.value("degraded_reads_total") == 0
        if profile == "ec-4-2":
            cluster.faults[before.account].down = True
            found = await packs.read(packs.reading(pack), packs.keys(pack))
            assert {key: payload.sealed for key, payload in found.items()} == packs.sealed(pack)
            assert cluster.metrics.value("degraded_reads_total") == 1
            return
        cluster.map = old


def test_the_spare_node_is_no_seat(cluster: LocalCluster) -> None:
    blob = new_blob(cluster)
    new = moved(cluster.map, blob.base, 4)
    name, source = name_of(new)
    assert new.node(source) == seat_of(cluster.map, blob.base, 4).node
    assert seat_of(new, blob.base, 4).node == spare_node(cluster.map, blob.base)
    assert seat_of(new, blob.base, 4).source == new.node(source)
    assert name.seat == seat_of(new, blob.base, 4).seat


async def test_a_call_that_is_cancelled_under_a_fan_out_fails_that_seat_only(
    cluster: LocalCluster,
) -> None:
    """gRPC does so when another task renews the channel to a node that has restarted."""
    seen = 0

    async def action(peer: object, now: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            raise asyncio.CancelledError

    held = cluster.seats(bytes(cluster.record))
    fanout = Fanout(cluster.runtime, cluster, cluster.ledger)
    call = cluster.call("put", None)
    assert await fanout.store(held, profile_named("ec-4-2"), call, action) == 5
