"""Fetch what other nodes give: shards and rows of seats of this node that are elsewhere.

A node that stood in for this one, or held a seat before, offers what it keeps
(:mod:`.stand_in`, :mod:`.retire`) until this node says that it has it.  So an offer is only
a hint where to ask: it may be forgotten, and whoever offers what does not prove itself has
taken nothing but time.

Invariants: at most ``WAITING_MAX`` offers wait; only what the map gives a seat of this node is
fetched, and only what the ledger binds is kept (:mod:`hcefs.stripes.adopt`).  What is of a
superseded layout is not fetched but judged (:mod:`.superseded`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import HcefsError
from hcefs.ids import AccountId, BlobBase, RecordId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import seats
from hcefs.runtime import Runtime
from hcefs.transport.upkeep import Place, ShardName
from hcefs.upkeep.fill import SeatFiller
from hcefs.upkeep.superseded import GivenShard, SupersededShards
from hcefs.upkeep.worker import Progress, at_once

WAITING_MAX = 4096
AT_ONCE = 4
UNIT = 64
"""Offers that one unit of work takes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Offer:
    """A shard of a base, or without an index the rows of a record."""

    place: Place
    name: bytes
    index: int | None
    giver: Node


class HomeBringer:
    """Fetches what is offered to this node."""

    name = "bring-home"
    idle_seconds = 0.0
    """It rests until something is offered."""

    def __init__(
        self,
        runtime: Runtime,
        filler: SeatFiller,
        superseded: SupersededShards,
        metrics: Metrics,
        me: AccountId,
    ) -> None:
        self._runtime = runtime
        self._filler = filler
        self._superseded = superseded
        self._metrics = metrics
        self._me = me
        self._waiting: OrderedDict[tuple[str, bytes, int | None], _Offer] = OrderedDict()
        self._offered = asyncio.Event()

    def offer(
        self,
        current: ClusterMap,
        place: Place,
        shards: Sequence[ShardName],
        records: Sequence[RecordId],
        giver: Node,
    ) -> frozenset[ShardName]:
        """Note what a node gives, as far as it is to be here; forget what is too much.

        Those shards come back that need not be kept though they are not here: of layouts that
        are not in force any more.
        """
        needless: set[ShardName] = set()
        if giver.account == self._me:
            return frozenset()
        for shard in shards:
            if any(
                seat.index == shard.index and seat.node.account == self._me
                for seat in seats(current, place.profile, bytes(shard.base))
            ):
                if self._superseded.is_needless(GivenShard(place, shard, giver)):
                    needless.add(shard)
                    continue
                self._note(_Offer(place, bytes(shard.base), shard.index, giver))
        for record in records:
            held = seats(current, current.default_profile, bytes(record))
            if any(seat.node.account == self._me for seat in held):
                self._note(_Offer(place, bytes(record), None, giver))
        return frozenset(needless)

    def _note(self, offer: _Offer) -> None:
        key = (offer.place.profile, offer.name, offer.index)
        if key in self._waiting or len(self._waiting) < WAITING_MAX:
            self._waiting[key] = offer
            self._offered.set()

    async def work(self) -> Progress:
        """Wait for offers, and take some."""
        await self._offered.wait()
        left = iter(range(UNIT))

        async def some() -> None:
            for _ in left:
                if not self._waiting:
                    return
                _, offer = self._waiting.popitem(last=False)
                await self._take(offer)
                crash_point(CrashPoint.STAND_IN_TAKEN)

        await at_once(self._runtime, AT_ONCE, some, "bring-home")
        if not self._waiting:
            self._offered.clear()
        return Progress.BUSY

    async def _take(self, offer: _Offer) -> None:
        try:
            if offer.index is None:
                record = RecordId(offer.name)
                await self._filler.bring_record(offer.place, record, offer.giver)
                return
            base = BlobBase(offer.name)
            given = GivenShard(offer.place, ShardName(base, offer.index), offer.giver)
            filled = None
            if not await self._superseded.has_other(given):
                filled = await self._filler.bring(offer.place, base, offer.index, offer.giver)
            if filled is None:
                await self._superseded.judge(given)
                return
        except HcefsError as error:
            log.info(
                "what node %d gives of %s cannot be had now: %s",
                offer.giver.node_id, offer.name.hex(), error.reason,
            )  # fmt: skip
            return
        if filled.copied or filled.rebuilt:
            log.info(
                "shard %s index %d came home from node %d", base, offer.index, offer.giver.node_id
            )
