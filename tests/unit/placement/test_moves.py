from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from hcefs.placement.chains import is_cheapest
from hcefs.placement.moves import Order, align, reseat
from hcefs.placement.quotas import Domain
from hcefs.placement.rows import HOLE, Rows

ROWS = [[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1]]


def order_of(members: int, partitions: int) -> Order:
    return Order(range(members), range(partitions))


def table(rows: list[list[int]], members: int, domains: tuple[Domain, ...] = ()) -> Rows:
    made = Rows(members, domains, len(rows), len(rows[0]))
    made.seat_all(rows)
    return made


def newcomers(rows: Rows, old: list[int]) -> int:
    return sum((mask & ~was).bit_count() for mask, was in zip(rows.masks, old, strict=True))


def test_rows_at_their_quotas_stay() -> None:
    rows = table(ROWS, 4)
    assert reseat(rows, [3, 3, 3, 3], order_of(4, 4)).direct == 0
    assert rows.rows == ROWS


def test_a_new_member_takes_seats_and_nobody_else_moves() -> None:
    rows = table(ROWS, 5)
    old = list(rows.masks)
    tally = reseat(rows, [3, 3, 2, 2, 2], order_of(5, 4))
    assert (tally.direct, tally.chains) == (2, 0)
    assert newcomers(rows, old) == 2
    assert rows.loads == [3, 3, 2, 2, 2]


def test_rows_that_moved_no_seat_are_preferred() -> None:
    rows = table([[0, 1, 2]] * 6, 5)
    old = list(rows.masks)
    reseat(rows, [5, 5, 4, 2, 2], order_of(5, 6))
    assert max((mask & ~was).bit_count() for mask, was in zip(rows.masks, old, strict=True)) == 1


def test_a_row_over_its_cap_loses_whom_has_too_much() -> None:
    zone = Domain((0, 1), 1)
    rows = table([[0, 1, 2], [0, 2, 3], [0, 3, 4], [1, 3, 4]], 5, (zone,))
    old = list(rows.masks)
    reseat(rows, [2, 2, 3, 3, 2], order_of(5, 4))
    assert all((mask & 0b11).bit_count() <= 1 for mask in rows.masks)
    assert is_cheapest(rows, old)


def test_a_circle_of_negative_cost_is_found() -> None:
    rows = table([[1, 2], [0, 3]], 4)
    old = [0b1001, 0b0110]
    assert not is_cheapest(rows, old)
    assert is_cheapest(rows, list(rows.masks))


def test_holes_are_filled() -> None:
    rows = table([[0, HOLE, HOLE], [HOLE, 1, 2]], 4)
    reseat(rows, [2, 1, 2, 1], order_of(4, 2))
    assert all(HOLE not in row for row in rows.rows)


# --- alignment ----------------------------------------------------------------------

DOMAINS = {
    node: (zone, zone + rack, zone + rack + host)
    for node, zone, rack, host in [
        (1, "a", "x", "1"),
        (2, "a", "y", "2"),
        (3, "b", "x", "3"),
        (4, "b", "y", "4"),
        (5, "a", "y", "5"),
        (6, "b", "x", "6"),
        (7, "c", "x", "7"),
        (8, "b", "y", "4"),
    ]
}


def test_who_stays_keeps_the_seat() -> None:
    assert align((1, 2, 3), frozenset({3, 2, 7}), DOMAINS.__getitem__) == (7, 2, 3)
    assert align((1, 2, 3), frozenset({1, 2, 3}), DOMAINS.__getitem__) == (1, 2, 3)


def test_newcomers_sit_where_their_host_rack_or_zone_sat() -> None:
    assert align((1, 4), frozenset({8, 7}), DOMAINS.__getitem__) == (7, 8)
    assert align((3, 2), frozenset({5, 6}), DOMAINS.__getitem__) == (6, 5)
    assert align((4, 1), frozenset({5, 7}), DOMAINS.__getitem__) == (7, 5)


@pytest.mark.parametrize("old", [(1, 2, 3), (1, 3, 4), (2, 7, 4)])
def test_counts_change_in_one_direction_whatever_moves_first(old: tuple[int, ...]) -> None:
    for new in combinations(DOMAINS, 3):
        row = align(old, frozenset(new), DOMAINS.__getitem__)
        assert set(row) == set(new)
        seats = [seat for seat in range(3) if row[seat] != old[seat]]
        for some in (part for size in range(4) for part in combinations(seats, size)):
            between = [row[seat] if seat in some else old[seat] for seat in range(3)]
            for level in range(3):
                first, last, now = (
                    Counter(DOMAINS[node][level] for node in nodes) for nodes in (old, row, between)
                )
                for domain, count in now.items():
                    assert count <= max(first[domain], last[domain])
