"""Packed payloads come back as they were sealed, around what is lost, damaged, slow or lying."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from hcefs.access.batch import BatchGroup
from hcefs.blobs.pack import SealedPack
from hcefs.errors import Denied
from hcefs.formats.pack import PackLayout, join_lengths
from hcefs.formats.shard import HEADER_SIZE
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.store.interface import KeyTable, Table
from hcefs.store.memory import MemoryShardStore
from hcefs.stripes.pack_read import PackedPayload
from hcefs.stripes.pack_rows import Key
from hcefs.testing.local_packs import LocalPacks

OTHER = RecordId(b"another-record!!")


def contents(found: Mapping[Key, PackedPayload]) -> dict[Key, bytes]:
    failed = {key: each.error.reason for key, each in found.items() if each.error is not None}
    assert not failed
    return {key: each.sealed for key, each in found.items()}


def big_pack(packs: LocalPacks) -> SealedPack:
    """Payloads of many lengths, some across data pieces, of two records."""
    lengths = [1, 0, 4096, 70_000, 5, 200_000, 64, 3000, 100_000, 17]
    return packs.seal(
        [packs.cluster.runtime.random(length) for length in lengths], [packs.cluster.record, OTHER]
    )


def lose(packs: LocalPacks, pack: SealedPack, *indexes: int, profile: str = "ec-4-2") -> None:
    for index in indexes:
        account = packs.account_of(pack.base, index, profile)
        assert packs.cluster.stores[account].shards.remove(pack.base, index)


def damage(packs: LocalPacks, pack: SealedPack, *indexes: int, profile: str = "ec-4-2") -> None:
    """Flip a bit in every byte of the pieces of these shards, on disk."""
    for index in indexes:
        account = packs.account_of(pack.base, index, profile)
        shards = packs.cluster.stores[account].shards
        assert isinstance(shards, MemoryShardStore)
        data = bytearray(shards._shards[pack.base, index])
        end = len(data) - 96  # the footer is left alone: digests are only read by the scrub
        data[HEADER_SIZE:end] = bytes(byte ^ 1 for byte in data[HEADER_SIZE:end])
        shards._shards[pack.base, index] = bytes(data)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("profile", ["ec-4-2", "copy-3"])
@pytest.mark.parametrize("number", range(3))
async def test_healthy(packs: LocalPacks, profile: str, number: int) -> None:
    pack = big_pack(packs)
    await packs.put(pack, profile)
    found = await packs.read(packs.reading(pack), packs.keys(pack), number)
    assert contents(found) == packs.sealed(pack)
    if profile == "ec-4-2":
        assert packs.cluster.metrics.value("degraded_reads_total") == 0
    assert packs.cluster.metrics.value("corrupt_shards_total") == 0
    calls = [call for faults in packs.faults.values() for call in faults.stored]
    assert calls.count("load-columns") <= 4, "one call a peer for the whole batch"


async def test_one_payload_moves_only_its_range(packs: LocalPacks) -> None:
    pack = big_pack(packs)
    await packs.put(pack)
    key = packs.keys(pack)[0]
    found = await packs.read(packs.reading(pack), [key])
    assert contents(found) == {key: packs.sealed(pack)[key]}
    calls = [call for faults in packs.faults.values() for call in faults.stored]
    assert calls.count("load-columns") == 1


@pytest.mark.parametrize("lost", [(0,), (3,), (4,), (0, 1), (2, 5), (4, 5)])
async def test_around_lost_shards(packs: LocalPacks, lost: tuple[int, ...]) -> None:
    pack = big_pack(packs)
    await packs.put(pack)
    lose(packs, pack, *lost)
    found = await packs.read(packs.reading(pack), packs.keys(pack))
    assert contents(found) == packs.sealed(pack)


@pytest.mark.parametrize("down", [(0, 1), (2, 3), (4, 5)])
async def test_around_dead_nodes(packs: LocalPacks, down: tuple[int, ...]) -> None:
    pack = big_pack(packs)
    await packs.put(pack)
    for number in down:
        packs.cluster.faults[packs.cluster.keys[number].account].down = True
    alive = next(number for number in range(6) if number not in down)
    found = await packs.read(packs.reading(pack), packs.keys(pack), alive)
    assert contents(found) == packs.sealed(pack)


@pytest.mark.parametrize("lost", [(0, 1), (1, 2)])
async def test_copies(packs: LocalPacks, lost: tuple[int, ...]) -> None:
    pack = big_pack(packs)
    await packs.put(pack, "copy-3")
    lose(packs, pack, *lost, profile="copy-3")
    for number in range(6):
        found = await packs.read(packs.reading(pack), packs.keys(pack), number)
        assert contents(found) == packs.sealed(pack)


@pytest.mark.parametrize("bad", [(0,), (3,), (0, 3), (1, 4)])
async def test_around_damaged_shards(
    packs: LocalPacks, bad: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    pack = big_pack(packs)
    await packs.put(pack)
    damage(packs, pack, *bad)
    found = await packs.read(packs.reading(pack), packs.keys(pack))
    assert contents(found) == packs.sealed(pack)
    named = {index for index in range(6) if f"index {index} on node" in caplog.text}
    assert named <= set(bad), "only what is damaged is accused"
    assert {index for index in bad if index < 4} <= named
    assert packs.cluster.metrics.value("corrupt_shards_total") >= 1


async def test_damaged_copies(packs: LocalPacks) -> None:
    pack = big_pack(packs)
    await packs.put(pack, "copy-3")
    damage(packs, pack, 0, 1, profile="copy-3")
    for number in range(6):
        found = await packs.read(packs.reading(pack), packs.keys(pack), number)
        assert contents(found) == packs.sealed(pack)


async def test_damage_and_loss_together(packs: LocalPacks) -> None:
    pack = big_pack(packs)
    await packs.put(pack)
    damage(packs, pack, 0)
    lose(packs, pack, 1)
    found = await packs.read(packs.reading(pack), packs.keys(pack))
    assert contents(found) == packs.sealed(pack)


async def test_too_much_damage_is_said(packs: LocalPacks) -> None:
    pack = big_pack(packs)
    await packs.put(pack)
    damage(packs, pack, 0, 1, 2)
    found = await packs.read(packs.reading(pack), packs.keys(pack))
    sealed = packs.sealed(pack)
    for key, payload in found.items():
        if payload.error is None:
            assert payload.sealed == sealed[key]
        else:
            assert (payload.error.kind, payload.error.reason) == ("corrupt", "too-few-shards")
    assert any(payload.error is not None for payload in found.values())


async def test_too_many_lost_fail_alone(packs: LocalPacks) -> None:
    pack, other = big_pack(packs), packs.seal([b"c" * 100])
    await packs.put(pack)
    await packs.put(other)
    lose(packs, pack, 0, 1, 2)
    groups = (*packs.reading(pack).groups, *packs.reading(other).groups)
    keys = [*packs.keys(pack), *packs.keys(other)]
    found = await packs.read(packs.call("get-many", groups), keys)
    (lonely,) = packs.keys(other)
    assert found[lonely].sealed == packs.sealed(other)[lonely]
    reasons = {each.error.reason for each in found.values() if each.error is not None}
    assert reasons == {"too-few-shards"}


async def test_a_slow_holder_is_overtaken(packs: LocalPacks) -> None:
    pack = big_pack(packs)
    await packs.put(pack)
    for index in (1, 2):
        packs.faults[packs.account_of(pack.base, index)].waits_for = asyncio.Event()
    number = _alive(packs, {packs.account_of(pack.base, index) for index in (1, 2)})
    async with asyncio.timeout(60):
        found = await packs.read(packs.reading(pack), packs.keys(pack), number)
    assert contents(found) == packs.sealed(pack)
    assert packs.cluster.metrics.value("hedged_loads_total") >= 1


async def test_a_holder_that_is_known_as_slow_is_not_asked(packs: LocalPacks) -> None:
    pack = big_pack(packs)
    await packs.put(pack)
    slow = packs.account_of(pack.base, 1)
    reader = packs.reader(_alive(packs, {slow}))
    for _ in range(2):
        reader._columns._hedge.lost(slow, packs.cluster.runtime.monotonic())
    packs.faults[slow].waits_for = asyncio.Event()
    async with asyncio.timeout(60):
        found = [
            each
            async for some in reader.read(packs.reading(pack), packs.keys(pack))
            for each in some
        ]
    assert {each.key: each.sealed for each in found} == packs.sealed(pack)
    assert packs.cluster.metrics.value("hedged_loads_total") == 0


def _alive(packs: LocalPacks, without: set[AccountId]) -> int:
    return next(
        number for number, keys in enumerate(packs.cluster.keys) if keys.account not in without
    )


async def test_unknown_and_pending_payloads(packs: LocalPacks) -> None:
    pack, pending = packs.seal([b"a"]), packs.seal([b"b"])
    await packs.put(pack)
    await packs.put(pending, commit=False)
    never = packs.seal([b"c"])
    groups = [group for each in (pack, pending, never) for group in packs.reading(each).groups]
    keys = [key for each in (pack, pending, never) for key in packs.keys(each)]
    found = await packs.read(packs.call("get-many", groups), keys)
    reasons = [error.reason if (error := found[key].error) else "" for key in keys]
    assert reasons == ["", "not-committed", "unknown-blob"]


async def test_a_refused_payload_fails_alone(packs: LocalPacks) -> None:
    pack = packs.seal([b"a", b"b", b"c"])
    await packs.put(pack)
    refusal = Denied("not this one", reason="no-such-grant")
    call = packs.reading(pack, refused={(packs.cluster.record, BlobId.of(pack.base, 2)): refusal})
    for number in (0, 3):
        found = await packs.read(call, packs.keys(pack), number)
        failed = {key[2]: each.error.reason for key, each in found.items() if each.error}
        assert failed == {2: "no-such-grant"}


async def test_a_lying_layout_is_left_for_another_seats(packs: LocalPacks) -> None:
    pack = big_pack(packs)
    layout, _ = await packs.put(pack, "copy-3")
    keys = packs.cluster.keys
    held = [seat.node.account for seat in packs.cluster.seats(bytes(pack.base), "copy-3")]
    liar = next(each for each in keys if each.account == held[0])
    lie = replace(
        layout,
        lengths=join_lengths([*pack.lengths, 200]),  # honest lengths, another body and pieces
        profile="ec-4-2",
        shard_digests=(bytes(32),) * 6,
        node=liar.account,
    ).signed(liar.signing_key)
    packs.faults[liar.account].lays_out = lie.encode()
    number = _alive(packs, set(held))
    found = await packs.read(packs.reading(pack), packs.keys(pack), number)
    assert contents(found) == packs.sealed(pack)


async def test_rows_of_others_prove_themselves(packs: LocalPacks) -> None:
    pack = packs.seal([bytes([at]) * 100 for at in range(20)])
    layout, _ = await packs.put(pack, "copy-3")
    held = [seat.node.account for seat in packs.cluster.seats(bytes(pack.base), "copy-3")]
    number = _alive(packs, set(held))
    stores = packs.cluster.stores[held[0]].rows
    forged = replace(layout, time_ms=1)  # the signature is another's
    core = pack.groups[0].encoded[0]
    for table, key, value in (
        (Table.LAYOUTS, bytes(pack.base), forged.encode()),
        (Table.CORES, bytes(BlobId.of(pack.base, 1)), core[:-1] + bytes([core[-1] ^ 1])),
        (Table.LAYOUTS, bytes(pack.base), replace(layout, base=BlobBase(OTHER)).encode()),
    ):
        kept = stores.get(table, key)
        assert kept is not None
        stores.put([(table, key, value)])
        packs.holders[held[0]] = packs._holder(held[0], packs.cluster.stores[held[0]])
        for keys in (packs.keys(pack), packs.keys(pack)[:1]):
            found = await packs.read(packs.reading(pack), keys, number)
            sealed = packs.sealed(pack)
            assert contents(found) == {key: sealed[key] for key in keys}
        stores.put([(table, key, kept)])
    assert PackLayout.decode(layout.encode()) == layout


async def test_a_key_that_one_seat_lost_is_found_at_another(packs: LocalPacks) -> None:
    pack = packs.seal([b"a", b"b"])
    await packs.put(pack)
    me = packs.cluster.keys[0].account
    blob = bytes(BlobId.of(pack.base, 1))
    packs.cluster.stores[me].keys.delete([(KeyTable.KEY_ROWS, blob)])
    found = await packs.read(packs.reading(pack), packs.keys(pack))
    assert contents(found) == packs.sealed(pack)
    assert {each.row.wrapped for each in found.values() if each.row} == set(pack.groups[0].wrapped)


async def test_many_packs_in_several_units(
    packs: LocalPacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hcefs.stripes.pack_read.UNIT_PAYLOADS", 7)
    monkeypatch.setattr("hcefs.stripes.pack_read.BATCH_BYTES", 3000)
    monkeypatch.setattr("hcefs.stripes.pack_holder.ANSWER_BYTES_MAX", 1500)
    sealed: dict[Key, bytes] = {}
    groups: list[BatchGroup] = []
    for at in range(5):
        pack = packs.seal([bytes([at]) * (500 + at)] * 6)
        await packs.put(pack, "copy-3" if at % 2 else "ec-4-2")
        sealed |= packs.sealed(pack)
        groups += packs.reading(pack).groups
    found = await packs.read(packs.call("get-many", groups), list(sealed))
    assert contents(found) == sealed


async def test_a_single_request_reads_its_blob(packs: LocalPacks) -> None:
    pack = big_pack(packs)
    await packs.put(pack)
    for key in packs.keys(pack)[:3]:
        call = packs.call_of(BlobId.of(pack.base, key[2]))
        found = await packs.read(call, [key], 2)
        assert contents(found) == {key: packs.sealed(pack)[key]}
        row = await packs.reader(4).row(call, key)
        assert row.core.blob == BlobId.of(pack.base, key[2])
        assert row.proof
