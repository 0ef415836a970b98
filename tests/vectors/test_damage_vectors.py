"""The frozen bytes of the queue of damage: written the same, read back, and refused the same."""

from __future__ import annotations

import pytest

from hcefs.errors import Corrupt, Invalid
from hcefs.upkeep.damage import DamagedName, DamagedShard
from tests.vectors import generate
from tests.vectors.generate_damage import names, samples, vectors

FROZEN = generate.frozen("damage")


def test_nothing_frozen_has_changed() -> None:
    assert generate.broken(FROZEN, vectors()) == []


def test_every_vector_is_frozen() -> None:
    assert vectors() == FROZEN, "run python -m tests.vectors.generate"


@pytest.mark.parametrize("name", samples())
def test_frozen_values_are_read_back(name: str) -> None:
    assert DamagedShard.decode(bytes.fromhex(FROZEN["values"][name])) == samples()[name]


@pytest.mark.parametrize("name", names())
def test_frozen_keys_are_read_back(name: str) -> None:
    assert DamagedName.of_key(bytes.fromhex(FROZEN["keys"][name])) == names()[name]


@pytest.mark.parametrize("cut", [0, 8, 24, 25])
def test_a_key_that_is_cut_is_refused(cut: int) -> None:
    with pytest.raises(Corrupt):
        DamagedName.of_key(bytes.fromhex(FROZEN["keys"]["data"])[:cut])


def test_a_key_at_another_place_is_refused() -> None:
    key = bytearray(bytes.fromhex(FROZEN["keys"]["data"]))
    key[0] ^= 1
    with pytest.raises(Corrupt):
        DamagedName.of_key(bytes(key))


def test_a_later_version_is_refused() -> None:
    value = bytes.fromhex(FROZEN["values"]["new"]).replace(
        b"damaged-shard\x01", b"damaged-shard\x02"
    )
    with pytest.raises(Invalid) as caught:
        DamagedShard.decode(value)
    assert caught.value.reason == "unknown-version"
