"""Transactions of protocol version 4 about requests for access: bytes and static checks.

Invariants and signing are those of :mod:`hcefs.ledger.transactions`.  An answer is either
grants or a refusal, never both and never neither.
Source: docs/decisions/0032-labels-requests-and-consents.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.access.facts import PURPOSES, Action
from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.ids import AccountId, AskId, GrantId, RecordId
from hcefs.ledger.genesis import TIME_MS_MAX
from hcefs.ledger.request_facts import RefusalCode

ANSWER_GRANTS_MAX = 256
"""Grants that one answer names: one for each record of a request for all of them."""


@dataclass(frozen=True)
class RequestAccess(Encoded):
    """A request for access to a record, or (``record`` None) to all records of a patient.

    Signed by who asks.  The fields mean what they mean in
    :class:`hcefs.ledger.request_facts.AskedAccess`.
    """

    KIND = "request-access"

    ask: AskId
    patient: AccountId
    record: RecordId | None
    actions: Action
    purposes: tuple[str, ...]
    not_after_ms: int
    expires_ms: int

    def check(self) -> None:
        """Check ids, actions, purposes and times.

        Raises:
            Invalid: ``bad-id``, ``no-action``, ``bad-purposes`` or ``bad-times``.
        """
        named = [bytes(self.ask), bytes(self.patient)]
        if self.record is not None:
            named.append(bytes(self.record))
        if not all(any(name) for name in named):
            raise Invalid("request-access: an id may not be all zeros", reason="bad-id")
        if not self.actions:
            raise Invalid("request-access: name at least one action", reason="no-action")
        distinct = set(self.purposes)
        if not distinct or len(distinct) != len(self.purposes) or not distinct <= PURPOSES:
            raise Invalid(
                "request-access: name at least one purpose, each once, of "
                + " ".join(sorted(PURPOSES)),
                reason="bad-purposes",
            )
        if not 0 < self.expires_ms <= self.not_after_ms <= TIME_MS_MAX:
            raise Invalid(
                "request-access: a request expires before the access that it asks for ends",
                reason="bad-times",
            )


@dataclass(frozen=True)
class AnswerRequest(Encoded):
    """The answer to a request: the grants that fulfil it, or why there are none.

    Signed by the patient; a withdrawal, by who asked.
    """

    KIND = "answer-request"

    ask: AskId
    grants: tuple[GrantId, ...]
    refusal: RefusalCode

    def check(self) -> None:
        """Check ids and that it says one thing.

        Raises:
            Invalid: ``bad-id`` or ``bad-answer``.
        """
        if not any(self.ask) or not all(any(grant) for grant in self.grants):
            raise Invalid("answer-request: an id may not be all zeros", reason="bad-id")
        refused = self.refusal is not RefusalCode.NONE
        if refused == bool(self.grants):
            raise Invalid(
                "answer-request: give either the grants or the code of a refusal",
                reason="bad-answer",
            )
        if len(self.grants) > ANSWER_GRANTS_MAX or len(set(self.grants)) != len(self.grants):
            raise Invalid(
                f"answer-request: names at most {ANSWER_GRANTS_MAX} grants, each once",
                reason="bad-answer",
            )
