"""Sources cut into segments: every byte once, in order, without copies where none are needed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest

from hcefs.client.sources import Buffer, segments
from hcefs.crypto.stream import SEGMENT_SIZE as S


async def given(pieces: Sequence[Buffer]) -> AsyncGenerator[Buffer, None]:
    for piece in pieces:
        yield piece


def sample(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


@pytest.mark.parametrize(
    "lengths",
    [
        [],
        [0],
        [1],
        [S],
        [S, 0],
        [S, 1],
        [S - 1, 1],
        [S - 1, 2],
        [2 * S],
        [3 * S + 5],
        [5, 2 * S, S - 5, S],
        [S] * 4,
        [1000] * 3000,
    ],
    ids=lambda lengths: str(lengths)[:30],
)
async def test_all_but_the_last_segment_are_full(lengths: list[int]) -> None:
    data = sample(sum(lengths))
    pieces, start = [], 0
    for length in lengths:
        pieces.append(memoryview(data)[start : start + length])
        start += length
    cut = [(bytes(segment), last) async for segment, last in segments(given(pieces))]
    assert b"".join(segment for segment, _ in cut) == data
    assert [last for _, last in cut] == [False] * (len(cut) - 1) + [True]
    assert all(len(segment) == S for segment, _ in cut[:-1])
    assert len(cut[-1][0]) <= S
    assert len(cut) == max(1, -(-len(data) // S))


async def test_whole_segments_are_views_of_the_source() -> None:
    data = sample(2 * S + 3)
    cut = [segment async for segment, _ in segments(given([data]))]
    assert [segment.obj is data for segment in cut[:2] if isinstance(segment, memoryview)] == [
        True,
        True,
    ]
