"""One gRPC hop of raw bytes with mutual TLS, to a process of its own.

The receiver is this module run with ``python -m``: a server with the settings of
a storage node's peer port, which drops what it gets.  It ends when its standard
input closes, thus with whoever started it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hcefs.cli.process

# The same settings as the processes of a cluster have, before gRPC is imported.
hcefs.cli.process.prepare()

import grpc  # noqa: E402

from benchmarks.machine import cpu_seconds  # noqa: E402
from hcefs.cli.ports import HOST, reserved_ports  # noqa: E402
from hcefs.durable_files import write_private  # noqa: E402
from hcefs.errors import Unavailable  # noqa: E402
from hcefs.node.servers import Port  # noqa: E402
from hcefs.runtime import SystemRuntime  # noqa: E402
from hcefs.transport.framing import frame_data  # noqa: E402
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS  # noqa: E402
from hcefs.transport.tls import (  # noqa: E402
    Identity,
    client_credentials,
    issue,
    new_authority,
)

SERVICE: Final = "hcefs.benchmark.Hop"
START_SECONDS: Final = 20.0
CALL_SECONDS: Final = 60.0
_READY: Final = b"ready\n"


@dataclass(frozen=True)
class HopCost:
    """One transfer: bytes, wall seconds, CPU seconds of either side."""

    bytes: int
    seconds: float
    send: float
    receive: float


class Hop:
    """A connection to the receiver."""

    def __init__(self, channel: Any, receiver: int, me: int, runtime: SystemRuntime) -> None:
        self._channel = channel
        self._receiver = receiver
        self._me = me
        self._runtime = runtime

    async def transfer(self, size: int, count: int) -> HopCost:
        """Send ``count`` messages with ``size`` bytes each, framed as the data path does.

        Raises:
            Unavailable: the receiver did not get them all.
        """
        payload = memoryview(bytearray(size))
        before = self._cpu()
        started = self._runtime.monotonic()
        call = self._channel.stream_unary(f"/{SERVICE}/Drop")(
            timeout=CALL_SECONDS, wait_for_ready=True
        )
        for _ in range(count):
            await call.write(frame_data(payload))
        await call.done_writing()
        received = int.from_bytes(await call, "big")
        seconds = self._runtime.monotonic() - started
        after = self._cpu()
        if received < size * count:
            raise Unavailable("the receiver lost messages", reason="hop-incomplete")
        return HopCost(size * count, seconds, after[0] - before[0], after[1] - before[1])

    def _cpu(self) -> tuple[float, float]:
        return cpu_seconds(self._me) or 0.0, cpu_seconds(self._receiver) or 0.0


@asynccontextmanager
async def open_hop(folder: Path, me: int, runtime: SystemRuntime) -> AsyncIterator[Hop]:
    """Start a receiver and connect to it; it ends with the block.

    Raises:
        Unavailable: it does not start.
    """
    _write_identities(folder, runtime)
    with reserved_ports(1, runtime.random) as ports:
        address = f"{HOST}:{ports[0]}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.hop",
            str(folder),
            address,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=hcefs.cli.process.environment(),
        )
        try:
            await _ready(process, runtime)
            mine = _identity(folder, "sender")
            credentials = client_credentials(mine.authority, mine.certificate, mine.key)
            async with grpc.aio.secure_channel(
                address, credentials, options=CHANNEL_OPTIONS
            ) as channel:
                yield Hop(channel, process.pid, me, runtime)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            # The pipe's transport would otherwise be closed after its event loop.
            if process.stdin is not None:
                process.stdin.close()


async def _ready(process: asyncio.subprocess.Process, runtime: SystemRuntime) -> None:
    line = b""
    if process.stdout is not None:
        with suppress(TimeoutError):
            async with runtime.timeout(START_SECONDS):
                line = await process.stdout.readline()
    if line != _READY:
        raise Unavailable("the receiver of the hop does not start", reason="process-ended")


def _write_identities(folder: Path, runtime: SystemRuntime) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = runtime.now_ms()
    authority, authority_key = new_authority("HCE-FS benchmark", now_ms=now)
    (folder / "ca.crt").write_bytes(authority)
    for name in ("sender", "receiver"):
        certificate, key = issue(authority, authority_key, name, (HOST,), now_ms=now)
        (folder / f"{name}.crt").write_bytes(certificate)
        write_private(folder / f"{name}.key", key, replace=True)


def _identity(folder: Path, name: str) -> Identity:
    return Identity(
        (folder / "ca.crt").read_bytes(),
        (folder / f"{name}.crt").read_bytes(),
        (folder / f"{name}.key").read_bytes(),
    )


# --- the receiver ---------------------------------------------------------------------


async def _drop(messages: AsyncIterator[bytes], context: Any) -> bytes:
    total = 0
    async for message in messages:
        total += len(message)
    return total.to_bytes(8, "big")


async def receive(folder: Path, address: str) -> None:
    """Serve until standard input closes."""
    handlers = {"Drop": grpc.stream_unary_rpc_method_handler(_drop)}  # bytes, not messages
    port = Port(
        address,
        _identity(folder, "receiver"),
        [grpc.method_handlers_generic_handler(SERVICE, handlers)],
        [SERVICE],
        mutual=True,
        streams=4,
    )
    await port.start()
    await port.set_serving(True)
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), closed.set)
    await closed.wait()
    loop.remove_reader(sys.stdin.fileno())
    await port.stop()


if __name__ == "__main__":
    asyncio.run(receive(Path(sys.argv[1]), sys.argv[2]))
