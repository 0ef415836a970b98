"""Records and grants: opening, giving, delivering keys, revoking.

A grant to read is worth nothing without its key, so :meth:`RecordClient.give`
returns only when the key box is on enough nodes.  What a box holds follows from
the grant: the whole record, its current private key (older ones are reached
through links); one blob, its DEK; a range, the secrets of its segments.

Revoking a grant to read starts the record's next generation, and so does renewing the
record's key without a revocation.  The boxes of the
readers that remain, and the link that keeps the past open to them, are uploaded
before that, so that none of them is locked out meanwhile.

Invariants: rows are sealed anew for each upload but repeated byte for byte within
one; an older row under the same name stands (boxes are write-once).

Not guaranteed: that a granter below the owner can rotate keys.  It cannot; the
owner may revoke the same grant once more to do so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from hcefs.access.emergency import EmergencyNaming
from hcefs.access.facts import Action, Grant, Record
from hcefs.access.rights import CHAIN_DEPTH_MAX
from hcefs.client.authorize import Right, Scope
from hcefs.client.connection import Connection
from hcefs.client.keys import BlobKey, Sealer, own_key
from hcefs.client.ledger import Submitted
from hcefs.client.stat import StatClient
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.keys import HybridKey
from hcefs.erasure.scheme import Geometry, profile_named
from hcefs.errors import Conflict, Denied, Invalid, NotFound
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import Core, Layout
from hcefs.formats.pack import PackLayout
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.ledger.transactions import GiveGrant, OpenRecord, RevokeGrant
from hcefs.ledger.transactions_keys import RotateGeneration
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.wire.v1 import blob_pb2, ledger_pb2

UPLOADS = 8
"""Key boxes on their way at the same time."""

OWNER_PURPOSE = "PATRQT"


ROTATION_ATTEMPTS = 4


class RecordClient(StatClient):
    """The part of a client that owns records and gives and revokes grants."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self._sealer = Sealer(connection.cluster, self.account, keys.key_version, self._signing_key)
        self._rotating = asyncio.Lock()

    async def open_record(self, record: RecordId | None = None) -> Record:
        """Open a record that this account, a patient's, owns; the id is random by default.

        Raises:
            Denied: not a patient.
            Conflict: ``record-exists``.
        """
        name = record or RecordId(self.runtime.random(RecordId.SIZE))
        key = self._keys.record_key(name, 0)
        await self.submit(self._signed(OpenRecord(name, self.account, key.public_key)))
        return await self.record(name)

    async def give(
        self,
        record: RecordId,
        grantee: AccountId,
        actions: Action,
        purposes: Sequence[str],
        *,
        not_before_ms: int | None = None,
        not_after_ms: int,
        blob: BlobId | None = None,
        range_start: int = 0,
        range_length: int = 0,
        parent: GrantId | None = None,
    ) -> Grant:
        """Give a right, as the record's owner or (``parent``) by a grant that may be shared.

        Returns when the grantee can use it: for reading, when its key is delivered.
        If only the delivery fails, the grant is on the ledger all the same:
        :meth:`deliver` repeats it.

        Raises:
            Invalid, Denied, NotFound: why the ledger refuses the grant.
            NotFound: ``no-key-box``: this account has no key to pass on.
        """
        transaction = GiveGrant(
            grant=GrantId(self.runtime.random(GrantId.SIZE)),
            record=record,
            blob=blob,
            range_start=range_start,
            range_length=range_length,
            grantee=grantee,
            actions=actions,
            purposes=tuple(purposes),
            not_before_ms=self.runtime.now_ms() if not_before_ms is None else not_before_ms,
            not_after_ms=not_after_ms,
            parent=parent,
        )
        await self.submit(self._signed(transaction))
        grant = await self.grant(transaction.grant)
        if grant.actions & Action.READ:
            await self.deliver(grant)
        return grant

    async def deliver(self, grant: Grant) -> None:
        """Upload the key box of a grant to read; a box that is there already stays.

        Raises:
            Denied: this account neither gave the grant nor owns the record.
            NotFound: ``no-key-box``: this account has no key to pass on.
        """
        record = await self.record(grant.record)
        right = self._granting_right(record, grant)
        if grant.blob is None:
            generation = record.generation
            held = None if right.owner else await self._known_grant(right.grant)
            key = await self._record_key(record.record, generation, held, right)
            secret = key.seed
        else:
            scope = await self._scope(grant.record, grant.blob, right)
            manifest, _ = await self._manifest(scope, right, None)
            generation = manifest.core.generation
            blob_key = await self._blob_key(manifest, right)
            secret = granted_secret(grant, blob_key, manifest.core, manifest.layout)
        # As it is now: who asks for its key again has often just changed its own.
        grantee = await self.fresh_account(grant.grantee)
        box = await self.runtime.compute(self._sealer.box, grant, grantee, generation, secret)
        await self._upload_box(box, right)

    async def revoke(self, grant_id: GrantId) -> Submitted:
        """End a grant and all that were given under it.

        When the record's owner ends a grant to read, the record's key is renewed.

        Raises:
            NotFound, Denied, Conflict: why the ledger refuses it.
            Conflict: ``generation-moved``: other revocations keep coming first; retry.
            Unavailable: too few nodes took the remaining readers' boxes; nothing is
                revoked yet: repeat it.
        """
        grant = await self.grant(grant_id)
        record = await self.record(grant.record)
        if record.owner != self.account or not grant.actions & Action.READ:
            return await self.submit(self._signed(RevokeGrant(grant_id, 0, b"")))
        return await self._renew(
            grant.record, grant_id, lambda number, key: RevokeGrant(grant_id, number, key)
        )

    async def rotate(self, record: RecordId) -> Submitted:
        """Renew the key of a record that this account owns; nobody loses a right.

        Every reader gets the new key first, and the link that keeps the past open. Bodies
        and key rows stay as they are: what was sealed to older generations opens through
        the links.

        Raises:
            Denied: ``not-the-owner``.
            Conflict: ``generation-moved``: others keep coming first; retry.
            Unavailable: too few nodes took the readers' boxes; nothing is changed yet:
                repeat it.
        """
        if (await self.record(record)).owner != self.account:
            raise Denied("only a record's owner renews its key", reason="not-the-owner")
        return await self._renew(
            record, GrantId.zero(), lambda number, key: RotateGeneration(record, number, key)
        )

    # -- rotation

    async def _renew(
        self,
        name: RecordId,
        revoked: GrantId,
        transaction: Callable[[int, bytes], RevokeGrant | RotateGeneration],
    ) -> Submitted:
        """Hand the next generation over to who still reads, then put it on the ledger."""
        async with self._rotating:
            for attempt in range(ROTATION_ATTEMPTS):
                record = await self.record(name)
                older = await self._own_key(name, record.generation)
                number = record.generation + 1
                newer = self._keys.record_key(name, number)
                await self._hand_over(name, number, older, newer, revoked)
                try:
                    return await self.submit(self._signed(transaction(number, newer.public_key)))
                except Conflict as error:
                    # Another device of the owner came first: the number is taken.
                    if error.reason != "generation-moved" or attempt == ROTATION_ATTEMPTS - 1:
                        raise
        raise Conflict("the record's generation keeps moving: retry", reason="generation-moved")

    async def namings(self, patient: AccountId | None = None) -> list[EmergencyNaming]:
        """Who may open records in an emergency: this account's own, or a patient's.

        Of another patient those are listed that name this account or its institution.
        """
        owner = bytes(patient or self.account)
        return await self._many(
            EmergencyNaming,
            lambda proof: ledger_pb2.QueryRequest(proof=proof, emergency_namings=owner),
        )

    async def _own_key(self, record: RecordId, number: int) -> HybridKey:
        generation = await self.generation(record, number)
        return await self.runtime.compute(own_key, self._keys, generation)

    async def _hand_over(
        self,
        record: RecordId,
        number: int,
        older: HybridKey,
        newer: HybridKey,
        revoked: GrantId,
    ) -> None:
        """Boxes of generation ``number`` for the readers that remain, and the link to the past."""
        readers = remaining_readers(
            await self.grants(record), revoked, max(self.runtime.now_ms(), self.ledger_time_ms)
        )
        # Who is named for an emergency must find the newest key when it comes.
        readers += [each.boxed() for each in await self.namings() if each.record == record]
        right = Right(GrantId.zero(), OWNER_PURPOSE)
        room = asyncio.Semaphore(UPLOADS)

        async def one(grant: Grant) -> None:
            async with room:
                try:
                    grantee = await self.fresh_account(grant.grantee)
                except NotFound:
                    return  # it was ended, which is told to nobody else
                if not grantee.active:
                    return
                box = await self.runtime.compute(
                    self._sealer.box, grant, grantee, number, newer.seed
                )
                try:
                    await self._upload_box(box, right)
                except Denied as error:
                    if error.reason != "grant-not-live":  # it ended meanwhile
                        raise

        results = await asyncio.gather(*(one(grant) for grant in readers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        link = await self.runtime.compute(
            self._sealer.link, record, number - 1, older, newer.public_key
        )
        await self._upload_link(link, right)

    def _granting_right(self, record: Record, grant: Grant) -> Right:
        """By what right this account delivers the key of a grant.

        Raises:
            Denied: ``not-the-granter``.
            Invalid: ``not-a-read-grant``.
        """
        if not grant.actions & Action.READ:
            raise Invalid("only a grant to read has a key", reason="not-a-read-grant")
        if record.owner == self.account:
            return Right(GrantId.zero(), OWNER_PURPOSE)
        if grant.granter != self.account or grant.parent is None:
            raise Denied(
                "only the account that gave a grant, or the record's owner, delivers its key",
                reason="not-the-granter",
            )
        return Right(grant.parent, grant.purposes[0])

    async def _box_scope(self, record: RecordId, right: Right) -> Scope:
        """What an upload's proof names: as much as the right itself reaches."""
        if right.owner:
            return Scope(record)
        held = await self._known_grant(right.grant)
        return Scope(record, held.blob, held.range_start, held.range_length)

    async def _upload_box(self, box: KeyBox, right: Right) -> None:
        data = box.encode()
        try:
            await self._ask(
                "PutBox",
                "put-box",
                await self._box_scope(box.record, right),
                right,
                None,
                lambda authorization: blob_pb2.PutBoxRequest(
                    authorization=authorization,
                    box=data,
                    min_height=self.height,
                    request_id=self._request_id(),
                ),
                blob_pb2.PutBoxResponse,
            )
        except Conflict as error:
            _accept_existing(error)

    async def _upload_link(self, link: KeyLink, right: Right) -> None:
        data = link.encode()
        try:
            await self._ask(
                "PutLink",
                "put-box",
                Scope(link.record),
                right,
                None,
                lambda authorization: blob_pb2.PutLinkRequest(
                    authorization=authorization,
                    link=data,
                    min_height=self.height,
                    request_id=self._request_id(),
                ),
                blob_pb2.PutLinkResponse,
            )
        except Conflict as error:
            _accept_existing(error)


def granted_secret(grant: Grant, key: BlobKey, core: Core, layout: Layout | PackLayout) -> bytes:
    """What goes into the box of a grant on a blob or a range of it.

    Raises:
        Invalid: the range is not inside the blob, or too large.
        Denied: the key at hand does not reach so far.
        NotFound: a whole blob's key is wanted, and only a range's is at hand.
    """
    if not grant.range_length:
        if not key.dek:
            raise NotFound("only a range's key is at hand, not the blob's", reason="no-key-box")
        return key.dek
    return key.secrets_of(covered(core, layout, grant.range_start, grant.range_length)).encode()


def covered(core: Core, layout: Layout | PackLayout, start: int, length: int) -> range:
    """The segments of a range, which may reach beyond the blob's end.

    Raises:
        Invalid: ``bad-range``: it starts behind the blob's end.
    """
    if start > core.plaintext_length:
        raise Invalid(
            f"the range starts at {start}, the blob has {core.plaintext_length} bytes",
            reason="bad-range",
        )
    geometry = Geometry(core.plaintext_length, profile_named(layout.profile), core.segment_size)
    return geometry.covering(start, min(length, core.plaintext_length - start))


def remaining_readers(grants: Sequence[Grant], revoked: GrantId, now_ms: int) -> list[Grant]:
    """The live grants to read the whole record that the revocation of one leaves."""
    known = {grant.grant: grant for grant in grants}
    return [
        grant
        for grant in grants
        if grant.actions & Action.READ
        and grant.blob is None
        and _lives(grant, known, revoked, now_ms)
    ]


def _lives(grant: Grant, known: dict[GrantId, Grant], revoked: GrantId, now_ms: int) -> bool:
    for _ in range(CHAIN_DEPTH_MAX):
        if grant.grant == revoked or grant.revoked_height or now_ms >= grant.not_after_ms:
            return False
        if grant.parent is None:
            return True
        above = known.get(grant.parent)
        if above is None:
            return False
        grant = above
    return False


def _accept_existing(error: Conflict) -> None:
    """Pass over a row that is there: seals are random, so a repeat's bytes differ.

    What is there was signed by an account that may deliver this key, and whoever
    opens it checks the key against the ledger.
    """
    if error.reason != "row-exists":
        raise error
