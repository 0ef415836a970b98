"""The frozen bytes of receipts: written the same, read back, and proved from the bytes alone."""

from __future__ import annotations

import pytest

from hcefs.errors import Invalid
from hcefs.evidence.proof import ReceiptBatch, ReceiptProof, verify_batch
from hcefs.evidence.receipt import Receipt, read_receipt
from tests.vectors import generate
from tests.vectors.generate_receipts import batch, drafts, vectors

FROZEN = generate.frozen("receipts")


def test_nothing_frozen_has_changed() -> None:
    assert generate.broken(FROZEN, vectors()) == []


def test_every_vector_is_frozen() -> None:
    assert vectors() == FROZEN, "run python -m tests.vectors.generate"


@pytest.mark.parametrize("name", drafts())
def test_frozen_receipts_prove_themselves(name: str) -> None:
    data = bytes.fromhex(FROZEN["receipts"][name]["bytes"])
    proof = ReceiptProof.decode(bytes.fromhex(FROZEN["receipts"][name]["proof"]))
    assert proof.check() == read_receipt(data)
    assert proof.batch == batch()


def test_the_frozen_batch_holds_exactly_the_frozen_receipts() -> None:
    found = ReceiptBatch.decode(bytes.fromhex(FROZEN["batch"]))
    receipts = [bytes.fromhex(each["bytes"]) for each in FROZEN["receipts"].values()]
    assert [receipt.sequence for receipt in verify_batch(found, receipts)] == [1, 2, 3, 4, 5]


def test_a_later_version_is_refused() -> None:
    data = bytes.fromhex(FROZEN["receipts"]["access"]["bytes"])
    with pytest.raises(Invalid) as caught:
        Receipt.decode(data.replace(b"greceipt\x01", b"greceipt\x02"))
    assert caught.value.reason == "unknown-version"
