"""Many files: which are found, in what company they travel, and how they are named again."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcefs.cli.many import CALL_BYTES, _batches, found_files, free_name
from hcefs.errors import Invalid
from hcefs.formats.pack import PAYLOAD_BYTES_MAX
from hcefs.ids import BlobId

BLOB = BlobId.of(b"b" * 16, 3)


def test_folders_give_all_that_is_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/2", "a/b/1", "a/1", "alone"):
        (tmp_path / name).write_bytes(b"x")
    found = found_files([tmp_path / "alone", tmp_path / "a"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["alone", "a/1", "a/2", "a/b/1"]
    with pytest.raises(Invalid):
        list(found_files([tmp_path / "none"]))


def test_long_files_go_alone_and_batches_are_bounded(tmp_path: Path) -> None:
    sizes = [
        10,
        PAYLOAD_BYTES_MAX + 1,
        20,
        *[PAYLOAD_BYTES_MAX] * (CALL_BYTES // PAYLOAD_BYTES_MAX),
    ]
    files = []
    for number, size in enumerate(sizes):
        path = tmp_path / str(number)
        with path.open("wb") as file:
            file.truncate(size)
        files.append(path)
    batches = list(_batches(files))
    assert batches[0] == [files[1]]
    assert sorted(file for batch in batches for file in batch) == sorted(files)
    assert all(
        sum(file.stat().st_size for file in batch) <= CALL_BYTES
        for batch in batches
        if len(batch) > 1
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("note.json", "note.json"),
        ("../../etc/passwd", "passwd"),
        ("c:\\scans\\ct.dcm", "ct.dcm"),
        ("", BLOB.text),
        ("..", BLOB.text),
        (".hidden", BLOB.text),
        ("a\x00b", BLOB.text),
        ("line\nfeed", BLOB.text),
        ("n" * 300, BLOB.text),
        ("taken", f"{BLOB.text}-taken"),
        ("there", f"{BLOB.text}-there"),
    ],
)
def test_a_name_never_leaves_the_folder_and_replaces_nothing(
    tmp_path: Path, name: str, expected: str
) -> None:
    (tmp_path / "there").touch()
    assert free_name(name, BLOB, tmp_path, {"taken"}) == expected
