"""Identifiers: length, text form, type."""

from __future__ import annotations

import pytest

from hcefs.errors import Invalid
from hcefs.ids import (
    AccountId,
    BlobBase,
    BlobId,
    ClusterId,
    FixedBytes,
    GrantId,
    PutKey,
    RecordId,
    RequestId,
)

KINDS: list[tuple[type[FixedBytes], int, str]] = [
    (ClusterId, 16, "clu"),
    (AccountId, 16, "acc"),
    (RecordId, 16, "rec"),
    (GrantId, 16, "grt"),
    (PutKey, 16, "put"),
    (RequestId, 16, "req"),
    (BlobBase, 16, "base"),
    (BlobId, 18, "blob"),
]


@pytest.mark.parametrize(("cls", "size", "prefix"), KINDS)
def test_size_and_text_form(cls: type[FixedBytes], size: int, prefix: str) -> None:
    raw = bytes(range(size))
    value = cls(raw)
    assert value == raw
    assert value.text == str(value) == f"{prefix}-{raw.hex()}"
    assert cls.parse(f" {value.text}\n") == value
    assert type(cls.parse(value.text)) is cls
    assert value.text in repr(value)
    for wrong in (size - 1, size + 1):
        with pytest.raises(Invalid) as caught:
            cls(bytes(wrong))
        assert caught.value.reason == "bad-id"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rec",
        "rec-",
        "00" * 16,
        "acc-" + "00" * 16,
        "rec-" + "00" * 15,
        "rec-" + "00" * 17,
        "rec-" + "0g" * 16,
        "REC-" + "00" * 16,
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="RecordId") as caught:
        RecordId.parse(text)
    assert caught.value.reason == "bad-id"


def test_a_refused_text_is_quoted_shortened() -> None:
    with pytest.raises(Invalid) as caught:
        RecordId.parse("x" * 10_000)
    assert len(caught.value.message) < 300


def test_zero_is_false_and_everything_else_true() -> None:
    assert not GrantId.zero()
    assert GrantId(bytes(15) + b"\x01")
    assert len(GrantId.zero()) == 16


def test_ids_sort_and_hash_as_their_bytes() -> None:
    low, high = RecordId(bytes(16)), RecordId(b"\xff" * 16)
    assert sorted([high, low]) == [low, high]
    assert {RecordId(bytes(16)): 1}[low] == 1


@pytest.mark.parametrize("slot", [0, 1, 0xFFFF])
def test_blob_id_is_base_and_slot(slot: int) -> None:
    base = bytes(range(16))
    blob = BlobId.of(base, slot)
    assert blob == base + slot.to_bytes(2, "big")
    assert (blob.base, blob.slot) == (base, slot)
    assert type(blob.base) is BlobBase


@pytest.mark.parametrize("slot", [-1, 0x10000])
def test_slots_outside_u16_are_refused(slot: int) -> None:
    with pytest.raises(Invalid) as caught:
        BlobId.of(bytes(16), slot)
    assert caught.value.reason == "bad-id"


def test_blob_id_of_a_wrong_base_is_refused() -> None:
    with pytest.raises(Invalid):
        BlobId.of(bytes(15))
