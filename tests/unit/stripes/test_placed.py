"""The names of a node's shards and records by their place on the ring."""

from __future__ import annotations

import random

import pytest

from hcefs.ids import BlobBase, RecordId
from hcefs.placement.ring import partition_of, positions_of
from hcefs.store.interface import Table
from hcefs.store.memory import memory_stores
from hcefs.stripes.placed import (
    PAGE_ROWS,
    RING,
    PlacedShard,
    ensure_placed,
    form_here,
    record_row,
    records_in,
    shard_row,
    shards_in,
)
from hcefs.testing.local_packs import LocalPacks

SEED = 20261125


def test_every_partition_lists_its_shards_and_no_others() -> None:
    chance = random.Random(SEED)  # noqa: S311 - a test, not a secret
    bases = [BlobBase(chance.randbytes(16)) for _ in range(3 * PAGE_ROWS)]
    stores = memory_stores()
    stores.rows.put([shard_row(base, at % 6, "ec-4-2") for at, base in enumerate(bases)])
    for bits in (0, 1, 8):
        found = []
        for partition in range(1 << bits):
            after = None
            while page := shards_in(stores.rows, positions_of(partition, bits), after):
                assert all(partition_of(shard.base, bits) == partition for _, shard in page)
                found += [shard.base for _, shard in page]
                after = page[-1][0]
        assert sorted(found) == sorted(bases), f"{bits} bits, seed {SEED}"


def test_the_first_and_the_last_position_are_found() -> None:
    stores = memory_stores()
    for key in (bytes(24), b"\xff" * 24):
        stores.rows.put([(Table.RECORDS, key, b"")])
    assert len(records_in(stores.rows, positions_of(0, 8))) == 1
    assert len(records_in(stores.rows, positions_of(255, 8))) == 1
    assert len(records_in(stores.rows, RING)) == 2
    assert not records_in(stores.rows, positions_of(7, 8))


@pytest.mark.asyncio
async def test_a_store_from_before_is_named_once(packs: LocalPacks) -> None:
    """What puts named themselves is named again, to the byte, by the tables alone."""
    cluster = packs.cluster
    await cluster.put(b"a blob of its own")
    await packs.put(packs.seal([b"one payload", b"another"]), "ec-4-2")
    for stores in cluster.stores.values():
        tables = (Table.PLACED, Table.RECORDS)
        named = [stores.rows.scan(table) for table in tables]
        assert len(named[0]) == 2
        stores.rows.delete([(table, key) for table in tables for key, _ in stores.rows.scan(table)])
        assert ensure_placed(stores) > 0
        assert [stores.rows.scan(table) for table in tables] == named
        assert ensure_placed(stores) == 0


def test_one_row_names_one_thing() -> None:
    record = RecordId(b"r" * 16)
    assert record_row(record)[1] != shard_row(BlobBase(b"r" * 16), 0, "ec-4-2")[1]


def test_the_first_form_keeps_its_key_and_others_follow_it() -> None:
    """Rows from before there were forms mean the same as ever."""
    stores = memory_stores()
    base = BlobBase(b"b" * 16)
    table, key, value = shard_row(base, 3, "ec-4-2")
    assert (key[8:], value) == (b"b" * 16 + b"\x03", b"ec-4-2")
    stores.rows.put([(table, key, value), shard_row(base, 3, "copy-3", "copy-3")])
    assert [shard for _, shard in shards_in(stores.rows, RING)] == [
        PlacedShard(base, 3, "ec-4-2"),
        PlacedShard(base, 3, "copy-3", "copy-3"),
    ]
    assert form_here(stores.rows, base, 3, "ec-4-2") == ""
    assert form_here(stores.rows, base, 3, "copy-3") == "copy-3"
    assert form_here(stores.rows, base, 3) == ""
    assert form_here(stores.rows, base, 3, "ec-8-3") is None
    assert form_here(stores.rows, base, 4) is None
