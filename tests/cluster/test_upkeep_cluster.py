"""What becomes of a blob whose entry never comes."""

from __future__ import annotations

import asyncio

import pytest

from hcefs.cli.cluster_files import node_name
from hcefs.errors import NotFound
from tests.cluster.conftest import OpenClient
from tests.cluster.live import NODES, LiveCluster, refused, some_bytes, until
from tests.cluster.plain import READS, ByRight, PlainNode

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


async def pending(cluster: LiveCluster) -> list[float]:
    """The metric of every node."""
    names = [node_name(number) for number in range(1, NODES + 1)]
    pages = (asyncio.to_thread(cluster.metric, name, "hcefs_pending_blobs") for name in names)
    return list(await asyncio.gather(*pages))


async def test_a_pending_blob_is_neither_listed_nor_readable(
    cluster: LiveCluster, open_client: OpenClient
) -> None:
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    patient = await open_client(cluster, "patient")
    record, grants = await cluster.open_record(patient)
    data = some_bytes(70_000, 80)
    await cluster.level()
    before = await pending(cluster)
    held = await hospital.store(record, data, grants["hospital"])
    assert held.stored.durable_shards == NODES
    assert await pending(cluster) == [count + 1 for count in before]
    right = ByRight(grants["doctor"])
    for node in (await doctor.cluster_map()).nodes:
        async with PlainNode(node, cluster.connection) as plain:
            for method in READS[:3]:
                arguments = (cluster.caller("doctor"), method, record, held.blob, right)
                if method == "list":
                    assert await plain.read(*arguments, patient.height) == []
                else:
                    with refused(NotFound, "not-committed"):
                        await plain.read(*arguments, patient.height)
    for seal in ("node", "client"):
        with refused(NotFound, "not-committed"):
            await doctor.get(record, held.blob, grant=grants["doctor"], seal=seal)
    listing = await doctor.list(record, grant=grants["doctor"])
    assert (len(listing), listing.complete) == (0, True)

    receipt = await hospital.commit(held)
    assert receipt.ref.blob == held.blob
    listing = await doctor.list(record, grant=grants["doctor"])
    assert [entry.blob for entry in listing] == [held.blob]
    stream = await doctor.get(record, held.blob, grant=grants["doctor"])
    assert await stream.read() == data

    async def settled() -> bool:
        return await pending(cluster) == before

    await until(settled, "no node counts the committed blob as pending")
