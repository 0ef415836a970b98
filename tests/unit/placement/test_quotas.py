from __future__ import annotations

from fractions import Fraction

import pytest

from hcefs.errors import Invalid
from hcefs.placement.cluster_map import Caps, NodeState
from hcefs.placement.quotas import (
    Domain,
    default_caps,
    domains_of,
    imbalance,
    members,
    partition_bits,
    quotas,
    row_capacity,
    shares,
    stranded,
)
from tests.unit.placement.maps import node, nodes


@pytest.mark.parametrize(
    ("expected", "n", "bits"),
    [(1, 6, 8), (6, 6, 8), (15, 6, 8), (16, 6, 9), (50, 6, 10), (200, 6, 12), (200, 14, 11)],
)
def test_partition_bits(expected: int, n: int, bits: int) -> None:
    assert partition_bits(expected, n) == bits


@pytest.mark.parametrize(("expected", "n"), [(0, 6), (6, 0), (10_000, 3)])
def test_partition_bits_bounds(expected: int, n: int) -> None:
    with pytest.raises(Invalid) as error:
        partition_bits(expected, n)
    assert error.value.reason == "bad-table-size"


def test_members_are_those_that_are_to_hold_seats() -> None:
    every = [node(number + 1, state=state) for number, state in enumerate(NodeState)]
    seated = members([*reversed(every), node(20, weight=0)])
    assert [found.state for found in seated] == [
        NodeState.JOINING,
        NodeState.UP,
        NodeState.DOWN,
    ]


@pytest.mark.parametrize(
    ("sizes", "caps"),
    [
        ((2, 2, 2), Caps(2, 2, 1)),
        ((10, 1, 10, 1), Caps(2, 2, 1)),
        ((4, 1, 1), Caps(4, 4, 1)),  # the small zones are full
        ((3, 3), Caps(3, 3, 1)),  # ceil(6 / 2)
        ((6,), Caps(6, 6, 1)),
        ((5, 2), Caps(4, 4, 1)),
    ],
)
def test_default_caps_degrade_no_more_than_needed(sizes: tuple[int, ...], caps: Caps) -> None:
    found, number = [], 0
    for zone, size in enumerate(sizes):
        for _ in range(size):
            number += 1
            found.append(node(number, f"z{zone}"))
    assert default_caps(found, 4, 2) == caps
    assert row_capacity(found, caps) >= 6


def test_default_caps_of_racks_and_hosts() -> None:
    one_zone = [
        node(number, "z", rack=f"r{number % 4}", host=f"h{number % 8}") for number in range(1, 17)
    ]
    assert default_caps(one_zone, 4, 2) == Caps(zone=6, rack=2, host=1)
    assert default_caps(one_zone, 8, 3) == Caps(zone=11, rack=3, host=2)


def test_equal_rack_labels_in_two_zones_are_two_racks() -> None:
    spread = [node(number, f"z{number % 3}", rack="r") for number in range(1, 7)]
    assert default_caps(spread, 4, 2) == Caps(zone=2, rack=2, host=1)


def test_too_few_nodes_says_so() -> None:
    with pytest.raises(Invalid, match=r"needs 6 nodes.*there are 5") as error:
        default_caps([*nodes(5), node(6, state=NodeState.DRAINING)], 4, 2)
    assert error.value.reason == "too-few-nodes"


def test_only_domains_that_can_bind_are_kept() -> None:
    seated = members([*nodes(6, 3), node(7, "z1")])
    assert domains_of(seated, Caps(2, 2, 1)) == (
        Domain((0, 3, 6), 2),
        Domain((0, 3, 6), 2),
    )


def test_quotas_follow_weights() -> None:
    # D'Hondt's textbook example: 100,000, 80,000, 30,000, 20,000 votes, 8 seats.
    assert quotas([100_000, 80_000, 30_000, 20_000], [], 8, 1, [0, 1, 2, 3]) == [4, 3, 1, 0]


def test_a_member_has_at_most_a_seat_a_row() -> None:
    assert quotas([1_000, 1, 1], [], 256, 2, [0, 1, 2]) == [256, 128, 128]


def test_a_domain_has_at_most_its_cap() -> None:
    zone = Domain((0, 1, 2), 2)
    found = quotas([1, 1, 1, 1, 1], [zone], 300, 4, [0, 1, 2, 3, 4])
    assert found == [200, 200, 200, 300, 300]


def test_ties_go_to_the_old_load_and_then_to_the_hash() -> None:
    assert quotas([1, 1, 1], [], 4, 1, [2, 0, 1]) == [1, 2, 1]
    assert quotas([1, 1, 1], [], 4, 1, [2, 0, 1], old=[2, 1, 1]) == [2, 1, 1]


def test_quotas_that_cannot_be_met() -> None:
    with pytest.raises(Invalid) as error:
        quotas([1, 1, 1], [Domain((0, 1, 2), 1)], 256, 2, [0, 1, 2])
    assert error.value.reason == "infeasible"
    with pytest.raises(Invalid):
        shares([1, 1, 1], [Domain((0, 1, 2), 1)], 256, 2)


def test_shares_rise_together_until_a_limit() -> None:
    assert shares([1, 2, 3], [], 60, 1) == [10, 20, 30]
    assert shares([8, 1, 1, 0], [], 30, 2) == [30, 15, 15, 0]
    zone = Domain((0, 1), 1)
    assert shares([3, 1, 1, 1], [zone], 100, 2) == [75, 25, 50, 50]
    third = Fraction(200, 3)
    assert shares([1, 1, 1], [], 100, 2) == [third, third, third]


def test_figures() -> None:
    assert imbalance([101, 99], [Fraction(100), Fraction(100)]) == Fraction(101, 100)
    assert imbalance([0], [Fraction(0)]) == 1
    assert stranded([1, 1], [Fraction(5), Fraction(5)]) == 0
    # The first is full when the second is half full.
    assert stranded([1, 2], [Fraction(10), Fraction(10)]) == Fraction(1, 3)
