"""Repair and verify on real processes: damage done to files, found, explained, and undone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cluster.conftest import OpenClient
from tests.cluster.live import LiveCluster, some_bytes
from tests.cluster.test_operator_verbs import Shell

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

DONE_SECONDS = 60.0


def shard_file(cluster: LiveCluster, node: int, base: str, index: int) -> Path:
    """The file of a shard on a node's disk."""
    (path,) = (cluster.folder.node(node)).rglob(f"{base.removeprefix('base-')}.{index}")
    return path


async def made_whole(shell: Shell) -> None:
    """Have every node repair what it lacks, and wait for it."""
    started = await shell.run("repair", "now")
    assert len(started["started"]) == 6
    async with asyncio.timeout(DONE_SECONDS):
        while not (status := await shell.run("repair", "status"))["done"]:
            await asyncio.sleep(0.2)
    assert status["backlog"] == 0


async def test_repair_and_verify(mortal_cluster: LiveCluster, open_client: OpenClient) -> None:
    cluster = mortal_cluster
    hospital = await open_client(cluster, "hospital")
    grant = cluster.grants["hospital"]
    receipts = [
        await hospital.put(cluster.record, some_bytes(300_000, seed), grant=grant)
        for seed in range(3)
    ]
    shell = Shell(cluster)
    await made_whole(shell)  # other tests have killed nodes in the middle of puts
    found = await shell.run("verify", "--all")
    assert found["whole"]
    assert found["counts"]["full"] >= 3

    # One shard gone, another with a flipped bit: one blob has no margin left.
    blob = receipts[0].ref.blob.text
    before = await shell.run("repair", "explain", blob)
    assert (before["state"], before["margin"]) == ("full", 2)
    gone, flipped = before["shards"][1], before["shards"][4]
    shard_file(cluster, gone["node"], before["base"], gone["index"]).unlink()
    path = shard_file(cluster, flipped["node"], before["base"], flipped["index"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))

    found = await shell.run("verify", "--all", code=1)
    assert [each["base"] for each in found["blobs"]] == [before["base"]]
    assert (found["blobs"][0]["state"], found["blobs"][0]["margin"]) == ("damaged", 0)
    wrong = {(s["index"], s["state"]) for s in found["blobs"][0]["shards"] if s["state"] != "whole"}
    assert wrong == {(gone["index"], "missing"), (flipped["index"], "damaged")}

    # The holders have queued what they found; a pass has to see it whole.
    doctor = await open_client(cluster, "doctor")
    stream = await doctor.get(cluster.record, receipts[0].ref.blob, grant=cluster.grants["doctor"])
    assert await stream.read() == some_bytes(300_000, 0)
    await made_whole(shell)
    queued = (await shell.run("repair", "list"))["shards"]
    assert {each["error"] for each in queued} <= {"not-committed"}
    after = await shell.run("repair", "explain", blob)
    assert {shard["state"] for shard in after["shards"]} == {"whole"}
    assert (await shell.run("verify", blob))["whole"]
    # Of a blob nothing is left: no holder lists it, but its record names it.
    lost = await shell.run("repair", "explain", receipts[1].ref.blob.text)
    for shard in lost["shards"]:
        shard_file(cluster, shard["node"], lost["base"], shard["index"]).unlink()
    found = await shell.run("verify", "--all", code=1)
    assert [(each["base"], each["state"]) for each in found["blobs"]] == [(lost["base"], "lost")]
    await shell.refused("unknown-blob", "repair", "explain", "blob-" + "0" * 36)
    await shell.refused("bad-arguments", "verify")
