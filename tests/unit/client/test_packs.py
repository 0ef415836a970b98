"""Packs in the client: what it sends, what it believes, and what it makes of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hcefs.client.put_many import PackRoom, Payload, packs_of
from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, Invalid, NotFound, Unavailable
from hcefs.formats.pack import PAYLOAD_BYTES_MAX, PAYLOADS_MAX
from hcefs.ids import BlobId, GrantId, RecordId
from hcefs.wire.v1 import pack_pb2
from tests.unit.client.pack_world import World, WorldClient
from tests.unit.client.world import OWNER, RECORD

OTHER = RecordId(b"q" * 16)
TEXTS = [b"", b"x", b"heart rate 61", bytes(5000), bytes(range(256)) * 40]


async def put_all(client: WorldClient, record: RecordId = RECORD) -> list[BlobId]:
    receipts = await client.put_many([(record, text) for text in TEXTS])
    return [receipt.ref.blob for receipt in receipts]


@pytest.mark.parametrize("proofs", [False, True])
async def test_what_is_put_comes_back_in_order(proofs: bool) -> None:
    world = World(proofs=proofs)
    blobs = await put_all(world.client())
    assert len({blob.base for blob in blobs}) == 1
    assert [blob.slot for blob in blobs] == [1, 2, 3, 4, 5]
    fresh = world.client()
    names = [(RECORD, blob) for blob in reversed(blobs)]
    assert await fresh.get_many(names) == TEXTS[::-1]
    assert fresh.asked == 1  # one question to the ledger for the whole pack
    assert await fresh.get_many(names[:2]) == TEXTS[:2:-1]
    assert fresh.asked == 1
    for body in (pack.body for pack in world.packs.values()):
        assert TEXTS[2] not in body


async def test_payloads_of_several_records_share_a_pack_and_an_append() -> None:
    world = World()
    client = world.client()
    payloads = [
        Payload(RECORD, b"one", name="note", labels=("a",)),
        Payload(OTHER, b"two"),
        Payload(RECORD, b"three", content_type="text/plain"),
    ]
    receipts = await client.put_many(payloads)
    assert (world.puts, world.appends, len(world.packs)) == (1, 1, 1)
    assert [receipt.ref.record for receipt in receipts] == [RECORD, OTHER, RECORD]
    assert receipts[0].leaf != receipts[2].leaf  # each names its own entry
    assert {receipt.durable_shards for receipt in receipts} == {5}
    assert all(receipt.degraded for receipt in receipts)
    stream = await world.client().get(RECORD, receipts[0].ref.blob)
    assert stream.metadata is not None
    assert (stream.metadata.name, stream.metadata.labels) == ("note", ("a",))
    assert stream.signed
    assert await stream.read() == b"one"


async def test_small_puts_at_the_same_time_travel_together() -> None:
    world = World()
    client = world.client()
    receipts = await asyncio.gather(*(client.put(RECORD, b"%d" % i) for i in range(50)))
    assert world.puts <= 3
    assert world.appends == world.puts
    reader = world.client()
    streams = await asyncio.gather(*(reader.get(RECORD, each.ref.blob) for each in receipts))
    assert [await stream.read() for stream in streams] == [b"%d" % i for i in range(50)]
    assert world.gets <= 3


@pytest.mark.parametrize(("start", "length"), [(0, 3), (2, 0), (5, 1), (0, 0), (9, 0)])
async def test_a_range_of_a_packed_blob(start: int, length: int) -> None:
    client = World().client()
    receipt = await client.put(RECORD, b"heartbeat")
    stream = await client.get(RECORD, receipt.ref.blob, start=start, length=length)
    assert await stream.read() == b"heartbeat"[start : start + length if length else None]


async def test_a_range_outside_is_refused() -> None:
    client = World().client()
    receipt = await client.put(RECORD, b"heartbeat")
    for start, length in ((10, 0), (8, 2), (-1, 2)):
        with pytest.raises(Invalid):
            await client.get(RECORD, receipt.ref.blob, start=start, length=length)


async def test_one_record_is_asked_about_once() -> None:
    client = World().client()
    for _ in range(3):
        await client.put(RECORD, b"x")
    assert client.facts == 1


async def test_a_replaced_generation_is_learnt() -> None:
    world = World()
    client = world.client()
    await client.put(RECORD, b"x")
    world.generations[RECORD] = 1
    world.put_errors.append(Conflict("old", reason="old-generation"))
    receipt = await client.put(RECORD, b"y")
    assert receipt.core.generation == 1
    assert await (await client.get(RECORD, receipt.ref.blob)).read() == b"y"


async def test_a_failed_attempt_is_sealed_anew() -> None:
    world = World()
    world.put_errors += [
        Unavailable("down", reason="too-few-holders"),
        Conflict("taken", reason="shard-exists"),
    ]
    await world.client().put(RECORD, b"x")
    assert world.puts == 3
    assert world.appends == 1


async def test_who_may_not_put_does_not_keep_others_from_it() -> None:
    world = World()
    client = world.client()
    world.put_errors += [
        Denied("no", reason="no-such-grant"),  # the batch
        Denied("no", reason="no-such-grant"),  # the first of them alone
    ]
    results = await asyncio.gather(
        client.put(OTHER, b"a", grant=GrantId(b"x" * 16)),
        client.put(RECORD, b"b"),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Denied) for result in results) == 1
    assert len(world.leaves[RECORD]) == 1


async def test_an_answer_about_another_pack_is_not_signed_for() -> None:
    world = World(layout_lengths=b"\x00\x00\x00\x99")
    with pytest.raises(Corrupt) as caught:
        await world.client().put_many([(RECORD, b"x")])
    assert caught.value.reason == "wrong-layout"
    assert world.appends == 0


# -- lies


def first(part: pack_pb2.PackedPart) -> pack_pb2.PackedPayload:
    return part.payloads[0]


def other_bytes(part: pack_pb2.PackedPart) -> None:
    first(part).sealed = first(part).sealed[:-1] + bytes([first(part).sealed[-1] ^ 1])


def cut_bytes(part: pack_pb2.PackedPart) -> None:
    first(part).sealed = first(part).sealed[:-1]


def other_core(part: pack_pb2.PackedPart) -> None:
    first(part).core = first(part).core[:-1] + bytes([first(part).core[-1] ^ 1])


def swapped(part: pack_pb2.PackedPart) -> None:
    one, two = part.payloads[0], part.payloads[1]
    one.core, two.core = two.core, one.core
    one.sealed, two.sealed = two.sealed, one.sealed
    one.wrapped_key, two.wrapped_key = two.wrapped_key, one.wrapped_key


def other_key(part: pack_pb2.PackedPart) -> None:
    first(part).wrapped_key = bytes(40)


def no_opening(part: pack_pb2.PackedPart) -> None:
    part.opening = b""


LIES: dict[str, tuple[Callable[[pack_pb2.PackedPart], None], str]] = {
    "other bytes": (other_bytes, "wrong-digest"),
    "cut": (cut_bytes, "wrong-length"),
    "other core": (other_core, "rows-disagree"),
    "swapped": (swapped, "rows-disagree"),
    "other key": (other_key, "wrong-key"),
    "nothing proved": (no_opening, "rows-disagree"),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_node_that_lies_is_passed_over(name: str) -> None:
    lie, reason = LIES[name]
    world = World()
    blobs = await put_all(world.client())
    names = [(RECORD, blob) for blob in blobs[1:3]]

    def once(part: pack_pb2.PackedPart) -> None:
        if world.gets == 1:
            lie(part)

    world.alter = once
    assert await world.client().get_many(names) == TEXTS[1:3]
    assert world.gets == 2  # another node was honest
    world.alter = lie
    with pytest.raises(Corrupt) as caught:
        await world.client().get_many(names)
    assert caught.value.reason == reason


async def test_a_lie_about_one_payload_costs_only_that_one() -> None:
    world = World(alter=other_bytes)
    blobs = await put_all(world.client())
    reader = world.client()
    results = await asyncio.gather(
        *(reader.get(RECORD, blob) for blob in blobs),
        return_exceptions=True,
    )
    assert sum(isinstance(result, HcefsError) for result in results) == 1


async def test_an_entry_of_another_signer_is_not_believed() -> None:
    world = World()
    blobs = await put_all(world.client())
    world.leaves.clear()
    with pytest.raises(NotFound) as caught:
        await world.client().get_many([(RECORD, blobs[0])])
    assert caught.value.reason == "not-committed"


async def test_a_shredded_payload_says_so_and_the_others_are_read() -> None:
    world = World()
    blobs = await put_all(world.client())

    def shred(part: pack_pb2.PackedPart) -> None:
        for payload in part.payloads:
            if payload.slot == 2:
                payload.wrapped_key = b""

    world.alter = shred
    reader = world.client()
    with pytest.raises(NotFound) as caught:
        await reader.get(RECORD, blobs[1])
    assert caught.value.reason == "shredded"
    assert await reader.get_many([(RECORD, blobs[0]), (RECORD, blobs[2])]) == [TEXTS[0], TEXTS[2]]


async def test_a_blob_that_nobody_knows() -> None:
    world = World()
    with pytest.raises(NotFound):
        await world.client().get_many([(RECORD, BlobId.of(b"b" * 16, 1))])


async def test_a_node_that_is_down_is_passed_over() -> None:
    world = World()
    blobs = await put_all(world.client())
    world.get_errors += [Unavailable("down", reason="unreachable")] * 2
    assert await world.client().get_many([(RECORD, blob) for blob in blobs]) == TEXTS


# -- cutting into packs


def test_packs_are_bounded() -> None:
    client = World().client()

    def orders(count: int, size: int) -> list[int]:
        made = [client._order((RECORD, bytes(size)), None, "TREAT") for _ in range(count)]
        return [len(pack) for pack in packs_of(made)]

    assert orders(PAYLOADS_MAX + 1, 1) == [PAYLOADS_MAX, 1]
    assert orders(5, PAYLOAD_BYTES_MAX) == [4, 1]
    with pytest.raises(Invalid) as caught:
        client._order((RECORD, bytes(PAYLOAD_BYTES_MAX + 1)), None, "TREAT")
    assert caught.value.reason == "too-large"
    with pytest.raises(Invalid):
        client._order(Payload(RECORD, b"x", name="n" * 16_384), None, "TREAT")


def test_a_record_has_one_right_in_a_pack() -> None:
    client, room = World().client(), PackRoom()
    own = client._order((RECORD, b"x"), None, "TREAT")
    granted = client._order((RECORD, b"x"), GrantId(b"g" * 16), "TREAT")
    assert room.enter(own)
    assert not room.enter(granted)
    assert [len(pack) for pack in packs_of([own, granted, own])] == [1, 1, 1]


async def test_nothing_is_nothing() -> None:
    client = World().client()
    assert await client.put_many([]) == []
    assert await client.get_many([]) == []
    assert client.account == OWNER.account
