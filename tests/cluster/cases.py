"""Who must not read, and why: each case prepares the ledger and says what to expect.

A case returns the account that asks, by what right, and the error and reason with
which every node must refuse it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hcefs.access.facts import Action
from hcefs.cli.new_node import generate_keys
from hcefs.errors import Denied, HcefsError, Unauthenticated
from hcefs.ids import GrantId
from hcefs.ledger.transactions import GiveGrant
from tests.cluster.live import HOUR_MS, LiveCluster, StepClient, until
from tests.cluster.plain import ByRight

Refusal = tuple[str, ByRight, type[HcefsError], str]


async def grant_of(
    patient: StepClient, cluster: LiveCluster, from_ms: int, to_ms: int
) -> GiveGrant:
    """A grant to the doctor for some time from now, on the ledger; without a key box."""
    now = cluster.runtime.now_ms()
    grant = GiveGrant(
        grant=GrantId(cluster.runtime.random(16)),
        record=cluster.record,
        blob=None,
        range_start=0,
        range_length=0,
        grantee=cluster.accounts["doctor"].account,
        actions=Action.READ,
        purposes=("TREAT",),
        not_before_ms=now + from_ms,
        not_after_ms=now + to_ms,
        parent=None,
    )
    await patient.transact(grant)
    return grant


async def case_no_grant(patient: StepClient, cluster: LiveCluster) -> Refusal:
    return "stranger", ByRight(), Denied, "not-permitted"


async def case_operator(patient: StepClient, cluster: LiveCluster) -> Refusal:
    return "operator-1", ByRight(purpose="HOPERAT"), Denied, "not-permitted"


async def case_unregistered(patient: StepClient, cluster: LiveCluster) -> Refusal:
    cluster.accounts["nobody"] = generate_keys(cluster.connection.cluster, cluster.runtime)
    return "nobody", ByRight(), Unauthenticated, "unknown-account"


async def case_somebody_elses(patient: StepClient, cluster: LiveCluster) -> Refusal:
    return "stranger", ByRight(cluster.grants["doctor"]), Denied, "not-permitted"


async def case_append_only(patient: StepClient, cluster: LiveCluster) -> Refusal:
    return "hospital", ByRight(cluster.grants["hospital"]), Denied, "action-not-granted"


async def case_wrong_purpose(patient: StepClient, cluster: LiveCluster) -> Refusal:
    return "doctor", ByRight(cluster.grants["doctor"], "HRESCH"), Denied, "wrong-purpose"


async def case_other_record(patient: StepClient, cluster: LiveCluster) -> Refusal:
    _, grants = await cluster.open_record(patient)
    return "doctor", ByRight(grants["doctor"]), Denied, "not-permitted"


async def case_not_yet_valid(patient: StepClient, cluster: LiveCluster) -> Refusal:
    grant = await grant_of(patient, cluster, HOUR_MS, 2 * HOUR_MS)
    return "doctor", ByRight(grant.grant), Denied, "not-yet-valid"


async def case_expired(patient: StepClient, cluster: LiveCluster) -> Refusal:
    grant = await grant_of(patient, cluster, -1_000, 1_000)

    async def over() -> bool:
        return cluster.runtime.now_ms() > grant.not_after_ms

    await until(over, "the end of the grant")
    return "doctor", ByRight(grant.grant), Denied, "expired"


async def case_revoked(patient: StepClient, cluster: LiveCluster) -> Refusal:
    grant = await grant_of(patient, cluster, -1_000, HOUR_MS)
    await patient.revoke(grant.grant)
    return "doctor", ByRight(grant.grant), Denied, "revoked"


Case = Callable[[StepClient, LiveCluster], Awaitable[Refusal]]

CASES: tuple[Case, ...] = (
    case_no_grant,
    case_operator,
    case_unregistered,
    case_somebody_elses,
    case_append_only,
    case_wrong_purpose,
    case_other_record,
    case_not_yet_valid,
    case_expired,
    case_revoked,
)
