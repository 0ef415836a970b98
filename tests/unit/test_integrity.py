"""Digests, checksums and the shape of Merkle trees, against a naive reference."""

from __future__ import annotations

import pytest

from hcefs.errors import Corrupt, Invalid
from hcefs.integrity import (
    append_peak,
    blake3_digest,
    blake3_hasher,
    consistency_proof,
    crc32c,
    crc32c_of,
    inclusion_proof,
    leaf_hash,
    merkle_root,
    node_hash,
    range_proof,
    root_from_inclusion,
    root_from_range,
    root_of_peaks,
    shard_digest,
    verify_consistency,
)

SIZES = range(1, 18)


def leaves_of(size: int) -> list[bytes]:
    return [leaf_hash(index.to_bytes(4, "big")) for index in range(size)]


def reference_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, written down as it stands there."""
    if not leaves:
        return blake3_digest(b"")
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(reference_root(leaves[:split]), reference_root(leaves[split:]))


def test_blake3_gives_the_published_digest_of_the_empty_input() -> None:
    expected = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert blake3_digest(b"").hex() == expected


def test_hasher_in_parts_equals_the_digest_of_the_whole() -> None:
    hasher = blake3_hasher()
    hasher.update(memoryview(b"one "))
    hasher.update(bytearray(b"two"))
    assert hasher.digest() == blake3_digest(b"one two")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_crc32c_gives_the_check_value_for_every_kind_of_buffer(kind: type) -> None:
    assert crc32c(kind(b"123456789")) == 0xE3069283


def test_crc32c_of_a_writable_view_across_several_steps() -> None:
    data = bytes(range(256)) * 700
    assert crc32c(memoryview(bytearray(data))) == crc32c(data)


def test_crc32c_of_parts_equals_that_of_their_join() -> None:
    assert crc32c_of([b"1234", memoryview(bytearray(b"567")), b"", bytearray(b"89")]) == 0xE3069283
    assert crc32c_of([]) == crc32c(b"") == 0


@pytest.mark.parametrize("size", [0, *SIZES, 64, 100])
def test_root_and_peaks_equal_the_reference(size: int) -> None:
    leaves = leaves_of(size)
    peaks: tuple[bytes, ...] = ()
    for count, leaf in enumerate(leaves):
        peaks = append_peak(count, peaks, leaf)
    assert merkle_root(leaves) == root_of_peaks(peaks) == reference_root(leaves)
    assert len(peaks) == size.bit_count()


def test_a_node_never_passes_for_a_leaf() -> None:
    left, right = leaves_of(2)
    assert leaf_hash(left + right) != node_hash(left, right)


def test_shard_digest_is_the_root_over_piece_digests() -> None:
    digests = [blake3_digest(bytes([index])) for index in range(5)]
    assert shard_digest(digests) == reference_root([leaf_hash(digest) for digest in digests])


@pytest.mark.parametrize("size", SIZES)
def test_every_range_proves_the_root(size: int) -> None:
    leaves = leaves_of(size)
    for first in range(size):
        for count in range(1, size - first + 1):
            proof = range_proof(leaves, first, count)
            part = leaves[first : first + count]
            assert root_from_range(size, first, part, proof) == merkle_root(leaves)


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_proves_the_root(size: int) -> None:
    leaves = leaves_of(size)
    for index, leaf in enumerate(leaves):
        proof = inclusion_proof(leaves, index)
        assert root_from_inclusion(size, index, leaf, proof) == merkle_root(leaves)


def test_an_inclusion_path_runs_from_the_leaf_up() -> None:
    leaves = leaves_of(7)
    assert inclusion_proof(leaves, 4) == [leaves[5], leaves[6], merkle_root(leaves[:4])]


@pytest.mark.parametrize("size", SIZES)
def test_every_older_tree_is_consistent(size: int) -> None:
    leaves = leaves_of(size)
    for old in range(size + 1):
        proof = consistency_proof(leaves, old)
        verify_consistency(old, merkle_root(leaves[:old]), size, merkle_root(leaves), proof)


def test_the_consistency_proofs_of_rfc_6962_section_2_1_3() -> None:
    leaves = leaves_of(7)
    c, d = leaves[2], leaves[3]
    g, h, j = merkle_root(leaves[:2]), merkle_root(leaves[2:4]), leaves[6]
    i = merkle_root(leaves[4:6])
    k, right = node_hash(g, h), node_hash(i, j)
    assert consistency_proof(leaves, 3) == [c, d, g, right]
    assert consistency_proof(leaves, 4) == [right]
    assert consistency_proof(leaves, 6) == [i, j, k]


@pytest.mark.parametrize("size", SIZES)
def test_a_forked_tree_is_not_consistent(size: int) -> None:
    leaves = leaves_of(size)
    for old in range(1, size + 1):
        forked = [*leaves[: old - 1], leaf_hash(b"other"), *leaves[old:]]
        with pytest.raises(Corrupt) as caught:
            verify_consistency(
                old,
                merkle_root(leaves[:old]),
                size,
                merkle_root(forked),
                consistency_proof(forked, old),
            )
        assert caught.value.reason == "bad-proof"


@pytest.mark.parametrize("change", ["short", "long", "size"])
def test_proofs_of_a_wrong_shape_are_corrupt(change: str) -> None:
    def changed(proof: list[bytes]) -> list[bytes]:
        if change == "short":
            return proof[:-1]
        return [*proof, bytes(32)] if change == "long" else [*proof[:-1], proof[-1][:31]]

    leaves = leaves_of(11)
    root = merkle_root(leaves)
    with pytest.raises(Corrupt, match="proof"):
        root_from_range(11, 3, leaves[3:6], changed(range_proof(leaves, 3, 3)))
    with pytest.raises(Corrupt, match="proof"):
        root_from_inclusion(11, 10, leaves[10], changed(inclusion_proof(leaves, 10)))
    with pytest.raises(Corrupt, match="proof"):
        verify_consistency(
            6, merkle_root(leaves[:6]), 11, root, changed(consistency_proof(leaves, 6))
        )


def test_a_proof_for_another_place_is_corrupt_or_gives_another_root() -> None:
    leaves = leaves_of(6)
    for index in range(6):
        proof = inclusion_proof(leaves, index)
        for other in range(6):
            try:
                root = root_from_inclusion(6, other, leaves[index], proof)
            except Corrupt:
                continue
            assert (root == merkle_root(leaves)) == (other == index)


@pytest.mark.parametrize(("first", "count"), [(0, 0), (-1, 1), (4, 2), (5, 1)])
def test_ranges_outside_the_tree(first: int, count: int) -> None:
    leaves = leaves_of(5)
    with pytest.raises(Invalid):
        range_proof(leaves, first, count)
    with pytest.raises(Corrupt):
        root_from_range(5, first, [leaves[0]] * count, [])


def test_places_outside_the_tree() -> None:
    leaves = leaves_of(5)
    for index in (-1, 5):
        with pytest.raises(Invalid):
            inclusion_proof(leaves, index)
        with pytest.raises(Corrupt):
            root_from_inclusion(5, index, leaves[0], [])
    for old in (-1, 6):
        with pytest.raises(Invalid):
            consistency_proof(leaves, old)
        with pytest.raises(Corrupt):
            verify_consistency(old, leaves[0], 5, leaves[0], [])


def test_equal_or_empty_trees_take_no_proof() -> None:
    root = merkle_root(leaves_of(4))
    verify_consistency(0, merkle_root([]), 4, root, [])
    verify_consistency(4, root, 4, root, [])
    for old, old_root, proof in ((0, root, []), (4, bytes(32), []), (4, root, [root])):
        with pytest.raises(Corrupt):
            verify_consistency(old, old_root, 4, root, proof)


def test_peaks_that_do_not_fit_the_count_are_corrupt() -> None:
    for count, peaks in ((1, ()), (2, (bytes(32), bytes(32))), (-1, ())):
        with pytest.raises(Corrupt) as caught:
            append_peak(count, peaks, bytes(32))
        assert caught.value.reason == "bad-peaks"
