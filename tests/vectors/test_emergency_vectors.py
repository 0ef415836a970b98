"""The frozen bytes of emergencies, and a chain with all of their rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hcefs.access import emergency
from hcefs.ledger.block import Block
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.machine import genesis_state, replay
from hcefs.ledger.state import MemoryState
from hcefs.ledger.transactions import decode_transaction
from tests.vectors.generate_emergency import vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("emergency.json").read_text("utf-8"))
FACTS = {
    cls.KIND: cls
    for cls in (
        emergency.EmergencyPolicy,
        emergency.EmergencyNaming,
        emergency.EmergencyRefusal,
        emergency.EmergencyReview,
        emergency.EmergencyOpening,
        emergency.EmergencyTotals,
    )
}


def test_the_code_still_writes_the_frozen_bytes() -> None:
    assert json.loads(json.dumps(vectors())) == FROZEN


@pytest.mark.parametrize("kind", FROZEN["transactions"])
def test_transactions(kind: str) -> None:
    body = bytes.fromhex(FROZEN["transactions"][kind])
    transaction = decode_transaction(body)
    transaction.check()
    assert kind == transaction.KIND
    assert transaction.encode() == body


@pytest.mark.parametrize("kind", FROZEN["facts"])
def test_facts(kind: str) -> None:
    data = bytes.fromhex(FROZEN["facts"][kind])
    assert FACTS[kind].decode(data).encode() == data


def test_the_chain_replays_to_the_frozen_rows() -> None:
    genesis = Genesis.decode(bytes.fromhex(FROZEN["genesis"]))
    state = MemoryState()
    state.write(genesis_state(genesis)[0].writes)
    header = None
    for data in FROZEN["chain"]:
        block = Block.decode(bytes.fromhex(data))
        overlay, _ = replay(state, block, genesis, header)
        state.write(overlay.writes)
        header = block.header
    rows = {key.hex(): value.hex() for key, value in state.scan(b"")}
    for key, value in FROZEN["rows"].items():
        assert rows[key] == value
