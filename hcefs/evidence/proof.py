"""Batches of receipts, and what they prove offline: inclusion, order, completeness, time.

Owns :class:`ReceiptBatch`, what a node signs and anchors on the ledger, and the proof that
one receipt is in it.  Pure: it needs no ledger, no key and no network.  That a batch *is*
anchored is for :mod:`hcefs.ledger.anchored` to prove, which brings the block's time, too.

Invariants:

* The leaves of a batch are its receipts in their order, so a path proves the number, too.
* Batches of a node follow each other without a gap: ``first`` is one after the last one's
  ``last``, ``before`` its ``chain``, ``since_ms`` its ``until_ms``.  The ledger refuses
  others, so two histories of one node cannot both be anchored.
* Every receipt of a batch has a time from ``since_ms`` to ``until_ms``, which is ``cut_ms``,
  and the ledger takes a batch only soon after ``cut_ms``: who back-dates a receipt, does it
  by no more than that.  A full batch alone, of a node that has more to anchor, may end
  earlier: with the time of its last receipt.

Not guaranteed: that receipts of *one record* are complete, unless the whole chain is
disclosed (:func:`verify_batch`); see docs/AUDIT.md, "What is not proved".
Source: RFC 6962; docs/decisions/0031-anchors.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, Invalid
from hcefs.evidence.receipt import (
    HASH_SIZE,
    NUMBER_END,
    ChainHead,
    Receipt,
    read_receipt,
    receipt_leaf,
)
from hcefs.ids import AccountId
from hcefs.integrity import MerkleTree, merkle_root, root_from_inclusion

BATCH_RECEIPTS_MAX = 4096
"""Most receipts of one batch, so that whoever proves one holds few of them."""

ANCHOR_DELAY_MS = 120_000
"""How long after it was cut a batch may be anchored; later, a new one is cut."""

PATH_MAX = 12
"""Steps of a proof in the largest batch."""


@dataclass(frozen=True)
class ReceiptBatch(Encoded):
    """Receipts ``first`` to ``last`` of a node, as it had them at ``cut_ms``.

    ``before`` is the hash of receipt ``first - 1`` (or the start of the chain), ``chain`` that
    of receipt ``last``, ``root`` the Merkle root over all of them.  ``since_ms`` is the
    ``until_ms`` of the batch before, 0 for the first; ``until_ms`` is ``cut_ms``, or in a full
    batch the time of its last receipt.
    """

    KIND = "receipt-batch"
    MAX_BYTES = 512

    node: AccountId
    first: int
    last: int
    before: bytes
    chain: bytes
    root: bytes
    since_ms: int
    until_ms: int
    cut_ms: int

    @property
    def count(self) -> int:
        """How many receipts it has."""
        return self.last - self.first + 1

    def check(self) -> None:
        """Check ranges and sizes.

        Raises:
            Invalid: ``bad-batch``.
        """
        if (
            not self.node
            or not 1 <= self.first <= self.last < NUMBER_END
            or self.count > BATCH_RECEIPTS_MAX
            or any(len(each) != HASH_SIZE for each in (self.before, self.chain, self.root))
            or not 0 <= self.since_ms <= self.until_ms <= self.cut_ms < NUMBER_END
            or (self.until_ms != self.cut_ms and self.count != BATCH_RECEIPTS_MAX)
        ):
            raise Invalid(
                f"a batch of receipts has 1 to {BATCH_RECEIPTS_MAX} of them, three hashes of "
                f"{HASH_SIZE} bytes, and was cut after the one before it",
                reason="bad-batch",
            )


@dataclass(frozen=True)
class ReceiptProof(Encoded):
    """One receipt (its canonical bytes) with its path to the root of its batch."""

    KIND = "receipt-proof"
    MAX_BYTES = 1 << 18

    receipt: bytes
    batch: ReceiptBatch
    path: tuple[bytes, ...]

    def check(self) -> Receipt:
        """The receipt, if it is in the batch.

        Raises:
            Corrupt: ``bad-proof``: it is not, or its time is not one of the batch.
            Invalid: something is malformed.
        """
        receipt = read_receipt(self.receipt)
        batch = self.batch
        batch.check()
        if receipt.node != batch.node or not batch.first <= receipt.sequence <= batch.last:
            raise _bad_proof(f"receipt {receipt.sequence} is none of that batch")
        index = receipt.sequence - batch.first
        leaf = receipt_leaf(self.receipt)
        if root_from_inclusion(batch.count, index, leaf, self.path) != batch.root:
            raise _bad_proof(f"receipt {receipt.sequence} was changed: it has another digest")
        if not batch.since_ms <= receipt.time_ms <= batch.until_ms:
            raise _bad_proof(f"receipt {receipt.sequence} is dated outside of its batch")
        return receipt


def make_batch(
    receipts: Sequence[bytes], before: ChainHead, node: AccountId, since_ms: int, cut_ms: int
) -> ReceiptBatch:
    """The batch of consecutive receipts that follow ``before``.

    Raises:
        Corrupt: ``broken-receipt-chain``: they do not.
        Invalid: ``bad-batch``: none, too many, or times that do not fit.
    """
    head = before
    for encoded in receipts:
        head = head.followed_by(encoded)
    batch = ReceiptBatch(
        node,
        before.sequence + 1,
        head.sequence,
        before.hash,
        head.hash,
        merkle_root([receipt_leaf(encoded) for encoded in receipts]),
        since_ms,
        head.time_ms if len(receipts) == BATCH_RECEIPTS_MAX else cut_ms,
        cut_ms,
    )
    batch.check()
    return batch


def verify_batch(batch: ReceiptBatch, receipts: Sequence[bytes]) -> list[Receipt]:
    """All receipts of a batch, if these are exactly them: nothing is missing or changed.

    Raises:
        Corrupt: ``broken-receipt-chain`` or ``bad-proof``.
        Invalid: something is malformed.
    """
    batch.check()
    head = ChainHead(batch.first - 1, batch.before, batch.since_ms)
    found = []
    for encoded in receipts:
        head = head.followed_by(encoded)
        receipt = read_receipt(encoded)
        if receipt.node != batch.node:
            raise _bad_proof(f"receipt {receipt.sequence} is another node's")
        found.append(receipt)
    if head.sequence != batch.last or head.time_ms > batch.until_ms:
        raise _bad_proof("receipts are missing at the end of the batch, or dated after it")
    if head.hash != batch.chain:
        raise _bad_proof("the chain ends otherwise than the batch says")
    if merkle_root([receipt_leaf(encoded) for encoded in receipts]) != batch.root:
        raise _bad_proof("the receipts have another root than the batch says")
    return found


def require_follows(batch: ReceiptBatch, before: ReceiptBatch) -> None:
    """Check that a batch follows another one without a gap.

    Raises:
        Corrupt: ``broken-receipt-chain``.
    """
    if (batch.node, batch.first, batch.before, batch.since_ms) != (
        before.node,
        before.last + 1,
        before.chain,
        before.until_ms,
    ):
        raise Corrupt(
            f"the batch from receipt {batch.first} does not follow the one up to {before.last}: "
            "the node told two stories, or batches are missing",
            reason="broken-receipt-chain",
        )


def require_anchor_time(batch: ReceiptBatch, block_time_ms: int, skew_ms: int) -> None:
    """Check that a batch was anchored soon after it was cut.

    Raises:
        Corrupt: ``bad-anchor-time``: so its receipts may be back-dated.
    """
    if not -skew_ms <= block_time_ms - batch.cut_ms <= ANCHOR_DELAY_MS:
        raise Corrupt(
            "a batch of receipts was anchored at another time than it says: its receipts may be "
            "back-dated",
            reason="bad-anchor-time",
        )


class BatchProver:
    """Proofs out of one batch, whose receipts are given once."""

    def __init__(self, batch: ReceiptBatch, receipts: Sequence[bytes]) -> None:
        """``receipts`` are all of the batch, in order.

        Raises:
            Corrupt: ``bad-proof``: they are not those of the batch.
        """
        self._batch = batch
        self._receipts = receipts
        self._tree = MerkleTree([receipt_leaf(encoded) for encoded in receipts])
        if len(receipts) != batch.count or self._tree.root != batch.root:
            raise _bad_proof("the receipts on this disk are not those that were anchored")

    def prove(self, sequence: int) -> ReceiptProof:
        """The proof of one of them."""
        index = sequence - self._batch.first
        return ReceiptProof(self._receipts[index], self._batch, self._tree.proof(index))


def _bad_proof(what: str) -> Corrupt:
    return Corrupt(f"this proves nothing: {what}", reason="bad-proof")
