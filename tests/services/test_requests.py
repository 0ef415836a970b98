"""Classes of records and requests for access, over running nodes."""

from __future__ import annotations

import pytest

from hcefs.access.facts import Action
from hcefs.client.classes import LeftOut
from hcefs.client.client import Client
from hcefs.errors import Conflict, Denied, HcefsError, NotFound
from hcefs.formats.record_class import CLASS_PAYLOAD_SIZE, Confidentiality, RecordClass
from hcefs.ids import AccountId
from hcefs.ledger.request_facts import RefusalCode
from tests.services.rig import HOUR_MS, Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

N_PSY = RecordClass.of(Confidentiality.N, ["PSY"])
R = RecordClass.of(Confidentiality.R)
L_HIV = RecordClass.of(Confidentiality.L, ["HIV"])
N = RecordClass.of(Confidentiality.N)


async def refusal(rig: Rig, client: Client, patient: AccountId) -> HcefsError:
    with pytest.raises(HcefsError) as caught:
        await client.request_access(
            patient, Action.READ, ("TREAT",), not_after_ms=rig.runtime.now_ms() + HOUR_MS
        )
    return caught.value


async def test_classes_choose_records_and_nodes_learn_nothing(rig: Rig) -> None:
    patient = rig.patient
    labels = {"psy": N_PSY, "restricted": R, "hiv": L_HIV, "normal": N}
    records = {
        name: (await patient.open_record(label=label)).record for name, label in labels.items()
    }
    # Read back as another device of the patient would.
    fresh = rig.client(rig.keys_of(patient))
    assert {name: await fresh.record_class(record) for name, record in records.items()} == labels
    assert await fresh.record_class(rig.record) is None  # its first entry is the hospital's
    # A class is there once, and repeating it changes nothing.
    again = await patient.open_record(records["psy"], label=N_PSY)
    assert again.leaf_count == 1
    with pytest.raises(Conflict) as caught:
        await patient.open_record(records["psy"], label=N)
    assert caught.value.reason == "class-fixed"
    # What nodes have of it is sealed, and of one size whatever the class.
    for record in records.values():
        entry = (await fresh.list(record, purpose="PATRQT"))[0]
        stat = await fresh.stat(record, entry.blob, purpose="PATRQT")
        assert stat.core.plaintext_length == CLASS_PAYLOAD_SIZE
        assert b"record-class" not in stat.core.encode()

    given = await patient.give_all(
        rig.outsider.account,
        Action.READ,
        ("TREAT",),
        ceiling=Confidentiality.N,
        excluded=("HIV", "SPI"),
        not_after_ms=rig.runtime.now_ms() + HOUR_MS,
    )
    assert [grant.record for grant in given.grants] == [records["normal"]]
    left = {each.record: each.reason for each in given.left_out}
    assert left[records["psy"]] == "excluded:PSY"  # SPI covers it
    assert left[records["restricted"]] == "above-ceiling:R"
    assert left[records["hiv"]] == "excluded:HIV"
    assert LeftOut(rig.record, "no-class") in given.left_out
    for name, record in records.items():
        entry = (await fresh.list(record, purpose="PATRQT"))[0]
        grants = [each for each in await rig.outsider.grants() if each.record == record]
        assert bool(grants) == (name == "normal")
        if grants:
            async with await rig.outsider.get(record, entry.blob, grant=grants[0].grant) as stream:
                assert RecordClass.of_payload(await stream.read()) == N


async def test_a_doctor_asks_and_the_patient_answers(rig: Rig) -> None:
    patient, doctor = rig.patient, rig.outsider
    record = (await patient.open_record(label=N)).record
    end = rig.runtime.now_ms() + HOUR_MS
    asked = await doctor.request_access(
        patient.account, Action.READ, ("TREAT",), record=record, not_after_ms=end
    )
    assert (await patient.access_request(asked.ask)) == asked
    with pytest.raises(NotFound):
        await rig.hospital.access_request(asked.ask)
    entry = (await patient.list(record, purpose="PATRQT"))[0]
    with pytest.raises(HcefsError):
        await doctor.get(record, entry.blob)
    with pytest.raises(Denied) as caught:
        await patient.approve(asked.ask, actions=Action.READ | Action.SHARE)
    assert caught.value.reason == "wider-than-asked"
    (grant,) = await patient.approve(asked.ask)
    async with await doctor.get(record, entry.blob, grant=grant.grant) as stream:
        assert len(await stream.read()) == CLASS_PAYLOAD_SIZE
    assert (await doctor.access_request(asked.ask)).grants == (grant.grant,)
    assert (grant.actions, grant.purposes, grant.not_after_ms) == (Action.READ, ("TREAT",), end)

    # An approval that was interrupted before its answer goes on, and gives nothing twice.
    second = await doctor.request_access(
        patient.account, Action.READ, ("TREAT",), record=record, not_after_ms=end
    )
    early = await patient.give(record, doctor.account, Action.READ, ("TREAT",), not_after_ms=end)
    assert [each.grant for each in await patient.approve(second.ask)] == [early.grant]

    refused = await doctor.request_access(
        patient.account, Action.READ, ("TREAT",), not_after_ms=end
    )
    await patient.refuse(refused.ask, RefusalCode.TOO_WIDE)
    assert (await doctor.access_request(refused.ask)).refusal is RefusalCode.TOO_WIDE
    assert (await refusal(rig, doctor, doctor.account)).reason == "unknown-patient"
    taken_back = await doctor.request_access(
        patient.account, Action.READ, ("TREAT",), not_after_ms=end
    )
    await doctor.withdraw(taken_back.ask)
    assert taken_back.ask not in {each.ask for each in await patient.requests()}
