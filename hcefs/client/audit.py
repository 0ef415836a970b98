"""Who touched a record: the receipts of all nodes, gathered and proved.

Invariants: every node of the map is asked and is in the result, those without an answer
with the reason; what leaves here was checked (:func:`hcefs.ledger.audit_file.check_node`).

Not guaranteed: completeness of a node that lies about its own receipts; docs/AUDIT.md.
"""

from __future__ import annotations

import asyncio

from hcefs.client.authorize import Right, Scope
from hcefs.client.nodes import NodeClient
from hcefs.errors import Corrupt, Denied, HcefsError, Invalid
from hcefs.evidence.proof import ReceiptProof
from hcefs.ids import GrantId, RecordId
from hcefs.ledger.audit_file import Audit, AuditFile, NodeAudit, Touch, audit_of, check_node
from hcefs.ledger.inclusion import TransactionProof
from hcefs.placement.cluster_map import Node, NodeState
from hcefs.transport.retry import retrying
from hcefs.wire.v1 import audit_pb2

AUDIT_SECONDS = 30.0
ATTEMPTS = 3
NODES_AT_ONCE = 8
PAGES_MAX = 1 << 14


class AuditClient(NodeClient):
    """The part of a client that asks who touched a record."""

    async def audit(self, record: RecordId, *, purpose: str = "PATRQT") -> tuple[AuditFile, Audit]:
        """What all nodes know about a record, as a file that proves itself, and what it proves.

        For the record's owner.  A node that refuses, or whose answer is not what it claims,
        counts as one that did not answer, with that reason.

        Raises:
            Denied: not the owner: no node answers, and one says so.
            Corrupt: what the ledger serves is not of this cluster.
        """
        genesis, terms = await self.genesis(), await self.terms()
        current = await self.cluster_map()
        gate = asyncio.Semaphore(NODES_AT_ONCE)
        denials: list[Denied] = []

        async def ask(node: Node) -> tuple[NodeAudit, list[Touch]]:
            if node.state is NodeState.REMOVED:
                return _silent(node, "removed", self.runtime.now_ms()), []
            async with gate:
                asked_ms = self.runtime.now_ms()
                try:
                    found = await self._receipts_of(node, record, purpose, asked_ms)
                    touches = await self.runtime.compute(check_node, found, record, terms)
                except HcefsError as error:
                    if isinstance(error, Denied):
                        denials.append(error)
                    return _silent(node, error.reason, asked_ms), []
            return found, touches

        answers = await asyncio.gather(*(ask(node) for node in current.nodes))
        if denials and all(each.problem for each, _ in answers):
            raise denials[0]
        ordered = tuple(sorted((each for each, _ in answers), key=lambda each: each.node_id))
        file = AuditFile(genesis, terms.changes, record, self.runtime.now_ms(), ordered)
        return file, audit_of(file, (touch for _, touches in answers for touch in touches))

    async def _receipts_of(
        self, node: Node, record: RecordId, purpose: str, asked_ms: int
    ) -> NodeAudit:
        proofs: list[ReceiptProof] = []
        unanchored: list[bytes] = []
        anchors: dict[bytes, TransactionProof] = {}
        after = 0
        for _ in range(PAGES_MAX):
            page = await self._page(node, record, purpose, after)
            proofs += map(ReceiptProof.decode, page.proofs)
            unanchored += page.unanchored
            anchors.update((data, TransactionProof.decode(data)) for data in page.anchors)
            if not page.next:
                return NodeAudit(
                    node.account, node.node_id, "", asked_ms, tuple(proofs),
                    tuple(unanchored), tuple(anchors.values()),
                )  # fmt: skip
            if page.next <= after:
                break
            after = page.next
        raise Corrupt("a node's receipts do not go on, or do not end", reason="bad-page")

    async def _page(
        self, node: Node, record: RecordId, purpose: str, after: int
    ) -> audit_pb2.ListReceiptsResponse:
        right = Right(GrantId.zero(), purpose)

        async def once() -> audit_pb2.ListReceiptsResponse:
            request = audit_pb2.ListReceiptsRequest(
                authorization=self._authorizer.authorize(
                    "audit", Scope(record), right, node.account
                ),
                record_id=bytes(record),
                after=after,
                min_height=self.height,
                request_id=self._request_id(),
            )
            return await self._channels.unary(
                node.address,
                "/hcefs.v1.Audit/ListReceipts",
                request,
                audit_pb2.ListReceiptsResponse,
                AUDIT_SECONDS,
            )

        return await retrying(self.runtime, ATTEMPTS, once)


def _silent(node: Node, problem: str, asked_ms: int) -> NodeAudit:
    return NodeAudit(node.account, node.node_id, problem, asked_ms, (), (), ())


def read_audit(data: bytes) -> AuditFile:
    """A file of ``hcefs audit prove``.

    Raises:
        Invalid: it is none.
    """
    try:
        return AuditFile.decode(data)
    except Invalid as error:
        raise Invalid(
            f"this is not a file of `hcefs audit prove`: {error.message}", reason="bad-file"
        ) from None
