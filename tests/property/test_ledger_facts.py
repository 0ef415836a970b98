"""Random histories: what a log remembers is what its rows say, and both are what the

rules make of the same transactions when they are followed to the letter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hcefs.access.facts import Action
from hcefs.encoding import dumps, loads
from hcefs.errors import HcefsError
from hcefs.ids import GrantId, RecordId
from hcefs.integrity import merkle_root
from hcefs.ledger import facts
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.machine import Outcome, apply, replay
from hcefs.ledger.rows import AppliedBlock
from hcefs.ledger.state import Overlay, StateView
from hcefs.ledger.transactions import (
    Append,
    AppendEntry,
    DeactivateAccount,
    SignedTransaction,
    Transaction,
)
from tests.unit.ledger.scenario import (
    DAY_MS,
    Scenario,
    grant_id,
    put_key,
    record_id,
    seed,
)

PEOPLE = ("pat", "doc", "doc2", "watch")
RECORDS = ("r", "r2", "r3")
GRANTS = ("g0", "g1", "g2", "g3")

steps = st.tuples(
    st.sampled_from(["open", "append", "append", "append", "give", "revoke", "deactivate"]),
    st.sampled_from(PEOPLE),
    st.sampled_from(RECORDS),
    st.sampled_from(GRANTS),
    st.lists(st.tuples(st.sampled_from(RECORDS), st.integers(0, 30)), min_size=1, max_size=7),
    st.integers(0, 3),
)
histories = st.lists(st.lists(steps, max_size=5), min_size=1, max_size=6)


class Logged(Scenario):
    """A scenario whose blocks are replayed over a log, by what it remembers, and kept there."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.log = LedgerLog.open(folder, self.genesis)

    def commit(self, transactions: Sequence[bytes]) -> list[Outcome]:
        block, plain, _ = self.next_block(transactions)
        overlay, outcomes = replay(self.log, block, self.genesis, self.header)
        assert overlay.writes == plain.writes
        facts = overlay.written_facts
        self.log.append([AppliedBlock(block, overlay.writes, tuple(outcomes), facts)])
        self.state.write(plain.writes)
        self.header, self.app_hash = block.header, block.header.app_hash
        return outcomes


def transaction_of(world: Scenario, step: tuple[Any, ...]) -> tuple[Transaction, str]:
    """A transaction and its signer; many of them do not apply."""
    what, who, record, grant, entries, number = step
    match what:
        case "open":
            return world.opening(record, "pat"), "pat"
        case "append":
            given = GrantId.zero() if who == "pat" else grant_id(grant)
            return Append(
                tuple(
                    AppendEntry(record_id(name), 0, seed(f"c{each}"), world.time_ms + DAY_MS, given)
                    for name, each in dict.fromkeys(entries)
                ),
                put_key(f"{who} {number}"),
            ), who
        case "give":
            return world.grant(
                grant, who, Action.READ | Action.APPEND | Action.SHARE, record=record
            ), "pat"
        case "revoke":
            return world.revocation(grant, "next"), "pat"
        case _:
            return DeactivateAccount(world.account(who)), "clinic"


def accepted(world: Scenario, block: list[tuple[Any, ...]]) -> list[bytes]:
    """The encoded transactions of a block, without those that do not apply."""
    overlay = Overlay(world.state)
    kept = []
    for step in block:
        transaction, signer = transaction_of(world, step)
        signed = world.sign(transaction, signer)
        try:
            apply(overlay, signed, world.context)
        except HcefsError:
            continue
        kept.append(signed.encode())
    return kept


def same_facts(log: LedgerLog, fresh: StateView, world: Scenario) -> None:
    """Every fact that the history may have touched, as remembered and as read anew."""
    for name in RECORDS:
        assert log.record(record_id(name)) == fresh.record(record_id(name))
        for number in range(3):
            assert log.generation(record_id(name), number) == fresh.generation(
                record_id(name), number
            )
        assert log.grants_on_record(record_id(name)) == fresh.grants_on_record(record_id(name))
    for name in PEOPLE:
        account = world.account(name)
        assert log.account(account) == fresh.account(account)
        assert log.grants_to(account) == fresh.grants_to(account)
        assert log.records_of(account) == fresh.records_of(account)
    for name in GRANTS:
        assert log.grant(grant_id(name)) == fresh.grant(grant_id(name))


