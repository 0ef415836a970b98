"""Streams of every kind end with their right, whether or not their client moves.

Each stream is stuck in the middle: its client sends no more, or takes no more, so that no
check before the next message could end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from hcefs.access.batch import BatchGroup
from hcefs.access.facts import AccountKind, Action, Grant
from hcefs.client.put_many import Payload
from hcefs.erasure.scheme import SEGMENT_SIZE
from hcefs.errors import HcefsError
from hcefs.ids import BlobId, RecordId
from hcefs.ledger.transactions import DeactivateAccount, sign_transaction
from hcefs.transport.framing import frame_data
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS
from hcefs.transport.status import from_rpc_error
from hcefs.transport.tls import client_credentials
from hcefs.wire.v1 import blob_pb2, pack_pb2, shard_pb2
from tests.services.packs import batch_authorization, group_messages_of
from tests.services.requests import BLOBS, DATA, SHARDS, call_context, put_header
from tests.services.rig import HOUR_MS, MARK, Rig, Running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

CUT_SECONDS = 30.0
"""Less than a call's own deadline; a cut takes a moment, on a machine that is not busy."""

END: Any = vars(grpc.aio)["EOF"]
NARROW = [("grpc.http2.lookahead_bytes", 1 << 16), ("grpc.http2.bdp_probe", 0)]
"""A window far below one message: a node waits until its reader reads."""


@dataclass
class Ward:
    """A record of its own, because the revocation of a reader renews its keys."""

    record: RecordId
    blob: BlobId
    packed: list[BlobId]


_WARDS: dict[int, Ward] = {}


async def ward_of(rig: Rig) -> Ward:
    """Made once: a large blob and three packed ones."""
    if id(rig) not in _WARDS:
        record = (await rig.patient.open_record()).record
        large = await rig.patient.put(record, MARK + rig.runtime.random(6 << 20))
        packed = await rig.patient.put_many(
            [Payload(record, MARK + rig.runtime.random(900 << 10)) for _ in range(3)]
        )
        _WARDS[id(rig)] = Ward(record, large.ref.blob, [each.ref.blob for each in packed])
    return _WARDS[id(rig)]


Stream = Callable[[Rig, Ward, Grant, Running, Any], Awaitable[Any]]
"""Begins a stream at a node over a channel, and leaves it stuck; its call."""


def _says(ward: Ward) -> dict[str, Any]:
    return {"says": {"record": ward.record}}


async def _reading(call: Any) -> Any:
    assert await call.read()
    return call


async def get_at_gateway(rig: Rig, ward: Ward, grant: Grant, node: Running, channel: Any) -> Any:
    request = blob_pb2.GetRequest(
        authorization=rig.authorization(
            rig.doctor, "get", node, grant, blob=ward.blob, **_says(ward)
        ),
        blob_id=bytes(ward.blob),
        record_id=bytes(ward.record),
        min_height=rig.patient.height,
        request_id=rig.new_request(),
        sealed=True,
    )
    return await _reading(channel.unary_stream(f"{BLOBS}/Get")(request.SerializeToString()))


async def get_packed(rig: Rig, ward: Ward, grant: Grant, node: Running, channel: Any) -> Any:
    blob = ward.packed[0]
    request = blob_pb2.GetRequest(
        authorization=rig.authorization(rig.doctor, "get", node, grant, blob=blob, **_says(ward)),
        blob_id=bytes(blob),
        record_id=bytes(ward.record),
        min_height=rig.patient.height,
        request_id=rig.new_request(),
        sealed=True,
    )
    return await _reading(channel.unary_stream(f"{BLOBS}/Get")(request.SerializeToString()))


async def get_many(rig: Rig, ward: Ward, grant: Grant, node: Running, channel: Any) -> Any:
    groups = [BatchGroup(0, ward.record, b"".join(map(bytes, ward.packed)))]
    request = pack_pb2.GetManyRequest(
        authorization=batch_authorization(
            rig, rig.doctor, "get-many", node, grant, groups,
            token=rig.token(rig.keys_of(rig.doctor), grant.grant),
        ),
        groups=group_messages_of(groups),
        min_height=rig.patient.height,
        request_id=rig.new_request(),
    )  # fmt: skip
    call = channel.unary_stream(f"{BLOBS}/GetMany")(request.SerializeToString())
    return await _reading(call)


