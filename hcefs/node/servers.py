"""gRPC servers of a process: ports, TLS, limits and the health service."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from hcefs.config import TlsConfig
from hcefs.errors import NotFound, Unavailable
from hcefs.ledger.genesis import Genesis
from hcefs.transport.grpc_peers import MESSAGE_BYTES_MAX
from hcefs.transport.tls import Identity
from hcefs.transport.tls_identity import CurrentIdentity, current, serving_credentials

CLIENT_MESSAGE_BYTES_MAX = (1 << 20) + (64 << 10)
"""One sealed segment and its framing; more is refused by gRPC before it is read."""

GRACE_SECONDS = 2.0
CONCURRENT_RPCS_FACTOR = 8

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_metadata_size", 16384),
    ("grpc.http2.max_frame_size", 16777215),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


def load_identity(tls: TlsConfig) -> Identity:
    """Certificate, key and authority from the configured files."""
    return Identity(tls.authority.read_bytes(), tls.certificate.read_bytes(), tls.key.read_bytes())


def load_genesis(path: Path) -> Genesis:
    """The genesis document of the cluster.

    Raises:
        NotFound: there is no such file.
        Invalid: it is not a genesis document.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no genesis file {path}", reason="no-genesis") from None
    genesis = Genesis.decode(data)
    genesis.check()
    return genesis


class Port:
    """One listening port with its services and the health service.

    Where it is given a :class:`CurrentIdentity`, each handshake uses the certificates of that
    moment; connections that exist stay as they are.
    """

    def __init__(
        self,
        address: str,
        identity: Identity | CurrentIdentity,
        handlers: Sequence[Any],
        services: Sequence[str],
        *,
        mutual: bool,
        streams: int,
    ) -> None:
        self._address = address
        self._handlers = tuple(handlers)
        self._services = ("", *services)
        self._limit = MESSAGE_BYTES_MAX if mutual else CLIENT_MESSAGE_BYTES_MAX
        self._calls = streams * CONCURRENT_RPCS_FACTOR
        self._credentials = serving_credentials(current(identity), mutual=mutual)
        self.health = HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen.  Only now is the port taken: a server that never started keeps it for ever.

        Raises:
            Unavailable: it cannot be listened on (``address-in-use``).
        """
        server = grpc.aio.server(
            options=[
                *OPTIONS,
                ("grpc.max_receive_message_length", self._limit),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ],
            maximum_concurrent_rpcs=self._calls,
        )
        server.add_generic_rpc_handlers(self._handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        try:
            bound = server.add_secure_port(self._address, self._credentials)
        except RuntimeError:
            bound = 0
        if not bound:
            raise Unavailable(
                f"{self._address} cannot be listened on: another process has it, or it is not ours",
                reason="address-in-use",
            )
        self._server = server
        await server.start()

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers for every service of the port."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for service in self._services:
            await self.health.set(service, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self) -> None:
        """Refuse new calls, let the running ones end within the grace period."""
        await self.set_serving(False)
        if self._server is not None:
            await self._server.stop(GRACE_SECONDS)


def at_hangup(look: Callable[[], None]) -> None:
    """Call ``look`` at SIGHUP, which would end the process without it."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, look)


async def until_signal() -> None:
    """Return at SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
