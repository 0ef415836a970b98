"""Six holders in one process over memory stores, a ledger that tests write by hand, and faults.

Everything above the stores and below gRPC is the production code: holders,
stripe writer and reader, fan-out, put and get.  The ledger is a dictionary of
facts and leaves; peers can be down, slow to die, or return damaged pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from hcefs.access.emergency import EmergencyNaming, EmergencyPolicy
from hcefs.access.erasure_facts import Erasure
from hcefs.access.facts import Account, AccountKind, Generation, Grant, PastKeys, Record
from hcefs.blobs.put import NodeIdentity, PutPlan, PutSession
from hcefs.crypto.accounts import AccountKeys
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Unavailable
from hcefs.formats.manifest import Opening
from hcefs.formats.pack import AnyOpening
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId, RequestId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import first_map
from hcefs.placement.ring import Seat, seats
from hcefs.placement.stand_ins import record_stand_ins, stand_ins
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores, Table
from hcefs.store.memory import memory_stores
from hcefs.stripes.fanout import Fanout
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.holder import Holder
from hcefs.stripes.standby import Standby
from hcefs.stripes.uploads import Uploads
from hcefs.transport.framing import Frame, frame_data
from hcefs.transport.peers import (
    Call,
    Entry,
    LoadHeader,
    ManifestRows,
    Peer,
    Piece,
    ShardDownload,
    ShardRows,
    ShardStart,
    ShardUpload,
)

CLUSTER = ClusterId(b"test-cluster-id!")
NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
PROFILES = [("ec-4-2", 4, 2), ("copy-3", 1, 2)]


@dataclass
class LedgerFacts:
    """A ledger that a test writes by hand: a ``Replica`` for holders."""

    height: int = 1
    time_ms: int = NOW_MS
    accounts: dict[AccountId, Account] = field(default_factory=dict)
    past: dict[tuple[AccountId, int], PastKeys] = field(default_factory=dict)
    records: dict[RecordId, Record] = field(default_factory=dict)
    generations: dict[tuple[RecordId, int], Generation] = field(default_factory=dict)
    grants: dict[GrantId, Grant] = field(default_factory=dict)
    leaves: dict[tuple[RecordId, bytes], int] = field(default_factory=dict)
    erasures: dict[RecordId, Erasure] = field(default_factory=dict)
    namings: dict[GrantId, EmergencyNaming] = field(default_factory=dict)
    policy: EmergencyPolicy = field(default_factory=EmergencyPolicy)
    refused: set[RecordId] = field(default_factory=set)

    def account(self, account: AccountId) -> Account | None:
        return self.accounts.get(account)

    def past_keys(self, account: AccountId, key_version: int) -> PastKeys | None:
        return self.past.get((account, key_version))

    def record(self, record: RecordId) -> Record | None:
        return self.records.get(record)

    def generation(self, record: RecordId, number: int) -> Generation | None:
        return self.generations.get((record, number))

    def grant(self, grant: GrantId) -> Grant | None:
        return self.grants.get(grant)

    def emergency_naming(self, naming: GrantId) -> EmergencyNaming | None:
        return self.namings.get(naming)

    def emergency_policy(self) -> EmergencyPolicy:
        return self.policy

    def emergency_refused(self, record: RecordId) -> bool:
        return record in self.refused

    def leaf_index(self, record: RecordId, commitment: bytes) -> int | None:
        return self.leaves.get((record, commitment))

    def erasure(self, record: RecordId) -> Erasure | None:
        return self.erasures.get(record)

    def erased_after(self, height: int, record: RecordId, limit: int) -> list[Erasure]:
        found = sorted(self.erasures.values(), key=lambda each: (each.height, each.record))
        return [each for each in found if (each.height, each.record) > (height, record)][:limit]

    def erase(self, record: RecordId) -> Erasure:
        """What the owner's erasure on the ledger does for holders."""
        self.height += 1
        owner = self.records[record].owner
        erasure = Erasure(record, self.height, self.time_ms, owner, b"", bytes(32))
        self.erasures[record] = erasure
        return erasure

    def commit(self, opening: AnyOpening) -> None:
        """What an append on the ledger does for holders."""
        self.leaves[opening.record, opening.commitment()] = len(self.leaves)


