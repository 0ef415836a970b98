"""``hcefs backup`` and ``hcefs restore`` on files, without any process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hcefs.cli.backup import METRICS, _write_metrics
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.main import app
from hcefs.client.backup_file import new_backup
from hcefs.crypto.accounts import AccountKeys
from hcefs.formats.backup import BackupContents, BackupEnd, BackupFile, Entry
from hcefs.ids import ClusterId
from tests.unit.ledger.scenario import Scenario

GENESIS = Scenario().genesis
KEYS = AccountKeys.generate(GENESIS.cluster, bytes(range(128)))


def run(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def reason(*words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code != 0
    return str(json.loads(result.stdout)["error"]["reason"])


@pytest.fixture
def layout(tmp_path: Path) -> ClusterFolder:
    """A cluster's folder with one operator's keys, as far as these verbs look at it."""
    made = ClusterFolder(tmp_path / "cluster")
    made.accounts.mkdir(parents=True)
    KEYS.save(made.account_file("operator-1"))
    made.genesis_file.write_bytes(GENESIS.encode())
    made.authority.parent.mkdir()
    made.authority.write_text("no certificate")
    made.save_connection(GENESIS.cluster, "127.0.0.1:1", ["127.0.0.1:2"])
    return made


def backup(path: Path, *files: BackupFile, keys: AccountKeys = KEYS) -> Path:
    """A backup of no node and no block."""
    entries: list[Entry] = [
        BackupContents(GENESIS.encode(), 1, (), (), files),
        BackupEnd(0, 0, 0, GENESIS.digest, 1),
    ]
    with new_backup(
        path, GENESIS.cluster, 7, [keys.receiving_key.public_key], os.urandom
    ) as writer:
        for entry in entries:
            writer.add(entry)
    return path


def test_info_and_verify(layout: ClusterFolder, tmp_path: Path) -> None:
    path = backup(tmp_path / "b")
    told = run("backup", "info", str(path))
    assert (told["cluster"], told["time_ms"]) == (GENESIS.cluster.text, 7)
    checked = run("backup", "verify", str(path), "--dir", str(layout.root))
    assert (checked["height"], checked["nodes"], checked["term"]) == (0, {}, 1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b", "cluster"]
    path.write_bytes(path.read_bytes()[:-1])
    assert reason("backup", "verify", str(path), "--dir", str(layout.root)) == "bad-seal"


def test_small_files_come_back_where_they_are_missing(
    layout: ClusterFolder, tmp_path: Path
) -> None:
    files = (BackupFile("cluster.toml", b"old"), BackupFile("nodes/1/config.toml", b"config"))
    path, keys = backup(tmp_path / "b", *files), str(layout.account_file("operator-1"))
    done = run("restore", str(path), "--files", "--dir", str(layout.root))
    assert done == {"restored": ["nodes/1/config.toml"], "kept": ["cluster.toml"]}
    empty = tmp_path / "empty"
    done = run("restore", str(path), "--files", "--dir", str(empty), "--as", keys)
    assert done["kept"] == []
    assert (empty / "nodes" / "1" / "config.toml").read_bytes() == b"config"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ""])
def test_no_file_leads_outside(layout: ClusterFolder, tmp_path: Path, name: str) -> None:
    path = backup(tmp_path / "b", BackupFile(name, b"x"))
    assert reason("restore", str(path), "--files", "--dir", str(layout.root)) == "bad-backup"
    assert not (tmp_path / "x").exists()


def test_what_is_refused(layout: ClusterFolder, tmp_path: Path) -> None:
    path, folder = str(backup(tmp_path / "b")), ["--dir", str(layout.root)]
    assert reason("restore", path, *folder) == "bad-arguments"
    assert reason("restore", path, "--ledger", "--files", *folder) == "bad-arguments"
    assert reason("restore", path, "--ledger", "--force", "yes", *folder) == "bad-words"
    assert reason("restore", path, "--node", "1", *folder) == "no-config"
    assert reason("restore", str(tmp_path / "none"), "--files", *folder) == "no-backup"
    assert reason("backup", *folder) == "bad-arguments"
    other = AccountKeys.generate(GENESIS.cluster, bytes(range(1, 129)))
    sealed = str(backup(tmp_path / "other", keys=other))
    assert reason("backup", "verify", sealed, *folder) == "not-a-recipient"
    layout.save_connection(ClusterId(bytes(range(16))), "127.0.0.1:1", [])
    assert reason("backup", "verify", path, *folder) == "wrong-cluster"
    assert reason("restore", path, "--files", *folder) == "wrong-cluster"


def test_metrics_for_the_textfile_collector(tmp_path: Path) -> None:
    path = tmp_path / "hcefs.prom"
    data = {"time_ms": 1_700_000_000_000, "seconds": 2.5, "bytes": 10, "missing": ["acc-1"]}
    _write_metrics(path, data)
    lines = path.read_text().splitlines()
    values = dict(line.split() for line in lines if not line.startswith("#"))
    assert list(values) == list(METRICS)
    assert [float(each) for each in values.values()] == [1_700_000_002.5, 10, 2.5, 1]
    assert [each.name for each in tmp_path.iterdir()] == ["hcefs.prom"]
