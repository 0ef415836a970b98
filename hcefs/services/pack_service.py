"""Packs at their entry node: ``PutMany`` and ``GetMany``, and single packed blobs.

The client seals and opens; this node encodes and signs what it stores, and proves what
it serves.  Nothing of a put is buffered for strangers: the header's proof is checked
before the groups are taken, and all bytes are within the memory budget.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from hcefs.blobs.get import Secrets
from hcefs.blobs.pack_get import open_payload
from hcefs.erasure.scheme import (
    SEAL_OVERHEAD,
    SEGMENT_SIZE,
    Profile,
    profile_named,
    resolve_range,
)
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.formats.pack import (
    PAYLOADS_MAX,
    PackedKey,
    PackEnvelope,
    body_bytes_max,
    pack_profile,
    split_lengths,
)
from hcefs.ids import AccountId, BlobBase, BlobId, RequestId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.batch_desk import AskedBatch, BatchDesk, require_writer
from hcefs.services.desk import Desk
from hcefs.services.messages import decoded
from hcefs.services.pack_answers import Framer
from hcefs.services.serving import served, streamed
from hcefs.stripes.checks import check_commit_by
from hcefs.stripes.pack_checks import ROWS_BYTES_MAX, check_generation, check_groups, rows_bytes
from hcefs.stripes.pack_read import PackedPayload, PackReader
from hcefs.stripes.pack_rows import Key, PackedRow
from hcefs.stripes.pack_write import PackBody, PackPlan, PackWriter
from hcefs.stripes.suspects import Suspect, nobody
from hcefs.transport.framing import DataFrame, frame_data, parse
from hcefs.transport.limit import ByteGate, Gate
from hcefs.transport.pack_messages import batch_blobs, batch_groups, pack_group
from hcefs.transport.packs import BatchCall, PackGroupRows
from hcefs.transport.peers import Call
from hcefs.wire.v1 import blob_pb2, pack_pb2

HEADER_SECONDS = 5.0
STALL_SECONDS = 60.0
"""A client that sends nothing for so long has vanished."""

ARRIVING_MAX = 256
GET_BYTES = 12 << 20
"""What one get of packed payloads holds at most."""

BODY_COPIES = 4
"""What a pack's body costs at most while it is put: itself, its pieces, and their messages."""

ROWS_COPIES = 8
"""What a pack's rows cost at most: as they came, and in one message for each holder."""


@dataclass(frozen=True)
class _Header:
    """A checked first message of a put."""

    message: pack_pb2.PutManyHeader
    base: BlobBase
    writer: AccountId
    lengths: list[int]
    profile: Profile

    @property
    def body(self) -> int:
        return sum(self.lengths)


