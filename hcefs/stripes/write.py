"""Send the stripes of one blob to its holders and count what became durable.

Each holder has a task and a queue of two messages, so a slow one pushes back on
the put and a dead one is dropped from it.  The put fails as soon as fewer than
k+1 holders are left; it never acknowledges more than holders that answered
"durable", each node once.

A holder that cannot begin has a stand-in (:mod:`.standby`).  One that dies in the middle of a
stream has none: what it was sent is not kept, because memory is bounded whatever the
blob's length, and no other holder gives pieces of a blob before it is committed.  Then
the put is acknowledged with one shard less, and its seat fetches it once it is back.

Source: docs/ARCHITECTURE.md, "Acknowledged means durable"; docs/decisions/0021-stand-ins.md.
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
from hcefs.runtime import Runtime, end_tasks
from hcefs.stripes.reseat import MOVED, OTHER_EPOCH, RESEATS_MAX, Reseat
from hcefs.stripes.standby import HOLDER_SECONDS, Standby, is_own_fault
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

    ``listed`` are the nodes that keep the opening for the record's listing as well,
    ``standing_in`` the indexes that are at a stand-in.
    """

    durable: tuple[int, ...]
    total: int
    listed: frozenset[AccountId] = frozenset()
    standing_in: tuple[int, ...] = ()

    @property
    def degraded(self) -> bool:
        return len(self.durable) < self.total


