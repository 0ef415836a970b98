"""From the release before to this one under load, process by process; and no way back after that.

Needs git, and the commit of the release before in this clone.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hcefs import __version__
from hcefs.cli import bringup
from hcefs.cli.cluster_files import LEDGER, ClusterFolder, node_name
from hcefs.formats.shard import HEADER_SIZE, ShardHeader
from hcefs.ledger.block import PROTOCOL_BARRIER
from hcefs.wire.v1 import admin_pb2
from tests.cluster.live import NODES, LiveCluster, StepClient, until
from tests.cluster.load import Load, clients_of

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(1800),
]

ROOT = Path(__file__).parents[2]
RELEASE_BEFORE = "588a4a56d2e6c49beaf409a73b28f577bfe9ae90"
SEED = 20261126
PATIENCE_SECONDS = 300.0
WAIT_SECONDS = 300.0
LEASE_MS = 60_000
"""Long enough for the ledger's restart on a slow machine: gets go on meanwhile."""


def checked_out(folder: Path) -> Path:
    """The release before, as files."""
    folder.mkdir()
    made = subprocess.run(
        ["git", "-C", ROOT, "archive", "--format=tar", RELEASE_BEFORE, "hcefs"],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.fail(
            f"commit {RELEASE_BEFORE} (release 0.1.0) is not in this clone: fetch the whole "
            f"history (`git fetch --unshallow`); git says: {made.stderr.decode().strip()}"
        )
    subprocess.run(["tar", "-x", "-C", folder], input=made.stdout, check=True)
    return folder


class Upgrade:
    """A cluster whose processes are replaced; operators use the new release."""

    def __init__(self, cluster: LiveCluster, operator: StepClient, old: Path) -> None:
        self.cluster = cluster
        self.operator = operator
        self.old = old

    async def hcefs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A verb of the new release, on the cluster's folder."""
        command = [
            sys.executable,
            "-m",
            "hcefs",
            *arguments,
            "--dir",
            str(self.cluster.folder.root),
        ]
        return await asyncio.to_thread(
            subprocess.run,
            command,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    async def statuses(self) -> list[admin_pb2.StatusResponse]:
        """What all processes say, the ledger first."""
        connection = self.cluster.connection
        return [await self.operator.status(at) for at in (connection.ledger, *connection.nodes)]

    async def versions(self) -> Counter[str]:
        return Counter(each.version for each in await self.statuses())

    async def may_stop(self, number: int) -> bool:
        return (await self.hcefs("ok-to-stop", str(number))).returncode == 0

    async def is_whole(self) -> bool:
        """Every shard of every blob, read from end to end."""
        return (await self.hcefs("verify", "--all")).returncode == 0

    async def replaced(self, name: str) -> None:
        """Stop a process as an operator would, and start it anew."""
        processes = self.cluster.processes
        killed = await asyncio.to_thread(processes.stop, [name], 60.0)
        assert killed == []
        processes.start(name)
        await bringup.wait_serving(self.cluster.folder, name, self.cluster.runtime, WAIT_SECONDS)

    def shard_versions(self) -> Counter[int]:
        """How many shard files there are of each version."""
        found: Counter[int] = Counter()
        for number in range(1, NODES + 1):
            for path in self.cluster.data(number).glob("shards/??/*"):
                with path.open("rb") as file:
                    found[ShardHeader.decode(file.read(HEADER_SIZE)).version] += 1
        return found


PREPARE = bringup.prepare
NEW_KEYS = re.compile(r"^(\[(queries|trace)\]\n(?:(?!\[).*\n?)*|requests = .*\n)", re.MULTILINE)
"""What the release before does not know in a configuration: two sections, and a key."""


def prepare_as_before(layout: ClusterFolder, *arguments: Any, **named: Any) -> None:
    """A folder as the release before makes it; this release reads its configurations, too."""
    PREPARE(layout, *arguments, **named)
    for path in layout.root.rglob("config.toml"):
        path.write_text(NEW_KEYS.sub("", path.read_text()))


async def some_more(load: Load, puts: int = 6, gets: int = 12) -> None:
    """Wait until the load has got on."""
    before = (load.puts, load.gets + load.ranges)

    async def done() -> bool:
        assert load.failures == []
        return load.puts >= before[0] + puts and load.gets + load.ranges >= before[1] + gets

    await until(done, "the load gets on", WAIT_SECONDS)


async def test_a_rolling_upgrade_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = checked_out(tmp_path / "release-before")
    # Processes must find their release by PYTHONPATH, not in the folder that they start in.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(old))
    monkeypatch.setattr(bringup, "PROTOCOL_NEWEST", PROTOCOL_BARRIER - 1)
    monkeypatch.setattr(bringup, "prepare", prepare_as_before)
    cluster = await LiveCluster.create(tmp_path / "cluster", lease_ms=LEASE_MS)
    try:
        async with AsyncExitStack() as opened:
            patient = replace(cluster.connection, patience_s=PATIENCE_SECONDS)
            hospital, doctor, operator = [
                await opened.enter_async_context(
                    StepClient(patient, cluster.accounts[name], cluster.runtime)
                )
                for name in ("hospital", "doctor", "operator-1")
            ]
            upgrade = Upgrade(cluster, operator, old)
            assert await upgrade.versions() == {"0.1.0": NODES + 1}
            clients = clients_of(cluster, hospital, doctor, SEED)
            await clients.put_some(8)
            async with clients.running() as load:
                await roll(upgrade, load, monkeypatch)
            assert load.failures == []
            await clients.read_all()
            assert load.failures == []
            # What was put while a node was away is repaired first.
            for address in cluster.connection.nodes:
                await operator.repair_now(address)
            await until(upgrade.is_whole, "every shard is there and whole", WAIT_SECONDS)
            files = upgrade.shard_versions()
            assert files[1] > 0
            assert files[2] > 0
            await no_way_back(upgrade, monkeypatch)
        with capsys.disabled():
            print(f"\nPASS rolling upgrade 0.1.0 -> {__version__}, seed {SEED}: {load}")
            print(f"     shard files of version 1: {files[1]}, of version 2: {files[2]}")
    except BaseException:
        with capsys.disabled():
            print(f"\nFAIL rolling upgrade 0.1.0 -> {__version__}, seed {SEED}")
        raise
    finally:
        cluster.close()


async def roll(upgrade: Upgrade, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes, ledger, protocol."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for number in range(1, NODES + 1):
        may_stop = partial(upgrade.may_stop, number)
        await until(may_stop, f"node {number} may be stopped", WAIT_SECONDS)
        await upgrade.replaced(node_name(number))
        await some_more(load, puts=2, gets=4)
        if number == 3:
            refused = await upgrade.hcefs("ledger", "upgrade", "--to", str(PROTOCOL_BARRIER))
            assert refused.returncode != 0
            assert "nodes 4, 5, 6 run 0.1.0" in " ".join((refused.stdout + refused.stderr).split())
    await upgrade.replaced(LEDGER)
    await some_more(load)
    assert await upgrade.versions() == {__version__: NODES + 1}
    assert upgrade.shard_versions().keys() == {1}, "before the barrier all write version 1"
    step = await upgrade.hcefs("upgrade", "check", "--json")
    assert f"can go to {PROTOCOL_BARRIER}" in step.stdout
    done = await upgrade.hcefs("ledger", "upgrade", "--to", str(PROTOCOL_BARRIER))
    assert done.returncode == 0, done.stdout + done.stderr

    async def is_in_force() -> bool:
        found = await upgrade.statuses()
        return all(each.protocol == PROTOCOL_BARRIER for each in found) and all(
            each.shard_version == 2 for each in found[1:]
        )

    await until(is_in_force, "the barrier is in force", WAIT_SECONDS)
    await some_more(load)
    assert (await upgrade.hcefs("upgrade", "check")).returncode == 0


async def no_way_back(upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release before refuses the folder of a node, and this one serves it again."""
    name, processes = node_name(NODES), upgrade.cluster.processes
    await asyncio.to_thread(processes.stop, [name], 60.0)
    monkeypatch.setenv("PYTHONPATH", str(upgrade.old))
    processes.start(name)

    async def ended() -> bool:
        return not processes.alive(name)

    await until(ended, "the release before ends on a newer folder", WAIT_SECONDS)
    assert "hcefs-rows-2" in processes.last_words(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    await upgrade.cluster.start(name)
