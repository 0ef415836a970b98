"""May this node be stopped; may it be removed for good: yes or no, with the reason.

Invariants: pure functions of the map and of facts that the caller collected.  Facts
of another epoch than the map's, and facts that are missing where they matter, give
no, with ``is_known`` false: no conclusion could be drawn.  A yes never rests on
something that nobody reported.

Not guaranteed: anything about the ledger's writer, which has an answer of its own,
or that the facts are still true when the node is stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from hcefs.placement.availability import Answer, HealthFacts, other_epoch, row_counts
from hcefs.placement.changes import seats_of
from hcefs.placement.cluster_map import ClusterMap, NodeState, Table

__all__ = ["Answer", "HealthFacts", "InventoryFacts", "ok_to_stop", "safe_to_remove"]


@dataclass(frozen=True)
class InventoryFacts:
    """What inventories of one epoch showed.

    ``complete`` are, by profile, the partitions of which all n seats were listed,
    compared and verified.  ``only_copies`` says for each node that was listed how
    many shards it keeps that no seat has verified, stand-ins included.
    """

    epoch: int
    complete: Mapping[str, Collection[int]]
    only_copies: Mapping[int, int] = field(default_factory=dict)


# --- stopping ---------------------------------------------------------------------------


def ok_to_stop(cluster_map: ClusterMap, node_id: int, facts: HealthFacts) -> Answer:
    """Whether every blob stays readable and puts go on while the node is stopped.

    That is so if each row in which it matters keeps k + 1 seats that serve: k to
    read, and one more because a put is acknowledged from k + 1 shards on.
    """
    node = cluster_map.node(node_id)
    if node is None or node.state is NodeState.REMOVED:
        return Answer(False, f"the map has no node {node_id}")
    other = other_epoch(cluster_map, facts.epoch)
    if other is not None:
        return other
    unknown: Answer | None = None
    for table in cluster_map.tables:
        answer = _table_survives(table, node_id, facts)
        if not answer.yes and answer.is_known:
            return answer
        if not answer.yes and unknown is None:
            unknown = answer
    return unknown or Answer(
        True, f"without node {node_id} every partition keeps the shards for gets and puts"
    )


def _table_survives(table: Table, node_id: int, facts: HealthFacts) -> Answer:
    needed = table.k + 1
    unknown: Answer | None = None
    for row in row_counts(table, facts, without=node_id):
        partition, least, most = row.partition, row.least, row.most
        if most < needed:
            return Answer(
                False,
                f"partition {partition} of {table.profile} would keep {most} shards that serve, "
                f"and {needed} are needed: wait until it is repaired",
            )
        if least < needed and unknown is None:
            unknown = Answer(
                False,
                f"partition {partition} of {table.profile} depends on node {row.silent[0]}, of "
                "which nothing was heard: no conclusion",
                is_known=False,
            )
    return unknown or Answer(True, "")


# --- removing ---------------------------------------------------------------------------


def safe_to_remove(cluster_map: ClusterMap, node_id: int, facts: InventoryFacts) -> Answer:
    """Whether the node can be destroyed without losing a shard.

    That is so if it has no seat, every row is complete without it, and it keeps
    nothing that no seat has.
    """
    node = cluster_map.node(node_id)
    if node is None:
        return Answer(False, f"the map has no node {node_id}")
    held = seats_of(cluster_map, node_id)
    if held:
        return Answer(
            False,
            f"node {node_id} still has {held} seats, or is their source or target: drain it, or "
            "wait for the plan",
        )
    other = other_epoch(cluster_map, facts.epoch)
    if other is not None:
        return other
    for table in cluster_map.tables:
        complete = set(facts.complete.get(table.profile, ()))
        missing = [p for p in range(table.partitions) if p not in complete]
        if missing:
            return Answer(
                False,
                f"{len(missing)} of {table.partitions} partitions of {table.profile} were not "
                f"found complete, the first is {missing[0]}: no conclusion until an inventory of "
                "them is",
                is_known=False,
            )
    copies = facts.only_copies.get(node_id)
    if copies is None:
        # A lost node cannot be asked; the rows are complete without it.
        if node.state in (NodeState.OUT, NodeState.REMOVED):
            return Answer(True, f"node {node_id} is out, and every partition is complete")
        return Answer(
            False, f"node {node_id} did not list what it keeps: no conclusion", is_known=False
        )
    if copies:
        return Answer(
            False,
            f"node {node_id} keeps {copies} shards outside of seats of its own: it deletes each "
            "when the holder of its seat has it and the grace period is over; wait for that",
        )
    return Answer(True, f"node {node_id} has no seat, and every partition is complete without it")
