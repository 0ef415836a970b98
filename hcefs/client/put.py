"""Put: a source's bytes to a node, then the writer's append on the ledger.

Node-sealed, the node sees the plaintext and draws the data key; client-sealed, it
sees sealed segments only.  Either way a put is durable when the node answers and
*committed*, thus readable, when this returns.

Invariants: every attempt draws a new blob id and, sealing here, a new data key, so
that no key ever seals two plaintexts; nothing is appended before the node's core
was compared with what was sent; the append is repeated with the same bytes until
its outcome is known or ``commit_by`` has come.  Memory: a few segments.

A source that can be read again (bytes, a path) is sent again, through another
node, when an attempt fails in a way that a retry can mend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard, cast

from google.protobuf.message import DecodeError

from hcefs.access.facts import Generation
from hcefs.client.authorize import Right, Scope
from hcefs.client.channels import Upload
from hcefs.client.coalesce import Coalescer
from hcefs.client.connection import Connection
from hcefs.client.keys import client_seals, dek_context, is_direct
from hcefs.client.put_many import (
    DEFAULT_CONTENT_TYPE,
    Order,
    PackPutClient,
    PackRoom,
    Payload,
    packs_of,
)
from hcefs.client.receipts import PutReceipt
from hcefs.client.sources import Buffer, Source, length_of, read_pieces, segments
from hcefs.client.stat import digests_fit
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.keys import METADATA_OVERHEAD, dek_commitment, seal_envelope, seal_metadata
from hcefs.crypto.stream import SEAL_OVERHEAD, seal_segment_into, segment_secret
from hcefs.erasure.scheme import PROFILES, profile_named
from hcefs.errors import Conflict, Corrupt, HcefsError, Invalid, Unavailable
from hcefs.formats.manifest import (
    CONTENT_TAG,
    DIGEST_SIZE,
    SALT_SIZE,
    SEALED_METADATA_MAX,
    BlobRef,
    Core,
    Layout,
    Metadata,
    Opening,
)
from hcefs.formats.pack import PAYLOAD_BYTES_MAX
from hcefs.ids import AccountId, BlobId, GrantId, PutKey, RecordId
from hcefs.integrity import Hasher, blake3_hasher
from hcefs.ledger.transactions import Append, AppendEntry
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.transport.framing import Frame, frame_data
from hcefs.transport.retry import retrying
from hcefs.wire.v1 import blob_pb2

Progress = Callable[[int], None]

SMALL_BYTES = PAYLOAD_BYTES_MAX
"""Bytes up to this length are packed when they are put without further wishes.

