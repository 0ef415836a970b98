"""The cluster's folder: what ``prepare`` writes, and what the paths say."""

from __future__ import annotations

import shutil
import socket
import stat
from pathlib import Path

import pytest

from hcefs.cli.bringup import OPERATORS, client_address, plan_first_map
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.config import load_ledger_config, load_node_config
from hcefs.crypto.accounts import load_account
from hcefs.durable_files import replace_file
from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.ids import AccountId, ClusterId
from hcefs.runtime import SystemRuntime


def test_connection_file_round_trip(tmp_path: Path, prepared: ClusterFolder) -> None:
    folder = ClusterFolder(tmp_path)
    with pytest.raises(NotFound):
        folder.load_connection()
    folder.authority.parent.mkdir()
    folder.authority.write_bytes(prepared.authority.read_bytes())
    cluster = ClusterId(b"c" * 16)
    folder.save_connection(cluster, "127.0.0.1:1", ["127.0.0.1:2", "127.0.0.1:3"])
    loaded = folder.load_connection()
    assert loaded.cluster == cluster
    assert loaded.authority == prepared.authority.read_bytes()
    assert (loaded.ledger, loaded.nodes) == ("127.0.0.1:1", ("127.0.0.1:2", "127.0.0.1:3"))


def test_prepared_files_fit_together(prepared: ClusterFolder) -> None:
    genesis = prepared.load_genesis()
    connection = prepared.load_connection()
    assert connection.cluster == genesis.cluster
    assert prepared.process_names() == ["ledger", "node-1", "node-2", "node-3"]
    assert prepared.account_names() == list(OPERATORS)
    operators = [prepared.load_keys(name).account for name in OPERATORS]
    assert operators == [account.account for account in genesis.operator_accounts()]
    ledger = load_ledger_config(prepared.config_of("ledger"))
    assert ledger.client_address == connection.ledger == client_address(prepared, "ledger")
    assert load_account(ledger.writer_key).signing_key.public_key == genesis.writer_key
    for number in (1, 2, 3):
        node = load_node_config(prepared.config_of(f"node-{number}"))
        assert node.client_address == connection.nodes[number - 1]
        assert node.ledger_address == ledger.peer_address
        assert node.genesis.resolve() == prepared.genesis_file
        assert node.tls.authority.resolve() == prepared.authority
        assert load_account(node.account).cluster == genesis.cluster


def test_everything_secret_is_for_the_owner_alone(prepared: ClusterFolder) -> None:
    secrets = [path for path in prepared.root.rglob("*") if path.suffix in (".key", ".keys")]
    assert len(secrets) == 1 + 2 + 3 * 2 + len(OPERATORS)
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(prepared.root.stat().st_mode) == 0o700


def test_a_stopped_clusters_folder_can_be_moved(prepared: ClusterFolder, tmp_path: Path) -> None:
    moved = ClusterFolder(tmp_path / "moved")
    shutil.copytree(prepared.root, moved.root)
    config = load_node_config(moved.config_of("node-2"))
    assert config.genesis.resolve() == moved.genesis_file
    assert config.data == moved.node(2) / "data"
    assert str(prepared.root) not in moved.config_of("node-2").read_text()


def test_the_first_map_spreads_nodes_over_zones(prepared: ClusterFolder) -> None:
    first = plan_first_map(prepared, b"s" * 32)
    assert [node.zone for node in first.nodes] == ["zone-a", "zone-b", "zone-c"]
    assert [node.host for node in first.nodes] == ["host-1", "host-2", "host-3"]
    assert [table.profile for table in first.tables] == ["copy-3"]
    assert first.default_profile == "copy-3"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a b", "x" * 65, "a\0"])
def test_names_that_are_no_files(prepared: ClusterFolder, name: str) -> None:
    with pytest.raises(Invalid):
        prepared.account_file(name)


def test_accounts_by_name_path_and_id(prepared: ClusterFolder) -> None:
    keys = prepared.load_keys("operator-2")
    assert prepared.load_keys(str(prepared.account_file("operator-2"))) == keys
    assert prepared.account_id("operator-2") == keys.account
    assert prepared.account_id(keys.account.text) == keys.account
    with pytest.raises(Invalid):
        prepared.account_id("acc-12")
    names = prepared.known_names()
    assert names[keys.account] == "operator-2"
    assert sorted(names.values()) == ["node-1", "node-2", "node-3", *OPERATORS]
    assert AccountId.zero() not in names


@pytest.mark.parametrize("name", ["", "node-0", "node-01", "node-x", "ledger/..", "../x"])
def test_names_that_are_no_processes(prepared: ClusterFolder, name: str) -> None:
    with pytest.raises(Invalid):
        prepared.config_of(name)


def test_one_up_or_down_at_a_time(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    with folder.locked(), pytest.raises(Conflict), folder.locked():
        pass
    with folder.locked():
        pass


def test_replace_file_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"one", mode=0o600)
    replace_file(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_reserved_ports_are_free_for_listeners_and_taken_for_others() -> None:
    with reserved_ports(4, SystemRuntime().random) as ports:
        assert len(set(ports)) == 4
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind((HOST, ports[0]))
        with socket.socket() as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ours.bind((HOST, ports[0]))
            ours.listen()
