"""``grant revoke --wait`` and ``verify-certificate`` on real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hcefs.cli.main import app
from hcefs.errors import Denied
from tests.cluster.conftest import OpenClient
from tests.cluster.live import LiveCluster, refused, some_bytes
from tests.cluster.test_operator_verbs import Shell

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


async def test_a_revocation_and_its_certificate(
    cluster: LiveCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    patient, doctor = await open_client(cluster, "patient"), await open_client(cluster, "doctor")
    record, grants = await cluster.open_record(patient)
    receipt = await patient.put(record, some_bytes(2_000_000, 33))
    blob, grant = receipt.ref.blob, grants["doctor"]
    stream = await doctor.get(record, blob, grant=grant)
    assert len(await stream.read()) == 2_000_000
    keys, file = tmp_path / "patient.keys", tmp_path / "certificate"
    cluster.accounts["patient"].save(keys)
    shell = Shell(cluster)
    done = await shell.run(
        "grant", "revoke", grant.text, "--as", str(keys), "--wait", "--out", str(file)
    )
    certificate = done["certificate"]
    assert certificate["complete"]
    assert [each["node"] for each in certificate["confirmed"]] == [1, 2, 3, 4, 5, 6]
    for node in (await patient.cluster_map()).nodes:
        with refused(Denied, "revoked"):
            await doctor.stat(record, blob, grant=grant, node=node.address)
    # A second time there is nothing to revoke, and a certificate all the same.
    again = await shell.run("grant", "revoke", grant.text, "--as", str(keys), "--wait")
    assert again["height"] == done["height"]
    await shell.refused("already-revoked", "grant", "revoke", grant.text, "--as", str(keys))
    await shell.refused(
        "file-exists",
        "grant",
        "revoke",
        grant.text,
        "--as",
        str(keys),
        "--wait",
        "--out",
        str(file),
    )
    words = ["verify-certificate", str(file), "--cluster", cluster.connection.cluster.text]
    result = CliRunner().invoke(app, [*words, "--json"])  # it asks nobody
    assert result.exit_code == 0, result.output
    verified = json.loads(result.stdout)
    assert (verified["complete"], verified["grant"]) == (True, grant.text)
