"""When its time has passed, what was never committed is gone, and nothing of it stays.

A client may not know that its put was committed, so the ledger is asked: each opening that
waits on a disk is looked for among the leaves.
"""

from __future__ import annotations

from hcefs.formats.pack import decode_opening
from hcefs.store.interface import Table
from hcefs.testing.simulator.checkers.durability import durable_indexes
from hcefs.testing.simulator.history import Violation
from hcefs.testing.simulator.world import World

NAME = "collected"


def check(world: World) -> None:
    """Raises Violation: a shard is kept that the ledger does not know and never will."""
    committed: set[bytes] = set()
    for node in world.nodes:
        for key, row in node.storage.rows.rows.items():
            if key[0] == Table.OPENINGS:
                opening = decode_opening(row[4:])
                if world.log.leaf_index(opening.record, opening.commitment()) is not None:
                    committed.add(key[1:17])
    left = sorted(set(durable_indexes(world)) - committed)
    if left:
        raise Violation(
            NAME, f"{len(left)} blobs are kept that were never committed: {left[0].hex()}"
        )
