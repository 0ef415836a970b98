"""Golden vectors of anchored receipts: transaction, fact, proof, rows, and a file of proofs."""

from __future__ import annotations

from typing import Any

from hcefs.evidence.receipt import ReceiptKind
from hcefs.ids import RequestId
from hcefs.ledger.anchored import find_anchor
from hcefs.ledger.audit_file import AuditFile
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.transactions_receipts import AnchorReceipts
from hcefs.store.receipts import AnchorNote, ReceiptHead
from tests.unit.ledger.anchoring import Anchoring
from tests.vectors.generate_receipts import draft


def audit_file() -> AuditFile:
    """Two nodes that served one request, receipts without an anchor yet, and a silent node."""
    world = Anchoring()
    gateway, holder = world.account("n1"), world.account("n2")
    hidden = RequestId(bytes([0x1D] * 16))
    denied = draft(permitted=False, reason="revoked", blobs=())
    return world.audit_file(
        world.audit_of("n1", 1, [draft(), draft(ReceiptKind.CLOSING, reason="ok"), denied]),
        world.audit_of(
            "n2",
            2,
            [
                draft(ReceiptKind.RELEASE, peer=gateway),
                draft(ReceiptKind.RELEASE, peer=holder),
                draft(ReceiptKind.RELEASE, peer=gateway, request=hidden),
            ],
        ),
        world.audit_of("n3", 3, [], problem="unreachable"),
    )


def proof() -> TransactionProof:
    """Of a batch that is alone in its block."""
    world = Anchoring()
    batch = world.batch()
    signed = world.sign(AnchorReceipts(batch), "n1").encode()
    found = find_anchor(world.seal([signed]), batch)
    assert found is not None
    return found


def vectors() -> dict[str, Any]:
    """The vectors, made anew."""
    world = Anchoring()
    batch = world.batch()
    world.submit(AnchorReceipts(batch), "n1")
    anchor = world.view.receipt_anchor(batch.node)
    assert anchor is not None
    return {
        "anchor-receipts": AnchorReceipts(batch).encode().hex(),
        "receipt-anchor": anchor.encode().hex(),
        "app_hash": world.app_hash.hex(),
        "transaction-proof": proof().encode().hex(),
        "anchor-note": AnchorNote(batch, anchor.height, proof().encode()).encode().hex(),
        "receipt-head": ReceiptHead(3, batch.chain, batch.cut_ms, 1234).encode().hex(),
        "audit-file": audit_file().encode().hex(),
    }
