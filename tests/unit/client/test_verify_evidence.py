"""The verifier of evidence rejects whatever was changed, and stands alone."""

from __future__ import annotations

import ast
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.client import verify_evidence
from hcefs.client.evidence import EvidenceBundle
from hcefs.client.verify_evidence import STATEMENTS_NEEDED, verify_file
from hcefs.evidence.proof import ReceiptProof
from hcefs.evidence.receipt import Receipt
from hcefs.formats.manifest import Opening
from hcefs.ids import RecordId
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.record_statement import RecordStatement
from hcefs.ledger.transactions import SignedTransaction, decode_transaction
from hcefs.ledger.transactions_keys import RotateKeys
from tests.unit.client.bundles import rejection, write_bundle
from tests.unit.ledger.scenario import Scenario, seed, signing_key
from tests.vectors.generate_bundles import bundle

CLUSTER, BUNDLE = bundle()
FLIPS = 400


def _shortened(made: EvidenceBundle) -> EvidenceBundle:
    return replace(made, leaves=made.leaves[:-1], entries=made.entries[:-1])


def _reordered(made: EvidenceBundle) -> EvidenceBundle:
    return replace(made, leaves=made.leaves[::-1])


def _one_too_many(made: EvidenceBundle) -> EvidenceBundle:
    return replace(made, leaves=(*made.leaves, made.leaves[-1]))


def _other_opening(made: EvidenceBundle) -> EvidenceBundle:
    entry = made.entries[0]
    opening = replace(Opening.decode(entry.opening), salt=seed("another"))
    return replace(made, entries=(replace(entry, opening=opening.encode()), *made.entries[1:]))


def _other_place(made: EvidenceBundle) -> EvidenceBundle:
    first, second = made.entries
    return replace(made, entries=(replace(first, leaf_index=1), second))


def _fewer_nodes(made: EvidenceBundle) -> EvidenceBundle:
    return replace(made, statements=made.statements[: STATEMENTS_NEEDED - 1])


def _one_node_thrice(made: EvidenceBundle) -> EvidenceBundle:
    return replace(made, statements=made.statements[:1] * STATEMENTS_NEEDED)


def _no_node(made: EvidenceBundle) -> EvidenceBundle:
    """A doctor signs what a node would."""
    said = RecordStatement.decode(made.statements[0])
    forged = replace(said, node=Scenario().account("doc")).signed(signing_key("doc"))
    return replace(made, statements=(*made.statements[1:], forged.encode()))


def _unregistered(made: EvidenceBundle) -> EvidenceBundle:
    return replace(made, transactions=made.transactions[1:])


def _other_record(made: EvidenceBundle) -> EvidenceBundle:
    return replace(made, record=RecordId(seed("another")[:16]))


def _unopened(made: EvidenceBundle) -> EvidenceBundle:
    return replace(made, transactions=made.transactions[:6])


def _unanchored(made: EvidenceBundle) -> EvidenceBundle:
    return replace(made, transactions=made.transactions[:-1])


def _receipt(made: EvidenceBundle, **changes: object) -> EvidenceBundle:
    proof = ReceiptProof.decode(made.receipts[0])
    receipt = replace(Receipt.decode(proof.receipt), **changes)  # type: ignore[arg-type]
    forged = replace(proof, receipt=receipt.encode())
    return replace(made, receipts=(forged.encode(), *made.receipts[1:]))


def _another_reader(made: EvidenceBundle) -> EvidenceBundle:
    return _receipt(made, presenter=Scenario().account("pat"))


def _another_place(made: EvidenceBundle) -> EvidenceBundle:
    return _receipt(made, sequence=2)


