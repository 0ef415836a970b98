"""The rules for the end of records: retention, legal holds, erasure.

Invariants: what is erased was past its date of retention, and no hold stood on it, at that
height; after it no right to the record is left (:mod:`hcefs.access.rights`), and no hold or
date comes to it any more.  So of a hold and an erasure that race, the one with the lower
place in the ledger wins, and the other one is refused: anybody who has the log can show it.

Who signs for an institution's duty is proved by one fact that the transaction names, so
that the work is bounded whatever a record has of grants; a grant that was revoked counts,
because the duty to keep what was written under it does not end with it.
Source: docs/decisions/0036-erasure-and-legal-hold.md.
"""

from __future__ import annotations

from dataclasses import replace

from hcefs.access.erasure_facts import Erasure, Hold, Retention
from hcefs.access.facts import Account, AccountKind, Action, Record
from hcefs.errors import Conflict, Denied, Invalid, NotFound
from hcefs.ids import AccountId, GrantId
from hcefs.ledger.outcome import BlockContext, Outcome, RecordErased
from hcefs.ledger.rules_protocol import require_rights
from hcefs.ledger.rules_records import living_record
from hcefs.ledger.signers import only_institution, require_operators, verified_signers
from hcefs.ledger.state import (
    Overlay,
    StateView,
    erased_at_key,
    erased_key,
    hold_key,
    retention_key,
)
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.transactions_erasure import EraseRecord, LiftHold, PlaceHold, SetRetention

HOLDS_MAX = 256
"""Holds that institutions may place on one record, lifted ones included: bounds the work of
an erasure.  The operators' own may be as many again."""

OPERATORS = AccountId.zero()
"""Who acted, where the operators' threshold did."""


def set_retention(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: SetRetention,
    context: BlockContext,
) -> Outcome:
    """Set the date before which a record is not erased; later than before if it has content."""
    require_rights(view, context)
    signers = verified_signers(view, signed, context.genesis.cluster)
    record = living_record(view, transaction.record)
    is_owner = len(signers) == 1 and signers[0].account == record.owner
    if is_owner:
        if record.leaf_count:
            raise Denied(
                "a record that has entries is under its institutions' duty to keep it: have one "
                "of them, or the operators, set the date",
                reason="retention-not-yours",
            )
        by = record.owner
    else:
        by = _authority(view, signers, record, transaction.standing, context)
    known = view.retention(record.record)
    if known is not None and record.leaf_count:
        if transaction.retain_until_ms < known.retain_until_ms:
            raise Conflict(
                f"the record is to be kept until {known.retain_until_ms} ms, and while it has "
                "entries that date is never set earlier",
                reason="retention-shortened",
            )
        if (known.retain_until_ms, known.jurisdiction) == (
            transaction.retain_until_ms,
            transaction.jurisdiction,
        ):
            return Outcome()
    fact = Retention(
        record.record,
        transaction.retain_until_ms,
        transaction.jurisdiction,
        by,
        context.height,
    )
    state.put_fact(retention_key(record.record), fact)
    return Outcome()


def place_hold(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: PlaceHold,
    context: BlockContext,
) -> Outcome:
    """Place one more hold on a record."""
    require_rights(view, context)
    signers = verified_signers(view, signed, context.genesis.cluster)
    record = living_record(view, transaction.record)
    by = _authority(view, signers, record, transaction.standing, context)
    holds = view.holds(record.record)
    if any(each.hold == transaction.hold for each in holds):
        raise Conflict(
            f"hold {transaction.hold} exists or was lifted: draw another random id",
            reason="hold-exists",
        )
    if len(holds) >= HOLDS_MAX * (1 if by else 2):
        raise Conflict(
            f"this record has had {HOLDS_MAX} holds: have the operators place this one",
            reason="too-many-holds",
        )
    fact = Hold(
        record.record,
        transaction.hold,
        transaction.case_digest,
        by,
        context.height,
        context.time_ms,
        0,
    )
    state.put_fact(hold_key(record.record, transaction.hold), fact)
    return Outcome()


