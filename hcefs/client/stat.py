"""Stat: a blob's manifest, proved against the ledger, and the key that opens it.

Invariants of a manifest that leaves here: the ledger's record holds the opening's
commitment; the leaf was signed by the core's writer; the core is the one that the
opening names; the layout's first k digests are the core's.  So a node can
withhold a blob but not pass off another one, and whoever may append to a record
cannot put words into another writer's mouth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hcefs.access import emergency
from hcefs.access.facts import Account, Generation, Grant
from hcefs.access.token import read_use
from hcefs.client import keys as sealed
from hcefs.client.authorize import Right, Scope
from hcefs.client.channels import Recent
from hcefs.client.connection import Connection
from hcefs.client.ledger import LEAVES_PAGE
from hcefs.client.nodes import NodeClient
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.keys import HybridKey, open_metadata
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Corrupt, Denied, HcefsError, Invalid, NotFound, Unavailable
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import Core, KeyRow, Layout, Metadata, Opening
from hcefs.formats.pack import PackedKey, PackLayout, PackProof
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.ledger.outcome import Leaf, LeafResult
from hcefs.ledger.transactions import AppendEntry
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.wire.v1 import blob_pb2

KEYS_KNOWN_MAX = 1024
MANIFESTS_KNOWN_MAX = 1024
MANIFEST_SECONDS = 60.0
"""How long a proved manifest serves further reads; the right is decided at each of them."""

LEAVES_KNOWN_MAX = 16_384
"""Leaves that were seen on the ledger, where they stay for ever: some 5 MB."""


@dataclass(frozen=True)
class Manifest:
    """A blob's rows that fit together; ``key_row`` None when the blob was shredded.

    Of a packed blob they are the pack's layout, the wrapped key with its envelope, and
    the proof that the pack's opening has it.
    """

    core: Core
    layout: Layout | PackLayout
    key_row: KeyRow | PackedKey | None
    opening: Opening | PackProof

    @property
    def packed(self) -> bool:
        """Whether the blob lies in a pack: then its writer has sealed it."""
        return bool(self.core.blob.slot)

    def check_leaf(self, leaf: Leaf | None) -> Leaf:
        """The leaf of the entry, which must be the writer's.

        Raises:
            NotFound: ``not-committed``: the ledger does not have it.
            Corrupt: ``wrong-signer`` or ``wrong-leaf``.
        """
        if leaf is None:
            raise NotFound("the ledger has no entry for this blob", reason="not-committed")
        if leaf.signer != self.core.writer:
            raise Corrupt(
                "the blob's entry was signed by another account than its writer: do not trust it",
                reason="wrong-signer",
            )
        if leaf.commitment != self.opening.commitment() or leaf.generation != self.core.generation:
            raise Corrupt("the blob's entry is not that of its core", reason="wrong-leaf")
        return leaf


@dataclass(frozen=True)
class BlobInfo:
    """What is known of a committed blob.

    ``metadata`` is None where the caller's right does not open it (a range), or
    the blob has none or was shredded.  ``leaf_index`` is None where the ledger does
    not show this account the record's leaves.
    """

    core: Core
    layout: Layout | PackLayout
    metadata: Metadata | None
    leaf_index: int | None
    generation: int
    opening: Opening | PackProof
    leaf: Leaf

    @property
    def previous_leaf(self) -> bytes:
        """The leaf of the entry that this one corrects, or nothing."""
        return self.opening.previous_leaf if isinstance(self.opening, Opening) else b""


def check_manifest(record: RecordId, blob: BlobId, answer: blob_pb2.StatResponse) -> Manifest:
    """The rows of a stat's answer, which must be of this blob and fit together.

    Raises:
        Corrupt: ``rows-disagree``.
        Invalid: a row is malformed.
    """
    if blob.slot:
        return _check_packed(record, blob, answer)
    core, layout = Core.decode(answer.core), Layout.decode(answer.layout)
    opening = Opening.decode(answer.opening)
    key_row = KeyRow.decode(answer.key_row) if answer.key_row else None
    core.check()
    opening.check()
    fits = (
        core.blob == opening.blob == blob
        and core.record == opening.record == layout.record == record
        and opening.core_digest == core.digest()
        and layout.base == blob.base
        and (key_row is None or (key_row.blob, key_row.record) == (blob, record))
    )
    if not fits or not digests_fit(core, layout):
        raise Corrupt(
            "the rows of the blob's manifest do not fit together: ask another node",
            reason="rows-disagree",
        )
    return Manifest(core, layout, key_row, opening)


def _check_packed(record: RecordId, blob: BlobId, answer: blob_pb2.StatResponse) -> Manifest:
    core, layout = Core.decode(answer.core), PackLayout.decode(answer.layout)
    proof = PackProof.decode(answer.opening)
    key_row = PackedKey.decode(answer.key_row) if answer.key_row else None
    core.check()
    layout.check_shape()
    if key_row is not None:
        key_row.check()
    if (
        core.blob != blob
        or core.record != record
        or (proof.blob, proof.record, proof.core_digest) != (blob, record, core.digest())
        or layout.base != blob.base
        or (key_row is not None and (key_row.blob, key_row.record) != (blob, record))
    ):
        raise Corrupt(
            "the rows of the packed blob's manifest do not fit together: ask another node",
            reason="rows-disagree",
        )
    return Manifest(core, layout, key_row, proof)


def digests_fit(core: Core, layout: Layout) -> bool:
    """Whether a layout's shards can be those that the core binds.

    After re-profiling to another k only the data itself can tell.
    """
    profile = profile_named(layout.profile)
    if len(layout.shard_digests) != profile.n:
        return False
    return profile.k != core.k or layout.shard_digests[: core.k] == core.data_digests


NODES_ASKED = 3
"""Nodes whose manifests are tried before a blob counts as damaged."""


class StatClient(NodeClient):
    """The part of a client that knows blobs and their keys."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self._receiver = sealed.Receiver(
            connection.cluster,
            self.account,
            keys.key_version,
            self._receiving_key,
            keys.past_receiving_keys(),
        )
        self._for_others: list[sealed.Receiver] = []
        self._record_keys: Recent[tuple[RecordId, int, GrantId], HybridKey] = Recent(
            self.runtime, KEYS_KNOWN_MAX
        )
        self._manifests: Recent[tuple[RecordId, BlobId], Manifest] = Recent(
            self.runtime, MANIFESTS_KNOWN_MAX, MANIFEST_SECONDS
        )
        self._leaves_known: Recent[tuple[RecordId, bytes, AccountId], Leaf] = Recent(
            self.runtime, LEAVES_KNOWN_MAX
        )

    async def _known_manifest(self, scope: Scope, right: Right, node: str | None) -> Manifest:
        """As :meth:`_manifest`; one that was proved a moment ago need not be proved again.

        Its core and opening never change; who may read is decided at every read.
        """
        if scope.blob is None:
            raise Invalid("a manifest is of one blob: name it", reason="bad-id")
        name = (scope.record, scope.blob)
        known = self._manifests.get(name)
        if known is not None:
            return known
        manifest, _ = await self._manifest(scope, right, node)
        return self._manifests.put(name, manifest)

    async def _known_leaf(
        self, record: RecordId, commitment: bytes, signer: AccountId
    ) -> Leaf | None:
        """As :meth:`has_leaf`; what was found once is not asked for again."""
        known = self._leaves_known.get((record, commitment, signer))
        if known is not None:
            return known
        found = await self.has_leaf(record, commitment, signer)
        return found and self._leaves_known.put((record, commitment, signer), found)

    def _remember_leaf(self, entry: AppendEntry, time_ms: int, result: LeafResult) -> None:
        """Keep the leaf of an own append, whose hash the ledger has just confirmed."""
        leaf = Leaf(entry.commitment, AccountId(self.account), entry.generation, time_ms)
        if leaf.hash() == result.leaf:
            self._leaves_known.put((entry.record, entry.commitment, leaf.signer), leaf)

    async def stat(
        self,
        record: RecordId,
        blob: BlobId,
        *,
        grant: GrantId | None = None,
        token: bytes | None = None,
        purpose: str = "TREAT",
        node: str | None = None,
    ) -> BlobInfo:
        """A committed blob's manifest, checked against the ledger, with its metadata.

        Raises:
            NotFound: unknown, or not committed.
            Denied: not permitted.
            Corrupt: a node or a writer lied.
        """
        right = self._right(grant, token, purpose)
        manifest, leaf = await self._manifest(await self._scope(record, blob, right), right, node)
        metadata = None
        if manifest.key_row is not None and manifest.core.sealed_metadata:
            try:
                key = await self._blob_key(manifest, right)
            except NotFound as error:
                if error.reason not in ("no-key-box", "no-key-link"):
                    raise
            else:
                metadata = metadata_of(manifest.core, key)
        return BlobInfo(
            manifest.core,
            manifest.layout,
            metadata,
            await self._leaf_index(record, leaf),
            manifest.core.generation,
            manifest.opening,
            leaf,
        )

    # -- rights and scopes

    def _right(self, grant: GrantId | None, token: bytes | None, purpose: str) -> Right:
        """The caller's right; a token's own grant where none is named.

        Raises:
            Invalid: a malformed token, or one of another grant.
        """
        if token is None:
            return Right(grant or GrantId.zero(), purpose)
        use = read_use(token)
        if use.cluster != self.connection.cluster or (grant or use.grant) != use.grant:
            raise Invalid(
                "the token is for another cluster or another grant: present the one that fits",
                reason="wrong-token",
            )
        return Right(use.grant, purpose, token)

    async def _scope(self, record: RecordId, blob: BlobId, right: Right) -> Scope:
        """What a request on a blob may name: a grant on a range allows no more than that."""
        if not right.owner:
            grant = await self._known_grant(right.grant)
            if grant.range_length:
                return Scope(record, blob, grant.range_start, grant.range_length)
        return Scope(record, blob)

    # -- the manifest

    async def _manifest(
        self, scope: Scope, right: Right, node: str | None
    ) -> tuple[Manifest, Leaf]:
        blob = scope.blob
        if blob is None:
            raise Invalid("a manifest is of one blob: name it", reason="bad-id")
        tried: set[AccountId] = set()
        refused: HcefsError | None = None
        for _ in range(NODES_ASKED):
            target = await self._target(node, scope, tried)
            if target.account in tried:
                break
            try:
                answer = await self._ask(
                    "Stat",
                    "stat",
                    scope,
                    right,
                    node,
                    lambda authorization: blob_pb2.StatRequest(
                        authorization=authorization,
                        blob_id=bytes(blob),
                        record_id=bytes(scope.record),
                        min_height=self.height,
                        request_id=self._request_id(),
                    ),
                    blob_pb2.StatResponse,
                    tried,
                )
                manifest = check_manifest(scope.record, blob, answer)
                leaf = await self._known_leaf(
                    scope.record, manifest.opening.commitment(), manifest.core.writer
                )
                return manifest, manifest.check_leaf(leaf)
            except (Corrupt, Invalid) as error:
                # What a node or a holder made up proves nothing; another one may be honest.
                refused = refused or error
        raise refused or Unavailable("no node answers: retry later", reason="no-node")

    async def _leaf_index(self, record: RecordId, leaf: Leaf) -> int | None:
        """Where a leaf is in its record; block times only grow, so it can be searched for."""
        try:
            low, high = 0, (await self.record(record)).leaf_count
            while high - low > LEAVES_PAGE:
                middle = (low + high) // 2
                found = await self.leaves(record, middle, 1)
                if found and found[0].time_ms < leaf.time_ms:
                    low = middle + 1
                else:
                    high = middle
            while page := await self.leaves(record, low, LEAVES_PAGE):
                for offset, candidate in enumerate(page):
                    if candidate == leaf:
                        return low + offset
                if page[-1].time_ms > leaf.time_ms:
                    break
                low += len(page)
        except (Denied, NotFound):
            return None
        return None

    # -- keys

    async def _blob_key(self, manifest: Manifest, right: Right) -> sealed.BlobKey:
        """What opens a blob for the holder of a right.

        Raises:
            NotFound: ``shredded``, ``no-key-box`` or ``no-key-link``.
            Corrupt: the key is not this blob's.
        """
        core, row = manifest.core, manifest.key_row
        if row is None:
            raise NotFound(
                "the key of this blob was deleted: nobody can open it any more", reason="shredded"
            )
        grant = None if right.owner else await self._known_grant(right.grant)
        if grant is not None and grant.blob is not None:
            return await self._granted_blob_key(grant, core, right)
        key = await self._record_key(core.record, row.generation, grant, right)
        cluster = self.connection.cluster
        if isinstance(row, PackedKey):
            return await self.runtime.compute(sealed.open_packed_row, cluster, key, row, core)
        return await self.runtime.compute(sealed.open_key_row, cluster, key, row, core)

    async def _granted_blob_key(self, grant: Grant, core: Core, right: Right) -> sealed.BlobKey:
        boxes, _ = await self._boxes(grant, right)
        failure: HcefsError = _no_box(grant)
        for box in self._receiver.fitting(boxes, grant):
            try:
                secret = self._receiver.secret(box, await self._granter(box, grant))
                return sealed.blob_key(secret, ranged=bool(grant.range_length), core=core)
            except HcefsError as error:
                if error.retryable:
                    raise
                failure = error
        raise failure

    async def _record_key(
        self, record: RecordId, number: int, grant: Grant | None, right: Right
    ) -> HybridKey:
        """The key pair of one generation of a record: derived by its owner, else from a box."""
        name = (record, number, right.grant)
        known = self._record_keys.get(name)
        if known is not None:
            return known
        generation = await self.generation(record, number)
        if grant is None:
            key = await self.runtime.compute(sealed.own_key, self._keys, generation)
            return self._record_keys.put(name, key)
        found = await self._keys_from_boxes(grant, generation, right)
        for older, key in found.items():
            self._record_keys.put((record, older, right.grant), key)
        return found[number]

    async def _keys_from_boxes(
        self, grant: Grant, wanted: Generation, right: Right
    ) -> dict[int, HybridKey]:
        boxes, links = await self._boxes(grant, right)
        record = await self.record(grant.record)
        failure: HcefsError = _no_box(grant)
        for receiver, box in self._openable(boxes, grant):
            if not wanted.number <= box.generation <= record.generation:
                continue
            try:
                secret = receiver.secret(box, await self._granter(box, grant))
                numbers = range(wanted.number, box.generation + 1)
                generations = {
                    number: await self.generation(record.record, number) for number in numbers
                }
                key = sealed.checked_key(secret, generations[box.generation])
                owners = await self._owners(record.owner, links)
                return await self.runtime.compute(
                    sealed.follow_links,
                    self.connection.cluster,
                    (box.generation, key),
                    sealed.genuine_links(links, owners),
                    generations,
                    owners,
                )
            except HcefsError as error:
                if error.retryable:
                    raise
                failure = error
        raise failure

    def receive_for(self, keys: AccountKeys) -> None:
        """Open key boxes that are sealed to another account, too: that of an institution.

        For the emergency desk of an institution that patients have named.  Requests are
        still made, and decided, as this account.
        """
        self._for_others.append(
            sealed.Receiver(
                self.connection.cluster,
                keys.account,
                keys.key_version,
                keys.receiving_key,
            )
        )

    def _openable(
        self, boxes: Iterable[KeyBox], grant: Grant
    ) -> Iterator[tuple[sealed.Receiver, KeyBox]]:
        """The boxes of a grant that this client can open, each with what opens it."""
        for receiver in (self._receiver, *self._for_others):
            for box in receiver.fitting(boxes, grant):
                yield receiver, box

    async def _granter(self, box: KeyBox, grant: Grant) -> Account:
        """Who sealed a box, as of then: the granter of its grant, or the record's owner.

        Raises:
            Corrupt: neither.
            NotFound: it never had the keys that the box names.
        """
        granter = box.granter
        if granter != grant.granter and granter != (await self.record(grant.record)).owner:
            raise Corrupt("a key box is not by its grant's granter", reason="wrong-granter")
        return await self.signed_with(granter, box.granter_key_version)

    async def _owners(
        self, owner: AccountId, links: Mapping[int, Sequence[KeyLink]]
    ) -> dict[int, Account]:
        """A record's owner as of each version of its keys that signed a link."""
        newest = (await self.fetch_account(owner)).key_version
        named = {link.owner_key_version for each in links.values() for link in each}
        if any(version > newest for version in named):
            newest = (await self.fresh_account(owner)).key_version
        # A node may have made a link up; the ledger is asked for what it has, not for that.
        return {
            version: await self.signed_with(owner, version)
            for version in sorted(named)
            if 1 <= version <= newest
        }

    async def _boxes(
        self, grant: Grant, right: Right
    ) -> tuple[list[KeyBox], dict[int, list[KeyLink]]]:
        """The boxes of a grant to this account, and the record's links."""
        if grant.grantee != self.account:
            raise NotFound(
                "the grant is to another account, whose key boxes this one cannot open: use the "
                "bundle that its holder made",
                reason="no-key-box",
            )
        # A handed-over token may be too narrow for this; the account's own always fits.
        own = Right(grant.grant, right.purpose)
        scope = Scope(grant.record, grant.blob, grant.range_start, grant.range_length)
        answer = await self._ask(
            "GetBoxes",
            "boxes",
            scope,
            own,
            None,
            lambda authorization: blob_pb2.GetBoxesRequest(
                authorization=authorization,
                record_id=bytes(grant.record),
                blob_id=bytes(grant.blob) if grant.blob is not None else b"",
                min_height=self.height,
                request_id=self._request_id(),
            ),
            blob_pb2.GetBoxesResponse,
        )
        return sealed.decoded_rows(answer.boxes, answer.links, grant.record)


def metadata_of(core: Core, key: sealed.BlobKey) -> Metadata | None:
    """A blob's metadata; None without any, or without the DEK.

    Raises:
        Corrupt: it does not open.
        Invalid: it is malformed.
    """
    if not key.dek or not core.sealed_metadata:
        return None
    return Metadata.decode(open_metadata(key.dek, core.blob, core.record, core.sealed_metadata))


def _no_box(grant: Grant) -> NotFound:
    advice = "ask the account that gave the grant to deliver its key again"
    if grant.purposes == (emergency.PURPOSE,):
        advice = (
            "where the patient named an institution, its key opens it (`--desk`); else the patient "
            "delivers it again (`hcefs emergency deliver`)"
        )
    return NotFound(f"no key box for {grant.grant} opens this: {advice}", reason="no-key-box")
