"""Verification of a whole log by replay: needs the genesis, the rows and no key.

Invariant: what passes is exactly what the signed blocks make of the genesis: every
row of the state, every leaf, every index from height to hash.  Takes time and
memory in proportion to the whole ledger.  Source: docs/ARCHITECTURE.md, "Promises".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from hcefs.errors import Conflict, Corrupt, HcefsError
from hcefs.ledger import machine
from hcefs.ledger.block import Block, BlockHeader, previous_hash
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.outcome import LeafAppended
from hcefs.ledger.rows import (
    TERM_ROWS,
    TIP_ROW,
    block_hash_row,
    block_row,
    commitment_row,
    decode_row,
    leaf_row,
    leaf_rows,
    leaf_value,
)
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
