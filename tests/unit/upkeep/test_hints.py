"""Hints: worth a look and nothing else, bounded, told once, and kept for who is away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hcefs.errors import Unavailable
from hcefs.ids import AccountId, BlobBase, BlobId
from hcefs.stripes.audit import Auditor
from hcefs.stripes.exports import has_shard
from hcefs.transport.upkeep import ShardName
from hcefs.upkeep import hints, repair
from hcefs.upkeep.damage import BACKOFF_MS_FIRST, DamagedName
from hcefs.upkeep.hints import HINTS_BURST, KEPT_SECONDS, RETRY_SECONDS, HintListener, HintTeller
from hcefs.upkeep.worker import Progress
from tests.unit.upkeep.giving import ClockRuntime
from tests.unit.upkeep.repairing import Repairing

LIAR = AccountId(b"liar" * 4)
PROFILE = "ec-4-2"


@pytest.fixture
def world() -> Iterator[Repairing]:
    runtime = ClockRuntime()
    yield Repairing(runtime)
    runtime.close()


async def free(_: int) -> None:
    """Reading costs nothing."""


def listener(world: Repairing, account: AccountId) -> HintListener:
    cluster = world.cluster
    stores = cluster.stores[account]
    return HintListener(
        world.runtime,
        lambda: cluster.map,
        world.filler(account),
        Auditor(world.runtime, stores, cluster.ledger, free),
        world.queue(account),
        cluster.metrics,
        account,
    )


async def listened(found: HintListener) -> None:
    while await found.work() is not Progress.IDLE:
        pass


async def test_a_true_hint_is_queued_and_nothing_is_set_aside_yet(world: Repairing) -> None:
    damaged, missing = await world.cluster.put(bytes(3000)), await world.cluster.put(bytes(3000))
    world.flip(damaged, 2)
    world.lose(missing, 3)
    for blob, index, reason in ((damaged, 2, "damaged-piece"), (missing, 3, "missing")):
        account = world.seat(blob, index).node.account
        found = listener(world, account)
        assert found.take(LIAR, PROFILE, [ShardName(blob.base, index)]) == 1
        await listened(found)
        (entry,) = [e for e in world.queue(account).entries() if e.name.base == blob.base]
        assert entry.shard.reason == reason
        await world.run(world.repairer(account))
        assert has_shard(world.cluster.stores[account], blob.base, index)


async def test_a_lying_hint_changes_nothing(world: Repairing) -> None:
    blob = await world.cluster.put(bytes(3000))
    account = world.seat(blob, 1).node.account
    found = listener(world, account)
    lies = [
        ShardName(blob.base, 1),
        ShardName(blob.base, 2),
        ShardName(BlobBase(b"never put, never"), 0),
        *(ShardName(BlobBase(b"never put, neve" + bytes([n])), n % 6) for n in range(60)),
    ]
    found.take(LIAR, PROFILE, lies)
    await listened(found)
    assert not len(world.queue(account))
    assert has_shard(world.cluster.stores[account], blob.base, 1)
    metrics = world.cluster.metrics
    assert metrics.value("repair_hints_total", outcome="true") == 0
    assert metrics.value("repair_hints_total", outcome="untrue") >= 1


async def test_hints_are_bounded_for_each_giver_and_in_all(
    world: Repairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "WAITING_MAX", HINTS_BURST + 40)
    account = sorted(world.cluster.holders)[0]
    found = listener(world, account)
    names = [ShardName(BlobBase(n.to_bytes(16, "big")), 0) for n in range(1000)]
    assert found.take(LIAR, PROFILE, names) == HINTS_BURST
    assert found.take(LIAR, PROFILE, names[HINTS_BURST:]) == 0
    assert found.take(account, PROFILE, names[:HINTS_BURST]) == 0, "they wait already"
    assert found.take(account, PROFILE, names[HINTS_BURST:]) == 40
    assert len(found) == HINTS_BURST + 40
    assert isinstance(world.runtime, ClockRuntime)
    world.runtime.now += 1
    found._waiting.clear()
    assert found.take(LIAR, PROFILE, names[500:]) == hints.HINTS_A_SECOND


def teller(world: Repairing, account: AccountId) -> HintTeller:
    return HintTeller(
        world.runtime,
        lambda: world.cluster.map,
        world,
        listener(world, account),
        world.cluster.metrics,
        account,
    )


async def test_a_holder_is_told_once_and_one_that_is_away_when_it_is_back(
    world: Repairing,
) -> None:
    blob = BlobId.of(world.runtime.random(16))
    me = sorted(world.cluster.holders)[0]
    telling = teller(world, me)
    assert isinstance(world.runtime, ClockRuntime)
    (node, index), (away, other) = [
        (s.node, s.index) for s in world.cluster.seats(blob.base) if s.node.account != me
    ][:2]
    world.giving[away.account].fails = Unavailable("away", reason="unreachable")
    for _ in range(50):
        telling.suspect(node, blob.base, index, PROFILE)
    telling.suspect(away, blob.base, other, PROFILE)
    await telling.work()
    assert world.giving[node.account].hints == [ShardName(blob.base, index)]
    telling.suspect(node, blob.base, index, PROFILE)
    world.giving[away.account].fails = None
    await telling.work()
    assert len(world.giving[node.account].hints) == 1
    assert not world.giving[away.account].hints
    world.runtime.now += RETRY_SECONDS
    await telling.work()
    assert world.giving[away.account].hints == [ShardName(blob.base, other)]


async def test_what_cannot_be_told_is_forgotten_in_the_end(world: Repairing) -> None:
    me = sorted(world.cluster.holders)[0]
    blob = BlobId.of(world.runtime.random(16))
    seat = next(s for s in world.cluster.seats(blob.base) if s.node.account != me)
    giving = world.giving[seat.node.account]
    giving.fails = Unavailable("away", reason="unreachable")
    telling = teller(world, me)
    telling.suspect(seat.node, blob.base, seat.index, PROFILE)
    await telling.work()
    assert isinstance(world.runtime, ClockRuntime)
    world.runtime.now += KEPT_SECONDS + 1
    giving.fails = None
    await telling.work()
    await telling.work()
    assert not giving.hints


async def test_this_nodes_own_shards_are_hinted_at_directly(world: Repairing) -> None:
    blob = await world.cluster.put(bytes(3000))
    seat = world.seat(blob, 4)
    world.lose(blob, 4)
    telling = teller(world, seat.node.account)
    telling.suspect(seat.node, blob.base, 4, PROFILE)
    await listened(telling._listener)
    assert len(world.queue(seat.node.account)) == 1


async def test_a_hint_brings_forward_what_was_put_off(world: Repairing) -> None:
    blob = await world.cluster.put(bytes(3000))
    account = world.seat(blob, 1).node.account
    queue, name = world.queue(account), DamagedName(blob.base, 1, PROFILE)
    queue.found(*name.parts, "missing")
    for _ in range(9):
        queue.failed(name, "too-few-shards")
    world.clock_ms += BACKOFF_MS_FIRST
    assert not queue.due(9)
    found = listener(world, account)
    assert found.take(LIAR, PROFILE, [ShardName(blob.base, 1)]) == 1
    assert [entry.name for entry in queue.due(9)] == [name]
    assert found.take(LIAR, PROFILE, [ShardName(blob.base, 1)]) == 0
    metrics = world.cluster.metrics
    assert metrics.value("repair_hints_total", outcome="forward") == 1
    assert metrics.value("repair_hints_total", outcome="known") == 1


async def test_a_true_hint_is_acted_on_while_a_pass_is_running(
    world: Repairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "ROWS_HURRIED", 1)
    me = sorted(world.cluster.holders)[0]
    mine: list[tuple[BlobId, int]] = []
    while len(mine) < 2:
        blob = await world.cluster.put(bytes(3000))
        mine += [(blob, s.index) for s in world.cluster.seats(blob.base) if s.node.account == me]
    repairer, found, queue = world.repairer(me), listener(world, me), world.queue(me)
    repairer.now()
    await repairer.work()
    for blob, index in mine:
        world.lose(blob, index)
    (hinted, at), (other, other_at) = mine
    queue.found(other.base, other_at, PROFILE, "missing")
    found.take(LIAR, PROFILE, [ShardName(hinted.base, at)])
    await listened(found)
    await repairer.work()
    assert repairer.stock is not None, "the pass goes on"
    stores = world.cluster.stores[me]
    assert has_shard(stores, hinted.base, at)
    assert not has_shard(stores, other.base, other_at), "it has margin, and nobody met it"
