"""Retention, holds and erasure through real servers, and a node that was away meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hcefs.access.facts import Action
from hcefs.client.erasure_check import check_certificate
from hcefs.errors import HcefsError
from hcefs.evidence.erasure import ErasureCertificate
from hcefs.formats.erasure import ErasureStage
from hcefs.formats.keybox import KeyBox
from hcefs.formats.manifest import KeyRow
from hcefs.formats.pack import PackOpening, decode_opening
from hcefs.ids import RecordId
from hcefs.ledger.transactions_erasure import EraseRecord
from hcefs.node.storage_process import StorageProcess
from hcefs.store.interface import KeyTable, Table
from hcefs.wire.v1 import admin_pb2
from tests.services.rig import HOUR_MS, MARK, Rig, Running
from tests.unit.upkeep.erasing import rows_of

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

CASE = bytes(range(32))
KEPT_MS = 6_000
"""Long enough for what is done before the date, on a busy machine."""


async def filled(rig: Rig, until_ms: int) -> RecordId:
    """A record of the patient with a blob, packed payloads, and a reader who has a box."""
    patient = rig.patient
    record = (await patient.open_record()).record
    await patient.set_retention(record, until_ms, "DE")
    await patient.put(record, MARK + rig.runtime.random(2_000), name="scan")
    await patient.put_many([(record, MARK + bytes([n]) * 50) for n in range(3)])
    end = rig.runtime.now_ms() + HOUR_MS
    await patient.give(
        record, rig.doctor.account, Action.READ, ("TREAT",), not_before_ms=None, not_after_ms=end
    )
    return record


def secrets(rig: Rig, record: RecordId) -> set[bytes]:
    """What opens or names its content, by the rows of all nodes: sealed keys, boxes, salts."""
    found: set[bytes] = set()
    for node in rig.nodes:
        stores = node.process.stores
        for _, value in stores.rows.scan(Table.OPENINGS):
            opening = decode_opening(value)
            if opening.record != record:
                continue
            found.add(opening.salt)
            if isinstance(opening, PackOpening):
                keys = stores.keys.scan(KeyTable.KEY_ROWS, bytes(opening.base))
                found |= {wrapped for key, wrapped in keys if key[16:] != b"\x00\x00"}
        for key, value in stores.keys.scan(KeyTable.KEY_ROWS):
            if key[16:] == b"\x00\x00" and (row := KeyRow.decode(value)).record == record:
                found.add(row.envelope.ciphertext[-48:])
        for _, value in stores.keys.scan(KeyTable.BOXES, bytes(record)):
            found.add(KeyBox.decode(value).envelope.ciphertext[-48:])
    return found


def raw(node: Running, wanted: set[bytes]) -> list[str]:
    """The files of a node's databases that hold any of these bytes."""
    files: Iterator[Path] = (
        path
        for name in ("keys", "rows")
        for path in (node.config.data / name).iterdir()
        if path.is_file()
    )
    return [
        f"node {node.number}: {path.name}"
        for path in files
        if any(each in path.read_bytes() for each in wanted)
    ]


def done(node: Running, record: RecordId) -> bool:
    found = node.process.node.eraser.progress(record)
    return found is not None and found.stage is ErasureStage.DONE


