"""The frozen bytes of crypto and integrity, written and read; and what must be refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hcefs import integrity
from hcefs.crypto.envelope import SUITE_XWING, Envelope, EnvelopeContext
from hcefs.crypto.keys import HybridKey, open_envelope, open_metadata
from hcefs.crypto.signing import SignedProof, verify
from hcefs.crypto.stream import (
    SEGMENT_SIZE,
    open_segment,
    open_segment_pieces,
    seal_segment,
    segment_secret,
)
from hcefs.errors import Corrupt, Invalid, Unauthenticated
from hcefs.ids import BlobId, ClusterId, RecordId
from tests.vectors.generate_crypto import pattern, vectors

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("crypto.json").read_text())


def unhex(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


def test_the_code_still_writes_the_frozen_bytes() -> None:
    assert json.loads(json.dumps(vectors())) == FROZEN


def test_signatures_and_proofs() -> None:
    frozen = FROZEN["signing"]
    public_key, message = unhex(frozen, "public_key"), unhex(frozen, "message")
    signature, tag = unhex(frozen, "signature"), frozen["tag"].encode()
    verify(public_key, tag, message, signature)
    for wrong_tag, wrong_message in ((tag, message[:-1]), (b"key-box", message)):
        with pytest.raises(Unauthenticated):
            verify(public_key, wrong_tag, wrong_message, signature)
    signed = SignedProof.decode(unhex(frozen, "signed_proof"))
    signed.check(public_key)
    assert (signed.proof.method, signed.proof.range_length) == ("get", 1 << 40)
    with pytest.raises(Unauthenticated):
        replace(signed, proof=replace(signed.proof, time_ms=0)).check(public_key)
    for damaged in (signed.encode()[:-1], signed.encode() + b"\x00"):
        with pytest.raises(Invalid):
            SignedProof.decode(damaged)


def test_metadata() -> None:
    frozen = FROZEN["keys"]
    blob, record = (BlobId(unhex(FROZEN["segments"][0], "blob")), RecordId(bytes(range(32, 48))))
    for length, sealed in frozen["metadata"].items():
        opened = open_metadata(unhex(frozen, "dek"), blob, record, bytes.fromhex(sealed))
        assert opened == pattern(int(length))
        with pytest.raises(Corrupt):
            open_metadata(unhex(frozen, "dek"), blob, RecordId(bytes(16)), bytes.fromhex(sealed))


def test_the_envelope_opens_under_the_frozen_info() -> None:
    frozen = FROZEN["envelope"]
    key = HybridKey.from_seed(unhex(frozen, "seed"))
    context = EnvelopeContext.decode(unhex(frozen, "info"))
    envelope = Envelope(SUITE_XWING, unhex(frozen, "ciphertext"))
    assert open_envelope(key, envelope, context) == unhex(frozen, "secret")


@pytest.mark.parametrize(
    "failure",
    ["wrong key", "wrong record", "wrong cluster", "wrong generation", "truncated", "extended"],
)
def test_the_envelope_is_refused(failure: str) -> None:
    frozen = FROZEN["envelope"]
    key = HybridKey.from_seed(unhex(frozen, "seed"))
    context = EnvelopeContext.decode(unhex(frozen, "info"))
    ciphertext = unhex(frozen, "ciphertext")
    match failure:
        case "wrong key":
            key = HybridKey.from_seed(bytes(32))
        case "wrong record":
            context = replace(context, record=RecordId(bytes(16)))
        case "wrong cluster":
            context = replace(context, cluster=ClusterId(bytes(16)))
        case "wrong generation":
            context = replace(context, generation=context.generation + 1)
        case "truncated":
            ciphertext = ciphertext[:-1]
        case "extended":
            ciphertext += b"\x00"
    with pytest.raises(Corrupt) as caught:
        open_envelope(key, Envelope(SUITE_XWING, ciphertext), context)
    assert caught.value.reason == "bad-envelope"


@pytest.mark.parametrize(
    "frozen", FROZEN["segments"], ids=lambda v: f"{v['index']}-{v['length']}-{v['last']}"
)
def test_segments_open(frozen: dict[str, Any]) -> None:
    blob, record = BlobId(unhex(frozen, "blob")), RecordId(unhex(frozen, "record"))
    secret, plaintext = unhex(frozen, "secret"), pattern(frozen["length"])
    sealed = (
        unhex(frozen, "sealed")
        if "sealed" in frozen
        else seal_segment(secret, blob, record, frozen["last"], plaintext)
    )
    assert integrity.blake3_digest(sealed) == unhex(frozen, "sealed_blake3")
    assert open_segment(secret, blob, record, frozen["last"], sealed) == plaintext
    assert (
        open_segment_pieces(secret, blob, record, frozen["last"], [sealed], len(sealed))
        == plaintext
    )


@pytest.mark.parametrize("frozen", FROZEN["negative_segments"], ids=lambda v: v["failure"])
def test_segments_are_refused(frozen: dict[str, Any]) -> None:
    blob, record = BlobId(unhex(frozen, "blob")), RecordId(unhex(frozen, "record"))
    secret = segment_secret(unhex(frozen, "dek"), frozen["index"])
    sealed = (
        unhex(frozen, "sealed")
        if "sealed" in frozen
        else seal_segment(secret, blob, record, frozen["full"], pattern(SEGMENT_SIZE))
    )
    with pytest.raises(Corrupt) as whole:
        open_segment(secret, blob, record, frozen["last"], sealed)
    pieces = [sealed[:40], sealed[40:]]
    with pytest.raises(Corrupt) as in_pieces:
        open_segment_pieces(secret, blob, record, frozen["last"], pieces, len(sealed))
    assert whole.value.reason == in_pieces.value.reason == frozen["reason"]


def test_every_class_of_failure_has_a_vector() -> None:
    failures = {vector["failure"] for vector in FROZEN["negative_segments"]}
    assert failures >= {"truncated", "reordered", "extended", "wrong key", "wrong record"}
    assert FROZEN["two_keys"]["failure"] == "one ciphertext under two keys"


def test_one_ciphertext_under_two_keys_is_refused_by_the_commitment() -> None:
    frozen = FROZEN["two_keys"]
    both = unhex(frozen, "ciphertext_and_tag")
    nonce, aad = unhex(frozen, "nonce"), unhex(frozen, "aad")
    # AES-GCM alone is content with both keys, and each shows another plaintext.
    plaintexts = [AESGCM(bytes.fromhex(key)).decrypt(nonce, both, aad) for key in frozen["keys"]]
    assert plaintexts[0] != plaintexts[1]
    blob, record = BlobId(unhex(frozen, "blob")), RecordId(unhex(frozen, "record"))
    secrets = [bytes.fromhex(secret) for secret in frozen["secrets"]]
    for mine, commitment in enumerate(map(bytes.fromhex, frozen["commitments"])):
        sealed = commitment + both
        assert open_segment(secrets[mine], blob, record, True, sealed) == plaintexts[mine]
        with pytest.raises(Corrupt) as caught:
            open_segment(secrets[1 - mine], blob, record, True, sealed)
        assert caught.value.reason == frozen["reason"]


def test_merkle_proofs() -> None:
    frozen = FROZEN["integrity"]
    leaves = [integrity.leaf_hash(bytes([index])) for index in range(11)]
    root, old_root = bytes.fromhex(frozen["roots"][11]), bytes.fromhex(frozen["roots"][6])

    def proof(name: str) -> list[bytes]:
        return [bytes.fromhex(value) for value in frozen[name]]

    part = proof("range_proof_of_11_first_3_count_5")
    assert integrity.root_from_range(11, 3, leaves[3:8], part) == root
    assert integrity.root_from_range(11, 3, leaves[2:7], part) != root
    path = proof("inclusion_proof_of_11_index_8")
    assert integrity.root_from_inclusion(11, 8, leaves[8], path) == root
    steps = proof("consistency_proof_of_11_old_6")
    integrity.verify_consistency(6, old_root, 11, root, steps)
    for bad in (steps[:-1], [*steps, root], list(reversed(steps))):
        with pytest.raises(Corrupt):
            integrity.verify_consistency(6, old_root, 11, root, bad)
