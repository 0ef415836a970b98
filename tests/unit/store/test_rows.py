"""What only rows on a disk promise: durability, damage found, recovery."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from rocksdict import Rdict

from hcefs.errors import Corrupt, Exhausted, HcefsError, Internal, Invalid, Unavailable
from hcefs.store import rows as rows_module
from hcefs.store.interface import Table
from hcefs.store.rows import (
    Gate,
    RocksRowStore,
    open_database,
    open_row,
    row_options,
    seal_row,
    translate,
)
from tests.unit.store.database import IO_ERROR, NO_SPACE, Script, flip

VALUE = b"a value long enough to be found in the raw files" * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rows"


@pytest.fixture
def script() -> Script:
    return Script(open_database)


def crash_image(folder: Path) -> Path:
    """What a kill -9 leaves: the files as they are, nothing flushed."""
    image = folder.with_name("image")
    shutil.copytree(folder, image)
    return image


def only(folder: Path, pattern: str) -> Path:
    (path,) = (path for path in folder.glob(pattern) if VALUE in path.read_bytes())
    return path


def test_rows_survive_a_crash_and_an_orderly_end(folder: Path) -> None:
    store = RocksRowStore(folder)
    store.put([(Table.CORES, b"a", VALUE), (Table.LAYOUTS, b"a", b"layout")])
    assert store.put_new(Table.OPENINGS, b"b", b"opening")
    store.delete([(Table.LAYOUTS, b"a")])
    image = crash_image(folder)
    store.close()
    for left in (image, folder):
        again = RocksRowStore(left)
        assert again.get(Table.CORES, b"a") == VALUE
        assert again.get(Table.OPENINGS, b"b") == b"opening"
        assert again.get(Table.LAYOUTS, b"a") is None
        again.close()


def test_every_write_is_synchronised_and_one_batch(folder: Path, script: Script) -> None:
    store = RocksRowStore(folder, opener=script.open)
    store.put([(Table.CORES, b"a", b"1"), (Table.LAYOUTS, b"b", b"2")])
    store.put_new(Table.META, b"c", b"3")
    store.delete([(Table.CORES, b"a"), (Table.LAYOUTS, b"b")])
    writes = [args for name, args in script.calls if name == "write"]
    assert writes == [
        (1, True),  # the format
        (2, True),
        (1, True),
        (2, True),
    ]
    store.close()


def test_a_bit_flip_in_a_table_is_corrupt(folder: Path) -> None:
    store = RocksRowStore(folder)
    store.put([(Table.CORES, b"a", VALUE)])
    store.close()
    flip(only(folder, "*.sst"), VALUE)
    store = RocksRowStore(folder)
    for call in (lambda: store.get(Table.CORES, b"a"), lambda: store.scan(Table.CORES)):
        with pytest.raises(Corrupt) as caught:
            call()
        assert caught.value.reason == "bad-row"
    store.close()


def test_a_truncated_table_is_corrupt(folder: Path) -> None:
    store = RocksRowStore(folder)
    store.put([(Table.CORES, b"a", VALUE)])
    store.close()
    table = only(folder, "*.sst")
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(Corrupt) as caught:
        RocksRowStore(folder)
    assert caught.value.reason == "bad-row"


def test_a_missing_table_is_corrupt(folder: Path) -> None:
    store = RocksRowStore(folder)
    store.put([(Table.CORES, b"a", VALUE)])
    store.close()
    only(folder, "*.sst").unlink()
    with pytest.raises(Corrupt):
        RocksRowStore(folder)


def test_a_bit_flip_in_the_log_is_corrupt_and_hides_no_later_rows(folder: Path) -> None:
    store = RocksRowStore(folder)
    store.put([(Table.CORES, b"a", VALUE)])
    store.put([(Table.CORES, b"later", b"acknowledged, too")])
    image = crash_image(folder)
    store.close()
    flip(only(image, "*.log"), VALUE)
    with pytest.raises(Corrupt) as caught:
        RocksRowStore(image)
    assert caught.value.reason == "bad-row"


def test_an_incomplete_last_log_record_costs_that_row_only(folder: Path) -> None:
    store = RocksRowStore(folder)
    store.put([(Table.CORES, b"a", b"whole")])
    store.put([(Table.CORES, b"b", b"torn")])
    image = crash_image(folder)
    store.close()
    (path,) = image.glob("*.log")
    path.write_bytes(path.read_bytes().rstrip(b"\x00")[:-2])
    store = RocksRowStore(image)
    assert store.scan(Table.CORES) == [(b"a", b"whole")]
    store.close()


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"abc",
        b"\x00\x00\x00\x00" + VALUE,
        seal_row(b"\x01b", VALUE),  # a sound value under the wrong key
        seal_row(b"\x01a", VALUE)[:-1],
    ],
)
def test_a_wrong_checksum_that_rocksdb_cannot_see_is_corrupt(folder: Path, stored: bytes) -> None:
    RocksRowStore(folder).close()
    raw = Rdict(str(folder), row_options())
    raw[b"\x01a"] = stored
    raw.close()
    store = RocksRowStore(folder)
    with pytest.raises(Corrupt) as caught:
        store.get(Table.CORES, b"a")
    assert caught.value.reason == "bad-row"
    with pytest.raises(Corrupt):
        store.scan(Table.CORES)
    with pytest.raises(Corrupt):
        store.put_new(Table.CORES, b"a", VALUE)
    store.put([(Table.CORES, b"a", VALUE)])  # a restored row replaces it
    assert store.get(Table.CORES, b"a") == VALUE
    store.close()


def test_any_flipped_byte_of_a_stored_row_is_noticed() -> None:
    sealed = seal_row(b"\x01key", b"value")
    assert open_row(b"\x01key", sealed) == b"value"
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 0x10
        with pytest.raises(Corrupt):
            open_row(b"\x01key", bytes(damaged))


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [(NO_SPACE, Exhausted, "disk-full"), (IO_ERROR, Unavailable, "disk-error")],
)
def test_a_failed_write_shows_nothing_and_the_next_one_reopens(
    folder: Path, script: Script, text: str, kind: type[HcefsError], reason: str
) -> None:
    store = RocksRowStore(folder, opener=script.open)
    store.put([(Table.CORES, b"old", b"v")])
    script.failing = {"write": text}
    for call in (
        lambda: store.put([(Table.CORES, b"a", b"1"), (Table.CORES, b"b", b"2")]),
        lambda: store.put_new(Table.CORES, b"a", b"1"),
        lambda: store.delete([(Table.CORES, b"old")]),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.reason == reason
        assert caught.value.retryable
    assert store.scan(Table.CORES) == [(b"old", b"v")]
    script.failing = {}
    before = script.opened
    store.put([(Table.CORES, b"a", b"1")])
    assert script.opened == before + 1
    store.put([(Table.CORES, b"b", b"2")])
    assert script.opened == before + 1
    assert len(store.scan(Table.CORES)) == 3
    store.close()


def test_while_the_disk_stays_full_reads_go_on(
    folder: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RocksRowStore(folder, opener=script.open)
    store.put([(Table.CORES, b"old", b"v")])
    script.failing = {"write": NO_SPACE}
    with pytest.raises(Exhausted):
        store.put([(Table.CORES, b"a", b"1")])
    monkeypatch.setattr(rows_module, "RECOVERY_FREE_BYTES", 1 << 60)
    with pytest.raises(Exhausted) as caught:
        store.put([(Table.CORES, b"a", b"1")])
    assert caught.value.reason == "disk-full"
    assert script.opened == 1
    assert store.get(Table.CORES, b"old") == b"v"
    store.close()


def test_a_failed_reopening_is_tried_again_by_the_next_call(folder: Path, script: Script) -> None:
    store = RocksRowStore(folder, opener=script.open)
    store.put([(Table.CORES, b"old", b"v")])
    script.failing = {"write": IO_ERROR, "open": IO_ERROR}
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            store.put([(Table.CORES, b"a", b"1")])
        assert caught.value.reason == "disk-error"
    with pytest.raises(Unavailable):
        store.get(Table.CORES, b"old")
    script.failing = {}
    assert store.get(Table.CORES, b"old") == b"v"
    store.put([(Table.CORES, b"a", b"1")])
    store.close()


def test_read_errors_are_translated(folder: Path, script: Script) -> None:
    store = RocksRowStore(folder, opener=script.open)
    script.failing = {"get": IO_ERROR, "iter": IO_ERROR}
    with pytest.raises(Unavailable) as caught:
        store.get(Table.CORES, b"a")
    assert caught.value.reason == "disk-error"
    with pytest.raises(Unavailable):
        store.scan(Table.CORES)
    script.failing = {"close": IO_ERROR}
    store.close()  # the log has everything: nothing to raise


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (Exception("IO error: No space left on device: x"), Exhausted, "disk-full"),
        (OSError(28, "No space left on device"), Exhausted, "disk-full"),
        (OSError(5, "Input/output error"), Unavailable, "disk-error"),
        (Exception("IO error: While pread"), Unavailable, "disk-error"),
        (Exception("Corruption: block checksum mismatch"), Corrupt, "bad-row"),
        (
            Exception("IO error: While lock file: /d/LOCK: Resource temporarily unavailable"),
            Unavailable,
            "store-locked",
        ),
        (Exception("Invalid argument: /secret/path"), Internal, "store-failure"),
    ],
)
def test_translation_of_failures(error: Exception, kind: type[HcefsError], reason: str) -> None:
    translated = translate(error)
    assert type(translated) is kind
    assert translated.reason == reason
    assert "/" not in translated.message


def test_one_opener_at_a_time(folder: Path) -> None:
    store = RocksRowStore(folder)
    with pytest.raises(Unavailable) as caught:
        RocksRowStore(folder)
    assert caught.value.reason == "store-locked"
    store.close()
    RocksRowStore(folder).close()


def test_a_database_of_another_format_is_refused(folder: Path) -> None:
    raw = Rdict(str(folder), row_options())
    raw[b"\x00format"] = seal_row(b"\x00format", b"hcefs-rows-3")
    raw.close()
    with pytest.raises(Invalid) as caught:
        RocksRowStore(folder)
    assert caught.value.reason == "unknown-version"
    # The refused database is released.
    raw = Rdict(str(folder), row_options())
    del raw[b"\x00format"]
    raw[b"\x01a"] = b"row"
    raw.close()
    with pytest.raises(Corrupt):
        RocksRowStore(folder)


def test_the_gate_lets_one_alone_in_before_new_ones() -> None:
    gate = Gate()
    order: list[str] = []
    inside, release = threading.Event(), threading.Event()

    def first() -> None:
        with gate.shared():
            inside.set()
            release.wait()
            order.append("shared")

    def alone() -> None:
        with gate.alone():
            order.append("alone")

    def late() -> None:
        with gate.shared():
            order.append("late")

    holder, waiter, newcomer = (threading.Thread(target=t) for t in (first, alone, late))
    holder.start()
    inside.wait()
    waiter.start()
    while not gate._waiting:
        pass
    newcomer.start()
    release.set()
    for thread in (holder, waiter, newcomer):
        thread.join()
    assert order == ["shared", "alone", "late"]
