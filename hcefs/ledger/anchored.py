"""That a batch of receipts is anchored: what such a transaction's proof must hold.

Owns the step from :class:`hcefs.ledger.inclusion.TransactionProof` to a batch, and how a
block's anchors are found.

Invariants: the transaction anchors the batch, and names as its only signer the node whose
receipts they are; the block's time is soon after the batch was cut.  That the node's
signature is good was checked by whoever applied the block, the writer first of all.
Source: docs/decisions/0031-anchors.md.
"""

from __future__ import annotations

from hcefs.errors import Corrupt, HcefsError
from hcefs.evidence.proof import ReceiptBatch, require_anchor_time
from hcefs.ledger.block import Block
from hcefs.ledger.inclusion import TransactionProof, prove_transaction, transactions_of
from hcefs.ledger.terms import Terms
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.transactions_receipts import AnchorReceipts


def check_anchor(proof: TransactionProof, terms: Terms) -> ReceiptBatch:
    """The batch that a transaction of a signed block anchors.

    Raises:
        Corrupt: ``bad-anchor`` or ``bad-anchor-time``.
    """
    try:
        found = proof.check(terms)
        if not isinstance(found, AnchorReceipts):
            raise _no_anchor("its transaction anchors no receipts")
        batch = found.batch
        batch.check()
        signatures = SignedTransaction.decode(proof.transaction).signatures
    except HcefsError as error:
        raise _no_anchor(error.message) from error
    if [each.signer for each in signatures] != [batch.node]:
        raise _no_anchor("another account than the node's signed it")
    require_anchor_time(batch, proof.header.time_ms, terms.genesis.skew_ms)
    return batch


def find_anchor(block: Block, batch: ReceiptBatch) -> TransactionProof | None:
    """The proof that a block anchors a batch, or None when it does not."""
    for index, found in transactions_of(block, batch.node):
        if isinstance(found, AnchorReceipts) and found.batch == batch:
            return prove_transaction(block, index)
    return None


def _no_anchor(what: str) -> Corrupt:
    return Corrupt(f"these receipts are not anchored: {what}", reason="bad-anchor")
