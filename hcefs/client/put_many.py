"""Many small payloads in one put: sealed into packs here, one append for each pack.

A pack is always sealed by this client (:mod:`hcefs.blobs.pack`), so that no node sees
plaintext, and what the ledger binds was computed here.  Each payload becomes a blob
of its own: its own data key, rights and deletion.

Invariants: every attempt seals anew, with new blob ids and keys; nothing is appended
before enough holders have the pack; the append is repeated with the same bytes until
its outcome is known or ``commit_by`` has come.

Not guaranteed: that all payloads of one call are committed together; each pack is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from hcefs.access.batch import TOKENS_MAX, BatchGroup
from hcefs.access.facts import Generation
from hcefs.blobs.pack import PackItem, SealedGroup, SealedPack, seal_pack
from hcefs.client.authorize import Right, Scope
from hcefs.client.channels import Recent
from hcefs.client.connection import Connection
from hcefs.client.direct import DirectClient
from hcefs.client.receipts import PutReceipt
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.keys import METADATA_OVERHEAD
from hcefs.crypto.stream import SEAL_OVERHEAD
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Conflict, Corrupt, HcefsError, Invalid, Unavailable
from hcefs.formats.manifest import SEALED_METADATA_MAX, BlobRef, Metadata
from hcefs.formats.pack import (
    BODY_BYTES_MAX,
    METADATA_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PAYLOADS_MAX,
    PackLayout,
    body_bytes_max,
    join_lengths,
    join_slots,
    packed_leaf,
)
from hcefs.ids import AccountId, BlobId, GrantId, PutKey, RecordId
from hcefs.ledger.transactions import Append, AppendEntry
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.transport.framing import frame_data
from hcefs.transport.retry import retrying
from hcefs.wire.v1 import pack_pb2

Buffer = bytes | bytearray | memoryview

DEFAULT_CONTENT_TYPE = "application/octet-stream"
PACKS_AT_ONCE = 2
"""Packs of one call that are on their way at the same time."""

PACK_ATTEMPTS = 3
APPEND_ATTEMPTS = 12
COMMIT_WITHIN_MS = 24 * 3_600_000
FINISH_SECONDS = 60.0
FACTS_AT_ONCE = 16
"""Questions to the ledger, about records not seen before, at the same time."""

GENERATION_SECONDS = 20.0
"""How long a record's current generation is believed; old ones are taken for 60 s."""

RECORDS_KNOWN_MAX = 65_536
GROUPS_MESSAGE_BYTES = 768 << 10
DATA_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Payload:
    """One payload for :meth:`PackPutClient.put_many`; ``grant`` None means as the owner."""

    record: RecordId
    data: Buffer = field(repr=False)
    grant: GrantId | None = None
    content_type: str = DEFAULT_CONTENT_TYPE
    name: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """A payload with the right by which it is put, and its encoded metadata."""

    record: RecordId
    right: Right
    data: Buffer = field(repr=False)
    metadata: bytes = field(repr=False)


class PackRoom:
    """What still fits one pack: payloads, bytes, tokens, and one right for each record."""

    def __init__(self, body_max: int = BODY_BYTES_MAX) -> None:
        self._body_max = body_max
        self._count = 0
        self._body = 0
        self._metadata = 0
        self._rights: dict[RecordId, Right] = {}
        self._tokens: set[Right] = set()

    def enter(self, order: Order) -> bool:
        """Take one more payload in; False when it does not fit."""
        body = self._body + len(order.data) + SEAL_OVERHEAD
        metadata = self._metadata
        if order.metadata:
            metadata += len(order.metadata) + METADATA_OVERHEAD
        if (
            self._count >= PAYLOADS_MAX
            or body > self._body_max
            or metadata > METADATA_BYTES_MAX
            or self._rights.get(order.record, order.right) != order.right
            or len(self._tokens | {order.right}) > TOKENS_MAX
        ):
            return False
        self._count, self._body, self._metadata = self._count + 1, body, metadata
        self._rights[order.record] = order.right
        self._tokens.add(order.right)
        return True


