"""The ``Admin`` service: what operators and nodes ask a process about itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hcefs.access.facts import AccountKind, LedgerView
from hcefs.access.verifier import Verifier
from hcefs.errors import Denied, Invalid
from hcefs.ids import BlobBase, RecordId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.erasure_answers import ErasureAnswers
from hcefs.services.rates import Rates
from hcefs.services.repair_answers import RepairAnswers
from hcefs.services.serving import served
from hcefs.transport.limit import Gate
from hcefs.wire.v1 import admin_pb2

Report = Callable[[], Awaitable[admin_pb2.StatusResponse]]
Inventory = Callable[[str, int, int], Awaitable[admin_pb2.InventoryResponse]]
Scrub = Callable[[bool], Awaitable[admin_pb2.ScrubResponse]]
Collect = Callable[[bool], Awaitable[admin_pb2.CollectResponse]]

PARTITIONS_MAX = 64


class AdminService:
    """Servicer of ``hcefs.v1.Admin``; ``report`` gathers the state of this process."""

    def __init__(
        self,
        runtime: Runtime,
        verifier: Verifier,
        view: LedgerView,
        report: Report,
        metrics: Metrics,
        gate: Gate,
        inventory: Inventory | None = None,
        repairs: RepairAnswers | None = None,
        scrub: Scrub | None = None,
        collect: Collect | None = None,
        erasures: ErasureAnswers | None = None,
        rates: Rates | None = None,
    ) -> None:
        """``inventory`` lists what is here of some partitions of a profile; ``repairs``
        answers about the repair of a storage node; ``scrub`` tells of its scrub, and hurries
        it when told so; ``collect`` plans or does; ``erasures`` answers about erased records;
        ``rates`` bound what accounts may ask."""
        self._rates = rates
        self._erasures = erasures
        self._repairs = repairs
        self._scrub = scrub
        self._collect = collect
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._verifier = verifier
        self._view = view
        self._report = report
        self._inventory = inventory

    @served("status")
    async def Status(
        self, request: admin_pb2.StatusRequest, context: Any
    ) -> admin_pb2.StatusResponse:
        """The state of this process, for operators and nodes.

        A node answers even with a stale lease: an operator asks when things are bad.
        """
        self._admit(request.proof)
        return await self._report()

    @served("inventory")
    async def Inventory(
        self, request: admin_pb2.InventoryRequest, context: Any
    ) -> admin_pb2.InventoryResponse:
        """What is here of some partitions, for operators and nodes."""
        self._admit(request.proof)
        if self._inventory is None:
            raise Invalid("only storage nodes have an inventory", reason="unsupported")
        count = min(request.count, PARTITIONS_MAX)
        return await self._inventory(request.profile, request.first, count)

    @served("repair-status")
    async def RepairStatus(
        self, request: admin_pb2.RepairStatusRequest, context: Any
    ) -> admin_pb2.RepairStatusResponse:
        """What this node is to rebuild, and how far it is."""
        self._admit(request.proof)
        return self._repairing().status()

    @served("repair-now")
    async def RepairNow(
        self, request: admin_pb2.RepairNowRequest, context: Any
    ) -> admin_pb2.RepairNowResponse:
        """Begin a pass at once; for operators, because clients may feel it."""
        self._admit(request.proof, "repair", AccountKind.OPERATOR)
        self._repairing().now()
        return admin_pb2.RepairNowResponse()

    @served("repair-list")
    async def RepairList(
        self, request: admin_pb2.RepairListRequest, context: Any
    ) -> admin_pb2.RepairListResponse:
        """What waits, the most urgent first."""
        self._admit(request.proof)
        return self._repairing().queued(request.limit)

    @served("explain")
    async def Explain(
        self, request: admin_pb2.ExplainRequest, context: Any
    ) -> admin_pb2.ExplainResponse:
        """What is here of one blob or pack."""
        self._admit(request.proof)
        return await self._repairing().explain(BlobBase(request.base))

    @served("verify")
    async def Verify(
        self, request: admin_pb2.VerifyRequest, context: Any
    ) -> admin_pb2.VerifyResponse:
        """Read what is here of some partitions, a page at a time."""
        self._admit(request.proof)
        return await self._repairing().verify(
            request.profile, request.partition, request.count, request.after
        )

    @served("find-lost")
    async def FindLost(
        self, request: admin_pb2.FindLostRequest, context: Any
    ) -> admin_pb2.FindLostResponse:
        """Look for what records in some partitions name."""
        self._admit(request.proof)
        return await self._repairing().find_lost(request.partitions)

    def _repairing(self) -> RepairAnswers:
        if self._repairs is None:
            raise Invalid("only storage nodes repair", reason="unsupported")
        return self._repairs

    @served("scrub")
    async def Scrub(self, request: admin_pb2.ScrubRequest, context: Any) -> admin_pb2.ScrubResponse:
        """Scrub and quarantine of this node, for operators."""
        self._admit(request.proof, "scrub", AccountKind.OPERATOR)
        if self._scrub is None:
            raise Invalid("only storage nodes have a scrub", reason="unsupported")
        return await self._scrub(request.now)

    @served("collect")
    async def Collect(
        self, request: admin_pb2.CollectRequest, context: Any
    ) -> admin_pb2.CollectResponse:
        """What nothing refers to on this node: said, or deleted; for operators."""
        self._admit(request.proof, "collect", AccountKind.OPERATOR)
        if self._collect is None:
            raise Invalid("only storage nodes collect", reason="unsupported")
        return await self._collect(request.dry_run)

    @served("erasure")
    async def StateErasure(
        self, request: admin_pb2.StateErasureRequest, context: Any
    ) -> admin_pb2.StateErasureResponse:
        """How far the erasure of a record is here; for operators, nodes and its owner."""
        record = RecordId(request.record_id)
        now_ms = self.runtime.now_ms()
        proof = self._verifier.present_plain(request.proof, method="erasure", now_ms=now_ms)
        if self._rates is not None:
            self._rates.ask(proof.presenter)
        asker, known = self._view.account(proof.presenter), self._view.record(record)
        is_owner = known is not None and known.owner == proof.presenter
        staff = (AccountKind.OPERATOR, AccountKind.NODE)
        if asker is None or not asker.active or not (is_owner or asker.kind in staff):
            if self._rates is not None:
                self._rates.denied(proof.presenter)
            raise Denied(
                "the erasure of a record is for operators, nodes and its owner to ask about",
                reason="not-the-owner",
            )
        if self._erasures is None:
            raise Invalid("only storage nodes erase", reason="unsupported")
        return await self.runtime.disk(self._erasures.answer, record)

    def _admit(self, encoded: bytes, method: str = "status", *kinds: AccountKind) -> None:
        proof = self._verifier.present_plain(encoded, method=method, now_ms=self.runtime.now_ms())
        if self._rates is not None:
            self._rates.ask(proof.presenter)
        asker = self._view.account(proof.presenter)
        if asker is None or asker.kind not in (kinds or (AccountKind.OPERATOR, AccountKind.NODE)):
            if self._rates is not None:
                self._rates.denied(proof.presenter)
            raise Denied(f"{method} is for operators and nodes", reason="not-an-operator")
