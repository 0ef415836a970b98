"""The ``Revocations`` service of a node: its word that a revocation is in force on it.

Who has no part in a grant gets one answer, as in :mod:`.strangers`.
"""

from __future__ import annotations

from typing import Any, NoReturn

from hcefs.access.facts import Account, AccountKind, Grant, LedgerView
from hcefs.access.rights import CHAIN_DEPTH_MAX
from hcefs.access.verifier import Verifier
from hcefs.errors import Denied, Unauthenticated
from hcefs.ids import GrantId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.rates import Rates
from hcefs.services.revocations import Revocations
from hcefs.services.serving import served
from hcefs.services.strangers import Undisclosed, at_its_time
from hcefs.transport.limit import Gate
from hcefs.wire.v1 import revocation_pb2


class RevocationService:
    """Servicer of ``hcefs.v1.Revocations``."""

    def __init__(
        self,
        runtime: Runtime,
        verifier: Verifier,
        view: LedgerView,
        metrics: Metrics,
        gate: Gate,
        rates: Rates,
        revocations: Revocations,
    ) -> None:
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._verifier = verifier
        self._view = view
        self._rates = rates
        self._revocations = revocations

    @served("confirm-revocation")
    async def ConfirmRevocation(
        self, request: revocation_pb2.ConfirmRevocationRequest, context: Any
    ) -> revocation_pb2.ConfirmRevocationResponse:
        """This node's signed word, as soon as it can give it."""
        asker = self._asker(request.proof)
        wanted = GrantId(request.grant)
        began = self.runtime.monotonic()
        grant = self._view.grant(wanted)
        if grant is None or not self._may_know(asker, grant):
            await self._refuse(asker, began)
        signed = await self._revocations.confirm(wanted, request.height)
        return revocation_pb2.ConfirmRevocationResponse(statement=signed.encode())

    def _asker(self, proof: bytes) -> Account:
        now_ms = self.runtime.now_ms()
        body = self._verifier.present_plain(proof, method="confirm-revocation", now_ms=now_ms)
        self._rates.ask(body.presenter)
        asker = self._view.account(body.presenter)
        if asker is None:
            raise Unauthenticated("this account is unknown", reason="unknown-account")
        return asker

    def _may_know(self, asker: Account, grant: Grant) -> bool:
        """The record's owner, who gave the grant or one above it, and operators."""
        record = self._view.record(grant.record)
        if asker.kind is AccountKind.OPERATOR or record is None or asker.account == record.owner:
            return record is not None
        link: Grant | None = grant
        for _ in range(CHAIN_DEPTH_MAX):
            if link is None:
                return False
            if link.granter == asker.account:
                return True
            link = self._view.grant(link.parent) if link.parent is not None else None
        return False

    async def _refuse(self, asker: Account, began: float) -> NoReturn:
        """Tell a stranger nothing.

        Raises:
            Denied: always.
        """
        self._rates.denied(asker.account)
        await at_its_time(self.runtime, began)
        raise Undisclosed(
            Denied("no part in this grant, or there is none", reason="no-part-in-grant")
        )
