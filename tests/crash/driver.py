"""Runs one phase of one scenario in a process of its own, which may be killed in it.

The processes are forked from a server that has imported everything and opened nothing, so
that a death and a restart cost a fraction of a second.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

from hcefs.crashpoints import VARIABLE, CrashPoint, arm_from_environment
from hcefs.runtime import SystemRuntime
from tests.crash.erasure_scenario import Erases
from tests.crash.ledger_scenario import Ledger
from tests.crash.mutations import MUTATIONS
from tests.crash.receipt_scenario import Receipts
from tests.crash.scenarios import SCENARIOS, Scenario
from tests.crash.snapshot_scenario import SnapshotJoins
from tests.crash.term_scenario import TermBegins
from tests.crash.upkeep_scenarios import UPKEEP_SCENARIOS

PHASE_SECONDS = 60.0
ALL: dict[str, Callable[[Path, SystemRuntime], Scenario]] = {
    made.name: made  # type: ignore[attr-defined]
    for made in (
        *SCENARIOS,
        *UPKEEP_SCENARIOS,
        Erases,
        Ledger,
        TermBegins,
        SnapshotJoins,
        Receipts,
    )
}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pytest", "tests.crash.driver"])


def points_of(scenario: str) -> dict[CrashPoint, tuple[int, ...]]:
    """The points that a scenario passes, each with the hits at which it is killed."""
    return dict(ALL[scenario].points)  # type: ignore[attr-defined]


async def _phase(scenario: str, phase: str, folder: Path) -> list[str]:
    runtime = SystemRuntime(compute_threads=1)
    made = ALL[scenario](folder, runtime)
    found: list[str] = []
    if phase == "check":
        found = await made.check()
    else:
        await getattr(made, phase)()
    made.close()
    runtime.close()
    return found


def _child(scenario: str, phase: str, folder: Path, armed: str, mutation: str) -> None:
    logging.disable(logging.CRITICAL)
    if mutation:
        MUTATIONS[mutation].apply()
    os.environ[VARIABLE] = armed
    arm_from_environment()
    try:
        found = asyncio.run(_phase(scenario, phase, folder))
    except BaseException:  # noqa: BLE001 - whatever it is, it is told
        found = [traceback.format_exc()]
    (folder / "problems").write_text("\n".join(found))
    os._exit(1 if found else 0)


def run(scenario: str, phase: str, folder: Path, armed: str = "", mutation: str = "") -> int:
    """One phase in a process; its exit code, negative for a signal."""
    child = _context.Process(target=_child, args=(scenario, phase, folder, armed, mutation))
    child.start()
    child.join(PHASE_SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
        return 2
    return child.exitcode


def problems(folder: Path) -> str:
    return (folder / "problems").read_text() if (folder / "problems").exists() else "it hangs"


class Prepared:
    """The folder of a scenario as it is before the change, made once."""

    def __init__(self, root: Path, scenario: str) -> None:
        self.scenario = scenario
        self._root = root
        self._before = root / scenario
        self._before.mkdir(parents=True)
        if run(scenario, "prepare", self._before) != 0:
            raise AssertionError(f"{scenario} cannot be prepared: {problems(self._before)}")

    def crash(self, armed: str, mutation: str = "") -> str:
        """Kill the act at a point, restart, and say what is wrong; empty: nothing.

        A mutation is in force in both processes.
        """
        folder = self._root / f"{self.scenario}-{armed.replace('/', '-').replace(':', '-')}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._before, folder)
        code = run(self.scenario, "act", folder, armed, mutation)
        if code != -signal.SIGKILL:
            return f"{armed} was not reached (exit code {code}): {problems(folder)}"
        code = run(self.scenario, "check", folder, "", mutation)
        found = problems(folder) if code else ""
        shutil.rmtree(folder)
        return found
