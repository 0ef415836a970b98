"""Get: a blob or a range of it as a stream of plaintext, checked while it runs.

The node opens (it is sent the DEK for a whole blob, only the segments' secrets for
a range), or this client does (the node relays sealed segments and learns no key).
The manifest is proved against the ledger before the first byte is asked for.

A stream that fails in a way that a retry can mend goes on from the byte reached,
with a fresh proof, through another node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import cast

from hcefs.access.facts import Account
from hcefs.client.authorize import Right, Scope
from hcefs.client.coalesce import Coalescer
from hcefs.client.connection import Connection
from hcefs.client.get_many import BLOBS_A_CALL, Answer, Packed, PackGetClient, Wanted
from hcefs.client.keys import BlobKey, client_seals, is_direct
from hcefs.client.stat import Manifest, metadata_of
from hcefs.client.streams import (
    BlobStream,
    ContentCheck,
    ReadPlan,
    check_header,
    plaintext,
    read_header,
    resumed,
)
from hcefs.crypto.accounts import AccountKeys
from hcefs.erasure.scheme import Geometry, profile_named, resolve_range
from hcefs.errors import Corrupt, Denied, HcefsError, Invalid
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer

SINGLES_AT_ONCE = 8
"""Blobs of one :meth:`GetClient.get_many` that are not packed, read at the same time."""


def _room() -> Callable[[Wanted], bool]:
    """Of a batch of concurrent small gets."""
    left = iter(range(BLOBS_A_CALL))
    return lambda _: next(left, None) is not None


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    if data:
        yield data


class GetClient(PackGetClient):
    """The part of a client that gets blobs."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self._small_gets: Coalescer[Wanted, Packed] = Coalescer(
            self.runtime, self._get_small, _room
        )

    async def get_many(
        self,
        blobs: Iterable[tuple[RecordId, BlobId]],
        *,
        grant: GrantId | None = None,
        purpose: str = "TREAT",
        node: str | None = None,
    ) -> list[bytes]:
        """The whole contents of many blobs, in order, in memory.

        Packed payloads are asked for together and opened here; others one by one.
        ``grant`` None means as the owner of all the records.

        Raises:
            HcefsError: why the first of those that failed could not be read.
        """
        right = self._right(grant, None, purpose)
        names = list(blobs)
        contents: dict[int, bytes] = {}
        gate = asyncio.Semaphore(SINGLES_AT_ONCE)

        async def single(position: int, record: RecordId, blob: BlobId) -> None:
            async with gate:
                stream = await self.get(record, blob, grant=grant, purpose=purpose, node=node)
                async with stream:
                    contents[position] = await stream.read()

        async def together(positions: Sequence[int]) -> None:
            wanted = [Wanted(*names[position], right) for position in positions]
            answers = await self._packed(wanted, purpose, node)
            for position, answer in zip(positions, answers, strict=True):
                if isinstance(answer, HcefsError):
                    raise answer
                contents[position] = answer.plaintext

        packed = [position for position, (_, blob) in enumerate(names) if blob.slot]
        singles = [
            single(position, record, blob)
            for position, (record, blob) in enumerate(names)
            if not blob.slot
        ]
        await asyncio.gather(*([together(packed)] if packed else []), *singles)
        return [contents[position] for position in range(len(names))]

    async def _get_small(
        self, kind: Hashable, wanted: list[Wanted]
    ) -> Sequence[Packed | HcefsError]:
        """One batch of concurrent gets of packed blobs, for one purpose, through one node."""
        purpose, node = cast(tuple[str, str | None], kind)
        answers = await self._packed(wanted, purpose, node)
        if len(wanted) == 1 or not any(isinstance(answer, Denied) for answer in answers):
            return answers
        # A batch is refused whole when one of its tokens is malformed: each gets its own answer.
        alone: list[Answer] = []
        for each, answer in zip(wanted, answers, strict=True):
            alone += (
                await self._packed([each], purpose, node)
                if isinstance(answer, Denied)
                else [answer]
            )
        return alone

    async def _get_packed(
        self, record: RecordId, blob: BlobId, right: Right, start: int, length: int,
        node: str | None,
    ) -> BlobStream:  # fmt: skip
        """A packed blob, or a range of it, read together with others that are asked for now."""
        if start < 0 or length < 0:
            raise Invalid("a range cannot be negative", reason="bad-range")
        packed = await self._small_gets.submit((right.purpose, node), Wanted(record, blob, right))
        core = packed.core
        start, length = resolve_range(core.plaintext_length, start, length)
        return BlobStream(
            core,
            metadata_of(core, BlobKey(dek=packed.dek)),
            start,
            length,
            _once(packed.plaintext[start : start + length]),
            check=None,
            runtime=self.runtime,
            vouched=True,
        )

    async def get(
        self,
        record: RecordId,
        blob: BlobId,
        *,
        grant: GrantId | None = None,
        token: bytes | None = None,
        start: int = 0,
        length: int = 0,
        purpose: str = "TREAT",
        seal: str = "node",
        mode: str = "gateway",
        node: str | None = None,
        allow_unsigned: bool = False,
    ) -> BlobStream:
        """Begin to read a blob, or ``length`` bytes of it from ``start`` (0: to the end).

        ``grant`` None means as the owner.  ``token`` presents one that was narrowed
        before.  ``seal`` says who opens: the ``node`` or this ``client``.  ``mode``
        ``direct`` loads from the shard holders and opens here.  A whole blob without
        its writer's signature is refused, because the gateway that sealed it could
        have put anything there, unless ``allow_unsigned``.  Under a
        grant on a range, a get without a range reads the granted one.  A packed blob
        is always opened here, whatever ``seal`` and ``mode`` say: its writer's entry
        vouches for the ciphertext.

        Raises:
            Corrupt: ``unsigned-content``, or a node or a writer lied.
            NotFound: unknown or not committed; ``shredded``; ``no-key-box``.
            Denied: not permitted.
            Invalid: the range is not inside the blob.
        """
        opens, straight = client_seals(seal), is_direct(mode)
        right = self._right(grant, token, purpose)
        scope = await self._scope(record, blob, right)
        if blob.slot and not scope.range_length:
            return await self._get_packed(record, blob, right, start, length, node)
        manifest = await self._known_manifest(scope, right, node)
        key = await self._blob_key(manifest, right)
        if scope.range_length and not (start or length):
            start = min(scope.range_start, manifest.core.plaintext_length)
            length = min(scope.range_length, manifest.core.plaintext_length - start)
        return await self._stream(
            manifest,
            key,
            right,
            start,
            length,
            opens and not straight,
            node,
            direct=straight,
            allow_unsigned=allow_unsigned,
        )

    async def _writer_then(self, manifest: Manifest) -> Account:
        """The writer of a blob with the key that it had when the entry was appended."""
        writer = manifest.core.writer
        commitment = manifest.opening.commitment()
        leaf = manifest.check_leaf(await self._known_leaf(manifest.core.record, commitment, writer))
        return await self.signed_at(writer, leaf.time_ms)

    async def _stream(
        self,
        manifest: Manifest,
        key: BlobKey,
        right: Right,
        start: int,
        length: int,
        client_opens: bool,
        node: str | None,
        *,
        direct: bool = False,
        allow_unsigned: bool = False,
    ) -> BlobStream:
        core = manifest.core
        if start < 0 or length < 0:
            raise Invalid("a range cannot be negative", reason="bad-range")
        start, length = resolve_range(core.plaintext_length, start, length)
        profile = profile_named(manifest.layout.profile)
        plan = ReadPlan(
            scope=Scope(core.record, core.blob, start, length),
            right=right,
            core=core,
            geometry=Geometry(core.plaintext_length, profile, core.segment_size),
            key=key,
            client_opens=client_opens,
            node=node,
        )
        metadata = metadata_of(core, key)
        check = None
        if manifest.packed:
            plan = replace(plan, client_opens=True)
        elif plan.whole and metadata is not None and metadata.content_digest:
            check = ContentCheck(
                core,
                metadata,
                await self.fetch_account(core.writer),
                partial(self._writer_then, manifest),
            )
        elif plan.whole and not allow_unsigned:
            raise Corrupt(
                "the content is not signed by its writer: read it with allow_unsigned if the node "
                "that took the put is trusted",
                reason="unsigned-content",
            )
        tried: set[AccountId] = set()

        def open_part(offset: int, stop: int) -> AsyncGenerator[bytes, None]:
            if direct and not manifest.packed:
                return self._direct_part(plan, offset, stop, node)
            return self._part(plan, offset, stop, tried)

        pieces = resumed(self.runtime, plan, open_part)
        return BlobStream(
            core,
            metadata,
            start,
            length,
            pieces,
            check=check,
            runtime=self.runtime,
            vouched=manifest.packed,
        )

    async def _part(
        self, plan: ReadPlan, offset: int, stop: int, tried: set[AccountId]
    ) -> AsyncGenerator[bytes, None]:
        """The plaintext from ``offset`` to ``stop`` through one node."""
        target = await self._target(plan.node, plan.scope, tried)
        try:
            async with aclosing(self._messages(plan, offset, stop, target)) as messages:
                header = await read_header(messages)
                check_header(plan, offset, stop, header)
                data = plaintext(self.runtime, plan, offset, stop, messages)
                async with aclosing(data):
                    async for piece in data:
                        yield piece
        except HcefsError as error:
            tried.add(target.account)
            raise self._note(target, error) from None

    def _messages(
        self, plan: ReadPlan, offset: int, stop: int, target: Node
    ) -> AsyncGenerator[bytes, None]:
        request = plan.request(offset, stop)
        scope = replace(
            plan.scope, range_start=request.range_start, range_length=request.range_length
        )
        request.authorization.CopyFrom(
            self._authorizer.authorize("get", scope, plan.right, target.account, stream=True)
        )
        request.min_height = self.height
        request.request_id = self._request_id()
        return self._channels.answers(
            target.address, "/hcefs.v1.Blobs/Get", request.SerializeToString()
        )
