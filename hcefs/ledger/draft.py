"""What one append writes: the rows of blocks, of the state they leave, and of the indexes.

Invariant: rows of one draft see each other before they are written, so that blocks
appended together give the same rows as blocks appended one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hcefs.encoding import Encoded
from hcefs.ledger.block import BlockHeader
from hcefs.ledger.outcome import LeafAppended, Outcome
from hcefs.ledger.rows import (
    STATE_ROWS,
    AppliedBlock,
    SubmitResult,
    block_hash_row,
    block_row,
    commitment_row,
    copied_row,
    leaf_row,
    leaf_value,
    result_row,
    seal,
    subtree_row,
    u64,
)
from hcefs.ledger.state import ARRIVED, MAP_KEY, parse_arrived
from hcefs.ledger.transactions import SignedTransaction
from hcefs.placement.waves import SeatName


class Draft:
    """The rows of one atomic append; ``rows`` maps keys to sealed values, None deletes.

    ``facts`` says of every key of the state that changes what it now means, None
    where that is to be read; ``arrivals`` which marks of arrival come (True) or go.
    ``present`` says which of some rows the log has.
    """

    def __init__(self, present: Callable[[list[bytes]], list[bool]]) -> None:
        self._present = present
        self.rows: dict[bytes, bytes | None] = {}
        self.facts: dict[bytes, Encoded | None] = {}
        self.map_changed = False
        self.arrivals: dict[SeatName, bool] = {}

    def put(self, key: bytes, value: bytes) -> None:
        """Add one row."""
        self.rows[key] = seal(key, value)

    def add(self, applied: AppliedBlock) -> None:
        """Add the rows of the next block."""
        block, header = applied.block, applied.block.header
        self.put(block_row(header.height), block.encode())
        self.put(block_hash_row(header.height), header.hash())
        for key, value in applied.writes.items():
            self.facts[key] = applied.facts.get(key)
            if value is None:
                self.rows[STATE_ROWS + key] = None
            else:
                self.put(STATE_ROWS + key, value)
            if key.startswith(ARRIVED):
                self.arrivals[parse_arrived(key)] = value is not None
        self.map_changed |= MAP_KEY in applied.writes
        self._add_results(block.transactions, header, applied.outcomes)
        self._add_leaves(
            [
                event
                for outcome in applied.outcomes
                for event in outcome.events
                if isinstance(event, LeafAppended)
            ]
        )

    def _put_first(self, rows: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """Add rows, each unless there is one, here or in the log; the numbers of those."""
        known = self._present([key for key, _ in rows]) if rows else []
        refused = []
        for number, (key, value) in enumerate(rows):
            if known[number] or key in self.rows:
                refused.append(number)
            else:
                self.put(key, value)
        return refused

    def _add_results(
        self, transactions: Sequence[bytes], header: BlockHeader, outcomes: Sequence[Outcome]
    ) -> None:
        # The first result stays: a body that the chain holds twice did nothing the second time.
        rows = []
        for data, outcome in zip(transactions, outcomes, strict=True):
            result = SubmitResult(header.height, header.time_ms, outcome.leaves)
            name = result_row(SignedTransaction.decode(data).hash())
            rows.append((name, result.encode()))
        self._put_first(rows)

    def _add_leaves(self, events: Sequence[LeafAppended]) -> None:
        firsts = []
        for event in events:
            record, index = event.record, event.index
            self.put(leaf_row(record, index), leaf_value(event.height, event.encoded))
            firsts.append((commitment_row(record, event.leaf.commitment), u64(index)))
            # Each set low bit of the index completes one subtree more.
            for level, root in enumerate(event.completed, 1):
                self.put(subtree_row(record, level, index >> level), root)
        copies = []
        for number in self._put_first(firsts):
            event = events[number]
            key = copied_row(event.record, event.leaf.commitment, event.leaf.signer)
            copies.append((key, u64(event.index)))
        self._put_first(copies)
