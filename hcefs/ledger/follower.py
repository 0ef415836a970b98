"""A replica that follows the writer, verifies all it is told, and knows when to refuse.

Owns the replica's growth, the lease, and what a fork leads to; blocks are verified by
:mod:`hcefs.ledger.feed`, heads compared by :mod:`hcefs.ledger.heads`.  Invariants:

* A block enters the log only after its signature, its place, every transaction in
  it and the resulting app hash were verified.  It is fsynced, then subscribers are
  told, then it is acknowledged and whoever waits for its height goes on.
* The lease is the newest head *whose block is applied here*: a head seen ahead of
  the blocks says that the ledger lives, not that this replica knows it.
* What is persisted is never replaced.  Two signed statements of the writer that
  contradict each other end service for good; both are kept in the log.
* A term that the operators have begun is never left: no block and no head of an older
  writer counts beyond it, and none renews the lease.  A replica that holds blocks which
  the term voids serves no more; it is made anew, for nothing here can be undone.
* A contradiction of a writer whose term has ended is kept as proof and stops nobody:
  operators have settled it.
* A disk that is full, or failed a write, ends nothing for good: the log is opened again
  when the disk takes writes, and says what of the last write is on it; meanwhile the
  lease runs out.
* A block that the writer signed and that does not replay here ends service until
  the process is restarted: state or software differ, and neither can be trusted.

Not guaranteed: progress; whoever carries the blocks may withhold them, and then the
lease runs out and every decision is refused.
Source: docs/ARCHITECTURE.md, "Ledger".
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Corrupt, HcefsError, Internal, Unavailable
from hcefs.ledger import machine
from hcefs.ledger.block import Block, SignedHead
from hcefs.ledger.database import DISK_REASONS
from hcefs.ledger.feed import Feed
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.heads import Forked, Heads
from hcefs.ledger.link import BlockBytes, HeadBytes, LedgerLink, TermBytes
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.outcome import Event
from hcefs.ledger.rows import AppliedBlock, ForkProof
from hcefs.ledger.terms import SignedTermChange
from hcefs.runtime import Runtime, end_tasks

__all__ = [
    "BlockBytes",
    "BlockCallback",
    "Follower",
    "FollowerStatus",
    "HeadBytes",
    "LedgerLink",
    "TermBytes",
]

_Message = BlockBytes | HeadBytes | TermBytes

REQUIRE_TIMEOUT_S = 5.0
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 5.0
QUEUED_MESSAGES_MAX = 32
"""Blocks and heads that wait to be verified; beyond it the sender waits."""
BATCH_BYTES = 8 << 20
"""Blocks of about this size are verified and fsynced together while catching up."""
VERSION_REFUSED = "version-refused"

_logger = logging.getLogger(__name__)


class FollowerStatus(enum.StrEnum):
    """What a follower is doing."""

    STOPPED = "stopped"
    FOLLOWING = "following"
    DISCONNECTED = "disconnected"
    DIVERGED = "diverged"
    FORKED = "forked"
    SUPERSEDED = "superseded"
    FAILED = "failed"
    OUTDATED = "outdated"


_TERMINAL = (
    FollowerStatus.DIVERGED,
    FollowerStatus.FORKED,
    FollowerStatus.SUPERSEDED,
    FollowerStatus.FAILED,
    FollowerStatus.OUTDATED,
)

_ENDS = {
    "diverged": FollowerStatus.DIVERGED,
    "ledger-log-failed": FollowerStatus.FAILED,
    "lost-blocks": FollowerStatus.FAILED,
    "unknown-protocol": FollowerStatus.OUTDATED,
}
"""What the feed can end with for good, by the reason of the error."""

BlockCallback = Callable[[Block, tuple[Event, ...]], None]


class Follower:
    """Keeps one log up to date with the writer.  Use it from one event loop."""

    def __init__(
        self, log: LedgerLog, genesis: Genesis, runtime: Runtime, link: LedgerLink
    ) -> None:
        self._log = log
        self._genesis = genesis
        self._runtime = runtime
        self._link = link
        self._status = FollowerStatus.STOPPED
        self._last_error: HcefsError | None = None
        self._refusal: HcefsError | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._callbacks: list[BlockCallback] = []
        self._heads = Heads(log, genesis, runtime)
        self._feed = Feed(log, genesis, self._heads)
        # One at a time: a block that is being replayed must not outlive its term.
        self._turn = asyncio.Lock()
        self._told_height = log.height
        self.caught_up = False
        """Whether the ledger has told this process its newest head, all blocks up to it applied:
        what was committed while this node was away is known here by then."""

    @property
    def view(self) -> LedgerLog:
        """The replica."""
        return self._log

    @property
    def status(self) -> FollowerStatus:
        """What it is doing; ``diverged``, ``forked`` and ``failed`` refuse service."""
        return self._status

    @property
    def last_error(self) -> HcefsError | None:
        """Why it stopped serving, or why it was last disconnected."""
        return self._refusal or self._last_error

    def subscribe(self, callback: BlockCallback) -> None:
        """Call ``callback(block, events)`` in the event loop for each block, once persisted.

        It must neither block nor raise.
        """
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Begin to follow; with the proof of a fork in the log, refuse instead."""
        if self._task is not None:
            return
        if await self._runtime.disk(self._log.fork) is not None:
            self._end(FollowerStatus.FORKED, _forked_error())
            return
        voided = await self._runtime.disk(self._log.superseded)
        if voided is not None:
            self._end(FollowerStatus.SUPERSEDED, self._superseded_error(voided))
            return
        try:
            machine.require_known_protocol(self._log)
        except Corrupt as error:
            self._end(FollowerStatus.OUTDATED, error)
            return
        self._told_height = self._log.height
        kept = self._log.head
        if kept is not None and kept.term == self._log.terms.term:
            try:
                # A crash may have come between the block and its comparison with this head.
                self._heads.check(kept)
            except Forked as fork:
                self._end(FollowerStatus.FORKED, _forked_error())
                await self._keep_fork(fork)
                return
        self._follow_on()

    def _follow_on(self) -> None:
        self._status = FollowerStatus.DISCONNECTED
        self._task = self._runtime.spawn(self._run(), name="ledger-follower")

    async def stop(self) -> None:
        """Stop following; a batch that is being written is finished."""
        task, self._task = self._task, None
        await end_tasks(task)
        if self._status not in _TERMINAL:
            self._status = FollowerStatus.STOPPED
        self._pulse()

    def distrust(self, error: Corrupt) -> None:
        """Serve no more: this replica's snapshot is another than the writer has named."""
        self._end(
            FollowerStatus.DIVERGED,
            Corrupt(
                f"{error.message}; run `hcefs ledger verify` on both sides, then make this "
                "replica anew",
                reason="diverged",
            ),
        )

    # What decisions ask.

    async def require(self, min_height: int) -> None:
        """Wait a little until the replica has reached a height.

        Raises:
            Unavailable: ``behind``: it has not in time; ``forked`` or ``diverged``.
        """
        try:
            async with self._runtime.timeout(REQUIRE_TIMEOUT_S):
                while self._told_height < min_height:
                    self._require_trusted()
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable(
                f"this node has the ledger up to {self._log.height}, the request asks for "
                f"{min_height}: try again, or another node",
                reason="behind",
            ) from None
        self._require_trusted()

    def require_fresh(self) -> None:
        """Refuse unless the replica may decide now.

        Raises:
            Unavailable: ``stale-lease``: too long without a head whose block is
                applied; ``disk-full`` or ``disk-error``: because this disk takes
                none; ``clock-skew``: this clock is behind the ledger's;
                ``forked``, ``diverged`` or ``follower-failed``.
        """
        self._require_trusted()
        now_ms = self._runtime.now_ms()
        # A clock that was set back while nothing came from the ledger must not make an old
        # lease a fresh one.
        ledger_ms = self._heads.ledger_ms()
        if ledger_ms > now_ms + self._genesis.skew_ms:
            raise Unavailable(
                f"this node's clock is {ledger_ms - now_ms} ms behind the ledger's: "
                "correct the clock",
                reason="clock-skew",
            )
        head = self._heads.applied
        if head is None or now_ms - head.time_ms > self._genesis.lease_ms:
            failure = self._log.failure
            if failure is None and self._last_error and self._last_error.reason == VERSION_REFUSED:
                failure = self._last_error
            if failure is not None:
                raise Unavailable(failure.message, reason=failure.reason)
            raise Unavailable(
                "this node has not heard from the ledger within its lease, so it cannot know "
                "what is permitted: try another node",
                reason="stale-lease",
            )

    def lease_age_ms(self) -> int | None:
        """Milliseconds since the newest applied head was signed; None before the first."""
        head = self._heads.applied
        return None if head is None else max(0, self._runtime.now_ms() - head.time_ms)

    def observe_head(self, data: bytes) -> None:
        """Take a head that another node passed on; it may renew the lease or show a fork.

        Raises:
            Invalid: malformed, or of another cluster or term.
            Unauthenticated: the writer did not sign it.
        """
        if data in self._heads.seen or self._status is FollowerStatus.FORKED:
            return
        head = SignedHead.decode(data)
        known = self._heads.applied
        if (
            known is not None
            and head.height == known.height
            and head.time_ms <= known.time_ms
            and (head.block_hash, head.app_hash) == (known.block_hash, known.app_hash)
        ):
            return  # nothing new in it, so its signature does not matter
        try:
            height = self._heads.check(head)
        except Forked as fork:
            if fork.settled:
                self._heads.remember(data, head)
                self._runtime.spawn(self._keep_fork(fork), name="ledger-fork")
                return
            # The status first: no decision may be made while the proof is being written.
            self._end(FollowerStatus.FORKED, _forked_error())
            self._runtime.spawn(self._keep_fork(fork), name="ledger-fork")
            return
        self._heads.remember(data, head)
        higher = head.height > self._heads.highest()
        self._heads.place(head, height)
        if higher:
            self._runtime.spawn(self._keep_head(head), name="ledger-head")

    def _require_trusted(self) -> None:
        refusal = self._refusal
        if refusal is not None:
            raise Unavailable(refusal.message, reason=refusal.reason)

    # Following.

    async def _run(self) -> None:
        pause = BACKOFF_FIRST_S
        while self._status not in _TERMINAL:
            before = self._log.height
            try:
                async with self._turn:
                    await self._recover()
                await self._follow_once()
                self._last_error = None
            except Forked as fork:
                if not fork.settled:
                    self._end(FollowerStatus.FORKED, _forked_error())
                await self._keep_fork(fork)
                self._last_error = _ended_term_error()
            except HcefsError as error:
                self._last_error = error
                if error.reason in _ENDS:
                    self._end(_ENDS[error.reason], error)
                    return
                _logger.warning("the ledger's feed broke (%s): %s", error.reason, error.message)
            except OSError as error:
                self._last_error = Unavailable(
                    f"the ledger cannot be reached ({error}): check the network",
                    reason="ledger-unreachable",
                )
            except Exception:
                _logger.exception("the follower met a fault of its own and stops")
                self._end(FollowerStatus.FAILED, _failed_error())
                return
            if self._status in _TERMINAL:
                return
            self._status = FollowerStatus.DISCONNECTED
            if self._log.height > before:
                pause = BACKOFF_FIRST_S
            # Jitter, so that the followers of a restarted writer do not come at once.
            jitter = 0.5 + self._runtime.random(1)[0] / 512
            await self._runtime.sleep(pause * jitter)
            pause = min(2 * pause, BACKOFF_LAST_S)

    async def _recover(self) -> None:
        """After a failed write: open the log again, and tell what of it is on disk."""
        if self._log.failure is None:
            return
        term = self._log.terms.term
        await self._runtime.disk(self._log.recover)
        _logger.warning("the ledger's log takes blocks again, at block %d", self._log.height)
        doubtful, self._feed.doubtful = self._feed.doubtful, ()
        landed = [each for each in doubtful if each.block.header.height <= self._log.height]
        if self._log.terms.term != term:
            self._reign()
        self._heads.reach()
        self._tell(landed)

    def _tell(self, applied: Sequence[AppliedBlock]) -> None:
        """Tell subscribers and waiters of blocks that are on disk."""
        for each in applied:
            events = tuple(event for outcome in each.outcomes for event in outcome.events)
            for callback in self._callbacks:
                callback(each.block, events)
            self._told_height = each.block.header.height
        if applied:
            self._pulse()

    async def _follow_once(self) -> None:
        """One connection: a reader fills a bounded queue, this task verifies and persists."""
        queue: asyncio.Queue[_Message | None] = asyncio.Queue(QUEUED_MESSAGES_MAX)
        reader = self._runtime.spawn(self._read(queue), name="ledger-follower-feed")
        try:
            ended = False
            while not ended:
                batch = [await queue.get()]
                size = 0
                while not queue.empty() and size < BATCH_BYTES:
                    message = queue.get_nowait()
                    size += len(message.data) if message is not None else 0
                    batch.append(message)
                ended = None in batch
                if self._status in _TERMINAL:
                    return
                await self._take_in([message for message in batch if message is not None])
            await reader
        finally:
            await end_tasks(reader)

    async def _read(self, queue: asyncio.Queue[_Message | None]) -> None:
        try:
            feed = self._link.follow(self._log.height + 1, self._acknowledgements())
            async with contextlib.aclosing(feed) as messages:
                async for message in messages:
                    self._status_following()
                    await queue.put(message)
        except asyncio.CancelledError:
            raise  # nobody reads the queue any more, so do not wait for room in it
        except BaseException:
            await queue.put(None)
            raise
        await queue.put(None)

    async def _acknowledgements(self) -> AsyncIterator[int]:
        sent = -1
        while True:
            changed = self._changed
            height = self._told_height
            if height > sent:
                sent = height
                yield height
                if height:
                    crash_point(CrashPoint.FOLLOWED_TOLD)
                continue
            await changed.wait()

    def _status_following(self) -> None:
        if self._status not in _TERMINAL:
            self._status = FollowerStatus.FOLLOWING

    async def _take_in(self, messages: Sequence[_Message]) -> None:
        """Verify and persist what came, in order: blocks and heads up to each new term."""
        run: list[BlockBytes | HeadBytes] = []
        for message in messages:
            if not isinstance(message, TermBytes):
                run.append(message)
                continue
            await self._take_run(run)
            run = []
            await self.begin_term(message.data)
            if self._status in _TERMINAL:
                return
        await self._take_run(run)

    async def _take_run(self, messages: Sequence[BlockBytes | HeadBytes]) -> None:
        async with self._turn:
            await self._take_in_turn(messages)

    async def _take_in_turn(self, messages: Sequence[BlockBytes | HeadBytes]) -> None:
        """Verify and persist the blocks of a batch, then place its heads."""
        blocks = [message.data for message in messages if isinstance(message, BlockBytes)]
        if blocks:
            verified = await self._runtime.disk(self._feed.take, blocks)
            self._heads.reach()
            self._tell(verified.applied)
            if verified.problem is not None:
                raise verified.problem
        newest: SignedHead | None = None
        for message in messages:
            if isinstance(message, HeadBytes):
                newest = self._heads.seen.get(message.data)
                if newest is None:
                    newest = SignedHead.decode(message.data)
                    self._heads.place(newest, self._heads.check(newest))
                    self._heads.remember(message.data, newest)
        if newest is not None:
            if not self._log.show_head(newest):
                await self._runtime.disk(self._log.keep_head, newest)
            self.caught_up = True
            self._pulse()

    # Heads.

    async def _keep_head(self, head: SignedHead) -> None:
        try:
            await self._runtime.disk(self._log.keep_head, head)
        except HcefsError as error:
            if error.reason not in DISK_REASONS:
                self._end(FollowerStatus.FAILED, error)

    # Terms.

    async def begin_term(self, data: bytes) -> None:
        """Take a statement of the operators, from the feed or from whoever carries it.

        A replica that stands at its block follows the new writer from then on, also if a
        fork had stopped it.  One that holds blocks which the statement voids serves no
        more.  A repeat does nothing.

        Raises:
            Invalid, Unauthenticated, Denied: it is not the operators' word.
            Conflict: ``wrong-term``: an earlier statement is missing.
            Unavailable: ``behind``: blocks are missing; try again when they are here.
        """
        signed = SignedTermChange.decode(data)
        async with self._turn:
            await self._recover()
            try:
                verdict = await self._runtime.disk(self._judge_term, signed)
            except Forked as fork:
                self._end(FollowerStatus.FORKED, _forked_error())
                await self._keep_fork(fork)
                return
            if verdict is FollowerStatus.SUPERSEDED:
                # The status first, as for a fork.
                self._end(verdict, self._superseded_error(signed))
                await self._runtime.disk(self._log.keep_superseded, signed)
            elif verdict is FollowerStatus.FOLLOWING:
                await self._runtime.disk(self._log.begin_term, signed)
                self._reign()

    def _judge_term(self, signed: SignedTermChange) -> FollowerStatus | None:
        """What a statement does to this replica; None: it is known."""
        terms, change = self._log.terms, signed.change
        known = terms.statement(change.term)
        if known is not None and known.change == change:
            return None
        signed.check(self._log, self._genesis)
        if known is not None:
            raise Forked(change.height, ours=known.encode(), theirs=signed.encode())
        terms.followed_by(signed)
        if self._log.height < change.height:
            raise Unavailable(
                f"term {change.term} begins after block {change.height}, this replica stands at "
                f"block {self._log.height}: it gets the blocks between first",
                reason="behind",
            )
        stands = (self._log.height, self._log.tip_hash) == (change.height, change.block_hash)
        return FollowerStatus.FOLLOWING if stands else FollowerStatus.SUPERSEDED

    def _reign(self) -> None:
        """Forget what older writers said, and follow again if their fork had ended that."""
        self._heads.forget()
        _logger.warning("the ledger's term %d has begun here", self._log.terms.term)
        if self._status is FollowerStatus.FORKED:
            self._refusal = None
            self._told_height = self._log.height
            self._follow_on()
        self._pulse()

    def _superseded_error(self, signed: SignedTermChange) -> Unavailable:
        change = signed.change
        return Unavailable(
            f"operators recovered the ledger at block {change.height} (term {change.term}), and "
            f"this replica holds other blocks up to {self._log.height}; they are void, and the "
            "statement is kept: stop this process, move its folder 'ledger' away and start it "
            "again, so that it fetches the ledger anew",
            reason="superseded",
        )

    # The end of trust.

    async def _keep_fork(self, fork: Forked) -> None:
        try:
            await self._runtime.disk(self._write_proof, fork)
        except HcefsError as error:
            _logger.error("the proof of the fork could not be kept: %s", error.message)

    def _write_proof(self, fork: Forked) -> None:
        ours = fork.ours
        if ours is None:
            # Below the first block stands the genesis, which everybody has.
            at_genesis = fork.height == 0
            ours = (
                self._genesis.encode() if at_genesis else self._log.statement(fork.height).encode()
            )
        self._log.keep_fork(ForkProof(fork.height, ours=ours, theirs=fork.theirs))

    def _end(self, status: FollowerStatus, error: HcefsError) -> None:
        if self._status in (FollowerStatus.FORKED, FollowerStatus.SUPERSEDED):
            return
        _logger.error("this replica of the ledger serves no more: %s", error.message)
        self._refusal = error
        self._status = status
        self._pulse()

    def _pulse(self) -> None:
        """Wake everyone who waits for a change, once."""
        self._changed.set()
        self._changed = asyncio.Event()


def _forked_error() -> Unavailable:
    return Unavailable(
        "two signed histories of the ledger contradict each other; the proof is kept in the log "
        "(`hcefs ledger proof`): compare the replicas and recover from the right one",
        reason="forked",
    )


def _ended_term_error() -> Unavailable:
    return Unavailable(
        "the feed is of a writer whose term has ended, and contradicts it; the proof is kept: "
        "stop that writer and correct ledger_address",
        reason="ended-term",
    )


def _failed_error() -> Internal:
    return Internal(
        "this replica of the ledger met a fault of its own; the process's log says which: "
        "restart it",
        reason="follower-failed",
    )
