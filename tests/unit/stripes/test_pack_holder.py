"""A holder's packs: what is durable, visible, listed and shredded, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.blobs.pack import SealedPack
from hcefs.errors import Conflict, Denied, Exhausted, HcefsError
from hcefs.formats.pack import PackProof
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.runtime import SystemRuntime
from hcefs.store.files import open_stores
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.store.memory import memory_stores
from hcefs.stripes.pack_holder import ANSWER_FULL, PackHolder
from hcefs.stripes.pack_known import KnownGroup, KnownGroups
from hcefs.stripes.pending import PENDING_PACK, PendingNames, index_name
from hcefs.stripes.uploads import Uploads
from hcefs.testing.local_cluster import LocalCluster
from hcefs.testing.local_packs import COMMIT_BY_MS, LocalPacks
from hcefs.transport.pack_messages import batch_blobs
from hcefs.transport.packs import (
    BatchCall,
    ColumnsWanted,
    PackPart,
    PackShard,
    PackWanted,
)
from hcefs.transport.peers import Call

OTHER = RecordId(b"another-record!!")


def shard_of(packs: LocalPacks, pack: SealedPack, index: int = 0) -> tuple[BatchCall, PackShard]:
    """A shard as the writer would send it."""
    plan = packs.plan(pack)
    stripe = packs.body(pack, plan.profile).encode()
    layout = packs.writer()._layout(plan, stripe)
    return plan.call, PackShard(
        pack.base, index, layout.encode(), stripe.pieces[index], stripe.digests[index],
        plan.groups, COMMIT_BY_MS,
    )  # fmt: skip


def node_one(packs: LocalPacks) -> tuple[AccountId, PackHolder, Stores]:
    account = packs.cluster.keys[0].account
    return account, packs.holders[account], packs.cluster.stores[account]


def wanted_of(pack: SealedPack, *slots: int) -> PackWanted:
    return PackWanted(pack.groups[0].record, pack.base, slots or pack.groups[0].slots)


async def part_of(holder: PackHolder, call: Call | BatchCall, wanted: PackWanted) -> PackPart:
    (part,) = await holder.load_packed(call, [wanted])
    if isinstance(part, HcefsError):
        raise part
    return part


async def test_rows_are_kept_where_they_belong(packs: LocalPacks) -> None:
    _, holder, stores = node_one(packs)
    pack = packs.seal([b"a" * 100, b"b" * 200], [packs.cluster.record, OTHER])
    call, shard = shard_of(packs, pack)
    await holder.store_pack(call, shard)
    base = bytes(pack.base)
    for group in pack.groups:
        (slot,) = group.slots
        blob = base + slot.to_bytes(2, "big")
        assert stores.rows.get(Table.CORES, blob) == group.encoded[0]
        assert stores.keys.get(KeyTable.KEY_ROWS, blob) == group.wrapped[0]
        name = base + bytes(group.record)
        assert stores.rows.get(Table.OPENINGS, name) == group.opening.encode()
        assert stores.keys.get(KeyTable.PACK_ENVELOPES, name) == group.envelope.encode()
        listed = stores.rows.get(Table.INDEX, index_name(group.record, pack.base))
        assert listed == group.opening.encode(), "every node of six is a seat of each record"
    assert stores.rows.get(Table.LAYOUTS, base) == shard.layout
    assert stores.shards.has(pack.base, 0)
    kinds = sorted(key[8:9] for key, _ in stores.rows.scan(Table.PENDING))
    assert kinds == [PENDING_PACK], "the openings are collected with the pack"


async def test_only_seats_of_a_record_list_it(packs: LocalPacks) -> None:
    _, holder, stores = node_one(packs)
    holder._seated = lambda record: record == OTHER
    pack = packs.seal([b"a", b"b"], [packs.cluster.record, OTHER])
    await holder.store_pack(*shard_of(packs, pack))
    assert [key[:16] for key, _ in stores.rows.scan(Table.INDEX)] == [bytes(OTHER)]


async def test_pending_payloads_are_not_shown(packs: LocalPacks) -> None:
    _, holder, _ = node_one(packs)
    pack = packs.seal([b"a", b"b"])
    await holder.store_pack(*shard_of(packs, pack))
    call = packs.reading(pack)
    columns = ColumnsWanted(wanted_of(pack), 0, 0)
    for _ in range(2):
        with pytest.raises(HcefsError) as caught:
            await part_of(holder, call, wanted_of(pack))
        assert caught.value.reason == "not-committed"
        (answer,) = await holder.load_columns(call, [columns])
        assert isinstance(answer, HcefsError)
        assert answer.reason == "not-committed"
    listing = packs.cluster.holders[packs.cluster.keys[0].account]
    assert await listing.load_listing(packs.cluster.call("list", None)) == []
    packs.commit(pack)
    part = await part_of(holder, call, wanted_of(pack))
    assert [rows.core for rows in part.payloads] == list(pack.groups[0].encoded)
    (entry,) = await listing.load_listing(packs.cluster.call("list", None))
    assert entry.opening == pack.groups[0].opening.encode()


async def test_a_record_that_was_committed_shows_no_other(packs: LocalPacks) -> None:
    _, holder, _ = node_one(packs)
    pack = packs.seal([b"a", b"b"], [packs.cluster.record, OTHER])
    await holder.store_pack(*shard_of(packs, pack))
    packs.cluster.ledger.commit(pack.groups[0].opening)
    call = packs.reading(pack)
    await part_of(holder, call, wanted_of(pack))
    with pytest.raises(HcefsError) as caught:
        await part_of(holder, call, PackWanted(OTHER, pack.base, (2,)))
    assert caught.value.reason == "not-committed"
    # A slot of another record is not reached by naming it under this one.
    groups = [replace(call.groups[0], blobs=call.groups[0].blobs + call.groups[1].blobs)]
    part = await part_of(holder, packs.call("get-many", groups), wanted_of(pack, 1, 2))
    assert [(slot, error.reason) for slot, error in part.failures] == [(2, "unknown-blob")]


async def test_nothing_is_overwritten(packs: LocalPacks) -> None:
    _, holder, stores = node_one(packs)
    pack = packs.seal([b"a" * 100])
    call, shard = shard_of(packs, pack)
    await holder.store_pack(call, shard)
    with pytest.raises(Conflict) as caught:
        await holder.store_pack(call, shard)
    assert caught.value.reason == "shard-exists"
    other = replace(packs.seal([b"b" * 100]), base=pack.base)
    group = replace(other.groups[0].opening, base=pack.base)
    envelope = replace(other.groups[0].envelope, base=pack.base)
    sealed = replace(other, groups=(replace(other.groups[0], opening=group, envelope=envelope),))
    before = sorted(stores.keys.scan(KeyTable.KEY_ROWS)), sorted(stores.rows.scan(Table.CORES))
    with pytest.raises(Conflict) as caught:
        await holder.store_pack(*shard_of(packs, sealed, 1))
    assert caught.value.reason == "row-exists"
    after = sorted(stores.keys.scan(KeyTable.KEY_ROWS)), sorted(stores.rows.scan(Table.CORES))
    assert after == before
    assert not stores.shards.has(pack.base, 1)


async def test_a_listing_is_not_overwritten(packs: LocalPacks) -> None:
    _, holder, stores = node_one(packs)
    pack = packs.seal([b"a" * 100])
    call, shard = shard_of(packs, pack)
    opening = shard.groups[0].opening
    await holder.store_openings(call, [opening], COMMIT_BY_MS)
    await holder.store_openings(call, [opening], COMMIT_BY_MS)
    other = replace(pack.groups[0].opening, salt=bytes(32)).encode()
    with pytest.raises(Conflict):
        await holder.store_openings(call, [other], COMMIT_BY_MS)
    assert stores.rows.get(Table.INDEX, index_name(packs.cluster.record, pack.base)) == opening


async def test_a_full_disk_leaves_no_row(packs: LocalPacks) -> None:
    cluster = packs.cluster
    stores = memory_stores(total_bytes=1000)
    holder = PackHolder(
        cluster.runtime, stores, cluster.ledger, cluster.metrics, PendingNames(stores.rows),
        lambda _: True, Uploads(lambda: cluster.map.epoch),
    )  # fmt: skip
    with pytest.raises(Exhausted) as caught:
        await holder.store_pack(*shard_of(packs, packs.seal([b"a" * 100_000])))
    assert caught.value.reason == "disk-full"
    assert all(not stores.rows.scan(table) for table in Table)
    assert all(not stores.keys.scan(table) for table in KeyTable)
    assert stores.shards.usage().free_bytes == 1000


async def test_opening_or_proofs(packs: LocalPacks) -> None:
    _, holder, _ = node_one(packs)
    pack = packs.seal([bytes([at]) for at in range(20)])
    await holder.store_pack(*shard_of(packs, pack))
    packs.commit(pack)
    call = packs.reading(pack)
    opening = pack.groups[0].opening
    some = wanted_of(pack, 1, 2, 3)
    part = await part_of(holder, call, some)
    assert part.opening == opening.encode()
    assert {rows.proof for rows in part.payloads} == {b""}
    for asking, wanted in (
        (call, wanted_of(pack, 1, 2)),  # fewer than an eighth
        (replace(call, whole=frozenset()), some),  # no right on the whole record
        (packs.call_of(BlobId.of(pack.base, 1)), wanted_of(pack, 1)),  # a single request
    ):
        part = await part_of(holder, asking, wanted)
        assert part.opening == b""
        for rows in part.payloads:
            proof = PackProof.decode(rows.proof)
            assert proof.blob.slot == rows.slot
            assert proof.commitment() == opening.commitment()


async def test_what_is_not_asked_for_is_not_given(packs: LocalPacks) -> None:
    _, holder, _ = node_one(packs)
    pack = packs.seal([bytes([at]) for at in range(3)])
    await holder.store_pack(*shard_of(packs, pack))
    packs.commit(pack)
    refusal = Denied("not this one", reason="no-such-grant")
    call = packs.reading(pack, refused={(packs.cluster.record, BlobId.of(pack.base, 2)): refusal})
    part = await part_of(holder, call, wanted_of(pack))
    assert [rows.slot for rows in part.payloads] == [1, 3]
    assert part.failures == ((2, refusal),)
    single = packs.call_of(BlobId.of(pack.base, 1))
    part = await part_of(holder, single, wanted_of(pack))
    assert [rows.slot for rows in part.payloads] == [1]
    for asking, slots, reason in (
        (call, (1, 2), "no-such-grant"),
        (single, (1, 2), "wrong-blob"),
        (call, (4,), "wrong-blob"),
    ):
        wanted = ColumnsWanted(wanted_of(pack, *slots), 0, 0)
        (answer,) = await holder.load_columns(asking, [wanted])
        assert isinstance(answer, HcefsError)
        assert answer.reason == reason


@pytest.mark.parametrize(("index", "column"), [(6, 0), (-1, 0), (0, 4), (0, -1)])
async def test_columns_are_of_the_profile(packs: LocalPacks, index: int, column: int) -> None:
    _, holder, _ = node_one(packs)
    pack = packs.seal([b"a" * 500])
    await holder.store_pack(*shard_of(packs, pack))
    packs.commit(pack)
    wanted = ColumnsWanted(wanted_of(pack), index, column)
    (answer,) = await holder.load_columns(packs.reading(pack), [wanted])
    assert isinstance(answer, HcefsError)
    assert answer.reason == "bad-index"


async def test_an_answer_is_bounded_and_goes_on(
    packs: LocalPacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, holder, _ = node_one(packs)
    sealed = [packs.seal([bytes(2000)] * 3) for _ in range(3)]
    for pack in sealed:
        await holder.store_pack(*shard_of(packs, pack))
        packs.commit(pack)
    monkeypatch.setattr("hcefs.stripes.pack_holder.ANSWER_BYTES_MAX", 2500)
    groups = [group for pack in sealed for group in batch_blobs(packs.rows(pack), pack.base)]
    call = packs.call("get-many", groups)
    parts = await holder.load_packed(call, [wanted_of(pack) for pack in sealed])
    assert isinstance(parts[0], PackPart)
    assert [part.reason for part in parts[1:] if isinstance(part, HcefsError)] == [ANSWER_FULL] * 2
    columns = await holder.load_columns(
        call, [ColumnsWanted(wanted_of(pack), 0, 0) for pack in sealed]
    )
    assert not isinstance(columns[0], HcefsError)
    assert [each.reason for each in columns if isinstance(each, HcefsError)] == [ANSWER_FULL] * 2


async def test_a_shredded_key_takes_one_payload_and_is_gone_from_the_disk(tmp_path: Path) -> None:
    """Promise: a payload is shredded alone, and really."""
    runtime = SystemRuntime()
    try:
        cluster = LocalCluster(runtime)
        packs = LocalPacks(cluster)
        for account in cluster.stores:
            cluster.stores[account] = open_stores(tmp_path / account.hex(), reserve_bytes=0)
            packs.holders[account] = PackHolder(
                runtime, cluster.stores[account], cluster.ledger, cluster.metrics,
                PendingNames(cluster.stores[account].rows), lambda _: True,
                Uploads(lambda: cluster.map.epoch),
            )  # fmt: skip
        pack = packs.seal([bytes([at]) * 3000 for at in range(30)])
        await packs.put(pack)
        wrapped = pack.groups[0].wrapped[6]
        assert any(wrapped in _raw(tmp_path / account.hex()) for account in cluster.stores)
        for stores in cluster.stores.values():
            stores.keys.delete([(KeyTable.KEY_ROWS, bytes(BlobId.of(pack.base, 7)))])
        for account in cluster.stores:
            assert wrapped not in _raw(tmp_path / account.hex())
        found = await packs.read(packs.reading(pack), packs.keys(pack))
        sealed = packs.sealed(pack)
        for key, payload in found.items():
            if key[2] == 7:
                assert payload.error is not None
                assert (payload.error.kind, payload.error.reason) == ("not-found", "shredded")
                assert payload.sealed == b""
            else:
                assert payload.sealed == sealed[key]
        for stores in cluster.stores.values():
            stores.close()
    finally:
        runtime.close()


def _raw(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_known_groups_are_bounded() -> None:
    known = KnownGroups(weight_max=100)

    def group(slots: int) -> KnownGroup:
        return KnownGroup(None, b"", None, frozenset(range(slots)), b"", None)  # type: ignore[arg-type]

    names = [(BlobBase(bytes([at]) * 16), RecordId(bytes(16))) for at in range(6)]
    for name in names:
        known.put(name, group(8))
        known.put(name, group(8))
        known.get(names[0])
    assert [known.get(name) is not None for name in names] == [True, False, False, True, True, True]
    known.put(names[1], group(1000))
    assert [known.get(name) is not None for name in names] == [False, True] + [False] * 4


async def test_rows_that_were_stored_survive_a_stop_between_the_steps(packs: LocalPacks) -> None:
    """What leads the collector to a pack is there before the shard and the rows are."""
    _, holder, stores = node_one(packs)
    pack = packs.seal([b"a" * 100])

    class Stopped(Exception):
        pass

    def stop(rows: object) -> None:
        raise Stopped

    stores.keys.put_all_new = stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        await holder.store_pack(*shard_of(packs, pack))
    assert stores.shards.has(pack.base, 0)
    assert not stores.rows.scan(Table.LAYOUTS)
    waiting = [key[9:25] for key, _ in stores.rows.scan(Table.PENDING) if key[8:9] == PENDING_PACK]
    assert waiting == [bytes(pack.base)]
