"""Every acknowledged blob reads back byte for byte, through the SDK, in every mode."""

from __future__ import annotations

import asyncio
from collections import Counter

from hcefs.errors import HcefsError
from hcefs.ids import BlobId, RecordId
from hcefs.testing.simulator.history import Acknowledged, History, Violation
from hcefs.testing.simulator.workload import MODES, Workload
from hcefs.testing.simulator.world import World

NAME = "readable"
AT_ONCE = 4
OF_ONE_PACK = 2


async def check(world: World, history: History, workload: Workload) -> None:
    """Read everything.

    Raises:
        Violation: something does not read back while nothing is wrong that may prevent it.
    """
    owner = world.people["patient"]
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, made: Acknowledged) -> None:
        seal, mode = MODES[number % len(MODES)]
        async with room:
            try:
                found = await workload.read_back(owner, made, None, "PATRQT", seal=seal, mode=mode)
            except HcefsError as error:
                raise Violation(
                    NAME, f"{made.blob} does not read: {error.kind} {error.reason} {error.message}"
                ) from None
        if found != made.data:
            raise Violation(NAME, f"{made.blob} reads back as something else")

    await asyncio.gather(*(one(n, made) for n, made in enumerate(_some_of_each_pack(history))))


def _some_of_each_pack(history: History) -> list[Acknowledged]:
    """Every blob, but of a pack no more than a few: they lie in the same shards."""
    found, seen = [], Counter[bytes]()
    for made in history.puts.values():
        seen[bytes(made.blob.base)] += 1
        if seen[bytes(made.blob.base)] <= OF_ONE_PACK:
            found.append(made)
    return found


async def listed(world: World, history: History) -> None:
    """The record's listing has every acknowledged blob once.

    Raises:
        Violation: one is missing, or there twice.
    """
    owner = world.people["patient"]
    records = sorted({made.record for made in history.puts.values()})
    for record in records:
        found = await world.on(owner, _names(world, record))
        for made in history.puts.values():
            if made.record == record and found.count(made.blob) != 1:
                raise Violation(NAME, f"{made.blob} is listed {found.count(made.blob)} times")


async def _names(world: World, record: RecordId) -> list[BlobId]:
    listing = await world.people["patient"].client.list(record, purpose="PATRQT")
    return [entry.blob for entry in listing.entries]
