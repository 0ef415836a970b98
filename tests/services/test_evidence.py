"""Evidence over real servers: gathered, exported, verified; and what strangers are not told."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.access.facts import Action
from hcefs.client.evidence import EvidenceEntry
from hcefs.client.evidence_file import export_evidence
from hcefs.client.put_many import Payload
from hcefs.errors import Conflict, HcefsError, NotFound
from hcefs.formats.manifest import Core
from tests.services.rig import HOUR_MS, Rig
from tests.unit.client.bundles import read_bundle, rejection, write_bundle

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


async def test_a_record_is_exported_whole_and_nothing_can_be_changed(
    rig: Rig, tmp_path: Path
) -> None:
    record = (await rig.patient.open_record()).record
    now = rig.runtime.now_ms()
    for grantee, actions in ((rig.hospital, Action.APPEND), (rig.doctor, Action.READ)):
        grant = await rig.patient.give(
            record, grantee.account, actions, ("TREAT",), not_after_ms=now + HOUR_MS
        )
        if actions is Action.APPEND:
            append = grant.grant
    await rig.patient.revoke(grant.grant)
    payloads = {b"": "nothing", rig.runtime.random(2_500_000): "scan"}
    written = {}
    for data, name in payloads.items():
        done = await rig.hospital.put(record, data, grant=append, name=name, seal="node")
        written[done.ref.blob] = data
    small = [Payload(record, b"beat %d" % each) for each in range(3)]
    packed = await rig.hospital.put_many(small, grant=append)
    written.update({done.ref.blob: b"beat %d" % at for at, done in enumerate(packed)})

    path = tmp_path / "evidence.zip"
    report, listing = await export_evidence(rig.patient, record, path, payloads=True)
    assert listing.complete
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {entry["blob"] for entry in report.entries} == {blob.text for blob in written}
    assert {entry["payload"] for entry in report.entries} == {"equal"}
    assert sorted("revoked_height" in right for right in report.rights) == [False, True]
    bundle, kept = read_bundle(path)
    assert kept == {blob.text: data for blob, data in written.items()}
    with pytest.raises(Conflict):
        await export_evidence(rig.patient, record, path)

    cluster = rig.connection.cluster.text
    for name, data in kept.items():
        changed = dict(kept) | {name: data[:-1] + bytes([data[-1] ^ 1]) if data else b"x"}
        bad = write_bundle(tmp_path / "bad.zip", bundle, changed)
        assert name in rejection(bad, cluster)
    entry = next(each for each in bundle.entries if not Core.decode(each.core).blob.slot)
    for lie in (replace(entry, dek=bytes(32)), replace(entry, dek=b"")):
        entries: tuple[EvidenceEntry, ...] = tuple(
            lie if each is entry else each for each in bundle.entries
        )
        bad = write_bundle(tmp_path / "bad.zip", replace(bundle, entries=entries), kept)
        assert "key" in rejection(bad, cluster)


async def test_without_payloads_no_key_is_in_the_file(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "digests.zip"
    report, _ = await export_evidence(rig.patient, rig.record, path)
    assert {entry["payload"] for entry in report.entries} == {"not in the bundle"}
    bundle, kept = read_bundle(path)
    assert not kept
    assert not any(entry.dek for entry in bundle.entries)
    rig.secrets.check(path.read_bytes().decode("latin-1"))


async def test_a_reader_shows_what_it_may_read_and_no_rights_of_others(
    rig: Rig, tmp_path: Path
) -> None:
    report, _ = await export_evidence(
        rig.doctor, rig.record, tmp_path / "by-doctor.zip", grant=rig.read_grant.grant,
        purpose="TREAT",
    )  # fmt: skip
    assert report.entries
    assert not report.rights


async def test_strangers_get_no_proofs_and_no_statements(rig: Rig, tmp_path: Path) -> None:
    asker = rig.outsider
    with pytest.raises(NotFound):
        await asker._proofs_of(record=bytes(rig.record))
    with pytest.raises(NotFound):
        await asker._proofs_of(grant=bytes(rig.read_grant.grant))
    assert await asker._proofs_of(account=bytes(rig.doctor.account))
    with pytest.raises(HcefsError):
        await export_evidence(asker, rig.record, tmp_path / "none.zip", purpose="TREAT")
    assert not os.listdir(tmp_path)
