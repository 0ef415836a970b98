"""Rows of the ledger's log: their keys, their checksums and the values of its own.

Owns the key layout that :mod:`hcefs.ledger.log` writes.  By the first byte of the
key, numbers big-endian::

    b <u64 height>                     Block
    x <u64 height>                     hash of that block
    s <key of the state>               value of the state (hcefs.ledger.state)
    l <record> <u64 index>             u64 height, Leaf
    c <record> <commitment>            u64 index of the first leaf with it
    d <record> <commitment> <account>  u64 index of a later one, by its signer
    n <record> <u8 level> <u64 index>  root of the complete subtree of 2^level leaves
    t <hash of a transaction>          SubmitResult
    r <u64 term>                       SignedTermChange that began the term
    k <u64 height> <u32 index>         part of the snapshot of that height
    m <name>                           genesis, tip, head, fork, superseded, base, snapshot,
                                       carrier
    f <u64 term>                       ForkProof of a term that has ended

Invariant: a row is the CRC32C of its key and value, then the value, so that a row
that was damaged or put in another's place is never an answer.
Source: docs/ARCHITECTURE.md, "Ledger"; RFC 6962 section 2.1 for the subtrees.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from hcefs.access.facts import Account, Generation, Grant, PastKeys, Record
from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import AccountId, RecordId
from hcefs.integrity import crc32c
from hcefs.ledger.block import Block
from hcefs.ledger.outcome import Leaf, LeafResult, Outcome

GENESIS_ROW, TIP_ROW, HEAD_ROW, FORK_ROW = b"mgenesis", b"mtip", b"mhead", b"mfork"
SUPERSEDED_ROW = b"msuperseded"
BASE_ROW, SNAPSHOT_ROW, CARRIER_ROW = b"mbase", b"msnapshot", b"mcarrier"
PART_ROWS = b"k"
TERM_ROWS = b"r"
STATE_ROWS = b"s"

_DECODED_FACTS_MAX = 8192
_SMALL = frozenset((Account, Generation, Grant, Leaf, PastKeys, Record))

_Fact = TypeVar("_Fact", bound=Encoded)


@dataclass(frozen=True)
class SubmitResult(Encoded):
    """Where a transaction was committed and the leaves that it made or had made."""

    KIND = "submit-result"

    height: int
    time_ms: int
    leaves: tuple[LeafResult, ...]


@dataclass(frozen=True)
class ForkProof(Encoded):
    """Two contradicting statements that the writer signed about ``height``.

    Each is a ``SignedHead`` or a ``Block`` without its transactions (the
    signature covers the header), in canonical bytes; ``ours`` may be the ``Genesis``, and
    both may be a ``SignedTermChange`` of one term.
    """

    KIND = "fork-proof"

    height: int
    ours: bytes
    theirs: bytes


@dataclass(frozen=True)
class AppliedBlock:
    """A block with what applying it wrote and yielded, ready for the log.

    ``facts`` are what some of the writes mean, by their keys.
    """

    block: Block
    writes: Mapping[bytes, bytes | None]
    outcomes: tuple[Outcome, ...]
    facts: Mapping[bytes, Encoded] = field(default_factory=dict)


@functools.lru_cache(maxsize=_DECODED_FACTS_MAX)
def _decoded(cls: Any, value: bytes) -> Any:
    """Decoding is pure, so remembering it by the bytes can never be out of date."""
    return cls.decode(value)


def decode_row(cls: type[_Fact], value: bytes) -> _Fact:
    """A fact out of a row's value.

    Raises:
        Corrupt: ``bad-state``: the bytes are not what they should be.
    """
    try:
        # Others may be large, and then too much to remember thousands of.
        small = cls in _SMALL
        return cast(_Fact, _decoded(cast(Any, cls), value)) if small else cls.decode(value)
    except Invalid as error:
        raise Corrupt(
            f"a {cls.KIND} row of the ledger cannot be read ({error.message}): run "
            "`hcefs ledger verify`, then rebuild this replica from its peers",
            reason="bad-state",
        ) from error


def u64(number: int) -> bytes:
    """Eight bytes, big-endian, so that keys sort as their numbers do."""
    return number.to_bytes(8, "big")


def seal(key: bytes, value: bytes) -> bytes:
    """The row of a value."""
    return crc32c(key + value).to_bytes(4, "big") + value


def unseal(key: bytes, row: bytes) -> bytes:
    """The value of a row.

    Raises:
        Corrupt: ``bad-row``: the checksum does not hold.
    """
    value = bytes(row[4:])
    if len(row) < 4 or int.from_bytes(row[:4], "big") != crc32c(key + value):
        raise Corrupt(
            "a row of the ledger fails its checksum: check the disk, then rebuild this "
            "replica from its peers",
            reason="bad-row",
        )
    return value


def term_row(term: int) -> bytes:
    return TERM_ROWS + u64(term)


def settled_fork_row(term: int) -> bytes:
    """Where the proof of a fork is kept that operators have settled with a later term."""
    return b"f" + u64(term)


def block_row(height: int) -> bytes:
    return b"b" + u64(height)


def block_hash_row(height: int) -> bytes:
    return b"x" + u64(height)


def part_row(height: int, index: int) -> bytes:
    return PART_ROWS + u64(height) + index.to_bytes(4, "big")


def leaf_rows(record: bytes = b"") -> bytes:
    """The prefix of one record's leaves, or of all."""
    return b"l" + record


def leaf_row(record: RecordId, index: int) -> bytes:
    return b"l" + record + index.to_bytes(8, "big")


def commitment_row(record: RecordId, commitment: bytes) -> bytes:
    return b"c" + record + commitment


def copied_row(record: RecordId, commitment: bytes, signer: AccountId) -> bytes:
    return b"d" + record + commitment + signer


def subtree_row(record: RecordId, level: int, index: int) -> bytes:
    return b"n" + record + (level << 64 | index).to_bytes(9, "big")


def result_row(transaction_hash: bytes) -> bytes:
    return b"t" + transaction_hash


def leaf_value(height: int, leaf: bytes) -> bytes:
    """A leaf's canonical bytes with the height of the block that appended it."""
    return u64(height) + leaf


def split_leaf_value(value: bytes) -> tuple[bytes, int]:
    """The inverse of :func:`leaf_value`."""
    return value[8:], int.from_bytes(value[:8], "big")
