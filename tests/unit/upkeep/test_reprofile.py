"""Re-profiling: geometry, proofs, refusals, and being killed at every single write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hcefs.erasure.scheme import SEGMENT_SIZE, Profile
from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, Invalid, NotFound, Unavailable
from hcefs.formats.manifest import Layout
from hcefs.ids import AccountId, BlobId
from hcefs.ledger.cluster_facts import UpkeepPolicy
from hcefs.placement.ring import partition_of
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import Table
from hcefs.stripes.exports import has_shard
from hcefs.stripes.read import Stripe
from hcefs.stripes.recut import DataCheck, recut
from hcefs.stripes.stripe import EncodedStripe, encode_stripe, stripe_buffer
from hcefs.testing.local_cluster import HOUR_MS
from hcefs.transport.upkeep import BlobRows, LayoutStep, Place
from hcefs.upkeep import reprofile
from tests.unit.upkeep.reprofiling import Reprofiling

WIDE = (("ec-4-2", 4, 2), ("copy-3", 1, 2), ("ec-8-3", 8, 3), ("ec-10-4", 10, 4))


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    runtime = SystemRuntime()
    yield runtime
    runtime.close()


@pytest.fixture
def nodes(runtime: SystemRuntime) -> Reprofiling:
    return Reprofiling(runtime)


def sample(length: int) -> bytes:
    return hashlib.shake_128(length.to_bytes(8, "big")).digest(length)


# -- what comes of it


@pytest.mark.parametrize("target", ["ec-8-3", "ec-10-4", "copy-3"])
async def test_to_another_geometry(runtime: SystemRuntime, target: str) -> None:
    """Every length class keeps its sealed bytes, under n shards of the new profile only."""
    nodes = Reprofiling(runtime, 14, WIDE)
    lengths = [0, 1, SEGMENT_SIZE - 1, SEGMENT_SIZE, 3 * SEGMENT_SIZE + 12_345]
    blobs = [await nodes.cluster.put(sample(length)) for length in lengths]
    before = [await nodes.sealed(blob) for blob in blobs]
    nodes.leave("ec-4-2", target)
    await nodes.move()
    assert [await nodes.sealed(blob) for blob in blobs] == before
    await nodes.finish([blob.base for blob in blobs], target)
    assert [await nodes.sealed(blob) for blob in blobs] == before


async def test_from_one_profile_to_the_next_and_back(nodes: Reprofiling) -> None:
    """A third layout may have the profile of the first one."""
    blob = await nodes.cluster.put(sample(200_000))
    before = await nodes.sealed(blob)
    for start, end, version in (("ec-4-2", "copy-3", 2), ("copy-3", "ec-4-2", 3)):
        nodes.leave(start, end)
        await nodes.finish([blob.base], end)
        assert await nodes.sealed(blob) == before
        holder = nodes.holder_of(blob.base, 0, end)
        data = nodes.cluster.stores[holder].rows.get(Table.LAYOUTS, bytes(blob.base))
        assert data is not None
        assert Layout.decode(data).version == version


@pytest.mark.parametrize(("start", "end"), [("ec-4-2", "copy-3"), ("copy-3", "ec-4-2")])
async def test_packs_move_too(nodes: Reprofiling, start: str, end: str) -> None:
    pack = nodes.packs.seal([sample(3_000 + at) for at in range(20)])
    await nodes.packs.put(pack, start)
    sealed = nodes.packs.sealed(pack)
    call, keys = nodes.packs.reading(pack), nodes.packs.keys(pack)
    # Whoever has read it by the old layout must notice the new one.
    await nodes.packs.read(call, keys)
    nodes.leave(start, end)
    await nodes.move()
    for _ in range(2):
        for number in range(6):
            found = await nodes.packs.read(call, keys, number)
            assert {key: each.sealed for key, each in found.items()} == sealed
        await nodes.finish([pack.base], end)


async def test_a_reader_may_stay_with_the_old_layout(nodes: Reprofiling) -> None:
    """Until its shards are deleted, they are given under the profile that is asked for."""
    blob = await nodes.cluster.put(sample(100_000))
    nodes.leave("ec-4-2", "copy-3")
    await nodes.move()
    for index in range(6):
        holder = nodes.cluster.holders[nodes.holder_of(blob.base, index, "ec-4-2")]
        call = replace(nodes.cluster.call("get", blob), profile="ec-4-2")
        header, _ = await holder.load_pieces(call, index, 0, 1)
        assert header.pieces == 1


async def test_nothing_without_a_policy(nodes: Reprofiling) -> None:
    blob = await nodes.cluster.put(sample(1000))
    await nodes.move()
    assert nodes.asked == []
    nodes.leave("copy-3", "ec-4-2")
    await nodes.move()
    assert nodes.asked == []
    assert not nodes.faults([blob.base], "ec-4-2")


# -- who waits, and who does not


async def test_pending_blobs_wait(nodes: Reprofiling) -> None:
    blob = BlobId.of(nodes.runtime.random(16))
    session = nodes.cluster.session(nodes.cluster.plan(blob))
    await session.write(sample(1000))
    await session.finish(1000, b"", b"", nodes.cluster.call("put", blob))
    nodes.leave("ec-4-2", "copy-3")
    await nodes.move()
    assert nodes.asked == []
    nodes.cluster.commit(blob)
    await nodes.finish([blob.base], "copy-3")


async def test_a_new_holder_that_is_away_keeps_all_waiting(nodes: Reprofiling) -> None:
    blob = await nodes.cluster.put(sample(1000))
    nodes.leave("ec-4-2", "copy-3")
    mover = nodes.holder_of(blob.base, 0, "ec-4-2")
    away = next(a for i in range(3) if (a := nodes.holder_of(blob.base, i, "copy-3")) != mover)
    nodes.cluster.faults[away].down = True
    await nodes.move()
    assert {step for _, step in nodes.asked} <= {"STAGE"}
    await nodes.sealed(blob)
    nodes.cluster.faults[away].down = False
    await nodes.finish([blob.base], "copy-3")


async def test_an_old_holder_that_is_away_learns_of_it_later(nodes: Reprofiling) -> None:
    """Its old shard outlives everything else, and goes when it finds itself alone with it."""
    blob = await nodes.cluster.put(sample(1000))
    nodes.leave("ec-4-2", "copy-3")
    new = {nodes.holder_of(blob.base, index, "copy-3") for index in range(3)}
    old = [nodes.holder_of(blob.base, index, "ec-4-2") for index in range(1, 6)]
    away = next(account for account in old if account not in new)
    nodes.cluster.faults[away].down = True
    for _ in range(3):
        await nodes.move()
        await nodes.sweep()
    nodes.cluster.faults[away].down = False
    assert nodes.faults([blob.base], "copy-3")
    await nodes.finish([blob.base], "copy-3")
    await nodes.sealed(blob)


async def test_the_next_holder_moves_what_the_first_one_lacks(nodes: Reprofiling) -> None:
    blob = await nodes.cluster.put(sample(50_000))
    before = await nodes.sealed(blob)
    first = nodes.cluster.stores[nodes.holder_of(blob.base, 0, "ec-4-2")]
    first.shards.remove(blob.base, 0)
    nodes.leave("ec-4-2", "copy-3")
    await nodes.finish([blob.base], "copy-3")
    assert await nodes.sealed(blob) == before


async def test_damage_is_read_around(nodes: Reprofiling) -> None:
    blob = await nodes.cluster.put(sample(50_000))
    before = await nodes.sealed(blob)
    damage(nodes, blob, 1)
    nodes.leave("ec-4-2", "copy-3")
    await nodes.finish([blob.base], "copy-3")
    assert await nodes.sealed(blob) == before


async def test_one_bad_blob_stops_no_other(nodes: Reprofiling) -> None:
    """What is beyond reading stays where it is, with nothing staged."""
    bad, good = await nodes.cluster.put(sample(50_000)), await nodes.cluster.put(sample(60_000))
    for index in (1, 2, 3):
        damage(nodes, bad, index)
    nodes.leave("ec-4-2", "copy-3")
    await nodes.finish([good.base], "copy-3")
    assert not nodes.faults([bad.base], "ec-4-2")
    for outcome in ("moved", "refused"):
        assert nodes.metrics.value("reprofiled_blobs_total", outcome=outcome) == 1


def damage(nodes: Reprofiling, blob: BlobId, index: int) -> None:
    shards = nodes.cluster.stores[nodes.holder_of(blob.base, index, "ec-4-2")].shards
    data = bytearray(shards._shards[blob.base, index])  # type: ignore[attr-defined]
    data[300] ^= 1
    shards._shards[blob.base, index] = bytes(data)  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["copy-3", "ec-8-3", "ec-10-4"])
async def test_a_mover_that_lies_destroys_nothing(
    runtime: SystemRuntime, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """It has other data staged, placed and entered: each old data shard knows better."""
    nodes = Reprofiling(runtime, 14, WIDE)
    blobs = [await nodes.cluster.put(sample(length)) for length in (1000, 2 * SEGMENT_SIZE + 7)]

    def lie(stripe: Stripe, source: Profile, target: Profile) -> tuple[memoryview, EncodedStripe]:
        sealed, encoded = recut(stripe, source, target)
        if source == target:
            return sealed, encoded
        other = bytearray(stripe_buffer(target, len(sealed)))
        other[: len(sealed)] = bytes(byte ^ 1 for byte in sealed)
        return sealed, encode_stripe(target, other, len(sealed))

    with monkeypatch.context() as patch:
        patch.setattr(reprofile, "recut", lie)
        patch.setattr(DataCheck, "require", lambda _: None)
        nodes.leave("ec-4-2", target)
        for _ in range(3):
            await nodes.move()
            await nodes.sweep()
    assert nodes.metrics.value("disputed_shards_total") >= 4 * len(blobs)
    for blob in blobs:
        for index in range(4):
            stores = nodes.cluster.stores[nodes.holder_of(blob.base, index, "ec-4-2")]
            assert has_shard(stores, blob.base, index, "ec-4-2")


# -- killed at any write


@pytest.mark.parametrize("role", ["mover", "holder"])
@pytest.mark.parametrize("packed", [False, True])
async def test_killed_at_every_write(runtime: SystemRuntime, role: str, packed: bool) -> None:
    """Wherever it happens, everything is readable at once, and complete after a restart."""
    writes = 0
    while await survives(Reprofiling(runtime), role, packed, writes):
        writes += 1
    assert writes > (15 if role == "mover" else 8)


async def survives(nodes: Reprofiling, role: str, packed: bool, writes: int) -> bool:
    """Kill a node after so many writes; whether it had so many to do."""
    if packed:
        pack = nodes.packs.seal([sample(700)] * 3)
        await nodes.packs.put(pack)
        base, call, keys = pack.base, nodes.packs.reading(pack), nodes.packs.keys(pack)
    else:
        blob = await nodes.cluster.put(sample(1000))
        base, before = blob.base, await nodes.sealed(blob)

    async def readable() -> None:
        if packed:
            found = await nodes.packs.read(call, keys)
            assert {k: each.sealed for k, each in found.items()} == nodes.packs.sealed(pack)
        else:
            assert await nodes.sealed(blob) == before

    mover = nodes.holder_of(base, 0, "ec-4-2")
    new = [nodes.holder_of(base, index, "copy-3") for index in range(3)]
    victim = mover if role == "mover" else next(each for each in new if each != mover)
    nodes.leave("ec-4-2", "copy-3")
    nodes.fuses[victim].writes_left = writes
    for _ in range(3):
        await nodes.move()
        await readable()
        await nodes.sweep()
        await readable()
    died = nodes.fuses[victim].dead
    await nodes.finish([base], "copy-3")
    await readable()
    return died


# -- what a holder refuses


async def proposed(nodes: Reprofiling) -> tuple[BlobId, Place, BlobRows, AccountId]:
    """A blob of which one node proposes a layout; the node that is asked."""
    blob = await nodes.cluster.put(sample(1000))
    nodes.leave("ec-4-2", "copy-3")
    keys = nodes.cluster.keys[0]
    mover = nodes.nodes[nodes.holder_of(blob.base, 0, "ec-4-2")]
    rows = await mover.exporter.load_rows(blob.base, "ec-4-2")
    assert isinstance(rows, BlobRows)
    layout = replace(
        Layout.decode(rows.layout), profile="copy-3", version=2, shard_digests=(bytes(32),) * 3,
        node=keys.account, key_version=1,
    ).signed(keys.signing_key)  # fmt: skip
    partition = partition_of(bytes(blob.base), nodes.cluster.map.table("copy-3").bits)
    place = Place(nodes.cluster.map.epoch, "copy-3", partition)
    asked = nodes.holder_of(blob.base, 0, "copy-3")
    return blob, place, replace(rows, layout=layout.encode()), asked


async def refusal(
    nodes: Reprofiling,
    asked: AccountId,
    place: Place,
    blob: BlobId,
    rows: BlobRows,
    step: LayoutStep = LayoutStep.STAGE,
) -> HcefsError:
    giver = nodes.cluster.map.nodes[0]
    with pytest.raises(HcefsError) as caught:
        await nodes.nodes[asked].taker.take(place, blob.base, step, rows, giver)
    stores = nodes.cluster.stores[asked]
    layout = stores.rows.get(Table.LAYOUTS, bytes(blob.base))
    assert layout is None or Layout.decode(layout).profile == "ec-4-2"
    return caught.value


async def test_no_layout_outside_of_the_policy(nodes: Reprofiling) -> None:
    blob, place, rows, asked = await proposed(nodes)
    nodes.leave("copy-3", "ec-4-2")
    for step in LayoutStep:
        error = await refusal(nodes, asked, place, blob, rows, step)
        assert isinstance(error, Denied)
        assert error.reason == "not-reprofiled"


async def test_no_layout_of_what_the_ledger_does_not_know(nodes: Reprofiling) -> None:
    blob, place, rows, asked = await proposed(nodes)
    nodes.cluster.ledger.leaves.clear()
    assert isinstance(await refusal(nodes, asked, place, blob, rows), Unavailable)
    nodes.cluster.ledger.time_ms += 2 * HOUR_MS
    error = await refusal(nodes, asked, place, blob, rows)
    assert isinstance(error, NotFound)
    assert error.reason == "not-committed"


async def test_no_layout_by_a_client(nodes: Reprofiling) -> None:
    """The writer may sign the first layout of a blob, and no other."""
    blob, place, rows, asked = await proposed(nodes)
    writer = nodes.cluster.writer
    layout = replace(Layout.decode(rows.layout), node=writer.account).signed(writer.signing_key)
    error = await refusal(nodes, asked, place, blob, replace(rows, layout=layout.encode()))
    assert isinstance(error, Denied)
    assert error.reason == "unknown-node"


async def test_no_layout_with_a_forged_signature(nodes: Reprofiling) -> None:
    blob, place, rows, asked = await proposed(nodes)
    layout = replace(Layout.decode(rows.layout), signature=bytes(64))
    error = await refusal(nodes, asked, place, blob, replace(rows, layout=layout.encode()))
    assert error.kind == "unauthenticated"


async def test_no_first_layout_of_another_k(nodes: Reprofiling) -> None:
    blob, place, rows, asked = await proposed(nodes)
    keys = nodes.cluster.keys[0]
    layout = replace(Layout.decode(rows.layout), version=1).signed(keys.signing_key)
    error = await refusal(nodes, asked, place, blob, replace(rows, layout=layout.encode()))
    assert isinstance(error, Corrupt)


async def test_no_shard_without_a_seat(nodes: Reprofiling) -> None:
    blob, place, rows, _ = await proposed(nodes)
    new = {nodes.holder_of(blob.base, index, "copy-3") for index in range(3)}
    other = next(account for account in nodes.nodes if account not in new)
    error = await refusal(nodes, other, place, blob, rows)
    assert error.reason == "not-a-seat"


async def test_no_shard_that_is_not_the_layouts(nodes: Reprofiling) -> None:
    """The giver has other bytes than its layout says; a true layout is taken afterwards."""
    blob, place, rows, asked = await proposed(nodes)
    mover = nodes.holder_of(blob.base, 0, "ec-4-2")
    if mover == asked:
        asked = nodes.holder_of(blob.base, 1, "copy-3")
    nodes.cluster.faults[asked].down = True
    await nodes.move()
    nodes.cluster.faults[asked].down = False
    with pytest.raises(Corrupt) as caught:
        await nodes.nodes[asked].taker.take(
            place, blob.base, LayoutStep.STAGE, rows, nodes.node(mover)
        )
    assert caught.value.reason == "wrong-digest"
    await nodes.finish([blob.base], "copy-3")


async def test_nothing_is_placed_that_reads_back_as_something_else(nodes: Reprofiling) -> None:
    """A new holder that keeps other bytes than it confirmed is found before any placing."""
    blob = await nodes.cluster.put(sample(1000))
    nodes.leave("ec-4-2", "copy-3")
    mover = nodes.holder_of(blob.base, 0, "ec-4-2")
    liars = {nodes.holder_of(blob.base, index, "copy-3") for index in range(3)}
    for liar in liars:
        nodes.lies.add(liar)
    await nodes.move()
    assert {step for _, step in nodes.asked} == {"STAGE"}
    await nodes.sealed(blob)
    nodes.lies.clear()
    for account in nodes.nodes:
        nodes.restart(account)
    assert mover in nodes.nodes
    await nodes.finish([blob.base], "copy-3")


async def test_what_is_staged_is_dropped_when_the_policy_is_withdrawn(nodes: Reprofiling) -> None:
    blob = await nodes.cluster.put(sample(1000))
    nodes.leave("ec-4-2", "copy-3")
    mover = nodes.holder_of(blob.base, 0, "ec-4-2")
    new = [nodes.holder_of(blob.base, index, "copy-3") for index in range(3)]
    nodes.cluster.faults[next(each for each in new if each != mover)].down = True
    await nodes.move()
    assert nodes.faults([blob.base], "ec-4-2")
    nodes.rules = UpkeepPolicy(9)
    await nodes.finish([blob.base], "ec-4-2")


async def test_no_place_without_stage_and_no_enter_without_place(nodes: Reprofiling) -> None:
    blob, place, rows, asked = await proposed(nodes)
    for step in (LayoutStep.PLACE, LayoutStep.ENTER):
        error = await refusal(nodes, asked, place, blob, rows, step)
        assert error.reason == "not-staged"


async def test_no_way_back_to_a_former_version(nodes: Reprofiling) -> None:
    blob, place, rows, asked = await proposed(nodes)
    await nodes.move()
    taker, giver = nodes.nodes[asked].taker, nodes.cluster.map.nodes[0]
    with pytest.raises(Conflict) as caught:
        await taker.take(place, blob.base, LayoutStep.STAGE, rows, giver)
    assert caught.value.reason == "superseded"


async def test_no_layout_of_another_map(nodes: Reprofiling) -> None:
    blob, place, rows, asked = await proposed(nodes)
    error = await refusal(nodes, asked, replace(place, epoch=place.epoch + 1), blob, rows)
    assert error.reason == "other-epoch"


async def test_no_layout_under_another_profile_than_its_own(nodes: Reprofiling) -> None:
    blob, place, rows, asked = await proposed(nodes)
    error = await refusal(nodes, asked, replace(place, profile="ec-4-2"), blob, rows)
    assert isinstance(error, Invalid)
