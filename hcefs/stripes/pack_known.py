"""What this node has been asked for of packs lately: openings with their trees, and shapes.

Only groups that the ledger has committed are kept; of those only the layout may change,
and then they are forgotten.
Bounded by the number of payloads, because a tree has a node for each; shapes, which the
groups of one pack share, by their number.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

from hcefs.formats.pack import PackLayout, PackOpening
from hcefs.ids import BlobBase, RecordId
from hcefs.integrity import MerkleTree
from hcefs.stripes.pack_shape import PackShape

WEIGHT_MAX = 1 << 16
"""About 250 bytes each."""

GROUP_WEIGHT = 16
"""What a group weighs beside its payloads."""

SHAPES_MAX = 256
"""Of up to a thousand numbers each."""

Name = tuple[BlobBase, RecordId]


@dataclass(frozen=True)
class KnownGroup:
    """What a pack holds of one record, committed: its opening and where the payloads lie."""

    opening: PackOpening
    encoded: bytes
    tree: MerkleTree = field(repr=False)
    slots: frozenset[int]
    layout: bytes
    shape: PackShape
    version: int = 1


class KnownGroups:
    """The groups that were asked for last.  Thread-safe."""

    def __init__(self, weight_max: int = WEIGHT_MAX) -> None:
        self._shapes: OrderedDict[bytes, PackShape] = OrderedDict()
        self._weight_max = weight_max
        self._weight = 0
        self._groups: OrderedDict[Name, KnownGroup] = OrderedDict()
        self._changes = 0
        self._lock = threading.Lock()

    def get(self, name: Name) -> KnownGroup | None:
        """A group that is known."""
        with self._lock:
            found = self._groups.get(name)
            if found is not None:
                self._groups.move_to_end(name)
            return found

    def shape(self, layout: bytes) -> PackShape:
        """The shape of a layout.

        Raises:
            Invalid: malformed.
        """
        with self._lock:
            found = self._shapes.get(layout)
            if found is not None:
                self._shapes.move_to_end(layout)
                return found
        made = PackShape.of(PackLayout.decode(layout))
        with self._lock:
            self._shapes[layout] = made
            while len(self._shapes) > SHAPES_MAX:
                self._shapes.popitem(last=False)
        return made

    @property
    def changes(self) -> int:
        """How often layouts were forgotten; asked before what is :meth:`put` is read."""
        with self._lock:
            return self._changes

    def forget(self, bases: Collection[BlobBase]) -> None:
        """Drop the groups of packs whose layout was replaced."""
        gone = frozenset(bases)
        with self._lock:
            self._changes += 1
            for name in [name for name in self._groups if name[0] in gone]:
                self._drop(name)

    def put(self, name: Name, group: KnownGroup, changes: int = 0) -> None:
        """Keep a group, and drop those that were not asked for longest.

        Not when a layout was replaced since ``changes``: it might be the group's.
        """
        with self._lock:
            if changes != self._changes:
                return
            self._drop(name)
            self._groups[name] = group
            self._weight += _weight(group)
            while self._weight > self._weight_max and len(self._groups) > 1:
                self._drop(next(iter(self._groups)))

    def _drop(self, name: Name) -> None:
        old = self._groups.pop(name, None)
        if old is not None:
            self._weight -= _weight(old)


def _weight(group: KnownGroup) -> int:
    return GROUP_WEIGHT + len(group.slots)
