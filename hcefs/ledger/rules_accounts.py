"""The rules for accounts: who is admitted by whom, and who ends an account.

Operators admit operators, nodes and institutions by their threshold; an
institution admits practitioners and devices, and co-signs for patients.  What
admitted an account also ends it.  Where an account's institution is itself
deactivated, the operators step in, so that no account is beyond reach.

Invariants: an account never comes back and never changes its kind; the active
operators are never fewer than the threshold.
"""

from __future__ import annotations

from dataclasses import replace

from hcefs.access.facts import Account, AccountKind
from hcefs.crypto.signing import verify
from hcefs.errors import Conflict, Denied, NotFound, Unauthenticated
from hcefs.ids import AccountId
from hcefs.ledger.outcome import AccountChanged, BlockContext, Outcome
from hcefs.ledger.signers import only_institution, require_operators, verified_signers
from hcefs.ledger.state import Overlay, StateView, account_key, operator_key
from hcefs.ledger.transactions import (
    TOKEN_KEY_TAG,
    DeactivateAccount,
    RegisterAccount,
    SignedTransaction,
)

OPERATORS_ADMIT = frozenset({AccountKind.OPERATOR, AccountKind.NODE, AccountKind.INSTITUTION})
"""Kinds that the operator threshold admits and ends; an institution does the others."""


def put_account(state: Overlay, account: Account) -> None:
    """Write an account and keep the index of active operators."""
    state.put_fact(account_key(account.account), account)
    if account.kind == AccountKind.OPERATOR:
        if account.active:
            state.put(operator_key(account.account), b"")
        else:
            state.delete(operator_key(account.account))


def register(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: RegisterAccount,
    context: BlockContext,
) -> Outcome:
    """Register an account that proved its keys and was admitted."""
    cluster = context.genesis.cluster
    candidate = Account(
        account=transaction.account(cluster),
        kind=transaction.account_kind,
        key_version=1,
        signing_key=transaction.signing_key,
        token_key=transaction.token_key,
        receiving_key=transaction.receiving_key,
        spki=transaction.spki,
        admitted_by=AccountId.zero(),
        active=True,
        height=context.height,
    )
    if view.account(candidate.account) is not None:
        raise Conflict(
            f"account {candidate.account} exists; an account is registered once",
            reason="account-exists",
        )
    signers = verified_signers(view, signed, cluster, candidate)
    admitters = tuple(signer for signer in signers if signer is not candidate)
    if len(admitters) == len(signers):
        raise Unauthenticated(
            "the new account must sign its registration itself", reason="no-possession"
        )
    verify(
        transaction.token_key,
        TOKEN_KEY_TAG,
        transaction.token_key_message(cluster, candidate.account, transaction.token_key),
        transaction.token_key_proof,
    )
    if transaction.account_kind in OPERATORS_ADMIT:
        require_operators(admitters, context)
    else:
        candidate = replace(candidate, admitted_by=only_institution(admitters).account)
    put_account(state, candidate)
    return Outcome((AccountChanged(candidate),))


def deactivate(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: DeactivateAccount,
    context: BlockContext,
) -> Outcome:
    """Deactivate an account on the word of who admitted it."""
    signers = verified_signers(view, signed, context.genesis.cluster)
    account = view.account(transaction.account)
    if account is None:
        raise NotFound("the ledger knows no such account: check the id", reason="unknown-account")
    if account.kind in OPERATORS_ADMIT or not _is_active(view, account.admitted_by):
        require_operators(signers, context)
    elif only_institution(signers).account != account.admitted_by:
        raise Denied(
            "only the institution that admitted this account may deactivate it",
            reason="not-the-admitter",
        )
    if not account.active:
        raise Conflict("this account is inactive already", reason="already-inactive")
    if (
        account.kind == AccountKind.OPERATOR
        and len(view.operators()) - 1 < context.genesis.threshold
    ):
        raise Conflict(
            "fewer operators than the threshold would remain: register another one first",
            reason="too-few-operators",
        )
    account = replace(account, active=False)
    put_account(state, account)
    return Outcome((AccountChanged(account),))


def _is_active(view: StateView, account: AccountId) -> bool:
    found = view.account(account)
    return found is not None and found.active
