"""Certificates of a real cluster under load: renewed, and of another authority at the end."""

from __future__ import annotations

import asyncio
import re
import signal
import sys

import pytest

from hcefs.cli.authority import members, read_certificate
from hcefs.cli.cluster_files import node_name
from hcefs.cli.output import EXIT_CODES
from hcefs.errors import Conflict, Unavailable
from hcefs.transport.tls import is_issued_by, spki_hash
from hcefs.transport.tls_identity import authorities, common_name
from tests.cluster.conftest import MakeCluster, OpenClient
from tests.cluster.live import LiveCluster, until
from tests.cluster.load import clients_of

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("cluster"),
]

SLOW_SECONDS = 120.0
CONFLICT = EXIT_CODES[Conflict.kind]
UNAVAILABLE = EXIT_CODES[Unavailable.kind]


async def hcefs(cluster: LiveCluster, *words: str, wait: float = SLOW_SECONDS) -> tuple[int, str]:
    """Run a verb as operators do: in a process of its own, which clients do not feel."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hcefs", *words, "--wait", str(wait),
        "--dir", str(cluster.folder.root),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def done(cluster: LiveCluster, *words: str) -> None:
    code, output = await hcefs(cluster, *words)
    assert code == 0, output


def leaves(cluster: LiveCluster) -> dict[str, bytes]:
    return {each.name: read_certificate(each.certificate) for each in members(cluster.folder)}


async def test_another_authority_under_load(
    fresh_cluster: MakeCluster, open_client: OpenClient
) -> None:
    cluster = await fresh_cluster()
    folder = cluster.folder
    old, keys = folder.authority.read_bytes(), {n: spki_hash(c) for n, c in leaves(cluster).items()}
    hospital, doctor = await open_client(cluster, "hospital"), await open_client(cluster, "doctor")
    clients = clients_of(cluster, hospital, doctor, 43)
    await clients.put_some(3)
    async with clients.running() as load:
        # New certificates of the same authority, under the same keys.
        await done(cluster, "ca", "renew")
        code, output = await hcefs(cluster, "ca", "rollover", "switch")
        assert (code, "wrong-step" in output) == (CONFLICT, True), output
        await done(cluster, "ca", "rollover", "begin")
        await done(cluster, "ca", "rollover", "begin")
        assert len(authorities(folder.authority.read_bytes())) == 2
        code, output = await hcefs(cluster, "ca", "rollover", "finish")
        assert (code, "wrong-step" in output) == (CONFLICT, True), output
        await done(cluster, "ca", "rollover", "switch")
        await done(cluster, "ca", "rollover", "switch")
        # A client that comes now has the bundle; one that was there before has it by now, too.
        async with cluster.client("operator-1") as operator:
            assert (await operator.status(cluster.connection.ledger)).height
        await done(cluster, "ca", "rollover", "finish")
        puts, gets = load.puts, load.gets

        async def goes_on() -> bool:
            return load.puts > puts + 3 and load.gets > gets + 3

        await until(goes_on, "clients put and get after the rollover", SLOW_SECONDS)
    print(load)
    assert not load.failures, load.failures[:5]
    new = folder.authority.read_bytes()
    assert len(authorities(new)) == 1
    assert common_name(new) != common_name(old)
    for name, certificate in leaves(cluster).items():
        assert is_issued_by(certificate, new)
        assert spki_hash(certificate) == keys[name]
    assert sorted(path.name for path in folder.authority.parent.iterdir()) == ["ca.crt", "ca.key"]
    # A node that is restarted finds its peers again: they have pinned what it shows now.
    # SIGHUP only makes it look.
    cluster.processes.kill(node_name(1), signal.SIGHUP)
    cluster.kill(node_name(2))
    await cluster.start(node_name(2))
    await cluster.make_whole()
    assert cluster.alive() == folder.process_names()


async def test_who_is_missing_is_named(fresh_cluster: MakeCluster) -> None:
    cluster = await fresh_cluster()
    cluster.kill(node_name(3))
    code, output = await hcefs(cluster, "ca", "rollover", "begin", wait=0.0)
    assert code == UNAVAILABLE, output
    assert "not-everywhere" in output
    assert "node-3" in _named(output)
    assert "hcefs ca rollover begin" in output
    await cluster.start(node_name(3))
    await done(cluster, "ca", "rollover", "begin")
    # One that refuses its files is named, too, and goes on with what it had.
    key = cluster.folder.node(4) / "tls.key"
    saved = await asyncio.to_thread(key.read_bytes)
    other = await asyncio.to_thread((cluster.folder.node(5) / "tls.key").read_bytes)
    await asyncio.to_thread(key.write_bytes, other)
    code, output = await hcefs(cluster, "ca", "rollover", "switch", wait=0.0)
    assert code == UNAVAILABLE, output
    assert "node-4" in _named(output)

    async def refused() -> bool:
        return cluster.metric(node_name(4), "hcefs_tls_files_refused") == 1

    await until(refused, "the node says that it refuses its files", SLOW_SECONDS)
    await asyncio.to_thread(key.write_bytes, saved)
    await done(cluster, "ca", "rollover", "switch")
    await done(cluster, "ca", "rollover", "finish")

    async def accepted() -> bool:
        return cluster.metric(node_name(4), "hcefs_tls_files_refused") == 0

    await until(accepted, "the node uses its files", SLOW_SECONDS)


def _named(output: str) -> list[str]:
    """Who is missing, as the error says."""
    return re.findall(r"(ledger|node-\d+) \(", output)
