"""The health pages of nodes and of the ledger, and the gRPC health service beside them."""

from __future__ import annotations

import http.client
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hcefs.node import health
from hcefs.node.health import CLUSTER_PATH, LIVE_PATH, READY_PATH, STUCK_SECONDS, LoopBeat
from hcefs.node.ledger_process import LedgerProcess
from hcefs.node.storage_process import StorageProcess
from tests.services.rig import Rig, Running, free_port

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

SERVING = health_pb2.HealthCheckResponse.SERVING


async def page(rig: Rig, process: StorageProcess | LedgerProcess, path: str) -> tuple[int, Any]:
    """A page as a probe sees it: its status and its JSON."""

    def ask() -> tuple[int, Any]:
        connection = http.client.HTTPConnection(process.health_address, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.getheader("Content-Type") == "application/json"
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    return await rig.nodes[0].runtime.disk(ask)


async def serves(rig: Rig, node: Running) -> bool:
    channel = rig.channel(node.config.client_address)  # the rig's own: it closes it
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == SERVING)


async def test_a_healthy_cluster(rig: Rig) -> None:
    node = rig.nodes[0]
    await rig.until(lambda: len(node.process.watcher.heard()) == 5)
    assert await page(rig, node.process, LIVE_PATH) == (200, {"ok": True, "reasons": []})
    assert await page(rig, node.process, READY_PATH) == (200, {"ok": True, "reasons": []})
    assert await serves(rig, node)
    status, data = await page(rig, node.process, CLUSTER_PATH)
    assert status == 200
    assert data["read"]["ok"]
    assert data["write"]["ok"]
    assert data["stop"]["ok"]
    assert data["stop"]["loses_read"] is False
    assert data["stop"]["loses_write"] is False
    assert data["spare_shards"]["ec-4-2"] == 2
    assert data["disk"] == "ok"


async def test_a_node_without_a_part_in_the_map(rig: Rig) -> None:
    """Page and gRPC say the same, and why."""
    stranger = rig.stranger
    status, data = await page(rig, stranger.process, READY_PATH)
    assert status == 503
    assert data["reasons"] == ["the cluster map does not name this node; ask another one"]
    assert not await serves(rig, stranger)
    status, data = await page(rig, stranger.process, CLUSTER_PATH)
    assert status == 503
    assert data["read"]["known"] is False
    assert data["stop"]["loses_read"] is None


async def test_a_node_whose_lease_has_run_out(rig: Rig) -> None:
    node = rig.nodes[2]
    node.runtime.offset_ms = 60_000
    try:
        status, data = await page(rig, node.process, READY_PATH)
        assert status == 503
        assert "ledger" in data["reasons"][0]
        assert (await page(rig, node.process, LIVE_PATH))[0] == 200, "a restart would not help"
        await rig.until(lambda: not node.process.able())
    finally:
        node.runtime.offset_ms = 0
    await rig.until(node.process.able)
    assert (await page(rig, node.process, READY_PATH))[0] == 200


async def test_one_more_stop_would_end_the_puts(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    node = rig.nodes[0]
    monkeypatch.setattr(
        node.process.watcher, "heard", lambda: {2: False, 3: True, 4: True, 5: True, 6: True}
    )
    status, data = await page(rig, node.process, CLUSTER_PATH)
    assert status == 200
    assert not data["stop"]["ok"]
    assert data["stop"]["loses_read"] is False
    assert data["stop"]["loses_write"] is True
    monkeypatch.setattr(
        node.process.watcher, "heard", lambda: {2: False, 3: False, 4: False, 5: True, 6: True}
    )
    status, data = await page(rig, node.process, CLUSTER_PATH)
    assert status == 503
    assert any("reads need 4" in reason for reason in data["reasons"])


async def test_the_ledger(rig: Rig) -> None:
    for path in (LIVE_PATH, READY_PATH):
        assert await page(rig, rig.ledger, path) == (200, {"ok": True, "reasons": []})
    status, data = await page(rig, rig.ledger, CLUSTER_PATH)
    assert status == 200
    assert data["write"]["ok"]
    assert data["stop"]["loses_write"] is True


async def test_a_ledger_that_waits_answers_and_does_not_write(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(rig.ledger.writer), "running", property(lambda _: False))
    monkeypatch.setattr(rig.ledger.node.beginning, "waits_for", "node 3 was not asked yet")
    assert (await page(rig, rig.ledger, READY_PATH))[0] == 200
    status, data = await page(rig, rig.ledger, CLUSTER_PATH)
    assert status == 503
    assert data["reasons"] == ["node 3 was not asked yet"]


async def test_a_loop_that_does_not_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    beat = LoopBeat(rig.nodes[0].runtime)
    assert beat.reasons() == []
    monkeypatch.setattr(health, "STUCK_SECONDS", -STUCK_SECONDS)
    assert "restart it" in beat.reasons()[0]
    beat.beat()


@pytest.mark.parametrize("which", ["node", "ledger"])
async def test_a_page_is_closed_before_what_it_reads(rig: Rig, tmp_path: Path, which: str) -> None:
    """Or a scrape while a process stops reads from a closed database."""
    process: StorageProcess | LedgerProcess
    if which == "node":
        process = rig.nodes[4].process
    else:
        client, peer = (f"127.0.0.1:{free_port()}" for _ in range(2))
        config = replace(
            rig.ledger._config, data=tmp_path / "log", client_address=client, peer_address=peer
        )
        process = LedgerProcess(config, rig.runtime, alone=True)
        await process.start()
    assert (await page(rig, process, LIVE_PATH))[0] == 200
    stop, refused = process.node.stop, []

    async def checked() -> None:
        try:
            await page(rig, process, LIVE_PATH)
        except OSError as error:
            refused.append(error)
        await stop()

    process.node.stop = checked  # type: ignore[method-assign]
    if which == "node":
        async with rig.restarted(rig.nodes[4]):
            pass
    else:
        await process.stop()
    assert len(refused) == 1
