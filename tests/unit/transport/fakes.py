"""A runtime whose clock moves only when somebody sleeps, and whose randomness is chosen."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, NoReturn, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class FakeRuntime:
    def __init__(self, random_byte: int = 0) -> None:
        self.clock = 0.0
        self.pauses: list[float] = []
        self.random_byte = random_byte

    def now_ms(self) -> int:
        return int(self.clock * 1000)

    def monotonic(self) -> float:
        return self.clock

    def random(self, size: int) -> bytes:
        return bytes([self.random_byte]) * size

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock += seconds

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        @contextlib.asynccontextmanager
        async def never() -> AsyncIterator[None]:
            yield

        return never()

    async def compute(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return function(*args)

    async def disk(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return function(*args)

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> NoReturn:
        coroutine.close()
        raise AssertionError("nothing under test starts tasks")
