"""Move blobs and packs to another profile, on ciphertext, with no key.

The operators' policy names profiles that are to be left.  Of each base under such a profile
one node is the *mover*: the holder of its first shard that is there, index 0 as a rule.  It
reads the sealed segments from k old shards, cuts them anew, and has the holders of the new
layout take it step by step (:mod:`hcefs.stripes.relayout`).

Invariants, in this order: every old piece is compared with its digest before it is used;
what is read gives the digests in the base's cores; every new holder has its shard, as the
new layout's digest says; what is *read back* from them gives the digests in the cores, and
its parity those of the new layout; only then is a shard placed anywhere, and only when all
are placed, the layout enters anywhere.  So of a base whose new layout is seen at one node
everything is there.  The mover's own rows change last: until then it finds the base again,
asks what others have, and goes on from there, whoever was killed in between.

One bad base never stops the others: it is counted, named, and tried again much later.

Not guaranteed: progress while a holder of either row is away or a seat of it is in flight;
honesty of the mover, which could have other nodes take a false layout of its own bases: old
data shards are compared with it before they go (:mod:`hcefs.upkeep.witness`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Corrupt, HcefsError, NotFound, Unavailable
from hcefs.formats.manifest import Layout, Signer
from hcefs.formats.pack import PackLayout
from hcefs.ids import AccountId, BlobBase, RequestId
from hcefs.integrity import shard_digest
from hcefs.ledger.cluster_facts import UpkeepPolicy
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import Seat, seats
from hcefs.runtime import Runtime, end_tasks
from hcefs.store.interface import Stores, Table
from hcefs.stripes.adopt import Adoptable, Adopter
from hcefs.stripes.exports import Exporter
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.pending import PendingNames
from hcefs.stripes.placed import (
    RING,
    PlacedShard,
    decoded_layout,
    shards_in,
    shards_of,
    staged_key,
)
from hcefs.stripes.read import Stripe, StripeReader
from hcefs.stripes.recut import DataCheck, intact, recut
from hcefs.stripes.relayout import LayoutTaker, drop_staged, settled_seats, targets
from hcefs.stripes.shard_index import read_footer
from hcefs.stripes.stripe import EncodedStripe
from hcefs.stripes.transfers import whole
from hcefs.transport.upkeep import (
    BlobRows,
    LayoutPeers,
    LayoutStep,
    PackRows,
    Place,
    ShardName,
    UpkeepPeers,
)
from hcefs.upkeep.fill import Loaders, rebuild_call
from hcefs.upkeep.own_peer import PeersWithOwn, all_hold
from hcefs.upkeep.staged_files import StagedFiles
from hcefs.upkeep.throttle import Throttle
from hcefs.upkeep.worker import Progress

BASES_AT_ONCE = 2
"""Each holds a few segments, and the files of all new shards."""

SHARDS_A_UNIT = 100
BAD_SECONDS = 600.0
"""Before a base is tried again that cannot be moved as it is."""

TRIED_MAX = 10_000
ASK_SECONDS = 5.0
"""For who may be away without holding up the others."""

BAD = frozenset({"corrupt", "invalid", "unauthenticated"})
"""Kinds of failures that do not pass by themselves.  What a node denies, it may deny only
until it has the map, the policy or the entry that is known here."""

log = logging.getLogger(__name__)


class PolicyView(Protocol):
    """What the mover asks of the node's replica."""

    def cluster_map(self) -> ClusterMap | None:
        """The map in force."""

    def policy(self) -> UpkeepPolicy:
        """What the operators let nodes do by themselves."""


@dataclass(frozen=True)
class LayoutSigner:
    """The account that signs new layouts: this node's own."""

    account: AccountId
    key_version: int
    key: Signer


@dataclass
class _Sweep:
    """One pass over this node's shards."""

    after: bytes | None = None
    waiting: int = 0


@dataclass
class _Move:
    """One base on its way from one profile to another, by one map."""

    current: ClusterMap
    wanted: Adoptable
    rows: BlobRows | PackRows
    target: str
    held: tuple[Seat, ...] = ()
    coming: tuple[Seat, ...] = ()

    @property
    def base(self) -> BlobBase:
        return self.wanted.base

    def place(self, profile: str) -> Place:
        """The base's partition under a profile."""
        return Place.of_base(self.current, profile, self.base)


