"""Who gets on with whom, and what the next step of an upgrade is."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from hcefs import __version__
from hcefs.cli.upgrade import refuse_unready
from hcefs.cli.upgrade_steps import next_steps
from hcefs.errors import Conflict, Invalid
from hcefs.formats.shard import VERSION_BOUND
from hcefs.ids import AccountId
from hcefs.ledger.block import PROTOCOL_NEWEST
from hcefs.metrics import Metrics
from hcefs.store.files import open_stores
from hcefs.store.rows import ROW_FORMATS, RocksRowStore
from hcefs.transport.versions import PeerVersions, versions_in, versions_message
from hcefs.versions import OWN, RELEASE_BEFORE, Known, Versions, problem, said
from hcefs.wire.v1 import admin_pb2, upkeep_pb2

FAR = Versions("0.4.0", Known(1, 9), Known(1, 4))
ACCOUNT = AccountId(bytes(16))


def test_one_number_names_the_release() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == __version__ == OWN.software
    assert (OWN.protocols.newest, OWN.shards.newest) == (PROTOCOL_NEWEST, VERSION_BOUND)


def test_neighbours_talk_while_both_know_the_protocol() -> None:
    assert problem("node 2", RELEASE_BEFORE, 4) == ""
    assert problem("node 2", OWN, 5) == ""
    words = problem("node 2", RELEASE_BEFORE, 5)
    assert "node 2 runs 0.1.0, this is 0.2.0" in words
    assert "upgrade node 2 to 0.2" in words
    assert "docs/operations/upgrade.md" in words


def test_a_release_that_is_too_far_away_is_refused_by_both() -> None:
    assert "upgrade this process to 0.3 first" in problem("node 2", FAR, 4)
    assert "upgrade node 1 to 0.3 first" in problem("node 1", OWN, 4, FAR)
    other = Versions("1.2.0", Known(1, 9), Known(1, 4))
    assert problem("node 2", other, 4)


@pytest.mark.parametrize("software", ["", "x", "0.2.0\n", "9" * 40, "0.2.0 <b>"])
def test_what_is_no_release_is_refused_and_not_repeated(software: str) -> None:
    found = said(software, (1, 5), (1, 2))
    assert found.software == "unknown"
    assert "does not say" in problem("node 2", found, 4)


def test_impossible_numbers_are_refused() -> None:
    for numbers in ((0, 5), (5, 1), (1, 1 << 20)):
        assert said("0.2.0", numbers, (1, 2)).release is None


def test_versions_travel_and_who_says_nothing_is_the_release_before() -> None:
    assert versions_in(upkeep_pb2.PingRequest(epoch=1, height=1)) == RELEASE_BEFORE
    sent = upkeep_pb2.PingRequest(versions=versions_message())
    assert versions_in(upkeep_pb2.PingRequest.FromString(sent.SerializeToString())) == OWN


def test_a_refused_peer_stays_refused_until_it_says_something_else() -> None:
    metrics, protocol = Metrics(), [4]
    peers = PeerVersions(metrics, lambda: protocol[0])
    peers.check(ACCOUNT, "node 2", RELEASE_BEFORE)
    peers.require(ACCOUNT)
    protocol[0] = 5
    with pytest.raises(Conflict) as caught:
        peers.check(ACCOUNT, "node 2", RELEASE_BEFORE)
    assert caught.value.reason == "version-refused"
    with pytest.raises(Conflict) as caught:
        peers.require(ACCOUNT)
    assert caught.value.reason == "version-refused"
    assert metrics.value("version_refused_total", what="peer") == 1
    assert len(peers.warnings()) == 1
    peers.check(ACCOUNT, "node 2", OWN)
    peers.require(ACCOUNT)
    assert peers.warnings() == []


def test_a_folder_of_newer_software_is_refused_with_the_way_out(tmp_path: Path) -> None:
    class Newer(RocksRowStore):
        """Of a release to come."""

        def raise_format(self) -> None:
            self._write(puts=((b"\x00format", b"hcefs-rows-3"),))

    stores = open_stores(tmp_path / "data", reserve_bytes=0)
    stores.rows.raise_format()
    stores.close()
    stores = open_stores(tmp_path / "data", reserve_bytes=0)  # what this software wrote
    stores.close()
    rows = Newer(tmp_path / "data" / "rows")
    rows.raise_format()
    rows.close()
    with pytest.raises(Invalid) as caught:
        open_stores(tmp_path / "data", reserve_bytes=0)
    assert caught.value.reason == "unknown-version"
    assert "docs/operations/upgrade.md" in caught.value.message
    assert ROW_FORMATS[-1].decode() in caught.value.message


def test_the_upgrade_is_refused_while_a_node_is_behind_or_silent() -> None:
    refuse_unready({1: OWN, 2: OWN}, 5)
    with pytest.raises(Conflict) as caught:
        refuse_unready({1: OWN, 2: RELEASE_BEFORE, 5: RELEASE_BEFORE, 6: None}, 5)
    assert caught.value.reason == "not-upgraded"
    assert "nodes 2, 5 run 0.1.0" in caught.value.message
    assert "node 6 did not answer" in caught.value.message
    assert "--despite" in caught.value.message


@dataclass
class Process:
    """One that was asked."""

    name: str
    answer: admin_pb2.StatusResponse | None


def old(name: str) -> Process:
    return Process(name, admin_pb2.StatusResponse(version="0.1.0"))


def new(name: str, protocol: int = 4) -> Process:
    answer = admin_pb2.StatusResponse(
        version=__version__, versions=versions_message(), protocol=protocol
    )
    return Process(name, answer)


def test_the_next_step_is_named_in_order() -> None:
    assert next_steps([old("ledger"), old("node-1")]) == []
    (step,) = next_steps([old("ledger"), old("node-2"), new("node-1"), old("node-5")])
    assert step.startswith("node-2, node-5 still run 0.1.0: restart with 0.2.0")
    assert "follows protocol 4 and can go to 5" in step
    (step,) = next_steps([old("ledger"), new("node-1")])
    assert step.startswith("ledger still runs 0.1.0")
    (step,) = next_steps([new("ledger"), new("node-1")])
    assert "`hcefs ledger upgrade --to 5`" in step
    assert next_steps([new("ledger", 5), new("node-1", 5)]) == []
    assert "node-1 gave no answer" in next_steps([new("ledger", 5), Process("node-1", None)])[0]
