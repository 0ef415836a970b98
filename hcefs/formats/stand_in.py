"""The mark on what a node keeps in the place of another (table STAND_INS).

Source: docs/FORMATS.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.encoding import Encoded


@dataclass(frozen=True)
class StandInMark(Encoded):
    """Since when something is kept here that is at home elsewhere.

    Where its home is follows from the map in force, so it is not written down: seats move.
    """

    KIND = "stand-in"

    epoch: int
    since_ms: int
