"""The stream of a get: from a node's messages to checked plaintext.

Knows neither channels nor authorizations: whoever opens the parts brings them
(:mod:`hcefs.client.get`).  Invariants: exactly the bytes of the range come out, in
order, once; the node's header must agree with the proved manifest; at the end of a
whole get the writer's signature over the content is checked, where there is one.

Not guaranteed: that bytes which came before the end are what the writer signed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from google.protobuf.message import DecodeError

from hcefs.access.facts import Account
from hcefs.blobs.pack import check_sealed
from hcefs.client.authorize import Right, Scope
from hcefs.client.keys import RANGE_SEGMENTS_MAX, BlobKey
from hcefs.crypto.signing import verify
from hcefs.crypto.stream import open_segment
from hcefs.erasure.scheme import Geometry
from hcefs.errors import Corrupt, HcefsError, Unauthenticated, Unavailable
from hcefs.formats.manifest import CONTENT_TAG, Core, Metadata
from hcefs.ids import BlobId
from hcefs.integrity import Hasher, blake3_hasher
from hcefs.runtime import Runtime
from hcefs.transport.framing import DataFrame, parse
from hcefs.wire.v1 import blob_pb2

FAILURES_MAX = 4
"""Failures in a row, without a byte between them, after which a get gives up."""

RESUMES_MAX = 64
HASHED_TOGETHER_BYTES = 4 << 20
"""What a worker thread digests in one go; so much is held besides what is handed out."""

FIRST_PAUSE_MS = 50
LONGEST_PAUSE_MS = 2_000

Open = Callable[[int, int], AsyncGenerator[bytes, None]]
"""Opens the stream of the bytes from one offset up to another."""


@dataclass(frozen=True)
class ReadPlan:
    """One get, once everything about it is known and checked."""

    scope: Scope
    right: Right
    core: Core
    geometry: Geometry
    key: BlobKey
    client_opens: bool
    node: str | None

    @property
    def end(self) -> int:
        """The first byte behind the range."""
        return self.scope.range_start + self.scope.range_length

    @property
    def whole(self) -> bool:
        """Whether this is the whole blob."""
        return self.scope.range_start == 0 and self.end == self.core.plaintext_length

    def stop(self, offset: int) -> int:
        """How far one request that starts at ``offset`` may reach."""
        if self.client_opens or (self.whole and offset == 0 and self.key.dek):
            return self.end
        first = offset // self.geometry.segment_size
        return min(self.end, (first + RANGE_SEGMENTS_MAX) * self.geometry.segment_size)

    def request(self, offset: int, stop: int) -> blob_pb2.GetRequest:
        """The request for the bytes from ``offset`` to ``stop``, without its authorization.

        Raises:
            Denied: the key at hand does not reach so far.
        """
        blob = self.scope.blob or BlobId.zero()
        request = blob_pb2.GetRequest(blob_id=bytes(blob), record_id=bytes(self.scope.record))
        all_at_once = self.whole and offset == 0 and stop == self.end
        if not (all_at_once and self.key.dek):
            request.range_start, request.range_length = offset, stop - offset
        if self.client_opens:
            request.sealed = True
        elif all_at_once and self.key.dek:
            request.dek = self.key.dek
        else:
            secrets = self.key.secrets_of(self.geometry.covering(offset, stop - offset))
            request.secrets.first, request.secrets.secrets = secrets.first, secrets.secrets
        return request


@dataclass(frozen=True)
class ContentCheck:
    """What the writer signed about a blob's plaintext.

    ``writer`` is the account as it is remembered; ``then`` gives it with the key that it
    had when the entry was appended, and is asked only when the remembered one does not fit.
    """

    core: Core
    metadata: Metadata
    writer: Account
    then: Callable[[], Awaitable[Account]] | None = None

    async def verify(self, digest: bytes) -> None:
        """Check the plaintext's digest and the writer's signature.

        Raises:
            Corrupt: ``content-signature``.
            Unavailable: the ledger does not answer.
        """
        try:
            self._verify(self.writer, digest)
        except Corrupt:
            if self.then is None:
                raise
            writer = await self.then()
            if writer.signing_key == self.writer.signing_key:
                raise
            self._verify(writer, digest)

    def _verify(self, writer: Account, digest: bytes) -> None:
        message = self.metadata.message(self.core.blob, self.core.record)
        try:
            verify(writer.signing_key, CONTENT_TAG, message, self.metadata.content_signature)
        except Unauthenticated:
            signed = False
        else:
            signed = writer.account == self.core.writer
        if not signed or digest != self.metadata.content_digest:
            raise Corrupt(
                "the content is not what its writer signed: do not use it, and tell the operator "
                "of the node that took the put",
                reason="content-signature",
            )


class BlobStream:
    """The plaintext of a get: iterate over it, or :meth:`read` it whole.

    ``start`` and ``length`` say which bytes of the blob these are.  ``signed`` is
    true once the writer's signature over the whole content has been checked; of a
    packed blob from the beginning (``vouched``), because its writer sealed it and its
    ciphertext is compared with the digest that the entry binds.
    Leaving an iteration early: close with :meth:`aclose` or ``async with``.
    """

    def __init__(
        self,
        core: Core,
        metadata: Metadata | None,
        start: int,
        length: int,
        pieces: AsyncGenerator[bytes, None],
        *,
        check: ContentCheck | None,
        runtime: Runtime,
        vouched: bool = False,
    ) -> None:
        self.core = core
        self.metadata = metadata
        self.start = start
        self.length = length
        self.signed = vouched
        self._pieces = pieces if check is None else self._verified(pieces, check, runtime)

    async def _verified(
        self, pieces: AsyncGenerator[bytes, None], check: ContentCheck, runtime: Runtime
    ) -> AsyncGenerator[bytes, None]:
        """The same pieces; after the last one the content is checked."""
        hasher = blake3_hasher()
        unhashed: list[bytes] = []
        unhashed_bytes = 0
        async with aclosing(pieces):
            async for piece in pieces:
                unhashed.append(piece)
                unhashed_bytes += len(piece)
                if unhashed_bytes >= HASHED_TOGETHER_BYTES:
                    await runtime.compute(_take_in, hasher, unhashed)
                    unhashed, unhashed_bytes = [], 0
                yield piece
        await runtime.compute(_take_in, hasher, unhashed)
        await check.verify(hasher.digest())
        self.signed = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def read(self) -> bytes:
        """All bytes that are left, in memory.

        Raises:
            HcefsError: as the iteration.
        """
        return b"".join([piece async for piece in self])

    async def aclose(self) -> None:
        """End the stream now.  Idempotent."""
        await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def _take_in(hasher: Hasher, pieces: list[bytes]) -> None:
    for piece in pieces:
        hasher.update(piece)


async def resumed(runtime: Runtime, plan: ReadPlan, open_part: Open) -> AsyncGenerator[bytes, None]:
    """The plan's bytes, from as many requests as it takes.

    Raises:
        HcefsError: the last failure, when a retry cannot help or enough were made.
    """
    offset, failures, resumes = plan.scope.range_start, 0, 0
    while True:
        stop = plan.stop(offset)
        part = open_part(offset, stop)
        try:
            async with aclosing(part):
                async for piece in part:
                    offset += len(piece)
                    failures = 0
                    yield piece
        except HcefsError as error:
            failures, resumes = failures + 1, resumes + 1
            if not _mendable(error, plan) or failures >= FAILURES_MAX or resumes > RESUMES_MAX:
                raise
            bound = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << failures)
            await runtime.sleep(bound / 1000)
            # Only a clean end vouches for nothing; bytes that came vouch for themselves.
            if offset < plan.end or not plan.scope.range_length:
                continue
        if offset >= plan.end:
            return


def _mendable(error: HcefsError, plan: ReadPlan) -> bool:
    # What this client opened itself may be damaged by one node and whole at another.
    return error.retryable or (plan.client_opens and isinstance(error, Corrupt))


async def read_header(messages: AsyncGenerator[bytes, None]) -> blob_pb2.GetHeader:
    """The first message of an answer.

    Raises:
        Corrupt: ``bad-message``: it is something else.
    """
    try:
        first = await anext(messages)
    except StopAsyncIteration:
        raise Corrupt("the node sent an empty answer", reason="bad-message") from None
    try:
        answer = blob_pb2.GetResponse.FromString(first)
    except DecodeError:
        answer = blob_pb2.GetResponse()
    if answer.WhichOneof("message") != "header":
        raise Corrupt("the node's answer has no header", reason="bad-message")
    return answer.header


def check_header(plan: ReadPlan, offset: int, stop: int, header: blob_pb2.GetHeader) -> None:
    """Compare a node's header with the proved manifest.

    Raises:
        Corrupt: ``bad-header``.
    """
    covering = plan.geometry.covering(offset, stop - offset)
    if (
        header.plaintext_length != plan.core.plaintext_length
        or header.range_start != offset
        or header.range_length != stop - offset
        or header.segment_size != plan.core.segment_size
        or (plan.client_opens and header.first_segment != covering.start)
    ):
        raise Corrupt(
            "the node's answer is about another blob or range: ask another node",
            reason="bad-header",
        )


async def plaintext(
    runtime: Runtime,
    plan: ReadPlan,
    offset: int,
    stop: int,
    messages: AsyncGenerator[bytes, None],
) -> AsyncGenerator[bytes, None]:
    """The plaintext in a node's data messages: exactly the bytes from ``offset`` to ``stop``.

    Raises:
        Corrupt: more than that, or a sealed segment that does not open.
        Unavailable: ``truncated``: less than that.
    """
    covering = iter(plan.geometry.covering(offset, stop - offset))
    position = offset
    async for message in messages:
        frame = parse(message, blob_pb2.GetResponse)
        if not isinstance(frame, DataFrame):
            raise Corrupt("the node sent a second header", reason="bad-message")
        if plan.client_opens:
            index = next(covering, None)
            if index is None:
                raise _too_much()
            piece = await runtime.compute(_open_one, plan, index, frame.data)
            start = index * plan.geometry.segment_size
            piece = piece[max(offset - start, 0) : max(stop - start, 0)]
        else:
            piece = bytes(frame.data)
        position += len(piece)
        if position > stop:
            raise _too_much()
        if piece:
            yield piece
    if position != stop or (plan.client_opens and next(covering, None) is not None):
        raise Unavailable("the node's answer ends too early: retry", reason="truncated")


def _open_one(plan: ReadPlan, index: int, sealed: memoryview) -> bytes:
    secret = plan.key.secrets_of(range(index, index + 1)).secrets
    last = index == plan.geometry.segments - 1
    if plan.core.blob.slot:
        check_sealed(plan.core, sealed)
    return open_segment(secret, plan.core.blob, plan.core.record, last, sealed)


def _too_much() -> Corrupt:
    return Corrupt("the node sent more than was asked for", reason="extended")
