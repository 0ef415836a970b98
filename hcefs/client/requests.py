"""Requests for access: asking for a right, and answering as the patient.

A request conveys nothing.  The patient approves by giving grants within it, each with its
key box, and then by the answer that names them; the ledger refuses an answer that is wider
than the request.

Invariants: what is given here is exactly what was asked, or less.  An approval that was
interrupted may be repeated: grants that it gave already are found and not given twice.
Source: docs/decisions/0032-labels-requests-and-consents.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from hcefs.access.facts import Action, Grant
from hcefs.client.classes import ClassClient
from hcefs.client.ledger import Submitted
from hcefs.errors import Denied, Invalid, NotFound
from hcefs.ids import AccountId, AskId, RecordId
from hcefs.ledger.request_facts import AskedAccess, RefusalCode
from hcefs.ledger.transactions_requests import ANSWER_GRANTS_MAX, AnswerRequest, RequestAccess
from hcefs.wire.v1 import ledger_pb2

EXPIRES_AFTER_MS = 7 * 24 * 3_600_000


class RequestClient(ClassClient):
    """The part of a client that asks for access and answers who asks."""

    async def request_access(
        self,
        patient: AccountId,
        actions: Action,
        purposes: Sequence[str],
        *,
        not_after_ms: int,
        record: RecordId | None = None,
        expires_ms: int | None = None,
    ) -> AskedAccess:
        """Ask a patient for access to a record, or to all records (``record`` None).

        The request expires after a week, or with what it asks for, if nothing else is said.

        Raises:
            NotFound: ``unknown-patient`` or ``unknown-record``: no such one, or not the
                patient's.
            Conflict: ``too-many-requests``.
            Denied, Invalid: why the ledger refuses it.
        """
        if expires_ms is None:
            now_ms = max(self.runtime.now_ms(), self.ledger_time_ms)
            expires_ms = min(now_ms + EXPIRES_AFTER_MS, not_after_ms)
        ask = AskId(self.runtime.random(AskId.SIZE))
        transaction = RequestAccess(
            ask, patient, record, actions, tuple(purposes), not_after_ms, expires_ms
        )
        await self.submit(self._signed(transaction))
        return await self.access_request(ask)

    async def requests(self) -> list[AskedAccess]:
        """Requests that this account made, and open ones that it is to answer."""
        return await self._many(
            AskedAccess, lambda proof: ledger_pb2.QueryRequest(proof=proof, my_requests=True)
        )

    async def access_request(self, ask: AskId) -> AskedAccess:
        """One of them.

        Raises:
            NotFound: ``unknown-request``: not this account's, answered, or expired.
        """
        for each in await self.requests():
            if each.ask == ask:
                return each
        raise NotFound(
            "there is no such request that this account made or is to answer: it may have "
            "expired, or be answered",
            reason="unknown-request",
        )

    async def approve(
        self,
        ask: AskId,
        *,
        records: Sequence[RecordId] | None = None,
        actions: Action | None = None,
        purposes: Sequence[str] | None = None,
        not_after_ms: int | None = None,
    ) -> list[Grant]:
        """Give what a request asks for, or less, and say so on the ledger.

        ``records`` are needed when all are asked for: :meth:`choose_records` finds them.

        Raises:
            NotFound: ``unknown-request``.
            Denied: ``wider-than-asked``; nothing is given then.
            Invalid: ``no-records`` or ``too-many-records``.
            HcefsError: why a grant could not be given; those before it stand, and a repeat
                goes on behind them.
        """
        asked = await self.access_request(ask)
        if records is None:
            records = () if asked.record is None else (asked.record,)
        wanted = list(dict.fromkeys(records))
        if not wanted:
            raise Invalid("say which records to give access to", reason="no-records")
        if len(wanted) > ANSWER_GRANTS_MAX:
            raise Invalid(
                f"one answer names at most {ANSWER_GRANTS_MAX} records: give the others without "
                "a request",
                reason="too-many-records",
            )
        right = (
            asked.actions if actions is None else actions,
            asked.purposes if purposes is None else tuple(purposes),
            asked.not_after_ms if not_after_ms is None else not_after_ms,
        )
        require_within(asked, wanted, *right)
        grants = [await self._fulfil(asked, record, *right) for record in wanted]
        await self.submit(
            self._signed(
                AnswerRequest(ask, tuple(grant.grant for grant in grants), RefusalCode.NONE)
            )
        )
        return grants

    async def refuse(self, ask: AskId, code: RefusalCode = RefusalCode.UNSPECIFIED) -> Submitted:
        """Refuse a request, as the patient.

        Raises:
            NotFound, Denied, Conflict: unknown, not this account's, answered or expired.
        """
        return await self.submit(self._signed(AnswerRequest(ask, (), code)))

    async def withdraw(self, ask: AskId) -> Submitted:
        """Take a request back, as who made it.

        Raises:
            NotFound, Denied, Conflict: as :meth:`refuse`.
        """
        return await self.refuse(ask, RefusalCode.WITHDRAWN)

    async def _fulfil(
        self,
        asked: AskedAccess,
        record: RecordId,
        actions: Action,
        purposes: tuple[str, ...],
        not_after_ms: int,
    ) -> Grant:
        """The grant on one record: one that an earlier attempt gave, or a new one."""
        for grant in await self.grants(record):
            if (
                grant.grantee == asked.requester
                and grant.granter == self.account
                and grant.height >= asked.height
                and not grant.revoked_height
                and grant.parent is None
                and grant.blob is None
                and grant.actions == actions
                and grant.purposes == purposes
                and grant.not_after_ms == not_after_ms
            ):
                if actions & Action.READ:
                    await self.deliver(grant)  # a box that is there already stays
                return grant
        return await self.give(
            record, asked.requester, actions, purposes, not_after_ms=not_after_ms
        )


def require_within(
    asked: AskedAccess,
    records: Sequence[RecordId],
    actions: Action,
    purposes: Sequence[str],
    not_after_ms: int,
) -> None:
    """Check, before anything is given, that an approval is within its request.

    Raises:
        Denied: ``wider-than-asked``.
    """
    if (
        (asked.record is not None and set(records) != {asked.record})
        or actions & ~asked.actions
        or not set(purposes) <= set(asked.purposes)
        or not_after_ms > asked.not_after_ms
    ):
        raise Denied(
            "this is more than was asked for: approve the request as it is, or less",
            reason="wider-than-asked",
        )
