"""How far the erasure of one record is on one node (table META, ``erased/`` record).

Source: docs/FORMATS.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from hcefs.encoding import Encoded
from hcefs.ids import RecordId


class ErasureStage(enum.IntEnum):
    """What is being done next.  The numbers are on disk."""

    KEYS = 1
    ROWS = 2
    DONE = 3


@dataclass(frozen=True)
class ErasureProgress(Encoded):
    """What this node has deleted of an erased record.

    The counts are of what was deleted for certain: a node that stops in between may have
    deleted one batch more.  ``done_ms`` is this node's time when it looked for the last time
    and found nothing left; 0 before.
    """

    KIND: ClassVar[str] = "erasure-progress"
    MAX_BYTES: ClassVar[int] = 1024

    record: RecordId
    height: int
    stage: ErasureStage
    boxes: int
    links: int
    key_rows: int
    openings: int
    shards: int
    done_ms: int
