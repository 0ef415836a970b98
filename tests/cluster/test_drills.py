"""Drills: what an operator does when more is lost than the cluster mends by itself.

``make drills``; docs/operations/recover.md leads through the same steps.  Each ends with
``hcefs verify --all``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hcefs.cli.bringup import wait_serving
from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.cli.ledger_recover import LOSS_WORDS
from hcefs.client.client import Client
from hcefs.config import load_ledger_config
from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import BlobId, GrantId, RecordId
from hcefs.store.interface import KeyTable
from hcefs.store.keys import RocksKeyStore
from tests.cluster.conftest import MakeCluster, OpenClient
from tests.cluster.live import NODES, LiveCluster, some_bytes, until
from tests.cluster.test_operator_verbs import Shell

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("cluster"),
]

PATIENCE_SECONDS = 300.0
"""A drill waits for conditions, on a busy machine for long; on an idle one for little."""


async def start_all(cluster: LiveCluster, *names: str) -> None:
    """Start processes and wait until they serve."""
    for name in names:
        cluster.processes.start(name)
    for name in names:
        await wait_serving(cluster.folder, name, cluster.runtime, PATIENCE_SECONDS)


async def restored(cluster: LiveCluster, shell: Shell) -> None:
    """Wait until no node restores any more."""

    async def done() -> bool:
        found = await shell.run("status")
        ups = all(each["state"] == "up" for each in found["processes"])
        return ups and not any("restores" in each for each in found["warnings"])

    await until(done, "every node is restored", PATIENCE_SECONDS)


async def reads(
    client: Client, record: RecordId, blob: BlobId, grant: GrantId, data: bytes
) -> None:
    """The blob reads back; nodes that have just started may send the reader away."""

    async def same() -> bool:
        try:
            stream = await client.get(record, blob, grant=grant)
            return await stream.read() == data
        except HcefsError as error:
            if not error.retryable:
                raise
            raise Unavailable(error.message, reason=error.reason) from None

    assert await until(same, f"{blob} reads back", PATIENCE_SECONDS)


async def verify_all(shell: Shell, full: int) -> None:
    """``hcefs verify --all`` says that everything is whole, and so many blobs and packs are."""

    async def whole() -> bool:
        found = await shell.run("verify", "--all")
        assert found["counts"]["full"] >= full
        return bool(found["whole"])

    assert await until(whole, "everything is whole", PATIENCE_SECONDS)


def keys_of(data: Path, record: RecordId) -> int:
    """Key boxes and links of a record on the disk of a node that does not run."""
    store = RocksKeyStore(data / "keys")
    try:
        tables = (KeyTable.BOXES, KeyTable.LINKS)
        return sum(len(store.scan(table, bytes(record))) for table in tables)
    finally:
        store.close()


async def test_all_nodes_lose_their_databases(
    fresh_cluster: MakeCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    """Rows, keys and replicas are gone everywhere, shard files are there."""
    cluster = await fresh_cluster()
    shell, backup = Shell(cluster), tmp_path / "backup"
    hospital = await open_client(cluster, "hospital")
    patient = await open_client(cluster, "patient")
    doctor = await open_client(cluster, "doctor")
    grant, reading = cluster.grants["hospital"], cluster.grants["doctor"]
    large, small = some_bytes(2_500_000, 1), some_bytes(700, 2)
    first = await hospital.put(cluster.record, large, grant=grant)
    packed = await hospital.put(cluster.record, small, grant=grant)
    doomed, rights = await cluster.open_record(patient)
    await patient.set_retention(doomed, 1, "DE")
    await hospital.put(doomed, some_bytes(300_000, 3), grant=rights["hospital"])
    await cluster.level()

    taken = await shell.run("backup", "--out", str(backup))
    assert (taken["nodes"], taken["missing"]) == (NODES, [])
    assert backup.stat().st_mode & 0o777 == 0o600
    await shell.refused("file-exists", "backup", "--out", str(backup))
    checked = await shell.run("backup", "verify", str(backup))
    assert sum(checked["nodes"].values()) == taken["rows"]
    assert checked["height"] == taken["height"]

    # After the backup: one record ends, and something is put.
    await patient.erase(doomed)
    certificate = await patient.erasure_certificate(doomed, wait_seconds=PATIENCE_SECONDS)
    assert len(certificate.statements) == NODES
    later = await hospital.put(cluster.record, some_bytes(400_000, 4), grant=grant)

    cluster.kill(*cluster.alive())
    for number in range(1, NODES + 1):
        for name in ("rows", "keys", "ledger"):
            shutil.rmtree(cluster.data(number) / name)
    named = [word for number in range(1, NODES + 1) for word in ("--node", str(number))]
    found = await shell.run("restore", str(backup), *named)
    await shell.refused("not-empty", "restore", str(backup), *named)
    # The shards of what was put later are named, honestly: their keys are gone.
    newer = {base for each in found["nodes"] for base in each["newer"]}
    assert newer == {later.ref.blob.base.text}
    assert sum(each["shards_without_rows"] for each in found["nodes"]) == NODES
    # What was erased later comes back sealed, and does not stay.
    assert any(keys_of(cluster.data(number), doomed) for number in range(1, NODES + 1))

    await start_all(cluster, *cluster.folder.process_names())
    await restored(cluster, shell)
    await reads(doctor, cluster.record, first.ref.blob, reading, large)
    await reads(doctor, cluster.record, packed.ref.blob, reading, small)
    listing = await doctor.list(cluster.record, grant=reading)
    assert listing.missing == 1
    assert {entry.blob for entry in listing} == {first.ref.blob, packed.ref.blob}
    with pytest.raises(HcefsError) as refused:
        await doctor.list(doomed, grant=rights["doctor"])
    assert refused.value.reason == "erased"
    certificate = await patient.erasure_certificate(doomed, wait_seconds=PATIENCE_SECONDS)
    assert len(certificate.statements) == NODES
    data = some_bytes(500_000, 5)
    fresh = await hospital.put(cluster.record, data, grant=grant)
    await reads(doctor, cluster.record, fresh.ref.blob, reading, data)
    await verify_all(shell, full=3)
    cluster.kill(*cluster.alive())
    for number in range(1, NODES + 1):
        assert keys_of(cluster.data(number), doomed) == 0


async def test_the_ledger_is_lost_everywhere(
    fresh_cluster: MakeCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    """First its disk alone: the nodes have it.  Then all replicas: the backup has it."""
    cluster = await fresh_cluster()
    shell, old, new = Shell(cluster), tmp_path / "old", tmp_path / "new"
    hospital = await open_client(cluster, "hospital")
    grant = cluster.grants["hospital"]
    before = some_bytes(600_000, 1)
    first = await hospital.put(cluster.record, before, grant=grant)
    await shell.run("backup", "--out", str(old))
    await hospital.put(cluster.record, some_bytes(600_000, 2), grant=grant)
    await cluster.level()
    await shell.refused("ledger-runs", "restore", str(old), "--ledger")

    cluster.kill(LEDGER)
    await shell.refused("not-empty", "restore", str(old), "--ledger")
    shutil.rmtree(load_ledger_config(cluster.folder.config_of(LEDGER)).data)
    await shell.refused("older-backup", "restore", str(old), "--ledger")
    found = await shell.run("ledger", "recover", "--yes")
    assert found["term"] == 2
    await start_all(cluster, LEDGER)
    await cluster.level()
    await shell.run("backup", "--out", str(new))

    cluster.kill(*cluster.alive())
    shutil.rmtree(load_ledger_config(cluster.folder.config_of(LEDGER)).data)
    for number in range(1, NODES + 1):
        shutil.rmtree(cluster.data(number) / "ledger")
    await shell.refused("too-few-followers", "restore", str(new), "--ledger")
    found = await shell.run("restore", str(new), "--ledger", "--force", LOSS_WORDS)
    assert found["term"] == 3
    await start_all(cluster, *cluster.folder.process_names())
    doctor = await open_client(cluster, "doctor")
    again = await open_client(cluster, "hospital")
    await reads(doctor, cluster.record, first.ref.blob, cluster.grants["doctor"], before)
    await again.put(cluster.record, some_bytes(600_000, 3), grant=grant)
    await verify_all(shell, full=3)


async def test_a_zone_is_lost(
    fresh_cluster: MakeCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    """Processes and disks of a whole zone: the others serve, and new nodes take its place."""
    cluster = await fresh_cluster()
    shell = Shell(cluster)
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    grant, reading = cluster.grants["hospital"], cluster.grants["doctor"]
    # Two more nodes, so that puts find k+1 without any zone: zones have 3, 3 and 2 nodes.
    await shell.run("node", "add", "--count", "2")
    await shell.run("layout", "apply", "--wait")
    before = some_bytes(900_000, 1)
    first = await hospital.put(cluster.record, before, grant=grant)
    nodes = (await shell.run("node", "list"))["nodes"]
    zone = [each["node_id"] for each in nodes if each["place"].startswith("zone-c/")]
    assert len(zone) == 2

    cluster.kill(*map(node_name, zone))
    for number in zone:
        shutil.rmtree(cluster.data(number))
    await reads(doctor, cluster.record, first.ref.blob, reading, before)
    after = some_bytes(900_000, 2)

    async def put() -> BlobId:
        return (await hospital.put(cluster.record, after, grant=grant)).ref.blob

    second = await until(put, "a put succeeds without the zone", PATIENCE_SECONDS)
    await shell.run("node", "add", "--count", "2", "--zone", "zone-c")
    for number in zone:
        await shell.run("node", "out", str(number), "--lost")
    await shell.run("layout", "apply", "--wait")
    await reads(doctor, cluster.record, second, reading, after)
    await shell.run("repair", "now")
    await verify_all(shell, full=2)
    # Nodes that were given up for good are not missed.
    taken = await shell.run("backup", "--out", str(tmp_path / "backup"))
    assert (taken["nodes"], taken["missing"]) == (len(nodes), [])
