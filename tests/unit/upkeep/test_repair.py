"""Repair: what is at the brink first, wherever it lies; nothing stops anything else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hcefs.errors import Unavailable
from hcefs.formats.manifest import Opening
from hcefs.ids import AccountId, BlobBase, BlobId
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import partition_of
from hcefs.stripes.audit import Auditor, ShardState
from hcefs.stripes.exports import has_shard
from hcefs.upkeep.damage import BACKOFF_MS_FIRST, BACKOFF_MS_MAX, DamagedName
from hcefs.upkeep.repair import REST_ENDANGERED_SECONDS, UNREADABLE_TRIES, Repairer
from hcefs.upkeep.stock import Stock
from hcefs.upkeep.survey import Surveyor
from hcefs.upkeep.worker import Progress
from tests.unit.upkeep.giving import ClockRuntime
from tests.unit.upkeep.repairing import ROUND_SECONDS, Repairing

AWAY = Unavailable("this node is away", reason="unreachable")


@pytest.fixture
def world() -> Iterator[Repairing]:
    runtime = ClockRuntime()
    yield Repairing(runtime)
    runtime.close()


async def blobs_at(world: Repairing, account: AccountId, count: int) -> list[tuple[BlobId, int]]:
    """Blobs of which a node holds a shard, each with its index there."""
    found: list[tuple[BlobId, int]] = []
    while len(found) < count:
        blob = await world.cluster.put(world.runtime.random(20_000))
        held = [s.index for s in world.cluster.seats(blob.base) if s.node.account == account]
        if held:
            found.append((blob, held[0]))
    return found


def others(index: int, count: int) -> list[int]:
    return [each for each in range(6) if each != index][:count]


def node(world: Repairing) -> AccountId:
    return sorted(world.cluster.holders)[0]


async def test_a_round_brings_everything_back_and_says_so(world: Repairing) -> None:
    me = node(world)
    blobs = await blobs_at(world, me, 6)
    for blob, index in blobs[:4]:
        world.lose(blob, index)
    repairer = world.repairer(me)
    await world.whole_round(repairer)
    for blob, index in blobs:
        assert has_shard(world.cluster.stores[me], blob.base, index)
    assert not len(world.queue(me))
    assert repairer.last is not None
    assert repairer.last.lacking == 0
    assert repairer.last.is_whole
    assert repairer.whole_ms == repairer.last.ended_ms
    assert world.cluster.metrics.value("repaired_shards_total") == 4


async def test_metrics_show_each_blob_by_its_margin(world: Repairing) -> None:
    """Blobs are counted by one node each, so all nodes look; what they lack they cannot bring."""
    me = node(world)
    shown: dict[str, float] = {}

    async def look() -> None:
        shown.clear()
        metrics = world.cluster.metrics
        for each in sorted(world.cluster.holders):
            repairer = world.repairer(each)
            repairer.now()
            await world.run(repairer)
            for margin in ("below-k", "0", "1", "2"):
                found = metrics.value("blobs_by_margin", margin=margin)
                shown[margin] = shown.get(margin, 0) + found
            shown["short"] = shown.get("short", 0) + metrics.value("blobs_short")

    blobs = await blobs_at(world, me, 5)
    total = sum(1 for _ in world.cluster.stores[me].shards.inventory())
    lost = blobs[0][0]
    world.lose(lost, 0, 1, 2)
    await look()
    assert shown == {"below-k": 1, "0": 0, "1": 0, "2": total - 1, "short": 1}


async def test_the_least_margin_of_all_rows_comes_first(world: Repairing) -> None:
    """Not in the order of rows, nor in that in which they were lost."""
    me = node(world)
    blobs = await blobs_at(world, me, 12)
    lost = {}
    for at, (blob, index) in enumerate(blobs):
        more = at % 2
        world.lose(blob, index, *others(index, more))
        lost[blob.base] = more
    await world.whole_round(world.repairer(me))
    order = [lost[base] for _, base in world.brought]
    assert order == sorted(order, reverse=True)
    assert len(order) == 12


async def test_of_one_margin_the_oldest_comes_first(world: Repairing) -> None:
    me = node(world)
    blobs = await blobs_at(world, me, 5)
    for blob, index in reversed(blobs):
        world.lose(blob, index)
        world.clock_ms += 1000
        world.queue(me).found(blob.base, index, "ec-4-2", "damaged-piece")
    await world.run(world.repairer(me))
    assert [base for _, base in world.brought] == [blob.base for blob, _ in reversed(blobs)]


async def test_what_is_in_the_queue_is_done_without_a_pass(world: Repairing) -> None:
    me = node(world)
    ((blob, index),) = await blobs_at(world, me, 1)
    world.lose(blob, index)
    world.queue(me).found(blob.base, index, "ec-4-2", "missing")
    repairer = world.repairer(me)
    await world.run(repairer)
    assert has_shard(world.cluster.stores[me], blob.base, index)
    assert repairer.last is None


async def test_one_bad_blob_stops_no_other_and_is_put_off(world: Repairing) -> None:
    me = node(world)
    blobs = await blobs_at(world, me, 4)
    (bad, at), *good = blobs
    world.lose(bad, at, *others(at, 2))
    for blob, index in good:
        world.lose(blob, index)
    repairer = world.repairer(me)
    await world.whole_round(repairer)
    for blob, index in good:
        assert has_shard(world.cluster.stores[me], blob.base, index)
    entry = world.queue(me).get(DamagedName(bad.base, at, "ec-4-2"))
    assert entry is not None
    assert (entry.live, entry.attempts, entry.error) == (3, 1, "too-few-shards")
    assert repairer.last is not None
    assert not repairer.last.is_whole
    failures = world.cluster.metrics.value("repair_failures_total", reason="too-few-shards")
    assert failures == 1
    # A shard of it comes back: the next attempt makes it whole.
    tried = len(world.brought)
    await world.run(repairer)
    assert len(world.brought) == tried, "it is not tried before its time"
    give_back(world, bad, others(at, 2)[0])
    world.clock_ms += BACKOFF_MS_FIRST
    await world.run(repairer)
    assert has_shard(world.cluster.stores[me], bad.base, at)


def give_back(world: Repairing, blob: BlobId, index: int) -> None:
    """Let a shard be there again that a test had removed."""
    shards = world.stores_at(blob, index).shards
    data = world.kept[blob.base, index]
    writer = shards.begin(blob.base, index)
    writer.write(data[:-1])
    writer.finish(data[-1:])


async def test_a_holder_that_is_away_puts_off_and_does_not_lose(world: Repairing) -> None:
    me = node(world)
    ((blob, index),) = await blobs_at(world, me, 1)
    world.lose(blob, index)
    world.queue(me).found(blob.base, index, "ec-4-2", "missing")
    away = [world.seat(blob, each).node.account for each in others(index, 2)]
    for account in away:
        world.giving[account].fails = AWAY
    repairer = world.repairer(me)
    await world.run(repairer)
    entry = world.queue(me).get(DamagedName(blob.base, index, "ec-4-2"))
    assert entry is not None
    assert entry.attempts == 1
    assert entry.error != "too-few-shards"
    for account in away:
        world.giving[account].fails = None
    world.clock_ms += BACKOFF_MS_FIRST
    await world.run(repairer)
    assert has_shard(world.cluster.stores[me], blob.base, index)


@pytest.mark.parametrize("away", [True, False], ids=["some-away", "all-there"])
async def test_what_nobody_has_is_put_off_while_somebody_is_away(
    world: Repairing, away: bool
) -> None:
    me = node(world)
    ((blob, index),) = await blobs_at(world, me, 1)
    world.lose(blob, *range(6))
    world.queue(me).found(blob.base, index, "ec-4-2", "missing")
    if away:
        world.giving[world.seat(blob, others(index, 1)[0]).node.account].fails = AWAY
    await world.run(world.repairer(me))
    entry = world.queue(me).get(DamagedName(blob.base, index, "ec-4-2"))
    assert (entry is not None) == away
    assert entry is None or (entry.attempts, entry.error) == (1, "holders-away")


async def test_what_is_said_to_be_damaged_is_read_first(world: Repairing) -> None:
    me = node(world)
    (bad, at), (good, index) = await blobs_at(world, me, 2)
    world.flip(bad, at)
    for blob, each in ((bad, at), (good, index)):
        world.queue(me).found(blob.base, each, "ec-4-2", "hint")
    await world.run(world.repairer(me))
    assert [base for _, base in world.brought] == [bad.base]
    assert not len(world.queue(me))
    stores = world.cluster.stores[me]
    auditor = Auditor(world.runtime, stores, world.cluster.ledger, free)
    assert (await auditor.look(bad.base, at, "ec-4-2")).state is ShardState.WHOLE


async def free(_: int) -> None:
    """Reading costs nothing."""


async def test_entries_of_no_seat_of_this_node_go(world: Repairing) -> None:
    me = node(world)
    ((blob, index),) = await blobs_at(world, me, 1)
    world.queue(me).found(blob.base, (index + 1) % 6, "ec-4-2", "hint")
    await world.run(world.repairer(me))
    assert not len(world.queue(me))
    assert not world.brought


async def test_every_blob_is_counted_by_one_node(world: Repairing) -> None:
    counted: dict[int, int] = {}
    blobs = [await world.cluster.put(bytes(1000)) for _ in range(9)]
    world.lose(blobs[0], 0)
    world.lose(blobs[1], 0, 5)
    world.lose(blobs[2], 1, 2, 3)
    pending = BlobId.of(world.runtime.random(16))
    session = world.cluster.session(world.cluster.plan(pending))
    await session.write(bytes(10))
    await session.finish(10, b"", b"", world.cluster.call("put", pending))
    world.lose(pending, 3)
    for account in sorted(world.cluster.holders):
        repairer = world.repairer(account)
        passing = await stock_of(world, account)
        for (_, live), blobs_counted in passing.items():
            counted[live] = counted.get(live, 0) + blobs_counted
        assert repairer.last is None
    # A put whose append has not come is counted only while it is whole.
    assert counted == {6: 6, 5: 1, 4: 1, 3: 1}


@pytest.mark.parametrize("failures", [1, 99], ids=["now-and-then", "for-good"])
async def test_a_disk_that_fails_takes_no_intact_shard_away(
    world: Repairing, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    me = node(world)
    ((blob, index),) = await blobs_at(world, me, 1)
    shards, name = world.cluster.stores[me].shards, DamagedName(blob.base, index, "ec-4-2")
    left, opened, set_aside = failures, shards.open, list[int]()

    def failing(base: BlobBase, *rest: Any) -> Any:
        nonlocal left
        if base == blob.base and not set_aside and left:
            left -= 1
            raise Unavailable("EIO while reading", reason="disk-error")
        return opened(base, *rest)

    def quarantine(*shard: Any) -> None:
        set_aside.append(shard[1])
        shards.remove(*shard)

    monkeypatch.setattr(shards, "open", failing)
    monkeypatch.setattr(shards, "quarantine", quarantine)
    world.queue(me).found(blob.base, index, "ec-4-2", "disk-error")
    repairer = world.repairer(me)
    for attempt in range(1, UNREADABLE_TRIES + 2):
        await world.run(repairer)
        entry = world.queue(me).get(name)
        if attempt <= min(failures, UNREADABLE_TRIES):
            assert entry is not None
            assert (entry.attempts, entry.error, set_aside) == (attempt, "disk-error", [])
        world.clock_ms += BACKOFF_MS_MAX
    assert world.queue(me).get(name) is None
    assert set_aside == ([index] if failures > 1 else [])
    assert has_shard(world.cluster.stores[me], blob.base, index)


async def test_a_put_that_was_never_committed_is_owed_nothing(world: Repairing) -> None:
    """It is looked at again now and then, and keeps no pass from being whole."""
    pending = BlobId.of(world.runtime.random(16))
    session = world.cluster.session(world.cluster.plan(pending))
    await session.write(bytes(10))
    await session.finish(10, b"", b"", world.cluster.call("put", pending))
    me = node(world)
    (index,) = [s.index for s in world.cluster.seats(pending.base) if s.node.account == me]
    world.lose(pending, index)
    repairer, queue = world.repairer(me), world.queue(me)
    await world.whole_round(repairer)
    name = DamagedName(pending.base, index, "ec-4-2")
    assert queue.is_pending(name)
    assert (queue.backlog(), queue.owed(), queue.oldest_ms()) == ({}, 0, 0)
    assert repairer.last is not None
    assert repairer.last.is_whole
    world.cluster.commit(pending)
    world.clock_ms += BACKOFF_MS_FIRST
    await world.run(repairer)
    assert has_shard(world.cluster.stores[me], pending.base, index)
    assert not len(queue)


async def pass_of(world: Repairing, account: AccountId) -> Stock:
    repairer = world.repairer(account)
    repairer.now()
    while repairer.last is None:
        await repairer._take_stock(world.cluster.map)
    return repairer.last


async def stock_of(world: Repairing, account: AccountId) -> dict[tuple[str, int], int]:
    return (await pass_of(world, account)).by_live


async def test_a_blob_of_which_nothing_is_left_is_found_lost_by_one_node(world: Repairing) -> None:
    """No list has it, but its record names it; what the ledger does not hold is not missed."""
    blob, other = await world.cluster.put(bytes(1000)), await world.cluster.put(bytes(1000))
    pending = BlobId.of(world.runtime.random(16))
    session = world.cluster.session(world.cluster.plan(pending))
    await session.write(bytes(10))
    await session.finish(10, b"", b"", world.cluster.call("put", pending))
    for gone in (blob, pending):
        world.lose(gone, *range(6))
    world.lose(other, *range(5))
    found = [await pass_of(world, account) for account in sorted(world.cluster.holders)]
    assert [stock.gone for stock in found if stock.gone] == [[blob.base]]
    assert sum(stock.lost for stock in found) == 2
    assert [stock.by_live[key] for stock in found for key in stock.by_live if key[1] == 0] == [1]
    assert not any(stock.is_whole for stock in found if stock.gone)


async def test_what_nobody_who_was_heard_has_is_not_lost_yet(world: Repairing) -> None:
    blob = await world.cluster.put(bytes(1000))
    world.lose(blob, *range(6))
    away = world.seat(blob, 2).node.account
    world.giving[away].fails = AWAY
    asked = [account for account in sorted(world.cluster.holders) if account != away]
    found = [await pass_of(world, account) for account in asked]
    assert not any(stock.gone for stock in found)
    assert sum(stock.unreachable for stock in found) == 1
    assert sum(stock.lost for stock in found) == 0


def by_margin(world: Repairing) -> dict[str, float]:
    """What is said of blobs in danger."""
    metrics = world.cluster.metrics
    return {each: metrics.value("blobs_by_margin", margin=each) for each in ("below-k", "0", "1")}


async def counted_at(world: Repairing, account: AccountId) -> BlobId:
    """A blob that a node counts: it has the first shard."""
    while True:
        ((blob, index),) = await blobs_at(world, account, 1)
        if index == 0:
            return blob


WHOLE = {"below-k": 0, "0": 0, "1": 0}
STALE = Unavailable("the lease has run out", reason="stale-lease")


async def looked(world: Repairing, account: AccountId, count: int = 1) -> Repairer:
    """A repairer after some passes that nobody asked for."""
    repairer = world.repairer(account)
    for _ in range(count):
        await next_pass(world, repairer)
    return repairer


async def next_pass(world: Repairing, repairer: Repairer) -> None:
    before = repairer.last
    assert isinstance(world.runtime, ClockRuntime)
    world.runtime.now += ROUND_SECONDS
    while repairer.last is before:
        assert repairer.stock is not None or not world.stale
        await repairer.work()


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "pending"])
async def test_a_put_that_ends_while_stock_is_taken_is_not_short(
    world: Repairing, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The holders have listed what they have, then the put comes to its end everywhere."""
    me, cluster = node(world), world.cluster
    bits = cluster.map.table("ec-4-2").bits
    listed, late = Surveyor.surveys, list[BlobId]()

    async def slow(self: Surveyor, current: ClusterMap, sources: Any, fenced: Any) -> Any:
        found = await listed(self, current, sources, fenced)
        partitions = {name.partition for name in sources}
        while len(late) < 3:
            blob = BlobId.of(world.runtime.random(16))
            at_0 = next(seat for seat in cluster.seats(blob.base) if seat.index == 0)
            if partition_of(bytes(blob.base), bits) in partitions and at_0.node.account == me:
                late.append(blob)
                session = cluster.session(cluster.plan(blob))
                await session.write(bytes(10))
                await session.finish(10, b"", b"", cluster.call("put", blob))
                if committed:
                    cluster.commit(blob)
        return found

    monkeypatch.setattr(Surveyor, "surveys", slow)
    repairer = await looked(world, me)
    assert len(late) == 3
    assert by_margin(world) == WHOLE
    stock = repairer.last
    assert stock is not None
    assert (stock.degraded, stock.lost, stock.unreachable) == (0, 0, 0)
    assert stock.full == (3 if committed else 0)


