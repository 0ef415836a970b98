"""What each stage costs on this machine, by itself: the limit of the data path.

Owns the stages and how they are timed.  All stages of one repeat run one after
the other, and the next repeat begins again with the first, so that a burst of
noise hits every stage and not one.  CPU time is what the stage's own processes
used, in the kernel too.

``best`` is the least of the repeats: noise only adds.  Not guaranteed: that the
sum of stages can be reached; it leaves out every call, copy and wake-up.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import zfec

from benchmarks.hop import Hop, open_hop
from hcefs.crypto.stream import SEAL_OVERHEAD, open_segment_into, seal_segment_into, segment_secret
from hcefs.erasure.codec import Codec
from hcefs.erasure.scheme import SEGMENT_SIZE, piece_length
from hcefs.ids import BlobId, RecordId
from hcefs.integrity import Buffer, blake3_digest
from hcefs.runtime import SystemRuntime

GIGA: Final = 1_000_000_000
BLOB: Final = BlobId.of(bytes(16))
RECORD: Final = RecordId(bytes(16))
CODES: Final = ((4, 2), (10, 4))
HOP_SIZES: Final = (("hop-512KiB", 512 << 10), ("hop-1MiB", 1 << 20))
PIECE_BYTES: Final = SEGMENT_SIZE // 4
"""A piece of 4+2, but for its padding: what the data path digests at a time."""

POOL_BYTES: Final = 16 * SEGMENT_SIZE
"""Different bytes that the stages go through, over and over."""

WRITE_BYTES: Final = 512 << 10
FILE_PARTS: Final = 4
FILE_KINDS: Final = {
    "write-fsync": ("write-fsync-allocated", "write-fsync-uncached"),
    "file-read": ("file-read-uncached",),
}


@dataclass(frozen=True)
class Effort:
    """How much is measured: bytes for each stage and repeat, and repeats."""

    volume: int
    repeats: int


FULL: Final = Effort(256 << 20, 11)
QUICK: Final = Effort(64 << 20, 7)


@dataclass(frozen=True)
class Timing:
    """One repeat of one stage; ``parts`` splits the CPU time where there are two sides."""

    bytes: int
    seconds: float
    cpu: float
    parts: dict[str, float] = field(default_factory=dict)


Stage = Callable[[], Awaitable[Timing]]


def summary(timings: Sequence[Timing]) -> dict[str, Any]:
    """Best and median of a stage's repeats."""
    speeds = [timing.bytes / timing.seconds / GIGA for timing in timings]
    result: dict[str, Any] = {
        "gb_s": {"best": max(speeds), "median": median(speeds)},
        "cpu_s_per_gb": _cost([timing.cpu / timing.bytes for timing in timings]),
    }
    for part in timings[0].parts:
        costs = [timing.parts[part] / timing.bytes for timing in timings]
        result[f"{part}_cpu_s_per_gb"] = _cost(costs)
    return result


def _cost(seconds_per_byte: Sequence[float]) -> dict[str, float]:
    return {
        "best": min(seconds_per_byte) * GIGA,
        "median": median(seconds_per_byte) * GIGA,
    }


# --- stages ---------------------------------------------------------------------------


