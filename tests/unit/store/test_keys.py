"""Deletion of keys is real: the bytes are in no file of the store."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from hcefs.errors import Corrupt, Exhausted, Invalid, Unavailable
from hcefs.store import keys as keys_module
from hcefs.store.disk import Disk
from hcefs.store.interface import KeyTable
from hcefs.store.keys import RocksKeyStore, open_key_database
from hcefs.store.rows import RocksRowStore
from tests.unit.store.database import IO_ERROR, NO_SPACE, Script, flip

SECRET = hashlib.blake2b(b"the key that must go").digest()
OTHER = hashlib.blake2b(b"the key that must stay").digest()
BOXES = KeyTable.BOXES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def script() -> Script:
    return Script(open_key_database)


def holders(folder: Path, needle: bytes) -> set[str]:
    """The files whose raw bytes hold any 16 bytes of the needle."""
    parts = [needle[i : i + 16] for i in range(0, len(needle), 16)]
    return {
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(part in path.read_bytes() for part in parts)
    }


def settle(store: RocksKeyStore, how: str, folder: Path) -> RocksKeyStore:
    """Bring the rows to where they may lie when a deletion comes."""
    if how == "reopened":
        store.close()
        return RocksKeyStore(folder)
    if how == "bottom":
        store.put_new(BOXES, b"x", b"x")
        store.delete([(BOXES, b"x")])
    if how == "many-tables":
        filler = {b"%05d" % n: hashlib.blake2b(b"%d" % n).digest() * 64 for n in range(2500)}
        for key, value in filler.items():
            store._write(puts=[(bytes([BOXES]) + key, value)])
        store.close()
        return RocksKeyStore(folder)
    return store


@pytest.mark.parametrize("where", ["log", "reopened", "bottom", "many-tables"])
def test_deleted_bytes_are_in_no_file_and_other_rows_survive(folder: Path, where: str) -> None:
    store = RocksKeyStore(folder)
    store.put_new(BOXES, b"secret", SECRET)
    store.put_new(BOXES, b"other", OTHER)
    store.put_new(KeyTable.KEY_ROWS, b"secret", OTHER)
    store = settle(store, where, folder)
    assert holders(folder, SECRET), "the test must be able to find what it looks for"
    rows = len(store.scan(BOXES, limit=10_000))

    store.delete([(BOXES, b"secret")])

    assert holders(folder, SECRET) == set()
    assert holders(folder, OTHER)
    assert store.get(BOXES, b"secret") is None
    assert store.get(BOXES, b"other") == OTHER
    assert store.get(KeyTable.KEY_ROWS, b"secret") == OTHER
    store.close()
    assert holders(folder, SECRET) == set()

    store = RocksKeyStore(folder)
    assert holders(folder, SECRET) == set()
    assert store.get(BOXES, b"secret") is None
    assert store.get(BOXES, b"other") == OTHER
    assert len(store.scan(BOXES, limit=10_000)) == rows - 1
    store.close()


def test_a_batch_beyond_the_ranges_is_erased_across_tables(folder: Path) -> None:
    store = RocksKeyStore(folder)
    secrets = {b"%03d" % n: hashlib.blake2b(b"secret %d" % n).digest() for n in range(120)}
    for key, value in secrets.items():
        store.put_new(KeyTable(int(key) % 3 + 1), key, value)
    gone = [key for key in secrets if int(key) % 2]
    store.delete([(KeyTable(int(key) % 3 + 1), key) for key in gone])
    raw = b"".join(path.read_bytes() for path in folder.iterdir())
    for key, value in secrets.items():
        assert (value in raw) == (key not in gone)
        assert (store.get(KeyTable(int(key) % 3 + 1), key) is None) == (key in gone)
    store.close()


def test_a_key_that_comes_again_is_erased_again(folder: Path) -> None:
    store = RocksKeyStore(folder)
    for _ in range(3):
        assert store.put_new(BOXES, b"k", SECRET)
        store.delete([(BOXES, b"k")])
        assert holders(folder, SECRET) == set()
    store.close()


def test_a_damaged_row_can_be_erased(folder: Path) -> None:
    RocksKeyStore(folder).close()
    raw = open_key_database(folder)
    raw[bytes([BOXES]) + b"k"] = b"\x00" * 4 + SECRET
    raw.close()
    store = RocksKeyStore(folder)
    with pytest.raises(Corrupt):
        store.get(BOXES, b"k")
    store.delete([(BOXES, b"k")])
    assert store.get(BOXES, b"k") is None
    assert holders(folder, SECRET) == set()
    store.close()


def test_order_tombstone_flush_compaction_then_sync_of_the_folder(
    folder: Path, script: Script
) -> None:
    class Recorded(Disk):
        def sync_folder(self, path: Path) -> None:
            script.calls.append(("sync_folder", (path, holders(path, SECRET))))
            super().sync_folder(path)

    store = RocksKeyStore(folder, opener=script.open, disk=Recorded())
    store.put_new(BOXES, b"k", SECRET)
    script.calls.clear()
    store.delete([(BOXES, b"k")])
    steps = [n for n in script.names() if n in {"write", "flush", "compact_range", "sync_folder"}]
    assert steps == ["write", "flush", "compact_range", "sync_folder"]
    assert script.calls[-1] == ("sync_folder", (folder, set()))
    (written,) = (args for name, args in script.calls if name == "write")
    assert written == (1, True)
    store.close()


def test_deleting_what_is_absent_costs_no_compaction(folder: Path, script: Script) -> None:
    store = RocksKeyStore(folder, opener=script.open)
    script.calls.clear()
    store.delete([(BOXES, b"absent")])
    store.delete([])
    assert set(script.names()) == {"get"}
    store.close()


@pytest.mark.parametrize("step", ["flush", "compact_range"])
@pytest.mark.parametrize(("text", "kind"), [(NO_SPACE, Exhausted), (IO_ERROR, Unavailable)])
def test_an_interrupted_deletion_is_completed_by_the_next(
    folder: Path, script: Script, step: str, text: str, kind: type[Exception]
) -> None:
    store = RocksKeyStore(folder, opener=script.open)
    store.put_new(BOXES, b"k", SECRET)
    script.failing = {step: text}
    with pytest.raises(kind):
        store.delete([(BOXES, b"k")])
    assert store.get(BOXES, b"k") is None, "readers see it gone already"
    with pytest.raises(kind):
        store.delete([(BOXES, b"another")])
    script.failing = {}
    store.delete([(BOXES, b"another")])
    assert holders(folder, SECRET) == set()
    store.close()


@pytest.mark.parametrize("step", ["flush", "compact_range"])
def test_a_deletion_interrupted_by_a_crash_is_completed_when_opened(
    folder: Path, script: Script, step: str
) -> None:
    store = RocksKeyStore(folder)
    store.put_new(BOXES, b"k", SECRET)
    store.put_new(BOXES, b"other", OTHER)
    store.close()  # the row lies in a table
    store = RocksKeyStore(folder, opener=script.open)
    script.failing = {step: IO_ERROR}
    with pytest.raises(Unavailable):
        store.delete([(BOXES, b"k")])
    image = folder.with_name("image")
    shutil.copytree(folder, image)  # what a kill -9 leaves
    assert holders(image, SECRET)
    again = RocksKeyStore(image)
    assert holders(image, SECRET) == set()
    assert again.get(BOXES, b"other") == OTHER
    again.close()
    script.failing = {}
    store.close()


def test_files_that_rocksdb_was_slow_to_remove_are_gone_on_return(
    folder: Path, script: Script
) -> None:
    store = RocksKeyStore(folder)
    store.put_new(BOXES, b"k", SECRET)
    store.close()
    store = RocksKeyStore(folder, opener=script.open)
    old = {path: path.read_bytes() for path in folder.glob("*.sst")}
    assert any(SECRET in data for data in old.values())

    def come_back() -> None:
        for path, data in old.items():
            path.write_bytes(data)

    script.after = {"compact_range": come_back}
    opened = script.opened
    store.delete([(BOXES, b"k")])
    assert script.opened == opened + 1
    assert holders(folder, SECRET) == set()
    store.close()


def test_files_that_cannot_be_removed_are_reported_until_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RocksKeyStore(folder)
    store.put_new(BOXES, b"k", SECRET)
    stuck = folder / "999999.blob"
    real = keys_module._data_files
    monkeypatch.setattr(keys_module, "_data_files", lambda *on: real(*on) | {stuck.name})
    with pytest.raises(Unavailable) as caught:
        store.delete([(BOXES, b"k")])
    assert caught.value.reason == "not-erased"
    monkeypatch.undo()
    store.delete([(BOXES, b"k")])
    assert holders(folder, SECRET) == set()
    store.close()


def test_a_failed_scan_pins_no_table(folder: Path) -> None:
    """The traceback of an error keeps frames alive, which must not hold iterators."""
    RocksKeyStore(folder).close()
    raw = open_key_database(folder)
    raw[bytes([BOXES]) + b"bad"] = b"no checksum"
    raw.close()
    store = RocksKeyStore(folder)
    store.put_new(BOXES, b"k", SECRET)
    with pytest.raises(Corrupt) as caught:
        store.scan(BOXES)
    store.delete([(BOXES, b"k")])
    assert caught.value.__traceback__ is not None
    assert holders(folder, SECRET) == set()
    store.close()


def test_a_bit_flip_is_corrupt(folder: Path) -> None:
    store = RocksKeyStore(folder)
    store.put_new(BOXES, b"k", SECRET)
    store.close()
    (table,) = (path for path in folder.glob("*.sst") if SECRET in path.read_bytes())
    flip(table, SECRET)
    store = RocksKeyStore(folder)
    with pytest.raises(Corrupt) as caught:
        store.get(BOXES, b"k")
    assert caught.value.reason == "bad-row"
    store.close()


def test_a_truncated_table_is_corrupt(folder: Path) -> None:
    store = RocksKeyStore(folder)
    store.put_new(BOXES, b"k", SECRET)
    store.close()
    (table,) = (path for path in folder.glob("*.sst") if SECRET in path.read_bytes())
    table.write_bytes(table.read_bytes()[:-10])
    with pytest.raises(Corrupt):
        RocksKeyStore(folder)


def test_rows_and_keys_are_not_opened_as_each_other(folder: Path) -> None:
    RocksRowStore(folder).close()
    with pytest.raises(Invalid) as caught:
        RocksKeyStore(folder)
    assert caught.value.reason == "unknown-version"
