"""The rules for emergencies: policy, naming, refusing, opening, closing and reviewing.

Invariants: only owners name and refuse; an opening is of records of one patient, by a
practitioner whom a standing naming of each record covers (decided by
:func:`hcefs.access.rights.decide_opening`); it becomes one grant to read for each record,
for the purpose BTG, not to be shared, that ends by itself; an opening is reviewed by
somebody else, after its end, and stays listed as not reviewed until then.  To an erased
record no naming, refusal or opening comes; what there is ends and is reviewed as ever.

Who is not named learns nothing of a record, not even whether it exists.

Work and memory are bounded: records of an opening, standing namings of a record, and
openings of one practitioner that nobody has reviewed.
Source: docs/decisions/0034-break-glass.md.
"""

from __future__ import annotations

from dataclasses import replace

from hcefs.access.emergency import (
    PURPOSE,
    EmergencyNaming,
    EmergencyOpening,
    EmergencyRefusal,
    EmergencyReview,
    grant_of,
)
from hcefs.access.facts import Account, AccountKind, Action, Grant, Record
from hcefs.access.rights import decide_opening
from hcefs.errors import Conflict, Denied, Invalid, NotFound
from hcefs.ids import AccountId, GrantId, RecordId
from hcefs.ledger.outcome import (
    BlockContext,
    EmergencyChanged,
    EmergencyNarrowed,
    Event,
    GrantGiven,
    GrantRevoked,
    Outcome,
)
from hcefs.ledger.rules_protocol import require_rights
from hcefs.ledger.rules_records import living_record, required_record
from hcefs.ledger.signers import only_signer, require_operators, verified_signers
from hcefs.ledger.state import (
    EMERGENCY_POLICY_KEY,
    Overlay,
    StateView,
    grant_key,
    grants_on_key,
    grants_to_key,
    naming_key,
    refusal_key,
)
from hcefs.ledger.state_emergency import (
    EMERGENCY_TOTALS_KEY,
    Emergencies,
    named_key,
    named_of_key,
    opening_key,
    openings_of_key,
    unreviewed_key,
    unreviewed_of_key,
    withdrawn_key,
)
from hcefs.ledger.transactions import SignedTransaction
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

STANDING_MAX = 64
"""Namings of one record that stand at a time."""

UNREVIEWED_MAX = 256
"""Openings of one practitioner that nobody has reviewed: beyond, somebody must look first."""


def set_policy(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: SetEmergencyPolicy,
    context: BlockContext,
) -> Outcome:
    """Replace the policy if its number is still the expected one."""
    require_rights(view, context)
    require_operators(verified_signers(view, signed, context.genesis.cluster), context)
    current = view.emergency_policy()
    if current == transaction.policy:
        return Outcome()
    if current.number != transaction.expected_number:
        raise Conflict(
            f"the emergency policy is at number {current.number}, not "
            f"{transaction.expected_number}: look at it, and change that",
            reason="policy-moved",
        )
    state.put_fact(EMERGENCY_POLICY_KEY, transaction.policy)
    return Outcome((EmergencyNarrowed(),))