def _load(
    rig: Rig, ward: Ward, grant: Grant, method: str, gateway: Running, holder: Running
) -> bytes:
    index = rig.index_of(ward.blob, holder)
    right = rig.authorization(rig.doctor, method, gateway, grant, blob=ward.blob, **_says(ward))
    context = call_context(
        rig, gateway, "get", blob=ward.blob, record=ward.record, authorization=right,
        min_height=rig.patient.height, profile="ec-4-2",
    )  # fmt: skip
    context.method = method
    request = shard_pb2.LoadRequest(context=context, index=index, first=0, count=7)
    return request.SerializeToString()


async def load_at_holder(rig: Rig, ward: Ward, grant: Grant, node: Running, channel: Any) -> Any:
    request = _load(rig, ward, grant, "get", rig.nodes[0], node)
    return await _reading(channel.unary_stream(f"{SHARDS}/Load")(request))


async def load_directly(rig: Rig, ward: Ward, grant: Grant, node: Running, channel: Any) -> Any:
    request = _load(rig, ward, grant, "direct-get", node, node)
    return await _reading(channel.unary_stream(f"{SHARDS}/Load")(request))


async def put_at_gateway(rig: Rig, ward: Ward, grant: Grant, node: Running, channel: Any) -> Any:
    blob = rig.new_blob()
    right = rig.authorization(rig.doctor, "put", node, grant, blob=blob, **_says(ward))
    record = await rig.patient.record(ward.record)
    first = put_header(
        rig, node, blob, authorization=right, record_id=bytes(ward.record),
        generation=record.generation, min_height=rig.patient.height,
        writer=bytes(rig.doctor.account),
    )  # fmt: skip
    call = channel.stream_unary(f"{BLOBS}/Put")(timeout=60)
    await call.write(first.SerializeToString())
    await call.write(frame_data(DATA))
    return call


def _store(
    rig: Rig, ward: Ward, grant: Grant, method: str, gateway: Running, holder: Running
) -> bytes:
    blob = rig.new_blob()
    right = rig.authorization(rig.doctor, method, gateway, grant, blob=blob, **_says(ward))
    context = call_context(
        rig, gateway, "put", blob=blob, record=ward.record, authorization=right,
        min_height=rig.patient.height,
    )  # fmt: skip
    context.method = method
    start = shard_pb2.StoreHeader(
        context=context,
        index=rig.index_of(blob, holder),
        profile="ec-4-2",
        segment_size=SEGMENT_SIZE,
    )
    return shard_pb2.StoreRequest(header=start).SerializeToString()


async def store_at_holder(rig: Rig, ward: Ward, grant: Grant, node: Running, channel: Any) -> Any:
    call = channel.stream_unary(f"{SHARDS}/Store")(timeout=60)
    await call.write(_store(rig, ward, grant, "put", rig.nodes[0], node))
    return call


async def store_directly(rig: Rig, ward: Ward, grant: Grant, node: Running, channel: Any) -> Any:
    call = channel.stream_unary(f"{SHARDS}/Store")(timeout=60)
    await call.write(_store(rig, ward, grant, "direct-put", node, node))
    return call


STREAMS: dict[str, Stream] = {
    "get": get_at_gateway,
    "get-packed": get_packed,
    "get-many": get_many,
    "load": load_at_holder,
    "direct-get": load_directly,
    "put": put_at_gateway,
    "store": store_at_holder,
    "direct-put": store_directly,
}
WRITING = ("put", "store", "direct-put")
AT_PEER_PORT = ("load", "store")


async def _grant(rig: Rig, ward: Ward, kind: str, seconds: float = HOUR_MS / 1000) -> Grant:
    actions = Action.APPEND if kind in WRITING else Action.READ
    end = rig.runtime.now_ms() + int(seconds * 1000)
    return await rig.patient.give(
        ward.record, rig.doctor.account, actions, ("TREAT",), not_after_ms=end
    )


@asynccontextmanager
async def _stuck(rig: Rig, ward: Ward, grant: Grant, kind: str) -> AsyncIterator[Any]:
    """A stream of a kind that has begun at the second node and goes no further."""
    node = rig.nodes[1]
    at_peer = kind in AT_PEER_PORT
    identity = rig.nodes[0].identity if at_peer else None
    credentials = (
        client_credentials(rig.authority)
        if identity is None
        else client_credentials(rig.authority, identity.certificate, identity.key)
    )
    address = node.config.peer_address if at_peer else node.config.client_address
    narrow: Any = grpc.aio.secure_channel(address, credentials, options=[*CHANNEL_OPTIONS, *NARROW])
    async with narrow as channel:
        before = len(_standing(node))
        call = await STREAMS[kind](rig, ward, grant, node, channel)
        await rig.until(lambda: len(_standing(node)) > before)
        yield call


