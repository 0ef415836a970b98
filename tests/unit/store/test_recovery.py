"""A database that will not open is kept under another name, and the node comes up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import BlobBase
from hcefs.store import recovery
from hcefs.store.files import open_stores
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.store.recovery import Restoring, opened_or_set_aside

BASE = BlobBase(bytes(range(16)))


def opened(folder: Path) -> tuple[Stores, Restoring]:
    restoring = Restoring(folder)
    return open_stores(folder, reserve_bytes=0, restoring=restoring), restoring


def filled(folder: Path) -> None:
    """Rows in tables and in the log, keys, a shard."""
    for _ in range(2):
        stores = open_stores(folder, reserve_bytes=0)
        stores.rows.put([(Table.CORES, bytes([n]), bytes(4000)) for n in range(1, 200)])
        stores.rows.put([(Table.PLACED, b"x" * 25, b"ec-4-2")])
        stores.keys.put_all_new([(KeyTable.BOXES, bytes([n]), bytes(4000)) for n in range(1, 99)])
        if not stores.shards.has(BASE, 0):
            stores.shards.begin(BASE, 0).finish(b"shard")
        stores.close()


def only(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[-1]


def garbage(folder: Path, pattern: str) -> None:
    only(folder, pattern).write_bytes(b"\xa5" * 64)


def empty(folder: Path, pattern: str) -> None:
    only(folder, pattern).write_bytes(b"")


def cut(folder: Path, pattern: str) -> None:
    path = only(folder, pattern)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def gone(folder: Path, pattern: str) -> None:
    only(folder, pattern).unlink()


DAMAGE: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "garbage in CURRENT": (garbage, "CURRENT"),
    "empty CURRENT": (empty, "CURRENT"),
    "no CURRENT": (gone, "CURRENT"),
    "garbage in the manifest": (garbage, "MANIFEST-*"),
    "no manifest": (gone, "MANIFEST-*"),
    "a table cut short": (cut, "*.sst"),
    "a table gone": (gone, "*.sst"),
}


@pytest.mark.parametrize("name", ["rows", "keys"])
@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_database_is_set_aside(tmp_path: Path, what: str, name: str) -> None:
    folder = tmp_path / "data"
    filled(folder)
    damage, pattern = DAMAGE[what]
    damage(folder / name, pattern)
    before = {path.name for path in (folder / name).iterdir()}
    stores, restoring = opened(folder)
    assert restoring.active
    assert name in restoring.names
    kept = folder / f"{name}.damaged-0"
    assert before - {"LOCK", "LOG"} <= {path.name for path in kept.iterdir()} | {
        path.name for path in kept.iterdir() if path.name.startswith("LOG")
    }
    assert stores.shards.has(BASE, 0)
    if name == "rows":
        assert stores.rows.scan(Table.CORES) == []
    else:
        assert stores.keys.scan(KeyTable.BOXES) == []
        assert len(stores.rows.scan(Table.CORES)) == 199
        assert stores.rows.scan(Table.PLACED) == [], "its shards are to be adopted with their keys"
    stores.rows.put([(Table.CORES, b"new", b"row")])
    stores.close()
    stores, restoring = opened(folder)
    assert restoring.active, "a start in between does not make it whole"
    assert stores.rows.get(Table.CORES, b"new") == b"row"
    restoring.remove(*restoring.names)
    stores.close()
    stores, restoring = opened(folder)
    assert not restoring.active
    stores.close()


def test_an_intact_node_and_a_new_one_restore_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for _ in range(2):
        stores, restoring = opened(folder)
        assert not restoring.active
        stores.close()
        filled(folder)
    stores, restoring = opened(folder)
    assert not restoring.active
    assert len(stores.rows.scan(Table.CORES)) == 199
    stores.close()


def test_rows_that_somebody_took_away(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    filled(folder)
    (folder / "rows").rename(tmp_path / "elsewhere")
    stores, restoring = opened(folder)
    assert restoring.names == {recovery.ROWS}
    stores.close()


def test_a_disk_that_cannot_be_read_is_no_damage(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()

    def fails(path: Path) -> None:
        try:
            raise Exception("IO error: While pread: /x/000004.sst: Input/output error")
        except Exception as cause:
            raise Unavailable("the disk failed", reason="disk-error") from cause

    restoring = Restoring(tmp_path)
    with pytest.raises(HcefsError):
        opened_or_set_aside(folder, restoring, fails)
    assert folder.exists()
    assert not restoring.names


def test_a_damaged_mark_restores_everything(tmp_path: Path) -> None:
    Restoring(tmp_path).add(recovery.ROWS)
    (tmp_path / "RESTORING").write_bytes(b"\x00\xff")
    assert Restoring(tmp_path).active


def test_a_second_process_sets_nothing_aside(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    filled(folder)
    stores, _ = opened(folder)
    with pytest.raises(Unavailable) as caught:
        opened(folder)
    assert caught.value.reason == "store-locked"
    stores.close()
    assert not list(folder.glob("*.damaged-*"))