async def test_a_blob_that_is_asked_about_again_and_is_short_counts(world: Repairing) -> None:
    """Its holders do not say that they have their shards."""
    me = node(world)
    blob = await counted_at(world, me)
    world.lose(blob, 1, 2)
    await looked(world, me)
    assert by_margin(world) == {**WHOLE, "0": 1}


@pytest.mark.parametrize("reason", ["stale-lease", "restoring", "no-map", "stream-reset"])
@pytest.mark.parametrize("refusing", [1, 3, 6])
async def test_who_refuses_to_say_what_it_has_has_lost_nothing(
    world: Repairing, reason: str, refusing: int
) -> None:
    me = node(world)
    accounts = sorted(world.giving)[1 : 1 + refusing]
    while True:
        blob = await counted_at(world, me)
        if accounts[0] in {seat.node.account for seat in world.cluster.seats(blob.base)}:
            break
    for account in accounts:
        world.giving[account].fails = Unavailable("not now", reason=reason)
    repairer = await looked(world, me)
    assert by_margin(world) == WHOLE
    stock = repairer.last
    assert stock is not None
    assert stock.waiting
    assert not stock.is_whole
    assert world.cluster.metrics.value("blobs_short") == 0


async def test_what_was_in_danger_stays_so_while_nobody_says_that_it_is_not(
    world: Repairing,
) -> None:
    me = node(world)
    blob = await counted_at(world, me)
    world.lose(blob, 1, 2)
    repairer = await looked(world, me)
    assert by_margin(world) == {**WHOLE, "0": 1}
    for account in sorted(world.giving)[1:]:
        world.giving[account].fails = STALE
    for _ in range(2):
        await next_pass(world, repairer)
        assert by_margin(world) == {**WHOLE, "0": 1}
    for account in sorted(world.giving)[1:]:
        world.giving[account].fails = None
    for lost in (1, 2):
        give_back(world, blob, lost)
    await next_pass(world, repairer)
    assert by_margin(world) == WHOLE


