"""Whole clusters on a virtual clock: no promise is broken, and a seed is one and the same run."""

from __future__ import annotations

import pytest

from hcefs.testing.mutations import MUTATIONS, Mutation, hunt, named
from hcefs.testing.simulator.simulation import simulate

SHORT_SECONDS = 8.0


def test_a_short_run_breaks_no_promise_and_repeats_exactly() -> None:
    first = simulate(7, SHORT_SECONDS)
    assert first.violation is None, (first.violation, first.last)
    assert first.seconds > 2 * SHORT_SECONDS
    assert simulate(7, SHORT_SECONDS).digest == first.digest
    assert simulate(8, 1.0).digest != first.digest


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "checker"), [("file-not-synced", "durability"), ("digests-unchecked", "readable")]
)
def test_a_planted_bug_is_caught(name: str, checker: str) -> None:
    found = hunt(named(name), 1, SHORT_SECONDS)
    assert found is not None
    assert found[2] == checker


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 21))
def test_seeds(seed: int) -> None:
    report = simulate(seed)
    assert report.violation is None, (report.violation, report.last)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_every_planted_bug_is_caught(mutation: Mutation) -> None:
    assert hunt(mutation, 12, 180.0) is not None
