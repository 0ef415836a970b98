"""HKDF, X-Wing keys, envelopes, sealed metadata."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hcefs.crypto.envelope import SUITE_XWING, Envelope, EnvelopeContext
from hcefs.crypto.keys import (
    METADATA_OVERHEAD,
    WRAPPED_SIZE,
    HybridKey,
    dek_commitment,
    hkdf_expand,
    open_envelope,
    open_metadata,
    record_seed,
    seal_envelope,
    seal_metadata,
    unwrap_key,
    wrap_key,
)
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.ids import BlobId, ClusterId, RecordId

KEY = HybridKey.from_seed(bytes(range(32)))
OTHER = HybridKey.from_seed(bytes(32))
DEK = bytes(range(100, 132))
RECORD = RecordId(b"r" * 16)
BLOB = BlobId(b"b" * 18)
CONTEXT = EnvelopeContext(
    tag="dek",
    suite=SUITE_XWING,
    cluster=ClusterId(b"c" * 16),
    record=RECORD,
    generation=3,
    subject=bytes(BLOB),
    recipient=bytes(RECORD),
)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 100, 8160])
def test_hkdf_expand_equals_the_librarys(length: int) -> None:
    expected = HKDFExpand(SHA256(), length, b"info").derive(DEK)
    assert hkdf_expand(DEK, b"info", length) == expected


@pytest.mark.parametrize(("secret", "length"), [(DEK[:31], 32), (b"", 32), (DEK, 0), (DEK, 8161)])
def test_hkdf_expand_refuses_wrong_sizes(secret: bytes, length: int) -> None:
    with pytest.raises(Invalid):
        hkdf_expand(secret, b"info", length)


def test_the_public_key_of_the_xwing_draft() -> None:
    # draft-connolly-cfrg-xwing-kem, appendix "Test vectors", the first.
    seed = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
    public = HybridKey.from_seed(bytes.fromhex(seed)).public_key.hex()
    assert public.startswith(
        "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5"
        "b19cfc3da5fa1a92c49f25513e0fd30d6b1611c9ab9635d7086727a4b7d21d34"
    )
    assert public.endswith("859edb06eff389b27dce59844570216223593d4ba32d9abac8cd049040ef6534")


def test_key_material() -> None:
    assert KEY.seed == bytes(range(32))
    assert len(KEY.public_key) == 1184 + 32
    assert KEY.seed.hex() not in repr(KEY)
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
    with pytest.raises(Invalid) as caught:
        HybridKey.from_seed(bytes(31))
    assert caught.value.reason == "bad-key"


def test_an_envelope_opens_with_its_key_and_differs_every_time() -> None:
    first = seal_envelope(KEY.public_key, DEK, CONTEXT)
    second = seal_envelope(KEY.public_key, DEK, CONTEXT)
    assert first != second
    assert len(first.ciphertext) == 1120 + 32 + 16
    again = Envelope.decode(first.encode())
    assert open_envelope(KEY, again, CONTEXT) == DEK == open_envelope(KEY, second, CONTEXT)


@pytest.mark.parametrize(
    "change",
    [
        {"tag": "link"},
        {"cluster": ClusterId(bytes(16))},
        {"record": RecordId(bytes(16))},
        {"generation": 4},
        {"subject": b""},
        {"recipient": b""},
        {"suite": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_envelope_is_bound_to_its_whole_context(change: dict[str, Any]) -> None:
    envelope = seal_envelope(KEY.public_key, DEK, CONTEXT)
    with pytest.raises(Corrupt) as caught:
        open_envelope(KEY, envelope, replace(CONTEXT, **change))
    assert caught.value.reason == "bad-envelope"


@pytest.mark.parametrize("damage", ["empty", "short", "long", "bit", "zero-x25519"])
def test_a_damaged_envelope_is_corrupt(damage: str) -> None:
    good = seal_envelope(KEY.public_key, DEK, CONTEXT).ciphertext
    bad = {
        "empty": b"",
        "short": good[:-1],
        "long": good + b"\x00",
        "bit": bytes([good[0] ^ 1]) + good[1:],
        "zero-x25519": good[:1088] + bytes(32) + good[1120:],
    }[damage]
    with pytest.raises(Corrupt) as caught:
        open_envelope(KEY, Envelope(SUITE_XWING, bad), CONTEXT)
    assert caught.value.reason == "bad-envelope"


def test_another_key_does_not_open_an_envelope() -> None:
    with pytest.raises(Corrupt):
        open_envelope(OTHER, seal_envelope(KEY.public_key, DEK, CONTEXT), CONTEXT)


def test_an_unknown_suite_is_invalid_both_ways() -> None:
    strange = replace(CONTEXT, suite=9)
    envelope = seal_envelope(KEY.public_key, DEK, CONTEXT)
    for attempt in (
        lambda: seal_envelope(KEY.public_key, DEK, strange),
        lambda: open_envelope(KEY, replace(envelope, suite=9), strange),
    ):
        with pytest.raises(HcefsError) as caught:
            attempt()
        assert isinstance(caught.value, Invalid)
        assert caught.value.reason == "unknown-suite"


@pytest.mark.parametrize(
    "public_key",
    [
        b"",
        KEY.public_key[:-1],
        KEY.public_key + b"\x00",
        b"\xff" * 1216,
        KEY.public_key[:1184] + bytes(32),
    ],
    ids=["empty", "short", "long", "not-reduced", "x25519-small-order"],
)
def test_a_malformed_public_key_is_invalid(public_key: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        seal_envelope(public_key, DEK, CONTEXT)
    assert caught.value.reason == "bad-key"


def test_record_seeds_differ_by_master_record_and_generation() -> None:
    seeds = {
        record_seed(master, record, generation)
        for master in (DEK, bytes(32))
        for record in (RECORD, RecordId(bytes(16)))
        for generation in (0, 1, (1 << 64) - 1)
    }
    assert len(seeds) == 12
    for generation in (-1, 1 << 64):
        with pytest.raises(Invalid):
            record_seed(DEK, RECORD, generation)


def test_the_dek_commitment_tells_deks_apart_and_is_not_the_dek() -> None:
    assert len(dek_commitment(DEK)) == 32
    assert len({DEK, dek_commitment(DEK), dek_commitment(bytes(32))}) == 3


@pytest.mark.parametrize("plaintext", [b"", b"x", b"a name and labels" * 100])
def test_metadata_opens_to_what_was_sealed(plaintext: bytes) -> None:
    sealed = seal_metadata(DEK, BLOB, RECORD, plaintext)
    assert len(sealed) == len(plaintext) + METADATA_OVERHEAD
    assert open_metadata(DEK, BLOB, RECORD, sealed) == plaintext
    assert seal_metadata(DEK, BLOB, RECORD, plaintext) == sealed


def test_two_metadata_under_one_dek_never_share_a_nonce() -> None:
    first = seal_metadata(DEK, BLOB, RECORD, b"first")
    second = seal_metadata(DEK, BLOB, RECORD, b"secnd")
    assert first[32:44] != second[32:44]


@pytest.mark.parametrize("damage", ["dek", "blob", "record", "empty", "short", "long", "com", "ct"])
def test_metadata_of_something_else_is_corrupt(damage: str) -> None:
    sealed = seal_metadata(DEK, BLOB, RECORD, b"metadata")
    dek, blob, record = DEK, BLOB, RECORD
    match damage:
        case "dek":
            dek = bytes(32)
        case "blob":
            blob = BlobId(bytes(18))
        case "record":
            record = RecordId(bytes(16))
        case "empty":
            sealed = b""
        case "short":
            sealed = sealed[:-1]
        case "long":
            sealed += b"\x00"
        case "com":
            sealed = bytes([sealed[0] ^ 1]) + sealed[1:]
        case "ct":
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    with pytest.raises(Corrupt) as caught:
        open_metadata(dek, blob, record, sealed)
    assert caught.value.reason == "bad-metadata"


SECRET = bytes(range(32))


def test_a_wrapped_key_is_unwrapped_under_its_secret_only() -> None:
    wrapped = wrap_key(SECRET, DEK)
    assert len(wrapped) == WRAPPED_SIZE == 40
    assert wrap_key(SECRET, DEK) == wrapped
    assert DEK[:8] not in wrapped
    assert unwrap_key(SECRET, wrapped) == DEK
    with pytest.raises(Corrupt) as caught:
        unwrap_key(bytes(32), wrapped)
    assert caught.value.reason == "wrong-key"


@pytest.mark.parametrize("bit", range(0, 8 * WRAPPED_SIZE, 7))
def test_a_changed_wrapped_key_is_refused(bit: int) -> None:
    wrapped = bytearray(wrap_key(SECRET, DEK))
    wrapped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Corrupt) as caught:
        unwrap_key(SECRET, bytes(wrapped))
    assert caught.value.reason == "wrong-key"


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33, 64])
def test_keys_to_wrap_and_secrets_have_32_bytes(length: int) -> None:
    for secret, key in ((bytes(length), DEK), (SECRET, bytes(length))):
        with pytest.raises(Invalid) as caught:
            wrap_key(secret, key)
        assert caught.value.reason == "bad-key"
    with pytest.raises(Invalid) as unwrapping:
        unwrap_key(bytes(length), wrap_key(SECRET, DEK))
    assert unwrapping.value.reason == "bad-key"


@pytest.mark.parametrize("length", [0, 8, 24, 32, 39, 41, 48])
def test_a_wrapped_key_has_40_bytes(length: int) -> None:
    with pytest.raises(Invalid) as caught:
        unwrap_key(SECRET, bytes(length))
    assert caught.value.reason == "bad-key"
