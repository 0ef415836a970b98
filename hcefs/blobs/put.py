"""Put: plaintext or sealed segments in, n shards out, acknowledged with d.

One :class:`PutSession` serves one put on the gateway.  Node-sealed, it draws
the data key, seals every segment and forgets the key with the session;
client-sealed, it never sees plaintext.  Both give the same bytes on disk.

Invariants: at most two batches of ``BATCH_SEGMENTS_MAX`` segments are in memory,
one arriving and one at work, besides what the lanes queue; nothing is visible
before the rows are stored; the session either finishes or aborts, and an aborted
one leaves no shard behind on a live holder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from hcefs.crypto.envelope import SUITE_XWING, Envelope, EnvelopeContext
from hcefs.crypto.keys import dek_commitment, seal_envelope, seal_metadata
from hcefs.crypto.signing import SigningKey
from hcefs.crypto.stream import SEAL_OVERHEAD, scatter, seal_segment_pieces_into, segment_secret
from hcefs.erasure.scheme import (
    SEGMENT_SIZE,
    SEGMENTS_MAX,
    Geometry,
    Profile,
    piece_length,
)
from hcefs.errors import Invalid
from hcefs.formats.manifest import Core, KeyRow, Layout, Metadata, Opening
from hcefs.ids import AccountId, BlobId, ClusterId, RecordId
from hcefs.integrity import Hasher
from hcefs.metrics import Metrics
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime, end_tasks
from hcefs.stripes.fanout import Fanout, require_durable
from hcefs.stripes.stripe import StripeBatch
from hcefs.stripes.write import Stored, StripeWriter
from hcefs.transport.peers import LOAD_MESSAGE_BYTES, Call, Peer, Peers, ShardRows

A = TypeVar("A")
B = TypeVar("B")

BATCH_SEGMENTS_MAX = 4
"""Segments that are sealed and encoded in one go, at most."""

SEALED_SEGMENT = SEGMENT_SIZE + SEAL_OVERHEAD


@dataclass(frozen=True)
class ClientSeal:
    """What a sealing client decided: the commitment to its key and the sealed key."""

    dek_commitment: bytes
    envelope: Envelope


@dataclass(frozen=True)
class PutPlan:
    """Everything that is known when a put begins."""

    call: Call
    cluster: ClusterId
    blob: BlobId
    record: RecordId
    generation: int
    record_public_key: bytes
    profile: Profile
    seats: tuple[Seat, ...]
    record_seats: tuple[Seat, ...]
    record_profile: Profile
    writer: AccountId
    commit_by_ms: int
    salt: bytes
    previous_leaf: bytes
    client_seal: ClientSeal | None
    expected_length: int = 0


@dataclass(frozen=True)
class PutDone:
    """What the gateway acknowledges."""

    core: Core
    layout: Layout
    stored: Stored


@dataclass(frozen=True)
class NodeIdentity:
    """Who signs layouts."""

    account: AccountId
    key_version: int
    key: SigningKey


Clock = Callable[[], float]


@dataclass(frozen=True)
class Prepared:
    """Consecutive segments, ready to be sent, and what they took to make."""

    stripes: StripeBatch
    plaintext_length: int
    seal_seconds: float
    encode_seconds: float


@dataclass(frozen=True)
class _Segment:
    """One segment on its way in: plaintext and its secret, or sealed by the client."""

    data: bytes | bytearray | memoryview
    secret: bytes
    last: bool


def batch_segments(profile: Profile) -> int:
    """How many segments are sealed and sent together: what fills the holders' messages."""
    piece = piece_length(SEALED_SEGMENT, profile.k)
    return min(BATCH_SEGMENTS_MAX, -(-LOAD_MESSAGE_BYTES // piece))


def _seal_and_encode(
    clock: Clock, plan: PutPlan, segments: Sequence[_Segment], content: Hasher | None
) -> Prepared:
    """Some segments in a worker thread: seal into the messages to the holders, then encode.

    ``content`` takes in the plaintext while it is in the cache.
    """
    stripes = StripeBatch(plan.profile, [len(each.data) + SEAL_OVERHEAD for each in segments])
    seal_seconds = encode_seconds = 0.0
    length = 0
    for number, each in enumerate(segments):
        started = clock()
        if content is not None:
            content.update(each.data)
        pieces = stripes.data_pieces(number)
        seal_segment_pieces_into(each.secret, plan.blob, plan.record, each.last, each.data, pieces)
        sealed = clock()
        stripes.encode(number)
        seal_seconds += sealed - started
        encode_seconds += clock() - sealed
        length += len(each.data)
    stripes.close()
    return Prepared(stripes, length, seal_seconds, encode_seconds)


def _encode(clock: Clock, plan: PutPlan, segments: Sequence[_Segment]) -> Prepared:
    started = clock()
    stripes = StripeBatch(plan.profile, [len(each.data) for each in segments])
    length = 0
    for number, each in enumerate(segments):
        scatter(each.data, stripes.data_pieces(number), 0)
        stripes.encode(number)
        length += len(each.data) - SEAL_OVERHEAD
    stripes.close()
    return Prepared(stripes, length, 0.0, clock() - started)


class PutSession:
    """One put on the gateway: ``write``..., then ``finish`` or ``abort``."""

    def __init__(
        self,
        runtime: Runtime,
        peers: Peers,
        fanout: Fanout,
        identity: NodeIdentity,
        metrics: Metrics,
        plan: PutPlan,
        deadline_seconds: float,
        content: Hasher | None = None,
    ) -> None:
        """``content`` takes in the plaintext as it is sealed."""
        self._runtime = runtime
        self._content = content
        self._fanout = fanout
        self._identity = identity
        self._metrics = metrics
        self._plan = plan
        self._dek = runtime.random(32) if plan.client_seal is None else b""
        self._pending: bytearray | memoryview = bytearray()
        self._batch: list[_Segment] = []
        self._batch_segments = batch_segments(plan.profile)
        self._job: asyncio.Task[Prepared] | None = None
        self._ended = False
        self._segment = 0
        self._length = 0
        self._short_seen = False
        self._writer = StripeWriter(
            runtime,
            peers,
            plan.seats,
            plan.call,
            plan.profile,
            SEGMENT_SIZE,
            deadline_seconds,
            plan.expected_length,
            fanout.reseat,
            fanout.standby,
        )

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take plaintext (node-sealed) or exactly one sealed segment (client-sealed).

        Raises:
            Invalid: not one whole sealed segment, or one after a short one.
            Unavailable: too few holders are left.
        """
        if self._plan.client_seal is not None:
            await self._write_sealed(data)
            return
        self._length += len(data)
        view = memoryview(data)
        while len(view):
            if len(self._pending) == SEGMENT_SIZE:
                # More follows, so this full segment is not the last one.
                await self._seal(last=False)
            if not self._pending and len(view) >= SEGMENT_SIZE:
                # A whole segment in one message is sealed from where it lies.
                self._pending, view = view[:SEGMENT_SIZE], view[SEGMENT_SIZE:]
                continue
            if isinstance(self._pending, memoryview):
                self._pending = bytearray(self._pending)
            room = SEGMENT_SIZE - len(self._pending)
            self._pending += view[:room]
            view = view[room:]

    async def _seal(self, *, last: bool) -> None:
        plaintext, self._pending = self._pending, bytearray()
        secret = segment_secret(self._dek, self._segment)
        await self._add(_Segment(plaintext, secret, last))

    async def _write_sealed(self, sealed: bytes | bytearray | memoryview) -> None:
        if not SEAL_OVERHEAD <= len(sealed) <= SEALED_SEGMENT or self._short_seen:
            raise Invalid(
                f"a sealed segment has {SEALED_SEGMENT} bytes, only the last one may be shorter",
                reason="bad-segment",
            )
        self._short_seen = len(sealed) < SEALED_SEGMENT
        self._length += len(sealed) - SEAL_OVERHEAD
        await self._add(_Segment(sealed, b"", self._short_seen))

    async def _add(self, segment: _Segment) -> None:
        if self._segment >= SEGMENTS_MAX:
            raise Invalid(
                f"a blob has at most {SEGMENTS_MAX} segments; split it", reason="too-large"
            )
        self._segment += 1
        self._batch.append(segment)
        if len(self._batch) >= self._batch_segments:
            await self._start()

    async def _start(self) -> None:
        """Set to work on the batch at hand, and send the one before meanwhile."""
        done = await self._job if self._job is not None else None
        batch, self._batch, self._job = self._batch, [], None
        if batch:
            clock, plan = self._runtime.monotonic, self._plan
            job = (
                partial(_seal_and_encode, clock, plan, batch, self._content)
                if plan.client_seal is None
                else partial(_encode, clock, plan, batch)
            )
            self._job = self._runtime.spawn(self._runtime.compute(job), name="seal")
        if done is not None:
            self._metrics.count("put_bytes_total", done.plaintext_length)
            self._metrics.count("seal_seconds_total", done.seal_seconds)
            self._metrics.count("encode_seconds_total", done.encode_seconds)
            await self._writer.write(done.stripes)

    async def end(self, plaintext_length: int) -> None:
        """Seal and send what is left: no more is written.

        Raises:
            Invalid: the length differs from what was written.
            Unavailable: too few holders are left.
        """
        if plaintext_length != self._length:
            raise Invalid(
                f"the trailer says {plaintext_length} bytes, {self._length} were sent",
                reason="wrong-length",
            )
        if self._plan.client_seal is None:
            await self._seal(last=True)
        elif self._segment != Geometry(self._length, self._plan.profile).segments:
            raise Invalid("the sealed segments do not add up to the length", reason="wrong-length")
        while self._batch or self._job is not None:
            await self._start()
        self._ended = True

    async def finish(
        self,
        plaintext_length: int,
        metadata: bytes,
        sealed_metadata: bytes,
        call: Call,
    ) -> PutDone:
        """Store the rows everywhere; return when at least k+1 shards are durable.

        ``call`` carries the trailer's fresh authorization.

        Raises:
            Invalid: the length differs from what was sent, or malformed metadata.
            Unavailable: fewer than k+1 holders made their shard durable.
        """
        if metadata and self._plan.client_seal is None:
            Metadata.decode(metadata)
        if not self._ended:
            await self.end(plaintext_length)
        shard_digests = self._writer.shard_digests()
        core, key_row = self._rows(metadata, sealed_metadata, shard_digests)
        layout = self._layout(shard_digests)
        opening = Opening(
            self._plan.salt,
            self._plan.record,
            self._plan.blob,
            core.digest(),
            self._plan.previous_leaf,
        )
        encoded = (core.encode(), layout.encode(), key_row.encode(), opening.encode())
        stored = await self._store_rows(encoded, core.commit_by_ms, call)
        if stored.degraded:
            self._metrics.count("degraded_puts_total")
        return PutDone(core, layout, stored)

    async def _store_rows(
        self, encoded: tuple[bytes, bytes, bytes, bytes], commit_by_ms: int, call: Call
    ) -> Stored:
        """Rows to every holder, and the opening to every seat of the record.

        A holder that is a seat of the record keeps the opening with its shard; the
        others, and those that could not, are asked by themselves.

        Raises:
            Unavailable: fewer than k+1 of either have what they need.
        """
        plan = self._plan
        holders = {seat.node.account for seat in plan.seats}
        done: set[AccountId] = set()

        async def keep(peer: Peer, call: Call) -> None:
            await peer.store_opening(call, encoded[3], commit_by_ms)

        apart = [seat for seat in plan.record_seats if seat.node.account not in holders]
        stored, _ = await _both(
            self._writer.finish(lambda digests: ShardRows(*encoded, digests)),
            self._fanout.complete(apart, call, done, keep),
        )
        done |= stored.listed
        failed = await self._fanout.complete(plan.record_seats, call, done, keep)
        total = len(plan.record_seats)
        require_durable(total - len(failed), total, plan.record_profile, failed)
        return stored

    def _rows(
        self, metadata: bytes, sealed_metadata: bytes, shard_digests: tuple[bytes, ...]
    ) -> tuple[Core, KeyRow]:
        plan = self._plan
        seal = plan.client_seal
        if seal is None:
            sealed_metadata = (
                seal_metadata(self._dek, plan.blob, plan.record, metadata) if metadata else b""
            )
            context = EnvelopeContext(
                "dek",
                SUITE_XWING,
                plan.cluster,
                plan.record,
                plan.generation,
                bytes(plan.blob),
                bytes(plan.record),
            )
            envelope = seal_envelope(plan.record_public_key, self._dek, context)
            commitment = dek_commitment(self._dek)
        else:
            envelope, commitment = seal.envelope, seal.dek_commitment
        core = Core(
            plan.blob,
            plan.record,
            plan.generation,
            self._length,
            SEGMENT_SIZE,
            commitment,
            plan.writer,
            plan.commit_by_ms,
            plan.profile.k,
            shard_digests[: plan.profile.k],
            sealed_metadata,
        )
        core.check()
        return core, KeyRow(plan.blob, plan.record, plan.generation, envelope)

    def _layout(self, shard_digests: tuple[bytes, ...]) -> Layout:
        return Layout(
            self._plan.blob.base,
            self._plan.record,
            self._plan.profile.name,
            shard_digests,
            0,
            0,
            1,
            self._identity.account,
            self._identity.key_version,
            self._runtime.now_ms(),
            b"",
        ).signed(self._identity.key)

    async def abort(self) -> None:
        """Forget everything, here and on the holders.  Idempotent.

        Carried out even when the caller is cancelled meanwhile: gRPC first ends the
        stream of a client that vanished, and cancels its handler only then.
        """
        self._dek = b""
        await asyncio.shield(self._runtime.spawn(self._abort(), name="put-abort"))

    async def _abort(self) -> None:
        job, self._job = self._job, None
        await end_tasks(job)
        await self._writer.abort()


async def _both(first: Awaitable[A], second: Awaitable[B]) -> tuple[A, B]:
    """Wait for both; the first failure is raised after both ended."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(two, BaseException):
        raise two
    return one, two
