"""Encode one pack, sign its layout, and send it to its holders and its records' seats.

The twin of :mod:`hcefs.stripes.write` for a body that is one stripe: one unary call a
holder.  A put waits for all holders until its deadline, then for at least k+1; the
opening of each record must be on at least k+1 of that record's seats, those that hold
the pack included.

Where a seat is away its stand-in takes its place (:mod:`.standby`): in the plan, so that
whatever follows from who is to have what follows from the plan alone.

Not guaranteed: that holders which are not counted have nothing.  What they have is
collected unless the pack is committed.

Source: docs/ARCHITECTURE.md, "Acknowledged means durable"; docs/decisions/0014 and 0021.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from hcefs.erasure.scheme import Profile
from hcefs.errors import HcefsError, Internal, Unavailable
from hcefs.formats.manifest import Signer
from hcefs.formats.pack import PackLayout
from hcefs.ids import AccountId, BlobBase, RecordId
from hcefs.integrity import shard_digest
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime
from hcefs.stripes.reseat import MOVED, RESEATS_MAX, Reseat
from hcefs.stripes.standby import HOLDER_SECONDS, Standby, is_own_fault
from hcefs.stripes.stripe import EncodedStripe, encode_stripe, stripe_buffer
from hcefs.stripes.write import Stored
from hcefs.transport.packs import BatchCall, PackGroupRows, PackPeers, PackShard

ROUNDS_MAX = 8
"""How often others are asked in the place of who moved or failed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackPlan:
    """Everything that is known of a pack when its body has arrived.

    ``record_seats`` are, for each record, the seats that keep its listing.
    """

    call: BatchCall
    base: BlobBase
    profile: Profile
    seats: tuple[Seat, ...]
    lengths: bytes
    groups: tuple[PackGroupRows, ...]
    commit_by_ms: int
    record_seats: Mapping[RecordId, tuple[Seat, ...]]
    record_profile: Profile


class PackBody:
    """A pack's body as it arrives: the front of the buffer that is encoded in place."""

    def __init__(self, profile: Profile, length: int) -> None:
        self.profile = profile
        self.length = length
        self.taken = 0
        self._buffer = stripe_buffer(profile, length)

    def take(self, data: memoryview) -> bool:
        """Take the next bytes; False when there are more than the body has."""
        end = self.taken + len(data)
        if end > self.length:
            return False
        self._buffer[self.taken : end] = data
        self.taken = end
        return True

    def encode(self) -> EncodedStripe:
        """Parity and digests.  The buffer belongs to the stripe afterwards."""
        return encode_stripe(self.profile, self._buffer, self.length)


