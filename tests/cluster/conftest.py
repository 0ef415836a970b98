"""Fixtures of the cluster tier: one shared cluster, and fresh ones for tests that kill.

Bring-up costs seconds, so two clusters live for the session: ``cluster``, which must
stay whole, and ``mortal_cluster``, whose processes tests may kill.  ``fresh_cluster``
makes others, for tests that need a genesis of their own or damage what is on disk.
A module here marks itself ``cluster`` and ``xdist_group("cluster")``, so that one
worker runs them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hcefs.cli.process import prepare
from tests.cluster.live import LiveCluster, StepClient

prepare()

MakeCluster = Callable[..., Awaitable[LiveCluster]]
OpenClient = Callable[..., Awaitable[StepClient]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """The shared cluster.  Nothing in it may be killed, stopped or damaged."""
    running = asyncio.run(LiveCluster.create(tmp_path_factory.mktemp("shared") / "cluster"))
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="session")
def _mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    running = asyncio.run(LiveCluster.create(tmp_path_factory.mktemp("mortal") / "cluster"))
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
async def mortal_cluster(_mortal: LiveCluster) -> LiveCluster:
    """A second shared cluster, whose processes may be killed; all of them run at first."""
    await _mortal.make_whole()
    return _mortal


@pytest.fixture
def fresh_cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    """Makes clusters for one test, which may do to them what it likes."""
    made: list[LiveCluster] = []

    async def make(**options: int) -> LiveCluster:
        made.append(await LiveCluster.create(tmp_path / f"cluster-{len(made)}", **options))
        return made[-1]

    try:
        yield make
    finally:
        for running in made:
            running.close()


@pytest.fixture
async def open_client() -> AsyncIterator[OpenClient]:
    """Opens clients that belong to the test's own event loop, and closes them after it."""
    async with AsyncExitStack() as opened:

        async def open_one(running: LiveCluster, name: str) -> StepClient:
            return await opened.enter_async_context(running.client(name))

        yield open_one
