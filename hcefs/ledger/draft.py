"""What one append writes: the rows of blocks, of the state they leave, and of the indexes.

Invariant: rows of one draft see each other before they are written, so that blocks
appended together give the same rows as blocks appended one by one.
"""

from __future__ import annotations

from collections.abc import Callable

from hcefs.ids import RecordId
from hcefs.integrity import leaf_hash, node_hash
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
from hcefs.ledger.state import MAP_KEY
from hcefs.ledger.transactions import SignedTransaction


class Draft:
    """The rows of one atomic append; ``rows`` maps keys to sealed values, None deletes."""

    def __init__(
        self,
        known: Callable[[bytes], bytes | None],
        subtree: Callable[[RecordId, int, int], bytes],
    ) -> None:
        self._known = known
        self._subtree = subtree
        self.rows: dict[bytes, bytes | None] = {}
        self.map_changed = False
        self._nodes: dict[bytes, bytes] = {}

    def put(self, key: bytes, value: bytes) -> None:
        """Add one row."""
        self.rows[key] = seal(key, value)

    def _put_first(self, key: bytes, value: bytes) -> bool:
        """Add a row unless there is one, here or in the log."""
        if key in self.rows or self._known(key) is not None:
            return False
        self.put(key, value)
        return True

    def add(self, applied: AppliedBlock) -> None:
        """Add the rows of the next block."""
        block, header = applied.block, applied.block.header
        self.put(block_row(header.height), block.encode())
        self.put(block_hash_row(header.height), header.hash())
        for key, value in applied.writes.items():
            if value is None:
                self.rows[STATE_ROWS + key] = None
            else:
                self.put(STATE_ROWS + key, value)
        self.map_changed |= MAP_KEY in applied.writes
        for data, outcome in zip(block.transactions, applied.outcomes, strict=True):
            self._add_result(data, header, outcome)
            for event in outcome.events:
                if isinstance(event, LeafAppended):
                    self._add_leaf(event)

    def _add_result(self, data: bytes, header: BlockHeader, outcome: Outcome) -> None:
        # The first result stays: a body that the chain holds twice did nothing the second time.
        result = SubmitResult(header.height, header.time_ms, outcome.leaves)
        self._put_first(result_row(SignedTransaction.decode(data).hash()), result.encode())

    def _add_leaf(self, event: LeafAppended) -> None:
        record, index, leaf = event.record, event.index, event.leaf
        self.put(leaf_row(record, index), leaf_value(event.height, leaf))
        if not self._put_first(commitment_row(record, leaf.commitment), u64(index)):
            self._put_first(copied_row(record, leaf.commitment, leaf.signer), u64(index))
        # Each set low bit of the index completes one subtree more.
        level, node = 0, leaf_hash(leaf.encode())
        self._nodes[subtree_row(record, 0, index)] = node
        while index & 1:
            left = self._nodes.get(subtree_row(record, level, index - 1))
            if left is None:
                left = self._subtree(record, level, index - 1)
            node = node_hash(left, node)
            level, index = level + 1, index >> 1
            key = subtree_row(record, level, index)
            self._nodes[key] = node
            self.put(key, node)