class _Lane:
    """One shard on its way to one holder."""

    def __init__(self, seat: Seat, epoch: int) -> None:
        self.seat = seat
        self.epoch = epoch
        self.reseats = 0
        self.asked: set[AccountId] = set()
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
        standby: Standby | None = None,
    ) -> None:
        """``reseat`` finds who holds a seat that has moved meanwhile; ``standby`` knows who
        stands in for a holder that is away."""
        self._runtime = runtime
        self._peers = peers
        self._standby = standby
        self._taken = {seat.node.account for seat in seats}
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

    def _require(self, durable: int | None = None) -> None:
        failed = [lane for lane in self._lanes if lane.error is not None]
        left = len(self._lanes) - len(failed) if durable is None else durable
        if left >= self.needed:
            return
        first = failed[0].error if failed else None
        for lane in failed:
            # A refusal that concerns the request itself is the better answer.
            if lane.error is not None and not lane.error.retryable:
                raise lane.error
        raise Unavailable(
            f"only {left} of {len(self._lanes)} shard holders are "
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
                    self._fail(lane, _stalled())
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
        for lane in self._lanes:
            if not lane.durable and lane.error is None:
                self._fail(lane, Unavailable("the holder is too slow", reason="stalled"))
        # A seat that moved to a node that stands in for another one counts once.
        kept = {lane.seat.node.account: lane for lane in self._lanes if lane.durable}
        self._require(len(kept))
        durable = sorted(lane.seat.index for lane in kept.values())
        listed = frozenset(account for account, lane in kept.items() if lane.listed)
        away = sorted(lane.seat.index for lane in kept.values() if lane.seat.absent)
        return Stored(tuple(durable), len(self._lanes), listed, tuple(away))

    async def abort(self) -> None:
        """Stop all uploads; holders forget what they got.  Idempotent."""
        tasks = [lane.task for lane in self._lanes if lane.task is not None]
        await end_tasks(*tasks)

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
            replace(self._call, epoch=lane.epoch, stand_in=lane.seat.absent is not None),
            lane.seat.index,
            self._profile.name,
            self._segment_size,
            self._expected_length,
        )

    async def _turn(self, lane: _Lane, error: HcefsError) -> None:
        """Turn to who takes the place of a holder that did not take the lane.

        Raises:
            HcefsError: this error: nobody does.
        """
        if error.reason in MOVED:
            await self._follow(lane, error)
            self._aim(lane)
            return
        if self._standby is None or not is_own_fault(error):
            raise error
        self._standby.note(lane.seat.node, error)
        lane.asked.add(lane.seat.node.account)
        home = _home(lane.seat)
        if not self._stand_in(lane):
            if home.node.account in lane.asked:
                raise error
            lane.seat = home  # it was passed over, and nobody else is left

    def _aim(self, lane: _Lane) -> None:
        """Begin at a stand-in when the holder has failed lately and was not asked by this put."""
        if self._standby is not None and self._standby.is_away(lane.seat.node):
            self._stand_in(lane)

    def _stand_in(self, lane: _Lane) -> bool:
        """Give the lane the next stand-in; False when none is left."""
        base = self._call.blob
        if self._standby is None or base is None:
            return False
        found = self._standby.seat(self._profile.name, bytes(base.base), lane.seat, self._taken)
        if found is None:
            return False
        self._taken.add(found.node.account)
        lane.seat = found
        return True

    async def _follow(self, lane: _Lane, error: HcefsError) -> None:
        """Turn to who holds the lane's seat in a newer map.

        Raises:
            HcefsError: this error, where there is none in time.
        """
        base = self._call.blob
        if self._reseat is None or base is None:
            raise error
        lane.reseats += 1
        if lane.reseats >= RESEATS_MAX:
            raise _too_many_epochs()
        try:
            epoch, seats = await self._reseat(self._profile.name, base.base, lane.epoch)
        except HcefsError:
            raise error from None
        self._taken |= {seat.node.account for seat in seats}
        lane.epoch = epoch
        lane.seat = next(seat for seat in seats if seat.index == lane.seat.index)

    def _patience(self, lane: _Lane) -> float:
        """How long a holder may take to begin."""
        base = self._call.blob
        if self._standby is None or base is None:
            return self._deadline
        others = self._standby.nodes(self._profile.name, bytes(base.base))
        replaceable = any(node.account not in self._taken for node in others)
        return min(self._deadline, HOLDER_SECONDS) if replaceable else self._deadline

    async def _whole(self, lane: _Lane, pieces: Sequence[Piece], rows: ShardRows) -> None:
        self._aim(lane)
        try:
            while True:
                peer = self._peers.peer(lane.seat.node)
                try:
                    async with self._runtime.timeout(self._patience(lane)):
                        lane.listed = await peer.store_whole(self._start(lane), pieces, rows)
                except TimeoutError:
                    await self._turn(lane, _stalled())
                except HcefsError as error:
                    await self._turn(lane, error)
                else:
                    break
            self._heard(lane)
            lane.durable = True
        except HcefsError as error:
            self._fail(lane, error)

    async def _begun(self, lane: _Lane) -> ShardUpload:
        """The stream to who holds the lane's seat, or stands in for who does."""
        self._aim(lane)
        while True:
            peer = self._peers.peer(lane.seat.node)
            try:
                async with self._runtime.timeout(self._patience(lane)):
                    upload = await peer.store(self._start(lane))
            except TimeoutError:
                await self._turn(lane, _stalled())
            except HcefsError as error:
                await self._turn(lane, error)
            else:
                self._heard(lane)
                return upload

    def _heard(self, lane: _Lane) -> None:
        if self._standby is not None:
            self._standby.heard(lane.seat.node)

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
            if self._standby is not None and is_own_fault(error):
                self._standby.note(lane.seat.node, error)  # the next put begins elsewhere
            self._fail(lane, error)
        finally:
            lane.begun.set()
            while not lane.queue.empty():
                lane.queue.get_nowait()
            if upload is not None and not lane.durable:
                await upload.cancel()


def _home(seat: Seat) -> Seat:
    """The seat with who is to have it."""
    return seat if seat.absent is None else replace(seat, node=seat.absent, absent=None)


def _stalled() -> Unavailable:
    return Unavailable("the holder does not answer", reason="stalled")


def _too_many_epochs() -> Unavailable:
    return Unavailable("the cluster map changes too fast: retry later", reason=OTHER_EPOCH)
