"""What all servicers share: bounds, errors to statuses, metrics, and the request's log line.

Every handler runs inside :func:`served` or :func:`streamed`.  A typed error
becomes its gRPC status; anything else is a fault of ours: the client gets
``Internal`` with the request id, the log gets the trace without the message,
which could carry data.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from hcefs import tracing
from hcefs.errors import Denied, HcefsError, Internal, NotFound, Unauthenticated, Unavailable
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.standing import SERVED, Served
from hcefs.services.strangers import Undisclosed
from hcefs.transport.limit import Gate
from hcefs.transport.status import abort

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Ends(Protocol):
    """What wants to know how a stream ended."""

    def close(self, outcome: str, served: int) -> None:
        """The stream has ended so, after that many bytes."""


CLOSING: ContextVar[Ends | None] = ContextVar("closing", default=None)
"""Who is to be told when the stream that this task serves has ended."""

REQUESTS = logging.getLogger("hcefs.requests")
"""One line for each request that ended: info if it failed, debug if not (``log.requests``).

A request that its caller cancelled has not failed: a reader does so with what it no longer needs.
"""


class Serving(Protocol):
    """What a servicer must offer to be wrapped."""

    runtime: Runtime
    metrics: Metrics
    gate: Gate


WRITE_SECONDS = 60.0
"""A caller that takes no message for so long has vanished: its stream is ended."""


def served(
    method: str, *, gated: bool = True
) -> Callable[
    [Callable[[Any, Any, Any], Awaitable[Answer]]], Callable[[Any, Any, Any], Awaitable[Answer]]
]:
    """Wrap a handler that returns one answer.

    A handler that is not ``gated`` enters the gate itself, once it knows who asks.
    """

    def wrap(
        handler: Callable[[Any, Any, Any], Awaitable[Answer]],
    ) -> Callable[[Any, Any, Any], Awaitable[Answer]]:
        @functools.wraps(handler)
        async def run(self: Serving, request: Any, context: Any) -> Answer:
            if hasattr(request, "__anext__"):
                request = Arriving(request)
            answer: Answer | None = None
            with asked(self, method, context) as call:
                try:
                    async with self.gate if gated else contextlib.nullcontext():
                        answer = await handler(self, request, context)
                        return answer
                except asyncio.CancelledError:
                    failure = call.cut()
                except Exception as error:  # noqa: BLE001 - the edge: all failures become a status
                    failure = call.failed(error)
                finally:
                    call.served.leave()
                    call.ended(request, answer)
                await abort(context, failure, request_id=bytes(tracing.request_id()))
            raise failure

        return run

    return wrap


def streamed(
    method: str,
) -> Callable[
    [Callable[[Any, Any, Any], AsyncIterator[Any]]], Callable[[Any, Any, Any], Awaitable[None]]
]:
    """Wrap a handler that yields its answers: messages, or the bytes of messages."""

    def wrap(
        handler: Callable[[Any, Any, Any], AsyncIterator[Any]],
    ) -> Callable[[Any, Any, Any], Awaitable[None]]:
        @functools.wraps(handler)
        async def run(self: Serving, request: Any, context: Any) -> None:
            failure: HcefsError | None = None
            with asked(self, method, context) as call:
                answers = handler(self, request, context)
                CLOSING.set(None)
                sent = 0
                try:
                    async with self.gate:
                        async for answer in answers:
                            sent += await _send(self.runtime, context, answer)
                except asyncio.CancelledError:
                    failure = call.cut()
                except Exception as error:  # noqa: BLE001 - the edge: all failures become a status
                    failure = call.failed(error)
                finally:
                    try:
                        await _close(answers)
                    finally:
                        call.served.leave()
                        closing = CLOSING.get()
                        if closing is not None:
                            told = failure.reason if failure is not None else call.outcome
                            closing.close(told, sent)
                        call.span.attributes["bytes"] = sent
                        call.ended(request, sent)
                if failure is not None:
                    await abort(context, failure, request_id=bytes(tracing.request_id()))

        return run

    return wrap


class Call:
    """One call from its beginning to its line in the log, and how it stands."""

    def __init__(
        self, servicer: Serving, method: str, context: Any, started: float, span: tracing.Open
    ) -> None:
        self._servicer = servicer
        self._method = method
        self._context = context
        self.started = started
        self.span = span
        self.served = Served()
        self.outcome = self.reason = "ok"

    def cut(self) -> HcefsError:
        """It was cancelled: what its caller is told, if its right had ended.

        Raises:
            CancelledError: it had not, or its caller has gone as well.
        """
        self.outcome = self.reason = "cancelled"
        failure = cut(self._servicer, self._method, self.served)
        self.outcome, self.reason = failure.kind, failure.reason
        return failure

    def failed(self, error: Exception) -> HcefsError:
        """Its handler raised: what its caller is told."""
        servicer = self._servicer
        failure = sure(servicer, typed(servicer.metrics, self._method, error))
        self.outcome, self.reason = failure.kind, reason_of(error)
        return failure

    def ended(self, request: Any, answer: Any) -> None:
        """Nothing more comes: its span, its metrics and its line in the log."""
        servicer, method, outcome = self._servicer, self._method, self.outcome
        self.span.outcome = outcome
        finished(servicer, method, outcome, self.started)
        note(servicer, self._context, method, outcome, self.reason, self.started, request, answer)


@contextlib.contextmanager
def asked(self: Serving, method: str, context: Any) -> Iterator[Call]:
    """Serve a call in the trace that it belongs to, as a span of it."""
    started = self.runtime.monotonic()
    # A task of its own serves each call, so nothing has to be undone at the end.
    tracing.received(self.runtime, context.invocation_metadata())
    with tracing.span(f"serve {method}", "server") as span:
        call = Call(self, method, context, started, span)
        SERVED.set(call.served)
        yield call


async def _send(runtime: Runtime, context: Any, answer: Any) -> int:
    data = answer if isinstance(answer, bytes) else answer.SerializeToString()
    try:
        async with runtime.timeout(WRITE_SECONDS):
            await context.write(data)
    except TimeoutError:
        raise Unavailable(
            "the caller took no message for too long; ask again from where it stopped",
            reason="stalled",
        ) from None
    return len(data)


async def _close(answers: AsyncIterator[Any]) -> None:
    """End a handler's generator now, so that its lanes and files are freed now."""
    close = getattr(answers, "aclose", None)
    if close is not None:
        await close()


