"""The ``Snapshots`` service: the snapshot that a replica keeps, for whoever begins with it.

Served by the ledger and by nodes on their peer ports to nodes, known by their TLS keys,
and by nodes on their client ports to operators, who recover a ledger.  What is served is
a claim to the reader, who checks signatures and digests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from hcefs.errors import NotFound
from hcefs.ledger.log import LedgerLog
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.ledger_service import NodeKeys
from hcefs.services.serving import served, streamed
from hcefs.transport.limit import Gate
from hcefs.wire.v1 import replica_pb2, snapshot_pb2

Admit = Callable[[replica_pb2.ReplicaAsker, Any], object]
"""Raises unless whoever asks may be answered."""


def admit_nodes(log: LedgerLog) -> Admit:
    """Nodes, by the TLS keys that they registered."""
    keys = NodeKeys(log)
    return lambda _, context: keys.account_of(context)


class SnapshotService:
    """Servicer of ``hcefs.v1.Snapshots`` for one replica."""

    def __init__(
        self, runtime: Runtime, log: LedgerLog, metrics: Metrics, gate: Gate, admit: Admit
    ) -> None:
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._log = log
        self._admit = admit

    @served("offer-snapshot")
    async def OfferSnapshot(
        self, request: snapshot_pb2.OfferSnapshotRequest, context: Any
    ) -> snapshot_pb2.OfferSnapshotResponse:
        """The newest snapshot that a signed header names."""
        self._admit(request.asker, context)
        made = self._log.snapshots.made
        answer = snapshot_pb2.OfferSnapshotResponse()
        if made is not None:
            answer.made_height, answer.made_root = made.height, made.root()
        offer = await self.runtime.disk(self._log.offer)
        if offer is not None:
            answer.manifest = offer.manifest.encode()
            answer.base = offer.base.encode()
            answer.carrier = offer.carrier.encode()
            answer.terms.extend(offer.terms)
        return answer

    @streamed("read-snapshot")
    async def ReadSnapshot(
        self, request: snapshot_pb2.ReadSnapshotRequest, context: Any
    ) -> AsyncIterator[snapshot_pb2.ReadSnapshotResponse]:
        """The parts of that snapshot, read one at a time as the reader takes them."""
        self._admit(request.asker, context)
        offer = await self.runtime.disk(self._log.offer)
        if offer is None or offer.manifest.height != request.height:
            raise NotFound(
                f"there is no snapshot of block {request.height} here: ask for the newest",
                reason="no-such-snapshot",
            )
        for index in range(request.first_part, len(offer.manifest.parts)):
            part = await self.runtime.disk(self._log.snapshots.part, request.height, index)
            self.metrics.count("ledger_snapshot_parts_total")
            yield snapshot_pb2.ReadSnapshotResponse(part=part)
