"""Shard holders over gRPC with mutual TLS.

The channels are pinned to the TLS keys that the peers' accounts registered on the
ledger (:mod:`hcefs.transport.pinned_channels`).  Bulk messages are framed by hand
(:mod:`hcefs.transport.framing`); any generated client can still talk to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from hcefs import tracing
from hcefs.errors import Corrupt, Denied, HcefsError, Unavailable
from hcefs.ids import AccountId
from hcefs.integrity import crc32c_of
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime
from hcefs.transport.framing import DataFrame, Frame, frame_pieces, parse
from hcefs.transport.peers import (
    Call,
    Entry,
    Heads,
    LoadHeader,
    ManifestRows,
    Peer,
    Piece,
    ShardDownload,
    ShardRows,
    ShardStart,
    ShardUpload,
)
from hcefs.transport.status import from_rpc_error
from hcefs.wire.v1 import blob_pb2, shard_pb2

if TYPE_CHECKING:  # it needs what is here
    from hcefs.transport.pinned_channels import Channels

T = TypeVar("T")

HEAD_KEY = "hcefs-head-bin"
UNARY_SECONDS = 10.0
STREAM_SECONDS = 3600.0
STALL_SECONDS = 10.0
"""A holder that takes longer for one message counts as down for this call."""

MESSAGE_BYTES_MAX = 4 << 20
ENTRIES_MAX = 1 << 20
"""Of one record's listing: about 200 MB at a gateway."""

SEND_FAILED = "Internal error from Core"
STATUS_SECONDS = 2.0
"""How long to wait for a server's status once a send has failed."""

STATUS_POLL_SECONDS = 0.01

END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it

CONNECT_MS = 2_000
"""A TLS handshake takes three ways over the network, and longer on a busy machine."""

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", 16384),
    ("grpc.http2.max_frame_size", 16777215),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Short: while a channel backs off, its calls fail at once, and a node that has
    # just come back would still count as down.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Whatever its name says, gRPC gives one attempt to connect, handshake and all, so long.
    ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", 500),
]


async def unary(
    channel: Any, heads: Heads, path: str, data: bytes, response: Any, seconds: float
) -> Any:
    """One message each way between nodes, and the newest head with each.

    Raises:
        HcefsError: what the node or the transport says.
    """
    method = channel.unary_unary(path, response_deserializer=response.FromString)
    with tracing.span(f"call {path.rpartition('/')[2]}", "client"):
        call = method(data, timeout=seconds, metadata=head_metadata(heads))
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            raise between_nodes(from_rpc_error(error)) from None
        observe(heads, await call.initial_metadata())
    return answer


def head_metadata(heads: Heads) -> list[tuple[str, Any]]:
    """What each call between nodes carries: the newest head, and whose work it is."""
    head = heads.current()
    carried: list[tuple[str, Any]] = tracing.metadata()
    return [*carried, (HEAD_KEY, head)] if head else carried


def begin(method: Any, path: str, heads: Heads, seconds: float, *request: Any) -> Any:
    """Begin a streaming call between nodes, whose span ends with it."""
    carried, done = tracing.stream(f"call {path.rpartition('/')[2]}")
    head = heads.current()
    if head:
        carried.append((HEAD_KEY, head))
    call = method(*request, timeout=seconds, metadata=carried)
    if done is not None:
        call.add_done_callback(lambda ended: done(_outcome(ended)))
    return call


def _outcome(call: Any) -> str:
    """How a call ended that is done: its status is there, so asking for it does not suspend."""
    if call.cancelled():
        return "cancelled"  # by this side, which has what it needs
    asking = call.code()
    try:
        asking.send(None)
    except StopIteration as told:
        return "ok" if told.value is grpc.StatusCode.OK else "failed"
    finally:
        asking.close()
    return "failed"


def context_of(call: Call) -> shard_pb2.CallContext:
    """The call as it travels."""
    return shard_pb2.CallContext(
        authorization=blob_pb2.Authorization(token=call.token, proof=call.proof),
        method=call.method,
        record_id=bytes(call.record),
        blob_id=bytes(call.blob) if call.blob is not None else b"",
        range_start=call.range_start,
        range_length=call.range_length,
        min_height=call.min_height,
        epoch=call.epoch,
        request_id=bytes(call.request),
        profile=call.profile,
        stand_in=call.stand_in,
    )


