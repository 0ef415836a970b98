"""The rules for grants: giving one and revoking one.

Invariants: a grant is given by the record's owner or under a live parent that
may be shared, and is never wider than that parent in any respect; a grant is
never changed except by its revocation.  Whether the giver may share is decided
by :func:`hcefs.access.rights.decide` at the block's time.  Revoking takes no
grant of its own: whoever gave, above or directly, may take back.

When the owner revokes a grant to read, the record gets its next generation, so
that what is put later is closed to the revoked reader.  Another granter does not
hold the record's master secret and cannot make one; the owner may then revoke the
same grant once more to bring it.
"""

from __future__ import annotations

from dataclasses import replace

from hcefs.access.facts import Action, Grant, Record
from hcefs.access.rights import CHAIN_DEPTH_MAX, AccessRequest, decide
from hcefs.errors import Conflict, Denied, Invalid, NotFound
from hcefs.ids import AccountId, GrantId
from hcefs.ledger.outcome import BlockContext, Event, GrantGiven, GrantRevoked, Outcome
from hcefs.ledger.rules_records import add_generation, living_record, required_record
from hcefs.ledger.signers import only_signer, verified_signers
from hcefs.ledger.state import Overlay, StateView, grant_key, grants_on_key, grants_to_key
from hcefs.ledger.transactions import (
    GENERATION_MAX,
    GiveGrant,
    RevokeGrant,
    SignedTransaction,
)


def give(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: GiveGrant,
    context: BlockContext,
) -> Outcome:
    """Record a grant by the account that signs."""
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    required_record(view, transaction.record)
    if (
        view.grant(transaction.grant) is not None
        or view.emergency_naming(transaction.grant) is not None
    ):
        raise Conflict(
            f"grant {transaction.grant} exists: draw another random id", reason="grant-exists"
        )
    if transaction.not_after_ms <= context.time_ms:
        raise Invalid("the grant would have expired already", reason="bad-times")
    grantee = view.account(transaction.grantee)
    if grantee is None:
        raise NotFound(
            "the grantee is not on the ledger: it must register first", reason="unknown-grantee"
        )
    if not grantee.active:
        raise Denied("the grantee was deactivated", reason="inactive-grantee")
    grant = _grant_of(transaction, signer.account, context)
    _check_may_give(view, grant, context)
    state.put_fact(grant_key(grant.grant), grant)
    state.put(grants_on_key(grant.record, grant.grant), b"")
    state.put(grants_to_key(grant.grantee, grant.grant), b"")
    return Outcome((GrantGiven(grant),))


def revoke(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: RevokeGrant,
    context: BlockContext,
) -> Outcome:
    """Revoke a grant, with the record's next generation where one is due."""
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    grant = view.grant(transaction.grant)
    if grant is None:
        raise NotFound("the ledger knows no such grant: check the id", reason="unknown-grant")
    # Where it is erased its grants are dead already, and no generation comes to it.
    record = living_record(view, grant.record)
    is_owner = signer.account == record.owner
    if not is_owner and signer.account not in _granters(view, grant):
        raise Denied(
            "only the record's owner or who gave this grant, directly or above, may revoke it",
            reason="not-the-granter",
        )
    rotates = is_owner and bool(grant.actions & Action.READ)
    if grant.revoked_height and not (rotates and _lacks_generation(view, record, grant)):
        raise Conflict("this grant is revoked already", reason="already-revoked")
    if rotates and not transaction.next_public_key:
        raise Invalid(
            "revoking a grant to read needs the public key of the record's next generation",
            reason="next-key-missing",
        )
    if transaction.next_public_key and not rotates:
        raise Invalid(
            "a next public key comes only with the owner's revocation of a grant to read",
            reason="unexpected-key",
        )
    if rotates:
        if record.generation >= GENERATION_MAX:
            raise Conflict(
                "the record has no generation left: open another", reason="no-generation-left"
            )
        if transaction.next_generation != record.generation + 1:
            raise Conflict(
                f"the record is at generation {record.generation}: another revocation came first; "
                "make the next key and the boxes anew, then revoke again",
                reason="generation-moved",
            )
    events: list[Event] = []
    if not grant.revoked_height:
        grant = replace(grant, revoked_height=context.height)
        state.put_fact(grant_key(grant.grant), grant)
        events.append(GrantRevoked(grant))
    if rotates:
        record = replace(record, generation=record.generation + 1)
        events.append(add_generation(state, record, transaction.next_public_key, context))
    return Outcome(tuple(events))


