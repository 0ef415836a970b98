"""The ``Shards`` service: what other nodes call over mutual TLS, and clients in direct mode.

A holder trusts no gateway: it checks the presenter's proof and token again, that
the proof names the TLS peer as the gateway, and that it is a seat of the
partition itself, or, where the gateway asks it to stand in for one, a stand-in.
On the client port (``direct``) the proof names this very holder and the method
``direct-put`` or ``direct-get``, so that a holder cannot use a proof it saw to
ask the others (docs/decisions/0009).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from hcefs.erasure.scheme import profile_named
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import AccountId, RecordId, RequestId
from hcefs.integrity import crc32c
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.desk import Asked, Desk, Permit, blob_id
from hcefs.services.messages import decoded, pages
from hcefs.services.serving import served, streamed
from hcefs.transport.framing import DataFrame, parse
from hcefs.transport.grpc_peers import HEAD_KEY, observe
from hcefs.transport.limit import Gate
from hcefs.transport.peers import Call, Heads, LoadHeader, Peer, ShardRows, ShardStart
from hcefs.transport.upkeep import ShardName
from hcefs.wire.v1 import shard_pb2

GATEWAY_STALL_SECONDS = 90.0
"""Longer than a gateway waits for its client, so that the gateway gives up first."""


HEADER_SECONDS = 5.0
DIRECT = frozenset({"put", "get"})
"""What a client may ask of a holder itself."""


Hints = Callable[[AccountId, str, Sequence[ShardName]], int]


def _unheard(giver: AccountId, profile: str, shards: Sequence[ShardName]) -> int:
    return 0


def rows_of(finish: shard_pb2.StoreFinish) -> ShardRows:
    """A shard's rows, as they came."""
    return ShardRows(
        finish.core, finish.layout, finish.key_row, finish.opening, finish.piece_digests
    )


def wire_header(header: LoadHeader) -> shard_pb2.LoadHeader:
    """What precedes loaded pieces, as it travels."""
    return shard_pb2.LoadHeader(
        pieces=header.pieces,
        piece_digests=header.piece_digests,
        audit_path=header.audit_path,
    )


