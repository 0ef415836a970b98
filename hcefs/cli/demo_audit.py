"""The demo's question of a patient: who looked at my record?  Answered with a proof."""

from __future__ import annotations

from hcefs.cli.demo_report import Notes, require
from hcefs.cli.demo_stage import Stage
from hcefs.client.audit import read_audit
from hcefs.client.audit_export import export_audit
from hcefs.evidence.receipt import ReceiptKind
from hcefs.ledger.audit_file import Audit, check_audit

ANCHORED_SECONDS = 30.0
LOOK_SECONDS = 0.25


async def who_looked(stage: Stage, notes: Notes) -> None:
    """The patient asks all nodes, proves the answer offline, and tampering is found."""
    patient = stage.clients["patient"]
    stage.say("the patient asks all nodes who touched the record")
    deadline = stage.runtime.monotonic() + ANCHORED_SECONDS
    seen = (await patient.audit(stage.record))[1].made_ms
    while True:
        file, audit = await patient.audit(stage.record)
        waiting = [
            touch for touch in audit.touches if not touch.is_proved and touch.receipt.time_ms < seen
        ]
        if not waiting:
            break
        require(
            stage.runtime.monotonic() < deadline,
            f"{len(waiting)} receipts are not anchored on the ledger",
        )
        await stage.runtime.sleep(LOOK_SECONDS)
    require(audit.is_complete, "a node is silent, or a release has no access")
    doctor, rescuer = stage.clients["doctor"].account, stage.clients["second-doctor"].account
    reads, denials = _count(audit, "read", permitted=True), _count(audit, "read", permitted=False)
    presenters = {touch.receipt.presenter for touch in audit.touches}
    require({doctor, rescuer} <= presenters, "a reader is missing in the audit")
    again = check_audit(read_audit(file.encode()))
    require(again == audit, "the file does not prove what the nodes said")
    exported = await export_audit(patient, stage.record)
    proved = sum(touch.is_proved for touch in audit.touches)
    notes.check(
        f"all {len(file.nodes)} nodes answered: {reads} reads were permitted and {denials} "
        f"denied, to {len(presenters)} accounts, the emergency among them; {proved} receipts "
        f"are proved by anchors on the ledger, and as {len(exported.bundle['entry'])} FHIR "
        f"AuditEvents",
        receipts=len(audit.touches),
        proved=proved,
        reads=reads,
        denials=denials,
    )


def _count(audit: Audit, action: str, *, permitted: bool) -> int:
    return sum(
        touch.receipt.receipt_kind is ReceiptKind.ACCESS
        and touch.receipt.action == action
        and touch.receipt.permitted is permitted
        for touch in audit.touches
    )
