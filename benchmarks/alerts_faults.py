"""The faults by which alerts are proven: what is done, what must fire, and what may beside it.

A companion is an alert that is *true* in the fault too, said with the reason.  What is not
named may not fire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.alerts_rules import Rule
from benchmarks.alerts_stage import LIMITS, UPKEEP, AlertsStage
from benchmarks.alerts_verdict import CLEAR_SECONDS, Watch
from hcefs.access.emergency import EmergencyPolicy
from hcefs.access.facts import AccountKind
from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.errors import HcefsError, Invalid
from hcefs.ledger.transactions import sign_transaction
from hcefs.ledger.transactions_emergency import SetEmergencyPolicy

Doing = Callable[[AlertsStage], AbstractAsyncContextManager[None]]

PASS_SECONDS: Final = 20.0
"""A pass of repair at rest, and the rest between two of them."""

PINGS_SECONDS: Final = 12.0
"""Three pings that fail."""

LOOK_SECONDS: Final = 3.0
KEPT_SECONDS: Final = UPKEEP.quarantine_s + 15.0
POLICY: Final = EmergencyPolicy(1, True, ("RESCUE",), ("UNRESPONSIVE",), 30, 48)
FULL_RESERVE_MIB: Final = 1 << 30
FLIPPED: Final = 14
"""More than ten go into quarantine."""

RESTART: Final[Mapping[str, str]] = {
    "HcefsNodeDown": "the node is restarted, and minutes are seconds",
    "HcefsNodesUnreachable": "the node is restarted, and minutes are seconds",
}
AWAY: Final[Mapping[str, str]] = {
    "HcefsNodeDown": "a node is down",
    "HcefsNodesUnreachable": "the others cannot reach it",
    "HcefsBlobsShort": "its shards are missed for what are hours here",
    "HcefsStandInsWaiting": "what it should have waits for it for what are hours here",
}
NO_LEDGER: Final[Mapping[str, str]] = {
    "HcefsLedgerDown": "the ledger does not write",
    "HcefsLeaseOld": "no head renews the leases",
    "HcefsNotServing": "nodes without a lease refuse",
    "HcefsNodesDown": "all of them",
    "HcefsRequestsFail": "so that puts and gets fail",
    "HcefsNodesUnreachable": "nodes that may not serve count as away",
    "HcefsReceiptsNotAnchored": "receipts wait for the ledger",
}


@dataclass(frozen=True)
class Fault:
    """One fault.  ``lag`` is by when its metrics show it, in seconds."""

    name: str
    what: str
    alerts: tuple[str, ...]
    do: Doing
    lag: float = 0.0
    companions: Mapping[str, str] = field(default_factory=dict)
    clears_within: float = CLEAR_SECONDS

    def watch(self, rules: Mapping[str, Rule]) -> Watch:
        """What is to be seen of it."""
        bounds = {alert: self.lag + rules[alert].bound for alert in self.alerts}
        return Watch(self.name, bounds, self.companions, clears_within=self.clears_within)


def chosen(names: tuple[str, ...]) -> list[Fault]:
    """The faults of some names, in the order in which they are done; all when none is named.

    Raises:
        Invalid: a name that no fault has.
    """
    unknown = sorted(set(names) - {fault.name for fault in FAULTS})
    if unknown:
        raise Invalid(
            f"there is no fault {unknown[0][:40]!r}: see `hcefs bench alerts --list`",
            reason="unknown-fault",
        )
    return [fault for fault in FAULTS if not names or fault.name in names]


# --- what is done -------------------------------------------------------------------


@asynccontextmanager
async def _flipped(stage: AlertsStage) -> AsyncIterator[None]:
    number = 3
    bases = [blob.base for blob in stage.blobs[:FLIPPED]]
    flipped = await stage.runtime.disk(stage.flip, number, bases)
    if flipped <= 10:
        raise Invalid(f"only {flipped} shards were found to be damaged", reason="too-few-shards")
    operator, address = stage.cluster.operator, stage.address(number)
    await operator.scrub(address, now=True)

    async def look() -> None:
        # The number is of the last look at the quarantine, and by itself a node looks seldom.
        while True:
            await stage.runtime.sleep(LOOK_SECONDS)
            with suppress(HcefsError):
                await operator.scrub(address)

    began = stage.runtime.monotonic()
    async with stage.meanwhile([look()]):
        yield
    # Repair has brought back what the scrub has found; what was set aside has its time.
    await stage.runtime.sleep(max(0.0, began + KEPT_SECONDS - stage.runtime.monotonic()))
    await operator.collect(address, dry_run=False)


@asynccontextmanager
async def _unreviewed(stage: AlertsStage) -> AsyncIterator[None]:
    cluster, patient = stage.cluster, stage.cluster.patient
    doctor = await stage.admitted(AccountKind.PRACTITIONER)
    signers = [(keys.account, keys.key_version, keys.signing_key) for keys in stage.operators()]
    await cluster.operator.submit(
        sign_transaction(SetEmergencyPolicy(0, POLICY), cluster.connection.cluster, signers)
    )
    await patient.name_emergency([cluster.record], [doctor.account])
    opening = await doctor.open_emergency(
        [cluster.record], role="RESCUE", reason="UNRESPONSIVE", minutes=5
    )
    await doctor.close_emergency(opening.opening)
    late = 3600 * (POLICY.review_hours + 2)
    async with stage.restarted(4, hurt=f"late-clock={late}"):
        yield
        await patient.review_emergency(opening.opening, justified=True)
        await stage.runtime.sleep(LOOK_SECONDS)


@asynccontextmanager
async def _moves(stage: AlertsStage) -> AsyncIterator[None]:
    number = await stage.join(hurt="no-copies")
    try:
        yield
    finally:
        await stage.stop(node_name(number))
        await stage.start_node(number)


@asynccontextmanager
async def _strangers(stage: AlertsStage) -> AsyncIterator[None]:
    async with stage.asking(stage.cluster.client(stage.cluster.new_keys()), 2, 20.0):
        yield


@asynccontextmanager
async def _denials(stage: AlertsStage) -> AsyncIterator[None]:
    async with stage.asking(await stage.admitted(), 2, 8.0):
        yield


@asynccontextmanager
async def _crowded(stage: AlertsStage) -> AsyncIterator[None]:
    async with (
        stage.restarted(2, limits=replace(LIMITS, streams=1)),
        stage.crowd(2, 10),
    ):
        yield


@asynccontextmanager
async def _ledger_stopped(stage: AlertsStage) -> AsyncIterator[None]:
    await stage.stop(LEDGER)
    try:
        yield
    finally:
        await stage.start_ledger()


@asynccontextmanager
async def _forgotten(stage: AlertsStage) -> AsyncIterator[None]:
    stage.prometheus.forget("hcefs-ledger")
    try:
        yield
    finally:
        stage.prometheus.forget(None)


@asynccontextmanager
async def _below_k(stage: AlertsStage) -> AsyncIterator[None]:
    # Of the blobs that the load does not read.
    async with stage.taken_away(stage.blobs[0].base, 3):
        await stage.hurry()
        yield


FAULTS: Final[tuple[Fault, ...]] = (
    Fault(
        "node-killed",
        "kill -9 of one node",
        ("HcefsNodeDown", "HcefsNodesUnreachable"),
        lambda stage: stage.killed(6),
        lag=PINGS_SECONDS,
        companions=AWAY,
    ),
    Fault(
        "node-hangs",
        "SIGSTOP of one node: connections are taken and nothing is answered",
        ("HcefsNodeDown", "HcefsNodesUnreachable"),
        lambda stage: stage.paused(node_name(5)),
        lag=PINGS_SECONDS,
        companions={**AWAY, "HcefsRequestsFail": "requests that it had begun run out"},
    ),
    Fault(
        "two-nodes-killed",
        "kill -9 of two nodes: no shard to spare, and too few for a put",
        ("HcefsNodesDown", "HcefsBlobsAtTheBrink"),
        lambda stage: stage.killed(5, 6),
        lag=PASS_SECONDS,
        companions={**AWAY, "HcefsRequestsFail": "a put needs five of the six"},
    ),
    Fault(
        "ledger-stopped",
        "the ledger is stopped",
        ("HcefsLedgerDown", "HcefsLeaseOld", "HcefsNotServing"),
        _ledger_stopped,
        lag=12.0,
        companions=NO_LEDGER,
    ),
    Fault(
        "ledger-hangs",
        "SIGSTOP of the ledger: leases age",
        ("HcefsLedgerDown", "HcefsLeaseOld", "HcefsNodesDown"),
        lambda stage: stage.paused(LEDGER),
        lag=12.0,
        companions=NO_LEDGER,
    ),
    Fault(
        "clock-off",
        "a node's clock is 3.5 s behind: more than half of what the genesis permits",
        ("HcefsClockSkew",),
        lambda stage: stage.restarted(4, hurt="clock=-3.5"),
        companions=RESTART,
    ),
    Fault(
        "clock-far-off",
        "a node's clock is 20 s behind: it refuses to serve",
        ("HcefsClockSkew", "HcefsNotServing", "HcefsNodesUnreachable"),
        lambda stage: stage.restarted(4, hurt="clock=-20", wait=False),
        lag=PINGS_SECONDS,
        companions={
            **RESTART,
            "HcefsReceiptsNotAnchored": "it takes no block, so it does not see its anchors",
            "HcefsBlobsShort": "what was put meanwhile it has not, for what are hours here",
            "HcefsStandInsWaiting": "what it should have waits for it",
        },
    ),
    Fault(
        "disk-full",
        "a node's disk has less than its reserve",
        ("HcefsDiskFull",),
        lambda stage: stage.restarted(4, limits=replace(LIMITS, reserve_mib=FULL_RESERVE_MIB)),
        companions={
            **RESTART,
            "HcefsBlobsShort": "it takes no shard for what are hours here",
            "HcefsRepairStalled": "nor can any be repaired there",
        },
    ),
    Fault(
        "disk-slow",
        "each fsync of a node's shards takes 1.5 s more",
        ("HcefsDiskSlow",),
        lambda stage: stage.restarted(4, hurt="slow-disk=1.5"),
        companions=RESTART,
    ),
    Fault(
        "disk-broken",
        "each fsync of a node's shards fails with EIO",
        ("HcefsDiskFailing",),
        lambda stage: stage.restarted(4, hurt="broken-disk"),
        lag=20.0,
        companions={
            **RESTART,
            "HcefsBlobsShort": "it takes no shard for what are hours here",
            "HcefsRepairStalled": "nor can any be repaired there",
        },
    ),
    Fault(
        "below-k",
        "three of a blob's six shard files are gone",
        ("HcefsBlobsBelowK",),
        _below_k,
        lag=PASS_SECONDS,
        companions={
            "HcefsBlobsShort": "for what are hours here",
            "HcefsRepairStalled": "nobody can rebuild them",
        },
    ),
    Fault(
        "certificate-expires",
        "a node's certificate has two days left",
        ("HcefsCertificateExpiresNow", "HcefsCertificateExpires"),
        lambda stage: stage.certificate(4, 2.0),
        companions=RESTART,
    ),
    Fault(
        "versions-differ",
        "one node says that it is of another version",
        ("HcefsVersionsDiffer",),
        lambda stage: stage.restarted(4, hurt="version=0.2.99"),
        companions=RESTART,
    ),
    Fault(
        "strangers",
        "somebody without an account asks 20 times a second",
        ("HcefsStrangers",),
        _strangers,
    ),
    Fault(
        "denials",
        "an account without a right asks 8 times a second",
        ("HcefsDenialsSpike",),
        _denials,
    ),
    Fault(
        "overload",
        "ten clients ask a node that has room for one",
        ("HcefsOverloaded",),
        _crowded,
        companions=RESTART,
    ),
    Fault(
        "receipts-not-anchored",
        "a node's receipts find no way to the ledger",
        ("HcefsReceiptsNotAnchored",),
        lambda stage: stage.restarted(4, hurt="no-anchors"),
        lag=12.0,
        companions=RESTART,
    ),
    Fault(
        "ledger-not-scraped",
        "Prometheus no longer knows of the ledger",
        ("HcefsAbsent",),
        _forgotten,
        lag=4.0,
    ),
    Fault(
        "flipped-bytes",
        f"a bit of {FLIPPED} shards of one node is flipped, and the scrub finds them",
        ("HcefsShardsDamaged", "HcefsQuarantineGrows"),
        _flipped,
        lag=30.0,
    ),
    Fault(
        "review-overdue",
        "nobody reviews an opening in an emergency until it is too late by a node's clock",
        ("HcefsEmergencyOverdue",),
        _unreviewed,
        companions=RESTART,
    ),
    Fault(
        "moves-stalled",
        "a node joins and copies nothing",
        ("HcefsMovesStalled",),
        _moves,
        lag=20.0,
        companions={
            **RESTART,
            "HcefsRepairStalled": "what is put meanwhile has seats that are still to be filled",
            "HcefsBlobsShort": "likewise, for what are hours here",
        },
        clears_within=2 * CLEAR_SECONDS,
    ),
)
"""In the order in which they are done: the last one leaves a node more."""
