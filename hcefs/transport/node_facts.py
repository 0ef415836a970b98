"""What a node tells others about itself, for the console: numbers, and words of the program.

Owns the way between :class:`NodeFacts` and its message.

Invariants: what another node sends is bounded before it is kept: lists by number, words by
their form, so that a node which lies takes no memory and puts no text of its own onto a
page.  Facts name no account, record or blob.

Not guaranteed: that they are true.  Nothing is decided by them; people look at them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from hcefs.wire.v1 import facts_pb2

LISTED_MAX = 64
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_OTHER = "other"


@dataclass(frozen=True)
class LiveShards:
    """Blobs and packs of a profile of which so many shards are alive."""

    profile: str
    live: int
    blobs: int


@dataclass(frozen=True)
class NodeFacts:
    """See ``proto/hcefs/v1/facts.proto`` for each field.  Counts begin with the process."""

    taken_ms: int = 0
    version: str = ""
    started_ms: int = 0
    height: int = 0
    lag_blocks: int = 0
    lease_age_ms: int = -1
    disk_state: str = ""
    free_bytes: int = 0
    total_bytes: int = 0
    shards: int = 0
    shard_bytes: int = 0
    quarantined: int = 0
    live: tuple[LiveShards, ...] = ()
    pass_ended_ms: int = 0
    pass_rows: int = 0
    pass_seats: int = 0
    backlog: tuple[tuple[str, int], ...] = ()
    repair_bytes_second: float = 0.0
    repair_left_seconds: float = -1.0
    repaired_shards: int = 0
    scrub_permille: int = 0
    scrub_resting: bool = False
    scrub_damaged: int = 0
    scrub_oldest_ms: int = 0
    moving_seats: int = 0
    stand_ins_waiting: int = 0
    requests: int = 0
    put_bytes: int = 0
    get_bytes: int = 0
    denials: tuple[tuple[str, int], ...] = ()

    def message(self) -> facts_pb2.NodeFacts:
        """As it travels."""
        plain = {
            name: value
            for name, value in vars(self).items()
            if name not in ("live", "backlog", "denials")
        }
        return facts_pb2.NodeFacts(
            live=[facts_pb2.LiveShards(**asdict(each)) for each in self.live],
            backlog=[facts_pb2.Named(name=name, count=count) for name, count in self.backlog],
            denials=[facts_pb2.Named(name=name, count=count) for name, count in self.denials],
            **plain,
        )

    @classmethod
    def of(cls, message: facts_pb2.NodeFacts) -> NodeFacts:
        """What another node said, bounded."""
        plain: dict[str, Any] = {
            name: getattr(message, name)
            for name in cls.__dataclass_fields__
            if name not in ("live", "backlog", "denials", "version", "disk_state")
        }
        for name in ("repair_bytes_second", "repair_left_seconds"):
            plain[name] = plain[name] if math.isfinite(plain[name]) else -1.0
        return cls(
            version=_word(message.version),
            disk_state=_word(message.disk_state),
            live=tuple(
                LiveShards(_word(each.profile), each.live, each.blobs)
                for each in message.live[:LISTED_MAX]
            ),
            backlog=_named(message.backlog),
            denials=_named(message.denials),
            **plain,
        )


def _word(text: str) -> str:
    return text if not text or _WORD.fullmatch(text) else _OTHER


def _named(rows: Iterable[facts_pb2.Named]) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for number, each in enumerate(rows):
        if number >= LISTED_MAX:
            break
        found[_word(each.name)] = found.get(_word(each.name), 0) + each.count
    return tuple(found.items())
