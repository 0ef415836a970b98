"""Packs in a local cluster of six holders: put, read, and what can be wrong with a node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from hcefs.access.batch import BatchGroup, Refused
from hcefs.blobs.pack import PackItem, SealedPack, seal_pack
from hcefs.erasure.scheme import Profile, profile_named
from hcefs.errors import HcefsError
from hcefs.formats.pack import PackLayout, join_lengths, join_slots
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId, RequestId
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import Seat
from hcefs.store.interface import Stores
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.pack_holder import PackHolder
from hcefs.stripes.pack_read import PackedPayload, PackReader
from hcefs.stripes.pack_rows import Key, RowReader
from hcefs.stripes.pack_write import PackBody, PackPlan, PackWriter
from hcefs.stripes.reseat import Reseat
from hcefs.stripes.write import Stored
from hcefs.testing.local_cluster import CLUSTER, HOUR_MS, NOW_MS, Faults, LocalCluster
from hcefs.transport.pack_messages import batch_blobs
from hcefs.transport.packs import (
    BatchCall,
    ColumnsWanted,
    PackGroupRows,
    PackPart,
    PackPeer,
    PackShard,
    PackWanted,
)
from hcefs.transport.peers import Call, Piece

COMMIT_BY_MS = NOW_MS + HOUR_MS


@dataclass
class PackFaults:
    """What is wrong with one node's packs, beside the faults of the node."""

    lays_out: bytes = b""
    """The layout that it claims for every pack."""

    waits_for: asyncio.Event | None = None
    damages: bool = False
    stored: list[str] = field(default_factory=list)
    """The calls that it got."""


class FaultyPackPeer:
    """A holder of packs behind a network that can fail."""

    def __init__(self, peer: PackPeer, node: Faults, faults: PackFaults) -> None:
        self._peer = peer
        self._node = node
        self._faults = faults

    async def _reach(self, call: str) -> None:
        self._node.require_up()
        self._faults.stored.append(call)
        if self._faults.waits_for is not None:
            await self._faults.waits_for.wait()

    async def store_pack(self, call: BatchCall, shard: PackShard) -> None:
        await self._reach("store-pack")
        await self._peer.store_pack(call, shard)

    async def store_openings(
        self, call: BatchCall, openings: Sequence[bytes], commit_by_ms: int
    ) -> None:
        await self._reach("store-openings")
        await self._peer.store_openings(call, openings, commit_by_ms)

    async def load_packed(
        self, call: Call | BatchCall, wanted: Sequence[PackWanted]
    ) -> list[PackPart | HcefsError]:
        await self._reach("load-packed")
        parts = await self._peer.load_packed(call, wanted)
        if self._faults.lays_out:
            return [part if isinstance(part, HcefsError) else self._lie(part) for part in parts]
        return parts

    def _lie(self, part: PackPart) -> PackPart:
        return PackPart(
            part.record, part.base, self._faults.lays_out, part.envelope, part.opening,
            part.payloads, part.failures,
        )  # fmt: skip

    async def load_columns(
        self, call: Call | BatchCall, wanted: Sequence[ColumnsWanted]
    ) -> list[Piece | HcefsError]:
        await self._reach("load-columns")
        columns = await self._peer.load_columns(call, wanted)
        return [self._damaged(each) for each in columns] if self._faults.damages else columns

    @staticmethod
    def _damaged(columns: Piece | HcefsError) -> Piece | HcefsError:
        if isinstance(columns, HcefsError) or not columns:
            return columns
        return bytes(byte ^ 1 for byte in columns)


