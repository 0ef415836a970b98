"""Folders on a file system in memory, where there is one.

What SIGKILL takes from a process does not depend on the device below: the page cache
survives.  So nothing is lost by it but the time of fsyncs, whose *calls* are tested in
``test_durability``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.driver import Prepared

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
FREE_BYTES_MIN = 1 << 30

PreparedOf = Callable[[str], Prepared]


def _root() -> str | None:
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    return str(MEMORY) if shutil.disk_usage(MEMORY).free > FREE_BYTES_MIN else None


@pytest.fixture(scope="session")
def prepared() -> Iterator[PreparedOf]:
    """Scenarios as they are before the change, each prepared once in a worker."""
    root = Path(tempfile.mkdtemp(prefix="hcefs-crash-", dir=_root()))
    made: dict[str, Prepared] = {}

    def of(scenario: str) -> Prepared:
        if scenario not in made:
            made[scenario] = Prepared(root, scenario)
        return made[scenario]

    try:
        yield of
    finally:
        shutil.rmtree(root)
