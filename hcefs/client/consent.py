"""FHIR R4 ``Consent`` to wishes for grants, and what of it cannot be expressed.

HCE-FS denies by default, so a base policy of ``OPTIN`` gives nothing by itself, and only
provisions can.  FHIR R4 calls a provision "an exception to the base policy": without a type
of its own the root is a permit under ``OPTOUT`` and a denial under ``OPTIN``; a nested
provision says its type, or is taken for a denial.

Invariants, all in one direction, so that nothing is permitted that the document withholds:

* A permit counts only if *every* element of it, and of what it is nested in, is understood;
  an element, code, extension or actor that is not understood leaves it out.
* A denial counts *at least* as far as it reaches: a condition of it that cannot be expressed
  is dropped, so that it denies more.
* What a permit does not say is taken narrowly: no purpose is said where the caller gives
  none, no level of confidentiality means at most the caller's ceiling, a date without an
  offset is that date everywhere on earth.

Not guaranteed: that a wish can be fulfilled.  It names FHIR references and a ceiling; who
that is on the ledger, and which records fit, is for the patient's software
(:meth:`hcefs.client.classes.ClassClient.give_all`).  The document itself is not verified.

Source: HL7 FHIR R4 (4.0.1), resource Consent; docs/decisions/0032-labels-requests-and-consents.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hcefs.access.facts import PURPOSES, Action
from hcefs.errors import Invalid
from hcefs.formats.record_class import SENSITIVITIES, Confidentiality

_HL7: Final = "http://terminology.hl7.org/CodeSystem/"
POLICIES: Final = _HL7 + "v3-ActCode"
PURPOSES_OF_USE: Final = _HL7 + "v3-ActReason"
LEVELS: Final = _HL7 + "v3-Confidentiality"
ROLES: Final = _HL7 + "v3-ParticipationType"
ACTIONS: Final = _HL7 + "consentaction"
SCOPES: Final = _HL7 + "consentscope"

RECIPIENTS: Final = frozenset({"PRCP", "IRCP"})
"""Roles of those who receive information: the primary recipient, and information recipients."""

CUSTODIAN: Final = "CST"

READS: Final = frozenset({"access", "use"})
APPENDS: Final = frozenset({"collect", "correct"})
SHARES: Final = frozenset({"disclose"})

DEPTH_MAX: Final = 16
PROVISIONS_MAX: Final = 1_000
"""Bounds of a document: nothing beyond them is read."""

_SILENT: Final = frozenset({"id", "provision"})
_UNDERSTOOD: Final = _SILENT | {"type", "period", "actor", "action", "securityLabel", "purpose"}
_AHEAD, _BEHIND = timedelta(hours=14), timedelta(hours=12)
"""How far local dates run before and after UTC, on earth."""


@dataclass(frozen=True)
class Wish:
    """A grant that the document wants, for the grantee of a FHIR reference.

    On records of at most ``ceiling``, without those of ``excluded`` sensitivities.
    """

    grantee: str
    actions: Action
    purposes: tuple[str, ...]
    not_before_ms: int
    not_after_ms: int
    ceiling: Confidentiality
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unexpressed:
    """A part of the document that led to no wish, by its path, and why, as a slug."""

    path: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """What a document comes to."""

    wishes: tuple[Wish, ...]
    unexpressed: tuple[Unexpressed, ...]


@dataclass(frozen=True)
class Bounds:
    """What the reader brings, because a document may leave it open.

    ``now_ms`` and ``not_after_ms`` bound every wish; ``patient`` is who the document must be
    about; ``custodians`` are the organizations all of whose data of this patient is in the
    records concerned: a provision on the data of another cannot be told apart, and is left
    out.  ``purposes`` and ``ceiling`` hold where a permit says none.
    """

    patient: str
    now_ms: int
    not_after_ms: int
    custodians: frozenset[str] = frozenset()
    purposes: tuple[str, ...] = ()
    ceiling: Confidentiality = Confidentiality.N


@dataclass(frozen=True)
class _Node:
    """One provision, where it is, and whether it permits."""

    path: str
    body: Mapping[str, Any]
    permits: bool
    above: tuple[_Node, ...]


class _Unclear(Exception):
    """Something that a permit may not rest on; carries its path's end and the reason."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(reason)
        self.where = where
        self.reason = reason


