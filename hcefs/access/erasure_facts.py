"""The facts about the end of a record: how long it must be kept, what holds it, that it is gone.

They exist from protocol version 4 on, under keys of their own, beside the record, whose
encoding does not change.  Invariants: a date of retention only moves forward once the record
has content; a hold is never deleted, only lifted, so that its id is never used twice; an
erasure is for ever.  None of them says anything of what the record contained: a case and an
order are digests of documents that are kept elsewhere.
Source: docs/decisions/0036-erasure-and-legal-hold.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.encoding import Encoded
from hcefs.ids import AccountId, HoldId, RecordId


@dataclass(frozen=True)
class Retention(Encoded):
    """A record must be kept until ``retain_until_ms`` (exclusive), by a jurisdiction's law.

    ``set_by`` is the account that set this date last; zero: the operators.
    """

    KIND = "retention"

    record: RecordId
    retain_until_ms: int
    jurisdiction: str
    set_by: AccountId
    height: int


@dataclass(frozen=True)
class Hold(Encoded):
    """A legal hold on a record, from ``height`` until ``lifted_height`` (0: it stands).

    ``case_digest`` is that of the document that orders it.  ``placed_by`` is the
    institution that placed it; zero: the operators.
    """

    KIND = "hold"

    record: RecordId
    hold: HoldId
    case_digest: bytes
    placed_by: AccountId
    height: int
    time_ms: int
    lifted_height: int

    @property
    def stands(self) -> bool:
        """Whether it has not been lifted."""
        return not self.lifted_height


@dataclass(frozen=True)
class Erasure(Encoded):
    """A record is erased since ``height``, the block of which has ``time_ms``.

    ``erased_by`` is its owner; zero: the operators, by the order of which
    ``order_digest`` is the digest.  ``transaction`` is the hash of the one that said so.
    """

    KIND = "erasure"

    record: RecordId
    height: int
    time_ms: int
    erased_by: AccountId
    order_digest: bytes
    transaction: bytes
