"""Golden vectors of receipts: a chain of each kind, a batch over it, and proofs of all."""

from __future__ import annotations

from typing import Any

from hcefs.evidence.proof import BatchProver, ReceiptBatch, make_batch
from hcefs.evidence.receipt import (
    ChainHead,
    Receipt,
    ReceiptDraft,
    ReceiptKind,
    chain_hash,
    chain_start,
    receipt_leaf,
)
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId, RequestId

CLUSTER = ClusterId(bytes([0xC1] * 16))
NODE = AccountId(bytes([0x0A] * 16))
PEER = AccountId(bytes([0x0B] * 16))
DOCTOR = AccountId(bytes([0xD0] * 16))
RECORD = RecordId(bytes([0x4E] * 16))
BLOB = BlobId(bytes(range(18)))
TIME_MS = 1_800_000_000_000


def draft(kind: ReceiptKind = ReceiptKind.ACCESS, **changes: Any) -> ReceiptDraft:
    """A doctor's get of a range."""
    fields: dict[str, Any] = {
        "kind": kind,
        "height": 77,
        "request": RequestId(bytes([0x7E] * 16)),
        "peer": AccountId.zero(),
        "presenter": DOCTOR,
        "holder": DOCTOR,
        "grant": GrantId(bytes([0x67] * 16)),
        "token_hash": bytes([0x70] * 32),
        "record": RECORD,
        "blobs": (BLOB,),
        "range_start": 1 << 20,
        "range_length": 4096,
        "purpose": "TREAT",
        "action": "read",
        "method": "get",
        "permitted": True,
        "reason": "permitted",
        "size": 4096,
    }
    return ReceiptDraft(**(fields | changes))


def drafts() -> dict[str, ReceiptDraft]:
    """One of each kind, and one that denies."""
    return {
        "access": draft(),
        "denied": draft(permitted=False, reason="wrong-purpose", purpose="HRESCH", blobs=()),
        "release": draft(ReceiptKind.RELEASE, peer=PEER, blobs=(BLOB, BlobId(bytes(18)))),
        "closing": draft(ReceiptKind.CLOSING, reason="cancelled", size=1 << 33),
        "upkeep": draft(
            ReceiptKind.UPKEEP,
            request=RequestId.zero(),
            peer=PEER,
            presenter=AccountId.zero(),
            holder=AccountId.zero(),
            grant=GrantId.zero(),
            token_hash=bytes(32),
            record=RecordId.zero(),
            blobs=(),
            range_start=0,
            range_length=0,
            purpose="",
            action="",
            method="upkeep",
            size=1 << 40,
            count=1000,
        ),
    }


def chain(given: list[ReceiptDraft], head: ChainHead | None = None) -> list[bytes]:
    """Drafts as a chain of encoded receipts, one each second."""
    head = head if head is not None else ChainHead.start(CLUSTER, NODE)
    encoded = []
    for each in given:
        number = head.sequence + 1
        data = Receipt.of(each, NODE, number, head.hash, TIME_MS + 1000 * number).encode()
        encoded.append(data)
        head = head.followed_by(data)
    return encoded


def batch() -> ReceiptBatch:
    """The batch over the whole chain."""
    start = ChainHead.start(CLUSTER, NODE)
    return make_batch(chain(list(drafts().values())), start, NODE, 0, TIME_MS + 60_000)


def vectors() -> dict[str, Any]:
    """The vectors, made anew."""
    encoded = chain(list(drafts().values()))
    prover = BatchProver(batch(), encoded)
    return {
        "start": chain_start(CLUSTER, NODE).hex(),
        "receipts": {
            name: {
                "bytes": data.hex(),
                "hash": chain_hash(data).hex(),
                "leaf": receipt_leaf(data).hex(),
                "proof": prover.prove(number).encode().hex(),
            }
            for number, (name, data) in enumerate(zip(drafts(), encoded, strict=True), 1)
        },
        "batch": batch().encode().hex(),
    }
