"""Seven running nodes, of which one goes and comes back: puts have n shards all the time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import BlobBase, BlobId
from hcefs.node.storage_process import StorageProcess
from hcefs.placement import changes
from hcefs.placement.ring import seats
from hcefs.store.interface import Table
from hcefs.stripes.exports import has_shard
from hcefs.stripes.placed import shard_key
from tests.moves.moving import MovingRig
from tests.services.rig import Running

pytestmark = [pytest.mark.asyncio, pytest.mark.xdist_group("moves")]

N = 6
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "large": (5_000_000, {}),
    "direct": (2_000_000, {"mode": "direct"}),
    "whole": (30_000, {"seal": "node"}),
    "packed": (40_000, {}),
    "tiny": (300, {}),
}


async def seven(rig: MovingRig) -> None:
    await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
    await rig.carried_out()
    rig.nodes.append(rig.stranger)
    rig.hospital._maps.forget("")  # a client in direct mode stores by the map that it has


def running(rig: MovingRig) -> list[Running]:
    return [node for node in rig.nodes if node not in rig.gone]


def indexes(rig: MovingRig, base: BlobBase) -> Counter[int]:
    """How many nodes that run have each index of a base, with its rows."""
    found: Counter[int] = Counter()
    for node in running(rig):
        for each, index in node.process.stores.shards.inventory():
            if each == base and has_shard(node.process.stores, base, index):
                found[index] += 1
    return found


def at_home(rig: MovingRig, base: BlobBase) -> bool:
    current, profile = rig.current(), rig.profile_of(base)
    return all(
        has_shard(rig.stores_of(seat.node), base, seat.index, profile)
        for seat in seats(current, profile, bytes(base))
    )


async def put_all(rig: MovingRig) -> dict[str, tuple[BlobId, bytes]]:
    done = {}
    for kind, (size, options) in KINDS.items():
        data = rig.runtime.random(size)
        receipt = await rig.hospital.put(rig.record, data, grant=rig.append_grant.grant, **options)
        assert not receipt.degraded, f"{kind}: {receipt.durable_shards} shards are durable"
        assert receipt.durable_shards == receipt.total_shards
        done[kind] = receipt.ref.blob, data
    rig.blobs += done.values()
    return done


def holders_decide(rig: MovingRig) -> None:
    """Whatever the gateway says: a seat stands in for nobody, and who stands in has no seat."""
    base = rig.receipt.ref.blob.base
    held = seats(rig.current(), "ec-4-2", base)
    for node in running(rig):
        desk = node.process.node.desk
        own = [seat.index for seat in held if seat.node.account == node.account]
        for index in range(N):
            for stand_in in (True, False):
                if not own if stand_in else index in own:
                    desk.require_holder("ec-4-2", base, index, stand_in)
                else:
                    with pytest.raises(HcefsError) as caught:
                        desk.require_holder("ec-4-2", base, index, stand_in)
                    assert caught.value.reason == "not-a-seat"


async def test_puts_while_a_node_is_away_have_n_shards_that_come_home(rig: MovingRig) -> None:
    await seven(rig)
    holders_decide(rig)
    lost = rig.nodes[2]
    await rig.lose(lost)
    done = await put_all(rig)
    # Enough of them that some have a seat on every node.
    await rig.fill(12, 20_000)
    bases = sorted({blob.base for blob, _ in rig.blobs})
    totals = {base: (3 if rig.profile_of(base) == "copy-3" else N) for base in bases}
    for base in bases:
        assert indexes(rig, base) == dict.fromkeys(range(totals[base]), 1)
    kept = sum(node.process.metrics.value("stand_in_shards_total") for node in running(rig))
    missed = [
        base
        for base in bases
        for seat in seats(rig.current(), rig.profile_of(base), bytes(base))
        if seat.node.account == lost.account
    ]
    assert kept == len(missed) > 0
    await rig.read_all()
    listing = await rig.doctor.list(rig.record, grant=rig.read_grant.grant)
    assert {entry.blob for entry in listing} >= {blob for blob, _ in done.values()}

    rig.gone.remove(lost)
    await rig._restart(lost, lost.config, True)

    def n_shards() -> bool:
        """At no moment are there fewer than n."""
        for base in bases:
            assert len(indexes(rig, base)) == totals[base]
        return all(at_home(rig, base) for base in bases) and not rig.superfluous()

    await rig.happens(n_shards)
    assert rig.missing() == []
    await rig.happens(lambda: brought_home(rig) == kept)
    await rig.happens(lambda: not any(waiting(node) for node in rig.nodes))
    await rig.read_all()


def brought_home(rig: MovingRig) -> float:
    metrics = (node.process.metrics for node in rig.nodes)
    return sum(each.value("brought_home_total", kind="shard") for each in metrics)


def waiting(node: Running) -> float:
    return node.process.metrics.value("stand_ins_waiting")


@pytest.mark.long
async def test_a_repeated_append_is_one_entry_whatever_was_put_again(rig: MovingRig) -> None:
    """A put that is tried again draws a new blob id; only what is appended is an entry, once."""
    await seven(rig)
    await rig.lose(rig.nodes[1])
    data = rig.runtime.random(200_000)
    before = len(await rig.doctor.list(rig.record, grant=rig.read_grant.grant))
    hospital = rig.hospital
    sent = []
    plain = hospital._submit

    async def twice(signed, *arguments):  # type: ignore[no-untyped-def]
        first = await plain(signed, *arguments)
        again = await plain(signed, *arguments)
        assert first.leaves == again.leaves, "the put key makes it one entry"
        sent.append(signed)
        return again

    attempts: list[BlobId] = []
    send = hospital._send

    async def fails_once(order, attempt, scope, source, target):  # type: ignore[no-untyped-def]
        attempts.append(attempt.blob)
        stored = await send(order, attempt, scope, source, target)
        if len(attempts) == 1:
            raise lost_answer()
        return stored

    hospital._submit, hospital._send = twice, fails_once  # type: ignore[method-assign]
    try:
        receipt = await hospital.put(rig.record, data, grant=rig.append_grant.grant, seal="node")
    finally:
        del hospital._submit, hospital._send
    assert len(set(attempts)) == 2
    assert receipt.ref.blob == attempts[1]
    listing = await rig.doctor.list(rig.record, grant=rig.read_grant.grant)
    assert len(listing) == before + 1
    assert sent


def lost_answer() -> HcefsError:
    return Unavailable("the answer was lost", reason="unreachable")


@pytest.mark.long
async def test_a_node_that_was_given_up_hands_over_what_its_successor_lacks(
    rig: MovingRig,
) -> None:
    await seven(rig)
    await rig.fill(2, 300_000)
    blob, _ = rig.blobs[0]
    profile = rig.profile_of(blob.base)
    # Of the zone with three nodes: the other ones cannot do with one less.
    held = seats(rig.current(), profile, blob.base)
    seat = next(seat for seat in held if seat.node.zone == "zone-1")
    lost = next(node for node in rig.nodes if node.account == seat.node.account)
    await rig.lose(lost)
    await rig.apply(lambda m: changes.mark_out(m, [lost.number]))
    await rig.carried_out()
    after = next(s for s in seats(rig.current(), profile, blob.base) if s.index == seat.index)
    assert after.node.account != lost.account
    successor = next(node for node in rig.nodes if node.account == after.node.account)
    stores = successor.process.stores
    await rig.happens(lambda: has_shard(stores, blob.base, seat.index, profile))
    stores.rows.delete([(Table.PLACED, shard_key(blob.base, seat.index))])
    stores.shards.remove(blob.base, seat.index)
    # Nobody else looks for it here: its round is an hour.
    rig.gone.remove(lost)
    lost.process = StorageProcess(lost.config, lost.runtime, rig.snapshots)
    await lost.process.start()
    await rig.happens(lambda: has_shard(stores, blob.base, seat.index, profile))
    await rig.happens(lambda: not has_shard(lost.process.stores, blob.base, seat.index, profile))
    await rig.read_all()
