"""Interpreters that keep their state from one command to the next, as a reader's does.

Owns processes: one ``bash`` and one Python for a page, each in a session of its own, ended
with :meth:`Interpreter.close`.  What commands print goes to a file, which processes that
they leave running may go on to write to.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

OUTPUT_SHOWN = 6000

_PYTHON = """
import os, sys, traceback
answer = int(sys.argv[1])
names = {"__name__": "__main__"}
for request in sys.stdin:
    source, shown, page, line = request.rstrip("\\n").split("\\t")
    file = os.open(shown, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 1), os.dup2(file, 2), os.close(file)
    code = 0
    try:
        # Lines as the page counts them, so that a traceback names the right one.
        text = "\\n" * (int(line) - 1) + open(source).read()
        exec(compile(text, page, "exec"), names)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(answer, b"%d\\n" % code)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended; ``code`` None: not in time, or with its interpreter."""

    code: int | None
    output: str


class Interpreter:
    """A process that is given one piece of code after the other."""

    def __init__(self, tag: str, folder: Path, scratch: Path, variables: Mapping[str, str]) -> None:
        """Start one for fences of ``tag`` in ``folder``; ``scratch`` is for its files."""
        self._tag, self._scratch, self._count = tag, scratch, 0
        self._answers, answer = os.pipe()
        try:
            arguments = (
                ["bash", "--noprofile", "--norc"]
                if tag == "sh"
                else [sys.executable, "-c", _PYTHON, str(answer)]
            )
            self._process = subprocess.Popen(
                arguments, cwd=folder, env=dict(variables), stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(answer,),
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(answer)
        self._answer = answer
        if tag == "sh":
            self._send("set -o pipefail\n")

    def run(self, text: str, page: str, line: int, seconds: float) -> Done:
        """Run code that stands at a line of a page."""
        self._count += 1
        source = self._scratch / f"{self._tag}-{self._count}.txt"
        shown = source.with_suffix(".out")
        source.write_text(text + "\n", "utf-8")
        if self._tag == "sh":
            # Processes that a command leaves behind must not hold the pipe.
            self._send(
                f"source {shlex.quote(str(source))} </dev/null >{shlex.quote(str(shown))} 2>&1 "
                f"{self._answer}>&-; echo $? >&{self._answer}\n"
            )
        else:
            self._send(f"{source}\t{shown}\t{page}\t{line}\n")
        code = self._wait(seconds)
        output = shown.read_text("utf-8", errors="replace") if shown.exists() else ""
        return Done(code, output)

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()

    def _wait(self, seconds: float) -> int | None:
        deadline = time.monotonic() + seconds
        said = b""
        while not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._answers], [], [], left)[0]
            data = os.read(self._answers, 64) if ready else b""
            if not data:
                return None
            said += data
        return int(said)

    def close(self) -> None:
        """End it, with what it still runs in the foreground."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        os.close(self._answers)


def complete_commands(text: str, line: int) -> Iterator[tuple[int, str]]:
    """The commands of a shell's code, each with its line; compounds stay together."""
    held: list[str] = []
    first = line
    for number, each in enumerate(text.splitlines(), line):
        if not held and (not each.strip() or each.lstrip().startswith("#")):
            continue
        first = first if held else number
        held.append(each)
        if _is_complete("\n".join(held)):
            yield first, "\n".join(held)
            held = []
    if held:
        yield first, "\n".join(held)


def _is_complete(text: str) -> bool:
    if text.endswith("\\"):
        return False
    checked = subprocess.run(
        ["bash", "-n"], input=text + "\n", capture_output=True, text=True, check=False, timeout=60
    )
    # A here-document that does not end yet is a warning only.
    return checked.returncode == 0 and not checked.stderr


def shortened(output: str) -> str:
    """The end of what was printed, which is where errors are."""
    return output if len(output) <= OUTPUT_SHOWN else "...\n" + output[-OUTPUT_SHOWN:]
