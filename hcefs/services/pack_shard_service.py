"""The part of ``hcefs.v1.Shards`` that is about packs, for other nodes only.

As :mod:`.shard_service`: a holder trusts no gateway.  It checks the presenter's proof
and tokens again, that the proof names the TLS peer as the gateway, and that it is a
seat itself, or a stand-in where it is asked to be one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hcefs.access.batch import BatchGroup
from hcefs.errors import Corrupt, Invalid
from hcefs.formats.pack import PackLayout, PackOpening
from hcefs.ids import BlobBase, RequestId
from hcefs.integrity import crc32c
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.batch_desk import AskedBatch, BatchDesk
from hcefs.services.desk import Desk
from hcefs.services.serving import served
from hcefs.services.shard_service import ShardService
from hcefs.transport.grpc_peers import observe
from hcefs.transport.limit import ByteGate, Gate
from hcefs.transport.pack_messages import (
    batch_blobs,
    batch_groups,
    columns_message,
    columns_wanted,
    pack_group,
    pack_wanted,
    part_message,
)
from hcefs.transport.packs import BatchCall, PackPeer, PackShard
from hcefs.transport.peers import Call, Heads
from hcefs.wire.v1 import pack_pb2, shard_pb2

STORE_COPIES = 3
"""What a shard with its rows costs while it is stored: as it came, decoded, and as rows."""

ANSWER_BYTES = 8 << 20
"""What one answer costs while it is made."""

WANTED_MAX = 4096
"""Most things that one call may ask for: as many as a batch has blobs."""


class PackShardService:
    """Servicer over the local holder of packs."""

    def __init__(
        self,
        runtime: Runtime,
        desk: Desk,
        batches: BatchDesk,
        shards: ShardService,
        holder: PackPeer,
        heads: Heads,
        metrics: Metrics,
        gate: Gate,
        memory: ByteGate,
    ) -> None:
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._desk = desk
        self._batches = batches
        self._shards = shards
        self._holder = holder
        self._heads = heads
        self._memory = memory

    async def _admit(
        self,
        context: Any,
        sent: pack_pb2.BatchContext,
        method: str,
        groups: tuple[BatchGroup, ...] | None = None,
    ) -> BatchCall:
        observe(self._heads, context.invocation_metadata())
        gateway = self._desk.peer_of(context)
        if sent.method != method:
            raise Invalid(f"this call serves {method} only", reason="wrong-method")
        asked = AskedBatch(
            tuple(sent.authorization.tokens),
            sent.authorization.proof,
            method,
            batch_groups(sent.groups) if groups is None else groups,
            sent.min_height,
            sent.epoch,
            RequestId(sent.request_id),
        )
        call, _ = await self._batches.admit(asked, gateway=gateway, entry=False)
        return replace(call, stand_in=sent.stand_in)

    @served("store-pack")
    async def StorePack(
        self, request: shard_pb2.StorePackRequest, context: Any
    ) -> shard_pb2.StorePackResponse:
        """Keep one shard of a pack with all its rows."""
        with self._memory.hold(request.ByteSize() * STORE_COPIES):
            base = BlobBase(request.base)
            groups = tuple(pack_group(group) for group in request.groups)
            call = await self._admit(
                context, request.context, "put-many", batch_blobs(groups, base)
            )
            piece = request.piece  # every access makes a copy
            if crc32c(piece) != request.crc32c:
                raise Corrupt("a message was damaged on its way", reason="bad-checksum")
            profile = PackLayout.decode(request.layout).profile
            self._desk.require_holder(profile, base, request.index, call.stand_in)
            await self._holder.store_pack(
                call,
                PackShard(
                    base,
                    request.index,
                    request.layout,
                    piece,
                    request.piece_digest,
                    groups,
                    request.commit_by_ms,
                ),
            )
        return shard_pb2.StorePackResponse()

    @served("store-openings")
    async def StoreOpenings(
        self, request: shard_pb2.StoreOpeningsRequest, context: Any
    ) -> shard_pb2.StoreOpeningsResponse:
        """Keep pending openings of a pack."""
        with self._memory.hold(request.ByteSize() * STORE_COPIES):
            call = await self._admit(context, request.context, "put-many")
            for data in request.openings:
                record = PackOpening.decode(data).record
                self._desk.require_record_holder(record, call.stand_in)
            await self._holder.store_openings(call, list(request.openings), request.commit_by_ms)
        return shard_pb2.StoreOpeningsResponse()

    async def _reading(self, context: Any, request: Any) -> Call | BatchCall:
        """Who asks to read: a batch, or a request on one packed blob."""
        if len(request.wanted) > WANTED_MAX:
            raise Invalid(f"at most {WANTED_MAX} things at once", reason="too-large")
        if request.WhichOneof("context") == "batch":
            return await self._admit(context, request.batch, "get-many")
        return await self._shards.admit_call(context, request.call, "get", "stat")

    @served("load-packed")
    async def LoadPacked(
        self, request: shard_pb2.LoadPackedRequest, context: Any
    ) -> shard_pb2.LoadPackedResponse:
        """The manifest rows of packed payloads."""
        with self._memory.hold(ANSWER_BYTES):
            call = await self._reading(context, request)
            wanted = [pack_wanted(each) for each in request.wanted]
            parts = await self._holder.load_packed(call, wanted)
            return shard_pb2.LoadPackedResponse(
                parts=[part_message(*pair) for pair in zip(wanted, parts, strict=True)]
            )

    @served("load-columns")
    async def LoadColumns(
        self, request: shard_pb2.LoadColumnsRequest, context: Any
    ) -> shard_pb2.LoadColumnsResponse:
        """What this node's shards hold in the columns of some payloads."""
        with self._memory.hold(ANSWER_BYTES):
            call = await self._reading(context, request)
            if isinstance(call, Call) and call.method != "get":
                raise Invalid("columns are loaded for a get", reason="wrong-method")
            wanted = [columns_wanted(each) for each in request.wanted]
            columns = await self._holder.load_columns(call, wanted)
            return shard_pb2.LoadColumnsResponse(columns=map(columns_message, columns))
