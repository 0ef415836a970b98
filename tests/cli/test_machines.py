"""``ca init``, ``ledger init``, ``node init``: the folders of machines of their own."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from hcefs.cli.bringup import client_address, plan_first_map
from hcefs.cli.cluster_files import LEDGER, ClusterFolder
from hcefs.cli.place import FILE, load_place
from hcefs.config import load_ledger_config, load_node_config
from hcefs.crypto.accounts import load_account
from hcefs.errors import Invalid
from hcefs.ledger.genesis import Genesis
from hcefs.transport.tls import check_pair, is_issued_by, validity
from tests.cli.conftest import Invoke

HOSTS = [f"n{number}.example" for number in range(1, 7)]


@pytest.fixture
def layout(invoke: Invoke, tmp_path: Path) -> ClusterFolder:
    """An authority, the ledger's machine and six nodes'."""
    assert invoke("ca", "init", "--name", "hospital").exit_code == 0
    assert invoke("ledger", "init", "--machine", "10.0.0.1").exit_code == 0
    machines = [argument for host in HOSTS for argument in ("--machine", host)]
    result = invoke("node", "init", "--json", *machines)
    assert result.exit_code == 0, result.output
    assert [each["node"] for each in json.loads(result.output)["nodes"]] == [1, 2, 3, 4, 5, 6]
    return ClusterFolder(tmp_path / "hcefs-cluster")


def test_a_machines_folder_may_be_put_anywhere(layout: ClusterFolder, tmp_path: Path) -> None:
    folder = layout.node(2).rename(tmp_path / "elsewhere")
    config = load_node_config(folder / "config.toml")
    assert config.data == folder / "data"
    assert (config.client_address, config.peer_address, config.metrics_address) == (
        "0.0.0.0:7011", "0.0.0.0:7012", "0.0.0.0:7013",
    )  # fmt: skip
    assert config.ledger_address == "10.0.0.1:7002"
    genesis = Genesis.decode(config.genesis.read_bytes())
    assert load_account(config.account).cluster == genesis.cluster
    certificate = config.tls.certificate.read_bytes()
    check_pair(certificate, config.tls.key.read_bytes())
    assert is_issued_by(certificate, config.tls.authority.read_bytes())
    assert "n2.example" in validity(certificate).hosts
    for secret in (config.tls.key, config.account):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_ledgers_folder(layout: ClusterFolder) -> None:
    config = load_ledger_config(layout.config_of(LEDGER))
    genesis = Genesis.decode(config.genesis.read_bytes())
    writer = load_account(config.writer_key)
    assert writer.signing_key.public_key == genesis.writer_key
    assert config.client_address == "10.0.0.1:7001", "an IP address is listened on alone"
    assert "10.0.0.1" in validity(config.tls.certificate.read_bytes()).hosts


def test_operators_reach_them_by_their_places(layout: ClusterFolder) -> None:
    connection = layout.load_connection()
    assert connection.ledger == "10.0.0.1:7001"
    assert connection.nodes == tuple(f"{host}:7011" for host in HOSTS)
    assert client_address(layout, "node-3") == "n3.example:7011"
    planned = plan_first_map(layout, b"s" * 32)
    assert [node.address for node in planned.nodes] == list(connection.nodes)
    assert [node.host for node in planned.nodes] == HOSTS
    assert [node.zone for node in planned.nodes[:4]] == ["zone-a", "zone-b", "zone-c", "zone-a"]


def test_nothing_is_made_twice_or_out_of_order(invoke: Invoke, layout: ClusterFolder) -> None:
    def reason(*arguments: str) -> str:
        return str(json.loads(invoke(*arguments, "--json").output)["error"]["reason"])

    key = (layout.ledger / "tls.key").read_bytes()
    assert reason("ledger", "init", "--machine", "10.0.0.2") == "exists"
    assert (layout.ledger / "tls.key").read_bytes() == key
    assert reason("ca", "init") == "not-empty"
    assert reason("up") == "other-machines"
    assert reason("ledger", "init", "--machine", "h", "--dir", "empty") == "no-genesis"
    assert reason("node", "init", "--machine", "h", "--dir", "empty") == "no-cluster"
    assert reason("node", "init", "--machine", "a b") == "bad-host"
    assert reason("node", "init", "--machine", "h", "--port", "65534") == "bad-port"


def test_a_cluster_of_one_machine_is_another_thing(invoke: Invoke, prepared: ClusterFolder) -> None:
    for verb in (["found"], ["node", "init", "--machine", "h"]):
        result = invoke(*verb, "--dir", prepared.root, "--json")
        assert json.loads(result.output)["error"]["reason"] == "one-machine"


def test_a_refused_machine_leaves_nothing(invoke: Invoke, layout: ClusterFolder) -> None:
    assert invoke("node", "init", "--machine", "a b").exit_code == 2
    assert layout.node_numbers() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("text", ["", "client = 1", "x = [", 'client = "a"\nother = "b"'])
def test_a_place_that_init_did_not_write(tmp_path: Path, text: str) -> None:
    assert load_place(tmp_path) is None
    (tmp_path / FILE).write_text(text)
    with pytest.raises(Invalid) as caught:
        load_place(tmp_path)
    assert caught.value.reason == "bad-place"
