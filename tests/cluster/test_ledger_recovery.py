"""The ledger's machine is lost: operators recover it from the nodes; its backup stays out."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.cli.processes import Processes
from hcefs.config import load_ledger_config, render_ledger_config
from hcefs.errors import Conflict
from hcefs.ledger.genesis import FIRST_TERM
from hcefs.node.ledger_process import LedgerProcess
from tests.cluster.conftest import MakeCluster, OpenClient
from tests.cluster.live import NODES, LiveCluster, some_bytes, until
from tests.cluster.test_operator_verbs import Shell

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


async def test_a_lost_ledger_is_recovered_from_the_nodes(
    fresh_cluster: MakeCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    cluster = await fresh_cluster(lease_ms=3_000)
    shell = Shell(cluster)
    hospital = await open_client(cluster, "hospital")
    before = some_bytes(70_000, 1)
    old = await hospital.put(cluster.record, before, grant=cluster.grants["hospital"])
    await shell.refused("ledger-runs", "ledger", "recover", "--yes")
    cluster.kill(LEDGER)
    backup = tmp_path / "backup"
    shutil.copytree(cluster.folder.ledger, backup)
    shutil.rmtree(cluster.folder.ledger)

    # Two nodes down: an acknowledged block could be on exactly those.
    cluster.kill(node_name(1), node_name(2))
    await shell.refused("too-few-followers", "ledger", "recover", "--yes")
    await asyncio.to_thread(Processes(cluster.folder).start, node_name(2))

    async def recover() -> dict[str, Any] | None:
        try:
            return dict(await shell.run("ledger", "recover", "--yes"))
        except AssertionError as error:
            if "too-few-followers" not in str(error):
                raise
            return None  # node 2 does not answer yet

    found = await until(recover, "node 2 answers, and the ledger is recovered")
    assert found is not None
    assert found["term"] == FIRST_TERM + 1
    told = found["nodes"]
    assert sum(words.startswith("term 2,") for words in told.values()) == NODES - 1
    await cluster.start(LEDGER)
    # Node 1 was not reached: it learns of the new term from the ledger.
    await cluster.start(*(node_name(number) for number in range(1, NODES + 1)))
    fresh = await open_client(cluster, "hospital")
    after = some_bytes(70_000, 2)
    new = await fresh.put(cluster.record, after, grant=cluster.grants["hospital"])
    doctor = await open_client(cluster, "doctor")
    grant = cluster.grants["doctor"]
    for receipt, data in ((old, before), (new, after)):
        stream = await doctor.get(cluster.record, receipt.ref.blob, grant=grant)
        assert await stream.read() == data
    assert cluster.metric(node_name(1), "hcefs_ledger_term") == FIRST_TERM + 1
    await old_writer_is_refused(cluster, backup)


async def old_writer_is_refused(cluster: LiveCluster, backup: Path) -> None:
    """The old machine comes back: it learns that its term has ended, and stays out."""
    config = load_ledger_config(backup / "config.toml")
    with reserved_ports(3, cluster.runtime.random) as ports:
        addresses = [f"{HOST}:{port}" for port in ports]
    tls = cluster.folder.authority
    config = replace(
        config,
        genesis=cluster.folder.genesis_file,
        client_address=addresses[0],
        peer_address=addresses[1],
        metrics_address=addresses[2],
        tls=replace(config.tls, authority=tls),
    )
    (backup / "config.toml").write_text(render_ledger_config(config))
    process = LedgerProcess(config, cluster.runtime)
    try:
        await process.start()
        async with asyncio.timeout(60):
            await process.node.beginning.failed.wait()
        failure = process.node.beginning.failure
        assert isinstance(failure, Conflict)
        assert failure.reason == "superseded"
        assert process.log.superseded() is not None
        assert not process.writer.running
    finally:
        await process.stop()


async def test_a_restored_backup_of_the_ledger_fetches_what_it_lacks(
    mortal_cluster: LiveCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    cluster = mortal_cluster
    data = load_ledger_config(cluster.folder.config_of(LEDGER)).data
    patient = await open_client(cluster, "patient")
    cluster.kill(LEDGER)
    shutil.copytree(data, tmp_path / "backup")
    await cluster.start(LEDGER)
    record = (await patient.open_record()).record  # acknowledged, and not in the backup
    cluster.kill(LEDGER)
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "backup", data)
    await cluster.start(LEDGER)
    after = (await patient.open_record()).record
    assert {record, after} <= {each.record for each in await patient.records()}
    await cluster.level()
    for number in range(1, NODES + 1):
        assert cluster.metric(node_name(number), "hcefs_ledger_fork_proofs") == 0
