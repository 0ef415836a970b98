"""Segments: round trips at every edge of a length, and every way to tamper."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from hcefs.crypto import stream
from hcefs.crypto.stream import (
    SEAL_OVERHEAD,
    SEGMENT_SIZE,
    open_segment,
    open_segment_into,
    open_segment_pieces,
    open_segment_pieces_into,
    seal_segment,
    seal_segment_into,
    seal_segment_pieces_into,
    segment_secret,
)
from hcefs.erasure.scheme import SEAL_OVERHEAD as SCHEME_OVERHEAD
from hcefs.erasure.scheme import SEGMENT_SIZE as SCHEME_SEGMENT
from hcefs.erasure.scheme import piece_length
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import BlobId, RecordId

DEK = bytes(range(32))
SECRET = segment_secret(DEK, 7)
BLOB = BlobId(b"b" * 18)
RECORD = RecordId(b"r" * 16)
LENGTHS = [0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 4095, 4096, 4097]
FULL = [SEGMENT_SIZE - 1, SEGMENT_SIZE]
DATA_PIECES = [1, 3, 4, 8, 10]


def payload(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def cut(sealed: bytes, k: int, size: int | None = None) -> list[bytes]:
    size = piece_length(len(sealed), k) if size is None else size
    padded = sealed.ljust(size * k, b"\x00")
    return [padded[i * size : (i + 1) * size] for i in range(k)]


def test_sizes_equal_those_of_the_erasure_geometry() -> None:
    assert (SCHEME_SEGMENT, SCHEME_OVERHEAD) == (SEGMENT_SIZE, SEAL_OVERHEAD)


@pytest.mark.parametrize("length", LENGTHS + FULL)
def test_every_way_to_seal_and_to_open_agrees(length: int) -> None:
    plaintext = payload(length)
    sealed = seal_segment(SECRET, BLOB, RECORD, True, plaintext)
    assert len(sealed) == length + SEAL_OVERHEAD
    out = bytearray(b"\xaa" * (length + SEAL_OVERHEAD + 100))
    written = seal_segment_into(
        SECRET, BLOB, RECORD, True, memoryview(bytearray(plaintext)), memoryview(out)
    )
    assert bytes(out[:written]) == sealed
    assert out[written:] == b"\xaa" * 100
    assert open_segment(SECRET, BLOB, RECORD, True, memoryview(sealed)) == plaintext
    room = bytearray(b"\xaa" * (length + 9))
    assert open_segment_into(SECRET, BLOB, RECORD, True, sealed, memoryview(room)) == length
    assert bytes(room) == plaintext + b"\xaa" * 9
    for k in DATA_PIECES:
        pieces = cut(sealed, k)
        assert open_segment_pieces(SECRET, BLOB, RECORD, True, pieces, len(sealed)) == plaintext


@pytest.mark.parametrize("size", [1, 5, 16, 31, 33, 48, 200])
def test_pieces_may_be_cut_anywhere(size: int) -> None:
    # Commitment and tag lie across many pieces here, and some pieces are all padding.
    plaintext = payload(100)
    sealed = seal_segment(SECRET, BLOB, RECORD, True, plaintext)
    pieces = [memoryview(bytearray(piece)) for piece in cut(sealed, -(-148 // size) + 2, size)]
    assert open_segment_pieces(SECRET, BLOB, RECORD, True, pieces, len(sealed)) == plaintext


def test_a_full_segment_in_the_middle_opens_as_such_only() -> None:
    plaintext = payload(SEGMENT_SIZE)
    sealed = seal_segment(SECRET, BLOB, RECORD, False, plaintext)
    assert open_segment(SECRET, BLOB, RECORD, False, sealed) == plaintext
    assert open_segment_pieces(SECRET, BLOB, RECORD, False, cut(sealed, 4), len(sealed)) == (
        plaintext
    )
    with pytest.raises(Corrupt) as caught:
        open_segment(SECRET, BLOB, RECORD, True, sealed)
    assert caught.value.reason == "bad-seal"


@pytest.mark.parametrize(
    ("length", "last"), [(SEGMENT_SIZE + 1, True), (SEGMENT_SIZE - 1, False), (0, False)]
)
def test_segments_of_a_wrong_length_are_refused_both_ways(length: int, last: bool) -> None:
    with pytest.raises(Invalid) as refused:
        seal_segment(SECRET, BLOB, RECORD, last, payload(length))
    assert refused.value.reason == "bad-segment"
    with pytest.raises(Corrupt) as caught:
        open_segment(SECRET, BLOB, RECORD, last, bytes(length + SEAL_OVERHEAD))
    assert caught.value.reason == "bad-seal"


Attempt = Callable[[memoryview], object]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("dek", "wrong-key"),
        ("index", "wrong-key"),
        ("commitment", "wrong-key"),
        ("blob", "bad-seal"),
        ("record", "bad-seal"),
        ("last", "bad-seal"),
        ("ciphertext", "bad-seal"),
        ("tag", "bad-seal"),
        ("cut", "bad-seal"),
        ("extended", "bad-seal"),
        ("to-overhead", "bad-seal"),
        ("empty", "bad-seal"),
    ],
)
def test_every_tampering_is_found_and_leaves_no_plaintext(damage: str, reason: str) -> None:
    secret, blob, record, last = SECRET, BLOB, RECORD, True
    sealed = bytearray(seal_segment(secret, blob, record, last, payload(1000)))
    match damage:
        case "dek":
            secret = segment_secret(bytes(32), 7)
        case "index":
            secret = segment_secret(DEK, 8)
        case "blob":
            blob = BlobId(bytes(18))
        case "record":
            record = RecordId(bytes(16))
        case "last":
            sealed = bytearray(seal_segment(secret, blob, record, False, payload(SEGMENT_SIZE)))
        case "commitment" | "ciphertext" | "tag":
            sealed[{"commitment": 0, "ciphertext": 500, "tag": -1}[damage]] ^= 1
        case "cut" | "to-overhead" | "empty":
            del sealed[{"cut": -1, "to-overhead": SEAL_OVERHEAD, "empty": 0}[damage] :]
        case "extended":
            sealed += b"\x00"
    attempts: list[Attempt] = [
        lambda out: open_segment(secret, blob, record, last, sealed),
        lambda out: open_segment_into(secret, blob, record, last, sealed, out),
        lambda out: open_segment_pieces(
            secret, blob, record, last, cut(bytes(sealed), 4), len(sealed)
        ),
        lambda out: open_segment_pieces_into(
            secret, blob, record, last, cut(bytes(sealed), 4), len(sealed), out
        ),
    ]
    for attempt in attempts:
        out = bytearray(SEGMENT_SIZE)
        with pytest.raises(Corrupt) as caught:
            attempt(memoryview(out))
        assert caught.value.reason == reason
        assert not any(out)
        assert not any(stream._scratch.view)


def test_no_plaintext_stays_in_the_working_memory() -> None:
    sealed = seal_segment(SECRET, BLOB, RECORD, True, payload(5000))
    open_segment_pieces(SECRET, BLOB, RECORD, True, cut(sealed, 4), len(sealed))
    assert not any(stream._scratch.view)


def test_pieces_shorter_than_the_sealed_length_are_corrupt() -> None:
    sealed = seal_segment(SECRET, BLOB, RECORD, True, payload(1000))
    with pytest.raises(Corrupt) as caught:
        open_segment_pieces(SECRET, BLOB, RECORD, True, cut(sealed, 4)[:3], len(sealed))
    assert caught.value.reason == "bad-seal"


def test_pieces_out_of_order_are_corrupt() -> None:
    sealed = seal_segment(SECRET, BLOB, RECORD, True, payload(1000))
    first, second, third, fourth = cut(sealed, 4)
    for pieces, reason in (
        ([second, first, third, fourth], "wrong-key"),
        ([first, third, second, fourth], "bad-seal"),
    ):
        with pytest.raises(Corrupt) as caught:
            open_segment_pieces(SECRET, BLOB, RECORD, True, pieces, len(sealed))
        assert caught.value.reason == reason


@pytest.mark.parametrize("room", [bytearray(99), bytes(200)], ids=["short", "read-only"])
def test_output_buffers_that_are_short_or_read_only_are_refused(room: bytes | bytearray) -> None:
    sealed = seal_segment(SECRET, BLOB, RECORD, True, payload(100))
    attempts: list[Attempt] = [
        lambda out: seal_segment_into(SECRET, BLOB, RECORD, True, payload(100), out),
        lambda out: open_segment_into(SECRET, BLOB, RECORD, True, sealed, out),
        lambda out: open_segment_pieces_into(
            SECRET, BLOB, RECORD, True, [sealed], len(sealed), out
        ),
    ]
    for attempt in attempts:
        with pytest.raises(Invalid) as caught:
            attempt(memoryview(room))
        assert caught.value.reason == "bad-buffer"


def test_secrets_and_indexes_of_a_wrong_size_are_refused() -> None:
    with pytest.raises(Invalid):
        segment_secret(bytes(31), 0)
    for index in (-1, 1 << 64):
        with pytest.raises(Invalid):
            segment_secret(DEK, index)
    with pytest.raises(Invalid):
        seal_segment(bytes(16), BLOB, RECORD, True, b"")


def test_segments_have_secrets_of_their_own() -> None:
    assert len({segment_secret(DEK, index) for index in (*range(300), 1 << 24, 1 << 63)}) == 302


def test_the_kernels_may_run_in_many_threads_at_once() -> None:
    def round_trip(index: int) -> bool:
        secret = segment_secret(DEK, index)
        plaintext = payload(3000 + index)
        sealed = seal_segment(secret, BLOB, RECORD, True, plaintext)
        pieces = cut(sealed, 4)
        return all(
            open_segment_pieces(secret, BLOB, RECORD, True, pieces, len(sealed)) == plaintext
            for _ in range(20)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(round_trip, range(32)))


@pytest.mark.parametrize("length", LENGTHS + FULL)
@pytest.mark.parametrize("k", DATA_PIECES)
@pytest.mark.parametrize("size", [None, 7])
def test_sealing_into_pieces_gives_the_same_bytes(length: int, k: int, size: int | None) -> None:
    sealed = seal_segment(SECRET, BLOB, RECORD, True, payload(length))
    if size is None:
        size = piece_length(len(sealed), k)
    else:
        size = max(size, len(sealed) // 500)  # seldom a multiple of a cipher block
        k = -(-len(sealed) // size)
    pieces = [memoryview(bytearray(b"\xaa" * size)) for _ in range(k)]
    written = seal_segment_pieces_into(SECRET, BLOB, RECORD, True, payload(length), pieces)
    joined = b"".join(pieces)
    assert joined[:written] == sealed
    assert set(joined[written:]) <= {0xAA}


def test_pieces_without_room_are_refused() -> None:
    small = [memoryview(bytearray(10)), memoryview(bytearray(SEAL_OVERHEAD + 89))]
    readonly = [memoryview(bytes(SEAL_OVERHEAD + 100))]
    for pieces in (small, readonly):
        with pytest.raises(Invalid) as caught:
            seal_segment_pieces_into(SECRET, BLOB, RECORD, True, payload(100), pieces)
        assert caught.value.reason == "bad-buffer"
    with pytest.raises(Invalid) as caught:
        seal_segment_pieces_into(SECRET, BLOB, RECORD, False, payload(51), small)
    assert caught.value.reason == "bad-segment"