A file or a stream is not: whoever puts those puts one at a time.
"""

PUT_ATTEMPTS = 3
APPEND_ATTEMPTS = 12
COMMIT_WITHIN_MS = 24 * 3_600_000
FINISH_SECONDS = 180.0
"""How long a node may take for what follows the last byte."""


@dataclass(frozen=True)
class PutOrder:
    """What the caller wants put, apart from the bytes."""

    record: RecordId
    right: Right
    content_type: str
    name: str
    labels: tuple[str, ...]
    client_seals: bool
    direct: bool
    expected_length: int
    profile: str
    previous_leaf: bytes
    sign_content: bool
    progress: Progress | None


@dataclass(frozen=True)
class Attempt:
    """What one attempt draws; ``dek`` is empty when the node seals."""

    blob: BlobId
    salt: bytes
    generation: Generation
    commit_by_ms: int
    request_id: bytes
    dek: bytes = field(repr=False)


@dataclass(frozen=True)
class Stored:
    """What a node acknowledged, once it was compared with what was sent."""

    core: Core
    opening: Opening
    durable_shards: int
    total_shards: int
    degraded: bool


class PutClient(PackPutClient):
    """The part of a client that puts blobs."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self._small_puts: Coalescer[Order, PutReceipt] = Coalescer(
            self.runtime, self._put_small, lambda: PackRoom().enter
        )

    async def _put_small(
        self, kind: Hashable, orders: list[Order]
    ) -> Sequence[PutReceipt | HcefsError]:
        """One pack of concurrent small puts, for one purpose, through one node."""
        purpose, node = cast(tuple[str, str | None], kind)
        packs = packs_of(orders, await self._body_max())
        if len(packs) > 1:  # a cluster of small packs
            answers = await asyncio.gather(*(self._put_small(kind, pack) for pack in packs))
            return [answer for answered in answers for answer in answered]
        try:
            return await self._put_pack(orders, purpose, node)
        except HcefsError as error:
            if error.retryable or len(orders) == 1:
                raise
        # One of them may not be put, and only that one may fail.
        alone: list[PutReceipt | HcefsError] = []
        for order in orders:
            try:
                alone += await self._put_pack([order], purpose, node)
            except HcefsError as error:
                alone.append(error)
        return alone

    async def put(
        self,
        record: RecordId,
        source: Source,
        *,
        grant: GrantId | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
        name: str = "",
        labels: Sequence[str] = (),
        purpose: str = "TREAT",
        seal: str | None = None,
        mode: str = "gateway",
        profile: str = "",
        corrects: bytes | None = None,
        node: str | None = None,
        progress: Progress | None = None,
        sign_content: bool = True,
    ) -> PutReceipt:
        """Put a blob into a record and return when its entry is on the ledger.

        ``grant`` None means as the owner.  ``seal`` is ``node`` or ``client``; left
        open, bytes of at most ``SMALL_BYTES`` go into a pack with others that are put
        at the same time, sealed here, and anything else is sealed by the node.
        ``mode`` ``direct`` seals and encodes here and stores at the shard holders.
        ``corrects`` is the leaf of the entry that this one corrects.  ``progress``
        is told the plaintext bytes sent so far, from 0 again in a new attempt.
        ``sign_content`` adds the writer's signature over the plaintext's digest.

        Raises:
            Denied: not permitted.
            Unavailable: too few nodes, or the ledger did not answer in time; a blob
                without an entry is collected after a day.
            Corrupt: the node's answer is not about what was sent.
            Invalid: the arguments.
        """
        right = Right(grant or GrantId.zero(), purpose)
        plain = seal is None and not (profile or corrects) and not is_direct(mode)
        if plain and is_small(source):
            payload = Payload(record, bytes(source), grant, content_type, name, tuple(labels))
            receipt = await self._small_puts.submit(
                (purpose, node), self._order(payload, None, purpose)
            )
            if progress is not None:
                progress(receipt.core.plaintext_length)
            return receipt
        order = PutOrder(
            record=record,
            right=right,
            content_type=content_type,
            name=name,
            labels=tuple(labels),
            client_seals=client_seals(seal or "node"),
            direct=is_direct(mode),
            expected_length=await length_of(source, self.runtime),
            profile=profile and profile_named(profile).name,
            previous_leaf=corrects or b"",
            sign_content=sign_content,
            progress=progress,
        )
        check_order(order)
        replayable = isinstance(source, bytes | bytearray | memoryview | Path)
        tried: set[AccountId] = set()

        async def once() -> Stored:
            attempt = await self._draw(order)
            scope = Scope(record, attempt.blob)
            if order.direct:
                try:
                    return await self._send_direct(order, attempt, source)
                except Conflict as error:
                    raise drawn_anew(error) from None
            target = await self._target(node, scope, tried)
            tried.add(target.account)
            try:
                return await self._send(order, attempt, scope, source, target)
            except Conflict as error:
                raise drawn_anew(error) from None
            except HcefsError as error:
                raise self._note(target, error) from None

        stored = await retrying(
            self.runtime,
            PUT_ATTEMPTS if replayable else 1,
            once,
            patience_s=self.connection.patience_s if replayable else 0.0,
        )
        return await self._commit(order, stored)

    async def _draw(self, order: PutOrder) -> Attempt:
        record = await self.record(order.record)
        generation = await self.generation(record.record, record.generation)
        now = max(self.runtime.now_ms(), self.ledger_time_ms)
        return Attempt(
            blob=BlobId.of(self.runtime.random(16)),
            salt=self.runtime.random(SALT_SIZE),
            generation=generation,
            commit_by_ms=now + COMMIT_WITHIN_MS,
            request_id=self._request_id(),
            dek=self.runtime.random(32) if order.client_seals else b"",
        )

    async def _send(
        self, order: PutOrder, attempt: Attempt, scope: Scope, source: Source, target: Node
    ) -> Stored:
        """One attempt through one node."""
        authorization = self._authorizer.authorize(
            "put", scope, order.right, target.account, stream=True
        )
        header = await self._header(order, attempt, authorization)
        upload = self._channels.upload(target.address, "/hcefs.v1.Blobs/Put")
        finished = False
        try:
            await upload.send(blob_pb2.PutRequest(header=header).SerializeToString())
            length, digest = await self._send_data(order, attempt, source, upload)
            trailer = blob_pb2.PutTrailer(
                plaintext_length=length,
                # The first proof is too old by now, if the blob is large.
                authorization=self._authorizer.authorize(
                    "put", scope, order.right, target.account, stream=True
                ),
            )
            metadata = self._metadata(order, attempt, digest).encode()
            if order.client_seals:
                trailer.sealed_metadata = seal_metadata(
                    attempt.dek, attempt.blob, order.record, metadata
                )
            else:
                trailer.metadata = metadata
            await upload.send(blob_pb2.PutRequest(trailer=trailer).SerializeToString())
            answer = put_answer(await upload.finish(FINISH_SECONDS))
            finished = True
        finally:
            if not finished:
                upload.cancel()
        return check_stored(
            order, attempt, self.account, length, bytes(trailer.sealed_metadata), answer
        )

    async def _send_direct(self, order: PutOrder, attempt: Attempt, source: Source) -> Stored:
        """One attempt straight to the holders."""
        hasher = blake3_hasher()
        session = await self._direct_session(
            order.right,
            attempt.blob,
            order.record,
            attempt.generation.number,
            attempt.generation.public_key,
            order.profile,
            attempt.commit_by_ms,
            attempt.salt,
            order.previous_leaf,
            order.expected_length,
            hasher if order.sign_content else None,
        )
        finished = False
        length = 0
        try:
            async with aclosing(read_pieces(source, self.runtime)) as pieces:
                async for piece in pieces:
                    await session.write(piece)
                    length += len(piece)
                    if order.progress is not None:
                        order.progress(length)
            await session.end(length)
            digest = hasher.digest() if order.sign_content else b""
            metadata = self._metadata(order, attempt, digest).encode()
            done = await self._direct_finish(
                session, order.right, order.record, attempt.blob, length, metadata
            )
            finished = True
        finally:
            if not finished:
                await session.abort()
        opening = Opening(
            attempt.salt, order.record, attempt.blob, done.core.digest(), order.previous_leaf
        )
        stored = done.stored
        return Stored(done.core, opening, len(stored.durable), stored.total, stored.degraded)

    async def _header(
        self, order: PutOrder, attempt: Attempt, authorization: blob_pb2.Authorization
    ) -> blob_pb2.PutHeader:
        header = blob_pb2.PutHeader(
            authorization=authorization,
            blob_id=bytes(attempt.blob),
            record_id=bytes(order.record),
            generation=attempt.generation.number,
            profile=order.profile,
            commit_by_ms=attempt.commit_by_ms,
            salt=attempt.salt,
            previous_leaf=order.previous_leaf,
            min_height=self.height,
            request_id=attempt.request_id,
            writer=bytes(self.account),
            expected_length=order.expected_length,
        )
        if order.client_seals:
            context = dek_context(
                self.connection.cluster, order.record, attempt.generation.number, attempt.blob
            )
            envelope = await self.runtime.compute(
                seal_envelope, attempt.generation.public_key, attempt.dek, context
            )
            header.client_seal.dek_commitment = dek_commitment(attempt.dek)
            header.client_seal.sealed_dek = envelope.encode()
        return header

    async def _send_data(
        self, order: PutOrder, attempt: Attempt, source: Source, upload: Upload
    ) -> tuple[int, bytes]:
        """Send the source; returns the plaintext's length, and its digest if it is signed."""
        hasher = blake3_hasher()
        length = index = 0
        async with aclosing(segments(read_pieces(source, self.runtime))) as cut:
            async for segment, last in cut:
                content = hasher if order.sign_content else None
                if order.client_seals:
                    message = await self.runtime.compute(
                        _sealed_message, content, order, attempt, index, last, segment
                    )
                    await upload.send(message)
                elif segment:
                    if content is not None:
                        await self.runtime.compute(content.update, segment)
                    # Not in the worker: gRPC copies it here, and finds it in this core's cache.
                    await upload.send(frame_data(segment))
                length += len(segment)
                index += 1
                if order.progress is not None:
                    order.progress(length)
        return length, hasher.digest() if order.sign_content else b""

    def _metadata(self, order: PutOrder, attempt: Attempt, digest: bytes) -> Metadata:
        metadata = Metadata(order.content_type, order.name, order.labels, digest, b"")
        if not digest:
            return metadata
        message = metadata.message(attempt.blob, order.record)
        return replace(metadata, content_signature=self._signing_key.sign(CONTENT_TAG, message))

    async def _commit(self, order: PutOrder, stored: Stored) -> PutReceipt:
        core = stored.core
        entry = AppendEntry(
            core.record,
            core.generation,
            stored.opening.commitment(),
            core.commit_by_ms,
            order.right.grant,
        )
        append = Append((entry,), PutKey(self.runtime.random(PutKey.SIZE)))
        left_s = max(0, core.commit_by_ms - self.runtime.now_ms()) / 1000
        done = await self._submit(self._signed(append), APPEND_ATTEMPTS, left_s)
        if len(done.leaves) != 1 or done.leaves[0].record != core.record:
            raise Corrupt(
                "the ledger's answer to the append names other records", reason="wrong-fact"
            )
        leaf = done.leaves[0]
        self._remember_leaf(entry, done.time_ms, leaf)
        return PutReceipt(
            ref=BlobRef(core.record, core.blob, core.digest(), leaf.index),
            core=core,
            durable_shards=stored.durable_shards,
            total_shards=stored.total_shards,
            degraded=stored.degraded,
            height=done.height,
            leaf=leaf.leaf,
        )


