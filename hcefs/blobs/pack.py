"""Packs: seal many small payloads into one body, and open one of them again.

Runs where the writer is: a pack is always sealed by its client, who computes every
digest that the ledger will bind (:mod:`hcefs.formats.pack`).  Pure and without
awaiting: callers run it on compute threads.

Invariants: every payload draws a new DEK and every (pack, record) a new wrapping
secret; a payload's core, commitment and tag bind it to its blob id and record, so
that nothing can be moved between slots, packs or records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hcefs.crypto.envelope import SUITE_XWING, EnvelopeContext
from hcefs.crypto.keys import (
    METADATA_OVERHEAD,
    SECRET_SIZE,
    HybridKey,
    dek_commitment,
    open_envelope,
    seal_envelope,
    seal_metadata,
    unwrap_key,
    wrap_key,
)
from hcefs.crypto.stream import (
    SEAL_OVERHEAD,
    SEGMENT_SIZE,
    Buffer,
    open_segment,
    seal_segment_into,
    segment_secret,
)
from hcefs.errors import Corrupt, Invalid
from hcefs.formats.manifest import SALT_SIZE, SEALED_METADATA_MAX, Core
from hcefs.formats.pack import (
    BODY_BYTES_MAX,
    METADATA_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PAYLOADS_MAX,
    PackedKey,
    PackEnvelope,
    PackOpening,
    join_slots,
)
from hcefs.ids import AccountId, BlobBase, BlobId, ClusterId, RecordId
from hcefs.integrity import blake3_digest

Draw = Callable[[int], bytes]
"""Gives so many random bytes."""


@dataclass(frozen=True)
class PackItem:
    """One payload on its way into a pack; ``metadata`` is encoded, or empty for none."""

    record: RecordId
    generation: int
    record_public_key: bytes = field(repr=False)
    plaintext: Buffer = field(repr=False)
    metadata: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class SealedGroup:
    """What a pack holds of one record: rows by slot, and what leads to their keys."""

    record: RecordId
    generation: int
    slots: tuple[int, ...]
    cores: tuple[Core, ...]
    encoded: tuple[bytes, ...]
    wrapped: tuple[bytes, ...]
    envelope: PackEnvelope
    opening: PackOpening


@dataclass(frozen=True)
class SealedPack:
    """A pack, ready to be encoded and sent.  ``lengths`` are in the order of the slots."""

    base: BlobBase
    body: bytearray = field(repr=False)
    lengths: tuple[int, ...]
    groups: tuple[SealedGroup, ...]


def pack_context(
    cluster: ClusterId, record: RecordId, generation: int, base: BlobBase
) -> EnvelopeContext:
    """Of the secret that wraps the keys of one record's payloads in one pack."""
    return EnvelopeContext(
        "pack", SUITE_XWING, cluster, record, generation, bytes(base), bytes(record)
    )


def check_items(items: Sequence[PackItem]) -> None:
    """Check that the items fit one pack.

    Raises:
        Invalid: ``bad-pack``.
    """
    lengths = [len(item.plaintext) for item in items]
    body = sum(lengths) + SEAL_OVERHEAD * len(lengths)
    metadata = [len(item.metadata) + METADATA_OVERHEAD for item in items if item.metadata]
    if max(metadata, default=0) > SEALED_METADATA_MAX or sum(metadata) > METADATA_BYTES_MAX:
        raise Invalid(
            f"a pack takes at most {METADATA_BYTES_MAX} bytes of sealed metadata, "
            f"{SEALED_METADATA_MAX} of one payload",
            reason="bad-pack",
        )
    if (
        not 0 < len(items) <= PAYLOADS_MAX
        or max(lengths) > PAYLOAD_BYTES_MAX
        or body > BODY_BYTES_MAX
    ):
        raise Invalid(
            f"a pack takes 1 to {PAYLOADS_MAX} payloads of at most {PAYLOAD_BYTES_MAX} bytes, "
            f"{BODY_BYTES_MAX} sealed bytes in all",
            reason="bad-pack",
        )


