"""The rules for requests for access: asking, answering, withdrawing.

Invariants: a request conveys nothing; the patient alone approves, with grants that it
gave after the request, to who asked, and in no respect wider than asked.  What is open is
bounded for each requester, for each patient, and for each pair of them, so that nobody
can fill a patient's list or the ledger.  A request is forgotten once it has expired,
answered or not: by the next request or answer that meets it, so that a block never does
work for requests that nobody touches.

Not guaranteed: that a grant which was given without a request, or wider than one, is
refused: what the patient gives is the patient's to decide.
Source: docs/decisions/0032-labels-requests-and-consents.md.
"""

from __future__ import annotations

from dataclasses import replace

from hcefs.access.facts import AccountKind, Grant
from hcefs.errors import Conflict, Denied, Invalid, NotFound
from hcefs.ids import AccountId
from hcefs.ledger.outcome import BlockContext, Outcome
from hcefs.ledger.request_facts import AskedAccess, RefusalCode
from hcefs.ledger.rules_protocol import require_rights
from hcefs.ledger.signers import only_signer, verified_signers
from hcefs.ledger.state import (
    Overlay,
    StateView,
    ask_key,
    asks_by_key,
    asks_to_key,
)
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.transactions_requests import AnswerRequest, RequestAccess

OPEN_BY_REQUESTER_MAX = 64
OPEN_TO_PATIENT_MAX = 128
OPEN_OF_PAIR_MAX = 4
"""Open requests of one account, to one patient, and of one account to one patient."""

KEPT_BY_REQUESTER_MAX = 256
"""Requests of one account, open or answered, that have not expired."""

EXPIRES_AHEAD_MS = 30 * 24 * 3_600_000
"""How far after the block's time a request may expire: bounds what is kept."""

MAY_ASK = frozenset(
    {
        AccountKind.PATIENT,
        AccountKind.PRACTITIONER,
        AccountKind.INSTITUTION,
        AccountKind.DEVICE,
    }
)


