"""Facts of the ledger about the cluster itself: the rules in force, waves, upkeep, reports.

They exist from protocol version 2 on; a chain of version 1 has none of them but the
schedule of its upgrade.  Invariants: facts say what the blocks made them, and nothing
that a node only believes; a report is what one node claims, and counts only with the
others.  Source: docs/decisions/0018-protocol-version-2.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.evidence.proof import ReceiptBatch
from hcefs.ids import AccountId
from hcefs.ledger.block import PROTOCOL_FIRST
from hcefs.placement.cluster_map import LABEL_MAX, TABLES_MAX
from hcefs.placement.waves import SeatName

OUT_AFTER_MS_MIN = 60_000
OUT_AFTER_MS_MAX = 30 * 24 * 3_600_000
OUT_NODES_MAX = 64


@dataclass(frozen=True)
class ProtocolStep(Encoded):
    """From block ``height`` on, the rules of ``version`` hold."""

    KIND = "protocol-step"

    version: int
    height: int


@dataclass(frozen=True)
class ProtocolSchedule(Encoded):
    """Every change of the rules since the genesis, which begins with version 1."""

    KIND = "protocol-schedule"

    steps: tuple[ProtocolStep, ...] = ()

    def at(self, height: int) -> int:
        """The version of the rules that the block of that height follows."""
        held = [step.version for step in self.steps if step.height <= height]
        return held[-1] if held else PROTOCOL_FIRST

    def scheduled(self, height: int) -> ProtocolStep | None:
        """The step that comes after the block of that height, or None."""
        return next((step for step in self.steps if step.height > height), None)


@dataclass(frozen=True)
class ProtocolStatus(Encoded):
    """The answer about the rules: ``version`` holds for the block after ``height``.

    ``next_version`` comes into force at ``next_height``; both 0 when none is scheduled.
    """

    KIND = "protocol-status"

    height: int
    version: int
    next_version: int
    next_height: int


@dataclass(frozen=True)
class ArrivedSeat(Encoded):
    """One seat in flight whose shards its destination has."""

    KIND = "arrived-seat"

    profile: str
    partition: int
    seat: int

    @property
    def name(self) -> SeatName:
        return SeatName(self.profile, self.partition, self.seat)

    @classmethod
    def of(cls, name: SeatName) -> ArrivedSeat:
        """The fact of a seat's name."""
        return cls(name.profile, name.partition, name.seat)


@dataclass(frozen=True)
class Arrivals(Encoded):
    """How many seats of the wave in force are in flight, and how many of them have arrived."""

    KIND = "arrivals"

    epoch: int
    in_flight: int
    arrived: int


@dataclass(frozen=True)
class MapProgress(Encoded):
    """The answer about the wave in force: seats in flight and those that have arrived, in order."""

    KIND = "map-progress"
    MAX_BYTES: ClassVar[int] = 8 << 20

    epoch: int
    in_flight: int
    arrived: tuple[ArrivedSeat, ...]

    @cached_property
    def names(self) -> frozenset[SeatName]:
        """The seats that have arrived: the ``done`` of a plan made from this map."""
        return frozenset(seat.name for seat in self.arrived)


class MapCause(enum.IntEnum):
    """Why an epoch began."""

    OPERATORS = 1
    ARRIVED = 2
    AUTOMATIC = 3


@dataclass(frozen=True)
class MapChange(Encoded):
    """How one epoch began; kept for ever.

    ``signers`` signed the transaction that made the map: operators, the node that
    reported the last arrival, or the node that submitted an automatic change.
    ``moving`` are the seats in flight; ``wave`` and ``waves`` the highest of the tables.
    """

    KIND = "map-change"

    epoch: int
    digest: bytes
    height: int
    time_ms: int
    cause: MapCause
    signers: tuple[AccountId, ...]
    moving: int
    wave: int
    waves: int


@dataclass(frozen=True)
class Reprofile(Encoded):
    """Blobs of ``from_profile`` are to be moved to ``to_profile``."""

    KIND = "reprofile"

    from_profile: str
    to_profile: str


@dataclass(frozen=True)
class UpkeepPolicy(Encoded):
    """What nodes may do by themselves; number 0 is the default, which is nothing.

    Attributes:
        number: grows by one with each change.
        out_after_ms: how long a majority must miss a node before it may be set out
            without the operators; 0 switches that off.
        out_max: most nodes that may be away together for it to act.
        reprofile: profiles to be left, and for which; no circles.
    """

    KIND = "upkeep-policy"

    number: int = 0
    out_after_ms: int = 0
    out_max: int = 1
    reprofile: tuple[Reprofile, ...] = ()

    def check(self) -> None:
        """Check ranges, and that re-profiling ends.

        Raises:
            Invalid: ``bad-policy``; the message names the field.
        """
        if not 0 <= self.number < 1 << 63:
            raise Invalid("upkeep policy: the number is out of range", reason="bad-policy")
        if self.out_after_ms and not OUT_AFTER_MS_MIN <= self.out_after_ms <= OUT_AFTER_MS_MAX:
            raise Invalid(
                f"upkeep policy: out_after_ms is 0 (off) or {OUT_AFTER_MS_MIN} to "
                f"{OUT_AFTER_MS_MAX}",
                reason="bad-policy",
            )
        if not 1 <= self.out_max <= OUT_NODES_MAX:
            raise Invalid(
                f"upkeep policy: out_max must be 1 to {OUT_NODES_MAX}", reason="bad-policy"
            )
        pairs = {pair.from_profile: pair.to_profile for pair in self.reprofile}
        names = (*pairs, *pairs.values())
        if len(self.reprofile) > TABLES_MAX or any(not 1 <= len(n) <= LABEL_MAX for n in names):
            raise Invalid("upkeep policy: too many or malformed profiles", reason="bad-policy")
        if len(pairs) != len(self.reprofile):
            raise Invalid(
                "upkeep policy: a profile is to be left for two others: name it once",
                reason="bad-policy",
            )
        for start in pairs:
            seen, name = {start}, pairs[start]
            while name in pairs and name not in seen:
                seen.add(name)
                name = pairs[name]
            if name in seen:
                raise Invalid(
                    f"upkeep policy: re-profiling from {start} leads back to {name}: break the "
                    "circle",
                    reason="bad-policy",
                )


@dataclass(frozen=True)
class MissedNode(Encoded):
    """A node that another cannot reach since the block time ``since_ms``."""

    KIND = "missed-node"

    node_id: int
    since_ms: int


@dataclass(frozen=True)
class ReportRow(Encoded):
    """What one node last reported: whom it misses, and which next map it agrees with.

    ``number`` is that of the report; ``endorses`` is the digest of a successor of the
    map of ``epoch``, or empty.
    """

    KIND = "report-row"

    node_id: int
    number: int
    epoch: int
    unreachable: tuple[MissedNode, ...]
    endorses: bytes

    def misses(self, node_id: int) -> int | None:
        """Since when the node is missed, or None."""
        return next((each.since_ms for each in self.unreachable if each.node_id == node_id), None)


@dataclass(frozen=True)
class ReceiptAnchor(Encoded):
    """The last batch of receipts that a node anchored, from protocol version 4 on.

    ``height`` and ``time_ms`` are those of the block, ``before_height`` is the height of the
    node's anchor before it, 0 for none.
    """

    KIND = "receipt-anchor"

    batch: ReceiptBatch
    height: int
    time_ms: int
    before_height: int