def seal_pack(
    cluster: ClusterId,
    writer: AccountId,
    commit_by_ms: int,
    items: Sequence[PackItem],
    draw: Draw,
) -> SealedPack:
    """Seal the items into a pack with a new base; the item at position i gets slot i + 1.

    Items of one record must name one generation and its public key.

    Raises:
        Invalid: ``bad-pack``: they do not fit one pack, or disagree on a generation or its key;
            ``bad-key``: a public key is malformed.
    """
    check_items(items)
    base = BlobBase(draw(BlobBase.SIZE))
    count = len(items)
    lengths = tuple(len(item.plaintext) + SEAL_OVERHEAD for item in items)
    body = bytearray(sum(lengths))
    view = memoryview(body)
    deks = draw(SECRET_SIZE * count)
    slots_of: dict[RecordId, list[int]] = {}
    cores: list[Core] = []
    start = 0
    for position, item in enumerate(items):
        slot = position + 1
        blob = BlobId.of(base, slot)
        dek = deks[SECRET_SIZE * position : SECRET_SIZE * slot]
        sealed = view[start : start + lengths[position]]
        seal_segment_into(segment_secret(dek, 0), blob, item.record, True, item.plaintext, sealed)
        start += lengths[position]
        metadata = item.metadata and seal_metadata(dek, blob, item.record, item.metadata)
        cores.append(
            Core(
                blob,
                item.record,
                item.generation,
                len(item.plaintext),
                SEGMENT_SIZE,
                dek_commitment(dek),
                writer,
                commit_by_ms,
                1,
                (blake3_digest(sealed),),
                metadata,
            )
        )
        slots_of.setdefault(item.record, []).append(slot)
    groups = tuple(
        _group(cluster, base, slots, items, cores, deks, draw) for slots in slots_of.values()
    )
    return SealedPack(base, body, lengths, groups)


def _group(
    cluster: ClusterId,
    base: BlobBase,
    slots: list[int],
    items: Sequence[PackItem],
    cores: Sequence[Core],
    deks: bytes,
    draw: Draw,
) -> SealedGroup:
    """One record's part of a pack."""
    first = items[slots[0] - 1]
    named = (first.generation, first.record_public_key)
    if any(
        (items[slot - 1].generation, items[slot - 1].record_public_key) != named for slot in slots
    ):
        raise Invalid(
            "the items of one record name different generations or keys", reason="bad-pack"
        )
    secret = draw(SECRET_SIZE)
    context = pack_context(cluster, first.record, first.generation, base)
    envelope = seal_envelope(first.record_public_key, secret, context)
    own = tuple(cores[slot - 1] for slot in slots)
    encoded = tuple(core.encode() for core in own)
    return SealedGroup(
        first.record,
        first.generation,
        tuple(slots),
        own,
        encoded,
        tuple(
            wrap_key(secret, deks[SECRET_SIZE * (slot - 1) : SECRET_SIZE * slot]) for slot in slots
        ),
        PackEnvelope(base, first.record, first.generation, envelope),
        PackOpening(
            draw(SALT_SIZE),
            first.record,
            base,
            join_slots(slots),
            b"".join(blake3_digest(data) for data in encoded),
        ),
    )


def open_pack_secret(cluster: ClusterId, key: HybridKey, envelope: PackEnvelope) -> bytes:
    """The secret that wraps the keys of one record's payloads in one pack.

    Raises:
        Corrupt: ``bad-envelope``.
    """
    context = pack_context(cluster, envelope.record, envelope.generation, envelope.base)
    return open_envelope(key, envelope.envelope, context)


def open_packed_key(cluster: ClusterId, key: HybridKey, row: PackedKey) -> bytes:
    """The DEK of one packed payload.

    Raises:
        Corrupt: ``bad-envelope``, ``wrong-key``.
    """
    envelope = PackEnvelope(row.blob.base, row.record, row.generation, row.envelope)
    return unwrap_key(open_pack_secret(cluster, key, envelope), row.wrapped)


def check_sealed(core: Core, sealed: Buffer) -> None:
    """Check a sealed payload against its core, without a key.

    Raises:
        Corrupt: ``wrong-length``, ``wrong-digest``.
    """
    if len(sealed) != core.plaintext_length + SEAL_OVERHEAD:
        raise Corrupt("a packed payload has another length than its core", reason="wrong-length")
    if (blake3_digest(sealed),) != core.data_digests:
        raise Corrupt("a packed payload differs from its digest", reason="wrong-digest")


def open_packed(dek: bytes, core: Core, sealed: Buffer) -> bytes:
    """The plaintext of a packed payload, whose digest was checked.

    Raises:
        Corrupt: ``wrong-key``, ``bad-seal``.
    """
    return open_segment(segment_secret(dek, 0), core.blob, core.record, True, sealed)