def packs_of(orders: Sequence[Order], body_max: int = BODY_BYTES_MAX) -> list[list[Order]]:
    """The orders cut into packs, in order."""
    packs: list[list[Order]] = [[]]
    room = PackRoom(body_max)
    for order in orders:
        if not room.enter(order):
            packs.append([])
            room = PackRoom(body_max)
            room.enter(order)
        packs[-1].append(order)
    return packs


def metadata_bytes(payload: Payload) -> bytes:
    """The encoded metadata of a payload; nothing where it says nothing.

    Raises:
        Invalid: ``bad-metadata``: too long.
    """
    if (payload.content_type, payload.name, payload.labels) == (DEFAULT_CONTENT_TYPE, "", ()):
        return b""
    encoded = Metadata(payload.content_type, payload.name, payload.labels, b"", b"").encode()
    if len(encoded) + METADATA_OVERHEAD > SEALED_METADATA_MAX:
        raise Invalid(
            f"name, labels and content type have more than {SEALED_METADATA_MAX} bytes together: "
            "shorten them",
            reason="bad-metadata",
        )
    return encoded


@dataclass(frozen=True)
class _Stored:
    """A pack that enough holders have."""

    pack: SealedPack
    commit_by_ms: int
    rights: dict[RecordId, Right]
    durable: int
    total: int
    degraded: bool


