"""What rebuilding a shard must at least cost: decode, hop and write, each by itself.

The stages of :mod:`benchmarks.limits` and one of this benchmark's own, the decoding of one
missing piece from k others, measured in the same run as the rebuild that they are compared
with.  The limit is CPU seconds for each byte that is *rebuilt*, so what is read k times
counts k times.

Left out of the limit on purpose, as the goal says "decode + hop + write alone": reading the k
shards from their disks and checking their digests.  Both are listed beside it, because no
rebuild can do without them.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.hop import open_hop
from benchmarks.limits import (
    PIECE_BYTES,
    POOL_BYTES,
    Stage,
    Stages,
    Term,
    Timing,
    _Files,
    _hopping,
    _timed,
    stage_cost,
)
from hcefs.crypto.stream import SEAL_OVERHEAD
from hcefs.erasure.codec import Codec
from hcefs.erasure.scheme import SEGMENT_SIZE, piece_length
from hcefs.integrity import blake3_digest
from hcefs.runtime import SystemRuntime

MESSAGE_BYTES: Final = 1 << 20


def decoding(volume: int, k: int, m: int, data: bytes) -> Stage:
    """Make one missing data piece from k others; bytes are those of the pieces made."""
    size = piece_length(SEGMENT_SIZE + SEAL_OVERHEAD, k)
    codec = Codec(k, m)
    stripes = []
    for start in range(0, len(data) - SEGMENT_SIZE + 1, SEGMENT_SIZE):
        whole = data[start : start + SEGMENT_SIZE].ljust(size * k, b"\0")
        pieces = [whole[i * size : (i + 1) * size] for i in range(k)]
        parity = [memoryview(bytearray(size)) for _ in range(m)]
        codec.encode_into([memoryview(piece) for piece in pieces], parity)
        available = {index: pieces[index] for index in range(1, k)}
        stripes.append({**available, k: bytes(parity[0])})

    async def stage() -> Timing:
        count = max(1, volume // size)
        started, cpu = time.perf_counter(), time.process_time()
        for number in range(count):
            codec.rebuild(stripes[number % len(stripes)], [0])
        return Timing(count * size, time.perf_counter() - started, time.process_time() - cpu)

    return stage


@asynccontextmanager
async def open_rebuild_stages(
    folder: Path, volume: int, data: bytes, k: int, m: int, runtime: SystemRuntime
) -> AsyncIterator[Stages]:
    """The stages, ready to be measured at any moment.

    Raises:
        Unavailable, OSError: as :func:`benchmarks.limits.open_stages`.
    """
    files = _Files(folder, volume, data[:POOL_BYTES])
    view = memoryview(data)
    pieces = [view[i : i + PIECE_BYTES] for i in range(0, len(view), PIECE_BYTES)]
    async with open_hop(folder / "hop", os.getpid(), runtime) as hop:
        stages: dict[str, Stage] = {
            "decode-one": decoding(volume, k, m, data),
            "hop-1MiB": _hopping(volume, MESSAGE_BYTES, hop),
            "write-fsync": files.write,
            "write-fsync-allocated": files.write_allocated,
            "file-read": files.read,
            "blake3": _timed(volume, PIECE_BYTES, [_digesting(piece) for piece in pieces]),
        }
        if files.can_bypass_cache():
            stages["write-fsync-uncached"] = files.write_uncached
            stages["file-read-uncached"] = files.read_uncached
        opened = Stages(stages, {})
        await opened.warm()
        yield opened


def _digesting(piece: memoryview) -> Any:
    return lambda: blake3_digest(piece)


def terms(k: int) -> list[Term]:
    """The limit: what the goal counts."""
    return [
        Term("hop-1MiB", float(k), "k shards of other holders"),
        Term("decode-one", 1.0, "the missing piece from k others"),
        Term("write-fsync", 1.0, "the rebuilt shard, fsync"),
    ]


def also_needed(k: int) -> list[Term]:
    """What the goal leaves out and no rebuild can do without."""
    return [
        Term("file-read", float(k), "k holders read their shard, from the cache"),
        Term("blake3", k + 1.0, "digests of k shards and of the rebuilt one"),
    ]


def shares(stages: dict[str, dict[str, Any]], chosen: Sequence[Term]) -> dict[str, float]:
    """CPU-s/GB rebuilt of each term."""
    return {term.stage: term.factor * stage_cost(term.stage, stages, "best") for term in chosen}
