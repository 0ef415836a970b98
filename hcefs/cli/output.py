"""What the command line prints: the only place for people's and programs' forms.

Invariants: results go to standard output and everything else to standard error,
so that output can be piped; with ``--json`` standard output is exactly one JSON
document, an error included.  A typed error is one line and an exit code, never a
traceback.  Progress bars appear only on a terminal.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from hcefs import tracing
from hcefs.errors import (
    Conflict,
    Corrupt,
    Denied,
    Exhausted,
    HcefsError,
    Internal,
    Invalid,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from hcefs.runtime import SystemRuntime

EXIT_CODES: Final[dict[str, int]] = {
    Invalid.kind: 2,
    NotFound.kind: 3,
    Denied.kind: 4,
    Unauthenticated.kind: 4,
    Conflict.kind: 5,
    Unavailable.kind: 6,
    Exhausted.kind: 6,
    Corrupt.kind: 7,
}
"""By the error's kind; any other failure is 1.  Usage errors are 2 as well."""

ID_SHOWN = 8
"""Hexadecimal digits of a digest that people are shown."""

P = ParamSpec("P")
R = TypeVar("R")


# --- values -------------------------------------------------------------------


def size_text(count: int) -> str:
    """Bytes as people read them, in powers of two."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        # 1023.96 would print as 1024.0.
        if value < 1023.95:
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
    return f"{value / 1024:.1f} TiB"


def time_text(time_ms: int) -> str:
    """A moment to the second, in UTC."""
    try:
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return "far future"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def duration_text(milliseconds: int) -> str:
    """A length of time, coarsely."""
    seconds = max(0, milliseconds) / 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def remaining_text(time_ms: int, now_ms: int) -> str:
    """A moment in the future or the past, relative to now."""
    if time_ms <= now_ms:
        return f"{duration_text(now_ms - time_ms)} ago"
    return f"in {duration_text(time_ms - now_ms)}"


# --- results ------------------------------------------------------------------


def out() -> Console:
    """The console of results; made anew, so that redirections of the moment count."""
    return Console(soft_wrap=True, highlight=False)


def err() -> Console:
    """The console of everything that is not a result."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def show(data: Any, *, as_json: bool, human: Callable[[Console], None]) -> None:
    """Print a result: ``data`` as JSON, or whatever ``human`` prints."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        human(out())


def note(message: str, *, quiet: bool = False) -> None:
    """Tell people what is going on, on standard error."""
    if not quiet:
        err().print(Text(message), style="dim")


def print_fields(console: Console, fields: Sequence[tuple[str, object]]) -> None:
    """Aligned ``name  value`` lines; fields without a value are left out."""
    shown = [(name, str(value)) for name, value in fields if value not in (None, "", ())]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        line = Text(f"{name:<{width}}  ", style="bold")
        line.append(value, style="not bold")
        console.print(line)


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
    empty: str = "none",
) -> None:
    """Aligned columns; ``right`` names those of numbers.

    Not rich's table, which cuts cells to fit the terminal: an id must stay whole.
    """
    if not rows:
        console.print(Text(empty), style="dim")
        return
    cells = [[Text(name, style="bold") for name in columns]]
    cells += [[c if isinstance(c, Text) else Text(str(c)) for c in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    for row in cells:
        line = Text()
        for name, width, cell in zip(columns, widths, row, strict=True):
            space = " " * (width - cell.cell_len)
            line.append_text(Text(space) + cell if name in right else cell + Text(space))
            line.append("  ")
        line.rstrip()
        console.print(line)


# --- questions ----------------------------------------------------------------


def confirm(question: str, *, yes: bool, otherwise: str) -> None:
    """Ask on standard error whether to go on, unless that was said beforehand.

    Raises:
        Denied: no (``not-confirmed``); ``otherwise`` says what was not done.
    """
    if not yes and not typer.confirm(question, err=True):
        raise Denied(otherwise, reason="not-confirmed")


# --- errors -------------------------------------------------------------------


def exit_code(error: HcefsError) -> int:
    """The exit code for an error."""
    return EXIT_CODES.get(error.kind, 1)


def show_error(error: HcefsError, *, as_json: bool) -> None:
    """One red line on standard error, or the JSON document on standard output."""
    if as_json:
        body = {"kind": error.kind, "reason": error.reason, "message": error.message}
        if error.request:
            body["request"] = error.request
        typer.echo(json.dumps({"error": body}, indent=2, ensure_ascii=False))
        return
    message = " ".join(error.message.split())
    err().print(Text(f"error: {message} ({error.reason})"), style="red")
    if error.request:
        err().print(Text(f"request {error.request}: its lines are in the logs of the nodes"))


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """A command whose typed errors end it with one line and an exit code.

    The command's ``as_json`` parameter, where it has one, decides the form.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # One trace a command, so that the nodes' logs show what belonged together.
        command = tracing.begun(SystemRuntime())
        try:
            return function(*args, **kwargs)
        except HcefsError as error:
            failure = error
        except BrokenPipeError:
            raise  # nobody reads on: click ends quietly
        except OSError as error:
            failure = _of_system(error)
        finally:
            tracing.ended(command)
        show_error(failure, as_json=bool(kwargs.get("as_json")))
        raise typer.Exit(exit_code(failure))

    return run


def _of_system(error: OSError) -> HcefsError:
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or type(error).__name__
    message = f"{where}{what}"
    if isinstance(error, FileNotFoundError):
        return NotFound(message, reason="no-file")
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError):
        return Invalid(message, reason="bad-file")
    return Internal(message, reason="system-error")


# --- progress -----------------------------------------------------------------


@contextmanager
def progress_bar(label: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; call what it yields with the bytes done so far."""
    console = err()
    if quiet or not console.is_terminal:
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)
