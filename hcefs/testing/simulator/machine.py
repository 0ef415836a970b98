"""Machines and the lives of the processes on them; the :class:`Runtime` of each life.

A life ends at one instant, as by ``kill -9``: its tasks are cancelled, and its disk and
its network are fenced first, so that no ``finally`` of the dead can change anything.

Invariant: which life a task belongs to is known from its context, so tasks made by any
means (``gather``, ``ensure_future``) end with it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import Context, ContextVar
from typing import Any, TypeVar, TypeVarTuple

from hcefs.testing.simulator.clock import CountedTask, VirtualLoop, task_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_MS = 1_800_000_000_000
"""The wall clock when the simulation begins."""

SLEEP_SECONDS_MIN = 1e-6

_CURRENT: ContextVar[Life | None] = ContextVar("life", default=None)


class Crash(BaseException):
    """The power went in the middle of a disk call; nothing below the process sees it."""


class Machine:
    """A computer: its name, its clock and how slow its disk is.  Processes live on it."""

    def __init__(self, loop: VirtualLoop, seed: str, name: str) -> None:
        self.loop = loop
        self.name = name
        self.seed = f"{seed}/{name}"
        self.offset_ms = 0
        self.disk_seconds = (0.0, 0.002)
        """Between which bounds one disk call takes."""
        self.compute_seconds = (0.0, 0.001)
        self.lives = 0
        self.was_cut = False
        """Whether the power went in the middle of a disk call."""

    def now_ms(self) -> int:
        """This machine's wall clock."""
        return START_MS + int(self.loop.time() * 1000) + self.offset_ms


class Life:
    """One process from its start to its end."""

    def __init__(self, machine: Machine) -> None:
        machine.lives += 1
        self.machine = machine
        self.loop = machine.loop
        self.offset_ms = machine.offset_ms
        """How wrong its clock was when it began."""

        self.alive = True
        self.is_ended = False
        """Whether :meth:`end` has run; it is dead before, when a disk call killed it."""

        self.tasks: dict[CountedTask, None] = {}
        self.on_end: list[Callable[[], None]] = []
        self.runtime = SimRuntime(self, f"{machine.seed}/{machine.lives}")

    def start(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run a coroutine as a task of this life, from outside."""
        context = Context()
        context.run(_CURRENT.set, self)
        return self.loop.create_task(coroutine, name=name, context=context)

    def end(self) -> None:
        """Kill it: fence first, then cancel; harmless when it has ended."""
        if self.is_ended:
            return
        self.alive = False
        self.is_ended = True
        for callback in self.on_end:
            callback()
        for task in list(self.tasks):
            task.cancel()
        self.tasks.clear()


def install(loop: VirtualLoop) -> None:
    """Have the loop book every task on the life that makes it."""

    def factory(
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        context: Context | None = None,
    ) -> CountedTask:
        task = task_of(loop, coroutine, context=context)
        life = context.get(_CURRENT) if context is not None else _CURRENT.get()
        if life is None:
            return task
        if not life.alive:
            task.cancel()
            return task
        life.tasks[task] = None
        task.add_done_callback(lambda done: life.tasks.pop(done, None))
        return task

    loop.set_task_factory(factory)  # type: ignore[arg-type]


class SimRuntime:
    """The :class:`hcefs.runtime.Runtime` of one life."""

    def __init__(self, life: Life, seed: str) -> None:
        self.life = life
        self._machine = life.machine
        self._loop = life.loop
        self._random = random.Random(seed)
        self._delays = random.Random(seed + "/delays")

    def now_ms(self) -> int:
        return self._machine.now_ms()

    def monotonic(self) -> float:
        return self._loop.time()

    def random(self, size: int) -> bytes:
        return self._random.randbytes(size)

    async def sleep(self, seconds: float) -> None:
        if not self.life.alive:
            await self._loop.create_future()  # whoever outlives its cancellation stands still
        # No sleep is so short that time does not pass: who waits for the rest of a rounding
        # error would wait for ever.
        await asyncio.sleep(max(seconds, SLEEP_SECONDS_MIN) if seconds > 0 else 0)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        return asyncio.timeout(seconds)

    async def compute(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await asyncio.sleep(self._delays.uniform(*self._machine.compute_seconds))
        return function(*args)

    async def disk(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await asyncio.sleep(self._delays.uniform(*self._machine.disk_seconds))
        if not self.life.alive:
            await self._loop.create_future()
        try:
            return function(*args)
        except Crash:
            self._machine.was_cut = True
            self.life.end()
            raise asyncio.CancelledError from None

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        return self._loop.create_task(coroutine, name=name)
