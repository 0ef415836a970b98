"""Where the payloads of one pack lie in its data pieces.  Pure.

The same answers as :meth:`hcefs.formats.pack.PackLayout.spans`, made once for a
layout: what reads thousands of payloads may not add up a thousand lengths for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hcefs.erasure.scheme import Profile, profile_named
from hcefs.errors import Invalid
from hcefs.formats.pack import PackLayout, pack_geometry, split_lengths


class PackShape:
    """The lengths of a pack's payloads and pieces; ``version`` is that of its layout."""

    __slots__ = ("_starts", "body", "piece", "profile", "version")

    def __init__(self, lengths: list[int], profile: Profile, version: int = 0) -> None:
        self.version = version
        self._starts = list(itertools.accumulate(lengths, initial=0))
        self.profile = profile
        self.body = self._starts[-1]
        self.piece = pack_geometry(self.body, profile).piece_of(0)

    @classmethod
    def of(cls, layout: PackLayout) -> PackShape:
        """The shape of a layout.

        Raises:
            Invalid: ``bad-layout``, ``unknown-profile``.
        """
        profile = profile_named(layout.profile)
        return cls(split_lengths(layout.lengths), profile, layout.version)

    def under(self, profile: Profile) -> PackShape:
        """The shape of the same payloads under a profile."""
        if profile == self.profile:
            return self
        starts = self._starts
        return PackShape([end - start for start, end in itertools.pairwise(starts)], profile)

    @property
    def payloads(self) -> int:
        """Number of payloads."""
        return len(self._starts) - 1

    def length_of(self, slot: int) -> int:
        """Bytes of a sealed payload.

        Raises:
            Invalid: ``bad-slots``: the pack has no such slot.
        """
        self._check(slot)
        return self._starts[slot] - self._starts[slot - 1]

    def columns_of(self, slot: int) -> range:
        """The data pieces that hold parts of a payload.

        Raises:
            Invalid: ``bad-slots``.
        """
        self._check(slot)
        return range(self._starts[slot - 1] // self.piece, -(-self._starts[slot] // self.piece))

    def lengths_in(self, slots: Iterable[int], column: int) -> list[int]:
        """How many bytes of each payload lie in a data piece; none for most."""
        return [length for _, length in self._spans(slots, column)]

    def runs_in(self, slots: Iterable[int], column: int) -> list[tuple[int, int]]:
        """What these payloads take up of a data piece: (offset, length), neighbours joined."""
        runs: list[tuple[int, int]] = []
        for offset, length in self._spans(slots, column):
            if not length:
                continue
            if runs and sum(runs[-1]) == offset:
                runs[-1] = (runs[-1][0], runs[-1][1] + length)
            else:
                runs.append((offset, length))
        return runs

    def _spans(self, slots: Iterable[int], column: int) -> Iterable[tuple[int, int]]:
        starts = self._starts
        low, high = column * self.piece, (column + 1) * self.piece
        for slot in slots:
            self._check(slot)
            start, end = max(starts[slot - 1], low), min(starts[slot], high)
            yield start - low, max(0, end - start)

    def _check(self, slot: int) -> None:
        if not 1 <= slot < len(self._starts):
            raise Invalid(
                f"the pack has {self.payloads} payloads, none in slot {slot}", reason="bad-slots"
            )
