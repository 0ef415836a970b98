"""Transactions of protocol version 4 about the end of records: their bytes and static checks.

Invariants and signing are those of :mod:`hcefs.ledger.transactions`.  Where an institution
signs, ``standing`` names why it may: a grant on the record that lets it, or an account that
it admitted, append; zero says that it admitted the record's owner.
Source: docs/decisions/0036-erasure-and-legal-hold.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.ids import GrantId, HoldId, RecordId
from hcefs.integrity import DIGEST_SIZE
from hcefs.ledger.genesis import TIME_MS_MAX

_JURISDICTION = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,13})?")


@dataclass(frozen=True)
class SetRetention(Encoded):
    """Until when a record must be kept, and by which law.

    ``jurisdiction`` is an ISO 3166 code of a country or a subdivision (or ``EU``).  Signed by
    the record's owner while the record is empty, by an institution, or by the operators.
    """

    KIND = "set-retention"

    record: RecordId
    retain_until_ms: int
    jurisdiction: str
    standing: GrantId

    def check(self) -> None:
        """Check id, time and code.

        Raises:
            Invalid: ``bad-id``, ``bad-times`` or ``bad-jurisdiction``.
        """
        _check_record(self.record, self.KIND)
        if not 0 < self.retain_until_ms <= TIME_MS_MAX:
            raise Invalid("set-retention: retain_until is not a time", reason="bad-times")
        if _JURISDICTION.fullmatch(self.jurisdiction) is None:
            raise Invalid(
                "set-retention: name the jurisdiction by its ISO 3166 code, such as DE or DE-BY",
                reason="bad-jurisdiction",
            )


@dataclass(frozen=True)
class PlaceHold(Encoded):
    """A legal hold: the record is not erased while it stands.

    Signed by an institution or by the operators.  ``hold`` is random; ``case_digest`` is
    that of the document that orders it.
    """

    KIND = "place-hold"

    record: RecordId
    hold: HoldId
    case_digest: bytes
    standing: GrantId

    def check(self) -> None:
        """Check ids and digest.

        Raises:
            Invalid: ``bad-id`` or ``bad-digest``.
        """
        _check_record(self.record, self.KIND)
        _check_hold(self.hold, self.KIND)
        if len(self.case_digest) != DIGEST_SIZE:
            raise Invalid(
                f"place-hold: the digest of the case has {DIGEST_SIZE} bytes", reason="bad-digest"
            )


@dataclass(frozen=True)
class LiftHold(Encoded):
    """The end of one hold; signed by the institution that placed it, or by the operators."""

    KIND = "lift-hold"

    record: RecordId
    hold: HoldId

    def check(self) -> None:
        """Check ids.

        Raises:
            Invalid: ``bad-id``.
        """
        _check_record(self.record, self.KIND)
        _check_hold(self.hold, self.KIND)


@dataclass(frozen=True)
class EraseRecord(Encoded):
    """The end of a record: signed by its owner, or by the operators.

    ``order_digest`` is that of the order by which the operators act; empty for the owner,
    who needs none.
    """

    KIND = "erase-record"

    record: RecordId
    order_digest: bytes

    def check(self) -> None:
        """Check id and digest.

        Raises:
            Invalid: ``bad-id`` or ``bad-digest``.
        """
        _check_record(self.record, self.KIND)
        if len(self.order_digest) not in (0, DIGEST_SIZE):
            raise Invalid(
                f"erase-record: the digest of an order has {DIGEST_SIZE} bytes",
                reason="bad-digest",
            )


def _check_record(record: RecordId, kind: str) -> None:
    if not record:
        raise Invalid(f"{kind}: the record's id must not be zero", reason="bad-id")


def _check_hold(hold: HoldId, kind: str) -> None:
    if not hold:
        raise Invalid(f"{kind}: the hold's id must not be zero", reason="bad-id")
