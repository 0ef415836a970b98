"""Account signatures and the proof that every request carries.

Owns Ed25519 over tagged messages, the derivation of an account's id, and the
request proof.  Signing needs no access to payload keys, so every package may
import this one.

Invariants: a signature under one tag never passes under another, because tags
hold no NUL and one NUL ends them; a key of small order is refused, because
under such a key one signature fits many messages and nobody could be held to
what he signed.

Not guaranteed: freshness.  Whoever checks a proof also checks that its time is
within ``PROOF_WINDOW_MS``, that the nonce is new, and that every field names
the request at hand.

Source: RFC 8032; docs/ARCHITECTURE.md, "Rights".
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hcefs.encoding import Encoded
from hcefs.errors import Invalid, Unauthenticated
from hcefs.ids import AccountId, BlobId, ClusterId, RecordId

SEED_SIZE = 32
PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64

PROOF_WINDOW_MS = 30_000
"""How far a proof's time may lie from the verifier's clock, either way."""

PROOF_TAG = b"request-proof"
KEYS_KNOWN_MAX = 4096
NONCE_SIZE_MIN = 12
NONCE_SIZE_MAX = 32

_DOMAIN = b"hcefs/v1/"
_ACCOUNT_TAG = b"hcefs/v1/account\x00"

_FIELD = 2**255 - 19
_ORDER_EIGHT_Y = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER = frozenset(
    y.to_bytes(32, "little")
    # The y coordinates of the eight points of small order.  The last two are
    # encodings of 0 and 1 that are not reduced, which some libraries accept.
    for y in (0, 1, _FIELD - 1, _ORDER_EIGHT_Y, _FIELD - _ORDER_EIGHT_Y, _FIELD, _FIELD + 1)
)


def _tagged(tag: bytes, message: bytes) -> bytes:
    if b"\x00" in tag:
        raise Invalid("a signature's tag must not contain NUL", reason="bad-tag")
    return b"".join((_DOMAIN, tag, b"\x00", message))


class SigningKey:
    """An Ed25519 key pair of an account; safe to use from several threads."""

    __slots__ = ("_key", "_public_key")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public_key = key.public_key().public_bytes_raw()

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key pair of a 32-byte seed.

        Raises:
            Invalid: ``bad-key``: the seed has another length.
        """
        if len(seed) != SEED_SIZE:
            raise Invalid(f"a signing seed has {SEED_SIZE} bytes", reason="bad-key")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def seed(self) -> bytes:
        """The secret: whoever holds it signs as this account."""
        return self._key.private_bytes_raw()

    @property
    def public_key(self) -> bytes:
        """The verifying key, 32 bytes."""
        return self._public_key

    def sign(self, tag: bytes, message: bytes) -> bytes:
        """Sign ``message`` for the use that ``tag`` names; 64 bytes, deterministic.

        Raises:
            Invalid: ``bad-tag``: the tag contains NUL.
        """
        return self._key.sign(_tagged(tag, message))

    def __repr__(self) -> str:
        return f"SigningKey(public_key={self._public_key.hex()})"

    def __reduce__(self) -> str:
        raise TypeError("a signing key is not pickled: pass its seed to whom it is meant for")


def _is_small_order(public_key: bytes) -> bool:
    return public_key[:-1] + bytes((public_key[-1] & 0x7F,)) in _SMALL_ORDER


@functools.lru_cache(maxsize=KEYS_KNOWN_MAX)
def _verifying_key(public_key: bytes) -> Ed25519PublicKey:
    """The library's form of a key; making it costs a tenth of a verification."""
    return Ed25519PublicKey.from_public_bytes(public_key)


def verify(public_key: bytes, tag: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature of :meth:`SigningKey.sign`.

    Raises:
        Unauthenticated: ``bad-signature``: it is not that key's, or the key or
            the signature is malformed.
        Invalid: ``bad-tag``: the tag contains NUL.
    """
    signed = _tagged(tag, message)
    if len(public_key) == PUBLIC_KEY_SIZE and not _is_small_order(public_key):
        try:
            _verifying_key(bytes(public_key)).verify(signature, signed)
        except (InvalidSignature, ValueError):
            pass
        else:
            return
    raise Unauthenticated(
        "the signature does not match the key registered for this account: "
        "sign with the registered key",
        reason="bad-signature",
    )


def account_id(cluster: ClusterId, signing_public_key: bytes) -> AccountId:
    """The id of the account whose first signing key this is.

    Raises:
        Invalid: ``bad-key``: the key has a wrong length.
    """
    if len(signing_public_key) != PUBLIC_KEY_SIZE:
        raise Invalid(f"a verifying key has {PUBLIC_KEY_SIZE} bytes", reason="bad-key")
    return AccountId(blake3(_ACCOUNT_TAG + cluster + signing_public_key).digest()[: AccountId.SIZE])


@dataclass(frozen=True)
class RequestProof(Encoded):
    """What a presenter signs about one request, so that nobody else can make it.

    ``token_hash`` is BLAKE3 of the token, or 32 zero bytes without one.  Zero
    ids mean: no record or blob concerned; as gateway, the presenter talks to
    the holders himself.  ``key_version`` is that of the presenter's token key.
    """

    KIND = "request-proof"

    cluster: ClusterId
    token_hash: bytes
    method: str
    record: RecordId
    blob: BlobId
    range_start: int
    range_length: int
    purpose: str
    gateway: AccountId
    nonce: bytes
    time_ms: int
    presenter: AccountId
    key_version: int

    def signed(self, key: SigningKey) -> SignedProof:
        """This proof with the signature of the presenter's token key."""
        return SignedProof(proof=self, signature=key.sign(PROOF_TAG, self.encode()))


@dataclass(frozen=True)
class SignedProof(Encoded):
    """A request proof and the presenter's signature, as it travels."""

    KIND = "signed-proof"
    MAX_BYTES = 2048

    proof: RequestProof
    signature: bytes

    def check(self, token_public_key: bytes) -> None:
        """Check the shape of the proof and the presenter's signature.

        Raises:
            Unauthenticated: ``bad-proof``: a field has a wrong size, or the
                signature is not that key's.
        """
        proof = self.proof
        shaped = (
            len(proof.token_hash) == 32
            and NONCE_SIZE_MIN <= len(proof.nonce) <= NONCE_SIZE_MAX
            and min(proof.range_start, proof.range_length, proof.time_ms, proof.key_version) >= 0
        )
        try:
            verify(token_public_key, PROOF_TAG, proof.encode(), self.signature)
        except Unauthenticated:
            shaped = False
        if not shaped:
            raise Unauthenticated(
                "the request's proof does not match the presenter's registered token key: "
                "sign it with that key, over exactly this request",
                reason="bad-proof",
            )