def read_consent(document: Mapping[str, Any], bounds: Bounds) -> Reading:
    """The wishes of a FHIR R4 Consent, and what of it cannot be expressed.

    Raises:
        Invalid: ``bad-consent``: not such a resource, or beyond the bounds.
    """
    if not isinstance(document, Mapping) or document.get("resourceType") != "Consent":
        raise Invalid("this is no FHIR Consent resource", reason="bad-consent")
    refused = _refusal(document, bounds)
    if refused is not None:
        return Reading((), (refused,))
    base = _base(document)
    root = document.get("provision")
    if not isinstance(root, Mapping):
        return Reading((), (Unexpressed("provision", "no-provision"),))
    nodes = list(_nodes(root, base))
    left = [Unexpressed("policyRule", "base-names-no-grantee")] if base == "OPTIN" else []
    wishes: list[Wish] = []
    for node in nodes:
        if not node.permits:
            continue
        try:
            found = _permitted(node, bounds)
        except _Unclear as unclear:
            left.append(Unexpressed(f"{node.path}.{unclear.where}".rstrip("."), unclear.reason))
            continue
        for wish in found:
            rest = _after_denials(wish, [each for each in nodes if not each.permits], node)
            if isinstance(rest, Unexpressed):
                left.append(rest)
            elif rest not in wishes:
                wishes.append(rest)
    return Reading(tuple(wishes), tuple(left))


def _refusal(document: Mapping[str, Any], bounds: Bounds) -> Unexpressed | None:
    """Why nothing of the document counts, if that is so."""
    if document.get("status") != "active":
        return Unexpressed("status", "not-active")
    if _modified(document):
        return Unexpressed("modifierExtension", "not-understood")
    if _codes([document.get("scope")], SCOPES) != {"patient-privacy"}:
        return Unexpressed("scope", "not-a-privacy-consent")
    patient = document.get("patient")
    if not isinstance(patient, Mapping) or patient.get("reference") != bounds.patient:
        return Unexpressed("patient", "another-patient")
    for check in _list(document.get("verification")):
        if not isinstance(check, Mapping) or check.get("verified") is not True:
            return Unexpressed("verification", "not-verified")
    if _list(document.get("policy")):
        return Unexpressed("policy", "not-understood")
    if not _base(document):
        return Unexpressed("policyRule", "not-understood")
    return None


def _base(document: Mapping[str, Any]) -> str:
    """``OPTIN`` or ``OPTOUT``; nothing for any other policy."""
    found = _codes([document.get("policyRule")], POLICIES)
    return next(iter(found)) if found in ({"OPTIN"}, {"OPTOUT"}) else ""


def _nodes(root: Mapping[str, Any], base: str) -> Iterator[_Node]:
    """Every provision, from the root down.

    Raises:
        Invalid: ``bad-consent``: too deep or too many.
    """
    kind = root.get("type", "permit" if base == "OPTOUT" else "deny")
    waiting = [_Node("provision", root, kind == "permit", ())]
    count = 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > PROVISIONS_MAX or len(node.above) > DEPTH_MAX:
            raise Invalid("the consent has too many provisions to read", reason="bad-consent")
        yield node
        for number, body in enumerate(_list(node.body.get("provision"))):
            path = f"{node.path}.provision[{number}]"
            known = body if isinstance(body, Mapping) else {}
            # R4 wants a type here; without one, a permit would be a guess.
            permits = known.get("type") == "permit"
            waiting.append(_Node(path, known, permits, (*node.above, node)))


# -- permits