class PackPutClient(DirectClient):
    """The part of a client that puts packs."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self._current: Recent[RecordId, Generation] = Recent(
            self.runtime, RECORDS_KNOWN_MAX, GENERATION_SECONDS
        )

    async def put_many(
        self,
        payloads: Iterable[Payload | tuple[RecordId, Buffer]],
        *,
        grant: GrantId | None = None,
        purpose: str = "TREAT",
        node: str | None = None,
    ) -> list[PutReceipt]:
        """Put small payloads and return when all their entries are on the ledger.

        The receipts are in the order of the payloads.  ``grant`` is for those that
        name none themselves.  Payloads may be of different records.

        Raises:
            Invalid: a payload is too long to be packed (put it alone).
            Denied: not permitted for one of the records; nothing of its pack was put.
            Unavailable: too few nodes, or the ledger did not answer in time.
            HcefsError: of the first pack that failed; others may have been committed.
        """
        orders = [self._order(payload, grant, purpose) for payload in payloads]
        if not orders:
            return []
        gate = asyncio.Semaphore(PACKS_AT_ONCE)

        async def one(pack: list[Order]) -> list[PutReceipt]:
            async with gate:
                return await self._put_pack(pack, purpose, node)

        packs = packs_of(orders, await self._body_max())
        found = await asyncio.gather(*map(one, packs), return_exceptions=True)
        receipts: list[PutReceipt] = []
        for result in found:
            if isinstance(result, BaseException):
                raise result
            receipts += result
        return receipts

    async def _body_max(self) -> int:
        """Most bytes of a pack under the cluster's default profile."""
        cluster_map = await self.cluster_map()
        return body_bytes_max(profile_named(cluster_map.default_profile))

    def _order(
        self, payload: Payload | tuple[RecordId, Buffer], grant: GrantId | None, purpose: str
    ) -> Order:
        if not isinstance(payload, Payload):
            payload = Payload(*payload)
        if len(payload.data) > PAYLOAD_BYTES_MAX:
            raise Invalid(
                f"a payload of more than {PAYLOAD_BYTES_MAX} bytes is not packed: put it alone",
                reason="too-large",
            )
        right = Right(payload.grant or grant or GrantId.zero(), purpose)
        return Order(payload.record, right, payload.data, metadata_bytes(payload))

    async def _put_pack(
        self, orders: Sequence[Order], purpose: str, node: str | None
    ) -> list[PutReceipt]:
        """One pack, sealed anew for each attempt, and its append."""
        tried: set[AccountId] = set()

        async def once() -> _Stored:
            try:
                return await self._send_pack(orders, purpose, node, tried)
            except Conflict as error:
                if error.reason == "old-generation":
                    for order in orders:
                        self._current.forget(order.record)
                elif error.reason not in ("shard-exists", "row-exists"):
                    raise
                raise Unavailable(error.message, reason=error.reason).of_request(
                    error.request
                ) from None

        stored = await retrying(
            self.runtime, PACK_ATTEMPTS, once, patience_s=self.connection.patience_s
        )
        return await self._commit_pack(stored)

    async def _current_generation(self, record: RecordId) -> Generation:
        """What to seal to; may be one that was replaced within the last seconds."""
        known = self._current.get(record)
        if known is not None:
            return known
        fact = await self.record(record)
        return self._current.put(record, await self.generation(record, fact.generation))

    async def _sealed_to(self, orders: Sequence[Order]) -> dict[RecordId, Generation]:
        gate = asyncio.Semaphore(FACTS_AT_ONCE)

        async def one(record: RecordId) -> tuple[RecordId, Generation]:
            async with gate:
                return record, await self._current_generation(record)

        found: dict[RecordId, Generation] = {}
        unknown = []
        for record in {order.record: None for order in orders}:
            known = self._current.get(record)
            if known is None:
                unknown.append(record)
            else:
                found[record] = known
        found.update(await asyncio.gather(*map(one, unknown)))
        return found

    async def _send_pack(
        self,
        orders: Sequence[Order],
        purpose: str,
        node: str | None,
        tried: set[AccountId],
    ) -> _Stored:
        generations = await self._sealed_to(orders)
        rights = {order.record: order.right for order in orders}
        items = [
            PackItem(
                order.record,
                generations[order.record].number,
                generations[order.record].public_key,
                order.data,
                order.metadata,
            )
            for order in orders
        ]
        commit_by_ms = max(self.runtime.now_ms(), self.ledger_time_ms) + COMMIT_WITHIN_MS
        pack = await self.runtime.compute(
            seal_pack,
            self.connection.cluster,
            AccountId(self.account),
            commit_by_ms,
            items,
            self.runtime.random,
        )
        target = await self._target(node, Scope(items[0].record, BlobId.of(pack.base, 1)), tried)
        tried.add(target.account)
        try:
            answer = await self._upload_pack(pack, rights, purpose, commit_by_ms, target)
        except HcefsError as error:
            raise self._note(target, error) from None
        check_layout(pack, answer)
        return _Stored(
            pack,
            commit_by_ms,
            rights,
            answer.durable_shards,
            answer.total_shards,
            answer.degraded,
        )

    async def _upload_pack(
        self,
        pack: SealedPack,
        rights: dict[RecordId, Right],
        purpose: str,
        commit_by_ms: int,
        target: Node,
    ) -> pack_pb2.PutManyResponse:
        tokens: dict[bytes, int] = {}
        numbers = [
            tokens.setdefault(self._authorizer.token_of(rights[group.record]), len(tokens))
            for group in pack.groups
        ]
        scope = [
            BatchGroup(number, group.record, ids_of(group))
            for number, group in zip(numbers, pack.groups, strict=True)
        ]
        header = pack_pb2.PutManyHeader(
            authorization=self._authorizer.authorize_batch(
                "put-many", list(tokens), scope, purpose, target.account
            ),
            base=bytes(pack.base),
            lengths=join_lengths(list(pack.lengths)),
            commit_by_ms=commit_by_ms,
            writer=bytes(self.account),
            groups=len(pack.groups),
            min_height=self.height,
            request_id=self._request_id(),
        )
        upload = self._channels.upload(target.address, "/hcefs.v1.Blobs/PutMany")
        finished = False
        try:
            await upload.send(pack_pb2.PutManyRequest(header=header).SerializeToString())
            for groups in group_messages(pack.groups, numbers):
                message = pack_pb2.PutManyRequest(groups=pack_pb2.PackGroups(groups=groups))
                await upload.send(message.SerializeToString())
            body = memoryview(pack.body)
            for start in range(0, len(body), DATA_MESSAGE_BYTES):
                await upload.send(frame_data(body[start : start + DATA_MESSAGE_BYTES]))
            answer = pack_answer(await upload.finish(FINISH_SECONDS))
            finished = True
        finally:
            if not finished:
                upload.cancel()
        return answer

    async def _commit_pack(self, stored: _Stored) -> list[PutReceipt]:
        """Append one leaf for each record; the receipts in the order of the slots."""
        groups = stored.pack.groups
        commitments = await self.runtime.compute(
            lambda: [group.opening.commitment() for group in groups]
        )
        entries = tuple(
            AppendEntry(
                group.record,
                group.generation,
                commitment,
                stored.commit_by_ms,
                stored.rights[group.record].grant,
            )
            for group, commitment in zip(groups, commitments, strict=True)
        )
        append = Append(entries, PutKey(self.runtime.random(PutKey.SIZE)))
        left_s = max(0, stored.commit_by_ms - self.runtime.now_ms()) / 1000
        done = await self._submit(self._signed(append), APPEND_ATTEMPTS, left_s)
        if [leaf.record for leaf in done.leaves] != [group.record for group in groups]:
            raise Corrupt(
                "the ledger's answer to the append names other records", reason="wrong-fact"
            )
        receipts: dict[int, PutReceipt] = {}
        for group, entry, result in zip(groups, entries, done.leaves, strict=True):
            self._remember_leaf(entry, done.time_ms, result)
            digests = group.opening.entries()
            for slot, core, (blob, digest) in zip(group.slots, group.cores, digests, strict=True):
                receipts[slot] = PutReceipt(
                    ref=BlobRef(group.record, blob, digest, result.index),
                    core=core,
                    durable_shards=stored.durable,
                    total_shards=stored.total,
                    degraded=stored.degraded,
                    height=done.height,
                    leaf=packed_leaf(result.leaf, slot),
                )
        return [receipts[slot] for slot in sorted(receipts)]


