"""The frozen evidence bundle: the code still writes it, and the verifier still accepts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hcefs.client.evidence import EvidenceBundle, EvidenceEntry
from hcefs.client.verify_evidence import verify_file
from hcefs.encoding import Encoded
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.record_statement import RecordStatement
from tests.unit.client.bundles import write_bundle
from tests.vectors.generate_bundles import vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("bundles.json").read_text("utf-8"))
KINDS: dict[str, type[Encoded]] = {
    "transaction_proof": TransactionProof,
    "record_statement": RecordStatement,
    "entry": EvidenceEntry,
    "bundle": EvidenceBundle,
}


def test_the_code_still_writes_the_frozen_bytes() -> None:
    assert json.loads(json.dumps(vectors())) == FROZEN
    for name, kind in KINDS.items():
        data = bytes.fromhex(FROZEN[name])
        assert kind.decode(data).encode() == data


def test_the_frozen_bundle_is_accepted(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "frozen.zip", bytes.fromhex(FROZEN["bundle"]))
    report = verify_file(str(path), FROZEN["cluster"])
    assert report.wrong == []
    assert [entry["entry"] for entry in report.entries] == [0, 1]
    assert all(entry["appended_by_transaction"] for entry in report.entries)
    (right,) = report.rights
    assert right["revoked_height"] == right["given_height"] + 1
    assert [access["reason"] for access in report.accesses] == ["permitted", "revoked"]
