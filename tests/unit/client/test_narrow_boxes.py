"""The box of a grant narrower than a record opens what it is for, and nothing else.

Not by rule but by what is in it: each secret of a box is tried on everything else that a
node could hand to the grantee, and on everything that could be derived from it.
"""

from __future__ import annotations

import pytest

from hcefs.client.keys import BlobKey, blob_key, box_context, checked_key, dek_context, open_key_row
from hcefs.client.records import granted_secret
from hcefs.client.stat import metadata_of
from hcefs.crypto.keys import HybridKey, dek_commitment, open_envelope, seal_envelope
from hcefs.crypto.stream import SEGMENT_SIZE, open_segment, segment_secret
from hcefs.errors import Corrupt, Denied, HcefsError
from hcefs.formats.keybox import KeyBox
from hcefs.formats.manifest import KeyRow
from hcefs.ids import BlobId
from tests.unit.client.world import (
    BLOB,
    CLUSTER,
    DOCTOR,
    OWNER,
    RECORD,
    STRANGER,
    PutBlob,
    account_of,
    generation,
    grant,
    receiver,
    sealer,
)

PUT = PutBlob(bytes(range(256)) * (3 * SEGMENT_SIZE // 256) + b"end")
OTHER = PutBlob(b"another" * 300_000, blob=BlobId.of(b"o" * 16))
BY_GRANT = grant(blob=BLOB)
OF_RANGE = grant(blob=BLOB, range_start=SEGMENT_SIZE + 5, range_length=SEGMENT_SIZE)
"""Of the four segments of the blob, bytes of the second and the third."""

REACHED = range(1, 3)


def delivered(given: object) -> tuple[KeyBox, bytes]:
    """The box of a grant as its grantee gets it, and what is in it."""
    assert given in (BY_GRANT, OF_RANGE)
    chosen = BY_GRANT if given is BY_GRANT else OF_RANGE
    secret = granted_secret(chosen, BlobKey(dek=PUT.dek), PUT.core, PUT.layout)
    box = sealer().box(chosen, account_of(DOCTOR), 0, secret)
    return box, receiver().secret(box, account_of(OWNER))


def opened(put: PutBlob, secret: bytes, index: int) -> bytes:
    return open_segment(
        secret, put.core.blob, RECORD, index == len(put.sealed) - 1, put.sealed[index]
    )


def candidates(secret: bytes) -> list[bytes]:
    """Every 32 bytes in a box, and what each gives as a DEK for any segment."""
    cut = [secret[at : at + 32] for at in range(max(1, len(secret) - 31))]
    return [*cut, *(segment_secret(part, index) for part in cut for index in range(5))]


def test_a_blobs_box_opens_that_blob_and_no_other() -> None:
    _, secret = delivered(BY_GRANT)
    assert secret == PUT.dek
    whole = b"".join(
        opened(PUT, segment_secret(secret, index), index) for index in range(len(PUT.sealed))
    )
    assert whole == PUT.plaintext
    for index in range(len(OTHER.sealed)):
        for candidate in candidates(secret):
            with pytest.raises(Corrupt):
                opened(OTHER, candidate, index)
    with pytest.raises(Corrupt) as caught:
        blob_key(secret, ranged=False, core=OTHER.core)
    assert caught.value.reason == "wrong-key"


def test_a_ranges_box_opens_its_segments_and_no_others() -> None:
    _, secret = delivered(OF_RANGE)
    key = blob_key(secret, ranged=True)
    for index in REACHED:
        plain = opened(PUT, key.secrets_of(range(index, index + 1)).secrets, index)
        assert plain == PUT.plaintext[index * SEGMENT_SIZE : (index + 1) * SEGMENT_SIZE]
    outside = [index for index in range(len(PUT.sealed)) if index not in REACHED]
    assert outside == [0, 3]
    for index in outside:
        with pytest.raises(Denied):
            key.secrets_of(range(index, index + 1))
    # Nor by anything that can be cut out of the box or derived from it.
    inside = set(candidates(secret))
    assert segment_secret(PUT.dek, 1) in inside
    for put, indexes in ((PUT, outside), (OTHER, range(len(OTHER.sealed)))):
        for index in indexes:
            assert segment_secret(put.dek, index) not in inside
            for candidate in candidates(key.secrets_of(REACHED).secrets)[::7]:
                with pytest.raises(Corrupt):
                    opened(put, candidate, index)
    assert PUT.dek not in inside
    assert all(dek_commitment(part) != PUT.core.dek_commitment for part in inside)


def test_a_ranges_box_opens_no_metadata() -> None:
    _, secret = delivered(OF_RANGE)
    assert metadata_of(PUT.core, blob_key(secret, ranged=True)) is None
    for candidate in candidates(secret)[:200]:
        with pytest.raises(Corrupt):
            metadata_of(PUT.core, BlobKey(dek=candidate))


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("given", [BY_GRANT, OF_RANGE], ids=["blob", "range"])
def test_no_narrow_box_is_a_key_of_any_generation(given: object, number: int) -> None:
    _, secret = delivered(given)
    for candidate in candidates(secret)[:60]:
        with pytest.raises(Corrupt) as caught:
            checked_key(candidate, generation(number))
        assert caught.value.reason == "wrong-record-key"
    # So neither key rows nor links of the record open with it.
    context = dek_context(CLUSTER, RECORD, number, OTHER.core.blob)
    public = OWNER.record_key(RECORD, number).public_key
    row = KeyRow(OTHER.core.blob, RECORD, number, seal_envelope(public, OTHER.dek, context))
    with pytest.raises(HcefsError):
        open_key_row(CLUSTER, HybridKey.from_seed(secret[:32]), row, OTHER.core)


@pytest.mark.parametrize("given", [BY_GRANT, OF_RANGE], ids=["blob", "range"])
def test_a_narrow_box_opens_for_its_grantee_and_its_grant_only(given: object) -> None:
    box, _ = delivered(given)
    with pytest.raises(HcefsError):
        receiver(STRANGER).secret(box, account_of(OWNER))
    with pytest.raises(HcefsError):
        receiver().secret(box, account_of(STRANGER))
    moved = grant(grant=type(box.grant)(b"x" * 16), blob=BLOB)
    assert receiver().fitting([box], moved) == []
    other = sealer().box(moved, account_of(DOCTOR), 0, bytes(32))
    # The envelope of one grant does not open as that of another.
    with pytest.raises(Corrupt):
        open_envelope(DOCTOR.receiving_key, box.envelope, box_context(CLUSTER, other))
