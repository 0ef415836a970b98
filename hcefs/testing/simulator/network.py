"""A network under gRPC: channels that carry the same messages to the same handlers.

A :class:`SimDialer` gives channels that look like ``grpc.aio`` ones to SDK, peers and
ledger link; a call runs the target's generic handlers with a context like gRPC's.
Each direction between two machines is a :class:`Link` that delays, drops, cuts or is
closed.

What is modelled: order within a call, and none between calls; flow control by a
window of messages; deadlines on both sides; cancellation that travels; refused
connections; connections that hang until keep-alive gives them up; the death of either
process.  A damaged message is a cut, because TLS notices it.  Not modelled: bandwidth,
metadata limits, and the handshake but for the pinned key.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import grpc

from hcefs.errors import Denied, Unavailable
from hcefs.testing.simulator.clock import VirtualLoop
from hcefs.testing.simulator.machine import Life
from hcefs.transport.tls import spki_hash

WINDOW = 8
"""Messages under way in one direction of a call; more wait with the sender."""

CONNECT_SECONDS = 2.0
CLIENT_KEEPALIVE_SECONDS = 15.0
SERVER_KEEPALIVE_SECONDS = 30.0

Status = tuple[grpc.StatusCode, str, tuple[tuple[str, Any], ...]]
_OK: Status = (grpc.StatusCode.OK, "", ())
EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it


class Link:
    """One direction between two machines."""

    def __init__(self) -> None:
        self.delay_seconds = (0.0005, 0.003)
        self.loss = 0.0
        """How likely one message is lost, and all after it on its call."""
        self.cut = 0.0
        """How likely the connection breaks under one message."""
        self.is_closed = False
        self.parked: list[Callable[[], None]] = []

    def heal(self) -> None:
        """As new; what waited goes on."""
        self.loss = self.cut = 0.0
        self.delay_seconds = (0.0005, 0.003)
        self.open()

    def open(self) -> None:
        """Let what waited go on."""
        self.is_closed = False
        parked, self.parked = self.parked, []
        for deliver in parked:
            deliver()


@dataclass(frozen=True)
class Port:
    """What listens at an address."""

    life: Life
    handlers: tuple[Any, ...]
    spki: bytes
    is_mutual: bool


class Network:
    """All ports and links."""

    def __init__(self, loop: VirtualLoop, seed: str, trace: Callable[[str], None]) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        self.trace = trace
        self.ports: dict[str, Port] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self.calls: dict[Call, None] = {}
        self.count = 0

    def listen(self, address: str, port: Port) -> None:
        """Answer calls to an address until the port's life ends."""
        self.ports[address] = port

    def link(self, source: str, target: str) -> Link:
        """The direction from one machine to another."""
        found = self.links.get((source, target))
        if found is None:
            found = self.links[source, target] = Link()
        return found

    def ended(self, life: Life) -> None:
        """The kernel resets the connections of a process that died."""
        for call in list(self.calls):
            call.side_died(life)

    def heal(self) -> None:
        """Every link as new."""
        for link in self.links.values():
            link.heal()


class SimDialer:
    """Opens channels for one life; see :class:`hcefs.transport.dial.Dialer`."""

    version = 0

    def __init__(self, network: Network, life: Life, certificate: bytes | None) -> None:
        self._network = network
        self._life = life
        self._certificate = certificate

    def to_server(self, address: str, options: Sequence[tuple[str, Any]]) -> Any:
        return SimChannel(self._network, self._life, address, self._certificate, None)

    async def to_node(self, address: str, spki: bytes, options: Sequence[tuple[str, Any]]) -> Any:
        network, life = self._network, self._life
        port = network.ports.get(address)
        here = life.machine.name
        there = port.life.machine.name if port is not None else address
        if network.link(here, there).is_closed or network.link(there, here).is_closed:
            await asyncio.sleep(CONNECT_SECONDS)
        await asyncio.sleep(network.random.uniform(0.001, 0.006))
        port = network.ports.get(address)
        if (
            port is None
            or not port.life.alive
            or network.link(here, there).is_closed
            or network.link(there, here).is_closed
        ):
            raise Unavailable(f"{address} cannot be reached", reason="unreachable")
        if port.spki != spki:
            raise Denied(f"{address} has another key", reason="wrong-certificate")
        return SimChannel(network, life, address, self._certificate, spki)


