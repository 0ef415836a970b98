"""Bytes that are no protobuf, no CBOR, or of a version that nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from hcefs.encoding import dumps
from hcefs.errors import HcefsError
from hcefs.ids import AccountId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import PROTOCOL_NEWEST
from hcefs.ledger.transactions import (
    OpenRecord,
    SignedTransaction,
    Upgrade,
    add_signature,
    sign_transaction,
)
from hcefs.transport.versions import versions_message
from hcefs.wire.v1 import admin_pb2, blob_pb2, ledger_pb2, shard_pb2
from tests.services.requests import BLOBS, SHARDS, call_context, put_header, put_messages
from tests.services.rig import MARK, Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

LEDGER = "/hcefs.v1.Ledger"
NO_PROTOBUF = b"\xff\xff\xff" + MARK
NO_CBOR = [b"", b"\xff", MARK, dumps(["other-kind", 1]), dumps(7), b"\x81" * 64, bytes(5_000)]

CLIENT_UNARY = [f"{BLOBS}/{name}" for name in ("Stat", "PutBox", "PutLink", "GetBoxes")]
CLIENT_STREAMS = [f"{BLOBS}/Get", f"{BLOBS}/List"]
SHARD_UNARY = [
    f"{SHARDS}/{name}"
    for name in (
        "StoreOpening",
        "StoreBox",
        "StoreWhole",
        "LoadPieces",
        "LoadManifest",
        "LoadBoxes",
    )
]
SHARD_STREAMS = [f"{SHARDS}/Load", f"{SHARDS}/LoadListing"]
LEDGER_UNARY = [
    f"{LEDGER}/{name}"
    for name in ("GetGenesis", "Submit", "Query", "HasLeaf", "HasLeaves", "Prove")
]


# -- protobuf


@pytest.mark.parametrize("method", [*CLIENT_UNARY, *CLIENT_STREAMS, "/hcefs.v1.Admin/Status"])
async def test_no_protobuf_from_clients(rig: Rig, method: str) -> None:
    address = rig.nodes[0].config.client_address
    call = rig.download(address, method, NO_PROTOBUF)
    await rig.refused(call, "invalid", "malformed-message")


@pytest.mark.parametrize("method", [*SHARD_UNARY, *SHARD_STREAMS])
async def test_no_protobuf_from_nodes(rig: Rig, method: str) -> None:
    address = rig.nodes[2].config.peer_address
    for _ in range(2):
        call = rig.download(address, method, NO_PROTOBUF, rig.nodes[0].identity)
        await rig.refused(call, "invalid", "malformed-message")


@pytest.mark.parametrize("method", [*LEDGER_UNARY, "/hcefs.v1.Admin/Status"])
async def test_no_protobuf_to_the_ledger(rig: Rig, method: str) -> None:
    call = rig.unary(rig.ledger_address, method, NO_PROTOBUF)
    await rig.refused(call, "invalid", "malformed-message")


@pytest.mark.parametrize("first", [NO_PROTOBUF, b"", b"\x12\xff\xff\xff\xff\x7f", b"\x12\x05abc"])
async def test_no_protobuf_in_bulk_messages(rig: Rig, first: bytes) -> None:
    """As the first message of a stream and as a later one."""
    node, holder, blob = rig.nodes[0], rig.nodes[2], rig.new_blob()
    for messages in ([first], [put_header(rig, node, blob), first]):
        call = rig.upload(node.config.client_address, f"{BLOBS}/Put", messages)
        await rig.refused(call, "invalid", "malformed-message")
        await rig.nothing_left(blob)
    header = shard_pb2.StoreRequest(
        header=shard_pb2.StoreHeader(
            context=call_context(rig, node, "put", blob=blob),
            index=rig.index_of(blob, holder),
            profile="ec-4-2",
            segment_size=1 << 20,
        )
    )
    for messages in ([first], [header, first]):
        call = rig.upload(holder.config.peer_address, f"{SHARDS}/Store", messages, node.identity)
        await rig.refused(call, "invalid", "malformed-message")
        await rig.nothing_left(blob)


@pytest.mark.parametrize("second", [False, True])
async def test_no_protobuf_in_a_conversation(rig: Rig, second: bool) -> None:
    """``Follow``: as the first message, and as an acknowledgement, where it ends the feed."""
    good = ledger_pb2.FollowRequest(from_height=1, versions=versions_message())
    messages = [good, NO_PROTOBUF] if second else [NO_PROTOBUF]
    call = rig.converse(
        rig.ledger_peer_address, f"{LEDGER}/Follow", messages, rig.nodes[0].identity
    )
    await rig.refused(call, "invalid", "malformed-message")


async def test_unknown_method(rig: Rig) -> None:
    for address in (rig.nodes[0].config.client_address, rig.ledger_address):
        call = rig.unary(address, f"{BLOBS}/Delete", b"")
        await rig.refused(call, "invalid", "unimplemented")


# -- CBOR


@pytest.mark.parametrize("bad", NO_CBOR)
async def test_no_cbor_from_clients(rig: Rig, bad: bytes) -> None:
    node = rig.nodes[0]
    address = node.config.client_address
    good = rig.authorization(rig.doctor, "stat", node, rig.read_grant)
    wrong = blob_pb2.Authorization(token=good.token, proof=bad)
    ids: dict[str, Any] = {"record_id": bytes(rig.record), "request_id": rig.new_request()}
    blob: dict[str, Any] = {"blob_id": bytes(rig.receipt.ref.blob)}
    requests: tuple[tuple[str, Any], ...] = (
        ("Stat", blob_pb2.StatRequest(authorization=wrong, **ids, **blob)),
        ("List", blob_pb2.ListRequest(authorization=wrong, **ids)),
        ("GetBoxes", blob_pb2.GetBoxesRequest(authorization=wrong, **ids)),
        ("Get", blob_pb2.GetRequest(authorization=wrong, sealed=True, **ids, **blob)),
        ("PutBox", blob_pb2.PutBoxRequest(box=bad)),
        ("PutLink", blob_pb2.PutLinkRequest(link=bad)),
    )
    for method, request in requests:
        call = rig.download(address, f"{BLOBS}/{method}", request)
        await rig.refused(call, "invalid", "malformed-encoding")
    status = rig.unary(address, "/hcefs.v1.Admin/Status", admin_pb2.StatusRequest(proof=bad))
    await rig.refused(status, "invalid", "malformed-encoding")


@pytest.mark.parametrize("bad", NO_CBOR)
async def test_no_cbor_in_a_put(rig: Rig, bad: bytes) -> None:
    node = rig.nodes[0]
    address = node.config.client_address
    good = rig.authorization(rig.hospital, "put", node, rig.append_grant)
    wrong = blob_pb2.Authorization(token=good.token, proof=bad)
    seal = blob_pb2.ClientSeal(dek_commitment=bytes(32), sealed_dek=bad)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"authorization": wrong}, {}),
        ({"client_seal": seal}, {}),
        ({}, {"authorization": wrong}),
    ]
    if bad:
        cases.append(({}, {"metadata": bad}))
    for header, trailer in cases:
        blob = rig.new_blob()
        messages = put_messages(rig, node, blob, header=header, trailer=trailer)
        call = rig.upload(address, f"{BLOBS}/Put", messages)
        await rig.refused(call, "invalid", "malformed-encoding")
        await rig.nothing_left(blob)


@pytest.mark.parametrize("bad", [b"", b"\xff", MARK, bytes(9_000), bytes(100)])
async def test_no_token(rig: Rig, bad: bytes) -> None:
    """With an honest proof of exactly those bytes."""
    node = rig.nodes[0]
    keys = rig.keys_of(rig.doctor)
    proof = rig.proof(
        keys,
        "list",
        b"",
        token_hash=blake3_digest(bad),
        record=rig.record,
        gateway=node.account,
    )
    request = blob_pb2.ListRequest(
        authorization=blob_pb2.Authorization(token=bad, proof=proof),
        record_id=bytes(rig.record),
        request_id=rig.new_request(),
    )
    call = rig.download(node.config.client_address, f"{BLOBS}/List", request)
    await rig.refused(call, "invalid", "token-malformed")


@pytest.mark.parametrize("bad", NO_CBOR)
async def test_no_cbor_from_nodes(rig: Rig, bad: bytes) -> None:
    gateway, holder = rig.nodes[0], rig.nodes[2]
    good = call_context(rig, gateway, "get", blob=rig.receipt.ref.blob)
    good.authorization.proof = bad
    blob = rig.new_blob()
    cases: list[tuple[str, Any]] = [
        ("LoadManifest", shard_pb2.LoadManifestRequest(context=good)),
        (
            "StoreOpening",
            shard_pb2.StoreOpeningRequest(
                context=call_context(rig, gateway, "put", blob=blob), opening=bad
            ),
        ),
    ]
    sharing = rig.authorization(rig.doctor, "put-box", gateway, rig.read_grant)
    for row in ({"box": bad}, {"link": bad}):
        context = call_context(rig, gateway, "list", authorization=sharing)
        context.method = "put-box"
        if bad:
            cases.append(("StoreBox", shard_pb2.StoreBoxRequest(context=context, **row)))
    for name, request in cases:
        call = rig.unary(holder.config.peer_address, f"{SHARDS}/{name}", request, gateway.identity)
        await rig.refused(call, "invalid", "malformed-encoding")
    await rig.nothing_left(blob)


@pytest.mark.parametrize("bad", NO_CBOR)
async def test_no_cbor_to_the_ledger(rig: Rig, bad: bytes) -> None:
    record = bytes(rig.record)
    for name, request in (
        ("Submit", ledger_pb2.SubmitRequest(transaction=bad)),
        ("Query", ledger_pb2.QueryRequest(proof=bad, record=record)),
        ("HasLeaf", ledger_pb2.HasLeafRequest(proof=bad, record_id=record)),
        ("HasLeaves", ledger_pb2.HasLeavesRequest(proof=bad, record_id=record)),
        ("Prove", ledger_pb2.ProveRequest(proof=bad, record_id=record, leaf_index=0)),
    ):
        call = rig.unary(rig.ledger_address, f"{LEDGER}/{name}", request)
        await rig.refused(call, "invalid", "malformed-encoding")


async def test_box_without_a_row(rig: Rig) -> None:
    gateway, holder = rig.nodes[0], rig.nodes[2]
    sharing = rig.authorization(rig.doctor, "put-box", gateway, rig.read_grant)
    context = call_context(rig, gateway, "list", authorization=sharing)
    context.method = "put-box"
    call = rig.unary(
        holder.config.peer_address,
        f"{SHARDS}/StoreBox",
        shard_pb2.StoreBoxRequest(context=context),
        gateway.identity,
    )
    await rig.refused(call, "invalid", "bad-message")


# -- transactions


def _submit(rig: Rig, signed: SignedTransaction | bytes) -> Any:
    data = signed if isinstance(signed, bytes) else signed.encode()
    return rig.unary(
        rig.ledger_address, f"{LEDGER}/Submit", ledger_pb2.SubmitRequest(transaction=data)
    )


@pytest.mark.parametrize(
    "body",
    [
        dumps(["append", 2]),
        dumps(["append", 1 << 40]),
        dumps(["append", "1"]),
        dumps(["erase-everything", 1]),
        dumps([1, 1]),
    ],
)
async def test_transaction_of_an_unknown_version(rig: Rig, body: bytes) -> None:
    keys = rig.keys_of(rig.doctor)
    signed = add_signature(
        SignedTransaction(body, ()), rig.cluster, keys.account, 1, keys.signing_key
    )
    await rig.refused(_submit(rig, signed), "invalid", "unknown-transaction")
    assert rig.ledger.log.result_of(signed.hash()) is None


async def test_envelope_of_an_unknown_version(rig: Rig) -> None:
    call = _submit(rig, dumps(["signed-transaction", 2, b"", []]))
    await rig.refused(call, "invalid", "unknown-version")


async def test_upgrade_is_refused(rig: Rig) -> None:
    signers = [(keys.account, 1, keys.signing_key) for keys in rig.operator_keys]
    signed = sign_transaction(Upgrade(PROTOCOL_NEWEST + 1, 1_000_000), rig.cluster, signers)
    await rig.refused(_submit(rig, signed), "invalid", "unsupported")


async def test_transaction_that_is_too_large(rig: Rig) -> None:
    call = _submit(rig, SignedTransaction(MARK + bytes(1 << 20), ()))
    error = await rig.refused(call, "invalid", "malformed-encoding")
    assert "more than" in error.message


async def test_transaction_by_nobody(rig: Rig) -> None:
    """Unsigned, signed by an account that is not registered, with a wrong key."""
    keys = rig.keys_of(rig.patient)
    stranger = rig.account_keys()
    record = RecordId(rig.runtime.random(16))
    opening = OpenRecord(record, keys.account, keys.record_key(record, 0).public_key)
    seen: list[tuple[str, str]] = []
    for signers in (
        [],
        [(stranger.account, 1, stranger.signing_key)],
        [(keys.account, 1, stranger.signing_key)],
        [(keys.account, 2, keys.signing_key)],
        [(AccountId.zero(), 1, keys.signing_key)],
    ):
        signed = sign_transaction(opening, rig.cluster, signers)
        with pytest.raises(HcefsError) as caught:
            await _submit(rig, signed)
        seen.append((caught.value.kind, caught.value.reason))
        rig.secrets.check(caught.value.message)
        assert rig.ledger.log.result_of(signed.hash()) is None
    assert [kind for kind, _ in seen] == ["unauthenticated"] * len(seen)
    assert [reason for _, reason in seen] == [
        "not-signed",
        "unknown-signer",
        "bad-signature",
        "wrong-key-version",
        "unknown-signer",
    ]
    assert rig.ledger.log.record(record) is None