class PackService:
    """The part of ``hcefs.v1.Blobs`` that is about packs."""

    def __init__(
        self,
        runtime: Runtime,
        desk: Desk,
        batches: BatchDesk,
        writer: PackWriter,
        reader: PackReader,
        metrics: Metrics,
        gate: Gate,
        memory: ByteGate,
        suspect: Suspect = nobody,
    ) -> None:
        """``suspect`` is told of shards that a put could not store where they belong."""
        self._suspect = suspect
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._desk = desk
        self._batches = batches
        self._writer = writer
        self._reader = reader
        self._memory = memory
        self._arriving = Gate("arriving packs", ARRIVING_MAX, runtime)

    # -- put

    @served("put-many", gated=False)
    async def PutMany(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        """Client-streaming put of one pack: header, groups..., data..."""
        payloads = 1
        try:
            # Nobody holds a stream's place before it is known who asks.
            async with self._arriving:
                first = await self._message(messages, HEADER_SECONDS)
                header = self._header(first)
                payloads = len(header.lengths)
                await self._greet(header)
            async with self.gate:
                answer = await self._put_many(messages, header)
        except HcefsError as error:
            self.metrics.count("puts_total", payloads, outcome=error.kind)
            self.metrics.count("packs_total", outcome=error.kind)
            raise
        outcome = "degraded" if answer.degraded else "ok"
        self.metrics.count("puts_total", payloads, outcome=outcome)
        self.metrics.count("packs_total", outcome=outcome)
        self.metrics.observe("pack_payloads", payloads)
        self.metrics.count("put_bytes_total", header.body - SEAL_OVERHEAD * payloads)
        return answer.SerializeToString()

    def _header(self, first: Any) -> _Header:
        if isinstance(first, DataFrame) or first.WhichOneof("message") != "header":
            raise Invalid("a pack begins with its header", reason="bad-message")
        message = first.header
        lengths = split_lengths(message.lengths)
        if not 1 <= message.groups <= len(lengths):
            raise Invalid(
                "a pack has at least one group, and at most one for each payload",
                reason="bad-message",
            )
        return _Header(
            message,
            BlobBase(message.base),
            AccountId(message.writer),
            lengths,
            self._profile(message.profile, sum(lengths)),
        )

    def _profile(self, named: str, body: int) -> Profile:
        """The profile that was asked for, or the one for this length that the map has."""
        current = self._desk.cluster_map()
        tables = {table.profile for table in current.tables}
        name = named or pack_profile(body, current.default_profile)
        if not named and name not in tables:
            name = current.default_profile
        profile = profile_named(name)
        current.table(name)  # raises where the map has none
        if body > body_bytes_max(profile):
            raise Invalid(
                f"a pack's body has at most {body_bytes_max(profile)} bytes under {name}: put "
                "fewer payloads at once, or name no profile",
                reason="too-large",
            )
        return profile

    async def _greet(self, header: _Header) -> None:
        presenter = await self._batches.greet(self._asked(header, ()), gateway=self._desk.me)
        require_writer(header.writer, presenter)
        check_commit_by(self._desk.view, header.message.commit_by_ms)

    @staticmethod
    def _asked(header: _Header, rows: Sequence[PackGroupRows]) -> AskedBatch:
        message = header.message
        return AskedBatch(
            tuple(message.authorization.tokens),
            message.authorization.proof,
            "put-many",
            batch_blobs(rows, header.base),
            message.min_height,
            message.epoch,
            RequestId(message.request_id),
        )

    async def _put_many(
        self, messages: AsyncIterator[bytes], header: _Header
    ) -> pack_pb2.PutManyResponse:
        with self._memory.hold(header.body * BODY_COPIES + ROWS_BYTES_MAX):
            rows = await self._groups(messages, header.message.groups)
            with self._memory.hold(rows_bytes(rows) * ROWS_COPIES):
                body = PackBody(header.profile, header.body)
                await self._fill(messages, body)
                call, _ = await self._batches.admit(
                    self._asked(header, rows), gateway=self._desk.me, entry=True
                )
                require_writer(header.writer, call.presenter)
                # Here first, so that nothing of a pack that holders refuse gets anywhere.
                envelopes = await self.runtime.compute(
                    check_groups, header.base, rows, len(header.lengths)
                )
                for envelope in envelopes:
                    check_generation(self._desk.view, envelope)
                layout, stored = await self._writer.put(self._plan(header, rows, call), body)
        if stored.degraded:
            for seat in self._desk.blob_seats(layout.profile, BlobId.of(header.base)):
                if seat.index not in stored.durable:
                    self._suspect(seat.node, header.base, seat.index, layout.profile)
        return pack_pb2.PutManyResponse(
            layout=layout.encode(),
            durable_shards=len(stored.durable),
            total_shards=stored.total,
            degraded=stored.degraded,
        )

    async def _groups(
        self, messages: AsyncIterator[bytes], expected: int
    ) -> tuple[PackGroupRows, ...]:
        """The groups of a put, within their bounds."""
        rows: list[PackGroupRows] = []
        size = 0
        while len(rows) < expected:
            message = await self._message(messages)
            if isinstance(message, DataFrame) or message.WhichOneof("message") != "groups":
                raise Invalid(
                    f"{expected} groups come before the data, {len(rows)} were sent",
                    reason="bad-message",
                )
            more = [pack_group(group) for group in message.groups.groups]
            size += rows_bytes(more)
            rows += more
            if not more or len(rows) > expected or size > ROWS_BYTES_MAX:
                raise Invalid(
                    f"a pack has at most {PAYLOADS_MAX} groups, as many as its header says, and "
                    f"{ROWS_BYTES_MAX} bytes of rows",
                    reason="too-large",
                )
        return tuple(rows)

    async def _fill(self, messages: AsyncIterator[bytes], body: PackBody) -> None:
        """The body of a put, exactly, and then the end of the stream."""
        while body.taken < body.length:
            message = await self._message(messages)
            if not isinstance(message, DataFrame):
                raise Invalid("after the groups only data follows", reason="bad-message")
            if not body.take(message.data):
                raise _wrong_length()
        try:
            async with self.runtime.timeout(STALL_SECONDS):
                await anext(messages)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Invalid("the client did not end the stream", reason="stalled") from None
        raise _wrong_length()

    async def _message(self, messages: AsyncIterator[bytes], seconds: float = STALL_SECONDS) -> Any:
        try:
            async with self.runtime.timeout(seconds):
                message = await anext(messages)
        except StopAsyncIteration:
            raise Invalid(
                "the stream ended before the whole pack had come; nothing was stored",
                reason="truncated",
            ) from None
        except TimeoutError:
            raise Invalid(
                "the client sent nothing for too long; nothing was stored", reason="stalled"
            ) from None
        return parse(message, pack_pb2.PutManyRequest)

    def _plan(self, header: _Header, rows: tuple[PackGroupRows, ...], call: BatchCall) -> PackPlan:
        record_seats = {group.record: self._desk.record_seats(group.record)[0] for group in rows}
        return PackPlan(
            call,
            header.base,
            header.profile,
            self._desk.blob_seats(header.profile.name, BlobId.of(header.base)),
            header.message.lengths,
            rows,
            header.message.commit_by_ms,
            record_seats,
            self._desk.record_seats(rows[0].record)[1],
        )

    # -- get

    @streamed("get-many")
    async def GetMany(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Server-streaming get of packed payloads, as they were sealed."""
        message = decoded(pack_pb2.GetManyRequest, request)
        asked = AskedBatch(
            tuple(message.authorization.tokens),
            message.authorization.proof,
            "get-many",
            batch_groups(message.groups),
            message.min_height,
            message.epoch,
            RequestId(message.request_id),
        )
        with self._memory.hold(GET_BYTES):
            call, permit = await self._batches.admit(asked, gateway=self._desk.me, entry=True)
            keys, failed = _keys(call)
            framer = Framer()
            for answer in self._framed(framer, failed):
                yield answer
            async with aclosing(self._reader.read(call, keys)) as found:
                async for payloads in found:
                    permit()
                    for answer in self._framed(framer, payloads):
                        yield answer
            permit()
            for answer in framer.rest():
                yield answer

    def _framed(self, framer: Framer, payloads: Sequence[PackedPayload]) -> Iterable[bytes]:
        outcomes: dict[str, int] = {}
        for payload in payloads:
            outcome = "ok" if payload.error is None else payload.error.kind
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        for outcome, count in outcomes.items():
            self.metrics.count("gets_total", count, outcome=outcome)
        sent = sum(len(each.sealed) - SEAL_OVERHEAD for each in payloads if each.error is None)
        self.metrics.count("get_bytes_total", sent)
        return framer.take(payloads)

    # -- one packed blob

    async def stat(self, call: Call) -> blob_pb2.StatResponse:
        """The manifest of one packed blob.

        Raises:
            NotFound, Unavailable, Corrupt: why there is none.
        """
        row = await self._reader.row(call, _key(call))
        return blob_pb2.StatResponse(
            core=row.encoded,
            layout=row.part.layout,
            key_row=_packed_key(row),
            opening=row.proof,
        )

    async def get(self, call: Call, secrets: Secrets | None) -> AsyncGenerator[bytes, None]:
        """Header and content of one packed blob, or of a range of it: opened, or as sealed.

        Raises:
            NotFound, Unavailable, Corrupt, Denied: why it cannot be read.
        """
        key = _key(call)
        async with aclosing(self._reader.read(call, [key])) as found:
            payload = [each async for some in found for each in some][-1]
        if payload.error is not None:
            raise payload.error
        if payload.row is None:
            raise Corrupt("a payload without rows", reason="missing-row")
        core = payload.row.core
        start, length = resolve_range(core.plaintext_length, call.range_start, call.range_length)
        if secrets is None:
            data = payload.sealed
        else:
            opened = await self.runtime.compute(open_payload, core, payload.sealed, secrets)
            data = opened[start : start + length]
        yield blob_pb2.GetResponse(
            header=blob_pb2.GetHeader(
                plaintext_length=core.plaintext_length,
                range_start=start,
                range_length=length,
                first_segment=0,
                segment_size=SEGMENT_SIZE,
            )
        ).SerializeToString()
        if data:
            self.metrics.count("get_bytes_total", len(data))
            yield frame_data(data)


def _keys(call: BatchCall) -> tuple[list[Key], list[PackedPayload]]:
    """The payloads of a batch that may be read, and those that may not or are not packed."""
    keys: dict[Key, None] = {}
    failed: dict[Key, PackedPayload] = {}
    for group in call.groups:
        for blob in group.ids():
            key = (blob.base, group.record, blob.slot)
            error = call.refused.get((group.record, blob))
            if error is None and not 1 <= blob.slot <= PAYLOADS_MAX:
                error = Invalid(
                    "only packed blobs are read in batches: get this one alone", reason="not-packed"
                )
            if error is None:
                keys[key] = None
            else:
                failed[key] = PackedPayload(key, None, b"", error)
    return list(keys), list(failed.values())


def _key(call: Call) -> Key:
    if call.blob is None:
        raise Invalid("this method needs a blob id", reason="bad-id")
    return (call.blob.base, call.record, call.blob.slot)


def _packed_key(row: PackedRow) -> bytes:
    """Canonical bytes of the key row of a packed blob; empty when it was shredded.

    Raises:
        Corrupt: the envelope is another's.
    """
    base, record, slot = row.key
    if not row.wrapped or not row.part.envelope:
        return b""
    envelope = PackEnvelope.decode(row.part.envelope)
    if (envelope.base, envelope.record) != (base, record):
        raise Corrupt("the envelope of a packed blob is another's", reason="rows-disagree")
    key = PackedKey(
        BlobId.of(base, slot), record, envelope.generation, envelope.envelope, row.wrapped
    )
    return key.encode()


def _wrong_length() -> Invalid:
    return Invalid(
        "the body has another length than the payloads of the header; nothing was stored",
        reason="wrong-length",
    )
