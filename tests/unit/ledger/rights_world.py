"""A small ledger under protocol version 4, in which rights are asked for and given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hcefs.access.facts import AccountKind, Action
from hcefs.ids import AskId
from hcefs.ledger.block import PROTOCOL_RIGHTS
from hcefs.ledger.request_facts import AskedAccess, RefusalCode
from hcefs.ledger.transactions import Upgrade
from hcefs.ledger.transactions_requests import AnswerRequest, RequestAccess
from tests.unit.ledger.scenario import DAY_MS, START_MS, Scenario, grant_id, record_id, seed

OPERATORS = ("o1", "o2")


def ask_id(name: str) -> AskId:
    return AskId(seed("ask " + name)[:16])


class RightsWorld(Scenario):
    """``populate`` of :class:`Scenario`, a second patient with the record ``s``, version 4."""

    def __init__(self) -> None:
        super().__init__()
        self.upgrade(PROTOCOL_RIGHTS)
        self.populate()
        self.register("pat2", AccountKind.PATIENT, "clinic")
        self.submit(self.opening("s", "pat2"), "pat2")

    def upgrade(self, to: int) -> None:
        """Bring the rules to a version, one step after the other."""
        for version in range(2, to + 1):
            self.submit(Upgrade(version, self.height + 2), *OPERATORS)
            self.time_ms += 1
            self.commit([])

    def ask(self, name: str, **changes: Any) -> RequestAccess:
        """``doc``'s request to read ``r`` of ``pat``, which tests vary."""
        asked = RequestAccess(
            ask=ask_id(name),
            patient=self.account("pat"),
            record=record_id("r"),
            actions=Action.READ,
            purposes=("TREAT", "ETREAT"),
            not_after_ms=START_MS + 30 * DAY_MS,
            expires_ms=self.time_ms + DAY_MS,
        )
        return replace(asked, **changes)

    def asked(self, name: str) -> AskedAccess:
        found = self.view.asked(ask_id(name))
        assert found is not None
        return found

    @staticmethod
    def approval(name: str, *grants: str) -> AnswerRequest:
        return AnswerRequest(
            ask_id(name), tuple(grant_id(grant) for grant in grants), RefusalCode.NONE
        )

    @staticmethod
    def refusing(name: str, code: RefusalCode = RefusalCode.NOT_NEEDED) -> AnswerRequest:
        return AnswerRequest(ask_id(name), (), code)
