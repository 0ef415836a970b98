"""What all code shares of tasks."""

from __future__ import annotations

import asyncio

import pytest

from hcefs.runtime import end_tasks


async def test_tasks_have_ended_however_they_end() -> None:
    begun = asyncio.Event()
    ended: list[str] = []

    async def waits() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("waits")

    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("fails")
            raise ValueError

    async def returns() -> int:
        return 7

    tasks = [asyncio.ensure_future(job) for job in (waits(), fails(), returns())]
    await begun.wait()
    await tasks[2]
    await end_tasks(None, *tasks)
    assert sorted(ended) == ["fails", "waits"]
    assert tasks[0].cancelled()
    assert isinstance(tasks[1].exception(), ValueError)
    assert tasks[2].result() == 7


async def test_who_ends_them_may_be_cancelled_and_they_have_ended() -> None:
    release = asyncio.Event()

    async def lingers() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    task = asyncio.ensure_future(lingers())
    await asyncio.sleep(0)
    ending = asyncio.ensure_future(end_tasks(task))
    await asyncio.sleep(0)
    ending.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert task.done()
