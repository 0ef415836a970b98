"""What whoever stores does when the map has moved on: look the seats up again.

A holder takes nothing under another epoch than its own.  The refusal is no failure: the
seat that moved has a new holder, which the newer map names, and the others stay as they
are.  So only what was refused is sent again, under the newer epoch.

Source: docs/decisions/0019-change-without-a-gap.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hcefs.errors import Unavailable
from hcefs.placement.ring import Seat

OTHER_EPOCH = "other-epoch"
MOVED = frozenset({OTHER_EPOCH, "not-a-seat"})
"""Reasons of a refusal for which the seats are looked up in a newer map."""

RESEATS_MAX = 4
"""Epochs that one request may see; after that, a refusal counts as a failure."""

Reseat = Callable[[str, bytes, int], Awaitable[tuple[int, tuple[Seat, ...]]]]
"""Of a profile (empty: the default one), a base or record id and an epoch: the epoch of a
newer map, once this process has one, and the seats in it.  Raises Unavailable: not in time."""


def other_epoch(mine: int, asked: int) -> Unavailable:
    """The refusal of a request under another map."""
    return Unavailable(
        f"this node is at epoch {mine}, the request at {asked}: refresh the cluster map and retry",
        reason=OTHER_EPOCH,
    )
