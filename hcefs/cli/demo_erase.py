"""The demo's end of a record: kept until its date, held, erased, and proved to be gone."""

from __future__ import annotations

from hcefs.cli.demo_report import Notes, require
from hcefs.cli.demo_stage import PURPOSE, Stage, refused
from hcefs.client.erasure_check import check_certificate
from hcefs.integrity import blake3_digest

KEPT_MS = 1_500
"""Until the record's date: the shortest that can be seen to be refused."""

JURISDICTION = "DE"
CASE = b"the document of a court, of which the ledger has only the digest"
DELETED_SECONDS = 60.0


async def erase_record(stage: Stage, notes: Notes) -> None:
    """A second record: not before its date, not while it is held, then by nobody readable."""
    patient, hospital = stage.clients["patient"], stage.clients["hospital"]
    stage.say("the patient opens a second record, with a date until which it is kept")
    record = (await patient.open_record()).record
    until_ms = stage.runtime.now_ms() + KEPT_MS
    await patient.set_retention(record, until_ms, JURISDICTION)
    receipt = await patient.put(record, stage.exhibits["ct"].path, name="scan", purpose=PURPOSE)
    blob = receipt.ref.blob
    early = await refused(patient.erase(record), "retained")
    hold = await hospital.place_hold(record, blake3_digest(CASE))
    while (left_ms := until_ms - stage.runtime.now_ms()) > 0:
        await stage.runtime.sleep(left_ms / 1000)
    held = await refused(patient.erase(record), "on-hold")
    notes.check(
        f"a record is not erased before its date ({early}) nor under a legal hold ({held})",
        record=record.text,
        before=early,
        held=held,
    )
    stage.say("the hold is lifted, and the patient erases the record")
    await hospital.lift_hold(record, hold)
    erased = await patient.erase(record)
    certificate = await patient.erasure_certificate(record, wait_seconds=DELETED_SECONDS)
    checked = check_certificate(certificate, stage.operator.connection.cluster)
    require(
        checked.exposure.complete and checked.height == erased.height,
        "the certificate of the erasure is not complete",
    )
    gone = await refused(patient.get(record, blob, purpose=PURPOSE), "erased", "not-permitted")
    notes.check(
        f"the hold lifted, it is erased at height {erased.height}: {len(certificate.statements)} "
        f"nodes signed that no key and no shard is left, the certificate is complete, and a get "
        f"is refused ({gone})",
        height=erased.height,
        nodes=len(certificate.statements),
        get=gone,
    )
