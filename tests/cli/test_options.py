"""Texts of options: times, sizes, actions, purposes."""

from __future__ import annotations

import pytest

from hcefs.access.facts import Action
from hcefs.cli import options
from hcefs.errors import Invalid

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW + 90_000),
        ("30m", NOW + 30 * 60_000),
        ("30min", NOW + 30 * 60_000),
        (" 2H ", NOW + 2 * 3_600_000),
        ("7d", NOW + 7 * 86_400_000),
        ("1w", NOW + 7 * 86_400_000),
        ("2030-01-31T12:00Z", 1_896_091_200_000),
        ("2030-01-31T12:00", 1_896_091_200_000),
        ("2030-01-31T13:00:00.5+01:00", 1_896_091_200_500),
        ("2030-01-31", 1_896_048_000_000),
    ],
)
def test_until(text: str, expected: int) -> None:
    assert options.parse_until(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "0h", "soon", "2 years", "1999-01-01", "٢h"])
def test_bad_until(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        options.parse_until(text, NOW)
    assert caught.value.reason == "bad-time"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("17", 17),
        ("512k", 512 << 10),
        ("1MiB", 1 << 20),
        ("2 GB", 2 << 30),
        ("1t", 1 << 40),
    ],
)
def test_size(text: str, expected: int) -> None:
    assert options.parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "1.5M", "k", "1q", "9999999999999999999", "99999999t"])
def test_bad_size(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        options.parse_size(text)
    assert caught.value.reason == "bad-size"


def test_actions() -> None:
    assert options.parse_actions("share, Read") == Action.READ | Action.SHARE
    assert options.action_names(Action.SHARE | Action.READ) == ("read", "share")
    for text in ("", ",", "write"):
        with pytest.raises(Invalid):
            options.parse_actions(text)


def test_purposes() -> None:
    assert options.parse_purposes("treat,HRESCH,TREAT") == ("TREAT", "HRESCH")
    assert options.parse_purpose("btg") == "BTG"
    for text in ("", "FUN"):
        with pytest.raises(Invalid):
            options.parse_purposes(text)
    with pytest.raises(Invalid):
        options.parse_purpose("TREAT,BTG")
