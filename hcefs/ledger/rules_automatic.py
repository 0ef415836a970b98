"""The rules for what nodes may do without the operators: when a map that they make counts.

A single node's word moves nothing.  A strict majority of the nodes that serve must have
missed a node for as long as the operators' policy says, and must agree with exactly the
map that gives it up; and where more nodes are away than the policy allows, which is what
a network that fell apart looks like, nobody acts but the operators.

Invariants: verdicts follow from the state and the block's time; a node that a majority
gives up has no vote on it, and a deactivated one has none at all.
Source: docs/decisions/0018-protocol-version-2.md.
"""

from __future__ import annotations

from collections.abc import Collection

from hcefs.access.facts import Account, AccountKind
from hcefs.errors import Conflict, Denied
from hcefs.ledger.cluster_facts import ReportRow, UpkeepPolicy
from hcefs.ledger.outcome import BlockContext
from hcefs.ledger.state import StateView
from hcefs.placement.automatic import given_up, is_only_given_up
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState

SERVING = frozenset({NodeState.JOINING, NodeState.UP, NodeState.DRAINING})
"""States of nodes that report, and have a vote."""


def is_of_one_node(signers: tuple[Account, ...]) -> bool:
    """Whether a change of the map is a node's, not the operators'."""
    return len(signers) == 1 and signers[0].kind is AccountKind.NODE


def require_automatic(
    view: StateView,
    signer: Account,
    old: ClusterMap | None,
    new: ClusterMap,
    context: BlockContext,
) -> None:
    """Check that the nodes may replace ``old`` by ``new`` at this time.

    Raises:
        Denied: ``automatic-out-off``, ``not-in-map``, ``not-automatic`` or
            ``too-many-away``.
        Conflict: ``not-missed`` or ``not-endorsed``: not enough nodes say so yet.
    """
    policy = view.policy()
    if not policy.out_after_ms:
        raise Denied(
            "nodes do not change the cluster map: the policy has automatic out switched off, so "
            "operators sign this transaction",
            reason="automatic-out-off",
        )
    node = None if old is None else old.node_of_account(signer.account)
    if old is None or node is None or node.state not in SERVING:
        raise Denied(
            "the cluster map does not have this node serve, so it changes no map",
            reason="not-in-map",
        )
    out = given_up(old, new)
    if not out or not is_only_given_up(old, new, out):
        raise Denied(
            "nodes may only set nodes out that are away, and change nothing else: operators sign "
            "other changes",
            reason="not-automatic",
        )
    # Of all that serve, those that are to be given up included: a few may not give up many.
    serving = len(voters_without(old, ()))
    rows = votes(view, voters_without(old, out))
    _require_missed(rows, serving, out, context.time_ms - policy.out_after_ms)
    _require_few_away(rows, serving, old, policy)
    endorsed = len(endorsing(rows, old, new.digest()))
    if 2 * endorsed <= serving:
        raise Conflict(
            f"{endorsed} of {serving} nodes endorse this map, more than half must: wait for "
            "their reports, or make the map again",
            reason="not-endorsed",
        )


def voters_without(current: ClusterMap, out: Collection[int]) -> list[Node]:
    """The nodes whose word counts when some are to be given up."""
    return [each for each in current.nodes if each.state in SERVING and each.node_id not in out]


def votes(view: StateView, voters: Collection[Node]) -> list[ReportRow]:
    """What those nodes last reported, without those whose account was deactivated."""
    rows = []
    for node in voters:
        account = view.account(node.account)
        row = view.report(node.node_id)
        if row is not None and account is not None and account.active:
            rows.append(row)
    return rows


def endorsing(rows: Collection[ReportRow], current: ClusterMap, digest: bytes) -> list[int]:
    """The nodes that agree with a successor of the map in force."""
    return [row.node_id for row in rows if row.epoch == current.epoch and row.endorses == digest]


def is_missed(
    rows: Collection[ReportRow], voters: int, node_id: int, before_ms: int | None = None
) -> bool:
    """Whether more than half of the voters miss a node, and since that time at the latest."""
    return 2 * _missing(rows, node_id, before_ms) > voters


def _missing(rows: Collection[ReportRow], node_id: int, before_ms: int | None) -> int:
    since = [row.misses(node_id) for row in rows]
    return sum(
        time_ms is not None and (before_ms is None or time_ms <= before_ms) for time_ms in since
    )


def count_away(rows: Collection[ReportRow], voters: int, current: ClusterMap) -> int:
    """How many nodes are away: missed by a majority, or given up and not replaced yet."""
    seated = {node_id for table in current.tables for row in table.node_rows for node_id in row}
    away = 0
    for node in current.nodes:
        if node.state is NodeState.OUT:
            away += node.node_id in seated
        elif node.state is not NodeState.REMOVED:
            away += is_missed(rows, voters, node.node_id)
    return away


def _require_missed(
    rows: Collection[ReportRow], voters: int, out: Collection[int], before_ms: int
) -> None:
    for node_id in sorted(out):
        missed = _missing(rows, node_id, before_ms)
        if not is_missed(rows, voters, node_id, before_ms):
            raise Conflict(
                f"{missed} of {voters} nodes have missed node {node_id} for as long as the policy "
                "asks, more than half must: wait, or have the operators set it out",
                reason="not-missed",
            )


def _require_few_away(
    rows: Collection[ReportRow], voters: int, old: ClusterMap, policy: UpkeepPolicy
) -> None:
    away = count_away(rows, voters, old)
    if away > policy.out_max:
        raise Denied(
            f"{away} nodes are away at once, and the policy lets nodes act up to "
            f"{policy.out_max}: the operators look why, and set nodes out themselves",
            reason="too-many-away",
        )