class PackWriter:
    """Stores packs through this node."""

    def __init__(
        self,
        runtime: Runtime,
        peers: PackPeers,
        metrics: Metrics,
        node: AccountId,
        key_version: int,
        key: Signer,
        deadline_seconds: float,
        reseat: Reseat | None = None,
        standby: Standby | None = None,
    ) -> None:
        """``reseat`` finds who holds a seat that has moved meanwhile; ``standby`` knows who
        stands in for a holder that is away."""
        self._standby = standby
        self._reseat = reseat
        self._runtime = runtime
        self._peers = peers
        self._metrics = metrics
        self._node = node
        self._key_version = key_version
        self._key = key
        self._deadline = deadline_seconds

    async def put(self, plan: PackPlan, body: PackBody) -> tuple[PackLayout, Stored]:
        """Store a pack everywhere; return when enough of it is durable.

        Raises:
            Unavailable: fewer than k+1 shards, or k+1 copies of some opening, became durable.
            HcefsError: a refusal that concerns the request itself.
        """
        started = self._runtime.monotonic()
        stripe = await self._runtime.compute(body.encode)
        self._metrics.count("encode_seconds_total", self._runtime.monotonic() - started)
        layout = self._layout(plan, stripe)
        stored = await self._store(plan, stripe, layout.encode())
        if stored.degraded:
            self._metrics.count("degraded_puts_total")
        return layout, stored

    def _layout(self, plan: PackPlan, stripe: EncodedStripe) -> PackLayout:
        return PackLayout(
            plan.base,
            plan.profile.name,
            plan.lengths,
            tuple(shard_digest([digest]) for digest in stripe.digests),
            1,
            self._node,
            self._key_version,
            self._runtime.now_ms(),
            b"",
        ).signed(self._key)

    async def _store(self, plan: PackPlan, stripe: EncodedStripe, layout: bytes) -> Stored:
        told = Told()
        plan = self._with_stand_ins(plan, {}, told) or plan
        jobs = self._jobs(plan, stripe, layout, told)
        failures = await self._all(plan, jobs, self._patience(plan, told))
        for _ in range(ROUNDS_MAX):
            self._note(plan, failures)
            told.add(plan, failures)
            following = await self._following(plan, failures, told)
            if following is None:
                break
            plan = following
            kept = {account: failures[account] for account in failures.keys() & _named(plan)}
            jobs = self._jobs(plan, stripe, layout, told)
            again = {node.account for node, _ in jobs}
            failures = {account: e for account, e in kept.items() if account not in again}
            failures |= await self._all(plan, jobs, self._patience(plan, told))
        self._note(plan, failures)
        return self._stored(plan, failures)

    async def _following(
        self, plan: PackPlan, failures: Mapping[AccountId, HcefsError], told: Told
    ) -> PackPlan | None:
        """The plan with others in the place of who failed; None when nobody is left to ask."""
        if self._reseat is not None and any(e.reason in MOVED for e in failures.values()):
            told.reseats += 1
            if told.reseats > RESEATS_MAX:
                return None
            try:
                plan = await self._moved(plan)
            except HcefsError:
                return None  # the failures say enough
            return self._with_stand_ins(plan, {}, told) or plan
        return self._with_stand_ins(plan, failures, told)

    def _note(self, plan: PackPlan, failures: Mapping[AccountId, HcefsError]) -> None:
        """Remember who is away, and who is not."""
        if self._standby is None:
            return
        for node in _nodes(plan):
            error = failures.get(node.account)
            if error is None:
                self._standby.heard(node)
            elif is_own_fault(error):
                self._standby.note(node, error)

    def _with_stand_ins(
        self, plan: PackPlan, failures: Mapping[AccountId, HcefsError], told: Told
    ) -> PackPlan | None:
        """The plan with stand-ins for who failed, or is known to be away; None without any."""
        if self._standby is None:
            return None
        held = self._replaced(plan.profile.name, plan.base, plan.seats, failures, told, told.shards)
        listing = {
            record: self._replaced("", record, row, failures, told, told.listing(record))
            for record, row in plan.record_seats.items()
        }
        if held == plan.seats and listing == plan.record_seats:
            return None
        return replace(plan, seats=held, record_seats=listing)

    def _replaced(
        self,
        profile: str,
        name: BlobBase | RecordId,
        held: Sequence[Seat],
        failures: Mapping[AccountId, HcefsError],
        told: Told,
        done: Collection[AccountId],
    ) -> tuple[Seat, ...]:
        """A row with stand-ins in the place of who is away and not ``done``."""
        taken = told.taken.setdefault(bytes(name), set())
        taken |= {seat.node.account for seat in held}
        row = []
        for seat in held:
            error = failures.get(seat.node.account)
            if self._standby is not None and seat.node.account not in done:
                away = self._standby.is_away(seat.node) if error is None else is_own_fault(error)
                found = self._standby.seat(profile, bytes(name), seat, taken) if away else None
                if found is not None:
                    taken.add(found.node.account)
                    row.append(found)
                    continue
            row.append(seat)
        return tuple(row)

    def _patience(self, plan: PackPlan, told: Told) -> float:
        """How long to wait for holders: less where others can still take their place."""
        taken = told.taken.get(bytes(plan.base), set())
        profile = plan.profile.name
        others = self._standby.nodes(profile, bytes(plan.base)) if self._standby else ()
        replaceable = any(node.account not in taken for node in others)
        return min(self._deadline, HOLDER_SECONDS) if replaceable else self._deadline

    async def _moved(self, plan: PackPlan) -> PackPlan:
        """The same pack with the seats of a newer map.

        Raises:
            Unavailable: there is none in time.
        """
        if self._reseat is None:
            raise Internal("no way to look up seats")
        epoch, held = await self._reseat(plan.profile.name, plan.base, plan.call.epoch)
        listing = {}
        for record in plan.record_seats:
            at, listing[record] = await self._reseat("", bytes(record), plan.call.epoch)
            epoch = min(epoch, at)
        return replace(plan, call=replace(plan.call, epoch=epoch), seats=held, record_seats=listing)

    def _jobs(
        self, plan: PackPlan, stripe: EncodedStripe, layout: bytes, told: Told
    ) -> list[tuple[Node, Awaitable[None]]]:
        """What is to be sent to which node, but for what it was told already."""
        jobs: list[tuple[Node, Awaitable[None]]] = []
        standing_in = replace(plan.call, stand_in=True)
        for seat in plan.seats:
            if seat.node.account in told.shards:
                continue
            shard = PackShard(
                plan.base,
                seat.index,
                layout,
                stripe.pieces[seat.index],
                stripe.digests[seat.index],
                plan.groups,
                plan.commit_by_ms,
            )
            peer = self._peers.pack_peer(seat.node)
            call = standing_in if seat.absent is not None else plan.call
            jobs.append((seat.node, peer.store_pack(call, shard)))
        for (node, stands_in), openings in openings_of(plan, told).items():
            peer = self._peers.pack_peer(node)
            call = standing_in if stands_in else plan.call
            jobs.append((node, peer.store_openings(call, openings, plan.commit_by_ms)))
        return jobs

    def _stored(self, plan: PackPlan, failures: Mapping[AccountId, HcefsError]) -> Stored:
        """What was reached, with who failed.

        Raises:
            Unavailable, HcefsError: as :meth:`put`.
        """
        durable = tuple(
            sorted(seat.index for seat in plan.seats if seat.node.account not in failures)
        )
        self._require(len(durable), len(plan.seats), plan.profile, failures)
        for held in plan.record_seats.values():
            copies = sum(seat.node.account not in failures for seat in held)
            self._require(copies, len(held), plan.record_profile, failures)
        away = {seat.index for seat in plan.seats if seat.absent is not None}
        return Stored(durable, len(plan.seats), standing_in=tuple(i for i in durable if i in away))

    async def _all(
        self, plan: PackPlan, jobs: Sequence[tuple[Node, Awaitable[None]]], seconds: float
    ) -> dict[AccountId, HcefsError]:
        """Run all for so long at most; why each node that failed did."""

        async def one(job: Awaitable[None]) -> HcefsError | None:
            try:
                await job
            except HcefsError as error:
                return error
            except Exception as error:  # noqa: BLE001 - one holder's fault fails no other
                return Internal(f"storing a pack failed: {type(error).__name__}")
            return None

        if not jobs:
            return {}  # a seat that went and came back has all that it is to have
        tasks = [
            (node, self._runtime.spawn(one(job), name=f"pack-{node.node_id}")) for node, job in jobs
        ]
        try:
            await asyncio.wait([task for _, task in tasks], timeout=seconds)
        finally:
            for _, task in tasks:
                task.cancel()
        failures: dict[AccountId, HcefsError] = {}
        for node, task in tasks:
            error: HcefsError | None
            if not task.done() or task.cancelled():
                error = Unavailable("the holder is too slow", reason="stalled")
            else:
                error = task.result()
            if error is not None:
                failures[node.account] = error
                log.warning(
                    "request %s: storing pack %s on node %d failed: %s (%s)",
                    plan.call.request,
                    plan.base,
                    node.node_id,
                    error.kind,
                    error.reason,
                )
        return failures

    @staticmethod
    def _require(
        durable: int, total: int, profile: Profile, failures: Mapping[AccountId, HcefsError]
    ) -> None:
        if durable > profile.k:
            return
        for error in failures.values():
            # A refusal that concerns the request itself is the better answer.
            if not error.retryable:
                raise error
        reasons = ", ".join(sorted({error.reason for error in failures.values()}))
        raise Unavailable(
            f"only {durable} of {total} holders are reachable and {profile.k + 1} are needed; "
            f"nothing was acknowledged, put again later ({reasons})",
            reason="too-few-holders",
        )


