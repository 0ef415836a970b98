"""Setting a shard file aside: lock, note, file, what was known, whoever found the damage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hcefs.ids import BlobBase
from hcefs.store.interface import Table
from hcefs.upkeep.scrub_state import ScrubLog
from hcefs.upkeep.set_aside import ShardFile
from tests.unit.upkeep.giving import ClockRuntime
from tests.unit.upkeep.repairing import Repairing


@pytest.fixture
def world() -> Iterator[Repairing]:
    runtime = ClockRuntime()
    yield Repairing(runtime)
    runtime.close()


async def test_the_repair_sets_aside_as_the_scrub_does(
    world: Repairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the lock of the base, the note before the file, and what was known is forgotten."""
    blob = await world.cluster.put(world.runtime.random(5000))
    me = world.seat(blob, 2).node.account
    stores, pending = world.cluster.stores[me], world.cluster.holders[me].pending
    world.flip(blob, 2)
    world.queue(me).found(blob.base, 2, "ec-4-2", "hint")
    quarantine, seen = stores.shards.quarantine, []

    def watched(base: BlobBase, index: int, form: str = "") -> str:
        locked = sum(lock.locked() for lock in pending._locks)
        seen.append((locked, len(stores.rows.scan(Table.SCRUB)), list(world.forgotten)))
        return quarantine(base, index, form)

    monkeypatch.setattr(stores.shards, "quarantine", watched)
    await world.run(world.repairer(me))
    assert seen == [(1, 1, [])]
    assert world.forgotten == [(me, blob.base)]
    kept = ScrubLog(stores.rows, world.runtime.now_ms)
    (each,) = kept.quarantined(stores.shards.quarantined())
    assert (each.note.reason, each.note.profile) == ("damaged-piece", "ec-4-2")
    assert stores.shards.has(blob.base, 2)


async def test_what_is_gone_meanwhile_leaves_no_note(world: Repairing) -> None:
    """A note without a file would let the next file of this shard go before its time."""
    blob = await world.cluster.put(world.runtime.random(5000))
    me = world.seat(blob, 2).node.account
    world.lose(blob, 2)
    aside = world.setting_aside(me)
    assert not aside.set_aside(ShardFile(blob.base, 2), "damaged-piece")
    assert not aside.set_aside_under(blob.base, 2, "ec-8-3", "damaged-piece")
    assert not world.cluster.stores[me].rows.scan(Table.SCRUB)
    assert not world.forgotten
