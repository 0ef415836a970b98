"""``hcefs sim``: become the simulator.

Production code does not import ``hcefs.testing``, and the simulator needs a process with
a fixed hash seed anyway: so this process starts anew as it, and whoever stops the command
stops the simulator.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

MODULE = "hcefs.testing.simulator"


def sim(
    seed: Annotated[int | None, typer.Option(help="Run this one seed, and show its trace.")] = None,
    seeds: Annotated[int, typer.Option(help="Run so many seeds.")] = 50,
    first: Annotated[int, typer.Option(help="The first of them.")] = 1,
    jobs: Annotated[int, typer.Option(help="Processes at one time.")] = 2,
    phase: Annotated[float, typer.Option(help="Virtual seconds of a phase; 0: the usual.")] = 0.0,
    verbose: Annotated[bool, typer.Option(help="Show the nodes' logs, too.")] = False,
) -> None:
    """Simulate a whole cluster with faults, and check what was promised.

    The exit code is 1 when a promise was broken; the output says how to see it again.
    """
    command = [sys.executable, "-m", MODULE, "--seeds", str(seeds), "--first", str(first)]
    command += ["--jobs", str(jobs)]
    if seed is not None:
        command += ["--seed", str(seed)]
    if phase:
        command += ["--phase", str(phase)]
    if verbose:
        command.append("--verbose")
    environment = dict(os.environ, PYTHONHASHSEED="0")
    os.execve(sys.executable, command, environment)  # noqa: S606 - itself
