"""The Monte Carlo against what can be computed, and against what must hold of any such model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks import durability
from benchmarks.durability_model import (
    YEAR,
    Assumptions,
    Shape,
    closed_form,
    damage_alone,
    simulate,
)

PLAIN = Assumptions(zone_losses=0.0, mistakes=0.0, damaged_shards=0.0)
SEED = 20261125


@pytest.mark.parametrize("chosen", durability.CHECKS, ids=lambda each: f"{each[0]}+{each[1]}")
def test_it_agrees_with_the_closed_form_where_that_holds(
    chosen: tuple[int, int, float, float],
) -> None:
    """Exponential lives and repairs, one row on all nodes: the chain behind every MTTDL."""
    found = durability.check(*chosen, SEED)
    print(found)
    assert found["agrees"]
    assert found["histories_with_loss"] > 50
    assert found["half_width"] < 0.4 * found["closed_form"]


def test_without_bias_a_frequent_loss_is_found_as_often() -> None:
    """Where losses are frequent, plain counting must agree with the weighted histories."""
    shape = Shape(1, 1, ((0, 1),), (0, 1))
    assumed = replace(PLAIN, afr=0.9, exponential_repair_seconds=0.2 * YEAR)
    year = simulate(shape, assumed, 4_000, SEED)
    loss = year.strata[0].loss
    exact = closed_form(2, 1, assumed.node_rate, 1 / (0.2 * YEAR))
    assert abs(loss.mean - exact) <= 3 * loss.half_width


def test_rows_share_their_fate_only_where_the_table_says_so() -> None:
    """Two rows on different nodes: half as much is lost at a time, twice as often."""
    assumed = replace(PLAIN, afr=0.5, exponential_repair_seconds=0.05 * YEAR)
    together = Shape(1, 1, ((0, 1), (0, 1)), (0, 1, 0, 1))
    apart = Shape(1, 1, ((0, 1), (2, 3)), (0, 1, 0, 1))
    one = simulate(replace(together, zones=(0, 1)), assumed, 4_000, SEED).strata[0]
    two = simulate(apart, assumed, 4_000, SEED).strata[0]
    # A cycle begins with any of the four nodes, and only its partner is fatal.
    assert two.loss.mean < 1.2 * one.loss.mean


def test_what_makes_it_worse_makes_it_worse() -> None:
    shape = durability.shape_of("ec-4-2", 6)
    base = Assumptions()
    calm = simulate(shape, base, 60, SEED)
    for case, change in durability.CASES.items():
        bad = simulate(shape, change(base), 60, SEED)
        assert case == durability.AS_ASSUMED or bad.bytes[1] > calm.bytes[1], case


def test_rows_are_the_planners_and_keep_to_zones() -> None:
    shape = durability.shape_of("ec-4-2", 12)
    assert shape.nodes == 12
    assert len(shape.rows) >= 256
    for row in shape.rows:
        zones = [shape.zones[node] for node in row]
        assert max(zones.count(zone) for zone in zones) <= shape.m


def test_damage_without_lost_nodes_is_what_the_product_of_chances_says() -> None:
    shape = Shape(1, 1, ((0, 1),), (0, 1))
    assumed = replace(PLAIN, node_bytes=1e6, shard_bytes=1e3, damaged_shards=10.0)
    blobs, lost = damage_alone(shape, assumed)
    # A thousand blobs of two shards; each shard is damaged a hundredth of a time a year.
    assert math.isclose(blobs, 1_000 * 2 * 0.01 * assumed.damage)
    assert math.isclose(lost, blobs * 1e3)


def test_a_result_names_its_assumptions_and_is_reproducible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(durability, "CHECKS", ())
    options = durability.Options(cycles=8, cells=(("copy-3", 6),), seed=3)
    first = durability.run(options, lambda _: None)
    again = durability.run(options, lambda _: None)
    assert first["results"] == again["results"]
    assert first["assumptions"]["afr"] == Assumptions().afr
    assert all(row["loss"][0] <= row["loss"][1] <= row["loss"][2] for row in first["results"])
    assert {row["case"] for row in first["results"]} == set(durability.CASES)
