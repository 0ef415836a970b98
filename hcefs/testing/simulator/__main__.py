"""``python -m hcefs.testing.simulator``: run seeds, say what was violated, and how to see it again.

Every process runs with ``PYTHONHASHSEED=0``: sets of bytes must iterate alike in every run.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

from hcefs.testing.simulator.simulation import PHASE_SECONDS, Report, simulate

HASH_SEED = "0"
REPORT_EVERY = 10


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hcefs sim", description="Simulate a whole cluster.")
    parser.add_argument("--seed", type=int, help="run this one seed")
    parser.add_argument("--seeds", type=int, default=50, help="run so many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--phase", type=float, default=PHASE_SECONDS, help="seconds of a phase")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--verbose", action="store_true", help="show the nodes' logs, too")
    return parser.parse_args()


def _run(work: tuple[int, float]) -> Report:
    return simulate(work[0], work[1])


def _quiet() -> None:
    logging.disable(logging.CRITICAL)


def _begin_worker() -> None:
    """A worker ends with the process that began it, however that ended."""
    _quiet()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def show(report: Report, phase: float) -> None:
    """Print all that a failure needs."""
    violation = report.violation
    if violation is None:
        return
    print(f"VIOLATION seed {report.seed} at {report.seconds:.3f} s")
    print(f"  {violation}")
    if report.fault:
        print(report.fault)
    for line in report.last:
        print(f"    {line}")
    more = "" if phase == PHASE_SECONDS else f" --phase {phase:g}"
    print(f"  again: hcefs sim --seed {report.seed}{more}", flush=True)


def main() -> int:
    """Run; the exit code is 1 when anything was violated."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        environment = dict(os.environ, PYTHONHASHSEED=HASH_SEED)
        command = [sys.executable, "-m", "hcefs.testing.simulator", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)  # noqa: S606 - itself
    wanted = _arguments()
    # An interrupt ends it at once: there is nothing to put away, and a pool has no orderly end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if wanted.verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    else:
        _quiet()
    if wanted.seed is not None:
        report = simulate(wanted.seed, wanted.phase)
        show(report, wanted.phase)
        print(f"{report.seconds:.1f} virtual seconds, {report.puts} puts, trace {report.digest}")
        print(", ".join(f"{name} {count}" for name, count in sorted(report.counts.items())))
        reports = [report]
    else:
        work = [(wanted.first + n, wanted.phase) for n in range(wanted.seeds)]
        reports = _all(work, wanted.jobs, wanted.phase)
    bad = sum(1 for report in reports if report.violation is not None)
    print(f"{len(reports)} seeds, {bad} violations")
    return 1 if bad else 0


def _all(work: list[tuple[int, float]], jobs: int, phase: float) -> list[Report]:
    reports = []
    # Fresh processes now and then: what one run leaves behind must not grow for ever.
    with multiprocessing.Pool(max(1, jobs), _begin_worker, maxtasksperchild=25) as pool:
        for report in pool.imap_unordered(_run, work):
            show(report, phase)
            reports.append(report)
            if len(reports) % REPORT_EVERY == 0 or len(reports) == len(work):
                minutes = sum(each.seconds for each in reports) / 60
                puts = sum(each.puts for each in reports)
                print(
                    f"{len(reports)} of {len(work)} seeds, {minutes:.0f} virtual minutes, "
                    f"{puts} puts acknowledged",
                    flush=True,
                )
    return reports


if __name__ == "__main__":
    sys.exit(main())