Connect = Callable[[], Awaitable[Any]]
"""Gives the channel to one node."""


def unchanged(call: Call) -> Call:
    """A gateway hands on the presenter's authorization as it is."""
    return call


class GrpcPeer:
    """A remote holder: a gateway's over mutual TLS, or a direct client's.

    ``authorize`` makes the call that travels from the one that is asked for: a
    direct client signs a fresh proof for each call.
    """

    def __init__(
        self,
        runtime: Runtime,
        connect: Connect,
        heads: Heads,
        authorize: Callable[[Call], Call] = unchanged,
    ) -> None:
        self._runtime = runtime
        self._connect = connect
        self._heads = heads
        self._authorize = authorize

    def _context(self, call: Call) -> shard_pb2.CallContext:
        return context_of(self._authorize(call))

    async def _unary(self, name: str, request: Any, response: Any) -> Any:
        """One message each way; ``request`` is a message or its bytes."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return await unary(
            await self._connect(), self._heads, f"/hcefs.v1.Shards/{name}", data, response,
            UNARY_SECONDS,
        )  # fmt: skip

    async def store(self, start: ShardStart) -> ShardUpload:
        channel = await self._connect()
        path = "/hcefs.v1.Shards/Store"
        call = begin(channel.stream_unary(path), path, self._heads, STREAM_SECONDS)
        upload = _Upload(self._runtime, call, self._heads)
        try:
            header = self._header(start)
            await upload.begin(shard_pb2.StoreRequest(header=header).SerializeToString())
        except BaseException:
            await upload.cancel()  # nobody else knows of the call yet
            raise
        return upload

    def _header(self, start: ShardStart) -> shard_pb2.StoreHeader:
        return shard_pb2.StoreHeader(
            context=self._context(start.call),
            index=start.index,
            profile=start.profile,
            segment_size=start.segment_size,
            expected_length=start.expected_length,
        )

    async def store_whole(
        self, start: ShardStart, pieces: Sequence[Piece], rows: ShardRows
    ) -> bool:
        head = shard_pb2.StoreWholeRequest(header=self._header(start), finish=finish_of(rows))
        message = frame_pieces(pieces, crc32c_of(pieces), head.SerializeToString())
        answer = await self._unary("StoreWhole", message, shard_pb2.StoreResponse)
        return bool(answer.listed)

    async def load_pieces(
        self, call: Call, index: int, first: int, count: int
    ) -> tuple[LoadHeader, Piece]:
        request = shard_pb2.LoadRequest(
            context=self._context(call), index=index, first=first, count=count
        )
        answer = await self._unary("LoadPieces", request, shard_pb2.LoadPiecesResponse)
        if not answer.HasField("header"):
            raise Corrupt("the holder's answer has no header", reason="bad-message")
        return header_of(answer.header), answer.data

    async def load(self, call: Call, index: int, first: int, count: int) -> ShardDownload:
        channel = await self._connect()
        path = "/hcefs.v1.Shards/Load"
        request = shard_pb2.LoadRequest(
            context=self._context(call), index=index, first=first, count=count
        )
        stream = begin(
            channel.unary_stream(path), path, self._heads, STREAM_SECONDS,
            request.SerializeToString(),
        )  # fmt: skip
        return Download(self._runtime, stream, self._heads)

    async def hint(self, call: Call, index: int) -> None:
        """Tell a holder of a shard of the call's blob, as a direct client may.

        Raises:
            HcefsError: it does not take that, or does not answer.
        """
        request = shard_pb2.HintShardRequest(context=self._context(call), index=index)
        await self._unary("Hint", request, shard_pb2.HintShardResponse)

    async def store_opening(self, call: Call, opening: bytes, commit_by_ms: int) -> None:
        await self._unary(
            "StoreOpening",
            shard_pb2.StoreOpeningRequest(
                context=self._context(call), opening=opening, commit_by_ms=commit_by_ms
            ),
            shard_pb2.StoreOpeningResponse,
        )

    async def store_box(self, call: Call, box: bytes, link: bytes) -> None:
        request = shard_pb2.StoreBoxRequest(context=self._context(call))
        if box:
            request.box = box
        else:
            request.link = link
        await self._unary("StoreBox", request, shard_pb2.StoreBoxResponse)

    async def load_manifest(self, call: Call) -> ManifestRows:
        answer = await self._unary(
            "LoadManifest",
            shard_pb2.LoadManifestRequest(context=self._context(call)),
            shard_pb2.LoadManifestResponse,
        )
        return ManifestRows(answer.core, answer.layout, answer.key_row, answer.opening)

    async def load_listing(self, call: Call) -> list[Entry]:
        channel = await self._connect()
        path = "/hcefs.v1.Shards/LoadListing"
        method = channel.unary_stream(
            path,
            request_serializer=shard_pb2.LoadListingRequest.SerializeToString,
            response_deserializer=shard_pb2.LoadListingResponse.FromString,
        )
        request = shard_pb2.LoadListingRequest(context=self._context(call))
        stream = begin(method, path, self._heads, UNARY_SECONDS, request)
        entries: list[Entry] = []
        try:
            async for message in stream:
                entries += [Entry(entry.opening, entry.leaf_index) for entry in message.entries]
                if len(entries) > ENTRIES_MAX:
                    stream.cancel()
                    raise Corrupt("the holder lists more than a record has", reason="too-large")
        except grpc.aio.AioRpcError as error:
            raise between_nodes(from_rpc_error(error)) from None
        return entries

    async def load_boxes(self, call: Call) -> tuple[list[bytes], list[bytes]]:
        answer = await self._unary(
            "LoadBoxes",
            shard_pb2.LoadBoxesRequest(context=self._context(call)),
            shard_pb2.LoadBoxesResponse,
        )
        return list(answer.boxes), list(answer.links)


def finish_of(rows: ShardRows) -> shard_pb2.StoreFinish:
    """A shard's rows as they travel."""
    return shard_pb2.StoreFinish(
        core=rows.core,
        layout=rows.layout,
        key_row=rows.key_row,
        opening=rows.opening,
        piece_digests=rows.piece_digests,
    )


