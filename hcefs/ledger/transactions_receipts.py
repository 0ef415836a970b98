"""The transaction by which a node anchors a batch of its receipts, from protocol version 4 on.

Owns its bytes and its static check; what depends on the state is decided by
:mod:`hcefs.ledger.rules_receipts`.  Source: docs/decisions/0031-anchors.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.encoding import Encoded
from hcefs.evidence.proof import ReceiptBatch


@dataclass(frozen=True)
class AnchorReceipts(Encoded):
    """A batch that follows the node's last one; signed by the node, and so the batch is.

    A repeat of the last one changes nothing.
    """

    KIND = "anchor-receipts"

    batch: ReceiptBatch

    def check(self) -> None:
        """Check the batch's ranges and sizes.

        Raises:
            Invalid: ``bad-batch``.
        """
        self.batch.check()
