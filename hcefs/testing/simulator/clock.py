"""An event loop whose time is a number, and whose order of events is a function of its input.

Invariants: when nothing is ready, time jumps to the next timer, so that a virtual
hour costs nothing; tasks and futures hash by the order in which they were made, never
by their address, so that sets of them iterate alike in every run.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from hcefs.errors import Internal

EVENTS_MAX = 20_000_000
"""Of one run; one that needs more spins."""


class _CountedFuture(asyncio.Future[Any]):
    """A future that hashes by its number."""

    _numbers = itertools.count()

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.number = next(self._numbers)

    def __hash__(self) -> int:
        return self.number


class CountedTask(asyncio.Task[Any]):
    """A task that hashes by its number."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, **named: Any) -> None:
        self.number = next(self._numbers)
        super().__init__(*args, **named)

    def __hash__(self) -> int:
        return self.number


class _Jump:
    """Takes the place of the loop's selector: nothing ever happens but timers."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.turn(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._turns = 0
        self._clock_resolution = 1e-9
        self._selector = _Jump(self)
        _CountedFuture._numbers = itertools.count()
        CountedTask._numbers = itertools.count()

    def time(self) -> float:
        return self._now

    def turn(self, timeout: float | None) -> None:
        """Go on to the next timer, if nothing is ready.

        Raises:
            Internal: nothing can ever happen any more, or too much has.
        """
        self._turns += 1
        if self._turns > EVENTS_MAX:
            raise Internal("the simulation spins", reason="simulation-spins")
        if timeout is None:
            raise Internal("everything waits for ever", reason="simulation-stuck")
        if timeout > 0:
            self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]

    def create_future(self) -> asyncio.Future[Any]:
        return _CountedFuture(loop=self)

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no files to wait for."""

    def _write_to_self(self) -> None:
        """There are no other threads to be woken by."""


def task_of(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any],
    name: str | None = None,
    context: Context | None = None,
) -> CountedTask:
    """A task in the loop, which is what the loop's own factory would make."""
    return CountedTask(coroutine, loop=loop, name=name, context=context)
