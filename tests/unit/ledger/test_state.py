"""Keys, the state in memory, overlays and the view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hcefs.access.facts import Action, LedgerView
from hcefs.errors import Corrupt
from hcefs.ids import AccountId, GrantId, PutKey, RecordId
from hcefs.ledger import state as keys
from hcefs.ledger.state import MemoryState, Overlay, State, StateView
from tests.unit.ledger.scenario import Scenario, grant_id, record_id

A = AccountId(b"a" * 16)
B = AccountId(b"b" * 16)
R = RecordId(b"r" * 16)
G = GrantId(b"g" * 16)
P = PutKey(b"p" * 16)


def filled(pairs: dict[bytes, bytes]) -> MemoryState:
    state = MemoryState()
    state.write(pairs)
    return state


def test_keys_are_as_documented() -> None:
    assert keys.account_key(A) == b"account/" + A
    assert keys.operator_key(A) == b"operator/" + A
    assert keys.record_key(R) == b"record/" + R
    assert keys.generation_key(R, 258) == b"generation/" + R + b"/\x00\x00\x01\x02"
    assert keys.records_of_key(A, R) == b"records-of/" + A + b"/" + R
    assert keys.grant_key(G) == b"grant/" + G
    assert keys.grants_on_key(R, G) == b"grants-on/" + R + b"/" + G
    assert keys.grants_to_key(A, G) == b"grants-to/" + A + b"/" + G
    assert keys.MAP_KEY == b"map"
    assert keys.put_row_key(A, P) == b"put-key/" + A + b"/" + P
    expiry = keys.put_expiry_key(1, A, P)
    assert expiry == b"put-expiry/" + bytes(7) + b"\x01/" + A + b"/" + P
    assert keys.parse_put_expiry(expiry) == (1, A, P)


def test_expiries_sort_by_time() -> None:
    assert keys.put_expiry_key(255, B, P) < keys.put_expiry_key(256, A, P)


def test_memory_state_writes_deletes_and_scans_in_order() -> None:
    state = filled({b"b/2": b"2", b"a/1": b"1", b"b/1": b"x", b"b0": b"after"})
    state.write({b"b/1": b"1", b"b/3": b"3", b"a/1": None, b"absent": None})
    assert list(state.scan(b"b/")) == [(b"b/1", b"1"), (b"b/2", b"2"), (b"b/3", b"3")]
    assert list(state.scan(b"a/")) == []
    assert [key for key, _ in state.scan(b"")] == [b"b/1", b"b/2", b"b/3", b"b0"]
    assert state.get(b"a/1") is None
    assert len(state) == 4


def test_overlay_hides_and_adds_without_touching_its_base() -> None:
    base = filled({b"k/1": b"1", b"k/2": b"2", b"k/4": b"4", b"l": b"l"})
    overlay = Overlay(base)
    overlay.put(b"k/0", b"0")
    overlay.put(b"k/2", b"two")
    overlay.put(b"k/3", b"3")
    overlay.delete(b"k/4")
    overlay.delete(b"k/9")
    expected = [(b"k/0", b"0"), (b"k/1", b"1"), (b"k/2", b"two"), (b"k/3", b"3")]
    assert list(overlay.scan(b"k/")) == expected
    assert overlay.get(b"k/4") is None
    assert overlay.get(b"l") == b"l"
    assert list(base.scan(b"k/")) == [(b"k/1", b"1"), (b"k/2", b"2"), (b"k/4", b"4")]
    base.write(overlay.writes)
    assert list(base.scan(b"k/")) == expected


def test_nested_overlays_and_absorb() -> None:
    outer = Overlay(filled({b"k/1": b"1"}))
    outer.put(b"k/2", b"2")
    inner = Overlay(outer)
    inner.delete(b"k/2")
    inner.put(b"k/3", b"3")
    assert list(inner.scan(b"k/")) == [(b"k/1", b"1"), (b"k/3", b"3")]
    assert outer.get(b"k/2") == b"2"
    outer.absorb(inner)
    assert outer.writes == {b"k/2": None, b"k/3": b"3"}


def test_scan_reads_no_further_than_asked() -> None:
    class Counting:
        def __init__(self) -> None:
            self.read = 0

        def get(self, key: bytes) -> bytes | None:
            return None

        def fact(self, cls: type[Any], key: bytes) -> Any:
            return None

        def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
            for number in range(1000):
                self.read += 1
                yield prefix + number.to_bytes(2, "big"), b""

    base: State
    base = counting = Counting()
    iterator = Overlay(base).scan(b"x")
    for _ in range(3):
        next(iterator)
    assert counting.read < 6


def test_view_answers_every_question() -> None:
    world = Scenario().populate()
    world.submit(world.opening("r2", "pat"), "pat")
    world.submit(world.grant("g1", "doc", Action.READ | Action.SHARE), "pat")
    world.submit(world.grant("g2", "doc", record="r2"), "pat")
    world.submit(world.grant("g3", "watch", Action.APPEND), "pat")
    view: LedgerView = world.view
    assert (view.height, view.time_ms) == (world.height, world.time_ms)
    record = world.view.record(record_id("r"))
    assert record is not None
    assert record.owner == world.account("pat")
    generation = world.view.generation(record_id("r"), 0)
    assert generation is not None
    assert generation.height == record.height
    assert world.view.generation(record_id("r"), 1) is None
    assert world.view.generation(record_id("r"), -1) is None
    assert world.view.generation(record_id("r"), 1 << 32) is None
    assert world.view.cluster_map() is None
    assert [g.grant for g in world.view.grants_on_record(record_id("r"))] == sorted(
        [grant_id("g1"), grant_id("g3")]
    )
    assert [g.grant for g in world.view.grants_to(world.account("doc"))] == sorted(
        [grant_id("g1"), grant_id("g2")]
    )
    assert world.view.grants_to(world.account("pat")) == []
    assert [r.record for r in world.view.records_of(world.account("pat"))] == sorted(
        [record_id("r"), record_id("r2")]
    )
    assert world.view.records_of(world.account("doc")) == []


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\x82\x66record\x02"])
def test_damaged_row_is_corrupt(damage: bytes) -> None:
    view = StateView(filled({keys.record_key(R): damage}), 1, 1)
    with pytest.raises(Corrupt) as caught:
        view.record(R)
    assert caught.value.reason == "bad-state"
