"""The rules for the operators' policy and the nodes' reports.

Invariants: a policy is swapped by its number; a node reports for itself alone, and how
long it has missed another is told by the times of blocks, not by the node.
Source: docs/decisions/0018-protocol-version-2.md.
"""

from __future__ import annotations

from hcefs.errors import Conflict, Denied, Invalid, NotFound
from hcefs.ledger.cluster_facts import MissedNode, ReportRow
from hcefs.ledger.outcome import BlockContext, Outcome
from hcefs.ledger.rules_automatic import SERVING
from hcefs.ledger.rules_map import node_in_force
from hcefs.ledger.rules_protocol import require_waves
from hcefs.ledger.signers import only_signer, require_operators, verified_signers
from hcefs.ledger.state import POLICY_KEY, Overlay, StateView, report_key
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.transactions_map import NodeReport, SetUpkeepPolicy
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState


def set_policy(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: SetUpkeepPolicy,
    context: BlockContext,
) -> Outcome:
    """Replace the policy if its number is still the expected one."""
    require_waves(view, context)
    require_operators(verified_signers(view, signed, context.genesis.cluster), context)
    current, new = view.policy(), transaction.policy
    if current == new:
        return Outcome()
    if current.number != transaction.expected_number:
        raise Conflict(
            f"the upkeep policy is at number {current.number}, not "
            f"{transaction.expected_number}: look at it, and change that",
            reason="policy-moved",
        )
    cluster_map = view.cluster_map()
    known = {table.profile for table in cluster_map.tables} if cluster_map is not None else set()
    for pair in new.reprofile:
        for profile in (pair.from_profile, pair.to_profile):
            if profile not in known:
                raise NotFound(
                    "the policy names a profile without a table in the cluster map: add the "
                    "table first",
                    reason="unknown-profile",
                )
    state.put_fact(POLICY_KEY, new)
    return Outcome()


def report(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: NodeReport,
    context: BlockContext,
) -> Outcome:
    """Replace what a node last reported; who was missed before is missed since then."""
    require_waves(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    current, node = node_in_force(view, signer, transaction.epoch)
    if node.node_id != transaction.node_id:
        raise Denied(
            f"the signer is node {node.node_id}: a node reports for itself alone",
            reason="other-node",
        )
    if node.state not in SERVING:
        raise Denied(
            f"the cluster map has node {node.node_id} as down, so its reports do not count: the "
            "operators mark it up first",
            reason="not-in-map",
        )
    _check_missed(current, node, transaction)
    before = view.report(node.node_id)
    since = {each.node_id: each.since_ms for each in before.unreachable} if before else {}
    row = ReportRow(
        node_id=node.node_id,
        number=transaction.number,
        epoch=current.epoch,
        unreachable=tuple(
            MissedNode(node_id, since.get(node_id, context.time_ms))
            for node_id in transaction.unreachable
        ),
        endorses=transaction.endorses,
    )
    if before == row:
        return Outcome()
    if before is not None and transaction.number <= before.number:
        raise Conflict(
            f"node {node.node_id} has reported with number {before.number} already: use a higher "
            "one",
            reason="report-moved",
        )
    state.put_fact(report_key(node.node_id), row)
    return Outcome()


def _check_missed(current: ClusterMap, own: Node, transaction: NodeReport) -> None:
    for node_id in transaction.unreachable:
        if node_id == own.node_id:
            raise Invalid("a node does not report that it misses itself", reason="own-node")
        other = current.node(node_id)
        if other is None or other.state is NodeState.REMOVED:
            raise NotFound(
                f"the cluster map has no node {node_id} that could be missed: leave it out",
                reason="unknown-node",
            )
