"""A RocksDB handle that records calls and fails those that it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rocksdict import Rdict

NO_SPACE = "IO error: No space left on device: While appending to file: /x/000004.log: No space"
IO_ERROR = "IO error: While fdatasync: /x/000004.log: Input/output error"


class ScriptedDatabase:
    """Hands everything to a real database, but for the scripted failures."""

    def __init__(self, database: Rdict, script: Script) -> None:
        self._database = database
        self._script = script

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._database, name)

        def call(*args: Any) -> Any:
            if name == "write":  # the database empties the batch
                batch, options = args
                self._script.calls.append((name, (batch.len(), options.sync)))
            else:
                self._script.calls.append((name, args))
            if name in self._script.failing:
                raise Exception(self._script.failing[name])  # the type that rocksdict raises
            result = method(*args)
            if name in self._script.after:
                self._script.after[name]()
            return result

        return call


class Script:
    """An opener for the stores and what it recorded."""

    def __init__(self, opener: Callable[[Path], Rdict]) -> None:
        self._opener = opener
        self.opened = 0
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.failing: dict[str, str] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def open(self, folder: Path) -> Any:
        self.opened += 1
        if "open" in self.failing:
            raise Exception(self.failing["open"])
        return ScriptedDatabase(self._opener(folder), self)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def flip(path: Path, needle: bytes) -> None:
    """Flip one bit in the middle of the only place where the file holds ``needle``."""
    data = bytearray(path.read_bytes())
    assert data.count(needle) == 1
    data[data.index(needle) + len(needle) // 2] ^= 1
    path.write_bytes(data)
