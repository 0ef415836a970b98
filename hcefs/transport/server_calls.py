"""Calls to a server by its address: one message each way, or many answers to one request.

For callers whose requests carry their own proof of who asks; calls between nodes, which
carry heads as well, are :mod:`.grpc_peers`'.

Invariant: every failure leaves here as an error of :mod:`hcefs.errors`, and a call whose
answers are not read to the end is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from hcefs import tracing
from hcefs.errors import Unavailable
from hcefs.runtime import Runtime
from hcefs.transport.status import from_rpc_error

M = TypeVar("M", bound=Message)
T = TypeVar("T")


async def one_answer(
    channel: Any, method: str, request: Message, answer: type[M], seconds: float
) -> M:
    """Call a method with one request and one answer.

    Raises:
        HcefsError: what the server or the transport says.
    """
    call = channel.unary_unary(
        method,
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )
    try:
        result: M = await call(request, timeout=seconds, metadata=tracing.metadata())
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    return result


async def answers(
    runtime: Runtime,
    begin: Callable[[], Any],
    kind: type[T],
    seconds: float,
    stalled: Callable[[], Unavailable],
) -> AsyncGenerator[T, None]:
    """The messages of a server-streaming call, each of ``kind``.

    The call begins when the first is asked for; ``stalled`` is raised when none comes for
    so many seconds.

    Raises:
        HcefsError: what the server or the transport says.
    """
    call = begin()
    try:
        while True:
            try:
                async with runtime.timeout(seconds):
                    message = await call.read()
            except TimeoutError:
                raise stalled() from None
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
            if not isinstance(message, kind):  # the library's end of stream
                return
            yield message
    finally:
        call.cancel()
