"""The scrub: each kind of damage is found, set aside and entered; a stop skips nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from hcefs.errors import Corrupt
from hcefs.formats.shard import HEADER_SIZE, TRAILER_SIZE
from hcefs.ids import BlobBase, BlobId
from hcefs.store.interface import KeyTable, ShardStore, Table
from hcefs.stripes.placed import shard_key
from hcefs.stripes.shard_check import ShardCheck
from hcefs.testing.local_cluster import LocalCluster
from hcefs.upkeep import scrub, scrub_shards
from hcefs.upkeep.scrub_rows import DONE
from hcefs.upkeep.scrub_state import SECTORS, ScrubCursor, ScrubLog
from hcefs.upkeep.worker import Progress
from tests.unit.upkeep.giving import ClockRuntime
from tests.unit.upkeep.scrubbing import CYCLE_SECONDS, ScrubbedNode, put_blob

DATA = bytes(range(256)) * 9000


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[ScrubbedNode]:
    runtime = ClockRuntime()
    cluster = LocalCluster(runtime)
    await put_blob(cluster, DATA)
    made = ScrubbedNode(cluster, runtime, tmp_path / "data")
    yield made
    made.close()
    runtime.close()


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file; a negative place counts from its end."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(at % size)
        byte = file.read(1)
        file.seek(at % size)
        file.write(bytes([byte[0] ^ 0x10]))


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "magic": (lambda path: flip(path, 0), "bad-header"),
    "header": (lambda path: flip(path, 40), "bad-header"),
    "first piece": (lambda path: flip(path, HEADER_SIZE), "damaged-piece"),
    "middle piece": (lambda path: flip(path, HEADER_SIZE + 300_000), "damaged-piece"),
    "padding": (lambda path: flip(path, -TRAILER_SIZE - 3 * 32 - 1), "damaged-piece"),
    "footer": (lambda path: flip(path, -TRAILER_SIZE - 1), "bad-footer"),
    "trailer": (lambda path: flip(path, -1), "bad-footer"),
    "digest in the trailer": (lambda path: flip(path, -TRAILER_SIZE + 20), "bad-footer"),
    "shorter by one": (lambda path: truncate(path, path.stat().st_size - 1), "bad-footer"),
    "header only": (lambda path: truncate(path, HEADER_SIZE), "truncated"),
    "empty": (lambda path: truncate(path, 0), "truncated"),
    "longer": (grow, "bad-footer"),
}


@pytest.mark.parametrize("what", DAMAGE)
async def test_damage_of_a_file_is_found(node: ScrubbedNode, what: str) -> None:
    shard, (damage, reason) = node.shard(), DAMAGE[what]
    damage(node.path(shard))
    scrubber = await node.cycle()
    assert node.queue.entries[:1] == [(shard.base, shard.index, "ec-4-2", reason)]
    assert [(each.base, each.index) for each in node.stores.shards.quarantined()] == [
        (shard.base, shard.index)
    ]
    assert not node.stores.shards.has(shard.base, shard.index)
    assert node.metrics.value("scrub_found_total", kind=reason) == 1
    assert scrubber.status().cursor.damaged >= 1
    kept = ScrubLog(node.stores.rows, node.runtime.now_ms)
    notes = [each.note.reason for each in kept.quarantined(node.stores.shards.quarantined())]
    assert notes == [reason]


async def test_an_intact_node_is_left_as_it_is(node: ScrubbedNode) -> None:
    before = node.path(node.shard()).read_bytes()
    scrubber = await node.cycle()
    assert node.queue.entries == []
    assert node.path(node.shard()).read_bytes() == before
    cursor = scrubber.status().cursor
    assert (cursor.shards, cursor.damaged, cursor.cycle) == (1, 0, 1)
    assert cursor.read_bytes > len(before)
    assert cursor.rows >= 6


async def test_another_shard_under_the_name(node: ScrubbedNode) -> None:
    shard = node.shard()
    others = [stores for account, stores in node.cluster.stores.items() if account != node.account]
    (base, index), *_ = others[0].shards.inventory()
    reader = others[0].shards.open(base, index)
    node.path(shard).write_bytes(reader.read_at(0, reader.size))
    await node.cycle()
    assert node.queue.entries[0][3] == "wrong-shard"


async def test_a_whole_shard_of_other_bytes(node: ScrubbedNode) -> None:
    """Intact in itself, and not what the layout names."""
    shard = node.shard()
    other = LocalCluster(node.runtime)
    plan = other.plan(BlobId.of(shard.base))
    session = other.session(plan)
    await session.write(DATA[::-1])
    await session.finish(len(DATA), b"", b"", plan.call)
    reader = other.stores[node.account].shards.open(shard.base, shard.index)
    node.path(shard).write_bytes(reader.read_at(0, reader.size))
    await node.cycle()
    assert node.queue.entries == [
        (shard.base, shard.index, "ec-4-2", "wrong-digest"),
        (shard.base, shard.index, "ec-4-2", "missing"),
    ]


async def test_a_missing_file(node: ScrubbedNode) -> None:
    shard = node.shard()
    node.path(shard).unlink()
    await node.cycle()
    assert node.queue.entries == [(shard.base, shard.index, "ec-4-2", "missing")]


async def test_a_file_without_rows_is_kept_for_a_day(
    node: ScrubbedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = node.shard()
    node.stores.rows.delete([(Table.PLACED, shard_key(shard.base, shard.index))])
    await node.cycle()
    assert node.queue.entries == [(shard.base, shard.index, "ec-4-2", "orphan")]
    assert node.path(shard).exists()
    monkeypatch.setattr(scrub_shards, "ORPHAN_SECONDS", -1.0)
    await node.cycle()
    assert not node.path(shard).exists()
    assert len(list(node.stores.shards.quarantined())) == 1


BASE_TABLES = [Table.CORES, Table.LAYOUTS, Table.OPENINGS]


@pytest.mark.parametrize("table", BASE_TABLES)
async def test_a_damaged_row_of_a_base_comes_from_the_others(
    node: ScrubbedNode, table: Table
) -> None:
    shard = node.shard()
    node.damage_row(table, bytes(shard.base))
    await node.cycle()
    assert (shard.base, shard.index, "ec-4-2", "bad-row") in [
        (*entry[:3], "bad-row") for entry in node.queue.entries
    ]
    assert node.stores.rows.get(table, bytes(shard.base)) is None, "something stands in its place"
    assert node.stores.rows.scan(Table.PLACED) == []
    assert node.path(shard).exists(), "the file is intact and must be adopted, not copied"


@pytest.mark.parametrize("table", [KeyTable.KEY_ROWS])
async def test_a_damaged_key_is_erased_and_comes_again(node: ScrubbedNode, table: KeyTable) -> None:
    shard = node.shard()
    (key, _), *_ = node.stores.keys.scan(table)
    node.damage_row(table, key)
    await node.cycle()
    assert node.stores.keys.get(table, key) is None
    assert (shard.base, shard.index, "ec-4-2", "bad-row") in node.queue.entries


@pytest.mark.parametrize("table", [Table.PENDING, Table.RECORDS, Table.META, Table.PLACED])
async def test_a_name_or_marker_is_written_anew(node: ScrubbedNode, table: Table) -> None:
    before = node.stores.rows.scan(table)
    node.damage_row(table, before[0][0])
    with pytest.raises(Corrupt):
        node.stores.rows.scan(table)
    await node.cycle()
    assert node.stores.rows.scan(table) == before


async def test_a_damaged_listing_is_put_away(node: ScrubbedNode) -> None:
    (key, _), *_ = node.stores.rows.scan(Table.INDEX)
    node.damage_row(Table.INDEX, key)
    await node.cycle()
    assert node.stores.rows.scan(Table.INDEX) == []
    assert node.metrics.value("scrub_found_total", kind="row") == 1


async def test_a_stop_at_any_point_skips_nothing(
    node: ScrubbedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub, "SAVE_BYTES", 1)
    monkeypatch.setattr(scrub, "READ_BYTES", 1)
    flip(node.path(node.shard()), -TRAILER_SIZE - 3 * 32 - 1)
    units = 0
    scrubber = node.scrubber()
    scrubber.hurry()
    while not scrubber.status().resting:
        await scrubber.work()
        units += 1
        scrubber = node.scrubber()  # what a new process knows
    assert units >= SECTORS // scrub.EMPTY_SECTORS
    assert [entry[3] for entry in node.queue.entries][:1] == ["damaged-piece"]


async def test_a_stop_within_a_shard_goes_on_at_its_piece(
    node: ScrubbedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub, "SAVE_BYTES", 1)
    monkeypatch.setattr(scrub, "READ_BYTES", 1)
    shard = node.shard()
    saved: list[int] = []
    keep = ScrubLog.save

    class Stopped(Exception):
        pass

    def save(self: ScrubLog, cursor: ScrubCursor) -> None:
        keep(self, cursor)
        if cursor.piece == 2:
            saved.append(cursor.piece)
            raise Stopped

    monkeypatch.setattr(ScrubLog, "save", save)
    with pytest.raises(Stopped):
        await node.cycle()
    monkeypatch.setattr(ScrubLog, "save", keep)
    first: list[int] = []

    class Watched(ShardCheck):
        def __init__(
            self, shards: ShardStore, base: BlobBase, index: int, form: str = "", at: int = 0
        ) -> None:
            first.append(at)
            super().__init__(shards, base, index, form, at)

    monkeypatch.setattr(scrub, "ShardCheck", Watched)
    flip(node.path(shard), -TRAILER_SIZE - 3 * 32 - 1)
    await node.cycle()
    assert first == [2, 0], "it goes on where it was, then reads what is suspected once more"
    assert node.queue.entries[0][3] == "damaged-piece"


async def _until_idle(scrubber: scrub.Scrubber) -> int:
    """The cycle that was the last; a cycle's time is longer than this takes."""
    for _ in range(5000):
        if await scrubber.work() is Progress.IDLE:
            return scrubber.status().cursor.cycle
    raise AssertionError("the scrub does not rest")


