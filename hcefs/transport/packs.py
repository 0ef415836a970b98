"""What a node may ask of a holder of packs, itself or another: the PackPeer protocol.

The twin of :mod:`hcefs.transport.peers` for packs (:mod:`hcefs.formats.pack`): calls
are unary, because a pack's shard is one piece, and most carry a batch, whose proof
each holder checks again.  The local holder (:mod:`hcefs.stripes.pack_holder`) and the
remote one (:mod:`hcefs.transport.grpc_packs`) implement the same protocol.

All methods raise :class:`hcefs.errors.HcefsError`; ``Unavailable`` means that the
holder did not answer or may not answer now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hcefs.access.batch import BatchGroup, Refused
from hcefs.errors import HcefsError
from hcefs.ids import AccountId, BlobBase, RecordId, RequestId
from hcefs.placement.cluster_map import Node
from hcefs.transport.peers import Call, Piece


@dataclass(frozen=True)
class BatchCall:
    """Who asks for a batch, by what rights: the same for every holder of one request.

    ``presenter``, ``refused`` (the blobs that this node may not serve, and why) and
    ``whole`` (the records on which the right is not limited to single blobs; found for
    reads only) are what each node finds by its own verification; they do not travel.
    """

    tokens: tuple[bytes, ...]
    proof: bytes
    method: str
    groups: tuple[BatchGroup, ...]
    min_height: int
    epoch: int
    request: RequestId
    presenter: AccountId
    refused: Refused
    whole: frozenset[RecordId] = frozenset()
    stand_in: bool = False
    """As :attr:`hcefs.transport.peers.Call.stand_in`."""


@dataclass(frozen=True)
class PackGroupRows:
    """What a pack holds of one record: the columns of ``PackGroup`` in the protocol.

    ``cores``, ``envelope`` and ``opening`` are canonical bytes; ``wrapped_keys`` are 40
    bytes each, joined; all in the order of ``slots`` (u16 each, joined).
    """

    token: int
    record: RecordId
    slots: bytes
    cores: tuple[bytes, ...]
    wrapped_keys: bytes
    envelope: bytes
    opening: bytes


@dataclass(frozen=True)
class PackShard:
    """One shard of a pack with all its rows, on its way to a holder."""

    base: BlobBase
    index: int
    layout: bytes
    piece: Piece
    piece_digest: bytes
    groups: tuple[PackGroupRows, ...]
    commit_by_ms: int


@dataclass(frozen=True)
class PackWanted:
    """Payloads of one record in one pack, by slot."""

    record: RecordId
    base: BlobBase
    slots: tuple[int, ...]


@dataclass(frozen=True)
class PackedRows:
    """The manifest rows of one packed payload; ``wrapped`` empty when it was shredded.

    ``proof`` is empty where the part that it came in has the whole opening.
    """

    slot: int
    core: bytes
    wrapped: bytes
    proof: bytes


@dataclass(frozen=True)
class PackPart:
    """Rows of payloads of one record in one pack; ``failures`` say why some are missing.

    ``opening`` is empty unless much of it was asked for by a right on the whole record.
    """

    record: RecordId
    base: BlobBase
    layout: bytes
    envelope: bytes
    opening: bytes
    payloads: tuple[PackedRows, ...]
    failures: tuple[tuple[int, HcefsError], ...] = ()


@dataclass(frozen=True)
class ColumnsWanted:
    """What shard ``index`` holds in the columns that payloads take up in a data piece.

    ``column_of`` is the index of that data piece: ``index`` itself, or the index of a
    lost shard that is to be rebuilt.  ``profile`` is that of the layout by which it is
    asked for; empty: of the one in force.
    """

    payloads: PackWanted
    index: int
    column_of: int
    profile: str = ""


class PackPeer(Protocol):
    """One holder of packs."""

    async def store_pack(self, call: BatchCall, shard: PackShard) -> None:
        """Keep a pack's shard and all its rows; durable on return.

        Raises:
            Conflict: the holder has other bytes under that (base, index).
        """

    async def store_openings(
        self, call: BatchCall, openings: Sequence[bytes], commit_by_ms: int
    ) -> None:
        """Keep a pack's pending openings for the listings of their records; durable on return."""

    async def load_packed(
        self, call: Call | BatchCall, wanted: Sequence[PackWanted]
    ) -> list[PackPart | HcefsError]:
        """The manifest rows of committed packed payloads, for each that is wanted."""

    async def load_columns(
        self, call: Call | BatchCall, wanted: Sequence[ColumnsWanted]
    ) -> list[Piece | HcefsError]:
        """What this holder's shards have in those columns, payload after payload.

        Only of committed payloads that ``call`` may read.  The caller compares what it
        puts together with the digest in each payload's core.
        """


class PackPeers(Protocol):
    """Finds the pack peer for a node of the map: the local holder for this node itself."""

    def pack_peer(self, node: Node) -> PackPeer:
        """The peer of that node; connecting happens with the first call."""
