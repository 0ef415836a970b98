"""The shard file: offsets, round trips, and every kind of damage."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from hcefs.erasure.scheme import PROFILES, SEGMENTS_MAX, Geometry, Profile
from hcefs.errors import Corrupt, Invalid
from hcefs.formats.shard import (
    HEADER_SIZE,
    TRAILER_SIZE,
    ShardFooter,
    ShardHeader,
    check_lengths,
    decode_file,
    decode_footer,
    decode_trailer,
    file_length,
    footer_length,
    piece_in,
)
from hcefs.ids import BlobBase
from hcefs.integrity import blake3_digest, crc32c, shard_digest

BASE = BlobBase(bytes(range(16)))
HEADER = ShardHeader(BASE, 5, "ec-4-2", 4, 2, 1 << 20)
DIGESTS = [blake3_digest(bytes([i])) for i in range(3)]
FOOTER = ShardFooter.of(2_500_000, b"".join(DIGESTS))


def resealed_header(data: bytes) -> bytes:
    """The bytes with the CRC32C made right: damage that a checksum does not find."""
    return data[:-4] + struct.pack(">I", crc32c(data[:-4]))


def resealed_footer(data: bytes) -> bytes:
    return data[:-12] + struct.pack(">I", crc32c(data[:-12])) + data[-8:]


def test_header_round_trip() -> None:
    data = HEADER.encode()
    assert len(data) == HEADER_SIZE == 256
    assert data.startswith(b"HCEFSHRD\x00\x01" + BASE)
    assert ShardHeader.decode(data) == HEADER


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_every_profile_fits(profile: Profile) -> None:
    header = ShardHeader(BASE, profile.n - 1, profile.name, profile.k, profile.m, 1 << 20)
    assert ShardHeader.decode(header.encode()) == header
    assert header.geometry(10).profile == profile


@pytest.mark.parametrize(
    "header",
    [
        replace(HEADER, index=6),
        replace(HEADER, index=-1),
        replace(HEADER, profile=""),
        replace(HEADER, profile="a" * 17),
        replace(HEADER, profile="ec-4-ä"),
        replace(HEADER, profile="a\x00b"),
        replace(HEADER, k=0),
        replace(HEADER, m=0),
        replace(HEADER, k=255),
        replace(HEADER, segment_size=0),
        replace(HEADER, segment_size=1 << 32),
    ],
)
def test_headers_that_do_not_fit_are_not_written(header: ShardHeader) -> None:
    with pytest.raises(Invalid) as caught:
        header.encode()
    assert caught.value.reason == "bad-header"


def test_one_flipped_bit_anywhere_in_the_header_is_found() -> None:
    data = HEADER.encode()
    for position in range(HEADER_SIZE):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(Corrupt) as caught:
            ShardHeader.decode(bytes(damaged))
        assert caught.value.reason == "bad-header"


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (8, b"\x00\x03", "unknown-version"),
        (26, b"\x00\x06", "bad-header"),
        (28, bytes(16), "bad-header"),
        (28, b"\xff" * 16, "bad-header"),
        (28, b"a\x00b" + bytes(13), "bad-header"),
        (44, b"\x00\x00", "bad-header"),
        (46, b"\x00\x00", "bad-header"),
        (44, b"\x01\x00", "bad-header"),
        (48, bytes(8), "bad-header"),
        (48, b"\xff" * 8, "bad-header"),
        (56, b"\x01", "bad-header"),
        (251, b"\x01", "bad-header"),
    ],
)
def test_impossible_headers_under_a_right_checksum(offset: int, value: bytes, reason: str) -> None:
    data = HEADER.encode()
    with pytest.raises(Corrupt) as caught:
        ShardHeader.decode(resealed_header(data[:offset] + value + data[offset + len(value) :]))
    assert caught.value.reason == reason


@pytest.mark.parametrize("size", [0, 1, HEADER_SIZE - 1, HEADER_SIZE + 1])
def test_headers_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(Corrupt):
        ShardHeader.decode((HEADER.encode() * 2)[:size])


def test_footer_round_trip() -> None:
    data = FOOTER.encode()
    assert len(data) == footer_length(3) == 3 * 32 + TRAILER_SIZE
    assert decode_footer(data) == FOOTER
    trailer = decode_trailer(data[-TRAILER_SIZE:])
    assert (trailer.plaintext_length, trailer.pieces) == (2_500_000, 3)
    assert trailer.shard_digest == FOOTER.shard_digest == shard_digest(DIGESTS)
    assert FOOTER.pieces == 3
    assert [FOOTER.digest_of(i) for i in range(3)] == DIGESTS


@pytest.mark.parametrize("piece", [-1, 3])
def test_digests_outside_the_shard_are_refused(piece: int) -> None:
    with pytest.raises(Invalid):
        FOOTER.digest_of(piece)


@pytest.mark.parametrize(
    ("length", "digests"),
    [(0, b""), (0, bytes(31)), (0, bytes(33)), (-1, bytes(32)), (1 << 64, bytes(32))],
)
def test_footers_that_do_not_fit_are_not_written(length: int, digests: bytes) -> None:
    for make in (
        lambda: ShardFooter.of(length, digests),
        lambda: ShardFooter(length, digests, bytes(32)).encode(),
    ):
        with pytest.raises(Invalid) as caught:
            make()
        assert caught.value.reason == "bad-footer"


def test_a_footer_with_anothers_shard_digest_is_not_written() -> None:
    with pytest.raises(Invalid) as caught:
        replace(FOOTER, shard_digest=bytes(32)).encode()
    assert caught.value.reason == "bad-footer"


def test_one_flipped_bit_anywhere_in_the_footer_is_found() -> None:
    data = FOOTER.encode()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(Corrupt) as caught:
            decode_footer(bytes(damaged))
        assert caught.value.reason == "bad-footer"


def test_swapped_digests_under_a_right_checksum_are_found_by_the_shard_digest() -> None:
    data = FOOTER.encode()
    swapped = data[32:64] + data[:32] + data[64:]
    with pytest.raises(Corrupt, match="shard digest") as caught:
        decode_footer(resealed_footer(swapped))
    assert caught.value.reason == "bad-footer"


@pytest.mark.parametrize("cut", [0, 1, TRAILER_SIZE, footer_length(3) - 1])
def test_cut_footers_are_found(cut: int) -> None:
    for data in (FOOTER.encode()[:cut], FOOTER.encode()[-cut:] if cut else b""):
        with pytest.raises(Corrupt) as caught:
            decode_footer(data)
        assert caught.value.reason == "bad-footer"


def test_a_footer_with_bytes_before_it_is_refused() -> None:
    with pytest.raises(Corrupt):
        decode_footer(bytes(32) + FOOTER.encode())


@pytest.mark.parametrize("pieces", [0, SEGMENTS_MAX + 1, (1 << 64) - 1])
def test_impossible_counts_are_refused_before_anything_is_allocated(pieces: int) -> None:
    trailer = bytearray(FOOTER.encode()[-TRAILER_SIZE:])
    struct.pack_into(">Q", trailer, 8, pieces)
    with pytest.raises(Corrupt) as caught:
        decode_trailer(bytes(trailer))
    assert caught.value.reason == "bad-footer"


@pytest.mark.parametrize("size", [0, TRAILER_SIZE - 1, TRAILER_SIZE + 1])
def test_trailers_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(Corrupt):
        decode_trailer(FOOTER.encode()[:size])


def test_a_trailer_of_another_version_than_its_header_is_damage() -> None:
    data = FOOTER.encode()
    with pytest.raises(Corrupt, match="version 2, its header 1") as caught:
        decode_footer(resealed_footer(data[:-16] + b"\x00\x02" + data[-14:]))
    assert caught.value.reason == "bad-footer"


def test_lengths_agree() -> None:
    geometry = Geometry(2_500_000, PROFILES["ec-4-2"])
    size = file_length(geometry)
    assert size == HEADER_SIZE + geometry.pieces_length + footer_length(3)
    trailer = decode_trailer(FOOTER.encode()[-TRAILER_SIZE:])
    assert check_lengths(HEADER, trailer, size) == geometry


@pytest.mark.parametrize(
    ("plaintext_length", "size_error"),
    [(2_500_000, 1), (2_500_000, -1), (5_000_000, 0), ((1 << 64) - 1, 0)],
)
def test_contradicting_lengths_are_found(plaintext_length: int, size_error: int) -> None:
    size = file_length(Geometry(2_500_000, PROFILES["ec-4-2"])) + size_error
    trailer = decode_trailer(
        ShardFooter.of(plaintext_length, b"".join(DIGESTS)).encode()[-TRAILER_SIZE:]
    )
    with pytest.raises(Corrupt) as caught:
        check_lengths(HEADER, trailer, size)
    assert caught.value.reason == "bad-footer"


def whole_file() -> bytes:
    geometry = Geometry(2_500_000, PROFILES["ec-4-2"])
    pieces = b"".join(bytes([n]) * geometry.piece_of(n) for n in range(geometry.segments))
    return HEADER.encode() + pieces + FOOTER.encode()


def test_a_whole_file_is_taken_apart() -> None:
    data = whole_file()
    header, footer, geometry = decode_file(data)
    assert (header, footer, geometry.segments) == (HEADER, FOOTER, 3)
    for n in range(3):
        assert piece_in(data, geometry, n) == bytes([n]) * geometry.piece_of(n)


@pytest.mark.parametrize("kept", [0, HEADER_SIZE, HEADER_SIZE + 40, -TRAILER_SIZE, -1])
def test_a_cut_file_is_not_taken_apart(kept: int) -> None:
    with pytest.raises(Corrupt):
        decode_file(whole_file()[:kept])
