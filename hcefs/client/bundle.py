"""Bundles: handing one blob to an assistant, a program or a colleague.

A bundle is a narrowed token of its maker's grant and the blob's key, sealed to the
account that will use it.  It is a file: who else gets hold of it can neither
present the token (it names its presenter) nor open the key.

The ledger permits it only when the maker's grant may be shared; a revocation of
that grant ends the bundle.  Source: docs/ARCHITECTURE.md, "Rights".
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hcefs.access.token import Narrowing
from hcefs.client.authorize import Right, Scope
from hcefs.client.get import GetClient
from hcefs.client.keys import BlobKey, blob_key, bundle_context, client_seals
from hcefs.client.records import covered
from hcefs.client.streams import BlobStream
from hcefs.crypto.envelope import Envelope, EnvelopeContext
from hcefs.crypto.keys import HybridKey, open_envelope, seal_envelope
from hcefs.durable_files import write_private
from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, Denied, Invalid, NotFound
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId

UNNARROWED = Narrowing()


def opened_by_any(keys: Sequence[HybridKey], envelope: Envelope, context: EnvelopeContext) -> bytes:
    """What one of some keys opens: a bundle does not say to which of them it was sealed.

    Raises:
        Corrupt: none of them.
    """
    for key in keys[:-1]:
        with contextlib.suppress(Corrupt):
            return open_envelope(key, envelope, context)
    return open_envelope(keys[-1], envelope, context)


@dataclass(frozen=True)
class Bundle(Encoded):
    """A token and a sealed key for one blob, or a range of it.

    ``range_length`` 0 means the whole blob.  ``purpose`` is the one to read for.
    """

    KIND = "bundle"

    cluster: ClusterId
    record: RecordId
    blob: BlobId
    generation: int
    range_start: int
    range_length: int
    purpose: str
    to: AccountId
    token: bytes
    envelope: Envelope

    def __repr__(self) -> str:
        return f"Bundle({self.blob}, to={self.to})"

    def save(self, path: Path) -> None:
        """Write the file, durably, with mode 0600.

        Raises:
            Conflict: the file exists.
        """
        write_private(path, self.encode())


def load_bundle(path: Path) -> Bundle:
    """Read a bundle's file.

    Raises:
        NotFound: there is none.
        Invalid: it is not a bundle.
    """
    try:
        with path.open("rb") as file:
            data = file.read(Bundle.MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no bundle {path}", reason="unknown-bundle") from None
    return Bundle.decode(data)


class BundleClient(GetClient):
    """The part of a client that makes and uses tokens and bundles."""

    def mint(self, grant: GrantId | None = None, narrowing: Narrowing = UNNARROWED) -> bytes:
        """A token for one of this account's rights (None: as an owner), narrowed.

        Raises:
            Invalid: the narrowing is malformed.
        """
        return self._authorizer.mint(grant or GrantId.zero(), narrowing)

    async def bundle(
        self,
        record: RecordId,
        blob: BlobId,
        to: AccountId,
        *,
        grant: GrantId,
        narrowing: Narrowing = UNNARROWED,
    ) -> Bundle:
        """Hand a blob that this account may read to another account.

        ``narrowing`` may limit time, purposes and range; it is narrowed to reading
        this blob by that account in any case.

        Raises:
            Denied: ``not-shareable``: the grant may not be shared.
            Invalid: the narrowing contradicts the arguments.
        """
        if not grant:
            raise Denied(
                "an owner's right is not lent; give the account a grant instead",
                reason="not-shareable",
            )
        if (narrowing.record or record, narrowing.blob or blob, narrowing.presenter or to) != (
            record,
            blob,
            to,
        ):
            raise Invalid(
                "the narrowing names another record, blob or presenter", reason="bad-narrowing"
            )
        fact = await self._known_grant(grant)
        purpose = (narrowing.purposes or fact.purposes)[0]
        right = Right(grant, purpose)
        scope = await self._scope(record, blob, right)
        manifest, _ = await self._manifest(scope, right, None)
        key = await self._blob_key(manifest, right)
        start, length = narrowing.range_start, narrowing.range_length
        if not length:
            start, length = scope.range_start, scope.range_length
        if length:
            segments = covered(manifest.core, manifest.layout, start, length)
            key = BlobKey(ranged=key.secrets_of(segments))
        narrowed = replace(
            narrowing, actions=("read",), record=record, blob=blob, presenter=to,
            range_start=start, range_length=length,
        )  # fmt: skip
        receiver = await self.fetch_account(to)
        context = bundle_context(
            self.connection.cluster, record, manifest.core.generation, blob, to
        )
        envelope = await self.runtime.compute(
            seal_envelope, receiver.receiving_key, key.sealed_form(), context
        )
        return Bundle(
            cluster=self.connection.cluster,
            record=record,
            blob=blob,
            generation=manifest.core.generation,
            range_start=start,
            range_length=length,
            purpose=purpose,
            to=to,
            token=self.mint(grant, narrowed),
            envelope=envelope,
        )

    async def get_bundle(
        self,
        bundle: Bundle,
        *,
        start: int = 0,
        length: int = 0,
        purpose: str | None = None,
        seal: str = "node",
        node: str | None = None,
    ) -> BlobStream:
        """Read what a bundle hands to this account; a range as in :meth:`get`.

        Raises:
            Invalid: the bundle is for another account or cluster.
            Denied: the right behind it has ended, or does not reach so far.
        """
        if bundle.to != self.account or bundle.cluster != self.connection.cluster:
            raise Invalid(
                f"the bundle is for {bundle.to} of {bundle.cluster}: use it there",
                reason="wrong-bundle",
            )
        opens = client_seals(seal)
        right = self._right(None, bundle.token, purpose or bundle.purpose)
        scope = Scope(bundle.record, bundle.blob, bundle.range_start, bundle.range_length)
        manifest, _ = await self._manifest(scope, right, node)
        core = manifest.core
        context = bundle_context(
            bundle.cluster, bundle.record, bundle.generation, bundle.blob, bundle.to
        )
        secret = await self.runtime.compute(
            opened_by_any, self._receiver.keys, bundle.envelope, context
        )
        key = blob_key(secret, ranged=bool(bundle.range_length), core=core)
        if bundle.range_length and not (start or length):
            start = min(bundle.range_start, core.plaintext_length)
            length = min(bundle.range_length, core.plaintext_length - start)
        return await self._stream(manifest, key, right, start, length, opens, node)
