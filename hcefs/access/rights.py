"""The decision: may this request be served, by what the ledger says now?

Owns the only rules of permission in HCE-FS.  No other module decides; callers
ask :func:`decide` (or :func:`decide_owner`) and act on the answer.

Invariants:

* Deny by default: ``permitted`` is returned in one place, after every check.
* Pure: the answer follows from the view's state, the request and ``now_ms``
  alone; nothing is remembered between calls, so a revocation counts from the
  block that holds it.
* Deterministic: the ledger's state machine decides appends and grants by it too,
  so a changed rule is a new protocol version.
* A grant never reaches further than any grant above it: the whole chain up to
  the record's owner is checked for life *and* for scope, although the ledger
  refuses to record a wider child.

Not guaranteed: that the view is fresh (the follower's lease is) or that the
presenter is who it says (``hcefs.access.verifier`` is).

Source: docs/ARCHITECTURE.md, "Rights"; purposes are HL7 v3-ActReason codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from hcefs.access import emergency
from hcefs.access.facts import PURPOSES, Account, Action, Grant, LedgerView, Record
from hcefs.errors import Denied
from hcefs.ids import AccountId, BlobId, GrantId, RecordId

CHAIN_DEPTH_MAX: Final = 8
"""Grants in a chain, the presented one included: bounds the work of a request."""

RANGE_END_MAX: Final = (1 << 63) - 1
"""Last byte offset that a request may name: what a signed 64-bit integer holds."""

ACTION_NAMES: Final[Mapping[Action, str]] = MappingProxyType(
    {Action.READ: "read", Action.APPEND: "append", Action.SHARE: "share"}
)
"""The single actions that can be requested, by their name in tokens and messages."""

PERMITTED: Final = "permitted"

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "unknown-record": "the ledger knows no such record here: check the id, or ask for at "
        "least the height that opened it",
        "erased": "the record was erased: nothing of it can be read, appended or granted any more",
        "unknown-account": "an account of the request is not on the ledger: register it first",
        "inactive-account": "an account that this right rests on was deactivated: ask the "
        "institution or the operators that admitted it",
        "unknown-purpose": "the purpose of use is not a known code: name one, such as TREAT",
        "not-the-owner": "only the record's owner may do this without a grant: present a token "
        "that names the grant",
        "no-such-grant": "the ledger knows no such grant here: check the id, or ask for at least "
        "the height that gave it",
        "not-the-grantee": "the grant was given to another account than the token's",
        "wrong-record": "the grant is for another record",
        "wrong-blob": "the grant is for one blob, and the request is not for that blob",
        "wrong-range": "the range is malformed or reaches beyond the range that was granted",
        "wrong-purpose": "the grant does not allow this purpose of use",
        "action-not-granted": "the grant does not allow this action",
        "not-yet-valid": "the grant is not valid yet: retry after its first moment",
        "expired": "the grant has expired: ask for a new one",
        "revoked": "the grant was revoked",
        "parent-not-yet-valid": "a grant that this one was given under is not valid yet",
        "parent-expired": "a grant that this one was given under has expired: ask for a new one",
        "parent-revoked": "a grant that this one was given under was revoked: ask for a new one",
        "not-shareable": "acting for another account, or under its grant, needs the share action "
        "on that grant",
        "emergency-not-allowed": "the operators' policy does not allow openings in an emergency",
        "emergency-refused": "the record's owner refuses openings in an emergency, and the "
        "policy lets the refusal win",
        "emergency-not-named": "the naming that this opening rests on has ended, or names "
        "neither this account nor the institution that admitted it",
        "broken-chain": "the grant does not lead back to the record's owner: ask for a new one",
    }
)
"""Every reason for a denial: its stable slug and what it tells the caller."""


@dataclass(frozen=True)
class AccessRequest:
    """One thing that an account asks to do.

    ``blob`` None means the record as a whole (list its blobs).
    ``range_length`` 0 means to the end.  ``holder`` is the account whose token
    it is, ``presenter`` the one that proved itself.  A zero ``grant`` means 'as
    the owner'.
    """

    action: Action
    record: RecordId
    blob: BlobId | None
    range_start: int
    range_length: int
    purpose: str
    presenter: AccountId
    holder: AccountId
    grant: GrantId


@dataclass(frozen=True)
class Decision:
    """The answer: ``reason`` is "permitted" or a key of :data:`REASONS`."""

    permitted: bool
    reason: str

    def require(self) -> None:
        """Return if permitted.

        Raises:
            Denied: with the reason of this decision.
        """
        if not self.permitted:
            raise Denied(f"not permitted: {REASONS[self.reason]}", reason=self.reason)


class _Refusal(Exception):
    """Carries a slug from a check to the decision; never leaves this module."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decide(view: LedgerView, request: AccessRequest, now_ms: int) -> Decision:
    """Whether the ledger permits ``request`` at ``now_ms``, and if not, why."""
    try:
        record = _check_request(view, request)
        if not request.grant:
            _check_owner(record, request)
        else:
            _check_grant(view, record, request, now_ms)
    except _Refusal as refusal:
        return Decision(False, refusal.reason)
    return Decision(True, PERMITTED)


