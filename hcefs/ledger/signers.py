"""Who signed a transaction, and whether those are the right ones.

Invariants: every signature on a transaction must be good, of a registered and
active account, by its current key, and each account signs once; a signature that
the rule of the transaction does not ask for is refused, so that who signed never
depends on what a carrier added.  The number of operators is counted by distinct
accounts, never by signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hcefs.access.facts import Account, AccountKind
from hcefs.crypto.signing import verify
from hcefs.errors import Denied, Invalid, Unauthenticated
from hcefs.ids import AccountId, ClusterId
from hcefs.ledger.outcome import BlockContext
from hcefs.ledger.state import StateView
from hcefs.ledger.transactions import (
    SIGNATURES_MAX,
    TRANSACTION_TAG,
    SignedTransaction,
    signed_message,
)


def verified_signers(
    view: StateView,
    signed: SignedTransaction,
    cluster: ClusterId,
    candidate: Account | None = None,
) -> tuple[Account, ...]:
    """The accounts that signed, in the order of the signatures.

    ``candidate`` is an account that is about to be registered by this transaction
    and may sign although the ledger does not know it yet.

    Raises:
        Invalid: ``too-many-signatures`` or ``duplicate-signer``.
        Unauthenticated: ``not-signed``, ``unknown-signer``, ``wrong-key-version`` or
            ``bad-signature``.
        Denied: ``inactive-account``.
    """
    if not signed.signatures:
        raise Unauthenticated("the transaction is not signed", reason="not-signed")
    if len(signed.signatures) > SIGNATURES_MAX:
        raise Invalid(
            f"a transaction has at most {SIGNATURES_MAX} signatures", reason="too-many-signatures"
        )
    if len({signature.signer for signature in signed.signatures}) != len(signed.signatures):
        raise Invalid("an account has signed twice", reason="duplicate-signer")
    message = signed_message(cluster, signed.body)
    found = []
    for signature in signed.signatures:
        if candidate is not None and signature.signer == candidate.account:
            account = candidate
        else:
            known = view.account(signature.signer)
            if known is None:
                raise Unauthenticated(
                    f"signer {signature.signer} is not on the ledger: register it first",
                    reason="unknown-signer",
                )
            account = known
        if not account.active:
            raise Denied(
                f"signer {account.account} was deactivated and can do nothing more",
                reason="inactive-account",
            )
        if signature.key_version != account.key_version:
            raise Unauthenticated(
                f"signer {account.account} signed with another key version than its current "
                f"one, {account.key_version}",
                reason="wrong-key-version",
            )
        verify(account.signing_key, TRANSACTION_TAG, message, signature.signature)
        found.append(account)
    return tuple(found)


def proven_signers(
    account_of: Callable[[AccountId], Account | None], signed: SignedTransaction, cluster: ClusterId
) -> list[AccountId]:
    """The active accounts that have signed, whatever the rules will say of the transaction.

    A signature that is not good is left out, so that nobody is taken for the author of what
    somebody else made; so is all beyond the number that a transaction may have.
    """
    message = signed_message(cluster, signed.body)
    found = []
    for signature in signed.signatures[:SIGNATURES_MAX]:
        account = account_of(signature.signer)
        if account is None or not account.active or account.account in found:
            continue
        try:
            verify(account.signing_key, TRANSACTION_TAG, message, signature.signature)
        except Unauthenticated:
            continue
        found.append(account.account)
    return found


def only_signer(signers: tuple[Account, ...]) -> Account:
    """The one signer of a transaction that takes exactly one signature.

    Raises:
        Invalid: ``one-signature``.
    """
    if len(signers) != 1:
        raise Invalid(
            "this transaction takes exactly one signature, that of the account that acts",
            reason="one-signature",
        )
    return signers[0]


def require_operators(signers: Iterable[Account], context: BlockContext) -> None:
    """Check that all signers are operators and that they reach the threshold.

    Raises:
        Denied: ``unexpected-signer`` or ``below-threshold``.
    """
    operators = set()
    for signer in signers:
        if signer.kind != AccountKind.OPERATOR:
            raise Denied(
                "only operators sign this transaction; leave the other signatures out",
                reason="unexpected-signer",
            )
        operators.add(signer.account)
    if len(operators) < context.genesis.threshold:
        raise Denied(
            f"{len(operators)} operators signed, {context.genesis.threshold} are needed: "
            "have more of them co-sign",
            reason="below-threshold",
        )


def only_institution(signers: tuple[Account, ...]) -> Account:
    """The one institution that signs for an account that it admits or ends.

    Raises:
        Denied: ``no-institution`` or ``unexpected-signer``.
    """
    if not signers:
        raise Denied("an institution must co-sign this transaction", reason="no-institution")
    if len(signers) != 1 or signers[0].kind != AccountKind.INSTITUTION:
        raise Denied(
            "exactly one institution signs for this account; leave other signatures out",
            reason="unexpected-signer",
        )
    return signers[0]
