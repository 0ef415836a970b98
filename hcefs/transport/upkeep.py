"""What nodes ask of each other without a client: the ``UpkeepPeer`` protocol.

A client's right does not reach here: who may ask follows from the cluster map
(:mod:`hcefs.services.upkeep_service`).  What comes from a peer is not trusted: whoever
keeps it checks it against the ledger first (:mod:`hcefs.stripes.adopt`).

All methods raise :class:`hcefs.errors.HcefsError`; ``Unavailable`` means that the node
did not answer or may not answer now, ``other-epoch`` that its map is another one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hcefs.ids import BlobBase, RecordId
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import partition_of
from hcefs.transport.node_facts import NodeFacts
from hcefs.transport.packs import PackGroupRows
from hcefs.transport.peers import ShardDownload
from hcefs.versions import OWN, Versions


@dataclass(frozen=True)
class Place:
    """One partition of a profile's table, in the map of one epoch."""

    epoch: int
    profile: str
    partition: int

    @classmethod
    def of_base(cls, current: ClusterMap, profile: str, base: BlobBase) -> Place:
        """Where a base lies under a profile.

        Raises:
            NotFound: the map has no table for the profile.
        """
        partition = partition_of(bytes(base), current.table(profile).bits)
        return cls(current.epoch, profile, partition)


@dataclass(frozen=True, order=True)
class ShardName:
    """A shard that a node has."""

    base: BlobBase
    index: int


@dataclass(frozen=True)
class RecordDigest:
    """A record that a node keeps rows of, and a digest over them."""

    record: RecordId
    digest: bytes


@dataclass(frozen=True)
class BlobRows:
    """Canonical bytes of a blob's rows; ``key_row`` empty when it was shredded."""

    layout: bytes
    core: bytes
    key_row: bytes
    opening: bytes


@dataclass(frozen=True)
class PackRows:
    """The rows of a pack: its layout, and what it holds of each record.

    Of a wrapped key that was shredded zeros are left.  ``commit_by_ms`` is 0 when the
    pack waits for no append.
    """

    layout: bytes
    groups: tuple[PackGroupRows, ...]
    commit_by_ms: int


@dataclass(frozen=True)
class RecordRows:
    """Rows of a record, canonical bytes; openings with until when they wait, 0 for settled."""

    openings: tuple[tuple[bytes, int], ...]
    boxes: tuple[bytes, ...]
    links: tuple[bytes, ...]


@dataclass(frozen=True)
class Pulse:
    """How far a node is: the epoch of its map, the height of its replica; what it is, and tells."""

    epoch: int
    height: int
    versions: Versions = OWN
    facts: NodeFacts | None = None


PARTITIONS_ASKED_MAX = 256
"""Partitions of one listing."""


class LayoutStep(enum.IntEnum):
    """What a node is asked to do for a new layout.  The numbers travel."""

    STAGE = 1
    PLACE = 2
    ENTER = 3


class LayoutPeer(Protocol):
    """One node, as others ask it for what lies under one base."""

    async def load_rows(self, place: Place, base: BlobBase) -> BlobRows | PackRows:
        """The rows of a blob or a pack, as it lies under the place's profile if it does.

        Raises:
            NotFound: they are not here.
        """

    async def load_shard(
        self, place: Place, base: BlobBase, index: int, first: int
    ) -> ShardDownload:
        """Begin to load the pieces of a shard from ``first`` on.

        Raises:
            NotFound: it is not here.
        """

    async def has_shards(self, place: Place, shards: Sequence[ShardName]) -> list[bool]:
        """Which of some shards are here with their rows."""

    async def take_layout(
        self, place: Place, base: BlobBase, step: LayoutStep, rows: BlobRows | PackRows
    ) -> None:
        """Take part in re-profiling a base; see :mod:`hcefs.stripes.relayout`.

        Raises:
            NotFound: ``not-staged``: the step before is missing.
            Denied, Conflict, Corrupt, Invalid: the node does not take that layout.
        """


class UpkeepPeer(LayoutPeer, Protocol):
    """One node, as others ask it for copies."""

    async def list_shards(
        self, place: Place, after: bytes, also: Sequence[int] = ()
    ) -> tuple[list[ShardName], bytes]:
        """A page of the partition's shards, and where the next one begins; empty: nowhere.

        ``also`` are further partitions of the table, ascending and after the place's, that
        are listed with it: at most ``PARTITIONS_ASKED_MAX`` in all.

        Raises:
            Unavailable: ``unsettled``: a put of an older epoch is still under way.
        """

    async def list_records(
        self, place: Place, after: bytes, also: Sequence[int] = ()
    ) -> tuple[list[RecordDigest], bytes]:
        """The same of records, in a partition of the default profile."""

    async def load_record(
        self, place: Place, record: RecordId, after: bytes
    ) -> tuple[RecordRows, bytes]:
        """A page of a record's rows, and where the next one begins."""

    async def has_rows(
        self, place: Place, record: RecordId, digests: Sequence[bytes]
    ) -> list[bool]:
        """Which rows of a record are here, by their digests."""

    async def manifest_digests(
        self, place: Place, also: Sequence[int], bases: Sequence[BlobBase]
    ) -> list[bytes]:
        """A digest over layout and core of each base, empty where nothing is there.

        ``also`` as in :meth:`list_shards`: the bases lie in these partitions.
        """

    async def hint(self, place: Place, shards: Sequence[ShardName]) -> None:
        """Tell the node that some of its shards may be missing or damaged: it looks itself."""

    async def offer(
        self, place: Place, shards: Sequence[ShardName], records: Sequence[RecordId]
    ) -> list[bool]:
        """Which of some shards are there; the others, and rows of the records, that node fetches
        from this one where they are to be there.  To be repeated until it has them."""

    async def ping(self, own: Pulse, seconds: float) -> Pulse:
        """How far that node is, if it may serve now; waits at most ``seconds``."""


class UpkeepPeers(Protocol):
    """Finds the peer for another node of the map."""

    def upkeep_peer(self, node: Node) -> UpkeepPeer:
        """The peer of that node; connecting happens with the first call."""


class LayoutPeers(Protocol):
    """As :class:`UpkeepPeers`, for who asks about single bases."""

    def upkeep_peer(self, node: Node) -> LayoutPeer:
        """The peer of that node."""
