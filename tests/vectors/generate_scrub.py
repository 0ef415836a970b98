"""Golden vectors of what the scrub keeps: its cursor and its notes."""

from __future__ import annotations

from typing import Any

from hcefs.encoding import Encoded
from hcefs.ids import BlobBase
from hcefs.upkeep.scrub_state import AsideNote, ScrubCursor, first_cursor

BASE = BlobBase(bytes(range(0x10, 0x20)))
TIME_MS = 1_800_000_000_000


def samples() -> dict[str, Encoded]:
    """A new node's cursor, one within a shard, and notes of both kinds."""
    return {
        "first": first_cursor(TIME_MS),
        "within": ScrubCursor(
            3, TIME_MS, 16, bytes(BASE) + b"\x02ec-8-3", 17, 1000, 1 << 33, 12, 1, bytes(256 * 8)
        ).with_verified(255, TIME_MS + 1),
        "piece": AsideNote(BASE, 5, "", "ec-4-2", "bad-piece", TIME_MS),
        "orphan": AsideNote(BASE, 0, "copy-3", "", "orphan", TIME_MS),
    }


def vectors() -> dict[str, Any]:
    """The vectors, made anew."""
    return {name: value.encode().hex() for name, value in samples().items()}
