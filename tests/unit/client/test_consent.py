"""FHIR Consents: HL7's own examples, and what each part of a document does to a wish."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from hcefs.access.facts import PURPOSES, Action
from hcefs.client import consent
from hcefs.client.consent import Bounds, Wish, read_consent
from hcefs.errors import Invalid
from hcefs.formats.record_class import SENSITIVITIES, Confidentiality
from tests import fhir

DAY_MS = 86_400_000
HL7_URL = "http://terminology.hl7.org/CodeSystem/"


def moment(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1000  # type: ignore[arg-type,misc]


NOW = moment(2016, 1, 15)
BOUNDS = Bounds(
    patient="Patient/f001",
    now_ms=NOW,
    not_after_ms=NOW + 365 * DAY_MS,
    custodians=frozenset({"Organization/f001"}),
    purposes=("PATRQT",),
)

# -- HL7's examples


OFFICIAL: dict[str, tuple[list[Wish], set[str]]] = {
    # Its nested denial names the same custodian and no purpose, so it takes all back.
    "Emergency": ([], {"no-grantee"}),
    "Out": ([], {"no-grantee"}),
    "basic": ([], {"base-names-no-grantee"}),
    # "limited (read-only) access to an individual": the only one that says who and what.
    "grantor": (
        [
            Wish(
                "Patient/example",
                Action.READ,
                ("PATRQT",),
                NOW,
                NOW + 365 * DAY_MS,
                Confidentiality.N,
            )
        ],
        set(),
    ),
    "notAuthor": ([], {"base-names-no-grantee"}),
    "notOrg": ([], {"base-names-no-grantee"}),
    "notThem": ([], {"base-names-no-grantee"}),
    "notThis": ([], {"base-names-no-grantee"}),
    "notTime": ([], {"base-names-no-grantee"}),
    # Eleven nested provisions without a type, which R4 forbids: each is taken for a denial.
    "pkb": ([], {"denied-by:provision.provision[10]"}),
    # Permits only documents by an author, of a class and a code: no grant can say that.
    "signature": ([], {"base-names-no-grantee", "not-understood:class"}),
    "smartonfhir": ([], {"base-names-no-grantee", "not-understood:class"}),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_hl7s_examples(name: str) -> None:
    fhir.require()
    document = fhir.consents()[name]
    # Each is read as its own patient would, while it is in force.
    reading = read_consent(document, replace(BOUNDS, patient=document["patient"]["reference"]))
    wishes, reasons = OFFICIAL[name]
    assert list(reading.wishes) == wishes
    assert {each.reason for each in reading.unexpressed} == reasons


def test_all_of_hl7s_examples_are_here() -> None:
    fhir.require()
    assert fhir.consents().keys() == OFFICIAL.keys()
    assert len(OFFICIAL) == fhir.CONSENTS


def test_the_codes_are_hl7s() -> None:
    fhir.require()
    reasons = fhir.code_system("v3-ActReason")
    assert reasons.keys() >= PURPOSES
    assert all("PurposeOfUse" in reasons[code] for code in PURPOSES)
    levels = fhir.code_system("v3-Confidentiality")
    below = {code for code, above in levels.items() if "_Confidentiality" in above}
    assert below == set(Confidentiality.__members__)
    acts = fhir.code_system("v3-ActCode")
    policy = "_InformationSensitivityPolicy"
    sensitivities = {
        code: above[-1] if not above[-1].startswith("_") else ""
        for code, above in acts.items()
        if policy in above and not code.startswith("_")
    }
    assert sensitivities == dict(SENSITIVITIES)


# -- what a document that HL7 did not write can say


def coding(system: str, *codes: str) -> list[dict[str, str]]:
    return [{"system": HL7_URL + system, "code": code} for code in codes]


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": coding(system, code)}


def actor(role: str, reference: str) -> dict[str, Any]:
    return {
        "role": concept("v3-ParticipationType", role),
        "reference": {"reference": reference},
    }


DOCTOR = actor("PRCP", "Practitioner/a")
PERMIT: dict[str, Any] = {
    "type": "permit",
    "actor": [DOCTOR],
    "action": [concept("consentaction", "access")],
    "purpose": coding("v3-ActReason", "TREAT", "ETREAT"),
    "securityLabel": coding("v3-Confidentiality", "R"),
}


def document(*nested: Any, base: str = "OPTOUT", root: Any = None, **changes: Any) -> Any:
    made = {
        "resourceType": "Consent",
        "status": "active",
        "scope": concept("consentscope", "patient-privacy"),
        "patient": {"reference": "Patient/f001"},
        "policyRule": concept("v3-ActCode", base),
        "provision": {**(PERMIT if root is None else root), "provision": list(nested)},
    }
    return made | changes


def wishes(found: Any, bounds: Bounds = BOUNDS) -> list[Wish]:
    return list(read_consent(found, bounds).wishes)


FULL = Wish(
    "Practitioner/a",
    Action.READ,
    ("ETREAT", "TREAT"),
    NOW,
    NOW + 365 * DAY_MS,
    Confidentiality.R,
)


def permit(**changes: Any) -> dict[str, Any]:
    made = {**PERMIT, **changes}
    return {key: value for key, value in made.items() if value is not None}


def test_a_permit_becomes_a_wish() -> None:
    assert wishes(document()) == [FULL]
    assert wishes(document(base="OPTIN")) == [FULL]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"purpose": None}, replace(FULL, purposes=("PATRQT",))),
        ({"securityLabel": None}, replace(FULL, ceiling=Confidentiality.N)),
        (
            {"securityLabel": coding("v3-Confidentiality", "R", "L")},
            replace(FULL, ceiling=Confidentiality.L),
        ),
        ({"action": None}, FULL),
        (
            {"action": [concept("consentaction", "correct")]},
            replace(FULL, actions=Action.APPEND),
        ),
        (
            {"period": {"start": "2016-02-01", "end": "2016-02-03"}},
            # That date everywhere on earth.
            replace(
                FULL,
                not_before_ms=moment(2016, 2, 1, 12),
                not_after_ms=moment(2016, 2, 3, 10),
            ),
        ),
        ({"period": {"end": "2016-02"}}, replace(FULL, not_after_ms=moment(2016, 2, 29, 10))),
        ({"period": {"end": "2016"}}, replace(FULL, not_after_ms=moment(2016, 12, 31, 10))),
        (
            {"period": {"end": "2016-03-01T00:00:00+02:00"}},
            replace(FULL, not_after_ms=moment(2016, 2, 29, 22)),
        ),
    ],
)
def test_what_a_permit_says(change: dict[str, Any], expected: Wish) -> None:
    if "period" in change and change["period"].get("end") == "2016":
        expected = replace(expected, not_after_ms=min(expected.not_after_ms, FULL.not_after_ms))
    assert wishes(document(root=permit(**change))) == [expected]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"actor": None}, "no-grantee"),
        ({"actor": [actor("CST", "Organization/f001")]}, "no-grantee"),
        ({"actor": [DOCTOR, actor("CST", "Organization/x")]}, "another-custodian"),
        ({"actor": [DOCTOR, actor("AUT", "Practitioner/b")]}, "role-not-understood"),
        ({"actor": [{**DOCTOR, "modifierExtension": []}]}, "not-understood"),
        ({"actor": [{"role": DOCTOR["role"]}]}, "not-understood"),
        ({"actor": ["Practitioner/a"]}, "not-understood"),
        ({"purpose": coding("v3-ActReason", "TREAT", "HMARKT")}, "not-understood"),
        ({"purpose": coding("v3-ActCode", "TREAT")}, "not-understood"),
        ({"purpose": []}, "not-understood"),
        ({"action": [concept("consentaction", "sell")]}, "not-understood"),
        ({"action": [{"text": "access"}]}, "not-understood"),
        ({"securityLabel": coding("v3-ActCode", "PSY")}, "not-understood"),
        ({"securityLabel": coding("v3-Confidentiality", "B")}, "not-understood"),
        ({"period": {"start": "tomorrow"}}, "not-understood"),
        ({"period": {"end": "2016-03-01T00:00:00"}}, "not-understood"),
        ({"period": {"end": "2016-01-14"}}, "over"),
        ({"dataPeriod": {"start": "2015"}}, "not-understood:dataPeriod"),
        ({"code": []}, "not-understood:code"),
        ({"data": [{"meaning": "instance"}]}, "not-understood:data"),
        ({"class": []}, "not-understood:class"),
        ({"extension": []}, "not-understood:extension"),
        ({"modifierExtension": []}, "not-understood:modifierExtension"),
    ],
)
def test_what_is_not_understood_is_not_permitted(change: dict[str, Any], reason: str) -> None:
    reading = read_consent(document(root=permit(**change)), BOUNDS)
    assert reading.wishes == ()
    assert reason in {each.reason for each in reading.unexpressed}


@pytest.mark.parametrize(
    "change",
    [
        {"status": "rejected"},
        {"status": None},
        {"scope": concept("consentscope", "research")},
        {"scope": None},
        {"patient": {"reference": "Patient/other"}},
        {"patient": None},
        {"policyRule": None},
        {"policyRule": concept("v3-ActCode", "EMRGONLY")},
        {"policy": [{"uri": "urn:x"}]},
        {"modifierExtension": []},
        {"implicitRules": "urn:x"},
        {"verification": [{"verified": False}]},
        {"provision": None},
        {"provision": []},
    ],
)
def test_a_document_that_does_not_count(change: dict[str, Any]) -> None:
    reading = read_consent(document(**change), BOUNDS)
    assert reading.wishes == ()
    assert len(reading.unexpressed) == 1


@pytest.mark.parametrize(
    ("denial", "expected"),
    [
        ({}, None),
        ({"type": "deny"}, None),
        ("not even a provision", None),
        ({"actor": [DOCTOR]}, None),
        ({"actor": [actor("PRCP", "Practitioner/b")]}, FULL),
        # Who works for whom is not known, so a clinic may be the doctor's.
        ({"actor": [actor("PRCP", "Organization/x")]}, None),
        ({"actor": [actor("CST", "Organization/x")]}, None),
        ({"purpose": coding("v3-ActReason", "ETREAT")}, replace(FULL, purposes=("TREAT",))),
        ({"purpose": coding("v3-ActReason", "HMARKT")}, None),
        ({"purpose": coding("v3-ActReason", "TREAT", "ETREAT")}, None),
        ({"action": [concept("consentaction", "correct")]}, FULL),
        ({"action": [concept("consentaction", "access")]}, None),
        ({"action": [concept("consentaction", "sell")]}, None),
        (
            {"securityLabel": coding("v3-ActCode", "PSY", "HIV")},
            replace(FULL, excluded=("HIV", "PSY")),
        ),
        ({"securityLabel": coding("v3-ActCode", "SICKLE")}, None),
        # "R or lower" reaches down, which no ceiling can say.
        ({"securityLabel": coding("v3-Confidentiality", "R")}, None),
        # What cannot be expressed of a denial makes it wider, never narrower.
        (
            {"securityLabel": coding("v3-ActCode", "PSY"), "class": [], "period": {"end": "1999"}},
            replace(FULL, excluded=("PSY",)),
        ),
    ],
)
def test_what_denials_leave(denial: Any, expected: Wish | None) -> None:
    assert wishes(document(denial)) == ([] if expected is None else [expected])


def test_a_permit_inside_a_denial_is_its_exception_and_stays_within_it() -> None:
    outer = {"purpose": coding("v3-ActReason", "TREAT")}
    inner = permit(purpose=coding("v3-ActReason", "TREAT", "HRESCH"))
    assert wishes(document(inner, base="OPTIN", root=outer)) == [replace(FULL, purposes=("TREAT",))]
    # A sibling's denial counts all the same.
    denied = {"type": "deny", "actor": [DOCTOR]}
    assert wishes(document(inner, denied, base="OPTIN", root=outer)) == []


def test_a_nested_permit_is_never_wider_than_what_it_is_in() -> None:
    inner = permit(
        actor=[DOCTOR, actor("PRCP", "Practitioner/b")],
        securityLabel=coding("v3-Confidentiality", "V"),
        action=[concept("consentaction", "access"), concept("consentaction", "disclose")],
    )
    assert wishes(document(inner)) == [FULL]


def test_bounds_and_what_is_no_consent() -> None:
    deep: dict[str, Any] = permit()
    for _ in range(consent.DEPTH_MAX + 1):
        deep = permit(provision=[deep])
    malformed: list[Any] = [
        document(deep),
        document(*[permit()] * consent.PROVISIONS_MAX),
        {"resourceType": "Patient"},
        [],
    ]
    for bad in malformed:
        with pytest.raises(Invalid) as caught:
            read_consent(bad, BOUNDS)
        assert caught.value.reason == "bad-consent"
