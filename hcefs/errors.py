"""The typed error tree: every failure that leaves a module is one of these.

Invariants:

* A message says what is wrong *and* what to do; it never carries a key, a
  token, plaintext or a label, so it may be logged and sent to a client.
* ``reason`` is a stable slug of lower-case words joined by hyphens.  Metrics
  count denials by it and clients may branch on it; the text may change.
* ``retryable`` says whether the same call, repeated unchanged after a pause,
  can succeed.  Retries are decided from it and from nothing else.

The one table that maps these classes to gRPC status codes is
``hcefs.transport.status``.
"""

from __future__ import annotations

from typing import ClassVar, Self


class HcefsError(Exception):
    """Base of all errors of HCE-FS; never raised itself."""

    kind: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason if reason is not None else self.kind
        self.request = ""
        """The id of the request that failed elsewhere, as the logs there have it; or nothing."""

    def of_request(self, request: str) -> Self:
        """This error, which says in other words what came of that request."""
        self.request = self.request or request
        return self


class NotFound(HcefsError):
    """The named thing is unknown here, or the caller may not learn of it."""

    kind = "not-found"


class Corrupt(HcefsError):
    """Bytes from disk or network failed a length, digest or signature check."""

    kind = "corrupt"


class Unavailable(HcefsError):
    """Too few parties answered, or this one may not answer now; retry later."""

    kind = "unavailable"
    retryable = True


class Denied(HcefsError):
    """The ledger, the token or the proof does not permit the request."""

    kind = "denied"


class Unauthenticated(Denied):
    """The caller did not prove who it is."""

    kind = "unauthenticated"


class Conflict(HcefsError):
    """The request contradicts what is already stored or committed."""

    kind = "conflict"


class Invalid(HcefsError):
    """The request or the bytes are malformed; repeating them cannot help."""

    kind = "invalid"


class Exhausted(HcefsError):
    """A bound was reached (memory, streams, disk); retry after the delay."""

    kind = "exhausted"
    retryable = True

    def __init__(
        self, message: str, *, reason: str | None = None, retry_after_ms: int = 1_000
    ) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_ms = retry_after_ms


class Internal(HcefsError):
    """A fault of HCE-FS itself: the log of the node names it by request id."""

    kind = "internal"


KINDS: dict[str, type[HcefsError]] = {
    cls.kind: cls
    for cls in (
        NotFound,
        Corrupt,
        Unavailable,
        Denied,
        Unauthenticated,
        Conflict,
        Invalid,
        Exhausted,
        Internal,
    )
}
"""Every concrete class by its ``kind``, as it travels on the wire."""
