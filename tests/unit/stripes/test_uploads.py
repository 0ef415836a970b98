"""The barrier of a change: a put of an older epoch is refused or waited for, never missed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import BlobId
from hcefs.placement.ring import partition_of, position_of, positions_of
from hcefs.runtime import SystemRuntime
from hcefs.stripes.placed import RING
from hcefs.stripes.uploads import Uploads
from hcefs.testing.local_cluster import LocalCluster
from hcefs.transport.peers import ShardRows, ShardStart

NAME = b"0123456789abcdef"
BITS = 4
HERE = positions_of(partition_of(NAME, BITS), BITS)
ELSEWHERE = positions_of(partition_of(NAME, BITS) ^ 1, BITS)


class Epoch:
    """The epoch of a node's map."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


async def is_settled(uploads: Uploads, epoch: int, positions: range) -> bool:
    """Whether a barrier would return without anything further happening."""
    task = asyncio.ensure_future(uploads.settled(epoch, positions))
    for _ in range(5):
        await asyncio.sleep(0)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    await task
    return True


@pytest.mark.parametrize("asked", [4, 6])
async def test_another_epoch_is_refused_and_leaves_nothing(asked: int) -> None:
    uploads = Uploads(Epoch(5))
    with pytest.raises(Unavailable) as caught:
        uploads.begin(asked, [NAME])
    assert caught.value.reason == "other-epoch"
    assert await is_settled(uploads, 5, RING)


async def test_a_barrier_waits_for_older_puts_in_its_range_only() -> None:
    epoch = Epoch(5)
    uploads = Uploads(epoch)
    assert position_of(NAME) in HERE
    upload = uploads.begin(5, [NAME])
    epoch.now = 6
    assert not await is_settled(uploads, 6, HERE)
    assert await is_settled(uploads, 6, ELSEWHERE)
    upload.end()
    assert await is_settled(uploads, 6, HERE)


async def test_a_barrier_does_not_wait_for_puts_of_its_own_epoch() -> None:
    uploads = Uploads(Epoch(6))
    with uploads.begin(6, [NAME]):
        assert await is_settled(uploads, 6, HERE)


async def test_any_of_the_names_of_a_put_counts() -> None:
    epoch = Epoch(5)
    uploads = Uploads(epoch)
    other = next(n for n in (bytes([i]) * 16 for i in range(256)) if position_of(n) in ELSEWHERE)
    with uploads.begin(5, [other, NAME]):
        epoch.now = 6
        assert not await is_settled(uploads, 6, HERE)
        assert not await is_settled(uploads, 6, ELSEWHERE)


async def test_all_waiting_barriers_return_with_the_last_put() -> None:
    epoch = Epoch(5)
    uploads = Uploads(epoch)
    first, second = uploads.begin(5, [NAME]), uploads.begin(5, [NAME])
    epoch.now = 6
    barriers = [asyncio.ensure_future(uploads.settled(6, HERE)) for _ in range(3)]
    first.end()
    first.end()  # a repeat ends nothing else
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(barrier.done() for barrier in barriers)
    second.end()
    async with asyncio.timeout(60):
        await asyncio.gather(*barriers)


async def test_a_barrier_needs_the_later_map() -> None:
    uploads = Uploads(Epoch(5))
    with pytest.raises(Unavailable) as caught:
        await uploads.settled(6, RING)
    assert caught.value.reason == "other-epoch"


async def test_a_put_before_the_map_is_waited_for_and_one_after_is_refused() -> None:
    epoch = Epoch(5)
    uploads = Uploads(epoch)
    upload = uploads.begin(5, [NAME])  # the put first: the barrier waits
    epoch.now = 6
    barrier = asyncio.ensure_future(uploads.settled(6, HERE))
    with pytest.raises(Unavailable):
        uploads.begin(5, [NAME])  # the map first: the put is refused
    for _ in range(5):
        await asyncio.sleep(0)
    assert not barrier.done()
    upload.end()
    async with asyncio.timeout(60):
        await barrier


# -- at a holder


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    runtime = SystemRuntime()
    yield LocalCluster(runtime)
    runtime.close()


def started(cluster: LocalCluster) -> ShardStart:
    blob = BlobId.of(cluster.runtime.random(16))
    return ShardStart(cluster.call("put", blob), 0, "ec-4-2", 1 << 20)


BAD_ROWS = ShardRows(b"", b"", b"", b"", b"")


@pytest.mark.parametrize("ending", ["cancel", "failed finish", "failed whole", "failed begin"])
async def test_whatever_ends_a_put_releases_the_barrier(cluster: LocalCluster, ending: str) -> None:
    account = cluster.keys[0].account
    holder, uploads = cluster.holders[account], cluster.uploads[account]
    start = started(cluster)
    if ending == "failed begin":
        cluster.stores[account].shards.close()
        with pytest.raises(HcefsError):
            await holder.store(start)
    elif ending == "failed whole":
        with pytest.raises(HcefsError):
            await holder.store_whole(start, [], BAD_ROWS)
    else:
        upload = await holder.store(start)
        cluster.epochs[account] = 2
        assert not await is_settled(uploads, 2, RING)
        if ending == "cancel":
            await upload.cancel()
        else:
            with pytest.raises(HcefsError):
                await upload.finish(BAD_ROWS)
    cluster.epochs[account] = 2
    assert await is_settled(uploads, 2, RING)


async def test_a_cancelled_begin_releases_the_barrier(cluster: LocalCluster) -> None:
    account = cluster.keys[0].account
    task = asyncio.ensure_future(cluster.holders[account].store(started(cluster)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    cluster.epochs[account] = 2
    assert await is_settled(cluster.uploads[account], 2, RING)


async def test_a_durable_put_releases_the_barrier(cluster: LocalCluster) -> None:
    await cluster.put(b"some data")
    await cluster.put(bytes(5 << 20))
    for account, uploads in cluster.uploads.items():
        cluster.epochs[account] = 2
        assert await is_settled(uploads, 2, RING)
