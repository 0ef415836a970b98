"""What a ledger does before it writes: it asks the followers what they hold.

Owns the questions to replicas, the copying of their blocks, and the two judgements that
rest on the answers: whether a writer may sign again with the log that it has
(:func:`settle`), and from which block operators may begin a new term
(:func:`plan_recovery`).  Invariants:

* Nothing is signed at a height that exists elsewhere, as far as the answers tell: a log
  that lacks blocks fetches and verifies them first.
* What was acknowledged is never left behind: so many followers must have answered that
  one which holds it is among them (:func:`hcefs.ledger.writer.answers_needed`).
* An answer is a claim.  Only signed heads and blocks that replay count as facts; a claim
  that nothing signed supports neither advances the log nor stops it.

Not guaranteed: anything against followers that together hide what they hold; and a block
that was signed but never acknowledged may be on a follower that did not answer.  If it
comes back, the contradiction is found and kept as proof.
Source: docs/decisions/0024-terms-and-recovery.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from hcefs.crypto.signing import SigningKey
from hcefs.encoding import Encoded
from hcefs.errors import Conflict, Corrupt, HcefsError, Invalid, NotFound, Unavailable
from hcefs.ids import AccountId, ClusterId
from hcefs.ledger import machine
from hcefs.ledger.block import Block, SignedHead
from hcefs.ledger.link import BlockBytes, TermBytes
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.rows import AppliedBlock, ForkProof
from hcefs.ledger.state import State
from hcefs.ledger.terms import SignedTermChange, TermChange
from hcefs.ledger.writer import answers_needed, counted_nodes
from hcefs.runtime import Runtime

ASK_TAG = b"writer-ask"
ASK_SECONDS = 3.0
PAUSE_FIRST_S = 0.1
PAUSE_LAST_S = 2.0
REST_SECONDS = 1.0
"""How long the last followers are waited for when enough have answered."""
COPY_BYTES = 8 << 20
"""Blocks of about this size are verified and fsynced together."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriterAsk(Encoded):
    """The ledger's writer of a term asks the node ``holder`` about its replica."""

    KIND = "writer-ask"
    MAX_BYTES = 256

    cluster: ClusterId
    term: int
    holder: AccountId
    time_ms: int


@dataclass(frozen=True)
class SignedWriterAsk(Encoded):
    """The ask with the writer's signature."""

    KIND = "signed-writer-ask"
    MAX_BYTES = 512

    ask: WriterAsk
    signature: bytes


def sign_ask(ask: WriterAsk, key: SigningKey) -> SignedWriterAsk:
    """The ask as the writer signs it."""
    return SignedWriterAsk(ask, key.sign(ASK_TAG, ask.encode()))


@dataclass(frozen=True)
class ReplicaAnswer:
    """What a node says of its replica; claims, all of it.

    ``proofs`` are encoded ``ForkProof``s, ``terms`` the statements of its terms in order;
    ``superseded`` is the statement that voids its blocks, or empty.
    """

    account: AccountId
    height: int
    block_hash: bytes
    head: bytes
    terms: tuple[bytes, ...]
    status: str
    problem: str
    proofs: tuple[bytes, ...] = ()
    superseded: bytes = b""


class Replicas(Protocol):
    """The way to the replicas of other processes, by the address that clients use."""

    async def describe(self, account: AccountId | None, address: str) -> ReplicaAnswer:
        """Ask one; ``account`` is whom the map has there, if it is known.

        Raises:
            HcefsError: it cannot be reached, or refuses.
        """

    def blocks(
        self, account: AccountId | None, address: str, from_height: int, last_height: int
    ) -> AsyncGenerator[BlockBytes | TermBytes, None]:
        """Its blocks in order, and the statements of terms where they begin.

        Raises:
            HcefsError: it cannot be reached, refuses, or lacks them.
        """


# --- copying --------------------------------------------------------------------


