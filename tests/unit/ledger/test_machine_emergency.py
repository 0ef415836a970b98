"""Emergencies under protocol version 4: who names, refuses, opens, closes and reviews."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import pytest

from hcefs.access.emergency import (
    MINUTES_MAX,
    EmergencyOpening,
    EmergencyPolicy,
    EmergencyTotals,
    grant_of,
    is_code,
)
from hcefs.access.facts import AccountKind, Action
from hcefs.access.rights import AccessRequest, decide
from hcefs.errors import Invalid
from hcefs.ids import AccountId, GrantId, RecordId
from hcefs.ledger import rules_emergency
from hcefs.ledger.block import PROTOCOL_RIGHTS
from hcefs.ledger.inclusion import is_about_grant
from hcefs.ledger.outcome import EmergencyChanged, GrantGiven, GrantRevoked
from hcefs.ledger.state import MemoryState
from hcefs.ledger.state_emergency import Emergencies
from hcefs.ledger.transactions import DeactivateAccount, RevokeGrant, Transaction, Upgrade
from hcefs.ledger.transactions_emergency import (
    CloseEmergency,
    EndNaming,
    NameEmergency,
    NewNaming,
    OpenEmergency,
    RefuseEmergency,
    ReviewEmergency,
    SetEmergencyPolicy,
)
from hcefs.ledger.transactions_erasure import EraseRecord
from tests.unit.ledger.scenario import (
    Scenario,
    grant_id,
    public_key,
    put_key,
    record_id,
    seed,
)

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
POLICY = EmergencyPolicy(1, True, ("ED-PHYSICIAN", "RESCUE"), ("TRAUMA", "UNRESPONSIVE"), 30, 48)
OPERATORS = ("o1", "o2")


class Ward(Scenario):
    """A clinic with two doctors, another clinic with one, and a patient with two records."""

    def __init__(self, policy: EmergencyPolicy | None = POLICY, *, version: int = 4) -> None:
        super().__init__()
        self.populate()
        self.submit(self.opening("r2", "pat"), "pat")
        self.register("other clinic", AccountKind.INSTITUTION, *OPERATORS)
        self.register("far doc", AccountKind.PRACTITIONER, "other clinic")
        self.register("pat2", AccountKind.PATIENT, "clinic")
        self.submit(self.opening("s", "pat2"), "pat2")
        for step in range(2, version + 1):
            self.submit(Upgrade(step, self.height + 2), *OPERATORS)
            self.commit([])
        if policy is not None:
            self.submit(SetEmergencyPolicy(policy.number - 1, policy), *OPERATORS)

    def naming(self, name: str, grantee: str, record: str = "r") -> NewNaming:
        return NewNaming(grant_id(name), record_id(record), self.account(grantee))

    def name(self, name: str, grantee: str, record: str = "r", owner: str = "pat") -> None:
        self.submit(NameEmergency((self.naming(name, grantee, record),)), owner)

    def opened(self, name: str = "e", *records: str, **changes: Any) -> OpenEmergency:
        base = OpenEmergency(
            opening=grant_id(name),
            records=tuple(map(record_id, records or ("r",))),
            role="RESCUE",
            reason="TRAUMA",
            note_digest=b"",
            minutes=30,
        )
        return replace(base, **changes)

    def found(self, name: str = "e") -> EmergencyOpening:
        found = Emergencies(self.state).opening(grant_id(name))
        assert found is not None
        return found

    def fork(self) -> Ward:
        """The same ledger, to go on with apart from this one."""
        other = copy(self)
        other.state = MemoryState()
        other.state.write(dict(self.state.scan(b"")))
        return other

    def asks(self, by: str = "doc", opening: str = "e", **changes: Any) -> str:
        """What the decision says of a read under an opening."""
        base = AccessRequest(
            action=Action.READ,
            record=record_id("r"),
            blob=None,
            range_start=0,
            range_length=0,
            purpose="BTG",
            presenter=self.account(by),
            holder=self.account(by),
            grant=grant_of(grant_id(opening), record_id("r")),
        )
        return decide(self.view, replace(base, **changes), self.time_ms).reason


@pytest.fixture(scope="module")
def made() -> Ward:
    """Made once: checking its signatures takes a while."""
    return Ward()


@pytest.fixture
def ward(made: Ward) -> Ward:
    return made.fork()


# --- the policy -----------------------------------------------------------------------------


def test_nothing_is_opened_without_a_policy() -> None:
    ward = Ward(policy=None)
    assert ward.view.emergency_policy() == EmergencyPolicy()
    ward.name("n", "doc")
    assert ward.refusal(ward.opened(), "doc").reason == "emergency-not-allowed"


def test_operators_swap_the_policy_by_its_number(ward: Ward) -> None:
    second = replace(POLICY, number=2, minutes_max=10)
    assert ward.refusal(SetEmergencyPolicy(1, second), "o1").reason == "below-threshold"
    ward.submit(SetEmergencyPolicy(1, second), *OPERATORS)
    assert ward.view.emergency_policy() == second
    late = SetEmergencyPolicy(1, replace(second, minutes_max=11))
    assert ward.refusal(late, *OPERATORS).reason == "policy-moved"


@pytest.mark.parametrize(
    "changes",
    [
        {"minutes_max": 0},
        {"minutes_max": MINUTES_MAX + 1},
        {"review_hours": 0},
        {"review_hours": 24 * 31},
        {"roles": ()},
        {"reasons": ()},
        {"roles": ("B", "A")},
        {"roles": ("A", "A")},
        {"reasons": ("a sentence",)},
        {"reasons": ("x" * 33,)},
        {"number": 3},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        SetEmergencyPolicy(0, replace(POLICY, **changes)).check()
    assert caught.value.reason == "bad-policy"


@pytest.mark.parametrize("text", ["", "a b", "-x", "ä", "a\n", "x" * 33, "a/b"])
def test_a_code_is_no_text(text: str) -> None:
    assert not is_code(text)


ALL: list[Callable[[Ward], tuple[Transaction, tuple[str, ...]]]] = [
    lambda ward: (SetEmergencyPolicy(0, POLICY), OPERATORS),
    lambda ward: (NameEmergency((ward.naming("n", "doc"),)), ("pat",)),
    lambda ward: (EndNaming((grant_id("n"),)), ("pat",)),
    lambda ward: (RefuseEmergency((record_id("r"),), True, put_key("k")), ("pat",)),
    lambda ward: (ward.opened(), ("doc",)),
    lambda ward: (CloseEmergency(grant_id("e")), ("doc",)),
    lambda ward: (ReviewEmergency(grant_id("e"), True, b""), ("pat",)),
]


def test_none_of_it_is_known_before_version_4() -> None:
    ward = Ward(policy=None, version=PROTOCOL_RIGHTS - 1)
    for make in ALL:
        transaction, signers = make(ward)
        assert ward.refusal(transaction, *signers).reason == "unsupported"


# --- naming and refusing --------------------------------------------------------------------


def test_a_naming_stands_until_it_is_ended(ward: Ward) -> None:
    ward.name("n", "doc")
    naming = ward.view.emergency_naming(grant_id("n"))
    assert naming is not None
    assert (naming.owner, naming.grantee, naming.ended_height) == (
        ward.account("pat"),
        ward.account("doc"),
        0,
    )
    assert naming.boxed().granter == ward.account("pat")
    assert not naming.boxed().revoked_height
    ward.submit(EndNaming((grant_id("n"),)), "pat")
    ended = ward.view.emergency_naming(grant_id("n"))
    assert ended is not None
    assert ended.ended_height == ended.boxed().revoked_height == ward.height
    assert Emergencies(ward.state).namings_of(ward.account("pat"), 9) == []
    ward.name("n2", "doc")  # and may be named again


@pytest.mark.parametrize(
    ("naming", "signer", "reason"),
    [
        (("n", "doc", "r"), "doc", "not-the-owner"),
        (("n", "doc", "s"), "pat", "not-the-owner"),
        (("n", "doc", "nowhere"), "pat", "unknown-record"),
        (("n", "nobody", "r"), "pat", "unknown-grantee"),
        (("n", "watch", "r"), "pat", "not-a-practitioner"),
        (("n", "pat2", "r"), "pat", "not-a-practitioner"),
        (("taken", "doc2", "r"), "pat", "naming-exists"),
        (("granted", "doc2", "r"), "pat", "naming-exists"),
        (("n", "doc", "r2"), "pat", "already-named"),
        (("n", "gone", "r"), "pat", "inactive-grantee"),
    ],
    ids=str,
)
def test_namings_that_are_refused(
    ward: Ward, naming: tuple[str, str, str], signer: str, reason: str
) -> None:
    ward.name("taken", "doc", "r2")
    ward.submit(ward.grant("granted", "doc"), "pat")
    ward.register("gone", AccountKind.PRACTITIONER, "clinic")
    ward.submit(DeactivateAccount(ward.account("gone")), "clinic")
    assert ward.refusal(NameEmergency((ward.naming(*naming),)), signer).reason == reason


def test_the_number_of_namings_of_a_record_is_bounded(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules_emergency, "STANDING_MAX", 1)
    ward.name("n", "doc")
    refused = ward.refusal(NameEmergency((ward.naming("n2", "doc2"),)), "pat")
    assert refused.reason == "too-many-namings"


def test_a_grant_cannot_take_the_id_of_a_naming(ward: Ward) -> None:
    """Or whoever owns any record could break the openings under it."""
    ward.name("n", "doc")
    assert ward.refusal(ward.grant("n", "doc", record="s"), "pat2").reason == "grant-exists"
    assert ward.refusal(ward.grant("g", "doc2", parent="n"), "doc").reason == "unknown-grant"


@pytest.mark.parametrize("signer", ["doc", "pat2", "clinic"])
def test_only_the_owner_ends_a_naming(ward: Ward, signer: str) -> None:
    ward.name("n", "doc")
    assert ward.refusal(EndNaming((grant_id("n"),)), signer).reason == "not-the-owner"
    assert ward.refusal(EndNaming((grant_id("x"),)), "pat").reason == "unknown-naming"
    ward.submit(EndNaming((grant_id("n"),)), "pat")
    assert ward.refusal(EndNaming((grant_id("n"),)), "pat").reason == "already-ended"


def test_a_refusal_is_withdrawn_and_made_again(ward: Ward) -> None:
    r = (record_id("r"),)
    for key, refuse in (("1", True), ("2", False), ("3", True)):
        ward.submit(RefuseEmergency(r, refuse, put_key(key)), "pat")
        assert ward.view.emergency_refused(r[0]) is refuse
    # Whoever has an old withdrawal cannot have it applied once more, not even the writer.
    old = RefuseEmergency(r, False, put_key("2"))
    assert ward.refusal(old, "pat").reason == "withdrawal-repeated"
    assert ward.view.emergency_refused(r[0])
    ward.submit(RefuseEmergency((record_id("s"),), False, put_key("2")), "pat2")
    wish = RefuseEmergency(r, False, put_key("4"))
    assert ward.refusal(wish, "doc").reason == "not-the-owner"


# --- opening --------------------------------------------------------------------------------


def test_an_opening_is_one_short_grant_for_each_record(ward: Ward) -> None:
    ward.name("n", "doc")
    ward.name("n2", "clinic", "r2")
    ward.time_ms += 1_000
    outcome = ward.submit(ward.opened("e", "r", "r2", note_digest=seed("note")), "doc")
    opening = ward.found()
    assert outcome.events[0] == EmergencyChanged(opening)
    grants = [event.grant for event in outcome.events if isinstance(event, GrantGiven)]
    assert tuple(grant.grant for grant in grants) == opening.grants()
    for grant, naming in zip(grants, ("n", "n2"), strict=True):
        assert grant.actions == Action.READ
        assert grant.purposes == ("BTG",)
        assert grant.parent == grant_id(naming)
        assert grant.granter == ward.account("pat")
        assert grant.not_after_ms == opening.until_ms == ward.time_ms + 30 * MINUTE_MS
    assert opening.review_by_ms == ward.time_ms + 48 * HOUR_MS
    assert (opening.patient, opening.institution) == (ward.account("pat"), ward.account("clinic"))
    assert Emergencies(ward.state).totals() == EmergencyTotals(1, 1, 0)
    for party in ("pat", "doc"):
        assert Emergencies(ward.state).openings_of(ward.account(party), 9) == [opening]
    assert ward.asks() == "permitted"


@pytest.mark.parametrize(
    ("changes", "records", "signer", "reason"),
    [
        ({"role": "PORTER"}, ("r",), "doc", "unknown-code"),
        ({"reason": "CURIOUS"}, ("r",), "doc", "unknown-code"),
        ({"minutes": 31}, ("r",), "doc", "too-long"),
        ({"minutes": 61}, ("r",), "doc", "bad-times"),
        ({"minutes": 0}, ("r",), "doc", "bad-times"),
        ({"role": "not a code"}, ("r",), "doc", "bad-code"),
        ({"note_digest": b"text of a note"}, ("r",), "doc", "bad-digest"),
        ({"records": ()}, (), "doc", "bad-records"),
        ({"records": (record_id("r"),) * 2}, (), "doc", "bad-records"),
        ({}, ("r2",), "doc", "emergency-not-named"),
        ({}, ("r", "r2"), "doc", "emergency-not-named"),
        # Whether it exists is told to nobody whom no naming means.
        ({}, ("nowhere",), "doc", "emergency-not-named"),
        ({}, ("r", "s"), "doc", "several-patients"),
        ({}, ("r",), "far doc", "emergency-not-named"),
        ({}, ("r",), "pat", "emergency-not-named"),
        ({}, ("r",), "watch", "emergency-not-named"),
        ({}, ("s",), "clinic", "emergency-not-named"),
    ],
    ids=str,
)
def test_openings_that_are_refused(
    ward: Ward, changes: dict[str, Any], records: tuple[str, ...], signer: str, reason: str
) -> None:
    ward.name("n", "doc")
    ward.name("s", "clinic", "s", "pat2")
    assert ward.refusal(ward.opened("e", *records, **changes), signer).reason == reason


def test_an_opening_is_made_once(ward: Ward) -> None:
    ward.name("n", "clinic")
    ward.submit(ward.opened(), "doc")
    assert ward.refusal(ward.opened(), "doc2").reason == "opening-exists"
    ward.submit(ward.opened("e2"), "doc2")
    assert ward.asks("doc2", "e2") == "permitted"


def test_a_grant_that_has_the_id_of_an_opening_s_grant_bars_it(ward: Ward) -> None:
    ward.name("n", "doc")
    planted = replace(
        ward.grant("x", "doc2", record="s"), grant=grant_of(grant_id("e"), record_id("r"))
    )
    ward.submit(planted, "pat2")
    assert ward.refusal(ward.opened(), "doc").reason == "opening-exists"
    ward.submit(ward.opened("e2"), "doc")


def test_openings_without_review_are_bounded(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_emergency, "UNREVIEWED_MAX", 1)
    ward.name("n", "clinic")
    ward.submit(ward.opened(), "doc")
    ward.submit(ward.opened("e2"), "doc2")
    assert ward.refusal(ward.opened("e3"), "doc").reason == "too-many-unreviewed"
    ward.submit(CloseEmergency(grant_id("e")), "doc")
    ward.submit(ReviewEmergency(grant_id("e"), True, b""), "clinic")
    ward.submit(ward.opened("e3"), "doc")


# --- what an opening permits ----------------------------------------------------------------


def test_what_is_decided_under_an_opening(ward: Ward) -> None:
    ward.name("n", "clinic")
    assert ward.asks() == "no-such-grant"
    ward.submit(ward.opened(), "doc")
    assert ward.asks() == "permitted"
    assert ward.asks(purpose="TREAT") == "wrong-purpose"
    assert ward.asks(purpose="ETREAT") == "wrong-purpose"
    assert ward.asks(action=Action.APPEND) == "action-not-granted"
    assert ward.asks(action=Action.SHARE) == "action-not-granted"
    assert ward.asks(record=record_id("r2")) == "wrong-record"
    assert ward.asks("doc2") == "not-the-grantee"
    assert ward.asks(presenter=ward.account("doc2")) == "not-shareable"
    assert ward.asks(grant=grant_id("n")) == "no-such-grant"  # the naming itself permits nothing
    assert ward.asks(grant=grant_id("e")) == "no-such-grant"
    ward.time_ms += 30 * MINUTE_MS - 1
    assert ward.asks() == "permitted"
    ward.time_ms += 1
    assert ward.asks() == "expired"


def test_it_cannot_be_passed_on(ward: Ward) -> None:
    ward.name("n", "doc")
    ward.submit(ward.opened(), "doc")
    passed = replace(
        ward.grant("g", "doc2"),
        parent=grant_of(grant_id("e"), record_id("r")),
        purposes=("BTG",),
        not_after_ms=ward.time_ms + MINUTE_MS,
    )
    assert ward.refusal(passed, "doc").reason == "action-not-granted"


ENDS: dict[str, tuple[Callable[[Ward], tuple[Transaction, tuple[str, ...]]], str]] = {
    "closed by the opener": (lambda ward: (CloseEmergency(grant_id("e")), ("doc",)), "revoked"),
    "closed by the patient": (lambda ward: (CloseEmergency(grant_id("e")), ("pat",)), "revoked"),
    "closed by the clinic": (lambda ward: (CloseEmergency(grant_id("e")), ("clinic",)), "revoked"),
    "grant revoked by the patient": (
        lambda ward: (
            RevokeGrant(grant_of(grant_id("e"), record_id("r")), 1, public_key("next")),
            ("pat",),
        ),
        "revoked",
    ),
    "naming ended": (lambda ward: (EndNaming((grant_id("n"),)), ("pat",)), "emergency-not-named"),
    "refused": (
        lambda ward: (RefuseEmergency((record_id("r"),), True, put_key("k")), ("pat",)),
        "emergency-refused",
    ),
    "policy forbids": (
        lambda ward: (SetEmergencyPolicy(1, replace(POLICY, number=2, allowed=False)), OPERATORS),
        "emergency-not-allowed",
    ),
    "opener ended": (
        lambda ward: (DeactivateAccount(ward.account("doc")), ("clinic",)),
        "inactive-account",
    ),
    "institution ended": (
        lambda ward: (DeactivateAccount(ward.account("clinic")), OPERATORS),
        "inactive-account",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_everything_that_ends_an_opening(ward: Ward, end: str) -> None:
    ward.name("n", "clinic")
    ward.submit(ward.opened(), "doc")
    assert ward.asks() == "permitted"
    make, reason = ENDS[end]
    transaction, signers = make(ward)
    outcome = ward.submit(transaction, *signers)
    assert outcome.events, "whoever serves it is told to decide again"
    assert ward.asks() == reason


def test_a_refusal_wins_or_yields_as_the_policy_says(ward: Ward) -> None:
    ward.name("n", "doc")
    ward.submit(RefuseEmergency((record_id("r"),), True, put_key("k")), "pat")
    assert ward.refusal(ward.opened(), "doc").reason == "emergency-refused"
    yields = replace(POLICY, number=2, refusal_wins=False)
    ward.submit(SetEmergencyPolicy(1, yields), *OPERATORS)
    ward.submit(ward.opened(), "doc")
    assert ward.asks() == "permitted"


def test_an_ended_institution_opens_nothing(ward: Ward) -> None:
    ward.name("n", "clinic")
    ward.submit(DeactivateAccount(ward.account("clinic")), *OPERATORS)
    assert ward.refusal(ward.opened(), "doc").reason == "inactive-account"


# --- closing and reviewing ------------------------------------------------------------------


def test_closing_revokes_the_grants_once(ward: Ward) -> None:
    ward.name("n", "doc")
    ward.submit(ward.opened(), "doc")
    for stranger in ("doc2", "pat2", "other clinic"):
        assert ward.refusal(CloseEmergency(grant_id("e")), stranger).reason == "not-a-party"
    ward.time_ms += MINUTE_MS
    outcome = ward.submit(CloseEmergency(grant_id("e")), "pat")
    assert [type(event) for event in outcome.events] == [EmergencyChanged, GrantRevoked]
    grant, record = grant_of(grant_id("e"), record_id("r")), record_id("r")
    for about in (ward.opened(), CloseEmergency(grant_id("e"))):
        assert is_about_grant(about, grant, record)
        assert not is_about_grant(about, grant, record_id("r2"))
    found = ward.found()
    assert (found.until_ms, found.closed_by) == (ward.time_ms, ward.account("pat"))
    assert ward.refusal(CloseEmergency(grant_id("e")), "doc").reason == "already-closed"
    assert ward.refusal(CloseEmergency(grant_id("x")), "doc").reason == "unknown-opening"


@pytest.mark.parametrize(
    ("signers", "reviewer"),
    [(("pat",), "pat"), (("clinic",), "clinic"), (OPERATORS, "")],
    ids=["patient", "institution", "operators"],
)
def test_a_review_ends_the_wait_for_one(
    ward: Ward, signers: tuple[str, ...], reviewer: str
) -> None:
    ward.name("n", "doc")
    ward.submit(ward.opened(), "doc")
    said = ReviewEmergency(grant_id("e"), False, seed("note"))
    assert ward.refusal(said, *signers).reason == "still-open"
    emergencies = Emergencies(ward.state)
    ward.time_ms = ward.found().review_by_ms
    assert emergencies.overdue(ward.time_ms - 1, 9) == 0
    assert emergencies.overdue(ward.time_ms, 9) == 1
    assert ward.found().is_overdue(ward.time_ms)
    assert [each.opening for each in emergencies.unreviewed(9)] == [grant_id("e")]
    ward.submit(said, *signers)
    assert emergencies.overdue(ward.time_ms, 9) == 0
    assert emergencies.unreviewed(9) == []
    assert emergencies.unreviewed_of(ward.account("doc"), 9) == 0
    assert emergencies.totals() == EmergencyTotals(1, 0, 1)
    (review,) = ward.found().reviews
    assert review.reviewer == (ward.account(reviewer) if reviewer else AccountId.zero())
    again = ReviewEmergency(grant_id("e"), True, b"")
    assert ward.refusal(again, *signers).reason == "already-reviewed"


def test_the_patient_s_review_counts_after_the_institution_s(ward: Ward) -> None:
    ward.name("n", "doc")
    ward.submit(ward.opened(), "doc")
    ward.submit(CloseEmergency(grant_id("e")), "doc")
    ward.submit(ReviewEmergency(grant_id("e"), True, b""), "clinic")
    ward.submit(ReviewEmergency(grant_id("e"), False, b""), "pat")
    assert Emergencies(ward.state).totals() == EmergencyTotals(1, 0, 1)
    assert [each.justified for each in ward.found().reviews] == [True, False]


@pytest.mark.parametrize(
    ("signers", "reason"),
    [
        (("doc",), "not-a-reviewer"),
        (("doc2",), "not-a-reviewer"),
        (("other clinic",), "not-a-reviewer"),
        (("pat2",), "not-a-reviewer"),
        (("o1",), "below-threshold"),
        (("pat", "o1", "o2"), "unexpected-signer"),
    ],
    ids=str,
)
def test_nobody_else_reviews(ward: Ward, signers: tuple[str, ...], reason: str) -> None:
    ward.name("n", "doc")
    ward.submit(ward.opened(), "doc")
    ward.submit(CloseEmergency(grant_id("e")), "doc")
    said = ReviewEmergency(grant_id("e"), True, b"")
    assert ward.refusal(said, *signers).reason == reason


@pytest.mark.parametrize(
    ("transaction", "reason"),
    [
        (NameEmergency(()), "bad-namings"),
        (EndNaming(()), "bad-namings"),
        (EndNaming((grant_id("n"),) * 2), "bad-namings"),
        (EndNaming((GrantId.zero(),)), "bad-id"),
        (RefuseEmergency((), True, put_key("k")), "bad-records"),
        (RefuseEmergency((RecordId.zero(),), True, put_key("k")), "bad-id"),
        (CloseEmergency(GrantId.zero()), "bad-id"),
        (ReviewEmergency(grant_id("e"), True, b"short"), "bad-digest"),
    ],
    ids=str,
)
def test_malformed_transactions(transaction: Any, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        transaction.check()
    assert caught.value.reason == reason


def test_nothing_about_emergencies_comes_to_an_erased_record(ward: Ward) -> None:
    ward.name("n", "doc")
    ward.submit(ward.opened(), "doc")
    ward.submit(EraseRecord(record_id("r"), seed("order")), *OPERATORS)
    assert ward.asks() == "erased"
    cases: list[tuple[Transaction, str, str]] = [
        (ward.opened("e2"), "doc", "erased"),
        (ward.opened("e2"), "far doc", "emergency-not-named"),
        (NameEmergency((ward.naming("n2", "doc2"),)), "pat", "erased"),
        (RefuseEmergency((record_id("r"),), True, put_key("k")), "pat", "erased"),
        (NameEmergency((ward.naming("n2", "doc2"),)), "pat2", "not-the-owner"),
    ]
    for made, signer, reason in cases:
        assert ward.refusal(made, signer).reason == reason, made
    # What there is comes to its end.
    ward.submit(CloseEmergency(grant_id("e")), "doc")
    ward.submit(ReviewEmergency(grant_id("e"), True, b""), "clinic")
    ward.submit(EndNaming((grant_id("n"),)), "pat")
    assert Emergencies(ward.state).totals() == EmergencyTotals(1, 0, 0)