class Told:
    """Which nodes have a shard already, and which a record's opening.

    ``taken`` are, by base or record id, the nodes that were asked to have something of it.
    """

    def __init__(self) -> None:
        self.shards: set[AccountId] = set()
        self.listings: set[tuple[RecordId, AccountId]] = set()
        self.taken: dict[bytes, set[AccountId]] = {}
        self.reseats = 0

    def add(self, plan: PackPlan, failures: Mapping[AccountId, HcefsError]) -> None:
        """What was sent by a plan arrived at every node that did not fail."""
        self.shards |= {seat.node.account for seat in plan.seats} - failures.keys()
        self.listings |= {
            (record, seat.node.account)
            for record, held in plan.record_seats.items()
            for seat in held
            if seat.node.account not in failures
        }

    def listing(self, record: RecordId) -> set[AccountId]:
        """Which nodes have a record's opening."""
        return {account for each, account in self.listings if each == record}


def _nodes(plan: PackPlan) -> list[Node]:
    """The nodes that a plan sends anything to."""
    seats = [*plan.seats, *(seat for held in plan.record_seats.values() for seat in held)]
    return [seat.node for seat in seats]


def _named(plan: PackPlan) -> set[AccountId]:
    return {node.account for node in _nodes(plan)}


def openings_of(plan: PackPlan, told: Told) -> dict[tuple[Node, bool], list[bytes]]:
    """The openings that go to nodes which get no shard now: one call for each node, and
    one more for what it is to keep in the place of others.

    Who gets a shard keeps the openings of the records that it lists.
    """
    holders = {seat.node.account for seat in plan.seats} - told.shards
    found: dict[tuple[Node, bool], list[bytes]] = {}
    for group in plan.groups:
        for seat in plan.record_seats[group.record]:
            account, stands_in = seat.node.account, seat.absent is not None
            by_itself = stands_in or account not in holders
            if by_itself and (group.record, account) not in told.listings:
                found.setdefault((seat.node, stands_in), []).append(group.opening)
    return found
