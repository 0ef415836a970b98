"""Framing by hand equals the generated classes, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hcefs.errors import Invalid
from hcefs.transport.framing import DataFrame, Frame, frame_data, frame_field, frame_pieces, parse
from hcefs.transport.grpc_packs import PIECE_TAG
from hcefs.wire.v1 import blob_pb2, shard_pb2

KINDS: list[type[Message]] = [
    blob_pb2.PutRequest,
    blob_pb2.GetResponse,
    shard_pb2.StoreRequest,
    shard_pb2.LoadResponse,
]
CHECKSUMMED = shard_pb2.StoreRequest

payloads = st.binary(max_size=300) | st.sampled_from(
    [bytes(127), bytes(128), bytes(16383), bytes(16384), bytes(1 << 20)]
)
checksums = st.integers(0, 2**32 - 1)


def generated(kind: Any, **fields: Any) -> bytes:
    return bytes(kind(**fields).SerializeToString())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(payload=payloads)
@example(payload=b"")
def test_bytes_equal_the_generated_class(kind: type[Message], payload: bytes) -> None:
    wire = frame_data(payload)
    assert wire == generated(kind, data=payload)
    frame = parse(wire, kind)
    assert isinstance(frame, DataFrame)
    assert bytes(frame.data) == payload
    assert frame.crc32c == (0 if kind is CHECKSUMMED else None)


@settings(max_examples=30, deadline=None)
@given(payload=payloads, crc32c=checksums)
@example(payload=b"", crc32c=0)
@example(payload=b"x", crc32c=0)
@example(payload=b"x", crc32c=2**32 - 1)
def test_bytes_with_a_checksum_equal_the_generated_class(payload: bytes, crc32c: int) -> None:
    wire = frame_data(payload, crc32c)
    assert wire == generated(CHECKSUMMED, data=payload, crc32c=crc32c)
    frame = parse(wire, CHECKSUMMED)
    assert isinstance(frame, DataFrame)
    assert bytes(frame.data) == payload
    assert frame.crc32c == crc32c


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.binary(max_size=64), max_size=5), crc32c=checksums)
def test_pieces_are_joined(pieces: list[bytes], crc32c: int) -> None:
    expected = frame_data(b"".join(pieces), crc32c)
    assert frame_pieces([memoryview(piece) for piece in pieces], crc32c) == expected
    assert frame_pieces([bytearray(piece) for piece in pieces], crc32c) == expected


def test_a_view_of_wider_items_counts_bytes() -> None:
    view = memoryview(bytes(64)).cast("Q")
    assert frame_data(view) == frame_data(bytes(64))


def test_a_payload_is_a_view_of_its_message() -> None:
    wire = frame_data(b"payload", 5)
    frame = parse(wire, CHECKSUMMED)
    assert isinstance(frame, DataFrame)
    assert frame.data.obj is wire


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=40))
@example(data=b"\x12\x85\x00abcde")  # a length in more bytes than needed
@example(data=b"\x12\x05abc")  # cut short
@example(data=b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(data=b"\x12\x01a\x25\x01\x02\x03")  # a checksum cut short
@example(data=b"\x12\x01a\x12\x01b")  # the last one counts
@example(data=b"\x25\x01\x00\x00\x00\x12\x01a")  # another order
@example(data=b"\x12\x01a\x25\x01\x00\x00\x00\x25\x02\x00\x00\x00")
@example(data=b"\x12\x01a\x28\x07")  # an unknown field
@example(data=b"\x12\x01a\x0a\x00")  # a header after data
@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_mean_what_the_generated_parser_says(kind: Any, data: bytes) -> None:
    try:
        expected = kind.FromString(data)
    except Exception:  # noqa: BLE001 - whatever it raises, ours must be Invalid
        expected = None
    if expected is None or expected.WhichOneof("message") is None:
        with pytest.raises(Invalid) as caught:
            parse(data, kind)
        assert caught.value.reason == "malformed-message"
        return
    result = parse(data, kind)
    if expected.WhichOneof("message") == "data":
        assert isinstance(result, DataFrame)
        assert bytes(result.data) == expected.data
        assert result.crc32c == (expected.crc32c if kind is CHECKSUMMED else None)
    else:
        assert result == expected


def test_other_parts_are_generated_messages() -> None:
    header = generated(CHECKSUMMED, header=shard_pb2.StoreHeader(index=3, profile="ec-4-2"))
    start = parse(header, shard_pb2.StoreRequest)
    assert not isinstance(start, DataFrame)
    assert start.header.index == 3
    trailer = generated(blob_pb2.PutRequest, trailer=blob_pb2.PutTrailer(plaintext_length=9))
    end = parse(trailer, blob_pb2.PutRequest)
    assert not isinstance(end, DataFrame)
    assert end.trailer.plaintext_length == 9


@pytest.mark.parametrize("crc32c", [-1, 2**32])
def test_an_impossible_checksum_is_refused(crc32c: int) -> None:
    with pytest.raises(Invalid):
        frame_data(b"x", crc32c)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000])
def test_a_bytes_field_that_was_framed_by_hand_is_read_by_the_generated_class(size: int) -> None:
    piece = bytes(range(256)) * (size // 256 + 1)
    head = shard_pb2.StorePackRequest(index=3, crc32c=7, layout=b"layout").SerializeToString()
    message = frame_field(PIECE_TAG, memoryview(piece)[:size], head)
    assert shard_pb2.StorePackRequest.FromString(message) == shard_pb2.StorePackRequest(
        index=3, crc32c=7, layout=b"layout", piece=piece[:size]
    )


@settings(max_examples=30, deadline=None)
@given(payload=payloads, crc32c=checksums)
@example(payload=b"", crc32c=0)
@example(payload=b"x", crc32c=0)
def test_a_frame_built_in_place_equals_the_joined_one(payload: bytes, crc32c: int) -> None:
    plain, checked = Frame(len(payload)), Frame(len(payload), checksummed=True)
    bare = Frame(len(payload), bare=True)
    for frame in (plain, checked, bare):
        frame.room[:] = payload
    plain.close()
    bare.close()
    checked.close(crc32c)
    assert plain.message == frame_data(payload)
    assert checked.message == frame_data(payload, crc32c)
    assert bare.message == payload
    assert plain.data == checked.data == bare.data == payload


def test_a_frames_data_outlives_it() -> None:
    frame = Frame(1 << 20, checksummed=True)
    frame.room[:] = b"z" * (1 << 20)
    frame.close(7)
    data = frame.data[5:]
    del frame
    assert data.readonly
    assert bytes(data) == b"z" * ((1 << 20) - 5)
