"""The facts of the ledger about emergencies: who was named, what was opened, who looked at it.

A *naming* is a dormant right: the record's owner says who may read in an emergency and
leaves a key box for them, and nothing is released by it.  An *opening* wakes it: the
practitioner's signed statement of role, reason and records, which the ledger turns into
one short grant for each record, *under* the naming (:attr:`Grant.parent`).  So everything
that already checks, cuts and lists grants does so for emergencies, too; what else an
emergency needs is decided in :mod:`hcefs.access.rights`.

Invariants: no fact here holds text that somebody wrote, only codes that the operators'
policy lists and digests; without a policy nothing can be opened.
Source: docs/decisions/0034-break-glass.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from hcefs.access.facts import Account, AccountKind, Action, Grant
from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.ids import AccountId, GrantId, RecordId
from hcefs.integrity import blake3_digest

MINUTES_MAX: Final = 60
"""Longest opening that any policy may allow."""

REVIEW_HOURS_MAX: Final = 30 * 24
CODES_MAX: Final = 64
PURPOSE: Final = "BTG"
"""The purpose of use of every request under an opening: HL7 v3-ActReason 'break the glass'."""

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)
_GRANT_TAG = b"hcefs/v1/emergency-grant\x00"
_NO_END = (1 << 63) - 1


@dataclass(frozen=True)
class EmergencyPolicy(Encoded):
    """What operators allow; number 0 is the default, under which nothing is opened.

    ``roles`` and ``reasons`` are the codes that an opening may state.  Where
    ``refusal_wins`` a record whose owner refuses is opened by nobody, not even under an
    earlier naming; where not, the refusal is shown and the naming stands.
    """

    KIND = "emergency-policy"

    number: int = 0
    allowed: bool = False
    roles: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    minutes_max: int = MINUTES_MAX
    review_hours: int = 72
    refusal_wins: bool = True

    def check(self) -> None:
        """Check bounds and codes.

        Raises:
            Invalid: ``bad-policy``.
        """
        if (
            not 0 <= self.number < 1 << 63
            or not 1 <= self.minutes_max <= MINUTES_MAX
            or not 1 <= self.review_hours <= REVIEW_HOURS_MAX
        ):
            raise Invalid(
                f"an emergency policy allows 1 to {MINUTES_MAX} minutes and asks for a review "
                f"within 1 to {REVIEW_HOURS_MAX} hours",
                reason="bad-policy",
            )
        for codes in (self.roles, self.reasons):
            if (
                len(codes) > CODES_MAX
                or list(codes) != sorted(set(codes))
                or not all(map(is_code, codes))
            ):
                raise Invalid(
                    f"the roles and reasons of an emergency policy are at most {CODES_MAX} codes "
                    "each, in ascending order, of letters, digits, dots and dashes",
                    reason="bad-policy",
                )
        if self.allowed and not (self.roles and self.reasons):
            raise Invalid(
                "a policy that allows openings lists the roles and the reasons that they state",
                reason="bad-policy",
            )


@dataclass(frozen=True)
class EmergencyNaming(Encoded):
    """Who may open one record in an emergency; ``ended_height`` 0 means it stands.

    ``grantee`` is a practitioner, or an institution: then every practitioner that it
    admitted.  The key boxes of the naming are sealed to ``grantee``.
    """

    KIND = "emergency-naming"

    naming: GrantId
    record: RecordId
    owner: AccountId
    grantee: AccountId
    height: int
    ended_height: int

    def covers(self, opener: Account) -> bool:
        """Whether an account is whom this naming means."""
        return opener.kind is AccountKind.PRACTITIONER and self.grantee in (
            opener.account,
            opener.admitted_by,
        )

    def boxed(self) -> Grant:
        """What key boxes of the naming must fit; it permits nothing and is on no ledger."""
        return Grant(
            grant=self.naming,
            record=self.record,
            blob=None,
            range_start=0,
            range_length=0,
            granter=self.owner,
            grantee=self.grantee,
            actions=Action.READ,
            purposes=(PURPOSE,),
            not_before_ms=0,
            not_after_ms=_NO_END,
            parent=None,
            height=self.height,
            revoked_height=self.ended_height,
        )


@dataclass(frozen=True)
class EmergencyRefusal(Encoded):
    """That the owner of a record wants it opened by nobody; its absence means no such wish."""

    KIND = "emergency-refusal"

    record: RecordId
    height: int


@dataclass(frozen=True)
class EmergencyReview(Encoded):
    """What one reviewer found; ``note_digest`` is of a note kept elsewhere, or empty."""

    KIND = "emergency-review"

    reviewer: AccountId
    justified: bool
    note_digest: bytes
    time_ms: int


@dataclass(frozen=True)
class EmergencyOpening(Encoded):
    """One emergency: by whom, in what role, for what reason, which records, until when.

    ``until_ms`` is the moment of closing once it was closed.  ``review_by_ms`` is by when
    somebody else must have looked at it.  ``closed_by`` zero means that time ended it.
    """

    KIND = "emergency-opening"

    opening: GrantId
    patient: AccountId
    opener: AccountId
    institution: AccountId
    role: str
    reason: str
    note_digest: bytes
    records: tuple[RecordId, ...]
    opened_ms: int
    until_ms: int
    review_by_ms: int
    closed_by: AccountId
    reviews: tuple[EmergencyReview, ...]
    height: int

    def is_open(self, now_ms: int) -> bool:
        """Whether its time has not ended."""
        return now_ms < self.until_ms

    def is_overdue(self, now_ms: int) -> bool:
        """Whether nobody looked at it in time."""
        return not self.reviews and now_ms >= self.review_by_ms

    def grants(self) -> tuple[GrantId, ...]:
        """The grants that it made, in the order of its records."""
        return tuple(grant_of(self.opening, record) for record in self.records)


@dataclass(frozen=True)
class EmergencyTotals(Encoded):
    """How many openings there were, how many still wait for a review, and what reviews found.

    ``unjustified`` counts openings with at least one such review.
    """

    KIND = "emergency-totals"

    openings: int = 0
    unreviewed: int = 0
    unjustified: int = 0


class EmergencyView(Protocol):
    """Read access to what the ledger knows about emergencies, at one height."""

    def grant(self, grant: GrantId) -> Grant | None:
        """The grant, revoked or not, or None."""

    def emergency_naming(self, naming: GrantId) -> EmergencyNaming | None:
        """The naming, ended or not, or None."""

    def emergency_policy(self) -> EmergencyPolicy:
        """What operators allow."""

    def emergency_refused(self, record: RecordId) -> bool:
        """Whether the record's owner refuses."""


def grant_of(opening: GrantId, record: RecordId) -> GrantId:
    """The id of the grant that an opening makes for one of its records."""
    return GrantId(blake3_digest(_GRANT_TAG + opening + record)[: GrantId.SIZE])


def boxed_grant(view: EmergencyView, name: GrantId) -> Grant | None:
    """What the key boxes of this name must fit: a grant, or a naming; None if there is neither."""
    found = view.grant(name)
    if found is not None:
        return found
    naming = view.emergency_naming(name)
    return None if naming is None else naming.boxed()


def box_name(view: EmergencyView, name: GrantId) -> GrantId:
    """Under which name the boxes of a permitted grant lie: its own, or that of its naming.

    The caller has had the grant permitted: this only finds.
    """
    found = view.grant(name) if name else None
    if (
        found is not None
        and found.parent is not None
        and view.emergency_naming(found.parent) is not None
    ):
        return found.parent
    return name


def is_code(text: str) -> bool:
    """Whether a text is a code and not a sentence: 1 to 32 letters, digits, dots and dashes."""
    return _CODE.fullmatch(text) is not None
