"""Which request a task works for: two ids that follow it through all nodes, and its spans.

A *request id* names one request as its receipts do.  A *trace id* names what belongs together
for whoever began it: all requests of one command, one unit of upkeep.  Where nobody began a
trace, the node that takes the request does.  The trace id travels as the W3C's
``traceparent``, the request id in the messages; logs show both; spans go to a
:class:`Recorder` if the process has one.

Invariants: what arrives is not trusted: an ill-formed ``traceparent`` counts as none, and
whether a trace is recorded is decided by its id and this node's share alone, so no stranger
can make a node record.  Nothing here blocks, and a span costs next to nothing where nobody
records.  Names and attributes of spans are constants of the code, kinds, reasons and counts:
never an id of a record or blob, a key, a token or a label.

Source: W3C Trace Context, section 3.2; OpenTelemetry, trace/api.md; decision 0040.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from hcefs.errors import HcefsError
from hcefs.ids import RequestId
from hcefs.runtime import Runtime

TRACEPARENT: Final = "traceparent"
REQUEST_KEY: Final = "hcefs-request-id"
SPAN_BYTES: Final = 8
NO_SPAN: Final = bytes(SPAN_BYTES - 1) + b"\1"
"""What travels for a trace that began outside of any span: zero is not allowed there."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_TRACEPARENT_CHARACTERS_MAX = 128


@dataclass(frozen=True, slots=True)
class Context:
    """What a task works for.  ``span`` is zero bytes or the span that runs (8 bytes)."""

    trace: RequestId
    span: bytes = bytes(SPAN_BYTES)
    request: RequestId = field(default_factory=RequestId.zero)

    def traceparent(self) -> str:
        """The header for a call that is made on its behalf; flag 0: each node decides itself."""
        span = self.span if any(self.span) else NO_SPAN
        return f"00-{self.trace.hex()}-{span.hex()}-00"


@dataclass(frozen=True, slots=True)
class Span:
    """One finished piece of work.  Times are Unix nanoseconds; ``parent`` may be zero bytes."""

    name: str
    kind: str
    """``server``, ``client`` or ``internal``."""
    trace: RequestId
    span: bytes
    parent: bytes
    began_ns: int
    ended_ns: int
    outcome: str
    """``ok`` or the kind of the error."""
    attributes: Mapping[str, str | int]


class Recorder(Protocol):
    """Takes the spans of this process; must not block."""

    @property
    def runtime(self) -> Runtime:
        """Whose clock times the spans, and whose randomness names them."""

    def wants(self, trace: RequestId) -> bool:
        """Whether this trace is among those that are recorded."""

    def record(self, span: Span) -> None:
        """Take a finished span, or drop it."""


_CURRENT: ContextVar[Context | None] = ContextVar("hcefs-trace", default=None)
_recorders: list[Recorder] = []


def install(recorder: Recorder) -> Callable[[], None]:
    """Have ``recorder`` take the spans of this process until the returned call."""
    _recorders.append(recorder)
    return lambda: _recorders.remove(recorder)


def current() -> Context | None:
    """What the running task works for."""
    return _CURRENT.get()


def request_id() -> RequestId:
    """The request that the running task serves, else its trace; zero if there is neither."""
    context = _CURRENT.get()
    if context is None:
        return RequestId.zero()
    return context.request or context.trace


def metadata() -> list[tuple[str, Any]]:
    """The metadata of a call that the running task makes."""
    return _carried(_CURRENT.get())


def _carried(context: Context | None) -> list[tuple[str, Any]]:
    return [(TRACEPARENT, context.traceparent())] if context is not None else []


def parse(value: object) -> Context | None:
    """The context that a ``traceparent`` names; None if it is not one."""
    if not isinstance(value, str) or len(value) > _TRACEPARENT_CHARACTERS_MAX:
        return None
    match = _TRACEPARENT.fullmatch(value)
    if match is None or (value.startswith("00") and match[3]):
        return None
    trace, span = RequestId(bytes.fromhex(match[1])), bytes.fromhex(match[2])
    if not trace or not any(span):
        return None
    return Context(trace, bytes(SPAN_BYTES) if span == NO_SPAN else span)


