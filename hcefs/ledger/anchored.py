"""That a batch of receipts is anchored: a transaction in a block, checkable by anyone.

Owns the proof and what it must hold.  It shows one transaction and the header of its block,
and so nothing of the other transactions in it.  Needs the genesis and the statements of
the terms, and no ledger.

Invariants: the header is signed by the writer of its term; the transaction is in the block;
the block's time is soon after the batch was cut.  That the node's signature is good was
checked by whoever applied the block, the writer first of all.

Not guaranteed: that a writer who signs two histories does not show each to another reader;
heads and followers are there to find that (docs/SECURITY.md).
Source: docs/decisions/0031-anchors.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.crypto.signing import verify
from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, HcefsError
from hcefs.evidence.proof import ReceiptBatch, require_anchor_time
from hcefs.integrity import inclusion_proof, leaf_hash, root_from_inclusion
from hcefs.ledger.block import BLOCK_TAG, BLOCK_TRANSACTIONS_MAX, Block, BlockHeader
from hcefs.ledger.terms import Terms
from hcefs.ledger.transactions import SignedTransaction, decode_transaction
from hcefs.ledger.transactions_receipts import AnchorReceipts


@dataclass(frozen=True)
class AnchorProof(Encoded):
    """The transaction that anchors a batch, with its path to a signed header.

    ``signature`` is the writer's over the header; the transaction is number ``index`` of
    ``count``.
    """

    KIND = "anchor-proof"
    MAX_BYTES = 1 << 16

    header: BlockHeader
    signature: bytes
    transaction: bytes
    index: int
    count: int
    path: tuple[bytes, ...]

    def batch(self) -> ReceiptBatch:
        """The batch that it anchors, unchecked.

        Raises:
            Invalid: it is no such transaction.
        """
        found = decode_transaction(SignedTransaction.decode(self.transaction).body)
        if not isinstance(found, AnchorReceipts):
            raise _no_anchor("its transaction anchors no receipts")
        return found.batch

    def check(self, terms: Terms) -> ReceiptBatch:
        """The batch, if it is anchored.

        Raises:
            Corrupt: ``bad-anchor`` or ``bad-anchor-time``.
        """
        header = self.header
        try:
            header.check()
            if header.cluster != terms.genesis.cluster:
                raise _no_anchor("its block is of another cluster")
            if header.term != terms.term_at(header.height):
                raise _no_anchor("its block is of a term that did not reign then")
            verify(terms.key_at(header.height), BLOCK_TAG, header.encode(), self.signature)
            if not 0 <= self.index < self.count <= BLOCK_TRANSACTIONS_MAX:
                raise _no_anchor("its block has no such transaction")
            leaf = leaf_hash(self.transaction)
            root = root_from_inclusion(self.count, self.index, leaf, self.path)
            if root != header.transaction_root:
                raise _no_anchor("its transaction is not in that block")
            batch = self.batch()
            batch.check()
            signers = [
                each.signer for each in SignedTransaction.decode(self.transaction).signatures
            ]
            if signers != [batch.node]:
                raise _no_anchor("another account than the node's signed it")
        except HcefsError as error:
            if isinstance(error, Corrupt) and error.reason == "bad-anchor":
                raise
            raise _no_anchor(error.message) from error
        require_anchor_time(batch, header.time_ms, terms.genesis.skew_ms)
        return batch


def find_anchor(block: Block, batch: ReceiptBatch) -> AnchorProof | None:
    """The proof that a block anchors a batch, or None when it does not."""
    for index, data in enumerate(block.transactions):
        signed = SignedTransaction.decode(data)
        found = decode_transaction(signed.body)
        if isinstance(found, AnchorReceipts) and found.batch == batch:
            leaves = [leaf_hash(each) for each in block.transactions]
            path = tuple(inclusion_proof(leaves, index))
            return AnchorProof(block.header, block.signature, data, index, len(leaves), path)
    return None


def _no_anchor(what: str) -> Corrupt:
    return Corrupt(f"these receipts are not anchored: {what}", reason="bad-anchor")
