from __future__ import annotations

from itertools import combinations

import pytest

from hcefs.errors import Internal, Invalid
from hcefs.placement.chains import Chains, is_cheapest
from hcefs.placement.quotas import Domain
from hcefs.placement.rows import HOLE, Rows


def rows_of(members: int, content: list[list[int]], domains: tuple[Domain, ...] = ()) -> Rows:
    rows = Rows(members, domains, len(content), len(content[0]))
    for partition, row in enumerate(content):
        for seat, position in enumerate(row):
            if position != HOLE:
                rows.place(partition, seat, position)
    return rows


def test_a_member_below_its_quota_fills_the_hole_itself() -> None:
    rows = rows_of(4, [[0, 1, HOLE], [0, 2, 3]])
    assert len(Chains(rows, [2, 1, 1, 2]).fill(0, 2).hops) == 0
    assert rows.rows[0] == [0, 1, 3]


def test_a_chain_of_one_exchange() -> None:
    # Only 0 is below its quota, and it already sits in the row of the hole.
    rows = rows_of(3, [[0, HOLE], [1, 2]])
    assert len(Chains(rows, [2, 1, 1]).fill(0, 1).hops) == 1
    assert rows.rows == [[0, 1], [0, 2]]
    rows.check([2, 1, 1])


def test_a_chain_through_the_row_of_the_hole_itself() -> None:
    # Only 3 is below its quota and its zone is full in row 0, so 0 joins, 2 takes
    # the seat of 0 in row 1 and 3 that of 2 in row 0; the last exchange comes first.
    zone = Domain((2, 3, 4), 2)
    rows = rows_of(5, [[4, 2, HOLE], [3, 1, 0]], (zone,))
    assert len(Chains(rows, [1, 1, 1, 2, 1]).fill(0, 2).hops) == 2
    assert rows.rows == [[4, 3, 0], [3, 1, 2]]
    rows.check([1, 1, 1, 2, 1])


def test_no_chain_is_reported_and_changes_nothing() -> None:
    rows = rows_of(3, [[0, HOLE], [1, HOLE]], (Domain((0, 1, 2), 1),))
    with pytest.raises(Invalid) as error:
        Chains(rows, [2, 1, 1]).fill(0, 1)
    assert error.value.reason == "infeasible"
    assert rows.rows == [[0, HOLE], [1, HOLE]]


def test_caps_count_for_direct_seats_and_exchanges() -> None:
    zone = Domain((0, 1), 1)
    rows = rows_of(4, [[0, HOLE], [2, 3]], (zone,))
    assert not rows.may_join(0, 1)
    assert rows.joinable(0) == 0b1100
    assert rows.exchangeable(0, 0) == 0b1110
    assert rows.exchangeable(1, 2) == 0b0011
    assert len(Chains(rows, [1, 1, 1, 1]).fill(0, 1).hops) == 1
    rows.check([1, 1, 1, 1])


def test_check_finds_holes_caps_and_loads() -> None:
    with pytest.raises(Internal):
        rows_of(2, [[0, HOLE]]).check([1, 0])
    with pytest.raises(Internal):
        rows_of(2, [[0, 1]], (Domain((0, 1), 1),)).check([1, 1])
    with pytest.raises(Internal):
        rows_of(2, [[0, 1]]).check([2, 0])


def test_vacate_is_the_inverse_of_place() -> None:
    rows = rows_of(3, [[0, 1]])
    assert rows.vacate(0, 1) == 1
    assert rows.loads == [1, 0, 0]
    assert list(rows.rows_of(1)) == []
    assert rows.may_join(0, 1)
    rows.place(0, 1, 2)
    assert rows.rows == [[0, 2]]


def fewest_newcomers(old: list[int], n: int, quotas: list[int], domains: tuple[Domain, ...]) -> int:
    """By trying every row: the fewest members that join a row they were not in."""
    zones = [(sum(1 << p for p in domain.positions), domain.cap) for domain in domains]
    options = [
        mask
        for chosen in combinations(range(len(quotas)), n)
        if (mask := sum(1 << p for p in chosen)) is not None
        and all((mask & zone).bit_count() <= cap for zone, cap in zones)
    ]
    best: dict[tuple[int, ...], int] = {tuple(quotas): 0}
    for row in old:
        after: dict[tuple[int, ...], int] = {}
        for left, cost in best.items():
            for mask in options:
                rest = tuple(q - (mask >> p & 1) for p, q in enumerate(left))
                if min(rest) >= 0:
                    total = cost + (mask & ~row).bit_count()
                    after[rest] = min(total, after.get(rest, total))
        best = after
    return min(best.values())


@pytest.mark.parametrize("gone", range(6))
@pytest.mark.parametrize("domains", [(), (Domain((0, 1, 2), 2),)], ids=["free", "zone"])
def test_chains_bring_the_fewest_newcomers(gone: int, domains: tuple[Domain, ...]) -> None:
    content = [[0, 1, 3], [1, 2, 4], [2, 0, 5], [3, 4, 5], [0, 3, 4], [1, 5, 2], [4, 0, 5]]
    rows = rows_of(6, content, domains)
    old = list(rows.masks)
    target = list(rows.loads)
    spread = [p for p in range(6) if p != gone]
    for step in range(target[gone]):
        # All to two neighbours, so that direct seats do not suffice.
        target[spread[(gone + step % 2) % 5]] += 1
    target[gone] = 0
    for partition in list(rows.rows_of(gone)):
        rows.vacate(partition, rows.rows[partition].index(gone))
    chains = Chains(rows, target, old)
    for partition, row in enumerate(rows.rows):
        for seat in range(rows.n):
            if row[seat] == HOLE:
                chains.fill(partition, seat)
    rows.check(target)
    newcomers = sum((mask & ~was).bit_count() for mask, was in zip(rows.masks, old, strict=True))
    assert newcomers == fewest_newcomers(old, rows.n, target, domains)
    assert is_cheapest(rows, old)
