"""Golden vectors of protocol version 2: its transactions and facts, and a chain that enters it.

The chain begins at version 1, upgrades, carries a plan out by arrivals alone, and sets a
node out automatically.  Its app hashes and maps freeze the rules of version 2 together
with what they call in ``hcefs.placement``: which map may follow, and ``advance``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hcefs.encoding import Encoded
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block
from hcefs.ledger.cluster_facts import (
    Arrivals,
    ArrivedSeat,
    MapCause,
    MapChange,
    MapProgress,
    MissedNode,
    ProtocolSchedule,
    ProtocolStatus,
    ProtocolStep,
    ReportRow,
    Reprofile,
    UpkeepPolicy,
)
from hcefs.ledger.machine import Outcome
from hcefs.ledger.transactions import Transaction, Upgrade
from hcefs.ledger.transactions_map import NodeReport, SeatsArrived, SetUpkeepPolicy
from hcefs.placement.automatic import automatic_successor
from hcefs.placement.waves import is_planned
from tests.unit.ledger.clusters import MINUTE_MS, OPERATORS, Cluster
from tests.unit.ledger.scenario import START_MS, seed

NARROW = ("narrow", 1, 1)


class Chain(Cluster):
    """A cluster that begins at version 1 and keeps its blocks."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.maps: list[str] = []
        super().__init__(3, 4, [NARROW], upgraded=False)

    def commit(self, transactions: Sequence[bytes]) -> list[Outcome]:
        self.blocks.append(self.next_block(transactions)[0])
        outcomes = super().commit(transactions)
        current = self.view.cluster_map()
        if current is not None and current.digest().hex() not in self.maps[-1:]:
            self.maps.append(current.digest().hex())
        return outcomes


def chain() -> Chain:
    """Every kind of transaction and every cause of a map that version 2 knows."""
    world = Chain()
    world.submit(Upgrade(2, world.height + 2), *OPERATORS)
    world.time_ms += 1_000
    world.set_policy(out_after_ms=MINUTE_MS, out_max=1, reprofile=())
    world.grow(4)
    seats = world.flying()["n4"]
    world.submit(world.arrival(seats[:5]), "n4")
    world.submit(world.arrival(seats[3:9]), "n4")
    while is_planned(world.map):
        world.time_ms += 1_000
        world.arrive()
    for number in (1, 2, 3):
        world.report(number, [4])
    world.time_ms += MINUTE_MS
    new = automatic_successor(world.map, [4])
    for number in (1, 2, 3):
        world.report(number, [4], new.digest())
    world.set_map(new, "n3")
    world.arrive()
    return world


def transactions() -> dict[str, Transaction]:
    """One of each kind that version 2 brings."""
    return {
        "seats-arrived": SeatsArrived(7, (ArrivedSeat("ec-4-2", 255, 5), ArrivedSeat("p", 0, 0))),
        "set-upkeep-policy": SetUpkeepPolicy(
            3, UpkeepPolicy(4, 900_000, 2, (Reprofile("copy-3", "ec-4-2"),))
        ),
        "node-report": NodeReport(3, 12, 7, (1, 65535), seed("map digest")),
    }


def facts(world: Cluster) -> dict[str, Encoded]:
    """One of each fact."""
    return {
        "protocol-schedule": ProtocolSchedule((ProtocolStep(2, 1_000),)),
        "protocol-status": ProtocolStatus(998, 1, 2, 1_000),
        "arrivals": Arrivals(7, 300, 299),
        "map-progress": MapProgress(7, 300, (ArrivedSeat("ec-4-2", 255, 5),)),
        "map-change": MapChange(
            epoch=7,
            digest=seed("map digest"),
            height=1_000,
            time_ms=START_MS,
            cause=MapCause.ARRIVED,
            signers=(world.account("n1"),),
            moving=300,
            wave=2,
            waves=3,
        ),
        "upkeep-policy": UpkeepPolicy(4, 900_000, 2, (Reprofile("copy-3", "ec-4-2"),)),
        "report-row": ReportRow(3, 12, 7, (MissedNode(1, START_MS),), seed("map digest")),
    }


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    world = chain()
    rows = [(key, value) for key, value in world.state.scan(b"")]
    kept = (b"protocol", b"arrivals", b"map-change/", b"upkeep-policy", b"report/")
    return {
        "genesis": world.genesis.encode().hex(),
        "transactions": {name: made.encode().hex() for name, made in transactions().items()},
        "facts": {name: made.encode().hex() for name, made in facts(world).items()},
        "chain": [
            {"block": block.encode().hex(), "hash": block.hash().hex()} for block in world.blocks
        ],
        "maps": world.maps,
        "rows": {key.hex(): value.hex() for key, value in rows if key.startswith(kept)},
        "state": blake3_digest(b"".join(blake3_digest(key + value) for key, value in rows)).hex(),
    }
