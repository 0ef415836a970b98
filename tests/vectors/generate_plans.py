"""Makes the golden vectors of plans: every platform and version must find the same targets.

Run ``python -m tests.vectors.generate_plans`` only when another planner is meant: nodes
check each other's plans by these bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import first_map, plan
from hcefs.placement.split import split
from hcefs.placement.waves import advance, apply_plan, epochs, in_flight
from tests.vectors.generate_placement import SEED, _nodes

FROZEN = Path(__file__).with_name("plans.json")
Change = Callable[[ClusterMap], tuple[Node, ...]]


def _extra(number: int, zone: str, weight: int = 100) -> Node:
    (node,) = _nodes(1, 1, 1, 1, (weight,))
    return Node(
        node_id=number,
        account=type(node.account)(number.to_bytes(16, "big")),
        address=f"node-{number}.example:7000",
        peer_address=f"node-{number}.example:7001",
        zone=zone,
        rack="rack-0",
        host=f"host-{number}",
        weight=weight,
        state=NodeState.UP,
    )


def _relabelled(old: ClusterMap) -> tuple[Node, ...]:
    moved = _extra(1, "zone-2")
    return tuple(
        Node(**(vars(node) | {"zone": moved.zone})) if node.node_id == 1 else node
        for node in old.nodes
    )


CASES: tuple[tuple[str, int, int, tuple[int, ...], str, int, int, Change], ...] = (
    # name, nodes, zones, weights, profile, k, m, change
    (
        "six-to-nine",
        6,
        3,
        (100,),
        "ec-4-2",
        4,
        2,
        lambda m: changes.add(m, [_extra(7, "zone-0"), _extra(8, "zone-1"), _extra(9, "zone-2")]),
    ),
    ("drain", 12, 4, (100, 120), "ec-4-2", 4, 2, lambda m: changes.drain(m, 3)),
    ("out", 12, 4, (100, 120), "copy-3", 1, 2, lambda m: changes.mark_out(m, [2, 7])),
    (
        "replace",
        12,
        4,
        (100,),
        "ec-4-2",
        4,
        2,
        lambda m: changes.replace_node(m, 5, _extra(13, "zone-0")),
    ),
    ("double", 12, 4, (100,), "ec-4-2", 4, 2, lambda m: changes.reweight(m, 5, 200)),
    ("relabel", 15, 5, (100,), "ec-4-2", 4, 2, _relabelled),
    (
        "wide",
        30,
        5,
        (7, 8, 9),
        "ec-10-4",
        10,
        4,
        lambda m: changes.add(m, [_extra(31, "zone-1", 8)]),
    ),
)


def _case(
    name: str,
    count: int,
    zones: int,
    weights: tuple[int, ...],
    profile: str,
    k: int,
    m: int,
    change: Change,
) -> dict[str, object]:
    old = first_map(_nodes(count, zones, 1, 1, weights), [(profile, k, m)], SEED, profile)
    found = plan(old, change(old))
    (table,) = found.tables
    report = table.report
    first = apply_plan(found, old)
    return {
        "name": name,
        "moves": report.moves,
        "lower_bound": report.lower_bound,
        "rebuilds": report.rebuilds,
        "waves": report.waves,
        "ideal": str(report.ideal),
        "imbalance": str(report.after.feasible),
        "target_sha256": sha256(table.target).hexdigest(),
        "first_moves": [
            [move.partition, move.seat, move.source] for move in first.tables[0].moving[:4]
        ],
        "map_digests": [one.digest().hex() for one in epochs(found, old)],
    }


def _in_mid_flight() -> dict[str, object]:
    """A plan replaced in its first wave: one destination lost, a third of the seats there."""
    old = first_map(_nodes(6, 3, 1, 1, (100,)), [("ec-4-2", 4, 2)], SEED, "ec-4-2")
    new = [_extra(7, "zone-0"), _extra(8, "zone-1"), _extra(9, "zone-2")]
    now = apply_plan(plan(old, changes.add(old, new)), old)
    done = frozenset(list(in_flight(now))[::3])
    now = apply_plan(plan(now, changes.mark_out(now, [8])), now, done)
    second = advance(now, in_flight(now))
    return {"map_digests": [now.digest().hex(), second.digest().hex()]}


def vectors() -> dict[str, object]:
    """The vectors, made anew."""
    three = first_map(_nodes(3, 3, 1, 1, (100,)), [("copy-3", 1, 2)], SEED, "copy-3")
    moving = apply_plan(plan(three, changes.add(three, [_extra(4, "zone-0")])), three)
    return {
        "seed": SEED.hex(),
        "cases": [_case(*case) for case in CASES],
        "in_mid_flight": _in_mid_flight(),
        "split_digest": split(three, "copy-3").digest().hex(),
        "map_in_mid_plan": moving.encode().hex(),
    }


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(vectors(), indent=1) + "\n")
