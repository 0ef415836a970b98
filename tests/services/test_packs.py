"""Packs over real servers: put, read, list, lend, shred."""

from __future__ import annotations

import pytest

from hcefs.access.batch import BatchGroup
from hcefs.access.facts import Action
from hcefs.client.authorize import Right
from hcefs.client.get_many import Wanted
from hcefs.config import LimitsConfig
from hcefs.errors import HcefsError
from hcefs.formats.pack import PackedKey, PackLayout, PackOpening, PackProof
from hcefs.ids import BlobBase, BlobId, GrantId
from hcefs.store.interface import KeyTable
from hcefs.transport.framing import DataFrame, parse
from hcefs.wire.v1 import blob_pb2
from tests.services.packs import (
    batch_authorization,
    get_many,
    groups_of,
    payloads_of,
    put_many,
    receive,
    sealed_pack,
    send,
)
from tests.services.requests import BLOBS, ask, get, put_header
from tests.services.rig import HOUR_MS, MARK, Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


async def test_payloads_come_back(rig: Rig) -> None:
    put = payloads_of(rig, 300, 4000)
    receipts = await rig.hospital.put_many(put, grant=rig.append_grant.grant)
    assert {(each.durable_shards, each.degraded) for each in receipts} == {(6, False)}
    names = [(rig.record, receipt.ref.blob) for receipt in receipts]
    for node in (rig.nodes[0], rig.nodes[3]):
        found = await rig.doctor.get_many(
            names, grant=rig.read_grant.grant, node=node.config.client_address
        )
        assert found == [bytes(each.data) for each in put]


async def test_a_tiny_pack_is_three_copies(rig: Rig) -> None:
    put = payloads_of(rig, 3)
    receipts = await rig.hospital.put_many(put, grant=rig.append_grant.grant)
    assert {receipt.total_shards for receipt in receipts} == {3}
    for receipt, each in zip(receipts, put, strict=True):
        for node in rig.nodes:
            stream = await rig.patient.get(
                rig.record, receipt.ref.blob, node=node.config.client_address
            )
            assert await stream.read() == each.data


async def test_pending_payloads_are_not_served(rig: Rig) -> None:
    node, pack = rig.nodes[1], sealed_pack(rig, [MARK, MARK])
    answer = await send(rig, node, put_many(rig, node, pack).messages())
    assert (answer.durable_shards, answer.total_shards, answer.degraded) == (3, 3, False)
    layout = PackLayout.decode(answer.layout)
    layout.check(node.keys.signing_key.public_key)
    assert layout.base == pack.base
    blobs = [BlobId.of(pack.base, 1), BlobId.of(pack.base, 2)]
    groups = [BatchGroup(0, rig.record, b"".join(bytes(blob) for blob in blobs))]
    for each in rig.nodes:
        found = await receive(rig, each, get_many(rig, each, groups))
        assert {payload.failure.reason for payload in found.values()} == {"not-committed"}
        assert not any(payload.core or payload.sealed for payload in found.values())
        asked = rig.authorization(rig.doctor, "stat", each, rig.read_grant, blob=blobs[0])
        stat = ask(rig, each, "stat", asked, blob_id=bytes(blobs[0]))
        await rig.refused(stat, "not-found", "not-committed")


async def test_a_thin_client_reads_one(rig: Rig) -> None:
    """``Stat`` and ``Get`` by a single authorization: opened here, there, or in part."""
    (receipt,) = await rig.hospital.put_many(payloads_of(rig, 1), grant=rig.append_grant.grant)
    blob, node = receipt.ref.blob, rig.nodes[2]
    asked = rig.authorization(rig.doctor, "stat", node, rig.read_grant, blob=blob)
    (answer,) = await ask(rig, node, "stat", asked, blob_id=bytes(blob))
    stat = blob_pb2.StatResponse.FromString(answer)
    assert stat.core == receipt.core.encode()
    assert PackLayout.decode(stat.layout).base == blob.base
    key_row, proof = PackedKey.decode(stat.key_row), PackProof.decode(stat.opening)
    assert (key_row.blob, key_row.record) == (blob, rig.record)
    assert (proof.blob, proof.core_digest) == (blob, receipt.core.digest())
    leaf = rig.nodes[0].process.follower.view.leaf_index(rig.record, proof.commitment())
    assert leaf == receipt.ref.leaf_index

    packed = await rig.patient._packed(
        [Wanted(rig.record, blob, Right(GrantId.zero(), "PATRQT"))],
        "PATRQT",
        node.config.client_address,
    )
    assert not isinstance(packed[0], HcefsError)
    whole, dek = packed[0].plaintext, packed[0].dek
    rig.secrets.add(dek)
    for start, length in ((0, 0), (3, 10), (len(whole), 0)):
        header, *data = await get(
            rig, node, blob_id=bytes(blob), range_start=start, range_length=length, dek=dek
        )
        told = blob_pb2.GetResponse.FromString(header).header
        end = start + length if length else len(whole)
        assert (told.range_start, told.range_length) == (start, end - start)
        assert told.plaintext_length == len(whole)
        assert b"".join(_data(each) for each in data) == whole[start:end]
    _, sealed = await get(rig, node, blob_id=bytes(blob))
    assert len(_data(sealed)) == len(whole) + 48
    assert MARK not in sealed
    await rig.refused(get(rig, node, blob_id=bytes(blob), dek=bytes(32)), "denied", "wrong-key")
    await rig.refused(
        get(rig, node, blob_id=bytes(blob), range_start=10_000, dek=dek), "invalid", "bad-range"
    )


