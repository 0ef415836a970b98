"""Read stripes from the holders: any k of n, data first, around failures and damage.

The reader runs k lanes (:mod:`hcefs.stripes.lane`), at first the data indexes,
so that with all of them healthy nothing is decoded.  A lane that fails or proves
damaged is replaced by the next index, from the segment where it failed.  When a
stripe takes longer than the hedge delay, one further lane is started for each
that is late, and whoever is first wins.  Only when the seats do not have k pieces are the
nodes asked that may stand in for the others.  Holders that lose again and again are
asked last (:mod:`hcefs.stripes.hedge`).

Checks, in the design's order: lengths always; the pieces are compared with their
digests by whoever opens nothing (:meth:`Stripe.check`), or by
:meth:`StripeReader.recheck` after a failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from hcefs.erasure.scheme import Geometry, Profile
from hcefs.errors import Corrupt, HcefsError
from hcefs.formats.manifest import Layout
from hcefs.formats.pack import PackLayout
from hcefs.integrity import blake3_digest
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime
from hcefs.stripes.hedge import HedgeTimer, straggler
from hcefs.stripes.lane import Lane
from hcefs.stripes.stripe import rebuild_data, too_few_shards
from hcefs.stripes.suspects import Suspect, is_telling, nobody
from hcefs.transport.peers import Call, Loaders

BATCH_STRIPES_MAX = 4
"""Stripes that are handed on at once: what one message of each lane holds."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedPiece:
    """One piece with the digest that it must have."""

    data: memoryview
    digest: bytes


@dataclass(frozen=True)
class Stripe:
    """One segment: any k of its pieces, by index."""

    segment: int
    pieces: Mapping[int, LoadedPiece]
    sealed_length: int

    def check(self) -> None:
        """Compare all pieces with their digests.  For a worker thread.

        Raises:
            Corrupt: ``damaged-piece``.
        """
        if damaged_indexes(self.pieces):
            raise Corrupt("a piece of a stripe is damaged", reason="damaged-piece")

    def data(self, profile: Profile) -> list[memoryview]:
        """The k data pieces, rebuilt where they were not loaded.  For a worker thread."""
        return rebuild_data(profile, {index: piece.data for index, piece in self.pieces.items()})


def damaged_indexes(pieces: Mapping[int, LoadedPiece]) -> list[int]:
    """Indexes of the pieces that differ from their digest.  Runs in a worker thread."""
    return [index for index, piece in pieces.items() if blake3_digest(piece.data) != piece.digest]


