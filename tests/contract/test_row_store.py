"""The contract of RowStore, over every implementation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hcefs.errors import Conflict, Invalid, Unavailable
from hcefs.store.interface import KEY_BYTES_MAX, SCAN_ROWS_MAX, VALUE_BYTES_MAX, RowStore, Table
from hcefs.store.memory import MemoryRowStore
from hcefs.store.rows import RocksRowStore


@pytest.fixture(params=["rocks", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RowStore]:
    opened: RowStore = (
        RocksRowStore(tmp_path / "rows") if request.param == "rocks" else MemoryRowStore()
    )
    yield opened
    opened.close()


def test_put_replaces_and_get_reads(store: RowStore) -> None:
    assert store.get(Table.CORES, b"k") is None
    store.put([(Table.CORES, b"k", b"one")])
    store.put([(Table.CORES, b"k", b"two")])
    assert store.get(Table.CORES, b"k") == b"two"


def test_empty_and_longest_values(store: RowStore) -> None:
    longest = b"v" * VALUE_BYTES_MAX
    store.put([(Table.META, b"empty", b""), (Table.META, b"k" * KEY_BYTES_MAX, longest)])
    assert store.get(Table.META, b"empty") == b""
    assert store.get(Table.META, b"k" * KEY_BYTES_MAX) == longest
    assert store.put_new(Table.META, b"empty", b"") is False


def test_tables_are_apart(store: RowStore) -> None:
    store.put([(table, b"k", bytes([table])) for table in Table])
    assert [store.get(table, b"k") for table in Table] == [bytes([table]) for table in Table]
    store.delete([(Table.LAYOUTS, b"k")])
    assert store.scan(Table.LAYOUTS) == []
    assert store.scan(Table.CORES) == [(b"k", b"\x01")]


def test_of_two_rows_with_one_key_the_later_wins(store: RowStore) -> None:
    store.put([(Table.INDEX, b"k", b"one"), (Table.INDEX, b"k", b"two")])
    assert store.get(Table.INDEX, b"k") == b"two"


def test_a_refused_batch_writes_nothing(store: RowStore) -> None:
    with pytest.raises(Invalid):
        store.put([(Table.INDEX, b"good", b"v"), (Table.INDEX, b"", b"v")])
    with pytest.raises(Invalid):
        store.put([(Table.INDEX, b"good", b"v"), (Table.INDEX, b"k", bytes(VALUE_BYTES_MAX + 1))])
    assert store.get(Table.INDEX, b"good") is None
    store.put([(Table.INDEX, b"good", b"v")])
    with pytest.raises(Invalid):
        store.delete([(Table.INDEX, b"good"), (Table.INDEX, b"")])
    assert store.get(Table.INDEX, b"good") == b"v"


@pytest.mark.parametrize("key", [b"", b"k" * (KEY_BYTES_MAX + 1)])
def test_keys_out_of_bounds_are_invalid(store: RowStore, key: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        store.get(Table.META, key)
    assert caught.value.reason == "bad-row-key"
    with pytest.raises(Invalid):
        store.put_new(Table.META, key, b"v")


def test_put_new_is_write_once(store: RowStore) -> None:
    assert store.put_new(Table.OPENINGS, b"k", b"v") is True
    assert store.put_new(Table.OPENINGS, b"k", b"v") is False
    with pytest.raises(Conflict) as caught:
        store.put_new(Table.OPENINGS, b"k", b"other")
    assert caught.value.reason == "row-exists"
    assert store.get(Table.OPENINGS, b"k") == b"v"
    store.delete([(Table.OPENINGS, b"k")])
    assert store.put_new(Table.OPENINGS, b"k", b"other") is True


def test_of_racing_put_news_one_writes_and_the_others_conflict(store: RowStore) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def race(value: bytes) -> None:
        start.wait()
        try:
            outcomes.append("new" if store.put_new(Table.META, b"k", value) else "same")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=race, args=(b"%d" % (i % 2),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 4 + ["new"] + ["same"] * 3


def test_delete_is_idempotent(store: RowStore) -> None:
    store.put([(Table.PENDING, b"a", b"1"), (Table.PENDING, b"b", b"2")])
    store.delete([(Table.PENDING, b"a"), (Table.PENDING, b"absent")])
    store.delete([(Table.PENDING, b"a")])
    store.delete([])
    store.put([])
    assert store.scan(Table.PENDING) == [(b"b", b"2")]


def test_scan_pages_through_a_prefix_in_order(store: RowStore) -> None:
    keys = [b"a", b"b\x00", b"b\x00\x00", b"b\x00\xff", b"b\x01", b"b\xff\xff", b"c"]
    store.put([(Table.RECEIPTS, key, key) for key in reversed(keys)])
    assert store.scan(Table.RECEIPTS) == [(key, key) for key in keys]
    assert [k for k, _ in store.scan(Table.RECEIPTS, b"b\x00")] == keys[1:4]
    assert [k for k, _ in store.scan(Table.RECEIPTS, b"b\xff")] == keys[5:6]
    found: list[bytes] = []
    after: bytes | None = None
    while page := store.scan(Table.RECEIPTS, b"b", after=after, limit=2):
        assert len(page) <= 2
        found += [key for key, _ in page]
        after = found[-1]
    assert found == keys[1:6]


def test_after_may_lie_outside_of_the_prefix(store: RowStore) -> None:
    store.put([(Table.META, key, b"") for key in (b"a", b"b1", b"b2", b"c")])
    assert [k for k, _ in store.scan(Table.META, b"b", after=b"a")] == [b"b1", b"b2"]
    assert store.scan(Table.META, b"b", after=b"c") == []
    assert [k for k, _ in store.scan(Table.META, after=b"b")] == [b"b1", b"b2", b"c"]


@pytest.mark.parametrize("limit", [0, -1, SCAN_ROWS_MAX + 1])
def test_scan_limits_are_bounded(store: RowStore, limit: int) -> None:
    with pytest.raises(Invalid) as caught:
        store.scan(Table.META, limit=limit)
    assert caught.value.reason == "bad-limit"


def test_a_closed_store_says_so(store: RowStore) -> None:
    store.close()
    store.close()
    for call in (
        lambda: store.get(Table.META, b"k"),
        lambda: store.put([(Table.META, b"k", b"v")]),
        lambda: store.put_new(Table.META, b"k", b"v"),
        lambda: store.delete([(Table.META, b"k")]),
        lambda: store.scan(Table.META),
    ):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.reason == "store-closed"


def test_many_threads(store: RowStore) -> None:
    def work(worker: int) -> None:
        for number in range(25):
            key = bytes([worker, number])
            store.put([(Table.INDEX, key, key), (Table.META, b"shared", key)])
            assert store.get(Table.INDEX, key) == key
            assert len(store.scan(Table.INDEX, bytes([worker]))) == number + 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert len(store.scan(Table.INDEX)) == 150


def test_inspection_goes_through_a_table_in_pages(store: RowStore) -> None:
    store.put([(Table.CORES, bytes([number]), b"v") for number in range(1, 6)])
    store.put([(Table.LAYOUTS, b"other", b"v")])
    first = store.inspect(Table.CORES, None, 4)
    assert ([key for key, _ in first.rows], first.damaged, first.last) == (
        [b"\x01", b"\x02", b"\x03", b"\x04"],
        (),
        b"\x04",
    )
    rest = store.inspect(Table.CORES, first.last, 4)
    assert (rest.rows, rest.last, rest.broken) == (((b"\x05", b"v"),), None, False)


def test_purging_changes_nothing_for_readers(store: RowStore) -> None:
    """What it does to files is proved where there are files (tests/crash)."""
    store.put([(Table.CORES, b"a", b"kept"), (Table.CORES, b"b", b"gone")])
    store.put([(Table.META, b"a", b"elsewhere")])
    store.delete([(Table.CORES, b"b")])
    store.purge([Table.CORES, Table.OPENINGS])
    assert store.scan(Table.CORES) == [(b"a", b"kept")]
    assert store.get(Table.META, b"a") == b"elsewhere"
    store.put([(Table.CORES, b"b", b"again")])
    assert store.get(Table.CORES, b"b") == b"again"
