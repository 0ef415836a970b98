"""What a storage node answers operators about its repair: status, queue, one blob, an audit.

Converts, and nothing else; what is converted belongs to :mod:`hcefs.upkeep.repair` and
:mod:`hcefs.stripes.audit`.  An answer is bounded: lists by number, audits by the bytes that
are read for one.  Audits are paid for from upkeep's budget; what they find bad is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hcefs.errors import Invalid, NotFound
from hcefs.ids import AccountId, BlobBase
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import positions_of
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores
from hcefs.stripes.audit import Audit, Auditor, ShardState
from hcefs.stripes.placed import PlacedShard, shards_in, shards_of
from hcefs.transport.upkeep import PARTITIONS_ASKED_MAX
from hcefs.upkeep.damage import Damaged, DamagedName, DamageLog
from hcefs.upkeep.hints import HintListener
from hcefs.upkeep.named import NamedBlobs
from hcefs.upkeep.repair import Repairer
from hcefs.upkeep.stock import Stock
from hcefs.upkeep.stocktaking import MISSING, place_here
from hcefs.upkeep.throttle import Throttle
from hcefs.wire.v1 import admin_pb2

LISTED_MAX = 1000
PAGE_SHARDS = 128
PAGE_BYTES = 32 << 20
"""Read for one page, but for the last shard of it."""


class RepairAnswers:
    """Answers of one node."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        view: Callable[[], ClusterMap],
        queue: DamageLog,
        repairer: Repairer,
        listener: HintListener,
        auditor: Auditor,
        throttle: Throttle,
        named: Callable[[], NamedBlobs],
        me: AccountId,
    ) -> None:
        """``view`` gives the map in force, or raises; ``named`` who looks for lost blobs."""
        self._me = me
        self._named = named
        self._runtime = runtime
        self._stores = stores
        self._view = view
        self._queue = queue
        self._repairer = repairer
        self._listener = listener
        self._auditor = auditor
        self._throttle = throttle

    def status(self) -> admin_pb2.RepairStatusResponse:
        """How far the repair is."""
        repairer, queue = self._repairer, self._queue
        pace = repairer.meter.pace(self._runtime.monotonic())
        left = repairer.left_seconds()
        return admin_pb2.RepairStatusResponse(
            epoch=self._view().epoch,
            backlog=[
                admin_pb2.Backlog(margin=margin, shards=shards)
                for margin, shards in sorted(queue.backlog().items())
            ],
            oldest_ms=queue.oldest_ms(),
            pace_shards=pace.shards,
            pace_bytes=pace.bytes,
            left_seconds=-1.0 if left is None else left,
            left_bytes=repairer.meter.left_bytes(queue.owed()),
            repaired_shards=repairer.meter.shards,
            repaired_bytes=repairer.meter.bytes,
            passing=_stock(repairer.stock),
            last=_stock(repairer.last),
            whole_ms=repairer.whole_ms,
            rate_bytes=self._throttle.rate,
            hints=len(self._listener),
        )

    def now(self) -> None:
        """Begin a pass."""
        self._repairer.now()

    def queued(self, limit: int) -> admin_pb2.RepairListResponse:
        """The most urgent entries."""
        found = self._queue.entries()[: min(limit, LISTED_MAX)]
        return admin_pb2.RepairListResponse(
            shards=[_queued(entry) for entry in found], total=len(self._queue)
        )

    async def explain(self, base: BlobBase) -> admin_pb2.ExplainResponse:
        """What is here of a base."""
        shards = await self._runtime.disk(shards_of, self._stores.rows, base)
        return admin_pb2.ExplainResponse(
            epoch=self._view().epoch,
            shards=[await self._audited(shard) for shard in shards],
            queued=[_queued(entry) for entry in self._queue.of_base(base)],
        )

    async def verify(
        self, profile: str, partition: int, count: int, after: bytes
    ) -> admin_pb2.VerifyResponse:
        """A page of an audit of some partitions.

        Raises:
            NotFound, Invalid: there is no such partition.
        """
        current = self._view()
        table = current.table(profile)
        last_one = partition + max(count, 1) - 1
        if not 0 <= partition <= last_one < table.partitions:
            raise NotFound("the profile has no such partition", reason="unknown-partition")
        positions = range(
            positions_of(partition, table.bits).start, positions_of(last_one, table.bits).stop
        )
        page = await self._runtime.disk(shards_in, self._stores.rows, positions, after or None)
        found: list[admin_pb2.AuditedShard] = []
        read, last = 0, b""
        for key, shard in page:
            if len(found) >= PAGE_SHARDS or read >= PAGE_BYTES:
                break
            last = key
            if shard.profile == profile:
                audited = await self._audited(shard)
                read += audited.bytes
                found.append(audited)
        return admin_pb2.VerifyResponse(epoch=current.epoch, shards=found, next=last)

    async def find_lost(self, partitions: Sequence[int]) -> admin_pb2.FindLostResponse:
        """What records in some partitions name and nobody has.

        Raises:
            Invalid: too many at once.
            NotFound: there is no such partition, or this node has no seat in it.
        """
        current = self._view()
        if len(partitions) > PARTITIONS_ASKED_MAX:
            raise Invalid(f"ask for at most {PARTITIONS_ASKED_MAX}", reason="bad-partitions")
        rows = current.table(current.default_profile).node_rows
        me = current.node_of_account(self._me)
        if me is None or not all(
            number < len(rows) and me.node_id in rows[number] for number in partitions
        ):
            raise NotFound("this node has no seat there", reason="unknown-partition")
        named = self._named()
        unfound = await named.take(current, partitions)
        unfound += await named.look(current)
        return admin_pb2.FindLostResponse(
            lost=[bytes(each.base) for each in unfound if each.lost],
            unheard=[bytes(each.base) for each in unfound if not each.lost],
        )

    async def _enter(self, shard: PlacedShard, audit: Audit) -> None:
        """Queue what was found bad, if it is this node's to have."""
        name = DamagedName(shard.base, shard.index, shard.profile)
        if place_here(self._view(), self._me, name) is not None:
            reason = MISSING if audit.state is ShardState.MISSING else audit.reason
            await self._runtime.disk(self._queue.found, *name.parts, reason)

    async def _audited(self, shard: PlacedShard) -> admin_pb2.AuditedShard:
        audit = await self._auditor.look(shard.base, shard.index, shard.profile)
        if audit.state is not ShardState.WHOLE and audit.reason != "other-layout":
            await self._enter(shard, audit)
        facts = await self._auditor.facts(shard.base, shard.profile)
        return admin_pb2.AuditedShard(
            base=bytes(shard.base),
            index=shard.index,
            profile=shard.profile,
            state=admin_pb2.ShardState.Name(audit.state),
            reason=audit.reason,
            bytes=audit.bytes,
            layout_profile=facts.profile,
            layout_version=facts.version,
            layout_digest=facts.layout_digest,
            committed=facts.committed,
            problem=facts.problem,
        )


def _stock(stock: Stock | None) -> admin_pb2.Stock:
    if stock is None:
        return admin_pb2.Stock()
    return admin_pb2.Stock(
        epoch=stock.epoch,
        began_ms=stock.began_ms,
        ended_ms=stock.ended_ms,
        rows=stock.rows,
        seats=stock.seats,
        waiting=stock.waiting,
        lacking=stock.lacking,
        blobs=[
            admin_pb2.LiveBlobs(profile=profile, live=live, blobs=blobs)
            for (profile, live), blobs in sorted(stock.by_live.items())
        ],
        full=stock.full,
        degraded=stock.degraded,
        lost=stock.lost,
        unreachable=stock.unreachable,
        gone=[bytes(base) for base in stock.gone],
    )


def _queued(entry: Damaged) -> admin_pb2.QueuedShard:
    name, shard = entry.name, entry.shard
    return admin_pb2.QueuedShard(
        base=bytes(name.base),
        index=name.index,
        profile=name.profile,
        reason=shard.reason,
        found_ms=shard.found_ms,
        live=-1 if shard.live is None else shard.live,
        attempts=shard.attempts,
        tried_ms=shard.tried_ms,
        error=shard.error,
        due_ms=entry.due_ms(),
    )