def is_small(source: Source) -> TypeGuard[bytes | bytearray | memoryview]:
    """Whether a source goes into a pack unless something else is asked for."""
    return isinstance(source, bytes | bytearray | memoryview) and len(source) <= SMALL_BYTES


def _sealed_message(
    hasher: Hasher | None,
    order: PutOrder,
    attempt: Attempt,
    index: int,
    last: bool,
    segment: Buffer,
) -> bytes:
    """One segment sealed into its message, and digested while it is in the cache."""
    if hasher is not None:
        hasher.update(segment)
    frame = Frame(len(segment) + SEAL_OVERHEAD)
    secret = segment_secret(attempt.dek, index)
    seal_segment_into(secret, attempt.blob, order.record, last, segment, frame.room)
    frame.close()
    return frame.message


# -- checks


def put_answer(data: bytes) -> blob_pb2.PutResponse:
    """A node's answer to a put.

    Raises:
        Corrupt: ``bad-message``.
    """
    try:
        return blob_pb2.PutResponse.FromString(data)
    except DecodeError:
        raise Corrupt("the node's answer is malformed", reason="bad-message") from None


def drawn_anew(error: Conflict) -> HcefsError:
    """A conflict of blob ids is retried with another id: someone may squat on the first."""
    if error.reason in ("shard-exists", "row-exists"):
        return Unavailable(error.message, reason=error.reason).of_request(error.request)
    return error


