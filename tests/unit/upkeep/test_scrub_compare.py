"""Holders compare what they keep of a base; only rows that prove themselves replace others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest_asyncio

from hcefs.errors import Unavailable
from hcefs.formats.manifest import Layout
from hcefs.ids import AccountId, BlobBase
from hcefs.store.interface import Table
from hcefs.stripes.placed import shard_key, shard_row
from hcefs.testing.local_cluster import LocalCluster
from hcefs.upkeep.set_aside import ShardFile
from tests.unit.upkeep.giving import ClockRuntime, Giving
from tests.unit.upkeep.scrubbing import ScrubbedNode, put_blob

OUTCOMES = ("entered", "queued", "newer-here", "undecided", "unproven")


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[ScrubbedNode]:
    runtime = ClockRuntime()
    cluster = LocalCluster(runtime)
    await put_blob(cluster, bytes(5000))
    made = ScrubbedNode(cluster, runtime, tmp_path / "data")
    yield made
    made.close()
    runtime.close()


def layout_of(node: ScrubbedNode) -> Layout:
    data = node.stores.rows.get(Table.LAYOUTS, bytes(node.shard().base))
    assert data is not None
    return Layout.decode(data)


def signed(node: ScrubbedNode, layout: Layout) -> Layout:
    return layout.signed(node.cluster.keys[0].signing_key)


def others_have(node: ScrubbedNode, layout: Layout) -> None:
    for account, stores in node.cluster.stores.items():
        if account != node.account and stores.rows.get(Table.LAYOUTS, bytes(layout.base)):
            stores.rows.put([(Table.LAYOUTS, bytes(layout.base), layout.encode())])


def outcomes(node: ScrubbedNode) -> dict[str, float]:
    found = {
        each: node.metrics.value("scrub_disagreements_total", outcome=each) for each in OUTCOMES
    }
    return {name: count for name, count in found.items() if count}


async def test_holders_that_agree_are_asked_once_each(node: ScrubbedNode) -> None:
    scrubber = await node.cycle()
    found = scrubber.comparer.found
    assert (found.bases, found.disagreements, found.superfluous) == (1, 0, 0)
    asked = [giving.calls for giving in node.giving.values()]
    assert asked == [["manifest-digests"]] * 5
    assert not scrubber.warnings()


async def test_a_later_layout_that_proves_itself_is_entered_or_brought(node: ScrubbedNode) -> None:
    later = signed(node, replace(layout_of(node), version=2))
    others_have(node, later)
    node.enters = True
    scrubber = await node.cycle()
    assert outcomes(node) == {"entered": 1}
    assert [each.layout for each in node.entered] == [later]
    assert scrubber.status().cursor.damaged == 1
    assert not node.queue.entries
    node.enters = False
    await node.cycle()
    shard = node.shard()
    assert node.queue.entries == [(shard.base, shard.index, "ec-4-2", "other-layout")]
    assert outcomes(node) == {"entered": 1, "queued": 1}


async def test_an_earlier_one_changes_nothing_here(node: ScrubbedNode) -> None:
    later = signed(node, replace(layout_of(node), version=2))
    node.stores.rows.put([(Table.LAYOUTS, bytes(later.base), later.encode())])
    # Its file is of the first form: only the comparison is looked at.
    comparer = node.comparer()
    assert await comparer.page(1, [node.shard()], _free) == 1
    assert outcomes(node) == {"newer-here": 1}
    assert not node.entered
    assert not node.queue.entries


async def test_of_one_version_nobody_decides_and_operators_are_told(node: ScrubbedNode) -> None:
    layout = layout_of(node)
    other = (*layout.shard_digests[:4], b"x" * 32, layout.shard_digests[5])
    others_have(node, signed(node, replace(layout, shard_digests=other)))
    scrubber = await node.cycle()
    assert outcomes(node) == {"undecided": 1}
    assert (scrubber.comparer.found.disagreements, scrubber.comparer.found.undecided) == (1, 1)
    assert "1 blobs have layouts that disagree" in scrubber.warnings()[0]
    assert layout_of(node) == layout
    assert not node.queue.entries


async def test_rows_that_prove_nothing_replace_nothing(node: ScrubbedNode) -> None:
    layout = layout_of(node)
    wrong = (b"x" * 32, *layout.shard_digests[1:])
    unfitting = signed(node, replace(layout, version=2, shard_digests=wrong))
    unsigned = replace(layout, version=3)
    node.enters = True
    for claimed in (unfitting, unsigned):
        others_have(node, claimed)
        await node.comparer().page(1, [node.shard()], _free)
    assert outcomes(node) == {"unproven": 2}
    assert not node.entered
    assert not node.queue.entries


async def test_who_does_not_answer_is_not_compared_and_stops_nothing(node: ScrubbedNode) -> None:
    away: AccountId = next(
        seat.node.account
        for seat in node.cluster.seats(node.shard().base)
        if seat.node.account != node.account
    )
    node.giving[away] = Giving(Unavailable("away", reason="unreachable"))
    others_have(node, signed(node, replace(layout_of(node), version=2)))
    spent: list[int] = []

    async def spend(size: int) -> None:
        spent.append(size)

    assert await node.comparer().page(1, [node.shard()], spend) == 1
    assert len(spent) > 5
    assert outcomes(node) == {"queued": 1}


async def test_what_no_seat_and_no_stand_in_explains_is_counted(node: ScrubbedNode) -> None:
    comparer, shard = node.comparer(), node.shard()
    index = (shard.index + 1) % 6
    extra = ShardFile(shard.base, index, "")
    node.stores.rows.put([shard_row(shard.base, index, "ec-4-2")])
    await comparer.page(1, [shard, extra], _free)
    assert comparer.found.superfluous == 1
    node.stores.rows.put([(Table.STAND_INS, shard_key(shard.base, index), b"")])
    await comparer.page(2, [shard, extra], _free)
    assert (comparer.found.cycle, comparer.found.superfluous) == (2, 0)
    never = ShardFile(BlobBase(b"never put, never"), 0, "")
    assert await comparer.page(2, [never], _free) == 0


async def _free(_: int) -> None:
    """Asking costs nothing."""
