"""What nodes may do to the map by themselves: give nodes up, and rebuild their seats.

Invariants: pure, so that all nodes that give up the same nodes of one map find the same
successor, byte for byte, and can endorse it by its digest; nodes that are given up are
all that changes, but for what the plan that rebuilds their seats brings with it.

Not guaranteed: that the ledger takes the map; that is for its rules, which do not plan.
Source: docs/decisions/0018-protocol-version-2.md.
"""

from __future__ import annotations

from collections.abc import Collection

from hcefs.placement.changes import mark_out
from hcefs.placement.cluster_map import ClusterMap, NodeState
from hcefs.placement.planner import plan
from hcefs.placement.waves import apply_plan, settled

LIVE = frozenset({NodeState.JOINING, NodeState.UP, NodeState.DOWN, NodeState.DRAINING})
"""States from which a node may be given up."""


def automatic_successor(current: ClusterMap, out_ids: Collection[int]) -> ClusterMap:
    """The next epoch's map when these nodes are given up, and nothing else changes.

    Seats in flight stay so; whichever have arrived meanwhile are to be reported again.

    Raises:
        NotFound: no such node, or it was removed.
        Infeasible: the others cannot hold the rows: that is for the operators.
    """
    changed = plan(current, mark_out(current, out_ids), weaker_caps=True)
    return apply_plan(changed, current)


def given_up(old: ClusterMap, new: ClusterMap) -> frozenset[int]:
    """The nodes that ``new`` sets out and ``old`` did not."""
    found = set()
    for node in new.nodes:
        before = old.node(node.node_id)
        if node.state is NodeState.OUT and before is not None and before.state in LIVE:
            found.add(node.node_id)
    return frozenset(found)


def is_only_given_up(old: ClusterMap, new: ClusterMap, out_ids: Collection[int]) -> bool:
    """Whether ``new`` gives these nodes up and changes no other; its rows are not looked at."""
    shapes = [
        [(table.profile, table.k, table.m, table.bits) for table in each.tables]
        for each in (old, new)
    ]
    return (
        (new.seed, new.default_profile) == (old.seed, old.default_profile)
        and shapes[0] == shapes[1]
        and new.nodes == settled(mark_out(old, out_ids), new.tables)
    )
