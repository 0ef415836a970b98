"""The frozen bytes of packs and batches: written the same, read back, and refused the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from hcefs.access.batch import BatchGroup, batch_digest
from hcefs.blobs.pack import check_sealed, open_pack_secret, open_packed, open_packed_key
from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.crypto.keys import open_metadata, unwrap_key, wrap_key
from hcefs.crypto.signing import SignedProof
from hcefs.encoding import loads
from hcefs.errors import KINDS, Corrupt
from hcefs.formats.manifest import Core
from hcefs.formats.pack import (
    PackedKey,
    PackEnvelope,
    PackLayout,
    PackOpening,
    PackProof,
    spans_of,
)
from hcefs.ids import BlobBase, ClusterId, RecordId
from tests.vectors import generate
from tests.vectors.generate_packs import CLUSTER, GENERATION, record_key, samples, vectors

FROZEN = generate.frozen("packs")


def _read_layout(data: bytes) -> None:
    PackLayout.decode(data).check(bytes.fromhex(FROZEN["derived"]["signing key"]))


READERS: dict[str, Callable[[bytes], object]] = {
    "PackLayout": _read_layout,
    "PackOpening": lambda data: PackOpening.decode(data).check(),
    "PackProof": lambda data: PackProof.decode(data).commitment(),
    "PackedKey": lambda data: PackedKey.decode(data).check(),
    "PackEnvelope": PackEnvelope.decode,
}


def unhex(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


def test_every_vector_is_frozen_and_unchanged() -> None:
    assert generate.broken(FROZEN, generate.made("packs")) == []
    assert generate.made("packs") == FROZEN, "run python -m tests.vectors.generate"
    assert set(vectors()) == set(FROZEN)


@pytest.mark.parametrize("name", samples())
def test_frozen_bytes_are_read_back(name: str) -> None:
    value = samples()[name]
    assert type(value).decode(bytes.fromhex(FROZEN["canonical"][name])) == value


def test_frozen_rows_pass_their_checks() -> None:
    canonical = FROZEN["canonical"]
    _read_layout(bytes.fromhex(canonical["pack-layout"]))
    for name, kind in (
        ("pack-opening", "PackOpening"),
        ("pack-opening-of-one", "PackOpening"),
        ("packed-key", "PackedKey"),
    ):
        READERS[kind](bytes.fromhex(canonical[name]))


def test_commitments_follow_from_the_specification_alone() -> None:
    """Computed here with BLAKE3 from the frozen bytes, not by the code under test."""
    _, _, salt, record, base, slots, digests = loads(unhex(FROZEN["canonical"], "pack-opening"))
    leaves = [
        blake3(b"\x00" + slots[2 * i : 2 * i + 2] + digests[32 * i : 32 * i + 32]).digest()
        for i in range(5)
    ]
    assert leaves[2].hex() == FROZEN["derived"]["hash of slot 4"]

    def node(left: bytes, right: bytes) -> bytes:
        return blake3(b"\x01" + left + right).digest()

    def commitment(count: int, root: bytes) -> str:
        content = b"hcefs/v1/pack-commitment\x00" + salt + record + base
        return blake3(content + count.to_bytes(2, "big") + root).hexdigest()

    first = node(node(leaves[0], leaves[1]), node(leaves[2], leaves[3]))
    root = node(first, leaves[4])
    assert root.hex() == FROZEN["derived"]["root"]
    assert commitment(5, root) == FROZEN["derived"]["commitment"]
    one = blake3(b"\x00\x04\x00" + blake3(b"\x00").digest()).digest()
    assert commitment(1, one) == FROZEN["derived"]["commitment of one"]


@pytest.mark.parametrize(
    ("name", "commitment"),
    [
        ("pack-proof", "commitment"),
        ("pack-proof-of-the-last", "commitment"),
        ("pack-proof-of-one", "commitment of one"),
    ],
)
def test_frozen_proofs_lead_to_the_commitment(name: str, commitment: str) -> None:
    proof = PackProof.decode(unhex(FROZEN["canonical"], name))
    assert proof.commitment().hex() == FROZEN["derived"][commitment]


def test_key_wrap_is_that_of_rfc_3394_section_4_6() -> None:
    frozen = FROZEN["key wrap"]
    secret, key, wrapped = (unhex(frozen, name) for name in ("secret", "key", "wrapped"))
    assert secret == bytes(range(32))
    assert wrapped.hex().upper() == (
        "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"
    )
    assert wrap_key(secret, key) == wrapped
    assert unwrap_key(secret, wrapped) == key
    for position in range(len(wrapped)):
        damaged = bytearray(wrapped)
        damaged[position] ^= 0x80
        with pytest.raises(Corrupt):
            unwrap_key(secret, bytes(damaged))


def test_the_batch_digest_follows_from_the_specification_alone() -> None:
    frozen = FROZEN["batch"]
    tokens = [bytes.fromhex(token) for token in frozen["tokens"]]
    content = b"hcefs/v1/batch\x00" + len(tokens).to_bytes(2, "big")
    content += b"".join(blake3(token).digest() for token in tokens)
    for group in frozen["groups"]:
        blobs = unhex(group, "blobs")
        content += group["token"].to_bytes(2, "big") + unhex(group, "record")
        content += (len(blobs) // 18).to_bytes(4, "big") + blobs
    assert blake3(content).hexdigest() == frozen["digest"]
    groups = [
        BatchGroup(group["token"], RecordId(unhex(group, "record")), unhex(group, "blobs"))
        for group in frozen["groups"]
    ]
    assert batch_digest(tokens, groups).hex() == frozen["digest"]


def test_the_frozen_proof_of_a_batch_signs_its_digest() -> None:
    frozen = FROZEN["batch"]
    signed = SignedProof.decode(unhex(frozen, "signed proof"))
    signed.check(unhex(FROZEN["derived"], "signing key"))
    assert signed.proof.token_hash == unhex(frozen, "digest")
    assert (signed.proof.method, bool(signed.proof.record)) == ("get-many", False)


def _first_group() -> tuple[bytes, list[int], dict[str, Any]]:
    frozen = FROZEN["pack"]
    return unhex(frozen, "body"), frozen["lengths"], frozen["groups"][0]


def _envelope() -> PackEnvelope:
    frozen = FROZEN["pack"]
    base = BlobBase(unhex(frozen, "base"))
    record = RecordId(unhex(frozen["groups"][0], "record"))
    ciphertext = unhex(frozen, "envelope of the first group")
    return PackEnvelope(base, record, GENERATION, Envelope(SUITE_XWING, ciphertext))


def test_a_frozen_pack_is_opened() -> None:
    body, lengths, group = _first_group()
    envelope = _envelope()
    secret = open_pack_secret(CLUSTER, record_key(), envelope)
    opening = PackOpening.decode(unhex(group, "opening"))
    opening.check()
    assert opening.commitment() == unhex(group, "commitment")
    for position, slot in enumerate(group["slots"]):
        encoded = bytes.fromhex(group["cores"][position])
        core = Core.decode(encoded)
        core.check()
        assert (core.blob, blake3(encoded).digest()) == opening.entries()[position]
        wrapped = bytes.fromhex(group["wrapped keys"][position])
        dek = unwrap_key(secret, wrapped)
        row = PackedKey(core.blob, core.record, GENERATION, envelope.envelope, wrapped)
        assert open_packed_key(CLUSTER, record_key(), row) == dek
        (span,) = spans_of(lengths, len(body), slot)
        sealed = body[span.offset : span.offset + span.length]
        check_sealed(core, sealed)
        plaintext = FROZEN["pack"]["plaintexts of the first group"][position]
        assert open_packed(dek, core, sealed).hex() == plaintext
        if core.sealed_metadata:
            opened = open_metadata(dek, core.blob, core.record, core.sealed_metadata)
            assert opened == b"metadata"


def test_a_frozen_pack_is_opened_by_the_specification_alone() -> None:
    """From the secret on: key wrap, HKDF and AES-GCM of the library, no code under test."""
    body, lengths, group = _first_group()
    secret = open_pack_secret(CLUSTER, record_key(), _envelope())
    base = unhex(FROZEN["pack"], "base")
    for position, slot in enumerate(group["slots"]):
        dek = aes_key_unwrap(secret, bytes.fromhex(group["wrapped keys"][position]))

        def expand(key: bytes, info: bytes) -> bytes:
            return HKDFExpand(SHA256(), 32, info).derive(key)

        segment = expand(dek, b"hcefs/v1/seg" + bytes(8))
        start = sum(lengths[: slot - 1])
        sealed = body[start : start + lengths[slot - 1]]
        assert sealed[:32] == expand(segment, b"hcefs/v1/com")
        aad = b"\x00\x01" + base + slot.to_bytes(2, "big") + unhex(group, "record")
        plaintext = AESGCM(expand(segment, b"hcefs/v1/key")).decrypt(
            bytes(11) + b"\x01", sealed[32:], aad + (1 << 20).to_bytes(4, "big")
        )
        assert plaintext.hex() == FROZEN["pack"]["plaintexts of the first group"][position]
        core = loads(bytes.fromhex(group["cores"][position]))
        assert core[7] == expand(dek, b"hcefs/v1/dek-com")
        assert core[10:12] == [1, [blake3(sealed).digest()]]


@pytest.mark.parametrize("wrong", ["cluster", "record", "generation", "base"])
def test_the_frozen_envelope_opens_for_one_use_only(wrong: str) -> None:
    cluster, envelope = CLUSTER, _envelope()
    base, record, generation = envelope.base, envelope.record, envelope.generation
    match wrong:
        case "cluster":
            cluster = ClusterId(bytes(16))
        case "record":
            record = RecordId(bytes(16))
        case "generation":
            generation += 1
        case "base":
            base = BlobBase(bytes(16))
    changed = PackEnvelope(base, record, generation, envelope.envelope)
    with pytest.raises(Corrupt) as caught:
        open_pack_secret(cluster, record_key(), changed)
    assert caught.value.reason == "bad-envelope"


@pytest.mark.parametrize("case", FROZEN["refused"], ids=lambda case: case["name"])
def test_what_must_be_refused_is(case: dict[str, str]) -> None:
    with pytest.raises(KINDS[case["error"]]) as caught:
        READERS[case["type"]](bytes.fromhex(case["bytes"]))
    assert caught.value.reason == case["reason"]
