"""The ``Blobs`` service: what clients of a node call."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from hcefs.access.emergency import box_name
from hcefs.blobs.get import BlobReader, GetPlan, Secrets
from hcefs.blobs.put import ClientSeal, NodeIdentity, PutPlan, PutSession
from hcefs.crypto.envelope import Envelope
from hcefs.crypto.signing import SignedProof
from hcefs.erasure.scheme import SEGMENT_SIZE, profile_named, resolve_range
from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, Invalid, NotFound, Unavailable
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import DIGEST_SIZE, SALT_SIZE
from hcefs.formats.pack import decode_opening
from hcefs.ids import AccountId, BlobId, ClusterId, RecordId, RequestId
from hcefs.ledger.record_statement import RecordStatement
from hcefs.ledger.rules_records import OLD_GENERATION_MS
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.desk import Asked, Desk, Permit, blob_id
from hcefs.services.messages import decoded, pages
from hcefs.services.pack_service import PackService
from hcefs.services.serving import served, streamed
from hcefs.stripes.checks import check_commit_by
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.suspects import Suspect, nobody
from hcefs.transport.framing import DataFrame, parse
from hcefs.transport.limit import ByteGate, Gate
from hcefs.transport.peers import Call, Peer, Peers
from hcefs.wire.v1 import blob_pb2

CLIENT_STALL_SECONDS = 60.0
"""A client that sends nothing for so long has vanished."""

HEADER_SECONDS = 5.0
ARRIVING_MAX = 256
LAYOUTS_MAX = 3
PUT_BYTES = 24 << 20
GET_BYTES = 16 << 20
"""What one put or get holds at most: segments in work, and two messages a lane."""

log = logging.getLogger(__name__)


class BlobService:
    """Servicer of ``hcefs.v1.Blobs``; bulk methods take and give raw message bytes."""

    def __init__(
        self,
        runtime: Runtime,
        desk: Desk,
        peers: Peers,
        metrics: Metrics,
        gate: Gate,
        identity: NodeIdentity,
        cluster: ClusterId,
        put_deadline_seconds: float,
        memory: ByteGate,
        packs: PackService,
        suspect: Suspect = nobody,
    ) -> None:
        """``suspect`` is told of shards that a read or a put found missing or damaged."""
        self._suspect = suspect
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._desk = desk
        self._peers = peers
        self._identity = identity
        self._cluster = cluster
        self._put_deadline = put_deadline_seconds
        self._memory = memory
        self._packs = packs
        self._arriving = Gate("arriving puts", ARRIVING_MAX, runtime)
        self._hedge = HedgeTimer()

    # -- put

    @served("put", gated=False)
    async def Put(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        """Client-streaming put: header, data..., trailer."""
        try:
            answer = await self._put(messages)
        except HcefsError as error:
            self.metrics.count("puts_total", outcome=error.kind)
            raise
        self.metrics.count("puts_total", outcome="degraded" if answer.degraded else "ok")
        return answer.SerializeToString()

    async def _put(self, messages: AsyncIterator[bytes]) -> blob_pb2.PutResponse:
        # Nobody holds a stream's place before it is known who asks.
        async with self._arriving:
            first = await self._message(messages, HEADER_SECONDS)
            if isinstance(first, DataFrame) or first.WhichOneof("message") != "header":
                raise Invalid("a put begins with its header", reason="bad-message")
            asked = self._asked_put(first.header.authorization, first.header)
            call, permit = await self._desk.admit(asked, gateway=self._desk.me, entry=True)
        async with self.gate:
            with self._memory.hold(PUT_BYTES):
                return await self._stream_put(messages, first, call, permit)

    async def _stream_put(
        self, messages: AsyncIterator[bytes], first: Any, call: Call, permit: Permit
    ) -> blob_pb2.PutResponse:
        plan = self._plan(first.header, call)
        session = PutSession(
            self.runtime,
            self._peers,
            self._desk.fanout,
            self._identity,
            self.metrics,
            plan,
            self._put_deadline,
        )
        finished = False
        try:
            while isinstance(frame := await self._message(messages), DataFrame):
                permit()
                await session.write(frame.data)
            if frame.WhichOneof("message") != "trailer":
                raise Invalid("a put has one header and one trailer", reason="bad-message")
            trailer = frame.trailer
            await self._end(messages)
            fresh, _ = await self._desk.admit(
                self._asked_put(trailer.authorization, first.header),
                gateway=self._desk.me,
                entry=True,
            )
            if fresh.presenter != call.presenter:
                raise Denied("header and trailer have different presenters", reason="wrong-writer")
            done = await session.finish(
                trailer.plaintext_length, trailer.metadata, trailer.sealed_metadata, fresh
            )
            finished = True
            if done.stored.degraded:
                for seat in plan.seats:
                    if seat.index not in done.stored.durable:
                        self._suspect(seat.node, plan.blob.base, seat.index, done.layout.profile)
        finally:
            if not finished:
                await session.abort()
        return blob_pb2.PutResponse(
            core=done.core.encode(),
            layout=done.layout.encode(),
            durable_shards=len(done.stored.durable),
            total_shards=done.stored.total,
            degraded=done.stored.degraded,
        )

    async def _message(
        self, messages: AsyncIterator[bytes], seconds: float = CLIENT_STALL_SECONDS
    ) -> Any:
        try:
            async with self.runtime.timeout(seconds):
                message = await anext(messages)
        except StopAsyncIteration:
            raise Invalid(
                "the stream ended without a trailer; nothing was stored", reason="truncated"
            ) from None
        except TimeoutError:
            raise Invalid(
                "the client sent nothing for too long; nothing was stored", reason="stalled"
            ) from None
        return parse(message, blob_pb2.PutRequest)

    async def _end(self, messages: AsyncIterator[bytes]) -> None:
        """Nothing may follow the trailer."""
        try:
            async with self.runtime.timeout(CLIENT_STALL_SECONDS):
                await anext(messages)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Invalid("the client did not end the stream", reason="stalled") from None
        raise Invalid("nothing may follow the trailer; nothing was stored", reason="extended")

    def _asked_put(self, authorization: Any, header: Any) -> Asked:
        return Asked(
            authorization.token,
            authorization.proof,
            "put",
            RecordId(header.record_id),
            BlobId(header.blob_id),
            0,
            0,
            header.min_height,
            header.epoch,
            RequestId(header.request_id),
        )

    def _plan(self, header: Any, call: Call) -> PutPlan:
        record = self._desk.view.record(call.record)
        if record is None or call.blob is None:
            raise NotFound("this record is unknown", reason="unknown-record")
        generation = self._desk.view.generation(call.record, header.generation)
        current = self._desk.view.generation(call.record, record.generation)
        if generation is None or current is None:
            raise Invalid("this generation is not on the ledger", reason="unknown-generation")
        if (
            generation.number < record.generation
            and self._desk.view.time_ms > current.time_ms + OLD_GENERATION_MS
        ):
            raise Conflict(
                f"the record is at generation {record.generation}; seal to that one",
                reason="old-generation",
            )
        if call.blob.slot != 0:
            raise Invalid("payloads are packed by put-many only", reason="unsupported")
        if AccountId(header.writer) != call.presenter:
            raise Denied("the writer must be the presenter of the proof", reason="wrong-writer")
        if len(header.salt) != SALT_SIZE or len(header.previous_leaf) not in (0, DIGEST_SIZE):
            raise Invalid("salt or previous leaf of a wrong size", reason="bad-message")
        check_commit_by(self._desk.view, header.commit_by_ms)
        seal = None
        if header.HasField("client_seal"):
            if len(header.client_seal.dek_commitment) != DIGEST_SIZE:
                raise Invalid("a key commitment has 32 bytes", reason="bad-message")
            seal = ClientSeal(
                header.client_seal.dek_commitment,
                Envelope.decode(header.client_seal.sealed_dek),
            )
        cluster_map = self._desk.cluster_map()
        profile = profile_named(header.profile or cluster_map.default_profile)
        record_seats, record_profile = self._desk.record_seats(call.record)
        return PutPlan(
            call,
            self._cluster,
            call.blob,
            call.record,
            generation.number,
            generation.public_key,
            profile,
            self._desk.blob_seats(profile.name, call.blob),
            record_seats,
            record_profile,
            call.presenter,
            header.commit_by_ms,
            header.salt,
            header.previous_leaf,
            seal,
            header.expected_length,
        )

    # -- get

    @streamed("get")
    async def Get(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Server-streaming get: header, data..."""
        outcome = "cancelled"
        ended: list[BlobReader] = []
        try:
            message = decoded(blob_pb2.GetRequest, request)
            with self._memory.hold(GET_BYTES):
                async with aclosing(self._get(message, ended)) as stream:
                    async for data in stream:
                        yield data
            outcome = "degraded" if ended and ended[0].degraded else "ok"
        except HcefsError as error:
            outcome = error.kind
            raise
        finally:
            self.metrics.count("gets_total", outcome=outcome)

    async def _get(
        self, message: blob_pb2.GetRequest, ended: list[BlobReader]
    ) -> AsyncGenerator[bytes, None]:
        """Header and data; the reader that served them is left in ``ended``.

        Any node may sign a layout, so a lying holder may have given one of its own
        making: when nothing could be read by one, the next seat's is tried.
        """
        asked = Asked(
            message.authorization.token,
            message.authorization.proof,
            "get",
            RecordId(message.record_id),
            BlobId(message.blob_id),
            message.range_start,
            message.range_length,
            message.min_height,
            message.epoch,
            RequestId(message.request_id),
        )
        call, permit = await self._desk.admit(asked, gateway=self._desk.me, entry=True)
        if call.blob is not None and call.blob.slot:
            async with aclosing(self._packs.get(call, self._secrets(message))) as packed:
                async for part in packed:
                    permit()
                    yield part
            return
        failure: HcefsError | None = None
        refused: list[bytes] = []
        while True:
            try:
                reader, header, layout = await self._reader(message, call, refused)
            except NotFound:
                if failure is not None:
                    raise failure from None
                raise
            begun = False
            try:
                async with aclosing(reader.messages(permit)) as messages:
                    async for data in messages:
                        if not begun:
                            yield blob_pb2.GetResponse(header=header).SerializeToString()
                            begun = True
                        yield data
            except (Corrupt, Unavailable) as error:
                if begun or len(refused) >= LAYOUTS_MAX:
                    raise
                failure = failure or error
                refused.append(layout)
                continue
            if not begun:
                yield blob_pb2.GetResponse(header=header).SerializeToString()
            ended.append(reader)
            return

    async def _reader(
        self, message: blob_pb2.GetRequest, call: Call, refused: list[bytes]
    ) -> tuple[BlobReader, blob_pb2.GetHeader, bytes]:
        secrets = self._secrets(message)
        manifest, held = await self._desk.manifest(call, refused)
        core = manifest.core
        start, length = resolve_range(
            core.plaintext_length, message.range_start, message.range_length
        )
        others = self._desk.stand_ins(manifest.layout.profile, core.blob.base)
        plan = GetPlan(call, manifest, held, start, length, secrets, others)
        reader = BlobReader(
            self.runtime, self._peers, self.metrics, self._hedge, plan, framed=True,
            suspect=self._suspect,
        )  # fmt: skip
        header = blob_pb2.GetHeader(
            plaintext_length=core.plaintext_length,
            range_start=start,
            range_length=length,
            first_segment=plan.geometry.covering(start, length).start,
            segment_size=SEGMENT_SIZE,
        )
        return reader, header, manifest.rows.layout

    @staticmethod
    def _secrets(message: blob_pb2.GetRequest) -> Secrets | None:
        opening = message.WhichOneof("opening")
        if opening == "dek":
            if len(message.dek) != 32:
                raise Invalid("a data key has 32 bytes", reason="bad-key")
            return Secrets(dek=message.dek)
        if opening == "secrets":
            if not message.secrets.secrets or len(message.secrets.secrets) % 32:
                raise Invalid("segment secrets have 32 bytes each", reason="bad-key")
            return Secrets(first=message.secrets.first, joined=message.secrets.secrets)
        if opening == "sealed" and message.sealed:
            return None
        raise Invalid("say how to open: dek, secrets, or sealed = true", reason="bad-message")

    # -- rows

    @served("stat")
    async def Stat(self, request: blob_pb2.StatRequest, context: Any) -> blob_pb2.StatResponse:
        """The manifest of a committed blob."""
        call, _ = await self._desk.admit(
            self._asked(request, "stat", request.record_id, request.blob_id),
            gateway=self._desk.me,
            entry=True,
        )
        if call.blob is not None and call.blob.slot:
            return await self._packs.stat(call)
        manifest, _ = await self._desk.manifest(call)
        rows = manifest.rows
        return blob_pb2.StatResponse(
            core=rows.core, layout=rows.layout, key_row=rows.key_row, opening=rows.opening
        )

    @streamed("list")
    async def List(
        self, request: blob_pb2.ListRequest, context: Any
    ) -> AsyncIterator[blob_pb2.ListResponse]:
        """The union of the record's openings over its seats."""
        call, permit = await self._desk.admit(
            self._asked(request, "list", request.record_id, b""),
            gateway=self._desk.me,
            entry=True,
        )
        held, _ = self._desk.record_seats(call.record)
        answers = await self._desk.fanout.load(
            held, lambda peer: peer.load_listing(call), call.record
        )
        union: dict[bytes, int] = {}
        for entries in answers:
            for entry in entries:
                known = self._entry_index(call.record, entry.opening)
                if known is not None:
                    union[entry.opening] = known
        listed = sorted(union.items(), key=lambda item: item[1])
        for page in pages(listed):
            permit()
            yield blob_pb2.ListResponse(entries=page)

    @served("state-record")
    async def StateRecord(
        self, request: blob_pb2.StateRecordRequest, context: Any
    ) -> blob_pb2.StateRecordResponse:
        """What this node's replica says of a record, signed."""
        call, _ = await self._desk.admit(
            self._asked(request, "list", request.record_id, b""),
            gateway=self._desk.me,
            entry=True,
        )
        statement = await self.runtime.disk(self._statement, call.record)
        return blob_pb2.StateRecordResponse(statement=statement.encode())

    def _statement(self, record: RecordId) -> RecordStatement:
        view = self._desk.follower.view.snapshot()
        found = view.record(record)
        block_hash = self._desk.follower.view.block_hash(view.height)
        if found is None or block_hash is None:
            raise NotFound("this record is unknown here", reason="unknown-record")
        return RecordStatement(
            self._cluster,
            self._desk.me,
            self._identity.key_version,
            record,
            found.owner,
            found.generation,
            found.leaf_count,
            found.peaks,
            view.height,
            block_hash,
            self.runtime.now_ms(),
            b"",
        ).signed(self._identity.key)

    def _entry_index(self, record: RecordId, data: bytes) -> int | None:
        """Where an opening that a seat gave is in the record; None when it proves nothing."""
        try:
            opening = decode_opening(data)
        except Invalid:
            log.warning("a seat of %s gave a malformed opening", record)
            return None
        if opening.record != record:
            return None
        return self._desk.follower.view.leaf_index(record, opening.commitment())

    @served("put-box")
    async def PutBox(
        self, request: blob_pb2.PutBoxRequest, context: Any
    ) -> blob_pb2.PutBoxResponse:
        """Keep a key box on all seats of the record."""
        box = KeyBox.decode(request.box)
        call, _ = await self._desk.admit(
            self._asked(request, "put-box", bytes(box.record), b""),
            gateway=self._desk.me,
            entry=True,
        )
        if call.blob is not None and box.blob != call.blob:
            raise Denied("the box is for another blob than the right", reason="box-disagrees")
        durable = await self._store_box(call, request.box, b"")
        return blob_pb2.PutBoxResponse(durable=durable)

    @served("put-box")
    async def PutLink(
        self, request: blob_pb2.PutLinkRequest, context: Any
    ) -> blob_pb2.PutLinkResponse:
        """Keep a key link on all seats of the record; for its owner."""
        link = KeyLink.decode(request.link)
        call, _ = await self._desk.admit(
            self._asked(request, "put-box", bytes(link.record), b""),
            gateway=self._desk.me,
            entry=True,
            owner=True,
        )
        durable = await self._store_box(call, b"", request.link)
        return blob_pb2.PutLinkResponse(durable=durable)

    async def _store_box(self, call: Call, box: bytes, link: bytes) -> int:
        held, profile = self._desk.record_seats(call.record)

        async def keep(peer: Peer, call: Call) -> None:
            await peer.store_box(call, box, link)

        return await self._desk.fanout.store(held, profile, call, keep)

    @served("boxes")
    async def GetBoxes(
        self, request: blob_pb2.GetBoxesRequest, context: Any
    ) -> blob_pb2.GetBoxesResponse:
        """The boxes of the token's grant and the links of the record."""
        call, _ = await self._desk.admit(
            self._asked(request, "boxes", request.record_id, request.blob_id),
            gateway=self._desk.me,
            entry=True,
        )
        if box_name(self._desk.view, call.grant) != call.grant:
            log.warning(
                "keys of %s are handed to %s under an opening in an emergency (%s)",
                call.record,
                call.presenter,
                call.grant,
            )
            self.metrics.count("emergency_key_releases_total")
        held, _ = self._desk.record_seats(call.record)
        answers = await self._desk.fanout.load(
            held, lambda peer: peer.load_boxes(call), call.record
        )
        boxes = {box: None for found, _ in answers for box in found}
        links = {link: None for _, found in answers for link in found}
        return blob_pb2.GetBoxesResponse(boxes=list(boxes), links=list(links))

    @staticmethod
    def _asked(request: Any, method: str, record: bytes, blob: bytes) -> Asked:
        # These messages carry no range: under a grant on a range (or, for a box, on
        # a blob) the proof names what the right reaches, and the decision is by that.
        named = SignedProof.decode(request.authorization.proof).proof
        if method == "put-box":
            blob = bytes(named.blob) if named.blob else b""
        return Asked(
            request.authorization.token,
            request.authorization.proof,
            method,
            RecordId(record),
            blob_id(blob),
            named.range_start,
            named.range_length,
            request.min_height,
            0,
            RequestId(request.request_id),
        )
