"""Shards on their way out of a store: read ahead, and closed only after the last read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from hcefs.erasure.scheme import SEGMENT_SIZE, Geometry, profile_named
from hcefs.errors import Unavailable
from hcefs.formats.shard import HEADER_SIZE
from hcefs.metrics import Metrics
from hcefs.runtime import SystemRuntime
from hcefs.stripes.transfers import LocalDownload
from hcefs.transport.framing import frame_data
from hcefs.transport.peers import LOAD_MESSAGE_BYTES, LoadHeader

GEOMETRY = Geometry(11 * SEGMENT_SIZE + 5, profile_named("ec-4-2"))
MESSAGE = 4 * GEOMETRY.piece_of(0)


class Shard:
    """A shard of ever other bytes; reads wait until they are let go."""

    def __init__(self, fails_at: int = -1) -> None:
        self.go = threading.Event()
        self.go.set()
        self.reading = 0
        self.closed = False
        self.fails_at = fails_at

    @property
    def size(self) -> int:
        return HEADER_SIZE + GEOMETRY.pieces_length

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes((offset + number) % 251 for number in range(length))

    def read_into(self, offset: int, out: bytearray | memoryview) -> None:
        self.reading += 1
        self.go.wait(10)
        assert not self.closed
        offset -= HEADER_SIZE
        if offset == self.fails_at:
            raise Unavailable("the disk failed", reason="disk-error")
        whole = (bytes(range(251)) * (len(out) // 251 + 2))[offset % 251 :]
        memoryview(out)[:] = whole[: len(out)]
        self.reading -= 1

    def close(self) -> None:
        self.closed = True


def download(runtime: SystemRuntime, shard: Shard) -> LocalDownload:
    header = LoadHeader(GEOMETRY.segments, b"", ())
    return LocalDownload(runtime, shard, header, GEOMETRY, 0, GEOMETRY.segments, Metrics())


@pytest.fixture
async def runtime() -> AsyncIterator[SystemRuntime]:
    made = SystemRuntime()
    yield made
    made.close()


async def test_messages_and_frames_carry_the_same_pieces(runtime: SystemRuntime) -> None:
    assert MESSAGE >= LOAD_MESSAGE_BYTES
    plain, framed = Shard(), Shard()
    pieces = [bytes(m) async for m in download(runtime, plain).messages()]
    frames = [frame async for frame in download(runtime, framed).frames()]
    whole = (bytes(range(251)) * (GEOMETRY.pieces_length // 251 + 1))[: GEOMETRY.pieces_length]
    assert b"".join(pieces) == whole
    assert [len(piece) for piece in pieces[:-1]] == [MESSAGE] * (len(pieces) - 1)
    assert frames == [frame_data(piece) for piece in pieces]
    assert plain.closed
    assert framed.closed


async def test_a_reader_is_closed_only_after_its_reads(runtime: SystemRuntime) -> None:
    shard = Shard()
    shard.go.clear()
    first = asyncio.ensure_future(anext(download(runtime, shard)._messages(bare=False)))
    while shard.reading < 2:
        await asyncio.wait([first], timeout=0.01)
    first.cancel()
    await asyncio.wait([first], timeout=0.1)
    assert not shard.closed
    shard.go.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert shard.closed
    assert shard.reading == 0


async def test_what_was_read_before_a_failure_is_still_sent(runtime: SystemRuntime) -> None:
    shard = Shard(fails_at=MESSAGE)
    got = []
    with pytest.raises(Unavailable):  # noqa: PT012 - it is the iteration that fails
        async for message in download(runtime, shard).messages():
            got.append(message)
    assert [len(message) for message in got] == [MESSAGE]
    assert shard.closed
