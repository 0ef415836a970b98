"""Arming a crash point, and dying at it."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import hcefs
from hcefs import crashpoints
from hcefs.crashpoints import VARIABLE, CrashPoint, arm_from_environment, crash_point
from hcefs.errors import Invalid

PACKAGE = Path(hcefs.__file__).parent

ARRIVES = """
from hcefs.crashpoints import CrashPoint, arm_from_environment, crash_point
arm_from_environment()
for hit in range(3):
    crash_point(CrashPoint.SHARD_LINKED)
    crash_point(CrashPoint.SHARD_SYNCED)
    print(hit, flush=True)
"""


def arrive(armed: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", ARRIVES], env={VARIABLE: armed}, capture_output=True, check=False
    )
    return done.returncode, done.stdout.decode().split()


@pytest.mark.parametrize(
    ("armed", "printed"), [("shard/linked", 0), ("shard/synced:1", 0), ("shard/synced:3", 2)]
)
def test_a_process_dies_at_the_hit_that_is_armed(armed: str, printed: int) -> None:
    code, lines = arrive(armed)
    assert code == -signal.SIGKILL
    assert lines == [str(hit) for hit in range(printed)]


def test_nothing_dies_unarmed_or_at_another_point() -> None:
    assert arrive("") == (0, ["0", "1", "2"])
    assert arrive("shard/begun") == (0, ["0", "1", "2"])


@pytest.mark.parametrize(
    "wanted", ["shard", "shard/linked:0", "shard/linked:x", "shard/linked:-1", ":1", "a:1:2"]
)
def test_what_names_no_point_is_refused(wanted: str) -> None:
    with pytest.raises(Invalid) as caught:
        arm_from_environment({VARIABLE: wanted})
    assert caught.value.reason == "bad-crash-point"
    assert crashpoints._armed is None


def test_an_empty_environment_arms_nothing() -> None:
    assert arm_from_environment({}) is None
    for point in CrashPoint:
        crash_point(point)


def test_every_point_is_placed_in_the_code() -> None:
    """A point that nobody passes any more must go, or come back."""
    placed: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if path.name == "crashpoints.py" or "crash_point(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "crash_point"
            ):
                (argument,) = node.args
                assert isinstance(argument, ast.Attribute), path
                placed[argument.attr] += 1
    assert set(placed) == {point.name for point in CrashPoint}
