"""Packs over real servers: put, read, list, shred, and what is refused."""

from __future__ import annotations

import pytest

from hcefs.client.put_many import Payload
from tests.services.rig import MARK, Rig

pytestmark = pytest.mark.asyncio(loop_scope="session")


def payloads(rig: Rig, count: int, size: int = 400) -> list[Payload]:
    return [Payload(rig.record, MARK + rig.runtime.random(size)) for _ in range(count)]


async def test_payloads_come_back(rig: Rig) -> None:
    put = payloads(rig, 300, 4000)
    receipts = await rig.hospital.put_many(put, grant=rig.append_grant.grant)
    assert {receipt.durable_shards for receipt in receipts} == {6}
    names = [(rig.record, receipt.ref.blob) for receipt in receipts]
    found = await rig.doctor.get_many(names, grant=rig.read_grant.grant)
    assert found == [bytes(each.data) for each in put]


async def test_a_tiny_pack_is_three_copies(rig: Rig) -> None:
    put = payloads(rig, 3)
    receipts = await rig.hospital.put_many(put, grant=rig.append_grant.grant)
    assert {receipt.total_shards for receipt in receipts} == {3}
    for receipt, each in zip(receipts, put, strict=True):
        for number in range(6):
            node = rig.nodes[number].config.client_address
            stream = await rig.patient.get(rig.record, receipt.ref.blob, node=node)
            assert await stream.read() == each.data
