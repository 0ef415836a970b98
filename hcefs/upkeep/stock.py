"""What a pass over the seats of a node has found."""

from __future__ import annotations

from dataclasses import dataclass, field

from hcefs.erasure.scheme import profile_named
from hcefs.ids import BlobBase

GONE_MAX = 100
"""Named to operators; the rest is counted."""

ENDANGERED_MAX = 10_000
"""Remembered until the next pass, which may hear less than this one."""


@dataclass
class Stock:
    """What a pass found, as far as it has come."""

    epoch: int = 0
    began_ms: int = 0
    ended_ms: int = 0
    rows: int = 0
    seats: int = 0
    waiting: int = 0
    """Rows of which too little could be heard."""

    lacking: int = 0
    """Shards that this node lacks, but for those of blobs known to wait for their append."""

    by_live: dict[tuple[str, int], int] = field(default_factory=dict)
    """By profile and live shards, the blobs that this node counts."""

    full: int = 0
    degraded: int = 0
    lost: int = 0
    unreachable: int = 0
    """Fewer than k answer, but a holder is away that may have more."""

    unknown: int = 0
    """Blobs of which a holder that is there does not say what it has."""

    endangered: dict[BlobBase, int] = field(default_factory=dict)
    """Of blobs without a shard to spare, how many are alive; at most ``ENDANGERED_MAX``."""

    gone: list[BlobBase] = field(default_factory=list)
    """Some of the lost: those of which nothing is left."""

    @property
    def is_whole(self) -> bool:
        """Whether the pass went over all rows and found every blob with all its shards."""
        short = self.degraded or self.lost or self.unreachable
        return bool(self.ended_ms) and not (self.waiting or self.lacking or short)

    def count(self, base: BlobBase, profile: str, live: int, *, complete: bool) -> None:
        """Count one blob; ``complete``: everybody who may have some of it was heard."""
        key, code = (profile, live), profile_named(profile)
        self.by_live[key] = self.by_live.get(key, 0) + 1
        if live <= code.k and len(self.endangered) < ENDANGERED_MAX:
            self.endangered[base] = live
        if live >= code.n:
            self.full += 1
        elif live >= code.k:
            self.degraded += 1
        elif complete:
            self.lost += 1
        else:
            self.unreachable += 1

    def name_gone(self, base: BlobBase) -> None:
        """Name one of those of which nothing is left."""
        if len(self.gone) < GONE_MAX:
            self.gone.append(base)
