"""Seven running nodes, of which one goes and comes back: puts have n shards all the time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import BlobBase, BlobId
from hcefs.placement import changes
from hcefs.placement.ring import partition_of, seats
from hcefs.stripes.exports import has_shard
from hcefs.wire.v1 import upkeep_pb2
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


async def test_puts_while_a_node_is_away_have_n_shards_that_come_home(rig: MovingRig) -> None:
    await seven(rig)
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


# -- who may offer, and store


async def test_any_active_node_may_offer_and_what_is_not_of_the_row_is_refused(
    rig: MovingRig,
) -> None:
    blob = rig.receipt.ref.blob
    current = rig.current()
    seat = seats(current, "ec-4-2", blob.base)[0]
    partition = partition_of(blob.base, current.table("ec-4-2").bits)
    where = upkeep_pb2.Place(epoch=current.epoch, profile="ec-4-2", partition=partition)
    holder = rig.nodes[seat.node.node_id - 1]
    other = next(node for node in rig.nodes if node is not holder)
    shard = upkeep_pb2.ListedShard(base=bytes(blob.base), index=seat.index)

    async def offer(asking: Running, request: upkeep_pb2.OfferRequest) -> bytes:
        data = await rig.unary(
            holder.config.peer_address, "/hcefs.v1.Upkeep/Offer", request, asking.identity
        )
        return upkeep_pb2.OfferResponse.FromString(data).held

    assert await offer(other, upkeep_pb2.OfferRequest(place=where, shards=[shard])) == b"\x01"
    wrong = upkeep_pb2.Place(epoch=current.epoch, profile="ec-4-2", partition=partition ^ 1)
    for request, kind, reason in (
        (upkeep_pb2.OfferRequest(place=wrong, shards=[shard]), "denied", "wrong-partition"),
        (upkeep_pb2.OfferRequest(place=where, shards=[shard] * 1001), "invalid", "too-large"),
        (
            upkeep_pb2.OfferRequest(place=where, records=[bytes(blob.base)] * 1001),
            "invalid",
            "too-large",
        ),
    ):
        await rig.refused(offer(other, request), kind, reason)
    stranger = offer(rig.stranger, upkeep_pb2.OfferRequest(place=where, shards=[shard]))
    await rig.refused(stranger, "unauthenticated", "unknown-node")


async def test_a_holder_takes_it_only_where_its_own_map_makes_it_one(rig: MovingRig) -> None:
    """Whatever the gateway says: a seat stands in for nobody, and who stands in has no seat."""
    await seven(rig)
    base = rig.receipt.ref.blob.base
    held = seats(rig.current(), "ec-4-2", base)
    for node in rig.nodes:
        desk = node.process.node._desk
        own = [seat.index for seat in held if seat.node.account == node.account]
        for index in range(N):
            for stand_in in (True, False):
                if not own if stand_in else index in own:
                    desk.require_holder("ec-4-2", base, index, stand_in)
                else:
                    with pytest.raises(HcefsError) as caught:
                        desk.require_holder("ec-4-2", base, index, stand_in)
                    assert caught.value.reason == "not-a-seat"
