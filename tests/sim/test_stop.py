"""Who stops ``hcefs sim`` stops all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SECONDS_MAX = 60.0
"""How long a busy machine may take to start some processes, or to end them."""

MAIN_AND_WORKERS = 3


def _members(group: int) -> list[int]:
    """The running processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        if int(its_group) == group and state != "Z":
            found.append(int(folder.name))
    return found


def _until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_simulator_leaves_no_process(stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "hcefs", "sim", "--seeds", "100", "--jobs", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _until(lambda: len(_members(process.pid)) >= MAIN_AND_WORKERS, "no workers came")
        process.send_signal(stop)
        _, told = process.communicate(timeout=SECONDS_MAX)
        assert process.returncode == -stop
        assert told == b""
        _until(lambda: not _members(process.pid), "a worker stayed")
    finally:
        if _members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
