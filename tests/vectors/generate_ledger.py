"""Golden vectors of the ledger: genesis, transactions, a short chain and its state.

Keys come from fixed seeds and Ed25519 is deterministic, so every byte is fixed.  The
chain holds every kind of transaction that protocol version 1 accepts; its app hashes
freeze the rules of the state machine as well as the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hcefs.access.facts import AccountKind, Action
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block, sign_head
from hcefs.ledger.machine import Leaf, LeafResult, Outcome, genesis_state
from hcefs.ledger.state import PutRow
from hcefs.ledger.transactions import DeactivateAccount, SetClusterMap, Transaction, Upgrade
from hcefs.placement.cluster_map import Caps, ClusterMap, Node, NodeState, Table, encode_rows
from tests.unit.ledger.scenario import DAY_MS, Scenario, grant_id, record_id, seed

NODES = ("n1", "n2")
HEAD_DELAY_MS = 5


class Chain(Scenario):
    """A scenario that keeps its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Block] = []

    def commit(self, transactions: Sequence[bytes]) -> list[Outcome]:
        self.blocks.append(self.next_block(transactions)[0])
        return super().commit(transactions)


def cluster_map(world: Scenario) -> ClusterMap:
    """Two nodes that hold one table of two seats."""
    nodes = tuple(
        Node(
            node_id=number,
            account=world.account(name),
            address=f"10.0.0.{number}:7000",
            peer_address=f"10.0.0.{number}:7001",
            zone="z",
            rack="",
            host=name,
            weight=1,
            state=NodeState.UP,
        )
        for number, name in enumerate(NODES, 1)
    )
    table = Table(
        profile="copy-2",
        k=1,
        m=1,
        bits=8,
        caps=Caps(2, 2, 1),
        rows=encode_rows([(1, 2)] * 256),
        target=b"",
        moving=(),
        wave=0,
        waves=0,
    )
    return ClusterMap(1, b"", seed("map"), "copy-2", nodes, (table,))


def chain() -> Chain:
    """Every accepted kind of transaction, a repeat, an old generation and an expiry."""
    world = Chain()
    world.populate()
    for name in NODES:
        world.register(name, AccountKind.NODE, "o1", "o3")
    world.time_ms += 1_000
    world.submit(SetClusterMap(0, cluster_map(world).encode()), "o1", "o2")
    world.submit(world.grant("g1", "doc", Action.READ | Action.APPEND | Action.SHARE), "pat")
    world.submit(world.grant("g2", "doc2", Action.READ, parent="g1"), "doc")
    put = world.append("p", world.entry("a", grant="g1"), world.entry("b", grant="g1"))
    signed = world.sign(put, "doc").encode()
    world.commit([signed, signed])
    world.submit(world.revocation("g2"), "doc")
    world.submit(world.revocation("g1", "second key"), "pat")
    world.time_ms += 60_000
    world.submit(world.append("q", world.entry("c", generation=0)), "pat")
    world.submit(world.append("s", world.entry("d", generation=1)), "pat")
    world.submit(DeactivateAccount(world.account("doc2")), "clinic")
    world.time_ms += DAY_MS + 1
    world.commit([])
    return world


def transactions(world: Scenario) -> dict[str, Transaction]:
    """One of each kind."""
    return {
        "register-account": world.registration("pat", AccountKind.PATIENT),
        "open-record": world.opening("r", "pat"),
        "append": world.append("p", world.entry("a"), world.entry("b", grant="g1")),
        "give-grant": world.grant("g2", "doc2", Action.READ, parent="g1"),
        "revoke-grant": world.revocation("g1"),
        "set-cluster-map": SetClusterMap(0, b"\x01\x02"),
        "deactivate-account": DeactivateAccount(world.account("doc2")),
        "upgrade": Upgrade(2, 1_000),
    }


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    world = chain()
    genesis = world.genesis
    fresh = Scenario()
    fresh.party("pat")
    leaf = Leaf(seed("commitment"), world.account("doc"), 1, world.time_ms)
    row = PutRow(world.time_ms, (LeafResult(record_id("r"), 2, leaf.hash()),))
    head = sign_head(
        genesis, world.header, world.app_hash, world.time_ms + HEAD_DELAY_MS, world.writer, term=1
    )
    made = transactions(fresh)
    records = world.view.records_of(world.account("pat"))
    return {
        "genesis": {
            "encoded": genesis.encode().hex(),
            "digest": genesis.digest.hex(),
            "cluster": genesis.cluster.text,
            "app_hash": genesis_state(genesis)[1].hex(),
        },
        "transactions": {name: tx.encode().hex() for name, tx in made.items()},
        "signed": {
            "encoded": fresh.sign(made["append"], "pat").encode().hex(),
            "hash": fresh.sign(made["append"], "pat").hash().hex(),
        },
        "leaf": {"encoded": leaf.encode().hex(), "hash": leaf.hash().hex()},
        "put_row": row.encode().hex(),
        "head": head.encode().hex(),
        "chain": [
            {"block": block.encode().hex(), "hash": block.hash().hex()} for block in world.blocks
        ],
        "records": [record.encode().hex() for record in records],
        "grant": world.granted("g2").encode().hex(),
        "grant_id": grant_id("g2").text,
        "state": blake3_digest(
            b"".join(blake3_digest(key + value) for key, value in world.state.scan(b""))
        ).hex(),
    }
