"""The writer's heads as one replica knows them: its lease, and whether they contradict it.

Invariants: a head counts only when its signature was checked and it was compared with the
block or the heads of its height; the lease is the newest head *whose block is applied here*;
what is kept of heads ahead of the blocks, and of heads to know again, is bounded.

Not guaranteed: that the disk has a head; the follower keeps those that matter.
For one event loop, but for :meth:`Heads.writer_key`, which disk threads ask as well.
"""

from __future__ import annotations

from hcefs.errors import Invalid
from hcefs.ledger.block import SignedHead
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log import LedgerLog
from hcefs.runtime import Runtime

DRIFT_MAX = 0.001
"""So much faster than the ledger's a clock that only counts may go; a hundred times the usual."""

HEADS_AHEAD_MAX = 256
HEADS_REMEMBERED = 64
"""Verified heads that are known again by their bytes: peers pass on the same few."""


class Forked(Exception):
    """A writer signed two histories.  Never leaves the follower.

    ``ours`` None stands for this log's own block at ``height``.  ``settled`` says that
    its term has ended, so that operators have said which history counts.
    """

    def __init__(
        self, height: int, *, theirs: bytes, ours: bytes | None = None, settled: bool = False
    ) -> None:
        super().__init__()
        self.height = height
        self.settled = settled
        self.theirs = theirs
        self.ours = ours


class Heads:
    """What the writer has signed of its heads, as far as this replica heard of it."""

    def __init__(self, log: LedgerLog, genesis: Genesis, runtime: Runtime) -> None:
        self._log = log
        self._genesis = genesis
        self._runtime = runtime
        self.ahead: dict[int, SignedHead] = {}
        """The newest head of each height that no block here has yet."""

        self.applied: SignedHead | None = None
        """The lease: the newest head whose block is here."""

        self.seen: dict[bytes, SignedHead] = {}
        """Heads that were verified and compared, by their bytes."""

        self._newest_time_ms = 0
        self._newest_seen = runtime.monotonic()
        kept = log.head
        if kept is not None:
            self.place(kept, log.height)

    def forget(self) -> None:
        """Forget what older writers said; the lease stays as old as it is."""
        self.ahead.clear()
        self.seen.clear()

    def highest(self) -> int:
        """The greatest height of which a head is known."""
        return max([0, *self.ahead, self.applied.height if self.applied else 0])

    def ledger_ms(self) -> int:
        """At least so late it is at the ledger; 0 before the first head."""
        if not self._newest_time_ms:
            return 0
        passed = self._runtime.monotonic() - self._newest_seen
        return self._newest_time_ms + int(passed * 1000 * (1 - DRIFT_MAX))

    def remember(self, data: bytes, head: SignedHead) -> None:
        """Know a head again that was verified, compared and placed."""
        self.seen[data] = head
        if len(self.seen) > HEADS_REMEMBERED:
            del self.seen[next(iter(self.seen))]

    def check(self, head: SignedHead) -> int:
        """Check a head's signature and that it agrees with every block and head known.

        Returns the height of the replica that it was compared at: a block that a disk
        thread persists meanwhile must not make the head count uncompared.

        Raises:
            Forked: the writer has contradicted itself.
            Invalid: of another cluster, or of a term that has ended or is unknown.
            Unauthenticated: the writer did not sign it.
        """
        head.check(self.writer_key(head.term))
        return self.compare(head)

    def writer_key(self, term: int) -> bytes:
        """The key of a term's writer.

        Raises:
            Invalid: ``unknown-term``: no statement here names it.
        """
        key = self._log.terms.key_of(term)
        if key is None:
            raise Invalid(
                f"this is of term {term}, and this replica knows none after "
                f"{self._log.terms.term}: it learns of it from the ledger, or by `hcefs ledger "
                "recover --announce`",
                reason="unknown-term",
            )
        return key

    def compare(self, head: SignedHead) -> int:
        """As :meth:`check`, of a head whose signature was checked before."""
        height = self._log.height
        if head.cluster != self._genesis.cluster:
            raise Invalid(
                "this head is of another cluster: check the configuration",
                reason="wrong-cluster",
            )
        terms = self._log.terms
        end = terms.end_of(head.term)
        if end is not None:
            here = self._log.block_hash(head.height) if head.height <= end else None
            if here is not None and here != head.block_hash:
                raise Forked(head.height, theirs=head.encode(), settled=True)
            raise Invalid(
                f"this head is of term {head.term}, which has ended: whoever signs it must be "
                "stopped",
                reason="ended-term",
            )
        if head.height < terms.begin:
            raise Invalid("this head is of a height before its term", reason="bad-head")
        known = self.ahead.get(head.height)
        if known is not None and not agrees(head, known.block_hash, known.app_hash):
            raise Forked(head.height, ours=known.encode(), theirs=head.encode())
        if head.height > height:
            return height
        here = self._log.block_hash(head.height)
        same = here == head.block_hash
        tip = self._log.tip
        if same and tip is not None and tip.height == head.height:
            # The app hash is in the hashed header, so only a lying head can differ in it.
            same = head.app_hash == tip.app_hash
        if not same:
            raise Forked(head.height, theirs=head.encode())
        return height

    def place(self, head: SignedHead, height: int) -> None:
        """Remember a verified head: as the lease if its block is here, else for later."""
        # One that comes late says less of the time than an earlier one that came at once.
        if head.time_ms > self.ledger_ms():
            self._newest_time_ms = head.time_ms
            self._newest_seen = self._runtime.monotonic()
        if head.height <= height:
            known = self.applied
            if known is None or (head.term, head.time_ms) > (known.term, known.time_ms):
                self.applied = head
            return
        known = self.ahead.get(head.height)
        if known is None or head.time_ms > known.time_ms:
            self.ahead[head.height] = head
        while len(self.ahead) > HEADS_AHEAD_MAX:
            del self.ahead[min(self.ahead)]

    def reach(self) -> None:
        """Heads that were ahead and no longer are: they count now, if they agree."""
        for height in [height for height in self.ahead if height <= self._log.height]:
            head = self.ahead.pop(height)
            # It may have arrived while its block was being verified.
            self.place(head, self.compare(head))


def agrees(head: SignedHead, block_hash: bytes, app_hash: bytes) -> bool:
    """Whether a head is of that block and state."""
    return head.block_hash == block_hash and head.app_hash == app_hash
