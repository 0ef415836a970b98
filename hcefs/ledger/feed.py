"""Blocks of a feed: verified on top of each other, and persisted in one batch.

Invariants: a block is replayed only when its signature, its place, its transactions' root and
its term were checked; what came before a bad one is good and stays.  Everything here runs on a
disk thread, one batch at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Corrupt, HcefsError
from hcefs.ledger import machine
from hcefs.ledger.block import Block, BlockHeader, transaction_root
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.heads import Forked, Heads, agrees
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.outcome import Outcome
from hcefs.ledger.rows import AppliedBlock
from hcefs.ledger.state import Overlay, State


@dataclass(frozen=True)
class Verified:
    """What came of one batch: the blocks persisted, and why it ended early, if it did."""

    applied: tuple[AppliedBlock, ...]
    problem: HcefsError | Forked | None


class Feed:
    """Takes the blocks of a feed into a log."""

    def __init__(self, log: LedgerLog, genesis: Genesis, heads: Heads) -> None:
        self._log = log
        self._genesis = genesis
        self._heads = heads
        self.doubtful: tuple[AppliedBlock, ...] = ()
        """Blocks of a failed write, which may be on disk."""

    def take(self, blocks: Sequence[bytes]) -> Verified:
        """Replay blocks on top of each other and persist the good ones in one batch.

        Runs on a disk thread.
        """
        previous = self._log.tip
        state: State = self._log
        applied: list[AppliedBlock] = []
        hashes: dict[int, bytes] = {}
        problem: HcefsError | Forked | None = None
        try:
            for data in blocks:
                block = Block.decode(data)
                known = hashes.get(block.header.height)
                if not self._is_next(block, previous, known):
                    continue
                overlay, outcomes = self._replay(state, block, previous)
                applied.append(
                    AppliedBlock(block, overlay.writes, tuple(outcomes), overlay.written_facts)
                )
                state, previous = overlay, block.header
                hashes[previous.height] = previous.hash()
        except (HcefsError, Forked) as error:
            # What came before it is good and stays.
            problem = error
        if applied:
            crash_point(CrashPoint.FOLLOWED_VERIFIED)
        try:
            self._log.append(applied)
        except HcefsError:
            if not self.doubtful:
                self.doubtful = tuple(applied)
            raise
        if applied:
            crash_point(CrashPoint.FOLLOWED_WRITTEN)
        return Verified(tuple(applied), problem)

    def _is_next(self, block: Block, previous: BlockHeader | None, known: bytes | None) -> bool:
        """Whether to replay this block; False for one that is here already.

        ``known`` is the hash of the block of that height in the same batch, if any.

        Raises:
            Forked: it is signed and contradicts what is here or a head that was seen.
            Corrupt: not signed by the writer, or out of order.
        """
        header = block.header
        due = 1 if previous is None else previous.height + 1
        if header.height < due and header.hash() == (known or self._log.block_hash(header.height)):
            return False
        try:
            header.check()
            block.check_signature(self._heads.writer_key(header.term))
        except HcefsError as error:
            if error.reason == "unknown-term":
                raise
            raise Corrupt(
                f"block {header.height} of the feed is not signed by the writer: the feed is not "
                "to be trusted; it is asked again",
                reason="bad-block-signature",
            ) from error
        if header.cluster != self._genesis.cluster:
            raise Corrupt(
                "the feed carries blocks of another cluster: check the configuration",
                reason="wrong-cluster",
            )
        terms = self._log.terms
        if header.term != terms.term_at(header.height):
            raise Corrupt(
                f"the feed carries block {header.height} of term {header.term}, where operators "
                f"have begun term {terms.term_at(header.height)}: the configured ledger is an "
                "old one; stop it and correct ledger_address",
                reason="wrong-term",
            )
        settled = header.term != terms.term
        if header.transaction_root != transaction_root(block.transactions):
            # Only the header is signed, so whoever carried the block may have changed the rest.
            raise Corrupt(
                f"block {header.height} of the feed does not carry the transactions that its "
                "header names: it is asked again",
                reason="bad-transaction-root",
            )
        if header.height > due:
            raise Corrupt(
                f"the feed skips from block {due} to {header.height}: it is asked again",
                reason="wrong-height",
            )
        if header.height < due:
            raise Forked(header.height, theirs=statement_of(block), settled=settled)
        if previous is not None and header.previous != previous.hash():
            # The writer signed a successor of another block at our height.
            raise Forked(previous.height, theirs=statement_of(block))
        head = self._heads.ahead.get(header.height)
        if head is not None and not agrees(head, header.hash(), header.app_hash):
            raise Forked(header.height, ours=head.encode(), theirs=statement_of(block))
        return True

    def _replay(
        self, state: State, block: Block, previous: BlockHeader | None
    ) -> tuple[Overlay, Sequence[Outcome]]:
        """Replay a block that passed :meth:`_is_next`, which saw to its signature and root."""
        try:
            self._log.snapshots.check_named_root(block.header)
            return machine.replay_signed(state, block, self._genesis, previous, self._log.terms)
        except Corrupt as error:
            if error.reason == "unknown-protocol":
                raise
            raise Corrupt(
                f"the writer signed block {block.header.height}, but it does not replay here "
                f"({error.reason}: {error.message}); compare software versions, run `hcefs "
                "ledger verify` on both sides, then restart",
                reason="diverged",
            ) from error


def statement_of(block: Block) -> bytes:
    """What the writer signed, without the transactions that the signature does not need."""
    return replace(block, transactions=()).encode()
