"""Merkle trees of any size: the three forms agree, and no forged proof passes."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.integrity import (
    MerkleTree,
    append_peak,
    consistency_proof,
    crc32c,
    crc32c_of,
    inclusion_proof,
    leaf_hash,
    merkle_root,
    range_proof,
    root_from_inclusion,
    root_from_range,
    root_of_peaks,
    verify_consistency,
)

SIZE = st.integers(min_value=1, max_value=300)


def leaves_of(size: int) -> list[bytes]:
    return [leaf_hash(index.to_bytes(4, "big")) for index in range(size)]


@settings(max_examples=50, deadline=None)
@given(size=SIZE)
def test_peaks_give_the_root_of_the_list(size: int) -> None:
    leaves = leaves_of(size)
    peaks: tuple[bytes, ...] = ()
    for count, leaf in enumerate(leaves):
        peaks = append_peak(count, peaks, leaf)
    assert root_of_peaks(peaks) == merkle_root(leaves)


@settings(max_examples=50, deadline=None)
@given(size=SIZE, data=st.data())
def test_a_range_proves_the_root_and_a_changed_leaf_does_not(
    size: int, data: st.DataObject
) -> None:
    leaves = leaves_of(size)
    first = data.draw(st.integers(0, size - 1))
    count = data.draw(st.integers(1, size - first))
    part = leaves[first : first + count]
    proof = range_proof(leaves, first, count)
    # Two paths at most, each with one sibling a level.
    assert len(proof) <= 2 * size.bit_length()
    assert root_from_range(size, first, part, proof) == merkle_root(leaves)
    part[data.draw(st.integers(0, count - 1))] = leaf_hash(b"other")
    assert root_from_range(size, first, part, proof) != merkle_root(leaves)


@settings(max_examples=50, deadline=None)
@given(size=SIZE, data=st.data())
def test_a_leaf_proves_the_root_at_its_own_index_only(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    claimed = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(leaves, index)
    assert root_from_inclusion(size, index, leaves[index], proof) == merkle_root(leaves)
    if claimed != index:
        # A proof of the other index's length gives another root; any other is refused.
        with contextlib.suppress(Corrupt):
            assert root_from_inclusion(size, claimed, leaves[index], proof) != merkle_root(leaves)


@settings(max_examples=50, deadline=None)
@given(size=SIZE, data=st.data())
def test_consistency_holds_for_a_prefix_and_for_nothing_else(
    size: int, data: st.DataObject
) -> None:
    leaves = leaves_of(size)
    old = data.draw(st.integers(1, size))
    proof = consistency_proof(leaves, old)
    old_root, root = merkle_root(leaves[:old]), merkle_root(leaves)
    verify_consistency(old, old_root, size, root, proof)
    changed = list(leaves[:old])
    changed[data.draw(st.integers(0, old - 1))] = leaf_hash(b"other")
    with pytest.raises(Corrupt):
        verify_consistency(old, merkle_root(changed), size, root, proof)


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=4))
def test_crc32c_does_not_depend_on_how_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [memoryview(bytearray(data[a:b])) for a, b in itertools.pairwise(edges)]
    assert crc32c_of(parts) == crc32c(data)


@settings(max_examples=100, deadline=None)
@given(size=st.one_of(SIZE, st.sampled_from([1023, 1024, 1025])), data=st.data())
def test_the_tree_with_levels_is_the_same_tree(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    tree = MerkleTree(leaves)
    assert tree.root == merkle_root(leaves)
    for index in {0, size - 1, data.draw(st.integers(0, size - 1))}:
        path = tree.proof(index)
        assert list(path) == inclusion_proof(leaves, index)
        assert root_from_inclusion(size, index, leaves[index], path) == tree.root
    for outside in (-1, size):
        with pytest.raises(Invalid):
            tree.proof(outside)


def test_every_leaf_of_every_small_tree_has_the_same_proof() -> None:
    for size in range(1, 66):
        leaves = leaves_of(size)
        tree = MerkleTree(leaves)
        proofs = [inclusion_proof(leaves, index) for index in range(size)]
        assert [list(tree.proof(index)) for index in range(size)] == proofs


@pytest.mark.parametrize(
    ("leaves", "kind"), [([], Invalid), ([bytes(31)], Corrupt), ([bytes(32), b""], Corrupt)]
)
def test_a_tree_of_anything_but_hashes_is_refused(
    leaves: list[bytes], kind: type[HcefsError]
) -> None:
    with pytest.raises(kind) as caught:
        MerkleTree(leaves)
    assert caught.value.reason == "bad-proof"
