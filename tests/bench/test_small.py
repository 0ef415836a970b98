"""The benchmark of small payloads over a client that only pretends: what it counts and checks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import pytest

from benchmarks import small
from benchmarks.goals import KIB
from benchmarks.harness import BenchCluster, Deadline
from benchmarks.machine import DiskUse
from benchmarks.small import (
    GET,
    GET_MANY,
    GET_MANY_DIFFERENT,
    OPERATIONS,
    PUT,
    PUT_MANY_DIFFERENT,
    PUT_MANY_ONE,
)
from hcefs.errors import Corrupt
from hcefs.ids import BlobId, RecordId
from hcefs.runtime import SystemRuntime

EFFORT = small.Effort(6, 2, 3, 2, 2, 1)


@dataclass(frozen=True)
class Ref:
    blob: BlobId


@dataclass(frozen=True)
class Receipt:
    ref: Ref
    leaf: bytes = b"leaf"
    height: int = 1
    degraded: bool = False


@dataclass(frozen=True)
class Facts:
    record: RecordId


class Stream:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    async def read(self) -> bytes:
        return self._data


@dataclass
class Pretender:
    """A client, a cluster and a ledger in one dictionary; can lose entries and mix up contents."""

    runtime: SystemRuntime
    loses: bool = False
    mixes: bool = False
    record: RecordId = field(default_factory=lambda: RecordId(bytes(16)))
    kept: dict[BlobId, bytes] = field(default_factory=dict)
    entries: dict[RecordId, int] = field(default_factory=dict)

    @property
    def patient(self) -> Client:
        return Client(self)

    def fresh_patient(self) -> Client:
        return Client(self)

    def pids(self) -> dict[str, int]:
        return {"client": os.getpid()}

    def shards(self) -> DiskUse:
        return DiskUse(2 * sum(map(len, self.kept.values())))

    def everything(self) -> DiskUse:
        return DiskUse(3 * sum(map(len, self.kept.values())))


@dataclass(frozen=True)
class Listed:
    record: Facts
    entries: int
    complete: bool = True

    def __len__(self) -> int:
        return self.entries


class Client:
    def __init__(self, world: Pretender) -> None:
        self._world = world

    async def open_record(self) -> Facts:
        return Facts(RecordId(self._world.runtime.random(16)))

    async def put(self, record: RecordId, payload: bytes) -> Receipt:
        world = self._world
        blob = BlobId.of(world.runtime.random(16))
        world.kept[blob] = bytes(len(payload)) if world.mixes else payload
        world.entries[record] = world.entries.get(record, 0) + (not world.loses)
        return Receipt(Ref(blob))

    async def get(self, record: RecordId, blob: BlobId) -> Stream:
        return Stream(self._world.kept[blob])

    async def put_many(self, items: Sequence[tuple[RecordId, bytes]]) -> list[Receipt]:
        return [await self.put(*item) for item in items]

    async def get_many(self, items: Sequence[tuple[RecordId, BlobId]]) -> list[bytes]:
        return [self._world.kept[blob] for _, blob in items]

    async def list(self, record: RecordId) -> Listed:
        return Listed(Facts(record), self._world.entries.get(record, 0))


@pytest.fixture
def world() -> Iterator[Pretender]:
    runtime = SystemRuntime()
    yield Pretender(runtime)
    runtime.close()


def started(world: Pretender, folder: Path) -> small.Run:
    return small.Run(
        small.Options(folder, (4 * KIB,), EFFORT),
        cast(BenchCluster, world),
        Deadline(world.runtime, None),
        lambda text: None,
    )


async def test_every_operation_is_measured_and_no_payload_comes_twice(
    world: Pretender, tmp_path: Path
) -> None:
    run = started(world, tmp_path)
    await run.open_records()
    await run.warm()
    await run.rounds()
    assert len(set(world.kept.values())) == len(world.kept)
    counted: dict[str, Any] = {name: run.found[name, 4 * KIB] for name in OPERATIONS}
    assert {name: found.reason for name, found in counted.items() if found.reason} == {}
    assert counted[PUT].payloads == counted[GET].payloads == [6, 6]
    assert counted[PUT_MANY_ONE].payloads == counted[PUT_MANY_DIFFERENT].payloads == [6, 6]
    assert counted[GET_MANY].payloads == counted[GET_MANY_DIFFERENT].payloads == [6, 6]
    assert counted[PUT].all_per_byte == [3.0, 3.0]
    assert not counted[GET].all_per_byte


async def test_a_put_without_an_entry_on_the_ledger_ends_the_benchmark(
    world: Pretender, tmp_path: Path
) -> None:
    world.loses = True
    with pytest.raises(Corrupt) as caught:
        await started(world, tmp_path).rounds()
    assert caught.value.reason == "not-committed"


async def test_other_content_than_was_put_ends_the_benchmark(
    world: Pretender, tmp_path: Path
) -> None:
    world.mixes = True
    with pytest.raises(Corrupt) as caught:
        await started(world, tmp_path).rounds()
    assert caught.value.reason == "wrong-content"


async def test_what_the_client_cannot_do_is_not_measured(world: Pretender, tmp_path: Path) -> None:
    run = started(world, tmp_path)
    run.found[PUT_MANY_ONE, 4 * KIB].reason = "not available"
    await run.rounds()
    assert not run.found[PUT_MANY_ONE, 4 * KIB].batches
    assert run.found[PUT, 4 * KIB].batches


async def test_batches_grow_to_the_time_they_should_take(world: Pretender, tmp_path: Path) -> None:
    run = started(world, tmp_path)
    run._pace[PUT] = 1000.0
    assert run._count(PUT, 64, 10_000, KIB) == int(1000 * EFFORT.batch)
    assert run._count(PUT, 64, 500, KIB) == 500
    assert run._count("new", 64, 10_000, KIB) == 64
    assert run._count(PUT, 64, 10_000, small.HELD_BYTES_MAX // 8) == 8
