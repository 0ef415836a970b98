"""Golden vectors of requests for access: transactions, fact, and a chain that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block
from hcefs.ledger.machine import Outcome
from hcefs.ledger.request_facts import RefusalCode
from tests.unit.ledger.rights_world import RightsWorld
from tests.unit.ledger.scenario import DAY_MS


class Chain(RightsWorld):
    """A world that keeps its blocks."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        super().__init__()

    def commit(self, transactions: Sequence[bytes]) -> list[Outcome]:
        self.blocks.append(self.next_block(transactions)[0])
        return super().commit(transactions)


def chain() -> Chain:
    """Requests that are approved, refused, withdrawn and forgotten."""
    world = Chain()
    world.submit(world.ask("one"), "doc")
    world.submit(world.ask("all", record=None), "doc")
    world.submit(world.grant("g", "doc"), "pat")
    world.submit(world.approval("one", "g"), "pat")
    world.submit(world.refusing("all", RefusalCode.TOO_WIDE), "pat")
    world.submit(world.ask("back"), "doc2")
    world.submit(world.refusing("back", RefusalCode.WITHDRAWN), "doc2")
    world.time_ms += 2 * DAY_MS
    world.submit(replace(world.ask("late"), not_after_ms=world.time_ms + 2 * DAY_MS), "doc")
    return world


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    world = chain()
    rows = list(world.state.scan(b""))
    made = (
        world.ask("all", record=None),
        world.approval("one", "g"),
        world.refusing("all", RefusalCode.TOO_WIDE),
    )
    return {
        "genesis": world.genesis.encode().hex(),
        "transactions": [transaction.encode().hex() for transaction in made],
        "fact": world.asked("late").encode().hex(),
        "chain": [block.encode().hex() for block in world.blocks],
        "rows": {key.hex(): value.hex() for key, value in rows if key.startswith(b"ask")},
        "state": blake3_digest(b"".join(blake3_digest(key + value) for key, value in rows)).hex(),
    }
