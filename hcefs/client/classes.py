"""The classes of records: said when a record is opened, and used to choose records.

A patient's ceiling ("at most normal") and exclusions ("no psychiatry") become a list of
records here, in the patient's own software, and a grant on each; nodes and ledger never
learn why one record is on it and another is not.

Invariants: a record whose class is not known, not proved or not said is not chosen; a
class counts only if the owner signed it as the record's first entry.

Not guaranteed: that a record opened later is included.  It is not: a choice is made over
the records that there are, and the patient makes it again.
Source: docs/decisions/0032-labels-requests-and-consents.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hcefs.access.facts import Action, Grant, Record
from hcefs.client.channels import Recent
from hcefs.client.connection import Connection
from hcefs.client.get import GetClient
from hcefs.client.listing import ListClient
from hcefs.client.put import PutClient
from hcefs.client.records import OWNER_PURPOSE, RecordClient
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import Conflict, HcefsError, Unavailable
from hcefs.formats.record_class import (
    CLASS_CONTENT_TYPE,
    CLASS_PAYLOAD_SIZE,
    Confidentiality,
    RecordClass,
    known_sensitivities,
    left_out_for,
)
from hcefs.ids import AccountId, RecordId
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer

RECORDS_AT_ONCE = 8
CLASSES_KEPT = 4096


@dataclass(frozen=True)
class LeftOut:
    """A record that was not chosen, or got no grant: ``reason`` is a slug.

    ``no-class``, ``above-ceiling:<level>``, ``excluded:<code>``, ``unreadable:<reason>``
    when its class could not be read, ``failed:<reason>`` when giving the grant failed.
    """

    record: RecordId
    reason: str


@dataclass(frozen=True)
class Choice:
    """Records within a ceiling, and those that are not, with the reasons."""

    records: tuple[RecordId, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class GivenAll:
    """The grants that a choice led to, and the records without one."""

    grants: tuple[Grant, ...]
    left_out: tuple[LeftOut, ...]


class ClassClient(RecordClient, PutClient, GetClient, ListClient):
    """The part of a client that says, reads and uses the classes of records."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        # A class never changes; that there is none may, as long as the record is empty.
        self._classes: Recent[RecordId, RecordClass] = Recent(self.runtime, CLASSES_KEPT)

    async def open_record(
        self, record: RecordId | None = None, *, label: RecordClass | None = None
    ) -> Record:
        """Open a record that this account, a patient's, owns; the id is random by default.

        With ``label`` its class is put as the first entry, before anybody else could
        append.  If only that fails, repeat this with the record's id.

        Raises:
            Denied: not a patient.
            Conflict: ``record-exists``; or, with a class, ``class-fixed``: the record has
                entries, and its first one does not say this class.
            Unavailable: the record is open and its class is not stored yet.
        """
        if label is None:
            return await super().open_record(record)
        label.check()
        name = record or RecordId(self.runtime.random(RecordId.SIZE))
        try:
            opened = await super().open_record(name)
        except Conflict as error:
            if record is None or error.reason != "record-exists":
                raise
            opened = await self.record(name)
        if opened.leaf_count:
            if await self.record_class(name) == label:
                return opened
            raise Conflict(
                "a record's class is fixed by its first entry, and this one has entries: open "
                "another record",
                reason="class-fixed",
            )
        # Sealed here: the node that takes it must not read it.
        await self.put(
            name,
            label.payload(),
            content_type=CLASS_CONTENT_TYPE,
            purpose=OWNER_PURPOSE,
            seal="client",
        )
        return await self.record(name)

    async def record_class(self, record: RecordId) -> RecordClass | None:
        """The class of a record that this account owns; None if none was said.

        Reads the record's listing, once: a class is remembered.

        Raises:
            Denied, NotFound: not this account's.
            Invalid: ``bad-class``: what the owner put there is malformed.
            Unavailable, Corrupt: it cannot be read now.
        """
        known = self._classes.get(record)
        if known is not None:
            return known
        fact = await self.record(record)
        if not fact.leaf_count:
            return None
        first = await self.leaves(record, 0, 1)
        if not first or first[0].signer != fact.owner:
            return None
        listing = await self.list(record, purpose=OWNER_PURPOSE)
        entry = next((each for each in listing if each.leaf_index == 0), None)
        if entry is None:
            raise Unavailable(
                "the first entry of the record is not listed now: try again",
                reason="incomplete-listing",
            )
        if entry.slot or entry.signer != fact.owner:
            return None  # packed: put as any payload, not as a class
        stream = await self.get(record, entry.blob, purpose=OWNER_PURPOSE, seal="client")
        async with stream:
            said = stream.metadata is not None and (
                stream.metadata.content_type == CLASS_CONTENT_TYPE
            )
            if not said or stream.length != CLASS_PAYLOAD_SIZE:
                return None
            return self._classes.put(record, RecordClass.of_payload(await stream.read()))

    async def record_classes(
        self, records: Sequence[RecordId]
    ) -> list[RecordClass | HcefsError | None]:
        """For each record what :meth:`record_class` says, or why it cannot."""
        room = asyncio.Semaphore(RECORDS_AT_ONCE)

        async def one(record: RecordId) -> RecordClass | HcefsError | None:
            async with room:
                try:
                    return await self.record_class(record)
                except HcefsError as error:
                    return error

        return list(await asyncio.gather(*(one(record) for record in records)))

    async def choose_records(
        self, ceiling: Confidentiality, excluded: Sequence[str] = ()
    ) -> Choice:
        """This account's records within a ceiling, without those of excluded sensitivities.

        Raises:
            Invalid: ``unknown-sensitivity``: nothing is chosen by a code that is not known.
        """
        codes = known_sensitivities(excluded)
        records = [each.record for each in await self.records()]
        chosen: list[RecordId] = []
        left_out: list[LeftOut] = []
        for record, found in zip(records, await self.record_classes(records), strict=True):
            if isinstance(found, HcefsError):
                left_out.append(LeftOut(record, f"unreadable:{found.reason}"))
                continue
            reason = left_out_for(found, ceiling, codes)
            if reason:
                left_out.append(LeftOut(record, reason))
            else:
                chosen.append(record)
        return Choice(tuple(chosen), tuple(left_out))

    async def give_all(
        self,
        grantee: AccountId,
        actions: Action,
        purposes: Sequence[str],
        *,
        ceiling: Confidentiality,
        excluded: Sequence[str] = (),
        not_before_ms: int | None = None,
        not_after_ms: int,
    ) -> GivenAll:
        """A grant on each record of this account that is within the ceiling.

        Each grant stands alone: if one fails, the others are given all the same.  Records
        that are opened later are not included.

        Raises:
            Invalid: ``unknown-sensitivity``, or the arguments of the grants.
        """
        choice = await self.choose_records(ceiling, excluded)
        given: list[Grant] = []
        left_out = list(choice.left_out)
        for record in choice.records:
            try:
                grant = await self.give(
                    record,
                    grantee,
                    actions,
                    purposes,
                    not_before_ms=not_before_ms,
                    not_after_ms=not_after_ms,
                )
            except HcefsError as error:
                left_out.append(LeftOut(record, f"failed:{error.reason}"))
            else:
                given.append(grant)
        return GivenAll(tuple(given), tuple(left_out))
