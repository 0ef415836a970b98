"""Sealing a pack and opening its payloads: what fits, what is bound, what is never reused."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcefs.blobs.pack import (
    Draw,
    PackItem,
    SealedGroup,
    SealedPack,
    check_items,
    check_sealed,
    open_pack_secret,
    open_packed,
    open_packed_key,
    seal_pack,
)
from hcefs.crypto.keys import (
    METADATA_OVERHEAD,
    HybridKey,
    dek_commitment,
    open_metadata,
    unwrap_key,
)
from hcefs.crypto.stream import SEAL_OVERHEAD
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.formats.manifest import SEALED_METADATA_MAX, Core
from hcefs.formats.pack import (
    BODY_BYTES_MAX,
    METADATA_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PAYLOADS_MAX,
    PackedKey,
    split_slots,
)
from hcefs.ids import AccountId, BlobBase, BlobId, ClusterId, RecordId
from hcefs.integrity import blake3_digest

CLUSTER = ClusterId(b"c" * 16)
WRITER = AccountId(b"w" * 16)
RECORDS = tuple(RecordId(bytes([number]) * 16) for number in (1, 2, 3))
KEYS = {record: HybridKey.from_seed(bytes(record) * 2) for record in RECORDS}
COMMIT_BY_MS = 1_800_000_000_000


class FixedDraw:
    """Draws from one long stream, and remembers what it gave."""

    def __init__(self, seed: bytes = b"seed") -> None:
        self._stream = hashlib.shake_256(seed).digest(1 << 17)
        self._taken = 0
        self.given: list[bytes] = []

    def __call__(self, length: int) -> bytes:
        self._taken += length
        assert self._taken <= len(self._stream)
        self.given.append(self._stream[self._taken - length : self._taken])
        return self.given[-1]


def item(plaintext: bytes, record: int = 0, metadata: bytes = b"", generation: int = 0) -> PackItem:
    name = RECORDS[record]
    return PackItem(name, generation, KEYS[name].public_key, plaintext, metadata)


def seal(items: Sequence[PackItem], draw: Draw | None = None) -> SealedPack:
    return seal_pack(CLUSTER, WRITER, COMMIT_BY_MS, items, draw or FixedDraw())


def sealed_of(pack: SealedPack, slot: int) -> bytes:
    start = sum(pack.lengths[: slot - 1])
    return bytes(pack.body[start : start + pack.lengths[slot - 1]])


def deks_of(group: SealedGroup) -> list[bytes]:
    secret = open_pack_secret(CLUSTER, KEYS[group.record], group.envelope)
    return [unwrap_key(secret, wrapped) for wrapped in group.wrapped]


def open_all(pack: SealedPack) -> dict[int, bytes]:
    """Every payload by its slot, each opened by way of its own rows."""
    opened = {}
    for group in pack.groups:
        for slot, core, wrapped in zip(group.slots, group.cores, group.wrapped, strict=True):
            row = PackedKey(
                core.blob, core.record, group.generation, group.envelope.envelope, wrapped
            )
            row.check()
            dek = open_packed_key(CLUSTER, KEYS[group.record], row)
            sealed = sealed_of(pack, slot)
            check_sealed(core, sealed)
            opened[slot] = open_packed(dek, core, sealed)
    return opened


def reason_of(kind: type[HcefsError], call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(kind) as caught:
        call(*arguments)
    return caught.value.reason


plans = st.lists(
    st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 600), st.booleans()),
    min_size=1,
    max_size=20,
)


@settings(max_examples=40, deadline=None)
@given(plan=plans)
def test_round_trip(plan: list[tuple[int, int, bool]]) -> None:
    items = [
        item(bytes([number]) * length, record, b"m%d" % number if metadata else b"")
        for number, (record, length, metadata) in enumerate(plan)
    ]
    pack = seal(items)
    assert open_all(pack) == {slot: given.plaintext for slot, given in enumerate(items, 1)}
    assert pack.lengths == tuple(len(given.plaintext) + SEAL_OVERHEAD for given in items)
    assert len(pack.body) == sum(pack.lengths)
    assert {slot for group in pack.groups for slot in group.slots} == set(range(1, len(plan) + 1))
    for group in pack.groups:
        group.opening.check()
        assert split_slots(group.opening.slots) == list(group.slots)
        assert group.opening.record == group.record == group.envelope.record
        assert group.opening.base == group.envelope.base == pack.base
        assert group.opening.entries() == [
            (BlobId.of(pack.base, slot), core.digest())
            for slot, core in zip(group.slots, group.cores, strict=True)
        ]
        for slot, core, encoded, dek in zip(
            group.slots, group.cores, group.encoded, deks_of(group), strict=True
        ):
            core.check()
            assert core.encode() == encoded
            assert (core.blob, core.record) == (BlobId.of(pack.base, slot), group.record)
            assert (core.writer, core.commit_by_ms, core.k) == (WRITER, COMMIT_BY_MS, 1)
            assert core.dek_commitment == dek_commitment(dek)
            assert group.opening.proof(slot).commitment() == group.opening.commitment()
            metadata = items[slot - 1].metadata
            assert bool(core.sealed_metadata) == bool(metadata)
            if metadata:
                opened = open_metadata(dek, core.blob, core.record, core.sealed_metadata)
                assert opened == metadata


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_sealed(kind: type) -> None:
    pack = seal([replace(item(b""), plaintext=kind(b"some bytes"))])
    assert open_all(pack) == {1: b"some bytes"}


def test_an_empty_payload_is_one_empty_segment() -> None:
    pack = seal([item(b""), item(b"")])
    assert pack.lengths == (SEAL_OVERHEAD, SEAL_OVERHEAD)
    assert open_all(pack) == {1: b"", 2: b""}
    assert sealed_of(pack, 1) != sealed_of(pack, 2)


LONGEST = bytes(PAYLOAD_BYTES_MAX)
FULL = [LONGEST] * 4 + [bytes(BODY_BYTES_MAX - 4 * (len(LONGEST) + 48) - 48)]
METADATA_MAX = bytes(SEALED_METADATA_MAX - METADATA_OVERHEAD)


def test_a_pack_may_be_full_in_every_way() -> None:
    check_items([item(plaintext) for plaintext in FULL])
    check_items([item(b"")] * PAYLOADS_MAX)
    check_items([item(b"", metadata=METADATA_MAX)] * (METADATA_BYTES_MAX // SEALED_METADATA_MAX))
    assert open_all(seal([item(LONGEST)])) == {1: LONGEST}


@pytest.mark.parametrize(
    "items",
    [
        [],
        [item(b"")] * (PAYLOADS_MAX + 1),
        [item(LONGEST + b"\x00")],
        [item(plaintext) for plaintext in [*FULL[:-1], FULL[-1] + b"\x00"]],
        [item(plaintext) for plaintext in [*FULL, b""]],
        [item(b"", metadata=METADATA_MAX + b"\x00")],
        [item(b"", metadata=METADATA_MAX)] * (METADATA_BYTES_MAX // SEALED_METADATA_MAX + 1),
    ],
    ids=["none", "many", "long", "body", "empty one", "metadata", "much metadata"],
)
def test_what_does_not_fit_is_refused_before_anything_is_drawn(items: list[PackItem]) -> None:
    draw = FixedDraw()
    assert reason_of(Invalid, seal, items, draw) == "bad-pack"
    assert draw.given == []


@pytest.mark.parametrize(
    "second",
    [
        item(b"b", generation=1),
        replace(item(b"b"), record_public_key=KEYS[RECORDS[1]].public_key),
    ],
    ids=["generation", "public key"],
)
def test_items_of_one_record_agree_on_its_key(second: PackItem) -> None:
    assert reason_of(Invalid, seal, [item(b"a"), second]) == "bad-pack"


def test_a_malformed_public_key_is_refused() -> None:
    assert reason_of(Invalid, seal, [replace(item(b"a"), record_public_key=b"")]) == "bad-key"


def mixed() -> SealedPack:
    """Slots 1, 2, 4 of the first record, 3 and 5 of the second; equal payloads."""
    return seal([item(b"same", record) for record in (0, 0, 1, 0, 1)])


def test_nothing_that_is_drawn_is_used_twice() -> None:
    draw = FixedDraw()
    pack = seal([item(b"same", record) for record in (0, 0, 1, 0, 1, 2)], draw)
    deks = [dek for group in pack.groups for dek in deks_of(group)]
    secrets = [
        open_pack_secret(CLUSTER, KEYS[group.record], group.envelope) for group in pack.groups
    ]
    salts = [group.opening.salt for group in pack.groups]
    drawn = [bytes(pack.base), *deks, *secrets, *salts]
    assert len(set(drawn)) == len(drawn) == 1 + 6 + 3 + 3
    # Every byte comes from the stream, and none is used for two things.
    stream = b"".join(draw.given)
    starts = sorted((stream.index(value), len(value)) for value in drawn)
    assert sum(length for _, length in starts) == len(stream)
    assert all(a + length <= b for (a, length), (b, _) in itertools.pairwise(starts))
    again = seal([item(b"same", record) for record in (0, 0, 1, 0, 1, 2)], draw)
    assert again.base != pack.base
    assert not {dek for group in again.groups for dek in deks_of(group)} & set(deks)


def test_a_fixed_draw_gives_the_same_pack_but_for_the_envelopes() -> None:
    first, second = mixed(), mixed()
    assert (first.base, first.body, first.lengths) == (second.base, second.body, second.lengths)
    for one, other in zip(first.groups, second.groups, strict=True):
        assert (one.encoded, one.wrapped, one.opening) == (
            other.encoded, other.wrapped, other.opening,
        )  # fmt: skip
        assert one.envelope != other.envelope


def test_each_key_opens_its_own_payload_and_nothing_else() -> None:
    pack = mixed()
    keys = {
        slot: dek
        for group in pack.groups
        for slot, dek in zip(group.slots, deks_of(group), strict=True)
    }
    cores = {
        slot: core
        for group in pack.groups
        for slot, core in zip(group.slots, group.cores, strict=True)
    }
    for slot, dek in keys.items():
        for other, core in cores.items():
            sealed = sealed_of(pack, other)
            if slot == other:
                assert open_packed(dek, core, sealed) == b"same"
            else:
                assert reason_of(Corrupt, open_packed, dek, core, sealed) == "wrong-key"


def test_a_secret_unwraps_the_keys_of_its_record_in_its_pack_only() -> None:
    pack = mixed()
    other_pack = seal([item(b"same")], FixedDraw(b"another"))
    secrets = [
        open_pack_secret(CLUSTER, KEYS[group.record], group.envelope) for group in pack.groups
    ]
    own, foreign = pack.groups
    for wrapped in (*foreign.wrapped, *other_pack.groups[0].wrapped):
        assert reason_of(Corrupt, unwrap_key, secrets[0], wrapped) == "wrong-key"
    for wrapped in own.wrapped:
        assert reason_of(Corrupt, unwrap_key, secrets[1], wrapped) == "wrong-key"


@pytest.mark.parametrize(
    "changes",
    [
        {"record": RECORDS[1]},
        {"base": BlobBase(bytes(16))},
        {"generation": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_envelope_opens_for_its_record_pack_and_generation_only(
    changes: dict[str, object],
) -> None:
    group = mixed().groups[0]
    moved = replace(group.envelope, **changes)  # type: ignore[arg-type]
    key = KEYS[group.record]
    assert reason_of(Corrupt, open_pack_secret, CLUSTER, key, moved) == "bad-envelope"
    for cluster, reader in ((ClusterId(bytes(16)), key), (CLUSTER, KEYS[RECORDS[1]])):
        assert reason_of(Corrupt, open_pack_secret, cluster, reader, group.envelope) == (
            "bad-envelope"
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"blob": BlobId.of(BlobBase(bytes(16)), 1)},
        {"record": RECORDS[1]},
        {"wrapped": bytes(40)},
        {"generation": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_key_row_of_something_else_does_not_open(changes: dict[str, object]) -> None:
    group = mixed().groups[0]
    row = PackedKey(group.cores[0].blob, group.record, 0, group.envelope.envelope, group.wrapped[0])
    moved = replace(row, **changes)  # type: ignore[arg-type]
    expected = "wrong-key" if "wrapped" in changes else "bad-envelope"
    assert reason_of(Corrupt, open_packed_key, CLUSTER, KEYS[RECORDS[0]], moved) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"slot": 2},
        {"base": BlobBase(bytes(16))},
        {"record": RECORDS[1]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_payload_moved_to_another_place_does_not_open(changes: dict[str, object]) -> None:
    """Even with its own key and a core that was made to fit."""
    pack = mixed()
    group = pack.groups[0]
    core, dek = group.cores[0], deks_of(group)[0]
    blob = BlobId.of(changes.get("base", pack.base), changes.get("slot", 1))  # type: ignore[arg-type]
    moved = replace(core, blob=blob, record=changes.get("record", core.record))  # type: ignore[arg-type]
    sealed = sealed_of(pack, 1)
    check_sealed(moved, sealed)
    assert reason_of(Corrupt, open_packed, dek, moved, sealed) == "bad-seal"


def test_swapped_payloads_are_noticed_without_a_key() -> None:
    pack = mixed()
    first, second = pack.groups[0].cores[:2]
    assert reason_of(Corrupt, check_sealed, first, sealed_of(pack, 2)) == "wrong-digest"
    assert reason_of(Corrupt, check_sealed, second, sealed_of(pack, 1)) == "wrong-digest"


@pytest.mark.parametrize("position", [0, 31, 32, 35, 36, 51])
def test_a_damaged_payload_is_noticed_by_digest_and_by_seal(position: int) -> None:
    pack = mixed()
    group = pack.groups[0]
    sealed = bytearray(sealed_of(pack, 1))
    sealed[position] ^= 1
    assert reason_of(Corrupt, check_sealed, group.cores[0], sealed) == "wrong-digest"
    expected = "wrong-key" if position < 32 else "bad-seal"
    assert reason_of(Corrupt, open_packed, deks_of(group)[0], group.cores[0], sealed) == expected


@pytest.mark.parametrize("change", ["cut", "extended", "empty"])
def test_a_payload_of_another_length_is_noticed(change: str) -> None:
    pack = mixed()
    core: Core = pack.groups[0].cores[0]
    sealed = sealed_of(pack, 1)
    changed = {"cut": sealed[:-1], "extended": sealed + b"\x00", "empty": b""}[change]
    assert reason_of(Corrupt, check_sealed, core, changed) == "wrong-length"


def test_the_digest_is_of_the_payload_alone() -> None:
    pack = mixed()
    for group in pack.groups:
        for slot, core in zip(group.slots, group.cores, strict=True):
            assert core.data_digests == (blake3_digest(sealed_of(pack, slot)),)


def test_secrets_do_not_show() -> None:
    shown = repr(item(b"plaintext", metadata=b"label")) + repr(mixed())
    assert "plaintext=" not in shown
    assert "label" not in shown
