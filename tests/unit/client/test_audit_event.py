"""Receipts as AuditEvents: valid FHIR R4, in the patterns of BALP, and nothing invented."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from fhir.resources.R4B.bundle import Bundle

from hcefs.client.audit_event import (
    FAILURE,
    PROFILE,
    SUCCESS,
    Override,
    Parties,
    audit_bundle,
    audit_events,
    override_event,
)
from hcefs.errors import Invalid
from hcefs.evidence.receipt import Receipt, ReceiptDraft, ReceiptKind
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId, RequestId

TIME_MS = 1_790_000_000_123
ACCOUNTS = [AccountId(bytes([number]) * 16) for number in range(1, 8)]
PATIENT, DOCTOR, ASSISTANT, CLINIC, NODE, GATEWAY, _ = ACCOUNTS
CLUSTER = ClusterId(b"c" * 16)
PARTIES = Parties(CLUSTER, PATIENT, {DOCTOR: CLINIC, ASSISTANT: CLINIC, PATIENT: CLINIC})
DRAFT = ReceiptDraft(
    kind=ReceiptKind.ACCESS,
    height=7,
    request=RequestId(b"q" * 16),
    peer=AccountId.zero(),
    presenter=DOCTOR,
    holder=DOCTOR,
    grant=GrantId(b"g" * 16),
    token_hash=b"t" * 32,
    record=RecordId(b"r" * 16),
    blobs=(BlobId(b"b" * 18),),
    range_start=0,
    range_length=0,
    purpose="TREAT",
    action="read",
    method="get",
    permitted=True,
    reason="permitted",
    size=0,
)


def events_of(draft: ReceiptDraft) -> list[dict[str, Any]]:
    """The events of a receipt, each a valid AuditEvent that reads back as it was written."""
    receipt = Receipt.of(draft, NODE, 1, bytes(32), TIME_MS)
    found = audit_events(receipt.encode(), PARTIES)
    for event in found:
        checked = AuditEvent.model_validate(event)
        assert json.loads(checked.model_dump_json())["id"] == event["id"]
    return found


def named(event: dict[str, Any]) -> str:
    return str(event["meta"]["profile"][0]).removeprefix(PROFILE)


def codes(parts: list[dict[str, Any]]) -> list[str]:
    kinds = [part["type"] for part in parts]
    return [kind.get("code") or kind["coding"][0]["code"] for kind in kinds]


@pytest.mark.parametrize(
    ("changes", "profiles"),
    [
        ({}, ["AuthZconsent", "PatientRead"]),
        ({"method": "list", "blobs": ()}, ["AuthZconsent", "PatientRead"]),
        ({"action": "append", "method": "put"}, ["AuthZconsent", "PatientCreate"]),
        ({"action": "share", "method": "put-box"}, ["AuthZconsent"]),
        ({"permitted": False, "reason": "revoked"}, ["AuthZconsent"]),
        ({"kind": ReceiptKind.RELEASE, "peer": GATEWAY}, ["AuthZconsent"]),
        ({"kind": ReceiptKind.CLOSING, "reason": "done"}, []),
        ({"kind": ReceiptKind.UPKEEP, "reason": "repair"}, []),
    ],
)
def test_each_kind_of_receipt_has_its_patterns(
    changes: dict[str, Any], profiles: list[str]
) -> None:
    assert [named(event) for event in events_of(replace(DRAFT, **changes))] == profiles


def test_a_decision_has_the_agents_and_entities_of_the_profile() -> None:
    decision, _ = events_of(DRAFT)
    assert codes(decision["agent"]) == ["110150", "IRCP", "PROV", "authserver"]
    assert codes(decision["entity"]) == ["1", "Consent", "UserOauthAgent"]
    assert (decision["type"]["code"], decision["action"]) == ("110113", "E")
    assert decision["outcome"] == SUCCESS
    _, user, organisation, authorizer = decision["agent"]
    assert user["who"]["identifier"]["value"] == DOCTOR.text
    assert user["purposeOfUse"][0]["coding"][0]["code"] == "TREAT"
    assert organisation["who"]["identifier"]["value"] == CLINIC.text
    assert authorizer["who"]["identifier"]["value"] == NODE.text


def test_a_read_names_patient_data_and_request() -> None:
    _, read = events_of(replace(DRAFT, range_start=5, range_length=9))
    assert codes(read["agent"]) == ["110152", "110153", "IRCP"]
    assert codes(read["entity"]) == ["1", "2", "XrequestId"]
    patient, data, request = read["entity"]
    assert patient["what"]["identifier"]["value"] == PATIENT.text
    assert {each["type"]: each["valueString"] for each in data["detail"]} == {
        "method": "get",
        "blob": DRAFT.blobs[0].text,
        "range": "5+9",
    }
    assert request["what"]["identifier"]["value"] == DRAFT.request.text
    assert read["recorded"] == "2026-09-21T14:13:20.123Z"


def test_a_denial_is_a_failure_with_its_reason() -> None:
    (denial,) = events_of(replace(DRAFT, permitted=False, reason="wrong-purpose"))
    assert (denial["outcome"], denial["outcomeDesc"]) == (FAILURE, "wrong-purpose")


def test_who_is_unknown_is_not_invented() -> None:
    stranger = AccountId(b"\x63" * 16)
    decision = events_of(replace(DRAFT, presenter=stranger, grant=GrantId.zero()))[0]
    assert decision["agent"][2]["who"] == {"display": "unknown"}
    assert decision["entity"][1]["what"]["identifier"]["value"] == DRAFT.record.text


def test_an_override_starts_and_stops() -> None:
    opening = Override(GrantId(b"o" * 16), DRAFT.record, DOCTOR, NODE, TIME_MS, True, "coma")
    kinds = []
    for override in (opening, replace(opening, started=False)):
        event = override_event(override, PARTIES)
        AuditEvent.model_validate(event)
        kinds.append(event["subtype"][0]["code"])
    assert kinds == ["110127", "110138"]


def test_a_bundle_is_ordered_and_repeatable() -> None:
    late = Receipt.of(DRAFT, NODE, 2, bytes(32), TIME_MS + 1).encode()
    early = Receipt.of(DRAFT, NODE, 1, bytes(32), TIME_MS).encode()
    found = [event for each in (late, early) for event in audit_events(each, PARTIES)]
    bundle = audit_bundle(found)
    Bundle.model_validate(bundle)
    times = [each["resource"]["recorded"] for each in bundle["entry"]]
    assert times == sorted(times)
    assert bundle == audit_bundle(reversed(found))
    assert len({each["fullUrl"] for each in bundle["entry"]}) == 4


def test_what_is_no_receipt_is_refused() -> None:
    with pytest.raises(Invalid):
        audit_events(b"\x80", PARTIES)
