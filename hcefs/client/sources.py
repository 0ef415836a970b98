"""Where a put's bytes come from, cut into segments without holding more than one.

Invariant: every byte once, in order.  Files are read on the runtime's disk threads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from hcefs.crypto.stream import SEGMENT_SIZE
from hcefs.errors import Invalid
from hcefs.runtime import Runtime

Buffer = bytes | bytearray | memoryview
Source = bytes | bytearray | memoryview | Path | BinaryIO | AsyncIterator[bytes]

READ_SIZE = 1 << 20


async def read_pieces(source: Source, runtime: Runtime) -> AsyncGenerator[Buffer, None]:
    """The bytes of a source in order, in pieces of any length.

    Raises:
        Invalid: ``bad-source``: not a source, or it cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        yield source
    elif isinstance(source, Path):
        try:
            file = await runtime.disk(_open, source)
        except OSError as error:
            raise _unreadable(error) from None
        try:
            async for piece in _read_file(file, runtime):
                yield piece
        finally:
            await runtime.disk(file.close)
    elif isinstance(source, AsyncIterator):
        async for piece in source:
            yield piece
    elif hasattr(source, "read"):
        async for piece in _read_file(source, runtime):
            yield piece
    else:
        raise Invalid(
            "a blob's source is bytes, a path, a binary file or an asynchronous iterator of bytes",
            reason="bad-source",
        )


async def length_of(source: Source, runtime: Runtime) -> int:
    """The length of a source where it is known beforehand, else 0: a hint, not a promise."""
    if isinstance(source, bytes | bytearray | memoryview):
        return len(source)
    if isinstance(source, Path):
        try:
            return (await runtime.disk(source.stat)).st_size
        except OSError as error:
            raise _unreadable(error) from None
    return 0


def _open(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)


async def _read_file(file: BinaryIO, runtime: Runtime) -> AsyncIterator[bytes]:
    while True:
        try:
            piece = await runtime.disk(file.read, READ_SIZE)
        except OSError as error:
            raise _unreadable(error) from None
        if not piece:
            return
        if not isinstance(piece, bytes):
            raise Invalid("open the source in binary mode", reason="bad-source")
        yield piece


def _unreadable(error: OSError) -> Invalid:
    return Invalid(f"the source cannot be read: {error.strerror}", reason="bad-source")


async def segments(
    pieces: AsyncGenerator[Buffer, None],
) -> AsyncGenerator[tuple[Buffer, bool], None]:
    """The same bytes cut into segments, each with whether it is the last one.

    Every segment but the last is full; no bytes at all give one empty segment.  A
    segment that lies whole in a piece is a view of it.
    """
    pending: Buffer = b""
    async with aclosing(pieces):
        async for piece in pieces:
            view = memoryview(piece).cast("B")
            while view.nbytes:
                if len(pending) == SEGMENT_SIZE:
                    # More follows, so this full segment is not the last one.
                    yield pending, False
                    pending = b""
                if not pending and view.nbytes >= SEGMENT_SIZE:
                    pending, view = view[:SEGMENT_SIZE], view[SEGMENT_SIZE:]
                    continue
                if not isinstance(pending, bytearray):
                    pending = bytearray(pending)
                part = view[: SEGMENT_SIZE - len(pending)]
                pending += part
                view = view[part.nbytes :]
    yield pending, True
