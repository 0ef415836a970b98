"""Transactions of protocol version 4 about emergencies: their bytes and static checks.

Invariants and signing are those of :mod:`hcefs.ledger.transactions`.  None carries text:
a role and a reason are codes that the policy lists, and a note is only its digest.
A body that was committed once does nothing the second time, so what may be wished again
(a refusal) carries a random ``key``.
Source: docs/decisions/0034-break-glass.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.access.emergency import MINUTES_MAX, EmergencyPolicy, is_code
from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.ids import AccountId, GrantId, PutKey, RecordId
from hcefs.integrity import DIGEST_SIZE

NAMINGS_MAX = 64
"""Namings that one transaction begins or ends."""

RECORDS_MAX = 32
"""Records of one opening, or of one refusal."""


@dataclass(frozen=True)
class SetEmergencyPolicy(Encoded):
    """Another policy, if that of ``expected_number`` is in force; by the operator threshold."""

    KIND = "set-emergency-policy"

    expected_number: int
    policy: EmergencyPolicy

    def check(self) -> None:
        """Check the numbers and the policy.

        Raises:
            Invalid: ``bad-policy``.
        """
        self.policy.check()
        if self.policy.number != self.expected_number + 1:
            raise Invalid(
                "set-emergency-policy: the policy's number is the expected one plus 1",
                reason="bad-policy",
            )


@dataclass(frozen=True)
class NewNaming(Encoded):
    """One naming: a random id, the record, and a practitioner or an institution."""

    KIND = "new-naming"

    naming: GrantId
    record: RecordId
    grantee: AccountId


@dataclass(frozen=True)
class NameEmergency(Encoded):
    """Who may open records in an emergency; signed by their owner."""

    KIND = "name-emergency"

    namings: tuple[NewNaming, ...]

    def check(self) -> None:
        """Check counts and ids.

        Raises:
            Invalid: ``bad-namings`` or ``bad-id``.
        """
        if not 1 <= len(self.namings) <= NAMINGS_MAX:
            raise Invalid(
                f"name-emergency: needs 1 to {NAMINGS_MAX} namings; split it", reason="bad-namings"
            )
        for each in self.namings:
            _check_ids(each.naming, each.record, each.grantee)
        if len({each.naming for each in self.namings}) != len(self.namings) or len(
            {(each.record, each.grantee) for each in self.namings}
        ) != len(self.namings):
            raise Invalid("name-emergency: a naming stands there twice", reason="bad-namings")


@dataclass(frozen=True)
class EndNaming(Encoded):
    """The end of namings, and of what is open under them; signed by the records' owner."""

    KIND = "end-naming"

    namings: tuple[GrantId, ...]

    def check(self) -> None:
        """Check counts and ids.

        Raises:
            Invalid: ``bad-namings`` or ``bad-id``.
        """
        if not 1 <= len(self.namings) <= NAMINGS_MAX or len(set(self.namings)) != len(self.namings):
            raise Invalid(
                f"end-naming: needs 1 to {NAMINGS_MAX} namings, each once", reason="bad-namings"
            )
        _check_ids(*self.namings)


@dataclass(frozen=True)
class RefuseEmergency(Encoded):
    """That records shall be opened by nobody, or (``refuse`` false) that this wish is withdrawn.

    Signed by the records' owner.  ``key`` is random.
    """

    KIND = "refuse-emergency"

    records: tuple[RecordId, ...]
    refuse: bool
    key: PutKey

    def check(self) -> None:
        """Check counts and ids.

        Raises:
            Invalid: ``bad-records`` or ``bad-id``.
        """
        _check_records(self.records, self.KIND)
        _check_ids(self.key)


@dataclass(frozen=True)
class OpenEmergency(Encoded):
    """A practitioner opens records of one patient for a few minutes, and says why.

    ``opening`` is random; ``note_digest`` is of a note that is kept elsewhere, or empty.
    """

    KIND = "open-emergency"

    opening: GrantId
    records: tuple[RecordId, ...]
    role: str
    reason: str
    note_digest: bytes
    minutes: int

    def check(self) -> None:
        """Check ids, counts, codes and the time.

        Raises:
            Invalid: ``bad-id``, ``bad-records``, ``bad-code``, ``bad-digest`` or ``bad-times``.
        """
        _check_ids(self.opening)
        _check_records(self.records, self.KIND)
        if not is_code(self.role) or not is_code(self.reason):
            raise Invalid(
                "open-emergency: role and reason are codes of the emergency policy, not text",
                reason="bad-code",
            )
        _check_digest(self.note_digest, self.KIND)
        if not 1 <= self.minutes <= MINUTES_MAX:
            raise Invalid(
                f"open-emergency: an opening lasts 1 to {MINUTES_MAX} minutes", reason="bad-times"
            )


@dataclass(frozen=True)
class CloseEmergency(Encoded):
    """The early end of an opening.

    Signed by its opener, by the patient, or by the institution that admitted the opener.
    """

    KIND = "close-emergency"

    opening: GrantId

    def check(self) -> None:
        """Check the id.

        Raises:
            Invalid: ``bad-id``.
        """
        _check_ids(self.opening)


@dataclass(frozen=True)
class ReviewEmergency(Encoded):
    """What a reviewer found of an opening that has ended.

    Signed by the patient, by the institution that admitted the opener, or by the operator
    threshold; never by the opener.
    """

    KIND = "review-emergency"

    opening: GrantId
    justified: bool
    note_digest: bytes

    def check(self) -> None:
        """Check id and digest.

        Raises:
            Invalid: ``bad-id`` or ``bad-digest``.
        """
        _check_ids(self.opening)
        _check_digest(self.note_digest, self.KIND)


def _check_ids(*ids: bytes) -> None:
    if not all(any(value) for value in ids):
        raise Invalid("an id may not be all zeros", reason="bad-id")


def _check_records(records: tuple[RecordId, ...], kind: str) -> None:
    if not 1 <= len(records) <= RECORDS_MAX or len(set(records)) != len(records):
        raise Invalid(f"{kind}: names 1 to {RECORDS_MAX} records, each once", reason="bad-records")
    _check_ids(*records)


def _check_digest(digest: bytes, kind: str) -> None:
    if len(digest) not in (0, DIGEST_SIZE):
        raise Invalid(
            f"{kind}: the digest of a note has {DIGEST_SIZE} bytes, or none", reason="bad-digest"
        )