async def test_a_refusal_hides_no_loss_that_others_tell_of(world: Repairing) -> None:
    """Of three shards two are known to be gone: at best one more is alive than was said."""
    me = node(world)
    blob = await counted_at(world, me)
    world.lose(blob, 1, 2)
    world.giving[world.seat(blob, 3).node.account].fails = STALE
    await looked(world, me)
    assert by_margin(world)["0"] == 1


async def test_who_is_away_is_missed(world: Repairing) -> None:
    me = node(world)
    blob = await counted_at(world, me)
    for index in (1, 2, 3):
        world.giving[world.seat(blob, index).node.account].fails = AWAY
    await looked(world, me)
    assert by_margin(world)["below-k"] >= 1


async def test_no_stock_is_taken_without_a_lease_unless_an_operator_asks(world: Repairing) -> None:
    me = node(world)
    await blobs_at(world, me, 4)
    repairer = await looked(world, me)
    first = repairer.last
    assert isinstance(world.runtime, ClockRuntime)
    world.stale = True
    for account in sorted(world.giving)[1:]:
        world.giving[account].fails = AWAY
    world.runtime.now += ROUND_SECONDS
    await world.run(repairer)
    assert repairer.last is first
    assert by_margin(world) == WHOLE
    repairer.now()
    await world.run(repairer)
    assert repairer.last is not first