class ShardService:
    """Servicer of ``hcefs.v1.Shards`` over the local holder."""

    def __init__(
        self,
        runtime: Runtime,
        desk: Desk,
        holder: Peer,
        heads: Heads,
        metrics: Metrics,
        gate: Gate,
        *,
        direct: bool = False,
        restoring: Callable[[], bool] = lambda: False,
        hints: Hints = _unheard,
    ) -> None:
        """``restoring``: what is not found here may be there all the same; ``hints`` takes
        what direct clients say about shards of this node, and tells how much of it."""
        self._hints = hints
        self.restoring = restoring
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._desk = desk
        self._holder = holder
        self._heads = heads
        self._direct = direct

    async def _admit(
        self, context: Any, sent: shard_pb2.CallContext, *methods: str, begins: bool = False
    ) -> tuple[Call, Permit]:
        observe(self._heads, context.invocation_metadata())
        if self._direct:
            gateway = self._desk.me
            methods = tuple(f"direct-{method}" for method in methods if method in DIRECT)
        else:
            gateway = self._desk.peer_of(context)
        if sent.method not in methods:
            raise Invalid(
                f"this call serves {' and '.join(methods) or 'nodes'} only", reason="wrong-method"
            )
        asked = Asked(
            sent.authorization.token,
            sent.authorization.proof,
            sent.method,
            RecordId(sent.record_id),
            blob_id(sent.blob_id),
            sent.range_start,
            sent.range_length,
            sent.min_height,
            sent.epoch,
            RequestId(sent.request_id),
        )
        call, permit = await self._desk.admit(asked, gateway=gateway, entry=self._direct)
        if not begins:
            await self._begun(context)
        return replace(call, profile=sent.profile, stand_in=sent.stand_in), permit

    async def admit_call(self, context: Any, sent: shard_pb2.CallContext, *methods: str) -> Call:
        """Take a unary call through the whole path, for what else is served to holders.

        Raises:
            HcefsError: as :meth:`Desk.admit`.
        """
        call, _ = await self._admit(context, sent, *methods)
        return call

    async def _begun(self, context: Any) -> None:
        """Tell the caller that the call was taken: the initial metadata, with this node's head."""
        head = self._heads.current()
        await context.send_initial_metadata([(HEAD_KEY, head)] if head else [])

    @served("store-shard")
    async def Store(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        """Client-streaming: header, data..., finish."""
        first = await self._message(messages, HEADER_SECONDS)
        if isinstance(first, DataFrame) or first.WhichOneof("message") != "header":
            raise Invalid("a shard begins with its header", reason="bad-message")
        header = first.header
        call, permit = await self._admit(context, header.context, "put", begins=True)
        if call.blob is None:
            raise Invalid("a shard needs a blob id", reason="bad-id")
        self._desk.require_holder(header.profile, call.blob.base, header.index, call.stand_in)
        upload = await self._holder.store(
            ShardStart(
                call, header.index, header.profile, header.segment_size, header.expected_length
            )
        )
        stored, finished = 0, False
        try:
            await self._begun(context)
            while isinstance(frame := await self._message(messages), DataFrame):
                if crc32c(frame.data) != frame.crc32c:
                    raise Corrupt("a message was damaged on its way", reason="bad-checksum")
                permit()
                stored += len(frame.data)
                await upload.send([frame.data])
            if frame.WhichOneof("message") != "finish":
                raise Invalid("a shard has one header and one finish", reason="bad-message")
            permit()  # the gateway may have kept the last message back for long
            listed = await upload.finish(rows_of(frame.finish))
            finished = True
        finally:
            if not finished:
                await upload.cancel()
        return shard_pb2.StoreResponse(stored_bytes=stored, listed=listed).SerializeToString()

    @served("store-shard")
    async def StoreWhole(
        self, request: shard_pb2.StoreWholeRequest, context: Any
    ) -> shard_pb2.StoreResponse:
        """One message with all that a short shard needs."""
        if not request.HasField("header") or not request.HasField("finish"):
            raise Invalid("a shard has a header and a finish", reason="bad-message")
        header, data = request.header, request.data
        if crc32c(data) != request.crc32c:
            raise Corrupt("a message was damaged on its way", reason="bad-checksum")
        call, _ = await self._admit(context, header.context, "put")
        if call.blob is None:
            raise Invalid("a shard needs a blob id", reason="bad-id")
        self._desk.require_holder(header.profile, call.blob.base, header.index, call.stand_in)
        start = ShardStart(
            call, header.index, header.profile, header.segment_size, header.expected_length
        )
        listed = await self._holder.store_whole(start, [data], rows_of(request.finish))
        return shard_pb2.StoreResponse(stored_bytes=len(data), listed=listed)

    async def _message(
        self, messages: AsyncIterator[bytes], seconds: float = GATEWAY_STALL_SECONDS
    ) -> Any:
        try:
            async with self.runtime.timeout(seconds):
                message = await anext(messages)
        except StopAsyncIteration:
            raise Invalid("the shard ended without its rows", reason="truncated") from None
        except TimeoutError:
            raise Invalid("the gateway sent nothing for too long", reason="stalled") from None
        return parse(message, shard_pb2.StoreRequest)

    @streamed("load-shard")
    async def Load(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Server-streaming: header, data..."""
        message = decoded(shard_pb2.LoadRequest, request)
        call, permit = await self._admit(context, message.context, "get")
        download = await self._holder.load(call, message.index, message.first, message.count)
        try:
            header = await download.header()
            yield shard_pb2.LoadResponse(header=wire_header(header)).SerializeToString()
            async for frame in download.frames():
                permit()
                yield frame
        finally:
            await download.cancel()

    @served("load-shard")
    async def LoadPieces(
        self, request: shard_pb2.LoadRequest, context: Any
    ) -> shard_pb2.LoadPiecesResponse:
        """Few pieces in one message."""
        call, _ = await self._admit(context, request.context, "get")
        header, data = await self._holder.load_pieces(
            call, request.index, request.first, request.count
        )
        return shard_pb2.LoadPiecesResponse(header=wire_header(header), data=bytes(data))

    @served("hint-shard")
    async def Hint(
        self, request: shard_pb2.HintShardRequest, context: Any
    ) -> shard_pb2.HintShardResponse:
        """Take a hint of a direct client about a shard of this node."""
        call, _ = await self._admit(context, request.context, "put", "get")
        if call.blob is None:
            raise Invalid("a shard needs a blob id", reason="bad-id")
        if not 0 <= request.index < profile_named(call.profile).n:
            raise Invalid("no shard has this index", reason="bad-index")
        self._hints(call.presenter, call.profile, [ShardName(call.blob.base, request.index)])
        return shard_pb2.HintShardResponse()

    @served("store-opening")
    async def StoreOpening(
        self, request: shard_pb2.StoreOpeningRequest, context: Any
    ) -> shard_pb2.StoreOpeningResponse:
        """Keep a pending opening."""
        call, _ = await self._admit(context, request.context, "put")
        self._desk.require_record_holder(call.record, call.stand_in)
        await self._holder.store_opening(call, request.opening, request.commit_by_ms)
        return shard_pb2.StoreOpeningResponse()

    @served("store-box")
    async def StoreBox(
        self, request: shard_pb2.StoreBoxRequest, context: Any
    ) -> shard_pb2.StoreBoxResponse:
        """Keep a key box or a key link."""
        call, _ = await self._admit(context, request.context, "put-box")
        self._desk.require_record_holder(call.record, call.stand_in)
        if request.WhichOneof("row") is None:
            raise Invalid("send a box or a link", reason="bad-message")
        await self._holder.store_box(call, request.box, request.link)
        return shard_pb2.StoreBoxResponse()

    @served("load-manifest")
    async def LoadManifest(
        self, request: shard_pb2.LoadManifestRequest, context: Any
    ) -> shard_pb2.LoadManifestResponse:
        """The manifest rows of a committed blob."""
        call, _ = await self._admit(context, request.context, "get", "stat")
        rows = await self._holder.load_manifest(call)
        return shard_pb2.LoadManifestResponse(
            core=rows.core, layout=rows.layout, key_row=rows.key_row, opening=rows.opening
        )

    @streamed("load-listing")
    async def LoadListing(
        self, request: shard_pb2.LoadListingRequest, context: Any
    ) -> AsyncIterator[shard_pb2.LoadListingResponse]:
        """The committed entries of a record that this node has openings of."""
        call, permit = await self._admit(context, request.context, "list")
        entries = await self._holder.load_listing(call)
        for page in pages((entry.opening, entry.leaf_index) for entry in entries):
            permit()
            yield shard_pb2.LoadListingResponse(entries=page)

    @served("load-boxes")
    async def LoadBoxes(
        self, request: shard_pb2.LoadBoxesRequest, context: Any
    ) -> shard_pb2.LoadBoxesResponse:
        """Key boxes of a grant and key links of a record."""
        call, _ = await self._admit(context, request.context, "boxes")
        boxes, links = await self._holder.load_boxes(call)
        return shard_pb2.LoadBoxesResponse(boxes=boxes, links=links)
