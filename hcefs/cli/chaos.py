"""``chaos``: a cluster of real processes under load and faults, verified in full at the end.

Invariants: it talks to the loopback interface only, works in a temporary folder that is
removed, and leaves no process behind; the exit code is 1 when anything was violated.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli import chaos_run
from hcefs.cli.chaos_plan import Kind
from hcefs.cli.chaos_report import REPLAY, Report
from hcefs.cli.options import JsonOption
from hcefs.cli.output import note, print_fields, print_table, show, verb
from hcefs.errors import Invalid
from hcefs.runtime import SystemRuntime

VIOLATED = 1
TERMINATED = 128 + signal.SIGTERM
MINUTES_MAX = 7 * 24 * 60


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("chaos")(chaos)


@verb
def chaos(
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="N", help="How long faults are made [5].")
    ] = 5.0,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", help="Which faults; drawn and printed if missing.")
    ] = -1,
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", help="Storage nodes, 7 to 9 [7].")
    ] = chaos_run.NODES,
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="KIND", help="Only these: kill, pause, wipe... [all]."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.md", help="Write the report there.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep logs and data in DIR.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Kill, stop, cut, fill and damage a temporary cluster under load, then verify everything."""
    if not 0 < minutes <= MINUTES_MAX:
        raise Invalid(f"--minutes is a number from 0 to {MINUTES_MAX}", reason="bad-number")
    if not chaos_run.NODES_MIN <= nodes <= chaos_run.NODES_MAX:
        raise Invalid(
            f"--nodes is {chaos_run.NODES_MIN} to {chaos_run.NODES_MAX}", reason="bad-number"
        )
    kinds = [kind_of(word) for word in fault or ()] or list(Kind)
    runtime = SystemRuntime()
    if seed < 0:
        seed = int.from_bytes(runtime.random(4), "big")
    note(f"seed {seed}", quiet=as_json)
    options = chaos_run.Options(seed, minutes, nodes, kinds)
    with _folder(keep) as folder:
        try:
            found = asyncio.run(_run(folder, options, runtime, quiet=as_json))
        except asyncio.CancelledError:
            raise typer.Exit(TERMINATED) from None
        finally:
            runtime.close()
    if report is not None:
        report.expanduser().write_text(found.as_markdown(), encoding="utf-8")
    show(found.as_data(), as_json=as_json, human=lambda console: print_report(console, found))
    if not found.ok:
        raise typer.Exit(VIOLATED)


def kind_of(word: str) -> Kind:
    """The kind of fault that a word names, as ``kill-all`` does ``KILL_ALL``.

    Raises:
        Invalid: none; the message names all.
    """
    try:
        return Kind[word.upper().replace("-", "_")]
    except KeyError:
        known = ", ".join(kind.name.lower().replace("_", "-") for kind in Kind)
        raise Invalid(
            f"{word[:40]!r} is no fault; there are: {known}", reason="bad-fault"
        ) from None


async def _run(
    folder: Path, options: chaos_run.Options, runtime: SystemRuntime, *, quiet: bool
) -> Report:
    # The client warns of nodes that this run has just killed.
    logging.getLogger("hcefs").addHandler(logging.NullHandler())
    task = asyncio.current_task()
    if task is not None:
        # The processes are in sessions of their own: only an orderly end stops them.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await chaos_run.perform(
        folder / "cluster", options, runtime, lambda text: note(text, quiet=quiet)
    )


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where the cluster lives; a temporary folder is removed at the end."""
    if keep is not None:
        kept = keep.expanduser().resolve()
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield kept
        return
    folder = Path(tempfile.mkdtemp(prefix="hcefs-chaos-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def print_report(console: Console, found: Report) -> None:
    """The report on a terminal; its last line says what counts."""
    rows = [
        [f"{event['at']:.1f}", f"{event['seconds']:.1f}", event["what"], event["outcome"]]
        for event in found.timeline
    ]
    print_table(console, ("SECOND", "LASTED", "WHAT", "OUTCOME"), rows, right=("SECOND", "LASTED"))
    console.print()
    load = {**found.load, **dict(found.load.get("refused", {}))}
    load.pop("refused", None)
    print_fields(console, [(name.replace("_", " "), value) for name, value in load.items()])
    console.print()
    for text in found.cures:
        console.print(Text(f"not healed by itself: {text}", style="yellow"))
    for check in found.checks:
        console.print(
            Text("holds     " if check.ok else "VIOLATED  ", style="green" if check.ok else "red")
            + Text(f"{check.name}" + (f": {check.detail}" if check.detail else ""))
        )
        for text in check.violations:
            console.print(Text(f"          {text}", style="red"))
    console.print(Text(REPLAY, style="dim"))
    console.print(Text(found.last_line(), style="bold green" if found.ok else "bold red"))
