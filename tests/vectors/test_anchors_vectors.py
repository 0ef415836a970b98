"""The frozen bytes of anchored receipts: written the same, read back, and checked."""

from __future__ import annotations

import pytest

from hcefs.encoding import Encoded
from hcefs.ledger.anchored import check_anchor
from hcefs.ledger.audit_file import AuditFile, check_audit
from hcefs.ledger.cluster_facts import ReceiptAnchor
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.terms import Terms
from hcefs.ledger.transactions_receipts import AnchorReceipts
from hcefs.store.receipts import AnchorNote, ReceiptHead
from tests.unit.ledger.scenario import make_genesis
from tests.vectors import generate
from tests.vectors.generate_anchors import vectors

FROZEN = generate.frozen("anchors")
TYPES: tuple[type[Encoded], ...] = (
    AnchorReceipts, ReceiptAnchor, TransactionProof, AnchorNote, ReceiptHead, AuditFile,
)  # fmt: skip


def test_nothing_frozen_has_changed() -> None:
    assert generate.broken(FROZEN, vectors()) == []


def test_every_vector_is_frozen() -> None:
    assert vectors() == FROZEN, "run python -m tests.vectors.generate"


@pytest.mark.parametrize("cls", TYPES, ids=lambda cls: cls.KIND)
def test_frozen_values_are_read_back(cls: type[Encoded]) -> None:
    data = bytes.fromhex(FROZEN[cls.KIND])
    assert cls.decode(data).encode() == data


def test_the_frozen_proof_holds() -> None:
    proof = TransactionProof.decode(bytes.fromhex(FROZEN["transaction-proof"]))
    found = check_anchor(proof, Terms(make_genesis()))
    assert found == AnchorReceipts.decode(bytes.fromhex(FROZEN["anchor-receipts"])).batch


def test_the_frozen_file_proves_what_it_did() -> None:
    audit = check_audit(AuditFile.decode(bytes.fromhex(FROZEN["audit-file"])))
    assert (len(audit.touches), audit.unproved) == (6, 2)
    assert [node.node_id for node in audit.silent] == [3]
    # One release that its gateway knows nothing of, and one whose gateway wrote no access.
    assert len(audit.unexplained) == 2
