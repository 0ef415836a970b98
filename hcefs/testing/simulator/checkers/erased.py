"""Of an erased record no key is on any disk, not even deleted, and nothing leads to its content.

Whatever the run has left where: in stand-ins, in quarantine, among rows that were put away, on
a node that was dead meanwhile.
"""

from __future__ import annotations

from hcefs.ids import RecordId
from hcefs.store.interface import KeyTable, Table
from hcefs.testing.simulator.checkers.durability import durable_indexes
from hcefs.testing.simulator.world import World

NAME = "erased"
_STAYS = (bytes([Table.META]) + b"erased/", bytes([Table.RECEIPTS]))
"""That it was erased, and the evidence of who touched it before."""


def left(world: World, record: RecordId) -> list[str]:
    """What is still there of the only record of a run."""
    found = []
    name = bytes(record)
    for node in world.nodes:
        keys = node.storage.keys
        found += [
            f"{node.name} has a row of {KeyTable(key[0]).name}" for key in keys.rows if key[0]
        ]
        if keys.deleted:
            found.append(f"{node.name} has deleted keys in its files")
        found += [
            f"{node.name} has a row of {Table(key[0]).name}"
            for key, value in node.storage.rows.rows.items()
            if (name in key or name in value) and not key.startswith(_STAYS)
        ]
    return found + [f"{base.hex()} has shards" for base in durable_indexes(world)]
