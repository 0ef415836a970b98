"""``make check`` runs every test file exactly once, however its targets share them."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARKED = ".".join(("mark", "cluster"))
LONG = "pytest.mark.long"
"""How a file names the marker by which the commands divide its tests; this one does not."""


@dataclass(frozen=True)
class Command:
    """One call of pytest: the marker expression, and what is named and left out."""

    expression: str
    paths: tuple[str, ...]
    ignored: tuple[str, ...]

    def takes(self, file: str) -> bool:
        return _is_below(file, self.paths or ("tests",)) and not _is_below(file, self.ignored)


def _is_below(file: str, paths: tuple[str, ...]) -> bool:
    return any(file == path or file.startswith(path + "/") for path in paths)


def commands(target: str) -> Iterator[Command]:
    """The calls of pytest that a target makes; nothing is run."""
    make = shutil.which("make")
    assert make is not None, "this test asks make what it would run: install make"
    # A make that runs this test must not have its flags taken over by the one below.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    shown = subprocess.run(
        [make, "--no-print-directory", "-n", "-C", str(ROOT), target],
        capture_output=True, text=True, check=True, timeout=120, env=clean,
    )  # fmt: skip
    for line in shown.stdout.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or not words[0].endswith("/pytest"):
            continue
        expression, paths, ignored = "", [], []
        rest = iter(words[1:])
        for word in rest:
            if word == "-m":
                expression = next(rest)
            elif word == "-n":
                next(rest)
            elif word.startswith("--ignore="):
                ignored.append(word.removeprefix("--ignore=").rstrip("/"))
            elif not word.startswith("-"):
                paths.append(word.rstrip("/"))
        yield Command(expression, tuple(paths), tuple(ignored))


def is_long(text: str) -> bool:
    """Whether all tests of a file are marked long, which make check leaves out."""
    body = ast.parse(text).body
    for each in body:
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "pytestmark":
            return LONG in ast.unparse(each.value)
    tests = [
        each
        for each in body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test")
    ]
    return all(LONG in map(ast.unparse, each.decorator_list) for each in tests)


def test_every_test_runs_exactly_once() -> None:
    made = list(commands("check"))
    assert len(made) >= 4
    for command in made:
        assert command.expression in ("", "cluster", "not cluster"), "teach this test to read it"
        for path in (*command.paths, *command.ignored):
            assert (ROOT / path).exists(), f"{path} is named in the Makefile and does not exist"
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    assert len(files) > 200
    wrong = {}
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        found = sorted(command.expression for command in made if command.takes(name))
        # Whole; or both halves; or, where nothing that runs bears the marker, the half without it.
        right = [[""], ["cluster", "not cluster"]]
        text = file.read_text(encoding="utf-8")
        if MARKED not in text or is_long(text):
            right.append(["not cluster"])
        if found not in right:
            wrong[name] = found
    assert not wrong, "these are run by none, or by more than one, of make check's commands"


@pytest.mark.parametrize(
    ("file", "taken"),
    [("tests/a/test_x.py", True), ("tests/b/test_x.py", False), ("tests/ab/test_x.py", True)],
)
def test_what_is_ignored_is_left_out(file: str, taken: bool) -> None:
    assert Command("", (), ("tests/b",)).takes(file) == taken
