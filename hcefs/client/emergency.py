"""Emergencies: naming who may open, refusing, opening, closing, reviewing.

A naming is worth nothing without its key, so :meth:`EmergencyClient.name_emergency`
returns only when the key boxes are on enough nodes.  They hold what a box of a grant on
the whole record holds, lie there sealed, and are handed out to nobody before an opening
is on the ledger.  Revocations renew them (:mod:`hcefs.client.records`).

Not guaranteed: that a reader forgets.  Who opened has had the record's key; the patient
renews it afterwards (:meth:`EmergencyClient.renew_after`), which closes what is put later.

Source: docs/decisions/0034-break-glass.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from hcefs.access.emergency import (
    EmergencyNaming,
    EmergencyOpening,
    EmergencyPolicy,
    EmergencyRefusal,
    EmergencyTotals,
)
from hcefs.client.authorize import Right
from hcefs.client.ledger import Submitted
from hcefs.client.records import OWNER_PURPOSE, RecordClient
from hcefs.errors import Conflict, Corrupt
from hcefs.ids import AccountId, GrantId, PutKey, RecordId
from hcefs.ledger.transactions_emergency import (
    NAMINGS_MAX,
    CloseEmergency,
    EndNaming,
    NameEmergency,
    NewNaming,
    OpenEmergency,
    RefuseEmergency,
    ReviewEmergency,
)
from hcefs.wire.v1 import ledger_pb2


class EmergencyClient(RecordClient):
    """The part of a client that is about emergencies."""

    # -- the patient

    async def name_emergency(
        self, records: Sequence[RecordId], grantees: Sequence[AccountId]
    ) -> list[EmergencyNaming]:
        """Let practitioners, or those of institutions, open records in an emergency.

        Returns when the key boxes are delivered.  If only that fails, the namings are on
        the ledger all the same: :meth:`deliver_naming` repeats it.

        Raises:
            Denied, NotFound, Conflict: why the ledger refuses it; nothing is named then.
            Unavailable: too few nodes took the key boxes.
        """
        new = tuple(
            NewNaming(GrantId(self.runtime.random(GrantId.SIZE)), record, grantee)
            for record in records
            for grantee in grantees
        )
        for start in range(0, max(1, len(new)), NAMINGS_MAX):
            await self.submit(self._signed(NameEmergency(new[start : start + NAMINGS_MAX])))
        wanted = {each.naming for each in new}
        namings = [each for each in await self.namings() if each.naming in wanted]
        for naming in namings:
            await self.deliver_naming(naming)
        return namings

    async def deliver_naming(self, naming: EmergencyNaming) -> None:
        """Upload the key box of a naming; a box that is there already stays."""
        record = await self.record(naming.record)
        key = await self._own_key(record.record, record.generation)
        grantee = await self.fetch_account(naming.grantee)
        box = await self.runtime.compute(
            self._sealer.box, naming.boxed(), grantee, record.generation, key.seed
        )
        await self._upload_box(box, Right(GrantId.zero(), OWNER_PURPOSE))

    async def end_namings(self, namings: Sequence[GrantId]) -> Submitted:
        """End namings and what is open under them; nodes delete the key boxes.

        Raises:
            NotFound, Denied, Conflict: why the ledger refuses it.
        """
        return await self.submit(self._signed(EndNaming(tuple(namings))))

    async def refuse_emergency(
        self, records: Sequence[RecordId], *, refuse: bool = True
    ) -> Submitted:
        """Refuse that anybody opens records in an emergency, or withdraw that.

        What a refusal is worth, the operators' policy says (``refusal_wins``).
        """
        key = PutKey(self.runtime.random(PutKey.SIZE))
        return await self.submit(self._signed(RefuseEmergency(tuple(records), refuse, key)))

    async def emergency_refusals(self) -> list[EmergencyRefusal]:
        """The records of this account for which it refuses."""
        return await self._many(
            EmergencyRefusal,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, emergency_refusals=True),
        )

    async def renew_after(self, opening: EmergencyOpening) -> None:
        """Renew the keys of the records of an opening of this patient.

        The reader had them; what is put from now on is closed to it.  An opening that is
        still open is ended by this.  A record whose keys were renewed since is left alone.

        Raises:
            HcefsError: as :meth:`revoke`.
        """
        for grant in opening.grants():
            try:
                await self.revoke(grant)
            except Conflict as error:
                if error.reason != "already-revoked":
                    raise

    # -- the practitioner

    async def open_emergency(
        self,
        records: Sequence[RecordId],
        *,
        role: str,
        reason: str,
        minutes: int | None = None,
        note_digest: bytes = b"",
    ) -> EmergencyOpening:
        """Open records of one patient; the ledger tells the patient.

        ``minutes`` None is as long as the policy allows.  Read each with the grant
        :func:`hcefs.access.emergency.grant_of` and the purpose BTG.
        ``note_digest`` is the BLAKE3 of a note that is kept elsewhere.

        Raises:
            Denied: not named, refused, or beyond the policy.
            Invalid, Conflict, NotFound: why the ledger refuses it.
        """
        if minutes is None:
            minutes = (await self.emergency_policy()).minutes_max
        opening = GrantId(self.runtime.random(GrantId.SIZE))
        await self.submit(
            self._signed(OpenEmergency(opening, tuple(records), role, reason, note_digest, minutes))
        )
        return await self.emergency(opening)

    async def close_emergency(self, opening: GrantId) -> Submitted:
        """End an opening before its time; streams under it are cut.

        Raises:
            Denied, Conflict, NotFound: why the ledger refuses it.
        """
        return await self.submit(self._signed(CloseEmergency(opening)))

    # -- the reviewer

    async def review_emergency(
        self, opening: GrantId, *, justified: bool, note_digest: bytes = b""
    ) -> Submitted:
        """Say what a look at an opening that has ended found; as patient or institution.

        Operators sign a ``review-emergency`` by their threshold instead.

        Raises:
            Denied, Conflict, NotFound: why the ledger refuses it.
        """
        return await self.submit(self._signed(ReviewEmergency(opening, justified, note_digest)))

    # -- everybody

    async def emergency_policy(self) -> EmergencyPolicy:
        """What operators allow; number 0 is the default: nothing."""
        return await self._one(
            EmergencyPolicy,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, emergency_policy=True),
        )

    async def emergency(self, opening: GrantId) -> EmergencyOpening:
        """One opening, for those whom it concerns.

        Raises:
            NotFound: unknown, or not for this account to know.
        """
        found = await self._one(
            EmergencyOpening,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, emergency_opening=bytes(opening)),
        )
        if found.opening != opening:
            raise Corrupt(
                "the ledger's answer is about another opening than was asked: check its address",
                reason="wrong-fact",
            )
        return found

    async def emergencies(self) -> list[EmergencyOpening]:
        """The newest openings of this patient, or by this practitioner, at most 256.

        For an institution those of its practitioners, for operators all, that wait for
        a review.
        """
        return await self._many(
            EmergencyOpening,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, emergency_openings=True),
        )

    async def emergency_totals(self) -> EmergencyTotals:
        """How many openings there were and how many wait for a review; for operators."""
        return await self._one(
            EmergencyTotals,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, emergency_totals=True),
        )
