"""Grants: what goes into their boxes, and who still reads after a revocation."""

from __future__ import annotations

import pytest

from hcefs.access.facts import Action
from hcefs.client.keys import BlobKey, blob_key
from hcefs.client.records import covered, granted_secret, remaining_readers
from hcefs.crypto.stream import SEGMENT_SIZE, segment_secret
from hcefs.errors import Denied, Invalid, NotFound
from hcefs.ids import GrantId
from tests.unit.client.world import BLOB, HOUR_MS, NOW_MS, PutBlob, grant

PUT = PutBlob(bytes(3 * SEGMENT_SIZE + 10))
WHOLE = BlobKey(dek=PUT.dek)


def grant_id(number: int) -> GrantId:
    return GrantId(bytes([number]) * 16)


def test_a_blob_grants_box_holds_the_dek() -> None:
    given = grant(blob=BLOB)
    assert granted_secret(given, WHOLE, PUT.core, PUT.layout) == PUT.dek
    ranged = BlobKey(ranged=WHOLE.secrets_of(range(2)))
    with pytest.raises(NotFound):
        granted_secret(given, ranged, PUT.core, PUT.layout)


def test_a_range_grants_box_holds_its_segments_secrets() -> None:
    given = grant(blob=BLOB, range_start=SEGMENT_SIZE, range_length=1)
    key = blob_key(granted_secret(given, WHOLE, PUT.core, PUT.layout), ranged=True)
    assert key.secrets_of(range(1, 2)).secrets == segment_secret(PUT.dek, 1)
    with pytest.raises(Denied):
        key.secrets_of(range(2, 3))


def test_a_range_may_be_passed_on_in_part() -> None:
    outer = BlobKey(ranged=WHOLE.secrets_of(range(1, 3)))
    given = grant(blob=BLOB, range_start=2 * SEGMENT_SIZE, range_length=5)
    key = blob_key(granted_secret(given, outer, PUT.core, PUT.layout), ranged=True)
    assert key.ranged is not None
    assert key.ranged.segments == range(2, 3)
    with pytest.raises(Denied):
        granted_secret(grant(blob=BLOB, range_start=0, range_length=5), outer, PUT.core, PUT.layout)


def test_a_range_may_reach_beyond_the_blob() -> None:
    assert covered(PUT.core, PUT.layout, 2 * SEGMENT_SIZE, 1 << 40) == range(2, 4)
    with pytest.raises(Invalid):
        covered(PUT.core, PUT.layout, 1 << 40, 1)


def test_the_readers_that_a_revocation_leaves() -> None:
    owners = grant(grant=grant_id(1))
    revoked = grant(grant=grant_id(2))
    child = grant(grant=grant_id(3), parent=grant_id(2))
    grandchild = grant(grant=grant_id(4), parent=grant_id(3))
    sibling = grant(grant=grant_id(5), parent=grant_id(1))
    others = [
        grant(grant=grant_id(6), not_after_ms=NOW_MS),
        grant(grant=grant_id(7), revoked_height=3),
        grant(grant=grant_id(8), actions=Action.APPEND),
        grant(grant=grant_id(9), blob=BLOB),
        grant(grant=grant_id(10), parent=grant_id(99)),
    ]
    later = grant(grant=grant_id(11), not_before_ms=NOW_MS + 1, not_after_ms=NOW_MS + HOUR_MS)
    everything = [owners, revoked, child, grandchild, sibling, *others, later]
    left = remaining_readers(everything, revoked.grant, NOW_MS)
    assert left == [owners, sibling, later]
