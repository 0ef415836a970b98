"""The rules for changing keys: those of an account, and a record's next generation.

Invariants: an account keeps its id and its kind, and its key version grows by one; of
every version that ended the public keys stay on the ledger, so that what was signed
with them can be checked for as long as it is kept.  From the block that holds the
change on, the old keys sign nothing: no transaction, no proof, no token.  A record's
generation grows by one, by its owner's word.

An operator's keys do not change: statements of a term are checked against those that
the genesis names, by clients that have no state.  Another operator is registered and
the old one deactivated.  Source: docs/decisions/0035-keys-change.md.
"""

from __future__ import annotations

from dataclasses import replace

from hcefs.access.facts import Account, AccountKind, PastKeys
from hcefs.crypto.signing import verify
from hcefs.errors import Conflict, Denied, Invalid
from hcefs.ledger.outcome import AccountChanged, BlockContext, Outcome
from hcefs.ledger.rules_accounts import put_account
from hcefs.ledger.rules_protocol import require_rights
from hcefs.ledger.rules_records import add_generation, living_record
from hcefs.ledger.signers import only_signer, verified_signers
from hcefs.ledger.state import Overlay, StateView, past_keys_key
from hcefs.ledger.transactions import GENERATION_MAX, SignedTransaction
from hcefs.ledger.transactions_keys import (
    ROTATE_SIGNING_TAG,
    ROTATE_TOKEN_TAG,
    RotateGeneration,
    RotateKeys,
)


def rotate_keys(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: RotateKeys,
    context: BlockContext,
) -> Outcome:
    """Give an account the keys that it proves to hold, on the word of its current ones."""
    require_rights(view, context)
    cluster = context.genesis.cluster
    account = only_signer(verified_signers(view, signed, cluster))
    if account.account != transaction.account:
        raise Denied("only the account itself changes its keys", reason="not-the-account")
    if account.kind == AccountKind.OPERATOR:
        raise Denied(
            "an operator's keys do not change: register another operator, then deactivate this one",
            reason="operator-keys",
        )
    if transaction.key_version != account.key_version + 1:
        raise Conflict(
            f"the account has version {account.key_version} of its keys: the next one is "
            f"{account.key_version + 1}",
            reason="wrong-key-version",
        )
    if bool(transaction.spki) != (account.kind == AccountKind.NODE):
        raise Invalid("nodes, and only nodes, give the SHA-256 of their TLS key", reason="bad-spki")
    _check_new(account, transaction)
    _check_tls_key(view, account, transaction.spki)
    message = transaction.message(cluster)
    verify(transaction.signing_key, ROTATE_SIGNING_TAG, message, transaction.signing_key_proof)
    verify(transaction.token_key, ROTATE_TOKEN_TAG, message, transaction.token_key_proof)
    past = PastKeys(
        account=account.account,
        key_version=account.key_version,
        signing_key=account.signing_key,
        token_key=account.token_key,
        receiving_key=account.receiving_key,
        until_height=context.height,
        until_ms=context.time_ms,
    )
    state.put_fact(past_keys_key(past.account, past.key_version), past)
    account = replace(
        account,
        key_version=transaction.key_version,
        signing_key=transaction.signing_key,
        token_key=transaction.token_key,
        receiving_key=transaction.receiving_key,
        spki=transaction.spki,
    )
    put_account(state, account)
    return Outcome((AccountChanged(account),))


def rotate_generation(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: RotateGeneration,
    context: BlockContext,
) -> Outcome:
    """Give a record its next generation on its owner's word; nothing is revoked."""
    require_rights(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    record = living_record(view, transaction.record)
    if signer.account != record.owner:
        raise Denied("only a record's owner renews its key", reason="not-the-owner")
    if record.generation >= GENERATION_MAX:
        raise Conflict(
            "the record has no generation left: open another", reason="no-generation-left"
        )
    if transaction.next_generation != record.generation + 1:
        raise Conflict(
            f"the record is at generation {record.generation}: another one came first; make the "
            "next key and the boxes anew, then rotate again",
            reason="generation-moved",
        )
    current = view.generation(record.record, record.generation)
    if current is not None and current.public_key == transaction.next_public_key:
        raise Invalid("the next generation needs a key of its own", reason="bad-key")
    record = replace(record, generation=record.generation + 1)
    return Outcome((add_generation(state, record, transaction.next_public_key, context),))


def _check_tls_key(view: StateView, account: Account, spki: bytes) -> None:
    """Check that a node does not take the TLS key of another one.

    Nothing proves that it holds a TLS key, and peers tell each other apart by it: a node
    that named another's would have that one's connections taken for its own.
    """
    if spki == account.spki:
        return
    current = view.cluster_map()
    for node in current.nodes if current is not None else ():
        other = view.account(node.account)
        if other is not None and other.account != account.account and other.spki == spki:
            raise Conflict(
                "another node of the cluster map has this TLS key: make one for this node alone",
                reason="spki-taken",
            )


def _check_new(account: Account, transaction: RotateKeys) -> None:
    """Each key is another one, in its own use and across uses: a stolen one must not stay."""
    old = {account.signing_key, account.token_key, account.receiving_key}
    new = {transaction.signing_key, transaction.token_key, transaction.receiving_key}
    if old & new:
        raise Invalid("rotate-keys: all three keys must be new ones", reason="same-key")
