"""The rule for the cluster map: compare-and-swap by the operator threshold.

Invariants: epochs follow each other without a gap; every node that takes part is
a registered, active node account; the same map set twice changes nothing.  What
a map may contain is decided by :mod:`hcefs.placement.cluster_map`.
"""

from __future__ import annotations

from hcefs.access.facts import AccountKind
from hcefs.errors import Conflict, Denied, NotFound
from hcefs.ledger.outcome import BlockContext, MapChanged, Outcome
from hcefs.ledger.signers import require_operators, verified_signers
from hcefs.ledger.state import MAP_KEY, Overlay, StateView
from hcefs.ledger.transactions import SetClusterMap, SignedTransaction
from hcefs.placement.cluster_map import ClusterMap, NodeState, check_successor

_ABSENT = frozenset({NodeState.OUT, NodeState.REMOVED})
"""States of nodes that take no part, so that their account may be inactive."""


def set_map(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: SetClusterMap,
    context: BlockContext,
) -> Outcome:
    """Replace the map if its epoch is still the expected one."""
    require_operators(verified_signers(view, signed, context.genesis.cluster), context)
    new = ClusterMap.decode(transaction.cluster_map)
    old = view.cluster_map()
    if old is not None and old.digest() == new.digest():
        return Outcome()
    epoch = 0 if old is None else old.epoch
    if transaction.expected_epoch != epoch:
        raise Conflict(
            f"the cluster map is at epoch {epoch}, not {transaction.expected_epoch}: "
            "plan again from the map in force",
            reason="epoch-moved",
        )
    check_successor(old, new)
    for node in new.nodes:
        account = view.account(node.account)
        if account is None or account.kind != AccountKind.NODE:
            raise NotFound(
                f"node {node.node_id}: its account is not a registered node: register it first",
                reason="unknown-node",
            )
        if not account.active and node.state not in _ABSENT:
            raise Denied(
                f"node {node.node_id}: its account was deactivated; set it out or removed",
                reason="inactive-node",
            )
    state.put(MAP_KEY, transaction.cluster_map)
    return Outcome((MapChanged(new),))
