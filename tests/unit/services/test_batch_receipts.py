"""What a batch leaves as receipts does not grow with how it is cut into groups."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hcefs.access.batch import BLOBS_MAX, BatchGroup, PresentedBatch, Refused
from hcefs.access.facts import Action
from hcefs.crypto.signing import RequestProof
from hcefs.errors import Denied, HcefsError
from hcefs.evidence.receipt import Receipt, ReceiptDraft, read_receipt
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId, RequestId
from hcefs.services.batch_desk import AskedBatch, _drafts

READER = AccountId(b"r" * 16)
RECORDS = [RecordId(bytes([n + 1]) * 16) for n in range(3)]
BLOBS = [BlobId(n.to_bytes(16, "big") + b"\x00\x01") for n in range(1, BLOBS_MAX + 1)]
PROOF = RequestProof(
    ClusterId(b"c" * 16), bytes(32), "get-many", RecordId.zero(), BlobId.zero(), 0, 0, "TREAT",
    AccountId.zero(), bytes(16), 1, READER, 1,
)  # fmt: skip


def receipts(
    groups: list[BatchGroup], refused: Refused, denial: HcefsError | None = None
) -> list[ReceiptDraft]:
    tokens = (b"one", b"two")
    asked = AskedBatch(tokens, b"", "get-many", tuple(groups), 0, 0, RequestId(b"q" * 16))
    verified: Any = tuple(
        SimpleNamespace(use=SimpleNamespace(account=READER, grant=GrantId(bytes([n + 1]) * 16)))
        for n in range(len(tokens))
    )
    presented = PresentedBatch(PROOF, verified, tuple(groups))
    return _drafts(asked, presented, Action.READ, 7, refused, denial, peer=None)


def single(token: int, record: RecordId) -> list[BatchGroup]:
    return [BatchGroup(token, record, bytes(blob)) for blob in BLOBS]


def test_a_right_that_thousands_of_groups_name_leaves_one_receipt() -> None:
    for denial in (None, Denied("no", reason="revoked")):
        (draft,) = receipts(single(0, RECORDS[0]), {}, denial)
        assert draft.blobs == tuple(BLOBS)
        assert draft.permitted is (denial is None)
        data = Receipt.of(draft, READER, 1, bytes(32), 1).encode()
        assert read_receipt(data).blobs == draft.blobs


def test_each_record_token_and_reason_has_its_own() -> None:
    groups = [
        BatchGroup(0, RECORDS[0], bytes(BLOBS[0])),
        BatchGroup(1, RECORDS[0], bytes(BLOBS[1])),
        BatchGroup(0, RECORDS[1], bytes(BLOBS[2]) + bytes(BLOBS[3])),
        BatchGroup(0, RECORDS[0], bytes(BLOBS[4])),
        BatchGroup(0, RECORDS[2], bytes(BLOBS[5])),
    ]
    refused: Refused = {
        (RECORDS[1], BLOBS[3]): Denied("no", reason="wrong-blob"),
        (RECORDS[2], BLOBS[5]): Denied("no", reason="revoked"),
    }
    found = [
        (each.record, each.grant[0], each.reason, each.blobs) for each in receipts(groups, refused)
    ]
    assert found == [
        (RECORDS[0], 1, "permitted", (BLOBS[0], BLOBS[4])),
        (RECORDS[0], 2, "permitted", (BLOBS[1],)),
        (RECORDS[1], 1, "permitted", (BLOBS[2],)),
        (RECORDS[1], 1, "wrong-blob", (BLOBS[3],)),
        (RECORDS[2], 1, "revoked", (BLOBS[5],)),
    ]
