"""The relay: what passes, what is refused, and what stays half open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from hcefs.cli.chaos_proxy import Passing, Relay
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.runtime import SystemRuntime

SECONDS = 20.0


@pytest.fixture
async def relay() -> AsyncIterator[tuple[Relay, int]]:
    """A relay before a server that says everything twice, and its port."""
    runtime = SystemRuntime()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data * 2)
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    target = server.sockets[0].getsockname()[1]
    with reserved_ports(1, runtime.random) as ports:
        made = Relay(runtime, f"{HOST}:{ports[0]}", f"{HOST}:{target}")
        await made.start()
    try:
        yield made, ports[0]
    finally:
        await made.close()
        server.close()
        runtime.close()


async def _ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(b"x")
        return await reader.read(100)
    except OSError:
        return b""
    finally:
        writer.transport.abort()


async def test_it_passes_both_ways(relay: tuple[Relay, int]) -> None:
    async with asyncio.timeout(SECONDS):
        assert await _ask(relay[1]) == b"xx"


async def test_it_ends_connections_and_refuses_new_ones(relay: tuple[Relay, int]) -> None:
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(HOST, relay[1])
        writer.write(b"a")
        assert await reader.read(100) == b"aa"
        relay[0].set(Passing.REFUSE)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(100) == b""
        writer.transport.abort()
        assert await _ask(relay[1]) == b""
        relay[0].set(Passing.PASS)
        assert await _ask(relay[1]) == b"xx"


async def test_half_open_connections_stay_and_deliver_later(relay: tuple[Relay, int]) -> None:
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(HOST, relay[1])
        writer.write(b"a")
        assert await reader.read(100) == b"aa"
        relay[0].set(Passing.STALL)
        writer.write(b"b")
        answer = asyncio.ensure_future(reader.read(100))
        new = asyncio.ensure_future(_ask(relay[1]))
        done, _ = await asyncio.wait({answer, new}, timeout=0.2)
        assert not done
        relay[0].set(Passing.PASS)
        assert await answer == b"bb"
        assert await new == b"xx"
        writer.transport.abort()
