"""A node and a ledger in memory for the client's packs: real proofs, real bytes, no network.

The node checks the batch's proof as a real one does, keeps packs as it got them, and
can be told to lie.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import hcefs
from hcefs.access.batch import BatchGroup, batch_digest, check_batch
from hcefs.access.facts import Generation, Grant, Record
from hcefs.client.connection import Connection
from hcefs.client.ledger import Submitted
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.signing import SignedProof, SigningKey
from hcefs.errors import HcefsError
from hcefs.formats.pack import PackLayout, PackOpening, split_lengths, split_slots
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.ledger.outcome import Leaf, LeafResult
from hcefs.ledger.transactions import Append, SignedTransaction, decode_transaction
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.transport.framing import DataFrame, parse
from hcefs.transport.tls import new_authority
from hcefs.wire.v1 import pack_pb2
from tests.unit.client.world import CLUSTER, NOW_MS, OWNER, FakeRuntime

AUTHORITY = new_authority("test", now_ms=NOW_MS)[0]
CONNECTION = Connection(CLUSTER, AUTHORITY, "127.0.0.1:1", ())
NODE_KEY = SigningKey.from_seed(b"n" * 32)


def node(number: int) -> Node:
    return Node(
        node_id=number,
        account=AccountId(bytes([number]) * 16),
        address=f"127.0.0.1:{7000 + number}",
        peer_address=f"127.0.0.1:{8000 + number}",
        zone="z",
        rack="",
        host=f"h{number}",
        weight=1,
        state=NodeState.UP,
    )


NODES = (node(1), node(2), node(3))


@dataclass
class Kept:
    """One pack as a node keeps it."""

    layout: PackLayout
    body: bytes
    groups: dict[RecordId, pack_pb2.PackGroup]


Change = Callable[[pack_pb2.PackedPart], None]


@dataclass
class World:
    """What nodes and ledger hold, and what went wrong on purpose."""

    packs: dict[BlobBase, Kept] = field(default_factory=dict)
    leaves: dict[RecordId, list[Leaf]] = field(default_factory=dict)
    generations: dict[RecordId, int] = field(default_factory=dict)
    owner: AccountKeys = OWNER
    puts: int = 0
    gets: int = 0
    appends: int = 0
    put_errors: list[HcefsError] = field(default_factory=list)
    get_errors: list[HcefsError] = field(default_factory=list)
    alter: Change | None = None
    alter_on: int = 0
    layout_lengths: bytes = b""
    proofs: bool = False

    def client(self, keys: AccountKeys = OWNER) -> WorldClient:
        return WorldClient(self, keys)


class _Upload:
    def __init__(self, world: World, address: str) -> None:
        self._world = world
        self._address = address
        self._messages: list[Any] = []

    async def send(self, message: bytes) -> None:
        self._messages.append(parse(message, pack_pb2.PutManyRequest))

    async def finish(self, seconds: float) -> bytes:
        return put(self._world, self._address, self._messages)

    def cancel(self) -> None:
        self._messages = []


class _Channels:
    def __init__(self, world: World) -> None:
        self._world = world

    def upload(self, address: str, method: str) -> _Upload:
        assert method == "/hcefs.v1.Blobs/PutMany"
        return _Upload(self._world, address)

    async def answers(
        self, address: str, method: str, request: bytes
    ) -> AsyncGenerator[bytes, None]:
        assert method == "/hcefs.v1.Blobs/GetMany"
        for part in get(self._world, address, pack_pb2.GetManyRequest.FromString(request)):
            yield pack_pb2.GetManyResponse(parts=[part]).SerializeToString()

    async def close(self) -> None:
        return


class WorldClient(hcefs.Client):
    """A client whose nodes and ledger are a :class:`World`."""

    def __init__(self, world: World, keys: AccountKeys) -> None:
        super().__init__(CONNECTION, keys, FakeRuntime())
        self.world = world
        self.facts = 0
        self.asked = 0
        self.known: dict[Any, Grant] = {}
        self._channels: Any = _Channels(world)

    async def record(self, record: RecordId) -> Record:
        self.facts += 1
        number = self.world.generations.get(record, 0)
        return Record(record, self.world.owner.account, number, 0, (), 1)

    async def generation(self, record: RecordId, number: int) -> Generation:
        key = self.world.owner.record_key(record, number)
        return Generation(record, number, key.public_key, 1, NOW_MS)

    async def grant(self, grant: Any) -> Grant:
        return self.known[grant]

    async def cluster_map(self) -> ClusterMap:
        return ClusterMap(1, b"", b"s", "ec-4-2", NODES, ())

    async def has_leaf(
        self, record: RecordId, commitment: bytes, signer: AccountId | None = None
    ) -> Leaf | None:
        self.asked += 1
        for leaf in self.world.leaves.get(record, []):
            if leaf.commitment == commitment and signer in (None, leaf.signer):
                return leaf
        return None

    async def _submit(
        self, signed: SignedTransaction, attempts: int, within_s: float | None
    ) -> Submitted:
        transaction = decode_transaction(signed.body)
        assert isinstance(transaction, Append)
        self.world.appends += 1
        results = []
        for entry in transaction.entries:
            leaf = Leaf(entry.commitment, AccountId(self.account), entry.generation, NOW_MS)
            known = self.world.leaves.setdefault(entry.record, [])
            results.append(LeafResult(entry.record, len(known), leaf.hash()))
            known.append(leaf)
        return Submitted(7, NOW_MS, tuple(results))


def _check(authorization: pack_pb2.BatchAuthorization, groups: list[BatchGroup], to: str) -> None:
    check_batch(authorization.tokens, groups)
    proof = SignedProof.decode(authorization.proof).proof
    assert proof.token_hash == batch_digest(authorization.tokens, groups)
    assert proof.gateway == next(each.account for each in NODES if each.address == to)


def put(world: World, address: str, messages: list[Any]) -> bytes:
    """What a node does with the messages of a PutMany."""
    world.puts += 1
    if world.put_errors:
        raise world.put_errors.pop(0)
    header = messages[0].header
    groups = [group for message in messages[1:] if not isinstance(message, DataFrame)
              for group in message.groups.groups]  # fmt: skip
    body = b"".join(message.data for message in messages if isinstance(message, DataFrame))
    base = BlobBase(header.base)
    scope = [
        BatchGroup(
            group.token,
            RecordId(group.record_id),
            b"".join(bytes(BlobId.of(base, slot)) for slot in split_slots(group.slots)),
        )
        for group in groups
    ]
    _check(header.authorization, scope, address)
    assert len(groups) == header.groups
    assert len(body) == sum(split_lengths(header.lengths))
    digests = tuple(bytes([index]) * 32 for index in range(6))
    layout = PackLayout(
        base, "ec-4-2", world.layout_lengths or header.lengths, digests, 1,
        NODES[0].account, 1, NOW_MS, b"",
    ).signed(NODE_KEY)  # fmt: skip
    world.packs[base] = Kept(layout, body, {RecordId(each.record_id): each for each in groups})
    return pack_pb2.PutManyResponse(
        layout=layout.encode(), durable_shards=5, total_shards=6, degraded=True
    ).SerializeToString()


def get(world: World, address: str, request: pack_pb2.GetManyRequest) -> list[pack_pb2.PackedPart]:
    """What a node answers to a GetMany."""
    world.gets += 1
    if world.get_errors:
        raise world.get_errors.pop(0)
    groups = [
        BatchGroup(group.token, RecordId(group.record_id), group.blob_ids)
        for group in request.groups
    ]
    _check(request.authorization, groups, address)
    parts: dict[tuple[RecordId, BlobBase], pack_pb2.PackedPart] = {}
    for group in groups:
        for blob in group.ids():
            kept = world.packs.get(blob.base)
            part = parts.setdefault(
                (group.record, blob.base),
                pack_pb2.PackedPart(record_id=bytes(group.record), base=bytes(blob.base)),
            )
            rows = kept.groups.get(group.record) if kept is not None else None
            if kept is None or rows is None:
                payload = part.payloads.add(slot=blob.slot)
                payload.failure.kind = "not-found"
                payload.failure.reason = "unknown-blob"
                payload.failure.message = "unknown"
                continue
            opening = PackOpening.decode(rows.opening)
            part.envelope = rows.envelope
            position = split_slots(rows.slots).index(blob.slot)
            spans = kept.layout.spans(blob.slot)
            start = spans[0].index * kept.layout.geometry.piece_of(0) + spans[0].offset
            length = sum(span.length for span in spans)
            payload = part.payloads.add(
                slot=blob.slot,
                core=rows.cores[position],
                wrapped_key=rows.wrapped_keys[40 * position : 40 * (position + 1)],
                sealed=kept.body[start : start + length],
            )
            if world.proofs:
                payload.proof = opening.proof(blob.slot).encode()
            else:
                part.opening = rows.opening
    if world.alter is not None and world.gets > world.alter_on:
        for part in parts.values():
            world.alter(part)
    return list(parts.values())


def with_grant(client: WorldClient, grant: Grant) -> Grant:
    """Let a client know a grant."""
    client.known[grant.grant] = replace(grant)
    return grant
