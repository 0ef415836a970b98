"""Collection: only what was never committed and no longer can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.access.facts import Action, Grant
from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.formats.keybox import KeyBox
from hcefs.formats.manifest import Opening
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.ledger.snapshot_join import join
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import KeyTable, Table
from hcefs.stripes.holder import box_key
from hcefs.stripes.pending import PENDING_BLOB, PENDING_OPENING, pending_key
from hcefs.testing.local_cluster import HOUR_MS, NOW_MS, LocalCluster
from hcefs.upkeep.collect import Collector
from hcefs.upkeep.worker import Progress
from tests.unit.ledger.replicas import make_block
from tests.unit.ledger.scenario import Scenario
from tests.unit.ledger.test_snapshot import (
    NoWaiting,
    Source,
    chain,
    made,
    naming,
    opened,
    parts_of,
)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    runtime = SystemRuntime()
    yield LocalCluster(runtime)
    runtime.close()


async def pending_blob(cluster: LocalCluster) -> Opening:
    plan = cluster.plan(BlobId.of(cluster.runtime.random(16)))
    session = cluster.session(plan)
    await session.write(b"never committed")
    done = await session.finish(15, b"", b"", plan.call)
    return Opening(plan.salt, plan.record, plan.blob, done.core.digest(), b"")


def collector_of(cluster: LocalCluster, account: AccountId) -> Collector:
    return Collector(
        cluster.runtime,
        cluster.stores[account],
        cluster.ledger,
        cluster.metrics,
        cluster.holders[account].pending,
    )


async def collect_everywhere(cluster: LocalCluster) -> None:
    for account in cluster.stores:
        assert await collector_of(cluster, account).work() is Progress.IDLE


def everything(cluster: LocalCluster) -> list[int]:
    return [
        len(list(stores.shards.inventory()))
        + len(stores.rows.scan(Table.CORES))
        + len(stores.rows.scan(Table.LAYOUTS))
        + len(stores.rows.scan(Table.OPENINGS))
        + len(stores.rows.scan(Table.INDEX))
        + len(stores.keys.scan(KeyTable.KEY_ROWS))
        for stores in cluster.stores.values()
    ]


async def test_a_pending_blob_is_kept_until_block_time_is_past_commit_by(
    cluster: LocalCluster,
) -> None:
    await pending_blob(cluster)
    cluster.ledger.time_ms = NOW_MS + HOUR_MS  # equal: an append would still be accepted
    await collect_everywhere(cluster)
    assert everything(cluster) == [6] * 6
    assert collector_of(cluster, cluster.keys[0].account).pending() == 1


async def test_a_blob_that_was_never_committed_is_collected_whole(cluster: LocalCluster) -> None:
    await pending_blob(cluster)
    cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await collect_everywhere(cluster)
    assert everything(cluster) == [0] * 6
    assert cluster.metrics.value("collected_blobs_total") == 6
    for stores in cluster.stores.values():
        assert stores.rows.scan(Table.PENDING) == []


async def test_a_committed_blob_is_never_collected(cluster: LocalCluster) -> None:
    cluster.ledger.commit(await pending_blob(cluster))
    cluster.ledger.time_ms = NOW_MS + 1000 * HOUR_MS
    await collect_everywhere(cluster)
    assert everything(cluster) == [6] * 6


async def test_a_stale_pending_row_of_the_same_id_deletes_nothing(cluster: LocalCluster) -> None:
    opening = await pending_blob(cluster)
    for stores in cluster.stores.values():
        for index in range(6):
            name = bytes(opening.blob) + bytes([index])
            stale = pending_key(NOW_MS + 1, PENDING_BLOB, name)
            stores.rows.put([(Table.PENDING, stale, b"")])
        listed = pending_key(NOW_MS + 1, PENDING_OPENING, bytes(opening.record) + opening.blob)
        stores.rows.put([(Table.PENDING, listed, b"")])
    cluster.ledger.time_ms = NOW_MS + 1000  # past the stale row's time, not the blob's
    await collect_everywhere(cluster)
    assert everything(cluster) == [6] * 6
    cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await collect_everywhere(cluster)
    assert everything(cluster) == [0] * 6


async def test_boxes_of_dead_grants_are_really_deleted(cluster: LocalCluster) -> None:
    grants = [GrantId(bytes([number]) * 16) for number in (1, 2, 3, 4)]
    for number, grant in enumerate(grants[:3]):
        cluster.ledger.grants[grant] = Grant(
            grant, cluster.record, None, 0, 0, cluster.patient.account, cluster.writer.account,
            Action.READ, ("TREAT",), 0, NOW_MS + (HOUR_MS if number != 1 else -1), None, 1,
            5 if number == 2 else 0,
        )  # fmt: skip
    stores = cluster.stores[cluster.keys[0].account]
    for grant in grants:
        box = KeyBox(
            cluster.record, 0, None, grant, cluster.writer.account, 1, cluster.patient.account, 1,
            Envelope(SUITE_XWING, b"sealed"), b"",
        )  # fmt: skip
        stores.keys.put_new(KeyTable.BOXES, box_key(box), box.encode())
    await collector_of(cluster, cluster.keys[0].account).work()
    left = stores.keys.scan(KeyTable.BOXES)
    # The last one is unknown: this replica may only be behind, so its box is kept.
    assert [KeyBox.decode(value).grant for _, value in left] == [grants[0], grants[3]]


async def test_the_plan_says_what_would_be_deleted_and_deletes_nothing(
    cluster: LocalCluster,
) -> None:
    opening = await pending_blob(cluster)
    account = cluster.keys[0].account
    assert collector_of(cluster, account).plan() == []
    cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    planned = [each for a in cluster.stores for each in collector_of(cluster, a).plan()]
    blobs = [each for each in planned if each.what == "blob"]
    assert [each.name for each in blobs] == [opening.blob.base.hex()] * 6
    assert all(each.deleted for each in planned)
    assert everything(cluster) == [6] * 6
    await collect_everywhere(cluster)
    assert everything(cluster) == [0] * 6
    assert collector_of(cluster, account).plan() == []


async def test_a_replica_that_began_with_a_snapshot_collects_nothing_that_the_ledger_names(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, unnamed = await pending_blob(cluster), await pending_blob(cluster)
    world = Scenario()
    blocks = chain(world, 7)
    entry = replace(world.entry("named"), commitment=named.commitment())
    signed = world.sign(world.append("named", entry), "pat").encode()
    blocks += [make_block(world, [signed]), make_block(world, [])]
    log = opened(tmp_path / "log", world)
    log.append(blocks)
    await made(log, NoWaiting())
    log.append([naming(world, make_block(world, []), log.snapshots.root_to_name(10))])
    offer = log.offer()
    assert offer is not None
    source = Source(log, offer, parts_of(log, offer))
    assert await join(tmp_path / "new", world.genesis, source, cluster.runtime) == 8
    replica = opened(tmp_path / "new", world)
    asked: list[bytes] = []

    def leaf_index(record: RecordId, commitment: bytes) -> int | None:
        asked.append(commitment)
        return replica.leaf_index(entry.record, commitment)

    monkeypatch.setattr(cluster.ledger, "leaf_index", leaf_index)
    cluster.ledger.time_ms = NOW_MS + 1000 * HOUR_MS
    await collect_everywhere(cluster)
    assert everything(cluster) == [6] * 6
    assert {named.commitment(), unnamed.commitment()} == set(asked)
    for stores in cluster.stores.values():
        assert {key[:16] for key, _ in stores.rows.scan(Table.CORES)} == {bytes(named.blob)[:16]}
    replica.close()
    log.close()
