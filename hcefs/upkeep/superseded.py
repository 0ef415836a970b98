"""Judge shards of superseded layouts that others still keep outside of their seats.

A base may be re-profiled while a former holder, or a stand-in, still keeps a shard of the
layout before.  Whoever moved the base did not know of it; and as it has no seat, it may load
nothing to compare its shard with the new ones, as it must before it deletes an old data shard.
So it offers the shard to who has its seat under the old profile, like anything else, and that
node compares for it: it loads the shard, and those of the later layout, and when they agree it
says at the next offer that the shard need not be kept.

Invariants: no verdict without a later layout that proves itself, of which *all* holders say at
that moment that they have their shards; a data shard that differs stays where it is and is
counted.  A verdict is about one node's shard, is given once, and not after ``VERDICT_SECONDS``:
the base may be re-profiled back.

Not guaranteed: a verdict while the policy does not name that change any more: then this node may
not load the new shards either.

Source: docs/decisions/0020-reprofiling.md, 0021-stand-ins.md.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from hcefs.erasure.scheme import Geometry, profile_named
from hcefs.errors import Corrupt, NotFound
from hcefs.ids import AccountId
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.runtime import Runtime
from hcefs.store.interface import RowStore, Table
from hcefs.stripes.adopt import Adoptable, Adopter
from hcefs.stripes.placed import decoded_layout
from hcefs.stripes.relayout import settled_seats
from hcefs.transport.upkeep import LayoutPeer, LayoutPeers, Place, ShardName
from hcefs.upkeep.own_peer import all_hold
from hcefs.upkeep.witness import DISPUTED_SECONDS, Witness

VERDICT_SECONDS = 300.0
"""Whoever offers does so again within a minute."""

VERDICTS_MAX = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GivenShard:
    """A shard that another node keeps and offers; ``place`` is the one under its profile."""

    place: Place
    name: ShardName
    giver: Node

    @property
    def key(self) -> _Key:
        return self.giver.account, self.place.profile, self.name


_Key = tuple[AccountId, str, ShardName]


class SupersededShards:
    """What this node says of old shards that others offer to its seats."""

    def __init__(
        self,
        runtime: Runtime,
        cluster_map: Callable[[], ClusterMap | None],
        rows: RowStore,
        adopter: Adopter,
        peers: LayoutPeers,
        witness: Witness,
        metrics: Metrics,
        me: AccountId,
    ) -> None:
        """``peers`` are all nodes, this one among them."""
        self._runtime = runtime
        self._map = cluster_map
        self._rows = rows
        self._adopter = adopter
        self._peers = peers
        self._witness = witness
        self._metrics = metrics
        self._me = me
        self._verdicts: OrderedDict[_Key, tuple[bool, float]] = OrderedDict()
        """Whether a shard agreed with the later layout, and until when that counts."""

    def is_needless(self, given: GivenShard) -> bool:
        """Whether it was found that its giver need not keep a shard; said once."""
        if not self._verdict(given):
            return False
        del self._verdicts[given.key]
        return True

    async def has_other(self, given: GivenShard) -> bool:
        """Whether the layout in force here is one of another profile than a given shard."""
        data = await self._runtime.disk(self._rows.get, Table.LAYOUTS, bytes(given.name.base))
        return data is not None and decoded_layout(data).profile != given.place.profile

    async def judge(self, given: GivenShard) -> None:
        """Find out whether a shard is superseded and need not be kept.

        Raises:
            HcefsError: that cannot be told now.
        """
        if self._verdict(given) is False:
            return
        current = self._map()
        if current is None or current.epoch != given.place.epoch:
            return
        latest = await self._latest(current, given)
        if latest is None or latest.profile == given.place.profile:
            return
        base = given.name.base
        held = settled_seats(current, latest.profile, base)
        place = Place.of_base(current, latest.profile, base)
        if not await all_hold(self._peers, place, base, held):
            return
        old = profile_named(given.place.profile)
        agrees = await self._witness.agrees_there(
            given.giver,
            given.place,
            given.name,
            Geometry(latest.plaintext_length, old, latest.segment_size),
            place,
            [(seat.node, seat.index) for seat in held],
        )
        seconds = VERDICT_SECONDS if agrees else DISPUTED_SECONDS
        self._verdicts[given.key] = agrees, self._runtime.monotonic() + seconds
        if len(self._verdicts) > VERDICTS_MAX:
            self._verdicts.popitem(last=False)
        if agrees:
            return
        self._metrics.count("disputed_shards_total")
        log.error(
            "shard %s index %d on node %d differs from the layout in force under %s: it stays",
            base, given.name.index, given.giver.node_id, latest.profile,
        )  # fmt: skip

    def _verdict(self, given: GivenShard) -> bool | None:
        """Whether a shard agreed with the later layout; None when nothing is known that counts."""
        agreed, until = self._verdicts.get(given.key, (None, 0.0))
        return agreed if self._runtime.monotonic() < until else None

    async def _latest(self, current: ClusterMap, given: GivenShard) -> Adoptable | None:
        """The rows with the latest layout of those here and those of the giver, if any prove
        themselves."""
        found = [await self._rows_of(self._peers.upkeep_peer(given.giver), given)]
        me = current.node_of_account(self._me)
        if me is not None:
            found.append(await self._rows_of(self._peers.upkeep_peer(me), given))
        proved = [each for each in found if each is not None and each.committed]
        return max(proved, key=lambda each: each.layout.version, default=None)

    async def _rows_of(self, peer: LayoutPeer, given: GivenShard) -> Adoptable | None:
        try:
            rows = await peer.load_rows(given.place, given.name.base)
            return await self._runtime.compute(self._adopter.check, given.name.base, rows)
        except NotFound:
            return None
        except Corrupt as error:
            log.warning("rows of %s prove nothing: %s", given.name.base, error.reason)
            return None
