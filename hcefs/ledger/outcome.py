"""What applying transactions yields: leaves, events, and the context it runs in.

Invariants: all of it follows from the state, the transactions and the context;
nothing here is read back into the state.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.access.emergency import EmergencyOpening
from hcefs.access.erasure_facts import Erasure
from hcefs.access.facts import Account, Generation, Grant
from hcefs.encoding import Encoded
from hcefs.ids import AccountId, RecordId
from hcefs.integrity import leaf_hash
from hcefs.ledger.genesis import Genesis
from hcefs.placement.cluster_map import ClusterMap


@dataclass(frozen=True)
class BlockContext:
    """The block that transactions are applied in."""

    height: int
    time_ms: int
    genesis: Genesis


@dataclass(frozen=True)
class Leaf(Encoded):
    """One entry of a record as the log keeps it.

    ``commitment`` hides the blob; ``signer`` is the account that appended it;
    ``time_ms`` is the block's time.
    """

    KIND = "leaf"

    commitment: bytes
    signer: AccountId
    generation: int
    time_ms: int

    def hash(self) -> bytes:
        """The leaf hash in the record's Merkle mountain range."""
        return leaf_hash(self.encode())


@dataclass(frozen=True)
class LeafResult(Encoded):
    """Where an append put a leaf: record, position from 0, leaf hash."""

    KIND = "leaf-result"

    record: RecordId
    index: int
    leaf: bytes


@dataclass(frozen=True)
class LeafAppended:
    """A record has one more leaf.

    ``encoded`` is its canonical bytes; ``completed`` are the roots of the subtrees of
    2, 4, 8 ... leaves that it completes, smallest first.
    """

    record: RecordId
    index: int
    leaf: Leaf
    height: int
    encoded: bytes
    completed: tuple[bytes, ...]


@dataclass(frozen=True)
class GrantGiven:
    """A grant is live."""

    grant: Grant


@dataclass(frozen=True)
class GrantRevoked:
    """A grant, and with it every grant below it, is dead."""

    grant: Grant


@dataclass(frozen=True)
class GenerationAdded:
    """A record has a new key pair, its first one included."""

    generation: Generation


@dataclass(frozen=True)
class MapChanged:
    """A new cluster map is in force."""

    cluster_map: ClusterMap


@dataclass(frozen=True)
class AccountChanged:
    """An account was registered or deactivated."""

    account: Account


@dataclass(frozen=True)
class RecordErased:
    """A record, and with it every right to it, is gone."""

    erasure: Erasure


@dataclass(frozen=True)
class EmergencyChanged:
    """Records were opened in an emergency, or that opening was closed or reviewed.

    This is what tells the patient: the state lists it under the patient's account.
    """

    opening: EmergencyOpening


@dataclass(frozen=True)
class EmergencyNarrowed:
    """Namings ended, an owner refused, or there is another policy.

    What is open may be permitted no more; whoever serves it decides again.
    """


Event = (
    LeafAppended
    | GrantGiven
    | GrantRevoked
    | GenerationAdded
    | MapChanged
    | AccountChanged
    | RecordErased
    | EmergencyChanged
    | EmergencyNarrowed
)


@dataclass(frozen=True)
class Outcome:
    """Of one transaction.

    ``leaves`` are those of an append in the order of its entries; for a repeat of
    a put key they are the first ones, and ``events`` is empty.
    """

    events: tuple[Event, ...] = ()
    leaves: tuple[LeafResult, ...] = ()
