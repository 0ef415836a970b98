"""The ``Upkeep`` service: other nodes that take over seats ask for lists, rows and shards.

On the peer port only.  No client's right stands behind such a call, so the map must: a
node is answered about a partition only if the map in force here gives it a seat of the
row or names it as the source of one, and its account is active.  Such loads are bounded
in number and counted.  Any active node may say what it has (``Offer``): who stands in for a
seat gives, and takes nothing.

Stated limit: a malicious holder can gather ciphertext of its own partitions.
Source: docs/ARCHITECTURE.md, "Rights"; docs/decisions/0019-change-without-a-gap.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

from hcefs.errors import Denied, Invalid
from hcefs.evidence.upkeep_tally import UpkeepTally
from hcefs.ids import AccountId, BlobBase, RecordId
from hcefs.ledger.cluster_facts import UpkeepPolicy
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import SEATS_MAX, ClusterMap, Node
from hcefs.placement.ring import partition_of, position_of, positions_of
from hcefs.placement.waves import is_concerned
from hcefs.runtime import Runtime
from hcefs.services.desk import GIVING, Desk
from hcefs.services.messages import decoded
from hcefs.services.serving import is_restoring, served, streamed
from hcefs.services.shard_service import wire_header
from hcefs.stripes.exports import Exporter
from hcefs.stripes.relayout import LayoutTaker, targets
from hcefs.stripes.reseat import other_epoch
from hcefs.transport.grpc_peers import HEAD_KEY, observe
from hcefs.transport.grpc_upkeep import rows_message, rows_of
from hcefs.transport.limit import Gate
from hcefs.transport.node_facts import NodeFacts
from hcefs.transport.peers import Heads
from hcefs.transport.upkeep import PARTITIONS_ASKED_MAX, LayoutStep, Place, ShardName
from hcefs.transport.versions import versions_in, versions_message
from hcefs.wire.v1 import shard_pb2, upkeep_pb2

SHARDS_ASKED_MAX = 1000
ROWS_ASKED_MAX = 4096
HINTS_MAX = 256
BASES_COMPARED_MAX = 256


class Offers(Protocol):
    """What fetches what other nodes give."""

    def offer(
        self,
        current: ClusterMap,
        place: Place,
        shards: Sequence[ShardName],
        records: Sequence[RecordId],
        giver: Node,
    ) -> frozenset[ShardName]:
        """Note what a node gives; forgets it when there is too much.

        The shards that it need not keep all the same.
        """


class UpkeepService:
    """Servicer over what this node has."""

    def __init__(
        self,
        runtime: Runtime,
        desk: Desk,
        exporter: Exporter,
        heads: Heads,
        metrics: Metrics,
        gate: Gate,
        taker: LayoutTaker,
        policy: Callable[[], UpkeepPolicy],
        hints: Callable[[AccountId, str, Sequence[ShardName]], int],
        offers: Offers,
        tally: UpkeepTally,
        restoring: Callable[[], bool] = lambda: False,
        facts: Callable[[], NodeFacts | None] = lambda: None,
    ) -> None:
        """``policy`` is the one in force: it says which profiles are to be left; ``hints``
        takes what a node says about this one's shards, and tells how much of it; ``offers``
        takes what other nodes give; ``tally`` counts what leaves; ``restoring``: what is not
        found here may be there all the same; ``facts`` is what this node tells about itself."""
        self.restoring = restoring
        self._facts = facts
        self._hints = hints
        self._offers = offers
        self._tally = tally
        self._taker = taker
        self._policy = policy
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._desk = desk
        self._exporter = exporter
        self._heads = heads

    async def _admit(
        self, context: Any, place: upkeep_pb2.Place, *, seated: bool = True, base: bytes = b""
    ) -> tuple[ClusterMap, range]:
        """Who asks, and about which positions of the ring.

        About a ``base`` those may ask, too, who are to re-profile it to that profile.

        Raises:
            Unavailable: this node may not answer now, or has another map.
            Unauthenticated: it is no active node of the map.
            Denied: it has nothing to do with that partition.
            Invalid, NotFound: there is no such partition.
        """
        observe(self._heads, context.invocation_metadata())
        self._desk.follower.require_fresh()
        # Who was given up may come back with what nobody else has: it gives, and takes nothing.
        current = self._desk.cluster_map(GIVING)
        if place.epoch > current.epoch:
            current = await self._desk.newer_map(place.epoch - 1, GIVING)
        if place.epoch != current.epoch:
            raise other_epoch(current.epoch, place.epoch)
        peer = self._desk.peer_of(context, GIVING)
        positions = positions_of(place.partition, current.table(place.profile).bits)
        if (
            seated
            and not _is_seated(current, place.profile, place.partition, peer)
            and not (base and self._may_reprofile(current, place.profile, base, peer))
        ):
            raise _no_seat()
        return current, positions

    async def _admit_all(
        self, context: Any, place: upkeep_pb2.Place, also: Sequence[int]
    ) -> tuple[ClusterMap, list[range]]:
        """As :meth:`_admit`, about several partitions of one table.

        Raises:
            Invalid: also ``bad-partitions``: too many, or not in ascending order.
        """
        numbers = [place.partition, *also]
        if len(numbers) > PARTITIONS_ASKED_MAX or any(
            one >= other for one, other in pairwise(numbers)
        ):
            raise Invalid(
                f"ask for at most {PARTITIONS_ASKED_MAX} partitions, in ascending order",
                reason="bad-partitions",
            )
        current, positions = await self._admit(context, place)
        partitions = [positions]
        table, peer = current.table(place.profile), self._desk.peer_of(context, GIVING)
        for number in also:
            partitions.append(positions_of(number, table.bits))
            if not _is_seated(current, place.profile, number, peer):
                raise _no_seat()
        return current, partitions

    def _may_reprofile(
        self, current: ClusterMap, profile: str, base: bytes, peer: AccountId
    ) -> bool:
        """Whether a node has a seat of a base under a profile that is to be left for this one."""
        known = {table.profile: table for table in current.tables}
        return any(
            _is_seated(current, start, partition_of(base, known[start].bits), peer)
            for start, end in targets(self._policy()).items()
            if end == profile and start in known
        )

    def _require_sure(self) -> None:
        """Check that what this node lacks is not only lost for now.

        Raises:
            Unavailable: ``restoring``.
        """
        if self.restoring():
            raise is_restoring()

    @served("list-shards")
    async def ListShards(
        self, request: upkeep_pb2.ListShardsRequest, context: Any
    ) -> upkeep_pb2.ListShardsResponse:
        """A page of some partitions' shards, once older puts have settled."""
        _, partitions = await self._admit_all(context, request.place, request.also)
        self._require_sure()
        place = request.place
        shards, following = await self._exporter.list_shards(
            place.epoch, partitions, place.profile, request.after
        )
        return upkeep_pb2.ListShardsResponse(
            shards=[
                upkeep_pb2.ListedShard(base=bytes(each.base), index=each.index) for each in shards
            ],
            next=following,
        )

    @served("list-records")
    async def ListRecords(
        self, request: upkeep_pb2.ListRecordsRequest, context: Any
    ) -> upkeep_pb2.ListRecordsResponse:
        """A page of the records that lie in some partitions."""
        current, partitions = await self._admit_all(context, request.place, request.also)
        self._require_sure()
        _require_default(current, request.place)
        records, following = await self._exporter.list_records(
            request.place.epoch, partitions, request.after
        )
        return upkeep_pb2.ListRecordsResponse(
            records=[
                upkeep_pb2.ListedRecord(record_id=bytes(each.record), digest=each.digest)
                for each in records
            ],
            next=following,
        )

    @served("load-rows")
    async def LoadRows(
        self, request: upkeep_pb2.LoadRowsRequest, context: Any
    ) -> upkeep_pb2.LoadRowsResponse:
        """The rows of one blob or pack."""
        _, positions = await self._admit(context, request.place, base=request.base)
        base = BlobBase(_inside(request.base, positions))
        rows = rows_message(await self._exporter.load_rows(base, request.place.profile))
        self._tally.add(self._desk.peer_of(context, GIVING), rows.ByteSize(), 1)
        return rows

    @streamed("load-shard-copy")
    async def LoadShard(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Server-streaming: header, data..."""
        message = decoded(upkeep_pb2.LoadShardRequest, request)
        _, positions = await self._admit(context, message.place, base=message.base)
        base = BlobBase(_inside(message.base, positions))
        index = _index(message.index)
        peer = self._desk.peer_of(context, GIVING)
        self._tally.add(peer, 0, 1)
        download = await self._exporter.load_shard(
            base, index, message.first, message.place.profile
        )
        try:
            header = await download.header()
            yield shard_pb2.LoadResponse(header=wire_header(header)).SerializeToString()
            async for frame in download.frames():
                self.metrics.count("upkeep_served_bytes_total", len(frame))
                self._tally.add(peer, len(frame))
                yield frame
        finally:
            await download.cancel()

    @served("load-record")
    async def LoadRecord(
        self, request: upkeep_pb2.LoadRecordRequest, context: Any
    ) -> upkeep_pb2.LoadRecordResponse:
        """A page of one record's openings, boxes and links."""
        current, positions = await self._admit(context, request.place)
        _require_default(current, request.place)
        record = RecordId(_inside(request.record_id, positions))
        rows, following = await self._exporter.load_record(record, request.after)
        size = sum(map(len, (*(each for each, _ in rows.openings), *rows.boxes, *rows.links)))
        self._tally.add(self._desk.peer_of(context, GIVING), size, 1)
        return upkeep_pb2.LoadRecordResponse(
            openings=[
                upkeep_pb2.PendingOpening(opening=opening, commit_by_ms=until)
                for opening, until in rows.openings
            ],
            boxes=rows.boxes,
            links=rows.links,
            next=following,
        )

    @served("has-shards")
    async def HasShards(
        self, request: upkeep_pb2.HasShardsRequest, context: Any
    ) -> upkeep_pb2.HasShardsResponse:
        """Which of some shards are here.  A former holder asks before it deletes its own."""
        _, positions = await self._admit(context, request.place, seated=False)
        if len(request.shards) > SHARDS_ASKED_MAX:
            raise Invalid(f"ask for at most {SHARDS_ASKED_MAX} shards", reason="too-large")
        shards = [
            ShardName(BlobBase(_inside(each.base, positions)), _index(each.index))
            for each in request.shards
        ]
        held = await self._exporter.has_shards(shards, request.place.profile)
        if not all(held):
            self._require_sure()
        return upkeep_pb2.HasShardsResponse(held=bytes(held))

    @served("has-rows")
    async def HasRows(
        self, request: upkeep_pb2.HasRowsRequest, context: Any
    ) -> upkeep_pb2.HasRowsResponse:
        """Which rows of a record are here.  A former seat asks before it deletes its own."""
        current, positions = await self._admit(context, request.place, seated=False)
        _require_default(current, request.place)
        if len(request.digests) > ROWS_ASKED_MAX:
            raise Invalid(f"ask for at most {ROWS_ASKED_MAX} rows", reason="too-large")
        record = RecordId(_inside(request.record_id, positions))
        held = await self._exporter.has_rows(record, request.digests)
        if not all(held):
            self._require_sure()
        return upkeep_pb2.HasRowsResponse(held=bytes(held))

    @served("manifest-digests")
    async def ManifestDigests(
        self, request: upkeep_pb2.ManifestDigestsRequest, context: Any
    ) -> upkeep_pb2.ManifestDigestsResponse:
        """What is here of some bases, as digests that holders compare."""
        _, partitions = await self._admit_all(context, request.place, request.also)
        if len(request.bases) > BASES_COMPARED_MAX:
            raise Invalid(f"ask for at most {BASES_COMPARED_MAX} bases", reason="too-large")
        bases = []
        for each in request.bases:
            if not any(position_of(each) in positions for positions in partitions):
                raise Denied("that lies in another partition", reason="wrong-partition")
            bases.append(BlobBase(each))
        digests = await self._exporter.manifest_digests(bases, request.place.profile)
        return upkeep_pb2.ManifestDigestsResponse(digests=digests)

    @served("hint")
    async def Hint(self, request: upkeep_pb2.HintRequest, context: Any) -> upkeep_pb2.HintResponse:
        """Take hints about this node's own shards."""
        current, positions = await self._admit(context, request.place, seated=False)
        if len(request.shards) > HINTS_MAX:
            raise Invalid(f"give at most {HINTS_MAX} hints", reason="too-large")
        n = current.table(request.place.profile).n
        shards = [
            ShardName(BlobBase(_inside(each.base, positions)), _index(each.index, n))
            for each in request.shards
        ]
        giver = self._desk.peer_of(context)
        return upkeep_pb2.HintResponse(taken=self._hints(giver, request.place.profile, shards))

    @served("offer")
    async def Offer(
        self, request: upkeep_pb2.OfferRequest, context: Any
    ) -> upkeep_pb2.OfferResponse:
        """Which of some shards need not be kept; the others are fetched from the caller."""
        current, positions = await self._admit(context, request.place, seated=False)
        if max(len(request.shards), len(request.records)) > SHARDS_ASKED_MAX:
            raise Invalid(f"offer at most {SHARDS_ASKED_MAX} shards at once", reason="too-large")
        if request.records:
            _require_default(current, request.place)
        shards = [
            ShardName(BlobBase(_inside(each.base, positions)), _index(each.index))
            for each in request.shards
        ]
        records = [RecordId(_inside(each, positions)) for each in request.records]
        place = Place(request.place.epoch, request.place.profile, request.place.partition)
        held = await self._exporter.has_shards(shards, place.profile)
        giver = current.node_of_account(self._desk.peer_of(context, GIVING))
        if giver is not None:
            missing = [each for each, here in zip(shards, held, strict=True) if not here]
            needless = self._offers.offer(current, place, missing, records, giver)
            held = [here or each in needless for each, here in zip(shards, held, strict=True)]
        return upkeep_pb2.OfferResponse(held=bytes(held))

    # Outside the gate: a node that is busy with copies is not away, and this holds nothing.
    @served("ping", gated=False)
    async def Ping(self, request: upkeep_pb2.PingRequest, context: Any) -> upkeep_pb2.PingResponse:
        """That this node serves.  Heads go both ways, so pings spread the lease too.

        Raises:
            Unavailable: this node may not answer anybody now.
            Unauthenticated: the caller is no active node of the map.
            Conflict: ``version-refused``: this node cannot talk to its software.
        """
        observe(self._heads, context.invocation_metadata())
        self._desk.hear_versions(context, versions_in(request))
        head = self._heads.current()
        await context.send_initial_metadata([(HEAD_KEY, head)] if head else [])
        self._desk.follower.require_fresh()
        current = self._desk.cluster_map()
        facts = self._facts()
        return upkeep_pb2.PingResponse(
            epoch=current.epoch,
            height=self._desk.view.height,
            versions=versions_message(),
            facts=facts.message() if facts is not None else None,
        )

    @served("take-layout")
    async def TakeLayout(
        self, request: upkeep_pb2.TakeLayoutRequest, context: Any
    ) -> upkeep_pb2.TakeLayoutResponse:
        """Take part in re-profiling a base."""
        place = request.place
        current, positions = await self._admit(context, place, base=request.base)
        base = BlobBase(_inside(request.base, positions))
        giver = current.node_of_account(self._desk.peer_of(context))
        try:
            step = LayoutStep(request.step)
        except ValueError:
            raise Invalid("there is no such step", reason="bad-message") from None
        if giver is None:
            raise Denied("the map does not name you", reason="not-a-seat")
        await self._taker.take(
            Place(place.epoch, place.profile, place.partition),
            base,
            step,
            rows_of(request.rows),
            giver,
        )
        return upkeep_pb2.TakeLayoutResponse()


def _no_seat() -> Denied:
    return Denied(
        "the map names you neither as seat nor as source of that partition", reason="not-a-seat"
    )


def _is_seated(current: ClusterMap, profile: str, partition: int, peer: AccountId) -> bool:
    """Whether a node is seat, destination or source in a row."""
    node = current.node_of_account(peer)
    return node is not None and is_concerned(current, profile, partition, node.node_id)


def _require_default(current: ClusterMap, place: upkeep_pb2.Place) -> None:
    if place.profile != current.default_profile:
        raise Invalid("records lie under the default profile", reason="wrong-profile")


def _index(index: int, n: int = SEATS_MAX) -> int:
    if not 0 <= index < n:
        raise Invalid(f"no profile has an index {index}", reason="bad-index")
    return index


def _inside(name: bytes, positions: range) -> bytes:
    """A base or record id, if it lies in the partition that was admitted."""
    if position_of(name) not in positions:
        raise Denied("that lies in another partition", reason="wrong-partition")
    return name
