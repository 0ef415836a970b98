"""Anchors of receipts: they continue each other, come in time, and are proved from a block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hcefs.errors import HcefsError
from hcefs.evidence.proof import ANCHOR_DELAY_MS, ReceiptBatch
from hcefs.ledger.anchored import check_anchor, find_anchor
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.terms import Terms
from hcefs.ledger.transactions import Upgrade
from hcefs.ledger.transactions_receipts import AnchorReceipts
from tests.unit.ledger.anchoring import Anchoring


def test_batches_continue_each_other() -> None:
    world = Anchoring()
    heights = [0]
    for count in (3, 1, 4096):
        batch = world.batch(count)
        world.submit(AnchorReceipts(batch), "n1")
        anchor = world.view.receipt_anchor(world.account("n1"))
        assert anchor is not None
        assert anchor.batch == batch
        assert (anchor.height, anchor.before_height) == (world.height, heights[-1])
        heights.append(world.height)
    assert world.head.sequence == 4100
    assert world.view.receipt_anchor(world.account("n2")) is None


def test_a_repeat_changes_nothing() -> None:
    world = Anchoring()
    batch = world.batch()
    world.submit(AnchorReceipts(batch), "n1")
    before = dict(world.state.scan(b""))
    world.submit(AnchorReceipts(batch), "n1")
    assert dict(world.state.scan(b"")) == before


@pytest.mark.parametrize("change", ["gap", "fork", "since", "overlap"])
def test_a_batch_that_does_not_continue_is_refused(change: str) -> None:
    world = Anchoring()
    world.submit(AnchorReceipts(world.batch()), "n1")
    batch = world.batch()
    lie = {
        "gap": replace(batch, first=batch.first + 1),
        "fork": replace(batch, before=bytes(32)),
        "since": replace(batch, since_ms=batch.since_ms - 1),
        "overlap": replace(batch, first=batch.first - 1),
    }[change]
    assert world.refused(lie) == "receipts-do-not-continue"
    world.submit(AnchorReceipts(batch), "n1")


def test_only_the_node_itself_anchors() -> None:
    world = Anchoring()
    batch = world.batch()
    assert world.refused(batch, "n2") == "other-node"
    assert world.refused(batch, "o1") == "other-node"
    assert world.refused(batch, "n1", "n2") == "one-signature"


def test_a_batch_is_anchored_soon_after_it_was_cut() -> None:
    world = Anchoring()
    batch = world.batch()
    for late in (ANCHOR_DELAY_MS + 1, -world.genesis.skew_ms - 1):
        cut = world.time_ms - late
        lie = replace(batch, cut_ms=cut, until_ms=cut)
        assert world.refused(lie) == "stale-batch"


def test_version_3_anchors_nothing() -> None:
    world = Anchoring(3)
    assert world.refused(world.batch()) == "unsupported"


def anchored() -> tuple[Anchoring, ReceiptBatch, TransactionProof]:
    world = Anchoring()
    batch = world.batch()
    signed = world.sign(AnchorReceipts(batch), "n1")
    block = world.seal([world.sign(Upgrade(9, 9), "o1").encode(), signed.encode()])
    proof = find_anchor(block, batch)
    assert proof is not None
    return world, batch, proof


def test_an_anchor_is_proved_from_its_block_alone() -> None:
    world, batch, proof = anchored()
    again = TransactionProof.decode(proof.encode())
    assert check_anchor(again, Terms(world.genesis)) == batch


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": bytes(64)},
        {"index": 0},
        {"index": 2},
        {"count": 3},
        {"count": 1 << 40},
        {"path": ()},
        {"transaction": b""},
    ],
    ids=str,
)
def test_a_changed_proof_proves_nothing(changes: dict[str, Any]) -> None:
    world, _, proof = anchored()
    with pytest.raises(HcefsError) as caught:
        check_anchor(replace(proof, **changes), Terms(world.genesis))
    assert caught.value.reason == "bad-anchor"


def test_an_anchor_in_a_block_of_another_time_proves_nothing() -> None:
    world, batch, proof = anchored()
    world.time_ms += 2 * ANCHOR_DELAY_MS
    block = world.seal([proof.transaction])
    late = find_anchor(block, batch)
    assert late is not None
    with pytest.raises(HcefsError) as caught:
        check_anchor(late, Terms(world.genesis))
    assert caught.value.reason == "bad-anchor-time"


def test_a_block_without_the_anchor_has_no_proof() -> None:
    world, batch, proof = anchored()
    block = world.seal([proof.transaction])
    assert find_anchor(block, replace(batch, root=bytes(32))) is None
