"""What a holder of packs checks before it keeps anything, and a reader before it believes.

None of it needs a key.  A holder may have ten thousand payloads a second to take, so
a payload's core is not decoded here: it is compared with the digest that the ledger
will bind, and whoever reads it decodes it.  Input comes from other nodes and is never
trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hcefs.access.facts import LedgerView
from hcefs.erasure.scheme import SEAL_OVERHEAD
from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, Invalid, NotFound
from hcefs.formats.manifest import DIGEST_SIZE, SEALED_METADATA_MAX, Core
from hcefs.formats.pack import (
    WRAPPED_SIZE,
    PackEnvelope,
    PackLayout,
    PackOpening,
    split_slots,
)
from hcefs.formats.shard import ShardFooter
from hcefs.ids import BlobBase, BlobId, RecordId
from hcefs.integrity import blake3_digest, shard_digest
from hcefs.ledger.rules_records import OLD_GENERATION_MS
from hcefs.stripes.checks import check_commit_by, check_layout
from hcefs.stripes.pack_shape import PackShape
from hcefs.transport.pack_messages import blob_ids
from hcefs.transport.packs import BatchCall, PackGroupRows, PackShard
from hcefs.transport.peers import Call

CORE_BYTES_MAX = SEALED_METADATA_MAX + 1024
ENVELOPE_BYTES_MAX = 2048
ROWS_BYTES_MAX = 5 << 19
"""Most bytes of a pack's rows over all its groups: they go in one message with a piece."""


@dataclass(frozen=True)
class CheckedPack:
    """The result of :func:`check_pack`."""

    shape: PackShape
    footer: ShardFooter


def rows_bytes(groups: Sequence[PackGroupRows]) -> int:
    """Bytes of the rows of some groups."""
    return sum(
        len(group.slots)
        + sum(map(len, group.cores))
        + len(group.wrapped_keys)
        + len(group.envelope)
        + len(group.opening)
        for group in groups
    )


def check_pack(view: LedgerView, call: BatchCall, shard: PackShard) -> CheckedPack:
    """Check that a pack's shard, layout and rows agree with each other.

    Raises:
        Invalid, Corrupt, Denied, Unauthenticated: which of them does not fit, and why.
    """
    layout = PackLayout.decode(shard.layout)
    check_layout(view, layout, call.presenter)
    shape = PackShape.of(layout)
    if layout.base != shard.base or layout.version != 1:
        raise Invalid("the layout is of another pack", reason="rows-disagree")
    if not 0 <= shard.index < shape.profile.n:
        raise Invalid(f"index {shard.index} is not in {shape.profile.name}", reason="bad-index")
    if len(shard.piece) != shape.piece:
        raise Corrupt(
            f"the piece has {len(shard.piece)} bytes, its layout asks for {shape.piece}",
            reason="wrong-length",
        )
    digest = shard_digest([shard.piece_digest]) if len(shard.piece_digest) == DIGEST_SIZE else b""
    if digest != layout.shard_digests[shard.index]:
        raise Corrupt("the piece digest does not lead to the layout's", reason="wrong-digest")
    check_commit_by(view, shard.commit_by_ms)
    check_groups(shard.base, shard.groups, shape.payloads)
    footer = ShardFooter(pack_length(shape), shard.piece_digest, layout.shard_digests[shard.index])
    return CheckedPack(shape, footer)


def pack_length(shape: PackShape) -> int:
    """What the footer of a pack's shard names as its plaintext length."""
    return shape.body - SEAL_OVERHEAD


def check_groups(
    base: BlobBase,
    groups: Sequence[PackGroupRows],
    payloads: int,
    *,
    shredded: bool = False,
    partial: bool = False,
) -> list[PackEnvelope]:
    """Check the rows of a pack: that they fit each other, and cover each slot once.

    Their envelopes, decoded.  ``shredded`` allows for groups that have lost theirs,
    ``partial`` for slots that no group names: those of records that were erased.

    Raises:
        Invalid: ``rows-disagree``, ``too-large``, or what is malformed.
    """
    if rows_bytes(groups) > ROWS_BYTES_MAX:
        raise Invalid(
            f"the rows of a pack have at most {ROWS_BYTES_MAX} bytes: put fewer payloads at once, "
            "or shorter metadata",
            reason="too-large",
        )
    if len({group.record for group in groups}) != len(groups):
        raise Invalid("a pack has one group for each record", reason="rows-disagree")
    taken = bytearray(payloads + 1)
    envelopes = []
    for group in groups:
        if group.envelope or not shredded:
            slots, envelope = check_group(base, group)
            envelopes.append(envelope)
        else:
            slots = _check_rows(base, group)
        for slot in slots:
            if slot > payloads or taken[slot]:
                raise Invalid(
                    "the groups of a pack name each of its slots once", reason="rows-disagree"
                )
            taken[slot] = 1
    if taken.count(1) != payloads and not partial:
        raise Invalid("a payload of the pack is in no group", reason="rows-disagree")
    return envelopes