def header_of(header: shard_pb2.LoadHeader) -> LoadHeader:
    """What precedes loaded pieces, as it came."""
    return LoadHeader(header.pieces, header.piece_digests, tuple(header.audit_path))


def observe(heads: Heads, metadata: Any) -> None:
    """Take the other side's head out of a call's metadata."""
    for key, value in metadata or ():
        if key == HEAD_KEY and isinstance(value, bytes):
            heads.observe(value)


def connector(channels: Channels, node: Node) -> Callable[[], Awaitable[Any]]:
    """What gives the channel to a node's peer port, when it is needed."""

    async def connect() -> Any:
        try:
            return await channels.get(node.account, node.peer_address)
        except Denied as error:
            raise between_nodes(error) from None

    return connect


def between_nodes(error: HcefsError) -> HcefsError:
    """What two nodes hold against each other is no verdict on the request: the holder is down."""
    verdict = (error.kind, error.reason)
    if verdict in (("denied", "wrong-certificate"), ("unauthenticated", "unknown-node")):
        return Unavailable(error.message, reason=error.reason).of_request(error.request)
    return error


def send_failed(error: grpc.aio.AioRpcError) -> bool:
    """Whether gRPC only says that it could not send, which hides the other side's status."""
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == SEND_FAILED


class Ending:
    """Why a call ended that could not send any more.

    When a send fails because the other side has refused the call, gRPC puts a status
    of its own in the place of the other side's, or just before it: so the first one is
    noted at the moment it is set, and a later one is waited for.
    """

    def __init__(self, runtime: Runtime, call: Any) -> None:
        self._runtime = runtime
        self._call = call
        self._first: HcefsError | None = None
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        status = self._status()
        try:
            status.send(None)  # the status is there, so this does not suspend
        except StopIteration as done:
            self._first = done.value
        finally:
            status.close()

    async def _status(self) -> HcefsError | None:
        code, details = await self._call.code(), await self._call.details()
        if code is grpc.StatusCode.OK:
            return None
        trailing = await self._call.trailing_metadata()
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details, None)
        return None if send_failed(error) else from_rpc_error(error)

    async def error(self) -> HcefsError:
        """The other side's status, which may come a little later than the failed send."""
        until = self._runtime.monotonic() + STATUS_SECONDS
        try:
            async with self._runtime.timeout(STATUS_SECONDS):
                while self._runtime.monotonic() < until:
                    error = self._first or await self._status()
                    if error is not None:
                        return error
                    await self._runtime.sleep(STATUS_POLL_SECONDS)
        except TimeoutError:
            self._call.cancel()
        return Unavailable("the other side ended the call early: retry", reason="stream-reset")


