"""Take part in the re-profiling of one base: stage a shard, place it, let its layout enter.

Whoever drives it (:mod:`hcefs.upkeep.reprofile`) is another node and not trusted.  A new
layout is taken only under the operators' policy, for a base that the ledger knows, with
rows that prove themselves.  The steps, each durable and repeatable:

* *stage*: this node's shard of the new layout is loaded from the caller and compared with
  the layout's digest.  Nobody sees it.
* *place*: rows and name of the shard are written, so that it is loaded by whoever asks for
  it under that profile.  The layout before stays in force.
* *enter*: the new layout takes the place of the one before, in one write with a mark, by
  which :mod:`hcefs.upkeep.replaced` finds the shards that are not needed any more.

Invariants: no layout enters at a seat without its shard; a layout never gives way to one
of the same or a lower version; what is staged is no part of any layout in force, so it may
be dropped at any time.

Not guaranteed: that the new shards hold the same data.  That is the caller's to prove
before the first *place*, and the old shards stay until all new ones are there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.erasure.scheme import Geometry, profile_named
from hcefs.errors import Conflict, Corrupt, Denied, Invalid, NotFound, Unavailable
from hcefs.ids import AccountId, BlobBase
from hcefs.ledger.cluster_facts import UpkeepPolicy
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import Seat, partition_of, seats
from hcefs.runtime import Runtime
from hcefs.store.interface import FORM_FIRST, Stores, Table
from hcefs.stripes.adopt import Adoptable, Adopter
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import (
    REPLACED,
    decoded_layout,
    same_shards,
    shard_key,
    shard_row,
    shards_of,
    staged_key,
)
from hcefs.stripes.shard_index import read_footer
from hcefs.stripes.transfers import whole
from hcefs.stripes.uploads import Uploads
from hcefs.transport.peers import LoadHeader, Piece, ShardDownload
from hcefs.transport.upkeep import BlobRows, LayoutStep, PackRows, Place, UpkeepPeers


def targets(policy: UpkeepPolicy) -> dict[str, str]:
    """The profiles that are to be left, each with the one that takes its blobs."""
    return {pair.from_profile: pair.to_profile for pair in policy.reprofile}


async def cut(
    download: ShardDownload,
    geometry: Geometry,
    begins: Callable[[LoadHeader], None] = lambda _: None,
) -> AsyncGenerator[list[Piece], None]:
    """The pieces of a whole shard, as they come; ``begins`` is told what comes before them.

    Raises:
        Corrupt: ``wrong-length``, ``truncated``.
    """
    segment = 0
    try:
        begins(await download.header())
        async for message in download.messages():
            view = memoryview(message)
            pieces: list[Piece] = []
            while view.nbytes and segment < geometry.segments:
                size = geometry.piece_of(segment)
                if view.nbytes < size:
                    break
                pieces.append(view[:size])
                view, segment = view[size:], segment + 1
            if view.nbytes:
                raise Corrupt("a shard came with other pieces", reason="wrong-length")
            yield pieces
        if segment != geometry.segments:
            raise Corrupt("a shard came with too few pieces", reason="truncated")
    finally:
        await download.cancel()


class LayoutTaker:
    """This node's part."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        adopter: Adopter,
        pending: PendingNames,
        uploads: Uploads,
        peers: UpkeepPeers,
        me: AccountId,
        policy: Callable[[], UpkeepPolicy],
        cluster_map: Callable[[], ClusterMap | None],
        now_ms: Callable[[], int],
        spend: Callable[[int], Awaitable[None]],
        changed: Callable[[BlobBase], None],
    ) -> None:
        """``now_ms`` is the ledger's time; ``spend`` waits for the budget of some bytes;
        ``changed`` is told of a base whose layout was replaced."""
        self._runtime = runtime
        self._stores = stores
        self._adopter = adopter
        self._pending = pending
        self._uploads = uploads
        self._peers = peers
        self._me = me
        self._policy = policy
        self._map = cluster_map
        self._now_ms = now_ms
        self._spend = spend
        self._changed = changed

    async def take(
        self,
        place: Place,
        base: BlobBase,
        step: LayoutStep,
        rows: BlobRows | PackRows,
        giver: Node,
    ) -> None:
        """One step, on the word of another node, which has the staged shards.

        Raises:
            Denied: ``not-reprofiled``: the policy does not name that change; ``not-a-seat``.
            NotFound: the ledger does not know the base; or the step before is missing.
            Conflict: ``superseded``: another layout is in force, or others are in the way.
            Corrupt, Invalid, Unauthenticated: rows or shard do not prove themselves.
            Unavailable: a seat is in flight, or the giver does not answer.
        """
        current = self._map()
        if current is None or current.epoch != place.epoch:
            raise Unavailable("this node has another map", reason="other-epoch")
        wanted = await self._runtime.compute(self._adopter.check, base, rows)
        if not wanted.committed or wanted.commit_by_ms > self._now_ms():
            raise Unavailable("an append of this base may still come", reason="still-pending")
        if wanted.profile != place.profile or wanted.form == FORM_FIRST:
            raise Invalid("this is no layout of that profile", reason="rows-disagree")
        await self._runtime.disk(self._require_policy, wanted)
        index = self._seat(current, wanted)
        if index is None and step is not LayoutStep.ENTER:
            raise Denied("this node has no seat for that shard", reason="not-a-seat")
        if step is LayoutStep.STAGE and index is not None:
            if current.node_of_account(wanted.layout.node) is None:
                raise Denied("no node of the map signed that layout", reason="unknown-node")
            await self._stage(place, wanted, index, giver)
            return
        # Whoever lists the partition under a later map must not miss it.
        with self._uploads.begin(place.epoch, [base]):
            if step is LayoutStep.PLACE and index is not None:
                await whole(self._runtime, lambda: self._place(wanted, index))
            else:
                await whole(self._runtime, lambda: self._enter(wanted, index))

    async def enter_missed(self, wanted: Adoptable) -> bool:
        """Put a later layout in force that others of the row have entered without this node.

        ``wanted`` has proved itself.  False when this node must have a shard of it first.

        Raises:
            Denied, Conflict: the operators do not want that change, or not any more.
            Unavailable: a seat of the new row is in flight, or there is no map.
        """
        current = self._map()
        if current is None:
            raise Unavailable("this node has no map", reason="other-epoch")
        index = self._seat(current, wanted)
        await self._runtime.disk(self._require_policy, wanted)
        try:
            with self._uploads.begin(current.epoch, [wanted.base]):
                await whole(self._runtime, lambda: self._enter(wanted, index))
        except NotFound:
            return False
        return True

    # -- checks

    def _require_policy(self, wanted: Adoptable) -> None:
        """Check that the operators want this change, and that it leads forward.

        Raises:
            Denied, Conflict: it does not.
        """
        pairs = targets(self._policy())
        data = self._stores.rows.get(Table.LAYOUTS, bytes(wanted.base))
        known = decoded_layout(data) if data is not None else None
        if known is not None:
            if same_shards(known, wanted.layout):
                return
            if known.version >= wanted.layout.version:
                raise Conflict("a later layout of this base is in force", reason="superseded")
        if wanted.profile not in pairs.values():
            raise _not_reprofiled()
        # Who has missed a layout in between may come from anywhere.
        if known is None or known.version + 1 < wanted.layout.version:
            return
        if pairs.get(known.profile) != wanted.profile:
            raise _not_reprofiled()

    def _seat(self, current: ClusterMap, wanted: Adoptable) -> int | None:
        """The index that this node holds of the new layout.

        Raises:
            Unavailable: the row is in flight.
        """
        for seat in settled_seats(current, wanted.profile, wanted.base):
            if seat.node.account == self._me:
                return seat.index
        return None

    def _has_file(self, wanted: Adoptable, index: int) -> bool:
        """Whether the shard's file is here.

        Raises:
            Corrupt: another one is.
        """
        if not self._stores.shards.has(wanted.base, index, wanted.form):
            return False
        footer = read_footer(self._stores.shards, wanted.base, index, wanted.form)
        if footer.shard_digest != wanted.shard_digests[index]:
            raise Corrupt("a shard file here is of another layout", reason="wrong-digest")
        return True

    # -- the steps

    async def _stage(self, place: Place, wanted: Adoptable, index: int, giver: Node) -> None:
        layout = wanted.layout.encode()

        def begin() -> bool:
            key = staged_key(wanted.base, wanted.profile)
            storing = self._pending.storing.of(self._adopter.tombs, wanted.records)
            with storing, self._pending.locked([bytes(wanted.base)]):
                if self._stores.rows.get(Table.STAGED, key) != layout:
                    self._stores.rows.put([(Table.STAGED, key, layout)])
                try:
                    return self._has_file(wanted, index)
                except Corrupt:
                    placed = shard_key(wanted.base, index, wanted.form)
                    if self._stores.rows.get(Table.PLACED, placed) is not None:
                        raise
                    # Staged for a layout that came to nothing.
                    self._stores.shards.remove(wanted.base, index, wanted.form)
                    return False

        if await whole(self._runtime, begin):
            return
        crash_point(CrashPoint.STAGE_NAMED)
        peer = self._peers.upkeep_peer(giver)
        copy = await self._adopter.begin(wanted, index)
        try:
            download = await peer.load_shard(place, wanted.base, index, 0)
            async with aclosing(cut(download, wanted.geometry)) as messages:
                async for pieces in messages:
                    await self._spend(sum(len(piece) for piece in pieces))
                    await copy.write(pieces)
            await copy.stage()
            crash_point(CrashPoint.STAGE_SHARD)
        finally:
            await copy.abort()

    def _place(self, wanted: Adoptable, index: int) -> None:
        storing = self._pending.storing.of(self._adopter.tombs, wanted.records)
        with storing, self._pending.locked([bytes(wanted.base)]):
            if not self._has_file(wanted, index):
                raise NotFound("that shard was not staged here", reason="not-staged")
            rows = [row for row in wanted.rows if row[0] is not Table.LAYOUTS]
            for table, key, value in rows:
                known = self._stores.rows.get(table, key)
                if known is not None and known != value:
                    raise Conflict("other rows are here under this base", reason="row-exists")
            if wanted.keys:
                self._stores.keys.put_all_new(wanted.keys)
            crash_point(CrashPoint.PLACE_KEYS)
            named = shard_row(wanted.base, index, wanted.profile, wanted.form)
            key = staged_key(wanted.base, wanted.profile)
            self._stores.rows.put([*rows, named, (Table.STAGED, key, wanted.layout.encode())])
            crash_point(CrashPoint.PLACE_ROWS)

    def _enter(self, wanted: Adoptable, index: int | None) -> None:
        rows, base = self._stores.rows, bytes(wanted.base)
        storing = self._pending.storing.of(self._adopter.tombs, wanted.records)
        with storing, self._pending.locked([base]):
            here = shards_of(rows, wanted.base)
            if index is not None and not any(
                (each.index, each.form) == (index, wanted.form) for each in here
            ):
                raise NotFound("that shard was not placed here", reason="not-staged")
            data = rows.get(Table.LAYOUTS, base)
            if here and (data is None or not same_shards(decoded_layout(data), wanted.layout)):
                entered = [(Table.LAYOUTS, base, wanted.layout.encode())]
                if any(each.form != wanted.form for each in here):
                    entered.append((Table.META, REPLACED + base, b""))
                rows.put(entered)
                crash_point(CrashPoint.ENTER_LAYOUT)
                self._changed(wanted.base)
            drop_staged(self._stores, wanted.base, wanted.profile)


