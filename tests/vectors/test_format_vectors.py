"""The frozen bytes of stored formats: written the same, read back, and refused the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from blake3 import blake3

from hcefs.errors import KINDS
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import Core, Layout, Metadata, Opening
from hcefs.formats.shard import ShardHeader, decode_footer
from tests.vectors import generate
from tests.vectors.generate_formats import KEY, samples, shard_samples, vectors

FROZEN = generate.frozen("formats")
READERS: dict[str, Callable[[bytes], object]] = {
    "Core": Core.decode,
    "Layout": Layout.decode,
    "Metadata": Metadata.decode,
    "Opening": Opening.decode,
    "KeyBox": KeyBox.decode,
    "ShardHeader": ShardHeader.decode,
    "ShardFooter": decode_footer,
}


def test_nothing_frozen_has_changed() -> None:
    assert generate.broken(FROZEN, vectors()) == []


def test_every_vector_is_frozen() -> None:
    assert vectors() == FROZEN, "run python -m tests.vectors.generate"


@pytest.mark.parametrize("name", samples())
def test_frozen_bytes_are_read_back(name: str) -> None:
    value = samples()[name]
    assert type(value).decode(bytes.fromhex(FROZEN["canonical"][name])) == value


def test_frozen_signatures_are_valid() -> None:
    for name, cls in (
        ("layout", Layout),
        ("key-box", KeyBox),
        ("key-box-of-a-blob", KeyBox),
        ("key-link", KeyLink),
    ):
        row: Any = cls.decode(bytes.fromhex(FROZEN["canonical"][name]))
        row.check(bytes.fromhex(FROZEN["derived"]["signing key"]))
    assert KEY.public_key.hex() == FROZEN["derived"]["signing key"]


def test_frozen_shard_file_is_read_back() -> None:
    header, footer = shard_samples()
    assert ShardHeader.decode(bytes.fromhex(FROZEN["shard"]["header"])) == header
    assert decode_footer(bytes.fromhex(FROZEN["shard"]["footer"])) == footer


def test_derived_values_follow_from_the_frozen_bytes_alone() -> None:
    """Computed here from the specification, not by the code under test."""
    core = bytes.fromhex(FROZEN["canonical"]["core"])
    core_digest = blake3(core).digest()
    assert core_digest.hex() == FROZEN["derived"]["core digest"]
    blob, record = bytes(range(0x10, 0x20)) + bytes(2), b"\x22" * 16
    content = b"hcefs/v1/commitment\x00" + bytes(range(32)) + record + blob + core_digest
    assert blake3(content).hexdigest() == FROZEN["derived"]["commitment"]
    corrected = blake3(content + b"\x99" * 32).hexdigest()
    assert corrected == FROZEN["derived"]["commitment of a correction"]
    leaf = [blake3(b"\x00" + blake3(bytes([i])).digest()).digest() for i in range(3)]
    left = blake3(b"\x01" + leaf[0] + leaf[1]).digest()
    assert blake3(b"\x01" + left + leaf[2]).hexdigest() == FROZEN["shard"]["shard digest"]


@pytest.mark.parametrize("case", FROZEN["refused"], ids=lambda case: case["name"])
def test_what_must_be_refused_is(case: dict[str, str]) -> None:
    with pytest.raises(KINDS[case["error"]]) as caught:
        READERS[case["type"]](bytes.fromhex(case["bytes"]))
    assert caught.value.reason == case["reason"]
