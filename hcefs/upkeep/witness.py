"""An old data shard as a witness of the new ones, before it is deleted.

Whoever moved a base to another profile had its word taken: the holders of the new shards
compared them with digests that the mover had signed.  Each old data shard knows a part of
every sealed segment for itself, and that part lies in few of the new data shards: so its
holder asks for those and compares.  While one of them differs, it stays; and as each data
shard has its own witness, a mover that lied leaves k shards of the truth behind.

Not guaranteed: old parity, which can tell nothing by itself, and copies but the first one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

from hcefs.erasure.scheme import Geometry, profile_named
from hcefs.errors import Corrupt, NotFound
from hcefs.formats.shard import HEADER_SIZE, ShardFooter, ShardHeader
from hcefs.ids import AccountId, BlobBase
from hcefs.integrity import blake3_digest, split_digests
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime
from hcefs.store.interface import ShardReader, Stores
from hcefs.stripes.exports import Exporter
from hcefs.stripes.placed import PlacedShard
from hcefs.stripes.relayout import cut
from hcefs.stripes.shard_index import read_footer
from hcefs.transport.peers import LoadHeader, Piece, ShardDownload
from hcefs.transport.upkeep import Place, ShardName, UpkeepPeers
from hcefs.upkeep.throttle import Throttle

DISPUTED_SECONDS = 600.0
"""Before shards are compared again that differed."""

log = logging.getLogger(__name__)


class Witness:
    """Compares old shards, of this node or of one that gives its own, with the new ones."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        exporter: Exporter,
        peers: UpkeepPeers,
        throttle: Throttle,
        me: AccountId,
    ) -> None:
        self._runtime = runtime
        self._stores = stores
        self._exporter = exporter
        self._peers = peers
        self._throttle = throttle
        self._me = me

    async def agrees(
        self, shard: PlacedShard, place: Place, holders: Sequence[tuple[Node, int]]
    ) -> bool:
        """Whether the data shards under another profile have the bytes of an old one.

        True, too, where it can tell nothing: parity, or damaged.

        Raises:
            HcefsError: they cannot be read now.
        """
        if shard.index >= profile_named(shard.profile).k:
            return True
        try:
            header, footer, reader = await self._runtime.disk(self._open, shard)
        except (Corrupt, NotFound) as error:
            log.warning("old shard %s is no witness: %s", shard, error.reason)
            return True
        try:
            old = header.geometry(footer.plaintext_length)
            own = self._pieces_here(old, footer, reader)
            return await self._compared(shard.base, shard.index, old, own, place, holders)
        finally:
            await self._runtime.disk(reader.close)

    async def agrees_there(
        self,
        giver: Node,
        kept: Place,
        shard: ShardName,
        old: Geometry,
        place: Place,
        holders: Sequence[tuple[Node, int]],
    ) -> bool:
        """The same of a shard that another node keeps, which may load nothing to compare it.

        ``kept`` is its place under the old profile, ``old`` where its pieces lie.

        Raises:
            HcefsError: it, or those under the other profile, cannot be read now.
        """
        if shard.index >= old.profile.k:
            return True
        own = self._pieces_there(old, await self._load(giver, kept, shard.base, shard.index))
        return await self._compared(shard.base, shard.index, old, own, place, holders)

    async def _compared(
        self,
        base: BlobBase,
        index: int,
        old: Geometry,
        pieces: AsyncGenerator[Piece, None],
        place: Place,
        holders: Sequence[tuple[Node, int]],
    ) -> bool:
        new = Geometry(old.plaintext_length, profile_named(place.profile), old.segment_size)
        nodes = {index: node for node, index in holders}
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(aclosing(pieces))
            columns: dict[int, _Column] = {}
            for number in sorted(_columns(old, new, index)):
                download = await self._load(nodes[number], place, base, number)
                column = await stack.enter_async_context(aclosing(cut(download, new)))
                columns[number] = _Column(column)
            for segment in range(old.segments):
                try:
                    own = await anext(pieces)
                except _Damaged:
                    log.warning("old shard %s index %d is no witness: it is damaged", base, index)
                    return True
                theirs = {number: await each.next() for number, each in columns.items()}
                await self._throttle.spend(len(own) + sum(map(len, theirs.values())))
                if not _same(old, new, index, segment, own, theirs):
                    return False
        return True

    async def _pieces_here(
        self, old: Geometry, footer: ShardFooter, reader: ShardReader
    ) -> AsyncGenerator[Piece, None]:
        """The pieces of a shard on this node's disk.

        Raises:
            _Damaged: one is not as the footer says.
        """
        for segment in range(old.segments):
            offset = HEADER_SIZE + old.offset_of(segment)
            piece = await self._runtime.disk(reader.read_at, offset, old.piece_of(segment))
            yield _intact(piece, footer.digest_of(segment))

    async def _pieces_there(
        self, old: Geometry, download: ShardDownload
    ) -> AsyncGenerator[Piece, None]:
        """The pieces of a shard on another node's disk.

        Raises:
            _Damaged: one is not as the footer there says.
        """
        digests: list[bytes] = []

        def begins(header: LoadHeader) -> None:
            digests.extend(split_digests(header.piece_digests))

        segment = 0
        async with aclosing(cut(download, old, begins)) as messages:
            async for pieces in messages:
                for piece in pieces:
                    if segment >= len(digests):
                        raise _Damaged
                    yield _intact(piece, digests[segment])
                    segment += 1

    def _open(self, shard: PlacedShard) -> tuple[ShardHeader, ShardFooter, ShardReader]:
        footer = read_footer(self._stores.shards, shard.base, shard.index, shard.form)
        reader = self._stores.shards.open(shard.base, shard.index, shard.form)
        return ShardHeader.decode(reader.read_at(0, HEADER_SIZE)), footer, reader

    async def _load(self, node: Node, place: Place, base: BlobBase, index: int) -> ShardDownload:
        if node.account == self._me:
            return await self._exporter.load_shard(base, index, 0, place.profile)
        return await self._peers.upkeep_peer(node).load_shard(place, base, index, 0)


