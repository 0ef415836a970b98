"""Packs: where payloads lie, what opens an entry, what each row checks and signs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blake3 import blake3

from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.crypto.signing import SigningKey
from hcefs.encoding import Encoded
from hcefs.erasure.scheme import PROFILES, SEAL_OVERHEAD, profile_named
from hcefs.errors import Corrupt, HcefsError, Invalid, Unauthenticated
from hcefs.formats.manifest import Opening
from hcefs.formats.pack import (
    BODY_BYTES_MAX,
    PACK_SEGMENT_SIZE,
    PAYLOAD_BYTES_MAX,
    PAYLOADS_MAX,
    PIECE_BYTES_MAX,
    TINY_BODY_BYTES,
    WRAPPED_SIZE,
    PackedKey,
    PackEnvelope,
    PackLayout,
    PackOpening,
    PackProof,
    Span,
    body_bytes_max,
    entry_hash,
    join_lengths,
    join_slots,
    pack_commitment,
    pack_geometry,
    pack_profile,
    spans_of,
    split_lengths,
    split_slots,
)
from hcefs.formats.shard import (
    HEADER_SIZE,
    ShardFooter,
    ShardHeader,
    check_lengths,
    decode_footer,
    decode_trailer,
    file_length,
)
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.integrity import blake3_digest, leaf_hash, node_hash

KEY = SigningKey.from_seed(bytes(range(32)))
OTHER_KEY = SigningKey.from_seed(bytes(32))
BASE = BlobBase(b"\x11" * 16)
RECORD = RecordId(b"\x22" * 16)
NODE = AccountId(b"\x33" * 16)
DIGESTS = tuple(bytes([i]) * 32 for i in range(1, 7))
SALT = bytes(range(32))
SLOTS = [1, 3, 4, 7, 9]
CORES = [blake3_digest(bytes([slot])) for slot in SLOTS]
ENVELOPE = Envelope(SUITE_XWING, bytes(1168))
LONGEST = PAYLOAD_BYTES_MAX + SEAL_OVERHEAD
SHORTEST = SEAL_OVERHEAD

LAYOUT = PackLayout(
    BASE, "ec-4-2", join_lengths([100, 200, 300]), DIGESTS, 1, NODE, 1, 1_800_000_000_000, b""
)
OPENING = PackOpening(SALT, RECORD, BASE, join_slots(SLOTS), b"".join(CORES))


def refused(error: type[HcefsError], call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(error) as caught:
        call(*arguments)
    return caught.value.reason


@pytest.mark.parametrize(
    "value",
    [
        LAYOUT,
        OPENING,
        OPENING.proof(4),
        PackEnvelope(BASE, RECORD, 3, ENVELOPE),
        PackedKey(BlobId.of(BASE, 4), RECORD, 3, ENVELOPE, bytes(WRAPPED_SIZE)),
    ],
    ids=lambda value: type(value).KIND,
)
def test_round_trip(value: Encoded) -> None:
    assert type(value).decode(value.encode()) == value


@pytest.mark.parametrize(
    "lengths",
    [
        [SHORTEST],
        [LONGEST],
        [SHORTEST] * PAYLOADS_MAX,
        [BODY_BYTES_MAX // PAYLOADS_MAX] * PAYLOADS_MAX,
        [LONGEST] * 4 + [BODY_BYTES_MAX - 4 * LONGEST],
    ],
    ids=["shortest", "longest", "most", "most-and-full", "full"],
)
def test_lengths_up_to_the_limits(lengths: list[int]) -> None:
    joined = join_lengths(lengths)
    assert joined == b"".join(length.to_bytes(4, "big") for length in lengths)
    assert split_lengths(joined) == lengths


@pytest.mark.parametrize(
    "joined",
    [
        b"",
        bytes(4),
        (49).to_bytes(4, "big") + b"\x00",
        (49).to_bytes(4, "big")[1:],
        join_lengths([SHORTEST - 1]),
        join_lengths([100, SHORTEST - 1, 100]),
        join_lengths([LONGEST + 1]),
        b"\xff" * 4,
        join_lengths([SHORTEST] * (PAYLOADS_MAX + 1)),
        join_lengths([LONGEST] * 4 + [BODY_BYTES_MAX - 4 * LONGEST + 1]),
    ],
    ids=[
        "none", "zero", "a byte more", "a byte less", "short", "short within", "long",
        "greatest", "too many", "body too long",
    ],
)  # fmt: skip
def test_impossible_lengths_are_refused(joined: bytes) -> None:
    assert refused(Invalid, split_lengths, joined) == "bad-layout"
    assert refused(Invalid, replace(LAYOUT, lengths=joined).check_shape) == "bad-layout"


@pytest.mark.parametrize("slots", [[1], [PAYLOADS_MAX], [2, 3, 9], list(range(1, 1025))])
def test_slots_up_to_the_limits(slots: list[int]) -> None:
    joined = join_slots(slots)
    assert joined == b"".join(slot.to_bytes(2, "big") for slot in slots)
    assert split_slots(joined) == slots


@pytest.mark.parametrize(
    "joined",
    [
        b"",
        b"\x01",
        b"\x00\x01\x00",
        join_slots([0]),
        join_slots([0, 1]),
        join_slots([3, 2]),
        join_slots([2, 2]),
        join_slots([1, 5, 5, 6]),
        join_slots([PAYLOADS_MAX + 1]),
        join_slots([65535]),
        join_slots([1] * (PAYLOADS_MAX + 1)),
    ],
)
def test_impossible_slots_are_refused(joined: bytes) -> None:
    assert refused(Invalid, split_slots, joined) == "bad-slots"
    opening = replace(OPENING, slots=joined, core_digests=bytes(16 * len(joined)))
    assert refused(Invalid, opening.check) == "bad-slots"


def test_a_payload_lies_in_one_piece_or_across_several() -> None:
    # 1000 bytes in 4 pieces of 256: the second payload ends where a piece does.
    lengths = [100, 156, 600, 144]
    assert spans_of(lengths, 256, 1) == [Span(0, 0, 100)]
    assert spans_of(lengths, 256, 2) == [Span(0, 100, 156)]
    assert spans_of(lengths, 256, 3) == [Span(1, 0, 256), Span(2, 0, 256), Span(3, 0, 88)]
    assert spans_of(lengths, 256, 4) == [Span(3, 88, 144)]
    layout = replace(LAYOUT, lengths=join_lengths(lengths))
    assert layout.body_length == 1000
    assert layout.payloads == 4
    assert layout.geometry.piece_of(0) == 256
    assert layout.spans(3) == spans_of(lengths, 256, 3)


@pytest.mark.parametrize("slot", [-1, 0, 4, 65535])
def test_a_slot_that_the_pack_has_not_is_refused(slot: int) -> None:
    assert refused(Invalid, LAYOUT.spans, slot) == "bad-slots"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
@pytest.mark.parametrize("body_length", [48, 49, 4000, TINY_BODY_BYTES, 1 << 20, BODY_BYTES_MAX])
def test_a_shard_file_of_a_pack_has_the_lengths_of_its_geometry(
    profile: object, body_length: int
) -> None:
    code = profile_named(getattr(profile, "name", ""))
    geometry = pack_geometry(body_length, code)
    assert geometry.segments == 1
    assert geometry.sealed_of(0) == body_length
    assert geometry.pieces_length == geometry.piece_of(0) >= -(-body_length // code.k)
    header = ShardHeader(BASE, 0, code.name, code.k, code.m, PACK_SEGMENT_SIZE)
    piece = bytes(geometry.piece_of(0))
    footer = ShardFooter.of(geometry.plaintext_length, blake3_digest(piece))
    data = header.encode() + piece + footer.encode()
    assert len(data) == file_length(geometry)
    read = ShardHeader.decode(data[:HEADER_SIZE])
    assert check_lengths(read, decode_trailer(data[-64:]), len(data)) == geometry
    assert decode_footer(data[HEADER_SIZE + len(piece) :]).plaintext_length == body_length - 48


def test_a_tiny_pack_is_kept_as_copies() -> None:
    assert pack_profile(TINY_BODY_BYTES - 1, "ec-8-3") == "copy-3"
    assert pack_profile(TINY_BODY_BYTES, "ec-8-3") == "ec-8-3"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_the_longest_body_of_a_profile_has_pieces_that_fit_a_message(profile: object) -> None:
    code = profile_named(getattr(profile, "name", ""))
    longest = body_bytes_max(code)
    assert pack_geometry(longest, code).piece_of(0) <= PIECE_BYTES_MAX
    assert longest == BODY_BYTES_MAX or code.k == 1


def test_a_body_too_long_for_copies_is_refused() -> None:
    lengths = [LONGEST, PIECE_BYTES_MAX - LONGEST]
    layout = replace(LAYOUT, profile="copy-3", shard_digests=DIGESTS[:3])
    replace(layout, lengths=join_lengths(lengths)).check_shape()
    lengths[-1] += 1
    assert refused(Invalid, replace(layout, lengths=join_lengths(lengths)).check_shape) == (
        "bad-layout"
    )


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (replace(LAYOUT, shard_digests=DIGESTS[:5]), "bad-layout"),
        (replace(LAYOUT, shard_digests=(*DIGESTS, DIGESTS[0])), "bad-layout"),
        (replace(LAYOUT, shard_digests=(*DIGESTS[:5], bytes(31))), "bad-layout"),
        (replace(LAYOUT, profile="ec-3-1"), "unknown-profile"),
        (replace(LAYOUT, profile="copy-3"), "bad-layout"),
    ],
)
def test_impossible_layouts_are_refused(layout: PackLayout, reason: str) -> None:
    assert refused(Invalid, layout.signed(KEY).check, KEY.public_key) == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"base": BlobBase(bytes(16))},
        {"lengths": join_lengths([100, 201, 299])},
        {"shard_digests": DIGESTS[::-1]},
        {"version": 2},
        {"node": AccountId(bytes(16))},
        {"key_version": 2},
        {"time_ms": 0},
        {"signature": bytes(64)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_node_signs_every_field_of_a_layout(changes: dict[str, object]) -> None:
    signed = LAYOUT.signed(KEY)
    signed.check(KEY.public_key)
    changed = replace(signed, **changes)  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated):
        changed.check(KEY.public_key)
    with pytest.raises(Unauthenticated):
        signed.check(OTHER_KEY.public_key)


def test_the_commitment_follows_from_the_specification() -> None:
    """Computed here with BLAKE3 alone."""
    leaves = [
        blake3(b"\x00" + slot.to_bytes(2, "big") + core).digest()
        for slot, core in zip(SLOTS, CORES, strict=True)
    ]
    left, right = (blake3(b"\x01" + leaves[i] + leaves[i + 1]).digest() for i in (0, 2))
    root = blake3(b"\x01" + blake3(b"\x01" + left + right).digest() + leaves[4]).digest()
    expected = blake3(
        b"hcefs/v1/pack-commitment\x00" + SALT + RECORD + BASE + (5).to_bytes(2, "big") + root
    ).digest()
    OPENING.check()
    assert OPENING.commitment() == OPENING.commitment(OPENING.tree()) == expected
    assert [OPENING.proof(slot).commitment() for slot in SLOTS] == [expected] * 5
    assert OPENING.entries() == [
        (BlobId.of(BASE, slot), core) for slot, core in zip(SLOTS, CORES, strict=True)
    ]


def test_the_commitment_of_a_pack_is_never_that_of_a_single_opening() -> None:
    core = CORES[0]
    single = Opening(SALT, RECORD, BlobId.of(BASE, 1), core, b"")
    packed = PackOpening(SALT, RECORD, BASE, join_slots([1]), core)
    assert single.commitment() != packed.commitment()


@pytest.mark.parametrize(
    "changes",
    [
        {"salt": bytes(31)},
        {"salt": bytes(33)},
        {"core_digests": b"".join(CORES[:-1])},
        {"core_digests": b"".join(CORES) + bytes(32)},
        {"core_digests": b"".join(CORES)[:-1]},
        {"core_digests": b""},
    ],
)
def test_impossible_openings_are_refused(changes: dict[str, bytes]) -> None:
    opening = replace(OPENING, **changes)  # type: ignore[arg-type]
    assert refused(Invalid, opening.check) == "bad-opening"


@pytest.mark.parametrize("slot", [0, 2, 8, 10, 1024, 65535])
def test_a_slot_of_another_record_has_no_proof(slot: int) -> None:
    assert refused(Invalid, OPENING.proof, slot) == "bad-slots"


PROOF = OPENING.proof(4)


@pytest.mark.parametrize(
    "proof",
    [
        replace(PROOF, salt=SALT[:-1]),
        replace(PROOF, core_digest=CORES[2] + b"\x00"),
        replace(PROOF, core_digest=b""),
        replace(PROOF, position=-1),
        replace(PROOF, position=5),
        replace(PROOF, count=0),
        replace(PROOF, count=2),
        replace(PROOF, count=PAYLOADS_MAX + 1),
        replace(PROOF, count=-1),
        replace(PROOF, path=PROOF.path[:-1]),
        replace(PROOF, path=()),
        replace(PROOF, path=(*PROOF.path, bytes(32))),
        replace(PROOF, path=(*PROOF.path[:-1], bytes(31))),
        replace(PROOF, blob=BlobId.of(BASE, 0)),
        replace(PROOF, blob=BlobId.of(BASE, PAYLOADS_MAX + 1)),
        replace(PROOF, blob=BlobId.of(BASE, 65535)),
    ],
)
def test_malformed_proofs_are_corrupt(proof: PackProof) -> None:
    assert refused(Corrupt, proof.commitment) == "bad-proof"


def test_no_opening_of_the_unpacked_blob_passes_for_a_packed_entry() -> None:
    """Slot 0 is a single blob, whose content the pack's writer has not sealed itself."""
    forged = PackOpening(SALT, RECORD, BASE, join_slots([0]), CORES[0])
    assert refused(Corrupt, forged.proof(0).commitment) == "bad-proof"


def test_a_node_of_the_tree_passes_for_no_payload() -> None:
    """The second preimage: an inner node presented as the leaf of a smaller tree."""
    hashes = OPENING.hashes()
    inner = node_hash(hashes[0], hashes[1])
    assert inner not in {entry_hash(slot, core) for slot in range(1, 1025) for core in CORES}
    # As an opening of fewer payloads, the same root comes to another commitment.
    smaller = pack_commitment(SALT, RECORD, BASE, 3, OPENING.tree().root)
    assert smaller != OPENING.commitment()
    # Whatever stands in a core digest's place is hashed as a leaf.
    assert leaf_hash(hashes[0] + hashes[1]) != inner


@pytest.mark.parametrize("length", [0, 39, 41])
def test_a_wrapped_key_has_one_length(length: int) -> None:
    row = PackedKey(BlobId.of(BASE, 4), RECORD, 3, ENVELOPE, bytes(WRAPPED_SIZE))
    row.check()
    assert refused(Invalid, replace(row, wrapped=bytes(length)).check) == "bad-key-row"
