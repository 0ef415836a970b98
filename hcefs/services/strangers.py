"""What somebody without a right is told: one answer, whatever is so.

Whether a record, a blob or a grant exists is itself a fact about a patient.  Who is
refused by the right that was presented, and has no part in it, gets one kind, reason and
text, at one of few moments.  The node's log and metrics keep the true reason.

Who has a part, and gets the true reason: the record's owner; the grantee of the
presented grant on this record, alive or not; whoever presents a token of such a grant
that may be shared, because it was lent.

Not guaranteed: silence about load; a stranger who is answered late knows that the node
was busy.  Nodes get true reasons: they have the whole ledger.
Source: docs/SECURITY.md; docs/decisions/0033-revocation-certificates.md.
"""

from __future__ import annotations

from hcefs.access.facts import Action, LedgerView
from hcefs.access.verifier import Presented
from hcefs.errors import Denied
from hcefs.ids import AccountId, GrantId, RecordId
from hcefs.runtime import Runtime

ANSWER_SECONDS = 0.02
"""Refusals of strangers leave at multiples of this after the decision began."""


class Undisclosed(Denied):
    """A refusal whose reason is for this node's log only."""

    def __init__(self, inner: Denied) -> None:
        super().__init__(
            "not permitted: there is no such thing, or no right of this account reaches it: check "
            "the ids, present a token of your own grant, and ask for at least its height",
            reason="not-permitted",
        )
        self.inner = inner


def has_part(
    view: LedgerView, presenter: AccountId, holder: AccountId, grant_id: GrantId, record: RecordId
) -> bool:
    """Whether who presents a right of ``holder`` on a record may know why it is refused."""
    known = view.record(record)
    if known is None:
        return False
    if presenter == known.owner:
        return True
    grant = view.grant(grant_id) if grant_id else None
    if grant is None or grant.record != record or grant.grantee != holder:
        return False
    return presenter == holder or bool(grant.actions & Action.SHARE)


def told(view: LedgerView, presented: Presented, error: Denied) -> Denied:
    """What the presenter is told of a refusal."""
    proof, use = presented.proof, presented.use
    if has_part(view, proof.presenter, use.account, use.grant, proof.record):
        return error
    return Undisclosed(error)


async def at_its_time(runtime: Runtime, began: float) -> None:
    """Wait until a refusal may leave that was begun at a monotonic time."""
    passed = runtime.monotonic() - began
    await runtime.sleep(ANSWER_SECONDS - passed % ANSWER_SECONDS)
