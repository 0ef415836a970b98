"""The stages at toy size, and the sums that the paths are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import limits
from benchmarks.authority import cpu_ms
from hcefs.runtime import SystemRuntime
from tests.bench.results import STAGES, stages


async def test_every_stage_is_measured_over_real_processes(tmp_path: Path) -> None:
    runtime = SystemRuntime()
    try:
        found = await limits.measure(
            tmp_path, limits.Effort(2 << 20, 2), bytes(range(256)) * (2 << 12), runtime
        )
    finally:
        runtime.close()
    assert set(found) == set(STAGES)
    for stage in found.values():
        assert stage["gb_s"]["best"] >= stage["gb_s"]["median"] > 0
        assert 0 < stage["cpu_s_per_gb"]["best"] <= stage["cpu_s_per_gb"]["median"]
    for name in ("hop-512KiB", "hop-1MiB"):
        assert found[name]["send_cpu_s_per_gb"]["best"] > 0
        assert found[name]["receive_cpu_s_per_gb"]["best"] > 0
    assert found["erasure-4-2"]["equal_to_zfec"]
    assert found["erasure-10-4"]["equal_to_zfec"]


@pytest.mark.parametrize(
    ("operation", "mode", "seal", "sum_of_factors"),
    [
        ("put", "gateway", "node", 1 + 1 + 1 + 1.5 + 1.25 + 1.5),
        ("put", "gateway", "client", 1 + 1 + 1 + 1.5 + 1.25 + 1.5),
        ("put", "gateway", "pack", 1 + 1 + 1 + 1.5 + 1 + 1.25 + 1.5),
        ("put", "direct", "client", 1 + 1 + 1.5 + 1.5 + 1.5),
        ("get", "gateway", "node", 1 + 0.75 + 1 + 1),
        ("get", "gateway", "client", 1 + 0.75 + 1 + 1 + 1),
        ("get", "direct", "client", 1 + 1 + 1),
        ("degraded", "direct", "client", 1 + 1 + 1 + 1),
    ],
)
def test_the_limit_is_the_sum_of_what_cannot_be_avoided(
    operation: str, mode: str, seal: str, sum_of_factors: float
) -> None:
    terms = limits.unavoidable(operation, mode, seal)
    assert limits.cost_of(terms, stages()) == pytest.approx(sum_of_factors)


def test_a_file_costs_its_reading() -> None:
    terms = limits.unavoidable("put", "direct", "client", from_file=True)
    assert terms[0].stage == "file-read"


def test_a_write_counts_at_the_cheaper_of_its_kinds() -> None:
    found = stages()
    found["write-fsync-allocated"]["cpu_s_per_gb"] = {"best": 0.5, "median": 0.5}
    assert limits.stage_cost("write-fsync", found) == 0.5
    # Not every file system can be written to without the page cache.
    del found["write-fsync-uncached"]
    assert limits.stage_cost("write-fsync", found) == 0.5


async def test_stages_are_repeated_between_other_measurements(tmp_path: Path) -> None:
    runtime = SystemRuntime()
    pool = bytes(range(256)) * (2 << 12)
    try:
        async with limits.open_stages(tmp_path, 1 << 20, pool, runtime) as opened:
            await opened.repeat()
            first = opened.found()["blake3"]["cpu_s_per_gb"]
            await opened.repeat()
            both = opened.found()["blake3"]["cpu_s_per_gb"]
    finally:
        runtime.close()
    assert first["best"] == first["median"]
    assert both["best"] <= first["best"]
    assert both["best"] <= both["median"]


def test_an_authorization_costs_something() -> None:
    assert cpu_ms(3) > 0
