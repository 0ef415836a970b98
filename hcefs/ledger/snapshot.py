"""Snapshots of the ledger: what one holds, its bytes, its root, and who vouches for it.

Owns the format: the rows of a log that follow from its blocks, laid end to end and cut
into parts of one size.  Invariants:

* Pure: the parts and the root follow from the rows alone, so that every replica that
  applied the same blocks makes the same snapshot, in whatever batches it wrote them.
* The root binds the height, the length and every part; what an offer says is believed
  after the signatures of its two headers, and a part after its digest.
* Blocks are not in it, nor what differs between replicas: heads, proofs of forks, terms
  (whose statements carry signatures that may differ; they prove themselves).

Not guaranteed: that a snapshot is what the blocks make.  The app hash is a chain over
writes and cannot be computed from the state; whoever starts from a snapshot trusts the
writer's signature under the root, and that followers stop when they find another.
Source: docs/decisions/0028-ledger-snapshots.md; RFC 6962 section 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.integrity import blake3_digest, leaf_hash, merkle_root
from hcefs.ledger.block import PROTOCOL_NEWEST, PROTOCOL_SNAPSHOTS, Block, BlockHeader
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.terms import SignedTermChange, Terms, founders_terms

SNAPSHOT_TAG = b"hcefs/v1/snapshot\x00"
PART_BYTES = 1 << 20
PARTS_MAX = 1 << 16
"""64 GiB: a bound on what a newcomer is asked to fetch."""
FAMILIES = (b"c", b"d", b"l", b"n", b"s", b"t", b"x")
"""First bytes of the rows that a snapshot holds, ascending (:mod:`hcefs.ledger.rows`)."""
KEY_BYTES_MAX = 1 << 10
VALUE_BYTES_MAX = 16 << 20

_FRAME = 8


@dataclass(frozen=True)
class SnapshotRule:
    """At which heights snapshots are made, and which later headers may name them.

    Part of protocol version 3; only tests give other numbers.
    """

    every: int = 4096
    delay: int = 256

    def is_due(self, header: BlockHeader) -> bool:
        """Whether the state after this block is to be kept."""
        return (
            header.protocol_version >= PROTOCOL_SNAPSHOTS
            and header.height > 0
            and header.height % self.every == 0
        )

    def named_by(self, height: int) -> int:
        """The height of the snapshot that a header of ``height`` may name; 0 for none."""
        past = height % self.every
        return height - past if past >= self.delay else 0


SNAPSHOT_RULE = SnapshotRule()


@dataclass(frozen=True)
class SnapshotManifest(Encoded):
    """What a snapshot of the state after block ``height`` consists of.

    ``size`` is the length of all parts together, ``parts`` the BLAKE3 digest of each.
    """

    KIND = "snapshot-manifest"
    MAX_BYTES = 64 + PARTS_MAX * 36

    height: int
    size: int
    parts: tuple[bytes, ...]

    def root(self) -> bytes:
        """What a header names: H(tag || height || size || root over the parts' digests)."""
        tree = merkle_root([leaf_hash(digest) for digest in self.parts])
        numbers = self.height.to_bytes(8, "big") + self.size.to_bytes(8, "big")
        return blake3_digest(SNAPSHOT_TAG + numbers + tree)

    def check(self) -> None:
        """Check ranges and sizes.

        Raises:
            Invalid: ``bad-snapshot``.
        """
        if (
            not 0 < self.height < 1 << 63
            or not 0 < len(self.parts) <= PARTS_MAX
            or not (len(self.parts) - 1) * PART_BYTES < self.size <= len(self.parts) * PART_BYTES
            or any(len(digest) != 32 for digest in self.parts)
        ):
            raise _bad("its manifest is out of range")

    def check_part(self, index: int, part: bytes) -> None:
        """Check one part: length first, then the digest.

        Raises:
            Invalid: ``bad-snapshot``.
        """
        if not 0 <= index < len(self.parts):
            raise _bad("it has no such part")
        expected = min(PART_BYTES, self.size - index * PART_BYTES)
        if len(part) != expected or blake3_digest(part) != self.parts[index]:
            raise _bad(f"part {index} is not the one that its manifest names")


def _bad(what: str) -> Invalid:
    return Invalid(
        f"this snapshot of the ledger does not verify: {what}; fetch it again, or start this "
        "replica from the first block",
        reason="bad-snapshot",
    )


def cut(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """The parts of rows given by ascending key: all of one size, but for the last."""
    waiting = bytearray()
    for key, value in rows:
        waiting += len(key).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        waiting += key
        waiting += value
        while len(waiting) >= PART_BYTES:
            yield bytes(waiting[:PART_BYTES])
            del waiting[:PART_BYTES]
    if waiting:
        yield bytes(waiting)


class Joiner:
    """The inverse of :func:`cut`: takes parts in order, and yields the rows that are whole."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._last = b""

    def add(self, part: bytes) -> list[tuple[bytes, bytes]]:
        """The rows that end in this part.

        Raises:
            Invalid: ``bad-snapshot``: rows out of order, of another family or too long.
        """
        self._waiting += part
        found = []
        at, waiting = 0, self._waiting
        while len(waiting) - at >= _FRAME:
            key_size = int.from_bytes(waiting[at : at + 4], "big")
            value_size = int.from_bytes(waiting[at + 4 : at + 8], "big")
            if not 0 < key_size <= KEY_BYTES_MAX or value_size > VALUE_BYTES_MAX:
                raise _bad("a row is too long")
            end = at + _FRAME + key_size + value_size
            if len(waiting) < end:
                break
            key = bytes(waiting[at + _FRAME : at + _FRAME + key_size])
            if key <= self._last or key[:1] not in FAMILIES:
                raise _bad("its rows are not in order")
            self._last = key
            found.append((key, bytes(waiting[at + _FRAME + key_size : end])))
            at = end
        del waiting[:at]
        return found

    def finish(self) -> None:
        """Say that no part follows.

        Raises:
            Invalid: ``bad-snapshot``: it ends in the middle of a row.
        """
        if self._waiting:
            raise _bad("it ends in the middle of a row")


@dataclass(frozen=True)
class SnapshotOffer:
    """What whoever serves a snapshot says of it; a claim until :meth:`check` has passed.

    ``base`` is the block of the snapshot's height, ``carrier`` the later one whose header
    names its root, both without their transactions; ``terms`` are encoded statements.
    """

    manifest: SnapshotManifest
    base: Block
    carrier: Block
    terms: tuple[bytes, ...] = ()
    rule: SnapshotRule = field(default=SNAPSHOT_RULE)

    def check(self, genesis: Genesis) -> tuple[SignedTermChange, ...]:
        """Check everything but the parts; the statements of terms before the snapshot.

        The statements are those that founding operators signed: what operators the state
        has, is known only after its snapshot is believed.

        Raises:
            Invalid: ``bad-snapshot``: a header is not the writer's, or names another root.
        """
        self.manifest.check()
        terms = founders_terms(genesis, self.terms)
        base, carrier = self.base.header, self.carrier.header
        for block in (self.base, self.carrier):
            _check_signed(block, terms)
        height = self.manifest.height
        if base.height != height or self.rule.named_by(carrier.height) != height:
            raise _bad("its blocks are of other heights")
        if not self.rule.is_due(base):
            raise _bad("no snapshot is due at its height")
        if carrier.snapshot_root != self.manifest.root():
            raise _bad("the signed header names another root")
        return tuple(each for each in terms.changes if each.change.height < height)


def _check_signed(block: Block, terms: Terms) -> None:
    header = block.header
    try:
        header.check()
        block.check_signature(terms.key_at(header.height))
    except HcefsError as error:
        raise _bad(f"the writer did not sign block {header.height}") from error
    if header.cluster != terms.genesis.cluster or header.term != terms.term_at(header.height):
        raise _bad(f"block {header.height} is of another cluster or term")
    if not PROTOCOL_SNAPSHOTS <= header.protocol_version <= PROTOCOL_NEWEST:
        raise _bad(f"block {header.height} follows rules that this software does not know")


def check_named_root(
    rule: SnapshotRule, header: BlockHeader, made: SnapshotManifest | None
) -> None:
    """Check what a header says of a snapshot against the one that was made here, if it was.

    Raises:
        Corrupt: ``bad-snapshot-root``: it may name none, or names another.
    """
    if not header.snapshot_root:
        return
    height = rule.named_by(header.height)
    if not height:
        raise Corrupt(
            f"block {header.height} names a snapshot where none may be named",
            reason="bad-snapshot-root",
        )
    if made is not None and made.height == height and made.root() != header.snapshot_root:
        raise Corrupt(
            f"block {header.height} names another snapshot of block {height} than the state here "
            "makes",
            reason="bad-snapshot-root",
        )
