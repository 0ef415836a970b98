"""There is one ledger: every replica holds the same blocks, and none of them is ever lost.

Reads the rows of every replica's disk.  Whatever block a client was told of stays, with the
hash that it had when it was first seen.
"""

from __future__ import annotations

from hcefs.ledger.rows import block_hash_row
from hcefs.testing.simulator.database import Table
from hcefs.testing.simulator.history import History, Violation
from hcefs.testing.simulator.world import World

NAME = "one-ledger"


class OneLedger:
    """Remembers the hash of every block that it has seen acknowledged."""

    def __init__(self) -> None:
        self._known: dict[int, bytes] = {}

    def check(self, world: World, history: History) -> None:
        """Raises Violation: two replicas differ, or a block that was told of is gone."""
        writer = world.ledger.table
        if world.ledger.is_lost:
            for node in world.nodes:
                self._compare(node.name, node.storage.ledger, Table("none"))
            return
        for height in range(len(self._known) + 1, history.height + 1):
            row = writer.rows.get(block_hash_row(height))
            if row is None:
                raise Violation(NAME, f"block {height} was told of and is gone from the writer")
            self._known[height] = row
        for name, table in (
            ("the writer", writer), *((n.name, n.storage.ledger) for n in world.nodes)
        ):  # fmt: skip
            self._compare(name, table, writer)

    def _compare(self, name: str, table: Table, writer: Table) -> None:
        height = 1
        if table is not writer:
            # A replica that began with a snapshot has no blocks before it.
            while height < len(self._known) and block_hash_row(height) not in table.rows:
                height += 1
        while (row := table.rows.get(block_hash_row(height))) is not None:
            expected = self._known.get(height) or writer.rows.get(block_hash_row(height))
            if expected is not None and row != expected:
                raise Violation(NAME, f"block {height} of {name} is another one")
            height += 1
        if table is writer and height <= len(self._known):
            raise Violation(NAME, f"the writer ends at {height - 1}, clients saw more")
