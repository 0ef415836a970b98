"""What is read from the kernel."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import machine

BUSY = "for _ in range(3_000_000): pass\nprint(flush=True)\ninput()"


def test_cpu_time_of_another_process_is_seen_both_ways() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        exact, coarse = machine.cpu_seconds(child.pid), machine.cpu_seconds_of_stat(child.pid)
        known = machine.memory(child.pid)
        child.communicate(b"\n")
    assert exact is not None
    assert coarse is not None
    assert exact > 0.01
    assert coarse == pytest.approx(exact, abs=0.05)
    assert known is not None
    assert known.peak >= known.now > 0


def test_a_process_that_is_gone_has_no_figures() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert machine.cpu_seconds(child.pid) is None
    assert machine.memory(child.pid) is None
    spent = machine.Meter({"gone": child.pid}).read()
    assert spent.cpu == {}


def test_a_meter_sees_work_and_growth() -> None:
    meter = machine.Meter({"me": os.getpid()})
    # Not from the allocator, which may have some left over.
    with mmap.mmap(-1, 8 << 20) as room:
        room.write(os.urandom(8 << 20))
        spent = meter.read()
    assert spent.cpu_total > 0
    assert spent.peak["me"] > 8 << 20
    assert spent.growth.get("me", 8 << 20) >= 4 << 20


def test_bytes_on_disk(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(bytes(5000))
    before = machine.disk_use(tmp_path)
    (tmp_path / "other").write_bytes(bytes(100))
    added = machine.disk_use(tmp_path) - before
    assert before.length == 5000
    assert added.length == 100


def test_everything_that_a_result_must_name(tmp_path: Path) -> None:
    named = machine.environment(tmp_path)
    for key in ("python", "kernel", "cpu", "cores", "profile", "fsync", "tls", "libisal"):
        assert named[key]
    assert set(named["packages"]) >= {"grpcio", "cryptography", "blake3", "zfec"}
    assert "not installed" not in named["packages"].values()
