"""Account files: whole or absent, never overwritten, for nobody else to read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hcefs.crypto.accounts import AccountKeys, load_account
from hcefs.errors import Conflict
from hcefs.ids import ClusterId


def keys(number: int) -> AccountKeys:
    return AccountKeys.generate(ClusterId(b"c" * ClusterId.SIZE), bytes([number]) * 128)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "account.keys"
    keys(1).save(path)
    assert load_account(path).encode() == keys(1).encode()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["account.keys"]


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "account.keys"
    keys(1).save(path)
    with pytest.raises(Conflict) as caught:
        keys(2).save(path)
    assert caught.value.reason == "file-exists"
    assert load_account(path).encode() == keys(1).encode()
    assert [file.name for file in tmp_path.iterdir()] == ["account.keys"]


def test_a_file_that_could_not_be_written_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial key under the final name would keep a recovery from ever making one."""

    def fails(_: int) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="no space"):
            keys(1).save(tmp_path / "account.keys")
    assert list(tmp_path.iterdir()) == []
    keys(1).save(tmp_path / "account.keys")
