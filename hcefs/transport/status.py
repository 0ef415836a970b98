"""The one table between :mod:`hcefs.errors` and gRPC status codes, both ways.

An error travels as a status code, a message and trailing metadata
(``hcefs-kind``, ``hcefs-reason``, ``hcefs-retry-after-ms``, ``hcefs-request-id``; ASCII).
The metadata decides; the code is what clients of other languages see, and what this side
falls back to when gRPC itself failed.

Invariants:

* What HCE-FS did not raise on purpose never reaches the other side as text: it
  becomes ``internal`` with the request id; the log names its type and place.
* What arrives is not trusted: kinds are looked up, reasons must be slugs, text
  is cut and made printable, delays are bounded.

Source: gRPC's ``doc/statuscodes.md``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc

from hcefs.errors import (
    KINDS,
    Conflict,
    Corrupt,
    Denied,
    Exhausted,
    HcefsError,
    Internal,
    Invalid,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from hcefs.tracing import REQUEST_KEY

_logger = logging.getLogger(__name__)

KIND_KEY: Final = "hcefs-kind"
REASON_KEY: Final = "hcefs-reason"
RETRY_AFTER_KEY: Final = "hcefs-retry-after-ms"

MESSAGE_CHARACTERS_MAX = 1024
RETRY_AFTER_MS_MAX = 600_000

_CODES: Final[Mapping[type[HcefsError], grpc.StatusCode]] = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    Corrupt: grpc.StatusCode.DATA_LOSS,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Denied: grpc.StatusCode.PERMISSION_DENIED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Conflict: grpc.StatusCode.ABORTED,  # ALREADY_EXISTS when the reason says so
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Internal: grpc.StatusCode.INTERNAL,
}

_PLAIN: Final[Mapping[grpc.StatusCode, tuple[type[HcefsError], str, str]]] = {
    grpc.StatusCode.CANCELLED: (Unavailable, "cancelled", "the call was cancelled"),
    grpc.StatusCode.UNKNOWN: (Internal, "internal", "the other side failed"),
    grpc.StatusCode.INVALID_ARGUMENT: (Invalid, "invalid", "the request was refused as invalid"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Unavailable, "deadline", "no answer in time; retry"),
    grpc.StatusCode.NOT_FOUND: (NotFound, "not-found", "the other side does not know it"),
    grpc.StatusCode.ALREADY_EXISTS: (Conflict, "exists", "it exists already"),
    grpc.StatusCode.PERMISSION_DENIED: (Denied, "denied", "the other side refused"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (Exhausted, "busy", "the other side is busy; retry later"),
    grpc.StatusCode.FAILED_PRECONDITION: (
        Conflict,
        "conflict",
        "the other side's state forbids it",
    ),
    grpc.StatusCode.ABORTED: (Conflict, "conflict", "the other side gave up the request"),
    grpc.StatusCode.OUT_OF_RANGE: (Invalid, "invalid", "the request is out of range"),
    grpc.StatusCode.UNIMPLEMENTED: (
        Invalid,
        "unimplemented",
        "the other side does not know this method: check address, port and version",
    ),
    grpc.StatusCode.INTERNAL: (Internal, "internal", "the other side failed"),
    grpc.StatusCode.UNAVAILABLE: (
        Unavailable,
        "unreachable",
        "the other side cannot be reached: check that it runs, and its address; retry later",
    ),
    grpc.StatusCode.DATA_LOSS: (Corrupt, "corrupt", "the other side's data is damaged"),
    grpc.StatusCode.UNAUTHENTICATED: (
        Unauthenticated,
        "unauthenticated",
        "the other side does not know who calls",
    ),
}

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SLUG_CHARACTERS_MAX = 64
_REQUEST = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Status:
    """What a failed call sends."""

    code: grpc.StatusCode
    details: str
    metadata: tuple[tuple[str, str], ...]


def to_status(error: BaseException, *, request_id: bytes = b"") -> Status:
    """How an error travels; anything that is not ours becomes ``internal``, without its text.

    ``request_id`` lets the caller point at the lines of the request in the nodes' logs.
    """
    if isinstance(error, TimeoutError):
        error = Unavailable("the deadline of the request passed; retry", reason="deadline")
    if not isinstance(error, HcefsError) or isinstance(error, Internal):
        reason = _slug(error.reason) if isinstance(error, Internal) else None
        where = f"; look for request {request_id.hex()} in the node's log" if request_id else ""
        error = Internal(f"HCE-FS failed{where}", reason=reason)
    cls = _class_of(error)
    code = _CODES[cls]
    reason = _slug(error.reason) or cls.kind
    if cls is Conflict and (reason == "exists" or reason.endswith("-exists")):
        code = grpc.StatusCode.ALREADY_EXISTS
    metadata = [(KIND_KEY, cls.kind), (REASON_KEY, reason)]
    if request_id and any(request_id):
        metadata.append((REQUEST_KEY, request_id.hex()))
    if isinstance(error, Exhausted):
        metadata.append((RETRY_AFTER_KEY, str(_bounded_delay(error.retry_after_ms))))
    return Status(code, _printable(error.message), tuple(metadata))


def error_of(kind: str, reason: str, message: str) -> HcefsError:
    """An error that came inside an answer, of one item among others; not trusted either."""
    cls = KINDS.get(kind, Internal)
    return cls(_printable(message), reason=_slug(reason) or cls.kind)


async def abort(context: Any, error: BaseException, *, request_id: bytes = b"") -> NoReturn:
    """End the call of a handler with an error; always raises.

    A cancellation, and the exception by which gRPC itself ends a call, pass
    through unchanged.
    """
    if isinstance(error, (asyncio.CancelledError, grpc.aio.AbortError)) or not isinstance(
        error, Exception
    ):
        raise error
    if isinstance(error, Internal) or not isinstance(error, (HcefsError, TimeoutError)):
        # Frames and type only: the text of what others raised may hold a payload.
        frames = "".join(traceback.format_tb(error.__traceback__))
        what = error.message if isinstance(error, Internal) else type(error).__name__
        _logger.error("request %s failed: %s\n%s", request_id.hex() or "-", what, frames)
    status = to_status(error, request_id=request_id)
    await context.abort(status.code, status.details, status.metadata)
    raise error  # context.abort raises; a fake one in a test may not


def from_rpc_error(error: grpc.aio.AioRpcError) -> HcefsError:
    """The typed error behind a failed call, HCE-FS's own or gRPC's."""
    code = error.code()
    details = _printable(error.details() or "")
    metadata = _text_metadata(error.trailing_metadata())
    failure = _failure(code, details, metadata)
    request = metadata.get(REQUEST_KEY, "")
    if _REQUEST.fullmatch(request):
        failure.request = request
    return failure


def _failure(code: grpc.StatusCode, details: str, metadata: Mapping[str, str]) -> HcefsError:
    cls = KINDS.get(metadata.get(KIND_KEY, ""))
    if cls is not None:
        reason = _slug(metadata.get(REASON_KEY, ""))
        message = details or f"the other side answered {cls.kind}"
        if cls is Exhausted:
            delay = _delay(metadata.get(RETRY_AFTER_KEY, ""))
            return Exhausted(message, reason=reason, retry_after_ms=delay)
        return cls(message, reason=reason)
    return _plain(code, details)


def _plain(code: grpc.StatusCode, details: str) -> HcefsError:
    """A failure that gRPC made, not HCE-FS: only the code is stable, so text refines it."""
    lower = details.lower()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in lower:
        return Invalid(
            "a message is larger than the other side accepts: send smaller ones",
            reason="message-too-large",
        )
    if code is grpc.StatusCode.UNAVAILABLE and "certificate_verify_failed" in lower:
        return Denied(
            "the certificate of the other side is not valid here: check the authority, the host "
            "name and the address",
            reason="wrong-certificate",
        )
    if code is grpc.StatusCode.INTERNAL and "rst_stream" in lower:
        return Unavailable("the connection broke during the call; retry", reason="stream-reset")
    cls, reason, message = _PLAIN.get(code, (Internal, "internal", "the other side failed"))
    name = code.name if isinstance(code, grpc.StatusCode) else str(code)
    text = f"{message} (gRPC {name}{': ' + details if details else ''})"
    return cls(text[:MESSAGE_CHARACTERS_MAX], reason=reason)


def _class_of(error: HcefsError) -> type[HcefsError]:
    """The class in the table: a subclass defined elsewhere travels as its nearest base."""
    for cls in type(error).__mro__:
        if cls in _CODES:
            return cls
    return Internal


def _slug(text: str) -> str | None:
    if len(text) <= _SLUG_CHARACTERS_MAX and _SLUG.fullmatch(text):
        return text
    return None


def _printable(text: str) -> str:
    cut = text[:MESSAGE_CHARACTERS_MAX]
    return "".join(c if c.isprintable() else " " for c in cut).strip()


def _bounded_delay(milliseconds: int) -> int:
    return max(0, min(int(milliseconds), RETRY_AFTER_MS_MAX))


def _delay(text: str) -> int:
    # int() takes many spellings and any length; this is the one that to_status writes.
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return _bounded_delay(int(text))
    return 1_000


def _text_metadata(metadata: Iterable[Any] | None) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}
