"""Where payloads lie: the same as the layout says, for every slot and column."""

from __future__ import annotations

import pytest

from hcefs.erasure.scheme import profile_named
from hcefs.errors import Invalid
from hcefs.formats.pack import spans_of
from hcefs.stripes.pack_shape import PackShape

LENGTHS = [48, 900, 64, 5000, 49, 70_000, 48]


@pytest.mark.parametrize("profile", ["ec-4-2", "ec-10-4", "copy-3"])
def test_shapes_agree_with_spans(profile: str) -> None:
    shape = PackShape(LENGTHS, profile_named(profile))
    assert shape.body == sum(LENGTHS)
    assert shape.payloads == len(LENGTHS)
    for slot, length in enumerate(LENGTHS, 1):
        spans = spans_of(LENGTHS, shape.piece, slot)
        assert shape.length_of(slot) == length
        assert list(shape.columns_of(slot)) == [span.index for span in spans]
        for span in spans:
            assert shape.runs_in([slot], span.index) == [(span.offset, span.length)]
            assert shape.lengths_in([slot], span.index) == [span.length]
    every = range(1, len(LENGTHS) + 1)
    for column in range(profile_named(profile).k):
        runs = shape.runs_in(every, column)
        assert len(runs) <= 1, "neighbours are read together"
        assert sum(length for _, length in runs) == sum(shape.lengths_in(every, column))


def test_gaps_are_not_read() -> None:
    shape = PackShape([100] * 5, profile_named("copy-3"))
    assert shape.runs_in([1, 2, 4], 0) == [(0, 200), (300, 100)]


@pytest.mark.parametrize("slot", [0, -1, 8])
def test_other_slots_are_refused(slot: int) -> None:
    shape = PackShape(LENGTHS, profile_named("ec-4-2"))
    for ask in (shape.length_of, shape.columns_of):
        with pytest.raises(Invalid) as caught:
            ask(slot)
        assert caught.value.reason == "bad-slots"
