"""Makes a process slow: lets it run for a tenth of the time, with SIGSTOP and SIGCONT.

``python -m benchmarks.slowed PID`` does so until its standard input closes, thus at
the latest with whoever started it; then lets the process go on for good, and prints
which part of the time it ran.  The process is held by a pidfd, so that a pid which
the system has given to someone else is never stopped.

Not guaranteed: that the process gets a core while it may run; where others are busy
it is slower still.

Source: pidfd_send_signal(2).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from hcefs.errors import Unavailable
from hcefs.runtime import SystemRuntime

RUNNING_SECONDS: Final = 0.002
STOPPED_SECONDS: Final = 0.018
"""10 times slower: a tenth of the time."""

START_SECONDS: Final = 20.0
_READY: Final = b"slow\n"


@dataclass
class Slowed:
    """What was found out about a process that was made slow; known after the block."""

    running_share: float | None = None


@asynccontextmanager
async def slowed(pid: int, runtime: SystemRuntime) -> AsyncIterator[Slowed]:
    """Within the block, the process runs a tenth of the time.

    Raises:
        Unavailable: the helper does not start, or the process has ended.
    """
    found = Slowed()
    helper = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.slowed",
        str(pid),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        line = b""
        if helper.stdout is not None:
            with suppress(TimeoutError):
                async with runtime.timeout(START_SECONDS):
                    line = await helper.stdout.readline()
        if line != _READY:
            raise Unavailable("the process cannot be made slow", reason="process-ended")
        yield found
    finally:
        await asyncio.shield(asyncio.ensure_future(_end(helper, found)))


async def _end(helper: asyncio.subprocess.Process, found: Slowed) -> None:
    """Let the process go on.  By closing the pipe, no signal: the last act must be SIGCONT."""
    if helper.stdin is not None:
        helper.stdin.close()
    if helper.stdout is not None:
        with suppress(ValueError):
            found.running_share = float(await helper.stdout.read())
    await helper.wait()


def make_slow(process: int, stop: int) -> float:
    """Until something can be read from the descriptor ``stop``; the share of time it ran.

    ``process`` is a pidfd.
    """
    ran = stopped = 0.0
    running = True
    since = time.monotonic()
    try:
        while not select.select([stop], [], [], RUNNING_SECONDS if running else STOPPED_SECONDS)[0]:
            number = signal.SIGSTOP if running else signal.SIGCONT
            signal.pidfd_send_signal(process, number)
            now = time.monotonic()
            if running:
                ran += now - since
            else:
                stopped += now - since
            running, since = not running, now
    except ProcessLookupError:
        pass  # it has ended meanwhile, which is its owner's matter
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGCONT)
    return ran / (ran + stopped) if ran + stopped else 1.0


def main(pid: int) -> None:
    """Make a process slow until standard input closes."""
    # Interrupts end whoever started this, and closing the pipe then ends this.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        sys.exit(f"there is no process {pid}")
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    share = make_slow(process, sys.stdin.fileno())
    with suppress(BrokenPipeError):  # whoever started this may have ended
        os.write(sys.stdout.fileno(), b"%f\n" % share)


if __name__ == "__main__":
    main(int(sys.argv[1]))
