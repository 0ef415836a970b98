"""Retries: decided by the error, bounded in number, length and time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hcefs.errors import Denied, Exhausted, HcefsError, Invalid, Unavailable
from hcefs.transport.retry import LONGEST_ORDERED_MS, LONGEST_PAUSE_MS, retrying
from tests.unit.transport.fakes import FakeRuntime


def failing(*errors: BaseException) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    """An operation that raises these errors in turn, then succeeds; and its calls."""
    left = list(errors)
    calls: list[int] = []

    async def operation() -> str:
        calls.append(len(calls) + 1)
        if left:
            raise left.pop(0)
        return "done"

    return operation, calls


async def test_success_is_returned_without_a_pause() -> None:
    runtime = FakeRuntime()
    operation, calls = failing()
    assert await retrying(runtime, 3, operation) == "done"
    assert calls == [1]
    assert runtime.pauses == []


async def test_retryable_errors_are_retried_and_told() -> None:
    runtime = FakeRuntime(0x80)  # half of each bound
    operation, calls = failing(Unavailable("a"), Unavailable("b"))
    told: list[tuple[str, int]] = []
    result = await retrying(
        runtime,
        3,
        operation,
        first_pause_ms=100,
        on_retry=lambda error, attempt: told.append((error.message, attempt)),
    )
    assert result == "done"
    assert calls == [1, 2, 3]
    assert told == [("a", 1), ("b", 2)]
    assert runtime.pauses == pytest.approx([0.0502, 0.1004], rel=0.01)


async def test_the_last_error_is_raised_after_the_last_attempt() -> None:
    runtime = FakeRuntime()
    operation, calls = failing(Unavailable("a"), Unavailable("b"), Unavailable("c"))
    with pytest.raises(Unavailable, match="b"):
        await retrying(runtime, 2, operation)
    assert calls == [1, 2]


@pytest.mark.parametrize("error", [Denied("no"), Invalid("bad"), ZeroDivisionError()])
async def test_other_errors_are_not_retried(error: Exception) -> None:
    runtime = FakeRuntime()
    operation, calls = failing(error)
    with pytest.raises(type(error)):
        await retrying(runtime, 5, operation)
    assert calls == [1]


async def test_a_cancellation_is_not_retried() -> None:
    operation, calls = failing(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await retrying(FakeRuntime(), 5, operation)
    assert calls == [1]


@pytest.mark.parametrize(
    ("ordered_ms", "least_s"), [(700, 0.7), (3_600_000, LONGEST_ORDERED_MS / 1000)]
)
async def test_the_servers_delay_is_honoured_within_reason(ordered_ms: int, least_s: float) -> None:
    for random_byte in (0, 0xFF):
        runtime = FakeRuntime(random_byte)
        operation, _ = failing(Exhausted("full", retry_after_ms=ordered_ms))
        await retrying(runtime, 2, operation, first_pause_ms=100)
        assert least_s <= runtime.pauses[0] < least_s + 0.1


async def test_pauses_grow_to_their_bound() -> None:
    runtime = FakeRuntime(0xFF)
    errors: list[HcefsError] = [Unavailable("x") for _ in range(80)]
    operation, _ = failing(*errors)
    await retrying(runtime, 81, operation)
    assert sorted(runtime.pauses) == runtime.pauses
    assert runtime.pauses[-1] == pytest.approx(LONGEST_PAUSE_MS / 1000)
    assert len(runtime.pauses) == 80


async def test_no_pause_begins_that_would_end_too_late() -> None:
    runtime = FakeRuntime()
    operation, calls = failing(*(Exhausted("full", retry_after_ms=400) for _ in range(9)))
    with pytest.raises(Exhausted):
        await retrying(runtime, 10, operation, within_s=1.0)
    assert runtime.clock == pytest.approx(0.8)
    assert len(calls) == 3


async def test_patience_makes_more_attempts_until_it_ends() -> None:
    runtime = FakeRuntime(0xFF)
    operation, calls = failing(*[Unavailable("away")] * 40)
    with pytest.raises(Unavailable):
        await retrying(runtime, 2, operation, patience_s=30.0)
    assert len(calls) > 6
    assert sum(runtime.pauses) <= 30.0
    denied, calls = failing(Denied("no"))
    with pytest.raises(Denied):
        await retrying(runtime, 2, denied, patience_s=30.0)
    assert calls == [1]


async def test_no_attempts_is_a_mistake() -> None:
    operation, calls = failing()
    with pytest.raises(Invalid):
        await retrying(FakeRuntime(), 0, operation)
    assert calls == []
