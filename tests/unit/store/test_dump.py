"""What a backup copies of a node's rows, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from hcefs.errors import Conflict, Invalid
from hcefs.store.dump import (
    LEFT_OUT,
    NOT_COPIED,
    PAGE_BYTES,
    ROW_TABLES,
    RestoredRows,
    dumped,
    table_of,
)
from hcefs.store.interface import KeyTable, ShardStore, Stores, Table
from hcefs.store.keys import RocksKeyStore
from hcefs.store.memory import MemoryKeyStore, MemoryRowStore
from hcefs.store.recovery import BACKUP, Restoring
from hcefs.store.rows import RocksRowStore
from hcefs.upkeep.erase import DONE

SHARDS = cast(ShardStore, None)


def filled() -> Stores:
    """A row in every table, more than a page in two."""
    rows, keys = MemoryRowStore(), MemoryKeyStore()
    for table in Table:
        rows.put([(table, b"key-%d" % table, b"value")])
    for number in range(300):
        rows.put([(Table.CORES, number.to_bytes(4, "big"), bytes(20))])
    rows.put([(Table.LAYOUTS, bytes([n]), bytes(PAGE_BYTES // 2)) for n in range(5)])
    rows.put([(Table.META, DONE + bytes(16), b"done")])
    for kind in KeyTable:
        keys.put_new(kind, b"sealed-%d" % kind, b"box")
    return Stores(SHARDS, rows, keys)


def test_every_table_is_copied_or_left_out_on_purpose() -> None:
    assert set(ROW_TABLES) | set(LEFT_OUT) == set(Table)
    assert not set(ROW_TABLES) & set(LEFT_OUT)


def test_the_notes_of_erasures_are_those_that_the_eraser_writes() -> None:
    assert NOT_COPIED == {Table.META: (DONE,)}


def test_pages_have_all_rows_but_what_is_made_anew() -> None:
    stores = filled()
    pages = list(dumped(stores))
    assert all(sum(len(k) + len(v) for k, v in page.rows) <= PAGE_BYTES for page in pages)
    found = {(page.table, key): value for page in pages for key, value in page.rows}
    assert sum(len(page.rows) for page in pages) == len(found)
    for table in ROW_TABLES:
        wanted = dict(stores.rows.scan(table, limit=1000))
        wanted.pop(DONE + bytes(16), None)
        assert {key: value for (at, key), value in found.items() if at is table} == wanted
    assert not {table for table, _ in found} & set(LEFT_OUT)
    assert all((kind, b"sealed-%d" % kind) in found for kind in KeyTable)
    # Keys come last: what was named before was whole.
    kinds = [isinstance(page.table, KeyTable) for page in pages]
    assert kinds == sorted(kinds)


def test_rows_come_back_on_an_empty_disk(tmp_path: Path) -> None:
    restored = RestoredRows(tmp_path / "data")
    try:
        for page in dumped(filled()):
            restored.add(page.table, page.rows)
        assert not (tmp_path / "data" / "rows").exists()
        restored.finish()
    finally:
        restored.close()
    mark = Restoring(tmp_path / "data")
    assert mark.names == {BACKUP}
    assert (mark.active, mark.is_mute) == (True, False)
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert names == {"rows", "keys", "RESTORING"}
    rows = RocksRowStore(tmp_path / "data" / "rows")
    keys = RocksKeyStore(tmp_path / "data" / "keys")
    try:
        assert rows.scan(Table.META) == [(b"key-6", b"value")]
        assert keys.get(KeyTable.BOXES, b"sealed-2") == b"box"
    finally:
        rows.close()
        keys.close()
    with pytest.raises(Conflict) as caught:
        RestoredRows(tmp_path / "data")
    assert caught.value.reason == "not-empty"


def test_what_was_not_finished_leaves_no_trace(tmp_path: Path) -> None:
    restored = RestoredRows(tmp_path)
    restored.add(Table.CORES, [(b"k", b"v")])
    restored.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, int(Table.SCRUB), int(Table.DAMAGED), 77])
def test_tables_of_no_backup(number: int) -> None:
    with pytest.raises(Invalid) as caught:
        table_of(Table, number)
    assert caught.value.reason == "bad-backup"
