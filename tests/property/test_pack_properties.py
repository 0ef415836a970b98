"""Packs of any shape: payloads lie where the layout says, and no forged proof passes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcefs.encoding import Encoded
from hcefs.erasure.scheme import PROFILES, SEAL_OVERHEAD, Profile
from hcefs.errors import Corrupt, Invalid
from hcefs.formats.manifest import Opening
from hcefs.formats.pack import (
    PAYLOADS_MAX,
    PackedKey,
    PackEnvelope,
    PackLayout,
    PackOpening,
    PackProof,
    join_lengths,
    join_slots,
    pack_geometry,
    spans_of,
    split_lengths,
    split_slots,
)
from hcefs.ids import BlobBase, BlobId, RecordId
from hcefs.integrity import blake3_digest
from tests.vectors.generate_packs import samples

BASE = BlobBase(b"\x11" * 16)
RECORD = RecordId(b"\x22" * 16)
SALT = bytes(range(32))

lengths = st.lists(st.integers(SEAL_OVERHEAD, 3000), min_size=1, max_size=60)
slot_sets = st.sets(st.integers(1, PAYLOADS_MAX), min_size=1, max_size=70)


@settings(max_examples=100, deadline=None)
@given(joined=st.binary(max_size=64))
def test_what_is_split_is_joined_again_and_the_rest_is_refused(joined: bytes) -> None:
    for split, join in ((split_lengths, join_lengths), (split_slots, join_slots)):
        try:
            numbers = split(joined)
        except Invalid:
            continue
        assert join(numbers) == joined


@settings(max_examples=100, deadline=None)
@given(sizes=lengths, profile=st.sampled_from(list(PROFILES.values())))
def test_spans_cut_the_payloads_out_of_the_pieces(sizes: list[int], profile: Profile) -> None:
    assert split_lengths(join_lengths(sizes)) == sizes
    body = b"".join(blake3_digest(bytes([i])) * 100 for i in range(len(sizes)))[: sum(sizes)]
    geometry = pack_geometry(len(body), profile)
    piece = geometry.piece_of(0)
    padded = body.ljust(piece * profile.k, b"\x00")
    pieces = [padded[i * piece : (i + 1) * piece] for i in range(profile.k)]
    start = 0
    for slot, size in enumerate(sizes, 1):
        spans = spans_of(sizes, piece, slot)
        assert all(span.length > 0 and span.index < profile.k for span in spans)
        parts = [pieces[span.index][span.offset :][: span.length] for span in spans]
        assert b"".join(parts) == body[start : start + size]
        start += size


def opening_of(slots: set[int]) -> PackOpening:
    ordered = sorted(slots)
    digests = b"".join(blake3_digest(slot.to_bytes(2, "big")) for slot in ordered)
    return PackOpening(SALT, RECORD, BASE, join_slots(ordered), digests)


@settings(max_examples=100, deadline=None)
@given(slots=slot_sets, data=st.data())
def test_every_payload_is_proved_under_the_one_commitment(
    slots: set[int], data: st.DataObject
) -> None:
    opening = opening_of(slots)
    opening.check()
    tree = opening.tree()
    assert split_slots(opening.slots) == sorted(slots)
    slot = data.draw(st.sampled_from(sorted(slots)))
    proof = opening.proof(slot, tree)
    assert proof == opening.proof(slot)
    assert proof.commitment() == opening.commitment()
    assert (proof.blob.slot, proof.count) == (slot, len(slots))
    assert len(proof.path) <= 10
    with pytest.raises(Invalid):
        opening.proof(data.draw(st.integers(0, 65535).filter(lambda other: other not in slots)))


def _flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8 % len(value)] ^= 1 << bit % 8
    return bytes(changed)


@settings(max_examples=300, deadline=None)
@given(slots=slot_sets, data=st.data())
def test_a_proof_that_differs_in_any_field_is_refused_or_commits_to_another(
    slots: set[int], data: st.DataObject
) -> None:
    opening = opening_of(slots)
    ordered = sorted(slots)
    proof = opening.proof(data.draw(st.sampled_from(ordered)))
    bit = data.draw(st.integers(0, 1 << 16))
    other = opening.proof(data.draw(st.sampled_from(ordered)))
    changes: dict[str, Any] = {
        "salt": _flipped(proof.salt, bit),
        "record": RecordId(_flipped(proof.record, bit)),
        "blob": BlobId(_flipped(proof.blob, bit)),
        "core_digest": _flipped(proof.core_digest, bit),
        "position": data.draw(st.integers(-1, len(ordered))),
        "count": data.draw(st.integers(-1, PAYLOADS_MAX + 1)),
        "path": other.path[data.draw(st.integers(0, 1)) :],
    }
    if proof.path:
        at = bit % len(proof.path)
        hashed = (*proof.path[:at], _flipped(proof.path[at], bit), *proof.path[at + 1 :])
        changes["path"] = data.draw(st.sampled_from([changes["path"], hashed]))
    names = data.draw(st.sets(st.sampled_from(sorted(changes)), min_size=1))
    changed = replace(proof, **{name: changes[name] for name in names})
    try:
        commitment: bytes | None = changed.commitment()
    except Corrupt:
        commitment = None
    assert (commitment == opening.commitment()) == (changed == proof)


@settings(max_examples=100, deadline=None)
@given(slots=slot_sets, data=st.data())
def test_an_opening_that_differs_in_any_field_commits_to_another(
    slots: set[int], data: st.DataObject
) -> None:
    opening = opening_of(slots)
    name = data.draw(st.sampled_from(["salt", "record", "base", "slots", "core_digests"]))
    value = getattr(opening, name)
    changed = replace(
        opening, **{name: type(value)(_flipped(value, data.draw(st.integers(0, 1 << 16))))}
    )
    assert changed.commitment() != opening.commitment()
    fewer = data.draw(st.sets(st.sampled_from(sorted(slots)), min_size=1))
    assert (opening_of(fewer).commitment() == opening.commitment()) == (fewer == slots)
    assert Opening(SALT, RECORD, BlobId.of(BASE, 1), b"", b"").commitment() != opening.commitment()


READERS: list[type[Encoded]] = [PackLayout, PackOpening, PackProof, PackEnvelope, PackedKey]


def _read(cls: type[Encoded], data: bytes) -> Encoded | None:
    """What a receiver does with such bytes, without the signature; None: refused."""
    try:
        value = cls.decode(data)
        if isinstance(value, PackLayout):
            value.check_shape()
            value.spans(value.payloads)
        elif isinstance(value, PackOpening):
            value.check()
            value.commitment()
        elif isinstance(value, PackProof):
            value.commitment()
        elif isinstance(value, PackedKey):
            value.check()
    except (Invalid, Corrupt):
        return None
    return value


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=300))
def test_no_bytes_crash_a_reader(garbage: bytes) -> None:
    assert [_read(cls, garbage) for cls in READERS] == [None] * len(READERS)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_refused_or_mean_what_they_say(data: st.DataObject) -> None:
    """A change may give another valid value, never a second form of the same one."""
    value = data.draw(st.sampled_from(list(samples().values())))
    raw = bytearray(value.encode())
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 3)))
    raw[start:end] = data.draw(st.binary(max_size=4))
    changed = _read(type(value), bytes(raw))
    if changed is not None:
        assert changed.encode() == bytes(raw)
        assert (changed == value) == (bytes(raw) == value.encode())


@settings(max_examples=200, deadline=None)
@given(
    joined=st.binary(max_size=12),
    digests=st.binary(max_size=70),
    slot=st.integers(-1, 70_000),
    profile=st.sampled_from(["ec-4-2", "copy-3", "none"]),
)
def test_rows_that_nobody_checked_fail_as_errors_of_ours(
    joined: bytes, digests: bytes, slot: int, profile: str
) -> None:
    layout = samples()["pack-layout"]
    assert isinstance(layout, PackLayout)
    layout = replace(layout, lengths=joined, profile=profile)
    opening = PackOpening(SALT, RECORD, BASE, joined, digests)
    for use in (
        lambda: layout.body_length,
        lambda: layout.geometry,
        lambda: layout.spans(slot),
        opening.check,
        opening.commitment,
        lambda: opening.proof(slot),
    ):
        with contextlib.suppress(Invalid, Corrupt):
            use()


def test_an_opening_of_more_payloads_than_a_count_can_say_commits_to_nothing() -> None:
    slots = [*list(range(1, 65536)), 65535]
    opening = PackOpening(SALT, RECORD, BASE, join_slots(slots), bytes(32 * len(slots)))
    with pytest.raises(Corrupt) as caught:
        opening.commitment()
    assert caught.value.reason == "bad-proof"
