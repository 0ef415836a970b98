"""Clients notice nothing of a move; and a plan ends whatever is restarted meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from hcefs.ids import BlobId
from hcefs.node.ledger_process import LedgerProcess
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import partition_of, seats
from hcefs.placement.waves import is_planned
from hcefs.stripes.exports import has_shard
from tests.moves.load import Load
from tests.moves.moving import MovingRig
from tests.services.rig import Running

pytestmark = [pytest.mark.asyncio, pytest.mark.xdist_group("moves")]


def moved_seats(before: ClusterMap, after: ClusterMap) -> int:
    """Seats of which the node is another one."""
    return sum(
        was != now
        for old, new in zip(before.tables, after.tables, strict=True)
        for row, other in zip(old.node_rows, new.node_rows, strict=True)
        for was, now in zip(row, other, strict=True)
    )


async def test_nothing_fails_while_a_node_is_added_and_another_drained(rig: MovingRig) -> None:
    await rig.fill(4, 300_000)
    await rig.fill(4, 2_000)
    load = Load(rig, 20_261_125)
    first = rig.current()
    async with load.running():
        added = await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
        await rig.carried_out()
        second = rig.current()
        drained = await rig.apply(lambda m: changes.drain(m, 1))
        await rig.carried_out()
        third = rig.current()
    assert load.failures == []
    assert min(load.done[name] for name in ("put gateway", "get gateway", "get direct")) > 2
    assert load.done["put direct"] > 0
    assert moved_seats(first, second) == added.moves
    assert moved_seats(second, third) == drained.moves
    assert rig.missing() == []
    await rig.tidied()
    assert rig.missing() == []
    await rig.read_all()
    assert not list(rig.nodes[0].process.stores.shards.inventory())


# -- restarts


async def restart(rig: MovingRig, nodes: Sequence[Running]) -> None:
    for node in nodes:
        await rig._restart(node, node.config, True)


@pytest.mark.parametrize("what", ["destination", "sources", "ledger"])
async def test_a_plan_ends_whatever_is_restarted(rig: MovingRig, what: str) -> None:
    await rig.fill(12, 200_000)
    await rig.fill(10, 1_000)
    with rig.some_wait():
        made = await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
        before = rig.current()
        await rig.until(lambda: len(rig.current_arrivals()) > 0)
        assert is_planned(rig.current())
        if what == "destination":
            await restart(rig, [rig.stranger])
        elif what == "sources":
            await restart(rig, rig.nodes[:2])
        else:
            await rig.ledger.stop()
            rig.ledger = LedgerProcess(rig.ledger._config, rig.runtime, snapshots=rig.snapshots)
            await rig.ledger.start()
    await rig.carried_out()
    assert rig.missing() == []
    await rig.read_all()
    assert made.moves >= moved_seats(before, rig.current())
    await rig.tidied()
    assert rig.missing() == []


async def test_a_degraded_put_is_made_whole_by_a_later_move(rig: MovingRig) -> None:
    """A node is away while something is put; then the row of that blob gets another node."""
    away = rig.nodes[3]
    await away.process.stop()
    others = [n for n in rig.nodes if n is not away]
    lacking: list[BlobId] = []
    data = rig.runtime.random(100_000)
    receipts = await asyncio.gather(
        *(
            rig.hospital.put(
                rig.record, data, grant=rig.append_grant.grant, node=other.config.client_address
            )
            for other in others
        )
    )
    for receipt in receipts:
        rig.blobs.append((receipt.ref.blob, data))
        lacking.append(receipt.ref.blob)
        assert receipt.degraded
    await rig._restart(away, away.config, True)
    current = rig.current()
    for blob in lacking:
        seat = next(s for s in seats(current, "ec-4-2", blob.base) if s.node.node_id == 4)
        assert not has_shard(away.process.stores, blob.base, seat.index)
    await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
    await rig.carried_out()
    await rig.apply(lambda m: changes.drain(m, 4))
    await rig.carried_out()
    after = rig.current()
    for blob in lacking:
        assert partition_of(blob.base, after.table("ec-4-2").bits) >= 0
        for seat in seats(after, "ec-4-2", blob.base):
            assert has_shard(rig.stores_of(seat.node), blob.base, seat.index)
    assert rig.missing() == []
    await rig.read_all()
