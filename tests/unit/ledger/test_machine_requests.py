"""Requests for access: who may ask whom, how many, and what answers them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hcefs.access.facts import AccountKind, Action
from hcefs.errors import Invalid
from hcefs.ids import AccountId, AskId, RecordId
from hcefs.ledger.request_facts import RefusalCode
from hcefs.ledger.rules_requests import (
    EXPIRES_AHEAD_MS,
    OPEN_BY_REQUESTER_MAX,
    OPEN_OF_PAIR_MAX,
    OPEN_TO_PATIENT_MAX,
)
from hcefs.ledger.state import ask_key, asks_by_key, asks_by_prefix, asks_to_key, asks_to_prefix
from hcefs.ledger.transactions import DeactivateAccount, RevokeGrant
from hcefs.ledger.transactions_erasure import EraseRecord
from hcefs.ledger.transactions_requests import AnswerRequest
from tests.unit.ledger.rights_world import RightsWorld, ask_id
from tests.unit.ledger.scenario import (
    DAY_MS,
    START_MS,
    Scenario,
    grant_id,
    public_key,
    record_id,
    seed,
)


@pytest.fixture
def world() -> RightsWorld:
    return RightsWorld()


def test_before_version_4_nobody_asks() -> None:
    world = Scenario().populate()
    asked = RightsWorld.ask(world, "q")  # type: ignore[arg-type]
    assert world.refusal(asked, "doc").reason == "unsupported"
    assert world.refusal(RightsWorld.refusing("q"), "pat").reason == "unsupported"


def test_a_request_conveys_nothing_until_it_is_answered_by_a_grant(world: RightsWorld) -> None:
    world.submit(world.ask("q"), "doc")
    asked = world.asked("q")
    assert (asked.requester, asked.answered_height) == (world.account("doc"), 0)
    assert not asked.approved
    assert world.view.grants_to(world.account("doc")) == []
    assert world.view.asks_to(world.account("pat")) == [asked]
    world.submit(world.grant("g", "doc"), "pat")
    world.submit(world.approval("q", "g"), "pat")
    answered = world.asked("q")
    assert answered.approved
    assert answered.grants == (grant_id("g"),)
    assert answered.answered_height == world.height
    assert world.view.asks_to(world.account("pat")) == []
    assert world.view.asks_by(world.account("doc")) == [answered]


@pytest.mark.parametrize(
    ("change", "signer", "reason"),
    [
        ({}, "n1", "wrong-kind"),
        ({}, "o1", "wrong-kind"),
        ({}, "pat", "own-record"),
        ({"patient": "doc2"}, "doc", "unknown-patient"),
        ({"patient": "nobody"}, "doc", "unknown-patient"),
        # Another's record and one that does not exist: the same answer.
        ({"record": record_id("s")}, "doc", "unknown-record"),
        ({"record": record_id("none")}, "doc", "unknown-record"),
        ({"expires_ms": 0}, "doc", "bad-times"),
        ({"expires_ms": EXPIRES_AHEAD_MS + 1}, "doc", "bad-times"),
    ],
)
def test_asking_is_refused(
    world: RightsWorld, change: dict[str, Any], signer: str, reason: str
) -> None:
    world.register("n1", AccountKind.NODE, "o1", "o2")
    if "patient" in change:
        change = {"patient": world.account(change["patient"])}
    if "expires_ms" in change:
        change = {"expires_ms": world.time_ms + change["expires_ms"]}
        change["not_after_ms"] = START_MS + 365 * DAY_MS
    assert world.refusal(world.ask("q", **change), signer).reason == reason


def test_a_request_is_made_once(world: RightsWorld) -> None:
    world.submit(world.ask("q"), "doc")
    assert world.refusal(world.ask("q", actions=Action.APPEND), "doc2").reason == "request-exists"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ask": AskId.zero()}, "bad-id"),
        ({"patient": AccountId.zero()}, "bad-id"),
        ({"record": RecordId.zero()}, "bad-id"),
        ({"actions": Action(0)}, "no-action"),
        ({"purposes": ()}, "bad-purposes"),
        ({"purposes": ("TREAT", "TREAT")}, "bad-purposes"),
        ({"purposes": ("CURIOSITY",)}, "bad-purposes"),
        ({"expires_ms": 0}, "bad-times"),
        ({"not_after_ms": 1}, "bad-times"),
    ],
)
def test_static_checks_of_a_request(
    world: RightsWorld, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Invalid) as caught:
        world.ask("q", **change).check()
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (AnswerRequest(AskId.zero(), (), RefusalCode.NOT_NEEDED), "bad-id"),
        (AnswerRequest(ask_id("q"), (), RefusalCode.NONE), "bad-answer"),
        (AnswerRequest(ask_id("q"), (grant_id("g"),), RefusalCode.TOO_WIDE), "bad-answer"),
        (AnswerRequest(ask_id("q"), (grant_id("g"),) * 2, RefusalCode.NONE), "bad-answer"),
    ],
)
def test_static_checks_of_an_answer(answer: AnswerRequest, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        answer.check()
    assert caught.value.reason == reason


def test_who_answers(world: RightsWorld) -> None:
    world.submit(world.ask("q"), "doc")
    refusing = world.refusing("q")
    withdrawing = world.refusing("q", RefusalCode.WITHDRAWN)
    assert world.refusal(refusing, "doc2").reason == "unknown-request"
    assert world.refusal(world.refusing("none"), "pat").reason == "unknown-request"
    assert world.refusal(refusing, "doc").reason == "not-the-patient"
    assert world.refusal(withdrawing, "pat").reason == "not-the-patient"
    world.submit(refusing, "pat")
    assert world.asked("q").refusal is RefusalCode.NOT_NEEDED
    assert world.refusal(refusing, "pat").reason == "already-answered"
    assert world.refusal(withdrawing, "doc").reason == "already-answered"
    world.submit(world.ask("p"), "doc")
    world.submit(world.refusing("p", RefusalCode.WITHDRAWN), "doc")
    assert world.asked("p").refusal is RefusalCode.WITHDRAWN


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"actions": Action.READ | Action.APPEND}, "wider-than-asked"),
        ({"actions": Action.SHARE}, "wider-than-asked"),
        ({"purposes": ("TREAT", "HRESCH")}, "wider-than-asked"),
        ({"not_after_ms": START_MS + 30 * DAY_MS + 1}, "wider-than-asked"),
        ({"record": record_id("r2")}, "wider-than-asked"),
        ({"grantee": "doc2"}, "not-an-answer"),
    ],
)
def test_an_answer_is_never_wider_than_asked(
    world: RightsWorld, change: dict[str, Any], reason: str
) -> None:
    world.submit(world.opening("r2", "pat"), "pat")
    world.submit(world.ask("q"), "doc")
    if "grantee" in change:
        change = {"grantee": world.account(change["grantee"])}
    world.submit(replace(world.grant("g", "doc"), **change), "pat")
    assert world.refusal(world.approval("q", "g"), "pat").reason == reason


def test_an_answer_is_a_live_grant_of_the_patient_since_the_request(world: RightsWorld) -> None:
    world.submit(world.grant("old", "doc"), "pat")
    world.submit(world.ask("q", record=None), "doc")
    world.submit(replace(world.grant("other", "doc"), record=record_id("s")), "pat2")
    world.submit(world.grant("dead", "doc"), "pat")
    world.submit(RevokeGrant(grant_id("dead"), 1, public_key("next")), "pat")
    short = replace(world.grant("short", "doc"), not_after_ms=world.time_ms + 5)
    world.submit(short, "pat")
    world.time_ms += 5
    for name in ("old", "other", "dead", "short"):
        assert world.refusal(world.approval("q", name), "pat").reason == "not-an-answer", name
    assert world.refusal(world.approval("q", "none"), "pat").reason == "unknown-grant"


def test_a_request_for_all_records_is_answered_by_a_grant_on_each(world: RightsWorld) -> None:
    world.submit(world.opening("r2", "pat"), "pat")
    world.submit(world.ask("q", record=None), "doc")
    world.submit(world.grant("g", "doc"), "pat")
    world.submit(world.grant("g2", "doc", record="r2"), "pat")
    world.submit(world.approval("q", "g", "g2"), "pat")
    assert len(world.asked("q").grants) == 2


def test_an_expired_request_is_not_answered_and_is_forgotten(world: RightsWorld) -> None:
    world.submit(world.ask("q"), "doc")
    world.time_ms = world.asked("q").expires_ms
    assert world.refusal(world.refusing("q"), "pat").reason == "request-expired"
    world.submit(world.ask("p"), "doc")
    assert world.view.asked(ask_id("q")) is None
    gone = (
        ask_key(ask_id("q")),
        asks_by_key(world.account("doc"), ask_id("q")),
        asks_to_key(world.account("pat"), ask_id("q")),
    )
    assert all(world.state.get(key) is None for key in gone)


def test_open_requests_are_bounded_for_each_pair(world: RightsWorld) -> None:
    for number in range(OPEN_OF_PAIR_MAX):
        world.submit(world.ask(f"q{number}"), "doc")
    assert world.refusal(world.ask("more"), "doc").reason == "too-many-requests"
    world.submit(world.ask("others"), "doc2")
    world.submit(world.refusing("q0"), "pat")
    world.submit(world.ask("more"), "doc")


def _fill(world: RightsWorld, requester: str, patient: str, count: int) -> None:
    """Open requests written into the state at once: thousands of signatures prove nothing more."""
    world.submit(world.ask("model"), "doc")
    model = world.asked("model")
    writes: dict[bytes, bytes | None] = {}
    for number in range(count):
        name = f"{requester} {patient} {number}"
        by = AccountId(requester.encode().ljust(12, b"-") + number.to_bytes(4, "big"))
        to = AccountId(patient.encode().ljust(12, b"-") + number.to_bytes(4, "big"))
        asked = replace(
            model,
            ask=ask_id(name),
            requester=world.account("doc2") if requester == "doc2" else by,
            patient=world.account("pat") if patient == "pat" else to,
        )
        writes |= {
            ask_key(asked.ask): asked.encode(),
            asks_by_key(asked.requester, asked.ask): b"",
            asks_to_key(asked.patient, asked.ask): b"",
        }
    world.state.write(writes)


def test_open_requests_are_bounded_for_each_requester(world: RightsWorld) -> None:
    _fill(world, "doc2", "any", OPEN_BY_REQUESTER_MAX)
    assert world.refusal(world.ask("q"), "doc2").reason == "too-many-requests"
    assert len(list(world.state.scan(asks_by_prefix(world.account("doc2"))))) == 64
    world.submit(world.ask("q"), "doc")


def test_open_requests_are_bounded_for_each_patient(world: RightsWorld) -> None:
    _fill(world, "any", "pat", OPEN_TO_PATIENT_MAX)
    assert world.refusal(world.ask("q"), "doc2").reason == "too-many-requests"
    world.time_ms += 2 * DAY_MS
    world.submit(world.ask("q"), "doc2")
    assert len(list(world.state.scan(asks_to_prefix(world.account("pat"))))) == 1


def test_who_was_deactivated_neither_asks_nor_is_asked(world: RightsWorld) -> None:
    world.submit(DeactivateAccount(world.account("doc")), "clinic")
    assert world.refusal(world.ask("q"), "doc").reason == "inactive-account"
    world.submit(DeactivateAccount(world.account("pat")), "clinic")
    assert world.refusal(world.ask("q"), "doc2").reason == "unknown-patient"


def test_nobody_asks_for_an_erased_record(world: RightsWorld) -> None:
    world.submit(EraseRecord(record_id("r"), seed("order")), "o1", "o2")
    refusals = [
        world.refusal(world.ask("q", record=record_id(name)), "doc") for name in ("r", "none")
    ]
    assert [(each.reason, each.message) for each in refusals] == [
        ("unknown-record", refusals[0].message)
    ] * 2
    world.submit(world.ask("q", record=None), "doc")
