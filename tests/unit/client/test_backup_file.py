"""The file of a backup: whole or refused; sealed; never over another."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hcefs.client.backup_check import Found, checked
from hcefs.client.backup_file import BackupReader, new_backup, opened, read_header
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.stream import SEAL_OVERHEAD, SEGMENT_SIZE
from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, Invalid, NotFound
from hcefs.formats.backup import (
    BackupBlock,
    BackupContents,
    BackupEnd,
    BackupNode,
    BackupNodeEnd,
    BackupRow,
    BackupRows,
    Entry,
    RowSource,
)
from hcefs.ids import AccountId, ClusterId
from hcefs.integrity import blake3_digest
from hcefs.store.interface import KeyTable, Table
from tests.unit.ledger.scenario import Scenario

SEALED = SEGMENT_SIZE + SEAL_OVERHEAD
NODE = AccountId(bytes(range(16)))
GENESIS = Scenario().genesis
CLUSTER = GENESIS.cluster
KEYS = AccountKeys.generate(CLUSTER, bytes(range(128)))
OTHER = AccountKeys.generate(CLUSTER, bytes(range(1, 129)))


def page(table: int = Table.CORES, size: int = 10) -> BackupRows:
    return BackupRows(RowSource.ROWS, table, (BackupRow(b"key", bytes(size)),))


def whole(*pages: BackupRows) -> list[Entry]:
    """The entries of a backup that is whole, with an empty ledger."""
    digest = b""
    for each in pages:
        digest = blake3_digest(digest + each.encode())
    rows = sum(len(each.rows) for each in pages)
    return [
        BackupContents(GENESIS.encode(), 1, (NODE,), (), ()),
        BackupNode(NODE, 3),
        *pages,
        BackupNodeEnd(NODE, rows, len(pages), digest),
        BackupEnd(1, rows, 0, GENESIS.digest, 3 + len(pages)),
    ]


def write(path: Path, entries: list[Entry], *, replace: bool = False) -> None:
    with new_backup(
        path, CLUSTER, 5, [KEYS.receiving_key.public_key], os.urandom, replace=replace
    ) as writer:
        for entry in entries:
            writer.add(entry)


def read(path: Path, keys: AccountKeys = KEYS) -> list[Entry]:
    with opened(path) as file:
        return list(checked(BackupReader(file, keys), Found()))


@pytest.mark.parametrize("size", [0, SEGMENT_SIZE // 2, SEGMENT_SIZE - 200, 3 * SEGMENT_SIZE])
def test_what_was_written_is_read(tmp_path: Path, size: int) -> None:
    entries = whole(page(size=size), page(Table.PLACED))
    write(tmp_path / "b", entries)
    assert read(tmp_path / "b") == entries


def test_a_file_is_private_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "b"
    write(path, whole())
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    with pytest.raises(Conflict, match="--force") as caught:
        write(path, whole())
    assert caught.value.reason == "file-exists"
    assert path.read_bytes() == before
    write(path, whole(page()), replace=True)
    assert path.read_bytes() != before
    assert [each.name for each in tmp_path.iterdir()] == ["b"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_backup(
            tmp_path / "b", CLUSTER, 5, [KEYS.receiving_key.public_key], os.urandom
        ) as writer:
            writer.add(page())
            raise NotFound("a node is gone", reason="gone")

    with pytest.raises(NotFound):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_file_tells_strangers_nothing_of_its_rows(tmp_path: Path) -> None:
    secret = b"row that nobody is to see"
    write(tmp_path / "b", whole(BackupRows(RowSource.KEYS, 1, (BackupRow(b"k", secret),))))
    assert secret not in (tmp_path / "b").read_bytes()
    assert read_header(tmp_path / "b").cluster == CLUSTER
    with pytest.raises(Denied) as caught:
        read(tmp_path / "b", OTHER)
    assert caught.value.reason == "not-a-recipient"


def test_each_recipient_opens_it_with_old_keys_too(tmp_path: Path) -> None:
    to = [KEYS.receiving_key.public_key, OTHER.receiving_key.public_key]
    with new_backup(tmp_path / "b", CLUSTER, 5, to, os.urandom) as writer:
        for entry in whole():
            writer.add(entry)
    assert read(tmp_path / "b", OTHER) == whole()
    assert read(tmp_path / "b", KEYS.renewed(bytes(range(2, 130)))) == whole()


def test_somebody_must_be_able_to_open_it(tmp_path: Path) -> None:
    with (
        pytest.raises(Invalid),
        new_backup(tmp_path / "b", CLUSTER, 5, [], os.urandom),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def _cut(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at]


def _flipped(at: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1
        return bytes(changed)

    return flip


def _swapped(data: bytes) -> bytes:
    """The first two segments change places."""
    first = len(data) - _tail(data)
    return (
        data[: first - 2 * SEALED]
        + data[first - SEALED : first]
        + data[first - 2 * SEALED : first - SEALED]
        + data[first:]
    )


def _tail(data: bytes) -> int:
    """Bytes of the last segment."""
    with io.BytesIO(data) as file:
        BackupReader(file, KEYS)
        return (len(data) - file.tell()) % SEALED or SEALED


@pytest.mark.parametrize(
    ("damage", "reasons"),
    [
        (_cut(5), {"bad-backup"}),
        (_cut(100), {"bad-backup"}),
        (_flipped(0), {"bad-backup"}),
        (_flipped(9), {"unknown-version"}),
        (_flipped(12), {"bad-backup"}),
        (_flipped(60), {"bad-backup"}),
        (_flipped(-1), {"bad-seal"}),
        (_flipped(-SEALED), {"wrong-key", "bad-seal"}),
        (_cut(-1), {"bad-seal"}),
        (lambda data: data[: -_tail(data)], {"bad-seal"}),
        (lambda data: data + b"x", {"bad-seal"}),
        (_swapped, {"wrong-key"}),
    ],
)
def test_damage_is_told(
    tmp_path: Path, damage: Callable[[bytes], bytes], reasons: set[str]
) -> None:
    path = tmp_path / "b"
    write(path, whole(page(size=3 * SEGMENT_SIZE)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(HcefsError) as caught:
        read(path)
    assert caught.value.reason in reasons
    assert isinstance(caught.value, Corrupt | Invalid)


def test_segments_of_another_backup_do_not_open(tmp_path: Path) -> None:
    write(tmp_path / "a", whole(page(size=2 * SEGMENT_SIZE)))
    write(tmp_path / "b", whole(page(size=2 * SEGMENT_SIZE)))
    one, other = (tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()
    tail = _tail(one)
    (tmp_path / "a").write_bytes(one[:-tail] + other[-tail:])
    with pytest.raises(Corrupt) as caught:
        read(tmp_path / "a")
    assert caught.value.reason == "wrong-key"


@pytest.mark.parametrize(
    "entries",
    [
        [],
        whole()[1:],
        whole()[:-1],
        [*whole(), page()],
        [*whole()[:1], *whole()[3:]],
        [whole(page())[0], *whole(page())[1:2], *whole(page())[3:]],
        [*whole()[:3], page(), whole()[3]],
        [*whole()[:3], BackupBlock(b"x"), whole()[3]],
        [BackupContents(GENESIS.encode(), 1, (), (), ()), *whole()[1:]],
    ],
)
def test_a_backup_that_is_not_whole_is_none(tmp_path: Path, entries: list[Entry]) -> None:
    write(tmp_path / "b", entries)
    with pytest.raises(Corrupt) as caught:
        read(tmp_path / "b")
    assert caught.value.reason == "bad-backup"


@pytest.mark.parametrize("table", [Table.DAMAGED, Table.SCRUB, 99])
def test_tables_that_are_not_backed_up_are_not_restored(tmp_path: Path, table: int) -> None:
    write(tmp_path / "b", whole(page(table)))
    with pytest.raises(Invalid) as caught:
        read(tmp_path / "b")
    assert caught.value.reason == "bad-backup"


def test_a_genesis_of_another_cluster_is_refused(tmp_path: Path) -> None:
    with new_backup(
        tmp_path / "b", ClusterId.zero(), 5, [KEYS.receiving_key.public_key], os.urandom
    ) as writer:
        for entry in whole():
            writer.add(entry)
    with pytest.raises(Corrupt):
        read(tmp_path / "b")


def test_a_page_of_keys_has_a_table_of_keys(tmp_path: Path) -> None:
    keys = BackupRows(RowSource.KEYS, KeyTable.BOXES, (BackupRow(b"k", b"v"),))
    write(tmp_path / "b", whole(keys))
    assert read(tmp_path / "b") == whole(keys)
    write(tmp_path / "c", whole(BackupRows(RowSource.KEYS, 9, ())))
    with pytest.raises(Invalid):
        read(tmp_path / "c")
