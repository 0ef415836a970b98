"""The benchmark of the scrub, with hardly any bytes."""

from __future__ import annotations

from pathlib import Path

from benchmarks import report, scrub
from hcefs.runtime import SystemRuntime


async def test_a_toy_run_finds_its_byte(tmp_path: Path) -> None:
    runtime = SystemRuntime()
    try:
        options = scrub.Options(tmp_path, 300_000, 1e9, 7, quick=True)
        result = await scrub.run(options, runtime, lambda _: None)
    finally:
        runtime.close()
    found = result["scrub"]
    assert found["shards"] == 1
    assert found["reported"] >= 1
    assert found["quarantined"] == 1
    assert found["found_after_s"] is not None
    assert result["goals"][0]["pass"]
    assert report.tables(result)
