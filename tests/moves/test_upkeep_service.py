"""Who is answered about a partition, over real mutual TLS, while a wave is under way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from hcefs.errors import HcefsError
from hcefs.ids import BlobBase
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, Move
from hcefs.placement.ring import partition_of, seats
from hcefs.wire.v1 import shard_pb2, upkeep_pb2
from tests.moves.moving import MovingRig
from tests.services.rig import Running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("moves")]
EC = "ec-4-2"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MovingRig]:
    """A cluster that stays in the first wave: its new node fills no seats."""
    made = MovingRig(tmp_path_factory.mktemp("upkeep"))
    await made.start()
    try:
        await made.stranger.process.node._upkeep.stop()
        await made.apply(lambda m: changes.add(m, [made.node_of(made.stranger)]))
        await made.until(
            lambda: all(
                (found := node.process.follower.view.cluster_map()) is not None and found.epoch == 2
                for node in made.all
            )
        )
        yield made
    finally:
        await made.stop()


def moves(current: ClusterMap, profile: str = EC) -> tuple[Move, ...]:
    return current.table(profile).moving


def quiet(current: ClusterMap) -> int:
    """A partition of which nothing moves, and in which the new node has no seat."""
    busy = {move.partition for move in moves(current)}
    return next(p for p in range(current.table(EC).partitions) if p not in busy)


def node(rig: MovingRig, number: int) -> Running:
    return next(each for each in rig.all if each.number == number)


def place(rig: MovingRig, partition: int, *, epoch: int | None = None, profile: str = EC) -> Any:
    return upkeep_pb2.Place(
        epoch=rig.current().epoch if epoch is None else epoch, profile=profile, partition=partition
    )


def holders(rig: MovingRig) -> list[tuple[Running, int]]:
    """Nodes that have a shard of the blob, and its index: the new node may have a seat of it,
    and fills none."""
    current, base = rig.current(), rig.receipt.ref.blob.base
    return [
        (node(rig, seat.node.node_id), seat.index)
        for seat in seats(current, EC, base)
        if seat.node.account != rig.stranger.account
    ]


async def ask(rig: MovingRig, asking: Running, asked: Running, method: str, request: Any) -> bytes:
    return await rig.unary(
        asked.config.peer_address, f"/hcefs.v1.Upkeep/{method}", request, asking.identity
    )


async def lists(rig: MovingRig, asking: Running, asked: Running, where: Any) -> bytes:
    request = upkeep_pb2.ListShardsRequest(place=where)
    return await ask(rig, asking, asked, "ListShards", request)


async def test_seat_destination_and_source_are_answered(rig: MovingRig) -> None:
    current = rig.current()
    move = moves(current)[0]
    row = current.table(EC).node_rows[move.partition]
    asked = node(rig, row[(move.seat + 1) % 6])
    for number in (row[move.seat], move.source, row[(move.seat + 2) % 6]):
        await lists(rig, node(rig, number), asked, place(rig, move.partition))


async def test_a_node_without_a_seat_in_the_row_is_denied(rig: MovingRig) -> None:
    partition = quiet(rig.current())
    where, base = place(rig, partition), rig.receipt.ref.blob.base
    requests = {
        "ListShards": upkeep_pb2.ListShardsRequest(place=where),
        "ListRecords": upkeep_pb2.ListRecordsRequest(place=where),
        "LoadRows": upkeep_pb2.LoadRowsRequest(place=where, base=bytes(base)),
        "LoadRecord": upkeep_pb2.LoadRecordRequest(place=where, record_id=bytes(rig.record)),
        "ManifestDigests": upkeep_pb2.ManifestDigestsRequest(place=where, bases=[bytes(base)]),
    }
    for method, request in requests.items():
        call = ask(rig, rig.stranger, rig.nodes[0], method, request)
        await rig.refused(call, "denied", "not-a-seat")
    load = upkeep_pb2.LoadShardRequest(place=where, base=bytes(base))
    loading = rig.download(
        rig.nodes[0].config.peer_address, "/hcefs.v1.Upkeep/LoadShard", load, rig.stranger.identity
    )
    await rig.refused(loading, "denied", "not-a-seat")
    # Whether something has arrived is told to any node: its former holder asks that.
    has = upkeep_pb2.HasShardsRequest(place=where)
    await ask(rig, rig.stranger, rig.nodes[0], "HasShards", has)


async def test_holders_of_a_row_compare_what_they_have_and_nothing_else(rig: MovingRig) -> None:
    current, base = rig.current(), rig.receipt.ref.blob.base
    (asking, _), (asked, _) = holders(rig)[:2]
    where = place(rig, partition_of(base, current.table(EC).bits))
    bases = [bytes(base), bytes(base)]
    answers = []
    for one, other in ((asking, asked), (asked, asking)):
        request = upkeep_pb2.ManifestDigestsRequest(place=where, bases=bases)
        data = await ask(rig, one, other, "ManifestDigests", request)
        answers.append(upkeep_pb2.ManifestDigestsResponse.FromString(data).digests)
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == 1
    assert len(answers[0][0]) == 32
    far = next(
        bytes([n]) * 16
        for n in range(256)
        if partition_of(bytes([n]) * 16, current.table(EC).bits) != where.partition
    )
    elsewhere = upkeep_pb2.ManifestDigestsRequest(place=where, bases=[far])
    call = ask(rig, asking, asked, "ManifestDigests", elsewhere)
    await rig.refused(call, "denied", "wrong-partition")
    many = upkeep_pb2.ManifestDigestsRequest(place=where, bases=[bytes(base)] * 257)
    await rig.refused(ask(rig, asking, asked, "ManifestDigests", many), "invalid", "too-large")


async def test_who_is_no_node_is_not_answered(rig: MovingRig) -> None:
    where = place(rig, quiet(rig.current()))
    request = upkeep_pb2.ListShardsRequest(place=where)
    unknown = rig.issue("somebody")
    asked = rig.nodes[0].config.peer_address
    call = rig.unary(asked, "/hcefs.v1.Upkeep/ListShards", request, unknown)
    await rig.refused(call, "unauthenticated", "unknown-node")
    has = rig.unary(
        asked, "/hcefs.v1.Upkeep/HasShards", upkeep_pb2.HasShardsRequest(place=where), unknown
    )
    await rig.refused(has, "unauthenticated", "unknown-node")
    with pytest.raises(HcefsError):  # no certificate at all: no connection
        await rig.unary(asked, "/hcefs.v1.Upkeep/ListShards", request)


@pytest.mark.parametrize("method", ["ListShards", "LoadRows", "LoadRecord", "HasShards"])
async def test_the_client_port_does_not_serve_it(rig: MovingRig, method: str) -> None:
    asked = rig.nodes[0].config.client_address
    for identity in (None, rig.nodes[1].identity):
        with pytest.raises(HcefsError) as caught:
            await rig.unary(asked, f"/hcefs.v1.Upkeep/{method}", b"", identity)
        assert caught.value.kind not in ("unavailable", "denied", "unauthenticated")


async def test_an_older_epoch_is_refused(rig: MovingRig) -> None:
    partition = quiet(rig.current())
    for epoch in (0, 1):
        where = place(rig, partition, epoch=epoch)
        await rig.refused(
            lists(rig, rig.nodes[1], rig.nodes[0], where), "unavailable", "other-epoch"
        )


async def test_a_newer_epoch_that_does_not_come_is_refused(rig: MovingRig) -> None:
    where = place(rig, quiet(rig.current()), epoch=rig.current().epoch + 1)
    await rig.refused(lists(rig, rig.nodes[1], rig.nodes[0], where), "unavailable", "other-epoch")


async def test_there_is_no_such_partition_or_profile(rig: MovingRig) -> None:
    partitions = rig.current().table(EC).partitions
    await rig.refused(
        lists(rig, rig.nodes[1], rig.nodes[0], place(rig, partitions)), "invalid", "bad-partition"
    )
    await rig.refused(
        lists(rig, rig.nodes[1], rig.nodes[0], place(rig, 0, profile="ec-99-1")),
        "not-found",
        "unknown-profile",
    )


async def test_what_lies_in_another_partition_is_refused(rig: MovingRig) -> None:
    """The caller is a seat of both, but has shown so for one."""
    base = rig.receipt.ref.blob.base
    partition = partition_of(base, rig.current().table(EC).bits)
    other = next(p for p in (0, 1) if p != partition)
    where = place(rig, other)
    row = rig.current().table(EC).node_rows[other]
    asking, asked = node(rig, row[0]), node(rig, row[1])
    requests = {
        "LoadRows": upkeep_pb2.LoadRowsRequest(place=where, base=bytes(base)),
        "HasShards": upkeep_pb2.HasShardsRequest(
            place=where, shards=[upkeep_pb2.ListedShard(base=bytes(base), index=0)]
        ),
    }
    if partition_of(rig.record, rig.current().table(EC).bits) != other:
        record = bytes(rig.record)
        requests["LoadRecord"] = upkeep_pb2.LoadRecordRequest(place=where, record_id=record)
        requests["HasRows"] = upkeep_pb2.HasRowsRequest(place=where, record_id=record)
    for method, request in requests.items():
        call = ask(rig, asking, asked, method, request)
        await rig.refused(call, "denied", "wrong-partition")
    load = upkeep_pb2.LoadShardRequest(place=where, base=bytes(base))
    loading = rig.download(
        asked.config.peer_address, "/hcefs.v1.Upkeep/LoadShard", load, asking.identity
    )
    await rig.refused(loading, "denied", "wrong-partition")


async def test_records_lie_under_the_default_profile(rig: MovingRig) -> None:
    row = rig.current().table("copy-3").node_rows[3]
    request = upkeep_pb2.ListRecordsRequest(place=place(rig, 3, profile="copy-3"))
    call = ask(rig, node(rig, row[0]), node(rig, row[1]), "ListRecords", request)
    await rig.refused(call, "invalid", "wrong-profile")


@pytest.mark.parametrize("index", [255, 256, 2**32 - 1])
async def test_an_index_that_no_profile_has(rig: MovingRig, index: int) -> None:
    base = rig.receipt.ref.blob.base
    where = place(rig, partition_of(base, rig.current().table(EC).bits))
    row = rig.current().table(EC).node_rows[where.partition]
    asking, asked = node(rig, row[0]), node(rig, row[1])
    has = upkeep_pb2.HasShardsRequest(
        place=where, shards=[upkeep_pb2.ListedShard(base=bytes(base), index=index)]
    )
    await rig.refused(ask(rig, asking, asked, "HasShards", has), "invalid", "bad-index")
    load = upkeep_pb2.LoadShardRequest(place=where, base=bytes(base), index=index)
    call = rig.download(
        asked.config.peer_address, "/hcefs.v1.Upkeep/LoadShard", load, asking.identity
    )
    await rig.refused(call, "invalid", "bad-index")


async def test_too_much_at_once(rig: MovingRig) -> None:
    base = bytes(BlobBase(bytes(16)))
    where = place(rig, partition_of(base, rig.current().table(EC).bits))
    shards = [upkeep_pb2.ListedShard(base=base, index=0)] * 1001
    request = upkeep_pb2.HasShardsRequest(place=where, shards=shards)
    call = ask(rig, rig.nodes[1], rig.nodes[0], "HasShards", request)
    await rig.refused(call, "invalid", "too-large")


@pytest.mark.parametrize("method", ["ListShards", "ListRecords"])
async def test_a_list_of_many_partitions_is_bounded_and_in_order(
    rig: MovingRig, method: str
) -> None:
    kind = getattr(upkeep_pb2, f"{method}Request")
    for also in ([4], [9, 8], [5, 5], [3], list(range(5, 300))):
        call = ask(rig, rig.nodes[1], rig.nodes[0], method, kind(place=place(rig, 4), also=also))
        await rig.refused(call, "invalid", "bad-partitions")


async def test_a_list_names_no_further_partition_without_a_seat_there(rig: MovingRig) -> None:
    current = rig.current()
    rows = current.table(EC).node_rows
    partition = next(p for p in range(1, len(rows)) if rig.nodes[0].number in rows[p])
    request = upkeep_pb2.ListShardsRequest(
        place=place(rig, quiet(current)), also=[quiet(current) + 1]
    )
    call = ask(rig, rig.stranger, rig.nodes[0], "ListShards", request)
    await rig.refused(call, "denied", "not-a-seat")
    beyond = upkeep_pb2.ListShardsRequest(place=place(rig, partition), also=[len(rows)])
    with pytest.raises(HcefsError):
        await ask(rig, rig.nodes[0], rig.nodes[1], "ListShards", beyond)


async def test_what_is_served_is_what_lies_here(rig: MovingRig) -> None:
    base = rig.receipt.ref.blob.base
    where = place(rig, partition_of(base, rig.current().table(EC).bits))
    row = rig.current().table(EC).node_rows[where.partition]
    asking, asked = node(rig, row[0]), next(n for n in rig.nodes if n.number in row[1:])
    answer = upkeep_pb2.ListShardsResponse.FromString(await lists(rig, asking, asked, where))
    (listed,) = [each for each in answer.shards if each.base == bytes(base)]
    rows = upkeep_pb2.LoadRowsResponse.FromString(
        await ask(
            rig, asking, asked, "LoadRows",
            upkeep_pb2.LoadRowsRequest(place=where, base=bytes(base)),
        )
    )  # fmt: skip
    assert rows.core
    assert rows.key_row
    load = upkeep_pb2.LoadShardRequest(place=where, base=bytes(base), index=listed.index)
    messages = await rig.download(
        asked.config.peer_address, "/hcefs.v1.Upkeep/LoadShard", load, asking.identity
    )
    assert shard_pb2.LoadResponse.FromString(messages[0]).header.pieces == 3
    assert asked.process.metrics.value("upkeep_served_bytes_total") > 700_000


async def test_a_node_with_a_stale_lease_does_not_answer(rig: MovingRig) -> None:
    asked = rig.nodes[0]
    where = place(rig, quiet(rig.current()))
    await lists(rig, rig.nodes[1], asked, where)
    asked.runtime.offset_ms = rig.lease_ms + 1_500
    try:
        await rig.refused(lists(rig, rig.nodes[1], asked, where), "unavailable", "stale-lease")
    finally:
        asked.runtime.offset_ms = 0


async def test_a_newer_epoch_is_waited_for(rig: MovingRig) -> None:
    """Last, because it goes on to the next map."""
    current = rig.current()
    where = place(rig, quiet(current), epoch=current.epoch + 1)
    call = rig.runtime.spawn(lists(rig, rig.nodes[1], rig.nodes[0], where), name="early")
    await rig.apply(lambda m: changes.reweight(m, 1, 90))
    await call
    assert rig.current().epoch == current.epoch + 1


async def test_any_active_node_may_offer_what_lies_in_the_row(rig: MovingRig) -> None:
    current, base = rig.current(), rig.receipt.ref.blob.base
    asked, index = holders(rig)[0]
    partition = partition_of(base, current.table(EC).bits)
    asking = next(each for each in rig.nodes if each is not asked)
    shard = upkeep_pb2.ListedShard(base=bytes(base), index=index)
    where = place(rig, partition)
    request = upkeep_pb2.OfferRequest(place=where, shards=[shard])
    answer = await ask(rig, asking, asked, "Offer", request)
    assert upkeep_pb2.OfferResponse.FromString(answer).held == b"\x01"
    for wrong, kind, reason in (
        (
            upkeep_pb2.OfferRequest(place=place(rig, partition ^ 1), shards=[shard]),
            "denied",
            "wrong-partition",
        ),
        (upkeep_pb2.OfferRequest(place=where, shards=[shard] * 1001), "invalid", "too-large"),
        (
            upkeep_pb2.OfferRequest(place=where, records=[bytes(base)] * 1001),
            "invalid",
            "too-large",
        ),
    ):
        await rig.refused(ask(rig, asking, asked, "Offer", wrong), kind, reason)
    call = rig.unary(
        asked.config.peer_address, "/hcefs.v1.Upkeep/Offer", request, rig.issue("somebody")
    )
    await rig.refused(call, "unauthenticated", "unknown-node")