def lift_hold(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: LiftHold,
    context: BlockContext,
) -> Outcome:
    """Lift one hold; the others stay."""
    require_rights(view, context)
    signers = verified_signers(view, signed, context.genesis.cluster)
    hold = view.hold(transaction.record, transaction.hold)
    if hold is None:
        raise NotFound("the record has no such hold: check both ids", reason="unknown-hold")
    if not _are_operators(signers):
        if len(signers) != 1 or not hold.placed_by or signers[0].account != hold.placed_by:
            raise Denied(
                "a hold is lifted by the institution that placed it, or by the operators",
                reason="not-the-placer",
            )
    else:
        require_operators(signers, context)
    if not hold.stands:
        raise Conflict("this hold was lifted already", reason="already-lifted")
    lifted = replace(hold, lifted_height=context.height)
    state.put_fact(hold_key(hold.record, hold.hold), lifted)
    return Outcome()


def erase(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: EraseRecord,
    context: BlockContext,
) -> Outcome:
    """Mark a record as erased: from this height on nobody has a right to it."""
    require_rights(view, context)
    signers = verified_signers(view, signed, context.genesis.cluster)
    record = living_record(view, transaction.record)
    by = _eraser(signers, record, transaction, context)
    for hold in view.holds(record.record):
        if hold.stands:
            raise Conflict(
                f"legal hold {hold.hold} stands on this record since height {hold.height}: who "
                "placed it has to lift it first",
                reason="on-hold",
            )
    retention = view.retention(record.record)
    if retention is None:
        if record.leaf_count and by:
            raise Conflict(
                "nobody has said how long this record must be kept: have the institution, or the "
                "operators, set its retention first",
                reason="no-retention",
            )
    elif context.time_ms < retention.retain_until_ms:
        raise Conflict(
            f"this record must be kept until {retention.retain_until_ms} ms by the law of "
            f"{retention.jurisdiction}: erase it after that",
            reason="retained",
        )
    fact = Erasure(
        record.record,
        context.height,
        context.time_ms,
        by,
        transaction.order_digest,
        signed.hash(),
    )
    state.put_fact(erased_key(record.record), fact)
    state.put(erased_at_key(context.height, record.record), b"")
    return Outcome((RecordErased(fact),))


def _are_operators(signers: tuple[Account, ...]) -> bool:
    return any(signer.kind is AccountKind.OPERATOR for signer in signers)


def _eraser(
    signers: tuple[Account, ...],
    record: Record,
    transaction: EraseRecord,
    context: BlockContext,
) -> AccountId:
    """The owner, or ``OPERATORS``.

    Raises:
        Denied: somebody else signed.
        Invalid: ``no-order`` or ``unexpected-order``.
    """
    if _are_operators(signers):
        require_operators(signers, context)
        if not transaction.order_digest:
            raise Invalid(
                "operators erase by the order of somebody: give the digest of the document",
                reason="no-order",
            )
        return OPERATORS
    if len(signers) != 1 or signers[0].account != record.owner:
        raise Denied(
            "a record is erased by its owner, or by the operators on an order",
            reason="not-the-owner",
        )
    if transaction.order_digest:
        raise Invalid("an owner needs no order: leave it out", reason="unexpected-order")
    return record.owner


def _authority(
    view: StateView,
    signers: tuple[Account, ...],
    record: Record,
    standing: GrantId,
    context: BlockContext,
) -> AccountId:
    """The institution that signs and has to do with the record, or ``OPERATORS``.

    Raises:
        Denied: neither.
        NotFound: ``unknown-grant``: of ``standing``.
    """
    if _are_operators(signers):
        require_operators(signers, context)
        return OPERATORS
    institution = only_institution(signers).account
    if not standing:
        owner = view.account(record.owner)
        if owner is None or owner.admitted_by != institution:
            raise _no_standing()
        return institution
    grant = view.grant(standing)
    if grant is None:
        raise NotFound("the ledger knows no such grant: check the id", reason="unknown-grant")
    grantee = view.account(grant.grantee)
    if (
        grant.record != record.record
        or not grant.actions & Action.APPEND
        or grantee is None
        or institution not in (grantee.account, grantee.admitted_by)
    ):
        raise _no_standing()
    return institution


def _no_standing() -> Denied:
    return Denied(
        "this institution neither admitted the record's owner nor wrote to the record: name a "
        "grant by which it, or somebody it admitted, may append",
        reason="no-standing",
    )
