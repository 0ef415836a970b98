"""The operators' verbs on real processes: stage, look, apply, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest
from typer.testing import CliRunner

from hcefs.cli.cluster_files import node_name
from hcefs.cli.main import app
from hcefs.cli.operators import STAGE_FILE
from tests.cluster.conftest import MakeCluster, OpenClient
from tests.cluster.live import LiveCluster, some_bytes
from tests.cluster.scaling import short_grace

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


class Shell:
    """``hcefs`` on one cluster, each command in a thread with a loop of its own."""

    def __init__(self, cluster: LiveCluster) -> None:
        self._folder = str(cluster.folder.root)

    async def run(self, *arguments: str, code: int = 0) -> Any:
        """The JSON answer of a command, which must end with this exit code."""

        def job() -> tuple[int, str]:
            words = [*arguments, "--dir", self._folder, "--json"]
            result = CliRunner().invoke(app, words)
            return result.exit_code, result.stdout

        found, text = await asyncio.to_thread(job)
        assert found == code, text
        return json.loads(text)

    async def refused(self, reason: str, *arguments: str) -> None:
        """A command that must be refused for this reason."""
        words = [*arguments, "--dir", self._folder, "--json"]
        result = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert result.exit_code != 0
        assert json.loads(result.stdout)["error"]["reason"] == reason


async def test_operators_add_drain_and_remove(
    fresh_cluster: MakeCluster, open_client: OpenClient
) -> None:
    cluster = await fresh_cluster(lease_ms=3_000)
    for number in range(1, 7):
        short_grace(cluster, number, 0.5)
    cluster.kill(*(node_name(number) for number in range(1, 7)))
    await cluster.make_whole()
    hospital = await open_client(cluster, "hospital")
    grant = cluster.grants["hospital"]
    for seed in range(6):
        await hospital.put(cluster.record, some_bytes(300_000, seed), grant=grant)
    shell = Shell(cluster)

    # Nothing is staged, and what cannot be meant stays so.
    await shell.refused("nothing-staged", "layout", "plan")
    await shell.refused("nothing-staged", "layout", "apply")
    await shell.refused("bad-weight", "node", "reweight", "3", "0")
    await shell.refused("unknown-node", "node", "drain", "99")
    await shell.refused("not-confirmed", "node", "out", "3")
    await shell.refused("too-few-nodes", "node", "remove", "3")
    await shell.refused("too-few-nodes", "layout", "add-profile", "ec-8-3")
    assert not (cluster.folder.root / STAGE_FILE).exists()

    # A node is made and staged; nothing moves until the plan is applied.
    before = (await shell.run("layout", "status"))["epoch"]
    staged = await shell.run("node", "add")
    assert staged["staged"] == ["add node 7 (zone-a, host-7), weight 100"]
    plan = await shell.run("layout", "plan")
    assert plan["moves"] == sum(table["lower_bound"] for table in plan["tables"]) > 0
    assert plan["bytes"] > 0
    assert plan["seconds"] > 0
    assert all(table["after"]["zone_safe"] for table in plan["tables"])
    assert (await shell.run("layout", "status"))["epoch"] == before
    await shell.refused("other-plan", "layout", "apply", "--expect", "00")
    applied = await shell.run("layout", "apply", "--expect", plan["digest"][:16], "--wait")
    assert (applied["moves"], applied["moving"]) == (plan["moves"], False)
    await shell.refused("nothing-staged", "layout", "apply")
    listed = {row["node_id"]: row for row in (await shell.run("node", "list"))["nodes"]}
    assert listed[7]["state"] == "up"
    assert listed[7]["seats"] > 0
    rows = (await shell.run("layout", "history"))["epochs"]
    assert sum(row["moving"] for row in rows) == plan["moves"]

    # What was staged on an older map is looked at again first.
    await shell.run("node", "reweight", "7", "120")
    stale = (cluster.folder.root / STAGE_FILE).read_text()
    await shell.run("layout", "apply", "--wait")
    (cluster.folder.root / STAGE_FILE).write_text(stale)
    await shell.refused("stale-plan", "layout", "apply")
    (cluster.folder.root / STAGE_FILE).write_text("{}")
    await shell.refused("bad-stage", "layout", "plan")
    await shell.run("layout", "revert-staged")

    # A node is emptied and leaves.
    assert (await shell.run("ok-to-stop", "1"))["yes"]
    assert not (await shell.run("safe-to-remove", "1", code=1))["yes"]
    await shell.run("node", "drain", "1")
    await shell.run("layout", "apply", "--wait")
    async with asyncio.timeout(60):
        while True:
            listed = {row["node_id"]: row for row in (await shell.run("node", "list"))["nodes"]}
            if not listed[1]["bytes"]:
                break
            await asyncio.sleep(0.2)
    assert (await shell.run("safe-to-remove", "1"))["yes"]
    await shell.run("node", "remove", "1")
    left = await shell.run("layout", "apply")
    assert left["stopped"] == ["node-1"]
    assert not cluster.processes.alive("node-1")
    listed = {row["node_id"]: row for row in (await shell.run("node", "list"))["nodes"]}
    assert listed[1]["state"] == "removed"

    # A node of which nothing is heard allows no conclusion.
    os.kill(cluster.processes.pid("node-5") or 0, signal.SIGSTOP)
    found = await shell.run("ok-to-stop", "6", code=1)
    assert (found["yes"], found["known"]) == (False, False)
    os.kill(cluster.processes.pid("node-5") or 0, signal.SIGCONT)

    # What nodes may do by themselves.
    assert (await shell.run("layout", "automatic", "--after", "15m"))["out_after_ms"] == 900_000
    await shell.refused("bad-policy", "layout", "automatic", "--after", "5s")
    assert (await shell.run("layout", "automatic", "--off"))["out_after_ms"] == 0
    await shell.refused("unknown-profile", "layout", "reprofile", "--from", "ec-4-2", "--to", "x")
    pair = ("--from", "copy-3", "--to", "ec-4-2")
    policy = await shell.run("layout", "reprofile", *pair)
    assert policy["reprofile"] == [{"from": "copy-3", "to": "ec-4-2"}]
    assert (await shell.run("layout", "reprofile", "--stop", "copy-3"))["reprofile"] == []
    doctor = await open_client(cluster, "doctor")
    listing = await doctor.list(cluster.record, grant=cluster.grants["doctor"])
    assert len(listing) >= 6
    assert listing.complete
