"""Promise 7 on a real process: overload is refused with a delay, and costs bounded memory.

A hundred and more puts come to one node at once, each sends a segment and then says nothing:
the worst client there is.  The node takes what its limits allow, refuses the others at once,
serves everybody else meanwhile, and finishes what it has taken.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hcefs.cli.cluster_files import node_name
from hcefs.config import load_node_config
from hcefs.errors import Exhausted, HcefsError
from hcefs.wire.v1 import blob_pb2
from tests.cluster.conftest import OpenClient
from tests.cluster.live import LiveCluster, some_bytes, until
from tests.cluster.plain import ByRight, PlainNode, PutHead

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

MIB = 1 << 20
PUTS = 120
PUT_MIB = 24
"""What one put is counted with, of the node's ``memory_mib``."""

OTHER_MIB = 160
"""Beyond what its limits say: gRPC's buffers, the allocator, what the node does besides."""

BUSY = 1


def peak_mib(pid: int) -> int:
    """The most memory that a process ever had."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) // 1024


async def test_promise_7_everything_is_bounded(
    mortal_cluster: LiveCluster, open_client: OpenClient
) -> None:
    cluster = mortal_cluster
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    grant, data = cluster.grants["hospital"], some_bytes(3 * MIB, 7)
    stored = (await hospital.put(cluster.record, data, grant=grant)).ref.blob
    node = cluster.node(await hospital.cluster_map(), BUSY)
    pid = cluster.processes.pid(node_name(BUSY))
    assert pid is not None
    before = peak_mib(pid)
    limits = load_node_config(cluster.folder.config_of(node_name(BUSY))).limits
    most = min(limits.streams, limits.memory_mib // PUT_MIB)
    caller, right, go_on = cluster.caller("hospital"), ByRight(grant), threading.Event()

    def parts() -> Iterator[bytes]:
        yield some_bytes(MIB, 8)
        go_on.wait()

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(PUTS))
    async with PlainNode(node, cluster.connection) as plain:

        async def put() -> blob_pb2.PutResponse:
            head = PutHead.draw(cluster.runtime, cluster.record)
            return await plain.put(caller, head, parts(), MIB, right)

        puts = [asyncio.create_task(put()) for _ in range(PUTS)]
        try:

            async def others_are_refused() -> bool:
                return sum(task.done() for task in puts) >= PUTS - most

            await until(others_are_refused, f"all but {most} puts are refused")
            assert cluster.metric(node_name(BUSY), "hcefs_open_streams") <= most
            stream = await doctor.get(cluster.record, stored, grant=cluster.grants["doctor"])
            assert await stream.read() == data, "the others are served meanwhile"
        finally:
            go_on.set()
        ends = await asyncio.gather(*puts, return_exceptions=True)
    taken = [end for end in ends if isinstance(end, blob_pb2.PutResponse)]
    refused = [end for end in ends if isinstance(end, HcefsError)]
    assert len(taken) + len(refused) == PUTS, [end for end in ends if end not in taken][:3]
    assert 1 <= len(taken) <= most
    for error in refused:
        assert isinstance(error, Exhausted), error
        assert error.retry_after_ms > 0
    assert {answer.durable_shards for answer in taken} == {6}
    grown = peak_mib(pid) - before
    assert grown <= limits.memory_mib + OTHER_MIB, f"{grown} MiB for {len(taken)} puts"
    receipt = await hospital.put(cluster.record, data, grant=grant, node=node.address)
    assert receipt.durable_shards == 6, "it is as it was before"
