"""What operators do to nodes: add, drain, replace, remove, re-weight, mark down or out.

Each function takes the map in force and returns the nodes of the next epoch, for
``hcefs.placement.planner.plan``; nothing moves by itself.

Invariants: pure; an id is never used twice; what an operator asks for is refused
with the reason and the cure when it cannot be meant.  Failures are not asked for:
``mark_down`` and ``mark_out`` say what is so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.placement.cluster_map import WEIGHT_MAX, ClusterMap, Node, NodeState
from hcefs.placement.feasibility import Cure, Infeasible
from hcefs.placement.quotas import members

NODE_ID_MAX = 0xFFFF
_LIVE = frozenset({NodeState.JOINING, NodeState.UP, NodeState.DOWN, NodeState.DRAINING})

Nodes = tuple[Node, ...]


def next_node_id(cluster_map: ClusterMap) -> int:
    """An id that was never used.

    Raises:
        Invalid: all ids have been used.
    """
    highest = max((node.node_id for node in cluster_map.nodes), default=0)
    if highest >= NODE_ID_MAX:
        raise Invalid(
            f"all {NODE_ID_MAX} node ids have been used: found a new cluster", reason="no-node-id"
        )
    return highest + 1


def add(cluster_map: ClusterMap, new: Sequence[Node]) -> Nodes:
    """The nodes with new ones, which join.

    Raises:
        Conflict: an id or an account is taken.
        Invalid: an id was used before, or the weight is not positive.
    """
    nodes = {node.node_id: node for node in cluster_map.nodes}
    for node in new:
        taken = nodes.get(node.node_id)
        if taken is not None and taken.state is NodeState.REMOVED:
            raise Invalid(
                f"node id {node.node_id} belonged to a node that was removed; ids are never used "
                f"twice: use {next_node_id(cluster_map)}",
                reason="node-id-reused",
            )
        if taken is not None:
            raise Conflict(
                f"there is a node {node.node_id} already: use id {next_node_id(cluster_map)}",
                reason="node-id-twice",
            )
        other = next((o for o in nodes.values() if _is_twin(o, node)), None)
        if other is not None:
            raise Conflict(
                f"node {other.node_id} has the account of the new node {node.node_id}: remove it "
                "first, or register another account",
                reason="account-twice",
            )
        _require_weight(node.node_id, node.weight)
        nodes[node.node_id] = replace(node, state=NodeState.JOINING)
    return tuple(nodes[node_id] for node_id in sorted(nodes))


def _is_twin(old: Node, new: Node) -> bool:
    return old.account == new.account and old.state is not NodeState.REMOVED


def drain(cluster_map: ClusterMap, node_id: int, *, give_up_zone: bool = False) -> Nodes:
    """The nodes with one to be emptied; it stays a source until its seats have moved.

    Raises:
        NotFound: no such node, or it has left.
        Infeasible: it is the last of its zone, and ``give_up_zone`` is not set.
    """
    node = _live(cluster_map, node_id)
    nodes = _with(cluster_map, replace(node, state=NodeState.DRAINING))
    if not give_up_zone:
        _require_zone(node, nodes)
    return nodes


def replace_node(cluster_map: ClusterMap, node_id: int, new: Node) -> Nodes:
    """The nodes with a new one in the place of another, whose quota it takes over.

    The old one is drained; one that is out or down stays so.  With the same weight
    and domains, exactly the old node's seats move.

    Raises:
        NotFound, Conflict, Invalid: as ``add`` and ``drain``.
        Infeasible: the zone would be left without a node.
    """
    old = cluster_map.node(node_id)
    if old is None or old.state is NodeState.REMOVED:
        raise _unknown(node_id)
    nodes = add(cluster_map, [new])
    if old.state is not NodeState.OUT:
        nodes = tuple(
            replace(old, state=NodeState.DRAINING) if node.node_id == node_id else node
            for node in nodes
        )
    _require_zone(old, nodes)
    return nodes


def reweight(cluster_map: ClusterMap, node_id: int, weight: int) -> Nodes:
    """The nodes with one at another weight.

    Raises:
        NotFound: no such node, or it has left.
        Invalid: the weight is not positive, or too large.
    """
    _require_weight(node_id, weight)
    return _with(cluster_map, replace(_live(cluster_map, node_id), weight=weight))


def ramp(weight: int, steps: int) -> Iterator[int]:
    """Growing weights for a node that joins in several plans, the last one ``weight``.

    Raises:
        Invalid: no steps, or a weight that is not positive.
    """
    _require_weight(0, weight)
    if steps < 1:
        raise Invalid("a ramp has at least one step", reason="bad-ramp")
    return (max(1, weight * step // steps) for step in range(1, steps + 1))


def mark_down(cluster_map: ClusterMap, node_id: int) -> Nodes:
    """The nodes with one known to be away; it keeps its seats."""
    return _with(cluster_map, replace(_live(cluster_map, node_id), state=NodeState.DOWN))


def mark_up(cluster_map: ClusterMap, node_id: int) -> Nodes:
    """The nodes with one back, or no longer to be drained."""
    return _with(cluster_map, replace(_live(cluster_map, node_id), state=NodeState.UP))


def mark_out(cluster_map: ClusterMap, node_ids: Collection[int]) -> Nodes:
    """The nodes with some given up: a plan rebuilds their seats elsewhere.

    Raises:
        NotFound: no such node, or it was removed.
    """
    for node_id in node_ids:
        node = cluster_map.node(node_id)
        if node is None or node.state is NodeState.REMOVED:
            raise _unknown(node_id)
    return tuple(
        replace(node, state=NodeState.OUT) if node.node_id in node_ids else node
        for node in cluster_map.nodes
    )


def remove(cluster_map: ClusterMap, node_id: int) -> Nodes:
    """The nodes with one removed for good; its id stays and is never used again.

    Raises:
        NotFound: no such node, or it was removed.
        Conflict: it has seats, or is the source of seats in flight.
        Infeasible: the others would be too few, or its zone left empty; drain does
            not come first then either.
    """
    node = cluster_map.node(node_id)
    if node is None or node.state is NodeState.REMOVED:
        raise _unknown(node_id)
    nodes = _with(cluster_map, replace(node, state=NodeState.REMOVED))
    for table in cluster_map.tables:
        if len(members(nodes)) < table.n:
            raise Infeasible(
                f"{table.profile} needs {table.n} nodes that take seats, {len(members(nodes))} "
                f"would be left without node {node_id}",
                reason="too-few-nodes",
                cures=(Cure("replace", f"add a node and replace node {node_id} by it"),),
            )
    held = seats_of(cluster_map, node_id)
    if held:
        cure = "wait for the plan" if node.state is NodeState.DRAINING else "drain it"
        raise Conflict(
            f"node {node_id} still has {held} seats, or is their source or target: {cure} first",
            reason="still-seated",
        )
    return nodes


def seats_of(cluster_map: ClusterMap, node_id: int) -> int:
    """Seats that a node holds, is to hold, or is the source of."""
    found = 0
    for table in cluster_map.tables:
        found += sum(node_id in row for row in table.node_rows)
        found += sum(move.source == node_id for move in table.moving)
        if table.target:
            found += sum(
                node_id in wanted and node_id not in row
                for wanted, row in zip(table.target_rows, table.node_rows, strict=True)
            )
    return found


def _with(cluster_map: ClusterMap, changed: Node) -> Nodes:
    return tuple(changed if node.node_id == changed.node_id else node for node in cluster_map.nodes)


def _live(cluster_map: ClusterMap, node_id: int) -> Node:
    node = cluster_map.node(node_id)
    if node is None or node.state not in _LIVE:
        raise _unknown(node_id)
    return node


def _unknown(node_id: int) -> NotFound:
    return NotFound(
        f"the map has no node {node_id} that takes part: a node that left comes back under a new "
        "id",
        reason="unknown-node",
    )


def _require_weight(node_id: int, weight: int) -> None:
    if not 1 <= weight <= WEIGHT_MAX:
        name = f"node {node_id}: " if node_id else ""
        raise Invalid(
            f"{name}weight {weight} is outside 1..{WEIGHT_MAX}; to empty a node, drain it",
            reason="bad-weight",
        )


def _require_zone(leaving: Node, nodes: Sequence[Node]) -> None:
    if all(node.zone != leaving.zone for node in members(nodes)):
        raise Infeasible(
            f"node {leaving.node_id} is the last that takes seats in zone {leaving.zone}",
            reason="last-of-zone",
            cures=(
                Cure("add-hosts", f"add one host in zone {leaving.zone}"),
                Cure("consent", "consent to giving the zone up"),
            ),
        )
