"""``demo``: the whole system at work on real medical files, on this machine.

A ledger and six storage nodes run as processes of their own, with mutual TLS on
the loopback interface; nine steps show what HCE-FS promises, each with what it
checked.  The exit code is 0 only if every step held.

Invariants: nothing keeps running after it, and nothing stays on the disk unless
``--keep`` names where; a step that fails ends the run, and the rest is reported
as not run.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import textwrap
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from hcefs.cli import demo_report
from hcefs.cli.demo_attacks import end_rights
from hcefs.cli.demo_audit import who_looked
from hcefs.cli.demo_data import Exhibit, find_exhibits
from hcefs.cli.demo_emergency import break_glass
from hcefs.cli.demo_erase import erase_record
from hcefs.cli.demo_evidence import search_disks, show_evidence
from hcefs.cli.demo_faults import damage_one, kill_two
from hcefs.cli.demo_report import NOT_RUN, Broken, Notes, Report, StepResult
from hcefs.cli.demo_stage import NODES, Stage
from hcefs.cli.demo_steps import admit_everyone, grant_and_read, store_everything
from hcefs.cli.options import JsonOption
from hcefs.cli.output import err, note, show, verb
from hcefs.errors import Conflict, HcefsError
from hcefs.runtime import Runtime, SystemRuntime

Step = Callable[[Stage, Notes], Awaitable[None]]

STEPS: tuple[tuple[str, Step], ...] = (
    ("Genesis, admissions and a record", admit_everyone),
    ("The hospital stores real images", store_everything),
    ("Denied, granted, read, shared", grant_and_read),
    ("Two nodes killed during a read", kill_two),
    ("They return; a shard is damaged", damage_one),
    ("Revoked, expired, stolen, forged", end_rights),
    ("The glass is broken, and mended", break_glass),
    ("Who looked at my record?", who_looked),
    ("A record is held, then erased", erase_record),
    ("No plaintext and no keys on disk", search_disks),
    ("Ledger and metrics tell the story", show_evidence),
)

PLAIN_WIDTH = 110
"""Columns where the output is no terminal."""

INDENT = "     "
MIN_WIDTH = 40
TERMINATED = 128 + signal.SIGTERM


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("demo")(demo)


@verb
def demo(
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep", metavar="DIR", help="Keep the cluster's folder, logs and data in DIR."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the whole system at work on real medical files, in about a minute."""
    with _folder(keep) as folder:
        runtime = SystemRuntime()
        try:
            report = asyncio.run(_run(folder, runtime, quiet=as_json))
        except asyncio.CancelledError:
            raise typer.Exit(TERMINATED) from None
        finally:
            runtime.close()
        show(report.as_data(), as_json=as_json, human=lambda _: print_summary(console(), report))
        if keep is not None:
            note(f"kept in {folder}: start it again with `hcefs up --dir {folder / 'cluster'}`")
        elif not report.ok:
            note("to look at the logs, run it again with --keep DIR", quiet=as_json)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder of the run; a temporary one is removed at the end.

    Raises:
        Conflict: the folder to keep is not empty.
    """
    if keep is not None:
        folder = keep.expanduser().resolve()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Conflict(
                f"{folder} is not empty: name a new folder to keep the demo in",
                reason="not-empty",
            )
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix="hcefs-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- running ----------------------------------------------------------------------


class Display(Protocol):
    """Who is told how it goes."""

    def begins(self, number: int, name: str) -> None:
        """A step begins."""

    def says(self, text: str) -> None:
        """What the step is doing now."""

    def ended(self, number: int, result: StepResult) -> None:
        """A step has ended, or was not run."""

    def close(self) -> None:
        """Nothing more will come."""


async def _run(folder: Path, runtime: Runtime, *, quiet: bool) -> Report:
    # The processes are in sessions of their own: only an orderly end stops them.
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    display: Display = Silent() if quiet else Live(console(), err())
    try:
        display.begins(0, "unpacking the medical files")
        exhibits = await runtime.disk(_exhibits, folder)
        stage = Stage(folder, runtime, display.says, exhibits)
        try:
            return await perform(stage, STEPS, display, runtime)
        finally:
            await stage.close()
    finally:
        display.close()


def _exhibits(folder: Path) -> tuple[Exhibit, ...]:
    data = folder / "data"
    data.mkdir()
    return find_exhibits(data)


async def perform(
    stage: Stage, steps: Sequence[tuple[str, Step]], display: Display, runtime: Runtime
) -> Report:
    """Do the steps in order, up to the first that fails; report all of them."""
    started = runtime.monotonic()
    results: list[StepResult] = []
    for number, (name, step) in enumerate(steps, 1):
        if all(result.ok for result in results):
            display.begins(number, name)
            result = await _perform_one(stage, name, step, runtime)
        else:
            result = StepResult.not_run(name)
        results.append(result)
        display.ended(number, result)
    return Report(tuple(results), runtime.monotonic() - started)


async def _perform_one(stage: Stage, name: str, step: Step, runtime: Runtime) -> StepResult:
    notes = Notes()
    started = runtime.monotonic()
    failure: dict[str, str] = {}
    try:
        await step(stage, notes)
    except Broken as error:
        failure = {"failed": str(error), "where": _own_line(error)}
    except HcefsError as error:
        failure = {
            "failed": f"{error.message} ({error.kind}, {error.reason})",
            "where": _own_line(error),
        }
    except Exception as error:  # noqa: BLE001 - whatever it is, the step did not hold
        failure = {"failed": f"{type(error).__name__}: {error}", "where": _own_line(error)}
    seconds = runtime.monotonic() - started
    return StepResult(name, not failure, seconds, {**notes.detail(), **failure})


def _own_line(error: Exception) -> str:
    """Where in the demo's steps an error arose."""
    frames = [
        (Path(frame.filename).name, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    own = [
        f"{name}:{line}"
        for name, line in frames
        if name.startswith("demo_") and name != Path(demo_report.__file__).name
    ]
    return own[-1] if own else ""


# --- showing ----------------------------------------------------------------------


def console() -> Console:
    """Standard output, wrapped at the terminal's width."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


class Silent:
    """For programs: the report says everything at the end."""

    def begins(self, number: int, name: str) -> None:
        """Nothing."""

    def says(self, text: str) -> None:
        """Nothing."""

    def ended(self, number: int, result: StepResult) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Live:
    """For people: a moving line for the step in progress, then what it checked."""

    def __init__(self, results: Console, progress: Console) -> None:
        self._results = results
        self._moving = progress
        self._progress: Progress | None = None
        self._task = TaskID(0)
        title = Text("HCE-FS demo", style="bold")
        title.append(
            f"   one ledger, {NODES} storage nodes, mutual TLS, real medical files\n",
            style="not bold dim",
        )
        results.print(title)

    def begins(self, number: int, name: str) -> None:
        """Show the moving line, where there is a terminal to show it."""
        self.close()
        if not self._moving.is_terminal:
            return
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[number]}  {task.description}", style="bold", markup=False),
            TextColumn("{task.fields[said]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=self._moving,
            transient=True,
        )
        self._task = self._progress.add_task(name, total=None, number=number or " ", said="")
        self._progress.start()

    def says(self, text: str) -> None:
        """Change the moving line."""
        if self._progress is not None:
            self._progress.update(self._task, said=text)

    def ended(self, number: int, result: StepResult) -> None:
        """Replace the moving line by what the step checked."""
        self.close()
        print_step(self._results, number, result)

    def close(self) -> None:
        """Remove the moving line."""
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()


def print_step(to: Console, number: int, result: StepResult) -> None:
    """One step: its line, what it checked, and why it failed."""
    if result.failure == NOT_RUN:
        to.print(Text(f"- {number}  {result.name}: not run", style="dim"))
        return
    mark, style = ("\u2713", "green") if result.ok else ("\u2717", "red")
    line = Text(f"{mark} ", style=f"bold {style}")
    line.append(f"{number}  {result.name}", style="bold not dim default")
    line.append(f"  {result.seconds:.1f} s", style="not bold dim default")
    to.print(line)
    for checked in result.detail.get("checked", ()):
        _print_indented(to, str(checked))
    if not result.ok:
        where = result.detail.get("where")
        text = result.failure + (f" [{where}]" if where else "")
        _print_indented(to, text, "red")
    to.print()


def _print_indented(to: Console, text: str, style: str = "") -> None:
    """One remark, with a hanging indent."""
    lines = textwrap.wrap(
        text,
        max(MIN_WIDTH, to.width),
        initial_indent=INDENT + "- ",
        subsequent_indent=INDENT + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        to.print(Text(line, style=style))


def print_summary(to: Console, report: Report) -> None:
    """The last line."""
    held = sum(step.ok for step in report.steps)
    if report.ok:
        text = Text(f"All {held} steps held, in {report.seconds:.1f} s.", style="bold green")
    else:
        text = Text(
            f"{held} of {len(report.steps)} steps held, in {report.seconds:.1f} s.",
            style="bold red",
        )
    to.print(text)