class _Damaged(Exception):
    """An old shard is damaged: it tells nothing."""


def _intact(piece: Piece, digest: bytes) -> Piece:
    """A piece that is as its shard's footer says.

    Raises:
        _Damaged: it is not.
    """
    if blake3_digest(piece) != digest:
        raise _Damaged
    return piece


class _Column:
    """The pieces of one new shard, one at a time."""

    def __init__(self, messages: AsyncGenerator[list[Piece], None]) -> None:
        self._messages = messages
        self._ready: deque[Piece] = deque()

    async def next(self) -> Piece:
        while not self._ready:
            try:
                self._ready.extend(await anext(self._messages))
            except StopAsyncIteration:
                raise Corrupt("a shard came with too few pieces", reason="truncated") from None
        return self._ready.popleft()


def _span(old: Geometry, index: int, segment: int) -> tuple[int, int]:
    """Which bytes of a sealed segment a data shard holds; none where all is padding."""
    size, sealed = old.piece_of(segment), old.sealed_of(segment)
    return min(index * size, sealed), min((index + 1) * size, sealed)


def _columns(old: Geometry, new: Geometry, index: int) -> set[int]:
    """The new data shards that hold bytes of an old one."""
    found: set[int] = set()
    # All segments but the last one are cut alike.
    for segment in {0, old.segments - 1}:
        start, end = _span(old, index, segment)
        size = new.piece_of(segment)
        if start < end:
            found.update(range(start // size, (end - 1) // size + 1))
    return found


def _same(
    old: Geometry,
    new: Geometry,
    index: int,
    segment: int,
    own: Piece,
    theirs: dict[int, Piece],
) -> bool:
    """Whether new pieces have the bytes of an old one."""
    start, end = _span(old, index, segment)
    size = new.piece_of(segment)
    for number, piece in theirs.items():
        low, high = max(start, number * size), min(end, (number + 1) * size)
        if low < high:
            part = piece[low - number * size : high - number * size]
            if part != own[low - start : high - start]:
                return False
    return True
