"""A lane: the pieces of one shard index, streaming in from one holder.

Invariants: at most ``QUEUE_MESSAGES`` messages wait; the piece digests that the
holder claims are bound to the layout's shard digest before a piece is used;
whatever ends the stream ends the lane with a typed error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hcefs.erasure.scheme import Geometry
from hcefs.errors import Corrupt, HcefsError, Internal, NotFound, Unavailable
from hcefs.integrity import DIGEST_SIZE, leaf_hash, root_from_range, split_digests
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime
from hcefs.transport.peers import (
    LOAD_MESSAGE_BYTES,
    Call,
    Loader,
    Loaders,
    LoadHeader,
    Piece,
    ShardDownload,
)

T = TypeVar("T")

QUEUE_MESSAGES = 1
WHOLE_PIECES = 16
"""Up to so many pieces are loaded by one call, if they fit one message."""
OPEN_SECONDS = 5.0
"""A holder that has not begun to answer by then counts as down for this read."""


class Lane:
    """One index, from segment ``first`` up to (not including) ``end``."""

    def __init__(self, seat: Seat, first: int, end: int) -> None:
        self.seat = seat
        self.first = first
        self._end = end
        self._queue: asyncio.Queue[Piece | HcefsError] = asyncio.Queue(QUEUE_MESSAGES)
        self._arrived = asyncio.Event()
        self._rest = memoryview(b"")
        self._error: HcefsError | None = None
        self._digests = b""
        self._cancelled = False
        self._task: asyncio.Task[None] | None = None

    def start(
        self, runtime: Runtime, peers: Loaders, call: Call, geometry: Geometry, shard_digest: bytes
    ) -> None:
        """Begin to load."""
        self._task = runtime.spawn(
            self._run(runtime, peers, call, geometry, shard_digest),
            name=f"load-{self.seat.index}",
        )

    def digest_of(self, segment: int) -> bytes:
        """The digest of a piece, as the holder claimed and the layout confirms."""
        offset = (segment - self.first) * DIGEST_SIZE
        return self._digests[offset : offset + DIGEST_SIZE]

    def ready(self) -> bool:
        """Whether :meth:`take` answers without waiting."""
        if self._rest or self._error is not None:
            return True
        if self._queue.empty():
            return False
        self._enter(self._queue.get_nowait())
        return True

    def holds(self, size: int) -> bool:
        """Whether :meth:`take` gives a piece of that size without waiting."""
        return self.ready() and len(self._rest) >= size

    async def wait(self) -> None:
        """Return when :meth:`ready`.  Takes nothing, so it may be cancelled at any time."""
        while not self.ready():
            self._arrived.clear()
            await self._arrived.wait()

    def _enter(self, message: Piece | HcefsError) -> None:
        if isinstance(message, HcefsError):
            self._error = message
        else:
            self._rest = memoryview(message)

    async def _put(self, message: Piece | HcefsError) -> None:
        await self._queue.put(message)
        self._arrived.set()

    def take(self, size: int) -> memoryview:
        """The next piece.  Only when :meth:`ready`.

        Raises:
            HcefsError: why there is none.
        """
        if not self._rest and self._error is not None:
            raise self._error
        if len(self._rest) < size:
            raise Corrupt("the holder sent part of a piece", reason="truncated")
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    async def _run(
        self,
        runtime: Runtime,
        peers: Loaders,
        call: Call,
        geometry: Geometry,
        shard_digest: bytes,
    ) -> None:
        download: ShardDownload | None = None
        try:
            count = self._end - self.first
            if count <= WHOLE_PIECES and self._length(geometry) <= LOAD_MESSAGE_BYTES:
                header, pieces = await self._first_of(
                    runtime,
                    peers,
                    lambda peer: peer.load_pieces(call, self.seat.index, self.first, count),
                )
                self._check(header, geometry, shard_digest)
                await self._put(pieces)
                await self._put(Corrupt("the holder sent too few pieces", reason="truncated"))
                return

            async def begin(peer: Loader) -> tuple[ShardDownload, LoadHeader]:
                opened = await peer.load(call, self.seat.index, self.first, count)
                try:
                    return opened, await opened.header()
                except BaseException:
                    await opened.cancel()
                    raise

            begun, header = await self._first_of(runtime, peers, begin)
            download = begun
            self._check(header, geometry, shard_digest)
            async for message in begun.messages():
                await self._put(message)
            await self._put(Corrupt("the holder sent too few pieces", reason="truncated"))
        except HcefsError as error:
            await self._put(error)
        except TimeoutError:
            await self._put(
                Unavailable("the holder does not answer; it counts as down", reason="stalled")
            )
        except asyncio.CancelledError:
            if not self._cancelled:
                # gRPC cancels calls of a channel that another task closed.
                await self._put(
                    Unavailable("the connection to the holder was closed", reason="cancelled")
                )
            raise
        except Exception as error:  # noqa: BLE001 - a lane always ends with a typed error
            await self._put(Internal(f"a lane failed: {type(error).__name__}"))
        finally:
            if download is not None:
                await download.cancel()

    async def _first_of(
        self, runtime: Runtime, peers: Loaders, ask: Callable[[Loader], Awaitable[T]]
    ) -> T:
        """What the seat's node answers or, if it has no such shard yet, who held it before."""
        source = self.seat.source
        try:
            async with runtime.timeout(OPEN_SECONDS):
                return await ask(peers.peer(self.seat.node))
        except NotFound:
            if source is None:
                raise
        async with runtime.timeout(OPEN_SECONDS):
            return await ask(peers.peer(source))

    def _length(self, geometry: Geometry) -> int:
        return sum(geometry.piece_of(segment) for segment in range(self.first, self._end))

    def _check(self, header: LoadHeader, geometry: Geometry, shard_digest: bytes) -> None:
        digests, count = header.piece_digests, self._end - self.first
        if header.pieces != geometry.segments or len(digests) != count * DIGEST_SIZE:
            raise Corrupt("the holder's shard has another length", reason="wrong-length")
        leaves = [leaf_hash(digest) for digest in split_digests(digests)]
        root = root_from_range(header.pieces, self.first, leaves, header.audit_path)
        if root != shard_digest:
            raise Corrupt(
                "the holder's piece digests do not lead to the layout's digest",
                reason="wrong-digest",
            )
        self._digests = digests

    def cancel(self) -> asyncio.Task[None] | None:
        """Stop loading; the task to await when it matters that it has ended."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()
        return self._task
