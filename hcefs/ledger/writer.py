"""The embedded ledger's one writer: from submitted transactions to signed blocks.

Owns group commit, the signed heads that are the nodes' lease, and the feed that
followers read.  Invariants:

* A result is returned only when its block is fsynced here and on as many followers
  as :data:`FOLLOWERS_REQUIRED` says (fewer when the map has fewer other nodes).
* Blocks are made one at a time: while one is being written here and by the followers
  that count, submissions gather for the next, because a block costs every replica
  much the same, whatever it holds.  One that does not apply never enters a block.
* Block time never goes back; nor does the time of heads.
* A repeat of a transaction returns the first result, by the hash of its body.
* After a failed write it signs nothing until the log was opened again and is found to
  hold all that was on disk; whatever of the failed block is on it, counts.  The block
  was shown to nobody, so another one of its height is no fork.
* Pending submissions are bounded in number and bytes; a follower's feed holds no
  queue: it is read from the log at the follower's own pace.

Not guaranteed: that a submission which ended with ``not-replicated``, or was
cancelled, is absent; repeat it to learn.  Only one writer may hold the key; two of
them fork the ledger, and every follower then stops.
Source: docs/ARCHITECTURE.md, "Ledger".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from hcefs import tracing
from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.crypto.signing import SigningKey
from hcefs.errors import Conflict, Exhausted, HcefsError, Internal, Invalid, Unavailable
from hcefs.ids import AccountId
from hcefs.integrity import blake3_digest
from hcefs.ledger import machine
from hcefs.ledger.block import (
    BLOCK_TRANSACTION_BYTES_MAX,
    Block,
    BlockHeader,
    SignedHead,
    sign_block,
    sign_head,
    transaction_root,
)
from hcefs.ledger.database import DISK_REASONS
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.outcome import BlockContext, Outcome
from hcefs.ledger.rows import AppliedBlock, SubmitResult
from hcefs.ledger.state import Overlay
from hcefs.ledger.terms import SignedTermChange
from hcefs.ledger.transactions import SignedTransaction
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.runtime import Runtime, end_tasks

__all__ = ["PENDING_BYTES_MAX", "PENDING_MAX", "LedgerWriter", "SubmitResult"]

PENDING_MAX = 10_000
PENDING_BYTES_MAX = 64 << 20
BLOCK_TRANSACTIONS = 512
"""Most transactions that one block takes: it bounds how long the others wait."""
GATHER_S = 0.02
"""Longest that submissions gather while followers write the block before."""
FOLLOWERS_REQUIRED = 2
REPLICATION_TIMEOUT_S = 5.0

_HEADS_PER_LEASE = 4
"""More than the three that are promised, so that a late timer does not break the promise."""
_RECOVER_S = 1.0
"""Between two attempts to open the log again."""

_FEED_BLOCKS = 64
_FEED_BYTES = 4 << 20

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Pending:
    """One submission that waits for its block."""

    data: bytes
    signed: SignedTransaction
    hash: bytes
    future: asyncio.Future[SubmitResult]


@dataclass(frozen=True)
class _Answer:
    pending: _Pending
    result: SubmitResult | HcefsError


class LedgerWriter:
    """Commits transactions and feeds followers.  Use it from one event loop.

    ``own_account`` is the account of the node whose disk holds this log: its own
    acknowledgement would be of the same disk, so it does not count.
    """

    def __init__(
        self,
        log: LedgerLog,
        key: SigningKey,
        runtime: Runtime,
        genesis: Genesis,
        *,
        own_account: AccountId | None = None,
    ) -> None:
        if key.public_key != log.terms.writer_key:
            raise Invalid(
                f"this is not the key of the writer of term {log.terms.term}, which the genesis "
                "or the operators' last statement names: give the right one",
                reason="wrong-writer-key",
            )
        self._log = log
        self._key = key
        self._runtime = runtime
        self._genesis = genesis
        self._own_account = own_account
        self._queue: deque[_Pending] = deque()
        self._in_flight: dict[bytes, _Pending] = {}
        self._pending_bytes = 0
        self._work = asyncio.Event()
        self._changed = asyncio.Event()
        self._running = False
        self._stopped = False
        self._refusal: HcefsError | None = None
        self._term = log.terms.term
        self._head: SignedHead | None = None
        self._newest: Block | None = None
        self._acknowledged: dict[AccountId, int] = {}
        self._replicated_height = 0
        self._counted_map: ClusterMap | None = None
        self._counted: frozenset[AccountId] = frozenset()
        self._settling_height = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._recovery: asyncio.Task[None] | None = None

    @property
    def log(self) -> LedgerLog:
        """The log that this writer appends to."""
        return self._log

    @property
    def running(self) -> bool:
        """Whether it accepts submissions; not while its disk takes none."""
        return self._running

    @property
    def head(self) -> SignedHead | None:
        """The newest head it signed."""
        return self._head

    @property
    def replicated_height(self) -> int:
        """The highest block that enough followers have fsynced."""
        return self._replicated_height

    async def start(self) -> None:
        """Sign a first head and begin to commit.

        Raises:
            Conflict: ``forked``: the log holds the proof of two histories;
                ``superseded``: it holds blocks that operators have voided.
        """
        if self._running:
            return
        self._require_own_term()
        if self._log.fork() is not None:
            raise Conflict(
                "this log holds the proof that the ledger forked: compare the followers and "
                "recover from the right one before anything more is written",
                reason="forked",
            )
        await self._begin()

    async def _begin(self) -> None:
        self._running = True
        self._stopped = False
        try:
            await self._renew_head()
        except BaseException:
            self._running = False
            raise
        self._count_acknowledgements()
        self._tasks = [
            self._runtime.spawn(self._commit_batches(), name="ledger-commit"),
            self._runtime.spawn(self._keep_lease(), name="ledger-heads"),
        ]

    async def stop(self) -> None:
        """Finish the block in the making, refuse what waits, end every feed."""
        self._halt()
        tasks, self._tasks = self._tasks, []
        await end_tasks(self._recovery)
        self._recovery = None
        if tasks:
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        stopped = Unavailable(
            "the ledger's writer has stopped: repeat the transaction elsewhere or later",
            reason="ledger-stopped",
        )
        self._fail_queued(stopped)

    async def submit(self, transaction: bytes) -> SubmitResult:
        """Commit an encoded ``SignedTransaction`` and wait until followers hold it.

        A repeat, concurrent or later, returns the first result.  After a
        cancellation the transaction may still be committed.

        Raises:
            Invalid, Unauthenticated, Denied, Conflict, NotFound: it does not apply.
            Exhausted: ``ledger-busy``: too many submissions wait.
            Unavailable: ``not-replicated``: it is committed here, but too few
                followers have said so in time; ``ledger-stopped``.
            Exhausted, Unavailable: ``disk-full``, ``disk-error``: the disk failed, and it
                may be committed: repeat it to learn.
            Internal: ``ledger-log-failed``: the same, and the writer needs a restart.
        """
        try:
            async with self._runtime.timeout(REPLICATION_TIMEOUT_S):
                await self._wait_started()
        except TimeoutError:
            failure = self._log.failure
            if failure is not None:
                raise failure from None
            raise Unavailable(
                "the ledger asks its followers what they hold before it writes: try again",
                reason="ledger-waiting",
            ) from None
        self._require_running()
        name = blake3_digest(transaction)
        pending = self._in_flight.get(name)
        if pending is None:
            signed = SignedTransaction.decode(transaction)
            known = self._log.result_of(signed.hash())
            if known is not None:
                await self._wait_replicated(known.height)
                return known
            pending = self._enqueue(name, transaction, signed)
        with tracing.span("commit block", "internal"):
            result = await asyncio.shield(pending.future)
        with tracing.span("wait for followers", "internal"):
            await self._wait_replicated(result.height)
        return result

    def acknowledge(self, follower: AccountId, height: int) -> None:
        """Note that a follower, whom the caller has authenticated, has fsynced up to ``height``.

        Only nodes of the current map count; what is beyond this log is ignored.
        """
        known = self._acknowledged.get(follower, 0)
        if known < height <= self._log.height and follower in _nodes_of(self._log.cluster_map()):
            self._acknowledged[follower] = height
            self._count_acknowledgements()

    def _begins(self, follower: AccountId, height: int) -> None:
        """Note where a follower begins: what it once had may have gone with its disk."""
        if self._acknowledged.get(follower, 0) > height:
            self._acknowledged[follower] = height

    def head_of(self, block: Block) -> SignedHead | None:
        """The newest head, when ``block`` is the one that it names."""
        head = self._head
        return head if head is not None and head.height == block.header.height else None

    async def subscribe(
        self, from_height: int, follower: AccountId | None = None
    ) -> AsyncGenerator[Block | SignedHead | SignedTermChange, None]:
        """Blocks from a height on, and after the last one the newest head, for ever.

        Before the first block the statements of all terms that have begun by then, and
        each later one where it begins.  Only the newest head is sent to a reader that is
        slow.  A reader that comes before the writer has started waits for that.  Ends
        when the writer stops.  ``follower`` is who reads, if it acknowledges.

        Raises:
            Invalid: ``bad-height``: the height is below 1.
            Conflict: ``follower-ahead``: the reader has blocks that this log lacks;
                ``before-snapshot``: it lacks blocks that this log never had.
            Unavailable: ``ledger-stopped``.
        """
        await self._wait_started()
        self._require_running()
        if from_height < 1:
            raise Invalid("the first block has height 1: ask from there", reason="bad-height")
        if follower is not None:
            self._begins(follower, from_height - 1)
        changes = list(self._log.terms.changes)
        if from_height > self._log.height + 1:
            # Whoever holds voided blocks is to learn why they are void.
            for change in changes:
                yield change
            raise Conflict(
                f"block {from_height - 1} was asked past, but this ledger ends at "
                f"{self._log.height}: the writer has lost blocks or the follower is of another "
                "history; compare them before either goes on",
                reason="follower-ahead",
            )
        if from_height <= self._log.base_height:
            raise Conflict(
                f"this ledger's log begins after block {self._log.base_height}: start this "
                "replica from a snapshot (move its folder 'ledger' away)",
                reason="before-snapshot",
            )
        cursor, sent = from_height, None
        while self._running:
            changed = self._changed
            while cursor <= self._log.height:
                while changes and changes[0].change.height < cursor:
                    yield changes.pop(0)
                newest = self._newest
                if newest is not None and newest.header.height == cursor:
                    # All followers that keep up want this one: none of them reads it.
                    yield newest
                    cursor += 1
                    continue
                for block in await self._runtime.disk(self._read_feed, cursor):
                    if changes and changes[0].change.height < cursor:
                        break
                    yield block
                    cursor += 1
            while changes:
                yield changes.pop(0)
            head = self._head
            if head is not None and head is not sent and head.height < cursor:
                sent = head
                yield head
            await changed.wait()

    # Committing.

    def refuse(self, error: HcefsError) -> None:
        """Never start: ``error`` says why, and is what submissions and readers get."""
        self._refusal = error
        self._pulse()

    async def _wait_started(self) -> None:
        while not self._running and not self._ended:
            await self._changed.wait()

    @property
    def _ended(self) -> bool:
        return self._stopped or self._refusal is not None

    def _require_own_term(self) -> None:
        voided = self._log.superseded()
        if voided is not None:
            raise Conflict(
                "operators have begun a later term of the ledger without this writer: it must "
                "never write again; start the ledger that `hcefs ledger recover` made",
                reason="superseded",
            )

    def _require_running(self) -> None:
        if self._refusal is not None:
            raise Unavailable(self._refusal.message, reason=self._refusal.reason)
        if not self._running:
            raise Unavailable(
                "the ledger's writer is not running here: try again later",
                reason="ledger-stopped",
            )

    def _enqueue(self, name: bytes, data: bytes, signed: SignedTransaction) -> _Pending:
        if (
            len(self._in_flight) >= PENDING_MAX
            or self._pending_bytes + len(data) > PENDING_BYTES_MAX
        ):
            raise Exhausted(
                "too many transactions wait for the ledger: repeat this one after the delay",
                reason="ledger-busy",
            )
        future: asyncio.Future[SubmitResult] = asyncio.get_running_loop().create_future()
        # Whoever submitted it may be gone: then nobody asks for the exception.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        pending = _Pending(data, signed, signed.hash(), future)
        self._in_flight[name] = pending
        self._pending_bytes += len(data)
        future.add_done_callback(lambda _: self._forget(name, len(data)))
        self._queue.append(pending)
        self._work.set()
        return pending

    def _forget(self, name: bytes, size: int) -> None:
        if self._in_flight.pop(name, None) is not None:
            self._pending_bytes -= size

    def _take(self) -> list[_Pending]:
        batch: list[_Pending] = []
        size = 0
        while self._queue and len(batch) < BLOCK_TRANSACTIONS:
            size += len(self._queue[0].data)
            if size > BLOCK_TRANSACTION_BYTES_MAX:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _commit_batches(self) -> None:
        while self._running:
            if not self._queue:
                self._work.clear()
                await self._work.wait()
                continue
            await self._gather()
            if not self._running:
                return
            batch = self._take()
            try:
                made, answers = await self._runtime.disk(
                    self._commit, batch, self._runtime.now_ms()
                )
            except HcefsError as error:
                self._fail(error, batch)
                return
            except Exception:
                _logger.exception("the ledger's writer met a fault of its own")
                self._fail(_machine_fault(), batch)
                return
            if made is not None:
                self._newest, head = made
                self._show_head(head)
                self._count_acknowledgements()
            for answer in answers:
                if isinstance(answer.result, SubmitResult):
                    answer.pending.future.set_result(answer.result)
                else:
                    answer.pending.future.set_exception(answer.result)

    async def _gather(self) -> None:
        """Wait a little until the last block is replicated, or the next would be full."""
        try:
            async with self._runtime.timeout(GATHER_S):
                while (
                    self._running
                    and self._replicated_height < self._log.height
                    and len(self._queue) < BLOCK_TRANSACTIONS
                ):
                    await self._changed.wait()
        except TimeoutError:
            pass

    def _commit(
        self, batch: list[_Pending], now_ms: int
    ) -> tuple[tuple[Block, SignedHead] | None, list[_Answer]]:
        """Make, sign and write one block of what applies; runs on a disk thread."""
        log = self._log
        context = BlockContext(log.height + 1, max(now_ms, log.time_ms), self._genesis)
        state = Overlay(log)
        machine.begin_block(state, context)
        answers: list[_Answer] = []
        accepted: dict[bytes, SubmitResult] = {}
        transactions: list[bytes] = []
        outcomes: list[Outcome] = []
        for pending in batch:
            known = accepted.get(pending.hash) or log.result_of(pending.hash)
            if known is not None:
                answers.append(_Answer(pending, known))
                continue
            try:
                outcome = machine.apply(state, pending.signed, context)
            except HcefsError as error:
                answers.append(_Answer(pending, error))
                continue
            except Exception:
                # A fault of ours that one transaction provokes must not stop the others.
                _logger.exception("the state machine failed on a transaction; it is refused")
                answers.append(_Answer(pending, _machine_fault()))
                continue
            result = SubmitResult(context.height, context.time_ms, outcome.leaves)
            accepted[pending.hash] = result
            transactions.append(pending.data)
            outcomes.append(outcome)
            answers.append(_Answer(pending, result))
        if not transactions:
            return None, answers
        block = self._sign(context, transactions, state)
        head = self._sign_head(block.header, block.header.app_hash, now_ms)
        applied = AppliedBlock(block, state.writes, tuple(outcomes), state.written_facts)
        crash_point(CrashPoint.BLOCK_SIGNED)
        log.append([applied], head)
        crash_point(CrashPoint.BLOCK_WRITTEN)
        return (block, head), answers

    def _sign(self, context: BlockContext, transactions: list[bytes], state: Overlay) -> Block:
        log = self._log
        header = BlockHeader(
            cluster=self._genesis.cluster,
            term=self._term,
            height=context.height,
            time_ms=context.time_ms,
            previous=log.tip_hash,
            transaction_root=transaction_root(transactions),
            protocol_version=machine.protocol_at(log, context.height),
            app_hash=machine.next_app_hash(log.app_hash, state),
            snapshot_root=log.snapshots.root_to_name(context.height),
        )
        return sign_block(header, transactions, self._key)

    def _fail(self, error: HcefsError, batch: list[_Pending]) -> None:
        """After a failed write nobody knows what is on disk: stop until the log is read again."""
        for pending in batch:
            pending.future.set_exception(error)
        self._fail_queued(error)
        if not self._running:
            return
        self._halt()
        if error.reason not in DISK_REASONS:
            _logger.error("the ledger's writer stops: %s", error.message)
            return
        _logger.error("the ledger's writer waits for its disk: %s", error.message)
        self._stopped = False
        self._recovery = self._runtime.spawn(self._recover(), name="ledger-recovery")

    async def _recover(self) -> None:
        """Open the log again as soon as the disk permits, and go on from what it holds."""
        # Both have seen that it does not run any more; they must not outlive this.
        tasks, self._tasks = self._tasks, []
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while True:
            await self._runtime.sleep(_RECOVER_S)
            try:
                await self._runtime.disk(self._log.recover)
                await self._begin()
            except HcefsError as error:
                if error.reason in DISK_REASONS:
                    self._fail_queued(error)
                    continue
                _logger.error("the ledger's writer stops: %s", error.message)
                self._halt()
                return
            _logger.warning("the ledger's writer goes on after block %d", self._log.height)
            self._recovery = None
            return

    def _fail_queued(self, error: HcefsError) -> None:
        while self._queue:
            self._queue.popleft().future.set_exception(error)

    def _halt(self) -> None:
        self._running = False
        self._stopped = True
        self._work.set()
        self._pulse()

    # Heads.

    async def _keep_lease(self) -> None:
        period = self._genesis.lease_ms / 1000 / _HEADS_PER_LEASE
        while self._running:
            await self._runtime.sleep(period)
            try:
                await self._renew_head()
            except HcefsError as error:
                self._fail(error, [])
                return

    async def _renew_head(self) -> None:
        log = self._log
        head = self._sign_head(log.tip, log.app_hash, self._runtime.now_ms())
        crash_point(CrashPoint.HEAD_SIGNED)
        await self._runtime.disk(log.keep_head, head)
        crash_point(CrashPoint.HEAD_WRITTEN)
        if self._running:
            self._show_head(head)

    def _sign_head(self, header: BlockHeader | None, app_hash: bytes, now_ms: int) -> SignedHead:
        """A head no older than any before it, so that a clock set back renews no lease early."""
        last = self._log.head
        if last is not None and last.term < self._term:
            last = None  # its clock was another machine's, and its word has ended
        time_ms = max(now_ms, self._genesis.time_ms, last.time_ms if last is not None else 0)
        if header is not None:
            time_ms = max(time_ms, header.time_ms)
        return sign_head(self._genesis, header, app_hash, time_ms, self._key, term=self._term)

    def _show_head(self, head: SignedHead) -> None:
        known = self._head
        if known is None or (head.height, head.time_ms) > (known.height, known.time_ms):
            self._head = head
        self._pulse()

    # Followers.

    def _read_feed(self, height: int) -> list[Block]:
        blocks: list[Block] = []
        size = 0
        last = min(self._log.height, height + _FEED_BLOCKS - 1)
        while height <= last and size < _FEED_BYTES:
            block = self._log.block(height)
            size += sum(map(len, block.transactions))
            blocks.append(block)
            height += 1
        return blocks

    def _counted_nodes(self) -> frozenset[AccountId]:
        """The followers that count for blocks up to the end of this log.

        A block that changes the map, and what follows it, is acknowledged by nodes that
        the map before it has too.  Else it could be on new nodes alone, whom nobody
        counts who knows only the old map: a recovery that reaches all but one of the
        nodes that it knows of could miss it.
        """
        cluster_map = self._log.cluster_map()
        if cluster_map is not self._counted_map:
            # Asked for every acknowledgement; a map is one object until the next comes.
            nodes = _nodes_of(cluster_map) - {self._own_account}
            both = nodes & self._counted
            self._counted_map = cluster_map
            self._settling_height = self._log.height if both and both != nodes else 0
            self._counted = frozenset(both or nodes)
        return self._counted

    def _count_acknowledgements(self) -> None:
        nodes = self._counted_nodes()
        if 0 < self._settling_height <= self._replicated_among(nodes):
            self._settling_height = 0
            nodes = self._counted = frozenset(_nodes_of(self._counted_map) - {self._own_account})
        replicated = self._replicated_among(nodes)
        if replicated != self._replicated_height:
            self._replicated_height = replicated
            self._pulse()

    def _replicated_among(self, nodes: frozenset[AccountId]) -> int:
        required = min(FOLLOWERS_REQUIRED, len(nodes))
        if required:
            heights = sorted((self._acknowledged.get(node, 0) for node in nodes), reverse=True)
            return heights[required - 1]
        return self._log.height

    async def _wait_replicated(self, height: int) -> None:
        if self._replicated_height >= height:
            return
        try:
            async with self._runtime.timeout(REPLICATION_TIMEOUT_S):
                while self._replicated_height < height and self._running:
                    await self._changed.wait()
        except TimeoutError:
            pass
        if self._replicated_height < height:
            raise Unavailable(
                f"the transaction is committed in block {height}, but fewer than "
                f"{FOLLOWERS_REQUIRED} followers hold it yet: repeat it to get the result once "
                "they do",
                reason="not-replicated",
            )

    def _pulse(self) -> None:
        """Wake everyone who waits for a change, once."""
        self._changed.set()
        self._changed = asyncio.Event()


def _nodes_of(cluster_map: ClusterMap | None) -> frozenset[AccountId]:
    """The accounts of the nodes whose word a map counts."""
    return frozenset(node.account for node in counted_nodes(cluster_map))


def counted_nodes(cluster_map: ClusterMap | None) -> tuple[Node, ...]:
    """The nodes whose acknowledgements count under a map, in its order."""
    gone = (NodeState.OUT, NodeState.REMOVED)
    nodes = cluster_map.nodes if cluster_map is not None else ()
    return tuple(node for node in nodes if node.state not in gone)


def answers_needed(nodes: int) -> int:
    """How many of so many followers must say what they hold, so that none of them can miss.

    What was acknowledged is on :data:`FOLLOWERS_REQUIRED` of them (on all, where there are
    fewer), so one of those is among any so many.
    """
    return nodes - min(FOLLOWERS_REQUIRED, nodes) + 1 if nodes else 0


def _machine_fault() -> Internal:
    return Internal(
        "the ledger could not process this transaction; its log says why: tell the operators",
        reason="machine-fault",
    )
