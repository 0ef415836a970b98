"""Blobs whose repair waits for their append, and how a node notices that it has come.

A shard whose put failed at this node is in the queue of damage before its blob is
committed, and nothing may be rebuilt for it until then.  The commitments are known from
the rows of whoever has it, so each new block can be asked for them, here and at no cost
for others.

Invariants: bounded; a name is told at most once for each time that it was noted.

Not guaranteed: memory over a restart, or of more than ``NAMES_MAX``: those are tried again
when their delay is over, as before.
"""

from __future__ import annotations

from collections.abc import Sequence

from hcefs.stripes.adopt import Leaf
from hcefs.stripes.checks import Replica
from hcefs.upkeep.damage import DamagedName

NAMES_MAX = 1024
LEAVES_MAX = 64
"""Of one pack, which has one for each of its records; the first that comes is enough."""


class Awaited:
    """For one task; :meth:`come` is for a disk thread while nothing else is called."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._leaves: dict[DamagedName, tuple[Leaf, ...]] = {}
        self._height = -1

    def __len__(self) -> int:
        return len(self._leaves)

    def note(self, name: DamagedName, leaves: Sequence[Leaf]) -> None:
        """Wait for one of some commitments of a shard's blob or pack."""
        if leaves and (name in self._leaves or len(self._leaves) < NAMES_MAX):
            self._leaves[name] = tuple(leaves[:LEAVES_MAX])
            # It may have come between the attempt and this.
            self._height = -1

    def is_news(self) -> bool:
        """Whether there is a block that :meth:`come` has not seen, and somebody waits."""
        return bool(self._leaves) and self._replica.height != self._height

    def come(self) -> list[DamagedName]:
        """Whose append has come.  Not waited for any more."""
        self._height = self._replica.height
        found = [
            name
            for name, leaves in self._leaves.items()
            if any(self._replica.leaf_index(*leaf) is not None for leaf in leaves)
        ]
        for name in found:
            del self._leaves[name]
        return found
