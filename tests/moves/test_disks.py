"""What disks do to running nodes: flipped bytes, lost databases, no room; and how it ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hcefs.node.storage_process import StorageProcess
from hcefs.store.interface import KeyTable, Table
from hcefs.stripes.placed import placed_shard
from tests.moves.moving import DONE_SECONDS, MovingRig
from tests.services.rig import Running

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.xdist_group("moves"),
    pytest.mark.timeout(300),
]


async def stopped(rig: MovingRig, node: Running, damage: Callable[[Path], None]) -> StorageProcess:
    """A node is stopped, its disk is damaged, and it is started again."""
    await node.process.stop()
    damage(node.config.data)
    node.process = StorageProcess(node.config, node.runtime, rig.snapshots)
    await node.process.start()
    return node.process


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def shard_files(node: Running) -> list[Path]:
    return sorted((node.config.data / "shards").glob("[0-9a-f][0-9a-f]/*"))


def is_whole(rig: MovingRig) -> bool:
    return rig.missing() == []


async def test_a_flipped_byte_is_found_and_repaired(rig: MovingRig) -> None:
    await rig.fill(3, 300_000)
    node = rig.nodes[2]
    path = max(shard_files(node), key=lambda each: each.stat().st_size)
    intact = path.read_bytes()
    flip(path, len(intact) // 2)
    metrics = node.process.metrics
    async with asyncio.timeout(DONE_SECONDS):
        # A cycle that was under way is gone on with, and may have passed this shard before the
        # byte was flipped: on a busy machine the node's first one has.
        while not metrics.value("scrub_found_total", kind="damaged-piece"):
            answer = await rig.operators[0].scrub(node.config.client_address, now=True)
            assert answer.disk_state == "ok"
            await rig.runtime.sleep(0.1)
    assert metrics.value("scrub_found_total", kind="damaged-piece") == 1
    # What failed at first, on a busy machine, is not put off.
    await rig.operators[0].repair_now(node.config.client_address)
    await rig.happens(lambda: path.exists() and path.read_bytes() == intact)
    await rig.happens(lambda: is_whole(rig))
    answer = await rig.operators[0].scrub(node.config.client_address)
    assert [each.reason for each in answer.quarantined] == ["damaged-piece"]
    await rig.read_all()


def lose_manifest(name: str) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        for path in (data / name).glob("MANIFEST-*"):
            path.write_bytes(os.urandom(100))

    return damage


@pytest.mark.parametrize(
    "name",
    [
        "rows",
        pytest.param("keys", marks=pytest.mark.long),
        pytest.param("ledger", marks=pytest.mark.long),
    ],
)
async def test_a_lost_database_is_restored_and_no_shard_is_copied(
    rig: MovingRig, name: str
) -> None:
    await rig.fill(4, 300_000)
    await rig.fill(6, 2_000)
    node = rig.nodes[1]
    stores = node.process.stores
    keys_before = {
        table: dict(stores.keys.scan(table)) for table in (KeyTable.KEY_ROWS, KeyTable.BOXES)
    }
    before = {path: path.stat().st_ino for path in shard_files(node)}
    process = await stopped(rig, node, lose_manifest(name))
    assert (node.config.data / f"{name}.damaged-0").is_dir()
    mark = node.config.data / "RESTORING"
    assert mark.exists()
    await rig.happens(lambda: not mark.exists())
    await rig.until(process.able)
    await rig.happens(lambda: is_whole(rig))
    assert {path: path.stat().st_ino for path in shard_files(node)} == before
    assert process.metrics.value("rebalanced_bytes_total") == 0, "files here were to be adopted"
    assert process.metrics.value("repaired_bytes_total") == 0
    assert len(rig.record_rows(rig.record)) == 1
    after = {table: dict(process.stores.keys.scan(table)) for table in keys_before}
    assert after == keys_before
    await rig.read_all()
    answer = await rig.operators[0].collect(node.config.client_address, dry_run=True)
    assert [each for each in answer.items if each.deleted] == []


async def test_only_what_was_lost_is_copied(rig: MovingRig) -> None:
    """Rows are gone, and of the files one is damaged and one missing."""
    await rig.fill(4, 300_000)
    node = rig.nodes[4]
    large = [path for path in shard_files(node) if path.stat().st_size > 70_000]
    sizes = sorted(path.stat().st_size for path in large)

    def damage(data: Path) -> None:
        lose_manifest("rows")(data)
        large[0].unlink()
        flip(large[1], 70_000)

    process = await stopped(rig, node, damage)
    mark = node.config.data / "RESTORING"
    await rig.happens(lambda: not mark.exists())
    await rig.happens(lambda: is_whole(rig))
    brought = process.metrics.value("rebalanced_bytes_total")
    assert 0 < brought <= 2 * sizes[-1]
    assert len(list(process.stores.shards.quarantined())) == 1
    await rig.read_all()


@pytest.mark.long
async def test_a_node_that_restores_says_nothing_of_what_it_lacks(rig: MovingRig) -> None:
    await rig.fill(3, 300_000)
    node = rig.nodes[3]
    process = await stopped(rig, node, lambda data: None)
    process.node.care._restoring.add("rows")  # type: ignore[union-attr]
    key, value = process.stores.rows.scan(Table.PLACED)[0]
    shard = placed_shard(key, value)
    assert process.node.care.is_restoring()
    answer = await rig.operators[0].collect(node.config.client_address, dry_run=False)
    assert answer.restoring
    assert process.stores.shards.has(shard.base, shard.index, shard.form)
    await rig.happens(lambda: not process.node.care.is_restoring())
    await rig.read_all()
