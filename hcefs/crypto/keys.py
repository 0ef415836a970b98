"""Key derivation, X-Wing key pairs, HPKE envelopes and sealed metadata.

Owns every secret except the segments' (:mod:`hcefs.crypto.stream`): record
seeds, data keys (DEKs), and what is sealed to a public key.

Invariants: a secret that keys a derivation has exactly 32 bytes (HMAC pads
shorter keys with zeros, so two lengths could mean one key); every derivation
has an ``info`` of its own; an envelope opens only under the context it was
sealed for; sealed metadata commits to its DEK.

Not guaranteed: sender authentication.  HPKE's base mode says nothing about who
sealed: boxes and links are signed in :mod:`hcefs.formats.keybox`.  Python does
not erase secrets from memory.

Source: RFC 5869 (HKDF-Expand), RFC 9180 (HPKE), RFC 3394 (AES key wrap),
draft-connolly-cfrg-xwing-kem; docs/ARCHITECTURE.md, "Keys: who can read".
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_wrap,
)

from hcefs.crypto.envelope import SUITE_XWING, Envelope, EnvelopeContext
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import BlobId, RecordId

SECRET_SIZE = 32
"""Bytes of a DEK, a segment secret, a record master and an X-Wing seed."""

MLKEM_PUBLIC_SIZE = 1184
X25519_PUBLIC_SIZE = 32
PUBLIC_KEY_SIZE = MLKEM_PUBLIC_SIZE + X25519_PUBLIC_SIZE

WRAPPED_SIZE = SECRET_SIZE + 8
"""Bytes of a DEK under AES key wrap."""

METADATA_OVERHEAD = 32 + 12 + 16
"""Bytes that sealing adds to metadata: commitment, nonce, tag."""

_HASH_SIZE = 32
_MLKEM_SEED_SIZE = 64
_EXPANDED_SIZE = _MLKEM_SEED_SIZE + 32
_NONCE_SIZE = 12

_RECORD_INFO = b"hcefs/v1/record-seed"
_DEK_COMMITMENT_INFO = b"hcefs/v1/dek-com"
_METADATA_INFO = b"hcefs/v1/meta"
_METADATA_KEY_INFO = b"hcefs/v1/meta-key"
_METADATA_COMMITMENT_INFO = b"hcefs/v1/meta-com"
_METADATA_NONCE_INFO = b"hcefs/v1/meta-nonce"
_METADATA_VERSION = 1

_XWING = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def hkdf_expand(secret: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-Expand with SHA-256: ``length`` bytes for the use that ``info`` names.

    Raises:
        Invalid: ``bad-key``: the secret has not 32 bytes, or ``length`` is
            outside 1..8160.
    """
    if len(secret) != SECRET_SIZE:
        raise Invalid(f"a secret has {SECRET_SIZE} bytes, got {len(secret)}", reason="bad-key")
    if not 1 <= length <= 255 * _HASH_SIZE:
        raise Invalid(f"cannot derive {length} bytes from a secret", reason="bad-key")
    block = hmac.digest(secret, info + b"\x01", "sha256")
    if length <= _HASH_SIZE:
        return block[:length]
    output = [block]
    for counter in range(2, -(-length // _HASH_SIZE) + 1):
        block = hmac.digest(secret, block + info + bytes((counter,)), "sha256")
        output.append(block)
    return b"".join(output)[:length]


class HybridKey:
    """An X-Wing key pair that receives secrets; safe to use from several threads."""

    __slots__ = ("_key", "_public_key", "_seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SECRET_SIZE:
            raise Invalid(f"an X-Wing seed has {SECRET_SIZE} bytes", reason="bad-key")
        expanded = hashlib.shake_256(seed).digest(_EXPANDED_SIZE)
        mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_SIZE])
        x25519 = X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_SIZE:])
        self._seed = bytes(seed)
        self._key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self._public_key = (
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        )

    @classmethod
    def from_seed(cls, seed: bytes) -> HybridKey:
        """The key pair of X-Wing's 32-byte seed.

        Raises:
            Invalid: ``bad-key``: the seed has another length.
        """
        return cls(seed)

    @property
    def seed(self) -> bytes:
        """The secret: whoever holds it opens what is sealed to this key."""
        return self._seed

    @property
    def public_key(self) -> bytes:
        """ML-KEM-768 encapsulation key (1184 bytes), then X25519 key (32)."""
        return self._public_key

    def open(self, ciphertext: bytes, info: bytes) -> bytes:
        """HPKE's single-shot open.

        Raises:
            Corrupt: ``bad-envelope``: it does not open under this key and info.
        """
        try:
            return _XWING.decrypt(ciphertext, self._key, info=info)
        except (InvalidTag, ValueError):
            raise _bad_envelope() from None

    def __repr__(self) -> str:
        fingerprint = hashlib.sha256(self._public_key).hexdigest()[:16]
        return f"HybridKey(public_key_sha256={fingerprint}...)"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled: pass its seed to whom it is meant for")


def _bad_envelope() -> Corrupt:
    return Corrupt(
        "the envelope does not open with this key for this use: fetch it again, "
        "and check that the key is of the generation it names",
        reason="bad-envelope",
    )


def _public_key(raw: bytes) -> MLKEM768X25519PublicKey:
    if len(raw) == PUBLIC_KEY_SIZE:
        try:
            return MLKEM768X25519PublicKey(
                MLKEM768PublicKey.from_public_bytes(raw[:MLKEM_PUBLIC_SIZE]),
                X25519PublicKey.from_public_bytes(raw[MLKEM_PUBLIC_SIZE:]),
            )
        except ValueError:
            pass
    raise Invalid(
        f"not an X-Wing public key ({PUBLIC_KEY_SIZE} bytes: ML-KEM-768, then X25519)",
        reason="bad-key",
    )


