"""Verification of a whole log by replay: needs the genesis, the rows and no key.

Invariant: what passes is exactly what the signed blocks make of the genesis: every
row of the state, every leaf, every index from height to hash.  Takes time and
memory in proportion to the whole ledger.  Source: docs/ARCHITECTURE.md, "Promises".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from hcefs.encoding import Encoded
from hcefs.errors import Conflict, Corrupt, HcefsError, Invalid
from hcefs.ledger import machine
from hcefs.ledger.block import Block, BlockHeader, previous_hash, transaction_root
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.outcome import LeafAppended
from hcefs.ledger.rows import (
    BASE_ROW,
    CARRIER_ROW,
    SNAPSHOT_ROW,
    STATE_ROWS,
    TERM_ROWS,
    TIP_ROW,
    block_hash_row,
    block_row,
    commitment_row,
    decode_row,
    leaf_row,
    leaf_rows,
    leaf_value,
    part_row,
)
from hcefs.ledger.snapshot import Joiner, SnapshotManifest
from hcefs.ledger.state import MemoryState, State, StateView
from hcefs.ledger.terms import SignedTermChange, Terms


class Rows(State, Protocol):
    """The rows of a log at one height, with their checksums checked."""

    def row(self, key: bytes) -> bytes | None:
        """The value of a row, or None."""

    def rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows under a prefix, the prefix taken off their keys."""


def stored_terms(rows: Rows, genesis: Genesis) -> Terms:
    """The terms that the rows hold, in order; their signatures are not checked here.

    Raises:
        Corrupt: ``bad-state``: they are no chain; ``bad-row`` a failed checksum.
    """
    terms = Terms(genesis)
    for _, row in rows.rows(TERM_ROWS):
        try:
            terms = terms.followed_by(decode_row(SignedTermChange, row))
        except Conflict as error:
            raise Corrupt(
                f"the terms of this log are no chain ({error.message}): rebuild this replica "
                "from its peers",
                reason="bad-state",
            ) from error
    return terms


def verify_rows(rows: Rows, genesis: Genesis, progress: Callable[[int], None] | None = None) -> int:
    """Replay every block and compare what follows with the rows; returns the height.

    Raises:
        Corrupt: ``bad-chain`` names what differs; ``bad-row`` a failed checksum.
    """
    tip_row = rows.row(TIP_ROW)
    tip = None if tip_row is None else decode_row(BlockHeader, tip_row)
    height_last = 0 if tip is None else tip.height
    state = MemoryState()
    state.write(machine.genesis_state(genesis)[0].writes)
    previous: BlockHeader | None = None
    leaves = 0
    terms = stored_terms(rows, genesis)
    _verify_terms(terms, state, previous, 0)
    for height in range(1, height_last + 1):
        row = rows.row(block_row(height))
        block = None if row is None else decode_row(Block, row)
        if block is None:
            raise _bad_chain(f"block {height} is missing")
        leaves += _verify_block(state, rows, terms, block, previous)
        previous = block.header
        _verify_terms(terms, state, previous, height)
        if progress is not None:
            progress(height)
    if terms.begin > height_last:
        raise _bad_chain("a term begins beyond its last block")
    if previous != tip:
        raise _bad_chain("the last block is not the one that the log names")
    _verify_state(state, rows)
    if sum(1 for _ in rows.rows(leaf_rows())) != leaves:
        raise _bad_chain("there are leaves that no block has appended")
    return height_last


def verify_from_snapshot(
    rows: Rows, genesis: Genesis, progress: Callable[[int], None] | None = None
) -> int:
    """The same for a log that began with a snapshot; returns the height.

    The snapshot that is kept is unpacked and everything after it replayed; of the blocks
    before it, signatures and links are checked.

    Raises:
        Corrupt: ``bad-chain`` names what differs; ``bad-row`` a failed checksum.
    """
    base = _kept(rows, BASE_ROW, Block)
    made = _kept(rows, SNAPSHOT_ROW, SnapshotManifest)
    tip = _kept(rows, TIP_ROW, BlockHeader)
    terms = stored_terms(rows, genesis)
    state, leaves = _unpacked(rows, made)
    _verify_named(rows, made)
    previous = base.header
    try:
        base.check_signature(terms.key_at(previous.height))
    except HcefsError as error:
        raise _bad_chain("the writer did not sign the block of its snapshot") from error
    for height in range(previous.height + 1, tip.height + 1):
        row = rows.row(block_row(height))
        block = None if row is None else decode_row(Block, row)
        if block is None:
            raise _bad_chain(f"block {height} is missing")
        if height <= made.height:
            _verify_link(rows, terms, block, previous)
        else:
            leaves += _verify_block(state, rows, terms, block, previous)
        previous = block.header
        if height >= made.height:
            _verify_terms(terms, state, previous, height)
        if progress is not None:
            progress(height)
    if previous != tip or not base.header.height <= made.height <= tip.height:
        raise _bad_chain("the last block is not the one that the log names")
    _verify_state(state, rows)
    if sum(1 for _ in rows.rows(leaf_rows())) != leaves:
        raise _bad_chain("there are leaves that no block has appended")
    return tip.height


