"""Packs: many small payloads in one set of shards, each with rows of its own.

Owns the bytes of: a pack's layout, its opening, the proof of one payload's entry,
the envelope of a pack's secret, and the key of one packed payload.

A pack's *body* is its sealed payloads end to end in the order of their slots,
from 1 on.  It is one stripe: cut into k pieces, with m parity pieces, so that a
payload lies in one data piece (or across neighbours) and a reader moves only its range.
Each payload has a core of its own (:class:`~hcefs.formats.manifest.Core` with
k = 1 and the digest of its own ciphertext), and a wrapped key of its own,
deletable alone.

One leaf on the ledger binds all payloads that a pack adds to one record: the
commitment is over the root of a Merkle tree of (slot, core digest), so that the
ledger grows with packs and tells nobody how many payloads there are, while each
payload is proved alone.

Invariants: the writer has sealed a pack itself and computed every digest in it;
so its signature on the append vouches for the content, and needs no other.  A
layout may be replaced without any key; deleting a wrapped key shreds one payload.

Source: docs/decisions/0014-packs.md.
"""

from __future__ import annotations

import array
import bisect
import itertools
import sys
from dataclasses import dataclass, replace

from hcefs.crypto.envelope import Envelope
from hcefs.crypto.signing import verify
from hcefs.encoding import Encoded
from hcefs.erasure.scheme import (
    SEAL_OVERHEAD,
    SEGMENT_SIZE,
    Geometry,
    Profile,
    profile_named,
)
from hcefs.errors import Corrupt, Invalid
from hcefs.formats.manifest import DIGEST_SIZE, SALT_SIZE, Opening, Signer
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.integrity import (
    MerkleTree,
    blake3_digest,
    leaf_hash,
    root_from_inclusion,
)

PAYLOADS_MAX = 1024
"""Most payloads of a pack."""

PAYLOAD_BYTES_MAX = SEGMENT_SIZE
"""Longest plaintext that may be packed: one segment."""

PIECE_BYTES_MAX = PAYLOAD_BYTES_MAX + (64 << 10)
"""Longest piece: a shard of a pack fits one message with all its rows; the longest payload
fits under every profile, and ``PAYLOADS_MAX`` payloads of 4 KiB under ``ec-4-2``."""

BODY_BYTES_MAX = 4 * PIECE_BYTES_MAX
"""Most bytes of a pack's body; with a profile of few data pieces :func:`body_bytes_max`."""

METADATA_BYTES_MAX = 512 << 10
"""Most bytes of sealed metadata in a pack: they travel in one message with the shard."""

PACK_SEGMENT_SIZE = BODY_BYTES_MAX
"""What the header of a pack's shard names as its segment size: a pack is one stripe."""

TINY_BODY_BYTES = 64 << 10
"""Below this a pack is kept as copies (``TINY_PROFILE``)."""

TINY_PROFILE = "copy-3"

WRAPPED_SIZE = 40
PACK_LAYOUT_TAG = b"pack-layout"
PACK_COMMITMENT_TAG = b"hcefs/v1/pack-commitment\x00"
PACKED_LEAF_TAG = b"hcefs/v1/packed-leaf\x00"

_LENGTH_SIZE = 4
_SLOT_SIZE = 2
_KIND_AT = slice(2, 14)
"""Where an encoded pack opening has its kind: behind the heads of array and text."""


def _numbers(code: str, joined: bytes) -> list[int]:
    """Unsigned big-endian integers, joined."""
    numbers = array.array(code)
    if len(joined) % numbers.itemsize:
        raise Invalid("the last of the joined numbers is cut", reason="malformed-encoding")
    numbers.frombytes(joined)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tolist()


