"""What a node may ask of a shard holder, itself or another: the Peer protocol.

A holder checks the presenter's authorization again, so every call carries it
unchanged.  The local holder (:mod:`hcefs.stripes.holder`) and the remote one
(:mod:`hcefs.transport.grpc_peers`) implement the same protocol; the data path
does not know which it talks to.

All methods raise :class:`hcefs.errors.HcefsError`; ``Unavailable`` means that
the holder did not answer or may not answer now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hcefs.ids import AccountId, BlobId, GrantId, RecordId, RequestId
from hcefs.placement.cluster_map import Node
from hcefs.transport.framing import Frame

Piece = bytes | memoryview
"""One piece, or a view of one in a buffer that stays unchanged while it is sent."""

LOAD_MESSAGE_BYTES = 1 << 20
"""Pieces are joined until a message has this size (docs/decisions/0011)."""


@dataclass(frozen=True)
class Call:
    """Who asks, by what right, for what: the same for every holder of one request.

    ``presenter`` and ``grant`` are what the verified proof and token say; each
    node takes them from its own verification, so they do not travel.
    """

    token: bytes
    proof: bytes
    method: str
    record: RecordId
    blob: BlobId | None
    range_start: int
    range_length: int
    min_height: int
    epoch: int
    request: RequestId
    presenter: AccountId
    grant: GrantId
    profile: str = ""
    """Of a load: under which profile the shard is asked for; empty: the layout in force."""

    stand_in: bool = False
    """Of a store: the holder is to keep it in the place of a seat that is away."""


@dataclass(frozen=True)
class ShardStart:
    """The first message of a shard being stored.

    ``expected_length`` is the blob's plaintext length when it is known, else 0.
    """

    call: Call
    index: int
    profile: str
    segment_size: int
    expected_length: int = 0


@dataclass(frozen=True)
class ShardRows:
    """The last message: canonical bytes of the manifest rows, and the piece digests joined."""

    core: bytes
    layout: bytes
    key_row: bytes
    opening: bytes
    piece_digests: bytes


@dataclass(frozen=True)
class ManifestRows:
    """Canonical bytes of a blob's manifest; ``key_row`` empty when shredded."""

    core: bytes
    layout: bytes
    key_row: bytes
    opening: bytes


@dataclass(frozen=True)
class LoadHeader:
    """What precedes the pieces: their digests and the path to the shard's digest."""

    pieces: int
    piece_digests: bytes
    audit_path: tuple[bytes, ...]


@dataclass(frozen=True)
class Entry:
    """One committed entry of a record: its opening's canonical bytes and its leaf index."""

    opening: bytes
    leaf_index: int


class ShardUpload(Protocol):
    """A shard on its way to a holder.  Nothing is visible before ``finish`` returns."""

    async def send(self, pieces: Sequence[Piece]) -> None:
        """Send whole pieces, in order; waits while the holder is behind."""

    async def send_frame(self, frame: Frame) -> None:
        """The same with the pieces in a finished message."""

    async def finish(self, rows: ShardRows) -> bool:
        """Return when file, folder and rows are durable.

        True: the holder is a seat of the record, too, and keeps the opening for its
        listing, as after ``store_opening``.
        """

    async def cancel(self) -> None:
        """Give up; the holder forgets what it got.  Idempotent."""


class ShardDownload(Protocol):
    """Consecutive pieces of one shard on their way from a holder."""

    async def header(self) -> LoadHeader:
        """The first message."""

    def messages(self) -> AsyncIterator[Piece]:
        """Whole pieces, in order, several joined in one message."""

    def frames(self) -> AsyncIterator[bytes]:
        """The same as data messages that can be sent on."""

    async def cancel(self) -> None:
        """Stop; frees the holder's stream.  Idempotent."""


class Loader(Protocol):
    """What gives the pieces of shards."""

    async def load(self, call: Call, index: int, first: int, count: int) -> ShardDownload:
        """Begin to load pieces ``first`` to ``first + count - 1`` of a committed shard."""

    async def load_pieces(
        self, call: Call, index: int, first: int, count: int
    ) -> tuple[LoadHeader, Piece]:
        """The same for few pieces, in one call: what precedes them, and all of them joined."""


class Peer(Loader, Protocol):
    """One shard holder."""

    async def store(self, start: ShardStart) -> ShardUpload:
        """Begin to store a shard; returns when the holder has begun.

        Raises:
            Conflict: the holder has other bytes under that (base, index).
        """

    async def store_whole(
        self, start: ShardStart, pieces: Sequence[Piece], rows: ShardRows
    ) -> bool:
        """Store a short shard at once: ``store``, ``send`` and ``finish`` in one call.

        Raises:
            Conflict: the holder has other bytes under that (base, index).
        """

    async def store_opening(self, call: Call, opening: bytes, commit_by_ms: int) -> None:
        """Keep a pending opening for the record's listing; durable on return."""

    async def store_box(self, call: Call, box: bytes, link: bytes) -> None:
        """Keep a key box or a key link (the other one empty); durable on return."""

    async def load_manifest(self, call: Call) -> ManifestRows:
        """The manifest rows of a committed blob."""

    async def load_listing(self, call: Call) -> list[Entry]:
        """The committed entries of a record that this holder has openings of."""

    async def load_boxes(self, call: Call) -> tuple[list[bytes], list[bytes]]:
        """The boxes of the token's grant and the links of the record."""


class Peers(Protocol):
    """Finds the peer for a node of the map: the local holder for this node itself."""

    def peer(self, node: Node) -> Peer:
        """The peer of that node; connecting happens with the first call."""


class Loaders(Protocol):
    """As :class:`Peers`, for who only loads."""

    def peer(self, node: Node) -> Loader:
        """The loader of that node."""


class Heads(Protocol):
    """Signed ledger heads, exchanged in every call so that forks and lags are seen early."""

    def current(self) -> bytes:
        """The newest signed head known here, or empty."""

    def observe(self, head: bytes) -> None:
        """Take note of another node's head; bad bytes are ignored."""
