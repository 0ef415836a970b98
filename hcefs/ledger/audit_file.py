"""What nodes know about one record, in a file that proves itself: who touched it, and when.

Owns the bytes of such a file and the check of it, which needs no key, no ledger and no
network: genesis and statements of the terms are in it, and the reader compares the cluster
id with the one that he knows.

Invariants of a checked file (:func:`check_audit`):

* Every receipt is of the node and the record that it is listed under.  A *proved* one is in a
  batch that is anchored on the ledger; one that is not anchored yet is listed apart.
* Anchors of one node do not contradict each other.
* A node that did not answer is in the list, with its reason; what it knows is missing.
* A release for a gateway that answered has its access receipt there, or is reported.

Not guaranteed: that a node which answered gave all of its receipts about the record.  One
that hides an access betrays itself only by the others' releases.
Source: docs/AUDIT.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.evidence.proof import ReceiptBatch, ReceiptProof, require_follows
from hcefs.evidence.receipt import Receipt, ReceiptKind, read_receipt
from hcefs.ids import AccountId, RecordId, RequestId
from hcefs.ledger.anchored import check_anchor
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.terms import SignedTermChange, Terms, founders_terms

NODES_MAX = 4096
LATE_MS = 60_000
"""How much later than a release an answer must be to be blamed for a missing access."""


@dataclass(frozen=True)
class NodeAudit(Encoded):
    """One node's answer.  An empty ``problem`` means that it answered.

    ``asked_ms`` is when it was asked, ``unanchored`` are receipts that no batch has yet.
    """

    KIND = "node-audit"
    MAX_BYTES = 64 << 20

    node: AccountId
    node_id: int
    problem: str
    asked_ms: int
    proofs: tuple[ReceiptProof, ...]
    unanchored: tuple[bytes, ...]
    anchors: tuple[TransactionProof, ...]


@dataclass(frozen=True)
class AuditFile(Encoded):
    """What all nodes of the map said about ``record``."""

    KIND = "audit-file"
    MAX_BYTES = 256 << 20

    genesis: Genesis
    terms: tuple[SignedTermChange, ...]
    record: RecordId
    made_ms: int
    nodes: tuple[NodeAudit, ...]


@dataclass(frozen=True)
class Touch:
    """One receipt; ``anchored_ms`` is the time of the block that anchors it, 0 for none yet."""

    receipt: Receipt
    anchored_ms: int
    height: int

    @property
    def is_proved(self) -> bool:
        """Whether the ledger has it."""
        return self.height > 0


@dataclass(frozen=True)
class Audit:
    """A checked file: all receipts by time, which nodes are missing, and what is wrong.

    ``unexplained`` are releases without the access receipt that the gateway should have.
    """

    record: RecordId
    made_ms: int
    touches: tuple[Touch, ...]
    silent: tuple[NodeAudit, ...]
    unexplained: tuple[Touch, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every node answered, and nothing contradicts anything."""
        return not self.silent and not self.unexplained

    @property
    def unproved(self) -> int:
        """How many receipts no batch has yet."""
        return sum(not touch.is_proved for touch in self.touches)


def check_audit(file: AuditFile) -> Audit:
    """What a file proves.

    Raises:
        Corrupt: something in it is not what it claims: a receipt was changed, is of
            another record or node, is not anchored where it says, or anchors contradict.
        Invalid: something is malformed.
    """
    file.genesis.check()
    terms = founders_terms(file.genesis, [signed.encode() for signed in file.terms])
    if len(terms.changes) != len(file.terms):
        raise Corrupt("the statements of the terms in it are not the operators'", reason="bad-file")
    names = [each.node for each in file.nodes]
    if len(set(names)) != len(names) or len(names) > NODES_MAX:
        raise Invalid("a node is in it twice", reason="bad-file")
    touches = [touch for node in file.nodes for touch in check_node(node, file.record, terms)]
    return audit_of(file, touches)


def check_node(node: NodeAudit, record: RecordId, terms: Terms) -> list[Touch]:
    """What one node's answer proves; nothing of a node that did not answer.

    Raises:
        Corrupt, Invalid: as :func:`check_audit`.
    """
    if node.problem:
        if node.proofs or node.unanchored or node.anchors:
            raise Invalid("a node that did not answer has receipts in it", reason="bad-file")
        return []
    try:
        anchored = {
            check_anchor(anchor, terms): (anchor.header.time_ms, anchor.header.height)
            for anchor in node.anchors
        }
        _check_one_history(anchored)
        own = [*_proved(node, anchored)]
        own += [Touch(read_receipt(data), 0, 0) for data in node.unanchored]
    except HcefsError as error:
        raise Corrupt(f"node {node.node_id}: {error.message}", reason=error.reason) from error
    _check_named(record, node, own)
    return own


def audit_of(file: AuditFile, touches: Iterable[Touch]) -> Audit:
    """What the nodes of a file say together, whose answers gave ``touches`` when checked."""
    ordered = sorted(
        touches, key=lambda touch: (touch.receipt.time_ms, touch.receipt.node, _number(touch))
    )
    silent = tuple(node for node in file.nodes if node.problem)
    unexplained = tuple(_unexplained(file, ordered))
    return Audit(file.record, file.made_ms, tuple(ordered), silent, unexplained)


def _number(touch: Touch) -> int:
    return touch.receipt.sequence


def _proved(node: NodeAudit, anchored: dict[ReceiptBatch, tuple[int, int]]) -> Iterable[Touch]:
    for proof in node.proofs:
        receipt = proof.check()
        if proof.batch not in anchored:
            raise Corrupt(
                f"receipt {receipt.sequence} is in a batch that is not anchored",
                reason="bad-anchor",
            )
        yield Touch(receipt, *anchored[proof.batch])


def _check_one_history(anchored: Iterable[ReceiptBatch]) -> None:
    """Check that the anchored batches of one node can be of one chain."""
    batches = sorted(anchored, key=lambda batch: batch.first)
    for before, after in pairwise(batches):
        if after.first == before.last + 1:
            require_follows(after, before)
        elif after.first <= before.last or after.since_ms < before.until_ms:
            raise Corrupt(
                f"receipts {after.first} to {before.last} are anchored twice: the node told two "
                "stories",
                reason="broken-receipt-chain",
            )


def _check_named(record: RecordId, node: NodeAudit, touches: Iterable[Touch]) -> None:
    seen: set[int] = set()
    for touch in touches:
        receipt = touch.receipt
        if receipt.node != node.node or receipt.record != record:
            raise Corrupt(
                f"node {node.node_id}: receipt {receipt.sequence} is about something else",
                reason="wrong-receipt",
            )
        if receipt.sequence in seen:
            raise Corrupt(
                f"node {node.node_id}: two receipts have the number {receipt.sequence}",
                reason="broken-receipt-chain",
            )
        seen.add(receipt.sequence)


def _unexplained(file: AuditFile, touches: Iterable[Touch]) -> Iterable[Touch]:
    """Releases for a gateway that was asked later and does not know of the request."""
    asked = {node.node: node.asked_ms for node in file.nodes if not node.problem}
    known: set[tuple[AccountId, RequestId]] = {
        (touch.receipt.node, touch.receipt.request)
        for touch in touches
        if touch.receipt.receipt_kind is ReceiptKind.ACCESS
    }
    for touch in touches:
        receipt = touch.receipt
        if receipt.receipt_kind is not ReceiptKind.RELEASE or receipt.peer not in asked:
            continue
        late = asked[receipt.peer] > receipt.time_ms + LATE_MS
        if late and (receipt.peer, receipt.request) not in known:
            yield touch