def _joined(code: str, numbers: list[int]) -> bytes:
    packed = array.array(code, numbers)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def split_lengths(joined: bytes) -> list[int]:
    """The sealed lengths of a pack's payloads, in the order of their slots.

    Raises:
        Invalid: ``bad-layout``: not one to ``PAYLOADS_MAX`` lengths of a packed payload.
    """
    if len(joined) % _LENGTH_SIZE or not 0 < len(joined) <= PAYLOADS_MAX * _LENGTH_SIZE:
        raise Invalid(
            f"a pack has 1 to {PAYLOADS_MAX} payloads, each with a length of {_LENGTH_SIZE} bytes",
            reason="bad-layout",
        )
    lengths = _numbers("I", joined)
    if min(lengths) < SEAL_OVERHEAD or max(lengths) > PAYLOAD_BYTES_MAX + SEAL_OVERHEAD:
        raise Invalid(
            f"a packed payload has at most {PAYLOAD_BYTES_MAX} bytes", reason="bad-layout"
        )
    if sum(lengths) > BODY_BYTES_MAX:
        raise Invalid(f"a pack's body has at most {BODY_BYTES_MAX} bytes", reason="bad-layout")
    return lengths


def join_lengths(lengths: list[int]) -> bytes:
    """The inverse of :func:`split_lengths`."""
    return _joined("I", lengths)


def split_slots(joined: bytes) -> list[int]:
    """Slots, which must ascend from 1 or more.

    Raises:
        Invalid: ``bad-slots``.
    """
    slots = _numbers("H", joined) if not len(joined) % _SLOT_SIZE else []
    if (
        not 0 < len(slots) <= PAYLOADS_MAX
        or slots[0] < 1
        or slots[-1] > PAYLOADS_MAX
        or any(low >= high for low, high in itertools.pairwise(slots))
    ):
        raise Invalid(
            f"slots are distinct numbers from 1 to {PAYLOADS_MAX}, ascending", reason="bad-slots"
        )
    return slots


def join_slots(slots: list[int]) -> bytes:
    """The inverse of :func:`split_slots`."""
    return _joined("H", slots)


def body_bytes_max(profile: Profile) -> int:
    """Most bytes of a pack's body under a profile: its pieces have to fit messages."""
    return min(BODY_BYTES_MAX, PIECE_BYTES_MAX * profile.k)


def pack_profile(body_length: int, default: str) -> str:
    """The profile of a pack: copies while it is tiny, else the cluster's default."""
    return TINY_PROFILE if body_length < TINY_BODY_BYTES else default


def pack_geometry(body_length: int, profile: Profile) -> Geometry:
    """Where the pieces of a pack lie: one stripe whose sealed segment is the body."""
    return Geometry(body_length - SEAL_OVERHEAD, profile, PACK_SEGMENT_SIZE)


@dataclass(frozen=True)
class Span:
    """Part of a payload: ``length`` bytes at ``offset`` of the data piece ``index``."""

    index: int
    offset: int
    length: int


@dataclass(frozen=True)
class PackLayout(Encoded):
    """Where and how a pack's shards lie, and where each payload is in its body.

    ``lengths`` are the sealed lengths of the payloads, u32 each, in the order of
    their slots.  Replaced by re-profiling, with no key.  ``node`` signed
    :meth:`message` with version ``key_version`` of its signing key.
    """

    KIND = "pack-layout"

    base: BlobBase
    profile: str
    lengths: bytes
    shard_digests: tuple[bytes, ...]
    version: int
    node: AccountId
    key_version: int
    time_ms: int
    signature: bytes

    def message(self) -> bytes:
        """The bytes that the node signs: this layout with an empty signature."""
        return replace(self, signature=b"").encode()

    def signed(self, key: Signer) -> PackLayout:
        """This layout with the node's signature."""
        return replace(self, signature=key.sign(PACK_LAYOUT_TAG, self.message()))

    def check(self, signing_key: bytes) -> None:
        """Check shape and signature.

        Raises:
            Invalid: ``bad-layout``, ``unknown-profile``.
            Unauthenticated: the signature is not that node's.
        """
        self.check_shape()
        verify(signing_key, PACK_LAYOUT_TAG, self.message(), self.signature)

    def check_shape(self) -> None:
        """Check lengths and counts.

        Raises:
            Invalid: ``bad-layout``, ``unknown-profile``.
        """
        profile = profile_named(self.profile)
        self.check_fits()
        if len(self.shard_digests) != profile.n or any(
            len(digest) != DIGEST_SIZE for digest in self.shard_digests
        ):
            raise Invalid("pack layout: needs one 32-byte digest a shard", reason="bad-layout")

    def check_fits(self) -> None:
        """Check that the body is not too long for the profile.

        Raises:
            Invalid: ``bad-layout``, ``unknown-profile``.
        """
        bound = body_bytes_max(profile_named(self.profile))
        if sum(split_lengths(self.lengths)) > bound:
            raise Invalid(
                f"a pack's body has at most {bound} bytes under {self.profile}",
                reason="bad-layout",
            )

    @property
    def payloads(self) -> int:
        """Number of payloads."""
        return len(self.lengths) // _LENGTH_SIZE

    @property
    def body_length(self) -> int:
        """Bytes of the body."""
        return sum(_numbers("I", self.lengths))

    @property
    def geometry(self) -> Geometry:
        """Where the pieces lie.

        Raises:
            Invalid: ``unknown-profile``.
        """
        return pack_geometry(self.body_length, profile_named(self.profile))

    def spans(self, slot: int) -> list[Span]:
        """Where the sealed payload of a slot lies in the data pieces, in order.

        Raises:
            Invalid: ``bad-slots``: the pack has no such slot.
        """
        return spans_of(_numbers("I", self.lengths), self.geometry.piece_of(0), slot)


