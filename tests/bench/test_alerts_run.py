"""Two faults of ``hcefs bench alerts`` from end to end: a real cluster, a real Prometheus."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 900


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.xdist_group("cluster")
@pytest.mark.timeout(SECONDS + 100)
def test_faults_are_told_and_nothing_is_left_behind(tmp_path: Path) -> None:
    assert shutil.which("prometheus"), "Prometheus is not installed: Debian package prometheus"
    done = subprocess.run(
        [
            sys.executable, "-m", "hcefs", "bench", "alerts", "--only", "node-killed",
            "--only", "ledger-stopped", "--json", "--work", str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert [fault["fault"] for fault in document["faults"]] == ["node-killed", "ledger-stopped"]
    assert all(fault["pass"] for fault in document["faults"])
    assert not list(tmp_path.iterdir())
    left = [
        line
        for process in Path("/proc").glob("[0-9]*")
        if str(tmp_path) in (line := _command_line(process)) and int(process.name) != os.getpid()
    ]
    assert not left


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