async def copy_blocks(
    log: LedgerLog,
    feed: AsyncGenerator[BlockBytes | TermBytes, None],
    runtime: Runtime,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Verify and append what a replica sends; returns the height reached.

    Every block is replayed, with its signature, as a follower does it; what was good
    before an error stays.

    Raises:
        Corrupt: what came is not what the writers signed.
        HcefsError: of the feed.
    """
    batch: list[bytes] = []
    size = 0

    async def flush() -> None:
        nonlocal batch, size
        if batch:
            blocks, batch, size = batch, [], 0
            await runtime.disk(append_blocks, log, blocks)
            if progress is not None:
                progress(log.height)

    async with contextlib.aclosing(feed) as messages:
        async for message in messages:
            if isinstance(message, BlockBytes):
                batch.append(message.data)
                size += len(message.data)
                if size >= COPY_BYTES:
                    await flush()
                continue
            await flush()
            await runtime.disk(take_term, log, message.data)
    await flush()
    return log.height


def append_blocks(log: LedgerLog, blocks: Sequence[bytes]) -> None:
    """Replay encoded blocks onto a log and persist them in one batch; none or all.

    Raises:
        Corrupt: one does not follow, is not signed by its writer, or does not replay.
    """
    state: State = log
    previous = log.tip
    applied = []
    for data in blocks:
        block = Block.decode(data)
        overlay, outcomes = machine.replay(state, block, log.genesis, previous, log.terms)
        applied.append(AppliedBlock(block, overlay.writes, tuple(outcomes), overlay.written_facts))
        state, previous = overlay, block.header
    log.append(applied)


def take_term(log: LedgerLog, data: bytes) -> None:
    """Check a statement and begin its term on a log; one that is known does nothing.

    Raises:
        HcefsError: it is not signed by the operators, or does not begin here.
    """
    signed = SignedTermChange.decode(data)
    known = log.terms.statement(signed.change.term)
    if known is not None and known.change == signed.change:
        return
    signed.check(log, log.genesis)
    log.begin_term(signed)


# --- asking ---------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """Who answered what, by account; ``nodes`` are those whose word counts."""

    nodes: tuple[AccountId, ...]
    answers: Mapping[AccountId, ReplicaAnswer]

    @property
    def reached(self) -> tuple[AccountId, ...]:
        """Those of the nodes that answered."""
        return tuple(node for node in self.nodes if node in self.answers)

    @property
    def missing(self) -> tuple[AccountId, ...]:
        """Those that did not."""
        return tuple(node for node in self.nodes if node not in self.answers)

    @property
    def is_enough(self) -> bool:
        """Whether whatever was acknowledged is on one that answered."""
        return len(self.reached) >= answers_needed(len(self.nodes))


async def survey(
    log: LedgerLog, replicas: Replicas, runtime: Runtime, own_account: AccountId | None = None
) -> Survey:
    """Ask every node that the log's map counts, all at once."""
    nodes = [node for node in counted_nodes(log.cluster_map()) if node.account != own_account]

    async def ask(account: AccountId, address: str) -> ReplicaAnswer | None:
        try:
            async with runtime.timeout(ASK_SECONDS):
                answer = await replicas.describe(account, address)
        except (HcefsError, TimeoutError) as error:
            _logger.debug("%s says nothing of its replica: %s", account, error)
            return None
        return answer if answer.account == account else None

    found = await asyncio.gather(*(ask(node.account, node.address) for node in nodes))
    return Survey(
        tuple(node.account for node in nodes),
        {answer.account: answer for answer in found if answer is not None},
    )


def signed_height(log: LedgerLog, answer: ReplicaAnswer) -> int:
    """The height that an answer's head proves, by a writer whose term this log knows; or 0."""
    try:
        head = SignedHead.decode(answer.head)
        key = log.terms.key_of(head.term)
        if key is None or head.cluster != log.genesis.cluster:
            return 0
        head.check(key)
    except HcefsError:
        return 0
    end = log.terms.end_of(head.term)
    return head.height if end is None else min(head.height, end)


# --- a writer that starts ---------------------------------------------------------


async def settle(
    log: LedgerLog,
    replicas: Replicas,
    runtime: Runtime,
    *,
    own_account: AccountId | None = None,
    waiting: Callable[[str], None] = lambda _: None,
) -> None:
    """Make sure that this log is the newest one, before its writer signs anything.

    Waits until enough followers have said what they hold, and fetches what this log
    lacks.  ``waiting`` is told in words what it waits for, "" when it no longer does.

    Raises:
        Conflict: ``superseded``: operators have begun a later term without this log;
            ``forked``: a follower holds another block, signed too, of a height here;
            the proof is kept.
    """
    pause = PAUSE_FIRST_S
    rested = False
    while counted_nodes(log.cluster_map()):
        found = await survey(log, replicas, runtime, own_account)
        if not found.nodes:
            break
        problem = ""
        for answer in found.answers.values():
            _require_same_terms(log, answer)
            problem = await _agree(log, replicas, runtime, answer) or problem
        for account in sorted(found.answers, key=lambda each: -found.answers[each].height):
            answer = found.answers[account]
            if answer.height > log.height:
                await _fetch(log, replicas, runtime, answer)
        ahead = max((signed_height(log, each) for each in found.answers.values()), default=0)
        if ahead > log.height:
            problem = (
                f"ledger-behind: this log ends at block {log.height}, and its writer has signed "
                f"block {ahead}, which no follower that answers holds: start the nodes that are "
                "down, or have operators recover (`hcefs ledger recover`)"
            )
        elif not found.is_enough:
            problem = (
                f"{len(found.reached)} of {len(found.nodes)} followers have said what they hold, "
                f"{answers_needed(len(found.nodes))} must, before this ledger may write: start "
                "the nodes that are down (or, if they are gone for good, see `hcefs ledger "
                "start --without-followers`)"
            )
        elif found.missing and not rested:
            # Blocks that nobody acknowledged may be on those: give them a moment.
            rested = True
            await runtime.sleep(REST_SECONDS)
            continue
        elif not problem:
            break
        waiting(problem)
        await runtime.sleep(pause)
        pause = min(2 * pause, PAUSE_LAST_S)
    waiting("")


def _require_same_terms(log: LedgerLog, answer: ReplicaAnswer) -> None:
    """Stop for good if operators have begun a term that this log does not know."""
    for data in (*answer.terms, answer.superseded):
        try:
            signed = SignedTermChange.decode(data)
            known = log.terms.statement(signed.change.term)
            if known is not None and known.change == signed.change:
                continue
            signed.check(log, log.genesis)
        except HcefsError:
            continue  # a claim without the operators' signatures is none
        log.keep_superseded(signed)
        raise Conflict(
            f"operators have begun term {signed.change.term} of the ledger at block "
            f"{signed.change.height}, without this log: its writer must never write again; "
            "start the ledger that `hcefs ledger recover` made",
            reason="superseded",
        )


async def _agree(
    log: LedgerLog, replicas: Replicas, runtime: Runtime, answer: ReplicaAnswer
) -> str:
    """Compare a follower's last block, and its head, with this log's; "" if they agree.

    Raises:
        Conflict: ``forked``.
    """
    contradicted = _contradicted(log, answer)
    if contradicted is not None:
        await _keep_fork(log, runtime, contradicted, answer.head)
    if answer.height > log.height or log.block_hash(answer.height) == answer.block_hash:
        return ""
    try:
        feed = replicas.blocks(
            answer.account, _address(log, answer.account), answer.height, answer.height
        )
        async with contextlib.aclosing(feed) as messages:
            async for message in messages:
                if isinstance(message, BlockBytes):
                    await _judge(log, runtime, Block.decode(message.data))
    except HcefsError as error:
        if error.reason == "forked":
            raise
    return (
        f"{answer.account} says that its block {answer.height} is another than here, and shows "
        "no signature for it: look at that node"
    )


def _contradicted(log: LedgerLog, answer: ReplicaAnswer) -> int | None:
    """The height at which the head of an answer, signed by a writer, contradicts this log."""
    try:
        head = SignedHead.decode(answer.head)
        key = log.terms.key_of(head.term)
        here = log.block_hash(head.height)
        if key is None or here is None or here == head.block_hash:
            return None
        end = log.terms.end_of(head.term)
        if end is not None and head.height > end:
            return None  # void, and no contradiction: an honest writer had signed it
        head.check(key)
    except HcefsError:
        return None
    return head.height


async def _judge(log: LedgerLog, runtime: Runtime, block: Block) -> None:
    height = block.header.height
    key = log.terms.key_of(block.header.term)
    end = log.terms.end_of(block.header.term)
    if key is None or log.block_hash(height) in (None, block.hash()):
        return
    if end is not None and height > end:
        return
    block.check_signature(key)
    await _keep_fork(log, runtime, height, replace(block, transactions=()).encode())


async def _keep_fork(log: LedgerLog, runtime: Runtime, height: int, theirs: bytes) -> None:
    def keep() -> None:
        ours = log.genesis.encode() if height == 0 else log.statement(height).encode()
        log.keep_fork(ForkProof(height, ours, theirs))

    await runtime.disk(keep)
    if log.fork() is not None:
        raise Conflict(
            f"a follower holds another block {height} that this ledger's writer signed: the "
            "ledger forked, and the proof is kept (`hcefs ledger proof`); operators must recover "
            "from the right replica (`hcefs ledger recover`)",
            reason="forked",
        )


async def _fetch(
    log: LedgerLog, replicas: Replicas, runtime: Runtime, answer: ReplicaAnswer
) -> None:
    """Copy the blocks that a follower has more; a feed that breaks is tried again later."""
    before = log.height
    _logger.warning(
        "this ledger's log ends at block %d, %s has %d: fetching what is missing",
        before,
        answer.account,
        answer.height,
    )
    feed = replicas.blocks(answer.account, _address(log, answer.account), before + 1, answer.height)
    try:
        await copy_blocks(log, feed, runtime)
    except Corrupt as error:
        await _look_for_fork(log, replicas, runtime, answer)
        _logger.error("blocks of %s do not verify: %s", answer.account, error.message)
    except HcefsError as error:
        _logger.warning("the copy from %s broke: %s", answer.account, error.message)


async def _look_for_fork(
    log: LedgerLog, replicas: Replicas, runtime: Runtime, answer: ReplicaAnswer
) -> None:
    """Whether the block of a follower at our own last height is another one, and signed."""
    height = log.height
    if height == 0:
        return
    # Not Conflict: that is the fork that is looked for.
    with contextlib.suppress(Corrupt, Invalid, Unavailable, NotFound):
        feed = replicas.blocks(answer.account, _address(log, answer.account), height, height)
        async with contextlib.aclosing(feed) as messages:
            async for message in messages:
                if isinstance(message, BlockBytes):
                    await _judge(log, runtime, Block.decode(message.data))


def _address(log: LedgerLog, account: AccountId) -> str:
    for node in counted_nodes(log.cluster_map()):
        if node.account == account:
            return node.address
    raise Unavailable("the map no longer has that node", reason="unknown-node")


# --- a new term -------------------------------------------------------------------


@dataclass(frozen=True)
class RecoveryPlan:
    """From which block a new term may begin, and what that rests on."""

    height: int
    block_hash: bytes
    reached: int
    nodes: int
    warnings: tuple[str, ...]


def plan_recovery(log: LedgerLog, found: Survey, *, forced: bool = False) -> RecoveryPlan:
    """Judge whether a new term may begin at the end of ``log``, the highest replica copied.

    Raises:
        Conflict: ``too-few-followers``: an acknowledged block may be on those that did
            not answer, and ``forced`` is not given; ``replicas-disagree``: two replicas
            have different blocks of one height.
    """
    warnings = []
    for answer in found.answers.values():
        here = log.block_hash(answer.height)
        if here is not None and here != answer.block_hash:
            if not forced:
                raise Conflict(
                    f"{answer.account} has another block {answer.height} than the highest "
                    "replica: the ledger forked; decide which replica is right, and name it with "
                    "--from",
                    reason="replicas-disagree",
                )
            warnings.append(f"{answer.account} holds another history and will serve no more")
        elif answer.height > log.height:
            warnings.append(
                f"{answer.account} says that it has block {answer.height}; it will serve no more"
            )
        if signed_height(log, answer) > log.height:
            warnings.append(
                f"the old writer has signed block {signed_height(log, answer)}, which no replica "
                "that answered holds; it was acknowledged to nobody if enough answered"
            )
    needed = answers_needed(len(found.nodes))
    if not found.is_enough:
        what = (
            f"{len(found.reached)} of {len(found.nodes)} followers answered, {needed} must: an "
            "acknowledged block may be on those that did not"
        )
        if not forced:
            raise Conflict(
                f"{what}; start {', '.join(each.text for each in found.missing)}, or accept the "
                'loss in words: --force "acknowledged blocks may be lost"',
                reason="too-few-followers",
            )
        warnings.append(what)
    return RecoveryPlan(
        log.height,
        log.tip_hash,
        len(found.reached),
        len(found.nodes),
        tuple(dict.fromkeys(warnings)),
    )


def make_statement(
    log: LedgerLog, plan: RecoveryPlan, writer_key: bytes, now_ms: int
) -> SignedTermChange:
    """The statement that begins the next term at the end of ``log``; nobody has signed it."""
    change = TermChange(
        cluster=log.genesis.cluster,
        term=log.terms.term + 1,
        previous=log.terms.digest,
        height=plan.height,
        block_hash=plan.block_hash,
        writer_key=writer_key,
        time_ms=max(now_ms, log.time_ms),
        reached=plan.reached,
        nodes=plan.nodes,
    )
    change.check()
    return SignedTermChange(change, ())
