"""Who is away, by what the nodes have reported: pure decisions over the ledger's facts.

The ledger decides in the end (:mod:`hcefs.ledger.rules_automatic`), by the same counts.
This module is the stricter of the two: it never asks for what would be refused, and it
wants more than half of *all* other nodes that serve to miss a node, so that a few nodes
do not become a majority by counting the others out.

Invariants: nodes whose replicas are equally far come to the same verdict, but for the
difference between their clocks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hcefs.ledger.cluster_facts import UpkeepPolicy
from hcefs.ledger.rules_automatic import (
    SERVING,
    count_away,
    endorsing,
    is_missed,
    voters_without,
    votes,
)
from hcefs.ledger.state import StateView
from hcefs.placement.automatic import LIVE
from hcefs.placement.cluster_map import ClusterMap


@dataclass(frozen=True)
class Verdict:
    """What the reports say.

    Attributes:
        due: nodes that a majority has missed for as long as the policy asks.
        away: how many nodes are away at all, those that were given up and still have
            seats included; 0 while none is due.
    """

    due: frozenset[int]
    away: int


def judge(view: StateView, current: ClusterMap, policy: UpkeepPolicy, now_ms: int) -> Verdict:
    """Who is to be given up at this time; nobody when the policy has it switched off."""
    if not policy.out_after_ms:
        return Verdict(frozenset(), 0)
    before_ms = now_ms - policy.out_after_ms
    everybody = voters_without(current, ())
    known = votes(view, everybody)
    due: set[int] = set()
    for node_id in {each.node_id for row in known for each in row.unreachable}:
        node = current.node(node_id)
        missed_by_most = is_missed(known, len(everybody), node_id, before_ms)
        if node is not None and node.state in LIVE and missed_by_most:
            due.add(node_id)
    # Who is given up has no vote on the others: without its word some may not be missed
    # by enough.  Each round drops a node, so this ends.
    while due:
        rows = [row for row in known if row.node_id not in due]
        missed = {each for each in due if is_missed(rows, len(everybody), each, before_ms)}
        if missed == due:
            return Verdict(frozenset(due), count_away(rows, len(everybody), current))
        due = missed
    return Verdict(frozenset(), 0)


def agreed(
    view: StateView, current: ClusterMap, out: Collection[int], digest: bytes
) -> tuple[int, ...]:
    """The nodes that endorse a successor, in order, if they are the majority it needs."""
    found = endorsing(votes(view, voters_without(current, out)), current, digest)
    return tuple(sorted(found)) if 2 * len(found) > len(voters_without(current, ())) else ()


def is_cut_off(current: ClusterMap, own: int, unreachable: Collection[int]) -> bool:
    """Whether a node reaches fewer than half of the others that are to be there.

    Nodes that the operators have marked as down are expected to be away.
    """
    others = [n.node_id for n in current.nodes if n.state in SERVING and n.node_id != own]
    reached = sum(node_id not in unreachable for node_id in others)
    return 2 * reached < len(others)
