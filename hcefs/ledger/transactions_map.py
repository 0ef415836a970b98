"""Transactions of protocol version 2 about waves and upkeep: their bytes and static checks.

Invariants and signing are those of :mod:`hcefs.ledger.transactions`.  No two reports
or policies that are meant to count have one body, because a body that was committed
once does nothing the second time; their numbers see to it.
Source: docs/decisions/0018-protocol-version-2.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.ledger.cluster_facts import ArrivedSeat, UpkeepPolicy
from hcefs.placement.cluster_map import BITS_MAX, DIGEST_SIZE, LABEL_MAX, NODES_MAX, SEATS_MAX

ARRIVED_SEATS_MAX = 4096
NUMBER_END = 1 << 63
_NODE_ID_MAX = 0xFFFF


@dataclass(frozen=True)
class SeatsArrived(Encoded):
    """Seats in flight of ``epoch`` whose shards are all here; signed by the destination.

    A repeat changes nothing.  The last seats of a wave bring the next map.
    """

    KIND = "seats-arrived"

    epoch: int
    seats: tuple[ArrivedSeat, ...]

    def check(self) -> None:
        """Check counts and ranges.

        Raises:
            Invalid: ``bad-epoch``, ``bad-seats`` or ``duplicate-seat``.
        """
        _check_epoch(self.epoch, self.KIND)
        if not 1 <= len(self.seats) <= ARRIVED_SEATS_MAX:
            raise Invalid(
                f"seats-arrived: needs 1 to {ARRIVED_SEATS_MAX} seats; split it",
                reason="bad-seats",
            )
        for seat in self.seats:
            if (
                not 1 <= len(seat.profile) <= LABEL_MAX
                or not 0 <= seat.partition < 1 << BITS_MAX
                or not 0 <= seat.seat < SEATS_MAX
            ):
                raise Invalid("seats-arrived: no table has such a seat", reason="bad-seats")
        if len(set(self.seats)) != len(self.seats):
            raise Invalid("seats-arrived: a seat is named twice", reason="duplicate-seat")


@dataclass(frozen=True)
class SetUpkeepPolicy(Encoded):
    """Another policy, if that of ``expected_number`` is in force; by the operator threshold."""

    KIND = "set-upkeep-policy"

    expected_number: int
    policy: UpkeepPolicy

    def check(self) -> None:
        """Check the numbers and the policy.

        Raises:
            Invalid: ``bad-policy``.
        """
        self.policy.check()
        if self.policy.number != self.expected_number + 1:
            raise Invalid(
                "set-upkeep-policy: the policy's number is the expected one plus 1",
                reason="bad-policy",
            )


@dataclass(frozen=True)
class NodeReport(Encoded):
    """Whom a node cannot reach, and which next map it agrees with; replaces its last report.

    Signed by the node.  ``unreachable`` are ascending node ids.  ``endorses`` is the
    digest of a successor of the map of ``epoch``, or empty.  ``number`` is higher than
    that of the node's last report, so that an old one cannot be brought again; and as the
    body does not name the node, no other node's report may have it, or the later one of
    two would be taken for a repeat.
    """

    KIND = "node-report"

    epoch: int
    unreachable: tuple[int, ...]
    endorses: bytes
    number: int

    def check(self) -> None:
        """Check ranges and order.

        Raises:
            Invalid: ``bad-epoch``, ``bad-unreachable``, ``bad-digest`` or ``bad-number``.
        """
        _check_epoch(self.epoch, self.KIND)
        ids = self.unreachable
        if (
            len(ids) > NODES_MAX
            or any(not 1 <= node_id <= _NODE_ID_MAX for node_id in ids)
            or any(after <= before for before, after in pairwise(ids))
        ):
            raise Invalid(
                f"node-report: unreachable are at most {NODES_MAX} node ids in ascending order",
                reason="bad-unreachable",
            )
        if len(self.endorses) not in (0, DIGEST_SIZE):
            raise Invalid(
                "node-report: endorses is empty or the 32 byte digest of a map",
                reason="bad-digest",
            )
        if not 1 <= self.number < NUMBER_END:
            raise Invalid("node-report: the number is out of range", reason="bad-number")


def _check_epoch(epoch: int, kind: str) -> None:
    if not 1 <= epoch < 1 << 63:
        raise Invalid(f"{kind}: epoch is out of range", reason="bad-epoch")
