"""``doctor``: look at this machine and its processes, and say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.doctor_findings import Finding, Level, worst
from hcefs.cli.doctor_machine import machine_findings
from hcefs.cli.doctor_process import process_findings
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption
from hcefs.cli.output import show, verb
from hcefs.errors import NotFound
from hcefs.runtime import SystemRuntime

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("doctor")(doctor)


@verb
def doctor(
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Configuration of a process on this machine; may be repeated.",
        ),
    ] = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    all_findings: Annotated[bool, typer.Option("--all", help="Show what is well, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check clock, certificates, ports, file modes, disks and libraries; say what to do.

    Without --config it looks at all processes of the folder.  Ends with 1 if there is a
    problem; a warning alone ends with 0.
    """
    paths = config or _of_folder(directory)
    runtime = SystemRuntime()
    try:
        findings = machine_findings()
        for path in paths:
            findings += process_findings(path.expanduser().resolve(), runtime)
    finally:
        runtime.close()
    level = worst(findings)
    data = {"result": level.name.lower(), "findings": [each.as_data() for each in findings]}
    show(data, as_json=as_json, human=lambda console: _print(console, findings, all_findings))
    if level is Level.PROBLEM:
        raise typer.Exit(1)


def _of_folder(directory: Path) -> list[Path]:
    layout = ClusterFolder(directory)
    found = [layout.config_of(name) for name in layout.process_names()]
    found = [path for path in found if path.is_file()]
    if not found:
        raise NotFound(
            f"no process has its configuration in {layout.root}: name one with --config, or the "
            "folder with --dir",
            reason="no-configuration",
        )
    return found


def _summary(findings: list[Finding]) -> str:
    found = []
    for level, noun in ((Level.PROBLEM, "problem"), (Level.WARNING, "warning")):
        count = sum(each.level is level for each in findings)
        if count:
            found.append(f"{count} {noun}" + "s" * (count > 1))
    return f"{len(findings)} checks: {', '.join(found) or 'all is well'}"


def _print(console: Console, findings: list[Finding], everything: bool) -> None:
    shown = [each for each in findings if everything or each.level is not Level.OK]
    for each in shown:
        line = Text(f"{each.level.name.lower():<8}", style=_STYLES[each.level])
        line.append(f" {each.check}: {each.what}", style="not bold")
        console.print(line)
        if each.remedy:
            console.print(Text(f"         {each.where}: {each.remedy}"))
    console.print(Text(_summary(findings), style=_STYLES[worst(findings)]))
