"""Where a process of a cluster runs when that is not this machine: ``place.toml``.

In an operator's folder of a cluster whose processes are on machines of their own, each
process's folder has such a file beside its configuration: a configuration says where to
listen, which from elsewhere may be nowhere to connect to.  It holds no secret.

Invariants: what the loader returns was checked whole; an unknown key is an error.
Source: docs/decisions/0038-machines-of-their-own.md.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from hcefs.durable_files import replace_file
from hcefs.errors import Invalid

FILE = "place.toml"
FILE_BYTES_MAX = 4096


@dataclass(frozen=True)
class Place:
    """How others reach a process (``host:port``), and where in the cluster it stands."""

    client: str
    peer: str
    zone: str = ""
    rack: str = ""
    host: str = ""
    weight: int = 0

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        # JSON's texts and numbers are TOML's.
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in asdict(self).items()]
        text = "# Where the operators reach this process; made by `init`.\n" + "".join(lines)
        replace_file(folder / FILE, text.encode())


def load_place(folder: Path) -> Place | None:
    """Where a process runs; None for one of this machine.

    Raises:
        Invalid: ``bad-place``, naming the file.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    try:
        table = tomllib.loads(data.decode()) if len(data) <= FILE_BYTES_MAX else {}
    except ValueError:
        table = {}
    wanted = {field.name: int if field.name == "weight" else str for field in fields(Place)}
    if table.keys() != wanted.keys() or any(
        type(table[name]) is not kind for name, kind in wanted.items()
    ):
        raise Invalid(
            f"{path} is not as `init` writes it: it has the keys {', '.join(wanted)}",
            reason="bad-place",
        )
    return Place(**table)