def decide_owner(view: LedgerView, request: AccessRequest, now_ms: int) -> Decision:
    """Whether this is the record's owner in person: no grant, no delegate.

    For what no grant can convey, such as storing the links between the key
    generations of a record.
    """
    del now_ms  # ownership does not end; the parameter keeps the two decisions alike
    try:
        record = _check_request(view, request)
        if request.grant:
            raise _Refusal("not-the-owner")
        _check_owner(record, request)
    except _Refusal as refusal:
        return Decision(False, refusal.reason)
    return Decision(True, PERMITTED)


def _check_request(view: LedgerView, request: AccessRequest) -> Record:
    """What must hold whoever asks: known record, live parties, a sane request."""
    record = view.record(request.record)
    if record is None:
        raise _Refusal("unknown-record")
    if view.erasure(request.record) is not None:
        raise _Refusal("erased")
    _active(view, request.presenter)
    if request.holder != request.presenter:
        _active(view, request.holder)
    if request.purpose not in PURPOSES:
        raise _Refusal("unknown-purpose")
    if request.action not in ACTION_NAMES:  # nothing, or several at once
        raise _Refusal("action-not-granted")
    start, length = request.range_start, request.range_length
    if start < 0 or length < 0 or start + length > RANGE_END_MAX:
        raise _Refusal("wrong-range")
    if request.blob is None and (start or length):
        raise _Refusal("wrong-range")
    return record


def _check_owner(record: Record, request: AccessRequest) -> None:
    if request.holder != record.owner:
        raise _Refusal("not-the-owner")
    if request.presenter != request.holder:
        # No grant stands behind an owner's token, so nothing says it may be lent.
        raise _Refusal("not-shareable")


def _check_grant(view: LedgerView, record: Record, request: AccessRequest, now_ms: int) -> None:
    grant = view.grant(request.grant)
    if grant is None:
        raise _Refusal("no-such-grant")
    if grant.grantee != request.holder:
        raise _Refusal("not-the-grantee")
    _check_live(grant, now_ms, "")
    _check_scope(grant, request)
    if request.presenter != request.holder and not grant.actions & Action.SHARE:
        raise _Refusal("not-shareable")
    _check_parents(view, record, grant, request, now_ms)


