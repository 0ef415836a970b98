"""Whole benchmarks at toy size, on real clusters that are killed and restarted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import cases, data, repair, report, slow, small
from benchmarks.goals import KIB, MIB
from hcefs.runtime import SystemRuntime

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(300)]


async def test_data_at_toy_size(tmp_path: Path) -> None:
    groups, skipped = cases.choose((64 * KIB,), (1, 2), ("gateway", "direct"), cases.SEALS)
    wanted = [dict.fromkeys(group, cases.OPERATIONS) for group in groups]
    effort = cases.Effort(128 * KIB, 6, 1, 128 * KIB, MIB)
    said: list[str] = []
    runtime = SystemRuntime()
    try:
        result = await data.run(
            data.Options(tmp_path, wanted, skipped, effort, one_cluster=True), runtime, said.append
        )
    finally:
        runtime.close()
    named = ("operation", "mode", "seal", "concurrency")
    rows = {tuple(row[name] for name in named): row for row in result["cases"]}
    assert len(rows) == 32
    for (operation, mode, *_), row in rows.items():
        if operation == "degraded":
            # With two blobs, it may be that no two nodes hold data shards of one.
            assert row["available"] or "no blob" in row["reason"]
        elif mode == "gateway":
            assert row["available"], row["reason"]
    put = rows["put", "gateway", "node", 2]
    assert put["operations"] == 2
    assert 1.5 <= put["disk"]["shards_per_byte"] < 2
    assert put["cpu_s_per_gb"]["best"] > 0
    assert set(put["peak_memory_mib"]) == {"client", "ledger", *(f"node-{i}" for i in range(1, 7))}
    assert put["cpu_against_one_stream"] > 0
    assert {skip["reason"] for skip in result["skipped"]} == {
        "in direct mode the client seals",
        "packs: up to 1 MiB, through a gateway",
    }
    assert any("are killed" in text for text in said)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("cluster")]


async def test_small_at_toy_size(tmp_path: Path) -> None:
    effort = small.Effort(4, 2, 1, 2, 1, 3)
    runtime = SystemRuntime()
    try:
        result = await small.run(
            small.Options(tmp_path, (4 * KIB,), effort), runtime, lambda text: None
        )
    finally:
        runtime.close()
    rows = {row["operation"]: row for row in result["cases"]}
    assert rows["put"]["payloads"] == rows["get"]["payloads"] == 4
    assert rows["put"]["disk"]["all_per_byte"] > rows["put"]["disk"]["shards_per_byte"] > 1
    assert {
        row["operation"]: row["reason"] for row in result["cases"] if not row["available"]
    } == {}
    assert result["authority_cpu_ms"]["best"] > 0
    assert len(result["goals"]) == 7


async def test_a_slow_node_at_toy_size(tmp_path: Path) -> None:
    runtime = SystemRuntime()
    options = slow.Options(tmp_path, 64 * KIB, slow.Effort(4, 5, 1, 1))
    try:
        result = await slow.run(options, runtime, lambda text: None)
    finally:
        runtime.close()
    assert [row["operations"] for row in result["cases"]] == [5] * 4
    assert all(0 < result["ratios"][mode]["slow_node_ran"] < 1 for mode in slow.MODES)
    assert len(result["goals"]) == 2


@pytest.mark.long
async def test_repair_at_toy_size(tmp_path: Path) -> None:
    runtime = SystemRuntime()
    effort = repair.Effort(4 * MIB, MIB, 0.5, 2 * MIB, 1, 120.0)
    try:
        result = await repair.run(repair.Options(tmp_path, effort), runtime, lambda _: None)
    finally:
        runtime.close()
    for found in result["rebuilds"].values():
        # Every shard of the lost node is made again, and nothing else.
        assert 0.5 * found["bytes_lost"] < found["bytes"] < 2 * found["bytes_lost"]
        assert found["cpu_s"] > 0
        assert found["mb_s"] > 0
    assert 0 < result["limit"]["ratio"] < 1
    clients = {row["operation"]: row for row in result["clients"]}
    assert clients["failed"]["idle"]["requests"] == 0
    assert clients["get"]["idle"]["requests"] > 0
    assert len(result["goals"]) == 4
    assert "MB rebuilt/s" in report.text_of(result)
    assert report.panels(result)