async def test_a_record_ends(rig: Rig) -> None:
    """Kept, held, erased; one node is away and comes back; nothing is in any file."""
    until_ms = rig.runtime.now_ms() + KEPT_MS
    patient, record = rig.patient, await filled(rig, until_ms)
    await rig.until(lambda: bool(secrets(rig, record)))
    wanted = secrets(rig, record)
    assert any(raw(node, wanted) for node in rig.nodes), "the search finds what is there"
    listing = await patient.list(record)
    assert len(listing.entries) == 4

    await rig.refused(patient.erase(record), "conflict", "retained")
    hold = await rig.hospital.place_hold(record, CASE)
    await rig.until(lambda: rig.runtime.now_ms() >= until_ms)
    await rig.refused(patient.erase(record), "conflict", "on-hold")
    await rig.refused(rig.outsider.lift_hold(record, hold), "denied", "not-the-placer")
    await rig.hospital.lift_hold(record, hold)
    await rig.refused(rig.doctor.erase(record), "denied", "not-the-owner")
    await rig.refused(patient.erasure_certificate(record), "not-found", "not-erased")

    away = rig.nodes[2]
    await away.process.stop()
    erased = await patient.erase(record)
    others = [node for node in rig.nodes if node is not away]
    for node in others:
        await rig.until(partial(done, node, record))
    certificate = await patient.erasure_certificate(record)
    checked = check_certificate(certificate, rig.cluster)
    assert checked.height == erased.height
    assert [each.account for each in checked.exposure.missing] == [away.account]
    assert checked.exposure.openers == (patient.account, rig.doctor.account)
    error = await rig.refused(patient.list(record), "not-found", "erased")
    assert str(erased.height) in error.message
    assert sum(len(raw(node, wanted)) for node in others) == 0
    assert raw(away, wanted)

    serving: list[bool] = []
    away.process = StorageProcess(away.config, away.runtime, rig.snapshots)
    await away.process.start()
    stores = away.process.stores

    def serves() -> bool:
        able = away.process.able()
        if able:
            left = {row.split()[0] for row in rows_of(stores, record)}
            serving.append(left.isdisjoint(KeyTable.__members__))
        return able and done(away, record)

    await rig.until(serves)
    assert all(serving), "it served before the keys were gone"
    assert raw(away, wanted) == []
    whole = await patient.erasure_certificate(record, wait_seconds=10)
    assert check_certificate(whole, rig.cluster).exposure.complete
    assert ErasureCertificate.decode(whole.encode()) == whole
    assert [rows_of(node.process.stores, record) for node in rig.nodes] == [[]] * 6
    for entry in listing.entries:
        await rig.refused(patient.stat(record, entry.blob), "denied", "erased")


async def test_what_the_ledger_keeps_leads_to_nothing(rig: Rig) -> None:
    """Of an erased record's entries the ledger has commitments, and nobody their salts."""
    record = (await rig.patient.open_record()).record
    await rig.patient.put(record, MARK + b"content")
    opening = next(iter((await rig.patient.list(record)).entries)).opening
    assert isinstance(opening, PackOpening)
    leaves = await rig.patient.leaves(record, 0, 1)
    assert leaves[0].commitment == opening.commitment()
    signed = rig.operators[0].prepare(EraseRecord(record, CASE))
    await rig.operators[0].submit(rig.operators[1].cosign(signed))
    for node in rig.nodes:
        await rig.until(partial(done, node, record))
    state = [value for _, value in rig.ledger.log.scan(b"")]
    for secret in (opening.salt, bytes(opening.base), opening.core_digests):
        assert not any(secret in value for value in state)
    assert (await rig.patient.leaves(record, 0, 1))[0].commitment == opening.commitment()


async def test_who_may_ask_a_node(rig: Rig) -> None:
    record = (await rig.patient.open_record()).record

    async def ask(who: object) -> admin_pb2.StateErasureResponse:
        request = admin_pb2.StateErasureRequest(
            proof=rig.proof(rig.keys_of(who), "erasure", record=record),  # type: ignore[arg-type]
            record_id=bytes(record),
        )
        address = rig.nodes[0].config.client_address
        data = await rig.unary(address, "/hcefs.v1.Admin/StateErasure", request)
        return admin_pb2.StateErasureResponse.FromString(data)

    for who, kind, reason in (
        (rig.patient, "not-found", "not-erased"),
        (rig.operators[0], "not-found", "not-erased"),
        (rig.doctor, "denied", "not-the-owner"),
        (rig.hospital, "denied", "not-the-owner"),
    ):
        await rig.refused(ask(who), kind, reason)
    with pytest.raises(HcefsError):
        await rig.outsider.record_end(record)
    assert (await rig.hospital.record_end(record)).erasure is None
