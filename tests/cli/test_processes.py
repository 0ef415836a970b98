"""Processes are recognised by their configuration, signalled and reaped.

The processes here are shells that only look like ours: what is tested is the
handling of pids, not what runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.processes import Processes
from hcefs.errors import NotFound

STUBBORN = (
    "import signal,sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('on', flush=True); sys.stdin.read()"
)
OBEDIENT = "import sys; print('on', flush=True); sys.stdin.read()"


class Impostors:
    """Starts processes whose command line names a configuration."""

    def __init__(self, folder: ClusterFolder) -> None:
        self.folder = folder
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        self.folder.run.mkdir(exist_ok=True)
        self.folder.pid_file(name).write_text(f"{child.pid}\n")
        return child

    def ours(self, name: str, program: str) -> subprocess.Popen[bytes]:
        return self.start(name, program, "--config", str(self.folder.config_of(name)))


@pytest.fixture
def impostors(tmp_path: Path) -> Iterator[Impostors]:
    folder = ClusterFolder(tmp_path)
    folder.node(1).mkdir(parents=True)
    found = Impostors(folder)
    yield found
    for child in found.children:
        child.kill()
        child.communicate()


def test_without_a_pid_file_nothing_runs(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    assert not processes.alive("ledger")
    assert processes.stop_all() == []
    with pytest.raises(NotFound):
        processes.kill("ledger")
    with pytest.raises(NotFound):
        processes.start_node(1)


@pytest.mark.parametrize("content", ["", "x", "-1", "0", str(1 << 40), "4194304999"])
def test_a_damaged_pid_file_names_nobody(tmp_path: Path, content: str) -> None:
    folder = ClusterFolder(tmp_path)
    folder.run.mkdir()
    folder.pid_file("ledger").write_text(content)
    assert not Processes(folder).alive("ledger")


def test_a_pid_that_went_to_someone_else_is_left_alone(impostors: Impostors) -> None:
    stranger = impostors.start("ledger", OBEDIENT, "--config", "/another/config.toml")
    processes = Processes(impostors.folder)
    assert not processes.alive("ledger")
    assert processes.stop_all() == []
    assert stranger.poll() is None


def test_stop_asks_before_it_kills(impostors: Impostors) -> None:
    obedient = impostors.ours("ledger", OBEDIENT)
    stubborn = impostors.ours("node-1", STUBBORN)
    processes = Processes(impostors.folder)
    assert processes.pid("ledger") == obedient.pid
    assert processes.stop_all(seconds=0.3) == ["node-1"]
    assert obedient.wait() == -signal.SIGTERM
    assert stubborn.wait() == -signal.SIGKILL
    assert not processes.alive("ledger")
    assert not impostors.folder.pid_file("node-1").exists()


def test_a_dead_child_that_nobody_reaped_does_not_run(impostors: Impostors) -> None:
    child = impostors.ours("ledger", OBEDIENT)
    processes = Processes(impostors.folder)
    processes.kill("ledger", signal.SIGSTOP)
    assert processes.alive("ledger")
    processes.kill("ledger")
    assert not processes.alive("ledger")
    assert Path(f"/proc/{child.pid}").exists()  # a zombie still
    assert child.wait() == -signal.SIGKILL


def test_a_stopped_process_can_still_be_ended(impostors: Impostors) -> None:
    child = impostors.ours("ledger", OBEDIENT)
    os.kill(child.pid, signal.SIGSTOP)
    assert Processes(impostors.folder).stop_all() == []
    assert child.wait() == -signal.SIGTERM


def test_start_runs_the_command_and_keeps_what_it_prints(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    folder.ledger.mkdir()
    folder.config_of("ledger").write_text("nonsense = 1\n")
    processes = Processes(folder)
    pid = processes.start_ledger()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not processes.alive("ledger")
    assert processes.last_words("ledger").endswith("(bad-config)")
