"""Which cases are measured, and what is made of the measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cases
from benchmarks.cases import Case, Found
from benchmarks.goals import GIB, KIB, MIB, data_goals
from benchmarks.payloads import Payloads
from hcefs.errors import Invalid
from tests.bench.results import batch, row, stages


def test_the_defaults_measure_four_ways_and_leave_out_what_cannot_be() -> None:
    groups, skipped = cases.choose(cases.SIZES, cases.CONCURRENCIES, cases.MODES, cases.SEALS)
    assert {(case.mode, case.seal) for group in groups for case in group} == {
        ("gateway", "node"),
        ("gateway", "client"),
        ("gateway", "pack"),
        ("direct", "client"),
    }
    assert all(len({(c.size, c.mode, c.seal) for c in group}) == 1 for group in groups)
    reasons = {skip.case: skip.reason for skip in skipped}
    assert "client seals" in reasons[Case("direct", "node", MIB, 1)]
    assert "in flight" in reasons[Case("gateway", "node", GIB, 16)]
    assert "packs" in reasons[Case("gateway", "pack", GIB, 1)]


@pytest.mark.parametrize(
    ("sizes", "at_once", "modes", "seals"),
    [
        ([0], [1], ["gateway"], ["node"]),
        ([1], [0], ["gateway"], ["node"]),
        ([1], [1], ["sideways"], ["node"]),
        ([1], [1], ["gateway"], ["nobody"]),
    ],
)
def test_nonsense_is_refused(
    sizes: list[int], at_once: list[int], modes: list[str], seals: list[str]
) -> None:
    with pytest.raises(Invalid):
        cases.choose(sizes, at_once, modes, seals)


def test_a_batch_has_as_many_operations_as_run_at_once() -> None:
    effort = cases.Effort(128 * MIB, 64, 1, 64 * MIB, MIB)
    assert effort.operations(Case("gateway", "node", 64 * MIB, 1)) == 2
    assert effort.operations(Case("gateway", "node", 64 * MIB, 4)) == 4
    assert effort.operations(Case("gateway", "node", 4 * KIB, 1)) == 64
    assert effort.operations(Case("gateway", "node", GIB, 1)) == 1


@pytest.mark.parametrize("size", [1, 4 * KIB, MIB, GIB])
def test_a_range_lies_inside(size: int) -> None:
    start, length = Case("gateway", "node", size, 1).range
    assert start >= 0
    assert 1 <= length <= cases.RANGE_BYTES_MAX
    assert start + length <= size


def test_percentiles_are_values_that_occurred() -> None:
    values = list(range(1, 101))
    assert [cases.percentile(values, percent) for percent in (50, 95, 99)] == [50, 95, 99]
    assert cases.percentile([7.0], 99) == 7.0


def test_the_nodes_that_hurt_most_cases_are_killed() -> None:
    first, second = Case("gateway", "node", MIB, 1), Case("gateway", "node", MIB, 4)
    holders = {
        first: [frozenset({1, 2, 3, 4})] * 5,
        second: [frozenset({3, 4, 5, 6})],
    }
    assert cases.pair_to_kill(holders, range(1, 7)) == (3, 4)


def test_a_row_takes_the_best_and_tells_the_median() -> None:
    made = row(Case("gateway", "node", MIB, 1), "put", 5.0)
    assert made["cpu_s_per_gb"]["best"] == pytest.approx(5.0)
    assert made["cpu_s_per_gb"]["median"] == pytest.approx(7.5)
    assert made["mb_s"]["best"] == pytest.approx(4 * MIB / 1e6)
    assert made["cpu_s_per_gb_by_part"]["nodes"] == pytest.approx(4.0)
    assert made["memory_growth_mib"] == 3.0
    # 1 + 1 + 1 + 1.5 + 1.25 + 1.5 stages of 1 CPU-s/GB each, and 1 for the writer's signature.
    assert made["limit"]["cpu_s_per_gb"] == pytest.approx(8.25)
    assert made["limit"]["ratio"] == pytest.approx(1.65)
    assert made["limit"]["ratio_without_content_signature"] == pytest.approx(1.45)
    assert made["limit"]["ratio_with_content_signature"] == pytest.approx(1.65)
    # The median of a stage is twice its best, and that of the path half as much again.
    assert made["limit"]["ratio_of_medians"] == pytest.approx(2 * 8.25 / 7.5)


def test_where_the_client_seals_its_signature_over_the_content_counts_against_us() -> None:
    limit = row(Case("direct", "client", MIB, 1), "put", 5.0)["limit"]
    assert limit["ratio"] == limit["ratio_without_content_signature"]
    assert limit["ratio"] < limit["ratio_with_content_signature"]


def test_every_gateway_is_warmed_with_as_many_streams_but_not_with_everything() -> None:
    effort = cases.Effort(128 * MIB, 64, 1, 64 * MIB, MIB)
    assert effort.warming(Case("gateway", "node", GIB, 1)) == (1, 64 * MIB)
    assert effort.warming(Case("gateway", "node", 64 * MIB, 4)) == (4, 16 * MIB)
    assert effort.warming(Case("gateway", "node", 4 * KIB, 16)) == (4, 4 * KIB)


def test_a_quick_run_measures_everything_that_has_a_goal() -> None:
    made = [
        row(case, operation, 2.0)
        for group in cases.QUICK_GROUPS
        for case, operations in group.items()
        for operation in operations
    ]
    assert [goal.name for goal in data_goals(made) if goal.value is None] == []


def test_noise_is_what_others_used_of_all_cores() -> None:
    assert cases.others_share([batch(MIB, 4, 1.0)], 2) == pytest.approx(0.25)


def test_a_range_has_no_limit_and_a_degraded_get_is_compared() -> None:
    ranged = row(Case("gateway", "node", MIB, 1), "range", 5.0)
    assert ranged["limit"] is None
    assert ranged["range_bytes"] == 256 * KIB
    assert row(Case("gateway", "node", MIB, 1), "degraded", 5.0)["against_healthy"] == 0.9


def test_a_row_without_measurements_says_why() -> None:
    made = cases.row_of(
        Case("direct", "client", MIB, 1), "get", Found(reason="out of time"), stages(), 2
    )
    assert not made["available"]
    assert made["reason"] == "out of time"


def test_payloads_repeat_and_differ_by_seed(tmp_path: Path) -> None:
    folder = tmp_path
    one, again, other = (Payloads("random", seed, folder) for seed in (1, 1, 2))
    assert one.part(100, 50) == again.part(0, 200)[100:150]
    assert one.part(0, 50) != other.part(0, 50)
    assert one.source(1000) == one.part(0, 1000)
    with pytest.raises(Invalid):
        Payloads("x-ray", 1, folder)


def test_medical_data_is_repeated_to_the_size(tmp_path: Path) -> None:
    scan = Payloads("ct", 1, tmp_path)
    whole = scan.part(0, 39_206)
    assert whole[128:132] == b"DICM"
    assert scan.part(0, 100_000)[39_206 : 2 * 39_206] == whole
    assert scan.part(39_206 + 5, 10) == whole[5:15]
