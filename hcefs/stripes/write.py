"""Send the stripes of one blob to its holders and count what became durable.

Each holder has a task and a queue of two messages, so a slow one pushes back on
the put and a dead one is dropped from it.  The put fails as soon as fewer than
k+1 holders are left; it never acknowledges more than holders that answered
"durable".  Source: docs/ARCHITECTURE.md, "Acknowledged means durable".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from hcefs.erasure.scheme import Profile
from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import AccountId
from hcefs.integrity import shard_digest
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime
from hcefs.stripes.reseat import MOVED, OTHER_EPOCH, RESEATS_MAX, Reseat
from hcefs.stripes.stripe import StripeBatch
from hcefs.transport.framing import Frame
from hcefs.transport.peers import (
    LOAD_MESSAGE_BYTES,
    Call,
    Peers,
    Piece,
    ShardRows,
    ShardStart,
    ShardUpload,
)

QUEUE_MESSAGES = 1
WRITE_BACK_BYTES_PER_SECOND = 32 << 20
"""What the slowest disk that is waited for writes in a second."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """What :meth:`StripeWriter.finish` reached: the indexes that are durable.

    ``listed`` are the nodes that keep the opening for the record's listing as well.
    """

    durable: tuple[int, ...]
    total: int
    listed: frozenset[AccountId] = frozenset()

    @property
    def degraded(self) -> bool:
        return len(self.durable) < self.total


class _Lane:
    """One shard on its way to one holder."""

    def __init__(self, seat: Seat, epoch: int) -> None:
        self.seat = seat
        self.epoch = epoch
        self.queue: asyncio.Queue[Frame | ShardRows] = asyncio.Queue(QUEUE_MESSAGES)
        self.digests: list[bytes] = []
        self.error: HcefsError | None = None
        self.begun = asyncio.Event()
        self.durable = False
        self.listed = False
        self.task: asyncio.Task[None] | None = None


class StripeWriter:
    """Writes the stripes of one blob.  Use: ``write``..., then ``finish`` or ``abort``.

    A stream to each holder is opened with the first full message.  What is shorter
    goes in one call with its rows: then a blob id that is taken at one holder may leave
    shards behind at others; they are pending, and collected.
    """

    def __init__(
        self,
        runtime: Runtime,
        peers: Peers,
        seats: Sequence[Seat],
        call: Call,
        profile: Profile,
        segment_size: int,
        deadline_seconds: float,
        expected_length: int = 0,
        reseat: Reseat | None = None,
    ) -> None:
        """``reseat`` finds who holds a seat that has moved meanwhile."""
        self._runtime = runtime
        self._peers = peers
        self._reseat = reseat
        self._call = call
        self._profile = profile
        self._segment_size = segment_size
        self._deadline = deadline_seconds
        self._expected_length = expected_length
        self._lanes = [
            _Lane(seat, call.epoch) for seat in sorted(seats, key=lambda seat: seat.index)
        ]
        self._batch: StripeBatch | None = None
        self._sent_bytes = 0
        self._streaming = False

    @property
    def needed(self) -> int:
        """Fewest durable shards that may be acknowledged: k+1."""
        return self._profile.k + 1

    async def write(self, batch: StripeBatch) -> None:
        """Send the next stripes, waiting while holders are behind.

        Only the last batch may be shorter than a message.

        Raises:
            Unavailable: fewer than k+1 holders are left.
        """
        for lane in self._lanes:
            lane.digests += batch.digests[lane.seat.index]
        self._batch = batch
        self._sent_bytes += batch.shard_bytes
        if batch.shard_bytes >= LOAD_MESSAGE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Send what is held back."""
        if not self._streaming:
            self._streaming = True
            for lane in self._lanes:
                lane.task = self._runtime.spawn(self._run(lane), name=f"store-{lane.seat.index}")
        batch, self._batch = self._batch, None
        if batch is not None:
            await self._offer(lambda lane: batch.frames[lane.seat.index])

    async def _offer(self, message: Callable[[_Lane], Frame | ShardRows]) -> None:
        self._require()
        behind: list[Awaitable[None]] = []
        for lane in self._lanes:
            if lane.error is not None:
                continue
            try:
                lane.queue.put_nowait(message(lane))
            except asyncio.QueueFull:
                behind.append(self._put(lane, message(lane)))
        if behind:
            await asyncio.gather(*behind)
        self._require()

    async def _put(self, lane: _Lane, message: Frame | ShardRows) -> None:
        try:
            async with self._runtime.timeout(self._deadline):
                await lane.queue.put(message)
        except TimeoutError:
            self._fail(lane, Unavailable("the holder is too slow", reason="stalled"))
            if lane.task is not None:
                lane.task.cancel()

    def _require(self) -> None:
        failed = [lane for lane in self._lanes if lane.error is not None]
        if len(self._lanes) - len(failed) >= self.needed:
            return
        first = failed[0].error
        for lane in failed:
            # A refusal that concerns the request itself is the better answer.
            if lane.error is not None and not lane.error.retryable:
                raise lane.error
        raise Unavailable(
            f"only {len(self._lanes) - len(failed)} of {len(self._lanes)} shard holders are "
            f"reachable and {self.needed} are needed; nothing was acknowledged, put again later "
            f"({first.reason if first else 'unknown'})",
            reason="too-few-holders",
        )

    def shard_digests(self) -> tuple[bytes, ...]:
        """The digest of each shard, by index, of what was written so far."""
        return tuple(shard_digest(lane.digests) for lane in self._lanes)

    async def finish(self, rows: Callable[[bytes], ShardRows]) -> Stored:
        """Send the rows and wait for all holders, until the deadline.

        ``rows`` makes a holder's rows from its joined piece digests.

        Raises:
            Unavailable: fewer than k+1 shards became durable.
        """
        if not self._streaming:
            return await self._finish_whole(rows)
        await self.flush()
        # No holder may get the rows, and so publish its shard, while others may still
        # refuse: a blob id that is taken would leave shards of two blobs behind.
        try:
            async with self._runtime.timeout(self._deadline):
                await asyncio.gather(*(lane.begun.wait() for lane in self._lanes))
        except TimeoutError:
            for lane in self._lanes:
                if not lane.begun.is_set():
                    self._fail(lane, Unavailable("the holder does not answer", reason="stalled"))
        await self._offer(lambda lane: rows(b"".join(lane.digests)))
        return await self._durable()

    async def _finish_whole(self, rows: Callable[[bytes], ShardRows]) -> Stored:
        """One call to each holder with all that it is to keep."""
        batch, self._batch = self._batch, None
        for lane in self._lanes:
            pieces = () if batch is None else (batch.frames[lane.seat.index].data,)
            lane.task = self._runtime.spawn(
                self._whole(lane, pieces, rows(b"".join(lane.digests))),
                name=f"store-{lane.seat.index}",
            )
        return await self._durable()

    async def _durable(self) -> Stored:
        """Wait for the holders' answers, until the deadline."""
        tasks = [lane.task for lane in self._lanes if lane.task is not None]
        if tasks:
            # The holders now write back and fsync whatever they have not yet.
            patience = self._deadline + self._sent_bytes / WRITE_BACK_BYTES_PER_SECOND
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
        durable = tuple(lane.seat.index for lane in self._lanes if lane.durable)
        for lane in self._lanes:
            if not lane.durable and lane.error is None:
                self._fail(lane, Unavailable("the holder is too slow", reason="stalled"))
        self._require()
        listed = frozenset(lane.seat.node.account for lane in self._lanes if lane.listed)
        return Stored(durable, len(self._lanes), listed)

    async def abort(self) -> None:
        """Stop all uploads; holders forget what they got.  Idempotent."""
        tasks = [lane.task for lane in self._lanes if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fail(self, lane: _Lane, error: HcefsError) -> None:
        if lane.error is None:
            lane.error = error
            log.warning(
                "request %s: storing index %d on node %d failed: %s (%s)",
                self._call.request,
                lane.seat.index,
                lane.seat.node.node_id,
                error.kind,
                error.reason,
            )

    def _start(self, lane: _Lane) -> ShardStart:
        return ShardStart(
            replace(self._call, epoch=lane.epoch),
            lane.seat.index,
            self._profile.name,
            self._segment_size,
            self._expected_length,
        )

    async def _follow(self, lane: _Lane, error: HcefsError) -> None:
        """Turn to who holds the lane's seat in a newer map.

        Raises:
            HcefsError: this error, where it is no matter of the map or there is none in time.
        """
        base = self._call.blob
        if self._reseat is None or error.reason not in MOVED or base is None:
            raise error
        try:
            epoch, seats = await self._reseat(self._profile.name, base.base, lane.epoch)
        except HcefsError:
            raise error from None
        lane.epoch = epoch
        lane.seat = next(seat for seat in seats if seat.index == lane.seat.index)

    async def _whole(self, lane: _Lane, pieces: Sequence[Piece], rows: ShardRows) -> None:
        try:
            for _ in range(RESEATS_MAX):
                peer = self._peers.peer(lane.seat.node)
                try:
                    lane.listed = await peer.store_whole(self._start(lane), pieces, rows)
                except HcefsError as error:
                    await self._follow(lane, error)
                    continue
                lane.durable = True
                return
            self._fail(lane, _too_many_epochs())
        except HcefsError as error:
            self._fail(lane, error)

    async def _begun(self, lane: _Lane) -> ShardUpload:
        """The stream to who holds the lane's seat."""
        for _ in range(RESEATS_MAX):
            peer = self._peers.peer(lane.seat.node)
            try:
                async with self._runtime.timeout(self._deadline):
                    return await peer.store(self._start(lane))
            except HcefsError as error:
                await self._follow(lane, error)
        raise _too_many_epochs()

    async def _run(self, lane: _Lane) -> None:
        upload: ShardUpload | None = None
        try:
            upload = await self._begun(lane)
            lane.begun.set()
            while True:
                message = await lane.queue.get()
                if isinstance(message, ShardRows):
                    lane.listed = await upload.finish(message)
                    lane.durable = True
                    return
                await upload.send_frame(message)
                del message  # not held until the next one comes
        except HcefsError as error:
            self._fail(lane, error)
        except TimeoutError:
            self._fail(lane, Unavailable("the holder does not answer", reason="stalled"))
        finally:
            lane.begun.set()
            while not lane.queue.empty():
                lane.queue.get_nowait()
            if upload is not None and not lane.durable:
                await upload.cancel()


def _too_many_epochs() -> Unavailable:
    return Unavailable("the cluster map changes too fast: retry later", reason=OTHER_EPOCH)