class LocalPacks:
    """The packs of a local cluster: its own ``PackPeers``."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.faults = {account: PackFaults() for account in cluster.holders}
        self.holders = {
            account: self._holder(account, cluster.stores[account]) for account in cluster.holders
        }

    def _holder(self, account: AccountId, stores: Stores) -> PackHolder:
        cluster = self.cluster

        def seated(record: RecordId) -> bool:
            return any(seat.node.account == account for seat in cluster.seats(bytes(record)))

        return PackHolder(
            cluster.runtime,
            stores,
            cluster.ledger,
            cluster.metrics,
            cluster.holders[account].pending,
            seated,
            cluster.uploads[account],
        )

    def pack_peer(self, node: Node) -> PackPeer:
        """The peer of a node."""
        account = node.account
        return FaultyPackPeer(
            self.holders[account], self.cluster.faults[account], self.faults[account]
        )

    # -- put

    def seal(self, payloads: Sequence[bytes], records: Sequence[RecordId] = ()) -> SealedPack:
        """A pack of payloads of the cluster's record, or of these records in turn."""
        cluster = self.cluster
        own = records or [cluster.record]
        key = cluster.ledger.generations[cluster.record, 0].public_key
        items = [
            PackItem(own[at % len(own)], 0, key, payload) for at, payload in enumerate(payloads)
        ]
        return seal_pack(
            CLUSTER, cluster.writer.account, COMMIT_BY_MS, items, cluster.runtime.random
        )

    @staticmethod
    def rows(pack: SealedPack) -> tuple[PackGroupRows, ...]:
        """The rows of a pack as its writer sends them."""
        return tuple(
            PackGroupRows(
                0,
                group.record,
                join_slots(list(group.slots)),
                group.encoded,
                b"".join(group.wrapped),
                group.envelope.encode(),
                group.opening.encode(),
            )
            for group in pack.groups
        )

    def call(
        self, method: str, groups: Sequence[BatchGroup], *, refused: Refused | None = None
    ) -> BatchCall:
        """A batch as the services hand it on after they verified it."""
        return BatchCall(
            (b"token",),
            b"proof",
            method,
            tuple(groups),
            0,
            self.cluster.map.epoch,
            RequestId(self.cluster.runtime.random(16)),
            self.cluster.writer.account,
            refused or {},
            frozenset(group.record for group in groups),
        )

    def reading(self, pack: SealedPack, *, refused: Refused | None = None) -> BatchCall:
        """A batch that asks for a whole pack."""
        return self.call("get-many", batch_blobs(self.rows(pack), pack.base), refused=refused)

    def plan(self, pack: SealedPack, profile: str = "ec-4-2") -> PackPlan:
        """A put of a pack."""
        cluster, rows = self.cluster, self.rows(pack)
        return PackPlan(
            self.call("put-many", batch_blobs(rows, pack.base)),
            pack.base,
            profile_named(profile),
            cluster.seats(bytes(pack.base), profile),
            join_lengths(list(pack.lengths)),
            rows,
            COMMIT_BY_MS,
            {group.record: cluster.seats(bytes(group.record)) for group in rows},
            profile_named("ec-4-2"),
        )

    def body(self, pack: SealedPack, profile: Profile) -> PackBody:
        """A pack's body as it has arrived."""
        body = PackBody(profile, len(pack.body))
        body.take(memoryview(pack.body))
        return body

    def writer(self, deadline_seconds: float = 5.0, reseat: Reseat | None = None) -> PackWriter:
        """The writer of node 1."""
        keys = self.cluster.keys[0]
        return PackWriter(
            self.cluster.runtime,
            self,
            self.cluster.metrics,
            keys.account,
            1,
            keys.signing_key,
            deadline_seconds,
            reseat,
            self.cluster.standby,
        )

    async def put(
        self, pack: SealedPack, profile: str = "ec-4-2", *, commit: bool = True
    ) -> tuple[PackLayout, Stored]:
        """Store a pack through node 1, and commit it."""
        plan = self.plan(pack, profile)
        done = await self.writer().put(plan, self.body(pack, plan.profile))
        if commit:
            self.commit(pack)
        return done

    def commit(self, pack: SealedPack) -> None:
        """What the append does for holders."""
        for group in pack.groups:
            self.cluster.ledger.commit(group.opening)

    # -- get

    def reader(self, number: int = 0) -> PackReader:
        """The reader of a node, by its number from 0."""
        cluster = self.cluster
        me = cluster.keys[number].account

        def tables(base: BlobBase) -> list[tuple[Seat, ...]]:
            return [cluster.seats(base, "ec-4-2"), cluster.seats(base, "copy-3")]

        def others(base: BlobBase) -> list[Sequence[Node]]:
            return [cluster.standby.nodes(profile, base) for profile in ("ec-4-2", "copy-3")]

        return PackReader(
            cluster.runtime,
            self,
            RowReader(cluster.runtime, self, cluster.ledger, me, tables, others),
            cluster.metrics,
            HedgeTimer(),
            me,
            lambda profile, base: cluster.seats(base, profile),
            cluster.standby.nodes,
        )

    async def read(
        self, call: Call | BatchCall, keys: Sequence[Key], number: int = 0
    ) -> dict[Key, PackedPayload]:
        """Payloads read through a node."""
        found: dict[Key, PackedPayload] = {}
        async for some in self.reader(number).read(call, keys):
            found.update((each.key, each) for each in some)
        return found

    @staticmethod
    def keys(pack: SealedPack) -> list[Key]:
        """All payloads of a pack."""
        return [(pack.base, group.record, slot) for group in pack.groups for slot in group.slots]

    @staticmethod
    def sealed(pack: SealedPack) -> dict[Key, bytes]:
        """What the writer sealed, by payload."""
        starts = [sum(pack.lengths[:at]) for at in range(len(pack.lengths) + 1)]
        return {
            key: bytes(pack.body[starts[key[2] - 1] : starts[key[2]]])
            for key in LocalPacks.keys(pack)
        }

    def account_of(self, base: BlobBase, index: int, profile: str = "ec-4-2") -> AccountId:
        """The node that holds one index of a pack."""
        for seat in self.cluster.seats(bytes(base), profile):
            if seat.index == index:
                return seat.node.account
        raise ValueError(f"no seat holds index {index}")

    def call_of(self, blob: BlobId, method: str = "get") -> Call:
        """A request on one packed blob."""
        return self.cluster.call(method, blob)
