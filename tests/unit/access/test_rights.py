"""Every rule of permission, one row each; every reason is reached."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hcefs.access.emergency import EmergencyNaming, EmergencyPolicy
from hcefs.access.erasure_facts import Erasure
from hcefs.access.facts import PURPOSES, AccountKind, Action, Grant
from hcefs.access.rights import (
    CHAIN_DEPTH_MAX,
    PERMITTED,
    RANGE_END_MAX,
    REASONS,
    AccessRequest,
    Decision,
    decide,
    decide_owner,
)
from hcefs.errors import Denied
from hcefs.ids import AccountId, GrantId, RecordId
from tests.unit.access.world import (
    ALL,
    BLOB,
    CHILD,
    DOCTOR,
    GRANT,
    HOUR_MS,
    NO_GRANT,
    NODE,
    NOW_MS,
    NURSE,
    OTHER_BLOB,
    OTHER_RECORD,
    OWNER,
    RECORD,
    STRANGER,
    FakeView,
    account,
    child,
    grant,
    request,
    view,
)

AS_OWNER: dict[str, Any] = {"presenter": OWNER, "holder": OWNER, "grant": NO_GRANT}
AS_NURSE: dict[str, Any] = {"presenter": NURSE, "holder": NURSE, "grant": CHILD}


@dataclass(frozen=True)
class Case:
    name: str
    reason: str
    view: FakeView = field(default_factory=lambda: view(grant()))
    request: AccessRequest = field(default_factory=request)
    now_ms: int = NOW_MS


def asks(name: str, reason: str, **changes: Any) -> Case:
    return Case(name, reason, request=request(**changes))


def given(name: str, reason: str, given_changes: dict[str, Any], **changes: Any) -> Case:
    return Case(name, reason, view=view(grant(**given_changes)), request=request(**changes))


def passed_on(name: str, reason: str, above: dict[str, Any], **changes: Any) -> Case:
    return Case(
        name, reason, view=view(grant(**above), child(**changes)), request=request(**AS_NURSE)
    )


ONE_BLOB = {"blob": BLOB}
ONE_RANGE = {"blob": BLOB, "range_start": 100, "range_length": 50}

REQUESTS = [
    asks("grantee reads", PERMITTED),
    asks("grantee appends", PERMITTED, action=Action.APPEND),
    asks("grantee shares", PERMITTED, action=Action.SHARE),
    asks("grantee lists", PERMITTED, blob=None),
    asks("last byte that can be named", PERMITTED, range_start=RANGE_END_MAX - 1, range_length=1),
    asks("unknown record", "unknown-record", record=RecordId(b"?" * 16)),
    asks("unknown presenter", "unknown-account", presenter=STRANGER),
    asks("unknown holder", "unknown-account", holder=STRANGER),
    asks("unknown purpose", "unknown-purpose", purpose="MARKETING"),
    asks("no purpose", "unknown-purpose", purpose=""),
    asks("purpose in lower case", "unknown-purpose", purpose="treat"),
    asks("no action", "action-not-granted", action=Action(0)),
    asks("two actions at once", "action-not-granted", action=Action.READ | Action.APPEND),
    asks("negative start", "wrong-range", range_start=-1),
    asks("negative length", "wrong-range", range_length=-1),
    asks("start beyond all blobs", "wrong-range", range_start=RANGE_END_MAX, range_length=1),
    asks("range of a whole record", "wrong-range", blob=None, range_length=1),
    Case(
        "deactivated presenter",
        "inactive-account",
        view=view(grant(), doctor=account(DOCTOR, active=False)),
    ),
    Case(
        "deactivated holder",
        "inactive-account",
        view=view(grant(), doctor=account(DOCTOR, active=False)),
        request=request(presenter=NURSE),
    ),
]

OWNERS = [
    asks("owner reads", PERMITTED, **AS_OWNER),
    asks("owner lists", PERMITTED, **AS_OWNER, blob=None),
    asks("owner for any purpose", PERMITTED, **AS_OWNER, purpose="HLEGAL"),
    asks("no grant named", "not-the-owner", grant=NO_GRANT),
    asks("owner's token lent", "not-shareable", holder=OWNER, grant=NO_GRANT),
    asks("presented by the owner only", "not-the-owner", presenter=OWNER, grant=NO_GRANT),
]

GRANTS = [
    asks("unknown grant", "no-such-grant", grant=GrantId(b"?" * 16)),
    asks("someone else's grant", "not-the-grantee", holder=NURSE, presenter=NURSE),
    asks("owner under a grantee's grant", "not-the-grantee", holder=OWNER, presenter=OWNER),
    asks("another record", "wrong-record", record=OTHER_RECORD),
    given("blob as granted", PERMITTED, ONE_BLOB),
    given("another blob", "wrong-blob", ONE_BLOB, blob=OTHER_BLOB),
    given("listing under a blob's grant", "wrong-blob", ONE_BLOB, blob=None),
    given("range as granted", PERMITTED, ONE_RANGE, range_start=100, range_length=50),
    given("range inside", PERMITTED, ONE_RANGE, range_start=120, range_length=1),
    given("one byte early", "wrong-range", ONE_RANGE, range_start=99, range_length=50),
    given("one byte late", "wrong-range", ONE_RANGE, range_start=101, range_length=50),
    given("to the end of a limited range", "wrong-range", ONE_RANGE, range_start=120),
    given("open range as granted", PERMITTED, ONE_BLOB | {"range_start": 9}, range_start=9),
    given("before an open range", "wrong-range", ONE_BLOB | {"range_start": 9}, range_start=8),
    given("listing under a range", "wrong-range", {"range_length": 9}, blob=None),
    given("purpose not granted", "wrong-purpose", {}, purpose="HPAYMT"),
    given("no purposes granted", "wrong-purpose", {"purposes": ()}),
    given("read not granted", "action-not-granted", {"actions": Action.APPEND | Action.SHARE}),
    given(
        "append not granted", "action-not-granted", {"actions": Action.READ}, action=Action.APPEND
    ),
    given("share not granted", "action-not-granted", {"actions": Action.READ}, action=Action.SHARE),
    given("first moment", PERMITTED, {"not_before_ms": NOW_MS}),
    given("a moment early", "not-yet-valid", {"not_before_ms": NOW_MS + 1}),
    given("last moment", PERMITTED, {"not_after_ms": NOW_MS + 1}),
    given("a moment late", "expired", {"not_after_ms": NOW_MS}),
    given("revoked", "revoked", {"revoked_height": 3}),
    given("revoked and expired", "revoked", {"revoked_height": 3, "not_after_ms": 0}),
    given("not given by the owner", "broken-chain", {"granter": NURSE}),
    given("lent to another", PERMITTED, {}, presenter=NURSE),
    given("lent without share", "not-shareable", {"actions": Action.READ}, presenter=NURSE),
]

CHAINS = [
    passed_on("passed on", PERMITTED, {}),
    passed_on("parent revoked", "parent-revoked", {"revoked_height": 3}),
    passed_on("parent expired", "parent-expired", {"not_after_ms": NOW_MS}),
    passed_on("parent not valid yet", "parent-not-yet-valid", {"not_before_ms": NOW_MS + 1}),
    passed_on("child revoked", "revoked", {}, revoked_height=4),
    passed_on("parent without share", "not-shareable", {"actions": Action.READ}),
    passed_on("parent on another record", "wrong-record", {"record": OTHER_RECORD}),
    passed_on("parent on another blob", "wrong-blob", {"blob": OTHER_BLOB}),
    passed_on("parent with a range", "wrong-range", ONE_RANGE),
    passed_on("parent without read", "action-not-granted", {"actions": Action.SHARE}),
    passed_on("parent for other purposes", "wrong-purpose", {"purposes": ("HPAYMT",)}),
    passed_on("parent of another granter", "broken-chain", {"grantee": NODE}),
    passed_on("parent missing", "broken-chain", {}, parent=GrantId(b"?" * 16)),
    passed_on("its own parent", "broken-chain", {}, parent=CHILD, granter=NURSE),
    passed_on("parent not the owner's", "broken-chain", {"granter": NODE}),
    Case(
        "intermediary deactivated",
        "inactive-account",
        view=view(grant(), child(), doctor=account(DOCTOR, active=False)),
        request=request(**AS_NURSE),
    ),
    Case(
        "owner deactivated",
        PERMITTED,
        view=view(grant(), owner=account(OWNER, active=False)),
    ),
]


def erased(*grants: Grant) -> FakeView:
    """The usual world, with the record erased at height 7."""
    world = view(*grants)
    world.erasures[RECORD] = Erasure(RECORD, 7, NOW_MS, OWNER, b"", bytes(32))
    return world


ERASED = [
    Case("erased, the owner reads", "erased", view=erased(), request=request(**AS_OWNER)),
    Case("erased, a live grant", "erased", view=erased(grant())),
    Case(
        "erased, the owner shares",
        "erased",
        view=erased(),
        request=request(**AS_OWNER, action=Action.SHARE),
    ),
    Case(
        "erased, the owner appends",
        "erased",
        view=erased(),
        request=request(**AS_OWNER, action=Action.APPEND),
    ),
    Case(
        "another record was erased",
        PERMITTED,
        view=erased(grant(record=OTHER_RECORD)),
        request=request(record=OTHER_RECORD),
    ),
]

NAMING = GrantId(bytes(15) + b"N")
ALLOWED = EmergencyPolicy(1, True, ("RESCUE",), ("TRAUMA",))
UNDER_OPENING: dict[str, Any] = {"purpose": "BTG"}


def opened(
    name: str,
    reason: str,
    *,
    policy: EmergencyPolicy = ALLOWED,
    refused: bool = False,
    given: dict[str, Any] | None = None,
    naming: dict[str, Any] | None = None,
    **changes: Any,
) -> Case:
    """A read by a grant that an opening made under a naming of the doctor."""
    base: dict[str, Any] = {"parent": NAMING, "actions": Action.READ, "purposes": ("BTG",)}
    known = view(grant(**(base | (given or {}))))
    named = EmergencyNaming(NAMING, RECORD, OWNER, DOCTOR, 2, 0)
    known.namings[NAMING] = replace(named, **(naming or {}))
    known.accounts[DOCTOR] = replace(known.accounts[DOCTOR], kind=AccountKind.PRACTITIONER)
    known.policy = policy
    known.refused = {RECORD} if refused else set()
    return Case(name, reason, view=known, request=request(**(UNDER_OPENING | changes)))


OPENINGS = [
    opened("under an opening", PERMITTED),
    opened("under an opening, for treatment", "wrong-purpose", purpose="TREAT"),
    opened("under an opening, by another", "not-the-grantee", presenter=NURSE, holder=NURSE),
    opened("under an opening, lent", "not-shareable", presenter=NURSE),
    opened("an opening that may do more", "not-shareable", given={"actions": ALL}),
    opened(
        "an opening, while the policy forbids", "emergency-not-allowed", policy=EmergencyPolicy()
    ),
    opened("an opening against a refusal", "emergency-refused", refused=True),
    opened(
        "an opening against a refusal that yields",
        PERMITTED,
        refused=True,
        policy=replace(ALLOWED, refusal_wins=False),
    ),
    opened("an opening under an ended naming", "emergency-not-named", naming={"ended_height": 5}),
    opened(
        "an opening under the naming of another", "emergency-not-named", naming={"grantee": NURSE}
    ),
    opened(
        "an opening under the naming of nobody", "unknown-account", naming={"grantee": STRANGER}
    ),
    opened(
        "an opening under the naming of another record",
        "broken-chain",
        naming={"record": OTHER_RECORD},
    ),
    opened("an opening that the owner did not allow", "broken-chain", given={"granter": NURSE}),
]

CASES = REQUESTS + OWNERS + GRANTS + CHAINS + ERASED + OPENINGS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decide(case: Case) -> None:
    decision = decide(case.view, case.request, case.now_ms)
    assert decision == Decision(case.reason == PERMITTED, case.reason)


def test_every_reason_is_reached() -> None:
    assert {case.reason for case in CASES} == {PERMITTED, *REASONS}


@pytest.mark.parametrize("purpose", sorted(PURPOSES))
def test_the_owner_may_name_every_purpose(purpose: str) -> None:
    assert decide(view(), request(**AS_OWNER, purpose=purpose), NOW_MS).permitted


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, PERMITTED),
        ({"record": RecordId(b"?" * 16)}, "unknown-record"),
        ({"purpose": "?"}, "unknown-purpose"),
        ({"presenter": DOCTOR}, "not-shareable"),
        ({"presenter": DOCTOR, "holder": DOCTOR}, "not-the-owner"),
        ({"presenter": DOCTOR, "holder": DOCTOR, "grant": GRANT}, "not-the-owner"),
        ({"grant": GRANT}, "not-the-owner"),
    ],
)
def test_decide_owner(changes: dict[str, Any], reason: str) -> None:
    asked = request(**(AS_OWNER | changes))
    decision = decide_owner(view(grant(), child()), asked, NOW_MS)
    assert decision == Decision(reason == PERMITTED, reason)


@pytest.mark.parametrize("depth", [1, CHAIN_DEPTH_MAX, CHAIN_DEPTH_MAX + 1])
def test_the_chain_has_a_bounded_depth(depth: int) -> None:
    parties = [OWNER, *(AccountId(bytes([number]) * 16) for number in range(1, depth + 1))]
    ids = [GrantId(bytes([number]) * 16) for number in range(1, depth + 1)]
    grants = [
        grant(
            grant=ids[number],
            granter=parties[number],
            grantee=parties[number + 1],
            parent=ids[number - 1] if number else None,
        )
        for number in range(depth)
    ]
    ledger = view(*grants, **{f"p{n}": account(name) for n, name in enumerate(parties)})
    asked = request(holder=parties[-1], presenter=parties[-1], grant=ids[-1])
    expected = PERMITTED if depth <= CHAIN_DEPTH_MAX else "broken-chain"
    assert decide(ledger, asked, NOW_MS).reason == expected


def test_a_revocation_counts_at_once() -> None:
    ledger = view(grant(), child())
    asked = request(**AS_NURSE)
    assert decide(ledger, asked, NOW_MS).permitted
    ledger.grants[GRANT] = grant(revoked_height=8)
    assert decide(ledger, asked, NOW_MS).reason == "parent-revoked"


def test_the_last_moment_is_exclusive_and_the_first_inclusive() -> None:
    ledger = view(grant())
    first, end = NOW_MS - HOUR_MS, NOW_MS + HOUR_MS
    answers = [decide(ledger, request(), at).reason for at in (first - 1, first, end - 1, end)]
    assert answers == ["not-yet-valid", PERMITTED, PERMITTED, "expired"]


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_require_raises_with_the_reason_and_advice(reason: str) -> None:
    with pytest.raises(Denied, match="not permitted: ") as caught:
        Decision(False, reason).require()
    assert caught.value.reason == reason


def test_require_lets_a_permitted_request_pass() -> None:
    Decision(True, PERMITTED).require()


def test_a_record_is_never_opened_by_another_records_owner() -> None:
    ledger = view()
    ledger.records[RECORD] = ledger.records[OTHER_RECORD].__class__(RECORD, NODE, 1, 0, (), 1)
    assert decide(ledger, request(**AS_OWNER), NOW_MS).reason == "not-the-owner"
