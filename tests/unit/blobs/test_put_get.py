"""Put and get over six holders: lengths, ranges, failures, damage, both ways of sealing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from hcefs.blobs.get import BlobReader, GetPlan, Secrets
from hcefs.blobs.put import ClientSeal, PutDone, PutPlan
from hcefs.crypto.envelope import SUITE_XWING, EnvelopeContext
from hcefs.crypto.keys import dek_commitment, open_envelope, seal_envelope
from hcefs.crypto.stream import open_segment, seal_segment, segment_secret
from hcefs.erasure.scheme import SEGMENT_SIZE, piece_length, resolve_range
from hcefs.errors import Corrupt, Denied, Exhausted, HcefsError, Invalid, NotFound, Unavailable
from hcefs.formats.manifest import KeyRow, Metadata, Opening
from hcefs.ids import BlobId
from hcefs.placement.cluster_map import Node
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import KeyTable, Table
from hcefs.testing.local_cluster import CLUSTER, NOW_MS, FaultyPeer, LocalCluster
from hcefs.transport.peers import Call, Peer, Piece, ShardRows, ShardStart

S = SEGMENT_SIZE


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    runtime = SystemRuntime()
    yield runtime
    runtime.close()


@pytest.fixture
def cluster(runtime: SystemRuntime) -> LocalCluster:
    return LocalCluster(runtime)


def sample(length: int) -> bytes:
    """Bytes that differ everywhere."""
    return hashlib.shake_128(length.to_bytes(8, "big")).digest(length)


def new_blob(cluster: LocalCluster) -> BlobId:
    return BlobId.of(cluster.runtime.random(16))


async def put(
    cluster: LocalCluster, plan: PutPlan, data: bytes, *, step: int = 700_001, commit: bool = True
) -> PutDone:
    session = cluster.session(plan)
    try:
        for start in range(0, len(data), step):
            await session.write(data[start : start + step])
        done = await session.finish(len(data), b"", b"", plan.call)
    except BaseException:
        await session.abort()
        raise
    if commit:
        commit_blob(cluster, plan, done)
    return done


def commit_blob(cluster: LocalCluster, plan: PutPlan, done: PutDone) -> None:
    cluster.ledger.commit(
        Opening(plan.salt, plan.record, plan.blob, done.core.digest(), plan.previous_leaf)
    )


def dek_of(cluster: LocalCluster, blob: BlobId) -> bytes:
    row = cluster.stores_of_index(blob, 0).keys.get(KeyTable.KEY_ROWS, bytes(blob))
    if row is None:
        raise AssertionError("no key row")
    context = EnvelopeContext(
        "dek", SUITE_XWING, CLUSTER, cluster.record, 0, bytes(blob), bytes(cluster.record)
    )
    key = cluster.patient.record_key(cluster.record, 0)
    return open_envelope(key, KeyRow.decode(row).envelope, context)


def allowed() -> None:
    """A permission that never ends."""


async def get(
    cluster: LocalCluster,
    blob: BlobId,
    secrets: Secrets | None,
    *,
    start: int = 0,
    length: int = 0,
    profile: str = "ec-4-2",
) -> list[bytes]:
    call = cluster.call("get", blob, start=start, length=length)
    held = cluster.seats(blob.base, profile)
    manifest = await cluster.fanout.manifest(held, call)
    first, count = resolve_range(manifest.core.plaintext_length, start, length)
    plan = GetPlan(call, manifest, held, first, count, secrets)
    reader = BlobReader(cluster.runtime, cluster, cluster.metrics, cluster.hedge, plan)
    messages: AsyncIterator[bytes | memoryview] = reader.messages(allowed)
    return [bytes(message) async for message in messages]


LENGTHS = [0, 1, 63, S - 1, S, S + 1, 3 * S, 5 * S + 12345]


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("length", LENGTHS)
async def test_what_was_put_is_got(cluster: LocalCluster, length: int) -> None:
    data, blob = sample(length), new_blob(cluster)
    done = await put(cluster, cluster.plan(blob), data)
    assert done.stored.durable == (0, 1, 2, 3, 4, 5)
    assert not done.stored.degraded
    dek = dek_of(cluster, blob)
    assert done.core.dek_commitment == dek_commitment(dek)
    assert b"".join(await get(cluster, blob, Secrets(dek=dek))) == data
    assert cluster.metrics.value("degraded_reads_total") == 0


@pytest.mark.parametrize("length", [0, S, 2 * S + 7])
async def test_client_sealed_puts_give_the_same_bytes(cluster: LocalCluster, length: int) -> None:
    data, blob = sample(length), new_blob(cluster)
    dek = cluster.runtime.random(32)
    plan = cluster.plan(blob)
    context = EnvelopeContext(
        "dek", SUITE_XWING, CLUSTER, plan.record, 0, bytes(blob), bytes(plan.record)
    )
    seal = ClientSeal(dek_commitment(dek), seal_envelope(plan.record_public_key, dek, context))
    plan = PutPlan(**{**vars(plan), "client_seal": seal})
    segments = max(1, -(-length // S))
    sealed = [
        seal_segment(
            segment_secret(dek, i), blob, plan.record, i == segments - 1, data[i * S : (i + 1) * S]
        )
        for i in range(segments)
    ]
    session = cluster.session(plan)
    for segment in sealed:
        await session.write(segment)
    done = await session.finish(length, b"", b"sealed metadata", plan.call)
    commit_blob(cluster, plan, done)
    assert done.core.sealed_metadata == b"sealed metadata"
    assert b"".join(await get(cluster, blob, Secrets(dek=dek))) == data
    assert await get(cluster, blob, None) == sealed


async def test_sealed_get_opens_in_the_client(cluster: LocalCluster) -> None:
    data, blob = sample(2 * S + 5), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    dek = dek_of(cluster, blob)
    sealed = await get(cluster, blob, None)
    opened = [
        open_segment(segment_secret(dek, i), blob, cluster.record, i == 2, segment)
        for i, segment in enumerate(sealed)
    ]
    assert b"".join(opened) == data


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (S - 1, 2), (S, S), (2 * S + 17, 0), (5, 3 * S), (3 * S + 99, 1), (3 * S + 100, 0)],
)
async def test_ranges(cluster: LocalCluster, start: int, length: int) -> None:
    data, blob = sample(3 * S + 100), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    dek = dek_of(cluster, blob)
    first = start // S if start < len(data) else 3
    end = start + length if length else len(data)
    secrets = b"".join(segment_secret(dek, i) for i in range(first, max(first + 1, -(-end // S))))
    got = await get(cluster, blob, Secrets(first=first, joined=secrets), start=start, length=length)
    assert b"".join(got) == data[start:end]


async def test_secrets_of_a_range_open_nothing_else(cluster: LocalCluster) -> None:
    data, blob = sample(3 * S), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    secret = segment_secret(dek_of(cluster, blob), 1)
    with pytest.raises(Denied) as caught:
        await get(cluster, blob, Secrets(first=1, joined=secret), start=S, length=S + 1)
    assert caught.value.reason == "missing-secret"
    with pytest.raises(Corrupt) as wrong:
        await get(cluster, blob, Secrets(first=2, joined=secret), start=2 * S, length=5)
    assert wrong.value.reason == "wrong-key"


@pytest.mark.parametrize("bad", [(4 * S, 0), (3 * S, 1), (0, 3 * S + 1)])
async def test_a_range_outside_the_blob_is_refused(
    cluster: LocalCluster, bad: tuple[int, int]
) -> None:
    blob = new_blob(cluster)
    await put(cluster, cluster.plan(blob), sample(3 * S))
    with pytest.raises(Invalid) as caught:
        await get(cluster, blob, Secrets(dek=dek_of(cluster, blob)), start=bad[0], length=bad[1])
    assert caught.value.reason == "bad-range"


async def test_any_two_nodes_may_be_down(cluster: LocalCluster) -> None:
    data, blob = sample(2 * S + 1), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    dek = dek_of(cluster, blob)
    for first in range(6):
        for second in range(first + 1, 6):
            for index in range(6):
                cluster.faults_of_index(blob, index).down = index in (first, second)
            assert b"".join(await get(cluster, blob, Secrets(dek=dek))) == data
    assert cluster.metrics.value("degraded_reads_total") >= 14


async def test_nodes_that_die_in_the_middle_of_a_read(cluster: LocalCluster) -> None:
    data, blob = sample(9 * S + 1), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    dek = dek_of(cluster, blob)
    cluster.faults_of_index(blob, 0).dies_after_messages = 1
    cluster.faults_of_index(blob, 3).dies_after_messages = 2
    assert b"".join(await get(cluster, blob, Secrets(dek=dek))) == data


async def test_a_slow_holder_is_hedged_around(cluster: LocalCluster) -> None:
    data, blob = sample(4 * S), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    never = asyncio.Event()  # the holders of two data shards begin, and then send nothing
    for index in (1, 3):
        cluster.faults_of_index(blob, index).waits_for = never
    assert b"".join(await get(cluster, blob, Secrets(dek=dek_of(cluster, blob)))) == data
    assert cluster.metrics.value("hedged_loads_total") == 2


async def test_a_holder_that_lost_a_race_is_still_there_when_it_is_needed(
    cluster: LocalCluster,
) -> None:
    data, blob = sample(8 * S), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    slow = asyncio.Event()
    cluster.faults_of_index(blob, 1).waits_for = slow
    for index in (2, 3):
        cluster.faults_of_index(blob, index).dies_after_messages = 2
    call, held = cluster.call("get", blob), cluster.seats(blob.base)
    manifest = await cluster.fanout.manifest(held, call)
    plan = GetPlan(call, manifest, held, 0, len(data), Secrets(dek=dek_of(cluster, blob)))
    reader = BlobReader(cluster.runtime, cluster, cluster.metrics, cluster.hedge, plan)
    got = b""
    async for message in reader.messages(allowed):
        slow.set()  # the first segment is here, so index 1 has lost its race
        got += message
    assert got == data
    assert cluster.metrics.value("hedged_loads_total") >= 1


async def test_three_lost_nodes_are_too_many(cluster: LocalCluster) -> None:
    blob = new_blob(cluster)
    await put(cluster, cluster.plan(blob), sample(S))
    dek = dek_of(cluster, blob)
    for index in (0, 2, 5):
        cluster.faults_of_index(blob, index).down = True
    with pytest.raises(Unavailable) as caught:
        await get(cluster, blob, Secrets(dek=dek))
    assert caught.value.reason == "too-few-shards"


@pytest.mark.parametrize("sealed", [False, True])
async def test_damage_is_found_named_and_read_around(
    cluster: LocalCluster, sealed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    data, blob = sample(4 * S + 9), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    dek = dek_of(cluster, blob)
    healthy = await get(cluster, blob, None)
    for index in (1, 2):
        cluster.faults_of_index(blob, index).damages_index = index
    got = await get(cluster, blob, None if sealed else Secrets(dek=dek))
    assert got == healthy if sealed else b"".join(got) == data
    assert cluster.metrics.value("corrupt_shards_total") == 2
    assert f"shard {blob.base} index 1 " in caplog.text
    assert f"shard {blob.base} index 2 " in caplog.text
    assert "corrupt (damaged-piece)" in caplog.text


@pytest.mark.parametrize("places", [(0, 0), (0, 3), (1, 2), (3, 1), (2, -1)])
@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("sealed", [False, True])
async def test_damage_anywhere_in_a_message_costs_only_its_lane(
    cluster: LocalCluster, places: tuple[int, int], index: int, sealed: bool
) -> None:
    data, blob = sample(9 * S + 77), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    dek = dek_of(cluster, blob)
    piece = piece_length(S + 48, 4)
    healthy = await get(cluster, blob, None)
    for damaged, place in zip((0, index), places, strict=True):
        faults = cluster.faults_of_index(blob, damaged)
        if place >= 0:
            faults.damages_index, faults.damages_at = damaged, place * piece + 5
    got = await get(cluster, blob, None if sealed else Secrets(dek=dek))
    assert got == healthy if sealed else b"".join(got) == data
    damaged_shards = sum(place >= 0 for place in places)
    assert cluster.metrics.value("corrupt_shards_total") == damaged_shards
    first = S + 11
    part = await get(cluster, blob, Secrets(dek=dek), start=first, length=4 * S)
    assert b"".join(part) == data[first : first + 4 * S]


async def test_three_damaged_shards_are_reported_as_corrupt(cluster: LocalCluster) -> None:
    blob = new_blob(cluster)
    await put(cluster, cluster.plan(blob), sample(S))
    for index in (1, 2, 4):
        cluster.faults_of_index(blob, index).damages_index = index
    with pytest.raises(Corrupt) as caught:
        await get(cluster, blob, Secrets(dek=dek_of(cluster, blob)))
    assert caught.value.reason == "too-few-shards"


async def test_a_wrong_key_is_told_from_damage(cluster: LocalCluster) -> None:
    blob = new_blob(cluster)
    await put(cluster, cluster.plan(blob), sample(S))
    with pytest.raises(Denied) as caught:
        await get(cluster, blob, Secrets(dek=bytes(32)))
    assert caught.value.reason == "wrong-key"
    assert cluster.metrics.value("corrupt_shards_total") == 0


async def test_one_node_down_is_acknowledged_as_degraded(cluster: LocalCluster) -> None:
    data, blob = sample(S + 3), new_blob(cluster)
    cluster.faults_of_index(blob, 2).down = True
    done = await put(cluster, cluster.plan(blob), data)
    assert done.stored.durable == (0, 1, 3, 4, 5)
    assert done.stored.degraded
    assert cluster.metrics.value("degraded_puts_total") == 1
    assert b"".join(await get(cluster, blob, Secrets(dek=dek_of(cluster, blob)))) == data


@pytest.mark.parametrize("dies_after", [-1, 0, 1])
async def test_two_nodes_down_are_never_acknowledged(
    cluster: LocalCluster, dies_after: int
) -> None:
    blob = new_blob(cluster)
    for index in (1, 4):
        faults = cluster.faults_of_index(blob, index)
        faults.down = dies_after < 0
        faults.dies_after_messages = dies_after
    with pytest.raises(Unavailable) as caught:
        await put(cluster, cluster.plan(blob), sample(5 * S))
    assert caught.value.reason == "too-few-holders"
    with pytest.raises((NotFound, Unavailable)):
        await get(cluster, blob, None)


async def test_a_client_that_vanishes_leaves_nothing(cluster: LocalCluster) -> None:
    blob = new_blob(cluster)
    session = cluster.session(cluster.plan(blob))
    await session.write(sample(3 * S))
    await session.abort()
    for stores in cluster.stores.values():
        assert list(stores.shards.inventory()) == []
        assert stores.rows.scan(Table.CORES) == []
        assert stores.keys.scan(KeyTable.KEY_ROWS) == []


async def test_a_wrong_length_in_the_trailer_is_refused(cluster: LocalCluster) -> None:
    plan = cluster.plan(new_blob(cluster))
    session = cluster.session(plan)
    await session.write(b"12345")
    with pytest.raises(Invalid) as caught:
        await session.finish(4, b"", b"", plan.call)
    assert caught.value.reason == "wrong-length"
    await session.abort()


async def test_an_uncommitted_blob_is_not_served(cluster: LocalCluster) -> None:
    blob = new_blob(cluster)
    await put(cluster, cluster.plan(blob), sample(10), commit=False)
    with pytest.raises(NotFound) as caught:
        await get(cluster, blob, None)
    assert caught.value.reason == "not-committed"


async def test_other_bytes_under_a_known_blob_id_are_a_conflict(cluster: LocalCluster) -> None:
    data, blob = sample(1000), new_blob(cluster)
    await put(cluster, cluster.plan(blob), data)
    with pytest.raises(HcefsError) as caught:
        await put(cluster, cluster.plan(blob), sample(1001), commit=False)
    assert caught.value.kind == "conflict"
    assert b"".join(await get(cluster, blob, Secrets(dek=dek_of(cluster, blob)))) == data


async def test_sealed_segments_must_be_whole(cluster: LocalCluster) -> None:
    plan = cluster.plan(new_blob(cluster))
    seal = ClientSeal(bytes(32), seal_envelope(plan.record_public_key, bytes(32), _context(plan)))
    plan = PutPlan(**{**vars(plan), "client_seal": seal})
    for before, wrong in (([], bytes(47)), ([], bytes(S + 49)), ([bytes(100)], bytes(100))):
        session = cluster.session(plan)
        for segment in before:
            await session.write(segment)
        with pytest.raises(Invalid) as caught:
            await session.write(wrong)
        assert caught.value.reason == "bad-segment"
        await session.abort()


def _context(plan: PutPlan) -> EnvelopeContext:
    return EnvelopeContext(
        "dek", SUITE_XWING, CLUSTER, plan.record, 0, bytes(plan.blob), bytes(plan.record)
    )


async def test_copy_profile(cluster: LocalCluster) -> None:
    data, blob = sample(5000), new_blob(cluster)
    done = await put(cluster, cluster.plan(blob, "copy-3"), data)
    assert done.stored.total == 3
    held = cluster.seats(blob.base, "copy-3")
    key = next(iter(cluster.stores[held[0].node.account].keys.scan(KeyTable.KEY_ROWS)))[1]
    dek = open_envelope(
        cluster.patient.record_key(cluster.record, 0),
        KeyRow.decode(key).envelope,
        _context(cluster.plan(blob, "copy-3")),
    )
    for index in (0, 2):
        cluster.faults_of_index(blob, index, "copy-3").down = True
    assert b"".join(await get(cluster, blob, Secrets(dek=dek), profile="copy-3")) == data


async def test_a_right_that_ends_cuts_the_stream(cluster: LocalCluster) -> None:
    blob = new_blob(cluster)
    await put(cluster, cluster.plan(blob), sample(6 * S))
    call = cluster.call("get", blob)
    held = cluster.seats(blob.base)
    manifest = await cluster.fanout.manifest(held, call)
    secrets = Secrets(dek=dek_of(cluster, blob))
    reader = BlobReader(
        cluster.runtime,
        cluster,
        cluster.metrics,
        cluster.hedge,
        GetPlan(call, manifest, held, 0, 6 * S, secrets),
    )
    served = 0

    def until_the_third() -> None:
        if served == 2:
            raise Denied("revoked", reason="revoked")

    with pytest.raises(Denied):  # noqa: PT012 - the count is what is tested
        async for _ in reader.messages(until_the_third):
            served += 1
    assert served == 2


async def test_malformed_metadata_is_refused_before_it_is_sealed(cluster: LocalCluster) -> None:
    plan = cluster.plan(new_blob(cluster))
    session = cluster.session(plan)
    with pytest.raises(Invalid):
        await session.finish(0, b"not metadata", b"", plan.call)
    await session.abort()
    good = Metadata("application/dicom", "scan", ("a",), b"", b"").encode()
    session = cluster.session(plan)
    done = await session.finish(0, good, b"", plan.call)
    assert b"application/dicom" not in done.core.encode()
    assert done.core.commit_by_ms > NOW_MS


# -- who keeps the opening


@pytest.mark.parametrize("nodes", [6, 9, 12])
async def test_every_seat_of_the_record_lists_the_blob(nodes: int) -> None:
    """Holders that are seats of the record keep the opening with their shard; others are asked."""
    runtime = SystemRuntime()
    try:
        cluster = LocalCluster(runtime, nodes)
        blob = BlobId.of(runtime.random(16))
        asked: list[int] = []

        class Noting(FaultyPeer):
            async def store_opening(self, call: Call, opening: bytes, commit_by_ms: int) -> None:
                asked.append(1)
                await super().store_opening(call, opening, commit_by_ms)

        def peer(node: Node) -> Peer:
            return Noting(cluster.holders[node.account], cluster.faults[node.account])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "peer", peer)
            plan = cluster.plan(blob)
            session = cluster.session(plan)
            await session.write(b"heart rate")
            done = await session.finish(10, b"", b"", plan.call)
        opening = Opening(plan.salt, plan.record, blob, done.core.digest(), b"")
        cluster.ledger.commit(opening)
        holders = {seat.node.account for seat in plan.seats}
        apart = [seat for seat in plan.record_seats if seat.node.account not in holders]
        assert len(asked) == len(apart)
        for seat in plan.record_seats:
            listed = await cluster.holders[seat.node.account].load_listing(plan.call)
            assert [entry.opening for entry in listed] == [opening.encode()]
    finally:
        runtime.close()


async def test_a_record_seat_that_could_not_keep_its_shard_is_asked_for_the_opening() -> None:
    """Its disk may be full for shards and not for rows."""
    runtime = SystemRuntime()
    try:
        cluster = LocalCluster(runtime)
        blob = BlobId.of(runtime.random(16))
        plan = cluster.plan(blob)
        full = plan.seats[0].node.account

        class Full(FaultyPeer):
            async def store_whole(
                self, start: ShardStart, pieces: Sequence[Piece], rows: ShardRows
            ) -> bool:
                raise Exhausted("full", reason="disk-full")

        def peer(node: Node) -> Peer:
            kind = Full if node.account == full else FaultyPeer
            return kind(cluster.holders[node.account], cluster.faults[node.account])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "peer", peer)
            session = cluster.session(plan)
            await session.write(b"heart rate")
            done = await session.finish(10, b"", b"", plan.call)
        assert len(done.stored.durable) == 5
        opening = Opening(plan.salt, plan.record, blob, done.core.digest(), b"")
        cluster.ledger.commit(opening)
        assert len(await cluster.holders[full].load_listing(plan.call)) == 1
    finally:
        runtime.close()
