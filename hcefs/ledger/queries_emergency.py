"""The ledger's answers about emergencies: who may see which naming and which opening.

As in :mod:`hcefs.ledger.queries`: what is unknown and what is not allowed get the same
answer, every answer is of one height, and the number of facts in it is bounded.
"""

from __future__ import annotations

from hcefs.access.emergency import (
    EmergencyNaming,
    EmergencyOpening,
    EmergencyPolicy,
    EmergencyRefusal,
    EmergencyTotals,
)
from hcefs.access.facts import Account, AccountKind
from hcefs.errors import NotFound
from hcefs.ids import AccountId, GrantId
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.state_emergency import Emergencies

NAMINGS_MAX = 4096
OPENINGS_MAX = 256
UNREVIEWED_MAX = 4096
"""Most openings without a review that are looked through for one answer."""


class EmergencyQuestions:
    """Answers questions about emergencies from one log."""

    def __init__(self, log: LedgerLog) -> None:
        self._log = log

    def policy(self, asker: Account | None) -> EmergencyPolicy:
        """What operators allow; for every active account."""
        _active(asker)
        return self._log.emergency_policy()

    def namings(self, asker: Account | None, patient: AccountId) -> list[EmergencyNaming]:
        """Standing namings of a patient: all for the patient, to others those that mean them."""
        account = _active(asker)
        found = self._state().namings_of(patient, NAMINGS_MAX)
        if account.account == patient or account.kind is AccountKind.NODE:
            return found
        return [each for each in found if each.covers(account) or each.grantee == account.account]

    def refusals(self, asker: Account | None) -> list[EmergencyRefusal]:
        """The refusals of the asker, for its own records."""
        view = self._log.snapshot()
        records = view.records_of(_active(asker).account)
        found = (view.emergency_refusal(record.record) for record in records)
        return [each for each in found if each is not None]

    def opening(self, asker: Account | None, opening: GrantId) -> EmergencyOpening:
        """One opening; for its patient, opener and institution, for operators and nodes."""
        account = _active(asker)
        found = self._state().opening(opening)
        if found is None or not (
            account.account in (found.patient, found.opener, found.institution)
            or account.kind in (AccountKind.OPERATOR, AccountKind.NODE)
        ):
            raise _not_found()
        return found

    def openings(self, asker: Account | None) -> list[EmergencyOpening]:
        """What concerns the asker.

        A patient's or a practitioner's newest openings, reviewed or not; for an
        institution, operators and nodes those that wait for a review.
        """
        account, state = _active(asker), self._state()
        if account.kind in (AccountKind.OPERATOR, AccountKind.NODE):
            return state.unreviewed(OPENINGS_MAX)
        if account.kind is AccountKind.INSTITUTION:
            waiting = state.unreviewed(UNREVIEWED_MAX)
            own = [each for each in waiting if each.institution == account.account]
            return own[:OPENINGS_MAX]
        return state.openings_of(account.account, OPENINGS_MAX)

    def totals(self, asker: Account | None) -> EmergencyTotals:
        """How many openings there were, and how many wait; for nodes and operators."""
        account = _active(asker)
        if account.kind not in (AccountKind.OPERATOR, AccountKind.NODE):
            raise _not_found()
        return self._state().totals()

    def _state(self) -> Emergencies:
        return Emergencies(self._log.snapshot().state)


def _active(asker: Account | None) -> Account:
    if asker is None or not asker.active:
        raise _not_found()
    return asker


def _not_found() -> NotFound:
    return NotFound(
        "the ledger has no such thing that this account may see: check the id",
        reason="not-found",
    )
