"""Geometry: lengths at the edges of segments and pieces."""

from __future__ import annotations

import pytest

from hcefs.crypto import stream
from hcefs.erasure.scheme import (
    DEFAULT_PROFILE,
    PIECE_ALIGNMENT,
    PROFILES,
    SEAL_OVERHEAD,
    SEGMENT_SIZE,
    SEGMENTS_MAX,
    Geometry,
    Profile,
    piece_length,
    profile_named,
    resolve_range,
)
from hcefs.errors import Invalid

EDGES = [0, 1, SEGMENT_SIZE - 1, SEGMENT_SIZE, SEGMENT_SIZE + 1, 3 * SEGMENT_SIZE]


def test_profiles_are_the_agreed_ones() -> None:
    assert {name: (p.k, p.m, p.n) for name, p in PROFILES.items()} == {
        "ec-4-2": (4, 2, 6),
        "ec-8-3": (8, 3, 11),
        "ec-10-4": (10, 4, 14),
        "copy-3": (1, 2, 3),
    }
    assert profile_named(DEFAULT_PROFILE) == PROFILES["ec-4-2"]


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(Invalid, match="ec-8-3") as caught:
        profile_named("ec-5-5")
    assert caught.value.reason == "unknown-profile"


@pytest.mark.parametrize(
    ("sealed", "k", "expected"),
    [(48, 4, 64), (256, 4, 64), (257, 4, 128), (1, 1, 64), (64, 1, 64), (65, 1, 128)],
)
def test_piece_length_is_aligned_and_minimal(sealed: int, k: int, expected: int) -> None:
    assert piece_length(sealed, k) == expected
    assert expected * k >= sealed
    assert expected % PIECE_ALIGNMENT == 0


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("length", EDGES)
def test_lengths_add_up(profile: Profile, length: int) -> None:
    geometry = Geometry(length, profile)
    segments = range(geometry.segments)
    assert geometry.segments == max(1, -(-length // SEGMENT_SIZE))
    assert sum(map(geometry.plaintext_of, segments)) == length
    assert all(geometry.sealed_of(i) == geometry.plaintext_of(i) + SEAL_OVERHEAD for i in segments)
    offset = 0
    for i in segments:
        assert geometry.offset_of(i) == offset
        offset += geometry.piece_of(i)
    assert geometry.pieces_length == offset


def test_the_largest_blob_and_one_byte_more() -> None:
    largest = SEGMENTS_MAX * SEGMENT_SIZE
    assert Geometry(largest, PROFILES["ec-4-2"]).segments == SEGMENTS_MAX
    with pytest.raises(Invalid) as caught:
        Geometry(largest + 1, PROFILES["ec-4-2"])
    assert caught.value.reason == "too-large"


@pytest.mark.parametrize(("length", "segment_size"), [(-1, 10), (1, 0), (1, -5)])
def test_impossible_lengths_are_refused(length: int, segment_size: int) -> None:
    with pytest.raises(Invalid) as caught:
        Geometry(length, PROFILES["ec-4-2"], segment_size)
    assert caught.value.reason == "bad-geometry"


@pytest.mark.parametrize("segment", [-1, 2])
def test_segments_outside_the_blob_are_refused(segment: int) -> None:
    geometry = Geometry(11, PROFILES["ec-4-2"], 10)
    for ask in (geometry.plaintext_of, geometry.piece_of, geometry.offset_of):
        with pytest.raises(Invalid) as caught:
            ask(segment)
        assert caught.value.reason == "bad-range"


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, 10, range(1)),
        (0, 11, range(2)),
        (9, 2, range(2)),
        (10, 5, range(1, 2)),
        (3, 0, range(1)),
        (10, 0, range(1, 2)),
        (0, 35, range(4)),
        (30, 5, range(3, 4)),
        (35, 0, range(3, 4)),
    ],
)
def test_covering(start: int, length: int, expected: range) -> None:
    assert Geometry(35, PROFILES["ec-4-2"], 10).covering(start, length) == expected


def test_a_range_to_the_end_covers_the_last_segment_even_at_a_boundary() -> None:
    geometry = Geometry(30, PROFILES["ec-4-2"], 10)
    assert geometry.covering(20, 10) == range(2, 3)
    assert geometry.covering(30, 0) == range(2, 3)
    assert Geometry(0, PROFILES["ec-4-2"]).covering(0, 0) == range(1)


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 36), (36, 0), (5, -1)])
def test_ranges_outside_the_blob_are_refused(start: int, length: int) -> None:
    with pytest.raises(Invalid) as caught:
        Geometry(35, PROFILES["ec-4-2"], 10).covering(start, length)
    assert caught.value.reason == "bad-range"


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 0, (0, 35)), (5, 0, (5, 30)), (35, 0, (35, 0)), (5, 10, (5, 10)), (5, 30, (5, 30))],
)
def test_a_length_of_zero_means_up_to_the_end(
    start: int, length: int, expected: tuple[int, int]
) -> None:
    assert resolve_range(35, start, length) == expected


@pytest.mark.parametrize(("start", "length"), [(36, 0), (36, 1), (35, 1), (0, 36)])
def test_requested_ranges_outside_the_blob_are_refused(start: int, length: int) -> None:
    with pytest.raises(Invalid) as caught:
        resolve_range(35, start, length)
    assert caught.value.reason == "bad-range"


def test_segments_are_those_of_the_cipher() -> None:
    """The two packages may not import each other, so each names the numbers."""
    assert (SEGMENT_SIZE, SEAL_OVERHEAD) == (stream.SEGMENT_SIZE, stream.SEAL_OVERHEAD)