@dataclass
class Faults:
    """What is wrong with one node."""

    down: bool = False
    dies_after_messages: int = -1
    waits_for: asyncio.Event | None = None
    rows_wait_for: asyncio.Event | None = None
    damages_index: int = -1
    damages_at: int = -1
    """Which byte of a message; in the middle if negative or behind the end."""

    stored: list[str] = field(default_factory=list)
    """The calls that store which it got."""

    def require_up(self) -> None:
        if self.down:
            raise Unavailable("this node is down", reason="unreachable")


class FaultyPeer:
    """A holder behind a network that can fail."""

    def __init__(self, peer: Peer, faults: Faults) -> None:
        self._peer = peer
        self._faults = faults

    async def store(self, start: ShardStart) -> ShardUpload:
        self._faults.require_up()
        self._faults.stored.append("store")
        return _FaultyUpload(await self._peer.store(start), self._faults)

    async def store_whole(
        self, start: ShardStart, pieces: Sequence[Piece], rows: ShardRows
    ) -> bool:
        self._faults.require_up()
        self._faults.stored.append("store-whole")
        if self._faults.dies_after_messages >= 0:
            self._faults.down = True
            self._faults.require_up()
        return await self._peer.store_whole(start, pieces, rows)

    async def load_pieces(
        self, call: Call, index: int, first: int, count: int
    ) -> tuple[LoadHeader, Piece]:
        self._faults.require_up()
        header, data = await self._peer.load_pieces(call, index, first, count)
        if self._faults.waits_for is not None:
            await self._faults.waits_for.wait()
        if self._faults.dies_after_messages == 0:
            self._faults.down = True
        self._faults.require_up()
        if self._faults.damages_index == index:
            data = _damaged(data, self._faults.damages_at)
        return header, data

    async def load(self, call: Call, index: int, first: int, count: int) -> ShardDownload:
        self._faults.require_up()
        download = await self._peer.load(call, index, first, count)
        return _FaultyDownload(download, self._faults, index)

    async def store_opening(self, call: Call, opening: bytes, commit_by_ms: int) -> None:
        self._faults.require_up()
        self._faults.stored.append("store-opening")
        await self._peer.store_opening(call, opening, commit_by_ms)

    async def store_box(self, call: Call, box: bytes, link: bytes) -> None:
        self._faults.require_up()
        self._faults.stored.append("store-box")
        await self._peer.store_box(call, box, link)

    async def load_manifest(self, call: Call) -> ManifestRows:
        self._faults.require_up()
        if self._faults.rows_wait_for is not None:
            await self._faults.rows_wait_for.wait()
        return await self._peer.load_manifest(call)

    async def load_listing(self, call: Call) -> list[Entry]:
        self._faults.require_up()
        return await self._peer.load_listing(call)

    async def load_boxes(self, call: Call) -> tuple[list[bytes], list[bytes]]:
        self._faults.require_up()
        return await self._peer.load_boxes(call)


