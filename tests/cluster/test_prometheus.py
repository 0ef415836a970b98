"""A real Prometheus scrapes a real cluster: every rule and every query of the dashboard works.

Long, and only where Prometheus is installed.  Rules run every two seconds here, and of each
``for`` minutes are seconds, hours minutes and days hours.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.config import load_ledger_config, load_node_config
from tests.cluster.conftest import MakeCluster, OpenClient
from tests.cluster.live import NODES, LiveCluster, until
from tests.cluster.load import clients_of

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "hcefs.json"
BINARY = shutil.which("prometheus")
INTERVAL = "2s"
FASTER = str.maketrans("mhd", "smh")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("cluster"),
]


class Prometheus:
    """The HTTP interface of a running Prometheus."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"

        def fetch() -> Any:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]

        return await asyncio.to_thread(fetch)

    async def values(self, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.ask("query", query=query))["result"]
        return found

    async def rules(self) -> list[dict[str, Any]]:
        groups = (await self.ask("rules"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def firing(self) -> set[str]:
        alerts = (await self.ask("alerts"))["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}


def configure(cluster: LiveCluster, folder: Path) -> Path:
    """The rules as they are but for the interval, and this cluster's addresses."""
    nodes = [
        load_node_config(cluster.folder.config_of(node_name(number))).metrics_address
        for number in range(1, NODES + 1)
    ]
    ledger = load_ledger_config(cluster.folder.config_of(LEDGER)).metrics_address
    config = yaml.safe_load((RULES / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    for job in config["scrape_configs"]:
        targets = [ledger] if job["job_name"] == "hcefs-ledger" else nodes
        job["static_configs"] = [{"targets": targets}]
    for name in config["rule_files"]:
        rules = yaml.safe_load((RULES / name).read_text("utf-8"))
        for group in rules["groups"]:
            group.pop("interval", None)
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = rule["for"].translate(FASTER)
        (folder / name).write_text(yaml.safe_dump(rules), "utf-8")
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


@asynccontextmanager
async def prometheus(cluster: LiveCluster, folder: Path) -> AsyncIterator[Prometheus]:
    assert BINARY is not None, "Prometheus is not installed: Debian package prometheus"
    with reserved_ports(1, cluster.runtime.random) as (port,):
        address = f"{HOST}:{port}"
    process = subprocess.Popen(  # noqa: ASYNC220 - it lives as long as the block
        [
            BINARY,
            f"--config.file={configure(cluster, folder)}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ],
        cwd=folder,
    )
    try:
        yield Prometheus(address)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


def queries() -> list[tuple[str, str]]:
    """Those of the dashboard, with all of its variables chosen."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [
        (panel["title"], target["expr"].replace("$cluster", ".*").replace("$instance", ".+"))
        for panel in panels
        for target in panel.get("targets", [])
    ]


QUIET = {
    "Blobs by live shards",
    "Damaged shards found",
    "Repairs that failed",
    "Scrub: time left",
    "Scrub: what it found",
    "Time until disks are full",
    "Rebalance: time left",
    "Requests that were not ok",
    "Turned away: busy",
    "Denials by reason",
    "Strangers, and accounts that ask too often",
    "Term; proofs of a fork",
    "Puts and gets that fail for the cluster's reasons",
}
"""Panels of which a query may be empty: nothing happens that they show."""


async def test_rules_and_dashboard(
    fresh_cluster: MakeCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    cluster = await fresh_cluster()
    hospital, doctor = await open_client(cluster, "hospital"), await open_client(cluster, "doctor")
    clients = clients_of(cluster, hospital, doctor, 7)
    await clients.put_some(4)
    async with prometheus(cluster, tmp_path) as server, clients.running(putters=1, readers=1):

        async def all_up() -> bool:
            try:
                return len(await server.values("up == 1")) == NODES + 1
            except OSError:
                return False  # it has not started to listen

        async def evaluated() -> bool:
            rules = await server.rules()
            return bool(rules) and all(rule["health"] != "unknown" for rule in rules)

        async def throughput() -> bool:
            return bool(await server.values("hcefs:request_seconds:p99_5m"))

        async def counted() -> bool:
            return bool(await server.values('hcefs:blobs_by_margin:sum{margin="2"} > 0'))

        await until(all_up, "Prometheus scrapes every process", 60)
        await until(evaluated, "every rule was evaluated", 60)
        await until(throughput, "rates are there", 60)
        await until(counted, "a pass of repair has counted the blobs", 120)
        wrong = {r["name"]: r["lastError"] for r in await server.rules() if r["health"] != "ok"}
        assert wrong == {}
        empty = {title for title, query in queries() if not await server.values(query)}
        assert empty - QUIET == set()
        assert await server.firing() == set()

        await asyncio.to_thread(cluster.kill, node_name(6))

        async def noticed() -> bool:
            return "HcefsNodeDown" in await server.firing()

        async def forgotten() -> bool:
            return not await server.firing()

        await until(noticed, "the alert of a node that is down fires", 60)
        assert await server.firing() <= {"HcefsNodeDown", "HcefsNodesUnreachable"}
        await cluster.start(node_name(6))
        await until(forgotten, "it is quiet again", 90)
