"""``audit``: what people are shown, and files that are checked without a cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.cli.audit import visits
from hcefs.evidence.receipt import Receipt
from hcefs.ids import ClusterId
from hcefs.ledger.audit_file import AuditFile, check_audit
from tests.cli.conftest import Invoke
from tests.vectors.generate_anchors import audit_file


@pytest.fixture(scope="module")
def file() -> AuditFile:
    return audit_file()


@pytest.fixture
def path(tmp_path: Path, file: AuditFile) -> Path:
    made = tmp_path / "proof.audit"
    made.write_bytes(file.encode())
    return made


def test_receipts_of_one_request_are_one_line(file: AuditFile) -> None:
    found = visits(check_audit(file).touches)
    assert [len(visit.touches) for visit in found] == [5, 1]
    served, hidden = found
    assert (served.has_access, served.holders, served.proof) == (True, 1, "partly")
    assert (hidden.has_access, hidden.proof) == (False, "not yet")


def test_a_file_is_verified_without_any_cluster(
    invoke: Invoke, path: Path, file: AuditFile
) -> None:
    done = invoke("audit", "verify", path)
    assert done.exit_code == 0, done.output
    for words in (
        "permitted",
        "TREAT",
        "4 receipts are anchored on the ledger and proved",
        "2 receipts wait for their anchor",
        "node 3 did not answer (unreachable): what it knows is missing here",
        "it hides an access",
        f"compare the cluster id yourself: {file.genesis.cluster}",
    ):
        assert words in done.output
    assert "every node answered" not in done.output


def test_programs_get_everything(invoke: Invoke, path: Path, file: AuditFile) -> None:
    done = invoke("audit", "verify", path, "--json", "--cluster", file.genesis.cluster.text)
    data = json.loads(done.output)
    assert (data["complete"], len(data["receipts"])) == (False, 6)
    assert data["nodes"][2] == {
        "node": 3,
        "account": file.nodes[2].node.text,
        "answered": False,
        "problem": "unreachable",
    }
    assert {receipt["kind"] for receipt in data["receipts"]} == {"access", "closing", "release"}
    assert all(receipt["anchored_ms"] for receipt in data["receipts"][:2])


def test_a_file_of_another_cluster_is_refused(invoke: Invoke, path: Path) -> None:
    done = invoke("audit", "verify", path, "--cluster", ClusterId(bytes(16)).text)
    assert done.exit_code == 7
    assert "wrong-cluster" in done.output


def test_a_changed_file_is_refused(invoke: Invoke, path: Path, file: AuditFile) -> None:
    node = file.nodes[0]
    lie = replace(Receipt.decode(node.proofs[0].receipt), purpose="HRESCH").encode()
    changed = replace(node, proofs=(replace(node.proofs[0], receipt=lie), *node.proofs[1:]))
    path.write_bytes(replace(file, nodes=(changed, *file.nodes[1:])).encode())
    done = invoke("audit", "verify", path)
    assert done.exit_code == 7
    assert "bad-proof" in done.output


def test_what_is_no_such_file_is_refused(invoke: Invoke, path: Path) -> None:
    path.write_bytes(b"no audit")
    done = invoke("audit", "verify", path)
    assert done.exit_code == 2
    assert "bad-file" in done.output
