"""The frozen ledger, written and read: bytes, a chain that replays, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hcefs.errors import Corrupt
from hcefs.ids import AccountId, GrantId
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block, SignedHead
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.machine import Leaf, LeafAppended, genesis_state, replay
from hcefs.ledger.state import MemoryState, PutRow, StateView
from hcefs.ledger.transactions import SignedTransaction, decode_transaction
from tests.vectors.generate_ledger import vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("ledger.json").read_text("utf-8"))
GENESIS = Genesis.decode(bytes.fromhex(FROZEN["genesis"]["encoded"]))


def test_the_code_still_writes_the_frozen_bytes() -> None:
    assert json.loads(json.dumps(vectors())) == FROZEN


def test_genesis() -> None:
    GENESIS.check()
    assert GENESIS.digest.hex() == FROZEN["genesis"]["digest"]
    assert GENESIS.cluster.text == FROZEN["genesis"]["cluster"]
    assert genesis_state(GENESIS)[1].hex() == FROZEN["genesis"]["app_hash"]


@pytest.mark.parametrize("kind", FROZEN["transactions"])
def test_transactions(kind: str) -> None:
    body = bytes.fromhex(FROZEN["transactions"][kind])
    transaction = decode_transaction(body)
    transaction.check()
    assert kind == transaction.KIND
    assert transaction.encode() == body


def test_rows_and_hashes() -> None:
    signed = SignedTransaction.decode(bytes.fromhex(FROZEN["signed"]["encoded"]))
    assert signed.hash().hex() == FROZEN["signed"]["hash"]
    assert signed.body.hex() == FROZEN["transactions"]["append"]
    leaf = Leaf.decode(bytes.fromhex(FROZEN["leaf"]["encoded"]))
    assert leaf.hash().hex() == FROZEN["leaf"]["hash"]
    row = PutRow.decode(bytes.fromhex(FROZEN["put_row"]))
    assert row.leaves[0].leaf == leaf.hash()


def test_the_chain_replays_from_genesis() -> None:
    state = MemoryState()
    state.write(genesis_state(GENESIS)[0].writes)
    header = None
    leaves = 0
    for vector in FROZEN["chain"]:
        block = Block.decode(bytes.fromhex(vector["block"]))
        assert block.hash().hex() == vector["hash"]
        overlay, outcomes = replay(state, block, GENESIS, header)
        state.write(overlay.writes)
        header = block.header
        events = [event for outcome in outcomes for event in outcome.events]
        leaves += sum(isinstance(event, LeafAppended) for event in events)
    assert header is not None
    assert leaves == 4
    view = StateView(state, header.height, header.time_ms)
    grant = view.grant(GrantId.parse(FROZEN["grant_id"]))
    assert grant is not None
    assert grant.encode().hex() == FROZEN["grant"]
    record = view.record(grant.record)
    assert record is not None
    assert [record.encode().hex()] == FROZEN["records"]
    assert view.records_of(AccountId(record.owner)) == [record]
    rows = b"".join(blake3_digest(key + value) for key, value in state.scan(b""))
    assert blake3_digest(rows).hex() == FROZEN["state"]
    head = SignedHead.decode(bytes.fromhex(FROZEN["head"]))
    head.check(GENESIS.writer_key)
    assert head.block_hash == header.hash()
    assert head.app_hash == header.app_hash


def test_a_gap_in_the_chain_is_refused() -> None:
    state = MemoryState()
    state.write(genesis_state(GENESIS)[0].writes)
    second = Block.decode(bytes.fromhex(FROZEN["chain"][1]["block"]))
    with pytest.raises(Corrupt) as caught:
        replay(state, second, GENESIS, None)
    assert caught.value.reason == "wrong-height"
