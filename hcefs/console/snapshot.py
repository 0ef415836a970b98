"""One snapshot of a cluster, as the console shows it: a pure function of collected facts.

Invariants: it names no account, record or blob, and no address; its size is bounded by the
map.  A node of which nothing was heard is said to be away, with what it told last.

Not guaranteed: that what nodes tell about themselves is true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from hcefs.placement.availability import Answer, HealthFacts, availability
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.waves import SeatName, in_flight, is_planned, moves_left
from hcefs.transport.node_facts import NodeFacts

VERSION: Final = 1
_GONE = frozenset({NodeState.OUT, NodeState.REMOVED})
_SEATED = frozenset({NodeState.JOINING, NodeState.UP, NodeState.DOWN})
"""States in which a node is to have the seats that its weight stands for."""


@dataclass(frozen=True)
class Facts:
    """What was collected: the map and arrivals by a replica, who answers, what nodes tell.

    ``answers`` says for each node that was asked whether it does; the one that looks is
    among them.  ``unready`` says why the one that looks cannot tell about the cluster.
    """

    now_ms: int
    current: ClusterMap | None
    arrived: Collection[SeatName] = ()
    answers: Mapping[int, bool] = field(default_factory=dict)
    told: Mapping[int, NodeFacts] = field(default_factory=dict)
    height: int = 0
    protocol: int = 0
    lease_max_ms: int = 0
    seen_by: int = 0
    unready: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds_left: float | None = None


def snapshot(facts: Facts) -> dict[str, Any]:
    """What ``state.json`` holds."""
    current = facts.current
    nodes = (
        [_node(facts, node, *_shares(current, node)) for node in _shown(current)] if current else []
    )
    return {
        "version": VERSION,
        "time_ms": facts.now_ms,
        "seen_by": facts.seen_by,
        "epoch": current.epoch if current is not None else 0,
        "height": facts.height,
        "protocol": facts.protocol,
        "lease_max_ms": facts.lease_max_ms,
        "verdict": _verdict(facts),
        "blobs": _blobs(facts),
        "plan": _plan(facts),
        "nodes": nodes,
        "denials": _denials(facts),
        "warnings": list(dict.fromkeys(facts.warnings)),
    }


def _shown(current: ClusterMap) -> list[Node]:
    return [node for node in current.nodes if node.state is not NodeState.REMOVED]


def _verdict(facts: Facts) -> dict[str, Any]:
    current = facts.current
    if current is None or facts.unready:
        reason = "; ".join(facts.unready) or "there is no cluster map yet"
        unknown = _answer(Answer(False, reason, is_known=False))
        return {"read": unknown, "write": unknown, "spare_shards": {}}
    healthy = dict(facts.answers)
    healthy |= {node.node_id: False for node in current.nodes if node.state in _GONE}
    found = availability(current, HealthFacts(current.epoch, healthy, facts.arrived))
    return {
        "read": _answer(found.reads),
        "write": _answer(found.writes),
        "spare_shards": dict(found.spare),
    }


def _answer(given: Answer) -> dict[str, Any]:
    return {"ok": given.yes, "known": given.is_known, "reason": given.reason}


def _blobs(facts: Facts) -> dict[str, Any]:
    """Blobs by live shards, of the last passes, and of how many nodes those are known."""
    live: Counter[tuple[str, int]] = Counter()
    for told in facts.told.values():
        for each in told.live:
            live[each.profile, each.live] += each.blobs
    tables = facts.current.tables if facts.current is not None else ()
    shape = {table.profile: (table.k, table.n) for table in tables}
    return {
        "passes": sum(told.pass_ended_ms > 0 for told in facts.told.values()),
        "of": sum(
            node.state not in _GONE for node in (facts.current.nodes if facts.current else ())
        ),
        "by_live_shards": [
            {
                "profile": profile,
                "live": count,
                "k": shape.get(profile, (0, 0))[0],
                "n": shape.get(profile, (0, 0))[1],
                "blobs": blobs,
            }
            for (profile, count), blobs in sorted(live.items())
            if blobs
        ],
    }


def _plan(facts: Facts) -> dict[str, Any] | None:
    """The plan in force, and how far it is; None without one."""
    current = facts.current
    if current is None or not is_planned(current):
        return None
    longest = max(current.tables, key=lambda table: table.waves)
    flying = len(in_flight(current))
    arrived = len(facts.arrived)
    left = facts.seconds_left
    return {
        "wave": longest.wave,
        "waves": longest.waves,
        "in_flight": flying,
        "arrived": arrived,
        "later": moves_left(current),
        "seconds_left": None if left is None else round(left, 1),
    }


def _shares(current: ClusterMap, node: Node) -> tuple[int, float]:
    """Seats of a node, and those that its weight stands for."""
    counts: Counter[int] | None = current.derived.get((__name__, "seats"))
    if counts is None:
        counts = current.derived[__name__, "seats"] = Counter(
            each for table in current.tables for row in table.node_rows for each in row
        )
    weights = sum(each.weight for each in current.nodes if each.state in _SEATED)
    weight = node.weight if node.state in _SEATED else 0
    return counts[node.node_id], counts.total() * weight / weights if weights else 0.0


def _node(facts: Facts, node: Node, seats: int, ideal: float) -> dict[str, Any]:
    told = facts.told.get(node.node_id)
    return {
        "id": node.node_id,
        "zone": node.zone,
        "rack": node.rack,
        "host": node.host,
        "weight": node.weight,
        "state": node.state.name.lower(),
        "answers": facts.answers.get(node.node_id),
        "seats": seats,
        "ideal_seats": round(ideal, 1),
        "facts": _told(told) if told is not None else None,
    }


def _told(told: NodeFacts) -> dict[str, Any]:
    shown = {
        name: value
        for name, value in asdict(told).items()
        if name not in ("live", "denials", "backlog")
    }
    return shown | {"backlog": dict(told.backlog)}


def _denials(facts: Facts) -> dict[str, int]:
    found: Counter[str] = Counter()
    for told in facts.told.values():
        found.update(dict(told.denials))
    return dict(found.most_common())
