"""Blocks: app hash, atomic transactions, and what a follower must refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from hcefs.access.facts import AccountKind
from hcefs.encoding import dumps
from hcefs.errors import Corrupt, Denied, HcefsError
from hcefs.ids import ClusterId
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import PROTOCOL_NEWEST, Block, sign_block, transaction_root
from hcefs.ledger.machine import APP_HASH_TAG, apply, execute, genesis_state, next_app_hash, replay
from hcefs.ledger.state import MemoryState, Overlay, generation_key, record_key
from hcefs.ledger.transactions import SignedTransaction
from tests.unit.ledger.scenario import START_MS, Scenario, record_id, seed, signing_key

SESSION = """
from tests.unit.ledger.scenario import Scenario
from hcefs.access.facts import Action
world = Scenario().populate()
world.submit(world.grant("g", "doc", Action.READ | Action.APPEND), "pat")
world.submit(world.append("p", world.entry("a", grant="g"), world.entry("b", grant="g")), "doc")
world.submit(world.revocation("g", "k"), "pat")
print(world.app_hash.hex())
"""


@pytest.fixture
def world() -> Scenario:
    return Scenario().populate()


def changed(world: Scenario, block: Block, **change: Any) -> Block:
    """The block with another header, honestly signed."""
    return sign_block(replace(block.header, **change), block.transactions, world.writer)


def refused(world: Scenario, block: Block) -> str:
    before = dict(world.state.scan(b""))
    with pytest.raises(Corrupt) as caught:
        replay(world.state, block, world.genesis, world.header)
    assert dict(world.state.scan(b"")) == before
    return caught.value.reason


def some_block(world: Scenario) -> Block:
    transaction = world.sign(world.append("p", world.entry("c")), "pat").encode()
    return world.next_block([transaction])[0]


def test_app_hash_is_as_documented() -> None:
    overlay = Overlay(MemoryState())
    overlay.put(b"b", b"2")
    overlay.delete(b"c")
    overlay.put(b"a", b"")
    written = dumps([[b"a", [b""]], [b"b", [b"2"]], [b"c", []]])
    assert next_app_hash(seed("x"), overlay) == blake3_digest(APP_HASH_TAG + seed("x") + written)


def test_app_hash_does_not_depend_on_the_order_of_writes_or_the_hash_seed() -> None:
    one, two = Overlay(MemoryState()), Overlay(MemoryState())
    for key in (b"a", b"b", b"c"):
        one.put(key, key)
    for key in (b"c", b"a", b"b"):
        two.put(key, key)
    assert next_app_hash(bytes(32), one) == next_app_hash(bytes(32), two)
    printed = {
        subprocess.run(
            [sys.executable, "-c", SESSION],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(printed) == 1


def test_app_hash_covers_every_write(world: Scenario) -> None:
    hashes = {world.app_hash}
    world.commit([])
    hashes.add(world.app_hash)
    world.submit(world.append("p", world.entry("c")), "pat")
    hashes.add(world.app_hash)
    assert len(hashes) == 3


def test_a_chain_replays_from_genesis() -> None:
    blocks: list[Block] = []

    class Recording(Scenario):
        def commit(self, transactions: Any) -> Any:
            blocks.append(self.next_block(transactions)[0])
            return super().commit(transactions)

    world = Recording().populate()
    first, _ = genesis_state(world.genesis)
    state = MemoryState()
    state.write(first.writes)
    header = None
    for block in blocks:
        overlay, _ = replay(state, Block.decode(block.encode()), world.genesis, header)
        state.write(overlay.writes)
        header = block.header
    assert header == world.header
    assert dict(state.scan(b"")) == dict(world.state.scan(b""))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol_version": PROTOCOL_NEWEST + 1}, "unknown-protocol"),
        ({"protocol_version": 2}, "wrong-protocol"),
        ({"protocol_version": 0}, "unknown-protocol"),
        ({"cluster": ClusterId(b"x" * 16)}, "wrong-cluster"),
        ({"term": 2}, "wrong-term"),
        ({"height": 100}, "wrong-height"),
        ({"previous": bytes(32)}, "wrong-previous"),
        ({"time_ms": START_MS - 1}, "time-went-back"),
        ({"snapshot_root": bytes(32)}, "bad-snapshot-root"),
        ({"transaction_root": transaction_root([])}, "bad-transaction-root"),
        ({"app_hash": bytes(32)}, "bad-app-hash"),
    ],
)
def test_headers_that_a_follower_refuses(
    world: Scenario, change: dict[str, Any], reason: str
) -> None:
    assert refused(world, changed(world, some_block(world), **change)) == reason


def test_malformed_header(world: Scenario) -> None:
    block = some_block(world)
    assert refused(world, replace(block, header=replace(block.header, app_hash=b""))) == (
        "bad-header"
    )


def test_first_block_must_follow_the_genesis() -> None:
    world = Scenario()
    block = world.next_block([])[0]
    replay(world.state, block, world.genesis, None)
    assert refused(world, changed(world, block, previous=bytes(32))) == "wrong-previous"
    assert refused(world, changed(world, block, height=2)) == "wrong-height"
    assert refused(world, changed(world, block, term=2)) == "wrong-term"
    assert refused(world, changed(world, block, time_ms=START_MS - 1)) == "time-went-back"


def test_equal_block_times_are_allowed(world: Scenario) -> None:
    world.commit([])
    world.commit([])


def test_block_of_another_writer(world: Scenario) -> None:
    block = some_block(world)
    forged = sign_block(block.header, block.transactions, signing_key("o1"))
    assert refused(world, forged) == "bad-block-signature"
    assert refused(world, replace(block, signature=b"")) == "bad-block-signature"


def test_swapped_transactions(world: Scenario) -> None:
    block = some_block(world)
    other = world.sign(world.append("q", world.entry("d")), "pat").encode()
    assert refused(world, replace(block, transactions=(other,))) == "bad-transaction-root"


@pytest.mark.parametrize("kind", ["denied", "garbage", "unknown-version", "unsigned"])
def test_transactions_that_do_not_apply(world: Scenario, kind: str) -> None:
    good = world.sign(world.append("p", world.entry("c")), "pat")
    bad = {
        "denied": world.sign(world.append("q", world.entry("d")), "doc").encode(),
        "garbage": b"\xff",
        "unknown-version": SignedTransaction(dumps(["append", 9]), good.signatures).encode(),
        "unsigned": SignedTransaction(good.body, ()).encode(),
    }[kind]
    honest = world.next_block([good.encode()])[0]
    transactions = [good.encode(), bad]
    header = replace(honest.header, transaction_root=transaction_root(transactions))
    assert refused(world, sign_block(header, transactions, world.writer)) == "bad-transaction"


def test_too_large_block(world: Scenario) -> None:
    block = some_block(world)
    flood = replace(block, transactions=block.transactions * 5000)
    assert refused(world, flood) == "block-too-large"


@pytest.mark.parametrize("damage", ["row", "missing-generation"])
def test_damaged_own_state_is_not_blamed_on_the_block(world: Scenario, damage: str) -> None:
    world.submit(world.grant("g", "doc"), "pat")
    world.submit(world.revocation("g", "k"), "pat")
    block = some_block(world)
    if damage == "row":
        world.state.write({record_key(record_id("r")): b"\x00"})
    else:
        world.state.write({generation_key(record_id("r"), 1): None})
    assert refused(world, block) == "bad-state"


def test_a_failed_transaction_leaves_those_before_it(world: Scenario) -> None:
    overlay = Overlay(world.state)
    apply(overlay, world.sign(world.append("p", world.entry("c")), "pat"), world.context)
    kept = dict(overlay.writes)
    with pytest.raises(Denied):
        apply(overlay, world.sign(world.append("q", world.entry("d")), "doc"), world.context)
    assert overlay.writes == kept


def test_later_transactions_see_earlier_ones(world: Scenario) -> None:
    registration = world.sign(world.registration("p2", AccountKind.PATIENT), "p2", "clinic")
    opening = world.sign(world.opening("r2", "p2"), "p2")
    world.commit([registration.encode(), opening.encode()])
    assert world.view.record(record_id("r2")) is not None


def test_execute_stops_at_the_first_refusal(world: Scenario) -> None:
    with pytest.raises(HcefsError):
        execute(Overlay(world.state), [b"garbage"], world.context)
