"""Clients that put, get and read ranges the whole time, and remember everything.

Every answer is compared with what was put, at once.  A failure of the SDK, after its own
retries, is a failure of the cluster.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hcefs.errors import HcefsError
from hcefs.ids import BlobBase, BlobId, GrantId, RecordId
from tests.cluster.live import LiveCluster, StepClient, some_bytes

SIZES = (3_000, 40_000, 300_000, 2_500_000)
"""Packs of copies, packs that are erasure-coded (with what comes along), blobs of one and of
three segments."""


@dataclass
class Load:
    """What the clients did."""

    puts: int = 0
    gets: int = 0
    ranges: int = 0
    degraded: int = 0
    failures: list[str] = field(default_factory=list)
    blobs: dict[BlobId, tuple[int, int]] = field(default_factory=dict)
    """Size and seed of each blob that was acknowledged."""

    def bases(self) -> set[BlobBase]:
        return {blob.base for blob in self.blobs}

    def __str__(self) -> str:
        return (
            f"{self.puts} puts ({self.degraded} degraded), {self.gets} gets, {self.ranges} ranges, "
            f"{len(self.failures)} failed"
        )


class Clients:
    """A hospital that puts and a doctor who reads, over and over."""

    def __init__(
        self,
        hospital: StepClient,
        doctor: StepClient,
        record: RecordId,
        grants: dict[str, GrantId],
        seed: int,
    ) -> None:
        self._hospital = hospital
        self._doctor = doctor
        self._record = record
        self._grants = grants
        self._chance = random.Random(seed)  # noqa: S311 - a test's choices, not a secret
        self._seed = seed
        self._stopping = False
        self.load = Load()

    async def put_some(self, number: int) -> None:
        """So many blobs, one after the other."""
        for _ in range(number):
            await self._put()

    async def _put(self) -> None:
        size = self._chance.choice(SIZES)
        self._seed += 1
        seed = self._seed
        data = await asyncio.to_thread(some_bytes, size, seed)
        try:
            receipt = await self._hospital.put(self._record, data, grant=self._grants["hospital"])
        except HcefsError as error:
            self.load.failures.append(f"put of {size}: {error.kind} {error.reason} {error.message}")
            return
        self.load.puts += 1
        self.load.degraded += receipt.degraded
        self.load.blobs[receipt.ref.blob] = (size, seed)

    async def read(self, blob: BlobId) -> None:
        """A blob, or some bytes of it."""
        size, seed = self.load.blobs[blob]
        start = length = 0
        if self._chance.random() < 0.4:
            start = self._chance.randrange(size)
            length = self._chance.randint(1, size - start)
        grant = self._grants["doctor"]
        try:
            stream = await self._doctor.get(
                self._record, blob, grant=grant, start=start, length=length
            )
            found = await stream.read()
        except HcefsError as error:
            self.load.failures.append(
                f"get of {blob} ({size}): {error.kind} {error.reason} {error.message}"
            )
            return
        expected = await asyncio.to_thread(some_bytes, size, seed)
        if found != (expected[start : start + length] if length else expected):
            self.load.failures.append(f"{blob} reads back as something else")
        self.load.ranges += bool(length)
        self.load.gets += not length

    async def read_all(self) -> None:
        """Every blob once."""
        for blob in list(self.load.blobs):
            await self.read(blob)

    async def _putting(self) -> None:
        while not self._stopping:
            await self._put()

    async def _reading(self) -> None:
        while not self._stopping:
            await self.read(self._chance.choice(list(self.load.blobs)))

    @asynccontextmanager
    async def running(self, putters: int = 1, readers: int = 2) -> AsyncIterator[Load]:
        """Load while the block runs; every client finishes what it has begun."""
        tasks = [asyncio.create_task(self._putting()) for _ in range(putters)]
        tasks += [asyncio.create_task(self._reading()) for _ in range(readers)]
        try:
            yield self.load
        finally:
            self._stopping = True
            await asyncio.gather(*tasks)


def clients_of(
    cluster: LiveCluster, hospital: StepClient, doctor: StepClient, seed: int
) -> Clients:
    """Clients on the cluster's own record."""
    return Clients(hospital, doctor, cluster.record, cluster.grants, seed)