def request(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: RequestAccess,
    context: BlockContext,
) -> Outcome:
    """Record a request of the account that signs."""
    require_rights(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    if signer.kind not in MAY_ASK:
        raise Denied(
            "nodes and operators do not read records: ask as a practitioner, an institution, a "
            "device or a patient",
            reason="wrong-kind",
        )
    _check_patient(view, signer.account, transaction)
    latest_ms = context.time_ms + EXPIRES_AHEAD_MS
    if not context.time_ms < transaction.expires_ms <= latest_ms:
        raise Invalid(
            "a request expires after the block's time and within 30 days of it",
            reason="bad-times",
        )
    if view.asked(transaction.ask) is not None:
        raise Conflict(
            f"request {transaction.ask} exists: draw another random id", reason="request-exists"
        )
    _check_room(state, view, signer.account, transaction.patient, context)
    asked = AskedAccess(
        ask=transaction.ask,
        requester=signer.account,
        patient=transaction.patient,
        record=transaction.record,
        actions=transaction.actions,
        purposes=transaction.purposes,
        not_after_ms=transaction.not_after_ms,
        expires_ms=transaction.expires_ms,
        height=context.height,
        answered_height=0,
        grants=(),
        refusal=RefusalCode.NONE,
    )
    state.put_fact(ask_key(asked.ask), asked)
    state.put(asks_by_key(asked.requester, asked.ask), b"")
    state.put(asks_to_key(asked.patient, asked.ask), b"")
    return Outcome()


def answer(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: AnswerRequest,
    context: BlockContext,
) -> Outcome:
    """Record the patient's answer, or the requester's withdrawal."""
    require_rights(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    asked = view.asked(transaction.ask)
    withdraws = transaction.refusal is RefusalCode.WITHDRAWN
    if asked is None or signer.account not in (asked.patient, asked.requester):
        # One answer for both: who may not know of a request learns nothing of it.
        raise _unknown_request()
    if signer.account != (asked.requester if withdraws else asked.patient):
        raise Denied(
            "the patient approves or refuses a request, and who asked withdraws it",
            reason="not-the-patient",
        )
    if asked.answered_height:
        raise Conflict("this request is answered already", reason="already-answered")
    if context.time_ms >= asked.expires_ms:
        raise Conflict(
            "this request has expired: have it made again, or give a grant without one",
            reason="request-expired",
        )
    for name in transaction.grants:
        grant = view.grant(name)
        if grant is None:
            raise NotFound("the ledger knows no such grant: check the id", reason="unknown-grant")
        _check_answers(view, asked, grant, context)
    state.put_fact(
        ask_key(asked.ask),
        replace(
            asked,
            answered_height=context.height,
            grants=transaction.grants,
            refusal=transaction.refusal,
        ),
    )
    # The requester finds the answer until it expires; the patient has done with it.
    state.delete(asks_to_key(asked.patient, asked.ask))
    return Outcome()


def _check_patient(view: StateView, requester: AccountId, transaction: RequestAccess) -> None:
    """Whether the request is to a patient, and for a record of that one.

    What does not exist, what is another's and what was erased gets one answer, so that no
    refusal tells which records exist, or did.
    """
    patient = view.account(transaction.patient)
    if patient is None or patient.kind is not AccountKind.PATIENT or not patient.active:
        raise NotFound("the ledger knows no such patient: check the id", reason="unknown-patient")
    if patient.account == requester:
        raise Invalid("who owns a record needs no request for it", reason="own-record")
    if transaction.record is not None:
        record = view.record(transaction.record)
        if (
            record is None
            or record.owner != patient.account
            or view.erasure(record.record) is not None
        ):
            raise NotFound(
                "the patient has no such record: check both ids", reason="unknown-record"
            )


def _check_room(
    state: Overlay,
    view: StateView,
    requester: AccountId,
    patient: AccountId,
    context: BlockContext,
) -> None:
    """Forget what has expired of both lists, then compare what is left with the bounds."""
    own = _unexpired(state, view.asks_by(requester), context)
    to_patient = _unexpired(state, view.asks_to(patient), context)
    open_of_own = [asked for asked in own if not asked.answered_height]
    of_pair = sum(asked.patient == patient for asked in open_of_own)
    if (
        len(own) >= KEPT_BY_REQUESTER_MAX
        or len(open_of_own) >= OPEN_BY_REQUESTER_MAX
        or of_pair >= OPEN_OF_PAIR_MAX
    ):
        raise Conflict(
            f"this account has {len(open_of_own)} open requests, {of_pair} of them to this "
            "patient: wait for answers, or withdraw some",
            reason="too-many-requests",
        )
    if len(to_patient) >= OPEN_TO_PATIENT_MAX:
        raise Conflict(
            "this patient has too many open requests: try again when some are answered or "
            "have expired",
            reason="too-many-requests",
        )


def _unexpired(state: Overlay, asks: list[AskedAccess], context: BlockContext) -> list[AskedAccess]:
    kept = []
    for asked in asks:
        if context.time_ms < asked.expires_ms:
            kept.append(asked)
            continue
        state.delete(ask_key(asked.ask))
        state.delete(asks_by_key(asked.requester, asked.ask))
        state.delete(asks_to_key(asked.patient, asked.ask))
    return kept


def _check_answers(
    view: StateView, asked: AskedAccess, grant: Grant, context: BlockContext
) -> None:
    """Whether a grant is what was asked for, or less.

    Raises:
        Denied: ``not-an-answer`` or ``wider-than-asked``.
    """
    record = view.record(grant.record)
    if (
        record is None
        or record.owner != asked.patient
        or grant.granter != asked.patient
        or grant.grantee != asked.requester
        or grant.parent is not None
        or grant.height < asked.height
        or grant.revoked_height
        or context.time_ms >= grant.not_after_ms
    ):
        raise Denied(
            "a request is answered by a live grant that the patient gave to who asked, after "
            "the request",
            reason="not-an-answer",
        )
    if (
        (asked.record is not None and grant.record != asked.record)
        or grant.actions & ~asked.actions
        or not set(grant.purposes) <= set(asked.purposes)
        or grant.not_after_ms > asked.not_after_ms
    ):
        raise Denied(
            "the grant is wider than what was asked for: revoke it, and give one within the "
            "request",
            reason="wider-than-asked",
        )


def _unknown_request() -> NotFound:
    return NotFound(
        "the ledger has no such request to or from this account: check the id",
        reason="unknown-request",
    )
