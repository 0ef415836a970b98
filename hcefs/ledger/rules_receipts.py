"""The rule for anchors: a node's batches of receipts continue each other, and come in time.

Invariants: a node anchors its own receipts alone; its batches have no gap and no fork,
because each names the number, the hash and the time that the one before it ended with; a
batch is anchored soon after it was cut, by the time of the block, so that what it holds
cannot be dated back.  The state keeps the last anchor of each node; those before it are in
the log, each naming the height of the one before.
Source: docs/decisions/0031-anchors.md.
"""

from __future__ import annotations

from hcefs.access.facts import AccountKind
from hcefs.errors import Conflict, Denied
from hcefs.evidence.proof import ANCHOR_DELAY_MS
from hcefs.evidence.receipt import ChainHead
from hcefs.ledger.cluster_facts import ReceiptAnchor
from hcefs.ledger.outcome import BlockContext, Outcome
from hcefs.ledger.rules_protocol import require_rights
from hcefs.ledger.signers import only_signer, verified_signers
from hcefs.ledger.state import Overlay, StateView, receipt_anchor_key
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.transactions_receipts import AnchorReceipts


def anchor(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: AnchorReceipts,
    context: BlockContext,
) -> Outcome:
    """Take a node's next batch of receipts."""
    require_rights(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    batch = transaction.batch
    if signer.kind is not AccountKind.NODE or signer.account != batch.node:
        raise Denied(
            "a node anchors its own receipts, and nobody else's: sign as that node",
            reason="other-node",
        )
    before = view.receipt_anchor(signer.account)
    if before is not None and before.batch == batch:
        return Outcome()
    if before is None:
        start = ChainHead.start(context.genesis.cluster, signer.account)
        expected = (1, start.hash, 0)
    else:
        expected = (before.batch.last + 1, before.batch.chain, before.batch.until_ms)
    if (batch.first, batch.before, batch.since_ms) != expected:
        raise Conflict(
            f"this node's receipts go on with number {expected[0]}, after what is anchored: cut "
            "the batch again; a node that has other receipts there has two histories",
            reason="receipts-do-not-continue",
        )
    skew_ms = context.genesis.skew_ms
    if not -skew_ms <= context.time_ms - batch.cut_ms <= ANCHOR_DELAY_MS:
        raise Conflict(
            "this batch was cut too long ago, or in the future: cut it again, by a right clock",
            reason="stale-batch",
        )
    row = ReceiptAnchor(
        batch,
        context.height,
        context.time_ms,
        before.height if before is not None else 0,
    )
    state.put_fact(receipt_anchor_key(signer.account), row)
    return Outcome()
