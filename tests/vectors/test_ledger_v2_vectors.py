"""The frozen protocol version 2: bytes, and a chain whose waves advance by themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hcefs.integrity import blake3_digest
from hcefs.ledger import cluster_facts
from hcefs.ledger.block import Block
from hcefs.ledger.cluster_facts import MapCause
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.machine import MapChanged, genesis_state, replay
from hcefs.ledger.state import MemoryState, StateView
from hcefs.ledger.transactions import SignedTransaction, decode_transaction
from hcefs.ledger.transactions_map import SeatsArrived
from hcefs.placement.waves import advance, in_flight
from tests.vectors.generate_ledger_v2 import vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("ledger_v2.json").read_text("utf-8"))
GENESIS = Genesis.decode(bytes.fromhex(FROZEN["genesis"]))
FACTS = {
    cls.KIND: cls
    for cls in (
        cluster_facts.ProtocolSchedule,
        cluster_facts.ProtocolStatus,
        cluster_facts.Arrivals,
        cluster_facts.MapProgress,
        cluster_facts.MapChange,
        cluster_facts.UpkeepPolicy,
        cluster_facts.ReportRow,
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


def test_the_chain_replays_through_the_upgrade_and_its_waves() -> None:
    state = MemoryState()
    state.write(genesis_state(GENESIS)[0].writes)
    header = None
    maps: list[str] = []
    versions = set()
    advanced = 0
    for vector in FROZEN["chain"]:
        block = Block.decode(bytes.fromhex(vector["block"]))
        assert block.hash().hex() == vector["hash"]
        before = StateView(state, 0, 0).cluster_map()
        overlay, outcomes = replay(state, block, GENESIS, header)
        state.write(overlay.writes)
        header = block.header
        versions.add(header.protocol_version)
        for data, outcome in zip(block.transactions, outcomes, strict=True):
            transaction = decode_transaction(SignedTransaction.decode(data).body)
            for event in outcome.events:
                if isinstance(event, MapChanged):
                    maps.append(event.cluster_map.digest().hex())
                    if isinstance(transaction, SeatsArrived):
                        assert before is not None
                        assert event.cluster_map == advance(before, in_flight(before))
                        advanced += 1
    assert versions == {1, 2}
    assert maps == FROZEN["maps"]
    assert advanced >= 2
    assert header is not None
    view = StateView(state, header.height, header.time_ms)
    causes = {change.cause for change in view.map_changes(0, 99)}
    assert causes == set(MapCause)
    for key, value in FROZEN["rows"].items():
        assert state.get(bytes.fromhex(key)) == bytes.fromhex(value)
    rows = b"".join(blake3_digest(key + value) for key, value in state.scan(b""))
    assert blake3_digest(rows).hex() == FROZEN["state"]
