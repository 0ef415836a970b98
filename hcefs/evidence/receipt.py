"""Receipts: the persisted evidence of one decision about access, chained for each node.

Owns the bytes of a receipt, the hash chain and what a well-formed receipt is.  A receipt
names one record, so that it can be shown to that record's owner and tells of nobody else's.

Invariants:

* A node's receipts are numbered from 1 without a gap; each names the hash of the one
  before, the first one :func:`chain_start`, which binds cluster and node.
* Times of one node never go back along its chain.
* A receipt holds no token, key, name or label: of the token its hash alone.

Not guaranteed: that a receipt is true.  A node can write what did not happen; what it
cannot do, once a batch is anchored, is change, remove, reorder or back-date it unseen
(:mod:`hcefs.evidence.proof`).  Source: docs/AUDIT.md; docs/decisions/0030-receipts.md.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId, RequestId
from hcefs.integrity import blake3_digest, leaf_hash

RECEIPT_TAG = b"hcefs/v1/receipt\x00"
CHAIN_TAG = b"hcefs/v1/receipt-chain\x00"
HASH_SIZE = 32
BLOBS_MAX = 4096
"""Most blobs of one receipt: as many as a batch has."""

PERMITTED = "permitted"
"""The reason of a receipt that permits."""

NUMBER_END = 1 << 63
_WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_PURPOSE = re.compile(r"[A-Z0-9]{0,16}")


class ReceiptKind(enum.IntEnum):
    """What a receipt is the evidence of."""

    ACCESS = 1
    """A decision at the node that the client called; persisted before the first byte."""

    RELEASE = 2
    """A decision at a holder, for the node that the client called; persisted as well before."""

    CLOSING = 3
    """How a stream ended and how much it served; written afterwards, and lost with a crash."""

    UPKEEP = 4
    """What another node loaded for upkeep within an hour; no client stands behind it."""


@dataclass(frozen=True)
class ReceiptDraft:
    """What a receipt says, before it has its place in a chain.

    ``peer`` is the node that a release was made to, or that loaded for upkeep; zero for
    none.  ``holder`` is the account whose token was used, ``presenter`` the one that
    proved itself.  No ``blobs`` means the record as a whole.  ``range_length`` 0 means to
    the end.  ``reason`` is :data:`PERMITTED` or why not; of a closing receipt, how the stream
    ended.  ``size`` are bytes: of an access or release the most that may be served (0: to
    the end of the blob), of a closing receipt and of upkeep what was served.  ``count`` is
    the number of loads of an upkeep receipt, of every other one 1.
    """

    kind: ReceiptKind
    height: int
    request: RequestId
    peer: AccountId
    presenter: AccountId
    holder: AccountId
    grant: GrantId
    token_hash: bytes
    record: RecordId
    blobs: tuple[BlobId, ...]
    range_start: int
    range_length: int
    purpose: str
    action: str
    method: str
    permitted: bool
    reason: str
    size: int
    count: int = 1


@dataclass(frozen=True)
class Receipt(Encoded):
    """One receipt in the chain of ``node``; the fields of :class:`ReceiptDraft` mean the same.

    ``height`` is that of the ledger which the decision was made by.
    """

    KIND = "receipt"
    MAX_BYTES = 1 << 17

    receipt_kind: ReceiptKind
    node: AccountId
    sequence: int
    previous: bytes
    time_ms: int
    height: int
    request: RequestId
    peer: AccountId
    presenter: AccountId
    holder: AccountId
    grant: GrantId
    token_hash: bytes
    record: RecordId
    blobs: tuple[BlobId, ...]
    range_start: int
    range_length: int
    purpose: str
    action: str
    method: str
    permitted: bool
    reason: str
    size: int
    count: int

    @classmethod
    def of(
        cls, draft: ReceiptDraft, node: AccountId, sequence: int, previous: bytes, time_ms: int
    ) -> Receipt:
        """A draft at its place in the chain."""
        return cls(
            draft.kind,
            node,
            sequence,
            previous,
            time_ms,
            draft.height,
            draft.request,
            draft.peer,
            draft.presenter,
            draft.holder,
            draft.grant,
            draft.token_hash,
            draft.record,
            draft.blobs,
            draft.range_start,
            draft.range_length,
            draft.purpose,
            draft.action,
            draft.method,
            draft.permitted,
            draft.reason,
            draft.size,
            draft.count,
        )

    def check(self) -> None:
        """Check ranges and shapes.

        Raises:
            Invalid: ``bad-receipt``.
        """
        numbers = (
            self.time_ms, self.height, self.range_start, self.range_length, self.size, self.count,
        )  # fmt: skip
        if (
            not 1 <= self.sequence < NUMBER_END
            or any(not 0 <= number < NUMBER_END for number in numbers)
            or len(self.previous) != HASH_SIZE
            or len(self.token_hash) != HASH_SIZE
            or len(self.blobs) > BLOBS_MAX
            or _PURPOSE.fullmatch(self.purpose) is None
            or any(_WORD.fullmatch(word) is None for word in (self.method, self.reason))
            or (self.action and _WORD.fullmatch(self.action) is None)
            or (self.permitted and self.reason != PERMITTED and self.is_decision)
        ):
            raise Invalid("a receipt has a field out of range", reason="bad-receipt")

    @property
    def is_decision(self) -> bool:
        """Whether it was written before anything was served."""
        return self.receipt_kind in (ReceiptKind.ACCESS, ReceiptKind.RELEASE)


def read_receipt(data: bytes) -> Receipt:
    """A receipt from disk or network, checked.

    Raises:
        Invalid: malformed, of another version, or ``bad-receipt``.
    """
    receipt = Receipt.decode(data)
    receipt.check()
    return receipt


def chain_start(cluster: ClusterId, node: AccountId) -> bytes:
    """What the first receipt of a node names as its predecessor."""
    return blake3_digest(CHAIN_TAG + cluster + node)


def chain_hash(encoded: bytes) -> bytes:
    """The hash of a receipt's canonical bytes, which the next one names."""
    return blake3_digest(RECEIPT_TAG + encoded)


def receipt_leaf(encoded: bytes) -> bytes:
    """A receipt's leaf in the Merkle tree of its batch."""
    return leaf_hash(encoded)


@dataclass(frozen=True)
class ChainHead:
    """Where a chain ends: number, hash and time of its last receipt (0 before the first)."""

    sequence: int
    hash: bytes
    time_ms: int

    @classmethod
    def start(cls, cluster: ClusterId, node: AccountId) -> ChainHead:
        """Before the first receipt."""
        return cls(0, chain_start(cluster, node), 0)

    def followed_by(self, encoded: bytes) -> ChainHead:
        """The head after the next receipt of the chain.

        Raises:
            Corrupt: ``broken-receipt-chain``: it is not the next one.
            Invalid: it is malformed.
        """
        receipt = read_receipt(encoded)
        if receipt.sequence != self.sequence + 1:
            raise _broken(f"receipt {self.sequence + 1} is missing before {receipt.sequence}")
        if receipt.previous != self.hash:
            raise _broken(f"receipt {receipt.sequence} does not follow the one before it")
        if receipt.time_ms < self.time_ms:
            raise _broken(f"receipt {receipt.sequence} is older than the one before it")
        return ChainHead(receipt.sequence, chain_hash(encoded), receipt.time_ms)


def _broken(what: str) -> Corrupt:
    return Corrupt(
        f"{what}: the chain was changed, or receipts are missing; keep both versions as evidence",
        reason="broken-receipt-chain",
    )
