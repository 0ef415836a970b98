"""Crash points in the processes of a real cluster: armed by the environment, as documented."""

from __future__ import annotations

from contextlib import suppress

import pytest

from hcefs.cli.cluster_files import LEDGER
from hcefs.crashpoints import VARIABLE, CrashPoint
from hcefs.errors import Unavailable
from tests.cluster.conftest import OpenClient
from tests.cluster.live import LiveCluster, some_bytes, until
from tests.cluster.offline import ShardFile

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.xdist_group("cluster")]

DIES = {
    CrashPoint.SHARD_SYNCED: 300_000,
    CrashPoint.BLOB_SHARD: 300_000,
    CrashPoint.BLOB_ROWS: 300_000,
    CrashPoint.PACK_KEYS: 100_000,
}
"""Points that a put passes at each holder, with the size of a blob that passes it."""


async def armed(
    cluster: LiveCluster, monkeypatch: pytest.MonkeyPatch, name: str, point: CrashPoint
) -> None:
    """Start a process again that will die at a point, perhaps before it is asked anything."""
    cluster.kill(name)
    monkeypatch.setenv(VARIABLE, point.value)
    with suppress(Unavailable):  # it died at once, of what the nodes had to say to it
        await cluster.start(name)
    monkeypatch.delenv(VARIABLE)


async def dead(cluster: LiveCluster, name: str) -> bool:
    return name not in cluster.alive()


@pytest.mark.parametrize("point", DIES, ids=lambda point: point.value)
async def test_a_holder_dies_at_a_point_of_a_put(
    mortal_cluster: LiveCluster,
    open_client: OpenClient,
    monkeypatch: pytest.MonkeyPatch,
    point: CrashPoint,
) -> None:
    """The put is acknowledged with the others, and what the dead one has is whole or nothing."""
    cluster = mortal_cluster
    await armed(cluster, monkeypatch, "node-3", point)
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    data = some_bytes(DIES[point], 4)
    receipt = await until(
        lambda: hospital.put(
            cluster.record,
            data,
            grant=cluster.grants["hospital"],
            seal=None if point is CrashPoint.PACK_KEYS else "node",
        ),
        "a put",
    )
    await until(lambda: dead(cluster, "node-3"), "node 3 is dead")
    assert receipt.durable_shards >= 5
    await cluster.start("node-3")
    files = cluster.shards(receipt.ref.blob.base)
    assert len(files) >= receipt.durable_shards
    for path in files.values():
        ShardFile.read(path)
    assert list(cluster.data(3).glob("shards/incoming/*")) == []

    async def reads() -> bool:
        stream = await doctor.get(cluster.record, receipt.ref.blob, grant=cluster.grants["doctor"])
        return await stream.read() == data

    await until(reads, "it reads back")


@pytest.mark.parametrize("point", [CrashPoint.BLOCK_SIGNED, CrashPoint.BLOCK_WRITTEN])
async def test_the_ledger_dies_at_a_block(
    mortal_cluster: LiveCluster,
    open_client: OpenClient,
    monkeypatch: pytest.MonkeyPatch,
    point: CrashPoint,
) -> None:
    """The client repeats its append after the restart: one entry, whenever the ledger died."""
    cluster = mortal_cluster
    patient = await open_client(cluster, "patient")
    record, grants = await cluster.open_record(patient)
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    held = await hospital.store(record, b"held", grants["hospital"])
    await armed(cluster, monkeypatch, LEDGER, point)
    committing = cluster.runtime.spawn(hospital.commit(held), name="commit")
    await until(lambda: dead(cluster, LEDGER), "the ledger is dead")
    await cluster.start(LEDGER)
    receipt = await committing
    assert receipt.ref.blob == held.blob
    listing = await doctor.list(record, grant=grants["doctor"])
    assert [entry.blob for entry in listing] == [held.blob]
