"""Fill one seat: list what its partition holds, copy or rebuild what is missing here.

Everybody who holds the row is asked, because a shard may be missing at the source too:
a put that was acknowledged as degraded is made whole on this occasion.  What the source
has is copied; what it has not, or has damaged, is rebuilt from k others.

Invariants: nothing is believed that the ledger does not bind (:mod:`hcefs.stripes.adopt`);
one bad blob stops no other; the seat counts as filled only when everything that *can* be
had is here.  What is beyond recovery is counted and named, and its last shards stay where
they are, because only what a new holder has is ever deleted elsewhere.

Not guaranteed: that holders which are fenced (silent beyond their lease) had nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any

from hcefs.erasure.scheme import profile_named
from hcefs.errors import Conflict, Corrupt, HcefsError, NotFound, Unavailable
from hcefs.formats.manifest import Layout
from hcefs.formats.pack import PackLayout
from hcefs.ids import AccountId, BlobBase, BlobId, GrantId, RecordId, RequestId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import Seat, rotation_of
from hcefs.placement.waves import REBUILD, SeatName
from hcefs.runtime import Runtime
from hcefs.stripes.adopt import Adoptable, Adopter, Copy, Leaf
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.read import StripeReader
from hcefs.stripes.rebuild import rebuilt_pieces
from hcefs.stripes.relayout import cut
from hcefs.stripes.storing import ERASED
from hcefs.transport.peers import (
    LOAD_MESSAGE_BYTES,
    Call,
    Loader,
    LoadHeader,
    Piece,
    ShardDownload,
)
from hcefs.transport.upkeep import (
    LayoutPeer,
    LayoutPeers,
    Place,
    RecordRows,
    ShardName,
    UpkeepPeer,
    UpkeepPeers,
)
from hcefs.upkeep.survey import PAGES_MAX, Lists, Survey, Surveyor
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.worker import at_once

BLOBS_AT_ONCE = 4
LARGE_BYTES = LOAD_MESSAGE_BYTES
LARGE_AT_ONCE = 4
"""Shards larger than a message that are brought here at one time, over all seats.  Each keeps k
streams with a few messages in memory, and pages that a process never had cost more CPU than
what is done with them; a few are enough to keep the cores busy (docs/decisions/0017)."""

LOOKED_UP_MAX = 1000
"""Shards that are looked for here by one call of the disk."""

log = logging.getLogger(__name__)


class Outcome(enum.Enum):
    """What came of one shard that was missing here."""

    HERE = "here"
    """It was copied or rebuilt, or another job was first."""

    LOST = "lost"
    """Fewer than k intact shards are left."""

    PENDING = "pending"
    """Its append has not come, and nobody has this shard: whole or collected later."""

    GONE = "gone"
    """The ledger knows no such blob, or it lies under another profile by now."""


@dataclass
class Filled:
    """What came of one seat."""

    copied: int = 0
    rebuilt: int = 0
    lost: int = 0
    """Blobs of which fewer than k intact shards are left."""

    bytes: int = 0
    awaits: tuple[Leaf, ...] = ()
    """Of the last one that was pending, the commitments that its append would bring."""


@dataclass(frozen=True)
class Restored:
    """What came of one shard, the bytes that were written, and what it waits for if pending."""

    outcome: Outcome
    bytes: int
    awaits: tuple[Leaf, ...] = ()


class SeatFiller:
    """Fills seats of this node."""

    def __init__(
        self,
        runtime: Runtime,
        peers: UpkeepPeers,
        adopter: Adopter,
        metrics: Metrics,
        throttle: Throttle,
        me: AccountId,
        digest_of: Callable[[RecordId], Awaitable[bytes]],
    ) -> None:
        """``digest_of`` gives the digest over this node's rows of a record."""
        self._runtime = runtime
        self._peers = peers
        self.surveyor = Surveyor(peers, me)
        self._adopter = adopter
        self._metrics = metrics
        self._throttle = throttle
        self._digest_of = digest_of
        self._hedge = HedgeTimer()
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self.bytes = 0
        """Bytes of shards that were brought here so far."""

        # Reads that rebuild are no clients' reads: their faults are not counted as such.
        self._quiet = Metrics()

    async def fill(
        self,
        current: ClusterMap,
        name: SeatName,
        source: int,
        fenced: Callable[[Node], bool],
        survey: Survey | None = None,
    ) -> Filled:
        """Fill one seat by a map; ``source`` is who held it, ``REBUILD`` for nobody.

        ``survey`` is what others have by that map, if it is known; else they are asked.

        ``fenced`` says of a node that does not answer whether it can still take puts
        under an older map.

        Raises:
            Unavailable: not now: a holder is away and not fenced, a put of an older epoch is
                under way, or the map has changed.
            Exhausted: this node's disk is full.
        """
        table = current.table(name.profile)
        place = Place(current.epoch, name.profile, name.partition)
        if survey is None:
            lists = await self.surveyor.row(current, name, (source,), fenced)
        else:
            lists = survey.lists
        if source not in lists.nodes and len(lists.nodes) < table.k:
            raise Unavailable(
                f"{len(lists.nodes)} holders of partition {name.partition} answer, {table.k} are "
                "needed to rebuild it",
                reason="too-few-holders",
            )
        filled = Filled()
        await self._shards(place, name, source, lists, filled)
        await self.records(current, name, lists, fenced, survey)
        return filled

    # -- shards

    async def _shards(
        self, place: Place, name: SeatName, source: int, lists: Lists, filled: Filled
    ) -> None:
        waiting = iter(await self.lacking(name, lists))

        async def some() -> None:
            for shard in waiting:
                await self._one(place, shard.base, shard.index, source, lists, filled)

        await at_once(self._runtime, BLOBS_AT_ONCE, some, "fill")

    async def lacking(self, name: SeatName, lists: Lists) -> list[ShardName]:
        """The shards of a listing that a seat of this node lacks, the most endangered first."""
        n = profile_named(name.profile).n
        ordered = sorted(lists.held, key=lambda base: (len(lists.live(base)), base))
        wanted = [ShardName(base, (name.seat + rotation_of(base, n)) % n) for base in ordered]
        found: list[ShardName] = []
        for first in range(0, len(wanted), LOOKED_UP_MAX):
            asked = wanted[first : first + LOOKED_UP_MAX]
            here = await self._adopter.has_all(asked, name.profile)
            found += [shard for shard, held in zip(asked, here, strict=True) if not held]
        return found

    async def bring(self, place: Place, base: BlobBase, index: int, giver: Node) -> Filled | None:
        """Copy one shard that another node offers; None when its rows are of another profile.

        Raises:
            HcefsError: not now, or what it offers proves nothing.
        """
        filled = Filled()
        if await self._adopter.has(base, index, place.profile):
            return filled
        wanted = await self._rows(place, base, {index: {giver.node_id}}, {giver.node_id: giver})
        if wanted.profile != place.profile:
            return None
        await self._copy(place, wanted, index, giver, filled)
        return filled

    async def bring_record(self, place: Place, record: RecordId, giver: Node) -> None:
        """Fetch the rows of a record that another node offers.

        Raises:
            HcefsError: not now.
        """
        await self._record(place, record, giver)

    async def has(self, shard: ShardName, profile: str) -> bool:
        """Whether a shard of a profile is here with its rows."""
        return await self._adopter.has(shard.base, shard.index, profile)

    async def restore(self, place: Place, shard: ShardName, lists: Lists) -> Restored:
        """Bring one shard here from whoever has it, or rebuild it.

        Raises:
            HcefsError: not now, and why.
        """
        filled = Filled()
        outcome = await self._one(place, shard.base, shard.index, REBUILD, lists, filled)
        return Restored(outcome, filled.bytes, filled.awaits)

    async def records(
        self,
        current: ClusterMap,
        name: SeatName,
        lists: Lists,
        fenced: Callable[[Node], bool],
        survey: Survey | None = None,
    ) -> None:
        """Bring the rows of a partition's records here, where its profile has them.

        ``fenced`` and ``survey`` as in :meth:`fill`.

        Raises:
            Unavailable: not now.
        """
        if name.profile == current.default_profile:
            place = Place(current.epoch, name.profile, name.partition)
            bits = current.table(name.profile).bits
            if survey is None:
                await self._records(place, bits, lists, fenced)
            else:
                await self._records_of(place, lists, survey.records)

    async def _one(
        self, place: Place, base: BlobBase, index: int, source: int, lists: Lists, filled: Filled
    ) -> Outcome:
        """Bring one shard here, or find that it is not to be had."""
        held = lists.held.get(base, {})
        if not held and not lists.complete:
            raise Unavailable(
                "nobody who was heard has a shard of it, and not everybody was: later",
                reason="holders-away",
            )
        try:
            wanted = await self._rows(place, base, held, lists.nodes)
        except NotFound:
            return Outcome.GONE  # nobody has it any more: never committed, or deleted meanwhile
        except HcefsError as error:
            return self._give_up(base, index, error, filled)
        if wanted.profile != place.profile:
            return Outcome.GONE  # it has been re-profiled: this seat is to have nothing of it
        async with self._room(wanted):
            return await self._obtained(place, wanted, index, source, lists, filled)

    def _room(self, wanted: Adoptable) -> AbstractAsyncContextManager[Any]:
        """What a shard waits for before it takes memory."""
        large = wanted.geometry.pieces_length > LARGE_BYTES
        return self._large if large else contextlib.nullcontext()

    async def _obtained(
        self,
        place: Place,
        wanted: Adoptable,
        index: int,
        source: int,
        lists: Lists,
        filled: Filled,
    ) -> Outcome:
        """Copy one shard from who has it, or rebuild it."""
        base = wanted.base
        givers = sorted(
            lists.held.get(base, {}).get(index, ()), key=lambda node_id: node_id != source
        )
        try:
            for node_id in givers:
                if await self._copy(place, wanted, index, lists.nodes[node_id], filled):
                    return Outcome.HERE
            if not wanted.committed:
                filled.awaits = wanted.leaves()
                return Outcome.PENDING  # its put failed at this seat
            await self._rebuild(place, wanted, index, lists, filled)
        except HcefsError as error:
            if isinstance(error, Conflict) and await self._adopter.has(base, index, place.profile):
                return Outcome.HERE  # somebody else brought it at the same moment
            return self._give_up(base, index, error, filled)
        return Outcome.HERE

    def _give_up(self, base: BlobBase, index: int, error: HcefsError, filled: Filled) -> Outcome:
        """Note a shard that cannot be had.

        Raises:
            HcefsError: it may be had later.
        """
        if error.retryable:
            raise error
        if error.reason in ("superseded", ERASED):
            return Outcome.GONE  # it was re-profiled, or erased, meanwhile
        filled.lost += 1
        self._metrics.count("unrecovered_shards_total")
        log.error("shard %s index %d cannot be had: %s (%s)", base, index, error.kind, error.reason)
        return Outcome.LOST

    async def _rows(
        self,
        place: Place,
        base: BlobBase,
        held: Mapping[int, Collection[int]],
        nodes: Mapping[int, Node],
    ) -> Adoptable:
        """The rows of a base, from the first node whose rows prove themselves.

        Those of another profile only where nobody has any of this one: it was re-profiled.

        Raises:
            NotFound: the ledger does not know it, or nobody has it any more.
            HcefsError: why nobody's rows do.
        """
        failures: list[HcefsError] = []
        partial: Adoptable | None = None
        other: Adoptable | None = None
        for node_id in sorted({node_id for ids in held.values() for node_id in ids}):
            peer = self._peers.upkeep_peer(nodes[node_id])
            try:
                rows = await peer.load_rows(place, base)
                wanted = await self._runtime.compute(self._adopter.check, base, rows)
                if wanted.profile != place.profile:
                    other = wanted
                    continue
                # Rows that one lacks because a record was erased, the others lack too; what only
                # one says to be erased is not.
                if not wanted.uncovered:
                    return wanted
                if partial is None or wanted.uncovered < partial.uncovered:
                    partial = wanted
            except HcefsError as error:
                failures.append(error)
                if error.kind not in ("not-found", "unavailable"):
                    log.error(
                        "node %d gave bad rows of %s: %s (%s)",
                        node_id, base, error.kind, error.reason,
                    )  # fmt: skip
        if partial is not None:
            return partial
        if other is not None and not any(failure.retryable for failure in failures):
            return other
        for failure in failures:
            if failure.retryable:
                raise failure
        for failure in failures:
            if not isinstance(failure, NotFound):
                raise failure
        raise failures[0] if failures else NotFound("nobody has it", reason="unknown-blob")

    async def _begin(self, wanted: Adoptable, index: int) -> Copy | None:
        """A copy to write to; None when the shard is here by now."""
        try:
            return await self._adopter.begin(wanted, index)
        except Conflict:
            # The file is here: without its rows after a stop in between, or when they were lost.
            if await self._adopter.publish_again(wanted, index):
                return None
            return await self._adopter.begin(wanted, index)

    async def _copy(
        self, place: Place, wanted: Adoptable, index: int, node: Node, filled: Filled
    ) -> bool:
        """Copy one shard from a node that lists it; False when its shard is no good.

        Raises:
            Unavailable, Exhausted: not now.
        """
        peer = self._peers.upkeep_peer(node)
        copy = await self._begin(wanted, index)
        if copy is None:
            return True
        try:
            taken = await self._take(copy, wanted, self._pieces(peer, place, wanted, index))
            await copy.finish()
        except (Corrupt, NotFound, Unavailable) as error:
            # A sector that cannot be read is no better tomorrow: others have what it held.
            if _may_pass(error):
                raise
            log.warning(
                "node %d's shard %s index %d is no good: %s",
                node.node_id, wanted.base, index, error.reason,
            )  # fmt: skip
            return False
        finally:
            await copy.abort()
        filled.copied += 1
        self._brought(taken, filled)
        self._metrics.count("rebalanced_shards_total", how="copied")
        self._metrics.count("rebalanced_bytes_total", taken)
        return True

    async def _pieces(
        self, peer: UpkeepPeer, place: Place, wanted: Adoptable, index: int
    ) -> AsyncIterator[list[Piece]]:
        """The pieces of a whole shard, as they come, cut apart."""
        download = await peer.load_shard(place, wanted.base, index, 0)
        async with aclosing(cut(download, wanted.geometry)) as messages:
            async for pieces in messages:
                yield pieces

    async def _take(self, copy: Copy, wanted: Adoptable, source: AsyncIterator[list[Piece]]) -> int:
        """Write all pieces at the pace that the budget allows; their bytes.

        Paid before they are asked for, a message ahead: what has come is in memory, and has
        cost its holder, whether it is written now or later.
        """
        whole = wanted.geometry.pieces_length
        taken, paid = 0, min(whole, LOAD_MESSAGE_BYTES)
        await self._throttle.spend(paid)
        async with aclosing(source) as messages:  # type: ignore[type-var]
            async for pieces in messages:
                await copy.write(pieces)
                taken += sum(memoryview(piece).nbytes for piece in pieces)
                ahead = min(whole, taken + LOAD_MESSAGE_BYTES)
                if ahead > paid:
                    await self._throttle.spend(ahead - paid)
                    paid = ahead
        return taken

    async def _rebuild(
        self, place: Place, wanted: Adoptable, index: int, lists: Lists, filled: Filled
    ) -> None:
        """Recreate one shard from k others.

        Raises:
            Unavailable: not now.
            Corrupt, NotFound: fewer than k intact shards are left.
        """
        profile = profile_named(wanted.profile)
        held = lists.held[wanted.base]
        seats = [
            Seat(number, number, lists.nodes[next(iter(sorted(ids)))])
            for number, ids in sorted(held.items())
            if number != index and ids and number < profile.n
        ]
        if len(seats) < profile.k:
            if not lists.complete:
                raise Unavailable("the holders of the missing shards are away", reason="no-seat")
            raise NotFound(
                f"only {len(seats)} of the {profile.k} shards that are needed are left",
                reason="too-few-shards",
            )
        try:
            taken = await self._rebuilt(place, wanted, index, lists, seats, checked=False)
        except Corrupt as error:
            if error.reason != "wrong-digest":
                raise
            # Something that came was damaged: this time it is found, and read around.
            taken = await self._rebuilt(place, wanted, index, lists, seats, checked=True)
        if taken is None:
            return
        filled.rebuilt += 1
        self._brought(taken, filled)
        self._metrics.count("rebalanced_shards_total", how="rebuilt")
        self._metrics.count("rebalanced_bytes_total", taken)

    async def _rebuilt(
        self,
        place: Place,
        wanted: Adoptable,
        index: int,
        lists: Lists,
        seats: Sequence[Seat],
        *,
        checked: bool,
    ) -> int | None:
        """Bytes of a shard that was recreated; None when it is here already.

        Raises:
            Corrupt: ``wrong-digest``: what came out is another shard; only when not
                ``checked`` a damaged piece can be why.
            HcefsError: as :meth:`_rebuild`.
        """
        request = RequestId(self._runtime.random(RequestId.SIZE))
        reader = StripeReader(
            self._runtime, Loaders(self._peers, place), seats,
            rebuild_call(place, wanted.base, request), self._layout_of(wanted), wanted.geometry,
            self._quiet, self._hedge,
        )  # fmt: skip
        copy = await self._begin(wanted, index)
        if copy is None:
            return None
        segments = range(wanted.geometry.segments)
        try:
            pieces = rebuilt_pieces(self._runtime, reader, index, segments, checked=checked)
            taken = await self._take(copy, wanted, pieces)
            await copy.finish()
        except HcefsError as error:
            if error.reason != "too-few-shards":
                raise
            # Readers say whether asking again is worth while by one damaged shard; here, one
            # holder that is away makes it so, and shards that are nowhere do not.
            if not lists.complete or any(map(_may_pass, reader.errors)):
                raise Unavailable(error.message, reason=error.reason) from None
            raise NotFound(error.message, reason=error.reason) from None
        finally:
            await copy.abort()
        return taken

    def _brought(self, taken: int, filled: Filled) -> None:
        self.bytes += taken
        filled.bytes += taken

    @staticmethod
    def _layout_of(wanted: Adoptable) -> Layout | PackLayout:
        data = next(value for table, _, value in wanted.rows if table.name == "LAYOUTS")
        return PackLayout.decode(data) if wanted.packed else Layout.decode(data)

    # -- records

    async def _records(
        self, place: Place, bits: int, lists: Lists, fenced: Callable[[Node], bool]
    ) -> None:
        """Bring the rows of the partition's records here: the union of what all have."""
        nodes = list(lists.nodes.values())
        digests = await self.surveyor.records(place, bits, nodes, fenced)
        await self._records_of(place, lists, digests)

    async def _records_of(
        self, place: Place, lists: Lists, digests: Mapping[int, Mapping[RecordId, bytes]]
    ) -> None:
        """Bring rows of records here of which a node's digest is another than this one's."""
        holders: dict[RecordId, list[tuple[Node, bytes]]] = {}
        for node_id, listed in digests.items():
            for record, digest in listed.items():
                holders.setdefault(record, []).append((lists.nodes[node_id], digest))
        for record in sorted(holders):
            for node, digest in holders[record]:
                # What the first ones gave is often all that the others have.
                if await self._digest_of(record) != digest:
                    await self._record(place, record, node)

    async def _record(self, place: Place, record: RecordId, node: Node) -> None:
        peer = self._peers.upkeep_peer(node)
        after = b""
        for _ in range(PAGES_MAX):
            rows, following = await peer.load_record(place, record, after)
            await self._throttle.spend(_size(rows))
            await self._adopter.keep_record(record, rows)
            if not following:
                return
            if following == after:
                break
            after = following
        raise Corrupt("the rows of a record do not go on, or do not end", reason="bad-page")


