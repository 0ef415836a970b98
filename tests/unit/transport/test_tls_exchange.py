"""Certificates exchanged under running servers, channels and calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from hcefs.errors import Invalid, Unavailable
from hcefs.ids import AccountId
from hcefs.runtime import SystemRuntime
from hcefs.transport.dial import LOOK_SECONDS, FileDialer, TlsDialer
from hcefs.transport.pinned_channels import Channels
from hcefs.transport.retired import RetiredChannels, ServerChannels
from hcefs.transport.tls import Identity, issue, new_authority, renew, spki_hash
from hcefs.transport.tls_identity import CurrentIdentity, fingerprint, serving_credentials
from hcefs.transport.tls_probe import shown_certificate, trusts
from tests.services.relay import Relay

HOSTS = ["localhost", "127.0.0.1"]
OLD = new_authority("one")
NEW = new_authority("one 2")
LEAF = issue(*OLD, "node 1", HOSTS)
ME = issue(*OLD, "node 2", HOSTS)
SERVER = Identity(OLD[0], *LEAF)
CLIENT = Identity(OLD[0], *ME)
BOTH = OLD[0] + NEW[0]
PEER = AccountId(b"\x01" * AccountId.SIZE)
SECONDS = 60.0

Ready = grpc.ChannelConnectivity.READY


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    runtime = SystemRuntime(compute_threads=1)
    yield runtime
    runtime.close()


class NoHeads:
    def current(self) -> bytes:
        return b""

    def observe(self, head: bytes) -> None:
        pass


class Server:
    """Tells whoever asks which certificate it showed; ``Hold`` answers when it is let."""

    def __init__(self, current: CurrentIdentity, *, mutual: bool) -> None:
        self.current = current
        self.mutual = mutual
        self.port = 0
        self.let = asyncio.Event()
        self.held = asyncio.Event()

    async def _who(self, request: bytes, context: Any) -> bytes:
        chain = context.auth_context().get("x509_pem_cert") or (b"",)
        return bytes(chain[0])

    async def _hold(self, request: bytes, context: Any) -> bytes:
        self.held.set()
        await self.let.wait()
        return b"held"

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {
            "Who": grpc.unary_unary_rpc_method_handler(self._who),
            "Hold": grpc.unary_unary_rpc_method_handler(self._hold),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
        self.port = server.add_secure_port(
            f"127.0.0.1:{self.port}", serving_credentials(self.current, mutual=self.mutual)
        )
        await server.start()
        self._server = server

    async def stop(self) -> None:
        self.let.set()
        await self._server.stop(None)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(current: CurrentIdentity, *, mutual: bool = True) -> AsyncIterator[Server]:
    server = Server(current, mutual=mutual)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def who(channel: Any) -> bytes:
    call = channel.unary_unary("/t.T/Who")
    return bytes(await call(b"", timeout=SECONDS, wait_for_ready=True))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


# --- servers ---------------------------------------------------------------------------


async def test_the_next_handshake_shows_the_new_certificate(runtime: SystemRuntime) -> None:
    current = CurrentIdentity(SERVER)
    async with serving(current, mutual=False) as server:
        channels = ServerChannels(runtime, TlsDialer(runtime, CLIENT), [], SECONDS)
        try:
            await who(channels.get(server.address))
            before = await shown_certificate(runtime, server.address)
            assert fingerprint(before) == fingerprint(LEAF[0])
            made = renew(*OLD, LEAF[0])
            current.replace(Identity(OLD[0], made, LEAF[1]))
            after = await shown_certificate(runtime, server.address)
            assert fingerprint(after) == fingerprint(made)
            # A connection that exists goes on.
            channel = channels.get(server.address)
            assert channel.get_state() is Ready
            await who(channel)
        finally:
            await channels.close()


async def test_the_authorities_change_with_it(runtime: SystemRuntime) -> None:
    """What a server takes from clients, as the operators' verbs ask it."""
    current = CurrentIdentity(SERVER)
    new = Identity(NEW[0], *issue(*NEW, "probe", HOSTS))
    old = Identity(OLD[0], *issue(*OLD, "probe", HOSTS))
    async with serving(current) as server:
        assert await trusts(runtime, server.address, old)
        assert not await trusts(runtime, server.address, new)
        current.replace(Identity(BOTH, *LEAF))
        assert await trusts(runtime, server.address, old)
        assert await trusts(runtime, server.address, new)
        current.replace(Identity(NEW[0], renew(*NEW, LEAF[0]), LEAF[1]))
        assert not await trusts(runtime, server.address, old)
        assert await trusts(runtime, server.address, new)
        address = server.address
    with pytest.raises(Unavailable):
        await shown_certificate(runtime, address)
    with pytest.raises(Unavailable):
        await trusts(runtime, address, new)


# --- clients ---------------------------------------------------------------------------