def name(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: NameEmergency,
    context: BlockContext,
) -> Outcome:
    """Record namings by the owner of the records."""
    require_rights(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    for new in transaction.namings:
        _begin_naming(state, view, signer, new, context)
    return Outcome()


def _begin_naming(
    state: Overlay, view: StateView, signer: Account, new: NewNaming, context: BlockContext
) -> None:
    _owned(view, signer, new.record)
    living_record(view, new.record)
    emergencies = Emergencies(state)
    if view.grant(new.naming) is not None or view.emergency_naming(new.naming) is not None:
        raise Conflict(f"{new.naming} exists: draw another random id", reason="naming-exists")
    if emergencies.naming_for(new.record, new.grantee) is not None:
        raise Conflict(
            f"{new.grantee} is named for {new.record} already: leave it out",
            reason="already-named",
        )
    if emergencies.standing(new.record, STANDING_MAX) >= STANDING_MAX:
        raise Conflict(
            f"{new.record} has {STANDING_MAX} namings, the most there can be: end one first",
            reason="too-many-namings",
        )
    grantee = view.account(new.grantee)
    if grantee is None:
        raise NotFound("who is named is not on the ledger", reason="unknown-grantee")
    if not grantee.active:
        raise Denied("who is named was deactivated", reason="inactive-grantee")
    if grantee.kind not in (AccountKind.PRACTITIONER, AccountKind.INSTITUTION):
        raise Denied(
            "practitioners are named for emergencies, or the institutions that admit them",
            reason="not-a-practitioner",
        )
    naming = EmergencyNaming(
        naming=new.naming,
        record=new.record,
        owner=signer.account,
        grantee=new.grantee,
        height=context.height,
        ended_height=0,
    )
    state.put_fact(naming_key(naming.naming), naming)
    state.put(named_key(naming.record, naming.grantee), bytes(naming.naming))
    state.put(named_of_key(naming.owner, naming.naming), b"")


def end_naming(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: EndNaming,
    context: BlockContext,
) -> Outcome:
    """End namings; what is open under them is refused from this block on."""
    require_rights(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    for each in transaction.namings:
        naming = view.emergency_naming(each)
        if naming is None:
            raise NotFound("the ledger knows no such naming: check the id", reason="unknown-naming")
        _owned(view, signer, naming.record)
        if naming.ended_height:
            raise Conflict("this naming has ended already", reason="already-ended")
        state.put_fact(naming_key(each), replace(naming, ended_height=context.height))
        state.delete(named_key(naming.record, naming.grantee))
        state.delete(named_of_key(naming.owner, each))
    return Outcome((EmergencyNarrowed(),))


def refuse(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: RefuseEmergency,
    context: BlockContext,
) -> Outcome:
    """Record or withdraw the refusal of an owner; what it is worth, the policy says.

    A withdrawal counts once, by the ledger's state: otherwise a writer could undo a later
    refusal with an old one, which the owner did sign.  A refusal that is repeated permits
    nothing.
    """
    require_rights(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    if not transaction.refuse:
        used = withdrawn_key(signer.account, transaction.key)
        if state.get(used) is not None:
            raise Conflict(
                "this withdrawal was made before: make another one, with a new random key",
                reason="withdrawal-repeated",
            )
        state.put(used, b"")
    for record in transaction.records:
        _owned(view, signer, record)
        living_record(view, record)
        if not transaction.refuse:
            state.delete(refusal_key(record))
        elif not view.emergency_refused(record):
            state.put_fact(refusal_key(record), EmergencyRefusal(record, context.height))
    return Outcome((EmergencyNarrowed(),) if transaction.refuse else ())


def open_(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: OpenEmergency,
    context: BlockContext,
) -> Outcome:
    """Open records for the practitioner who signs."""
    require_rights(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    _check_against_policy(view, transaction)
    emergencies = Emergencies(state)
    if emergencies.opening(transaction.opening) is not None:
        raise Conflict("this opening exists: draw another random id", reason="opening-exists")
    if emergencies.unreviewed_of(signer.account, UNREVIEWED_MAX) >= UNREVIEWED_MAX:
        raise Conflict(
            f"{UNREVIEWED_MAX} openings of this account wait for a review: have them reviewed "
            "first",
            reason="too-many-unreviewed",
        )
    until_ms = context.time_ms + transaction.minutes * 60_000
    events: list[Event] = []
    owners: set[AccountId] = set()
    for record in transaction.records:
        naming = _naming_for(emergencies, view, signer, record)
        # Before anything else is said of the record: most records are none of the opener's.
        decide_opening(view, signer, naming).require()
        owners.add(living_record(view, record).owner)
        if naming is not None:
            grant = _grant(transaction.opening, naming, signer, until_ms, context)
            events.append(_give(state, view, grant))
    if len(owners) != 1:
        raise Invalid(
            "an opening is of records of one patient: open those of another apart",
            reason="several-patients",
        )
    opening = EmergencyOpening(
        opening=transaction.opening,
        patient=owners.pop(),
        opener=signer.account,
        institution=signer.admitted_by,
        role=transaction.role,
        reason=transaction.reason,
        note_digest=transaction.note_digest,
        records=transaction.records,
        opened_ms=context.time_ms,
        until_ms=until_ms,
        review_by_ms=context.time_ms + view.emergency_policy().review_hours * 3_600_000,
        closed_by=AccountId.zero(),
        reviews=(),
        height=context.height,
    )
    state.put_fact(opening_key(opening.opening), opening)
    for party in (opening.patient, opening.opener):
        state.put(openings_of_key(party, opening.height, opening.opening), b"")
    state.put(unreviewed_key(opening.review_by_ms, opening.opening), b"")
    state.put(unreviewed_of_key(opening.opener, opening.opening), b"")
    totals = emergencies.totals()
    state.put_fact(
        EMERGENCY_TOTALS_KEY,
        replace(totals, openings=totals.openings + 1, unreviewed=totals.unreviewed + 1),
    )
    return Outcome((EmergencyChanged(opening), *events))


def _check_against_policy(view: StateView, transaction: OpenEmergency) -> None:
    policy = view.emergency_policy()
    if not policy.allowed:
        raise Denied(
            "the operators' policy does not allow openings in an emergency",
            reason="emergency-not-allowed",
        )
    if transaction.role not in policy.roles or transaction.reason not in policy.reasons:
        raise Denied(
            f"the policy knows the roles {', '.join(policy.roles)} and the reasons "
            f"{', '.join(policy.reasons)}: state one of each",
            reason="unknown-code",
        )
    if transaction.minutes > policy.minutes_max:
        raise Denied(
            f"the policy allows openings of {policy.minutes_max} minutes at most",
            reason="too-long",
        )


def _naming_for(
    emergencies: Emergencies, view: StateView, opener: Account, record: RecordId
) -> EmergencyNaming | None:
    """The naming that covers an account: its own, or that of its institution."""
    for grantee in (opener.account, opener.admitted_by):
        found = emergencies.naming_for(record, grantee)
        if found is not None:
            return view.emergency_naming(found)
    return None


def _grant(
    opening: GrantId,
    naming: EmergencyNaming,
    opener: Account,
    until_ms: int,
    context: BlockContext,
) -> Grant:
    return Grant(
        grant=grant_of(opening, naming.record),
        record=naming.record,
        blob=None,
        range_start=0,
        range_length=0,
        granter=naming.owner,
        grantee=opener.account,
        actions=Action.READ,
        purposes=(PURPOSE,),
        # A node's clock may be a little behind the block's time; the block itself is what
        # lets anybody in, and no node has it before it was made.
        not_before_ms=0,
        not_after_ms=until_ms,
        parent=naming.naming,
        height=context.height,
        revoked_height=0,
    )


def _give(state: Overlay, view: StateView, grant: Grant) -> GrantGiven:
    if view.grant(grant.grant) is not None or view.emergency_naming(grant.grant) is not None:
        raise Conflict(
            "a grant of this opening's id exists: draw another random id", reason="opening-exists"
        )
    state.put_fact(grant_key(grant.grant), grant)
    state.put(grants_on_key(grant.record, grant.grant), b"")
    state.put(grants_to_key(grant.grantee, grant.grant), b"")
    return GrantGiven(grant)


def close(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: CloseEmergency,
    context: BlockContext,
) -> Outcome:
    """End an opening before its time: its grants are revoked."""
    require_rights(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    opening = _required(state, transaction.opening)
    if signer.account not in (opening.opener, opening.patient, opening.institution):
        raise Denied(
            "an opening is closed by its opener, by the patient or by the institution of the "
            "opener",
            reason="not-a-party",
        )
    if not opening.is_open(context.time_ms):
        raise Conflict("this opening has ended already", reason="already-closed")
    events: list[Event] = []
    for each in opening.grants():
        grant = view.grant(each)
        if grant is not None and not grant.revoked_height:
            grant = replace(grant, revoked_height=context.height)
            state.put_fact(grant_key(each), grant)
            events.append(GrantRevoked(grant))
    opening = replace(opening, until_ms=context.time_ms, closed_by=signer.account)
    state.put_fact(opening_key(opening.opening), opening)
    return Outcome((EmergencyChanged(opening), *events))


def review(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: ReviewEmergency,
    context: BlockContext,
) -> Outcome:
    """Record what a reviewer found; the first review ends the wait for one."""
    require_rights(view, context)
    opening = _required(state, transaction.opening)
    reviewer = _reviewer(view, signed, opening, context)
    if opening.is_open(context.time_ms):
        raise Conflict("this opening has not ended: close it first", reason="still-open")
    if any(each.reviewer == reviewer for each in opening.reviews):
        raise Conflict("this reviewer has reviewed it already", reason="already-reviewed")
    emergencies = Emergencies(state)
    totals = emergencies.totals()
    known_bad = any(not each.justified for each in opening.reviews)
    if not opening.reviews:
        state.delete(unreviewed_key(opening.review_by_ms, opening.opening))
        state.delete(unreviewed_of_key(opening.opener, opening.opening))
        totals = replace(totals, unreviewed=totals.unreviewed - 1)
    if not transaction.justified and not known_bad:
        totals = replace(totals, unjustified=totals.unjustified + 1)
    found = EmergencyReview(
        reviewer, transaction.justified, transaction.note_digest, context.time_ms
    )
    opening = replace(opening, reviews=(*opening.reviews, found))
    state.put_fact(opening_key(opening.opening), opening)
    if totals != emergencies.totals():
        state.put_fact(EMERGENCY_TOTALS_KEY, totals)
    return Outcome((EmergencyChanged(opening),))


def _reviewer(
    view: StateView, signed: SignedTransaction, opening: EmergencyOpening, context: BlockContext
) -> AccountId:
    """Who reviews: patient, institution, or (zero) the operators together.

    At most one review of each, so an opening has at most three.
    """
    signers = verified_signers(view, signed, context.genesis.cluster)
    if len(signers) == 1 and signers[0].kind is not AccountKind.OPERATOR:
        if signers[0].account not in (opening.patient, opening.institution):
            raise Denied(
                "an opening is reviewed by the patient, by the institution of the opener or by "
                "the operators",
                reason="not-a-reviewer",
            )
        return signers[0].account
    require_operators(signers, context)
    return AccountId.zero()


def _required(state: Overlay, opening: GrantId) -> EmergencyOpening:
    found = Emergencies(state).opening(opening)
    if found is None:
        raise NotFound("the ledger knows no such opening: check the id", reason="unknown-opening")
    return found


def _owned(view: StateView, signer: Account, record: RecordId) -> Record:
    found = required_record(view, record)
    if found.owner != signer.account:
        raise Denied(
            "only the record's owner names and refuses for emergencies", reason="not-the-owner"
        )
    return found