class SimChannel:
    """What the code over it uses of ``grpc.aio.Channel``."""

    def __init__(
        self,
        network: Network,
        life: Life,
        address: str,
        certificate: bytes | None,
        spki: bytes | None,
    ) -> None:
        self.network = network
        self.life = life
        self.address = address
        self.certificate = certificate
        self.spki = spki
        self.connected: Life | None = None
        self.state = grpc.ChannelConnectivity.IDLE
        self.calls: dict[Call, None] = {}
        self.is_closed = False

    async def __aenter__(self) -> SimChannel:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close(None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.state

    async def close(self, grace: float | None = None) -> None:
        self.is_closed = True
        for call in list(self.calls):
            call.cancel()

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None
    ) -> Any:
        return _Method(self, method, False, False, request_serializer, response_deserializer)

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None
    ) -> Any:
        return _Method(self, method, False, True, request_serializer, response_deserializer)

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None
    ) -> Any:
        return _Method(self, method, True, False, request_serializer, response_deserializer)

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None
    ) -> Any:
        return _Method(self, method, True, True, request_serializer, response_deserializer)


@dataclass(frozen=True)
class _Method:
    channel: SimChannel
    name: str
    sends_many: bool
    gets_many: bool
    serializer: Any
    deserializer: Any

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, Any]] = (),
    ) -> Call:
        if self.channel.is_closed:
            raise grpc.aio.UsageError("Channel is closed.")
        return Call(self, request, timeout, tuple(metadata))


