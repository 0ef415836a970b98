"""A blob's manifest rows, its opening and its reference.

Owns the bytes of: core, layout, key row, opening, metadata, blob reference.
Invariants: the core is immutable and its digest is in the entry; the layout may
be replaced without any key; the key row may be deleted.  Golden vectors freeze
every version; ``docs/FORMATS.md`` gives the field tables.
Source: docs/ARCHITECTURE.md, "A blob's manifest".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from hcefs.crypto.envelope import Envelope
from hcefs.crypto.signing import verify
from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.integrity import blake3_digest

DIGEST_SIZE = 32
SALT_SIZE = 32
LAYOUT_TAG = b"layout"
CONTENT_TAG = b"content"
COMMITMENT_TAG = b"hcefs/v1/commitment\x00"
SEALED_METADATA_MAX = 16 << 10


class Signer(Protocol):
    """What signs rows: :class:`hcefs.crypto.signing.SigningKey`."""

    def sign(self, tag: bytes, message: bytes) -> bytes:
        """Ed25519 signature over the tag and the message, 64 bytes."""


@dataclass(frozen=True)
class Metadata(Encoded):
    """What only readers may see; sealed under the DEK inside the core.

    ``content_digest`` is BLAKE3 of the plaintext and ``content_signature`` the
    writer's Ed25519 signature over :meth:`message`, so that a gateway that seals can
    substitute neither content nor name; both are empty when switched off.
    """

    KIND = "metadata"
    MAX_BYTES = SEALED_METADATA_MAX

    content_type: str
    name: str
    labels: tuple[str, ...]
    content_digest: bytes
    content_signature: bytes

    def message(self, blob: BlobId, record: RecordId) -> bytes:
        """The bytes that the writer signs: blob id, record id, BLAKE3 of this unsigned."""
        unsigned = replace(self, content_signature=b"").encode()
        return bytes(blob) + bytes(record) + blake3_digest(unsigned)


@dataclass(frozen=True)
class Core(Encoded):
    """The immutable part of a manifest.

    ``data_digests`` are the digests of the ``k`` data shards as first written,
    so that any later layout can be verified without a key.  Of a packed payload
    (slot not 0) ``k`` is 1 and the digest is BLAKE3 of its own sealed segment.
    """

    KIND = "core"

    blob: BlobId
    record: RecordId
    generation: int
    plaintext_length: int
    segment_size: int
    dek_commitment: bytes
    writer: AccountId
    commit_by_ms: int
    k: int
    data_digests: tuple[bytes, ...]
    sealed_metadata: bytes

    def digest(self) -> bytes:
        """BLAKE3 of the canonical bytes: what the entry binds."""
        return blake3_digest(self.encode())

    def check(self) -> None:
        """Check lengths and counts.

        Raises:
            Invalid: a field is outside what the format allows.
        """
        if (
            self.k < 1
            or len(self.data_digests) != self.k
            or set(map(len, self.data_digests)) != {DIGEST_SIZE}
        ):
            raise Invalid("core: needs one 32-byte digest for each data shard", reason="bad-core")
        if len(self.dek_commitment) != 32 or len(self.sealed_metadata) > SEALED_METADATA_MAX:
            raise Invalid("core: commitment or metadata of a wrong size", reason="bad-core")
        if self.plaintext_length < 0 or self.segment_size != 1 << 20 or self.generation < 0:
            raise Invalid("core: length, segment size or generation", reason="bad-core")
        if self.blob.slot and (self.k != 1 or self.plaintext_length > self.segment_size):
            raise Invalid(
                "core: a packed payload has one digest and one segment", reason="bad-core"
            )


@dataclass(frozen=True)
class Layout(Encoded):
    """Where and how the shards lie; replaced by re-profiling, with no key.

    ``pack_offset`` and ``pack_length`` locate a packed payload in the pack's
    ciphertext (both 0: not packed).  ``node`` signed :meth:`message` with
    version ``key_version`` of its signing key.
    """

    KIND = "layout"

    base: BlobBase
    record: RecordId
    profile: str
    shard_digests: tuple[bytes, ...]
    pack_offset: int
    pack_length: int
    version: int
    node: AccountId
    key_version: int
    time_ms: int
    signature: bytes

    def message(self) -> bytes:
        """The bytes that the node signs: this layout with an empty signature."""
        return replace(self, signature=b"").encode()

    def signed(self, key: Signer) -> Layout:
        """This layout with the node's signature."""
        return replace(self, signature=key.sign(LAYOUT_TAG, self.message()))

    def check(self, signing_key: bytes) -> None:
        """Check shape and signature.

        Raises:
            Invalid: packed, or a digest of a wrong size.
            Unauthenticated: the signature is not that node's.
        """
        if self.pack_offset or self.pack_length:
            raise Invalid("packed blobs need a newer version of HCE-FS", reason="unsupported")
        if any(len(digest) != DIGEST_SIZE for digest in self.shard_digests):
            raise Invalid("layout: needs 32-byte digests", reason="bad-layout")
        verify(signing_key, LAYOUT_TAG, self.message(), self.signature)


@dataclass(frozen=True)
class KeyRow(Encoded):
    """The sealed DEK.  Deleting it shreds the blob."""

    KIND = "key-row"

    blob: BlobId
    record: RecordId
    generation: int
    envelope: Envelope


@dataclass(frozen=True)
class Opening(Encoded):
    """What opens an entry's commitment; kept off the ledger.

    ``previous_leaf`` is empty, or the 32-byte leaf of the entry it corrects.
    """

    KIND = "opening"

    salt: bytes
    record: RecordId
    blob: BlobId
    core_digest: bytes
    previous_leaf: bytes

    def commitment(self) -> bytes:
        """c = BLAKE3(tag || salt || record || blob || core digest || previous leaf).

        Every part has a fixed length except the last, so the input is unambiguous.
        """
        return blake3_digest(
            COMMITMENT_TAG
            + self.salt
            + bytes(self.record)
            + bytes(self.blob)
            + self.core_digest
            + self.previous_leaf
        )

    def check(self) -> None:
        """Check lengths, and that the blob is not packed.

        Raises:
            Invalid: salt, digest or previous leaf of a wrong size; a slot, which only
                the opening of a pack may bind.
        """
        if self.blob.slot:
            raise Invalid("opening: a packed payload has that of its pack", reason="bad-opening")
        if (
            len(self.salt) != SALT_SIZE
            or len(self.core_digest) != DIGEST_SIZE
            or len(self.previous_leaf) not in (0, DIGEST_SIZE)
        ):
            raise Invalid(
                "opening: salt, digest or previous leaf of a wrong size", reason="bad-opening"
            )


@dataclass(frozen=True)
class BlobRef(Encoded):
    """What an application keeps to find a blob again: ids, and nothing secret."""

    KIND = "blob-ref"

    record: RecordId
    blob: BlobId
    core_digest: bytes
    leaf_index: int
