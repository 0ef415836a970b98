"""The processes of a cluster on this machine: start, signal, stop.

A process is known by its pid file and recognised by the configuration's path on
its command line, so that a pid which the system has given to someone else is
never signalled.  Each runs in a session of its own and appends what it prints to
its log file.

Everything here is synchronous and Linux's (``/proc``, pidfds).  Source: pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from hcefs.cli.cluster_files import LEDGER, ClusterFolder, node_name
from hcefs.cli.process import environment
from hcefs.durable_files import replace_file
from hcefs.errors import NotFound, Unavailable
from hcefs.runtime import SystemRuntime

STOP_SECONDS = 15.0
KILL_SECONDS = 10.0
PROGRAM = ("-m", "hcefs")
LOG_TAIL_BYTES = 4096

_clock = SystemRuntime().monotonic
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Those that this process started: they must be reaped here, and outlive any ``Processes``."""


class Processes:
    """The ledger and the nodes of one folder."""

    def __init__(self, folder: ClusterFolder | Path) -> None:
        self.folder = folder if isinstance(folder, ClusterFolder) else ClusterFolder(folder)

    # -- start

    def start_ledger(self) -> int:
        """Start the ledger; returns its pid.  Does nothing while it runs."""
        return self.start(LEDGER)

    def start_node(self, number: int) -> int:
        """Start a node; returns its pid.  Does nothing while it runs."""
        return self.start(node_name(number))

    def start(self, name: str, program: Sequence[str] = PROGRAM) -> int:
        """Start a process by name; returns its pid.  Does nothing while it runs.

        ``program`` are the arguments of Python that stand before those of ``hcefs``.

        Raises:
            NotFound: it has no configuration here.
        """
        running = self.pid(name)
        if running is not None:
            return running
        config = self.folder.config_of(name)
        if not config.is_file():
            raise NotFound(
                f"there is no {name} in {self.folder.root}: {config} is missing",
                reason="unknown-process",
            )
        role = "ledger" if name == LEDGER else "node"
        self.folder.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.folder.log_of(name).open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, *program, role, "start", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )
        _children[child.pid] = child
        replace_file(self.folder.pid_file(name), f"{child.pid}\n".encode())
        return child.pid

    # -- look

    def pid(self, name: str) -> int | None:
        """The pid of a running process."""
        handle = self._open(name)
        if handle is None:
            return None
        pid, descriptor = handle
        os.close(descriptor)
        return pid

    def alive(self, name: str) -> bool:
        """Whether a process runs (stopped by SIGSTOP, it still does)."""
        return self.pid(name) is not None

    def last_words(self, name: str) -> str:
        """The last line that a process printed."""
        try:
            with self.folder.log_of(name).open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - LOG_TAIL_BYTES))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    # -- end

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal a process; after SIGKILL, return when it is gone.

        Raises:
            NotFound: it does not run.
            Unavailable: SIGKILL did not end it in time.
        """
        handle = self._open(name)
        if handle is None:
            raise NotFound(f"{name} does not run", reason="not-running")
        pid, descriptor = handle
        try:
            _signal(descriptor, number)
            if number == signal.SIGKILL:
                self._await_end(name, pid, descriptor, KILL_SECONDS)
        finally:
            os.close(descriptor)

    def stop(self, names: Iterable[str], seconds: float = STOP_SECONDS) -> list[str]:
        """End processes with SIGTERM, and with SIGKILL those that still run after ``seconds``.

        Returns the names of those that had to be killed.

        Raises:
            Unavailable: one survives even that.
        """
        running = {name: found for name in names if (found := self._open(name)) is not None}
        killed = []
        try:
            for _, descriptor in running.values():
                _signal(descriptor, signal.SIGTERM)
                _signal(descriptor, signal.SIGCONT)  # one that is stopped could not obey
            remaining = _wait((descriptor for _, descriptor in running.values()), seconds)
            for name, (pid, descriptor) in running.items():
                if descriptor in remaining:
                    killed.append(name)
                    _signal(descriptor, signal.SIGKILL)
                self._await_end(name, pid, descriptor, KILL_SECONDS)
        finally:
            for _, descriptor in running.values():
                os.close(descriptor)
        return killed

    def stop_all(self, seconds: float = STOP_SECONDS) -> list[str]:
        """Stop the nodes, then the ledger; see :meth:`stop`.

        The nodes go first: they would only complain about the ledger's absence.
        """
        names = self.folder.process_names()
        return self.stop(names[1:], seconds) + self.stop(names[:1], seconds)

    # -- pids

    def _open(self, name: str) -> tuple[int, int] | None:
        """Pid and pidfd of a process, if it runs and is ours; the caller closes the pidfd."""
        try:
            pid = int(self.folder.pid_file(name).read_text().strip())
            if pid < 1:
                return None
            descriptor = os.pidfd_open(pid)
        except (FileNotFoundError, ValueError, OverflowError, ProcessLookupError):
            return None
        # The command line is read after the pidfd was opened: it is that very process's.
        if self._is_ours(name, pid):
            return pid, descriptor
        os.close(descriptor)
        _reap(pid)
        return None

    def _is_ours(self, name: str, pid: int) -> bool:
        child = _children.get(pid)
        if child is not None and child.poll() is None:
            # Its command line is empty for a moment after the start.
            return str(self.folder.config_of(name)) in child.args  # type: ignore[operator]
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        # A dead process that nobody has reaped has an empty command line.
        return os.fsencode(self.folder.config_of(name)) in line.split(b"\0")

    def _await_end(self, name: str, pid: int, descriptor: int, seconds: float) -> None:
        if _wait([descriptor], seconds):
            raise Unavailable(
                f"{name} (pid {pid}) does not end, even by SIGKILL: its disk may hang",
                reason="does-not-end",
            )
        _reap(pid)
        self.folder.pid_file(name).unlink(missing_ok=True)


def _signal(descriptor: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


def _wait(descriptors: Iterable[int], seconds: float) -> set[int]:
    """Wait until processes have ended; those that have not in the time given."""
    waiting = set(descriptors)
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    end = _clock() + seconds
    while waiting:
        ended = poll.poll(max(0.0, end - _clock()) * 1000)
        if not ended:
            break
        for descriptor, _ in ended:
            poll.unregister(descriptor)
            waiting.discard(descriptor)
    return waiting


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]