def _standing(node: Running) -> Any:
    return node.process.node.desk.standing


async def _ends(rig: Rig, call: Any, kind: str) -> HcefsError:
    """Read what is left, which is less than all; why it ended."""

    async def rest() -> None:
        if kind in WRITING:
            await call
        while await call.read() is not END:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(rest(), 10)
    error = from_rpc_error(caught.value)
    rig.secrets.check(error.message)
    return error


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_revocation_cuts_what_is_stuck(rig: Rig, kind: str) -> None:
    ward, node = await ward_of(rig), rig.nodes[1]
    grant = await _grant(rig, ward, kind)
    async with _stuck(rig, ward, grant, kind) as call:
        done = await rig.patient.revoke(grant.grant)
        await rig.until(lambda: node.process.follower.view.height >= done.height)
        async with asyncio.timeout(CUT_SECONDS):
            while len(_standing(node)):
                await rig.runtime.sleep(0.01)
        assert node.process.gate.held == 0
        error = await _ends(rig, call, kind)
    assert (error.kind, error.reason) == ("denied", "revoked")
    assert node.process.metrics.value("cut_streams_total", reason="revoked") >= 1
    assert not rig.temporaries(node)


async def test_an_expiry_cuts_what_is_stuck(rig: Rig) -> None:
    """Every kind at one time, because an expiry has to be waited for."""
    ward, node = await ward_of(rig), rig.nodes[1]

    async def one(kind: str) -> None:
        grant = await _grant(rig, ward, kind, seconds=6.0)
        async with _stuck(rig, ward, grant, kind) as call:
            error = await _ends(rig, call, kind) if kind in WRITING else None
            if error is None:
                async with asyncio.timeout(CUT_SECONDS):
                    while any(
                        grant.grant in permission.grants
                        for served in _standing(node).all()
                        for permission in served.permissions
                    ):
                        await rig.runtime.sleep(0.05)
                error = await _ends(rig, call, kind)
            late = rig.runtime.now_ms() - grant.not_after_ms
            assert (error.kind, error.reason) == ("denied", "expired")
            assert 0 <= late <= CUT_SECONDS * 1000

    await asyncio.gather(*(one(kind) for kind in STREAMS))
    await rig.until(lambda: not rig.temporaries(node))


async def test_the_end_of_an_account_cuts_what_is_stuck(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward, node = await ward_of(rig), rig.nodes[1]
    leaver = rig.client(rig.account_keys())
    await rig.hospital.admit(await leaver.register(rig.keys_of(leaver), AccountKind.PRACTITIONER))
    monkeypatch.setattr(rig, "doctor", leaver)
    grant = await _grant(rig, ward, "get")
    async with _stuck(rig, ward, grant, "get") as call:
        keys = rig.hospital_keys
        ended = sign_transaction(
            DeactivateAccount(leaver.account), rig.cluster, [(keys.account, 1, keys.signing_key)]
        )
        await rig.hospital.submit(ended)
        async with asyncio.timeout(CUT_SECONDS):
            while len(_standing(node)):
                await rig.runtime.sleep(0.01)
        error = await _ends(rig, call, "get")
    assert (error.kind, error.reason) == ("denied", "inactive-account")
    # The ledger tells nobody of that account now; it keeps no one from ending another right.
    monkeypatch.undo()
    other = await _grant(rig, ward, "get")
    await rig.patient.revoke(other.grant)


async def test_what_rests_on_another_right_goes_on(rig: Rig) -> None:
    ward, node = await ward_of(rig), rig.nodes[1]
    ended, kept = [await _grant(rig, ward, "get") for _ in range(2)]
    async with _stuck(rig, ward, kept, "get") as call:
        done = await rig.patient.revoke(ended.grant)
        await rig.until(lambda: node.process.follower.view.height >= done.height)
        messages = 1
        while await call.read() is not END:
            messages += 1
        assert messages >= 7
        assert await call.code() is grpc.StatusCode.OK