class StripeReader:
    """Reads consecutive segments of one blob, in order."""

    def __init__(
        self,
        runtime: Runtime,
        peers: Loaders,
        seats: Sequence[Seat],
        call: Call,
        layout: Layout | PackLayout,
        geometry: Geometry,
        metrics: Metrics,
        hedge: HedgeTimer,
        suspect: Suspect = nobody,
        standing_in: Sequence[Node] = (),
    ) -> None:
        """``suspect`` is told of each shard that proves missing or damaged; ``standing_in``
        may have what seats lack: any index."""
        self._suspect = suspect
        self._reserve = [
            Seat(-1, index, node) for node in standing_in for index in range(geometry.profile.n)
        ]
        self._runtime = runtime
        self._peers = peers
        self._call = replace(call, profile=layout.profile)
        self._layout = layout
        self._geometry = geometry
        self._metrics = metrics
        self._hedge = hedge
        self._spare = hedge.ordered(seats)
        self._probe = hedge.to_probe(self._spare[geometry.profile.k :], runtime.monotonic())
        self._lanes: dict[int, Lane] = {}
        self._end = 0
        self._errors: list[HcefsError] = []
        self.degraded = False

    @property
    def profile(self) -> Profile:
        """The profile of what is read."""
        return self._geometry.profile

    @property
    def errors(self) -> Sequence[HcefsError]:
        """Why indexes were given up so far."""
        return self._errors

    async def stripes(self, first: int, count: int) -> AsyncIterator[list[Stripe]]:
        """The stripes ``first`` to ``first + count - 1``: as many at once as are there.

        Raises:
            Unavailable: fewer than k holders gave their pieces.
            Corrupt: fewer than k undamaged pieces are left.
        """
        segment, self._end = first, first + count
        try:
            while segment < self._end:
                pieces: dict[int, LoadedPiece] = {}
                await self._collect(segment, pieces, check=False)
                batch = [self._complete(segment, pieces)]
                # What came along in the same messages waits for nobody.
                while len(batch) < BATCH_STRIPES_MAX:
                    following = self._at_hand(segment + len(batch))
                    if following is None:
                        break
                    batch.append(following)
                segment += len(batch)
                yield batch
        finally:
            await self.close()

    def _at_hand(self, segment: int) -> Stripe | None:
        """A stripe whose pieces have all arrived from the lanes of the one before."""
        if segment >= self._end or len(self._lanes) != self._geometry.profile.k:
            return None
        size = self._geometry.piece_of(segment)
        if not all(lane.holds(size) for lane in self._lanes.values()):
            return None
        self._hedge.observe(0.0)
        pieces = {
            index: LoadedPiece(lane.take(size), lane.digest_of(segment))
            for index, lane in self._lanes.items()
        }
        return self._complete(segment, pieces)

    async def recheck(self, stripe: Stripe) -> Stripe:
        """After a failure to open or to check: find damaged pieces and replace them.

        Stripes that came with it in one list must then be :meth:`renewed`, in order.

        Raises:
            Corrupt: every piece is as written, so the key or the core is wrong;
                or too few undamaged pieces are left.
        """
        pieces = dict(stripe.pieces)
        if not await self._discard_damaged(stripe.segment, pieces):
            raise Corrupt(
                "every shard is as written, but the segment does not open: wrong key for this blob",
                reason="wrong-key",
            )
        await self._collect(stripe.segment, pieces, check=True)
        return self._complete(stripe.segment, pieces)

    async def renewed(self, stripe: Stripe) -> Stripe:
        """The stripe without pieces of lanes that were dropped meanwhile.

        The lanes that took their place began at an earlier stripe: this keeps them in step.

        Raises:
            Unavailable, Corrupt: as :meth:`stripes`.
        """
        pieces = {i: piece for i, piece in stripe.pieces.items() if i in self._lanes}
        await self._collect(stripe.segment, pieces, check=False)
        return self._complete(stripe.segment, pieces)

    async def _collect(self, segment: int, pieces: dict[int, LoadedPiece], *, check: bool) -> None:
        """Load until there are k pieces, undamaged ones if ``check``."""
        while True:
            await self._load(segment, pieces)
            if not check or not await self._discard_damaged(segment, pieces):
                return

    async def _load(self, segment: int, pieces: dict[int, LoadedPiece]) -> None:
        k, size = self._geometry.profile.k, self._geometry.piece_of(segment)
        started = self._runtime.monotonic()
        waits: dict[int, asyncio.Task[None]] = {}
        late = 0
        overdue: set[int] = set()
        took: dict[int, float] = {}
        probed = self._start_probe(segment)
        try:
            while len(pieces) < k:
                probing = sum(i in self._lanes and i not in pieces for i in probed)
                self._start_lanes(segment, k - len(pieces), late + probing, pieces)
                self._take_ready(segment, size, pieces)
                elapsed = self._runtime.monotonic() - started
                took = {index: took.get(index, elapsed) for index in pieces}
                waiting = {i: lane for i, lane in self._lanes.items() if i not in pieces}
                if len(pieces) >= k or len(pieces) + len(waiting) < k:
                    continue
                for index, lane in waiting.items():
                    if index not in waits or waits[index].done():
                        waits[index] = self._runtime.spawn(lane.wait(), name="lane")
                patience = self._patience(started) if not late and self._spare else None
                done, _ = await asyncio.wait(
                    [waits[index] for index in waiting],
                    timeout=patience,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    overdue = set(waiting)
                    late = len(overdue - probed)
                    self._metrics.count("hedged_loads_total", min(late, len(self._spare)))
        finally:
            for task in waits.values():
                task.cancel()
        self._hedge.observe(self._runtime.monotonic() - started)
        self._score(segment, overdue, probed, took)
        for index in [index for index in self._lanes if index not in pieces]:
            # It lost the race, or is out of step: slow is not lost, so it stays in reserve.
            self._spare.append(self._lanes[index].seat)
            self._leave(index)

    def _start_probe(self, segment: int) -> set[int]:
        """Ask a slow holder too, at the first segment of a read; the index asked for."""
        seat, self._probe = self._probe, None
        if seat is None or seat not in self._spare:
            return set()
        self._spare.remove(seat)
        self._start_lane(seat, segment)
        return {seat.index}

    def _score(
        self,
        segment: int,
        overdue: Collection[int],
        probed: Collection[int],
        took: Mapping[int, float],
    ) -> None:
        """Note who kept up with the others; ``took`` is how long each piece that came took.

        Of each lane only the first piece counts: the later ones may be waiting already.
        """
        now, last = self._runtime.monotonic(), straggler(took)
        for index, lane in self._lanes.items():
            if lane.first != segment:
                continue
            holder = lane.seat.node.account
            if index == last or (index not in took and (index in overdue or index in probed)):
                self._hedge.lost(holder, now)
            elif index in took and index not in overdue:
                self._hedge.kept_up(holder)

    def _patience(self, started: float) -> float:
        return max(0.0, started + self._hedge.delay_seconds - self._runtime.monotonic())

    def _take_ready(self, segment: int, size: int, pieces: dict[int, LoadedPiece]) -> None:
        """Take what is there, data indexes first, up to k pieces."""
        for index in sorted(self._lanes):
            if len(pieces) >= self._geometry.profile.k:
                return
            lane = self._lanes[index]
            if index in pieces or not lane.ready():
                continue
            try:
                pieces[index] = LoadedPiece(lane.take(size), lane.digest_of(segment))
            except HcefsError as error:
                self._drop(index, error)

    def _complete(self, segment: int, pieces: Mapping[int, LoadedPiece]) -> Stripe:
        if any(index not in pieces for index in range(self._geometry.profile.k)):
            self._degrade()
        return Stripe(segment, pieces, self._geometry.sealed_of(segment))

    async def _discard_damaged(self, segment: int, pieces: dict[int, LoadedPiece]) -> bool:
        """Drop the damaged pieces and their lanes; whether there were any."""
        bad = await self._runtime.compute(damaged_indexes, dict(pieces))
        for index in bad:
            del pieces[index]
            self._drop(index, Corrupt(f"piece {segment} is damaged", reason="damaged-piece"))
        return bool(bad)

    def _start_lanes(
        self, segment: int, needed: int, late: int, pieces: Mapping[int, LoadedPiece]
    ) -> None:
        """Start lanes until ``needed`` are running besides those that delivered."""
        running = sum(index not in pieces for index in self._lanes)
        for _ in range(needed + late - running):
            if self._spare:
                seat = self._spare.pop(0)
            elif running < needed and (found := self._from_reserve(pieces)) is not None:
                seat = found
            else:
                break
            self._start_lane(seat, segment)
            running += 1
        if running < needed:
            raise self._too_few()

    def _from_reserve(self, pieces: Mapping[int, LoadedPiece]) -> Seat | None:
        """The next stand-in to ask for an index that nobody gives."""
        for at, seat in enumerate(self._reserve):
            if seat.index not in self._lanes and seat.index not in pieces:
                return self._reserve.pop(at)
        return None

    def _start_lane(self, seat: Seat, segment: int) -> None:
        lane = Lane(seat, segment, self._end)
        self._lanes[seat.index] = lane
        lane.start(
            self._runtime,
            self._peers,
            self._call,
            self._geometry,
            self._layout.shard_digests[seat.index],
        )

    def _too_few(self) -> HcefsError:
        k = self._geometry.profile.k
        for error in self._errors:
            if not error.retryable and error.kind not in ("corrupt", "not-found"):
                return error
        return too_few_shards(k, self._errors)

    def _leave(self, index: int) -> None:
        lane = self._lanes.pop(index, None)
        if lane is not None:
            lane.cancel()

    def _drop(self, index: int, error: HcefsError) -> None:
        """Give up an index for the rest of this read, and say why."""
        lane = self._lanes.get(index)
        node = lane.seat.node.node_id if lane is not None else 0
        asked_in_vain = lane is not None and lane.seat.seat < 0 and error.kind == "not-found"
        self._leave(index)
        if asked_in_vain:
            return  # most stand-ins have nothing
        self._errors.append(error)
        self._degrade()
        if lane is not None and is_telling(error):
            self._suspect(lane.seat.node, self._layout.base, index, self._layout.profile)
        if error.kind == "corrupt":
            self._metrics.count("corrupt_shards_total")
        log.log(
            logging.ERROR if error.kind == "corrupt" else logging.WARNING,
            "request %s: shard %s index %d on node %d: %s (%s)",
            self._call.request,
            self._layout.base,
            index,
            node,
            error.kind,
            error.reason,
        )

    def _degrade(self) -> None:
        if not self.degraded:
            self.degraded = True
            self._metrics.count("degraded_reads_total")

    async def close(self) -> None:
        """Stop all lanes.  Idempotent."""
        lanes, self._lanes = list(self._lanes.values()), {}
        tasks = [task for lane in lanes if (task := lane.cancel()) is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