class Reprofiler:
    """Moves the bases whose first shard this node holds."""

    name = "reprofile"

    def __init__(
        self,
        runtime: Runtime,
        view: PolicyView,
        stores: Stores,
        exporter: Exporter,
        adopter: Adopter,
        taker: LayoutTaker,
        pending: PendingNames,
        peers: UpkeepPeers,
        metrics: Metrics,
        throttle: Throttle,
        me: AccountId,
        signer: LayoutSigner,
        idle_seconds: float,
    ) -> None:
        self.idle_seconds = idle_seconds
        self._runtime = runtime
        self._view = view
        self._stores = stores
        self._exporter = exporter
        self._adopter = adopter
        self._pending = pending
        self._metrics = metrics
        self._throttle = throttle
        self._me = me
        self._signer = signer
        self._peers: LayoutPeers = PeersWithOwn(peers, me, exporter, taker)
        self._hedge = HedgeTimer()
        # Reads that re-profile are no clients' reads: their faults are not counted as such.
        self._quiet = Metrics()
        self._sweep: _Sweep | None = None
        self._tried: dict[BlobBase, float] = {}

    async def work(self) -> Progress:
        """Look at some of this node's shards, and move those bases that are its to move."""
        current, pairs = self._view.cluster_map(), targets(self._view.policy())
        if current is None or current.node_of_account(self._me) is None:
            return Progress.IDLE
        if self._sweep is None:
            await whole(self._runtime, partial(self._tidy, current, pairs))
            self._sweep = _Sweep()
        sweep = self._sweep
        page = (
            await self._runtime.disk(shards_in, self._stores.rows, RING, sweep.after)
            if pairs
            else []
        )
        if not page:
            self._metrics.set("reprofile_waiting", sweep.waiting)
            self._sweep = None
            return Progress.IDLE
        due: list[PlacedShard] = []
        for key, shard in page:
            sweep.after = key
            if shard.profile in pairs:
                due.append(shard)
            if len(due) == SHARDS_A_UNIT:
                break
        mine = await self._mine(current, pairs, due)
        for first in range(0, len(mine), BASES_AT_ONCE):
            jobs = [
                self._runtime.spawn(self._one(shard), name="reprofile")
                for shard in mine[first : first + BASES_AT_ONCE]
            ]
            try:
                sweep.waiting += sum(not done for done in await asyncio.gather(*jobs))
            finally:
                await end_tasks(*jobs)
        return Progress.BUSY

    # -- whose

    async def _mine(
        self, current: ClusterMap, pairs: dict[str, str], due: Sequence[PlacedShard]
    ) -> list[PlacedShard]:
        """Those shards whose bases lie under that profile and are this node's to move."""
        known = {table.profile for table in current.tables}
        left: list[tuple[PlacedShard, list[Seat]]] = []
        for shard in await self._runtime.disk(self._in_force, due):
            if not {shard.profile, pairs[shard.profile]} <= known:
                continue
            held = seats(current, shard.profile, bytes(shard.base))
            if not any(s.index == shard.index and s.node.account == self._me for s in held):
                continue  # kept outside of its seat: whose it is now is asked instead
            before = sorted((s for s in held if s.index < shard.index), key=lambda s: s.index)
            left.append((shard, before))
        mine = [shard for shard, before in left if not before]
        left = [(shard, before) for shard, before in left if before]
        while left:
            absent = await self._absent(current, [(s, before[0]) for s, before in left])
            left = [(s, before[1:]) for s, before in left if s in absent]
            mine += [shard for shard, before in left if not before]
            left = [(shard, before) for shard, before in left if before]
        return mine

    def _in_force(self, due: Sequence[PlacedShard]) -> list[PlacedShard]:
        """The shards that are here, one of each base, and of the layout in force."""
        rows, found, seen = self._stores.rows, [], set()
        layouts = rows.get_many(Table.LAYOUTS, [bytes(shard.base) for shard in due])
        for shard, layout in zip(due, layouts, strict=True):
            if layout is None or shard.base in seen:
                continue
            here = self._stores.shards.has(shard.base, shard.index, shard.form)
            if here and decoded_layout(layout).profile == shard.profile:
                seen.add(shard.base)
                found.append(shard)
        return found

    async def _absent(
        self, current: ClusterMap, asked: Sequence[tuple[PlacedShard, Seat]]
    ) -> set[PlacedShard]:
        """The shards of which a seat's holder says that it has not its own."""
        groups: dict[tuple[int, Place], list[tuple[PlacedShard, Seat]]] = {}
        for shard, seat in asked:
            place = Place.of_base(current, shard.profile, shard.base)
            groups.setdefault((seat.node.node_id, place), []).append((shard, seat))
        absent: set[PlacedShard] = set()
        for (_, place), some in groups.items():
            names = [ShardName(shard.base, seat.index) for shard, seat in some]
            try:
                held = await self._peers.upkeep_peer(some[0][1].node).has_shards(place, names)
            except HcefsError:
                continue  # it may have them: not ours for now
            absent |= {shard for (shard, _), there in zip(some, held, strict=True) if not there}
        return absent

    # -- one base

    async def _one(self, shard: PlacedShard) -> bool:
        """Move one base; False when it still waits."""
        base, now = shard.base, self._runtime.monotonic()
        if self._tried.get(base, 0.0) > now:
            return False
        try:
            moved = await self._move(shard)
        except HcefsError as error:
            waits = error.kind not in BAD
            if not waits:
                await whole(self._runtime, partial(self._drop, base))
            outcome = "waiting" if waits else "refused"
            self._metrics.count("reprofiled_blobs_total", outcome=outcome)
            if not waits:
                if len(self._tried) >= TRIED_MAX:
                    self._tried.clear()
                self._tried[base] = now + BAD_SECONDS
            log.log(
                logging.INFO if waits else logging.ERROR,
                "base %s stays under %s for now: %s (%s)",
                base, shard.profile, error.message, error.reason,
            )  # fmt: skip
            return False
        self._tried.pop(base, None)
        if moved:
            self._metrics.count("reprofiled_blobs_total", outcome="moved")
        return True

    async def _move(self, shard: PlacedShard) -> bool:
        """Take one base through all steps; False when another one was faster.

        Raises:
            HcefsError: why it is not moved now.
        """
        current = self._view.cluster_map()
        target = targets(self._view.policy()).get(shard.profile)
        if current is None or target is None:
            raise Unavailable("the policy has changed", reason="other-policy")
        rows = await self._exporter.load_rows(shard.base, shard.profile)
        wanted = await self._runtime.compute(self._adopter.check, shard.base, rows)
        if not wanted.committed or wanted.commit_by_ms:
            raise Unavailable("an append of this base may still come", reason="still-pending")
        if wanted.profile != shard.profile:
            return False
        if isinstance(wanted.layout, PackLayout):
            replace(wanted.layout, profile=target).check_fits()
        move = _Move(current, wanted, rows, target)
        move.held = settled_seats(current, wanted.profile, move.base)
        move.coming = settled_seats(current, target, move.base)
        found = await self._look(move)
        if found is not None and found.profile != move.target:
            move.target = found.profile
            move.coming = settled_seats(current, found.profile, move.base)
        if found is None or not await all_hold(
            self._peers, move.place(move.target), move.base, move.coming
        ):
            layout = await self._encoded(move, found)
            move.rows = replace(rows, layout=layout.encode())
            await self._at(move, move.coming, LayoutStep.STAGE)
            crash_point(CrashPoint.REPROFILE_STAGED)
            await self._verify(move, layout)
            await self._at(move, move.coming, LayoutStep.PLACE)
            crash_point(CrashPoint.REPROFILE_PLACED)
        else:
            move.rows = replace(rows, layout=found.encode())
        await self._enter(move)
        log.info("base %s now lies under %s", move.base, move.target)
        return True

    async def _look(self, move: _Move) -> Layout | PackLayout | None:
        """The latest layout after the known one that any holder knows, if any.

        What is placed anywhere was proved, and every new holder has its shard.
        """
        place, mine = move.place(move.target), move.wanted.layout
        nodes = {s.node.node_id: s.node for s in (*move.held, *move.coming)}

        async def ask(node: Node) -> Layout | PackLayout | None:
            try:
                async with self._runtime.timeout(ASK_SECONDS):
                    rows = await self._peers.upkeep_peer(node).load_rows(place, move.base)
                other = await self._runtime.compute(self._adopter.check, move.base, rows)
            except (NotFound, TimeoutError):
                return None
            except HcefsError as error:
                if error.kind in BAD:
                    log.error("node %d gave bad rows of %s: %s", node.node_id, move.base, error)
                return None
            return other.layout if other.layout.version > mine.version else None

        found = await asyncio.gather(*(ask(node) for node in nodes.values()))
        later = [layout for layout in found if layout is not None]
        return max(later, key=lambda layout: layout.version, default=None)

    async def _at(self, move: _Move, at: Sequence[Seat], step: LayoutStep) -> None:
        """Have all of some holders take a step.

        Raises:
            HcefsError: one of them did not.
        """
        place = move.place(move.target)
        results = await asyncio.gather(
            *(
                self._peers.upkeep_peer(seat.node).take_layout(place, move.base, step, move.rows)
                for seat in at
            ),
            return_exceptions=True,
        )
        failures = [result for result in results if isinstance(result, BaseException)]
        # What does not pass by itself says more.
        failures.sort(key=lambda error: isinstance(error, HcefsError) and error.kind not in BAD)
        if failures:
            raise failures[0]

    async def _enter(self, move: _Move) -> None:
        """Let the layout come into force: at all new holders, at the old ones, here.

        An old holder that is away learns of it later, when it finds itself the mover.
        """
        await self._at(
            move, [s for s in move.coming if s.node.account != self._me], LayoutStep.ENTER
        )
        new = {seat.node.account for seat in move.coming} | {self._me}

        async def told(seat: Seat) -> None:
            try:
                async with self._runtime.timeout(ASK_SECONDS):
                    await self._at(move, [seat], LayoutStep.ENTER)
            except (HcefsError, TimeoutError) as error:
                log.info(
                    "node %d keeps %s under its old layout for now: %s",
                    seat.node.node_id, move.base, type(error).__name__,
                )  # fmt: skip

        old = [seat for seat in move.held if seat.node.account not in new]
        await asyncio.gather(*(told(seat) for seat in old))
        crash_point(CrashPoint.REPROFILE_ENTERED)
        me = move.current.node_of_account(self._me)
        if me is not None:
            peer = self._peers.upkeep_peer(me)
            place = move.place(move.target)
            await peer.take_layout(place, move.base, LayoutStep.ENTER, move.rows)

    # -- the new shards

    async def _encoded(self, move: _Move, found: Layout | PackLayout | None) -> Layout | PackLayout:
        """The new layout, of which all shards lie staged on this node.

        Raises:
            Corrupt: the old shards do not hold what the cores say, or a layout that others
                have is not of this data.
        """
        target = profile_named(move.target)
        key = staged_key(move.base, target.name)
        known = await self._runtime.disk(self._known, move, key)
        if known is not None and (found is None or known.shard_digests == found.shard_digests):
            return found or known
        crash_point(CrashPoint.REPROFILE_BEGUN)
        digests = await self._write_all(move)
        crash_point(CrashPoint.REPROFILE_WRITTEN)
        if found is not None:
            if found.shard_digests != digests:
                raise Corrupt("others have a layout of other data", reason="wrong-layout")
            layout = found
        else:
            layout = self._signed(move, digests)
        row = (Table.STAGED, key, layout.encode())
        await whole(self._runtime, lambda: self._stores.rows.put([row]))
        crash_point(CrashPoint.REPROFILE_SIGNED)
        return layout

    def _known(self, move: _Move, key: bytes) -> Layout | PackLayout | None:
        """The layout that was staged here before this one call, if all its shards are here."""
        data = self._stores.rows.get(Table.STAGED, key)
        if not data:
            # What leads the sweep here comes before the first file.
            self._stores.rows.put([(Table.STAGED, key, b"")])
            return None
        layout = decoded_layout(data)
        if layout.version <= move.wanted.layout.version or layout.node != self._signer.account:
            return None
        for index, digest in enumerate(layout.shard_digests):
            try:
                footer = read_footer(self._stores.shards, move.base, index, move.target)
            except HcefsError:
                return None
            if footer.shard_digest != digest:
                return None
        return layout

    def _signed(self, move: _Move, digests: tuple[bytes, ...]) -> Layout | PackLayout:
        signer = self._signer
        old = move.wanted.layout
        made = replace(
            old,
            profile=move.target,
            shard_digests=digests,
            version=old.version + 1,
            node=signer.account,
            key_version=signer.key_version,
            time_ms=self._runtime.now_ms(),
            signature=b"",
        )
        return made.signed(signer.key)

    async def _write_all(self, move: _Move) -> tuple[bytes, ...]:
        """Write all new shards to this node's disk, unseen; their digests."""
        wanted, target = move.wanted, profile_named(move.target)
        source = profile_named(wanted.profile)
        check = DataCheck(wanted.layout, wanted.cores)
        files = StagedFiles(self._runtime, self._stores, wanted, move.target)
        reader = self._reader(move, move.held, wanted.layout, wanted)
        await files.begin()
        try:
            async for stripes in intact(self._runtime, reader, wanted.geometry.segments):
                for stripe in stripes:
                    encoded = await self._runtime.compute(
                        _recut, stripe, partial(recut, source=source, target=target), check
                    )
                    moved = sum(len(piece) for piece in encoded.pieces)
                    await self._throttle.spend(moved + stripe.sealed_length)
                    await files.write(encoded)
            check.require()
            return await files.finish()
        finally:
            await files.abort()

    async def _verify(self, move: _Move, layout: Layout | PackLayout) -> None:
        """Read the new shards back from their holders, and prove them by cores and layout.

        Raises:
            Corrupt: they hold other data.
        """
        profile = profile_named(move.target)
        check = DataCheck(move.wanted.layout, move.wanted.cores)
        wanted = replace(move.wanted, profile=move.target, layout=layout)
        digests: list[list[bytes]] = [[] for _ in range(profile.n)]
        reader = self._reader(move, move.coming, layout, wanted)
        async for stripes in intact(self._runtime, reader, wanted.geometry.segments):
            for stripe in stripes:
                await self._throttle.spend(stripe.sealed_length)
                encoded = await self._runtime.compute(
                    _recut, stripe, partial(recut, source=profile, target=profile), check
                )
                for found, digest in zip(digests, encoded.digests, strict=True):
                    found.append(digest)
        check.require()
        if tuple(map(shard_digest, digests)) != layout.shard_digests:
            raise Corrupt("the new parity is not that of the data", reason="wrong-layout")

    def _reader(
        self, move: _Move, held: Sequence[Seat], layout: Layout | PackLayout, wanted: Adoptable
    ) -> StripeReader:
        place = move.place(layout.profile)
        request = RequestId(self._runtime.random(RequestId.SIZE))
        return StripeReader(
            self._runtime,
            Loaders(self._peers, place),
            sorted(held, key=lambda seat: seat.index),
            rebuild_call(place, move.base, request),
            layout,
            wanted.geometry,
            self._quiet,
            self._hedge,
        )

    # -- leftovers

    def _tidy(self, current: ClusterMap, pairs: dict[str, str]) -> None:
        """Drop what is staged here for a change that is not wanted, or over."""
        for key in self._staged():
            base, profile = BlobBase(key[: BlobBase.SIZE]), key[BlobBase.SIZE :].decode()
            with self._pending.locked([bytes(base)]):
                if self._is_over(current, pairs, base, profile):
                    dropped = drop_staged(self._stores, base, profile)
                    log.info("dropped %d staged shards of %s under %s", dropped, base, profile)

    def _staged(self) -> list[bytes]:
        keys: list[bytes] = []
        after: bytes | None = None
        while page := self._stores.rows.scan(Table.STAGED, after=after):
            keys += [key for key, _ in page]
            after = page[-1][0]
        return keys

    def _drop(self, base: BlobBase) -> None:
        """Drop what is staged of a base that cannot be moved, unless some of it is placed."""
        with self._pending.locked([bytes(base)]):
            placed = {shard.form for shard in shards_of(self._stores.rows, base)}
            for key, _ in self._stores.rows.scan(Table.STAGED, bytes(base)):
                profile = key[BlobBase.SIZE :].decode()
                if profile not in placed:
                    drop_staged(self._stores, base, profile)

    def _is_over(
        self, current: ClusterMap, pairs: dict[str, str], base: BlobBase, profile: str
    ) -> bool:
        data = self._stores.rows.get(Table.LAYOUTS, bytes(base))
        here = shards_of(self._stores.rows, base)
        if any(shard.form == profile for shard in here):
            # Placed: it may be in force elsewhere, so only its own entering ends it.
            return data is not None and decoded_layout(data).profile == profile
        if data is not None and pairs.get(decoded_layout(data).profile) == profile:
            return False
        seated = any(table.profile == profile for table in current.tables) and any(
            seat.node.account == self._me for seat in seats(current, profile, bytes(base))
        )
        return not (data is None and seated and profile in pairs.values())


def _recut(
    stripe: Stripe,
    cut: Callable[[Stripe], tuple[memoryview, EncodedStripe]],
    check: DataCheck,
) -> EncodedStripe:
    """One stripe in a worker thread."""
    sealed, encoded = cut(stripe)
    check.take(sealed)
    return encoded
