"""The ledger's log: one RocksDB folder with blocks, state and the indexes of leaves.

Every replica, the writer's included, is one of these.  Its rows are laid out in
:mod:`hcefs.ledger.rows`.  Invariants:

* Blocks, the writes they make to the state and their index rows become durable in
  one atomic, fsynced batch; :meth:`LedgerLog.append` returns after the fsync.
* A row carries the CRC32C of its key and value; a row that fails it is
  ``Corrupt(reason="bad-row")`` and never an answer.
* A term begins where this log stands, in one batch with all that it ends; terms never
  go back.
* Only the next block can be appended.  After a failed write nothing more is written
  until :meth:`LedgerLog.recover` has opened the folder again (:mod:`hcefs.ledger.database`);
  it refuses a folder that lacks what was on disk before.
* Reads are safe from any thread.  Facts of the state are remembered until the
  write that changes them (:mod:`hcefs.ledger.facts`), those of a snapshot and of
  other rows by their bytes, which are read each time.

Not guaranteed: that blocks are valid (:func:`hcefs.ledger.machine.replay` says so
before they come here; :meth:`LedgerLog.verify_chain` says so again).  Two reads of
the log itself may see two heights; :meth:`LedgerLog.snapshot` sees one.
Source: docs/ARCHITECTURE.md, "Ledger".
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar, cast

import rocksdict

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.encoding import Encoded
from hcefs.errors import (
    Conflict,
    Corrupt,
    HcefsError,
    Invalid,
    NotFound,
)
from hcefs.ids import AccountId, RecordId
from hcefs.integrity import leaf_hash
from hcefs.ledger import machine
from hcefs.ledger.block import Block, BlockHeader, SignedHead, previous_hash
from hcefs.ledger.database import LogDatabase, Rows
from hcefs.ledger.draft import Draft
from hcefs.ledger.facts import FactMemory
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log_snapshots import LogSnapshots, stored_snapshot
from hcefs.ledger.outcome import Leaf
from hcefs.ledger.proofs import term_of_proof
from hcefs.ledger.rows import (
    BASE_ROW,
    CARRIER_ROW,
    FORK_ROW,
    GENESIS_ROW,
    HEAD_ROW,
    STATE_ROWS,
    SUPERSEDED_ROW,
    TIP_ROW,
    AppliedBlock,
    ForkProof,
    SubmitResult,
    block_hash_row,
    block_row,
    commitment_row,
    copied_row,
    decode_row,
    leaf_row,
    leaf_rows,
    result_row,
    seal,
    settled_fork_row,
    split_leaf_value,
    subtree_row,
    term_row,
    u64,
)
from hcefs.ledger.snapshot import (
    SNAPSHOT_RULE,
    SnapshotManifest,
    SnapshotOffer,
    SnapshotRule,
)
from hcefs.ledger.state import MAP_KEY, StateView
from hcefs.ledger.terms import SignedTermChange, Terms
from hcefs.ledger.verify import stored_terms, verify_from_snapshot, verify_rows
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.waves import SeatName

__all__ = ["LEAVES_MAX", "AppliedBlock", "ForkProof", "LedgerLog", "SubmitResult"]

LEAVES_MAX = 4096
"""Most leaves that one read returns."""

_T = TypeVar("_T")
_Fact = TypeVar("_Fact", bound=Encoded)


class LedgerLog(StateView):
    """A replica of the ledger on disk.  Implements ``State`` and ``LedgerView``.

    Every method raises ``Corrupt(reason="bad-row")`` when a row it needs fails its
    checksum.  When the database fails, ``Exhausted(reason="disk-full")``,
    ``Unavailable`` with ``disk-error`` or, while it is opened again,
    ``ledger-log-reopening``; ``Internal(reason="ledger-log-failed")`` for all else.
    """

    def __init__(
        self, database: LogDatabase, genesis: Genesis, snapshots: SnapshotRule = SNAPSHOT_RULE
    ) -> None:
        """Use :meth:`open`."""
        self._database = database
        self._facts = FactMemory()
        super().__init__(self, 0, 0)
        self.path = database.path
        self.genesis = genesis
        rows = database.rows
        self._genesis_app_hash = machine.genesis_state(genesis)[1]
        self._tip = rows.decoded(BlockHeader, TIP_ROW)
        self._terms = stored_terms(rows, genesis)
        self._base = rows.decoded(Block, BASE_ROW)
        self.snapshots = LogSnapshots(database, snapshots, self._tip)
        # Shown at once and written later: each under its own lock, taken in this order.
        self._showing = threading.Lock()
        self._head = rows.decoded(SignedHead, HEAD_ROW)
        self._head_written = self._head
        self._map = rows.fact(ClusterMap, MAP_KEY)
        self._arrived = super().arrived()

    @classmethod
    def open(
        cls,
        path: Path,
        genesis: Genesis,
        *,
        opener: Callable[[Path], rocksdict.Rdict] | None = None,
        batch: Callable[[], rocksdict.WriteBatch] | None = None,
        free: Callable[[Path], int] | None = None,
        snapshots: SnapshotRule = SNAPSHOT_RULE,
    ) -> Self:
        """Open the log of a cluster, or start one with its genesis.

        The simulator gives a database of its own: what opens it, and what makes the
        batches that it writes.  ``free`` says how many bytes a folder still takes.

        Raises:
            Conflict: ``other-cluster``: the folder holds another cluster's log;
                ``log-in-use``: another process has it open.
            Invalid: the genesis is malformed.
        """
        genesis.check()
        database = LogDatabase.open(path, batch, opener, free)
        try:
            cls._begin(database, genesis)
            return cls(database, genesis, snapshots)
        except BaseException:
            database.close()
            raise

    @staticmethod
    def _begin(database: LogDatabase, genesis: Genesis) -> None:
        stored = database.rows.row(GENESIS_ROW)
        if stored == genesis.encode():
            return
        if stored is not None or not database.is_empty():
            raise Conflict(
                f"{database.path} holds the ledger of another cluster: give each cluster its own "
                "folder",
                reason="other-cluster",
            )
        batch = database.new_batch()
        for key, value in machine.genesis_state(genesis)[0].scan(b""):
            batch.put(STATE_ROWS + key, seal(STATE_ROWS + key, value))
        batch.put(GENESIS_ROW, seal(GENESIS_ROW, genesis.encode()))
        database.write(batch)

    def close(self) -> None:
        """Close the folder; a second call does nothing."""
        database = self._database
        with database.writing:
            writable = not database.closed and database.failure is None
            if writable and self._head is not self._head_written:
                with contextlib.suppress(HcefsError):
                    self._write_head(self._head, sync=False)
            self.snapshots.forget_frozen()
            database.close()

    # What is at the top.

    @property
    def height(self) -> int:
        """Height of the last block on disk; 0 before the first."""
        tip = self._tip
        return 0 if tip is None else tip.height

    @property
    def time_ms(self) -> int:
        """Time of the last block on disk; before the first, the genesis's."""
        tip = self._tip
        return self.genesis.time_ms if tip is None else tip.time_ms

    @property
    def tip(self) -> BlockHeader | None:
        """Header of the last block on disk."""
        return self._tip

    @property
    def app_hash(self) -> bytes:
        """The hash of the state after the last block."""
        tip = self._tip
        return self._genesis_app_hash if tip is None else tip.app_hash

    @property
    def tip_hash(self) -> bytes:
        """The hash of the last block; before the first, the genesis's digest."""
        return previous_hash(self.genesis, self._tip)

    @property
    def head(self) -> SignedHead | None:
        """The highest, then newest, signed head seen; it may be ahead of the blocks here."""
        return self._head

    @property
    def terms(self) -> Terms:
        """Who wrote which blocks, and who writes now."""
        return self._terms

    def cluster_map(self) -> ClusterMap | None:
        """The cluster map in force, or None before the first; kept decoded."""
        return self._map

    def arrived(self) -> frozenset[SeatName]:
        """The seats in flight that have arrived; kept."""
        return self._arrived

    def get(self, key: bytes) -> bytes | None:
        """A value of the state."""
        return self._database.rows.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of the state by ascending key."""
        return self._database.rows.scan(prefix)

    def fact(self, cls: type[_Fact], key: bytes) -> _Fact | None:
        """A value of the state, decoded; remembered until a block changes it."""
        if key == MAP_KEY:
            # One object for each epoch, so that what is found out about it is, too.
            return cast(_Fact | None, self._map)
        remembered = self._facts.get(key)
        if remembered is not None:
            return cast(_Fact, remembered)
        writes = self._facts.writes
        found = self._database.rows.fact(cls, key)
        if found is not None:
            self._facts.keep(key, found, writes)
        return found

    def snapshot(self) -> StateView:
        """All facts at one height, whatever is appended meanwhile.

        For one thread.  Cheap enough for one decision each; it pins files while it is
        referenced.
        """
        rows = self._database.frozen()
        row = rows.row(TIP_ROW)
        if row is None:
            return StateView(rows, 0, self.genesis.time_ms)
        tip = decode_row(BlockHeader, row)
        return StateView(rows, tip.height, tip.time_ms)

    # Blocks and transactions.

    def block(self, height: int) -> Block:
        """One block.

        Raises:
            NotFound: ``no-such-block``.
        """
        row = self._database.rows.row(block_row(height)) if 0 < height < 1 << 64 else None
        if row is None:
            if self._base is not None and 0 < height <= self.base_height:
                raise NotFound(
                    f"this replica began with the snapshot of block {self.base_height} and has "
                    f"no block before: ask another replica for block {height}",
                    reason="before-snapshot",
                )
            raise NotFound(
                f"block {height} is not here; the last one is {self.height}",
                reason="no-such-block",
            )
        return decode_row(Block, row)

    def block_hash(self, height: int) -> bytes | None:
        """The hash of a block here (height 0: the genesis's digest), or None."""
        if height == 0:
            return self.genesis.digest
        return self._database.rows.row(block_hash_row(height)) if 0 < height < 1 << 64 else None

    @property
    def base_height(self) -> int:
        """The height of the snapshot that this log began with; 0: it has every block."""
        return 0 if self._base is None else self._base.header.height

    def statement(self, height: int) -> Block:
        """What the writer signed of a block: it without its transactions.

        Below the snapshot that this log began with, that of the snapshot's block, which
        all before it lead to.
        """
        base = self._base
        if base is not None and height <= base.header.height:
            return base
        return replace(self.block(height), transactions=())

    def result_of(self, transaction_hash: bytes) -> SubmitResult | None:
        """What a committed transaction resulted in, by the hash of its body."""
        return self._database.rows.decoded(SubmitResult, result_row(transaction_hash))

    def transaction_height(self, transaction_hash: bytes) -> int | None:
        """The height of the block that holds a transaction."""
        result = self.result_of(transaction_hash)
        return None if result is None else result.height

    # Leaves.

    def leaf(self, record: RecordId, index: int) -> tuple[Leaf, int] | None:
        """The leaf at a position, with the height of its block."""
        row = self._database.rows.row(leaf_row(record, index)) if 0 <= index < 1 << 64 else None
        return None if row is None else _leaf_row(row)

    def leaf_of(
        self, record: RecordId, commitment: bytes, signer: AccountId | None = None
    ) -> tuple[int, Leaf, int] | None:
        """(index, leaf, height) of the first leaf of a record with this commitment.

        With a ``signer``, the first that this account signed: others may have
        copied the commitment, even before it.
        """
        row = self._database.rows.row(commitment_row(record, commitment))
        if row is None:
            return None
        index = int.from_bytes(row, "big")
        leaf, height = self._present(self.leaf(record, index))
        if signer is not None and leaf.signer != signer:
            row = self._database.rows.row(copied_row(record, commitment, signer))
            if row is None:
                return None
            index = int.from_bytes(row, "big")
            leaf, height = self._present(self.leaf(record, index))
        return index, leaf, height

    def leaf_index(self, record: RecordId, commitment: bytes) -> int | None:
        """Position of the first leaf with this commitment, or None."""
        found = self.leaf_of(record, commitment)
        return None if found is None else found[0]

    def leaves(self, record: RecordId, first: int, count: int) -> list[Leaf]:
        """Leaves in order from ``first`` on: at most ``count`` and ``LEAVES_MAX``."""
        if first < 0 or first >= 1 << 64:
            return []
        found: list[Leaf] = []
        rows = self._database.rows.rows(leaf_rows(record), u64(first))
        while len(found) < min(count, LEAVES_MAX):
            row = next(rows, None)
            if row is None:
                break
            if int.from_bytes(row[0], "big") != first + len(found):
                self._present(None)
            found.append(_leaf_row(row[1])[0])
        return found

    def subtree(self, record: RecordId, level: int, index: int) -> bytes:
        """Root of the ``index``-th complete subtree of 2^level leaves of a record.

        Raises:
            Corrupt: ``missing-row``: the record does not have that many leaves.
        """
        if level:
            return self._present(self._database.rows.row(subtree_row(record, level, index)))
        return leaf_hash(
            split_leaf_value(self._present(self._database.rows.row(leaf_row(record, index))))[0]
        )

    # Writing.

    def append(self, applied: Sequence[AppliedBlock], head: SignedHead | None = None) -> None:
        """Append blocks with all that follows from them; returns when they are on disk.

        ``head`` is kept with them when it is newer than the one kept.

        Raises:
            Conflict: ``not-next``: a block is not the successor of the one before.
            Exhausted, Unavailable, Internal: the disk failed, now or before: all of the
                blocks may be on it, or none.  The log writes nothing more until
                :meth:`recover` has told which.
        """
        run: list[AppliedBlock] = []
        for number, each in enumerate(applied, 1):
            run.append(each)
            due = self.snapshots.rule.is_due(each.block.header)
            # A snapshot is of the state between two blocks, so a batch ends there.
            if due or number == len(applied):
                self._append(run, head if number == len(applied) else None)
                run = []

    def _append(self, applied: Sequence[AppliedBlock], head: SignedHead | None) -> None:
        with self._database.writing:
            self._database.require_writable()
            carrier = self.snapshots.carrier
            draft = Draft(self._database.rows.present)
            tip = self._tip
            for each in applied:
                header = each.block.header
                if header.height != (tip.height if tip else 0) + 1 or header.previous != (
                    previous_hash(self.genesis, tip)
                ):
                    raise Conflict(
                        f"block {header.height} does not follow block {self.height} of this log",
                        reason="not-next",
                    )
                draft.add(each)
                if header.snapshot_root:
                    carrier = replace(each.block, transactions=())
                tip = header
            if tip is None:
                return
            draft.put(TIP_ROW, tip.encode())
            if carrier is not None and carrier is not self.snapshots.carrier:
                draft.put(CARRIER_ROW, carrier.encode())
            shown = self._head
            if head is None or not _is_newer(head, shown):
                head = shown
            if head is not None and head is not self._head_written:
                draft.put(HEAD_ROW, head.encode())
            self._write(_fill(self._database.new_batch(), draft))
            self._facts.change(draft.facts)
            self._head_written = head
            self.snapshots.note_carrier(carrier)
            ahead = 0 if head is None else head.height
            self.snapshots.due(tip, ahead)
            # The height is told last: who has seen it, sees everything at it.
            self._show(head)
            if draft.arrivals:
                come = {name for name, here in draft.arrivals.items() if here}
                self._arrived = self._arrived.difference(draft.arrivals).union(come)
            if draft.map_changed:
                self._map = self._database.rows.fact(ClusterMap, MAP_KEY)
            self._tip = tip

    def keep_head(self, head: SignedHead) -> None:
        """Keep a verified head if it is newer; fsynced only when its block is not here.

        Only then does it state what nothing else here does.  A mere renewal may be
        lost by a crash: the lease then ends earlier.
        """
        with self._database.writing:
            known = self._head
            if not _is_newer(head, known):
                return
            self._database.require_writable()
            self._write_head(head, sync=known is None or head.height > self.height)
            self._show(head)

    def show_head(self, head: SignedHead) -> bool:
        """Take the verified head of a block that is new here, without waiting for the disk.

        It is written with the next block or renewal, or when the log is closed.  False
        says that it is another kind of head: it is for :meth:`keep_head`.
        """
        with self._showing:
            known = self._head
            if known is None or not known.height < head.height <= self.height:
                return not _is_newer(head, known)
            self._head = head
            return True

    def begin_term(self, signed: SignedTermChange) -> None:
        """Begin the term that operators have signed; returns when it is on disk.

        The caller has checked the signatures.  What the term ends goes in the same
        batch: a head beyond this point, and a fork, whose proof is kept as settled.

        Raises:
            Conflict: ``wrong-term``: it does not follow the term in force;
                ``not-there``: this log does not stand at the block that it names.
        """
        with self._database.writing:
            self._database.require_writable()
            terms = self._terms.followed_by(signed)
            change = signed.change
            if (self.height, self.tip_hash) != (change.height, change.block_hash):
                raise Conflict(
                    f"term {change.term} begins after block {change.height}, and this log "
                    f"stands at block {self.height}: it does not begin here",
                    reason="not-there",
                )
            batch = self._database.new_batch()
            key = term_row(change.term)
            batch.put(key, seal(key, signed.encode()))
            head = self._head
            beyond = head is not None and head.height > change.height
            if beyond:
                batch.delete(HEAD_ROW)
            fork = self.fork()
            if fork is not None:
                batch.delete(FORK_ROW)
                settled = settled_fork_row(self._fork_term(fork))
                batch.put(settled, seal(settled, fork.encode()))
            batch.delete(SUPERSEDED_ROW)
            self._write(batch)
            crash_point(CrashPoint.TERM_BEGUN)
            with self._showing:
                if beyond:
                    self._head = self._head_written = None
                self._terms = terms

    def keep_fork(self, proof: ForkProof) -> None:
        """Keep the proof that a writer signed two histories; the first one of a term stays."""
        with self._database.writing:
            self._database.require_writable()
            term = self._fork_term(proof)
            row = FORK_ROW if term >= self._terms.term else settled_fork_row(term)
            if self._database.rows.row(row) is None:
                batch = self._database.new_batch()
                batch.put(row, seal(row, proof.encode()))
                self._write(batch)

    def fork(self) -> ForkProof | None:
        """The proof of a fork that no later term has settled, if one was seen."""
        return self._database.rows.decoded(ForkProof, FORK_ROW)

    def fork_proofs(self) -> list[ForkProof]:
        """Every proof that is kept, settled ones first."""
        found = [decode_row(ForkProof, row) for _, row in self._database.rows.rows(b"f")]
        fork = self.fork()
        return found if fork is None else [*found, fork]

    def keep_superseded(self, signed: SignedTermChange) -> None:
        """Keep the statement that voids blocks which this log holds."""
        with self._database.writing:
            self._database.require_writable()
            batch = self._database.new_batch()
            batch.put(SUPERSEDED_ROW, seal(SUPERSEDED_ROW, signed.encode()))
            self._write(batch)
            crash_point(CrashPoint.TERM_SUPERSEDED)

    def superseded(self) -> SignedTermChange | None:
        """The statement that voids blocks of this log, if there is one."""
        return self._database.rows.decoded(SignedTermChange, SUPERSEDED_ROW)

    def _fork_term(self, proof: ForkProof) -> int:
        try:
            return term_of_proof(proof)
        except Invalid:
            return self._terms.term  # evidence is kept, whatever this software makes of it

    # A disk that failed.

    @property
    def failure(self) -> HcefsError | None:
        """Why nothing is written now: what a write failed with, until :meth:`recover`."""
        return self._database.failure

    def recover(self) -> None:
        """Open the folder again after a failed write; without one it does nothing.

        Opening replays the write-ahead log into a new, synchronised table: what is read
        from then on is on disk, also where a failed fsync had left that open.  What the
        failed write held is there as a whole or not at all.

        Raises:
            Exhausted: ``disk-full``: too little is free; what is open stays open.
            Unavailable: ``disk-error``, or somebody still reads; try again.
            Corrupt: ``lost-blocks``: blocks that were on disk are not there any more.
        """
        with self._database.writing:
            database = self._database
            if database.closed:
                database.require_writable()
            if database.failure is None:
                return
            if database.failure.reason == "lost-blocks":
                raise database.failure
            database.require_room()
            self._reopen()

    def _reopen(self) -> None:
        found = self._database.reopen(self._found_again)
        self.snapshots.reopened(found.snapshot)
        self._facts.forget()
        with self._showing:
            shown = self._head
            # A head that a term has ended must not come back with the newer of the two.
            stays = shown is not None and found.terms.term == self._terms.term
            if not stays or (found.head is not None and _is_newer(found.head, shown)):
                self._head = found.head
            self._head_written = found.head
            self._terms = found.terms
        self._map = self._database.rows.fact(ClusterMap, MAP_KEY)
        self._arrived = super().arrived()
        self._tip = found.tip
        self._database.failure = None

    def _found_again(self, rows: Rows) -> _Found:
        """What is on disk after a failure.

        Raises:
            Corrupt: ``lost-blocks``.
        """
        tip, known = rows.decoded(BlockHeader, TIP_ROW), self._tip
        kept = None if known is None else rows.row(block_hash_row(known.height))
        if known is not None and (tip is None or kept != known.hash()):
            lost = Corrupt(
                f"after the failure of the disk the ledger's log lacks block {known.height}, "
                "which was on it: replace the disk, and rebuild this replica from its peers",
                reason="lost-blocks",
            )
            self._database.failure = lost
            raise lost
        return _Found(
            tip,
            stored_terms(rows, self.genesis),
            rows.decoded(SignedHead, HEAD_ROW),
            stored_snapshot(rows),
        )

    # Snapshots.

    def offer(self) -> SnapshotOffer | None:
        """The snapshot here, if a signed header has named it."""
        offered = self.snapshots.offered()
        if offered is None:
            return None
        made, carrier = offered
        terms = tuple(signed.encode() for signed in self._terms.changes)
        return SnapshotOffer(made, self.statement(made.height), carrier, terms, self.snapshots.rule)

    # Verification.

    def verify_chain(self, progress: Callable[[int], None] | None = None) -> int:
        """Replay everything from the genesis in memory and compare it with what is here.

        Checks signatures, hashes, times, every row of the state and every leaf, and
        needs no key.  Returns the height reached.  Takes time and memory in
        proportion to the whole ledger; blocks may be appended meanwhile.

        A log that began with a snapshot is replayed from the one that it keeps, and the
        blocks between the two are checked for signatures and links: what was before
        :attr:`base_height` rests on the writer's signature.

        Raises:
            Corrupt: ``bad-chain``: something differs; the message says what.
        """
        rows = self._database.frozen()
        if self._base is not None:
            return verify_from_snapshot(rows, self.genesis, progress)
        return verify_rows(rows, self.genesis, progress)

    # Inside.

    def _present(self, found: _T | None) -> _T:
        if found is None:
            raise Corrupt(
                "a row of the ledger is missing: check the disk, then rebuild this replica "
                "from its peers",
                reason="missing-row",
            )
        return found

    def _show(self, head: SignedHead | None) -> None:
        with self._showing:
            if head is not None and _is_newer(head, self._head):
                self._head = head

    def _write_head(self, head: SignedHead | None, *, sync: bool) -> None:
        if head is not None:
            batch = self._database.new_batch()
            batch.put(HEAD_ROW, seal(HEAD_ROW, head.encode()))
            self._write(batch, sync=sync)
            self._head_written = head

    def _write(self, batch: rocksdict.WriteBatch, *, sync: bool = True) -> None:
        try:
            self._database.write(batch, sync=sync)
        except BaseException:
            self._facts.forget()
            raise


@dataclass(frozen=True)
class _Found:
    """What a folder held that was opened again."""

    tip: BlockHeader | None
    terms: Terms
    head: SignedHead | None
    snapshot: tuple[SnapshotManifest | None, Block | None]


def _leaf_row(row: bytes) -> tuple[Leaf, int]:
    data, height = split_leaf_value(row)
    return decode_row(Leaf, data), height


def _is_newer(head: SignedHead, known: SignedHead | None) -> bool:
    if known is None:
        return True
    return (head.term, head.height, head.time_ms) > (known.term, known.height, known.time_ms)


def _fill(batch: rocksdict.WriteBatch, draft: Draft) -> rocksdict.WriteBatch:
    for key, value in draft.rows.items():
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    return batch