class _Pipe:
    """One direction of a call: messages that have arrived, and room for more."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.arrived: deque[Any] = deque()
        self._under_way = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self.is_ended = False
        self.last = 0.0

    async def room(self) -> None:
        while self._under_way >= WINDOW and not self.is_ended:
            self._writer = self._loop.create_future()
            await self._writer
        self._under_way += 1

    def arrive(self, message: Any) -> None:
        self.arrived.append(message)
        _wake(self._reader)

    def end(self) -> None:
        self.is_ended = True
        _wake(self._reader)
        _wake(self._writer)

    async def receive(self) -> Any:
        while not self.arrived:
            if self.is_ended:
                return EOF
            self._reader = self._loop.create_future()
            await self._reader
        message = self.arrived.popleft()
        if message is not EOF:
            self._under_way -= 1
            _wake(self._writer)
        return message


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class Call:
    """One call: what the client holds of it, and the handler's task on the other side."""

    def __init__(
        self, method: _Method, request: Any, timeout: float | None, metadata: tuple[Any, ...]
    ) -> None:
        channel = method.channel
        self.network = network = channel.network
        network.count += 1
        self.number = network.count
        self.method = method
        self.metadata = metadata
        self.loop = network.loop
        self.started = self.loop.time()
        self._channel = channel
        self._client = channel.life
        self._up, self._down = _Pipe(self.loop), _Pipe(self.loop)
        self._status: Status | None = None
        self._over: asyncio.Future[None] = self.loop.create_future()
        self._initial: asyncio.Future[tuple[Any, ...]] = self.loop.create_future()
        self._callbacks: list[Callable[[Any], None]] = []
        self._server: Life | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_stalled = False
        self._timer = None
        network.calls[self] = None
        channel.calls[self] = None
        self.deadline = None if timeout is None else self.loop.time() + timeout
        if timeout is not None:
            self._timer = self.loop.call_later(timeout, self._deadline_passed)
        self._connect(self._serialized(request) if not method.sends_many else None)

    def __hash__(self) -> int:
        return self.number

    def _serialized(self, request: Any) -> bytes:
        return bytes(self.method.serializer(request) if self.method.serializer else request)

    # -- the way there

    def _connect(self, request: bytes | None) -> None:
        network, channel = self.network, self._channel
        port = network.ports.get(channel.address)
        if not self._client.alive:
            self._finish((grpc.StatusCode.UNAVAILABLE, "this process is dead", ()))
            return
        if port is None or not port.life.alive:
            self._fail_later(network.random.uniform(0.001, 0.006), "connection refused")
            return
        here, there = self._client.machine.name, port.life.machine.name
        self._forth, self._back = network.link(here, there), network.link(there, here)
        is_cut_off = self._forth.is_closed or self._back.is_closed
        if channel.connected is not port.life and is_cut_off:
            self._fail_later(CONNECT_SECONDS, "failed to connect: timeout")
            return
        if channel.spki is not None and port.spki != channel.spki:
            self._fail_later(0.005, "certificate_verify_failed")
            return
        channel.connected = self._server = port.life
        channel.state = grpc.ChannelConnectivity.READY
        self._port = port
        self._carry(self._forth, self._up, lambda: self._begin(request))

    def _fail_later(self, seconds: float, details: str) -> None:
        self._channel.state = grpc.ChannelConnectivity.TRANSIENT_FAILURE
        self._channel.connected = None
        failure = (grpc.StatusCode.UNAVAILABLE, details, ())
        self.loop.call_later(seconds, lambda: self._finish(failure))

    def _begin(self, request: bytes | None) -> None:
        server = self._server
        if server is None or not server.alive or self._task is not None:
            return
        if request is not None:
            self._up.arrive(request)
            self._up.arrive(EOF)
        self._task = server.start(self._serve(), self.method.name)

    def _carry(self, link: Link, pipe: _Pipe, deliver: Callable[[], None]) -> None:
        """Have something happen on the other side, unless the network prevents it."""
        network = self.network
        if self.loop.is_closed():
            return  # what is left of a run that has ended
        if link.is_closed:
            link.parked.append(lambda: self._carry(link, pipe, deliver))
            self._stall()
            return
        if self._is_stalled and link.loss:
            return  # what follows on a connection that lost a message never arrives
        if link.loss and network.random.random() < link.loss:
            self._stall()
            return
        if link.cut and network.random.random() < link.cut:
            self._break("connection reset")
            return
        # Timers of one instant fire in any order: what is sent later arrives later.
        at = max(pipe.last + 1e-6, self.loop.time() + network.random.uniform(*link.delay_seconds))
        pipe.last = at
        self.loop.call_at(at, deliver)

    def _stall(self) -> None:
        """Nothing comes through: keep-alive gives the connection up on either side."""
        if self._is_stalled:
            return
        self._is_stalled = True
        self.loop.call_later(CLIENT_KEEPALIVE_SECONDS, self._keepalive, True)
        self.loop.call_later(SERVER_KEEPALIVE_SECONDS, self._keepalive, False)

    def _keepalive(self, is_client: bool) -> None:
        if not self._is_stalled:
            return
        if is_client:
            self._channel.connected = None
            self._finish((grpc.StatusCode.UNAVAILABLE, "keepalive watchdog timeout", ()))
        else:
            self._cancel_handler()

    def _break(self, details: str) -> None:
        """The connection is gone on both sides."""
        self._channel.connected = None
        self._finish((grpc.StatusCode.UNAVAILABLE, details, ()))
        self._cancel_handler()

    def side_died(self, life: Life) -> None:
        """One of the processes died: the other is told, if the network lets it."""
        if life is self._client:
            self._finish((grpc.StatusCode.CANCELLED, "this process is dead", ()))
            if self._server is not None:
                self._carry(self._forth, self._up, self._cancel_handler)
        elif life is self._server:
            gone = (grpc.StatusCode.UNAVAILABLE, "connection reset by peer", ())
            self._carry(self._back, self._down, lambda: self._finish(gone))

    # -- the server's side

    async def _serve(self) -> None:
        context = ServerContext(self)
        handler = None
        for each in self._port.handlers:
            handler = each.service(context)
            if handler is not None:
                break
        status = _OK
        try:
            if handler is None:
                status = (grpc.StatusCode.UNIMPLEMENTED, "no such method", ())
            else:
                await self._handled(handler, context)
        except grpc.aio.AbortError:
            status = context.aborted
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - as gRPC does
            status = (grpc.StatusCode.UNKNOWN, f"Unexpected {type(error).__name__}", ())
        self._carry(self._back, self._down, lambda: self._finish(status))

    async def _handled(self, handler: Any, context: ServerContext) -> None:
        requests: Any = self._requests()
        if not handler.request_streaming:
            requests = await self._up.receive()
        if handler.response_streaming:
            run = handler.stream_stream if handler.request_streaming else handler.unary_stream
            await run(requests, context)
        else:
            run = handler.stream_unary if handler.request_streaming else handler.unary_unary
            await context.write(await run(requests, context))

    async def _requests(self) -> AsyncIterator[bytes]:
        while (message := await self._up.receive()) is not EOF:
            yield message

    def _cancel_handler(self) -> None:
        self._up.end()
        if self._task is not None:
            self._task.cancel()

    async def respond(self, message: bytes) -> None:
        """One message of the handler to the client."""
        await self._down.room()
        self._carry(self._back, self._down, lambda: self._down.arrive(message))

    def give_initial(self, metadata: tuple[Any, ...]) -> None:
        """The handler's initial metadata."""

        def deliver() -> None:
            if not self._initial.done():
                self._initial.set_result(metadata)

        self._carry(self._back, self._down, deliver)

    @property
    def port(self) -> Port:
        """Where it arrived."""
        return self._port

    @property
    def certificate(self) -> bytes | None:
        """What the client showed."""
        return self._channel.certificate

    # -- the end

    def _deadline_passed(self) -> None:
        self._finish((grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ()))
        self._cancel_handler()

    def _finish(self, status: Status) -> None:
        if self._status is not None:
            return
        self._status = status
        if self._timer is not None:
            self._timer.cancel()
        self.network.calls.pop(self, None)
        self._channel.calls.pop(self, None)
        self._down.end()
        self._up.end()
        if not self._initial.done():
            self._initial.set_result(())
        self._over.set_result(None)
        self.network.trace(
            f"{self.loop.time():.6f} {self._client.machine.name}>{self._channel.address} "
            f"{self.method.name} {status[0].name} {self.started:.6f}"
        )
        for callback in self._callbacks:
            callback(self)

    # -- what the client's code uses of grpc.aio.Call

    def cancel(self) -> bool:
        if self._status is not None:
            return False
        self._finish((grpc.StatusCode.CANCELLED, "Locally cancelled by application!", ()))
        if self._server is not None:
            self._carry(self._forth, self._up, self._cancel_handler)
        return True

    def cancelled(self) -> bool:
        return self._status is not None and self._status[0] is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._status is not None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._status is not None:
            callback(self)
        else:
            self._callbacks.append(callback)

    async def _wait(self) -> Status:
        if self._status is None:
            await asyncio.shield(self._over)
        if self._status is None:
            raise asyncio.CancelledError
        return self._status

    async def code(self) -> grpc.StatusCode:
        return (await self._wait())[0]

    async def details(self) -> str:
        return (await self._wait())[1]

    async def trailing_metadata(self) -> Any:
        return (await self._wait())[2]

    async def initial_metadata(self) -> Any:
        return await asyncio.shield(self._initial)

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        try:
            message = await self._down.receive()
            await self._raise_for_status()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is EOF:
            raise self._error((grpc.StatusCode.INTERNAL, "no answer", ()))
        return self.method.deserializer(message) if self.method.deserializer else message

    async def _raise_for_status(self) -> None:
        status = await self._wait()
        if status[0] is grpc.StatusCode.CANCELLED:
            raise asyncio.CancelledError
        if status[0] is not grpc.StatusCode.OK:
            raise self._error(status)

    def _error(self, status: Status) -> grpc.aio.AioRpcError:
        empty = grpc.aio.Metadata()
        return grpc.aio.AioRpcError(status[0], empty, status[2], status[1], None)  # type: ignore[arg-type]

    async def read(self) -> Any:
        if self._status is not None and self._status[0] is not grpc.StatusCode.OK:
            await self._raise_for_status()
        try:
            message = await self._down.receive()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is EOF:
            await self._raise_for_status()
            return EOF
        return self.method.deserializer(message) if self.method.deserializer else message

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not EOF:
            yield message

    async def write(self, message: Any) -> None:
        if self._status is not None:
            await self._refuse_write()
        data = self._serialized(message)
        try:
            await self._up.room()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._status is not None:
            await self._refuse_write()
        if self._server is not None:
            self._carry(self._forth, self._up, lambda: self._up.arrive(data))

    async def _refuse_write(self) -> None:
        await self._raise_for_status()
        raise asyncio.InvalidStateError("RPC already finished.")

    async def done_writing(self) -> None:
        if self._status is None and self._server is not None:
            self._carry(self._forth, self._up, lambda: self._up.arrive(EOF))


class ServerContext:
    """What handlers use of ``grpc.aio.ServicerContext``."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.method = call.method.name
        self.aborted: Status = (grpc.StatusCode.UNKNOWN, "", ())

    def invocation_metadata(self) -> tuple[Any, ...]:
        return self._call.metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        certificate = self._call.certificate
        if not self._call.port.is_mutual or certificate is None:
            return {}
        return {"x509_pem_cert": [certificate]}

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, Any]]) -> None:
        self._call.give_initial(tuple(metadata))

    async def write(self, message: bytes) -> None:
        await self._call.respond(message)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> None:
        self.aborted = (code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError("Locally aborted.")


def spki_of(certificate: bytes) -> bytes:
    """What a node registers of its certificate."""
    return spki_hash(certificate)


def fresh_context() -> Context:
    """A context that belongs to no life."""
    return Context()
