"""Receipts as FHIR R4 AuditEvents, in the patterns of IHE BALP.

Owns the mapping, both ways of reading it being one: what a receipt says, and nothing more.
An access that was decided is an authorization decision (``AuthZ-Consent``); one that was
permitted is besides a read (``PatientRead``) or a create (``PatientCreate``).  A holder's
release is that holder's own decision.  Openings in an emergency start and stop an override.

Invariants: no event tells what the receipt does not hold; identifiers are those of the
ledger, under ``urn:hcefs`` systems; the same receipt always gives the same event, whose id
follows from the receipt's hash, so that an export may be repeated.

Not guaranteed: evidence.  An AuditEvent is for the tools of a hospital; what proves itself
is the receipt.  The network address of a client is in no receipt, so it is masked here.
Source: FHIR R4 AuditEvent; IHE ITI BALP 1.1.4 (profiles PatientRead, PatientCreate,
AuthZconsent); DICOM PS3.16, CID 403.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from hcefs.evidence.receipt import Receipt, ReceiptKind, chain_hash
from hcefs.ids import AccountId, ClusterId, GrantId, RecordId

Json = dict[str, Any]

DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
ACT_REASON: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
EVENT_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-event-type"
INTERACTION: Final = "http://hl7.org/fhir/restful-interaction"
PARTICIPATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
ROLE_CLASS: Final = "http://terminology.hl7.org/CodeSystem/v3-RoleClass"
SECURITY_ROLE: Final = "http://terminology.hl7.org/CodeSystem/extra-security-role-type"
ENTITY_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
OBJECT_ROLE: Final = "http://terminology.hl7.org/CodeSystem/object-role"
SOURCE_TYPE: Final = "http://terminology.hl7.org/CodeSystem/security-source-type"
RESOURCE_TYPES: Final = "http://hl7.org/fhir/resource-types"
ABSENT: Final = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
BALP: Final = "https://profiles.ihe.net/ITI/BALP"
PROFILE: Final = BALP + "/StructureDefinition/IHE.BasicAudit."

SUCCESS: Final = "0"
FAILURE: Final = "8"
"""Codes of AuditEvent.outcome; BALP shows a denial as a serious failure."""

_NAMESPACE: Final = uuid.UUID("5a0f9f64-6e54-5cf5-9d2a-1f1f5c6f1a51")


@dataclass(frozen=True)
class Parties:
    """What the ledger says beside the receipts: the record's owner, and who admitted whom."""

    cluster: ClusterId
    owner: AccountId
    admitted_by: Mapping[AccountId, AccountId]


@dataclass(frozen=True)
class Override:
    """An opening in an emergency that began or ended."""

    opening: GrantId
    record: RecordId
    reader: AccountId
    node: AccountId
    time_ms: int
    started: bool
    reason: str


def audit_events(encoded: bytes, parties: Parties) -> list[Json]:
    """The events of one receipt, given by its canonical bytes; none for upkeep and closings.

    Raises:
        Invalid: it is not a receipt.
    """
    receipt = Receipt.decode(encoded)
    receipt.check()
    if not receipt.is_decision:
        return []
    name = chain_hash(encoded).hex()
    events = [_decision(receipt, parties, name)]
    if receipt.permitted and receipt.receipt_kind is ReceiptKind.ACCESS:
        if receipt.action == "read":
            events.append(_read(receipt, parties, name))
        elif receipt.action == "append":
            events.append(_create(receipt, parties, name))
    return events


def override_event(override: Override, parties: Parties) -> Json:
    """The start or the stop of an emergency override."""
    code, display = (
        ("110127", "Emergency Override Started")
        if override.started
        else ("110138", "Emergency Override Stopped")
    )
    name = f"{override.opening.hex()}/{override.started:d}/{override.node.hex()}"
    user = _user(parties, override.reader, "BTG")
    return _event(
        name,
        _coding(DCM, "110113", "Security Alert"),
        _coding(DCM, code, display),
        "E",
        override.time_ms,
        [user, _authorizer(parties, override.node)],
        [
            _patient(parties),
            _entity(
                _coding(RESOURCE_TYPES, "Consent", "Consent"),
                None,
                _identified(parties, "grant", override.opening.text),
            ),
        ],
        _source(parties, override.node),
        purpose="BTG",
        description=override.reason,
    )


