"""Golden vectors of the queue of damage: its keys and its values."""

from __future__ import annotations

from typing import Any

from hcefs.ids import BlobBase
from hcefs.upkeep.damage import DamagedName, DamagedShard

BASE = BlobBase(bytes(range(0x10, 0x20)))
TIME_MS = 1_800_000_000_000


def names() -> dict[str, DamagedName]:
    """Keys, of the first index of a profile and of the last of another."""
    return {"data": DamagedName(BASE, 0, "ec-4-2"), "copy": DamagedName(BASE, 2, "copy-3")}


def samples() -> dict[str, DamagedShard]:
    """One entry that nobody has looked at, and one that was tried."""
    return {
        "new": DamagedShard("damaged-piece", TIME_MS, None, 0, 0, ""),
        "tried": DamagedShard("missing", TIME_MS, 4, 3, TIME_MS + 90_000, "too-few-holders"),
    }


def vectors() -> dict[str, Any]:
    """The vectors, made anew."""
    return {
        "keys": {name: value.key().hex() for name, value in names().items()},
        "values": {name: value.encode().hex() for name, value in samples().items()},
    }
