"""Honest packs as raw messages, of which a test makes one thing wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hcefs.access.batch import BatchGroup, batch_digest
from hcefs.access.facts import Grant
from hcefs.blobs.pack import PackItem, SealedPack, seal_pack
from hcefs.client.client import Client
from hcefs.client.put_many import Payload, group_messages, ids_of
from hcefs.client.receipts import PutReceipt
from hcefs.erasure.scheme import profile_named
from hcefs.formats.pack import PackLayout, join_lengths, join_slots, pack_profile
from hcefs.ids import BlobId, RecordId
from hcefs.integrity import crc32c, shard_digest
from hcefs.stripes.pack_write import PackBody
from hcefs.transport.framing import frame_data
from hcefs.wire.v1 import pack_pb2, shard_pb2
from tests.services.requests import BLOBS, SHARDS
from tests.services.rig import HOUR_MS, MARK, Rig, Running


def payloads_of(rig: Rig, count: int, size: int = 400) -> list[Payload]:
    return [Payload(rig.record, MARK + rig.runtime.random(size)) for _ in range(count)]


def sealed_pack(rig: Rig, payloads: Sequence[bytes], record: RecordId | None = None) -> SealedPack:
    """Payloads of one record, sealed as the hospital would."""
    named = record or rig.record
    key = rig.keys_of(rig.patient).record_key(named, 0).public_key
    return seal_pack(
        rig.cluster,
        rig.hospital_keys.account,
        rig.runtime.now_ms() + HOUR_MS,
        [PackItem(named, 0, key, payload) for payload in payloads],
        rig.runtime.random,
    )


def scope_of(pack: SealedPack) -> list[BatchGroup]:
    return [BatchGroup(0, group.record, ids_of(group)) for group in pack.groups]


def batch_authorization(
    rig: Rig,
    client: Client,
    method: str,
    gateway: Running,
    grant: Grant | None,
    groups: Sequence[BatchGroup],
    *,
    token: bytes = b"",
    says: Mapping[str, Any] | None = None,
    **fields: Any,
) -> pack_pb2.BatchAuthorization:
    """An honest authorization of a batch, except for ``fields`` of its proof.

    ``says`` is the same, for fields that have the names of parameters.
    """
    keys = rig.keys_of(client)
    token = token or rig.token(keys, grant.grant if grant else rig.append_grant.grant)
    honest: dict[str, Any] = {
        "token_hash": batch_digest([token], groups),
        "gateway": gateway.account,
        "purpose": "TREAT" if grant else "PATRQT",
    }
    proof = rig.proof(keys, method, **(honest | fields | dict(says or {})))
    return pack_pb2.BatchAuthorization(tokens=[token], proof=proof)


@dataclass
class PutMany:
    """The messages of one put; a test replaces what it likes."""

    header: pack_pb2.PutManyHeader
    groups: list[pack_pb2.PackGroup]
    body: bytes

    def messages(self) -> list[Any]:
        half = len(self.body) // 2
        return [
            pack_pb2.PutManyRequest(header=self.header),
            pack_pb2.PutManyRequest(groups=pack_pb2.PackGroups(groups=self.groups)),
            frame_data(self.body[:half]),
            frame_data(self.body[half:]),
        ]


def put_many(rig: Rig, node: Running, pack: SealedPack, **fields: Any) -> PutMany:
    """A put of a pack by the hospital; ``fields`` replace those of the header."""
    honest: dict[str, Any] = {
        "authorization": batch_authorization(
            rig, rig.hospital, "put-many", node, rig.append_grant, scope_of(pack)
        ),
        "base": bytes(pack.base),
        "lengths": join_lengths(list(pack.lengths)),
        "commit_by_ms": rig.runtime.now_ms() + HOUR_MS,
        "writer": bytes(rig.hospital.account),
        "groups": len(pack.groups),
        "min_height": rig.height,
        "request_id": rig.new_request(),
    }
    (groups,) = group_messages(pack.groups, [0] * len(pack.groups))
    return PutMany(pack_pb2.PutManyHeader(**(honest | fields)), groups, bytes(pack.body))


async def send(rig: Rig, node: Running, messages: Sequence[Any]) -> pack_pb2.PutManyResponse:
    answer = await rig.upload(node.config.client_address, f"{BLOBS}/PutMany", messages)
    return pack_pb2.PutManyResponse.FromString(answer)


def groups_of(receipts: Sequence[PutReceipt]) -> list[BatchGroup]:
    """The payloads of some receipts as one group."""
    blobs = b"".join(bytes(receipt.ref.blob) for receipt in receipts)
    return [BatchGroup(0, receipts[0].ref.record, blobs)]


def get_many(
    rig: Rig, node: Running, groups: Sequence[BatchGroup], **fields: Any
) -> pack_pb2.GetManyRequest:
    """A get by the doctor."""
    honest: dict[str, Any] = {
        "authorization": batch_authorization(
            rig, rig.doctor, "get-many", node, rig.read_grant, groups
        ),
        "groups": group_messages_of(groups),
        "min_height": rig.height,
        "request_id": rig.new_request(),
    }
    return pack_pb2.GetManyRequest(**(honest | fields))


def group_messages_of(groups: Sequence[BatchGroup]) -> list[pack_pb2.BatchGroup]:
    return [
        pack_pb2.BatchGroup(token=group.token, record_id=bytes(group.record), blob_ids=group.blobs)
        for group in groups
    ]


async def receive(
    rig: Rig, node: Running, request: pack_pb2.GetManyRequest
) -> dict[BlobId, pack_pb2.PackedPayload]:
    """What a node answers, by blob."""
    answers = await rig.download(node.config.client_address, f"{BLOBS}/GetMany", request)
    found: dict[BlobId, pack_pb2.PackedPayload] = {}
    for data in answers:
        assert len(data) < 1 << 20
        for part in pack_pb2.GetManyResponse.FromString(data).parts:
            for payload in part.payloads:
                found[BlobId.of(part.base, payload.slot)] = payload
    return found


def batch_context(
    rig: Rig,
    gateway: Running,
    method: str,
    groups: Sequence[BatchGroup],
    *,
    named: bool = True,
    **fields: Any,
) -> pack_pb2.BatchContext:
    """What an honest gateway sends to a holder about a batch."""
    put = method == "put-many"
    client, grant = (rig.hospital, rig.append_grant) if put else (rig.doctor, rig.read_grant)
    honest: dict[str, Any] = {
        "authorization": batch_authorization(rig, client, method, gateway, grant, groups),
        "method": method,
        "groups": group_messages_of(groups) if named else [],
        "min_height": rig.height,
        "epoch": 1,
        "request_id": rig.new_request(),
    }
    return pack_pb2.BatchContext(**(honest | fields))


def store_pack(
    rig: Rig, gateway: Running, pack: SealedPack, index: int, **fields: Any
) -> shard_pb2.StorePackRequest:
    """One shard of a pack as an honest gateway sends it."""
    profile = profile_named(pack_profile(len(pack.body), "ec-4-2"))
    body = PackBody(profile, len(pack.body))
    body.take(memoryview(pack.body))
    stripe = body.encode()
    layout = PackLayout(
        pack.base,
        profile.name,
        join_lengths(list(pack.lengths)),
        tuple(shard_digest([digest]) for digest in stripe.digests),
        1,
        gateway.account,
        1,
        rig.runtime.now_ms(),
        b"",
    ).signed(gateway.keys.signing_key)
    piece = bytes(stripe.pieces[index])
    (groups,) = group_messages(pack.groups, [0] * len(pack.groups))
    honest: dict[str, Any] = {
        "context": batch_context(rig, gateway, "put-many", scope_of(pack), named=False),
        "base": bytes(pack.base),
        "index": index,
        "layout": layout.encode(),
        "piece": piece,
        "crc32c": crc32c(piece),
        "piece_digest": stripe.digests[index],
        "groups": groups,
        "commit_by_ms": rig.runtime.now_ms() + HOUR_MS,
    }
    return shard_pb2.StorePackRequest(**(honest | fields))


async def to_holder(rig: Rig, gateway: Running, holder: Running, name: str, request: Any) -> bytes:
    """One node calls another."""
    return await rig.unary(
        holder.config.peer_address, f"{SHARDS}/{name}", request, gateway.identity
    )


def wanted(groups: Sequence[BatchGroup], *slots: int) -> pack_pb2.PackWanted:
    """Payloads of the first group's pack."""
    blob = next(groups[0].ids())
    return pack_pb2.PackWanted(
        record_id=bytes(groups[0].record), base=bytes(blob.base), slots=join_slots(list(slots))
    )