async def test_what_is_broken_is_repaired_without_a_lease(world: Repairing) -> None:
    """What a scrub has found waits for no pass."""
    me = node(world)
    ((blob, index),) = await blobs_at(world, me, 1)
    world.lose(blob, index)
    world.queue(me).found(blob.base, index, "ec-4-2", "damaged-piece")
    world.stale = True
    assert isinstance(world.runtime, ClockRuntime)
    world.runtime.now += ROUND_SECONDS
    await world.run(world.repairer(me))
    assert has_shard(world.cluster.stores[me], blob.base, index)


async def test_endangered_blobs_are_looked_at_again_soon(world: Repairing) -> None:
    """However long the rests have become: what wakes somebody must not be old."""
    me = node(world)
    blob = await counted_at(world, me)
    world.lose(blob, 1)
    repairer = await looked(world, me, 8)
    world.lose(blob, 2)
    await next_pass(world, repairer)
    assert by_margin(world)["0"] == 1
    before = repairer.last
    assert isinstance(world.runtime, ClockRuntime)
    world.runtime.now += REST_ENDANGERED_SECONDS
    while repairer.stock is None and repairer.last is before:
        assert await repairer.work() is Progress.BUSY, "no pass begins"


async def test_a_pass_begins_by_itself_after_the_rest(world: Repairing) -> None:
    me = node(world)
    ((blob, index),) = await blobs_at(world, me, 1)
    repairer = world.repairer(me)
    await world.whole_round(repairer)
    first = repairer.last
    world.lose(blob, index)
    await world.run(repairer)
    assert repairer.last is first
    assert isinstance(world.runtime, ClockRuntime)
    world.runtime.now += ROUND_SECONDS
    await world.run(repairer)
    assert repairer.last is not first
    assert has_shard(world.cluster.stores[me], blob.base, index)


