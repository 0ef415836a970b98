"""Golden vectors of terms: a chain that two operators' statements carry on, and a proof.

Term 2 begins after block 3; its writer signs blocks 4 and 5.  Term 3 begins after block
5 and has none.  The proof shows that the writer of term 1 signed two blocks of height 3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hcefs.ledger.block import Block, sign_block, sign_head
from hcefs.ledger.proofs import ForkEvidence
from hcefs.ledger.recovery import WriterAsk, sign_ask
from hcefs.ledger.rows import ForkProof
from hcefs.ledger.terms import SignedTermChange, Terms
from tests.unit.ledger.reigns import Reigns
from tests.unit.ledger.scenario import Scenario


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    world = Scenario()
    reigns = Reigns(world)
    blocks: list[Block] = [reigns.block() for _ in range(3)]
    changes: list[SignedTermChange] = [reigns.begin("o1", "o2")]
    blocks += [reigns.block() for _ in range(2)]
    changes.append(reigns.begin("o3", "o1"))
    third = blocks[2]
    forged = sign_block(
        replace(third.header, time_ms=third.header.time_ms + 1),
        third.transactions,
        reigns.key_of(1),
    )
    proof = ForkProof(
        3,
        replace(third, transactions=()).encode(),
        replace(forged, transactions=()).encode(),
    )
    head = sign_head(
        world.genesis,
        world.header,
        world.app_hash,
        world.time_ms,
        reigns.key_of(3),
        term=Terms(world.genesis, tuple(changes)).term,
    )
    ask = sign_ask(
        WriterAsk(world.genesis.cluster, 3, world.account("n1"), world.time_ms), reigns.key_of(3)
    )
    return {
        "genesis": world.genesis.encode().hex(),
        "blocks": [block.encode().hex() for block in blocks],
        "terms": [change.encode().hex() for change in changes],
        "digests": [change.change.digest.hex() for change in changes],
        "head": head.encode().hex(),
        "proof": proof.encode().hex(),
        "evidence": ForkEvidence(world.genesis, tuple(changes), proof).encode().hex(),
        "ask": ask.encode().hex(),
    }