def spans_of(lengths: list[int], piece: int, slot: int) -> list[Span]:
    """As :meth:`PackLayout.spans`, for lengths that were split before."""
    if not 1 <= slot <= len(lengths):
        raise Invalid(
            f"the pack has {len(lengths)} payloads, none in slot {slot}", reason="bad-slots"
        )
    start = sum(lengths[: slot - 1])
    end = start + lengths[slot - 1]
    spans = []
    while start < end:
        index, offset = divmod(start, piece)
        length = min(end - start, piece - offset)
        spans.append(Span(index, offset, length))
        start += length
    return spans


def entry_hash(slot: int, core_digest: bytes) -> bytes:
    """The leaf of one payload in the tree of a pack's opening."""
    return leaf_hash(slot.to_bytes(_SLOT_SIZE, "big") + core_digest)


def pack_commitment(
    salt: bytes, record: RecordId, base: BlobBase, count: int, root: bytes
) -> bytes:
    """c = BLAKE3(tag || salt || record || base || u16(count) || root).

    Every part has a fixed length, so the input is unambiguous; the tag is another
    than that of an opening, because it says that the writer has sealed by itself.

    Raises:
        Corrupt: ``bad-proof``: an impossible count.
    """
    if not 0 < count <= PAYLOADS_MAX:
        raise Corrupt(f"a pack has no {count} payloads of one record", reason="bad-proof")
    return blake3_digest(
        PACK_COMMITMENT_TAG
        + salt
        + bytes(record)
        + bytes(base)
        + count.to_bytes(_SLOT_SIZE, "big")
        + root
    )


def packed_leaf(leaf: bytes, slot: int) -> bytes:
    """What names one packed entry where an entry is named by its leaf: to correct it.

    The entries that a pack adds to a record share the leaf on the ledger.
    """
    return blake3_digest(PACKED_LEAF_TAG + leaf + slot.to_bytes(_SLOT_SIZE, "big"))


