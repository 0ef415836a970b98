"""What every process shows of itself: its clock, its certificates, its disk, its map.

Alarms compare a number with its bound, so bounds that the genesis or the configuration
sets are shown beside the numbers.

Invariants: labels are the states and profiles that the map may name, so their number is
bounded; what has gone from the map is shown as 0, not as what it last was.
"""

from __future__ import annotations

import shutil
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from hcefs.erasure.scheme import PROFILES
from hcefs.ids import AccountId
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log import LedgerLog
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, NodeState
from hcefs.runtime import Runtime
from hcefs.transport.tls import validity
from hcefs.transport.tls_identity import CurrentIdentity, earliest_end_ms

_DERIVED: Final = (__name__, "seats")


def clock_gauges(metrics: Metrics, genesis: Genesis, runtime: Runtime) -> None:
    """Let a process show its clock, and what the genesis says of clocks and leases."""
    metrics.set("clock_timestamp_seconds", lambda: runtime.now_ms() / 1000)
    metrics.set("clock_skew_max_seconds", genesis.skew_ms / 1000)
    metrics.set("ledger_lease_max_seconds", genesis.lease_ms / 1000)


def certificate_gauges(metrics: Metrics, current: CurrentIdentity) -> None:
    """Let a process show until when the certificates that it uses are valid.

    Of a bundle of authorities, the one that ends first.

    Raises:
        Invalid: one of them is no certificate.
    """
    ends = lru_cache(maxsize=2)(_ends)

    def shown(which: int) -> float:
        identity = current.identity
        return ends(identity.certificate, identity.authority)[which]

    ends(current.identity.certificate, current.identity.authority)
    for which, name in enumerate(("own", "authority")):
        metrics.set("certificate_expiry_timestamp_seconds", partial(shown, which), certificate=name)


def _ends(certificate: bytes, bundle: bytes) -> tuple[float, float]:
    """When a certificate and the first of the authorities end: seconds since 1970."""
    return validity(certificate).until_ms / 1000, earliest_end_ms(bundle) / 1000


def disk_gauges(metrics: Metrics, folder: Path) -> None:
    """Let a process without shards show how full the disk of its folder is."""
    metrics.set("disk_free_bytes", lambda: shutil.disk_usage(folder).free)
    metrics.set("disk_total_bytes", lambda: shutil.disk_usage(folder).total)


def map_gauges(metrics: Metrics, log: LedgerLog, me: AccountId | None) -> None:
    """Let a process show the map in force, and what it gives to the node of account ``me``."""

    def nodes(state: NodeState) -> int:
        current = log.cluster_map()
        return 0 if current is None else sum(node.state is state for node in current.nodes)

    def weight() -> int:
        current = log.cluster_map()
        node = current.node_of_account(me) if current is not None and me is not None else None
        return node.weight if node is not None else 0

    def held(profile: str) -> int:
        current = log.cluster_map()
        node = current.node_of_account(me) if current is not None and me is not None else None
        if current is None or node is None:
            return 0
        return _seats(current).get((profile, node.node_id), 0)

    def warnings() -> int:
        current = log.cluster_map()
        return 0 if current is None else len(current.warnings())

    def epoch() -> int:
        current = log.cluster_map()
        return 0 if current is None else current.epoch

    metrics.set("cluster_map_epoch", epoch)
    metrics.set("cluster_map_warnings", warnings)
    for state in NodeState:
        metrics.set("cluster_map_nodes", partial(nodes, state), state=state.name.lower())
    if me is not None:
        metrics.set("node_weight", weight)
        for profile in PROFILES:
            metrics.set("seats", partial(held, profile), profile=profile)


def _seats(current: ClusterMap) -> Counter[tuple[str, int]]:
    """Seats by profile and node, counted once a map."""
    known = current.derived.get(_DERIVED)
    if known is None:
        known = current.derived[_DERIVED] = Counter(
            (table.profile, node_id)
            for table in current.tables
            for row in table.node_rows
            for node_id in row
        )
    found: Counter[tuple[str, int]] = known
    return found
