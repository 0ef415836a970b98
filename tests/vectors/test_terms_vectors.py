"""The frozen bytes of terms: statements, a chain across them, a proof, an ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hcefs.crypto.signing import verify
from hcefs.ledger.block import Block, SignedHead
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.machine import genesis_state, replay
from hcefs.ledger.proofs import ForkEvidence, check_proof
from hcefs.ledger.recovery import ASK_TAG, SignedWriterAsk
from hcefs.ledger.rows import ForkProof
from hcefs.ledger.state import MemoryState, StateView
from hcefs.ledger.terms import SignedTermChange, Terms
from tests.vectors.generate_terms import vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("terms.json").read_text("utf-8"))
GENESIS = Genesis.decode(bytes.fromhex(FROZEN["genesis"]))
CHANGES = tuple(SignedTermChange.decode(bytes.fromhex(each)) for each in FROZEN["terms"])
TERMS = Terms(GENESIS, CHANGES)


def test_the_code_still_writes_the_frozen_bytes() -> None:
    assert json.loads(json.dumps(vectors())) == FROZEN


def test_the_chain_replays_across_its_terms() -> None:
    state = MemoryState()
    state.write(genesis_state(GENESIS)[0].writes)
    previous = None
    terms = Terms(GENESIS)
    for data in FROZEN["blocks"]:
        block = Block.decode(bytes.fromhex(data))
        overlay, _ = replay(state, block, GENESIS, previous, TERMS)
        state.write(overlay.writes)
        previous = block.header
        for change in CHANGES:
            if change.change.height == previous.height:
                change.check(StateView(state, previous.height, previous.time_ms), GENESIS)
                assert change.change.block_hash == previous.hash()
                terms = terms.followed_by(change)
    assert [TERMS.term_at(height) for height in range(1, 8)] == [1, 1, 1, 2, 2, 3, 3]
    assert terms == TERMS
    assert [change.change.digest.hex() for change in CHANGES] == FROZEN["digests"]
    head = SignedHead.decode(bytes.fromhex(FROZEN["head"]))
    head.check(TERMS.writer_key)


def test_the_proof() -> None:
    proof = ForkProof.decode(bytes.fromhex(FROZEN["proof"]))
    assert (check_proof(proof, TERMS).height, check_proof(proof, TERMS).term) == (3, 1)
    evidence = ForkEvidence.decode(bytes.fromhex(FROZEN["evidence"]))
    assert evidence.proof == proof
    assert evidence.check().term == 1


def test_the_ask() -> None:
    signed = SignedWriterAsk.decode(bytes.fromhex(FROZEN["ask"]))
    verify(TERMS.writer_key, ASK_TAG, signed.ask.encode(), signed.signature)
