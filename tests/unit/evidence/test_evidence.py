"""Receipts and batches: what is changed, removed, reordered, forked or back-dated is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hcefs.errors import HcefsError
from hcefs.evidence.proof import (
    ANCHOR_DELAY_MS,
    BATCH_RECEIPTS_MAX,
    BatchProver,
    ReceiptBatch,
    make_batch,
    require_anchor_time,
    require_follows,
    verify_batch,
)
from hcefs.evidence.receipt import BLOBS_MAX, ChainHead, Receipt, ReceiptKind, read_receipt
from hcefs.ids import AccountId, BlobId
from tests.vectors.generate_receipts import CLUSTER, NODE, TIME_MS, chain, draft

START = ChainHead.start(CLUSTER, NODE)
CUT = TIME_MS + 5_000_000


def receipts(count: int = 7, **changes: Any) -> list[bytes]:
    return chain([draft(size=number, **changes) for number in range(count)])


def batch(given: list[bytes], **changes: Any) -> ReceiptBatch:
    return replace(make_batch(given, START, NODE, 0, CUT), **changes)


def reason(call: Any, *arguments: Any) -> str:
    with pytest.raises(HcefsError) as caught:
        call(*arguments)
    return caught.value.reason


def changed(data: bytes, **changes: Any) -> bytes:
    return replace(Receipt.decode(data), **changes).encode()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 33])
def test_each_receipt_of_a_batch_is_proved(count: int) -> None:
    given = receipts(count)
    prover = BatchProver(batch(given), given)
    assert [prover.prove(n + 1).check().size for n in range(count)] == list(range(count))


def test_a_changed_receipt_is_found_by_its_proof() -> None:
    given = receipts()
    proof = BatchProver(batch(given), given).prove(3)
    lie = changed(given[2], presenter=NODE)
    assert reason(replace(proof, receipt=lie).check) == "bad-proof"
    assert reason(replace(proof, receipt=given[3]).check) == "bad-proof"
    assert reason(replace(proof, path=proof.path[:-1]).check) == "bad-proof"
    assert reason(replace(proof, batch=batch(given, root=bytes(32))).check) == "bad-proof"


@pytest.mark.parametrize("lie", ["removed", "last-removed", "swapped", "changed", "added"])
def test_what_was_done_to_a_chain_is_found(lie: str) -> None:
    given = receipts()
    anchored = batch(given)
    if lie == "removed":
        del given[3]
    elif lie == "last-removed":
        del given[-1]
    elif lie == "swapped":
        given[2], given[3] = given[3], given[2]
    elif lie == "changed":
        given[-1] = changed(given[-1], reason="revoked", permitted=False)
    else:
        given.append(receipts(8)[-1])
    found = reason(verify_batch, anchored, given)
    assert found == ("broken-receipt-chain" if lie in ("removed", "swapped") else "bad-proof")


def test_a_chain_rewritten_from_the_middle_is_another_chain() -> None:
    given = receipts()
    anchored = batch(given)
    head = START
    for data in given[:3]:
        head = head.followed_by(data)
    rewritten = given[:3] + chain([draft(size=99) for _ in given[3:]], head)
    assert reason(verify_batch, anchored, rewritten) == "bad-proof"


def test_two_histories_of_a_node_do_not_follow_from_one_batch() -> None:
    first = batch(receipts())
    head = ChainHead(first.last, first.chain, TIME_MS)
    following = make_batch(chain([draft()], head), head, NODE, CUT, CUT + 1)
    require_follows(following, first)
    other = batch(receipts(), chain=bytes(32))
    assert reason(require_follows, following, other) == "broken-receipt-chain"
    assert reason(require_follows, first, first) == "broken-receipt-chain"


def test_a_receipt_dated_outside_of_its_batch_proves_nothing() -> None:
    given = receipts()
    for changes in (
        {"since_ms": TIME_MS + 5000},
        {"until_ms": TIME_MS + 2500, "cut_ms": TIME_MS + 2500},
    ):
        proof = BatchProver(batch(given, **changes), given).prove(3)
        assert reason(replace(proof, batch=batch(given, **changes)).check) == "bad-proof"


def test_a_full_batch_alone_may_end_before_it_is_cut() -> None:
    full = batch(receipts(BATCH_RECEIPTS_MAX))
    assert full.until_ms == TIME_MS + 1000 * BATCH_RECEIPTS_MAX <= full.cut_ms
    assert reason(batch(receipts(), until_ms=CUT - 1).check) == "bad-batch"


def test_times_never_go_back_along_a_chain() -> None:
    given = receipts(2)
    head = START.followed_by(given[0])
    back = changed(given[1], time_ms=TIME_MS)
    assert reason(head.followed_by, back) == "broken-receipt-chain"


@pytest.mark.parametrize("late", [-3001, ANCHOR_DELAY_MS + 3001])
def test_a_batch_anchored_at_another_time_is_refused(late: int) -> None:
    given = batch(receipts())
    require_anchor_time(given, CUT + ANCHOR_DELAY_MS, 3000)
    assert reason(require_anchor_time, given, CUT + late, 3000) == "bad-anchor-time"


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 0},
        {"previous": b""},
        {"token_hash": bytes(31)},
        {"time_ms": -1},
        {"size": 1 << 63},
        {"blobs": (BlobId(bytes(18)),) * (BLOBS_MAX + 1)},
        {"purpose": "treat"},
        {"method": "Get me"},
        {"reason": ""},
        {"reason": "revoked"},
        {"action": "r\n"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_malformed_receipts_are_refused(changes: dict[str, Any]) -> None:
    assert reason(read_receipt, changed(receipts(1)[0], **changes)) == "bad-receipt"


def test_another_node_cannot_lend_its_receipts() -> None:
    given = receipts(1)
    other = [changed(given[0], node=AccountId(bytes([9] * 16)))]
    assert reason(verify_batch, batch(given), other) == "bad-proof"


def test_only_decisions_come_before_bytes() -> None:
    kinds = {kind: Receipt.decode(chain([draft(kind)])[0]).is_decision for kind in ReceiptKind}
    assert [kind for kind, first in kinds.items() if first] == [1, 2]