def stalled() -> Unavailable:
    """What a call that makes no progress ends with."""
    return Unavailable("the holder takes too long; it counts as down", reason="stalled")


class _Upload:
    def __init__(self, runtime: Runtime, call: Any, heads: Heads) -> None:
        self._runtime = runtime
        self._call = call
        self._ending = Ending(runtime, call)
        self._heads = heads

    async def begin(self, header: bytes) -> None:
        """Send the header; returns when the holder's initial metadata says that it has begun."""

        async def begun() -> None:
            await self._call.write(header)
            observe(self._heads, await self._call.initial_metadata())
            if self._call.done():
                await self._call  # it was refused: raises why

        await self._guarded(begun())

    async def write(self, message: bytes) -> None:
        await self._guarded(self._call.write(message))

    async def send(self, pieces: Sequence[Piece]) -> None:
        await self.write(frame_pieces(pieces, crc32c_of(pieces)))

    async def send_frame(self, frame: Frame) -> None:
        await self.write(frame.message)

    async def finish(self, rows: ShardRows) -> bool:
        await self.write(shard_pb2.StoreRequest(finish=finish_of(rows)).SerializeToString())

        async def answer() -> bytes:
            await self._call.done_writing()
            return bytes(await self._call)

        # No limit here: the fsync of a long shard takes long, and the writer has a deadline.
        data = await self._guarded(answer(), None)
        try:
            return bool(shard_pb2.StoreResponse.FromString(data).listed)
        except DecodeError:
            raise Corrupt("the holder's answer is malformed", reason="bad-message") from None

    async def _guarded(self, step: Awaitable[T], seconds: float | None = STALL_SECONDS) -> T:
        """Await one step of the stream; its failure is the call's typed error."""
        try:
            async with self._runtime.timeout(seconds):
                return await step
        except TimeoutError:
            self._call.cancel()
            raise stalled() from None
        except (asyncio.InvalidStateError, grpc.aio.BaseError):
            # The holder ended the call before it read everything: its status says why.
            raise between_nodes(await self._ending.error()) from None
        except grpc.aio.AioRpcError as error:
            if send_failed(error):
                raise between_nodes(await self._ending.error()) from None
            raise between_nodes(from_rpc_error(error)) from None

    async def cancel(self) -> None:
        self._call.cancel()


class Download:
    """A shard's pieces as they come from another node: a header, then data messages."""

    def __init__(self, runtime: Runtime, call: Any, heads: Heads) -> None:
        self._runtime = runtime
        self._call = call
        self._heads = heads

    async def header(self) -> LoadHeader:
        message = await self._next()
        if message is None:
            raise Corrupt("the holder sent an empty answer", reason="bad-message")
        frame = parse(message, shard_pb2.LoadResponse)
        if isinstance(frame, DataFrame) or not frame.HasField("header"):
            raise Corrupt("the holder's first message is not a header", reason="bad-message")
        observe(self._heads, await self._call.initial_metadata())
        return header_of(frame.header)

    async def messages(self) -> AsyncIterator[Piece]:
        async for message in self.frames():
            frame = parse(message, shard_pb2.LoadResponse)
            if not isinstance(frame, DataFrame):
                raise Corrupt("the holder sent a second header", reason="bad-message")
            yield frame.data

    async def frames(self) -> AsyncIterator[bytes]:
        while (message := await self._next()) is not None:
            yield message

    async def _next(self) -> bytes | None:
        try:
            async with self._runtime.timeout(STALL_SECONDS):
                message = await self._call.read()
        except TimeoutError:
            self._call.cancel()
            raise stalled() from None
        except grpc.aio.AioRpcError as error:
            raise between_nodes(from_rpc_error(error)) from None
        except (asyncio.InvalidStateError, grpc.aio.BaseError):
            raise Unavailable("the call was cancelled", reason="cancelled") from None
        return None if message is END else bytes(message)

    async def cancel(self) -> None:
        self._call.cancel()


class GrpcPeers:
    """All holders: the local one for this node, channels for the others."""

    def __init__(self, runtime: Runtime, channels: Channels, me: AccountId, local: Peer) -> None:
        self._runtime = runtime
        self._channels = channels
        self._me = me
        self._local = local

    def peer(self, node: Node) -> Peer:
        if node.account == self._me:
            return self._local

        return GrpcPeer(self._runtime, connector(self._channels, node), self._channels.heads)