def ids_of(group: SealedGroup) -> bytes:
    """The blob ids of a group, joined."""
    return b"".join(bytes(core.blob) for core in group.cores)


def group_messages(
    groups: Sequence[SealedGroup], tokens: Sequence[int]
) -> Iterable[list[pack_pb2.PackGroup]]:
    """The groups as messages that stay below the limit of a client's port."""
    batch: list[pack_pb2.PackGroup] = []
    size = 0
    for group, token in zip(groups, tokens, strict=True):
        message = pack_pb2.PackGroup(
            token=token,
            record_id=bytes(group.record),
            slots=join_slots(list(group.slots)),
            cores=group.encoded,
            wrapped_keys=b"".join(group.wrapped),
            envelope=group.envelope.encode(),
            opening=group.opening.encode(),
        )
        length = message.ByteSize()
        if batch and size + length > GROUPS_MESSAGE_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += length
    yield batch


def pack_answer(data: bytes) -> pack_pb2.PutManyResponse:
    """A node's answer to a pack.

    Raises:
        Corrupt: ``bad-message``.
    """
    try:
        return pack_pb2.PutManyResponse.FromString(data)
    except DecodeError:
        raise Corrupt("the node's answer is malformed", reason="bad-message") from None


def check_layout(pack: SealedPack, answer: pack_pb2.PutManyResponse) -> PackLayout:
    """Compare a node's answer with the pack that was sent.

    Raises:
        Corrupt: ``wrong-layout``: it is about something else.
        Invalid: malformed.
    """
    layout = PackLayout.decode(answer.layout)
    layout.check_shape()
    if layout.base != pack.base or layout.lengths != join_lengths(list(pack.lengths)):
        raise Corrupt(
            "the node's answer is not about the pack that was sent; nothing was appended: put it "
            "again through another node",
            reason="wrong-layout",
        )
    return layout
