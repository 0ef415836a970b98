"""Honest requests as raw messages, of which a test makes one thing wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hcefs.client.client import Client
from hcefs.ids import BlobId, RecordId
from hcefs.transport.framing import frame_data
from hcefs.wire.v1 import blob_pb2, shard_pb2
from tests.services.rig import HOUR_MS, MARK, Rig, Running

BLOBS = "/hcefs.v1.Blobs"
SHARDS = "/hcefs.v1.Shards"
DATA = MARK + b"the ground truth of a test"


def put_header(rig: Rig, node: Running, blob: BlobId, **fields: Any) -> blob_pb2.PutRequest:
    """The first message of a put by the hospital."""
    honest: dict[str, Any] = {
        "authorization": rig.authorization(rig.hospital, "put", node, rig.append_grant, blob=blob),
        "blob_id": bytes(blob),
        "record_id": bytes(rig.record),
        "generation": 0,
        "commit_by_ms": rig.runtime.now_ms() + HOUR_MS,
        "salt": rig.runtime.random(32),
        "min_height": rig.height,
        "request_id": rig.new_request(),
        "writer": bytes(rig.hospital.account),
    }
    return blob_pb2.PutRequest(header=blob_pb2.PutHeader(**(honest | fields)))


def put_trailer(
    rig: Rig, node: Running, blob: BlobId, length: int, **fields: Any
) -> blob_pb2.PutRequest:
    """The last message of a put by the hospital."""
    honest: dict[str, Any] = {
        "plaintext_length": length,
        "authorization": rig.authorization(rig.hospital, "put", node, rig.append_grant, blob=blob),
    }
    return blob_pb2.PutRequest(trailer=blob_pb2.PutTrailer(**(honest | fields)))


def put_messages(
    rig: Rig,
    node: Running,
    blob: BlobId,
    data: Sequence[bytes] = (DATA,),
    *,
    header: dict[str, Any] | None = None,
    trailer: dict[str, Any] | None = None,
) -> list[Any]:
    """A whole put; ``header`` and ``trailer`` replace fields."""
    length = sum(map(len, data))
    return [
        put_header(rig, node, blob, **(header or {})),
        *(frame_data(part) for part in data),
        put_trailer(rig, node, blob, length, **(trailer or {})),
    ]


async def put(rig: Rig, node: Running, messages: Sequence[Any]) -> blob_pb2.PutResponse:
    answer = await rig.upload(node.config.client_address, f"{BLOBS}/Put", messages)
    return blob_pb2.PutResponse.FromString(answer)


def get_request(rig: Rig, node: Running, **fields: Any) -> blob_pb2.GetRequest:
    """A get of the rig's blob by the doctor, sealed, so that it needs no key."""
    blob = rig.receipt.ref.blob
    start, length = fields.get("range_start", 0), fields.get("range_length", 0)
    honest: dict[str, Any] = {
        "blob_id": bytes(blob),
        "record_id": bytes(rig.record),
        "min_height": rig.height,
        "request_id": rig.new_request(),
    }
    if not {"dek", "secrets", "sealed"} & set(fields):
        honest["sealed"] = True
    if "authorization" not in fields:
        honest["authorization"] = rig.authorization(
            rig.doctor,
            "get",
            node,
            rig.read_grant,
            blob=BlobId(fields.get("blob_id", bytes(blob))),
            range_start=start,
            range_length=length,
        )
    return blob_pb2.GetRequest(**(honest | fields))


async def get(rig: Rig, node: Running, **fields: Any) -> list[bytes]:
    return await rig.download(
        node.config.client_address, f"{BLOBS}/Get", get_request(rig, node, **fields)
    )


ASKED: dict[str, tuple[str, type[Any]]] = {
    "stat": ("Stat", blob_pb2.StatRequest),
    "list": ("List", blob_pb2.ListRequest),
    "boxes": ("GetBoxes", blob_pb2.GetBoxesRequest),
}


async def ask(
    rig: Rig, node: Running, method: str, authorization: blob_pb2.Authorization, **fields: Any
) -> list[bytes]:
    """``stat``, ``get``, ``list``, ``boxes`` or ``put`` with any authorization."""
    if method == "get":
        return await get(rig, node, authorization=authorization, **fields)
    if method == "put":
        blob = rig.receipt.ref.blob
        header = put_header(rig, node, blob, authorization=authorization, **fields)
        answer = await rig.upload(node.config.client_address, f"{BLOBS}/Put", [header])
        return [answer]
    name, kind = ASKED[method]
    honest: dict[str, Any] = {
        "authorization": authorization,
        "record_id": bytes(rig.record),
        "min_height": rig.height,
        "request_id": rig.new_request(),
    }
    if method == "stat":
        honest["blob_id"] = bytes(rig.receipt.ref.blob)
    return await rig.download(
        node.config.client_address, f"{BLOBS}/{name}", kind(**(honest | fields))
    )


def right_of(rig: Rig, method: str) -> tuple[Client, Any, BlobId | None]:
    """Who may call a method by which grant, and on which blob."""
    if method == "put":
        return rig.hospital, rig.append_grant, rig.receipt.ref.blob
    blob = rig.receipt.ref.blob if method in ("stat", "get") else None
    return rig.doctor, rig.read_grant, blob


def call_context(
    rig: Rig,
    gateway: Running,
    method: str,
    *,
    blob: BlobId | None = None,
    record: RecordId | None = None,
    **fields: Any,
) -> shard_pb2.CallContext:
    """What an honest gateway sends to a holder."""
    client, grant, _ = right_of(rig, method)
    named = record or rig.record
    honest: dict[str, Any] = {
        "authorization": rig.authorization(client, method, gateway, grant, blob=blob, record=named),
        "method": method,
        "record_id": bytes(named),
        "blob_id": bytes(blob) if blob is not None else b"",
        "min_height": rig.height,
        "epoch": 1,
        "request_id": rig.new_request(),
    }
    return shard_pb2.CallContext(**(honest | fields))


async def manifest_from(
    rig: Rig, gateway: Running, holder: Running, **fields: Any
) -> shard_pb2.LoadManifestResponse:
    """``LoadManifest`` of the rig's blob, called by one node of another."""
    context = call_context(rig, gateway, "get", blob=rig.receipt.ref.blob, **fields)
    answer = await rig.unary(
        holder.config.peer_address,
        f"{SHARDS}/LoadManifest",
        shard_pb2.LoadManifestRequest(context=context),
        gateway.identity,
    )
    return shard_pb2.LoadManifestResponse.FromString(answer)
