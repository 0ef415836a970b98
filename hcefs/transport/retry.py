"""Repeating calls that may succeed later: bounded, jittered, decided by the error alone.

``error.retryable`` says whether a repeat can help; nothing else is asked.  Pauses
grow exponentially with full jitter (each uniform between nothing and the bound),
so that many clients do not return in step; a server's ``retry_after_ms`` is the
least pause, within reason.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from hcefs.errors import Exhausted, HcefsError, Invalid
from hcefs.runtime import Runtime

T = TypeVar("T")

FIRST_PAUSE_MS = 50
LONGEST_PAUSE_MS = 5_000
LONGEST_ORDERED_MS = 30_000
"""A server may not put a client to sleep for longer."""


async def retrying(
    runtime: Runtime,
    attempts: int,
    operation: Callable[[], Awaitable[T]],
    *,
    first_pause_ms: int = FIRST_PAUSE_MS,
    longest_pause_ms: int = LONGEST_PAUSE_MS,
    within_s: float | None = None,
    patience_s: float = 0.0,
    on_retry: Callable[[HcefsError, int], None] | None = None,
) -> T:
    """Call ``operation`` up to ``attempts`` times; returns its first result.

    No pause begins that would end later than ``within_s`` after the start; a
    running attempt is not interrupted.  More than ``attempts`` are made as long as none would
    begin later than ``patience_s`` after the start.  ``on_retry(error, attempt)`` is told before
    each pause; attempts count from 1.  A cancellation passes through.

    Raises:
        HcefsError: the last error, or the first that is not retryable.
        Invalid: ``attempts`` is not positive.
    """
    if attempts < 1:
        raise Invalid("at least one attempt is needed", reason="bad-attempts")
    started = runtime.monotonic()
    attempt = 1
    while True:
        try:
            return await operation()
        except HcefsError as error:
            if not error.retryable or (attempt >= attempts and not patience_s):
                raise
            pause_s = _pause_ms(runtime, error, attempt, first_pause_ms, longest_pause_ms) / 1000
            late = runtime.monotonic() - started + pause_s > patience_s
            if attempt >= attempts and late:
                raise
            if within_s is not None and runtime.monotonic() - started + pause_s > within_s:
                raise
            if on_retry is not None:
                on_retry(error, attempt)
        await runtime.sleep(pause_s)
        attempt += 1


def _pause_ms(
    runtime: Runtime, error: HcefsError, attempt: int, first_ms: int, longest_ms: int
) -> float:
    # The exponent is bounded so that many attempts do not build a huge integer first.
    bound = min(longest_ms, first_ms << min(attempt - 1, 32))
    part = int.from_bytes(runtime.random(4)) / (1 << 32)  # [0, 1)
    ordered = error.retry_after_ms if isinstance(error, Exhausted) else 0
    return min(ordered, LONGEST_ORDERED_MS) + part * bound