@dataclass(frozen=True)
class PackOpening(Encoded):
    """What opens the commitment of the entries that a pack adds to one record.

    ``slots`` are u16 each, ascending; ``core_digests`` 32 bytes each, in that order.
    """

    KIND = "pack-opening"

    salt: bytes
    record: RecordId
    base: BlobBase
    slots: bytes
    core_digests: bytes

    def check(self) -> None:
        """Check lengths and order.

        Raises:
            Invalid: ``bad-opening``, ``bad-slots``.
        """
        count = len(split_slots(self.slots))
        if len(self.salt) != SALT_SIZE or len(self.core_digests) != count * DIGEST_SIZE:
            raise Invalid("pack opening: salt or digests of a wrong size", reason="bad-opening")

    def hashes(self) -> list[bytes]:
        """The leaves of the tree, in the order of the slots."""
        return [
            leaf_hash(
                self.slots[_SLOT_SIZE * i : _SLOT_SIZE * (i + 1)]
                + self.core_digests[DIGEST_SIZE * i : DIGEST_SIZE * (i + 1)]
            )
            for i in range(len(self.slots) // _SLOT_SIZE)
        ]

    def tree(self) -> MerkleTree:
        """The tree over the payloads, in the order of the slots."""
        return MerkleTree(self.hashes())

    def commitment(self, tree: MerkleTree | None = None) -> bytes:
        """What the leaf on the ledger holds: :func:`pack_commitment`.

        ``tree`` is :meth:`tree`, if it is at hand.
        """
        root = (tree or self.tree()).root
        count = len(self.slots) // _SLOT_SIZE
        return pack_commitment(self.salt, self.record, self.base, count, root)

    def entries(self) -> list[tuple[BlobId, bytes]]:
        """The blobs that this binds, each with the digest of its core."""
        return [
            (
                BlobId(bytes(self.base) + self.slots[_SLOT_SIZE * i : _SLOT_SIZE * (i + 1)]),
                self.core_digests[DIGEST_SIZE * i : DIGEST_SIZE * (i + 1)],
            )
            for i in range(len(self.slots) // _SLOT_SIZE)
        ]

    def proof(self, slot: int, tree: MerkleTree | None = None) -> PackProof:
        """The proof of one payload; ``tree`` is :meth:`tree`, if it is at hand.

        Raises:
            Invalid: ``bad-slots``: the record has no payload in that slot.
        """
        slots = _numbers("H", self.slots)
        position = bisect.bisect_left(slots, slot)
        if position == len(slots) or slots[position] != slot:
            raise Invalid("the record has no payload in this slot", reason="bad-slots")
        return PackProof(
            self.salt,
            self.record,
            BlobId.of(self.base, slot),
            self.core_digests[DIGEST_SIZE * position : DIGEST_SIZE * (position + 1)],
            position,
            len(slots),
            (tree or self.tree()).proof(position),
        )


@dataclass(frozen=True)
class PackProof(Encoded):
    """That one payload is among those of a pack's opening: the Merkle path to its root.

    It shows nothing of the other payloads.
    """

    KIND = "pack-proof"

    salt: bytes
    record: RecordId
    blob: BlobId
    core_digest: bytes
    position: int
    count: int
    path: tuple[bytes, ...]

    def commitment(self) -> bytes:
        """The commitment that this payload is proved to be under.

        Raises:
            Corrupt: the path has a wrong shape.
        """
        if (
            len(self.salt) != SALT_SIZE
            or len(self.core_digest) != DIGEST_SIZE
            or not 0 <= self.position < self.count <= PAYLOADS_MAX
            or not 1 <= self.blob.slot <= PAYLOADS_MAX
        ):
            raise Corrupt("the proof of a packed entry is malformed", reason="bad-proof")
        leaf = entry_hash(self.blob.slot, self.core_digest)
        root = root_from_inclusion(self.count, self.position, leaf, self.path)
        return pack_commitment(self.salt, self.record, self.blob.base, self.count, root)


@dataclass(frozen=True)
class PackEnvelope(Encoded):
    """The secret that wraps the keys of one record's payloads in one pack, sealed to the record."""

    KIND = "pack-envelope"

    base: BlobBase
    record: RecordId
    generation: int
    envelope: Envelope


@dataclass(frozen=True)
class PackedKey(Encoded):
    """What leads a reader of the record to the DEK of one packed payload.

    ``wrapped`` is the DEK under AES key wrap (RFC 3394) with the envelope's secret.
    """

    KIND = "packed-key"

    blob: BlobId
    record: RecordId
    generation: int
    envelope: Envelope
    wrapped: bytes

    def check(self) -> None:
        """Check the length.

        Raises:
            Invalid: ``bad-key-row``.
        """
        if len(self.wrapped) != WRAPPED_SIZE:
            raise Invalid(f"a wrapped key has {WRAPPED_SIZE} bytes", reason="bad-key-row")


AnyOpening = Opening | PackOpening
"""What a record's listing is made of."""


def decode_opening(data: bytes) -> AnyOpening:
    """An opening of either kind, its lengths checked.

    Raises:
        Invalid: neither.
    """
    opening: AnyOpening
    if data[_KIND_AT].endswith(PackOpening.KIND.encode()):
        opening = PackOpening.decode(data)
    else:
        opening = Opening.decode(data)
    opening.check()
    return opening
