"""The frozen bytes and rules of erasure and legal hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hcefs.access import erasure_facts
from hcefs.client.erasure_check import check_certificate
from hcefs.evidence.erasure import (
    ErasureCertificate,
    ErasureCertificateV1,
    ErasureStatement,
    read_certificate,
)
from hcefs.formats.erasure import ErasureProgress
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.machine import genesis_state, replay
from hcefs.ledger.state import MemoryState
from hcefs.ledger.transactions import decode_transaction
from tests.vectors.generate_erasure import vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("erasure.json").read_text("utf-8"))
GENESIS = Genesis.decode(bytes.fromhex(FROZEN["genesis"]))
FORMATS = {
    cls.KIND: cls
    for cls in (
        erasure_facts.Retention,
        erasure_facts.Hold,
        erasure_facts.Erasure,
        ErasureProgress,
        ErasureStatement,
        ErasureCertificateV1,
    )
} | {"erasure-certificate-2": ErasureCertificate}


def test_the_code_still_writes_the_frozen_bytes() -> None:
    assert json.loads(json.dumps(vectors())) == FROZEN


@pytest.mark.parametrize("kind", FROZEN["transactions"])
def test_transactions(kind: str) -> None:
    body = bytes.fromhex(FROZEN["transactions"][kind])
    transaction = decode_transaction(body)
    transaction.check()
    assert kind == transaction.KIND
    assert transaction.encode() == body


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind: str) -> None:
    data = bytes.fromhex(FROZEN["formats"][kind])
    assert FORMATS[kind].decode(data).encode() == data


@pytest.mark.parametrize("name", ["erasure-certificate", "erasure-certificate-2"])
def test_the_certificate_is_complete(name: str) -> None:
    data = bytes.fromhex(FROZEN["formats"][name])
    assert check_certificate(read_certificate(data)).exposure.complete


def test_the_chain_replays_to_the_erasure() -> None:
    state = MemoryState()
    state.write(genesis_state(GENESIS)[0].writes)
    header = None
    for data in FROZEN["chain"]:
        block = Block.decode(bytes.fromhex(data))
        overlay, _ = replay(state, block, GENESIS, header)
        state.write(overlay.writes)
        header = block.header
    for key, value in FROZEN["rows"].items():
        assert state.get(bytes.fromhex(key)) == bytes.fromhex(value)
    rows = b"".join(blake3_digest(key + value) for key, value in state.scan(b""))
    assert blake3_digest(rows).hex() == FROZEN["state"]
