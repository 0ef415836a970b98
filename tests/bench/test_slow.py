"""A process that is made slow, and what is made of the phases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import report, slow
from benchmarks.goals import MIB, slow_goals
from benchmarks.harness import Batch
from benchmarks.machine import Spent
from benchmarks.slow import HEALTHY, SLOW, Found, Pair
from benchmarks.slowed import make_slow, slowed
from hcefs.errors import Unavailable
from hcefs.runtime import SystemRuntime
from tests.bench.results import result

BUSY = "print(flush=True)\nwhile True: pass"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    runtime = SystemRuntime()
    yield runtime
    runtime.close()


@pytest.fixture
def busy() -> Iterator[int]:
    """The pid of a process that would use a core."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
        child.kill()


@pytest.fixture
def ended() -> int:
    """The pid of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    return child.pid


async def test_a_slow_process_runs_for_a_part_of_the_time_and_goes_on_afterwards(
    runtime: SystemRuntime, busy: int
) -> None:
    async with slowed(busy, runtime) as outcome:
        await runtime.sleep(0.3)
    assert outcome.running_share is not None
    assert 0 < outcome.running_share < 1
    assert _state(busy) != "T"


async def test_a_process_that_has_ended_cannot_be_made_slow(
    runtime: SystemRuntime, ended: int
) -> None:
    with pytest.raises(Unavailable):
        async with slowed(ended, runtime):
            pass


def test_the_last_thing_that_a_process_gets_is_the_signal_to_go_on(busy: int) -> None:
    read, write = os.pipe()
    os.close(write)
    process = os.pidfd_open(busy)
    try:
        os.kill(busy, signal.SIGSTOP)
        assert make_slow(process, read) == 1.0
        assert _state(busy) != "T"
    finally:
        os.close(process)
        os.close(read)


def _phase(latency: float) -> Batch:
    return Batch(4 * MIB, 1.0, (latency / 2,) * 99 + (latency,) * 2, Spent({}, {}, {}, 0.1, 1.0))


def _found(*ratios: float) -> Found:
    return Found([Pair(1, _phase(0.1), _phase(0.1 * ratio), 0.1) for ratio in ratios])


def test_the_median_of_the_pairs_counts() -> None:
    ratio = slow.ratio_of(_found(1.2, 9.0, 1.4))
    assert ratio["p99"] == pytest.approx(1.4)
    assert ratio["p99_of_each_pair"] == pytest.approx([1.2, 9.0, 1.4])
    assert ratio["slow_node_ran"] == 0.1
    assert [goal.passed for goal in slow_goals({"gateway": ratio})] == [True]
    worse = slow.ratio_of(_found(1.2, 9.0, 1.6))
    assert [goal.passed for goal in slow_goals({"gateway": worse})] == [False]
    (missing,) = slow_goals({"direct": slow.ratio_of(Found(reason="out of time"))})
    assert missing.as_data()["reason"] == "out of time"


def test_the_tables_and_the_plot_of_a_slow_node() -> None:
    found = {"gateway": _found(1.2), "direct": Found(reason="out of time")}
    rows = [
        slow.row_of(mode, phase, MIB, entry, 2)
        for mode, entry in found.items()
        for phase in (HEALTHY, SLOW)
    ]
    ratios = {mode: slow.ratio_of(entry) for mode, entry in found.items()}
    made = result([]) | {"benchmark": "slow", "cases": rows, "ratios": ratios, "goals": []}
    text = report.text_of(made)
    assert "out of time" in text
    assert "10.0%" in text
    for table in report.tables(made):
        assert all(len(cells) == len(table.columns) for cells in table.rows)
    (panel,) = report.panels(made)
    assert [bar.goal is not None for bar in panel.bars] == [False] * 5 + [True]
