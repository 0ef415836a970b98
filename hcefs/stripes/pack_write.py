"""Encode one pack, sign its layout, and send it to its holders and its records' seats.

The twin of :mod:`hcefs.stripes.write` for a body that is one stripe: one unary call a
holder.  A put waits for all holders until its deadline, then for at least k+1; the
opening of each record must be on at least k+1 of that record's seats, those that hold
the pack included.

Not guaranteed: that holders which are not counted have nothing.  What they have is
collected unless the pack is committed.

Source: docs/ARCHITECTURE.md, "Acknowledged means durable"; docs/decisions/0014.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
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
from hcefs.stripes.stripe import EncodedStripe, encode_stripe, stripe_buffer
from hcefs.stripes.write import Stored
from hcefs.transport.packs import BatchCall, PackGroupRows, PackPeers, PackShard

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
    ) -> None:
        """``reseat`` finds who holds a seat that has moved meanwhile."""
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
        failures = await self._all(plan, self._jobs(plan, stripe, layout, Told()))
        told = Told()
        for _ in range(RESEATS_MAX):
            if self._reseat is None or not any(e.reason in MOVED for e in failures.values()):
                break
            told.add(plan, failures)
            try:
                plan = await self._moved(plan)
            except HcefsError:
                break  # the failures say enough
            kept = {account: failures[account] for account in failures.keys() & _named(plan)}
            jobs = self._jobs(plan, stripe, layout, told)
            again = {node.account for node, _ in jobs}
            failures = {account: e for account, e in kept.items() if account not in again}
            failures |= await self._all(plan, jobs)
        return self._stored(plan, failures)

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
            jobs.append((seat.node, peer.store_pack(plan.call, shard)))
        for node, openings in openings_of(plan, told).items():
            peer = self._peers.pack_peer(node)
            jobs.append((node, peer.store_openings(plan.call, openings, plan.commit_by_ms)))
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
        return Stored(durable, len(plan.seats))

    async def _all(
        self, plan: PackPlan, jobs: Sequence[tuple[Node, Awaitable[None]]]
    ) -> dict[AccountId, HcefsError]:
        """Run all until the deadline; why each node that failed did."""

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
            await asyncio.wait([task for _, task in tasks], timeout=self._deadline)
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
    """Which nodes have a shard already, and which a record's opening."""

    def __init__(self) -> None:
        self.shards: set[AccountId] = set()
        self.listings: set[tuple[RecordId, AccountId]] = set()

    def add(self, plan: PackPlan, failures: Mapping[AccountId, HcefsError]) -> None:
        """What was sent by a plan arrived at every node that did not fail."""
        self.shards |= {seat.node.account for seat in plan.seats} - failures.keys()
        self.listings |= {
            (record, seat.node.account)
            for record, held in plan.record_seats.items()
            for seat in held
            if seat.node.account not in failures
        }


def _named(plan: PackPlan) -> set[AccountId]:
    """The nodes that a plan sends anything to."""
    seats = [*plan.seats, *(seat for held in plan.record_seats.values() for seat in held)]
    return {seat.node.account for seat in seats}


def openings_of(plan: PackPlan, told: Told) -> dict[Node, list[bytes]]:
    """The openings that go to nodes which get no shard now: one call for each node.

    Who gets a shard keeps the openings of the records that it lists.
    """
    holders = {seat.node.account for seat in plan.seats} - told.shards
    found: dict[Node, list[bytes]] = {}
    for group in plan.groups:
        for seat in plan.record_seats[group.record]:
            account = seat.node.account
            if account not in holders and (group.record, account) not in told.listings:
                found.setdefault(seat.node, []).append(group.opening)
    return found