def received(runtime: Runtime, metadata: Any) -> Token[Context | None]:
    """Begin to serve a call with that metadata: in its trace, or in a new one."""
    found: Context | None = None
    for key, value in metadata or ():
        if key == TRACEPARENT:
            found = parse(value)
            break
    if found is None:
        found = Context(RequestId(runtime.random(RequestId.SIZE)))
    return _CURRENT.set(found)


def begun(runtime: Runtime) -> Token[Context | None]:
    """Begin a trace of this process's own: a command, a pass of upkeep."""
    return _CURRENT.set(Context(RequestId(runtime.random(RequestId.SIZE))))


def ended(token: Token[Context | None]) -> None:
    """End what :func:`received` or :func:`begun` began, in the same task."""
    _CURRENT.reset(token)


def detach() -> None:
    """The running task was started by a request, but goes on for others: it works for none."""
    _CURRENT.set(None)


def serves(request: RequestId) -> None:
    """Note the id of the request that the running task serves."""
    context = _CURRENT.get()
    if context is None:
        context = Context(trace=request)
    _CURRENT.set(replace(context, request=request))


class Open:
    """A span that runs: say how it went before it ends."""

    __slots__ = ("attributes", "outcome")

    def __init__(self) -> None:
        self.outcome = "ok"
        self.attributes: dict[str, str | int] = {}


@contextlib.contextmanager
def span(name: str, kind: str) -> Iterator[Open]:
    """A span around a block, recorded at its end if anybody wants it; for one task.

    An exception that leaves the block is its outcome, by kind.
    """
    opened = Open()
    context = _CURRENT.get()
    timed = _timed(name, kind, context)
    if context is None or timed is None:
        yield opened
        return
    _CURRENT.set(timed.own)
    try:
        yield opened
    except BaseException as error:
        if opened.outcome == "ok":
            opened.outcome = error.kind if isinstance(error, HcefsError) else "internal"
            if not isinstance(error, Exception):
                opened.outcome = "cancelled"
        raise
    finally:
        now = _CURRENT.get()
        if now is not None:
            _CURRENT.set(replace(now, span=context.span))
        timed.end(opened.outcome, opened.attributes)


class _Timed:
    """A span that somebody wants, from its beginning to its end."""

    __slots__ = ("_began_ns", "_cause", "_ended", "_kind", "_name", "_since", "_wanted", "own")

    def __init__(self, name: str, kind: str, cause: Context, wanted: list[Recorder]) -> None:
        runtime = wanted[0].runtime
        self._name, self._kind, self._cause, self._wanted = name, kind, cause, wanted
        self._began_ns = runtime.now_ms() * 1_000_000
        self._since = runtime.monotonic()
        self._ended = False
        self.own = replace(cause, span=runtime.random(SPAN_BYTES))

    def end(self, outcome: str, attributes: Mapping[str, str | int]) -> None:
        """Record it; a second time does nothing."""
        if self._ended:
            return
        self._ended = True
        took = int((self._wanted[0].runtime.monotonic() - self._since) * 1e9)
        done = Span(
            self._name, self._kind, self.own.trace, self.own.span, self._cause.span,
            self._began_ns, self._began_ns + took, outcome, attributes,
        )  # fmt: skip
        for each in self._wanted:
            each.record(done)


def _timed(name: str, kind: str, context: Context | None) -> _Timed | None:
    if context is None or not _recorders:
        return None
    wanted = [each for each in _recorders if each.wants(context.trace)]
    return _Timed(name, kind, context, wanted) if wanted else None


def stream(name: str) -> tuple[list[tuple[str, Any]], Callable[[str], None] | None]:
    """For a streaming call: the metadata that it carries, and what is to be told how it ended.

    The second is None where nobody wants a span of it.
    """
    context = _CURRENT.get()
    timed = _timed(name, "client", context)
    if timed is None:
        return _carried(context), None
    return _carried(timed.own), lambda outcome: timed.end(outcome, {})
