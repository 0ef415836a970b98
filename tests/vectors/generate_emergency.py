"""Golden vectors of emergencies: transactions, facts, and a chain with all of them."""

from __future__ import annotations

from typing import Any

from hcefs.access.emergency import (
    EmergencyNaming,
    EmergencyOpening,
    EmergencyPolicy,
    EmergencyRefusal,
    EmergencyReview,
    EmergencyTotals,
    grant_of,
)
from hcefs.encoding import Encoded
from hcefs.ids import AccountId
from hcefs.ledger.block import Block
from hcefs.ledger.machine import Outcome
from hcefs.ledger.transactions import Transaction, Upgrade
from hcefs.ledger.transactions_emergency import (
    CloseEmergency,
    EndNaming,
    NameEmergency,
    NewNaming,
    OpenEmergency,
    RefuseEmergency,
    ReviewEmergency,
    SetEmergencyPolicy,
)
from tests.unit.ledger.scenario import (
    START_MS,
    Scenario,
    grant_id,
    put_key,
    record_id,
    seed,
)

POLICY = EmergencyPolicy(1, True, ("RESCUE",), ("TRAUMA", "UNRESPONSIVE"), 30, 48, True)
OPERATORS = ("o1", "o2")


class Chain(Scenario):
    """A ledger that keeps its blocks."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        super().__init__()

    def commit(self, transactions: Any) -> list[Outcome]:
        self.blocks.append(self.next_block(transactions)[0])
        return super().commit(transactions)


def transactions(world: Scenario) -> dict[str, Transaction]:
    """One of each kind, in an order in which they apply."""
    naming = NewNaming(grant_id("naming"), record_id("r"), world.account("clinic"))
    opening = grant_id("opening")
    return {
        "set-emergency-policy": SetEmergencyPolicy(0, POLICY),
        "name-emergency": NameEmergency((naming,)),
        "open-emergency": OpenEmergency(
            opening, (record_id("r"),), "RESCUE", "TRAUMA", seed("note"), 30
        ),
        "close-emergency": CloseEmergency(opening),
        "review-emergency": ReviewEmergency(opening, False, b""),
        "refuse-emergency": RefuseEmergency((record_id("r"),), True, put_key("refusal")),
        "end-naming": EndNaming((grant_id("naming"),)),
    }


SIGNERS: dict[str, tuple[str, ...]] = {
    "set-emergency-policy": OPERATORS,
    "open-emergency": ("doc",),
}
"""Of the rest the patient."""


def facts(world: Scenario) -> dict[str, Encoded]:
    """One of each fact."""
    review = EmergencyReview(AccountId.zero(), True, seed("note"), START_MS + 2)
    return {
        "emergency-policy": POLICY,
        "emergency-naming": EmergencyNaming(
            grant_id("naming"), record_id("r"), world.account("pat"), world.account("doc"), 9, 0
        ),
        "emergency-refusal": EmergencyRefusal(record_id("r"), 10),
        "emergency-review": review,
        "emergency-opening": EmergencyOpening(
            opening=grant_id("opening"),
            patient=world.account("pat"),
            opener=world.account("doc"),
            institution=world.account("clinic"),
            role="RESCUE",
            reason="TRAUMA",
            note_digest=b"",
            records=(record_id("r"),),
            opened_ms=START_MS,
            until_ms=START_MS + 1,
            review_by_ms=START_MS + 3,
            closed_by=world.account("pat"),
            reviews=(review,),
            height=11,
        ),
        "emergency-totals": EmergencyTotals(3, 2, 1),
    }


def chain() -> Chain:
    """Every kind of transaction, one a block."""
    world = Chain()
    world.populate()
    for version in (2, 3, 4):
        world.submit(Upgrade(version, world.height + 2), *OPERATORS)
        world.commit([])
    for kind, transaction in transactions(world).items():
        world.time_ms += 1_000
        world.submit(transaction, *SIGNERS.get(kind, ("pat",)))
    return world


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    world = chain()
    return {
        "genesis": world.genesis.encode().hex(),
        "transactions": {kind: made.encode().hex() for kind, made in transactions(world).items()},
        "facts": {kind: made.encode().hex() for kind, made in facts(world).items()},
        "grant": grant_of(grant_id("opening"), record_id("r")).hex(),
        "chain": [block.encode().hex() for block in world.blocks],
        "rows": {
            key.hex(): value.hex()
            for key, value in world.state.scan(b"")
            if key.startswith((b"emergency", b"grant"))
        },
    }
