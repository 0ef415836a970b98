"""The ``Audit`` service: this node's receipts about a record, proved, for the record's owner.

Asking is an access like any other: it is decided by :mod:`hcefs.access.rights`, and leaves
its own receipt before anything is shown.

Invariants: only receipts about the record that was admitted leave; a page is bounded in
receipts and in what is read to prove them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hcefs.errors import Invalid
from hcefs.evidence.proof import BATCH_RECEIPTS_MAX, BatchProver
from hcefs.ids import RecordId, RequestId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.desk import Asked, Desk
from hcefs.services.serving import served
from hcefs.store.receipts import AnchorNote, ReceiptStore
from hcefs.transport.limit import Gate
from hcefs.wire.v1 import audit_pb2

PAGE_RECEIPTS = 256
PAGE_BYTES = 512 << 10
PROVED_RECEIPTS_MAX = 4 * BATCH_RECEIPTS_MAX
"""Receipts of whole batches that are read at most to prove those of one page."""


class AuditService:
    """Servicer of ``hcefs.v1.Audit``."""

    def __init__(
        self,
        runtime: Runtime,
        desk: Desk,
        store: ReceiptStore,
        metrics: Metrics,
        gate: Gate,
        hasten: Callable[[], None],
    ) -> None:
        """``hasten`` is called when what was asked for is not proved yet."""
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._desk = desk
        self._store = store
        self._hasten = hasten

    @served("audit")
    async def ListReceipts(
        self, request: audit_pb2.ListReceiptsRequest, context: Any
    ) -> audit_pb2.ListReceiptsResponse:
        """A page of the receipts about one record."""
        if request.after >= 1 << 63:
            raise Invalid("there is no receipt of such a number", reason="bad-number")
        asked = Asked(
            request.authorization.token,
            request.authorization.proof,
            "audit",
            RecordId(request.record_id),
            None,
            0,
            0,
            request.min_height,
            0,
            RequestId(request.request_id),
        )
        call, _ = await self._desk.admit(asked, gateway=self._desk.me, entry=True, owner=True)
        answer = await self.runtime.disk(self._page, call.record, request.after)
        if answer.unanchored:
            self._hasten()
        return answer

    def _page(self, record: RecordId, after: int) -> audit_pb2.ListReceiptsResponse:
        answer = audit_pb2.ListReceiptsResponse()
        found = self._store.about(record, after, PAGE_RECEIPTS)
        prover: BatchProver | None = None
        note: AnchorNote | None = None
        size = read = 0
        for number, data in found:
            if note is None or not note.batch.first <= number <= note.batch.last:
                note, prover = self._store.anchor_of(number), None
            if note is None or not note.proof:
                answer.unanchored.append(data)
                size += len(data)
            else:
                if prover is None:
                    read += note.batch.count
                    if read > PROVED_RECEIPTS_MAX:
                        break
                    batch = note.batch
                    receipts = self._store.receipts(batch.first, batch.last)
                    prover = BatchProver(batch, receipts)
                    answer.anchors.append(note.proof)
                    size += len(note.proof)
                proof = prover.prove(number).encode()
                answer.proofs.append(proof)
                size += len(proof)
            answer.next = number
            if size > PAGE_BYTES:
                break
        else:
            if len(found) < PAGE_RECEIPTS:
                answer.next = 0
        return answer
