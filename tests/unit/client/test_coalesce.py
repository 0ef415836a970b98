"""Concurrent calls become batches; nobody gets another's answer, and nobody none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence

import pytest

from hcefs.client.coalesce import Coalescer
from hcefs.errors import Denied, Exhausted, HcefsError, Internal
from tests.unit.client.world import FakeRuntime

Batch = tuple[Hashable, list[int]]


def room_of(limit: int) -> Callable[[], Callable[[int], bool]]:
    def room() -> Callable[[int], bool]:
        left = iter(range(limit))
        return lambda _: next(left, None) is not None

    return room


class Doubler:
    """Doubles what it is given, in batches that wait until they are let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[Batch] = []
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    async def run(self, kind: Hashable, items: list[int]) -> Sequence[int | HcefsError]:
        self.batches.append((kind, items))
        await self.go.wait()
        return [Denied("no", reason="odd") if item == 13 else 2 * item for item in items]


async def test_what_comes_together_goes_together() -> None:
    doubler = Doubler()
    coalescer = Coalescer(FakeRuntime(), doubler.run, room_of(100))
    answers = await asyncio.gather(*(coalescer.submit("a", item) for item in range(10)))
    assert answers == [2 * item for item in range(10)]
    assert sorted(item for _, items in doubler.batches for item in items) == list(range(10))
    assert len(doubler.batches) <= 2


async def test_while_all_batches_run_the_next_one_grows() -> None:
    doubler = Doubler(held=True)
    coalescer = Coalescer(FakeRuntime(), doubler.run, room_of(100), in_flight=1)
    first = asyncio.ensure_future(coalescer.submit("a", 0))
    while not doubler.batches:
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(coalescer.submit("a", item)) for item in range(20, 69)]
    for _ in range(5):
        await asyncio.sleep(0)
    doubler.go.set()
    assert [await first, *[await each for each in others]] == [
        2 * item for item in (0, *range(20, 69))
    ]
    assert [items for _, items in doubler.batches] == [[0], list(range(20, 69))]


async def test_a_batch_is_bounded_and_of_one_kind() -> None:
    doubler = Doubler()
    coalescer = Coalescer(FakeRuntime(), doubler.run, room_of(4), in_flight=1)
    await asyncio.gather(
        *(coalescer.submit("a", item) for item in range(10)),
        *(coalescer.submit("b", item) for item in range(3)),
    )
    assert sorted(doubler.batches, key=str) == [
        ("a", [0, 1, 2, 3]),
        ("a", [4, 5, 6, 7]),
        ("a", [8, 9]),
        ("b", [0, 1, 2]),
    ]


async def test_one_failure_is_one_callers() -> None:
    coalescer = Coalescer(FakeRuntime(), Doubler().run, room_of(100))
    results = await asyncio.gather(
        *(coalescer.submit("a", item) for item in (12, 13, 14)), return_exceptions=True
    )
    assert results[0] == 24
    assert results[2] == 28
    assert isinstance(results[1], Denied)
    assert results[1].reason == "odd"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(Denied("no", reason="none"), Denied), (ZeroDivisionError(), Internal)],
)
async def test_a_failed_batch_answers_everyone(error: Exception, kind: type[HcefsError]) -> None:
    async def run(_: Hashable, items: list[int]) -> Sequence[int | HcefsError]:
        raise error

    coalescer = Coalescer(FakeRuntime(), run, room_of(100))
    results = await asyncio.gather(
        *(coalescer.submit("a", item) for item in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [kind] * 3


async def test_who_gave_up_before_the_batch_is_not_in_it() -> None:
    doubler = Doubler(held=True)
    coalescer = Coalescer(FakeRuntime(), doubler.run, room_of(100), in_flight=1)
    first = asyncio.ensure_future(coalescer.submit("a", 0))
    while not doubler.batches:
        await asyncio.sleep(0)
    gone = asyncio.ensure_future(coalescer.submit("a", 1))
    stays = asyncio.ensure_future(coalescer.submit("a", 2))
    await asyncio.sleep(0)
    gone.cancel()
    doubler.go.set()
    assert [await first, await stays] == [0, 4]
    assert doubler.batches == [("a", [0]), ("a", [2])]


async def test_a_full_queue_refuses() -> None:
    doubler = Doubler(held=True)
    coalescer = Coalescer(FakeRuntime(), doubler.run, room_of(1), in_flight=1, queue_max=2)
    running = [asyncio.ensure_future(coalescer.submit("a", item)) for item in range(3)]
    while not doubler.batches:
        await asyncio.sleep(0)
    running.append(asyncio.ensure_future(coalescer.submit("a", 3)))
    await asyncio.sleep(0)
    results = await asyncio.gather(
        *(coalescer.submit("a", item) for item in range(4, 6)), return_exceptions=True
    )
    assert all(isinstance(result, Exhausted) for result in results)
    doubler.go.set()
    done = await asyncio.gather(*running, return_exceptions=True)
    assert all(result == 2 * item for item, result in enumerate(done) if isinstance(result, int))
    assert sum(isinstance(result, int) for result in done) >= 3