def check_group(base: BlobBase, group: PackGroupRows) -> tuple[list[int], PackEnvelope]:
    """Check the rows of one record in a pack; its slots and its envelope.

    Raises:
        Invalid: ``rows-disagree``, ``too-large``, or what is malformed.
    """
    slots = _check_rows(base, group)
    envelope = _envelope_of(group)
    if (envelope.base, envelope.record) != (base, group.record):
        raise Invalid("the envelope of a group is another's", reason="rows-disagree")
    return slots, envelope


def _check_rows(base: BlobBase, group: PackGroupRows) -> list[int]:
    """The same without the envelope; the slots."""
    slots = split_slots(group.slots)
    opening = PackOpening.decode(group.opening)
    opening.check()
    if (
        (opening.base, opening.record) != (base, group.record)
        or opening.slots != group.slots
        or len(group.cores) != len(slots)
        or len(group.wrapped_keys) != len(slots) * WRAPPED_SIZE
    ):
        raise Invalid("the rows of a group do not fit together", reason="rows-disagree")
    if max(map(len, group.cores)) > CORE_BYTES_MAX:
        raise Invalid(f"a core has at most {CORE_BYTES_MAX} bytes", reason="too-large")
    if b"".join(map(blake3_digest, group.cores)) != opening.core_digests:
        raise Invalid("a core differs from its digest in the opening", reason="rows-disagree")
    return slots


def _envelope_of(group: PackGroupRows) -> PackEnvelope:
    """The envelope of a group.

    Raises:
        Invalid: malformed or too large.
    """
    if len(group.envelope) > ENVELOPE_BYTES_MAX:
        raise Invalid(f"an envelope has at most {ENVELOPE_BYTES_MAX} bytes", reason="too-large")
    return PackEnvelope.decode(group.envelope)


def check_generation(view: LedgerView, envelope: PackEnvelope) -> None:
    """Check that an envelope is sealed to a generation that may still be appended to.

    Raises:
        NotFound: ``unknown-record``.
        Invalid: ``unknown-generation``.
        Conflict: ``old-generation``.
    """
    record = view.record(envelope.record)
    if record is None:
        raise NotFound("this record is unknown", reason="unknown-record")
    if envelope.generation == record.generation:
        return
    current = view.generation(envelope.record, record.generation)
    if view.generation(envelope.record, envelope.generation) is None or current is None:
        raise Invalid("this generation is not on the ledger", reason="unknown-generation")
    if view.time_ms > current.time_ms + OLD_GENERATION_MS:
        raise Conflict(
            f"the record is at generation {record.generation}; seal to that one",
            reason="old-generation",
        )


def check_openings(
    view: LedgerView, call: BatchCall, openings: Sequence[bytes], commit_by_ms: int
) -> list[PackOpening]:
    """Check openings on their way into listings: each is a group of the batch.

    Raises:
        Invalid: ``bad-opening``, ``bad-commit-by``, or malformed.
    """
    check_commit_by(view, commit_by_ms)
    blobs: dict[bytes, bytes] = {group.record: group.blobs for group in call.groups}
    checked = []
    for data in openings:
        opening = PackOpening.decode(data)
        opening.check()
        if blobs.get(opening.record) != blob_ids(opening.base, opening.slots):
            raise Invalid("an opening is of blobs outside of the batch", reason="bad-opening")
        checked.append(opening)
    if len({opening.record for opening in checked}) != len(openings):
        raise Invalid("a pack has one opening for each record", reason="bad-opening")
    return checked


class Scope:
    """What a call reaches: the blobs it names, without those that are refused."""

    def __init__(self, call: Call | BatchCall) -> None:
        refused: Mapping[tuple[bytes, bytes], HcefsError] = {}
        if isinstance(call, BatchCall):
            refused = {(record, blob): error for (record, blob), error in call.refused.items()}
        self._refused = refused
        self._blobs: dict[bytes, set[bytes]] = {}
        if isinstance(call, BatchCall):
            for group in call.groups:
                named = self._blobs.setdefault(group.record, set())
                named.update(_split(group.blobs))
        elif call.blob is not None:
            self._blobs[call.record] = {call.blob}

    def refusal(self, record: RecordId, blob: bytes) -> HcefsError | None:
        """Why a blob may not be served by this call; None if it may."""
        if blob not in self._blobs.get(record, ()):
            return Denied("this blob is not among those that the proof names", reason="wrong-blob")
        return self._refused.get((record, blob)) if self._refused else None


def _split(blobs: bytes) -> Iterator[bytes]:
    return (blobs[i : i + BlobId.SIZE] for i in range(0, len(blobs), BlobId.SIZE))


def check_core(data: bytes, record: RecordId, blob: BlobId, sealed_length: int) -> Core:
    """A packed payload's core, as one that is bound by an opening.

    Raises:
        Corrupt, Invalid: it is not of this payload.
    """
    core = Core.decode(data)
    core.check()
    if (
        core.record != record
        or core.blob != blob
        or core.k != 1
        or core.plaintext_length + SEAL_OVERHEAD != sealed_length
    ):
        raise Corrupt("the core of a packed payload is another's", reason="rows-disagree")
    return core