def _check_suite(suite: int) -> None:
    if suite != SUITE_XWING:
        raise Invalid(
            f"envelope suite {suite} is unknown to this software: upgrade it",
            reason="unknown-suite",
        )


def seal_envelope(public_key: bytes, secret: bytes, context: EnvelopeContext) -> Envelope:
    """Seal a secret to a public key, for one use.

    The result differs from call to call: HPKE draws its own randomness.

    Raises:
        Invalid: ``bad-key``: the public key is malformed; ``unknown-suite``.
    """
    _check_suite(context.suite)
    try:
        ciphertext = _XWING.encrypt(secret, _public_key(public_key), info=context.encode())
    except ValueError:
        # X25519 with a point of small order gives an all-zero secret, which is refused.
        raise Invalid("nothing can be sealed to this public key", reason="bad-key") from None
    return Envelope(suite=context.suite, ciphertext=ciphertext)


def open_envelope(key: HybridKey, envelope: Envelope, context: EnvelopeContext) -> bytes:
    """The secret in an envelope.

    Raises:
        Corrupt: ``bad-envelope``: damaged, sealed to another key, or for
            another use than ``context``.
        Invalid: ``unknown-suite``.
    """
    _check_suite(envelope.suite)
    if context.suite != envelope.suite:
        raise _bad_envelope()
    return key.open(envelope.ciphertext, context.encode())


def record_seed(master: bytes, record: RecordId, generation: int) -> bytes:
    """The X-Wing seed of one generation of a record, from its owner's master.

    Raises:
        Invalid: ``bad-key``: the master has not 32 bytes, or the generation is
            outside 64 bits.
    """
    if not 0 <= generation < 1 << 64:
        raise Invalid(f"generation {generation} is outside 64 bits", reason="bad-key")
    return hkdf_expand(master, _RECORD_INFO + record + generation.to_bytes(8, "big"))


def dek_commitment(dek: bytes) -> bytes:
    """What the core publishes of its DEK: binds it, and tells nothing about it."""
    return hkdf_expand(dek, _DEK_COMMITMENT_INFO)


def wrap_key(secret: bytes, key: bytes) -> bytes:
    """A DEK under AES key wrap (RFC 3394): 40 bytes, deterministic.

    Of packed payloads: ``secret`` wraps the DEKs of one record in one pack and
    nothing else.  The integrity value has 64 bits only; the core commits to the DEK.

    Raises:
        Invalid: ``bad-key``: a wrong length.
    """
    _check_wrapping(secret)
    if len(key) != SECRET_SIZE:
        raise Invalid(f"a key to wrap has {SECRET_SIZE} bytes", reason="bad-key")
    return aes_key_wrap(secret, key)


def unwrap_key(secret: bytes, wrapped: bytes) -> bytes:
    """The DEK that :func:`wrap_key` wrapped.

    Raises:
        Corrupt: ``wrong-key``: wrapped under another secret, or damaged.
        Invalid: ``bad-key``: a wrong length.
    """
    _check_wrapping(secret)
    if len(wrapped) != WRAPPED_SIZE:
        raise Invalid(f"a wrapped key has {WRAPPED_SIZE} bytes", reason="bad-key")
    try:
        return aes_key_unwrap(secret, wrapped)
    except InvalidUnwrap:
        raise Corrupt(
            "a packed payload's key does not unwrap: it is damaged, or of another record or pack",
            reason="wrong-key",
        ) from None


def _check_wrapping(secret: bytes) -> None:
    if len(secret) != SECRET_SIZE:
        raise Invalid(f"a wrapping secret has {SECRET_SIZE} bytes", reason="bad-key")


def _metadata_context(
    dek: bytes, blob: BlobId, record: RecordId
) -> tuple[bytes, bytes, bytes, bytes]:
    secret = hkdf_expand(dek, _METADATA_INFO)
    return (
        hkdf_expand(secret, _METADATA_KEY_INFO),
        hkdf_expand(secret, _METADATA_COMMITMENT_INFO),
        hkdf_expand(secret, _METADATA_NONCE_INFO),
        struct.pack(">H", _METADATA_VERSION) + blob + record,
    )


def seal_metadata(dek: bytes, blob: BlobId, record: RecordId, plaintext: bytes) -> bytes:
    """Seal a blob's metadata under its DEK: commitment, nonce, ciphertext, tag.

    Deterministic.  The nonce is a MAC of the plaintext, so that sealing twice
    under one DEK (a name corrected before the put ends) reveals at most that
    two plaintexts are equal, and never repeats a nonce for different ones.
    """
    key, commitment, nonce_key, aad = _metadata_context(dek, blob, record)
    nonce = hmac.digest(nonce_key, aad + plaintext, "sha256")[:_NONCE_SIZE]
    return commitment + nonce + AESGCM(key).encrypt(nonce, plaintext, aad)


def open_metadata(dek: bytes, blob: BlobId, record: RecordId, sealed: bytes) -> bytes:
    """The metadata of a blob.

    Raises:
        Corrupt: ``bad-metadata``: another DEK, blob or record, or damaged.
    """
    key, commitment, _, aad = _metadata_context(dek, blob, record)
    if len(sealed) >= METADATA_OVERHEAD and hmac.compare_digest(sealed[:_HASH_SIZE], commitment):
        nonce = sealed[_HASH_SIZE : _HASH_SIZE + _NONCE_SIZE]
        try:
            return AESGCM(key).decrypt(nonce, sealed[_HASH_SIZE + _NONCE_SIZE :], aad)
        except InvalidTag:
            pass
    raise Corrupt(
        "the sealed metadata does not open with this blob's key: fetch the core again "
        "and check its digest against the ledger",
        reason="bad-metadata",
    )