async def test_who_asks_has_also_read_again_what_a_cycle_has_passed(node: ScrubbedNode) -> None:
    scrubber = node.scrubber()
    while scrubber.status().cursor.stage < SECTORS:
        await scrubber.work()
    flip(node.path(node.shard()), -TRAILER_SIZE - 3 * 32 - 1)
    scrubber.hurry()
    assert await _until_idle(scrubber) == 2
    assert node.queue.entries[0][3] == "damaged-piece"


async def test_who_asks_before_anything_was_read_has_it_read_once(node: ScrubbedNode) -> None:
    scrubber = node.scrubber()
    scrubber.hurry()
    assert await _until_idle(scrubber) == 1
    assert scrubber.status().resting
    scrubber.hurry()
    asked = scrubber.status()
    assert (asked.stage, asked.done, asked.resting) == ("begins", 0, False)
    assert await _until_idle(scrubber) == 2


async def test_who_asks_while_a_cycle_ends_has_everything_read(
    node: ScrubbedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrubber, keep = node.scrubber(), ScrubLog.save

    def save(self: ScrubLog, cursor: ScrubCursor) -> None:
        keep(self, cursor)
        if cursor.stage >= DONE and cursor.cycle == 1:
            scrubber.hurry()

    monkeypatch.setattr(ScrubLog, "save", save)
    assert await _until_idle(scrubber) == 2


async def test_the_budget_is_kept(node: ScrubbedNode) -> None:
    rate = 100_000.0
    scrubber = node.scrubber(rate)
    began = node.clock.now
    await node.cycle(scrubber)
    took = node.clock.now - began
    read = scrubber.status().cursor.read_bytes
    # What may pass at once is a second's worth.
    assert (took + scrub.STEP_SECONDS) * rate >= read


async def test_a_cycle_is_spread_over_its_time(node: ScrubbedNode) -> None:
    scrubber = node.scrubber()
    began = node.clock.now
    while not scrubber.status().resting:
        await scrubber.work()
    took = node.clock.now - began
    read = scrubber.status().cursor.read_bytes
    assert took >= read / scrub.RATE_MIN - 2 * scrub.STEP_SECONDS
    assert took <= CYCLE_SECONDS
    assert await scrubber.work() is Progress.IDLE, "the next one waits for its time"


async def test_the_age_of_the_oldest_reading(
    node: ScrubbedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = node.runtime.now_ms()
    monkeypatch.setattr(node.clock, "now_ms", lambda: now)
    scrubber = await node.cycle()
    assert scrubber.oldest_seconds() == 0
    monkeypatch.setattr(node.clock, "now_ms", lambda: now + 5000)
    assert scrubber.oldest_seconds() == 5


async def test_bad_once_is_not_damage(node: ScrubbedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ShardCheck.step
    calls: list[int] = []

    def bad_once(self: ShardCheck, bytes_max: int) -> int:
        calls.append(bytes_max)
        if len(calls) == 1:
            raise Corrupt("a bit flipped on its way", reason="damaged-piece")
        return step(self, bytes_max)

    monkeypatch.setattr(ShardCheck, "step", bad_once)
    await node.cycle()
    assert node.queue.entries == []
    assert node.metrics.value("scrub_found_total", kind="passing") == 1
