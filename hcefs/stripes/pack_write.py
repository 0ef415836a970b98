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
from dataclasses import dataclass

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
    ) -> None:
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
        jobs: list[tuple[Node, Awaitable[None]]] = []
        for seat in plan.seats:
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
        for node, openings in openings_of(plan).items():
            peer = self._peers.pack_peer(node)
            jobs.append((node, peer.store_openings(plan.call, openings, plan.commit_by_ms)))
        failures = await self._all(plan, jobs)
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


def openings_of(plan: PackPlan) -> dict[Node, list[bytes]]:
    """The openings that go to nodes which do not hold the pack: one call for each node."""
    holders = {seat.node.account for seat in plan.seats}
    found: dict[Node, list[bytes]] = {}
    for group in plan.groups:
        for seat in plan.record_seats[group.record]:
            if seat.node.account not in holders:
                found.setdefault(seat.node, []).append(group.opening)
    return found
