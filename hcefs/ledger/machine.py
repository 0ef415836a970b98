"""The deterministic state machine: blocks and transactions to states and events.

Owns the order of work inside a block and what a follower must verify.  Invariants:

* Pure: the result follows from the state, the bytes and the context; it uses no
  clock, no randomness and no order of a set or hash.
* A transaction applies as a whole or not at all; a block holds only transactions
  that apply.
* The app hash covers every write since the genesis, so that two parties with one
  app hash have one state.

The rules themselves are in the ``rules_*`` modules.  Changing any of them is a
new protocol version, and so is changing what they call in ``hcefs.placement``.
Source: docs/ARCHITECTURE.md, "Ledger"; docs/decisions/0004-ledger-state-machine.md,
docs/decisions/0018-protocol-version-2.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hcefs import __version__
from hcefs.encoding import Value, dumps
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.integrity import blake3_digest
from hcefs.ledger import (
    rules_accounts,
    rules_emergency,
    rules_erasure,
    rules_grants,
    rules_keys,
    rules_map,
    rules_protocol,
    rules_receipts,
    rules_records,
    rules_requests,
    rules_upkeep,
)
from hcefs.ledger.block import (
    PROTOCOL_FIRST,
    PROTOCOL_NEWEST,
    PROTOCOL_SNAPSHOTS,
    Block,
    BlockHeader,
    check_limits,
    previous_hash,
    transaction_root,
)
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.outcome import (
    AccountChanged,
    BlockContext,
    EmergencyChanged,
    EmergencyNarrowed,
    Event,
    GenerationAdded,
    GrantGiven,
    GrantRevoked,
    Leaf,
    LeafAppended,
    LeafResult,
    MapChanged,
    Outcome,
)
from hcefs.ledger.state import MemoryState, Overlay, State, StateView
from hcefs.ledger.terms import Terms
from hcefs.ledger.transactions import (
    TRANSACTION_BYTES_MAX,
    Append,
    DeactivateAccount,
    GiveGrant,
    OpenRecord,
    RegisterAccount,
    RevokeGrant,
    SetClusterMap,
    SignedTransaction,
    Transaction,
    Upgrade,
    decode_transaction,
)
from hcefs.ledger.transactions_emergency import (
    CloseEmergency,
    EndNaming,
    NameEmergency,
    OpenEmergency,
    RefuseEmergency,
    ReviewEmergency,
    SetEmergencyPolicy,
)
from hcefs.ledger.transactions_erasure import EraseRecord, LiftHold, PlaceHold, SetRetention
from hcefs.ledger.transactions_keys import RotateGeneration, RotateKeys
from hcefs.ledger.transactions_map import NodeReport, SeatsArrived, SetUpkeepPolicy
from hcefs.ledger.transactions_receipts import AnchorReceipts
from hcefs.ledger.transactions_requests import AnswerRequest, RequestAccess
from hcefs.versions import GUIDE

__all__ = [
    "APP_HASH_TAG",
    "AccountChanged",
    "BlockContext",
    "EmergencyChanged",
    "EmergencyNarrowed",
    "Event",
    "GenerationAdded",
    "GrantGiven",
    "GrantRevoked",
    "Leaf",
    "LeafAppended",
    "LeafResult",
    "MapChanged",
    "Outcome",
    "apply",
    "begin_block",
    "execute",
    "genesis_state",
    "next_app_hash",
    "protocol_at",
    "replay",
    "replay_signed",
    "transaction_root",
]

APP_HASH_TAG = b"hcefs/v1/app\x00"

_Rule = Callable[[Overlay, StateView, SignedTransaction, Any, BlockContext], Outcome]

_RULES: Mapping[type[Transaction], _Rule] = MappingProxyType(
    {
        RegisterAccount: rules_accounts.register,
        DeactivateAccount: rules_accounts.deactivate,
        OpenRecord: rules_records.open_record,
        Append: rules_records.append,
        GiveGrant: rules_grants.give,
        RevokeGrant: rules_grants.revoke,
        SetClusterMap: rules_map.set_map,
        Upgrade: rules_protocol.upgrade,
        SeatsArrived: rules_map.seats_arrived,
        SetUpkeepPolicy: rules_upkeep.set_policy,
        NodeReport: rules_upkeep.report,
        RequestAccess: rules_requests.request,
        AnswerRequest: rules_requests.answer,
        RotateKeys: rules_keys.rotate_keys,
        RotateGeneration: rules_keys.rotate_generation,
        SetRetention: rules_erasure.set_retention,
        PlaceHold: rules_erasure.place_hold,
        LiftHold: rules_erasure.lift_hold,
        EraseRecord: rules_erasure.erase,
        SetEmergencyPolicy: rules_emergency.set_policy,
        NameEmergency: rules_emergency.name,
        EndNaming: rules_emergency.end_naming,
        RefuseEmergency: rules_emergency.refuse,
        OpenEmergency: rules_emergency.open_,
        CloseEmergency: rules_emergency.close,
        ReviewEmergency: rules_emergency.review,
        AnchorReceipts: rules_receipts.anchor,
    }
)
"""Which rule applies each kind of transaction; each checks the protocol version that it needs."""


def genesis_state(genesis: Genesis) -> tuple[Overlay, bytes]:
    """The state before the first block, as writes over nothing, and its app hash.

    Raises:
        Invalid: the genesis is malformed.
    """
    genesis.check()
    state = Overlay(MemoryState())
    for account in genesis.operator_accounts():
        rules_accounts.put_account(state, account)
    return state, next_app_hash(genesis.digest, state)


def begin_block(state: Overlay, context: BlockContext) -> None:
    """What happens in every block before its transactions: old put keys are forgotten.

    Call it exactly once a block, on the block's fresh overlay; :func:`execute`
    does so itself.
    """
    rules_records.expire_put_keys(state, context.time_ms)


def apply(state: Overlay, signed: SignedTransaction, context: BlockContext) -> Outcome:
    """Apply one transaction to ``state``; on any error ``state`` is as before.

    Raises:
        Invalid: malformed, too large or of an unknown kind or version.
        Unauthenticated: not signed by whom it must be.
        Denied: the signers may not do this.
        Conflict: the state has moved on, or holds the thing already.
        NotFound: something it names is not on the ledger.
    """
    if len(signed.encode()) > TRANSACTION_BYTES_MAX:
        raise Invalid(
            f"a signed transaction has at most {TRANSACTION_BYTES_MAX} bytes: split it",
            reason="transaction-too-large",
        )
    transaction = decode_transaction(signed.body)
    transaction.check()
    draft = Overlay(state)
    view = StateView(draft, context.height, context.time_ms)
    outcome = _RULES[type(transaction)](draft, view, signed, transaction, context)
    state.absorb(draft)
    return outcome


def execute(state: Overlay, transactions: Sequence[bytes], context: BlockContext) -> list[Outcome]:
    """Begin a block and apply all its encoded transactions to a fresh overlay.

    Raises:
        HcefsError: of the first transaction that does not apply; ``state`` then
            holds those before it and must be thrown away.
    """
    begin_block(state, context)
    return [apply(state, SignedTransaction.decode(data), context) for data in transactions]


def next_app_hash(previous: bytes, overlay: Overlay) -> bytes:
    """H(previous app hash || the overlay's writes sorted by key).

    A write is ``[key, [value]]``, a deletion ``[key, []]``, in deterministic CBOR.
    """
    writes: list[Value] = []
    for key, value in sorted(overlay.writes.items(), key=lambda item: item[0]):
        kept: list[Value] = [] if value is None else [value]
        writes.append([key, kept])
    return blake3_digest(APP_HASH_TAG + previous + dumps(writes))


def replay(
    base: State,
    block: Block,
    genesis: Genesis,
    previous: BlockHeader | None,
    terms: Terms | None = None,
) -> tuple[Overlay, list[Outcome]]:
    """Verify a block as a follower must and return its writes over ``base`` and outcomes.

    ``base`` is the state after ``previous`` (None: that of :func:`genesis_state`).
    Neither is changed.  ``terms`` say who writes; without them it is the genesis's writer.

    Raises:
        Corrupt: the reason names what is wrong with the block, and nothing after
            it may be believed; or ``bad-state``: ``base`` itself is damaged.
    """
    header = block.header
    reign = terms or Terms(genesis)
    _check_header(base, block, reign, previous)
    if header.transaction_root != transaction_root(block.transactions):
        raise Corrupt(
            f"block {header.height} does not carry the transactions that its header names",
            reason="bad-transaction-root",
        )
    try:
        block.check_signature(reign.key_at(header.height))
    except HcefsError as error:
        raise Corrupt(
            f"block {header.height}: its writer did not sign it", reason="bad-block-signature"
        ) from error
    return _replay_signed(base, block, genesis, previous)


def replay_signed(
    base: State,
    block: Block,
    genesis: Genesis,
    previous: BlockHeader | None,
    terms: Terms | None = None,
) -> tuple[Overlay, list[Outcome]]:
    """As :func:`replay`, of a block that the caller knows to be the writer's.

    The caller has checked the signature of the header, and that the header names the
    block's transactions.

    Raises:
        Corrupt: as :func:`replay`.
    """
    _check_header(base, block, terms or Terms(genesis), previous)
    return _replay_signed(base, block, genesis, previous)


def _replay_signed(
    base: State, block: Block, genesis: Genesis, previous: BlockHeader | None
) -> tuple[Overlay, list[Outcome]]:
    header = block.header
    state = Overlay(base)
    context = BlockContext(header.height, header.time_ms, genesis)
    try:
        outcomes = execute(state, block.transactions, context)
    except Corrupt:
        # A row of our own state is damaged: that says nothing about the block.
        raise
    except HcefsError as error:
        raise Corrupt(
            f"block {header.height} holds a transaction that does not apply "
            f"({error.reason}): {error.message}",
            reason="bad-transaction",
        ) from error
    before = genesis_state(genesis)[1] if previous is None else previous.app_hash
    if next_app_hash(before, state) != header.app_hash:
        raise Corrupt(
            f"block {header.height} leads to another state here than its writer says: compare "
            "software versions, then verify the log",
            reason="bad-app-hash",
        )
    return state, outcomes


def protocol_at(state: State, height: int) -> int:
    """The version of the rules that the block of a height follows, from the state before it."""
    return StateView(state, height, 0).protocol().at(height)


def require_known_protocol(state: StateView) -> None:
    """Check that this software knows the rules of the block that comes after a state.

    Raises:
        Corrupt: ``unknown-protocol``: newer software has written it.
    """
    height = state.height + 1
    version = state.protocol().at(height)
    if not PROTOCOL_FIRST <= version <= PROTOCOL_NEWEST:
        raise Corrupt(_outdated(height, version), reason="unknown-protocol")


def _outdated(height: int, version: int) -> str:
    return (
        f"block {height} follows protocol version {version}, and hcefs {__version__} knows "
        f"versions {PROTOCOL_FIRST} to {PROTOCOL_NEWEST}: install a newer release on this "
        f"machine, then start the process again; see {GUIDE}"
    )


def _check_header(base: State, block: Block, terms: Terms, previous: BlockHeader | None) -> None:
    header, genesis = block.header, terms.genesis
    if not PROTOCOL_FIRST <= header.protocol_version <= PROTOCOL_NEWEST:
        # First, because another version may give every other field another meaning.
        raise Corrupt(_outdated(header.height, header.protocol_version), reason="unknown-protocol")
    try:
        header.check()
        check_limits(block.transactions)
    except Invalid as error:
        raise Corrupt(f"block {header.height}: {error.message}", reason=error.reason) from error
    height = 1 if previous is None else previous.height + 1
    time_ms = genesis.time_ms if previous is None else previous.time_ms
    version = protocol_at(base, height)
    refusals = (
        (header.cluster == genesis.cluster, "wrong-cluster", "is of another cluster"),
        (header.term == terms.term_at(height), "wrong-term", "is of another term"),
        (header.height == height, "wrong-height", f"comes where block {height} is due"),
        (
            header.protocol_version == version,
            "wrong-protocol",
            f"follows protocol version {header.protocol_version} where {version} is in force",
        ),
        (
            header.previous == previous_hash(genesis, previous),
            "wrong-previous",
            "does not follow the block before it",
        ),
        (header.time_ms >= time_ms, "time-went-back", "is older than the block before it"),
        (
            not header.snapshot_root or version >= PROTOCOL_SNAPSHOTS,
            "bad-snapshot-root",
            "names a snapshot before protocol version 3",
        ),
    )
    for holds, reason, what in refusals:
        if not holds:
            raise Corrupt(f"block {header.height} {what}", reason=reason)
