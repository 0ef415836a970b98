"""Requests that stand by a right: decided again, cut, and gone when they are closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from hcefs.errors import Denied, HcefsError
from hcefs.ids import GrantId
from hcefs.runtime import SystemRuntime
from hcefs.services.standing import PERMIT_MS, SERVED, Served, Standing

GRANT = GrantId(b"g" * 16)


class Right:
    """A right that a test ends."""

    def __init__(self) -> None:
        self.grants = (GRANT,)
        self.why: HcefsError | None = None
        self.asked = 0

    def again(self) -> None:
        self.asked += 1
        if self.why is not None:
            raise self.why


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    made = SystemRuntime()
    yield made
    made.close()


async def _request(standing: Standing, right: Right, begun: asyncio.Event, closing: float) -> str:
    """A handler that waits for ever, and takes its time to close."""
    served = Served()
    SERVED.set(served)
    standing.enter(right)
    begun.set()
    try:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(closing)
    except asyncio.CancelledError:
        if not served.taken_back():
            raise
        assert served.ended is not None
        return served.ended.reason
    finally:
        served.leave()
    return "served"


async def test_what_has_no_right_any_more_is_cut(runtime: SystemRuntime) -> None:
    standing, ends, stays = Standing(runtime), Right(), Right()
    begun = [asyncio.Event() for _ in range(2)]
    tasks = [
        asyncio.ensure_future(_request(standing, right, event, 0.05))
        for right, event in zip((ends, stays), begun, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    assert standing.sweep() == []
    ends.why = Denied("over", reason="revoked")
    (cut,) = standing.sweep()
    assert standing.sweep() == [], "once"
    assert len(standing) == 2, "it stands until its files are closed"
    assert not cut.left.is_set()
    assert await tasks[0] == "revoked"
    assert cut.left.is_set()
    assert len(standing) == 1
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await standing.close()


async def test_time_alone_decides_again(runtime: SystemRuntime) -> None:
    standing, right, begun = Standing(runtime), Right(), asyncio.Event()
    task = asyncio.ensure_future(_request(standing, right, begun, 0))
    await begun.wait()
    right.why = Denied("over", reason="expired")
    assert await asyncio.wait_for(task, 2 * PERMIT_MS / 1000 + 1) == "expired"
    assert right.asked == 1
    await standing.close()


async def test_who_gives_up_meanwhile_is_cancelled(runtime: SystemRuntime) -> None:
    """The cancellation of a client that left is not swallowed by a cut."""
    standing, right, begun = Standing(runtime), Right(), asyncio.Event()
    task = asyncio.ensure_future(_request(standing, right, begun, 0))
    await begun.wait()
    right.why = Denied("over", reason="revoked")
    standing.sweep()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(standing) == 0
    await standing.close()


async def test_outside_of_a_request_nothing_stands(runtime: SystemRuntime) -> None:
    standing = Standing(runtime)
    standing.enter(Right())
    assert len(standing) == 0
    await standing.close()
