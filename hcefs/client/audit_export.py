"""Who touched a record, as a FHIR Bundle of AuditEvents for the tools of a hospital.

Gathers what :mod:`hcefs.client.audit_event` needs: the receipts of all nodes, who admitted
whom, and the emergencies in which the record was opened.  Not evidence: that is the file of
``hcefs audit prove``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hcefs.client.audit_event import (
    Override,
    Parties,
    audit_bundle,
    audit_events,
    override_event,
)
from hcefs.client.client import Client
from hcefs.errors import NotFound
from hcefs.ids import AccountId, RecordId
from hcefs.ledger.audit_file import Audit


@dataclass(frozen=True)
class ExportedAudit:
    """The Bundle, the audit that it shows, and how many of its receipts have no event.

    Closing and upkeep receipts have none: they are no decisions.
    """

    bundle: dict[str, Any]
    audit: Audit
    without_event: int


async def export_audit(client: Client, record: RecordId) -> ExportedAudit:
    """All receipts of a record and its emergencies as AuditEvents; for its owner.

    Raises:
        Denied: not the owner.
    """
    file, audit = await client.audit(record)
    presenters = {touch.receipt.presenter for touch in audit.touches}
    owner = (await client.record(record)).owner
    parties = Parties(
        client.connection.cluster, owner, await _admitted_by(client, {*presenters, owner})
    )
    events, without = [], 0
    for touch in audit.touches:
        found = audit_events(touch.receipt.encode(), parties)
        events += found
        without += not found
    # The ledger decides on emergencies; whoever answered for the audit stands for it here.
    observer = next((node.node for node in file.nodes if not node.problem), AccountId.zero())
    now_ms = client.runtime.now_ms()
    for opening in await client.emergencies():
        if record not in opening.records:
            continue
        moments = [(opening.opened_ms, True)]
        if not opening.is_open(now_ms):
            moments.append((opening.until_ms, False))
        events += [
            override_event(
                Override(
                    opening.opening, record, opening.opener, observer, time_ms, started,
                    opening.reason,
                ),
                parties,
            )
            for time_ms, started in moments
        ]  # fmt: skip
    return ExportedAudit(audit_bundle(events), audit, without)


async def _admitted_by(client: Client, accounts: set[AccountId]) -> dict[AccountId, AccountId]:
    """The institutions behind accounts; of who is gone from the ledger nothing is said."""
    found: dict[AccountId, AccountId] = {}
    for account in accounts:
        try:
            fact = await client.fetch_account(account)
        except NotFound:
            continue
        if fact.admitted_by:
            found[account] = fact.admitted_by
    return found
