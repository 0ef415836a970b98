"""A pack is acknowledged by what is durable: shards, and openings on the seats of records."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hcefs.errors import Conflict, Unavailable
from hcefs.formats.pack import PackLayout
from hcefs.ids import RecordId
from hcefs.store.interface import Table
from hcefs.stripes.pack_write import PackBody, Told, openings_of
from hcefs.testing.local_packs import LocalPacks

OTHER = RecordId(b"another-record!!")


async def test_all_holders_have_the_pack(packs: LocalPacks) -> None:
    pack = packs.seal([b"a" * 1000, b"b" * 2000])
    layout, stored = await packs.put(pack)
    assert (stored.durable, stored.total, stored.degraded) == ((0, 1, 2, 3, 4, 5), 6, False)
    layout.check(packs.cluster.keys[0].signing_key.public_key)
    for account, stores in packs.cluster.stores.items():
        assert stores.rows.get(Table.LAYOUTS, bytes(pack.base)) == layout.encode()
        assert PackLayout.decode(layout.encode()) == layout
        assert packs.faults[account].stored == ["store-pack"]


async def test_openings_go_to_seats_that_do_not_hold_the_pack(packs: LocalPacks) -> None:
    pack = packs.seal([b"a", b"b"], [packs.cluster.record, OTHER])
    _, stored = await packs.put(pack, "copy-3")
    assert stored.total == 3
    holders = {seat.node.account for seat in packs.cluster.seats(bytes(pack.base), "copy-3")}
    plan = packs.plan(pack, "copy-3")
    assert {node.account for node, _ in openings_of(plan, Told())} == set(packs.holders) - holders
    for account, stores in packs.cluster.stores.items():
        own = ["store-pack"] if account in holders else ["store-openings"]
        assert packs.faults[account].stored == own, "one call a node"
        assert len(stores.rows.scan(Table.INDEX)) == 2
    assert openings_of(packs.plan(pack), Told()) == {}


@pytest.mark.parametrize(("down", "durable"), [(0, 6), (1, 5)])
async def test_a_put_is_degraded_but_acknowledged(
    packs: LocalPacks, down: int, durable: int
) -> None:
    for keys in packs.cluster.keys[5 : 5 - down : -1]:
        packs.cluster.faults[keys.account].down = True
    _, stored = await packs.put(packs.seal([b"a"]))
    assert len(stored.durable) == durable
    assert stored.degraded == bool(down)
    assert packs.cluster.metrics.value("degraded_puts_total") == bool(down)


async def test_too_few_holders(packs: LocalPacks) -> None:
    for keys in packs.cluster.keys[4:]:
        packs.cluster.faults[keys.account].down = True
    with pytest.raises(Unavailable) as caught:
        await packs.put(packs.seal([b"a"]))
    assert caught.value.reason == "too-few-holders"
    assert "unreachable" in caught.value.message


async def test_too_few_seats_of_a_record(packs: LocalPacks) -> None:
    pack = packs.seal([b"a"])
    holders = {seat.node.account for seat in packs.cluster.seats(bytes(pack.base), "copy-3")}
    lost = [account for account in packs.holders if account not in holders][:2]
    for account in lost:
        packs.cluster.faults[account].down = True
    with pytest.raises(Unavailable) as caught:
        await packs.put(pack, "copy-3")
    assert caught.value.reason == "too-few-holders"


async def test_a_slow_holder_is_waited_for_until_the_deadline(packs: LocalPacks) -> None:
    slow = packs.faults[packs.cluster.keys[3].account]
    slow.waits_for = asyncio.Event()
    pack = packs.seal([b"a"])
    plan = packs.plan(pack)
    _, stored = await packs.writer(0.2).put(plan, packs.body(pack, plan.profile))
    assert len(stored.durable) == 5


async def test_a_refusal_is_the_answer(packs: LocalPacks) -> None:
    pack = packs.seal([b"a"])
    await packs.put(pack)
    with pytest.raises(Conflict):
        await packs.put(replace(pack))


async def test_a_body_is_exactly_as_long_as_said(packs: LocalPacks) -> None:
    plan = packs.plan(packs.seal([b"a"]))
    body = PackBody(plan.profile, 10)
    assert body.take(memoryview(b"12345"))
    assert not body.take(memoryview(b"123456"))
    assert body.take(memoryview(b"67890"))
    assert body.taken == 10