def check_order(order: PutOrder) -> None:
    """Check what can be checked before a byte is sent.

    Raises:
        Invalid: ``bad-metadata`` or ``bad-leaf``.
    """
    fixed = Metadata(order.content_type, order.name, order.labels, bytes(32), bytes(64))
    if len(fixed.encode()) + METADATA_OVERHEAD > SEALED_METADATA_MAX:
        raise Invalid(
            f"name, labels and content type have more than {SEALED_METADATA_MAX} bytes together: "
            "shorten them",
            reason="bad-metadata",
        )
    if len(order.previous_leaf) not in (0, DIGEST_SIZE):
        raise Invalid("a corrected entry is named by its leaf of 32 bytes", reason="bad-leaf")


def check_stored(
    order: PutOrder,
    attempt: Attempt,
    writer: AccountId,
    length: int,
    sealed_metadata: bytes,
    answer: blob_pb2.PutResponse,
) -> Stored:
    """Compare a node's answer with what was sent; only then is it signed for.

    Raises:
        Corrupt: ``wrong-core``: it is about something else.
        Invalid: malformed.
    """
    core, layout = Core.decode(answer.core), Layout.decode(answer.layout)
    core.check()
    same = (
        core.blob == attempt.blob
        and core.record == layout.record == order.record
        and layout.base == attempt.blob.base
        and core.generation == attempt.generation.number
        and core.plaintext_length == length
        and core.writer == writer
        and core.commit_by_ms == attempt.commit_by_ms
        and (not order.profile or layout.profile == order.profile)
        and layout.profile in PROFILES
        and profile_named(layout.profile).k == core.k
        and digests_fit(core, layout)
    )
    if same and attempt.dek:
        same = (
            core.dek_commitment == dek_commitment(attempt.dek)
            and core.sealed_metadata == sealed_metadata
        )
    if not same:
        raise Corrupt(
            "the node's answer is not about what was sent; nothing was appended: put it again "
            "through another node",
            reason="wrong-core",
        )
    opening = Opening(attempt.salt, order.record, attempt.blob, core.digest(), order.previous_leaf)
    return Stored(core, opening, answer.durable_shards, answer.total_shards, answer.degraded)