def _damaged(message: Piece, place: int) -> bytes:
    damaged = bytearray(message)
    damaged[place if 0 <= place < len(damaged) else len(damaged) // 2] ^= 1
    return bytes(damaged)


class _FaultyUpload:
    def __init__(self, upload: ShardUpload, faults: Faults) -> None:
        self._upload = upload
        self._faults = faults
        self._sent = 0

    async def send(self, pieces: Sequence[Piece]) -> None:
        if self._sent == self._faults.dies_after_messages:
            self._faults.down = True
        self._faults.require_up()
        self._sent += 1
        await self._upload.send(pieces)

    async def send_frame(self, frame: Frame) -> None:
        await self.send((frame.data,))

    async def finish(self, rows: ShardRows) -> bool:
        if self._sent == self._faults.dies_after_messages:
            self._faults.down = True
        self._faults.require_up()
        return await self._upload.finish(rows)

    async def cancel(self) -> None:
        await self._upload.cancel()


class _FaultyDownload:
    def __init__(self, download: ShardDownload, faults: Faults, index: int) -> None:
        self._download = download
        self._faults = faults
        self._index = index

    async def header(self) -> LoadHeader:
        return await self._download.header()

    async def messages(self) -> AsyncIterator[Piece]:
        sent = 0
        if self._faults.waits_for is not None:
            await self._faults.waits_for.wait()
        async for message in self._download.messages():
            if sent == self._faults.dies_after_messages:
                self._faults.down = True
            self._faults.require_up()
            if self._faults.damages_index == self._index:
                message = _damaged(message, self._faults.damages_at)
            sent += 1
            yield message

    async def frames(self) -> AsyncIterator[bytes]:
        async for message in self.messages():
            yield frame_data(message)

    async def cancel(self) -> None:
        await self._download.cancel()


class LocalCluster:
    """Six holders, their map, a record with a patient and a writer.

    ``map`` may be replaced: the nodes follow at once, but for those in ``epochs``, which
    say what epoch they are at.
    """

    def __init__(self, runtime: Runtime, nodes: int = 6) -> None:
        self.runtime = runtime
        self.metrics = Metrics()
        self.ledger = LedgerFacts()
        self.hedge = HedgeTimer()
        self.keys = [self._keys(number) for number in range(1, nodes + 1)]
        self.map = self._map()
        self.stores: dict[AccountId, Stores] = {}
        self.faults: dict[AccountId, Faults] = {}
        self.holders: dict[AccountId, Holder] = {}
        self.uploads: dict[AccountId, Uploads] = {}
        self.epochs: dict[AccountId, int] = {}
        for node in self.map.nodes:
            self.stores[node.account] = memory_stores()
            self.faults[node.account] = Faults()
            self.uploads[node.account] = Uploads(partial(self._epoch_of, node.account))
            self.holders[node.account] = Holder(
                runtime,
                self.stores[node.account],
                self.ledger,
                self.metrics,
                partial(self._lists, node.account),
                self.uploads[node.account],
            )
        self.standby = Standby(runtime, self._stand_ins)
        self.fanout = Fanout(runtime, self, self.ledger, standby=self.standby)
        self.patient = self._keys(101)
        self.writer = self._keys(102)
        self.record = RecordId(b"the-test-record!")
        for keys in (self.patient, self.writer):
            self._register(keys, AccountKind.PATIENT)
        self._open_record()

    @staticmethod
    def _keys(number: int) -> AccountKeys:
        """Fixed keys: tests of the data path need no secrecy."""
        seed = number.to_bytes(2, "big") * 64
        return AccountKeys.generate(
            CLUSTER, bytes(a ^ b for a, b in zip(seed, range(128), strict=True))
        )

    def _register(self, keys: AccountKeys, kind: AccountKind) -> None:
        self.ledger.accounts[keys.account] = Account(
            keys.account,
            kind,
            1,
            keys.signing_key.public_key,
            keys.token_key.public_key,
            keys.receiving_key.public_key,
            b"s" * 32 if kind is AccountKind.NODE else b"",
            AccountId.zero(),
            True,
            1,
        )

    def _map(self) -> ClusterMap:
        nodes = []
        for number, keys in enumerate(self.keys, 1):
            self._register(keys, AccountKind.NODE)
            nodes.append(
                Node(
                    number,
                    keys.account,
                    f"127.0.0.1:{7000 + number}",
                    f"127.0.0.1:{8000 + number}",
                    f"zone-{number % 3}",
                    "",
                    f"host-{number}",
                    100,
                    NodeState.UP,
                )
            )
        return first_map(nodes, PROFILES, bytes(32), "ec-4-2")

    def _open_record(self) -> None:
        public = self.patient.record_key(self.record, 0).public_key
        self.ledger.generations[self.record, 0] = Generation(self.record, 0, public, 1, NOW_MS)
        self.ledger.records[self.record] = Record(self.record, self.patient.account, 0, 0, (), 1)

    def _epoch_of(self, account: AccountId) -> int:
        return self.epochs.get(account, self.map.epoch)

    def _lists(self, account: AccountId, record: RecordId) -> bool:
        return any(seat.node.account == account for seat in self.seats(bytes(record)))

    def _stand_ins(self, profile: str, name: bytes) -> tuple[Node, ...]:
        if not profile:
            return record_stand_ins(self.map, name)
        return stand_ins(self.map, profile, name)

    def peer(self, node: Node) -> Peer:
        """The peer of a node: this cluster is its own ``Peers``."""
        return FaultyPeer(self.holders[node.account], self.faults[node.account])

    def seats(self, base: bytes, profile: str = "ec-4-2") -> tuple[Seat, ...]:
        """The seats of a blob's base."""
        return seats(self.map, profile, base)

    def faults_of_index(self, blob: BlobId, index: int, profile: str = "ec-4-2") -> Faults:
        """The faults of the node that holds one index of a blob."""
        for seat in self.seats(blob.base, profile):
            if seat.index == index:
                return self.faults[seat.node.account]
        raise ValueError(f"no seat holds index {index}")

    def stores_of_index(self, blob: BlobId, index: int) -> Stores:
        """The stores of the node that holds one index of a blob."""
        for seat in self.seats(blob.base):
            if seat.index == index:
                return self.stores[seat.node.account]
        raise ValueError(f"no seat holds index {index}")

    def call(self, method: str, blob: BlobId | None, *, start: int = 0, length: int = 0) -> Call:
        """A call as the services hand it on after they verified it."""
        return Call(
            b"token",
            b"proof",
            method,
            self.record,
            blob,
            start,
            length,
            0,
            self.map.epoch,
            RequestId(self.runtime.random(16)),
            self.writer.account,
            GrantId.zero(),
        )

    def plan(self, blob: BlobId, profile: str = "ec-4-2") -> PutPlan:
        """A node-sealed put of ``blob`` into the record."""
        return PutPlan(
            self.call("put", blob),
            CLUSTER,
            blob,
            self.record,
            0,
            self.ledger.generations[self.record, 0].public_key,
            profile_named(profile),
            self.seats(blob.base, profile),
            self.seats(bytes(self.record)),
            profile_named("ec-4-2"),
            self.writer.account,
            NOW_MS + HOUR_MS,
            self.runtime.random(32),
            b"",
            None,
        )

    def session(self, plan: PutPlan, deadline_seconds: float = 5.0) -> PutSession:
        """A put through node 1."""
        identity = NodeIdentity(self.keys[0].account, 1, self.keys[0].signing_key)
        return PutSession(
            self.runtime, self, self.fanout, identity, self.metrics, plan, deadline_seconds
        )

    async def put(self, data: bytes, profile: str = "ec-4-2") -> BlobId:
        """Store a blob through node 1, and commit it."""
        blob = BlobId.of(self.runtime.random(16))
        session = self.session(self.plan(blob, profile))
        await session.write(data)
        await session.finish(len(data), b"", b"", self.call("put", blob))
        self.commit(blob)
        return blob

    def commit(self, blob: BlobId) -> None:
        """What the append does for holders."""
        for stores in self.stores.values():
            opening = stores.rows.get(Table.OPENINGS, bytes(blob.base))
            if opening is not None:
                self.ledger.commit(Opening.decode(opening))
                return
        raise ValueError("nobody holds that blob")
