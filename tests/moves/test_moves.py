"""Seats move between running nodes, and nothing is missed, lost or left behind."""

from __future__ import annotations

import pytest

from hcefs.placement import changes
from tests.moves.moving import MovingRig

pytestmark = [pytest.mark.asyncio, pytest.mark.xdist_group("moves")]


async def test_a_node_is_added(rig: MovingRig) -> None:
    """Blobs, packs, listings and boxes come to the new node; the old ones keep nothing of it."""
    await rig.fill(6, 300_000)
    await rig.fill(12, 2_000)
    await rig.fill(1, 5_000_000)
    made = await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
    assert made.moves
    await rig.carried_out()
    assert rig.missing() == []
    await rig.read_all()
    await rig.tidied()
    assert rig.missing() == []
    assert len(rig.record_rows(rig.record)) == 1
    await rig.read_all()


async def test_a_node_is_lost_for_good(rig: MovingRig) -> None:
    """Its seats are rebuilt from the others, whether or not it comes back."""
    await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
    await rig.carried_out()
    await rig.fill(6, 300_000)
    await rig.fill(8, 2_000)
    await rig.fill(1, 5_000_000)
    lost = rig.nodes[3]
    await rig.lose(lost)
    await rig.apply(lambda m: changes.mark_out(m, [4]))
    await rig.carried_out()
    assert rig.missing() == []
    await rig.read_all()


async def test_a_node_is_drained_then_removed(rig: MovingRig) -> None:
    await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
    await rig.carried_out()
    await rig.fill(8, 200_000)
    await rig.apply(lambda m: changes.drain(m, 1))
    await rig.carried_out()
    assert rig.missing() == []
    await rig.tidied()
    assert not list(rig.nodes[0].process.stores.shards.inventory())
    await rig.apply(lambda m: changes.remove(m, 1))
    await rig.read_all()
    assert rig.missing() == []