def _grant_of(transaction: GiveGrant, granter: AccountId, context: BlockContext) -> Grant:
    return Grant(
        grant=transaction.grant,
        record=transaction.record,
        blob=transaction.blob,
        range_start=transaction.range_start,
        range_length=transaction.range_length,
        granter=granter,
        grantee=transaction.grantee,
        actions=transaction.actions,
        purposes=transaction.purposes,
        not_before_ms=transaction.not_before_ms,
        not_after_ms=transaction.not_after_ms,
        parent=transaction.parent,
        height=context.height,
        revoked_height=0,
    )


def _check_may_give(view: StateView, grant: Grant, context: BlockContext) -> None:
    parent = None
    if grant.parent is not None:
        parent = view.grant(grant.parent)
        if parent is None:
            raise NotFound(
                "the ledger knows no such parent grant: check the id", reason="unknown-grant"
            )
        if parent.record != grant.record:
            raise Invalid("the parent grant is for another record", reason="wrong-record")
        # First the bounds, because they say more than a refusal to share.
        _check_not_wider(parent, grant)
        if len(_chain(view, parent)) >= CHAIN_DEPTH_MAX:
            raise Invalid(
                f"grants may be passed on {CHAIN_DEPTH_MAX - 1} times at most: ask an account "
                "nearer to the owner",
                reason="chain-too-deep",
            )
    request = AccessRequest(
        action=Action.SHARE,
        record=grant.record,
        blob=grant.blob,
        range_start=grant.range_start,
        range_length=grant.range_length,
        purpose=grant.purposes[0],
        presenter=grant.granter,
        holder=grant.granter,
        grant=grant.parent or GrantId.zero(),
    )
    decide(view, request, context.time_ms).require()


def _check_not_wider(parent: Grant, child: Grant) -> None:
    wider = None
    if parent.blob is not None and child.blob != parent.blob:
        wider = "blob"
    elif not _range_within(parent, child):
        wider = "range"
    elif child.actions & ~parent.actions:
        wider = "actions"
    elif not set(child.purposes) <= set(parent.purposes):
        wider = "purposes"
    elif child.not_before_ms < parent.not_before_ms or child.not_after_ms > parent.not_after_ms:
        wider = "times"
    if wider is not None:
        raise Denied(
            f"the grant is wider than its parent: keep its {wider} within the parent's",
            reason="wider-than-parent",
        )


def _range_within(parent: Grant, child: Grant) -> bool:
    if not parent.range_length:
        return True
    if not child.range_length or child.range_start < parent.range_start:
        return False
    return child.range_start + child.range_length <= parent.range_start + parent.range_length


def _chain(view: StateView, grant: Grant) -> list[Grant]:
    """The grant and all above it, bounded by the depth that giving allows."""
    chain = [grant]
    while grant.parent is not None and len(chain) < CHAIN_DEPTH_MAX:
        above = view.grant(grant.parent)
        if above is None:
            break
        grant = above
        chain.append(grant)
    return chain


def _granters(view: StateView, grant: Grant) -> set[AccountId]:
    return {above.granter for above in _chain(view, grant)}


def _lacks_generation(view: StateView, record: Record, grant: Grant) -> bool:
    """Whether no generation came since the grant was revoked."""
    current = view.generation(record.record, record.generation)
    return current is not None and current.height < grant.revoked_height