def _data(message: bytes) -> bytes:
    frame = parse(message, blob_pb2.GetResponse)
    assert isinstance(frame, DataFrame)
    return bytes(frame.data)


async def test_a_grant_on_one_payload_shows_no_other(rig: Rig) -> None:
    receipts = await rig.hospital.put_many(payloads_of(rig, 4), grant=rig.append_grant.grant)
    lent, other = receipts[1].ref.blob, receipts[2].ref.blob
    end = rig.runtime.now_ms() + 2 * HOUR_MS
    grant = await rig.patient.give(
        rig.record, rig.outsider.account, Action.READ, ("TREAT",), blob=lent, not_after_ms=end
    )
    stream = await rig.outsider.get(rig.record, lent, grant=grant.grant)
    assert (await stream.read()).startswith(MARK)
    node = rig.nodes[0]
    groups = groups_of(receipts)
    request = get_many(
        rig,
        node,
        groups,
        authorization=batch_authorization(rig, rig.outsider, "get-many", node, grant, groups),
        min_height=rig.patient.height,
    )
    found = await receive(rig, node, request)
    reasons = {blob: payload.failure.reason for blob, payload in found.items()}
    assert reasons[lent] == ""
    assert reasons[other] == "wrong-blob"
    assert [blob for blob, payload in found.items() if payload.sealed] == [lent]
    assert found[lent].proof, "the opening would tell of the others"


async def test_packs_are_listed(rig: Rig) -> None:
    receipts = await rig.hospital.put_many(payloads_of(rig, 5), grant=rig.append_grant.grant)
    listing = await rig.doctor.list(rig.record, grant=rig.read_grant.grant)
    assert listing.complete
    assert {receipt.ref.blob for receipt in receipts} <= {entry.blob for entry in listing}
    asked = rig.authorization(rig.doctor, "list", rig.nodes[0], rig.read_grant)
    answers = await ask(rig, rig.nodes[0], "list", asked, min_height=rig.hospital.height)
    openings = [
        entry.opening
        for data in answers
        for entry in blob_pb2.ListResponse.FromString(data).entries
    ]
    assert any(opening[2:14].endswith(PackOpening.KIND.encode()) for opening in openings)


async def test_one_payload_is_shredded(rig: Rig) -> None:
    receipts = await rig.hospital.put_many(payloads_of(rig, 4), grant=rig.append_grant.grant)
    gone = receipts[2].ref.blob
    for node in rig.nodes:
        node.process.stores.keys.delete([(KeyTable.KEY_ROWS, bytes(gone))])
    groups = groups_of(receipts)
    for node in rig.nodes[:2]:
        found = await receive(
            rig, node, get_many(rig, node, groups, min_height=rig.hospital.height)
        )
        for blob, payload in found.items():
            shown = payload.failure.kind, payload.failure.reason
            assert shown == (("not-found", "shredded") if blob == gone else ("", ""))
            assert bool(payload.sealed) == (blob != gone)
    asked = rig.authorization(rig.doctor, "stat", rig.nodes[0], rig.read_grant, blob=gone)
    (answer,) = await ask(rig, rig.nodes[0], "stat", asked, blob_id=bytes(gone))
    assert blob_pb2.StatResponse.FromString(answer).key_row == b""
    call = get(rig, rig.nodes[0], blob_id=bytes(gone))
    await rig.refused(call, "not-found", "shredded")


