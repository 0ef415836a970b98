"""Put: plaintext or sealed segments in, n shards out, acknowledged with d.

One :class:`PutSession` serves one put on the gateway.  Node-sealed, it draws
the data key, seals every segment and forgets the key with the session;
client-sealed, it never sees plaintext.  Both give the same bytes on disk.

Invariants: at most ``PIPELINE`` segments are in memory besides what the lanes
queue; nothing is visible before the rows are stored; the session either
finishes or aborts, and an aborted one leaves no shard behind on a live holder.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from hcefs.crypto.envelope import SUITE_XWING, Envelope, EnvelopeContext
from hcefs.crypto.keys import dek_commitment, seal_envelope, seal_metadata
from hcefs.crypto.signing import SigningKey
from hcefs.crypto.stream import SEAL_OVERHEAD, seal_segment_into, segment_secret
from hcefs.erasure.scheme import SEGMENT_SIZE, SEGMENTS_MAX, Geometry, Profile
from hcefs.errors import Invalid
from hcefs.formats.manifest import Core, KeyRow, Layout, Metadata, Opening
from hcefs.ids import AccountId, BlobId, ClusterId, RecordId
from hcefs.metrics import Metrics
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime
from hcefs.stripes.fanout import Fanout, require_durable
from hcefs.stripes.stripe import EncodedStripe, encode_stripe, stripe_buffer
from hcefs.stripes.write import Stored, StripeWriter
from hcefs.transport.peers import Call, Peer, Peers, ShardRows

A = TypeVar("A")
B = TypeVar("B")

PIPELINE = 2
"""Segments that are sealed and encoded at the same time by one put."""

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
    """One segment, ready to be sent, and what it took to make."""

    stripe: EncodedStripe
    plaintext_length: int
    seal_seconds: float
    encode_seconds: float


def _seal_and_encode(
    clock: Clock, secret: bytes, plan: PutPlan, last: bool, plaintext: bytearray | memoryview
) -> Prepared:
    """One segment in a worker thread: seal into the stripe's buffer, then encode."""
    started = clock()
    buffer = stripe_buffer(plan.profile, len(plaintext) + SEAL_OVERHEAD)
    length = seal_segment_into(secret, plan.blob, plan.record, last, plaintext, memoryview(buffer))
    sealed = clock()
    stripe = encode_stripe(plan.profile, buffer, length)
    return Prepared(stripe, len(plaintext), sealed - started, clock() - sealed)


def _encode(clock: Clock, plan: PutPlan, sealed: bytes) -> Prepared:
    started = clock()
    buffer = stripe_buffer(plan.profile, len(sealed))
    buffer[: len(sealed)] = sealed
    stripe = encode_stripe(plan.profile, buffer, len(sealed))
    return Prepared(stripe, len(sealed) - SEAL_OVERHEAD, 0.0, clock() - started)


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
    ) -> None:
        self._runtime = runtime
        self._fanout = fanout
        self._identity = identity
        self._metrics = metrics
        self._plan = plan
        self._dek = runtime.random(32) if plan.client_seal is None else b""
        self._pending: bytearray | memoryview = bytearray()
        self._jobs: deque[asyncio.Task[Prepared]] = deque()
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
        )

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take plaintext (node-sealed) or exactly one sealed segment (client-sealed).

        Raises:
            Invalid: not one whole sealed segment, or one after a short one.
            Unavailable: too few holders are left.
        """
        if self._plan.client_seal is not None:
            await self._write_sealed(bytes(data))
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
        await self._start(
            partial(_seal_and_encode, self._runtime.monotonic, secret, self._plan, last, plaintext)
        )

    async def _write_sealed(self, sealed: bytes) -> None:
        if not SEAL_OVERHEAD <= len(sealed) <= SEALED_SEGMENT or self._short_seen:
            raise Invalid(
                f"a sealed segment has {SEALED_SEGMENT} bytes, only the last one may be shorter",
                reason="bad-segment",
            )
        self._short_seen = len(sealed) < SEALED_SEGMENT
        self._length += len(sealed) - SEAL_OVERHEAD
        await self._start(partial(_encode, self._runtime.monotonic, self._plan, sealed))

    async def _start(self, job: Callable[[], Prepared]) -> None:
        if self._segment >= SEGMENTS_MAX:
            raise Invalid(
                f"a blob has at most {SEGMENTS_MAX} segments; split it", reason="too-large"
            )
        self._segment += 1
        self._jobs.append(self._runtime.spawn(self._runtime.compute(job), name="seal"))
        while len(self._jobs) >= PIPELINE:
            await self._send_one()

    async def _send_one(self) -> None:
        prepared = await self._jobs.popleft()
        self._metrics.count("put_bytes_total", prepared.plaintext_length)
        self._metrics.count("seal_seconds_total", prepared.seal_seconds)
        self._metrics.count("encode_seconds_total", prepared.encode_seconds)
        await self._writer.write(prepared.stripe)

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
        if plaintext_length != self._length:
            raise Invalid(
                f"the trailer says {plaintext_length} bytes, {self._length} were sent",
                reason="wrong-length",
            )
        if self._plan.client_seal is None:
            if metadata:
                Metadata.decode(metadata)
            await self._seal(last=True)
        elif self._segment != Geometry(self._length, self._plan.profile).segments:
            raise Invalid("the sealed segments do not add up to the length", reason="wrong-length")
        while self._jobs:
            await self._send_one()
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

        async def keep(peer: Peer) -> None:
            await peer.store_opening(call, encoded[3], commit_by_ms)

        apart = [seat for seat in plan.record_seats if seat.node.account not in holders]
        stored, failed = await _both(
            self._writer.finish(lambda digests: ShardRows(*encoded, digests)),
            self._fanout.attempt(apart, keep),
        )
        left = [
            seat
            for seat in plan.record_seats
            if seat.node.account in holders and seat.node.account not in stored.listed
        ]
        failed += await self._fanout.attempt(left, keep)
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
        jobs, self._jobs = list(self._jobs), deque()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await self._writer.abort()


async def _both(first: Awaitable[A], second: Awaitable[B]) -> tuple[A, B]:
    """Wait for both; the first failure is raised after both ended."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(two, BaseException):
        raise two
    return one, two
