"""A short slice of the chaos run: real processes, a few faults, the full verification."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcefs.cli.chaos_plan import Kind
from hcefs.cli.chaos_run import Options, perform
from hcefs.runtime import SystemRuntime

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(420)]

SEED = 3
KINDS = (Kind.KILL, Kind.STALL, Kind.KILL_ALL)


async def test_a_slice_of_chaos_violates_nothing(tmp_path: Path) -> None:
    runtime = SystemRuntime()
    said: list[str] = []
    try:
        report = await perform(
            tmp_path / "cluster", Options(SEED, 0.03, kinds=KINDS), runtime, said.append
        )
    finally:
        runtime.close()
    print(f"seed {SEED}\n{report.as_markdown()}")
    assert report.violations == []
    assert report.ok
    assert sum(report.faults.values()) >= 1
    assert len(report.checks) == 8
    assert report.load["puts"] >= 6


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_every_kind_of_fault_for_minutes(tmp_path: Path) -> None:
    runtime = SystemRuntime()
    try:
        report = await perform(tmp_path / "cluster", Options(7, 5.0), runtime, lambda _: None)
    finally:
        runtime.close()
    print(f"seed 7\n{report.as_markdown()}")
    assert report.violations == []
