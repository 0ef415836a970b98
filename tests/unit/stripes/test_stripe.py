"""Stripes made in their messages: the bytes are those of sealing, padding and encoding apart."""

from __future__ import annotations

import os

import pytest
import zfec

from hcefs.erasure.scheme import (
    PROFILES,
    SEAL_OVERHEAD,
    SEGMENT_SIZE,
    Profile,
    piece_length,
)
from hcefs.errors import Corrupt
from hcefs.integrity import blake3_digest, crc32c
from hcefs.stripes.stripe import StripeBatch, join_sealed_into, rebuild_data
from hcefs.transport.framing import DataFrame, parse
from hcefs.wire.v1 import shard_pb2

FULL = SEGMENT_SIZE + SEAL_OVERHEAD
BATCHES = [
    [SEAL_OVERHEAD],
    [SEAL_OVERHEAD + 1],
    [FULL],
    [FULL, FULL, FULL, FULL],
    [FULL, SEAL_OVERHEAD + 17],
    [257, 256, 255],
]


def fill(pieces: list[memoryview], sealed: bytes) -> None:
    for piece in pieces:
        piece[:] = b"\xee" * len(piece)  # what was in that memory before
    for piece in pieces:
        part, sealed = sealed[: len(piece)], sealed[len(piece) :]
        piece[: len(part)] = part


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_the_messages_hold_padded_data_and_zfecs_parity(
    profile: Profile, lengths: list[int]
) -> None:
    k, n = profile.k, profile.n
    batch = StripeBatch(profile, lengths)
    expected: list[list[bytes]] = []
    for number, length in enumerate(lengths):
        sealed = os.urandom(length)
        fill(batch.data_pieces(number), sealed)
        batch.encode(number)
        size = piece_length(length, k)
        padded = sealed.ljust(size * k, b"\0")
        data = [padded[i * size : (i + 1) * size] for i in range(k)]
        expected.append(list(zfec.Encoder(k, n).encode(data, list(range(n)))))
    batch.close()
    assert batch.shard_bytes == sum(piece_length(length, k) for length in lengths)
    for index, frame in enumerate(batch.frames):
        shard = b"".join(stripe[index] for stripe in expected)
        assert frame.data == shard
        parsed = parse(frame.message, shard_pb2.StoreRequest)
        assert isinstance(parsed, DataFrame)
        assert bytes(parsed.data) == shard
        assert parsed.crc32c == crc32c(shard)
        assert batch.digests[index] == [blake3_digest(stripe[index]) for stripe in expected]
    pieces = {index: memoryview(expected[0][index]) for index in range(n - k, n)}
    out = bytearray(lengths[0])
    join_sealed_into(rebuild_data(profile, pieces), memoryview(out))
    assert out == b"".join(expected[0][:k])[: lengths[0]]


@pytest.mark.parametrize(("filled", "length"), [(9, 8), (16, 12), (5, 3), (16, 17)])
def test_sealed_segments_with_damaged_padding_are_not_joined(filled: int, length: int) -> None:
    whole = b"x" * filled + bytes(16 - filled)
    data = [memoryview(whole)[start : start + 4] for start in range(0, 16, 4)]
    with pytest.raises(Corrupt) as caught:
        join_sealed_into(data, memoryview(bytearray(length)))
    assert caught.value.reason == "bad-padding"
