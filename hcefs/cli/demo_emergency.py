"""Step 7 of the demo, an emergency: refused before, read during, refused after, and seen."""

from __future__ import annotations

from hcefs.access.emergency import PURPOSE, EmergencyPolicy, grant_of
from hcefs.cli.bringup import OPERATORS, THRESHOLD
from hcefs.cli.demo_report import Notes, require
from hcefs.cli.demo_stage import ENTRY, Stage, Stored, refused
from hcefs.cli.demo_wire import Wire
from hcefs.ids import GrantId
from hcefs.ledger.transactions import sign_transaction
from hcefs.ledger.transactions_emergency import SetEmergencyPolicy

RESCUER = "second-doctor"
POLICY = EmergencyPolicy(1, True, ("RESCUE",), ("UNRESPONSIVE",), 30, 48)


async def break_glass(stage: Stage, notes: Notes) -> None:
    """A doctor without any grant reads in an emergency, and only then; everybody sees it."""
    patient, rescuer = stage.clients["patient"], stage.clients[RESCUER]
    stored = stage.stored["ct"]
    await _allow(stage)
    stage.say("the patient names the doctor for emergencies and leaves a sealed key")
    (naming,) = await patient.name_emergency([stage.record], [rescuer.account])
    async with Wire(stage) as wire:
        keys, node = stage.accounts[RESCUER], stage.node(ENTRY)
        token = wire.own_token(keys, naming.naming)
        asked = wire.presenting(keys, token, node, "get", stored.blob)
        dormant = await refused(wire.get(asked, node, stored.blob), "not-permitted")
    notes.check(
        f"the patient named a doctor for emergencies; before one the nodes refuse it ({dormant})",
        naming=naming.naming.text,
        before=dormant,
    )
    stage.say("the doctor breaks the glass")
    opening = await rescuer.open_emergency(
        [stage.record], role="RESCUE", reason="UNRESPONSIVE", minutes=5
    )
    grant = grant_of(opening.opening, stage.record)
    await _read(stage, stored, grant)
    (seen,) = await patient.emergencies()
    require(seen.opener == rescuer.account, "the patient sees another opener")
    await rescuer.close_emergency(opening.opening)
    after = await refused(_read(stage, stored, grant), "revoked")
    await patient.review_emergency(opening.opening, justified=True)
    (reviewed,) = await patient.emergencies()
    require(bool(reviewed.reviews), "the patient's review is not on the ledger")
    notes.check(
        f"the doctor opened the record ({seen.role}, {seen.reason}) and read a CT byte for byte; "
        f"closed, it is refused ({after}); the patient saw it, and reviewed it",
        opening=opening.opening.text,
        after=after,
    )


async def _allow(stage: Stage) -> None:
    signers = [stage.accounts[name] for name in OPERATORS[:THRESHOLD]]
    change = sign_transaction(
        SetEmergencyPolicy(0, POLICY),
        stage.operator.connection.cluster,
        [(keys.account, keys.key_version, keys.signing_key) for keys in signers],
    )
    await stage.operator.submit(change)


async def _read(stage: Stage, stored: Stored, grant: GrantId) -> None:
    stream = await stage.clients[RESCUER].get(
        stage.record, stored.blob, grant=grant, purpose=PURPOSE
    )
    await stage.compare(stream, stored.exhibit)
