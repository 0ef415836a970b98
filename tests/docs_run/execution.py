"""A page is executed: in an empty folder, against a cluster, one command after the other."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hcefs.cli.bringup import OPERATORS
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.process import environment
from tests.docs_run.pages import ROOT, Command, Fence, Page
from tests.docs_run.shells import Interpreter, complete_commands, shortened

CLUSTER = "hcefs-cluster"
PATIENCE = float(os.environ.get("DOCS_PATIENCE", "1"))
"""Multiplies all limits of time, for machines that have others to serve."""
UP_SECONDS, DOWN_SECONDS = 120.0, 120.0


# Behind "| grep -q" the output has a reader who leaves early: that is no failure of the command,
# whatever the pipeline's status says of the broken pipe.
_PROGRAM = """#!/bin/sh
shown=$(mktemp) || exit 70
{python} -m hcefs "$@" >"$shown"
code=$?
cat "$shown" 2>/dev/null
rm -f "$shown"
exit $code
"""


class PageFailed(AssertionError):
    """A command of a page did what the page does not say."""


def variables(folder: Path) -> dict[str, str]:
    """The environment of a page's commands; makes the command ``hcefs`` for it."""
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    program = programs / "hcefs"
    program.write_text(_PROGRAM.format(python=shlex.quote(sys.executable)))
    program.chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = environment() | {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "HCEFS_SOURCE": str(ROOT),
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }
    for own in ("HCEFS_DIR", "HCEFS_PASSPHRASE_FILE", "HCEFS_CRASH_POINT"):
        found.pop(own, None)
    return found


def hcefs(folder: Path, *arguments: str, seconds: float) -> None:
    """Run a verb for the harness itself.

    Raises:
        PageFailed: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "hcefs", *arguments],
        cwd=folder, env=variables(folder.parent / "harness"), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=seconds * PATIENCE,
    )  # fmt: skip
    if done.returncode:
        raise PageFailed(f"hcefs {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}")


def stop_all(folder: Path) -> None:
    """Stop every cluster whose folder is somewhere below ``folder``."""
    for found in sorted(folder.rglob("cluster.toml")):
        if not found.parent.is_symlink() and (found.parent / "run").is_dir():
            hcefs(folder, "down", "--dir", str(found.parent), seconds=DOWN_SECONDS)


class Clusters:
    """The cluster that pages share, and those that pages have for themselves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared: Path | None = None
        self._count = 0

    @contextlib.contextmanager
    def for_page(self, page: Page, work: Path) -> Iterator[None]:
        """``hcefs-cluster`` in a page's folder, as the page wants it, while it runs."""
        if page.cluster == "shared":
            shared = self._take()
            (work / CLUSTER).symlink_to(shared)
        elif page.cluster == "new":
            hcefs(work, "up", seconds=UP_SECONDS)
        try:
            yield
        except BaseException:
            self.close()  # whatever the page did to it, the next one gets another
            raise
        finally:
            stop_all(work)

    def _take(self) -> Path:
        """The shared cluster, with no accounts but the operators'."""
        if self._shared is None:
            self._count += 1
            home = self._folder / f"shared-{self._count}"
            home.mkdir()
            hcefs(home, "up", seconds=UP_SECONDS)
            self._shared = home / CLUSTER
        else:
            hcefs(self._shared.parent, "up", seconds=UP_SECONDS)
        accounts = ClusterFolder(self._shared).root / "accounts"
        for file in accounts.iterdir():
            if file.name.partition(".")[0] not in OPERATORS:
                file.unlink()
        return self._shared

    def close(self) -> None:
        """Stop the shared cluster."""
        shared, self._shared = self._shared, None
        if shared is not None:
            hcefs(shared.parent, "down", seconds=DOWN_SECONDS)
            shutil.rmtree(shared)


def execute(page: Page, folder: Path, clusters: Clusters) -> None:
    """Run the fences of a page in their order.

    Raises:
        PageFailed: with page, line and output, at the first command that fails.
    """
    work, scratch = folder / "work", folder / "scratch"
    work.mkdir(parents=True)
    scratch.mkdir()
    with clusters.for_page(page, work), contextlib.ExitStack() as opened:
        deadline = time.monotonic() + page.seconds * PATIENCE
        running: dict[str, Interpreter] = {}
        for fence in page.executed:
            if fence.tag not in running:
                started = Interpreter(fence.tag, work, scratch, variables(folder))
                running[fence.tag] = started
                opened.callback(started.close)
            _execute_fence(page, fence, running[fence.tag], deadline)


def _execute_fence(page: Page, fence: Fence, shell: Interpreter, deadline: float) -> None:
    shown = ""
    parts = (
        complete_commands(fence.text, fence.line)
        if fence.tag == "sh"
        else [(fence.line, fence.text)]
    )
    for line, text in parts:
        command = Command.of(line, text, fence.code)
        done = shell.run(command.text, page.name, line, max(0.0, deadline - time.monotonic()))
        shown += done.output
        if done.code != command.code:
            ended = "ran out of time" if done.code is None else f"exit code {done.code}"
            raise PageFailed(
                f"{page.name}:{line}: {ended}, expected {command.code}\n"
                f"{command.text}\n{shortened(done.output)}"
            )
    for pattern in fence.shows:
        if not re.search(pattern, shown, re.MULTILINE):
            raise PageFailed(
                f"{page.name}:{fence.line}: shows nothing like {pattern!r}\n{shortened(shown)}"
            )