def cut(self: Serving, method: str, request: Served) -> HcefsError:
    """Why a handler was cancelled, if its right had ended.

    Raises:
        CancelledError: it was not, or its caller has gone as well.
    """
    if request.ended is None or not request.taken_back():
        raise asyncio.CancelledError
    self.metrics.count("cut_streams_total", reason=request.ended.reason)
    return typed(self.metrics, method, request.ended)


class Arriving:
    """The messages of a client-streaming call, and how many bytes they had."""

    __slots__ = ("_messages", "received")

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        self._messages = messages
        self.received = 0

    def __aiter__(self) -> Arriving:
        return self

    async def __anext__(self) -> bytes:
        message = await self._messages.__anext__()
        self.received += len(message)
        return message


def size_of(message: Any) -> int:
    """Bytes of what a call carried in one direction; 0 where nobody counted."""
    if isinstance(message, bytes):
        return len(message)
    if isinstance(message, Arriving):
        return message.received
    if isinstance(message, int):
        return message
    return int(message.ByteSize()) if isinstance(message, Message) else 0


def note(
    self: Serving,
    context: Any,
    method: str,
    outcome: str,
    reason: str,
    started: float,
    request: Any,
    answer: Any,
) -> None:
    """Log a request that ended; costs a comparison where nobody wants the line."""
    level = logging.DEBUG if outcome in ("ok", "cancelled") else logging.INFO
    if not REQUESTS.isEnabledFor(level):
        return
    # Only other nodes show a certificate.
    peer = "node" if context.auth_context().get("x509_pem_cert") else "client"
    facts = {
        "method": method,
        "outcome": outcome,
        "reason": reason,
        "milliseconds": round((self.runtime.monotonic() - started) * 1000),
        "bytes": size_of(answer),
        "received": size_of(request),
        "peer": peer,
    }
    REQUESTS.log(
        level, "%s: %s (%s), %d ms, for a %s", method, outcome, reason, facts["milliseconds"], peer,
        extra={"facts": facts},
    )  # fmt: skip


def finished(self: Serving, method: str, outcome: str, started: float) -> None:
    """Count a request that ended."""
    self.metrics.count("requests_total", method=method, outcome=outcome)
    seconds = self.runtime.monotonic() - started
    self.metrics.observe("request_seconds", seconds, method=method)
    if outcome == "ok" and self.gate.timed is not None:
        self.gate.timed(method, seconds)


def sure(self: Serving, error: HcefsError) -> HcefsError:
    """What a node says that is still to get rows back: it does not know what it lacks.

    Its servicers have a ``restoring`` that tells.
    """
    restoring = getattr(self, "restoring", None)
    if isinstance(error, NotFound) and restoring is not None and restoring():
        return is_restoring()
    return error


def is_restoring() -> Unavailable:
    """Why a node that lost rows says nothing of what it lacks."""
    return Unavailable(
        "this node restores what it has lost, so it cannot say what there is: ask another",
        reason="restoring",
    )


def reason_of(error: Exception) -> str:
    """Why a request failed, for the log and the metrics of this node."""
    # What a stranger is not told is counted and logged all the same.
    if isinstance(error, Undisclosed):
        return error.inner.reason
    return error.reason if isinstance(error, HcefsError) else "internal"


def typed(metrics: Metrics, method: str, error: Exception) -> HcefsError:
    """The typed error that the caller gets, counted and logged."""
    if isinstance(error, HcefsError):
        reason = reason_of(error)
        if isinstance(error, Unauthenticated):
            metrics.count("unauthenticated_total")
        elif isinstance(error, Denied):
            metrics.count("denials_total", reason=reason)
        if error.reason == "busy":
            metrics.count("busy_total", limit=method)
        return error
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: unexpected %s\n%s", method, type(error).__name__, frames)
    return Internal("a fault of the node; its log has the trace, tell the operator")
