"""What a node states about a record: how long it is and what it holds, at a height, signed.

Owns the bytes of the statement.  Leaves are proved by the peaks of their record, and the
peaks are in the ledger's state, whose digest is a running one: no short proof leads from
a header to a record.  So nodes, each of which has replayed the ledger, say it; whoever
reads an exported record counts how many of them agree.

Not guaranteed: that a node tells the truth; k + 1 that agree and lie are what it takes to
hide the end of a record.  Source: docs/decisions/0037-evidence.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hcefs.crypto.signing import SigningKey, verify
from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.ids import AccountId, ClusterId, RecordId
from hcefs.ledger.block import HASH_SIZE

STATEMENT_TAG = b"record-statement"
PEAKS_MAX = 64


@dataclass(frozen=True)
class RecordStatement(Encoded):
    """The record as node ``node`` had it after block ``height``, whose hash is ``block_hash``.

    ``leaf_count`` and ``peaks`` are as in :class:`hcefs.access.facts.Record`; the node
    signs with version ``key_version`` of its signing key.
    """

    KIND = "record-statement"
    MAX_BYTES = 8192

    cluster: ClusterId
    node: AccountId
    key_version: int
    record: RecordId
    owner: AccountId
    generation: int
    leaf_count: int
    peaks: tuple[bytes, ...]
    height: int
    block_hash: bytes
    time_ms: int
    signature: bytes

    def message(self) -> bytes:
        """What the node signs: this with an empty signature."""
        return replace(self, signature=b"").encode()

    def signed(self, key: SigningKey) -> RecordStatement:
        """This with the node's signature."""
        return replace(self, signature=key.sign(STATEMENT_TAG, self.message()))

    def check(self, signing_key: bytes) -> None:
        """Check shape and signature.

        Raises:
            Invalid: ``bad-statement``.
            Unauthenticated: the signature is not that node's.
        """
        if (
            len(self.peaks) > PEAKS_MAX
            or any(len(peak) != HASH_SIZE for peak in self.peaks)
            or len(self.block_hash) != HASH_SIZE
            or len(self.peaks) != self.leaf_count.bit_count()
        ):
            raise Invalid("the statement about a record is malformed", reason="bad-statement")
        verify(signing_key, STATEMENT_TAG, self.message(), self.signature)
