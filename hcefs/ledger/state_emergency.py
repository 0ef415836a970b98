"""The part of the ledger's state that is about emergencies: its keys, and reading them.

The keys are listed in :mod:`hcefs.ledger.state`.  Invariants: a row ``emergency-named``
stands exactly for each naming that has not ended, ``emergency-unreviewed`` for each opening
without a review.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from hcefs.access.emergency import (
    EmergencyNaming,
    EmergencyOpening,
    EmergencyTotals,
)
from hcefs.ids import AccountId, GrantId, PutKey, RecordId
from hcefs.ledger.state import State, naming_key

EMERGENCY_TOTALS_KEY = b"emergency-totals"
UNREVIEWED = b"emergency-unreviewed/"


def named_prefix(record: RecordId) -> bytes:
    return b"emergency-named/" + record + b"/"


def named_key(record: RecordId, grantee: AccountId) -> bytes:
    return named_prefix(record) + grantee


def named_of_prefix(owner: AccountId) -> bytes:
    return b"emergency-named-of/" + owner + b"/"


def named_of_key(owner: AccountId, naming: GrantId) -> bytes:
    return named_of_prefix(owner) + naming


def withdrawn_key(owner: AccountId, key: PutKey) -> bytes:
    return b"emergency-withdrawn/" + owner + b"/" + key


def opening_key(opening: GrantId) -> bytes:
    return b"emergency-opening/" + opening


def openings_of_prefix(account: AccountId) -> bytes:
    return b"emergency-openings-of/" + account + b"/"


def openings_of_key(account: AccountId, height: int, opening: GrantId) -> bytes:
    return openings_of_prefix(account) + height.to_bytes(8, "big") + b"/" + opening


def unreviewed_key(review_by_ms: int, opening: GrantId) -> bytes:
    return UNREVIEWED + review_by_ms.to_bytes(8, "big") + b"/" + opening


def unreviewed_of_prefix(opener: AccountId) -> bytes:
    return b"emergency-unreviewed-of/" + opener + b"/"


def unreviewed_of_key(opener: AccountId, opening: GrantId) -> bytes:
    return unreviewed_of_prefix(opener) + opening


class Emergencies:
    """What a state says about emergencies.

    Raises (every method):
        Corrupt: ``bad-state``: a row cannot be read.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def opening(self, opening: GrantId) -> EmergencyOpening | None:
        """The opening, or None."""
        return self._state.fact(EmergencyOpening, opening_key(opening))

    def totals(self) -> EmergencyTotals:
        """How many there were and are."""
        return self._state.fact(EmergencyTotals, EMERGENCY_TOTALS_KEY) or EmergencyTotals()

    def naming_for(self, record: RecordId, grantee: AccountId) -> GrantId | None:
        """The naming of an account for a record that stands, or None."""
        found = self._state.get(named_key(record, grantee))
        return None if found is None else GrantId(found)

    def standing(self, record: RecordId, most: int) -> int:
        """How many namings of a record stand, counted up to ``most``."""
        return sum(1 for _ in islice(self._state.scan(named_prefix(record)), most))

    def namings_of(self, owner: AccountId, most: int) -> list[EmergencyNaming]:
        """The namings of an owner that stand, by id; at most ``most``."""
        prefix = named_of_prefix(owner)
        found = []
        for key, _ in islice(self._state.scan(prefix), most):
            naming = self._state.fact(EmergencyNaming, naming_key(GrantId(key[len(prefix) :])))
            if naming is not None:
                found.append(naming)
        return found

    def openings_of(self, account: AccountId, most: int) -> list[EmergencyOpening]:
        """The newest openings of a patient or by a practitioner, oldest first.

        Reads the keys of all of them, and the rows of ``most``.
        """
        keys = deque((key for key, _ in self._state.scan(openings_of_prefix(account))), most)
        return self._openings(GrantId(key[-GrantId.SIZE :]) for key in keys)

    def unreviewed(self, most: int) -> list[EmergencyOpening]:
        """Openings without a review, the one that is due first in front; at most ``most``."""
        keys = [key for key, _ in islice(self._state.scan(UNREVIEWED), most)]
        return self._openings(GrantId(key[-GrantId.SIZE :]) for key in keys)

    def unreviewed_of(self, opener: AccountId, most: int) -> int:
        """How many openings by a practitioner have no review, counted up to ``most``."""
        return sum(1 for _ in islice(self._state.scan(unreviewed_of_prefix(opener)), most))

    def overdue(self, now_ms: int, most: int) -> int:
        """How many openings should have been reviewed by now, counted up to ``most``."""
        count = 0
        for key, _ in islice(self._state.scan(UNREVIEWED), most):
            start = len(UNREVIEWED)
            if int.from_bytes(key[start : start + 8], "big") > now_ms:
                break
            count += 1
        return count

    def _openings(self, ids: Iterable[GrantId]) -> list[EmergencyOpening]:
        found = (self.opening(each) for each in ids)
        return [each for each in found if each is not None]
