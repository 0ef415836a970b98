"""The contract of KeyStore, over every implementation."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hcefs.errors import Conflict, Invalid, Unavailable
from hcefs.store.interface import KeyStore, KeyTable
from hcefs.store.keys import RocksKeyStore
from hcefs.store.memory import MemoryKeyStore


@pytest.fixture(params=["rocks", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyStore]:
    opened: KeyStore = (
        RocksKeyStore(tmp_path / "keys") if request.param == "rocks" else MemoryKeyStore()
    )
    yield opened
    opened.close()


def test_rows_are_write_once(store: KeyStore) -> None:
    assert store.get(KeyTable.KEY_ROWS, b"k") is None
    assert store.put_new(KeyTable.KEY_ROWS, b"k", b"sealed") is True
    assert store.put_new(KeyTable.KEY_ROWS, b"k", b"sealed") is False
    with pytest.raises(Conflict) as caught:
        store.put_new(KeyTable.KEY_ROWS, b"k", b"other")
    assert caught.value.reason == "row-exists"
    assert store.get(KeyTable.KEY_ROWS, b"k") == b"sealed"


def test_many_rows_are_written_together_and_once(store: KeyStore) -> None:
    rows = [(KeyTable.KEY_ROWS, b"%d" % n, b"key") for n in range(5)]
    rows.append((KeyTable.PACK_ENVELOPES, b"0", b"envelope"))
    store.put_all_new(rows)
    store.put_all_new(rows)
    store.put_all_new([])
    assert store.get_many(KeyTable.KEY_ROWS, [b"4", b"none", b"0"]) == [b"key", None, b"key"]
    assert store.get_many(KeyTable.KEY_ROWS, []) == []
    with pytest.raises(Conflict) as caught:
        store.put_all_new([(KeyTable.KEY_ROWS, b"new", b"key"), (KeyTable.KEY_ROWS, b"3", b"x")])
    assert caught.value.reason == "row-exists"
    assert store.get(KeyTable.KEY_ROWS, b"new") is None
    assert store.get(KeyTable.PACK_ENVELOPES, b"0") == b"envelope"
    with pytest.raises(Invalid):
        store.put_all_new([(KeyTable.KEY_ROWS, b"", b"x")])


def test_tables_are_apart(store: KeyStore) -> None:
    for table in KeyTable:
        assert store.put_new(table, b"k", bytes([table]))
    store.delete([(KeyTable.BOXES, b"k")])
    assert store.get(KeyTable.KEY_ROWS, b"k") == b"\x01"
    assert store.get(KeyTable.BOXES, b"k") is None
    assert store.get(KeyTable.LINKS, b"k") == b"\x03"


def test_delete_takes_many_across_tables_and_keeps_the_rest(store: KeyStore) -> None:
    for number in range(60):
        store.put_new(KeyTable.KEY_ROWS, b"%02d" % number, b"row")
        store.put_new(KeyTable.BOXES, b"%02d" % number, b"box")
    store.delete(
        [(table, b"%02d" % n) for table in (KeyTable.BOXES, KeyTable.KEY_ROWS) for n in range(40)]
    )
    for table in (KeyTable.KEY_ROWS, KeyTable.BOXES):
        assert [key for key, _ in store.scan(table)] == [b"%02d" % n for n in range(40, 60)]


def test_delete_is_idempotent_and_the_key_may_come_again(store: KeyStore) -> None:
    store.put_new(KeyTable.LINKS, b"k", b"one")
    store.delete([(KeyTable.LINKS, b"k"), (KeyTable.LINKS, b"k"), (KeyTable.LINKS, b"absent")])
    store.delete([(KeyTable.LINKS, b"k")])
    store.delete([])
    assert store.put_new(KeyTable.LINKS, b"k", b"two") is True
    assert store.get(KeyTable.LINKS, b"k") == b"two"


def test_scan_pages_through_a_prefix_in_order(store: KeyStore) -> None:
    keys = [b"a", b"b1", b"b2", b"b3", b"c"]
    for key in reversed(keys):
        store.put_new(KeyTable.BOXES, key, key)
    assert [key for key, _ in store.scan(KeyTable.BOXES, b"b", limit=2)] == [b"b1", b"b2"]
    assert store.scan(KeyTable.BOXES, b"b", after=b"b2") == [(b"b3", b"b3")]
    assert store.scan(KeyTable.LINKS) == []


def test_bad_arguments_are_invalid_and_delete_nothing(store: KeyStore) -> None:
    store.put_new(KeyTable.BOXES, b"k", b"v")
    with pytest.raises(Invalid):
        store.delete([(KeyTable.BOXES, b"k"), (KeyTable.BOXES, b"")])
    with pytest.raises(Invalid):
        store.get(KeyTable.BOXES, b"")
    with pytest.raises(Invalid):
        store.scan(KeyTable.BOXES, limit=0)
    assert store.get(KeyTable.BOXES, b"k") == b"v"


def test_a_closed_store_says_so(store: KeyStore) -> None:
    store.close()
    store.close()
    for call in (
        lambda: store.get(KeyTable.BOXES, b"k"),
        lambda: store.put_new(KeyTable.BOXES, b"k", b"v"),
        lambda: store.delete([(KeyTable.BOXES, b"k")]),
        lambda: store.scan(KeyTable.BOXES),
    ):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.reason == "store-closed"


def test_threads_read_and_write_while_others_delete(store: KeyStore) -> None:
    def work(worker: int) -> None:
        for number in range(8):
            key = bytes([worker, number])
            assert store.put_new(KeyTable.BOXES, key, key)
            assert (key, key) in store.scan(KeyTable.BOXES, bytes([worker]))
            if number % 4 == 3:
                store.delete([(KeyTable.BOXES, key)])
                assert store.get(KeyTable.BOXES, key) is None

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(store.scan(KeyTable.BOXES)) == 24
