"""Rows of a table in the making: who sits where, loads, and who may join.

A row is a set of members (positions, see ``hcefs.placement.quotas``) in seats.
Sets of members and rows are bit masks, so that one ``|`` answers for every member
at once.

Invariants: every change goes through ``Rows.place`` and ``Rows.vacate``; a seat
keeps its number whoever holds it.  Members list their rows in the order in which
they got them, never in a set's or a hash's order.

Not guaranteed: that rows taken over by ``seat_all`` keep to the caps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hcefs.errors import Internal
from hcefs.placement.quotas import Domain

HOLE = -1


class Rows:
    """The rows of a table in the making: who sits where, loads, room."""

    def __init__(self, members: int, domains: Sequence[Domain], partitions: int, n: int) -> None:
        self.n = n
        self.rows = [[HOLE] * n for _ in range(partitions)]
        self.masks = [0] * partitions
        self.loads = [0] * members
        # Dicts for their order: a set's order is no part of the language.
        self._rows_of: list[dict[int, None]] = [{} for _ in range(members)]
        self._all = (1 << members) - 1
        self._domains: list[list[tuple[int, int]]] = [[] for _ in range(members)]
        # A rack that is its whole zone names the same members twice: the lesser cap binds.
        caps: dict[int, int] = {}
        for domain in domains:
            mask = sum(1 << position for position in domain.positions)
            caps[mask] = min(domain.cap, caps.get(mask, domain.cap))
        for mask, cap in caps.items():
            for position in bits_of(mask):
                self._domains[position].append((mask, cap))
        self._exchanges: list[dict[int, int]] = [{} for _ in range(partitions)]

    def seat_all(self, rows: Iterable[Sequence[int]]) -> None:
        """Take over whole rows of an empty table, in order of partition; ``HOLE`` stays one.

        Nothing is checked: rows in force may break caps that were changed since.
        """
        for partition, row in enumerate(rows):
            self.rows[partition] = list(row)
            mask = 0
            for position in row:
                if position != HOLE:
                    mask |= 1 << position
                    self.loads[position] += 1
                    self._rows_of[position][partition] = None
            self.masks[partition] = mask

    def over_caps(self, partition: int) -> tuple[int, int] | None:
        """A domain with too many members in the row, as (members, its cap); innermost first."""
        mask = self.masks[partition]
        found = None
        for position in self.rows[partition]:
            if position != HOLE:
                for domain, cap in self._domains[position]:
                    if (mask & domain).bit_count() > cap and (
                        found is None or domain.bit_count() < found[0].bit_count()
                    ):
                        found = (domain, cap)
        return found

    def may_join(self, partition: int, position: int) -> bool:
        """Whether the member may take a hole of the row."""
        mask = self.masks[partition]
        return not mask >> position & 1 and all(
            (mask & domain).bit_count() < cap for domain, cap in self._domains[position]
        )

    def place(self, partition: int, seat: int, position: int) -> None:
        """Give a hole to a member.  The caller has checked that it may join."""
        self.rows[partition][seat] = position
        self.masks[partition] |= 1 << position
        self.loads[position] += 1
        self._rows_of[position][partition] = None
        self._exchanges[partition] = {}

    def vacate(self, partition: int, seat: int) -> int:
        """Make a seat a hole; returns the member that held it."""
        position = self.rows[partition][seat]
        self.rows[partition][seat] = HOLE
        self.masks[partition] ^= 1 << position
        self.loads[position] -= 1
        del self._rows_of[position][partition]
        self._exchanges[partition] = {}
        return position

    def rows_of(self, position: int) -> Iterator[int]:
        """The partitions in which the member sits."""
        return iter(self._rows_of[position])

    def joinable(self, partition: int) -> int:
        """The members that may take a hole of the row, as a mask."""
        return self._all & ~self.masks[partition] & ~self._full(partition, self.masks[partition])

    def exchangeable(self, partition: int, leaves: int) -> int:
        """The members that may take the seat of ``leaves`` in the row, as a mask."""
        cached = self._exchanges[partition]
        found = cached.get(leaves)
        if found is None:
            mask = self.masks[partition]
            found = self._all & ~mask & ~self._full(partition, mask ^ (1 << leaves))
            cached[leaves] = found
        return found

    def _full(self, partition: int, mask: int) -> int:
        """The members of domains in which a row of these members is at its cap."""
        full = 0
        for position in self.rows[partition]:
            if position != HOLE and mask >> position & 1:
                for domain, cap in self._domains[position]:
                    if (mask & domain).bit_count() >= cap:
                        full |= domain
        return full

    def check(self, quotas: Sequence[int]) -> None:
        """Verify the finished rows by counting.

        Raises:
            Internal: a hole is left, a cap is broken or a load is not its quota.
        """
        for row, mask in zip(self.rows, self.masks, strict=True):
            held = [(mask & d).bit_count() <= cap for p in row for d, cap in self._domains[p]]
            if HOLE in row or mask.bit_count() != self.n or not all(held):
                raise Internal("the planner made a row against the caps", reason="bad-plan")
        if self.loads != list(quotas):
            raise Internal("the planner missed its quotas", reason="bad-plan")


def bits_of(mask: int) -> Iterator[int]:
    """The positions in a mask, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
