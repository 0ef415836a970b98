"""Seats move between running nodes, and nothing is missed, lost or left behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.node.storage_process import StorageProcess
from hcefs.placement import changes
from hcefs.placement.split import split
from hcefs.placement.waves import is_planned
from tests.moves.moving import DONE_SECONDS, MovingRig

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


async def test_partitions_are_split_and_then_move_apart(rig: MovingRig) -> None:
    """A split moves nothing; what is put before and after it is found by later plans."""
    await rig.fill(6, 200_000)
    current = rig.current()
    placed = {node.number: sorted(node.process.stores.shards.inventory()) for node in rig.all}
    await rig.set_map(split(current, current.default_profile))
    await rig.carried_out()
    assert rig.current().table("ec-4-2").bits == current.table("ec-4-2").bits + 1
    assert placed == {
        node.number: sorted(node.process.stores.shards.inventory()) for node in rig.all
    }
    await rig.fill(6, 200_000)
    await rig.fill(4, 2_000)
    assert rig.missing() == []
    await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
    await rig.carried_out()
    assert rig.missing() == []
    await rig.read_all()


async def test_a_plan_is_replaced_while_it_is_carried_out(rig: MovingRig) -> None:
    """Another plan in mid-flight, then the loss of its destination: nothing is missed."""
    await rig.fill(8, 200_000)
    await rig.fill(6, 2_000)
    with rig.some_wait():
        await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
        await rig.apply(lambda m: changes.reweight(m, 2, 200))
        assert is_planned(rig.current())
        await rig.lose(rig.stranger)
    await rig.apply(lambda m: changes.mark_out(m, [7]))
    await rig.carried_out()
    assert rig.missing() == []
    await rig.read_all()


class RoundsRig(MovingRig):
    """Nodes that go round their rows all the time."""

    upkeep = replace(MovingRig.upkeep, round_s=0.2)


async def test_what_a_node_missed_is_fetched_when_it_is_back(tmp_path: Path) -> None:
    rig = RoundsRig(tmp_path)
    await rig.start()
    try:
        away = rig.nodes[3]
        await away.process.stop()
        await rig.fill(4, 200_000)
        await rig.fill(4, 2_000)
        await rig.fill(1, 3_000_000)
        away.process = StorageProcess(away.config, away.runtime, rig.snapshots)
        await away.process.start()
        assert rig.missing() != []
        async with asyncio.timeout(DONE_SECONDS):
            while rig.missing():
                await rig.runtime.sleep(0.1)
        await rig.read_all()
    finally:
        await rig.stop()
