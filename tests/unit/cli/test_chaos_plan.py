"""The budget of faults: whatever the seed, no more is taken than the promise allows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.cli.chaos_plan import (
    DAMAGE,
    OF_NODES,
    PLANNED,
    Budget,
    Draws,
    Kind,
    next_fault,
)

NODES = (1, 2, 3, 4, 5, 6, 7)
CALM = Budget(NODES, 2)


def test_draws_follow_from_the_seed_and_the_label() -> None:
    first = [Draws(7, "faults").below(1_000) for _ in range(3)]
    assert first == [first[0]] * 3
    one, other = Draws(7, "faults"), Draws(7, "load")
    assert [one.below(1 << 30) for _ in range(4)] != [other.below(1 << 30) for _ in range(4)]
    draws = Draws(1, "x")
    assert {draws.below(3) for _ in range(100)} == {0, 1, 2}
    assert all(2 <= draws.between(2, 3) < 3 for _ in range(100))
    assert all(len(set(draws.some(NODES, 3))) == 3 for _ in range(20))


@pytest.mark.parametrize("seed", range(20))
def test_never_more_than_m_nodes_at_once(seed: int) -> None:
    draws = Draws(seed, "faults")
    for wounded in (frozenset[int](), frozenset({3}), frozenset({3, 5})):
        budget = replace(CALM, wounded=wounded)
        for _ in range(30):
            fault = next_fault(draws, budget, tuple(Kind))
            assert fault is not None
            if fault.kind in OF_NODES | DAMAGE:
                assert fault.nodes
                assert len(wounded | set(fault.nodes)) <= 2
                assert not wounded & set(fault.nodes)


@pytest.mark.parametrize(
    "budget",
    [
        replace(CALM, wounded=frozenset({1})),
        replace(CALM, whole=False),
        replace(CALM, changing=True),
    ],
    ids=["wounded", "not whole", "changing"],
)
def test_nothing_is_lost_or_moved_before_all_is_whole(budget: Budget) -> None:
    assert not any(budget.allows(kind) for kind in DAMAGE | PLANNED)
    assert budget.allows(Kind.KILL_ALL)


def test_a_node_is_drained_only_when_there_is_one_more_than_needed() -> None:
    assert not CALM.allows(Kind.DRAIN)
    assert replace(CALM, can_drain=True).allows(Kind.DRAIN)


def test_nothing_allowed_is_no_fault() -> None:
    budget = replace(CALM, wounded=frozenset({1, 2}))
    assert next_fault(Draws(1, "faults"), budget, [Kind.KILL, Kind.WIPE]) is None


def test_all_kinds_come() -> None:
    draws, budget = Draws(3, "faults"), replace(CALM, can_drain=True)
    found = {fault.kind for _ in range(400) if (fault := next_fault(draws, budget, tuple(Kind)))}
    assert found == set(Kind)
