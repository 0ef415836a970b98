"""The fewest newcomers that rows can have, by OR-Tools' minimum-cost flow.

A row sends n units through its zones, racks and hosts, each with its cap, to
members; an arc to a member of the old row is free, to any other it costs one.
A member takes exactly its quota.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hcefs.placement.cluster_map import LEVELS, Caps, Node


def fewest_newcomers(
    old: Sequence[Sequence[int]], nodes: Sequence[Node], loads: Mapping[int, int], caps: Caps
) -> int:
    """The optimum for rows that give each node exactly its load."""
    from ortools.graph.python import min_cost_flow

    flow = min_cost_flow.SimpleMinCostFlow()
    wanted = [node for node in nodes if loads.get(node.node_id)]
    number = {node.node_id: position for position, node in enumerate(wanted)}
    for node in wanted:
        flow.set_node_supply(number[node.node_id], -loads[node.node_id])
    made = len(wanted)
    for row in old:
        top = made
        made += 1
        flow.set_node_supply(top, len(row))
        domains: dict[tuple[str, ...], int] = {}
        for node in wanted:
            above = top
            for level in LEVELS:
                name = node.domain(level)
                if name not in domains:
                    domains[name] = made
                    made += 1
                    flow.add_arc_with_capacity_and_unit_cost(
                        above, domains[name], caps.of(level), 0
                    )
                above = domains[name]
            flow.add_arc_with_capacity_and_unit_cost(
                above, number[node.node_id], 1, int(node.node_id not in row)
            )
    assert flow.solve() == flow.OPTIMAL
    return int(flow.optimal_cost())