def audit_bundle(events: Iterable[Json]) -> Json:
    """A FHIR Bundle (collection) of events, in the order of their time."""
    ordered = sorted(events, key=lambda event: (event["recorded"], event["id"]))
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"fullUrl": f"urn:uuid:{each['id']}", "resource": each} for each in ordered],
    }


# -- events


def _decision(receipt: Receipt, parties: Parties, name: str) -> Json:
    entities = [
        _patient(parties),
        _entity(_coding(RESOURCE_TYPES, "Consent", "Consent"), None, _consent(receipt, parties)),
    ]
    if any(receipt.token_hash):
        token = _identified(
            parties, "token", "urn:ietf:params:oauth:jti:" + receipt.token_hash.hex()
        )
        kind = _coding(f"{BALP}/CodeSystem/UserAgentTypes", "UserOauthAgent", "")
        entities.append(_entity(kind, None, token))
    client = receipt.presenter
    if receipt.receipt_kind is ReceiptKind.RELEASE and receipt.peer:
        client = receipt.peer  # the gateway asked, for the presenter
    return _event(
        name + "/decision",
        _coding(DCM, "110113", "Security Alert"),
        _coding(f"{BALP}/CodeSystem/AuthZsubType", "AuthZ-Consent", ""),
        "E",
        receipt.time_ms,
        [
            _application(parties, client),
            _user(parties, receipt.presenter, receipt.purpose),
            _organisation(parties, receipt.presenter),
            _authorizer(parties, receipt.node),
        ],
        entities,
        _source(parties, receipt.node),
        profile="AuthZconsent",
        outcome=SUCCESS if receipt.permitted else FAILURE,
        purpose=receipt.purpose,
        description=receipt.reason,
    )


def _read(receipt: Receipt, parties: Parties, name: str) -> Json:
    return _event(
        name + "/read",
        _coding(EVENT_TYPE, "rest", "Restful Operation"),
        _coding(INTERACTION, "read", "read"),
        "R",
        receipt.time_ms,
        [
            _machine(parties, receipt.presenter, "110152", "Destination Role ID"),
            _machine(parties, receipt.node, "110153", "Source Role ID"),
            _user(parties, receipt.presenter, receipt.purpose),
        ],
        [_patient(parties), _data(receipt, parties), _transaction(receipt)],
        _source(parties, receipt.node),
        profile="PatientRead",
        purpose=receipt.purpose,
    )


def _create(receipt: Receipt, parties: Parties, name: str) -> Json:
    user = _user(parties, receipt.presenter, receipt.purpose, ("AUT", "author (originator)"))
    return _event(
        name + "/create",
        _coding(EVENT_TYPE, "rest", "Restful Operation"),
        _coding(INTERACTION, "create", "create"),
        "C",
        receipt.time_ms,
        [
            _machine(parties, receipt.presenter, "110153", "Source Role ID"),
            _machine(parties, receipt.node, "110152", "Destination Role ID"),
            user,
        ],
        [_patient(parties), _data(receipt, parties), _transaction(receipt)],
        _source(parties, receipt.node),
        profile="PatientCreate",
        purpose=receipt.purpose,
    )


def _event(
    name: str,
    kind: Json,
    subtype: Json,
    action: str,
    time_ms: int,
    agents: list[Json],
    entities: list[Json],
    source: Json,
    *,
    profile: str = "",
    outcome: str = SUCCESS,
    purpose: str = "",
    description: str = "",
) -> Json:
    event: Json = {
        "resourceType": "AuditEvent",
        "id": str(uuid.uuid5(_NAMESPACE, name)),
        "type": kind,
        "subtype": [subtype],
        "action": action,
        "recorded": _instant(time_ms),
        "outcome": outcome,
        "agent": agents,
        "source": source,
        "entity": entities,
    }
    if profile:
        event["meta"] = {"profile": [PROFILE + profile]}
    if purpose:
        event["purposeOfEvent"] = [_concept(_coding(ACT_REASON, purpose, ""))]
    if description:
        event["outcomeDesc"] = description
    return event


