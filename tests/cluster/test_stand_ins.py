"""A node of a real cluster is killed: puts still have n shards on disks, and those come home."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcefs.cli.cluster_files import node_name
from hcefs.ids import BlobBase
from hcefs.placement import changes
from hcefs.placement.ring import seats
from tests.cluster.conftest import MakeCluster, OpenClient
from tests.cluster.live import some_bytes, until
from tests.cluster.scaling import Operators, new_node

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.xdist_group("cluster")]

LOST = 3


def on_disks(folders: dict[int, Path], base: BlobBase) -> dict[int, set[int]]:
    """Index -> the nodes that have a file of it."""
    found: dict[int, set[int]] = {}
    for number, folder in folders.items():
        for path in folder.rglob(f"{bytes(base).hex()}.*"):
            if "incoming" not in path.parts:
                found.setdefault(int(path.name.split(".")[1]), set()).add(number)
    return found


async def test_a_killed_node_has_stand_ins_until_it_is_back(
    fresh_cluster: MakeCluster, open_client: OpenClient
) -> None:
    cluster = await fresh_cluster(lease_ms=3_000)
    operators = Operators(cluster, await open_client(cluster, "operator-1"))
    added = await new_node(cluster, 7, operators.client)
    await operators.apply(lambda m: changes.add(m, [added]))
    current = await operators.carried_out()
    patient = await open_client(cluster, "patient")
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    record, grants = await cluster.open_record(patient)
    folders = {number: cluster.data(number) for number in range(1, 8)}

    cluster.kill(node_name(LOST))
    kept = {}
    for size in (6_000_000, 200_000, 200_001, 200_002, 200_003):
        data = some_bytes(size, size)
        receipt = await hospital.put(record, data, grant=grants["hospital"], seal="node")
        assert not receipt.degraded, f"{size}: {receipt.durable_shards} shards are durable"
        kept[receipt.ref.blob] = data
    missed = 0
    for blob in kept:
        found = on_disks(folders, blob.base)
        homes = {s.index: s.node.node_id for s in seats(current, "ec-4-2", blob.base)}
        assert sorted(found) == list(range(6))
        nodes = [node for held in found.values() for node in held]
        assert len(set(nodes)) == 6
        assert LOST not in nodes
        missed += LOST in homes.values()
    assert missed, "none of these blobs has a seat on the node that was killed"

    await cluster.start(node_name(LOST))

    async def at_home() -> bool:
        home = True
        for blob in kept:
            found = on_disks(folders, blob.base)
            assert sorted(found) == list(range(6)), "at no moment are there fewer than n"
            homes = {s.index: {s.node.node_id} for s in seats(current, "ec-4-2", blob.base)}
            home = home and found == homes
        return home

    await until(at_home, "every shard is at home, and nowhere else")
    for blob, data in kept.items():
        stream = await doctor.get(record, blob, grant=grants["doctor"])
        assert await stream.read() == data
