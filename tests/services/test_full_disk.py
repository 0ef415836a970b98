"""Nodes whose disk is full up to the reserve: degraded puts, then refused ones."""

from __future__ import annotations

from functools import partial

import pytest

from hcefs.config import LimitsConfig
from hcefs.erasure.scheme import SEGMENT_SIZE
from hcefs.errors import Exhausted
from hcefs.ids import BlobId
from hcefs.integrity import crc32c
from hcefs.transport.framing import frame_data
from hcefs.wire.v1 import shard_pb2
from tests.services.requests import DATA, SHARDS, ask, call_context, get, put, put_messages
from tests.services.rig import MARK, Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

FULL = LimitsConfig(put_deadline_s=5.0, reserve_mib=1 << 30)
"""A reserve of a pebibyte: no disk has that much free."""


async def test_full_disks(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    first, second, gateway = rig.nodes[5], rig.nodes[4], rig.nodes[0]
    async with rig.restarted(first, limits=FULL):
        await _refused_by_the_holder(rig)
        for data in ([DATA], [MARK + rig.runtime.random(SEGMENT_SIZE - len(MARK))] * 3):
            blob = rig.new_blob()
            caplog.clear()
            answer = await put(rig, gateway, put_messages(rig, gateway, blob, data))
            assert (answer.durable_shards, answer.total_shards, answer.degraded) == (5, 6, True)
            assert f"on node {first.number} failed: exhausted (disk-full)" in caplog.text
            assert not [name for name in rig.kept(first, blob) if name.startswith("shard")]
            assert not rig.temporaries(first)
        await _full_gateway(rig)
        async with rig.restarted(second, limits=FULL):
            await _two_are_too_many(rig)
    answer = await put(rig, gateway, put_messages(rig, gateway, rig.new_blob()))
    assert (answer.durable_shards, answer.degraded) == (6, False)


async def _refused_by_the_holder(rig: Rig) -> None:
    """The holder itself says why."""
    gateway, holder, blob = rig.nodes[0], rig.nodes[5], rig.new_blob()
    header = shard_pb2.StoreRequest(
        header=shard_pb2.StoreHeader(
            context=call_context(rig, gateway, "put", blob=blob),
            index=rig.index_of(blob, holder),
            profile="ec-4-2",
            segment_size=1 << 20,
        )
    )
    data = frame_data(DATA, crc32c(DATA))
    call = rig.upload(
        holder.config.peer_address, f"{SHARDS}/Store", [header, *[data] * 20], gateway.identity
    )
    error = await rig.refused(call, "exhausted", "disk-full")
    assert isinstance(error, Exhausted)
    assert error.retry_after_ms == 60_000


async def _full_gateway(rig: Rig) -> None:
    """A full node still takes puts for others, and still serves what it has."""
    full, blob = rig.nodes[5], rig.new_blob()
    answer = await put(rig, full, put_messages(rig, full, blob))
    assert answer.durable_shards == 5
    assert await get(rig, full)


async def _two_are_too_many(rig: Rig) -> None:
    gateway = rig.nodes[0]
    for data in ([DATA], [MARK + rig.runtime.random(SEGMENT_SIZE - len(MARK))] * 3):
        blob = rig.new_blob()
        call = put(rig, gateway, put_messages(rig, gateway, blob, data))
        error = await rig.refused(call, "unavailable", "too-few-holders")
        assert error.retryable
        assert "disk-full" in error.message
        asked = rig.authorization(rig.doctor, "stat", gateway, rig.read_grant, blob=blob)
        stat = ask(rig, gateway, "stat", asked, blob_id=bytes(blob))
        await rig.refused(stat, "not-found", _hidden(rig, blob))
        for node in rig.nodes:
            await rig.until(partial(rig.tidy, node))
        await rig.until(lambda: not gateway.process.gate.held)


def _hidden(rig: Rig, blob: BlobId) -> str:
    """Holders may keep a pending shard until its time is up, but serve it to nobody."""
    kept = any("row of CORES" in rig.kept(node, blob) for node in rig.nodes)
    return "not-committed" if kept else "unknown-blob"