async def test_another_identity_is_shown_and_a_running_call_goes_on(
    runtime: SystemRuntime,
) -> None:
    mine = CurrentIdentity(Identity(BOTH, *ME))
    async with serving(CurrentIdentity(Identity(BOTH, *LEAF))) as server:
        channels = ServerChannels(runtime, TlsDialer(runtime, mine), [], SECONDS)
        try:
            first = channels.get(server.address)
            assert fingerprint(await who(first)) == fingerprint(ME[0])
            running = asyncio.ensure_future(first.unary_unary("/t.T/Hold")(b"", timeout=SECONDS))
            await server.held.wait()
            made = renew(*NEW, ME[0])
            mine.replace(Identity(BOTH, made, ME[1]))
            second = channels.get(server.address)
            assert second is not first
            assert channels.get(server.address) is second
            assert fingerprint(await who(second)) == fingerprint(made)
            server.let.set()
            assert await running == b"held"
        finally:
            await channels.close()


async def test_retired_channels_are_closed_in_the_end(runtime: SystemRuntime) -> None:
    async with serving(CurrentIdentity(SERVER)) as server:
        dialer = TlsDialer(runtime, CLIENT)
        retired = RetiredChannels(runtime, 0.01)
        try:
            retired.add(dialer.to_server(server.address, []))
            await until(lambda: not len(retired))
        finally:
            await retired.close()


async def test_a_client_takes_the_authority_that_its_file_holds_by_then(
    runtime: SystemRuntime, tmp_path: Path
) -> None:
    class Clock(SystemRuntime):
        ahead = 0.0

        def monotonic(self) -> float:
            return super().monotonic() + self.ahead

    clock = Clock(compute_threads=1)
    file = tmp_path / "ca.crt"
    file.write_bytes(OLD[0])
    dialer = FileDialer(clock, OLD[0], file)
    current = CurrentIdentity(Identity(BOTH, renew(*NEW, LEAF[0]), LEAF[1]))
    async with serving(current, mutual=False) as server:
        channels = ServerChannels(clock, dialer, [], SECONDS)
        try:
            file.write_bytes(b"junk")
            clock.ahead += LOOK_SECONDS
            assert dialer.version == 0
            file.unlink()
            clock.ahead += LOOK_SECONDS
            assert dialer.version == 0
            file.write_bytes(BOTH)
            clock.ahead += LOOK_SECONDS
            assert await who(channels.get(server.address)) == b""
            assert dialer.version == 1
        finally:
            await channels.close()
            clock.close()


# --- between nodes ---------------------------------------------------------------------


@asynccontextmanager
async def pinned(
    runtime: SystemRuntime, mine: Identity | CurrentIdentity
) -> AsyncIterator[Channels]:
    spki = spki_hash(LEAF[0])
    channels = Channels(runtime, TlsDialer(runtime, mine), lambda account: spki, NoHeads())
    try:
        yield channels
    finally:
        await channels.close()


async def test_a_peer_that_renewed_is_pinned_anew_when_its_connection_has_ended(
    runtime: SystemRuntime,
) -> None:
    """No call fails: the certificate is fetched again before the next one."""
    current = CurrentIdentity(SERVER)
    async with serving(current) as server:
        relay = Relay(server.address)
        await relay.start()
        try:
            async with pinned(runtime, CLIENT) as channels:
                first = await channels.get(PEER, relay.address)
                await who(first)
                assert await channels.get(PEER, relay.address) is first
                current.replace(Identity(OLD[0], renew(*OLD, LEAF[0]), LEAF[1]))
                relay.cut()
                await until(lambda: first.get_state() is not Ready)
                relay.heal()
                second = await channels.get(PEER, relay.address)
                assert second is not first
                assert await who(second)
        finally:
            await relay.stop()


async def test_a_node_shows_its_new_certificate_to_its_peers(runtime: SystemRuntime) -> None:
    mine = CurrentIdentity(CLIENT)
    theirs = CurrentIdentity(SERVER)
    async with serving(theirs) as server, pinned(runtime, mine) as channels:
        first = await channels.get(PEER, server.address)
        assert fingerprint(await who(first)) == fingerprint(ME[0])
        running = asyncio.ensure_future(first.unary_unary("/t.T/Hold")(b"", timeout=SECONDS))
        await server.held.wait()
        made = renew(*NEW, ME[0])
        mine.replace(Identity(BOTH, made, ME[1]))
        # The peer does not know the new authority yet: what works is kept.
        assert await channels.get(PEER, server.address) is first
        assert await who(await channels.get(PEER, server.address))
        theirs.replace(Identity(BOTH, *LEAF))

        async def shown() -> bytes:
            return await who(await channels.get(PEER, server.address))

        async with asyncio.timeout(SECONDS):
            while fingerprint(await shown()) != fingerprint(made):
                await asyncio.sleep(0.05)
        assert await channels.get(PEER, server.address) is not first
        server.let.set()
        assert await running == b"held"


def test_credentials_are_of_one_set() -> None:
    with pytest.raises(Invalid):
        serving_credentials(CurrentIdentity(Identity(OLD[0], LEAF[0], ME[1])), mutual=True)
    with pytest.raises(Invalid):
        serving_credentials(CurrentIdentity(Identity(b"", *LEAF)), mutual=True)
