"""Key boxes and key links: record keys, sealed, as nodes keep them.

A box is write-once, keyed by (record, generation, grant, grantee key version)
and signed by the granter.  A link lets readers of a newer generation open the
older one; it is keyed by (record, generation) and signed by the record's owner.
Nodes cannot open either.  What is inside a box for a range is :class:`RangeSecrets`.
Source: docs/ARCHITECTURE.md, "Keys: who can read".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hcefs.crypto.envelope import Envelope
from hcefs.crypto.signing import verify
from hcefs.encoding import Encoded
from hcefs.errors import Denied, Invalid
from hcefs.formats.manifest import Signer
from hcefs.ids import AccountId, BlobId, GrantId, RecordId

BOX_TAG = b"key-box"
LINK_TAG = b"key-link"
SEGMENT_SECRET_SIZE = 32


@dataclass(frozen=True)
class KeyBox(Encoded):
    """A secret of a record sealed to one grantee for one grant.

    For a grant on the whole record the secret is the generation's 32-byte
    X-Wing seed (``blob`` None); for a narrower grant it is the DEK of ``blob``
    or the segment secrets of its range.
    """

    KIND = "key-box"

    record: RecordId
    generation: int
    blob: BlobId | None
    grant: GrantId
    grantee: AccountId
    grantee_key_version: int
    granter: AccountId
    granter_key_version: int
    envelope: Envelope
    signature: bytes

    def message(self) -> bytes:
        """The bytes that the granter signs: this box with an empty signature."""
        return replace(self, signature=b"").encode()

    def signed(self, key: Signer) -> KeyBox:
        """This box with the granter's signature."""
        return replace(self, signature=key.sign(BOX_TAG, self.message()))

    def check(self, signing_key: bytes) -> None:
        """Check the granter's signature.

        Raises:
            Unauthenticated: it is not that key's.
        """
        verify(signing_key, BOX_TAG, self.message(), self.signature)


@dataclass(frozen=True)
class KeyLink(Encoded):
    """The X-Wing seed of ``generation`` sealed to the public key of ``generation`` + 1."""

    KIND = "key-link"

    record: RecordId
    generation: int
    owner: AccountId
    owner_key_version: int
    envelope: Envelope
    signature: bytes

    def message(self) -> bytes:
        """The bytes that the owner signs: this link with an empty signature."""
        return replace(self, signature=b"").encode()

    def signed(self, key: Signer) -> KeyLink:
        """This link with the owner's signature."""
        return replace(self, signature=key.sign(LINK_TAG, self.message()))

    def check(self, signing_key: bytes) -> None:
        """Check the owner's signature.

        Raises:
            Unauthenticated: it is not that key's.
        """
        verify(signing_key, LINK_TAG, self.message(), self.signature)


@dataclass(frozen=True)
class RangeSecrets(Encoded):
    """The secret in a box for a range: the segments' own secrets, and no others.

    ``first`` is the index of the first segment; ``secrets`` are 32 bytes for each
    segment from there on, joined.
    """

    KIND = "range-secrets"

    first: int
    secrets: bytes

    def __repr__(self) -> str:
        return f"RangeSecrets(first={self.first}, segments={len(self.segments)})"

    @property
    def segments(self) -> range:
        """The segments that these secrets open."""
        return range(self.first, self.first + len(self.secrets) // SEGMENT_SECRET_SIZE)

    def check(self) -> None:
        """Check the size.

        Raises:
            Invalid: not one or more whole secrets.
        """
        if self.first < 0 or not self.secrets or len(self.secrets) % SEGMENT_SECRET_SIZE:
            raise Invalid(
                f"range secrets have {SEGMENT_SECRET_SIZE} bytes for each segment",
                reason="bad-key",
            )

    def of(self, segments: range) -> RangeSecrets:
        """The secrets of some of these segments.

        Raises:
            Denied: ``missing-secret``: a segment is not among them.
        """
        start = (segments.start - self.first) * SEGMENT_SECRET_SIZE
        stop = (segments.stop - self.first) * SEGMENT_SECRET_SIZE
        if start < 0 or stop > len(self.secrets) or start >= stop:
            raise Denied(
                "the range reaches beyond the one whose keys were given: ask for less, or for "
                "a wider grant",
                reason="missing-secret",
            )
        return RangeSecrets(segments.start, self.secrets[start:stop])