def _may_pass(error: HcefsError) -> bool:
    """Whether a node that failed so may give tomorrow what it does not give today."""
    return error.retryable and error.reason != "disk-error"


def _size(rows: RecordRows) -> int:
    return sum(len(each) for each, _ in rows.openings) + sum(map(len, (*rows.boxes, *rows.links)))


def rebuild_call(place: Place, base: BlobBase, request: RequestId) -> Call:
    """What names a rebuild in logs: no right stands behind it, and none is asked for."""
    return Call(
        b"", b"", "rebuild", RecordId.zero(), BlobId.of(base), 0, 0, 0, place.epoch, request,
        AccountId.zero(), GrantId.zero(),
    )  # fmt: skip


class Loaders:
    """Other nodes' shards as a stripe reader asks for them."""

    def __init__(self, peers: LayoutPeers, place: Place) -> None:
        self._peers = peers
        self._place = place

    def peer(self, node: Node) -> Loader:
        return _Loader(self._peers.upkeep_peer(node), self._place)


class _Loader:
    def __init__(self, peer: LayoutPeer, place: Place) -> None:
        self._peer = peer
        self._place = place

    async def load(self, call: Call, index: int, first: int, count: int) -> ShardDownload:
        if call.blob is None:
            raise NotFound("a load needs a base", reason="bad-id")
        return await self._peer.load_shard(self._place, call.blob.base, index, first)

    async def load_pieces(
        self, call: Call, index: int, first: int, count: int
    ) -> tuple[LoadHeader, Piece]:
        download = await self.load(call, index, first, count)
        try:
            header = await download.header()
            messages, left = [], LOAD_MESSAGE_BYTES
            async for message in download.messages():
                left -= memoryview(message).nbytes
                if left < 0:
                    raise Corrupt("a shard came with other pieces", reason="wrong-length")
                messages.append(bytes(message))
        finally:
            await download.cancel()
        return header, messages[0] if len(messages) == 1 else b"".join(messages)
