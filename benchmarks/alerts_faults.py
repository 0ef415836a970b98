"""The faults by which alerts are proven: what is done, what must fire, and what may beside it.

A companion is an alert that is *true* in the fault too, said with the reason.  What is not
named may not fire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.alerts_rules import DAY_WINDOW_SECONDS, Rule
from benchmarks.alerts_stage import LIMITS, AlertsStage
from benchmarks.alerts_verdict import CLEAR_SECONDS, Watch
from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.errors import Invalid

Doing = Callable[[AlertsStage], AbstractAsyncContextManager[None]]

PASS_SECONDS: Final = 20.0
"""A pass of repair at rest, and the rest between two of them."""

PINGS_SECONDS: Final = 12.0
"""Three pings that fail."""

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
    await stage.cluster.operator.scrub(stage.address(number), now=True)
    yield
    # There is nothing to mend: repair has brought back what the scrub has found.


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
        lambda stage: stage.restarted(4, hurt="version=9.9.9"),
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
        clears_within=DAY_WINDOW_SECONDS + CLEAR_SECONDS,
    ),
)
