"""Headers, blocks and heads: bytes, hashes, signatures, bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hcefs.errors import Invalid, Unauthenticated
from hcefs.ids import ClusterId
from hcefs.integrity import blake3_digest, leaf_hash, node_hash
from hcefs.ledger.block import (
    BLOCK_TRANSACTION_BYTES_MAX,
    BLOCK_TRANSACTIONS_MAX,
    Block,
    BlockHeader,
    SignedHead,
    check_limits,
    previous_hash,
    sign_block,
    sign_head,
    transaction_root,
)
from tests.unit.ledger.scenario import START_MS, make_genesis, seed, signing_key

GENESIS = make_genesis()
KEY = signing_key("writer")
HEADER = BlockHeader(
    cluster=GENESIS.cluster,
    term=1,
    height=1,
    time_ms=START_MS,
    previous=GENESIS.digest,
    transaction_root=transaction_root([b"t"]),
    protocol_version=1,
    app_hash=seed("app"),
    snapshot_root=b"",
)


def test_block_round_trip_and_hash() -> None:
    block = sign_block(HEADER, [b"t"], KEY)
    assert Block.decode(block.encode()) == block
    assert block.hash() == HEADER.hash() == blake3_digest(HEADER.encode())
    block.check_signature(KEY.public_key)


@pytest.mark.parametrize(
    "change",
    [
        {"cluster": ClusterId(b"x" * 16)},
        {"term": 2},
        {"height": 2},
        {"time_ms": START_MS + 1},
        {"previous": bytes(32)},
        {"transaction_root": bytes(32)},
        {"protocol_version": 2},
        {"app_hash": bytes(32)},
        {"snapshot_root": bytes(32)},
    ],
)
def test_the_signature_covers_every_field(change: dict[str, Any]) -> None:
    block = sign_block(HEADER, [b"t"], KEY)
    changed = replace(block, header=replace(HEADER, **change))
    assert changed.hash() != block.hash()
    with pytest.raises(Unauthenticated):
        changed.check_signature(KEY.public_key)


def test_another_writers_signature() -> None:
    block = sign_block(HEADER, [b"t"], signing_key("somebody"))
    with pytest.raises(Unauthenticated):
        block.check_signature(KEY.public_key)


@pytest.mark.parametrize(
    "change",
    [
        {"term": 0},
        {"height": 0},
        {"time_ms": 0},
        {"time_ms": 1 << 60},
        {"previous": b""},
        {"transaction_root": bytes(31)},
        {"app_hash": bytes(33)},
        {"snapshot_root": bytes(1)},
    ],
)
def test_header_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        sign_block(replace(HEADER, **change), [b"t"], KEY)
    assert caught.value.reason == "bad-header"


def test_block_limits() -> None:
    check_limits([b""] * BLOCK_TRANSACTIONS_MAX)
    check_limits([bytes(BLOCK_TRANSACTION_BYTES_MAX)])
    for transactions in (
        [b""] * (BLOCK_TRANSACTIONS_MAX + 1),
        [bytes(BLOCK_TRANSACTION_BYTES_MAX), b"x"],
    ):
        with pytest.raises(Invalid) as caught:
            sign_block(HEADER, transactions, KEY)
        assert caught.value.reason == "block-too-large"


def test_the_largest_block_can_be_read() -> None:
    size = BLOCK_TRANSACTION_BYTES_MAX // BLOCK_TRANSACTIONS_MAX
    block = sign_block(HEADER, [bytes(size)] * BLOCK_TRANSACTIONS_MAX, KEY)
    assert Block.decode(block.encode()) == block


def test_transaction_root() -> None:
    assert transaction_root([]) == blake3_digest(b"")
    assert transaction_root([b"a", b"b"]) == node_hash(leaf_hash(b"a"), leaf_hash(b"b"))
    assert transaction_root([b"b", b"a"]) != transaction_root([b"a", b"b"])


def test_previous_hash() -> None:
    assert previous_hash(GENESIS, None) == GENESIS.digest
    assert previous_hash(GENESIS, HEADER) == HEADER.hash()


def test_heads() -> None:
    head = sign_head(GENESIS, HEADER, HEADER.app_hash, START_MS + 5, KEY, term=1)
    assert (head.height, head.block_hash) == (1, HEADER.hash())
    assert head.time_ms == START_MS + 5
    assert SignedHead.decode(head.encode()) == head
    head.check(KEY.public_key)
    first = sign_head(GENESIS, None, bytes(32), START_MS, KEY, term=1)
    assert (first.height, first.block_hash) == (0, GENESIS.digest)
    first.check(KEY.public_key)


@pytest.mark.parametrize(
    "change",
    [
        {"cluster": ClusterId(b"x" * 16)},
        {"term": 2},
        {"height": 2},
        {"block_hash": bytes(32)},
        {"app_hash": bytes(32)},
        {"time_ms": START_MS},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
)
def test_changed_heads(change: dict[str, Any]) -> None:
    head = sign_head(GENESIS, HEADER, HEADER.app_hash, START_MS + 5, KEY, term=1)
    with pytest.raises(Unauthenticated):
        replace(head, **change).check(KEY.public_key)


@pytest.mark.parametrize(
    "change",
    [
        {"term": 0},
        {"height": -1},
        {"time_ms": 0},
        {"block_hash": b""},
        {"app_hash": b""},
    ],
)
def test_head_bounds(change: dict[str, Any]) -> None:
    head = sign_head(GENESIS, HEADER, HEADER.app_hash, START_MS, KEY, term=1)
    with pytest.raises(Invalid) as caught:
        replace(head, **change).check(KEY.public_key)
    assert caught.value.reason == "bad-head"


def test_a_head_is_no_block_signature() -> None:
    head = sign_head(GENESIS, HEADER, HEADER.app_hash, START_MS, KEY, term=1)
    with pytest.raises(Unauthenticated):
        Block(HEADER, (b"t",), head.signature).check_signature(KEY.public_key)
