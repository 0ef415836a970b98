"""A shard on its way into and out of this node's own store.

A disk call goes on in its thread when the task that waits for it is cancelled.
Invariants: what such a call opens is closed by whoever gave it up
(:func:`opened`), and a file is never closed under a call that still writes it,
because its number may already be another shard's.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from hcefs.erasure.scheme import (
    SEAL_OVERHEAD,
    SEGMENT_SIZE,
    SEGMENTS_MAX,
    Geometry,
    piece_length,
    profile_named,
)
from hcefs.errors import Invalid
from hcefs.formats.shard import HEADER_SIZE, ShardFooter, ShardHeader
from hcefs.integrity import Buffer
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import FORM_FIRST, ShardReader, ShardStore, ShardWriter
from hcefs.stripes.uploads import Upload
from hcefs.transport.framing import Frame
from hcefs.transport.peers import LOAD_MESSAGE_BYTES, LoadHeader, Piece, ShardRows, ShardStart

T = TypeVar("T")


class BegunShard:
    """A shard file whose header is written: pieces, then :meth:`finish` or :meth:`abort`.

    It keeps the header, so that the footer is of the same version.
    """

    def __init__(self, writer: ShardWriter, header: ShardHeader) -> None:
        self._writer = writer
        self._header = header

    def write(self, data: Buffer) -> None:
        """See :class:`~hcefs.store.interface.ShardWriter`, also for the others."""
        self._writer.write(data)

    def finish(self, footer: ShardFooter) -> None:
        """Write the footer, and make the shard visible and durable."""
        self._writer.finish(footer.encode(self._header))

    def abort(self) -> None:
        """Forget it; does nothing after a :meth:`finish`."""
        self._writer.abort()


Finish = Callable[[ShardStart, BegunShard, int, ShardRows], bool]


def begin_shard(
    shards: ShardStore, header: ShardHeader, size: int | None, form: str = FORM_FIRST
) -> BegunShard:
    """Begin a shard file of ``size`` bytes and write its header; blocks.

    In the version that the store's shards are written in now, whatever the header's.

    Raises:
        Conflict: ``shard-exists``.
        Exhausted: the disk is full.
    """
    header = replace(header, version=shards.shard_version())
    writer = BegunShard(shards.begin(header.base, header.index, size, form), header)
    try:
        writer.write(header.encode())
    except BaseException:
        writer.abort()
        raise
    return writer


async def opened(runtime: Runtime, open_: Callable[[], T], close: Callable[[T], None]) -> T:
    """Open something with a disk call; a cancelled caller leaves nothing open behind.

    Raises:
        HcefsError: what ``open_`` raises.
    """

    def undo(ended: asyncio.Task[T]) -> None:
        if not ended.cancelled() and ended.exception() is None:
            runtime.spawn(runtime.disk(close, ended.result()), name="shard-close")

    task = runtime.spawn(runtime.disk(open_), name="shard-open")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(undo)
        raise


async def whole(runtime: Runtime, job: Callable[[], T]) -> T:
    """Run a disk call to its end, even when the caller is cancelled meanwhile."""
    task = runtime.spawn(runtime.disk(job), name="disk")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        raise


async def ended(task: asyncio.Task[T]) -> None:
    """Wait until a task has ended, however often the caller is cancelled meanwhile."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # whoever waits here wants no result