def _check_parents(
    view: LedgerView, record: Record, grant: Grant, request: AccessRequest, now_ms: int
) -> None:
    """Walk up to the owner; a revoked or expired grant takes its children with it."""
    for _ in range(CHAIN_DEPTH_MAX):
        if grant.parent is None:
            if grant.granter != record.owner:
                raise _Refusal("broken-chain")
            return
        parent = view.grant(grant.parent)
        if parent is None:
            # Only an opening makes grants under what is no grant itself.
            _check_opened(view, record, grant, request)
            return
        if parent.grantee != grant.granter:
            raise _Refusal("broken-chain")
        _check_live(parent, now_ms, "parent-")
        if not parent.actions & Action.SHARE:
            raise _Refusal("not-shareable")
        # A deactivated account may have been a stolen one: what it gave dies with it.
        _active(view, parent.grantee)
        _check_scope(parent, request)
        grant = parent
    raise _Refusal("broken-chain")


def _check_opened(view: LedgerView, record: Record, grant: Grant, request: AccessRequest) -> None:
    """A grant made by an opening: is the naming behind it still as it was when it was made?

    Time, scope, purpose and closing are those of the grant itself and were checked as such.
    It cannot be lent, because it never has the share action.
    """
    naming = view.emergency_naming(grant.parent) if grant.parent is not None else None
    if naming is None or naming.record != record.record or grant.granter != record.owner:
        raise _Refusal("broken-chain")
    if grant.actions != Action.READ or request.presenter != request.holder:
        raise _Refusal("not-shareable")
    policy = view.emergency_policy()
    if not policy.allowed:
        raise _Refusal("emergency-not-allowed")
    if policy.refusal_wins and view.emergency_refused(record.record):
        raise _Refusal("emergency-refused")
    # An institution that was ended may have been a stolen one: what rests on it ends with it.
    _active(view, naming.grantee)
    if naming.ended_height or not naming.covers(_active(view, request.holder)):
        raise _Refusal("emergency-not-named")


def decide_opening(
    view: LedgerView, opener: Account, naming: emergency.EmergencyNaming | None
) -> Decision:
    """Whether an account may open the record of a naming in an emergency, now.

    What the opening itself states (role, reason, time) is compared with the policy by
    the ledger's rule; this decides by whose word the record may be opened at all.
    """
    policy = view.emergency_policy()
    if not policy.allowed:
        return Decision(False, "emergency-not-allowed")
    if naming is None or naming.ended_height or not naming.covers(opener):
        return Decision(False, "emergency-not-named")
    if policy.refusal_wins and view.emergency_refused(naming.record):
        return Decision(False, "emergency-refused")
    for party in (opener.account, naming.grantee):
        known = view.account(party)
        if known is None or not known.active:
            return Decision(False, "inactive-account")
    return Decision(True, PERMITTED)


def _check_live(grant: Grant, now_ms: int, prefix: str) -> None:
    if grant.revoked_height:
        raise _Refusal(prefix + "revoked")
    if now_ms < grant.not_before_ms:
        raise _Refusal(prefix + "not-yet-valid")
    if now_ms >= grant.not_after_ms:
        raise _Refusal(prefix + "expired")


def _check_scope(grant: Grant, request: AccessRequest) -> None:
    if grant.record != request.record:
        raise _Refusal("wrong-record")
    if grant.blob is not None and grant.blob != request.blob:
        # Listing (blob None) would tell of the record's other blobs.
        raise _Refusal("wrong-blob")
    if grant.range_start or grant.range_length:
        _check_range(grant, request)
    if not grant.actions & request.action:
        raise _Refusal("action-not-granted")
    if request.purpose not in grant.purposes:
        raise _Refusal("wrong-purpose")


def _check_range(grant: Grant, request: AccessRequest) -> None:
    if request.blob is None or request.range_start < grant.range_start:
        raise _Refusal("wrong-range")
    if not grant.range_length:
        return
    end = request.range_start + request.range_length
    if not request.range_length or end > grant.range_start + grant.range_length:
        raise _Refusal("wrong-range")


def _active(view: LedgerView, party: AccountId) -> Account:
    account = view.account(party)
    if account is None:
        raise _Refusal("unknown-account")
    if not account.active:
        raise _Refusal("inactive-account")
    return account