def drop_staged(stores: Stores, base: BlobBase, profile: str) -> int:
    """Delete what is staged of a base and not placed; how many shards.  Under the base's lock."""
    key, dropped = staged_key(base, profile), 0
    if stores.rows.get(Table.STAGED, key) is None:
        return 0
    placed = {each.index for each in shards_of(stores.rows, base) if each.form == profile}
    for index in range(profile_named(profile).n):
        if index not in placed:
            dropped += stores.shards.remove(base, index, profile)
    # Last: it leads here again after a stop in between.
    crash_point(CrashPoint.DROP_SHARDS)
    stores.rows.delete([(Table.STAGED, key)])
    crash_point(CrashPoint.DROP_NAMED)
    return dropped


def settled_seats(current: ClusterMap, profile: str, base: BlobBase) -> tuple[Seat, ...]:
    """The seats of a base's row under a profile, none of them in flight.

    Raises:
        Unavailable: ``in-flight``.
        NotFound: the map has no table for the profile.
    """
    table = current.table(profile)
    partition = partition_of(bytes(base), table.bits)
    if any(move.partition == partition for move in table.moving):
        raise Unavailable("a seat of this base is in flight", reason="in-flight")
    return seats(current, profile, bytes(base))


def _not_reprofiled() -> Denied:
    return Denied("the operators' policy does not name this change", reason="not-reprofiled")