class LocalUpload:
    """Pieces into a temporary file; ``finish`` checks and publishes, anything else aborts."""

    def __init__(
        self,
        runtime: Runtime,
        start: ShardStart,
        writer: BegunShard,
        finish: Finish,
        metrics: Metrics,
        upload: Upload,
    ) -> None:
        """``upload`` is ended when nothing is written any more."""
        self._runtime = runtime
        self._upload = upload
        self._start = start
        self._writer = writer
        self._finish = finish
        self._metrics = metrics
        self._received = 0
        profile = profile_named(start.profile)
        self._bytes_max = SEGMENTS_MAX * piece_length(SEGMENT_SIZE + SEAL_OVERHEAD, profile.k)
        self._open = True
        self._turn = threading.Lock()

    async def send(self, pieces: Sequence[Piece]) -> None:
        self._received += sum(len(piece) for piece in pieces)
        if self._received > self._bytes_max:
            raise Invalid("a shard is longer than a blob can be", reason="too-large")
        await self._runtime.disk(self._write, pieces)

    async def send_frame(self, frame: Frame) -> None:
        await self.send((frame.data,))

    def _write(self, pieces: Sequence[Piece]) -> None:
        with self._turn:
            for piece in pieces:
                self._writer.write(piece)

    def _publish(self, rows: ShardRows) -> bool:
        with self._turn:
            return self._finish(self._start, self._writer, self._received, rows)

    def _abort(self) -> None:
        with self._turn:
            self._writer.abort()

    async def _give_up(self) -> None:
        try:
            # Waits for a call that still writes, or publishes.
            await self._runtime.disk(self._abort)
        finally:
            self._upload.end()

    async def finish(self, rows: ShardRows) -> bool:
        started = self._runtime.monotonic()
        try:
            listed = await self._runtime.disk(self._publish, rows)
        except BaseException:
            await self.cancel()
            raise
        self._open = False
        self._upload.end()
        self._metrics.count("store_seconds_total", self._runtime.monotonic() - started)
        return listed

    async def cancel(self) -> None:
        if self._open:
            self._open = False
            # A second cancellation may not keep the abort from being carried out.
            await asyncio.shield(self._runtime.spawn(self._give_up(), name="shard-abort"))


class LocalDownload:
    """Pieces out of a shard file, several joined in one read."""

    def __init__(
        self,
        runtime: Runtime,
        reader: ShardReader,
        header: LoadHeader,
        geometry: Geometry,
        first: int,
        count: int,
        metrics: Metrics,
    ) -> None:
        self._runtime = runtime
        self._reader = reader
        self._header = header
        self._geometry = geometry
        self._first = first
        self._count = count
        self._metrics = metrics
        self._open = True

    async def header(self) -> LoadHeader:
        return self._header

    def messages(self) -> AsyncIterator[Piece]:
        return self._messages(bare=True)

    def frames(self) -> AsyncIterator[bytes]:
        return self._messages(bare=False)

    async def _messages(self, *, bare: bool) -> AsyncGenerator[bytes, None]:
        """Reads one message ahead, so that the disk works while the network does."""
        readings: deque[asyncio.Task[tuple[bytes, float]]] = deque()
        try:
            for offset, length in self._spans():
                job = partial(self._read, HEADER_SIZE + offset, length, bare)
                readings.append(self._runtime.spawn(self._runtime.disk(job), name="shard-read"))
                if len(readings) > 1:
                    yield await self._first_of(readings)
            while readings:
                yield await self._first_of(readings)
        finally:
            for reading in readings:
                await ended(reading)
            await self.cancel()

    async def _first_of(self, readings: deque[asyncio.Task[tuple[bytes, float]]]) -> bytes:
        message, seconds = await asyncio.shield(readings[0])
        readings.popleft()
        self._metrics.count("load_seconds_total", seconds)
        return message

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Where each message's pieces lie: offset and length."""
        segment, end = self._first, self._first + self._count
        while segment < end:
            offset, length = self._geometry.offset_of(segment), 0
            while segment < end and length < LOAD_MESSAGE_BYTES:
                length += self._geometry.piece_of(segment)
                segment += 1
            yield offset, length

    def _read(self, offset: int, length: int, bare: bool) -> tuple[bytes, float]:
        started = self._runtime.monotonic()
        frame = Frame(length, bare=bare)
        self._reader.read_into(offset, frame.room)
        frame.close()
        return frame.message, self._runtime.monotonic() - started

    async def cancel(self) -> None:
        if self._open:
            self._open = False
            await whole(self._runtime, self._reader.close)