_Kept = TypeVar("_Kept", bound=Encoded)


def _kept(rows: Rows, key: bytes, cls: type[_Kept]) -> _Kept:
    row = rows.row(key)
    if row is None:
        raise _bad_chain("the snapshot that it began with is missing")
    return decode_row(cls, row)


def _unpacked(rows: Rows, made: SnapshotManifest) -> tuple[MemoryState, int]:
    """The state in the snapshot that is kept, and the number of its leaves."""
    state, joiner, leaves = MemoryState(), Joiner(), 0
    leaf_family, written_once = leaf_rows(), (leaf_rows(), block_hash_row(0)[:1])
    try:
        for index in range(len(made.parts)):
            part = rows.row(part_row(made.height, index)) or b""
            made.check_part(index, part)
            for key, value in joiner.add(part):
                if key.startswith(STATE_ROWS):
                    state.write({key[len(STATE_ROWS) :]: value})
                elif key.startswith(written_once) and rows.row(key) != value:
                    raise _bad_chain("a row is not the one in its snapshot")
                leaves += key.startswith(leaf_family)
        joiner.finish()
    except Invalid as error:
        raise _bad_chain(error.message) from error
    return state, leaves


def _verify_named(rows: Rows, made: SnapshotManifest) -> None:
    """The snapshot is the one that the newest header to name one names, if it is that old."""
    carrier = _kept(rows, CARRIER_ROW, Block).header
    # A newer one than that is unnamed yet, and follows from what was replayed here before.
    if carrier.height > made.height and carrier.snapshot_root != made.root():
        raise _bad_chain("the signed header names another snapshot than the one kept")


def _verify_link(rows: Rows, terms: Terms, block: Block, previous: BlockHeader) -> None:
    """What can be said of a block without the state before it."""
    header = block.header
    try:
        block.check_signature(terms.key_at(header.height))
    except HcefsError as error:
        raise _bad_chain(f"the writer did not sign block {header.height}") from error
    if (
        header.height != previous.height + 1
        or header.previous != previous.hash()
        or header.transaction_root != transaction_root(list(block.transactions))
        or rows.row(block_hash_row(header.height)) != block.hash()
    ):
        raise _bad_chain(f"block {header.height} does not follow the one before it")


def _verify_block(
    state: MemoryState, rows: Rows, terms: Terms, block: Block, previous: BlockHeader | None
) -> int:
    """Replay one block onto the state; the number of leaves that it appended."""
    height = block.header.height
    try:
        overlay, outcomes = machine.replay(state, block, terms.genesis, previous, terms)
    except HcefsError as error:
        raise _bad_chain(f"block {height} does not replay ({error.message})") from error
    if rows.row(block_hash_row(height)) != block.hash():
        raise _bad_chain(f"the index names another hash for block {height}")
    leaves = 0
    for outcome in outcomes:
        for event in outcome.events:
            if isinstance(event, LeafAppended):
                leaves += 1
                _verify_leaf(rows, event)
    state.write(overlay.writes)
    return leaves


def _verify_terms(
    terms: Terms, state: MemoryState, previous: BlockHeader | None, height: int
) -> None:
    """Check the statements of terms that begin after this block."""
    for signed in terms.changes:
        if signed.change.height != height:
            continue
        time_ms = terms.genesis.time_ms if previous is None else previous.time_ms
        try:
            signed.check(StateView(state, height, time_ms), terms.genesis)
        except HcefsError as error:
            raise _bad_chain(
                f"the operators did not sign term {signed.change.term} ({error.message})"
            ) from error
        if signed.change.block_hash != previous_hash(terms.genesis, previous):
            raise _bad_chain(f"term {signed.change.term} follows another block {height}")


def _verify_leaf(rows: Rows, event: LeafAppended) -> None:
    expected = leaf_value(event.height, event.encoded)
    if rows.row(leaf_row(event.record, event.index)) != expected:
        raise _bad_chain(f"leaf {event.index} of {event.record} differs from its block")
    index = rows.row(commitment_row(event.record, event.leaf.commitment))
    if index is None or int.from_bytes(index, "big") > event.index:
        raise _bad_chain(f"the index does not name leaf {event.index} of {event.record}")


def _verify_state(state: State, rows: Rows) -> None:
    here = rows.scan(b"")
    for pair in state.scan(b""):
        if next(here, None) != pair:
            raise _bad_chain("the state is not what the blocks make it")
    if next(here, None) is not None:
        raise _bad_chain("the state holds rows that no block has written")


def _bad_chain(what: str) -> Corrupt:
    return Corrupt(
        f"the ledger's log does not verify: {what}; rebuild this replica from its peers",
        reason="bad-chain",
    )
