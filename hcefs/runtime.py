"""Time, randomness, threads and tasks: the only module that touches them.

Production code takes a :class:`Runtime` and asks it; so a whole cluster can run
in one process on one virtual clock from one seed (``hcefs.testing``).  ruff bans
``time.time``, ``random``, ``os.urandom``, ``asyncio.sleep`` and ``datetime.now``
everywhere else.

Two bounded pools carry what would block the event loop: ``compute`` for kernels
that release the GIL (AES, BLAKE3, ISA-L), one thread a core; ``disk`` for file
and database calls.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import secrets
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DISK_THREADS = 16


class Runtime(Protocol):
    """What a component may ask of the machine it runs on."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Seconds on a clock that never steps; for durations only."""

    def random(self, size: int) -> bytes:
        """Cryptographically strong random bytes."""

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        """Raise ``TimeoutError`` in the block after ``seconds``; None never does."""

    async def compute(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a CPU-bound function that releases the GIL off the event loop."""

    async def disk(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a blocking disk or database call off the event loop."""

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start a task and keep a reference to it until it ends."""


class SystemRuntime:
    """The real clock, the kernel's randomness and real threads."""

    def __init__(self, *, compute_threads: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        self._compute = ThreadPoolExecutor(compute_threads or cores, "hcefs-compute")
        self._disk = ThreadPoolExecutor(DISK_THREADS, "hcefs-disk")
        self._tasks: set[asyncio.Task[Any]] = set()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def random(self, size: int) -> bytes:
        return secrets.token_bytes(size)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        return asyncio.timeout(seconds)

    async def compute(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._compute, function, *args)

    async def disk(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        # Log lines of a disk thread name the request that it works for.
        inherited = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(
            self._disk, inherited, function, *args
        )

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Stop the pools; queued work that has not started is dropped."""
        self._compute.shutdown(wait=False, cancel_futures=True)
        self._disk.shutdown(wait=False, cancel_futures=True)


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait for all of them, however they end; None is one that never began."""
    begun = [task for task in tasks if task is not None]
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)


def is_cancelled() -> bool:
    """Whether the running task itself is cancelled, and not only what it waited for.

    gRPC cancels the calls of a channel that another task closed, and a gather what it
    waits for when one of them was: for who asked, that is a node that does not answer.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
