"""Clients of a chaos run: they put, get and read ranges, and remember what was acknowledged.

Every answer is compared at once with what was put.  Under faults a request may be refused;
it may never succeed with other bytes.  ``Load.wrong`` are such answers, and each is a
violation whatever else was going on.

A put that fails is not remembered: whether its bytes are stored is left open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from hcefs.cli.chaos_plan import Draws
from hcefs.cli.chaos_stage import Stage
from hcefs.client.receipts import PutReceipt
from hcefs.errors import HcefsError
from hcefs.ids import BlobId, RecordId
from hcefs.integrity import blake3_digest

SIZES = (700, 9_000, 60_000, 300_000, 1_500_000, 2_500_000)
"""Packs of copies, packs that are erasure-coded, blobs of one, two and three segments."""

MANY = 8
POOL_BYTES = 6_000_000
STORED_BYTES_MAX = 192 << 20
"""Of payload: a run must not fill the disk of the machine that it tests."""

CALL_SECONDS = 45.0
PAUSE_SECONDS = 0.02
READ_BACK_ATTEMPTS = 6
READ_BACK_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Acknowledged:
    """One blob whose put succeeded: where its bytes are in the pool, and their digest."""

    record: RecordId
    receipt: PutReceipt
    start: int
    length: int
    digest: bytes

    @property
    def blob(self) -> BlobId:
        return self.receipt.ref.blob


@dataclass
class Load:
    """What the clients did and saw."""

    puts: int = 0
    degraded: int = 0
    gets: int = 0
    ranges: int = 0
    bytes_put: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Requests without success, by operation and reason."""

    wrong: list[str] = field(default_factory=list)
    blobs: list[Acknowledged] = field(default_factory=list)


class Clients:
    """Puts and reads over and over, until told to stop."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._runtime = stage.runtime
        self._draws = Draws(seed, "load")
        self._pool = _pool(seed)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.load = Load()

    # -- running

    async def begin(self, putters: int = 1, readers: int = 2) -> None:
        """Put the first blobs, then let the clients run."""
        for size in SIZES:
            await self._put(size)
        spawn = self._runtime.spawn
        self._tasks = [spawn(self._putting(), name=f"putter-{i}") for i in range(putters)]
        self._tasks += [spawn(self._reading(), name=f"reader-{i}") for i in range(readers)]

    async def end(self) -> None:
        """Let every client finish what it has begun.

        Raises:
            Exception: what a client died of, other than a refusal.
        """
        self._stopping = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def _putting(self) -> None:
        while not self._stopping:
            if self.load.bytes_put < STORED_BYTES_MAX:
                if self._draws.below(5):
                    await self._put(self._draws.pick(SIZES))
                else:
                    await self._put_many()
            await self._runtime.sleep(PAUSE_SECONDS)

    async def _reading(self) -> None:
        while not self._stopping:
            if self.load.blobs:
                await self.read(self._draws.pick(self.load.blobs))
            await self._runtime.sleep(PAUSE_SECONDS)

    # -- one request

    def _bytes(self, size: int) -> tuple[int, bytes]:
        start = self._draws.below(len(self._pool) - size)
        return start, self._pool[start : start + size]

    async def _put(self, size: int) -> None:
        record = self._draws.pick(self._stage.records)
        start, data = self._bytes(size)
        try:
            async with self._runtime.timeout(CALL_SECONDS):
                receipt = await self._stage.patient.put(record, data)
        except (HcefsError, TimeoutError) as error:
            self._refused("put", error)
            return
        self._remember(Acknowledged(record, receipt, start, size, blake3_digest(data)))

    async def _put_many(self) -> None:
        record = self._draws.pick(self._stage.records)
        parts = [self._bytes(self._draws.pick(SIZES[:2])) for _ in range(MANY)]
        try:
            async with self._runtime.timeout(CALL_SECONDS):
                receipts = await self._stage.patient.put_many([(record, data) for _, data in parts])
        except (HcefsError, TimeoutError) as error:
            self._refused("put-many", error)
            return
        for (start, data), receipt in zip(parts, receipts, strict=True):
            self._remember(Acknowledged(record, receipt, start, len(data), blake3_digest(data)))

    def _remember(self, made: Acknowledged) -> None:
        self.load.puts += 1
        self.load.degraded += made.receipt.degraded
        self.load.bytes_put += made.length
        self.load.blobs.append(made)

    async def read(self, made: Acknowledged) -> None:
        """A blob, or some bytes of it; a refusal is counted."""
        start = length = 0
        if self._draws.below(5) < 2:
            start = self._draws.below(made.length)
            length = 1 + self._draws.below(made.length - start)
        try:
            found = await self._get(made, start, length)
        except (HcefsError, TimeoutError) as error:
            self._refused("get", error)
            return
        self.load.ranges += bool(length)
        self.load.gets += not length
        self._compare(made, found, start, length)

    async def _get(self, made: Acknowledged, start: int = 0, length: int = 0) -> bytes:
        async with self._runtime.timeout(CALL_SECONDS):
            stream = await self._stage.patient.get(
                made.record, made.blob, start=start, length=length
            )
            async with stream:
                return bytes(await stream.read())

    def _compare(self, made: Acknowledged, found: bytes, start: int, length: int) -> bool:
        first = made.start + start
        expected = self._pool[first : first + (length or made.length)]
        if length or start:
            good = found == expected
        else:
            good = len(found) == made.length and blake3_digest(found) == made.digest
        if not good:
            self.load.wrong.append(f"{made.blob} from {start} reads back as something else")
        return good

    async def read_back(self) -> list[str]:
        """Every acknowledged blob once more, whole; what cannot be had or is not the same."""
        failures = []
        for made in self.load.blobs:
            reason = await self._read_back(made)
            if reason:
                failures.append(f"{made.blob} ({made.length} bytes): {reason}")
        return failures

    async def _read_back(self, made: Acknowledged) -> str:
        reason = ""
        for _ in range(READ_BACK_ATTEMPTS):
            try:
                found = await self._get(made)
            except HcefsError as error:
                reason = f"{error.kind}, {error.reason}: {error.message}"
                if not error.retryable:
                    return reason
            except TimeoutError:
                reason = "no answer in time"
            else:
                same = self._compare(made, found, 0, 0)
                return "" if same else "reads back as something else"
            await self._runtime.sleep(READ_BACK_PAUSE_SECONDS)
        return reason

    def _refused(self, what: str, error: HcefsError | TimeoutError) -> None:
        reason = error.reason if isinstance(error, HcefsError) else "timeout"
        self.load.refused[f"{what}: {reason}"] += 1


def _pool(seed: int) -> bytes:
    """Reproducible bytes that no compression shortens."""
    words = range(POOL_BYTES // 32)
    return b"".join(blake3_digest(b"chaos %d %d" % (seed, word)) for word in words)
