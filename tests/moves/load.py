"""Clients that put and get all the time while seats move; nothing may fail, or be wrong."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hcefs.errors import HcefsError
from tests.moves.moving import MovingRig

PUTTERS = 3
GETTERS = 3
SIZES = (300, 300, 2_000, 2_000, 2_000, 150_000, 2_200_000)
PAUSE_SECONDS = 0.25
"""Between two requests of a client: it is the work beside it that is tested."""

PUT_MODES = (("gateway", None), ("gateway", "client"), ("direct", None))
GET_MODES = (("gateway", "node"), ("gateway", "client"), ("direct", "client"))


class Load:
    """Puts add to the rig's blobs; gets read any of them, whole or a range."""

    def __init__(self, rig: MovingRig, seed: int) -> None:
        print("seed", seed)
        self._rig = rig
        self._chance = random.Random(seed)  # noqa: S311
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        rig = self._rig
        jobs = [rig.runtime.spawn(self._puts(number), name="puts") for number in range(PUTTERS)]
        jobs += [rig.runtime.spawn(self._gets(), name="gets") for _ in range(GETTERS)]
        try:
            yield
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _puts(self, number: int) -> None:
        rig = self._rig
        mode, seal = PUT_MODES[number]
        while True:
            data = rig.runtime.random(self._chance.choice(SIZES))
            try:
                receipt = await rig.hospital.put(
                    rig.record, data, grant=rig.append_grant.grant, mode=mode, seal=seal
                )
                rig.blobs.append((receipt.ref.blob, data))
                self.done[f"put {mode}"] += 1
            except HcefsError as error:
                self.failures.append(f"put {mode}: {error.kind} {error.reason} {error.message}")
            await rig.runtime.sleep(PAUSE_SECONDS)

    async def _gets(self) -> None:
        rig = self._rig
        while True:
            blob, data = self._chance.choice(rig.blobs)
            mode, seal = self._chance.choice(GET_MODES)
            first = self._chance.randrange(len(data)) if self._chance.random() < 0.5 else 0
            length = self._chance.randrange(1, len(data) - first + 1)
            name = f"get {mode} {seal} of {len(data)} from {first}"
            try:
                stream = await rig.doctor.get(
                    rig.record, blob, grant=rig.read_grant.grant, mode=mode, seal=seal,
                    start=first, length=length,
                )  # fmt: skip
                if await stream.read() != data[first : first + length]:
                    self.failures.append(f"{name}: other bytes")
                self.done[f"get {mode}"] += 1
            except HcefsError as error:
                self.failures.append(f"{name}: {error.kind} {error.reason} {error.message}")
            await rig.runtime.sleep(PAUSE_SECONDS)
