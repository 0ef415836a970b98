"""The frozen bytes of what the scrub keeps: written the same, read back, and refused the same."""

from __future__ import annotations

import pytest

from hcefs.errors import Invalid
from hcefs.upkeep.scrub_state import AsideNote, ScrubCursor
from tests.vectors import generate
from tests.vectors.generate_scrub import TIME_MS, samples, vectors

FROZEN = generate.frozen("scrub")


def test_nothing_frozen_has_changed() -> None:
    assert generate.broken(FROZEN, vectors()) == []


def test_every_vector_is_frozen() -> None:
    assert vectors() == FROZEN, "run python -m tests.vectors.generate"


@pytest.mark.parametrize("name", samples())
def test_frozen_values_are_read_back(name: str) -> None:
    value = samples()[name]
    assert type(value).decode(bytes.fromhex(FROZEN[name])) == value


def test_the_times_of_sectors_stand_in_order() -> None:
    cursor = ScrubCursor.decode(bytes.fromhex(FROZEN["within"]))
    assert (cursor.verified(255), cursor.verified(254)) == (TIME_MS + 1, 0)


def test_a_later_version_is_refused() -> None:
    value = bytes.fromhex(FROZEN["piece"]).replace(b"aside-note\x01", b"aside-note\x02")
    with pytest.raises(Invalid) as caught:
        AsideNote.decode(value)
    assert caught.value.reason == "unknown-version"
