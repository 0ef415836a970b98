"""A ledger with nodes that anchor receipts, and what they would say about a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hcefs.access.facts import AccountKind
from hcefs.evidence.proof import BatchProver, ReceiptBatch, make_batch
from hcefs.evidence.receipt import ChainHead, Receipt, ReceiptDraft
from hcefs.ledger.anchored import find_anchor
from hcefs.ledger.audit_file import AuditFile, NodeAudit
from hcefs.ledger.block import Block, sign_block, transaction_root
from hcefs.ledger.transactions import Upgrade
from hcefs.ledger.transactions_receipts import AnchorReceipts
from tests.unit.ledger.clusters import OPERATORS
from tests.unit.ledger.scenario import Scenario
from tests.vectors.generate_receipts import RECORD, draft


class Anchoring(Scenario):
    """Version 4 in force, and two nodes."""

    def __init__(self, version: int = 4) -> None:
        super().__init__()
        for number in range(2, version + 1):
            self.submit(Upgrade(number, self.height + 2), *OPERATORS)
            self.register(f"filler {number}", AccountKind.INSTITUTION, *OPERATORS)
        for name in ("n1", "n2"):
            self.register(name, AccountKind.NODE, *OPERATORS)
        self.head = ChainHead.start(self.genesis.cluster, self.account("n1"))

    def batch(self, count: int = 3, **changes: Any) -> ReceiptBatch:
        """The next receipts of n1, cut now."""
        before, encoded, head = self.head, [], self.head
        for _ in range(count):
            time_ms = max(self.time_ms, head.time_ms)
            receipt = Receipt.of(draft(), self.account("n1"), head.sequence + 1, head.hash, time_ms)
            encoded.append(receipt.encode())
            head = head.followed_by(encoded[-1])
        anchor = self.view.receipt_anchor(self.account("n1"))
        since = anchor.batch.until_ms if anchor is not None else 0
        batch = make_batch(encoded, before, self.account("n1"), since, self.time_ms)
        self.head = ChainHead(head.sequence, head.hash, batch.until_ms)
        return replace(batch, **changes)

    def seal(self, transactions: list[bytes]) -> Block:
        """A signed block of any transactions, which is not applied."""
        assert self.header is not None
        header = replace(
            self.header,
            height=self.height + 1,
            time_ms=self.time_ms,
            transaction_root=transaction_root(transactions),
            previous=self.header.hash(),
        )
        return sign_block(header, transactions, self.writer)

    def refused(self, batch: ReceiptBatch, *names: str) -> str:
        return self.refusal(AnchorReceipts(batch), *(names or ("n1",))).reason

    def audit_of(
        self, name: str, number: int, drafts: Sequence[ReceiptDraft], *, problem: str = ""
    ) -> NodeAudit:
        """What a node would say of a record: all receipts but the last of them anchored."""
        account, asked_ms = self.account(name), self.time_ms + 120_000
        if problem:
            return NodeAudit(account, number, problem, asked_ms, (), (), ())
        start = head = ChainHead.start(self.genesis.cluster, account)
        encoded = []
        for each in drafts:
            receipt = Receipt.of(each, account, head.sequence + 1, head.hash, self.time_ms)
            encoded.append(receipt.encode())
            head = head.followed_by(encoded[-1])
        batch = make_batch(encoded[:-1], start, account, 0, self.time_ms)
        block = self.seal([self.sign(AnchorReceipts(batch), name).encode()])
        proof = find_anchor(block, batch)
        assert proof is not None
        prover = BatchProver(batch, encoded[:-1])
        proofs = tuple(prover.prove(n + 1) for n in range(batch.count))
        return NodeAudit(account, number, "", asked_ms, proofs, (encoded[-1],), (proof,))

    def audit_file(self, *nodes: NodeAudit) -> AuditFile:
        return AuditFile(self.genesis, (), RECORD, self.time_ms + 180_000, nodes)
