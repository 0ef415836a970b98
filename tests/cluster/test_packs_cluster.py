"""Promise 1 for packs, on real processes: what was acknowledged is read back."""

from __future__ import annotations

import pytest

from hcefs.cli.cluster_files import node_name
from hcefs.client.client import Client
from hcefs.ids import BlobId
from tests.cluster.conftest import OpenClient
from tests.cluster.live import LiveCluster, some_bytes, until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

SIZES = (0, 1, 300, 4096, 70_000)


async def put_packs(cluster: LiveCluster, hospital: Client) -> dict[BlobId, bytes]:
    """A tiny pack, which is copied, and one that is erasure-coded."""
    stored: dict[BlobId, bytes] = {}
    for lengths, total in ((SIZES[:3], 3), (SIZES * 8, 6)):
        data = [some_bytes(length, number) for number, length in enumerate(lengths)]
        receipts = await hospital.put_many(
            [(cluster.record, each) for each in data], grant=cluster.grants["hospital"]
        )
        assert {(each.durable_shards, each.total_shards) for each in receipts} == {(total, total)}
        stored |= {receipt.ref.blob: each for receipt, each in zip(receipts, data, strict=True)}
    return stored


async def all_read(cluster: LiveCluster, doctor: Client, stored: dict[BlobId, bytes]) -> bool:
    """Read everything in a batch; other bytes are a failure."""
    names = [(cluster.record, blob) for blob in stored]
    found = await doctor.get_many(names, grant=cluster.grants["doctor"])
    assert found == list(stored.values())
    return True


async def test_packs_survive_what_they_promise(
    mortal_cluster: LiveCluster, open_client: OpenClient
) -> None:
    cluster = mortal_cluster
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    stored = await put_packs(cluster, hospital)
    assert await all_read(cluster, doctor, stored)
    everyone = cluster.folder.process_names()
    cluster.kill(*everyone)
    assert cluster.alive() == []
    await cluster.start(*everyone)
    await until(lambda: all_read(cluster, doctor, stored), "everything reads back")
    listing = await doctor.list(cluster.record, grant=cluster.grants["doctor"])
    assert listing.complete
    assert stored.keys() <= {entry.blob for entry in listing}
    for lost in ((1, 2), (3, 5), (6, 4)):
        names = [node_name(number) for number in lost]
        cluster.kill(*names)
        await until(lambda: all_read(cluster, doctor, stored), f"it reads without nodes {lost}")
        await cluster.start(*names)


async def test_a_pack_that_was_put_with_a_node_down(
    mortal_cluster: LiveCluster, open_client: OpenClient
) -> None:
    cluster = mortal_cluster
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    cluster.kill("node-5")
    data = [some_bytes(4096, number) for number in range(40)]
    receipts = await hospital.put_many(
        [(cluster.record, each) for each in data], grant=cluster.grants["hospital"]
    )
    assert {(each.durable_shards, each.degraded) for each in receipts} == {(5, True)}
    stored = {receipt.ref.blob: each for receipt, each in zip(receipts, data, strict=True)}
    # d = 5 and k = 4: one more may be lost.
    cluster.kill("node-1")
    await until(lambda: all_read(cluster, doctor, stored), "it reads with four of six")
