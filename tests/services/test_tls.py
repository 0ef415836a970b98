"""Certificates: none, of another authority, of the authority but not the registered key."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import grpc
import pytest

from hcefs.errors import HcefsError
from hcefs.transport.tls import Identity, client_credentials, issue, new_authority
from hcefs.wire.v1 import blob_pb2, ledger_pb2, shard_pb2
from tests.services.requests import BLOBS, SHARDS, call_context, manifest_from, put, put_messages
from tests.services.rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


def another_authority(name: str) -> Identity:
    authority, key = new_authority("impostor")
    certificate, leaf_key = issue(authority, key, name, ["127.0.0.1", "localhost"])
    return Identity(authority, certificate, leaf_key)


async def test_server_of_another_authority(rig: Rig) -> None:
    """A client that trusts another authority does not talk to these servers."""
    impostor = another_authority("client")
    trusting = Identity(impostor.authority, rig.nodes[0].identity.certificate,
                        rig.nodes[0].identity.key)  # fmt: skip
    request = ledger_pb2.GetGenesisRequest()
    for address in (rig.ledger_peer_address, rig.ledger_address):
        call = rig.unary(address, "/hcefs.v1.Ledger/GetGenesis", request, trusting)
        await rig.refused(call, "denied", "wrong-certificate")
    stat = rig.unary(
        rig.nodes[0].config.client_address, f"{BLOBS}/Stat", blob_pb2.StatRequest(), trusting
    )
    await rig.refused(stat, "denied", "wrong-certificate")


async def test_client_of_another_authority(rig: Rig) -> None:
    """Its certificate does not pass the peer ports: the connection is refused."""
    impostor = another_authority("node-1")
    posing = dataclasses.replace(impostor, authority=rig.authority)
    holder = rig.nodes[2]
    request = shard_pb2.LoadManifestRequest(
        context=call_context(rig, rig.nodes[0], "get", blob=rig.receipt.ref.blob)
    )
    call = rig.unary(holder.config.peer_address, f"{SHARDS}/LoadManifest", request, posing)
    await rig.refused(call, "unavailable", "unreachable")
    call = rig.unary(
        rig.ledger_peer_address,
        "/hcefs.v1.Ledger/Query",
        ledger_pb2.QueryRequest(head=True),
        posing,
    )
    await rig.refused(call, "unavailable", "unreachable")


async def test_client_without_a_certificate(rig: Rig) -> None:
    holder = rig.nodes[2]
    request = shard_pb2.LoadManifestRequest(
        context=call_context(rig, rig.nodes[0], "get", blob=rig.receipt.ref.blob)
    )
    call = rig.unary(holder.config.peer_address, f"{SHARDS}/LoadManifest", request)
    await rig.refused(call, "unavailable", "unreachable")
    follow = rig.converse(
        rig.ledger_peer_address,
        "/hcefs.v1.Ledger/Follow",
        [ledger_pb2.FollowRequest(from_height=1)],
    )
    await rig.refused(follow, "unavailable", "unreachable")


async def test_connection_without_tls(rig: Rig) -> None:
    for address in (rig.nodes[2].config.client_address, rig.nodes[2].config.peer_address):
        async with grpc.aio.insecure_channel(address) as channel:
            untyped: Any = channel
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await untyped.unary_unary(f"{BLOBS}/Stat")(b"", timeout=60)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_key_that_no_node_registered(rig: Rig) -> None:
    """The authority issued the certificate, but no account has that key."""
    stray = rig.issue("node-1")
    holder, gateway = rig.nodes[2], rig.nodes[0]
    posing = dataclasses.replace(gateway, identity=stray)
    await rig.refused(manifest_from(rig, posing, holder), "unauthenticated", "unknown-node")
    blob = rig.new_blob()
    header = shard_pb2.StoreRequest(
        header=shard_pb2.StoreHeader(
            context=call_context(rig, gateway, "put", blob=blob),
            index=rig.index_of(blob, holder),
            profile="ec-4-2",
            segment_size=1 << 20,
        )
    )
    call = rig.upload(holder.config.peer_address, f"{SHARDS}/Store", [header], stray)
    await rig.refused(call, "unauthenticated", "unknown-node")
    await rig.nothing_left(blob)


async def test_dialling_a_node_with_another_key(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A node whose TLS key is not the registered one gets no shard; the put goes on without."""
    node = rig.nodes[4]
    folder = rig.folder / "stray"
    stray = rig.write_tls(folder, rig.issue("stray"))
    async with rig.restarted(node, reached=False, tls=stray):
        gateway, blob = rig.nodes[0], rig.new_blob()
        await gateway.process.channels.drop(node.account)
        with pytest.raises(HcefsError) as caught:
            await gateway.process.channels.get(node.account, node.config.peer_address)
        assert (caught.value.kind, caught.value.reason) == ("denied", "wrong-certificate")
        caplog.clear()
        answer = await put(rig, gateway, put_messages(rig, gateway, blob))
        assert (answer.durable_shards, answer.degraded) == (5, True)
        assert f"on node {node.number} failed: unavailable (wrong-certificate)" in caplog.text
        assert not [name for name in rig.kept(node, blob) if name.startswith("shard")]
    answer = await put(rig, gateway, put_messages(rig, gateway, rig.new_blob()))
    assert answer.durable_shards == 6


async def test_certificate_renewed_under_the_same_key(rig: Rig) -> None:
    """Peers pin the certificate that they saw: a new one of the same key is taken up by itself."""
    node, gateway = rig.nodes[4], rig.nodes[0]
    assert (await put(rig, gateway, put_messages(rig, gateway, rig.new_blob()))).durable_shards == 6
    renewed = rig.renewed(node.identity, "node-5-renewed")
    folder = rig.folder / "renewed"
    # That the other nodes reach it again is waited for here: their channels are made anew.
    async with rig.restarted(node, tls=rig.write_tls(folder, renewed)):
        answer = await put(rig, gateway, put_messages(rig, gateway, rig.new_blob()))
        assert answer.durable_shards == 6


async def test_clients_check_the_server(rig: Rig) -> None:
    """The SDK's credentials refuse a node that another authority certified."""
    impostor = another_authority("localhost")
    with contextlib.closing(_Server(impostor)) as server:
        await server.start()
        credentials = client_credentials(rig.authority)
        async with grpc.aio.secure_channel(server.address, credentials) as channel:
            untyped: Any = channel
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await untyped.unary_unary(f"{BLOBS}/Stat")(b"", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await server.stop()


class _Server:
    """A TLS server without services."""

    def __init__(self, identity: Identity) -> None:
        from hcefs.transport.tls import server_credentials

        self._server = grpc.aio.server()
        credentials = server_credentials(identity.certificate, identity.key, None, mutual=False)
        port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    def close(self) -> None:
        """Stopped by :meth:`stop` already."""
