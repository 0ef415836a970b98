"""Read the columns of packed payloads from shards: the data shards first, around failures.

A *job* is what some payloads of one record in one pack take up of one data piece.  It is
done when the shard of that index has given it, or any k others have given the same
columns, from which it is rebuilt.  All jobs of a batch go to a peer in one call.  A call
that takes longer than the hedge delay counts as late: its jobs are asked of others, and
whoever is first wins.

Not guaranteed: that what was read is what was written.  The reader compares each payload
with the digest in its core, and reads around the shards that it finds damaged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from hcefs.erasure.codec import codec_for
from hcefs.errors import Corrupt, Denied, HcefsError, Internal, NotFound, Unavailable
from hcefs.ids import AccountId, BlobBase
from hcefs.integrity import Buffer
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime, end_tasks
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.pack_holder import ANSWER_FULL
from hcefs.stripes.pack_shape import PackShape
from hcefs.stripes.stripe import too_few_shards
from hcefs.stripes.suspects import Suspect, is_telling, nobody
from hcefs.transport.packs import BatchCall, ColumnsWanted, PackPeers, PackWanted
from hcefs.transport.peers import Call, Piece

CALL_SECONDS = 5.0
"""A holder that has not answered by then counts as down for this read."""

log = logging.getLogger(__name__)


@dataclass
class ColumnJob:
    """The columns of some payloads in one data piece, and what came of reading them.

    ``avoid`` are indexes that proved damaged; ``every`` asks for all indexes instead of
    as few as it takes, to find out which are.  ``standing_in`` may have what seats lack.
    """

    payloads: PackWanted
    column: int
    shape: PackShape
    seats: dict[int, Seat]
    avoid: frozenset[int] = frozenset()
    every: bool = False
    found: dict[int, Buffer] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)
    failed: dict[int, HcefsError] = field(default_factory=dict)
    standing_in: Sequence[Node] = ()
    turned: dict[int, int] = field(default_factory=dict)
    """How many of them each index was asked of."""

    @property
    def length(self) -> int:
        """Bytes of the columns."""
        return sum(self.shape.lengths_in(self.payloads.slots, self.column))

    @property
    def done(self) -> bool:
        """Whether the columns are there, or can be rebuilt."""
        if self.every:
            return not self.asked and not self._spare()
        return self.column in self.found or len(self.found) >= self.shape.profile.k

    @property
    def is_degraded(self) -> bool:
        """Whether the columns did not come from where they are read when nothing is wrong."""
        if self.shape.profile.k == 1:
            return bool(self.failed or self.late)  # any copy is as good, this node's own the best
        return self.column not in self.found

    def _spare(self) -> list[int]:
        """Indexes that were not asked yet."""
        tried = {*self.found, *self.asked, *self.failed, *self.late} | self.avoid
        return [index for index in range(self.shape.profile.n) if index not in tried]

    def turn(self) -> bool:
        """Where all seats were asked and too few gave theirs: go on with who may stand in.

        False when nobody is left.
        """
        if self.done or self.every or self.asked or self._spare():
            return False
        again = False
        for index in [index for index in self.failed if index not in self.avoid]:
            at = self.turned.get(index, 0)
            if at < len(self.standing_in) and self.failed[index].kind != "corrupt":
                self.turned[index] = at + 1
                self.seats[index] = Seat(-1, index, self.standing_in[at])
                del self.failed[index]
                again = True
        return again

    def next(self, me: AccountId, slow: Collection[int]) -> list[int]:
        """The indexes to ask now; those of slow nodes only after all others."""
        if self.done:
            return []
        spare = sorted(self._spare(), key=lambda index: self.seats[index].node.node_id in slow)
        if self.every:
            return spare
        if self.shape.profile.k == 1:
            # Any copy will do, so this node's own is the nearest.
            spare.sort(key=lambda index: self.seats[index].node.account != me)
        elif (
            not (self.found or self.asked)
            and self.column in spare
            and self.seats[self.column].node.node_id not in slow
        ):
            return [self.column]
        if self.column in self.asked and self.column not in self.late:
            return []
        missing = self.shape.profile.k - len(self.found) - len(self.asked - self.late)
        return spare[: max(0, missing)]

    def data(self) -> Buffer:
        """The columns; rebuilt where the shard of that index did not give them.

        Raises:
            Unavailable: too few shards gave them.
            Corrupt: too few undamaged ones are left.
        """
        known = self.found.get(self.column)
        if known is not None:
            return known
        if len(self.found) < self.shape.profile.k:
            raise self._too_few()
        return codec_for(self.shape.profile).rebuild(self.found, [self.column])[self.column]

    def _too_few(self) -> HcefsError:
        k = self.shape.profile.k
        errors = list(self.failed.values())
        for error in errors:
            if isinstance(error, Denied):
                return error
        return too_few_shards(k, errors, damaged=bool(self.avoid))


_Running = dict[asyncio.Task[None], tuple[Node, list[tuple[ColumnJob, int]]]]
"""Calls under way: of which node, for what."""


class ColumnReader:
    """Runs jobs."""

    def __init__(
        self,
        runtime: Runtime,
        peers: PackPeers,
        metrics: Metrics,
        hedge: HedgeTimer,
        me: AccountId,
        suspect: Suspect = nobody,
    ) -> None:
        """``suspect`` is told of each shard that proves missing or damaged."""
        self._suspect = suspect
        self._runtime = runtime
        self._peers = peers
        self._metrics = metrics
        self._hedge = hedge
        self._me = me

    async def run(self, call: Call | BatchCall, jobs: Sequence[ColumnJob]) -> None:
        """Read until every job is done or has nobody left to ask."""
        running: _Running = {}
        started = self._runtime.monotonic()
        slow = self._slow(jobs, started)
        try:
            while True:
                self._ask(call, jobs, running, slow)
                if not running:
                    turned = [job.turn() for job in jobs]
                    if any(turned):
                        continue
                if not running or all(job.done for job in jobs):
                    break
                waiting = any(node.node_id not in slow for node, _ in running.values())
                done, _ = await asyncio.wait(
                    running,
                    timeout=self._hedge.delay_seconds if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    self._be_late(running, slow)
                for task in done:
                    node, _ = running.pop(task)
                    if node.node_id not in slow:
                        self._hedge.kept_up(node.account)
        finally:
            await end_tasks(*running)
        if jobs:
            self._hedge.observe(self._runtime.monotonic() - started)

    def _slow(self, jobs: Sequence[ColumnJob], now: float) -> set[int]:
        """The nodes that are known as slow, without one whose turn it is to show otherwise."""
        seats = {seat.node.node_id: seat for job in jobs for seat in job.seats.values()}
        slow = {
            number
            for number, seat in seats.items()
            if seat.node.account != self._me and self._hedge.is_slow(seat.node.account)
        }
        probe = self._hedge.to_probe([seats[number] for number in sorted(slow)], now)
        return slow - {probe.node.node_id} if probe is not None else slow

    def _be_late(self, running: _Running, slow: set[int]) -> None:
        """Give up waiting for the nodes that have not answered yet, though they still may."""
        late = 0
        for node, asked in running.values():
            slow.add(node.node_id)
            self._hedge.lost(node.account, self._runtime.monotonic())
            for job, index in asked:
                if index in job.asked and index not in job.late and not job.done:
                    job.late.add(index)
                    late += 1
        self._metrics.count("hedged_loads_total", late)

    def _ask(
        self,
        call: Call | BatchCall,
        jobs: Sequence[ColumnJob],
        running: _Running,
        slow: Collection[int],
    ) -> None:
        """Start one call for each node that something is to be asked of."""
        by_node: dict[int, tuple[Node, list[tuple[ColumnJob, int]]]] = {}
        for job in jobs:
            for index in job.next(self._me, slow):
                seat = job.seats[index]
                job.asked.add(index)
                by_node.setdefault(seat.node.node_id, (seat.node, []))[1].append((job, index))
        for node, asked in by_node.values():
            task = self._runtime.spawn(self._load(call, node, asked), name="columns")
            running[task] = (node, asked)

    async def _load(
        self, call: Call | BatchCall, node: Node, asked: Sequence[tuple[ColumnJob, int]]
    ) -> None:
        wanted = [
            ColumnsWanted(job.payloads, index, job.column, job.shape.profile.name)
            for job, index in asked
        ]
        answers: Sequence[Piece | HcefsError]
        try:
            async with self._runtime.timeout(CALL_SECONDS):
                answers = await self._peers.pack_peer(node).load_columns(call, wanted)
        except HcefsError as error:
            answers = [error] * len(asked)
        except TimeoutError:
            stalled = Unavailable("the holder does not answer", reason="stalled")
            answers = [stalled] * len(asked)
        except Exception as error:  # noqa: BLE001 - one holder's fault fails no other
            answers = [Internal(f"loading failed: {type(error).__name__}")] * len(asked)
        failures: dict[tuple[BlobBase, int, str], HcefsError] = {}
        profiles = {job.payloads.base: job.shape.profile.name for job, _ in asked}
        for position, ((job, index), answer) in enumerate(zip(asked, answers, strict=True)):
            failure = _enter(job, index, answer, first=not position)
            if failure is not None:
                failures.setdefault((job.payloads.base, index, failure.reason), failure)
        for (base, index, _), failure in failures.items():
            if is_telling(failure):
                self._suspect(node, base, index, profiles[base])
            if failure.kind == "corrupt":
                self._metrics.count("corrupt_shards_total")
            log.log(
                logging.ERROR if failure.kind == "corrupt" else logging.WARNING,
                "request %s: columns of pack %s index %d on node %d: %s (%s)",
                call.request,
                base,
                index,
                node.node_id,
                failure.kind,
                failure.reason,
            )


def _enter(
    job: ColumnJob, index: int, answer: Piece | HcefsError, *, first: bool
) -> HcefsError | None:
    """Take one answer into its job; why it is none."""
    job.asked.discard(index)
    job.late.discard(index)
    if not isinstance(answer, HcefsError):
        if len(answer) == job.length:
            job.found[index] = answer
            return None
        answer = Corrupt("the holder sent another length", reason="wrong-length")
    elif answer.reason == ANSWER_FULL:
        if not first:
            return None  # there is more of it: asked again
        # The first always fits: a holder that says otherwise must not be asked for ever.
        answer = Unavailable("the holder gives nothing", reason="stalled")
    elif isinstance(answer, NotFound) and (source := job.seats[index].source) is not None:
        # The seat is moving, and this shard has not been copied yet.
        job.seats[index] = replace(job.seats[index], node=source, source=None)
        return None
    job.failed[index] = answer
    if isinstance(answer, NotFound) and job.seats[index].seat < 0:
        return None  # most who may stand in have nothing
    return answer
