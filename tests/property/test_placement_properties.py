"""What holds of every first table, whatever the nodes, labels and weights."""

from __future__ import annotations

import dataclasses
from collections import Counter
from fractions import Fraction
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hcefs.placement.cluster_map import LEVELS, ClusterMap, Node, check_successor
from hcefs.placement.planner import first_map, first_table
from hcefs.placement.quotas import (
    default_caps,
    domains_of,
    imbalance,
    members,
    quotas,
    row_capacity,
    shares,
)
from hcefs.placement.ring import partition_of, rotation_of, seats
from tests.unit.placement.maps import SEED, node

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CODES = st.sampled_from([(4, 2), (1, 2), (3, 1), (8, 3)])


@st.composite
def clusters(draw: st.DrawFn, least: int = 11) -> list[Node]:
    count = draw(st.integers(least, 24))
    labels = st.integers(0, 4)
    return [
        node(
            number,
            f"z{draw(labels)}",
            rack=f"r{draw(labels)}",
            host=f"h{draw(labels)}" if draw(st.booleans()) else f"own{number}",
            weight=draw(st.integers(1, 1_000)),
        )
        for number in range(1, count + 1)
    ]


@QUICK
@given(clusters(), CODES, st.binary(min_size=1, max_size=64))
def test_rows_are_full_capped_and_balanced(
    cluster: list[Node], code: tuple[int, int], seed: bytes
) -> None:
    k, m = code
    made = first_map(cluster, [("p", k, m)], seed, "p")
    (table,) = made.tables
    by_id = {one.node_id: one for one in cluster}
    loads: Counter[int] = Counter()
    for row in table.node_rows:
        assert len(set(row)) == k + m
        loads.update(row)
        for level in LEVELS:
            most = max(Counter(by_id[node_id].domain(level) for node_id in row).values())
            assert most <= table.caps.of(level)
    seated = members(cluster)
    weights = [one.weight for one in seated]
    fair = shares(weights, domains_of(seated, table.caps), table.partitions, table.n)
    found = [loads[one.node_id] for one in seated]
    # D'Hondt rounds each load down at one common divisor, so that none is above its
    # share by more than all the roundings together.
    assert imbalance(found, fair) <= 1 + Fraction(len(seated), min(s for s in fair if s))
    assert ClusterMap.decode(made.encode()) == made
    assert not any(warning.startswith("CAPS BROKEN") for warning in made.warnings())
    zone_unsafe = any(warning.startswith("NOT ZONE-SAFE") for warning in made.warnings())
    assert zone_unsafe <= (table.caps.zone > m)


@QUICK
@given(clusters(), CODES)
def test_default_caps_hold_a_row_and_no_smaller_zone_cap_does(
    cluster: list[Node], code: tuple[int, int]
) -> None:
    k, m = code
    caps = default_caps(cluster, k, m)
    assert row_capacity(cluster, caps) >= k + m
    if caps.zone > m:
        smaller = dataclasses.replace(caps, zone=caps.zone - 1)
        assert row_capacity(cluster, smaller) < k + m


@QUICK
@given(clusters(), CODES)
def test_quotas_keep_to_shares_and_limits(cluster: list[Node], code: tuple[int, int]) -> None:
    k, m = code
    caps = default_caps(cluster, k, m)
    domains = domains_of(cluster, caps)
    weights = [one.weight for one in cluster]
    loads = quotas(weights, domains, 256, k + m, list(range(len(cluster))))
    fair = shares(weights, domains, 256, k + m)
    assert sum(loads) == sum(fair) == 256 * (k + m)
    for found in (loads, fair):
        assert all(0 <= load <= 256 for load in found)
        for domain in domains:
            assert sum(found[position] for position in domain.positions) <= 256 * domain.cap


@QUICK
@given(clusters(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(cluster: list[Node], shuffle: Random) -> None:
    table = first_table(cluster, "ec-4-2", 4, 2, SEED)
    mixed = list(cluster)
    shuffle.shuffle(mixed)
    assert first_table(mixed, "ec-4-2", 4, 2, SEED) == table


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=16, max_size=16))
def test_a_look_up_is_a_permutation_of_indexes(base: bytes) -> None:
    found = seats(MAP, "ec-4-2", base)
    assert sorted(seat.index for seat in found) == list(range(6))
    assert len({seat.node.node_id for seat in found}) == 6
    assert found[0].index == rotation_of(base, 6)
    row = MAP.tables[0].node_rows[partition_of(base, MAP.tables[0].bits)]
    assert tuple(seat.node.node_id for seat in found) == row


MAP = first_map(
    [node(number, f"z{number % 4}") for number in range(1, 13)],
    [("ec-4-2", 4, 2)],
    SEED,
    "ec-4-2",
)


@QUICK
@given(st.integers(1, 12), st.text("abcdefgh", min_size=1, max_size=8))
def test_a_node_may_change_its_labels_and_address(node_id: int, word: str) -> None:
    changed = tuple(
        dataclasses.replace(one, zone=word, address=word) if one.node_id == node_id else one
        for one in MAP.nodes
    )
    new = dataclasses.replace(MAP, epoch=2, previous=MAP.digest(), nodes=changed)
    check_successor(MAP, new)
    assert seats(new, "ec-4-2", bytes(16))[0].seat == 0
