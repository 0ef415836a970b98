"""Signatures, account ids and request proofs."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hcefs.crypto.signing import RequestProof, SignedProof, SigningKey, account_id, verify
from hcefs.errors import Invalid, Unauthenticated
from hcefs.ids import AccountId, BlobId, ClusterId, RecordId

KEY = SigningKey.from_seed(bytes(range(32)))
OTHER = SigningKey.from_seed(bytes(32))
PROOF = RequestProof(
    cluster=ClusterId(b"c" * 16),
    token_hash=bytes(32),
    method="get",
    record=RecordId(b"r" * 16),
    blob=BlobId(b"b" * 18),
    range_start=0,
    range_length=0,
    purpose="TREAT",
    gateway=AccountId(b"g" * 16),
    nonce=bytes(16),
    time_ms=1_000,
    presenter=AccountId(b"p" * 16),
    key_version=1,
)

# Encodings of points of order 1, 2, 4 and 8, with either sign bit, and not reduced.
SMALL_ORDER = [
    "01" + "00" * 31,
    "01" + "00" * 30 + "80",
    "ec" + "ff" * 30 + "7f",
    "00" * 32,
    "00" * 31 + "80",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
]


def test_a_signature_verifies_for_its_key_tag_and_message_only() -> None:
    signature = KEY.sign(b"layout", b"message")
    verify(KEY.public_key, b"layout", b"message", signature)
    for key, tag, message, claimed in (
        (OTHER.public_key, b"layout", b"message", signature),
        (KEY.public_key, b"key-box", b"message", signature),
        (KEY.public_key, b"layout", b"massage", signature),
        (KEY.public_key, b"layout", b"message", signature[:-1]),
        (KEY.public_key, b"layout", b"message", b""),
        (KEY.public_key[:-1], b"layout", b"message", signature),
        (b"", b"layout", b"message", signature),
        (b"\xff" * 32, b"layout", b"message", signature),
    ):
        with pytest.raises(Unauthenticated) as caught:
            verify(key, tag, message, claimed)
        assert caught.value.reason == "bad-signature"


def test_what_is_signed_is_domain_tag_nul_and_message() -> None:
    public = Ed25519PublicKey.from_public_bytes(KEY.public_key)
    public.verify(KEY.sign(b"layout", b"message"), b"hcefs/v1/layout\x00message")


def test_a_tag_with_nul_is_refused() -> None:
    with pytest.raises(Invalid):
        KEY.sign(b"lay\x00out", b"")
    with pytest.raises(Invalid):
        verify(KEY.public_key, b"lay\x00out", b"", bytes(64))


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_keys_of_small_order_are_refused(encoded: str) -> None:
    # R = identity, S = 0 is a signature of about every message under such a key.
    forged = b"\x01" + bytes(63)
    for number in range(64):
        with pytest.raises(Unauthenticated):
            verify(bytes.fromhex(encoded), b"t", bytes([number]), forged)


def test_the_library_alone_would_accept_such_a_forgery() -> None:
    identity = Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))
    identity.verify(b"\x01" + bytes(63), b"anything")


def test_key_material() -> None:
    assert KEY.seed == bytes(range(32))
    assert len(KEY.public_key) == 32
    assert KEY.seed.hex() not in repr(KEY)
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
    for seed in (b"", bytes(31), bytes(33)):
        with pytest.raises(Invalid) as caught:
            SigningKey.from_seed(seed)
        assert caught.value.reason == "bad-key"


def test_account_ids_depend_on_the_cluster_and_the_key() -> None:
    ids = {
        account_id(ClusterId(cluster * 16), key.public_key)
        for cluster in (b"a", b"b")
        for key in (KEY, OTHER)
    }
    assert len(ids) == 4
    with pytest.raises(Invalid):
        account_id(ClusterId(bytes(16)), bytes(31))


def test_a_signed_proof_survives_encoding() -> None:
    signed = PROOF.signed(KEY)
    decoded = SignedProof.decode(signed.encode())
    assert decoded == signed
    decoded.check(KEY.public_key)


@pytest.mark.parametrize(
    "change",
    [
        {"cluster": ClusterId(bytes(16))},
        {"token_hash": b"t" * 32},
        {"method": "put"},
        {"record": RecordId(bytes(16))},
        {"blob": BlobId(bytes(18))},
        {"range_start": 1},
        {"range_length": 1},
        {"purpose": "HRESCH"},
        {"gateway": AccountId(bytes(16))},
        {"nonce": b"n" * 16},
        {"time_ms": 1_001},
        {"presenter": AccountId(bytes(16))},
        {"key_version": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_a_proof_is_signed(change: dict[str, Any]) -> None:
    forged = replace(PROOF.signed(KEY), proof=replace(PROOF, **change))
    with pytest.raises(Unauthenticated) as caught:
        forged.check(KEY.public_key)
    assert caught.value.reason == "bad-proof"


@pytest.mark.parametrize(
    "change",
    [
        {"token_hash": b""},
        {"nonce": bytes(11)},
        {"nonce": bytes(33)},
        {"range_start": -1},
        {"range_length": -1},
        {"time_ms": -1},
        {"key_version": -1},
    ],
)
def test_a_malformed_proof_is_refused_even_when_signed(change: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        replace(PROOF, **change).signed(KEY).check(KEY.public_key)
    assert caught.value.reason == "bad-proof"


def test_another_accounts_proof_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        PROOF.signed(KEY).check(OTHER.public_key)
