"""A cluster of its own for each test: they change the map."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.moves.moving import MovingRig


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[MovingRig]:
    made = MovingRig(tmp_path)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
