"""The rule for changes of the rules: operators name a height, and everybody follows from it.

Invariants: versions come one after the other; a version comes into force after the
block that says so, so that no block changes its own rules; only what this software
knows is accepted, so that it never meets a block that it cannot read.
Source: docs/decisions/0018-protocol-version-2.md.
"""

from __future__ import annotations

from hcefs.errors import Conflict, Invalid
from hcefs.ledger.block import PROTOCOL_NEWEST, PROTOCOL_RIGHTS
from hcefs.ledger.cluster_facts import ProtocolSchedule, ProtocolStep
from hcefs.ledger.outcome import BlockContext, Outcome
from hcefs.ledger.signers import require_operators, verified_signers
from hcefs.ledger.state import PROTOCOL_KEY, Overlay, StateView
from hcefs.ledger.transactions import SignedTransaction, Upgrade

UPGRADE_AHEAD_MAX = 1 << 20
"""Most blocks ahead that an upgrade may be: a slip of the hand must not bar all others."""


def upgrade(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: Upgrade,
    context: BlockContext,
) -> Outcome:
    """Schedule the next version of the rules."""
    require_operators(verified_signers(view, signed, context.genesis.cluster), context)
    protocol = view.protocol()
    version, height = transaction.version, transaction.height
    if ProtocolStep(version, height) in protocol.steps:
        return Outcome()
    if version > PROTOCOL_NEWEST:
        raise Invalid(
            f"this software knows the protocol up to version {PROTOCOL_NEWEST}, not {version}: "
            "install newer software on every node first",
            reason="unsupported",
        )
    scheduled = protocol.scheduled(context.height)
    if scheduled is not None:
        raise Conflict(
            f"protocol version {scheduled.version} is scheduled for block {scheduled.height}: "
            "wait for it",
            reason="upgrade-scheduled",
        )
    current = protocol.at(context.height)
    if version != current + 1:
        raise Conflict(
            f"protocol version {current} is in force, and the next one is {current + 1}: versions "
            "come one after the other",
            reason="wrong-protocol-version",
        )
    if not context.height < height <= context.height + UPGRADE_AHEAD_MAX:
        raise Conflict(
            f"this is block {context.height}: an upgrade names a later one, at most "
            f"{UPGRADE_AHEAD_MAX} ahead",
            reason="bad-upgrade-height",
        )
    steps = (*protocol.steps, ProtocolStep(version, height))
    state.put_fact(PROTOCOL_KEY, ProtocolSchedule(steps))
    return Outcome()


def require_waves(view: StateView, context: BlockContext) -> None:
    """Check that the rules of waves and upkeep are in force.

    Raises:
        Invalid: ``unsupported``.
    """
    if not has_waves(view, context):
        raise Invalid(
            "this kind of transaction needs protocol version 2: upgrade the ledger first "
            "(`hcefs ledger upgrade --to 2`)",
            reason="unsupported",
        )


def has_waves(view: StateView, context: BlockContext) -> bool:
    """Whether maps change in waves in this block: from protocol version 2 on."""
    return view.protocol().at(context.height) >= 2


def require_rights(view: StateView, context: BlockContext) -> None:
    """Check that the rules that complete rights and evidence are in force.

    Raises:
        Invalid: ``unsupported``.
    """
    if view.protocol().at(context.height) < PROTOCOL_RIGHTS:
        raise Invalid(
            "this kind of transaction needs protocol version 4: upgrade the ledger first "
            "(`hcefs ledger upgrade --to 4`)",
            reason="unsupported",
        )
