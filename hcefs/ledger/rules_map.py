"""The rules for the cluster map: compare-and-swap by the operators, and waves.

Invariants: epochs follow each other without a gap; every node that takes part in a map
that is set is a registered, active node account; the same map set twice changes
nothing.  Under protocol version 2 a seat is marked as arrived by its destination alone;
the marks are those of the epoch in force, and the wave whose last seat arrives is
followed by the next one in the same transaction.  What a map may contain is decided by
:mod:`hcefs.placement.cluster_map` and, from version 2 on,
:mod:`hcefs.placement.successor`; which wave follows by :mod:`hcefs.placement.waves`.
Source: docs/decisions/0018-protocol-version-2.md.
"""

from __future__ import annotations

from hcefs.access.facts import Account, AccountKind
from hcefs.errors import Conflict, Denied, NotFound
from hcefs.ledger.cluster_facts import Arrivals, MapCause, MapChange
from hcefs.ledger.outcome import BlockContext, MapChanged, Outcome
from hcefs.ledger.rules_automatic import SERVING, is_of_one_node, require_automatic
from hcefs.ledger.rules_protocol import has_waves, require_waves
from hcefs.ledger.signers import only_signer, require_operators, verified_signers
from hcefs.ledger.state import (
    ARRIVALS_KEY,
    ARRIVED,
    MAP_KEY,
    Overlay,
    StateView,
    arrived_key,
    map_change_key,
    report_key,
)
from hcefs.ledger.transactions import SetClusterMap, SignedTransaction
from hcefs.ledger.transactions_map import SeatsArrived
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState, check_successor
from hcefs.placement.successor import check_planned_successor
from hcefs.placement.waves import advance, in_flight

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
    signers = verified_signers(view, signed, context.genesis.cluster)
    waves = has_waves(view, context)
    automatic = waves and is_of_one_node(signers)
    if not automatic:
        require_operators(signers, context)
    new = ClusterMap.decode(transaction.cluster_map)
    old = view.cluster_map()
    # A node repeats one body alone, so that it cannot fill the log with repeats.
    repeatable = not automatic or transaction.expected_epoch == new.epoch - 1
    if old is not None and old.digest() == new.digest() and repeatable:
        return Outcome()
    epoch = 0 if old is None else old.epoch
    if transaction.expected_epoch != epoch:
        raise Conflict(
            f"the cluster map is at epoch {epoch}, not {transaction.expected_epoch}: "
            "plan again from the map in force",
            reason="epoch-moved",
        )
    if automatic:
        require_automatic(view, signers[0], old, new, context)
    if not waves:
        check_successor(old, new)
        _check_accounts(view, new)
        state.put(MAP_KEY, transaction.cluster_map)
        return Outcome((MapChanged(new),))
    check_planned_successor(old, new, view.arrived())
    _check_accounts(view, new)
    cause = MapCause.AUTOMATIC if automatic else MapCause.OPERATORS
    return _enact(state, new, cause, signers, context)


def _check_accounts(view: StateView, new: ClusterMap) -> None:
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


def seats_arrived(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: SeatsArrived,
    context: BlockContext,
) -> Outcome:
    """Mark seats as arrived; with the last one of the wave, the next map comes into force."""
    require_waves(view, context)
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    current, node = node_in_force(view, signer, transaction.epoch)
    moves = in_flight(current)
    new = []
    for name in sorted(seat.name for seat in transaction.seats):
        if name not in moves:
            raise Conflict(
                f"seat {name.seat} of partition {name.partition} of {name.profile} is not in "
                f"flight in epoch {current.epoch}: leave it out",
                reason="not-in-flight",
            )
        if current.table(name.profile).node_rows[name.partition][name.seat] != node.node_id:
            raise Denied(
                f"seat {name.seat} of partition {name.partition} of {name.profile} goes to "
                "another node: only its destination says that it has arrived",
                reason="not-destination",
            )
        if state.get(arrived_key(name)) is None:
            new.append(name)
    if not new:
        return Outcome()
    before = view.arrivals()
    arrived = before.arrived + len(new)
    if arrived == before.in_flight:
        # The operators approved where the plan leads, so the waves need no word of theirs.
        following = advance(current, moves)
        return _enact(state, following, MapCause.ARRIVED, (signer,), context)
    for name in new:
        state.put(arrived_key(name), b"")
    state.put_fact(ARRIVALS_KEY, Arrivals(current.epoch, before.in_flight, arrived))
    return Outcome()


def node_in_force(view: StateView, signer: Account, epoch: int) -> tuple[ClusterMap, Node]:
    """The map in force and the signer's node in it, if ``epoch`` is that map's.

    Raises:
        Denied: ``not-a-node``, or ``not-in-map``: the map does not have it serve.
        Conflict: ``epoch-moved``.
    """
    if signer.kind != AccountKind.NODE:
        raise Denied("only a node signs this transaction, for itself", reason="not-a-node")
    current = view.cluster_map()
    if current is None or current.epoch != epoch:
        at = 0 if current is None else current.epoch
        raise Conflict(
            f"the cluster map is at epoch {at}, not {epoch}: look at the map in force again",
            reason="epoch-moved",
        )
    node = current.node_of_account(signer.account)
    if node is None or node.state in _ABSENT:
        raise Denied(
            "the cluster map does not have this node take part: the operators add it",
            reason="not-in-map",
        )
    return current, node


def _enact(
    state: Overlay,
    new: ClusterMap,
    cause: MapCause,
    signers: tuple[Account, ...],
    context: BlockContext,
) -> Outcome:
    """Put a map in force: with it begins a new wave, of which no seat has arrived."""
    state.put_fact(MAP_KEY, new)
    for key, _ in list(state.scan(ARRIVED)):
        state.delete(key)
    moving = len(in_flight(new))
    if moving:
        state.put_fact(ARRIVALS_KEY, Arrivals(new.epoch, moving, 0))
    elif state.get(ARRIVALS_KEY) is not None:
        state.delete(ARRIVALS_KEY)
    # What a node said before it left must not count when it is back.
    for node in new.nodes:
        if node.state not in SERVING and state.get(report_key(node.node_id)) is not None:
            state.delete(report_key(node.node_id))
    change = MapChange(
        epoch=new.epoch,
        digest=new.digest(),
        height=context.height,
        time_ms=context.time_ms,
        cause=cause,
        signers=tuple(signer.account for signer in signers),
        moving=moving,
        wave=max((table.wave for table in new.tables), default=0),
        waves=max((table.waves for table in new.tables), default=0),
    )
    state.put_fact(map_change_key(new.epoch), change)
    return Outcome((MapChanged(new),))
