"""Who asks a node about an erasure is told apart, and asks at a bounded rate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hcefs.access.facts import AccountKind
from hcefs.config import LimitsConfig
from hcefs.errors import Denied, HcefsError
from hcefs.ids import AccountId, RecordId
from hcefs.metrics import Metrics
from hcefs.services.admin_service import AdminService
from hcefs.services.rates import Rates
from hcefs.wire.v1 import admin_pb2
from tests.unit.services.test_rates import Clock

OWNER, STRANGER = AccountId(b"o" * 16), AccountId(b"s" * 16)
RECORD = RecordId(b"r" * 16)


class Answers:
    """Answers that are counted."""

    given = 0

    def answer(self, record: RecordId) -> admin_pb2.StateErasureResponse:
        self.given += 1
        return admin_pb2.StateErasureResponse(stage="done")


def asking(answers: Answers) -> Any:
    """Ask as an account that has proved itself."""
    clock, metrics, nothing = Clock(), Metrics(), SimpleNamespace()
    rates = Rates(clock, metrics, LimitsConfig(account_requests=1.0, account_denials=0.5))
    view: Any = SimpleNamespace(
        account=lambda who: SimpleNamespace(account=who, active=True, kind=AccountKind.PATIENT),
        record=lambda record: SimpleNamespace(owner=OWNER) if record == RECORD else None,
    )
    verifier: Any = SimpleNamespace(
        present_plain=lambda proof, **_: SimpleNamespace(presenter=AccountId(proof))
    )
    made: Any = answers
    unused: Any = nothing
    service = AdminService(
        clock, verifier, view, unused, metrics, unused, erasures=made, rates=rates
    )
    handler = AdminService.StateErasure.__wrapped__  # type: ignore[attr-defined]

    async def ask(who: AccountId, record: RecordId = RECORD) -> str:
        request = admin_pb2.StateErasureRequest(proof=bytes(who), record_id=bytes(record))
        try:
            answer = await handler(service, request, None)
        except HcefsError as error:
            return f"{error.reason}: {error.message}" if isinstance(error, Denied) else error.reason
        return str(answer.stage)

    return ask


async def test_an_owner_asks_at_its_rate() -> None:
    answers = Answers()
    ask = asking(answers)
    found = [await ask(OWNER) for _ in range(8)]
    assert found == ["done"] * 4 + ["too-many-requests"] * 4
    assert answers.given == 4


@pytest.mark.parametrize("record", [RECORD, RecordId(b"x" * 16)], ids=["there", "not-there"])
async def test_a_stranger_learns_nothing_and_is_stopped(record: RecordId) -> None:
    answers = Answers()
    ask = asking(answers)
    found = [await ask(STRANGER, record) for _ in range(4)]
    assert found[:2] == [await asking(Answers())(STRANGER, RecordId(b"y" * 16))] * 2
    assert found[2:] == ["too-many-denials"] * 2
    assert answers.given == 0
