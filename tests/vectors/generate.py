"""Writes the golden vectors of every ``generate_*.py`` in this folder, or checks them.

``python -m tests.vectors.generate`` runs ``vectors()`` of each module.  It writes
``<name>.json`` where it is missing and adds entries that are new; it refuses, with
a non-zero exit, when a frozen entry would change or vanish: such a change makes
what is on disks and ledgers unreadable, so it needs a new version of the format.
``--force`` overrides that, for entries that were never released.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PREFIX = "generate_"


def generators() -> list[str]:
    """Names of the vector sets, by the modules that make them."""
    return sorted(
        module.name.removeprefix(PREFIX)
        for module in pkgutil.iter_modules([str(FOLDER)])
        if module.name.startswith(PREFIX)
    )


def made(name: str) -> dict[str, Any]:
    """The vectors of one set, made anew, as JSON gives them back."""
    module = importlib.import_module(f"{__package__}.{PREFIX}{name}")
    value: dict[str, Any] = json.loads(json.dumps(module.vectors()))
    return value


def frozen(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The vectors of one set as they stand in the repository; empty when missing."""
    path = folder / f"{name}.json"
    value: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return value


def entries(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON value, each with its path."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from entries(inner, f"{path}/{key}")
    elif isinstance(value, list) and value:
        for position, inner in enumerate(value):
            yield from entries(inner, f"{path}/{position}")
    else:
        yield path, value


def broken(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Paths of frozen entries that ``new`` changes or lacks."""
    after = dict(entries(new))
    missing = object()
    return [path for path, value in entries(old) if old and after.get(path, missing) != value]


def write(name: str, new: dict[str, Any], folder: Path = FOLDER, *, force: bool = False) -> str:
    """Bring the file of one set up to date; says what happened.

    Raises:
        ValueError: a frozen entry would change or vanish.
    """
    path = folder / f"{name}.json"
    old = frozen(name, folder)
    if path.exists() and old == new:
        return "unchanged"
    lost = broken(old, new)
    if lost and not force:
        raise ValueError(
            f"{path.name}: frozen entries would change: {', '.join(lost[:10])}"
            f"{' ...' if len(lost) > 10 else ''}; "
            "make a new version of the format instead"
        )
    existed = path.exists()
    path.write_text(json.dumps(new, indent=1) + "\n", "utf-8")
    return "rewritten" if lost else "extended" if existed else "written"


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    if set(arguments) - {"--force"}:
        print("usage: python -m tests.vectors.generate [--force]", file=sys.stderr)
        return 2
    status = 0
    for name in generators():
        try:
            print(f"{name}: {write(name, made(name), force=bool(arguments))}")
        except ValueError as error:
            print(f"{name}: REFUSED: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
