"""Which grant a command uses when none is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.access.facts import Action, Grant
from hcefs.cli.session import best_grant, fits, is_live
from hcefs.ids import AccountId, BlobId, GrantId, RecordId

BLOB = BlobId(b"b" * 18)
OTHER = BlobId(b"o" * 18)
WHOLE = Grant(
    grant=GrantId(b"g" * 16),
    record=RecordId(b"r" * 16),
    blob=None,
    range_start=0,
    range_length=0,
    granter=AccountId(b"p" * 16),
    grantee=AccountId(b"d" * 16),
    actions=Action.READ,
    purposes=("TREAT",),
    not_before_ms=100,
    not_after_ms=200,
    parent=None,
    height=1,
    revoked_height=0,
)
OF_BLOB = replace(WHOLE, blob=BLOB, grant=GrantId(b"h" * 16))
OF_RANGE = replace(OF_BLOB, range_start=10, range_length=20, grant=GrantId(b"i" * 16))


@pytest.mark.parametrize(("now", "live"), [(99, False), (100, True), (199, True), (200, False)])
def test_a_grant_lives_within_its_time(now: int, live: bool) -> None:
    assert is_live(WHOLE, now) is live
    assert not is_live(replace(WHOLE, revoked_height=2), now)


@pytest.mark.parametrize(
    ("grant", "blob", "start", "length", "fit"),
    [
        (WHOLE, None, 0, 0, True),
        (WHOLE, BLOB, 5, 5, True),
        (OF_BLOB, BLOB, 0, 0, True),
        (OF_BLOB, OTHER, 0, 0, False),
        (OF_BLOB, None, 0, 0, False),
        (OF_RANGE, BLOB, 0, 0, True),
        (OF_RANGE, BLOB, 10, 20, True),
        (OF_RANGE, BLOB, 9, 2, False),
        (OF_RANGE, BLOB, 29, 2, False),
        (OF_RANGE, BLOB, 15, 0, False),
    ],
)
def test_scope(grant: Grant, blob: BlobId | None, start: int, length: int, fit: bool) -> None:
    assert fits(grant, Action.READ, "TREAT", blob, start, length) is fit


def test_action_and_purpose() -> None:
    assert not fits(WHOLE, Action.APPEND, "TREAT", None, 0, 0)
    assert not fits(WHOLE, Action.READ, "BTG", None, 0, 0)


def test_the_widest_and_longest_is_best() -> None:
    longer = replace(WHOLE, not_after_ms=300, grant=GrantId(b"j" * 16))
    assert best_grant([OF_RANGE, WHOLE, OF_BLOB, longer]) == longer
    assert best_grant([OF_RANGE, OF_BLOB]) == OF_BLOB
    assert best_grant([]) is None
