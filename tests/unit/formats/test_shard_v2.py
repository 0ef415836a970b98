"""Version 2 of the shard file: its two ends prove that they belong together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.erasure.scheme import PROFILES, Geometry
from hcefs.errors import Corrupt
from hcefs.formats.shard import (
    HEADER_SIZE,
    ShardFooter,
    ShardHeader,
    decode_file,
    file_length,
)
from hcefs.ids import BlobBase
from hcefs.integrity import blake3_digest

GEOMETRY = Geometry(2_500_000, PROFILES["ec-4-2"])
PIECES = [bytes([n]) * GEOMETRY.piece_of(n) for n in range(GEOMETRY.segments)]
HEADER = ShardHeader(BlobBase(bytes(range(16))), 5, "ec-4-2", 4, 2, 1 << 20)
FOOTER = ShardFooter.of(2_500_000, b"".join(map(blake3_digest, PIECES)))


def whole(version: int, base: bytes = bytes(range(16))) -> bytes:
    header = replace(HEADER, version=version, base=BlobBase(base))
    return header.encode() + b"".join(PIECES) + FOOTER.encode(header)


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_read_and_have_one_length(version: int) -> None:
    header, footer, geometry = decode_file(whole(version))
    assert (header, footer) == (replace(HEADER, version=version), FOOTER)
    assert len(whole(version)) == file_length(geometry)


def test_a_header_of_another_shard_is_found_in_version_2_alone() -> None:
    other = bytes(16)
    for version, is_found in ((1, False), (2, True)):
        mixed = whole(version, other)[:HEADER_SIZE] + whole(version)[HEADER_SIZE:]
        if is_found:
            with pytest.raises(Corrupt) as caught:
                decode_file(mixed)
            assert caught.value.reason == "bad-footer"
        else:
            assert decode_file(mixed)[0].base == BlobBase(other)


@pytest.mark.parametrize(("head", "tail"), [(1, 2), (2, 1)])
def test_ends_of_two_versions_are_damage(head: int, tail: int) -> None:
    mixed = whole(head)[:HEADER_SIZE] + whole(tail)[HEADER_SIZE:]
    with pytest.raises(Corrupt) as caught:
        decode_file(mixed)
    assert caught.value.reason == "bad-footer"


@pytest.mark.parametrize("place", [8, 9, 26, 250, 255, -64, -16, -15, -12, -1])
@pytest.mark.parametrize("version", [1, 2])
def test_no_flipped_bit_passes_for_newer_software(version: int, place: int) -> None:
    damaged = bytearray(whole(version))
    for bit in range(8):
        damaged[place] ^= 1 << bit
        with pytest.raises(Corrupt) as caught:
            decode_file(bytes(damaged))
        assert caught.value.reason != "unknown-version"
        damaged[place] ^= 1 << bit
