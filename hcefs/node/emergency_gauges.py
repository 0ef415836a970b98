"""What a process shows of emergencies: openings, those open now, those that nobody reviewed.

Every process that has the ledger's facts shows the same numbers, so an alarm takes the
highest of them and does not add them up.
"""

from __future__ import annotations

from hcefs.ledger.log import LedgerLog
from hcefs.ledger.state_emergency import Emergencies
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime

COUNTED_MAX = 4096
"""Openings without a review that are looked through for one number."""


def emergency_gauges(metrics: Metrics, log: LedgerLog, runtime: Runtime) -> None:
    """Let a process show how emergencies stand, by its own clock."""

    def emergencies() -> Emergencies:
        return Emergencies(log.snapshot().state)

    def open_now() -> int:
        # An opening is reviewed only after its end, so those that are open are among these.
        now = runtime.now_ms()
        return sum(each.is_open(now) for each in emergencies().unreviewed(COUNTED_MAX))

    metrics.set("emergency_openings", lambda: emergencies().totals().openings)
    metrics.set("emergency_open", open_now)
    metrics.set("emergency_unreviewed", lambda: emergencies().totals().unreviewed)
    metrics.set("emergency_unjustified", lambda: emergencies().totals().unjustified)
    metrics.set("emergency_overdue", lambda: emergencies().overdue(runtime.now_ms(), COUNTED_MAX))
