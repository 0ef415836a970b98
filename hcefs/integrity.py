"""Digests, checksums and Merkle trees: what anyone can verify without a key.

Owns BLAKE3 digests, CRC32C, and one tree shape in three forms: over a list of
leaves with range, inclusion and consistency proofs; and as the peaks of a
Merkle mountain range, to which leaves are appended in constant space.  All
three give the same root.

Invariants: leaves and nodes are hashed under different prefixes, so that a
node never passes for a leaf (second preimage); a proof of the wrong shape is an
error and never a root; verification looks at nothing but its arguments.

Not guaranteed: CRC32C finds accidents, not attackers.  A root says nothing
about the number of its leaves: whoever verifies must know the size from a place
that he trusts.

Source: RFC 6962 section 2.1 with BLAKE3 for SHA-256; the verification of
consistency follows RFC 9162 section 2.1.4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import google_crc32c
from blake3 import blake3

from hcefs.errors import Corrupt, Invalid

Buffer = bytes | bytearray | memoryview
"""Contiguous bytes that a kernel may read without a copy."""

DIGEST_SIZE = 32

_LEAF = b"\x00"
_NODE = b"\x01"
_CRC_STEP = 64 << 10


def blake3_digest(data: Buffer) -> bytes:
    """BLAKE3 of ``data``, 32 bytes; releases the GIL on large input."""
    return blake3(data).digest()


class Hasher(Protocol):
    """Takes in bytes in order."""

    def update(self, data: Buffer, /) -> object:
        """Take in some more."""


def blake3_hasher() -> blake3:
    """A fresh incremental hasher: ``update(buffer)`` any number of times, then ``digest()``."""
    return blake3()


def crc32c(data: Buffer) -> int:
    """CRC-32C (Castagnoli) of ``data``."""
    if type(data) is bytes:
        return int(google_crc32c.value(data))
    return crc32c_of((data,))


def crc32c_of(parts: Sequence[Buffer]) -> int:
    """CRC-32C of the parts laid end to end, without joining them."""
    checksum = 0
    for part in parts:
        if isinstance(part, bytes):
            checksum = google_crc32c.extend(checksum, part)
            continue
        # The kernel takes only ``bytes``: copy in steps that stay in the cache.
        view = memoryview(part).cast("B")
        for start in range(0, len(view), _CRC_STEP):
            checksum = google_crc32c.extend(checksum, bytes(view[start : start + _CRC_STEP]))
    return int(checksum)


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf's content."""
    return blake3(_LEAF + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node from those of its two children."""
    return blake3(_NODE + left + right).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; of no leaves, the digest of the empty string."""
    if not leaves:
        return blake3_digest(b"")
    # Pairing level by level and passing an odd last one up gives RFC 6962's
    # tree (split at the largest power of two) without recursion.
    level = list(leaves)
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        pairs = iter(level)
        level = [node_hash(left, right) for left, right in zip(pairs, pairs, strict=False)] + odd
    return level[0]


def _split(size: int) -> int:
    """The largest power of two below ``size`` (which is at least 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def _bad_proof(message: str) -> Corrupt:
    return Corrupt(f"{message}: fetch the proof again from another node", reason="bad-proof")


def _check_hashes(*groups: Sequence[bytes]) -> None:
    if any(len(value) != DIGEST_SIZE for group in groups for value in group):
        raise _bad_proof("the proof holds a hash of a wrong size")


def range_proof(leaves: Sequence[bytes], first: int, count: int) -> list[bytes]:
    """The hashes that, with leaves ``first .. first + count - 1``, give the root.

    They are the roots of the largest subtrees outside the range, left to right.

    Raises:
        Invalid: the range is empty or not inside the tree.
    """
    if first < 0 or count < 1 or first + count > len(leaves):
        raise Invalid(
            f"leaves {first}+{count} are not inside the tree of {len(leaves)}", reason="bad-range"
        )
    proof: list[bytes] = []

    def walk(start: int, size: int) -> None:
        if start + size <= first or first + count <= start:
            proof.append(merkle_root(leaves[start : start + size]))
        elif start < first or first + count < start + size:
            left = _split(size)
            walk(start, left)
            walk(start + left, size - left)

    walk(0, len(leaves))
    return proof


def root_from_range(
    size: int, first: int, leaves: Sequence[bytes], proof: Sequence[bytes]
) -> bytes:
    """The root of a tree of ``size`` leaves that a range of them and its proof imply.

    The caller compares it with a root that he trusts.

    Raises:
        Corrupt: ``bad-proof``: the proof does not have the shape of that range.
    """
    count = len(leaves)
    if first < 0 or count < 1 or first + count > size:
        raise _bad_proof(f"leaves {first}+{count} are not inside a tree of {size}")
    _check_hashes(leaves, proof)
    rest: Iterator[bytes] = iter(proof)

    def walk(start: int, length: int) -> bytes:
        if start + length <= first or first + count <= start:
            sibling = next(rest, None)
            if sibling is None:
                raise _bad_proof("the range proof is too short")
            return sibling
        if first <= start and start + length <= first + count:
            return merkle_root(leaves[start - first : start - first + length])
        left = _split(length)
        left_root = walk(start, left)
        return node_hash(left_root, walk(start + left, length - left))

    root = walk(0, size)
    if next(rest, None) is not None:
        raise _bad_proof("the range proof is too long")
    return root


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of one leaf, from the leaf up (RFC 6962 section 2.1.1).

    Raises:
        Invalid: there is no leaf ``index``.
    """
    if not 0 <= index < len(leaves):
        raise Invalid(f"leaf {index} is not in the tree of {len(leaves)}", reason="bad-range")
    path: list[bytes] = []
    start, size = 0, len(leaves)
    while size > 1:
        left = _split(size)
        if index < start + left:
            path.append(merkle_root(leaves[start + left : start + size]))
            size = left
        else:
            path.append(merkle_root(leaves[start : start + left]))
            start, size = start + left, size - left
    path.reverse()
    return path


class MerkleTree:
    """The tree over some leaves with all its levels, for many proofs.

    The same tree as that of :func:`merkle_root`: a node without a sibling moves up
    unchanged.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise Invalid("a tree of proofs has at least one leaf", reason="bad-proof")
        _check_hashes(leaves)
        levels = [list(leaves)]
        while len(levels[-1]) > 1:
            below = levels[-1]
            level = [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
            if len(below) % 2:
                level.append(below[-1])
            levels.append(level)
        self._levels = levels

    @property
    def root(self) -> bytes:
        """As :func:`merkle_root`."""
        return self._levels[-1][0]

    def proof(self, index: int) -> tuple[bytes, ...]:
        """As :func:`inclusion_proof`.

        Raises:
            Invalid: there is no such leaf.
        """
        if not 0 <= index < len(self._levels[0]):
            raise Invalid(f"the tree has no leaf {index}", reason="bad-range")
        path = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                path.append(level[index ^ 1])
            index >>= 1
        return tuple(path)


def root_from_inclusion(size: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root of a tree of ``size`` leaves that a leaf and its audit path imply.

    Raises:
        Corrupt: ``bad-proof``: the path does not have the length of that leaf's.
    """
    if not 0 <= index < size:
        raise _bad_proof(f"leaf {index} is not in a tree of {size}")
    _check_hashes((leaf,), proof)
    root, position, last = leaf, index, size - 1
    for sibling in proof:
        if last == 0:
            raise _bad_proof("the inclusion proof is too long")
        if position % 2 or position == last:
            root = node_hash(sibling, root)
            # An odd last node has no sibling on its level: it is passed up.
            while position % 2 == 0 and position:
                position >>= 1
                last >>= 1
        else:
            root = node_hash(root, sibling)
        position >>= 1
        last >>= 1
    if last:
        raise _bad_proof("the inclusion proof is too short")
    return root


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Proof that the tree extends its first ``old_size`` leaves (RFC 6962 section 2.1.2).

    Empty when ``old_size`` is 0 or the whole tree.

    Raises:
        Invalid: the tree has fewer leaves than ``old_size``.
    """
    if not 0 <= old_size <= len(leaves):
        raise Invalid(
            f"a tree of {len(leaves)} leaves does not extend one of {old_size}", reason="bad-range"
        )
    if old_size == 0:
        return []
    proof: list[bytes] = []
    start, size, old, complete = 0, len(leaves), old_size, True
    while old < size:
        left = _split(size)
        if old <= left:
            proof.append(merkle_root(leaves[start + left : start + size]))
            size = left
        else:
            proof.append(merkle_root(leaves[start : start + left]))
            start, size, old = start + left, size - left, old - left
            complete = False
    # The verifier knows the old root itself, so it is left out of the proof.
    if not complete:
        proof.append(merkle_root(leaves[start : start + size]))
    proof.reverse()
    return proof


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the new tree extends the old one.

    Raises:
        Corrupt: ``bad-proof``: it does not, or the proof has a wrong shape.
    """
    if not 0 <= old_size <= new_size:
        raise _bad_proof(f"a tree of {new_size} leaves cannot extend one of {old_size}")
    _check_hashes((old_root, new_root), proof)
    if old_size == 0 or old_size == new_size:
        expected = blake3_digest(b"") if old_size == 0 else new_root
        if proof or old_root != expected:
            raise _bad_proof("the trees are not consistent")
        return
    # An old tree that is a complete subtree is itself the first hash of the path.
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not path:
        raise _bad_proof("the consistency proof is too short")
    position, last = old_size - 1, new_size - 1
    while position % 2:
        position >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _bad_proof("the consistency proof is too long")
        if position % 2 or position == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while position % 2 == 0 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        position >>= 1
        last >>= 1
    if last or old != old_root or new != new_root:
        raise _bad_proof("the trees are not consistent")


def append_peak(count: int, peaks: tuple[bytes, ...], leaf: bytes) -> tuple[bytes, ...]:
    """The peaks of the mountain range after leaf hash number ``count`` (from 0).

    ``peaks`` are the roots of the complete subtrees before, largest first: one
    for each bit that is set in ``count``.

    Raises:
        Corrupt: ``bad-peaks``: the number of peaks does not fit the count.
    """
    grown = list(peaks)
    push_peak(count, grown, leaf)
    return tuple(grown)


def push_peak(count: int, peaks: list[bytes], leaf: bytes) -> list[bytes]:
    """As :func:`append_peak`, changing the list of peaks.

    Returns the roots of the subtrees that the leaf completes, smallest first.

    Raises:
        Corrupt: ``bad-peaks``: the number of peaks does not fit the count.
    """
    _check_peaks(count, peaks)
    completed: list[bytes] = []
    node = leaf
    while count & 1:
        node = node_hash(peaks.pop(), node)
        completed.append(node)
        count >>= 1
    peaks.append(node)
    return completed


def _check_peaks(count: int, peaks: Sequence[bytes]) -> None:
    if count < 0 or len(peaks) != count.bit_count():
        raise Corrupt(
            f"{len(peaks)} peaks do not belong to {count} leaves: "
            "rebuild this state from the ledger's log",
            reason="bad-peaks",
        )


def root_of_peaks(peaks: tuple[bytes, ...]) -> bytes:
    """The root that the peaks stand for: that of :func:`merkle_root` over all leaves."""
    if not peaks:
        return blake3_digest(b"")
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def split_digests(joined: bytes) -> list[bytes]:
    """The digests that were joined; whoever calls has checked the length."""
    return [joined[i : i + DIGEST_SIZE] for i in range(0, len(joined), DIGEST_SIZE)]


def shard_digest(piece_digests: Sequence[bytes]) -> bytes:
    """The digest of a shard: the root over the BLAKE3 digests of its pieces."""
    return merkle_root([leaf_hash(digest) for digest in piece_digests])