def _permitted(node: _Node, bounds: Bounds) -> list[Wish]:
    """The wishes of a permit, within all that it is nested in.

    Raises:
        _Unclear: something of that is not understood, or nothing is left.
    """
    grantees: list[str] | None = None
    actions = Action.READ | Action.APPEND | Action.SHARE
    said_actions = False
    purposes: set[str] | None = None
    ceiling = Confidentiality.V
    said_ceiling = False
    start, end = bounds.now_ms, bounds.not_after_ms
    for each in (*node.above, node):
        body = each.body
        if set(body) - _UNDERSTOOD or _modified(body):
            raise _Unclear("", "not-understood:" + min(set(body) - _UNDERSTOOD | {"~extension"}))
        if "type" in body and body["type"] not in ("permit", "deny"):
            raise _Unclear("type", "not-understood")
        if "actor" in body:
            named = _recipients(body["actor"], bounds)
            if named:
                grantees = named if grantees is None else [one for one in grantees if one in named]
        if "action" in body:
            actions &= _actions(body["action"])
            said_actions = True
        if "purpose" in body:
            here = _purposes(body["purpose"])
            purposes = here if purposes is None else purposes & here
        if "securityLabel" in body:
            ceiling = min(ceiling, _ceiling(body["securityLabel"]))
            said_ceiling = True
        if "period" in body:
            first, last = _period(body["period"])
            start, end = max(start, first), min(end, last)
    if not grantees:
        raise _Unclear("actor", "no-grantee")
    if not said_actions:
        # Consent is about use: adding to a record, or passing it on, has to be said.
        actions = Action.READ
    if not actions:
        raise _Unclear("action", "no-action")
    wanted = bounds.purposes if purposes is None else tuple(sorted(purposes))
    if not wanted:
        raise _Unclear("purpose", "no-purpose")
    if start >= end:
        raise _Unclear("period", "over")
    level = ceiling if said_ceiling else bounds.ceiling
    return [Wish(one, actions, wanted, start, end, level) for one in grantees]


def _recipients(actors: Any, bounds: Bounds) -> list[str]:
    """Who receives; the custodians among the actors must be those of the records concerned."""
    found: list[str] = []
    for actor in _list(actors):
        role, reference = _actor(actor)
        if role in RECIPIENTS:
            found.append(reference)
        elif role != CUSTODIAN:
            raise _Unclear("actor", "role-not-understood")
        elif reference not in bounds.custodians:
            raise _Unclear("actor", "another-custodian")
    return found


def _actor(actor: Any) -> tuple[str, str]:
    if not isinstance(actor, Mapping) or set(actor) - {"id", "role", "reference"}:
        raise _Unclear("actor", "not-understood")
    roles = _codes([actor.get("role")], ROLES)
    reference = actor.get("reference")
    if roles is None or len(roles) != 1 or not isinstance(reference, Mapping):
        raise _Unclear("actor", "not-understood")
    name = reference.get("reference")
    if not isinstance(name, str) or not name:
        raise _Unclear("actor", "not-understood")
    return next(iter(roles)), name


def _actions(concepts: Any) -> Action:
    codes = _codes(concepts, ACTIONS)
    if not codes or not codes <= READS | APPENDS | SHARES:
        raise _Unclear("action", "not-understood")
    found = Action(0)
    for names, action in ((READS, Action.READ), (APPENDS, Action.APPEND), (SHARES, Action.SHARE)):
        if codes & names:
            found |= action
    return found


def _purposes(codings: Any) -> set[str]:
    codes = _coded(codings, PURPOSES_OF_USE)
    if not codes or not codes <= PURPOSES:
        raise _Unclear("purpose", "not-understood")
    return codes


def _ceiling(codings: Any) -> Confidentiality:
    """The level that labels allow; a permit of *only* some sensitivities has no grant."""
    codes = _coded(codings, LEVELS)
    if not codes or not codes <= set(Confidentiality.__members__):
        raise _Unclear("securityLabel", "not-understood")
    return min(Confidentiality[code] for code in codes)


def _period(period: Any) -> tuple[int, int]:
    """First and one past the last millisecond, read narrowly."""
    if not isinstance(period, Mapping) or set(period) - {"id", "start", "end"}:
        raise _Unclear("period", "not-understood")
    start = _moments(period["start"])[0] if "start" in period else 0
    end = _moments(period["end"])[1] if "end" in period else 1 << 62
    return start, end


