"""An event loop whose time is a number, and whose order of events is a function of its input.

Invariants: when nothing is ready, time jumps to the next timer, so that a virtual
hour costs nothing; tasks and futures hash by the order in which they were made, never
by their address, so that sets of them iterate alike in every run.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from typing import Any, TypeVarTuple

from hcefs.errors import Internal

Ts = TypeVarTuple("Ts")

EVENTS_MAX = 20_000_000
"""Of one run; one that needs more spins."""

SWEEP_AT = 100
"""How many cancelled timers may wait for their time."""


class _CountedFuture(asyncio.Future[Any]):
    """A future that hashes by its number, which the loop gives it."""

    number: int

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


class _Soon(asyncio.Handle):
    """A handle without what the debug mode of asyncio wants."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class _Later(asyncio.TimerHandle):
    """A timer without what the debug mode of asyncio wants."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = True

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._callback = self._args = None  # type: ignore[assignment]
            if self._scheduled:
                self._loop.timer_cancelled()


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module.

    What asyncio does between two callbacks is most of what a simulation costs, so it is
    done here, without selector, debug mode and threads.  Of two timers of one instant the
    older goes first.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._turns = 0
        self._timers: list[tuple[float, int, _Later]] = []
        self._timers_made = itertools.count()
        self._timers_cancelled = 0
        self._futures_made = itertools.count()
        CountedTask._numbers = itertools.count()

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _Soon(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = _Later(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._timers_made), timer))
        return timer

    def timer_cancelled(self) -> None:
        """A timer will not fire; those of which there are many are swept out."""
        self._timers_cancelled += 1
        if self._timers_cancelled > SWEEP_AT and 2 * self._timers_cancelled > len(self._timers):
            self._timers = [timer for timer in self._timers if not timer[2]._cancelled]
            heapify(self._timers)
            self._timers_cancelled = 0

    def _run_once(self) -> None:
        """Run what is ready; if nothing is, go on to the next timer.

        Raises:
            Internal: nothing can ever happen any more, or too much has.
        """
        self._turns += 1
        if self._turns > EVENTS_MAX:
            raise Internal("the simulation spins", reason="simulation-spins")
        ready, timers = self._ready, self._timers  # type: ignore[attr-defined]
        while timers and timers[0][2]._cancelled:
            heappop(timers)
            self._timers_cancelled -= 1
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise Internal("everything waits for ever", reason="simulation-stuck")
            if timers[0][0] > self._now:
                self._now = timers[0][0]
        while timers and timers[0][0] <= self._now:
            timer = heappop(timers)[2]
            if timer._cancelled:
                self._timers_cancelled -= 1
            else:
                timer._scheduled = False
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does
                said = {"message": f"in {handle!r}", "exception": error, "handle": handle}
                self.call_exception_handler(said)

    def create_future(self) -> asyncio.Future[Any]:
        future = _CountedFuture(loop=self)
        future.number = next(self._futures_made)
        return future

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
