"""Coalescing: concurrent small calls become few batches, without anyone waiting long.

While fewer than ``in_flight`` batches run, what is queued goes out after
``window_s``; while all are running, calls gather for the next.  So a lone call
waits the window, and under load the batches grow by themselves.

Invariants: a queue belongs to one *kind* of call, and a batch never mixes kinds;
``room`` bounds a batch and ``queue_max`` the queue; a call that is cancelled
before its batch begins is not part of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hcefs.errors import Exhausted, HcefsError, Internal
from hcefs.runtime import Runtime

Item = TypeVar("Item")
Answer = TypeVar("Answer")

WINDOW_S = 0.002
IN_FLIGHT = 2
QUEUE_MAX = 65_536


@dataclass(eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    future: asyncio.Future[Answer]


class Coalescer(Generic[Item, Answer]):
    """Gathers calls of one event loop.

    ``run(kind, items)`` answers each item, in order, with an answer or an error.
    ``room()`` begins a batch: it returns a function that takes one more item into it,
    or says False when it does not fit.
    """

    def __init__(
        self,
        runtime: Runtime,
        run: Callable[[Hashable, list[Item]], Awaitable[Sequence[Answer | HcefsError]]],
        room: Callable[[], Callable[[Item], bool]],
        *,
        in_flight: int = IN_FLIGHT,
        window_s: float = WINDOW_S,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        self._runtime = runtime
        self._run = run
        self._room = room
        self._in_flight = in_flight
        self._window_s = window_s
        self._queue_max = queue_max
        self._queues: dict[Hashable, deque[_Waiting[Item, Answer]]] = {}
        self._flushers: dict[Hashable, int] = {}

    async def submit(self, kind: Hashable, item: Item) -> Answer:
        """Have ``item`` done in a batch of its kind.

        Raises:
            HcefsError: what its batch says of it.
            Exhausted: ``too-many-calls``: the queue is full.
        """
        queue = self._queues.setdefault(kind, deque())
        if len(queue) >= self._queue_max:
            raise Exhausted(
                "too many small calls wait in this client: slow down and retry",
                reason="too-many-calls",
            )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        queue.append(_Waiting(item, future))
        if self._flushers.get(kind, 0) < self._in_flight:
            self._flushers[kind] = self._flushers.get(kind, 0) + 1
            self._runtime.spawn(self._flush(kind), name="coalesce")
        return await future

    async def _flush(self, kind: Hashable) -> None:
        """Send batches of a kind until nothing waits."""
        try:
            await self._runtime.sleep(self._window_s)
            while batch := self._take(kind):
                await self._send(kind, batch)
        finally:
            self._flushers[kind] -= 1
            if not self._flushers[kind]:
                del self._flushers[kind]
                if not self._queues.get(kind):
                    self._queues.pop(kind, None)

    def _take(self, kind: Hashable) -> list[_Waiting[Item, Answer]]:
        queue = self._queues.get(kind)
        batch: list[_Waiting[Item, Answer]] = []
        enter = self._room()
        while queue:
            waiting = queue[0]
            if waiting.future.done():  # its caller was cancelled
                queue.popleft()
                continue
            if not enter(waiting.item) and batch:
                break
            queue.popleft()
            batch.append(waiting)
        return batch

    async def _send(self, kind: Hashable, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            answers = await self._run(kind, [waiting.item for waiting in batch])
        except HcefsError as error:
            answers = [error] * len(batch)
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - every caller must get an answer
            answers = [Internal(f"a batch failed: {type(error).__name__}")] * len(batch)
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.future.done():
                continue
            if isinstance(answer, HcefsError):
                waiting.future.set_exception(answer)
            else:
                waiting.future.set_result(answer)
