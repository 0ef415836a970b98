"""The frozen bytes of backups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hcefs.formats.backup import BackupHeader, decode_entry
from tests.vectors.generate_backup import vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("backup.json").read_text("utf-8"))


def test_the_code_still_writes_the_frozen_bytes() -> None:
    assert json.loads(json.dumps(vectors())) == FROZEN


@pytest.mark.parametrize("kind", FROZEN["entries"])
def test_entries(kind: str) -> None:
    data = bytes.fromhex(FROZEN["entries"][kind])
    entry = decode_entry(data)
    assert kind == entry.KIND
    assert entry.encode() == data


def test_header() -> None:
    data = bytes.fromhex(FROZEN["header"])
    assert BackupHeader.decode(data).encode() == data
