"""Bounded gates: more than the limit is refused at once, never queued.

Overload is answered with ``Exhausted`` and a retry delay, so that memory and
latency stay bounded and the client's back-off does the queueing.  The delay is
spread by half up and down, so that those refused together do not return
together.

Invariants: what was taken is given back when the block ends, however it ends;
no task ever waits here.  For use from one event loop; not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from hcefs.errors import Exhausted, Invalid
from hcefs.runtime import Runtime


class Gate:
    """At most ``limit`` blocks at once::

    async with gate:
        ...
    """

    def __init__(
        self, name: str, limit: int, runtime: Runtime, retry_after_ms: int = 1_000
    ) -> None:
        """``name`` goes into the message, e.g. "streams".

        Raises:
            Invalid: the limit is not positive.
        """
        self._units = _Units(name, limit, runtime, retry_after_ms)
        self.timed: Callable[[str, float], None] | None = None
        """Told of each call that was served behind this gate: its method, and its seconds."""

    @property
    def limit(self) -> int:
        """How many may be inside."""
        return self._units.limit

    @property
    def held(self) -> int:
        """How many are inside now."""
        return self._units.held

    @property
    def refused(self) -> int:
        """How many were turned away since the start."""
        return self._units.refused

    async def __aenter__(self) -> Gate:
        """Enter at once or not at all.

        Raises:
            Exhausted: the gate is full (``busy``).
        """
        self._units.take(1)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._units.give(1)


class ByteGate:
    """At most ``limit`` bytes at once, over all holders::

    with memory.hold(size):
        ...
    """

    def __init__(
        self, name: str, limit: int, runtime: Runtime, retry_after_ms: int = 1_000
    ) -> None:
        """``name`` goes into the message, e.g. "memory".

        Raises:
            Invalid: the limit is not positive.
        """
        self._units = _Units(name, limit, runtime, retry_after_ms)

    @property
    def limit(self) -> int:
        """The budget in bytes."""
        return self._units.limit

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._units.held

    @property
    def refused(self) -> int:
        """How many requests were turned away since the start."""
        return self._units.refused

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold ``size`` bytes of the budget during the block.

        Raises:
            Exhausted: too little is left now (``busy``).
            Invalid: negative, or more than the whole budget: a retry cannot help.
        """
        self._units.take(size)
        try:
            yield
        finally:
            self._units.give(size)


class _Units:
    def __init__(self, name: str, limit: int, runtime: Runtime, retry_after_ms: int) -> None:
        if limit < 1:
            raise Invalid(f"the limit of {name} must be at least 1", reason="bad-limit")
        self.name = name
        self.limit = limit
        self.held = 0
        self.refused = 0
        self._runtime = runtime
        self._retry_after_ms = retry_after_ms

    def take(self, units: int) -> None:
        if not 0 <= units <= self.limit:
            raise Invalid(
                f"{units} is beyond the limit of {self.name}, which is {self.limit}: ask for less "
                "or raise it in the configuration",
                reason="too-large",
            )
        if self.held + units > self.limit:
            self.refused += 1
            raise Exhausted(
                f"all {self.name} are in use ({self.limit}): retry after the delay, or raise the "
                "limit in the configuration",
                reason="busy",
                retry_after_ms=self._spread(),
            )
        self.held += units

    def give(self, units: int) -> None:
        self.held -= units

    def _spread(self) -> int:
        part = int.from_bytes(self._runtime.random(2)) / 65536  # [0, 1)
        return int(self._retry_after_ms * (0.5 + part))