# -- agents


def _machine(parties: Parties, account: AccountId, code: str, display: str) -> Json:
    return {
        "type": _concept(_coding(DCM, code, display)),
        "who": _account(parties, account),
        "requestor": False,
        "network": _masked(),
    }


def _application(parties: Parties, account: AccountId) -> Json:
    return _machine(parties, account, "110150", "Application")


def _user(
    parties: Parties,
    account: AccountId,
    purpose: str,
    participation: tuple[str, str] = ("IRCP", "information recipient"),
) -> Json:
    user: Json = {
        "type": _concept(_coding(PARTICIPATION, *participation)),
        "who": _account(parties, account),
        "requestor": True,
    }
    if purpose:
        user["purposeOfUse"] = [_concept(_coding(ACT_REASON, purpose, ""))]
    return user


def _organisation(parties: Parties, account: AccountId) -> Json:
    institution = parties.admitted_by.get(account)
    who: Json = {"display": "unknown"}
    if institution:
        who = _account(parties, institution)
    return {
        "type": _concept(_coding(ROLE_CLASS, "PROV", "healthcare provider")),
        "who": who,
        "requestor": False,
    }


def _authorizer(parties: Parties, node: AccountId) -> Json:
    return {
        "type": _concept(_coding(SECURITY_ROLE, "authserver", "authorization server")),
        "who": _account(parties, node),
        "requestor": False,
    }


def _source(parties: Parties, node: AccountId) -> Json:
    return {
        "site": parties.cluster.text,
        "observer": _account(parties, node),
        "type": [_coding(SOURCE_TYPE, "4", "Application Server")],
    }


# -- entities


def _patient(parties: Parties) -> Json:
    what = _account(parties, parties.owner) | {"type": "Patient"}
    return _entity(_coding(ENTITY_TYPE, "1", "Person"), _coding(OBJECT_ROLE, "1", "Patient"), what)


def _data(receipt: Receipt, parties: Parties) -> Json:
    entity = _entity(
        _coding(ENTITY_TYPE, "2", "System Object"),
        _coding(OBJECT_ROLE, "4", "Domain Resource"),
        _identified(parties, "record", receipt.record.text),
    )
    details = [("method", receipt.method)]
    details += [("blob", blob.text) for blob in receipt.blobs]
    if receipt.range_start or receipt.range_length:
        details.append(("range", f"{receipt.range_start}+{receipt.range_length}"))
    entity["detail"] = [{"type": kind, "valueString": text} for kind, text in details]
    return entity


def _transaction(receipt: Receipt) -> Json:
    kind = _coding(f"{BALP}/CodeSystem/BasicAuditEntityType", "XrequestId", "")
    return _entity(kind, None, {"identifier": {"value": receipt.request.text}})


def _consent(receipt: Receipt, parties: Parties) -> Json:
    """The grant; who has none acts as the owner, by having opened the record."""
    if receipt.grant:
        return _identified(parties, "grant", receipt.grant.text)
    return _identified(parties, "record", receipt.record.text)


def _entity(kind: Json, role: Json | None, what: Json) -> Json:
    entity: Json = {"what": what, "type": kind}
    if role is not None:
        entity["role"] = role
    return entity


# -- data types


def _coding(system: str, code: str, display: str) -> Json:
    coding = {"system": system, "code": code}
    return coding | {"display": display} if display else coding


def _concept(coding: Json) -> Json:
    return {"coding": [coding]}


def _account(parties: Parties, account: AccountId) -> Json:
    return _identified(parties, "account", account.text)


def _identified(parties: Parties, kind: str, value: str) -> Json:
    system = f"urn:hcefs:{parties.cluster.text}:{kind}"
    return {"identifier": {"system": system, "value": value}}


def _masked() -> Json:
    return {"extension": [{"url": ABSENT, "valueCode": "masked"}]}


def _instant(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