def _timed(volume: int, unit: int, runs: Sequence[Callable[[], object]]) -> Stage:
    """Calls of a kernel in this thread that handle ``unit`` bytes each, in turn.

    The calls work on different bytes: a stream's are not in the first caches either.
    """

    async def stage() -> Timing:
        count = max(1, volume // unit)
        started, cpu = time.perf_counter(), time.process_time()
        for number in range(count):
            runs[number % len(runs)]()
        return Timing(count * unit, time.perf_counter() - started, time.process_time() - cpu)

    return stage


def _sealing(volume: int, segments: Sequence[memoryview]) -> dict[str, Stage]:
    secret = segment_secret(bytes(32), 0)
    seals: list[Callable[[], object]] = []
    opens: list[Callable[[], object]] = []
    opened = memoryview(bytearray(SEGMENT_SIZE))
    for segment in segments:
        sealed = memoryview(bytearray(SEGMENT_SIZE + SEAL_OVERHEAD))
        seals.append(partial(seal_segment_into, secret, BLOB, RECORD, False, segment, sealed))
        opens.append(partial(open_segment_into, secret, BLOB, RECORD, False, sealed, opened))
        seals[-1]()
    return {
        "aes-seal": _timed(volume, SEGMENT_SIZE, seals),
        "aes-open": _timed(volume, SEGMENT_SIZE, opens),
    }


def _pieces(k: int, m: int, segment: Buffer) -> tuple[list[memoryview], list[memoryview]]:
    """A stripe of one segment: its data pieces, and room for its parity."""
    size = piece_length(SEGMENT_SIZE + SEAL_OVERHEAD, k)
    whole = memoryview(bytearray(segment).ljust(size * k, b"\0") + bytearray(size * m))
    cut = [whole[i * size : (i + 1) * size] for i in range(k + m)]
    return cut[:k], cut[k:]


def _encoding(volume: int, k: int, m: int, segments: Sequence[memoryview]) -> Stage:
    codec = Codec(k, m)
    stripes = [_pieces(k, m, segment) for segment in segments]
    unit = len(stripes[0][0][0]) * k
    return _timed(volume, unit, [partial(codec.encode_into, *stripe) for stripe in stripes])


def equals_zfec(k: int, m: int, segment: Buffer) -> bool:
    """Whether the kernel in use makes, of one stripe, the parity that zfec makes."""
    pieces, parity = _pieces(k, m, segment)
    Codec(k, m).encode_into(pieces, parity)
    blocks = [bytes(piece) for piece in pieces]
    expected = zfec.Encoder(k, k + m).encode(blocks, list(range(k, k + m)))
    return [bytes(piece) for piece in parity] == [bytes(piece) for piece in expected]


def _hopping(volume: int, size: int, hop: Hop) -> Stage:
    async def stage() -> Timing:
        cost = await hop.transfer(size, max(1, volume // size))
        parts = {"send": cost.send, "receive": cost.receive}
        return Timing(cost.bytes, cost.seconds, cost.send + cost.receive, parts)

    return stage


class _Files:
    """Files of a shard's size, written with fsync, and read back: from the cache, or past it."""

    def __init__(self, folder: Path, volume: int, data: bytes) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        # In pages of its own, as a disk demands that is written to without the page cache.
        view = memoryview(mmap.mmap(-1, len(data)))
        view[:] = data
        self._pieces = [view[i : i + WRITE_BYTES] for i in range(0, len(view), WRITE_BYTES)]
        self._count = max(1, volume // FILE_PARTS // WRITE_BYTES)
        self._size = self._count * WRITE_BYTES

    def can_bypass_cache(self) -> bool:
        """Whether the file system takes ``O_DIRECT``."""
        try:
            os.close(os.open(self._folder / "0", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
        except OSError:
            return False
        return True

    async def write(self) -> Timing:
        return self._write()

    async def write_allocated(self) -> Timing:
        return self._write(allocate=True)

    async def write_uncached(self) -> Timing:
        return self._write(flags=os.O_DIRECT)

    def _write(self, *, allocate: bool = False, flags: int = 0) -> Timing:
        for number in range(FILE_PARTS):
            (self._folder / f"{number}").unlink(missing_ok=True)
        started, cpu = time.perf_counter(), time.process_time()
        for number in range(FILE_PARTS):
            file = os.open(self._folder / f"{number}", os.O_WRONLY | os.O_CREAT | flags, 0o600)
            try:
                if allocate:
                    os.posix_fallocate(file, 0, self._size)
                for index in range(self._count):
                    if os.write(file, self._pieces[index % len(self._pieces)]) != WRITE_BYTES:
                        raise OSError("the disk took only a part of a write")
                os.fsync(file)
            finally:
                os.close(file)
        return Timing(
            self._size * FILE_PARTS, time.perf_counter() - started, time.process_time() - cpu
        )

    async def read(self) -> Timing:
        return self._read()

    async def read_uncached(self) -> Timing:
        return self._read(os.O_DIRECT)

    def _read(self, flags: int = 0) -> Timing:
        room = mmap.mmap(-1, WRITE_BYTES)
        started, cpu = time.perf_counter(), time.process_time()
        for number in range(FILE_PARTS):
            file = os.open(self._folder / f"{number}", os.O_RDONLY | flags)
            try:
                for index in range(self._count):
                    if os.preadv(file, [room], index * len(room)) != len(room):
                        raise OSError("the disk gave only a part of a read")
            finally:
                os.close(file)
        return Timing(
            self._size * FILE_PARTS, time.perf_counter() - started, time.process_time() - cpu
        )


# --- the whole ------------------------------------------------------------------------


class Stages:
    """The stages, ready to be measured at any moment.  Made by :func:`open_stages`.

    ``data`` benchmarks repeat them between what they measure, so that the limit and
    the path see the same machine.
    """

    def __init__(self, stages: dict[str, Stage], exact: dict[str, dict[str, Any]]) -> None:
        self._stages = stages
        self._exact = exact
        self._timings: dict[str, list[Timing]] = {name: [] for name in stages}

    async def warm(self) -> None:
        """Fill caches, buffers and the connection; not counted."""
        for stage in self._stages.values():
            await stage()

    async def repeat(self) -> None:
        """Measure every stage once more."""
        for name, stage in self._stages.items():
            self._timings[name].append(await stage())

    def found(self) -> dict[str, dict[str, Any]]:
        """Best and median of all repeats so far, by stage; there must be one."""
        return {
            name: summary(timings) | self._exact.get(name, {})
            for name, timings in self._timings.items()
        }


@asynccontextmanager
async def open_stages(
    folder: Path, volume: int, data: bytes, runtime: SystemRuntime
) -> AsyncIterator[Stages]:
    """Stages that move ``volume`` bytes each; ``folder`` takes files of that size.

    ``data`` is some of what is to be stored, in whole segments (``POOL_BYTES``).

    Raises:
        Unavailable: the receiver of the hop does not start.
        OSError: the disk failed.
    """
    files = _Files(folder, volume, data)
    view = memoryview(data)
    segments = [view[i : i + SEGMENT_SIZE] for i in range(0, len(view), SEGMENT_SIZE)]
    stages: dict[str, Stage] = _sealing(volume, segments)
    pieces = [view[i : i + PIECE_BYTES] for i in range(0, len(view), PIECE_BYTES)]
    stages["blake3"] = _timed(
        volume, PIECE_BYTES, [partial(blake3_digest, piece) for piece in pieces]
    )
    exact: dict[str, dict[str, Any]] = {}
    for k, m in CODES:
        stages[f"erasure-{k}-{m}"] = _encoding(volume, k, m, segments)
        equal = equals_zfec(k, m, segments[0])
        exact[f"erasure-{k}-{m}"] = {"equal_to_zfec": equal, "kernel": Codec(k, m).kernel}
    async with open_hop(folder / "hop", os.getpid(), runtime) as hop:
        for name, size in HOP_SIZES:
            stages[name] = _hopping(volume, size, hop)
        stages["write-fsync"] = files.write
        stages["write-fsync-allocated"] = files.write_allocated
        stages["file-read"] = files.read
        if files.can_bypass_cache():
            stages["write-fsync-uncached"] = files.write_uncached
            stages["file-read-uncached"] = files.read_uncached
        opened = Stages(stages, exact)
        await opened.warm()
        yield opened


async def measure(
    folder: Path, effort: Effort, data: bytes, runtime: SystemRuntime
) -> dict[str, dict[str, Any]]:
    """Every stage's cost by its name, one repeat after the other.

    Raises:
        Unavailable, OSError: as :func:`open_stages`.
    """
    async with open_stages(folder, effort.volume, data, runtime) as stages:
        for _ in range(effort.repeats):
            await stages.repeat()
        return stages.found()


# --- the limit of a path ----------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """A stage that a path cannot avoid, and how many bytes of it each byte of payload costs."""

    stage: str
    factor: float
    why: str


def unavoidable(
    operation: str, mode: str, seal: str, *, k: int = 4, m: int = 2, from_file: bool = False
) -> list[Term]:
    """What a put or a get must at least do, for each byte of payload.

    ``operation`` is ``put``, ``get`` (also ``range``), or ``degraded``: a get with two
    data shards lost.  The gateway is taken to hold a shard, a data shard in a get.
    """
    n = k + m
    if operation == "put":
        terms = [Term("file-read", 1.0, "the client reads its file")] if from_file else []
        if mode == "gateway":
            terms.append(Term("hop-1MiB", 1.0, "client to gateway"))
        if seal == "pack":
            terms.append(Term("blake3", 1.0, "digest of each payload, which its entry commits to"))
        hops = (n - 1) / k if mode == "gateway" else n / k
        return [
            *terms,
            Term("aes-seal", 1.0, "seal every segment"),
            Term("erasure-4-2", 1.0, "make the parity"),
            Term("blake3", n / k, "digest every piece"),
            Term("hop-1MiB", hops, "shards to the other holders"),
            Term("write-fsync", n / k, "every holder writes its shard, fsync"),
        ]
    terms = [Term("file-read", 1.0, "k holders read their shard, from the cache")]
    hops = (k - 1) / k if mode == "gateway" else 1.0
    terms.append(Term("hop-1MiB", hops, "data shards of the other holders"))
    if operation == "degraded":
        terms.append(Term("erasure-4-2", 1.0, "rebuild two data pieces of four"))
    if mode == "gateway":
        if seal != "node":
            terms.append(Term("blake3", 1.0, "a gateway that cannot open compares digests"))
        terms.append(Term("hop-1MiB", 1.0, "gateway to client"))
    terms.append(Term("aes-open", 1.0, "open every segment"))
    return terms


def content_signature(operation: str) -> list[Term]:
    """What the writer's signature over the content costs: its digest, in put and whole get."""
    if operation in ("put", "get", "degraded"):
        return [Term("blake3", 1.0, "digest of the whole content, which the writer signs")]
    return []


def needs_content_signature(mode: str, seal: str) -> bool:
    """Whether a way cannot do without that signature.

    Where a node seals, nothing else keeps that node from putting other content in:
    the design demands it, so its digest is part of the limit.  Where the client
    seals, the core that its entry commits to already binds the ciphertext: what the
    signature then costs is counted against us.
    """
    return mode == "gateway" and seal == "node"


def cost_of(terms: Sequence[Term], stages: dict[str, dict[str, Any]], which: str = "best") -> float:
    """CPU seconds for each GB of payload: each stage at its best, or its median."""
    return sum(term.factor * stage_cost(term.stage, stages, which) for term in terms)


def stage_cost(stage: str, stages: Mapping[str, Mapping[str, Any]], which: str = "best") -> float:
    """CPU-s/GB of a stage; for a file, of the cheapest kind of access that was measured."""
    names = [stage, *FILE_KINDS.get(stage, ())]
    return min(float(stages[name]["cpu_s_per_gb"][which]) for name in names if name in stages)
