"""Bugs that only a death between two steps shows: the matrix shows each of them."""

from __future__ import annotations

import pytest

from tests.crash.conftest import PreparedOf
from tests.crash.driver import points_of
from tests.crash.mutations import MUTATIONS


@pytest.mark.long
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_caught(prepared: PreparedOf, name: str) -> None:
    mutation = MUTATIONS[name]
    assert mutation.point in points_of(mutation.scenario)
    armed = f"{mutation.point.value}:{mutation.hit}"
    found = prepared(mutation.scenario).crash(armed, name)
    assert "was not reached" not in found, found
    assert found, f"nobody notices that {mutation.bug}"
    assert mutation.found in found, found