async def test_all_nodes_together_converge_to_full_n(world: Repairing) -> None:
    seed = world.runtime.random(4)
    blobs = [await world.cluster.put(world.runtime.random(5000)) for _ in range(12)]
    for at, blob in enumerate(blobs):
        world.lose(blob, at % 6)
        if at % 3 == 0:
            world.flip(blob, (at + 1) % 6)
            seat = world.seat(blob, (at + 1) % 6)
            world.queue(seat.node.account).found(blob.base, seat.index, "ec-4-2", "damaged-piece")
    for account in sorted(world.cluster.holders):
        await world.whole_round(world.repairer(account))
    for blob in blobs:
        for seat in world.cluster.seats(blob.base):
            stores = world.cluster.stores[seat.node.account]
            auditor = Auditor(world.runtime, stores, world.cluster.ledger, free)
            found = await auditor.look(blob.base, seat.index, "ec-4-2")
            assert found.state is ShardState.WHOLE, (seed, found)
            assert (await auditor.facts(blob.base, "ec-4-2")).problem == ""


async def test_what_waits_for_its_append_is_brought_when_the_block_comes(world: Repairing) -> None:
    cluster, blob = world.cluster, BlobId.of(world.runtime.random(16))
    plan = cluster.plan(blob)
    session = cluster.session(plan)
    await session.write(bytes(5000))
    done = await session.finish(5000, b"", b"", cluster.call("put", blob))
    world.lose(blob, 2)
    me = world.seat(blob, 2).node.account
    queue, repairer = world.queue(me), world.repairer(me)
    queue.found(blob.base, 2, "ec-4-2", "missing")
    await world.run(repairer)
    assert queue.is_pending(DamagedName(blob.base, 2, "ec-4-2"))
    cluster.ledger.height += 1
    tried = len(world.brought)
    await world.run(repairer)
    assert len(world.brought) == tried, "a block that is about something else"
    cluster.ledger.commit(Opening(plan.salt, plan.record, blob, done.core.digest(), b""))
    cluster.ledger.height += 1
    await world.run(repairer)
    assert has_shard(cluster.stores[me], blob.base, 2)
    assert not len(queue)