class Reference:
    """Leaves, peaks, put rows and app hash by the letter of docs/FORMATS.md, and slowly."""

    def __init__(self) -> None:
        self.leaves: dict[bytes, list[bytes]] = {}

    def expected(self, world: Scenario, data: bytes, known: Overlay) -> dict[bytes, bytes]:
        """The writes of one append that is not a repeat, over ``known``."""
        kind, _, entries, key = loads(SignedTransaction.decode(data).body)
        signer = bytes(SignedTransaction.decode(data).signatures[0].signer)
        assert kind == "append"
        if known.get(b"put-key/" + signer + b"/" + key) is not None:
            return {}
        writes: dict[bytes, bytes] = {}
        results = []
        for record, generation, commitment, _, _ in entries:
            leaf = dumps(["leaf", 1, commitment, signer, generation, world.time_ms])
            digest = blake3(b"\x00" + leaf).digest()
            leaves = self.leaves.setdefault(record, [])
            results.append([record, len(leaves), digest])
            leaves.append(digest)
            row = loads(known.get(b"record/" + record) or b"")
            row[5:7] = [len(leaves), peaks(leaves)]
            writes[b"record/" + record] = dumps(row)
        last = max(entry[3] for entry in entries)
        writes[b"put-key/" + signer + b"/" + key] = dumps(["put-row", 1, last, results])
        writes[b"put-expiry/" + last.to_bytes(8, "big") + b"/" + signer + b"/" + key] = b""
        return writes


def peaks(leaves: list[bytes]) -> list[bytes]:
    found, first = [], 0
    for bit in reversed(range(len(leaves).bit_length())):
        if len(leaves) >> bit & 1:
            found.append(merkle_root(leaves[first : first + (1 << bit)]))
            first += 1 << bit
    return found


def plain_app_hash(previous: bytes, writes: dict[bytes, bytes | None]) -> bytes:
    pairs: list[Any] = [
        [key, [] if value is None else [value]] for key, value in sorted(writes.items())
    ]
    return blake3(b"hcefs/v1/app\x00" + previous + dumps(pairs)).digest()


@pytest.mark.parametrize("remembered_max", [3, 8192])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=histories)
def test_what_is_remembered_is_never_stale(
    remembered_max: int, monkeypatch: pytest.MonkeyPatch, history: list[list[tuple[Any, ...]]]
) -> None:
    monkeypatch.setattr(facts, "FACTS_MAX", remembered_max)
    reference = Reference()
    with tempfile.TemporaryDirectory() as folder:
        world = Logged(Path(folder))
        log = world.log
        world.populate()
        for block in history:
            world.time_ms += 1_000
            transactions = accepted(world, block)
            known = Overlay(world.state)
            for data in transactions:
                if loads(SignedTransaction.decode(data).body)[0] == "append":
                    expected = reference.expected(world, data, known)
                    overlay = Overlay(known)
                    apply(overlay, SignedTransaction.decode(data), world.context)
                    assert dict(overlay.writes) == expected
                apply(known, SignedTransaction.decode(data), world.context)
            hashed = plain_app_hash(world.app_hash, dict(known.writes))
            world.commit(transactions)
            assert log.app_hash == hashed
            same_facts(log, log.snapshot(), world)
            same_facts(log, world.view, world)
        assert log.verify_chain() == log.height
        for record, leaves in reference.leaves.items():
            for level in range(1, len(leaves).bit_length()):
                for index in range(len(leaves) >> level):
                    span = leaves[index << level : (index + 1) << level]
                    assert log.subtree(RecordId(record), level, index) == merkle_root(span)
        log.close()
