"""Puts and gets that are cut short, too long, out of order, or of a wrong size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hcefs.client.client import Client
from hcefs.crypto.envelope import SUITE_XWING, EnvelopeContext
from hcefs.crypto.keys import dek_commitment, seal_envelope
from hcefs.crypto.stream import seal_segment, segment_secret
from hcefs.erasure.scheme import SEAL_OVERHEAD, SEGMENT_SIZE
from hcefs.errors import Exhausted
from hcefs.formats.manifest import Core
from hcefs.ids import BlobId
from hcefs.transport.framing import frame_data
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS
from hcefs.transport.status import from_rpc_error
from hcefs.transport.tls import client_credentials
from hcefs.wire.v1 import blob_pb2
from tests.services.requests import (
    BLOBS,
    DATA,
    ask,
    get,
    get_request,
    put,
    put_header,
    put_messages,
    put_trailer,
)
from tests.services.rig import HOUR_MS, MARK, SMALL_STREAMS, Rig, Running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


async def refused_put(
    rig: Rig, node: Running, blob: BlobId, messages: list[Any], kind: str, reason: str
) -> None:
    """The put fails so, and no node keeps anything of it."""
    await rig.refused(put(rig, node, messages), kind, reason)
    await rig.nothing_left(blob)


async def test_honest_put_is_pending_until_its_append(rig: Rig) -> None:
    blob = rig.new_blob()
    answer = await put(rig, rig.nodes[0], put_messages(rig, rig.nodes[0], blob))
    assert (answer.durable_shards, answer.total_shards, answer.degraded) == (6, 6, False)
    assert Core.decode(answer.core).plaintext_length == len(DATA)
    asked = rig.authorization(rig.doctor, "stat", rig.nodes[1], rig.read_grant, blob=blob)
    call = ask(rig, rig.nodes[1], "stat", asked, blob_id=bytes(blob))
    await rig.refused(call, "not-found", "not-committed")
    await rig.refused(get(rig, rig.nodes[1], blob_id=bytes(blob)), "not-found", "not-committed")


# -- the order of messages


async def test_header_is_missing(rig: Rig) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    data, trailer = put_messages(rig, node, blob)[1:]
    await refused_put(rig, node, blob, [], "invalid", "truncated")
    await refused_put(rig, node, blob, [data, trailer], "invalid", "bad-message")
    await refused_put(rig, node, blob, [trailer], "invalid", "bad-message")


@pytest.mark.parametrize("segments", [0, 1, 3])
async def test_trailer_is_missing(rig: Rig, segments: int) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    data = [MARK + rig.runtime.random(SEGMENT_SIZE - len(MARK)) for _ in range(segments)]
    messages = put_messages(rig, node, blob, data)[:-1]
    await refused_put(rig, node, blob, messages, "invalid", "truncated")


async def test_something_follows_the_trailer(rig: Rig) -> None:
    node = rig.nodes[0]
    for last in range(3):
        blob = rig.new_blob()
        messages = put_messages(rig, node, blob)
        extra = [frame_data(DATA), put_trailer(rig, node, blob, len(DATA)), messages[0]][last]
        await refused_put(rig, node, blob, [*messages, extra], "invalid", "extended")


async def test_two_headers(rig: Rig) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    header, data, trailer = put_messages(rig, node, blob)
    messages = [header, data, header, trailer]
    await refused_put(rig, node, blob, messages, "invalid", "bad-message")


@pytest.mark.parametrize("wrong", [-1, 1, -len(DATA), 1 << 40, (1 << 64) - 1 - len(DATA)])
async def test_trailer_with_a_wrong_length(rig: Rig, wrong: int) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    messages = put_messages(rig, node, blob, trailer={"plaintext_length": len(DATA) + wrong})
    await refused_put(rig, node, blob, messages, "invalid", "wrong-length")


async def test_trailer_by_another_presenter(rig: Rig) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    other = rig.authorization(rig.patient, "put", node, None, blob=blob)
    messages = put_messages(rig, node, blob, trailer={"authorization": other})
    await refused_put(rig, node, blob, messages, "denied", "wrong-writer")


async def test_trailer_with_the_headers_proof(rig: Rig) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    same = rig.authorization(rig.hospital, "put", node, rig.append_grant, blob=blob)
    messages = put_messages(
        rig, node, blob, header={"authorization": same}, trailer={"authorization": same}
    )
    await refused_put(rig, node, blob, messages, "denied", "replayed-proof")


# -- fields of the header


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({"blob_id": b"short"}, "invalid", "bad-id"),
        ({"record_id": b""}, "invalid", "bad-id"),
        ({"writer": b""}, "invalid", "bad-id"),
        ({"request_id": b"1"}, "invalid", "bad-id"),
        ({"salt": b"salt"}, "invalid", "bad-message"),
        ({"previous_leaf": b"leaf"}, "invalid", "bad-message"),
        ({"generation": 1}, "invalid", "unknown-generation"),
        ({"generation": (1 << 64) - 1}, "invalid", "unknown-generation"),
        ({"commit_by_ms": 1}, "invalid", "bad-commit-by"),
        ({"commit_by_ms": (1 << 64) - 1}, "invalid", "bad-commit-by"),
        ({"profile": "ec-1-1"}, "invalid", "unknown-profile"),
        ({"profile": "ec-8-3"}, "not-found", "unknown-profile"),
        ({"epoch": 2}, "unavailable", "other-epoch"),
        ({"epoch": (1 << 64) - 1}, "unavailable", "other-epoch"),
    ],
)
async def test_wrong_field_of_the_header(
    rig: Rig, fields: dict[str, Any], kind: str, reason: str
) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    messages = put_messages(rig, node, blob, header=fields)
    await refused_put(rig, node, blob, messages, kind, reason)


async def test_writer_who_is_not_the_presenter(rig: Rig) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    messages = put_messages(rig, node, blob, header={"writer": bytes(rig.doctor.account)})
    await refused_put(rig, node, blob, messages, "denied", "wrong-writer")


async def test_slot_of_a_pack(rig: Rig) -> None:
    node, blob = rig.nodes[0], BlobId.of(rig.runtime.random(16), 7)
    await refused_put(rig, node, blob, put_messages(rig, node, blob), "invalid", "unsupported")


async def test_blob_id_that_is_taken(rig: Rig) -> None:
    """The first put stays as it was; the second leaves nothing, under any profile."""
    node, blob = rig.nodes[0], rig.new_blob()
    while {(seat.node.node_id, seat.index) for seat in rig.seats(blob.base)} & {
        (seat.node.node_id, seat.index) for seat in rig.seats(blob.base, "copy-3")
    }:
        blob = rig.new_blob()  # so that under copy-3 every file name is free
    await put(rig, node, put_messages(rig, node, blob))
    before = {other.number: sorted(rig.kept(other, blob)) for other in rig.nodes}
    again = put_messages(rig, node, blob, [DATA + b"!"])
    await rig.refused(put(rig, node, again), "conflict", "shard-exists")
    copies = put_messages(rig, node, blob, [DATA + b"!"], header={"profile": "copy-3"})
    await rig.refused(put(rig, node, copies), "conflict", "row-exists")
    for other in rig.nodes:
        assert sorted(rig.kept(other, blob)) == before[other.number]


# -- clients that vanish


class Stuck:
    """A put whose client sends some messages and then nothing."""

    def __init__(self, rig: Rig, node: Running, messages: list[Any]) -> None:
        self._messages = [m if isinstance(m, bytes) else m.SerializeToString() for m in messages]
        self._gone = asyncio.Event()
        channel = rig.channel(node.config.client_address)
        self.call = channel.stream_unary(f"{BLOBS}/Put")(self._send(), timeout=60)

    async def _send(self) -> AsyncIterator[bytes]:
        for message in self._messages:
            yield message
        await self._gone.wait()

    async def vanish(self) -> None:
        self.call.cancel()
        self._gone.set()
        with pytest.raises(asyncio.CancelledError):
            await self.call


async def test_client_vanishes_in_the_middle(rig: Rig) -> None:
    node, blob = rig.nodes[1], rig.new_blob()
    # Enough for two full messages to each holder: the first is sent, and its stream opened,
    # when the second is begun.
    data = [MARK + rig.runtime.random(SEGMENT_SIZE - len(MARK)) for _ in range(10)]
    stuck = Stuck(rig, node, put_messages(rig, node, blob, data)[:-1])
    await rig.until(lambda: all(rig.temporaries(other) for other in rig.nodes))
    assert node.process.gate.held == 1
    await stuck.vanish()
    await rig.nothing_left(blob)


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 3, 5, 8, 12, 20])
async def test_client_vanishes_at_the_start(rig: Rig, delay_ms: int) -> None:
    """At whatever moment: while holders are being called, while their files are made."""
    node, blob = rig.nodes[1], rig.new_blob()
    data = [MARK + rig.runtime.random(SEGMENT_SIZE - len(MARK)) for _ in range(10)]
    stuck = Stuck(rig, node, put_messages(rig, node, blob, data)[:-1])
    await rig.until(lambda: node.process.gate.held == 1)
    await rig.runtime.sleep(delay_ms / 1000)
    await stuck.vanish()
    await rig.nothing_left(blob)


async def test_reader_vanishes_in_the_middle(rig: Rig) -> None:
    node = rig.nodes[1]
    # A window far below one message: the node cannot be done before the reader reads.
    window = [("grpc.http2.lookahead_bytes", 1 << 16), ("grpc.http2.bdp_probe", 0)]
    options = [*CHANNEL_OPTIONS, *window]
    credentials = client_credentials(rig.authority)
    narrow: Any = grpc.aio.secure_channel(node.config.client_address, credentials, options=options)
    async with narrow as channel:
        call = channel.unary_stream(f"{BLOBS}/Get")(get_request(rig, node).SerializeToString())
        assert await call.read()
        assert node.process.gate.held == 1
        call.cancel()
        await rig.until(lambda: not any(other.process.gate.held for other in rig.nodes))
    assert len(await get(rig, node)) == 4


async def test_too_many_streams(rig: Rig) -> None:
    """The one too many is refused at once, with a delay; the others go on."""
    node = rig.nodes[3]
    blobs = [rig.new_blob() for _ in range(SMALL_STREAMS)]
    stuck = [Stuck(rig, node, [put_header(rig, node, blob)]) for blob in blobs]
    await rig.until(lambda: node.process.gate.held == SMALL_STREAMS)
    for call in (
        put(rig, node, put_messages(rig, node, rig.new_blob())),
        get(rig, node),
        ask(rig, node, "list", rig.authorization(rig.doctor, "list", node, rig.read_grant)),
    ):
        error = await rig.refused(call, "exhausted", "busy")
        assert isinstance(error, Exhausted)
        assert 500 <= error.retry_after_ms <= 1_500
    for one in stuck:
        await one.vanish()
    for blob in blobs:
        await rig.nothing_left(blob)
    assert await get(rig, node)


async def test_refusal_while_the_client_still_sends(rig: Rig) -> None:
    """A client that goes on sending after it was refused gets the reason, not a reset."""
    node, blob = rig.nodes[0], rig.new_blob()
    header = put_header(rig, node, blob, salt=b"")
    part = frame_data(MARK + rig.runtime.random(SEGMENT_SIZE - len(MARK)))
    await refused_put(rig, node, blob, [header, *[part] * 12], "invalid", "bad-message")


# -- sizes


@pytest.mark.parametrize("seal", ["node", "client"])
@pytest.mark.parametrize(
    "size", [0, 1, SEGMENT_SIZE - 1, SEGMENT_SIZE, SEGMENT_SIZE + 1, 2 * SEGMENT_SIZE]
)
async def test_sizes_around_a_segment(rig: Rig, size: int, seal: str) -> None:
    data = (MARK + rig.runtime.random(size))[:size]
    receipt = await rig.hospital.put(rig.record, data, grant=rig.append_grant.grant, seal=seal)
    assert receipt.core.plaintext_length == size
    for opens in ("node", "client"):
        stream = await rig.doctor.get(
            rig.record, receipt.ref.blob, grant=rig.read_grant.grant, seal=opens
        )
        assert await stream.read() == data


@pytest.mark.parametrize(
    ("start", "length", "kind", "reason"),
    [
        (4_000_000, 0, "invalid", "bad-range"),
        (0, 4_000_000, "invalid", "bad-range"),
        (3_000_000, 1_000, "invalid", "bad-range"),
        ((1 << 63) - 2, 1, "invalid", "bad-range"),
        ((1 << 63) - 1, 1, "denied", "wrong-range"),
        ((1 << 64) - 1, (1 << 64) - 1, "denied", "wrong-range"),
        (0, 1 << 63, "denied", "wrong-range"),
    ],
)
async def test_range_outside_the_blob(
    rig: Rig, start: int, length: int, kind: str, reason: str
) -> None:
    call = get(rig, rig.nodes[0], range_start=start, range_length=length)
    await rig.refused(call, kind, reason)


async def test_range_at_the_end_is_empty(rig: Rig) -> None:
    stream = await _ranged(rig, rig.doctor, len(rig.payload) - 1, 1)
    assert stream == rig.payload[-1:]
    header, *data = await get(rig, rig.nodes[0], range_start=len(rig.payload))
    assert blob_pb2.GetResponse.FromString(header).header.range_length == 0
    assert len(data) == 1  # the last segment, sealed: it proves the length


async def _ranged(rig: Rig, client: Client, start: int, length: int) -> bytes:
    stream = await client.get(
        rig.record,
        rig.receipt.ref.blob,
        grant=rig.read_grant.grant,
        start=start,
        length=length,
    )
    return await stream.read()


async def test_unknown_blob(rig: Rig) -> None:
    for blob in (rig.new_blob(), BlobId.of(rig.receipt.ref.blob.base, 3)):
        for node in (rig.nodes[0], rig.nodes[5]):
            call = get(rig, node, blob_id=bytes(blob))
            await rig.refused(call, "not-found", "unknown-blob")
            asked = rig.authorization(rig.doctor, "stat", node, rig.read_grant, blob=blob)
            stat = ask(rig, node, "stat", asked, blob_id=bytes(blob))
            await rig.refused(stat, "not-found", "unknown-blob")
    await rig.refused(get(rig, rig.nodes[0], blob_id=b"x" * 17), "invalid", "bad-id")


async def test_blob_of_another_record(rig: Rig) -> None:
    """The owner of two records does not find a blob of one in the other."""
    node, blob = rig.nodes[0], rig.receipt.ref.blob
    named = {"record": rig.other_record}
    asked = rig.authorization(rig.patient, "stat", node, None, blob=blob, says=named)
    call = ask(rig, node, "stat", asked, record_id=bytes(rig.other_record))
    await rig.refused(call, "not-found", "unknown-blob")


# -- sealed by the client


def _client_seal(rig: Rig, blob: BlobId, dek: bytes) -> blob_pb2.ClientSeal:
    public = rig.keys_of(rig.patient).record_key(rig.record, 0).public_key
    context = EnvelopeContext(
        "dek", SUITE_XWING, rig.cluster, rig.record, 0, bytes(blob), bytes(rig.record)
    )
    return blob_pb2.ClientSeal(
        dek_commitment=dek_commitment(dek), sealed_dek=seal_envelope(public, dek, context).encode()
    )


async def test_sealed_segments_of_wrong_sizes(rig: Rig) -> None:
    node = rig.nodes[0]
    dek = rig.runtime.random(32)
    rig.secrets.add(dek)

    async def attempt(sizes: list[int], length: int, reason: str) -> None:
        blob = rig.new_blob()
        data = [rig.runtime.random(size + SEAL_OVERHEAD) for size in sizes]
        seal = {"client_seal": _client_seal(rig, blob, dek)}
        end = {"plaintext_length": length}
        messages = put_messages(rig, node, blob, data, header=seal, trailer=end)
        await refused_put(rig, node, blob, messages, "invalid", reason)

    await attempt([10, 10], 20, "bad-segment")
    await attempt([10, SEGMENT_SIZE], SEGMENT_SIZE + 10, "bad-segment")
    await attempt([SEGMENT_SIZE + 1], SEGMENT_SIZE + 1, "bad-segment")
    await attempt([], 0, "wrong-length")
    await attempt([SEGMENT_SIZE, 0], SEGMENT_SIZE, "wrong-length")
    await attempt([10], 11, "wrong-length")
    blob = rig.new_blob()
    seal = {"client_seal": _client_seal(rig, blob, dek)}
    messages = put_messages(rig, node, blob, [b"47 bytes are too short to be a sealed segment."],
                            header=seal)  # fmt: skip
    await refused_put(rig, node, blob, messages, "invalid", "bad-segment")


async def test_client_seal_of_a_wrong_shape(rig: Rig) -> None:
    node = rig.nodes[0]
    dek = rig.runtime.random(32)
    rig.secrets.add(dek)
    for fields, reason in (
        ({"dek_commitment": b"short"}, "bad-message"),
        ({"sealed_dek": b""}, "malformed-encoding"),
        ({"sealed_dek": b"\xff\x00"}, "malformed-encoding"),
    ):
        blob = rig.new_blob()
        seal = _client_seal(rig, blob, dek)
        for name, value in fields.items():
            setattr(seal, name, value)
        messages = put_messages(rig, node, blob, header={"client_seal": seal})
        await refused_put(rig, node, blob, messages, "invalid", reason)


@pytest.mark.parametrize("seal", ["node", "client"])
async def test_metadata_that_is_too_large_or_malformed(rig: Rig, seal: str) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    header: dict[str, Any] = {}
    data = DATA
    if seal == "node":
        cases = [(b"\xff", "malformed-encoding"), (bytes(20_000), "malformed-encoding")]
    else:
        dek = rig.runtime.random(32)
        rig.secrets.add(dek)
        header = {"client_seal": _client_seal(rig, blob, dek)}
        data = seal_segment(segment_secret(dek, 0), blob, rig.record, True, DATA)
        cases = [(bytes(20_000), "bad-core")]
    for metadata, reason in cases:
        name = "metadata" if seal == "node" else "sealed_metadata"
        trailer = {"plaintext_length": len(DATA), name: metadata}
        messages = put_messages(rig, node, blob, [data], header=header, trailer=trailer)
        await refused_put(rig, node, blob, messages, "invalid", reason)


# -- messages beyond the limit


async def test_message_over_the_limit(rig: Rig) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    huge = MARK + rig.runtime.random(2 * SEGMENT_SIZE)
    messages = put_messages(rig, node, blob, [huge])
    await refused_put(rig, node, blob, messages, "invalid", "message-too-large")
    request = blob_pb2.StatRequest(request_id=huge)
    call = rig.unary(node.config.client_address, f"{BLOBS}/Stat", request)
    await rig.refused(call, "invalid", "message-too-large")


async def test_codes_that_other_languages_see(rig: Rig) -> None:
    """The status code is right too, for clients that do not know the metadata."""
    node = rig.nodes[0]
    channel = rig.channel(node.config.client_address)
    call = channel.unary_stream(f"{BLOBS}/Get")(
        get_request(rig, node, range_start=1 << 40).SerializeToString()
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value).reason == "bad-range"


async def test_commit_by_beyond_a_week(rig: Rig) -> None:
    node, blob = rig.nodes[0], rig.new_blob()
    late = {"commit_by_ms": rig.runtime.now_ms() + 8 * 24 * HOUR_MS}
    messages = put_messages(rig, node, blob, header=late)
    await refused_put(rig, node, blob, messages, "invalid", "bad-commit-by")