TAMPERED: dict[str, tuple[Callable[[EvidenceBundle], EvidenceBundle], str]] = {
    "the last entry is left out": (_shortened, "states 2 entries"),
    "entries are reordered": (_reordered, "other digests"),
    "an entry is added": (_one_too_many, "states 2 entries"),
    "another opening": (_other_opening, "not the one that the ledger binds"),
    "an entry at another place": (_other_place, "not the one that the ledger binds"),
    "too few nodes": (_fewer_nodes, "2 nodes state"),
    "one node thrice": (_one_node_thrice, "1 nodes state"),
    "a doctor as a node": (_no_node, "not shown to be a node"),
    "a registration is left out": (_unregistered, "whose key is not shown"),
    "an anchor is left out": (_unanchored, "nobody anchored"),
    "a receipt of another reader": (_another_reader, "not in its batch"),
    "a receipt at another place": (_another_place, "not in its batch"),
    "another record": (_other_record, "how the record was opened"),
    "the opening of the record is left out": (_unopened, "how the record was opened"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_tampered_with_is_named(name: str, tmp_path: Path) -> None:
    tamper, said = TAMPERED[name]
    assert said in rejection(write_bundle(tmp_path / "b.zip", tamper(BUNDLE)), CLUSTER)


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    chosen = random.Random(17)  # noqa: S311 - a fixed sample
    data = BUNDLE.encode()
    for at in chosen.sample(range(len(data)), FLIPS):
        changed = bytearray(data)
        changed[at] ^= 1 << chosen.randrange(8)
        path = write_bundle(tmp_path / "b.zip", bytes(changed))
        assert rejection(path, CLUSTER), f"bit of byte {at}"


def test_keys_that_changed_on_the_way_are_followed(tmp_path: Path) -> None:
    """The first entry is by the owner's first keys, the second by the next; a node changed, too."""
    cluster, made = bundle(changed=True)
    report = verify_file(str(write_bundle(tmp_path / "b.zip", made)), cluster)
    assert report.wrong == []
    assert [entry["entry"] for entry in report.entries] == [0, 1]


def test_a_key_that_has_ended_vouches_for_nothing_more(tmp_path: Path) -> None:
    cluster, made = bundle(changed=True, thief=lambda _: signing_key("pat"))
    said = rejection(write_bundle(tmp_path / "b.zip", made), cluster)
    assert "did not sign this content" in said


def _changes(made: EvidenceBundle) -> list[int]:
    found = [decode_transaction(_transaction(data).body) for data in made.transactions]
    return [at for at, each in enumerate(found) if isinstance(each, RotateKeys)]


def _transaction(data: bytes) -> SignedTransaction:
    return SignedTransaction.decode(TransactionProof.decode(data).transaction)


def test_a_change_of_keys_cannot_be_left_out_nor_an_old_key_used_after_it(tmp_path: Path) -> None:
    cluster, made = bundle(changed=True)
    owners, _ = _changes(made)
    kept = [data for at, data in enumerate(made.transactions) if at != owners]
    without = replace(made, transactions=tuple(kept))
    assert "whose key is not shown" in rejection(write_bundle(tmp_path / "b.zip", without), cluster)
    # A node whose keys changed states with the old ones.
    said = RecordStatement.decode(made.statements[0])
    assert said.key_version == 2
    old = replace(said, key_version=1).signed(signing_key("n1"))
    stale = replace(made, statements=(old.encode(), *made.statements[1:]))
    assert "had ended" in rejection(write_bundle(tmp_path / "b.zip", stale), cluster)


def test_another_cluster_is_noticed(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b.zip", BUNDLE)
    assert "not of clu-00" in rejection(path, "clu-00")


def test_a_payload_that_nothing_binds_is_noticed(tmp_path: Path) -> None:
    name = f"blob-{'00' * 18}"
    path = write_bundle(tmp_path / "b.zip", BUNDLE, {name: b"planted"})
    assert "no entry binds" in rejection(path, CLUSTER)


def test_it_runs_alone(tmp_path: Path) -> None:
    """From a folder of its own, isolated, so that this package is not in sight."""
    source = Path(verify_evidence.__file__).read_text("utf-8")
    names = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not any(name.startswith("hcefs") for name in names)
    script = tmp_path / "verify.py"
    script.write_text(source, "utf-8")
    path = write_bundle(tmp_path / "b.zip", BUNDLE)
    command = [sys.executable, "-I", str(script), str(path), "--cluster", CLUSTER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("everything holds\n")
    (tmp_path / "no.zip").write_bytes(b"no zip")
    command[3] = str(tmp_path / "no.zip")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
