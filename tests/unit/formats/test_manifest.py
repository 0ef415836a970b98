"""Manifest rows: what each one checks, binds and signs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.crypto.signing import SigningKey
from hcefs.encoding import Encoded
from hcefs.errors import HcefsError, Invalid, Unauthenticated
from hcefs.formats.manifest import (
    SEALED_METADATA_MAX,
    BlobRef,
    Core,
    KeyRow,
    Layout,
    Metadata,
    Opening,
)
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.integrity import blake3_digest

KEY = SigningKey.from_seed(bytes(range(32)))
BASE = BlobBase(b"\x11" * 16)
BLOB = BlobId.of(BASE)
RECORD = RecordId(b"\x22" * 16)
ACCOUNT = AccountId(b"\x33" * 16)
DIGESTS = tuple(bytes([i]) * 32 for i in range(1, 7))

CORE = Core(
    blob=BLOB,
    record=RECORD,
    generation=0,
    plaintext_length=5,
    segment_size=1 << 20,
    dek_commitment=bytes(32),
    writer=ACCOUNT,
    commit_by_ms=1_800_000_000_000,
    k=4,
    data_digests=DIGESTS[:4],
    sealed_metadata=b"sealed",
)
PACKED = replace(CORE, blob=BlobId.of(BASE, 1), k=1, data_digests=DIGESTS[:1])
LAYOUT = Layout(BASE, RECORD, "ec-4-2", DIGESTS, 0, 0, 1, ACCOUNT, 1, 1_800_000_000_000, b"")
OPENING = Opening(bytes(range(32)), RECORD, BLOB, bytes(32), b"")
METADATA = Metadata("text/plain", "note", ("a", "b"), bytes(32), bytes(64))


@pytest.mark.parametrize(
    "value",
    [
        CORE,
        LAYOUT,
        OPENING,
        METADATA,
        KeyRow(BLOB, RECORD, 0, Envelope(SUITE_XWING, bytes(1168))),
        BlobRef(RECORD, BLOB, bytes(32), 7),
    ],
    ids=lambda value: type(value).KIND,
)
def test_round_trip(value: Encoded) -> None:
    assert type(value).decode(value.encode()) == value


def test_the_core_is_bound_by_the_digest_of_its_bytes() -> None:
    CORE.check()
    assert CORE.digest() == blake3_digest(CORE.encode())
    assert replace(CORE, commit_by_ms=1).digest() != CORE.digest()


def test_the_core_of_a_packed_payload_has_one_digest_and_one_segment() -> None:
    PACKED.check()
    replace(PACKED, plaintext_length=1 << 20).check()
    replace(PACKED, plaintext_length=0).check()


@pytest.mark.parametrize(
    ("core", "reason"),
    [
        (replace(CORE, data_digests=DIGESTS[:3]), "bad-core"),
        (replace(CORE, data_digests=(*DIGESTS[:3], bytes(31))), "bad-core"),
        (replace(CORE, k=5), "bad-core"),
        (replace(CORE, dek_commitment=bytes(31)), "bad-core"),
        (replace(CORE, sealed_metadata=bytes(SEALED_METADATA_MAX + 1)), "bad-core"),
        (replace(CORE, plaintext_length=-1), "bad-core"),
        (replace(CORE, segment_size=1 << 19), "bad-core"),
        (replace(CORE, generation=-1), "bad-core"),
        (replace(CORE, blob=BlobId.of(BASE, 1)), "bad-core"),
        (replace(PACKED, k=4, data_digests=DIGESTS[:4]), "bad-core"),
        (replace(PACKED, plaintext_length=(1 << 20) + 1), "bad-core"),
    ],
)
def test_impossible_cores_are_refused(core: Core, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        core.check()
    assert caught.value.reason == reason


def test_a_layout_is_signed_over_all_other_fields() -> None:
    signed = LAYOUT.signed(KEY)
    signed.check(KEY.public_key)
    assert signed.message() == LAYOUT.encode()
    assert Layout.decode(signed.encode()) == signed
    changes: list[Layout] = [
        replace(signed, base=BlobBase(bytes(16))),
        replace(signed, record=RecordId(bytes(16))),
        replace(signed, profile="ec-8-3"),
        replace(signed, shard_digests=DIGESTS[::-1]),
        replace(signed, version=2),
        replace(signed, node=AccountId(bytes(16))),
        replace(signed, key_version=2),
        replace(signed, time_ms=1),
        replace(signed, signature=bytes(64)),
        replace(signed, signature=b""),
    ]
    for changed in changes:
        with pytest.raises(Unauthenticated):
            changed.check(KEY.public_key)
    with pytest.raises(Unauthenticated):
        signed.check(SigningKey.from_seed(bytes(32)).public_key)


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (replace(LAYOUT, pack_offset=1), "unsupported"),
        (replace(LAYOUT, pack_length=1), "unsupported"),
        (replace(LAYOUT, shard_digests=(bytes(31),)), "bad-layout"),
    ],
)
def test_impossible_layouts_are_refused_though_signed(layout: Layout, reason: str) -> None:
    with pytest.raises(HcefsError) as caught:
        layout.signed(KEY).check(KEY.public_key)
    assert caught.value.reason == reason


def test_a_commitment_binds_every_part_of_its_opening() -> None:
    OPENING.check()
    variants = [
        OPENING,
        replace(OPENING, salt=bytes(32)),
        replace(OPENING, record=RecordId(bytes(16))),
        replace(OPENING, blob=BlobId.of(BASE, 1)),
        replace(OPENING, core_digest=b"\x01" * 32),
        replace(OPENING, previous_leaf=bytes(32)),
    ]
    assert len({variant.commitment() for variant in variants}) == len(variants)
    assert OPENING.commitment() == blake3_digest(
        b"hcefs/v1/commitment\x00" + OPENING.salt + RECORD + BLOB + bytes(32)
    )


@pytest.mark.parametrize(
    "opening",
    [
        replace(OPENING, salt=bytes(31)),
        replace(OPENING, core_digest=bytes(33)),
        replace(OPENING, previous_leaf=bytes(1)),
        replace(OPENING, previous_leaf=bytes(33)),
        replace(OPENING, blob=BlobId.of(BASE, 1)),
    ],
)
def test_openings_of_wrong_sizes_or_packed_payloads_are_refused(opening: Opening) -> None:
    with pytest.raises(Invalid) as caught:
        opening.check()
    assert caught.value.reason == "bad-opening"


def test_the_writer_signs_blob_record_and_all_metadata() -> None:
    message = METADATA.message(BLOB, RECORD)
    unsigned = replace(METADATA, content_signature=b"").encode()
    assert message == bytes(BLOB) + bytes(RECORD) + blake3_digest(unsigned)
    assert replace(METADATA, content_signature=b"s").message(BLOB, RECORD) == message
    for changed in ({"name": "other"}, {"labels": ("z",)}, {"content_digest": b"d" * 32}):
        assert replace(METADATA, **changed).message(BLOB, RECORD) != message


def test_metadata_is_bounded() -> None:
    large = replace(METADATA, name="n" * SEALED_METADATA_MAX)
    with pytest.raises(Invalid) as caught:
        Metadata.decode(large.encode())
    assert caught.value.reason == "malformed-encoding"
