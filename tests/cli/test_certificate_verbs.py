"""``ca renew``, ``node renew``, ``ca rollover``: the files, the order of steps, who is missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcefs.cli.authority import authority_files, members, renew_certificate, signing_pair, trust
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.rollover import BEGUN, SWITCHED, Rollover
from hcefs.errors import Invalid, Unavailable
from hcefs.runtime import SystemRuntime
from hcefs.transport.tls import Identity, check_pair, is_issued_by, spki_hash, validity
from hcefs.transport.tls_identity import authorities, check_identity, common_name, fingerprint
from tests.cli.conftest import Invoke


@pytest.fixture
def layout(invoke: Invoke, tmp_path: Path) -> ClusterFolder:
    """The operators' folder: an authority, the ledger's machine and a node's; nothing runs."""
    assert invoke("ca", "init", "--name", "hospital").exit_code == 0
    # Nobody listens on port 1 of this machine: connections are refused at once.
    host = ("--machine", "127.0.0.1")
    assert invoke("ledger", "init", *host, "--port", "1").exit_code == 0
    assert invoke("node", "init", *host, "--port", "1").exit_code == 0
    return ClusterFolder(tmp_path / "hcefs-cluster")


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    runtime = SystemRuntime(compute_threads=1)
    yield runtime
    runtime.close()


def certificate(layout: ClusterFolder, name: str) -> bytes:
    return (layout.folder_of(name) / "tls.crt").read_bytes()


def test_a_certificate_is_renewed_under_its_key(invoke: Invoke, layout: ClusterFolder) -> None:
    before = certificate(layout, "node-1")
    # It ends with the files in order: that nobody runs is said, and may be repaired later.
    result = invoke("node", "renew", "1", "--wait", "0")
    assert result.exit_code == 6
    assert "not-everywhere" in result.output
    assert "node-1 (127.0.0.1:1 cannot be reached" in result.output
    after = certificate(layout, "node-1")
    assert fingerprint(after) != fingerprint(before)
    assert spki_hash(after) == spki_hash(before)
    assert validity(after).hosts == validity(before).hosts
    check_pair(after, (layout.node(1) / "tls.key").read_bytes())
    ledger = certificate(layout, "ledger")
    assert invoke("ca", "renew", "--wait", "0", "--without", "node-1").exit_code == 6
    assert fingerprint(certificate(layout, "ledger")) != fingerprint(ledger)
    result = invoke("ca", "renew", "--wait", "0", "--without", "node-1", "--without", "ledger")
    assert result.exit_code == 0, result.output


def test_the_ledger_alone_may_have_another_key(invoke: Invoke, layout: ClusterFolder) -> None:
    result = invoke("ca", "renew", "node-1", "--new-key", "--wait", "0")
    assert (result.exit_code, "pinned-key" in result.output) == (2, True)
    before = certificate(layout, "ledger")
    assert invoke("ca", "renew", "ledger", "--new-key", "--wait", "0").exit_code == 6
    after = certificate(layout, "ledger")
    assert spki_hash(after) != spki_hash(before)
    check_pair(after, (layout.ledger / "tls.key").read_bytes())


def test_who_is_unknown_is_refused(invoke: Invoke, layout: ClusterFolder) -> None:
    result = invoke("ca", "renew", "node-9", "--json")
    assert result.exit_code == 3
    assert json.loads(result.output)["error"]["reason"] == "unknown-process"
    result = invoke("ca", "rollover", "begin", "--without", "node-9", "--wait", "0")
    assert (result.exit_code, "unknown-process" in result.output) == (2, True)


def test_steps_have_an_order_and_may_be_repeated(invoke: Invoke, layout: ClusterFolder) -> None:
    def step(name: str, *without: str) -> int:
        left_out = [word for each in without for word in ("--without", each)]
        return int(invoke("ca", "rollover", name, "--wait", "0", *left_out).exit_code)

    gone = ("ledger", "node-1")
    old = layout.authority.read_bytes()
    assert step("switch") == step("finish") == 5
    # Nobody runs: the files are made, and who is missing is named.
    assert step("begin") == 6
    both = layout.authority.read_bytes()
    assert [common_name(each) for each in authorities(both)] == ["hospital", "hospital 2"]
    assert all(path.read_bytes() == both for path in authority_files(layout))
    assert step("begin", *gone) == 0
    assert layout.authority.read_bytes() == both
    assert step("finish") == 5
    assert step("switch") == 6
    assert signing_pair(layout)[0] == authorities(both)[0], "nothing is switched before all trust"
    assert step("switch", *gone) == step("switch", *gone) == 0
    new = authorities(both)[1]
    assert signing_pair(layout)[0] == new
    for each in members(layout):
        assert is_issued_by(certificate(layout, each.name), new)
    assert step("begin") == 5
    assert "switched" in invoke("ca", "rollover", "status").output
    assert step("finish") == 6
    assert step("finish", *gone) == 0
    assert authorities(layout.authority.read_bytes()) == (new,)
    assert old not in layout.authority.read_bytes()
    names = sorted(path.name for path in layout.authority.parent.iterdir())
    assert names == ["ca.crt", "ca.key"]
    for each in members(layout):
        key = (each.folder / "tls.key").read_bytes()
        found = Identity((each.folder / "ca.crt").read_bytes(), certificate(layout, each.name), key)
        check_identity(found, validity(found.certificate).from_ms + 1)


def test_a_switch_that_was_interrupted_goes_on(
    layout: ClusterFolder, runtime: SystemRuntime
) -> None:
    """After the key was exchanged, before anything else was."""
    said: list[str] = []
    rollover = Rollover(layout, runtime, said.append, ("ledger", "node-1"), 0.0)
    asyncio.run(rollover.begin())
    assert rollover.stage() == BEGUN
    folder = layout.authority.parent
    old_key = layout.authority_key.read_bytes()
    (folder / "old.key").write_bytes(old_key)
    layout.authority_key.write_bytes((folder / "next.key").read_bytes())
    asyncio.run(rollover.switch())
    assert rollover.stage() == SWITCHED
    assert (folder / "old.key").read_bytes() == old_key
    # A node that joins now has a certificate of the authority that signs.
    made = renew_certificate(layout, "node-1", runtime)
    assert is_issued_by(made, authorities(layout.authority.read_bytes())[1])
    asyncio.run(rollover.finish())
    assert rollover.stage() == ""
    again = Rollover(layout, runtime, said.append, (), 0.0)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(again.begin())
    assert "node-1" in caught.value.message
    assert common_name(authorities(layout.authority.read_bytes())[1]) == "hospital 3"


def test_damaged_files_are_named(layout: ClusterFolder, runtime: SystemRuntime) -> None:
    rollover = Rollover(layout, runtime, lambda _: None, ("ledger", "node-1"), 0.0)
    stage = layout.authority.parent / "rollover.json"
    for data in (b"", b"[]", b'{"version": 2}', b'{"version": 1, "stage": "x"}', b"x" * 9000):
        stage.write_bytes(data)
        with pytest.raises(Invalid) as caught:
            rollover.stage()
        assert caught.value.reason == "bad-rollover"
    stage.unlink()
    with pytest.raises(Invalid):
        trust(layout, [])
    layout.authority_key.write_bytes((layout.node(1) / "tls.key").read_bytes())
    with pytest.raises(Invalid) as caught:
        signing_pair(layout)
    assert caught.value.reason == "bad-authority"