async def test_single_blobs_are_not_read_in_batches(rig: Rig) -> None:
    group = groups_of([rig.receipt])
    found = await receive(rig, rig.nodes[0], get_many(rig, rig.nodes[0], group))
    (payload,) = found.values()
    assert (payload.failure.kind, payload.failure.reason) == ("invalid", "not-packed")


async def test_a_put_of_one_blob_takes_no_slot(rig: Rig) -> None:
    blob = BlobId.of(rig.runtime.random(16), 3)
    call = rig.upload(
        rig.nodes[0].config.client_address, f"{BLOBS}/Put", [put_header(rig, rig.nodes[0], blob)]
    )
    await rig.refused(call, "invalid", "unsupported")


async def test_full_disks(rig: Rig) -> None:
    full = LimitsConfig(put_deadline_s=5.0, reserve_mib=1 << 30)
    gateway, payload = rig.nodes[0], MARK + bytes(100_000)
    told: list[tuple[int, BlobBase, int, str]] = []
    async with rig.restarted(rig.nodes[5], limits=full):
        pack = sealed_pack(rig, [payload])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                gateway.process.node.repairs,
                "suspect",
                lambda node, *shard: told.append((node.node_id, *shard)),
            )
            answer = await send(rig, gateway, put_many(rig, gateway, pack).messages())
        assert (answer.durable_shards, answer.degraded) == (5, True)
        blob = BlobId.of(pack.base, 1)
        (lacking,) = [
            s for s in rig.seats(bytes(blob.base)) if s.node.node_id == rig.nodes[5].number
        ]
        assert told == [(rig.nodes[5].number, pack.base, lacking.index, "ec-4-2")]
        assert rig.kept(rig.nodes[5], blob) == []
        assert not rig.temporaries(rig.nodes[5])
        async with rig.restarted(rig.nodes[4], limits=full):
            pack = sealed_pack(rig, [payload])
            call = send(rig, gateway, put_many(rig, gateway, pack).messages())
            error = await rig.refused(call, "unavailable", "too-few-holders")
            assert "disk-full" in error.message


async def test_a_lost_and_a_damaged_shard(rig: Rig) -> None:
    put = payloads_of(rig, 60, 4000)
    receipts = await rig.hospital.put_many(put, grant=rig.append_grant.grant)
    blob = receipts[0].ref.blob
    lost, bad = rig.node_of_index(blob, 0), rig.node_of_index(blob, 2)
    lost.process.stores.shards.remove(blob.base, 0)
    folder = bad.config.data / "shards"
    (path,) = folder.glob(f"??/{bytes(blob.base).hex()}.2")
    data = bytearray(path.read_bytes())
    data[300:-200] = bytes(byte ^ 0x55 for byte in data[300:-200])
    path.unlink()
    path.write_bytes(data)
    names = [(rig.record, receipt.ref.blob) for receipt in receipts]
    for node in (rig.nodes[0], bad, lost):
        found = await rig.doctor.get_many(
            names, grant=rig.read_grant.grant, node=node.config.client_address
        )
        assert found == [bytes(each.data) for each in put]
    counted = sum(node.process.metrics.value("corrupt_shards_total") for node in rig.nodes)
    assert counted >= 1


async def test_metrics_count_payloads(rig: Rig) -> None:
    def value(name: str, **labels: str) -> float:
        return sum(node.process.metrics.value(name, **labels) for node in rig.nodes)

    before = {
        "puts": value("puts_total", outcome="ok"),
        "packs": value("packs_total", outcome="ok"),
        "sizes": value("pack_payloads"),
        "put bytes": value("put_bytes_total"),
        "stored": value("packed_payloads_stored_total"),
        "gets": value("gets_total", outcome="ok"),
        "get bytes": value("get_bytes_total"),
    }
    put = payloads_of(rig, 7)
    receipts = await rig.hospital.put_many(put, grant=rig.append_grant.grant)
    names = [(rig.record, receipt.ref.blob) for receipt in receipts]
    await rig.doctor.get_many(names, grant=rig.read_grant.grant)
    size = sum(len(each.data) for each in put)
    after = {
        "puts": value("puts_total", outcome="ok") - 7,
        "packs": value("packs_total", outcome="ok") - 1,
        "sizes": value("pack_payloads") - 1,
        "put bytes": value("put_bytes_total") - size,
        "stored": value("packed_payloads_stored_total") - 21,
        "gets": value("gets_total", outcome="ok") - 7,
        "get bytes": value("get_bytes_total") - size,
    }
    assert after == before
