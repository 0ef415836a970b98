"""How well the planner places: balance, moves, safety, time and size, against its goals.

Each line starts from a first map and plans one operation.  ``moves`` are proved
minimal without an outside solver: no circle of exchanges has a negative cost
(``hcefs.placement.chains.is_cheapest``); the tests compare the same with OR-Tools.

Times are CPU seconds of this process, the best of the repeats.  All else is exact
or drawn from a fixed seed, so two runs differ in times only.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from benchmarks.placement_baselines import by_rendezvous, compare, on_ring
from benchmarks.placement_figures import (
    compressed,
    compressed_moving,
    cpu_seconds,
    data_imbalance,
    fair_of,
    is_minimal,
    look_up_seconds,
    real_optimum,
    rows_of,
    spread,
    violations,
)
from benchmarks.placement_goals import goals
from hcefs.erasure.scheme import profile_named
from hcefs.errors import HcefsError, Invalid
from hcefs.ids import AccountId
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.figures import fair_shares
from hcefs.placement.planner import Plan, first_map, plan
from hcefs.placement.quotas import members
from hcefs.placement.waves import apply_plan, epochs

SEED: Final = bytes(range(32))
NODES: Final = (6, 12, 50, 200)
PROFILES: Final = ("ec-4-2", "ec-10-4")
GROWTH: Final = (50, 100, 200, 500, 1_000)
RANDOM_OPERATIONS: Final = 100
QUICK_NODES_MAX: Final = 50
"""Nodes of the largest cluster on which a quick run walks and makes baselines."""


_ZONES: Final = ((6, 3), (12, 4))
_ZONES_OF_MORE: Final = 5

Say = Callable[[str], None]
Line = dict[str, Any]


def zones_of(count: int) -> int:
    """Zones of a cluster of that many nodes."""
    return next((zones for most, zones in _ZONES if count <= most), _ZONES_OF_MORE)


def make_node(number: int, zone: int, weight: int = 100) -> Node:
    """A node with a host of its own and addresses of realistic length."""
    return Node(
        node_id=number,
        account=AccountId(random.Random(number).randbytes(16)),
        address=f"node-{number}.storage.example:7443",
        peer_address=f"node-{number}.storage.example:7444",
        zone=f"zone-{zone}",
        rack="",
        host=f"host-{number}",
        weight=weight,
        state=NodeState.UP,
    )


def make_map(count: int, profile: str, expected: int = 0) -> ClusterMap:
    """The first map of equal nodes dealt to the zones in turn."""
    scheme = profile_named(profile)
    zones = zones_of(max(count, expected))
    nodes = [make_node(number, number % zones) for number in range(1, count + 1)]
    return first_map(nodes, [(profile, scheme.k, scheme.m)], SEED, profile, expected)


# --- operations -------------------------------------------------------------------------


def operations(old: ClusterMap) -> dict[str, Callable[[], Sequence[Node]]]:
    """The operations of a line each, by name."""
    count = len(old.nodes)
    zones = zones_of(count)
    third = old.nodes[2]
    extra = max(3, count // 10)

    def fresh(how_many: int) -> list[Node]:
        return [
            make_node(number, number % zones) for number in range(count + 1, count + 1 + how_many)
        ]

    def twin() -> Node:
        return replace(make_node(count + 1, 0), zone=third.zone, weight=third.weight)

    return {
        "add 1": lambda: changes.add(old, fresh(1)),
        f"add {extra}": lambda: changes.add(old, fresh(extra)),
        "drain": lambda: changes.drain(old, 3),
        "out": lambda: changes.mark_out(old, [3]),
        "replace": lambda: changes.replace_node(old, 3, twin()),
        "double weight": lambda: changes.reweight(old, 3, 200),
        "halve weight": lambda: changes.reweight(old, 3, 50),
    }


def settle(old: ClusterMap, found: Plan) -> ClusterMap:
    """The map when the plan has been carried out."""
    for now in epochs(found, old):
        last = now
    return last


# --- one line ---------------------------------------------------------------------------


def measure_line(
    old: ClusterMap, operation: str, change: Callable[[], Sequence[Node]], repeats: int
) -> Line:
    """Plan one operation and measure what came out."""
    table = old.tables[0]
    line: Line = {
        "profile": table.profile,
        "nodes": len(old.nodes),
        "zones": len({node.zone for node in old.nodes}),
        "partitions": table.partitions,
        "operation": operation,
    }
    try:
        nodes = change()
        started = time.process_time()
        found = plan(old, nodes)
        seconds = [time.process_time() - started]
    except HcefsError as error:
        return line | {"available": False, "reason": error.message}
    seconds += [cpu_seconds(partial(plan, old, nodes)) for _ in range(repeats - 1)]
    planned = found.tables[0]
    report = planned.report
    target = rows_of(planned.target, table.n)
    after = settle(old, found)
    return line | {
        "available": True,
        "reason": "",
        "plan_s": min(seconds),
        "moves": report.moves,
        "optimum": report.moves if is_minimal(table, nodes, planned) else None,
        "lower_bound": report.lower_bound,
        "gap": report.gap,
        "real_optimum": real_optimum(table, nodes, planned),
        "newcomers": report.newcomers,
        "chains": report.chains,
        "waves": report.waves,
        "imbalance_raw": float(report.after.raw),
        "imbalance": float(report.after.feasible),
        "imbalance_before": float(report.before.feasible) if report.before else None,
        "stranded": float(report.after.stranded),
        "seats_a_node": table.n * table.partitions / len(members(nodes)),
        "cap_violations": violations(target, nodes, planned),
        "others_gaining": sum(
            one.after > one.before for one in report.nodes if old.node(one.node_id) is not None
        ),
        "zone_safe": report.after.zone_safe,
        "data_imbalance": data_imbalance(target, table, fair_of(nodes, planned, table), True),
        "data_imbalance_unrotated": data_imbalance(
            target, table, fair_of(nodes, planned, table), False
        ),
        **spread(target, table.m, len(members(nodes))),
        "map_bytes": len(after.encode()),
        "map_compressed": compressed(after),
        "map_compressed_moving": compressed_moving(apply_plan(found, old)),
        "map_hash": after.digest().hex()[:16],
    }


# --- baselines --------------------------------------------------------------------------


def baselines(old: ClusterMap) -> list[Line]:
    """Adding one node with a ring of virtual nodes and with weighted rendezvous."""
    table = old.tables[0]
    nodes = changes.add(old, [make_node(len(old.nodes) + 1, 0)])
    before, after = members(old.nodes), members(nodes)
    fair = fair_shares(nodes, table.caps, table.partitions, table.n)
    part = {node_id: float(share / table.partitions) for node_id, share in fair.items()}
    ideal = float(fair[len(nodes)] / table.partitions)
    made = {
        "ring, 160 virtual nodes": on_ring(before, after, table.caps, table.n),
        "weighted rendezvous": by_rendezvous(before, after, table.caps, table.n, table.bits, SEED),
    }
    return [
        {"profile": table.profile, "nodes": len(old.nodes), "scheme": name, "operation": "add 1"}
        | compare(*placed, part, ideal)
        for name, placed in made.items()
    ]


# --- many operations --------------------------------------------------------------------


@dataclass
class Walk:
    """Random operations in a row, and what they came to."""

    operations: int = 0
    moves: int = 0
    ideal: float = 0.0
    imbalance: float = 1.0
    violations: int = 0
    all_minimal: bool = True
    seats_are_sets: bool = True
    plan_s: float = 0.0
    refused: int = 0


def random_walk(count: int, profile: str, steps: int, *, prove: bool, seed: int = 3) -> Walk:
    """``steps`` random operations in a row on a cluster of about ``count`` nodes."""
    draw = random.Random(seed)
    now = make_map(count, profile, count + count // 10)
    walk = Walk()
    while walk.operations < steps:
        try:
            nodes = _random_change(now, draw, count)
            started = time.process_time()
            found = plan(now, nodes)
        except HcefsError:
            walk.refused += 1
            continue
        walk.plan_s = max(walk.plan_s, time.process_time() - started)
        planned = found.tables[0]
        report = planned.report
        walk.operations += 1
        walk.moves += report.moves
        walk.ideal += float(report.ideal)
        walk.imbalance = max(walk.imbalance, float(report.after.feasible))
        walk.seats_are_sets &= report.moves == report.newcomers
        table = now.tables[0]
        walk.violations += violations(rows_of(planned.target, table.n), nodes, planned)
        if prove:
            walk.all_minimal &= is_minimal(table, nodes, planned)
        now = _without_seatless(settle(now, found))
    return walk


def _random_change(now: ClusterMap, draw: random.Random, count: int) -> Sequence[Node]:
    live = members(now.nodes)
    one = draw.choice(live)
    fresh = make_node(changes.next_node_id(now), draw.randrange(zones_of(count)))
    crowded, thin = len(live) > count * 1.08, len(live) < count * 0.92
    kind = draw.choice(("add", "add", "drain", "out", "replace", "reweight"))
    if kind in ("drain", "out") and not thin:
        return (
            changes.drain(now, one.node_id)
            if kind == "drain"
            else changes.mark_out(now, [one.node_id])
        )
    if kind in ("add", "drain", "out") and not crowded:
        return changes.add(now, [fresh])
    if kind == "replace":
        return changes.replace_node(
            now, one.node_id, replace(fresh, zone=one.zone, weight=one.weight)
        )
    return changes.reweight(now, one.node_id, draw.choice((50, 80, 100, 125, 150, 200)))


def _without_seatless(now: ClusterMap) -> ClusterMap:
    """Drained nodes leave."""
    nodes = tuple(
        replace(node, state=NodeState.REMOVED)
        if node.state in (NodeState.DRAINING, NodeState.OUT)
        and not changes.seats_of(now, node.node_id)
        else node
        for node in now.nodes
    )
    return replace(now, nodes=nodes)


# --- growth -----------------------------------------------------------------------------


def growth_line(count: int, profile: str) -> Line:
    """Planning on a cluster that grew to ``count`` nodes; partitions as that needs."""
    start = min(count, 50)
    now = make_map(start, profile, count)
    zones = zones_of(count)
    line: Line = {"profile": profile, "nodes": count, "partitions": now.tables[0].partitions}
    if count > start:
        more = [make_node(number, number % zones) for number in range(start + 1, count + 1)]
        nodes = changes.add(now, more)
        started = time.process_time()
        grown = plan(now, nodes)
        line["grow_s"] = time.process_time() - started
        line["grow_moves"] = grown.moves
        now = settle(now, grown)
    line["add_s"] = cpu_seconds(partial(plan, now, changes.add(now, [make_node(count + 1, 0)])))
    line["drain_s"] = cpu_seconds(partial(plan, now, changes.drain(now, 3)))
    line["map_compressed"] = compressed(now)
    line["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return line


# --- one digest everywhere --------------------------------------------------------------

_SCRIPT: Final = "from benchmarks.placement import reference_digest; print(reference_digest())"


def reference_digest() -> str:
    """The digest of a fixed map after three fixed plans."""
    now = make_map(12, "ec-4-2")
    now = settle(now, plan(now, changes.add(now, [make_node(13, 1, 150)])))
    now = settle(now, plan(now, changes.reweight(now, 5, 70)))
    now = settle(now, plan(now, changes.drain(now, 2)))
    return now.digest().hex()


def digests() -> set[str]:
    """What processes with different hash seeds find."""
    found = set()
    for hash_seed in ("0", "1", "4242"):
        ran = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        found.add(ran.stdout.strip())
    return found


# --- all of it --------------------------------------------------------------------------


def check_options(nodes: Sequence[int], profiles: Sequence[str]) -> None:
    """Check that there is something to measure.

    Raises:
        NotFound: an unknown profile.
        Invalid: no cluster is large enough for any profile.
    """
    if max(nodes) < min(profile_named(profile).n for profile in profiles):
        raise Invalid("no cluster is large enough for any of the profiles", reason="bad-number")


def run(nodes: Sequence[int], profiles: Sequence[str], *, quick: bool, say: Say) -> dict[str, Any]:
    """Every line, baseline and figure, and the goals."""
    lines: list[Line] = []
    beside: list[Line] = []
    look_ups: list[Line] = []
    walks: list[Line] = []
    for profile in profiles:
        for count in nodes:
            if count < profile_named(profile).n:
                say(f"{profile} needs {profile_named(profile).n} nodes: skipping {count}")
                continue
            say(f"{profile} on {count} nodes")
            old = make_map(count, profile)
            lines += [
                measure_line(old, name, change, 1 if quick else 3)
                for name, change in operations(old).items()
            ]
            look_ups.append({"profile": profile, "nodes": count, "look_up_s": look_up_seconds(old)})
            if count <= QUICK_NODES_MAX or not quick:
                beside += baselines(old)
        count = max(nodes)
        count = min(count, QUICK_NODES_MAX) if quick else count
        if count >= profile_named(profile).n + 2:
            say(f"{profile}: {RANDOM_OPERATIONS} random operations on {count} nodes")
            walk = random_walk(count, profile, RANDOM_OPERATIONS, prove=not quick)
            walks.append({"profile": profile, "nodes": count} | vars(walk))
    growth: list[Line] = []
    for count in () if quick else GROWTH:
        say(f"growth: {count} nodes")
        growth += [growth_line(count, profile) for profile in profiles]
    say("one digest under different hash seeds")
    found: dict[str, Any] = {
        "nodes": list(nodes),
        "lines": lines,
        "baselines": beside,
        "look_ups": look_ups,
        "walks": walks,
        "growth": growth,
        "digests": sorted(digests()),
    }
    return found | {"goals": [goal.as_data() for goal in goals(found)]}
