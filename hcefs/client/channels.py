"""gRPC channels to the ledger and to nodes, and what every part of a client shares.

Owns one TLS channel for each address, made on first use.  Clients check the
server's certificate; the server knows them by the proofs in their requests.

Invariant: every failure of a call leaves here as an error of :mod:`hcefs.errors`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message

from hcefs import tracing
from hcefs.client.authorize import Authorizer
from hcefs.client.connection import Connection
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import Invalid, Unavailable
from hcefs.placement.cluster_map import ClusterMap
from hcefs.runtime import Runtime, SystemRuntime
from hcefs.transport.dial import AuthorityDialer, FileDialer, ServerDialer
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS, Ending, send_failed
from hcefs.transport.retired import ServerChannels
from hcefs.transport.server_calls import answers, one_answer
from hcefs.transport.status import from_rpc_error

STALL_SECONDS = 60.0
"""A server that neither takes nor gives a message for so long counts as down."""

CALL_SECONDS_MAX = 86_400.0
"""The longest get or put: what is written must be on the ledger within a day."""

_RECEIVE_BYTES_MAX = ClusterMap.MAX_BYTES + (1 << 20)
"""The largest answer is a cluster map."""

_OPTIONS = [
    *(option for option in CHANNEL_OPTIONS if option[0] != "grpc.max_receive_message_length"),
    ("grpc.max_receive_message_length", _RECEIVE_BYTES_MAX),
]

M = TypeVar("M", bound=Message)
K = TypeVar("K")
V = TypeVar("V")


class Channels:
    """The channels of one client.  Use it from one event loop."""

    def __init__(self, runtime: Runtime, dialer: ServerDialer) -> None:
        self._runtime = runtime
        self._channels = ServerChannels(runtime, dialer, _OPTIONS, CALL_SECONDS_MAX)
        self._closed = False

    def get(self, address: str) -> Any:
        """The channel to an address.

        Raises:
            Invalid: the client is closed.
        """
        if self._closed:
            raise Invalid("this client is closed: open another", reason="client-closed")
        return self._channels.get(address)

    async def unary(
        self, address: str, method: str, request: Message, answer: type[M], seconds: float
    ) -> M:
        """Call a method with one request and one answer.

        Raises:
            HcefsError: what the server or the transport says.
        """
        return await one_answer(self.get(address), method, request, answer, seconds)

    def answers(self, address: str, method: str, request: bytes) -> AsyncGenerator[bytes, None]:
        """The messages of a server-streaming method, as raw bytes.

        Raises:
            HcefsError: what the server or the transport says.
            Unavailable: ``stalled``.
        """

        def begin() -> Any:
            return self.get(address).unary_stream(method)(request, metadata=tracing.metadata())

        return answers(self._runtime, begin, bytes, STALL_SECONDS, _stalled)

    def upload(self, address: str, method: str) -> Upload:
        """A client-streaming call of raw bytes, begun."""
        call = self.get(address).stream_unary(method)(metadata=tracing.metadata())
        return Upload(self._runtime, call)

    async def close(self) -> None:
        """Close all channels; calls that run end as cancelled."""
        self._closed = True
        await self._channels.close()


class Upload:
    """One client-streaming call: ``send``..., then ``finish``; or ``cancel``."""

    def __init__(self, runtime: Runtime, call: Any) -> None:
        self._runtime = runtime
        self._call = call
        self._ending = Ending(runtime, call)

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the server is slower.

        Raises:
            HcefsError: why the server ended the call.
            Unavailable: ``stalled``.
        """
        await self._step(self._call.write(message), STALL_SECONDS)

    async def finish(self, seconds: float) -> bytes:
        """End the stream and wait for the answer.

        Raises:
            HcefsError, Unavailable: as :meth:`send`.
        """

        async def answer() -> bytes:
            await self._call.done_writing()
            return bytes(await self._call)

        return bytes(await self._step(answer(), seconds))

    def cancel(self) -> None:
        """Give up; harmless after the end."""
        self._call.cancel()

    async def _step(self, step: Any, seconds: float) -> Any:
        try:
            async with self._runtime.timeout(seconds):
                return await step
        except TimeoutError:
            self._call.cancel()
            raise _stalled() from None
        except asyncio.InvalidStateError:
            # The server ended the call before it read everything: its status says why.
            raise await self._ending.error() from None
        except grpc.aio.AioRpcError as error:
            if send_failed(error):
                raise await self._ending.error() from None
            raise from_rpc_error(error) from None


def _stalled() -> Unavailable:
    return Unavailable("the server takes too long for one message: retry", reason="stalled")


class Recent(Generic[K, V]):
    """A bounded memory of answers that stay true for ``seconds`` (None: for ever)."""

    def __init__(self, runtime: Runtime, size: int, seconds: float | None = None) -> None:
        self._runtime = runtime
        self._size = size
        self._seconds = seconds
        self._known: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """What is known of ``key``, if it is recent enough."""
        found = self._known.get(key)
        if found is None:
            return None
        since, value = found
        if self._seconds is not None and self._runtime.monotonic() - since > self._seconds:
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V:
        """Remember and return ``value``."""
        self._known[key] = (self._runtime.monotonic(), value)
        self._known.move_to_end(key)
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return value

    def forget(self, key: K) -> None:
        """Ask again next time."""
        self._known.pop(key, None)


def dialer_of(runtime: Runtime, connection: Connection) -> ServerDialer:
    """Opens channels by the authority of a connection, or by what its file holds by then."""
    if connection.authority_file is None:
        return AuthorityDialer(connection.authority)
    return FileDialer(runtime, connection.authority, connection.authority_file)


class Session:
    """What all parts of a client share: who it is, where to, and how high it has seen.

    ``height`` is the highest ledger height that this client knows of; nodes are
    asked to answer from there on, so that a client reads what it wrote.
    """

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        if not keys.cluster:
            # Operators make their keys before there is a cluster.
            keys = replace(keys, cluster=connection.cluster)
        if keys.cluster != connection.cluster:
            raise Invalid(
                f"these keys are of an account of {keys.cluster}, the connection leads to "
                f"{connection.cluster}: use the account file of that cluster",
                reason="wrong-cluster",
            )
        self._own_runtime: SystemRuntime | None = None
        if runtime is None:
            runtime = self._own_runtime = SystemRuntime()
        self.runtime = runtime
        self.connection = connection
        self.height = 0
        self._keys = keys
        self._signing_key = keys.signing_key
        self._receiving_key = keys.receiving_key
        self._authorizer = Authorizer(connection.cluster, keys, self.runtime)
        self._channels = Channels(
            self.runtime, dialer if dialer is not None else dialer_of(self.runtime, connection)
        )
        self.account = self._authorizer.account

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.account}, {self.connection.cluster})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channels, and the runtime if it was made here.  Idempotent."""
        await self._channels.close()
        if self._own_runtime is not None:
            self._own_runtime.close()

    def _saw(self, height: int) -> None:
        self.height = max(self.height, height)
