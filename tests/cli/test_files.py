"""Files that the command line writes for its user: plaintext and capabilities."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hcefs.access.token import mint, read_use
from hcefs.cli.blob import check_place, guessed_type, whole_or_nothing
from hcefs.cli.capability_file import parse_token, read_token, save_token, token_text
from hcefs.crypto.signing import SigningKey
from hcefs.errors import Corrupt, Invalid, NotFound
from hcefs.ids import AccountId, ClusterId, GrantId

TOKEN = mint(
    SigningKey.from_seed(b"k" * 32),
    ClusterId(b"c" * 16),
    AccountId(b"a" * 16),
    GrantId(b"g" * 16),
)


def test_a_complete_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "scan.dcm"
    path.write_bytes(b"old")
    with whole_or_nothing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_get_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scan.dcm"

    def failing() -> None:
        with whole_or_nothing(path) as file:
            file.write(b"half")
            raise Corrupt("the end is missing")

    with pytest.raises(Corrupt):
        failing()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "file"):
        with pytest.raises(Invalid):
            check_place(path)
    check_place(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.dcm", "application/dicom"),
        ("A.DCM", "application/dicom"),
        ("report.pdf", "application/pdf"),
        ("noname", "application/octet-stream"),
    ],
)
def test_guessed_type(name: str, expected: str) -> None:
    assert guessed_type(Path(name)) == expected


def test_capability_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "cap"
    save_token(path, TOKEN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_token(path) == TOKEN
    assert read_use(parse_token(f"  {token_text(TOKEN)}\n")).grant == GrantId(b"g" * 16)


@pytest.mark.parametrize("content", [b"", b"!!", b"QUJD", b"\xff" * 40, b"A" * 20_000])
def test_what_is_no_capability(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cap"
    path.write_bytes(content)
    with pytest.raises(Invalid) as caught:
        read_token(path)
    assert caught.value.reason == "token-malformed"


def test_a_missing_capability(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_token(tmp_path / "none")
