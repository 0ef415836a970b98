"""The frozen bytes of requests for access, and a chain that replays to the same state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.machine import genesis_state, replay
from hcefs.ledger.request_facts import AskedAccess
from hcefs.ledger.state import MemoryState
from hcefs.ledger.transactions import decode_transaction

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("requests.json").read_text("utf-8"))


def test_transactions_and_the_fact() -> None:
    for text in FROZEN["transactions"]:
        transaction = decode_transaction(bytes.fromhex(text))
        transaction.check()
        assert transaction.encode().hex() == text
    assert AskedAccess.decode(bytes.fromhex(FROZEN["fact"])).encode().hex() == FROZEN["fact"]


def test_the_chain_replays_to_the_frozen_state() -> None:
    genesis = Genesis.decode(bytes.fromhex(FROZEN["genesis"]))
    state = MemoryState()
    state.write(genesis_state(genesis)[0].writes)
    header = None
    for text in FROZEN["chain"]:
        block = Block.decode(bytes.fromhex(text))
        overlay, _ = replay(state, block, genesis, header)
        state.write(overlay.writes)
        header = block.header
    assert header is not None
    assert header.protocol_version == 4
    for key, value in FROZEN["rows"].items():
        assert state.get(bytes.fromhex(key)) == bytes.fromhex(value)
    rows = b"".join(blake3_digest(key + value) for key, value in state.scan(b""))
    assert blake3_digest(rows).hex() == FROZEN["state"]
