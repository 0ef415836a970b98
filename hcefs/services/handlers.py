"""Method tables: which servicer method answers which RPC, all on raw message bytes.

Messages are decoded here and not by gRPC, so that malformed bytes get a typed
``Invalid`` instead of gRPC's nameless internal error, and bulk messages are
never copied through protobuf.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from hcefs.errors import HcefsError
from hcefs.services.admin_service import AdminService
from hcefs.services.audit_service import AuditService
from hcefs.services.backup_service import BackupService
from hcefs.services.blob_service import BlobService
from hcefs.services.ledger_service import LedgerService
from hcefs.services.messages import decoded
from hcefs.services.pack_service import PackService
from hcefs.services.pack_shard_service import PackShardService
from hcefs.services.replica_service import ReplicaService
from hcefs.services.revocation_service import RevocationService
from hcefs.services.shard_service import ShardService
from hcefs.services.snapshot_service import SnapshotService
from hcefs.services.upkeep_service import UpkeepService
from hcefs.transport.status import abort
from hcefs.wire.v1 import (
    admin_pb2,
    audit_pb2,
    backup_pb2,
    blob_pb2,
    ledger_pb2,
    replica_pb2,
    revocation_pb2,
    shard_pb2,
    snapshot_pb2,
    upkeep_pb2,
)


def unary(kind: type[Message], method: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    """One message in, one out."""

    async def handler(data: bytes, context: Any) -> bytes:
        try:
            request = decoded(kind, data)
        except HcefsError as error:
            await abort(context, error)
        answer = await method(request, context)
        return bytes(answer.SerializeToString())

    return grpc.unary_unary_rpc_method_handler(handler)


def streaming(kind: type[Message], method: Callable[[Any, Any], Awaitable[None]]) -> Any:
    """One message in, many out."""

    async def handler(data: bytes, context: Any) -> None:
        try:
            request = decoded(kind, data)
        except HcefsError as error:
            await abort(context, error)
        await method(request, context)

    return grpc.unary_stream_rpc_method_handler(handler)


def bidirectional(
    kind: type[Message], method: Callable[[AsyncIterator[Any], Any], Awaitable[None]]
) -> Any:
    """Many messages in, many out."""

    async def handler(messages: AsyncIterator[bytes], context: Any) -> None:
        async def requests() -> AsyncIterator[Any]:
            async for data in messages:
                yield decoded(kind, data)

        await method(requests(), context)

    return grpc.stream_stream_rpc_method_handler(handler)


def blob_handlers(service: BlobService, packs: PackService) -> Any:
    """``hcefs.v1.Blobs``."""
    return grpc.method_handlers_generic_handler(
        "hcefs.v1.Blobs",
        {
            "Put": grpc.stream_unary_rpc_method_handler(service.Put),
            "Get": grpc.unary_stream_rpc_method_handler(service.Get),
            "Stat": unary(blob_pb2.StatRequest, service.Stat),
            "List": streaming(blob_pb2.ListRequest, service.List),
            "StateRecord": unary(blob_pb2.StateRecordRequest, service.StateRecord),
            "PutBox": unary(blob_pb2.PutBoxRequest, service.PutBox),
            "PutLink": unary(blob_pb2.PutLinkRequest, service.PutLink),
            "GetBoxes": unary(blob_pb2.GetBoxesRequest, service.GetBoxes),
            "PutMany": grpc.stream_unary_rpc_method_handler(packs.PutMany),
            "GetMany": grpc.unary_stream_rpc_method_handler(packs.GetMany),
        },
    )


def shard_handlers(service: ShardService, packs: PackShardService | None = None) -> Any:
    """``hcefs.v1.Shards``; ``packs`` are for other nodes only, hints for direct clients.

    Nodes give hints of their own (:meth:`UpkeepService.Hint`).
    """
    methods = {
        "Store": grpc.stream_unary_rpc_method_handler(service.Store),
        "StoreWhole": unary(shard_pb2.StoreWholeRequest, service.StoreWhole),
        "LoadPieces": unary(shard_pb2.LoadRequest, service.LoadPieces),
        "Load": grpc.unary_stream_rpc_method_handler(service.Load),
        "StoreOpening": unary(shard_pb2.StoreOpeningRequest, service.StoreOpening),
        "StoreBox": unary(shard_pb2.StoreBoxRequest, service.StoreBox),
        "LoadManifest": unary(shard_pb2.LoadManifestRequest, service.LoadManifest),
        "LoadListing": streaming(shard_pb2.LoadListingRequest, service.LoadListing),
        "LoadBoxes": unary(shard_pb2.LoadBoxesRequest, service.LoadBoxes),
    }
    if packs is None:
        methods["Hint"] = unary(shard_pb2.HintShardRequest, service.Hint)
    else:
        methods |= {
            "StorePack": unary(shard_pb2.StorePackRequest, packs.StorePack),
            "StoreOpenings": unary(shard_pb2.StoreOpeningsRequest, packs.StoreOpenings),
            "LoadPacked": unary(shard_pb2.LoadPackedRequest, packs.LoadPacked),
            "LoadColumns": unary(shard_pb2.LoadColumnsRequest, packs.LoadColumns),
        }
    return grpc.method_handlers_generic_handler("hcefs.v1.Shards", methods)


def audit_handlers(service: AuditService) -> Any:
    """``hcefs.v1.Audit``."""
    return grpc.method_handlers_generic_handler(
        "hcefs.v1.Audit",
        {"ListReceipts": unary(audit_pb2.ListReceiptsRequest, service.ListReceipts)},
    )


def upkeep_handlers(service: UpkeepService) -> Any:
    """``hcefs.v1.Upkeep``."""
    return grpc.method_handlers_generic_handler(
        "hcefs.v1.Upkeep",
        {
            "ListShards": unary(upkeep_pb2.ListShardsRequest, service.ListShards),
            "ListRecords": unary(upkeep_pb2.ListRecordsRequest, service.ListRecords),
            "LoadRows": unary(upkeep_pb2.LoadRowsRequest, service.LoadRows),
            "LoadShard": grpc.unary_stream_rpc_method_handler(service.LoadShard),
            "LoadRecord": unary(upkeep_pb2.LoadRecordRequest, service.LoadRecord),
            "HasShards": unary(upkeep_pb2.HasShardsRequest, service.HasShards),
            "HasRows": unary(upkeep_pb2.HasRowsRequest, service.HasRows),
            "ManifestDigests": unary(upkeep_pb2.ManifestDigestsRequest, service.ManifestDigests),
            "Hint": unary(upkeep_pb2.HintRequest, service.Hint),
            "Offer": unary(upkeep_pb2.OfferRequest, service.Offer),
            "Ping": unary(upkeep_pb2.PingRequest, service.Ping),
            "TakeLayout": unary(upkeep_pb2.TakeLayoutRequest, service.TakeLayout),
        },
    )


def ledger_handlers(service: LedgerService) -> Any:
    """``hcefs.v1.Ledger``."""
    return grpc.method_handlers_generic_handler(
        "hcefs.v1.Ledger",
        {
            "GetGenesis": unary(ledger_pb2.GetGenesisRequest, service.GetGenesis),
            "Submit": unary(ledger_pb2.SubmitRequest, service.Submit),
            "Follow": bidirectional(ledger_pb2.FollowRequest, service.Follow),
            "Query": unary(ledger_pb2.QueryRequest, service.Query),
            "HasLeaf": unary(ledger_pb2.HasLeafRequest, service.HasLeaf),
            "HasLeaves": unary(ledger_pb2.HasLeavesRequest, service.HasLeaves),
            "Prove": unary(ledger_pb2.ProveRequest, service.Prove),
            "ProveTransactions": unary(
                ledger_pb2.ProveTransactionsRequest, service.ProveTransactions
            ),
        },
    )


def snapshot_handlers(service: SnapshotService) -> Any:
    """``hcefs.v1.Snapshots``."""
    return grpc.method_handlers_generic_handler(
        "hcefs.v1.Snapshots",
        {
            "OfferSnapshot": unary(snapshot_pb2.OfferSnapshotRequest, service.OfferSnapshot),
            "ReadSnapshot": streaming(snapshot_pb2.ReadSnapshotRequest, service.ReadSnapshot),
        },
    )


def replica_handlers(service: ReplicaService) -> Any:
    """``hcefs.v1.Replica``."""
    return grpc.method_handlers_generic_handler(
        "hcefs.v1.Replica",
        {
            "Describe": unary(replica_pb2.DescribeRequest, service.Describe),
            "ReadBlocks": streaming(replica_pb2.ReadBlocksRequest, service.ReadBlocks),
            "BeginTerm": unary(replica_pb2.BeginTermRequest, service.BeginTerm),
        },
    )


def backup_handlers(service: BackupService) -> Any:
    """``hcefs.v1.Backups``."""
    return grpc.method_handlers_generic_handler(
        "hcefs.v1.Backups",
        {"ReadRows": streaming(backup_pb2.ReadRowsRequest, service.ReadRows)},
    )


def revocation_handlers(service: RevocationService) -> Any:
    """``hcefs.v1.Revocations``."""
    return grpc.method_handlers_generic_handler(
        "hcefs.v1.Revocations",
        {
            "ConfirmRevocation": unary(
                revocation_pb2.ConfirmRevocationRequest, service.ConfirmRevocation
            ),
        },
    )


def admin_handlers(service: AdminService) -> Any:
    """``hcefs.v1.Admin``."""
    return grpc.method_handlers_generic_handler(
        "hcefs.v1.Admin",
        {
            "Status": unary(admin_pb2.StatusRequest, service.Status),
            "Inventory": unary(admin_pb2.InventoryRequest, service.Inventory),
            "RepairStatus": unary(admin_pb2.RepairStatusRequest, service.RepairStatus),
            "RepairNow": unary(admin_pb2.RepairNowRequest, service.RepairNow),
            "RepairList": unary(admin_pb2.RepairListRequest, service.RepairList),
            "Explain": unary(admin_pb2.ExplainRequest, service.Explain),
            "Verify": unary(admin_pb2.VerifyRequest, service.Verify),
            "FindLost": unary(admin_pb2.FindLostRequest, service.FindLost),
            "Scrub": unary(admin_pb2.ScrubRequest, service.Scrub),
            "Collect": unary(admin_pb2.CollectRequest, service.Collect),
            "StateErasure": unary(admin_pb2.StateErasureRequest, service.StateErasure),
        },
    )