def _moments(text: Any) -> tuple[int, int]:
    """When a FHIR date begins at the latest and ends at the earliest, on earth."""
    try:
        if not isinstance(text, str):
            raise TypeError
        if "T" in text:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                raise ValueError(text)
            exact = _milliseconds(moment)
            return exact, exact
        parts = [int(part) for part in text.split("-")]
        if not 1 <= len(parts) <= 3:
            raise ValueError(text)
        year, month, day = (*parts, 1, 1)[:3]
        first = datetime(year, month, day, tzinfo=UTC)
        if len(parts) == 3:
            after = first + timedelta(days=1)
        elif len(parts) == 2:
            after = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        else:
            after = datetime(year + 1, 1, 1, tzinfo=UTC)
        return _milliseconds(first + _BEHIND), _milliseconds(after - _AHEAD)
    except (ValueError, TypeError, OverflowError):
        raise _Unclear("period", "not-understood") from None


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


# -- denials


def _after_denials(wish: Wish, denials: Sequence[_Node], permit: _Node) -> Wish | Unexpressed:
    """What denials leave of a wish; those that it is an exception to do not count."""
    for node in denials:
        if node in permit.above:
            continue
        left = _without(wish, node.body)
        if left is None:
            return Unexpressed(permit.path, f"denied-by:{node.path}")
        wish = left
    return wish


def _without(wish: Wish, body: Mapping[str, Any]) -> Wish | None:
    """A wish without what a denial covers, and more rather than less.

    The denial is a product of conditions.  One that surely spares this grantee ends it; of
    the others one is enough to take away, and the most telling one is taken.
    """
    if _spares(wish.grantee, body):
        return wish
    if "securityLabel" in body:
        # A level in a denial reaches down from it, which no ceiling can say.
        codes = _coded(body["securityLabel"], POLICIES)
        if codes and codes <= SENSITIVITIES.keys():
            return replace(wish, excluded=tuple(sorted({*wish.excluded, *codes})))
        return None
    if "purpose" in body:
        denied = _coded(body["purpose"], PURPOSES_OF_USE)
        if denied and denied <= PURPOSES:
            left = tuple(code for code in wish.purposes if code not in denied)
            return replace(wish, purposes=left) if left else None
        return None
    if "action" in body:
        try:
            actions = wish.actions & ~_actions(body["action"])
        except _Unclear:
            return None
        return replace(wish, actions=actions) if actions else None
    return None


def _spares(grantee: str, body: Mapping[str, Any]) -> bool:
    """Whether a denial is surely for recipients among whom this grantee is not."""
    try:
        actors = [_actor(actor) for actor in _list(body.get("actor"))]
    except _Unclear:
        return False
    if not actors or not all(role in RECIPIENTS for role, _ in actors):
        return False
    # Only the same kind of reference can be told apart: a nurse may work for a clinic.
    kind = grantee.partition("/")[0]
    return all(
        name != grantee and name.partition("/")[0] == kind == "Practitioner" for _, name in actors
    )


# -- reading FHIR


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _modified(body: Mapping[str, Any]) -> bool:
    return "modifierExtension" in body or "implicitRules" in body


def _codes(concepts: Any, system: str) -> set[str] | None:
    """The codes of CodeableConcepts, all of which must be of the system; None otherwise."""
    found: set[str] = set()
    for concept in _list(concepts):
        if not isinstance(concept, Mapping):
            return None
        codes = _coded(concept.get("coding"), system)
        if not codes:
            return None
        found |= codes
    return found or None


def _coded(codings: Any, system: str) -> set[str] | None:
    """The codes of Codings, all of which must be of the system; None otherwise."""
    found: set[str] = set()
    for coding in _list(codings):
        if not isinstance(coding, Mapping) or coding.get("system") != system:
            return None
        code = coding.get("code")
        if not isinstance(code, str):
            return None
        found.add(code)
    return found or None
